#include <mapio/mapped_file.hpp>

#include "mapped_file_fixture.hpp"
#include "support.hpp"

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/io_context.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <filesystem>
#include <list>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using namespace asio::experimental::awaitable_operators;
using mapio::access;
using mapio::disposition;
using mapio::errc;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;
using mapio::write_path;
using support::code_of;
using support::copy_on_write;
using support::creating;
using support::eventually;
using support::every_verb_but_open;
using support::into;
using support::largest;
using support::mapped_file_test;
using support::outcome;
using support::page;
using support::pattern;
using support::read_all;
using support::read_file;
using support::read_only;
using support::read_write;
using support::run_to_end;
using support::same;
using support::start_every_verb_but_open;
using support::to_string;
using support::verb_memory;
using support::write_file;

static_assert(std::is_same_v<mapped_file, mapio::basic_mapped_file<asio::any_io_executor>>);
static_assert(std::is_same_v<mapped_file::executor_type, asio::any_io_executor>);
static_assert(std::is_same_v<mapped_file::rebind_executor<asio::io_context::executor_type>::other,
                             mapio::basic_mapped_file<asio::io_context::executor_type>>);
static_assert(std::is_copy_constructible_v<mapped_file> &&
              std::is_nothrow_move_constructible_v<mapped_file>);
static_assert(!std::is_convertible_v<asio::io_context&, mapped_file>);

using mapped_file_open = mapped_file_test;
using mapped_file_close = mapped_file_test;
using mapped_file_handle = mapped_file_test;
using mapped_file_update = mapped_file_test;
using mapped_file_read = mapped_file_test;
using mapped_file_view = mapped_file_test;
using mapped_file_prefetch = mapped_file_test;
using mapped_file_lock = mapped_file_test;
using mapped_file_fault = mapped_file_test;

TEST_F(mapped_file_open, opens_an_existing_file_for_reading) {
  const std::string bytes = pattern(3 * page() + 5);
  write_file(path_, bytes);
  run([&]() -> work {
    mapped_file file(co_await asio::this_coro::executor);
    EXPECT_FALSE(file.is_open());
    EXPECT_EQ(file.size(), 0U);
    EXPECT_EQ(file.native_handle(), support::no_native_handle);
    co_await file.open(path_);
    EXPECT_TRUE(file.is_open());
    EXPECT_EQ(file.size(), bytes.size());
    EXPECT_EQ(file.mode(), access::read_only);
    EXPECT_EQ(file.path(), path_);
    EXPECT_EQ(file.capacity(), file.map().capacity());
    EXPECT_TRUE(support::is_open_descriptor(file.native_handle()));
    const mapio::region all = co_await file.view(0, file.size());
    EXPECT_TRUE(same(all.text(), bytes));
    co_await file.close();
    EXPECT_FALSE(file.is_open());
  });
}

TEST_F(mapped_file_open, creates_as_its_options_say) {
  run([&]() -> work {
    mapped_file file(io_);
    co_await file.open(
        path_, {.mode = access::read_write, .create = disposition::create_new, .size = 4096});
    EXPECT_EQ(file.size(), 4096U);
    EXPECT_EQ(file.mode(), access::read_write);
    EXPECT_EQ(fs::file_size(path_), 4096U);
    std::error_code ec;
    mapped_file again(io_);
    co_await again.open(path_, creating(1, disposition::create_new), into(ec));
    EXPECT_EQ(ec, std::errc::file_exists);
    EXPECT_FALSE(again.is_open());
  });
}

TEST_F(mapped_file_open, throws_into_the_coroutine_that_awaits_it) {
  std::error_code caught;
  run([&]() -> work {
    mapped_file file(io_);
    try {
      co_await file.open(dir_ / "missing");
    } catch (const std::system_error& e) {
      caught = e.code();
    }
  });
  EXPECT_EQ(caught, std::error_code(ENOENT, std::system_category()));
}

TEST_F(mapped_file_open, closes_the_handle_when_it_fails) {
  mapped_file file = opened_with("first");
  const mapped_file copy = file;
  outcome o;
  file.open(dir_ / "missing", o.handler());
  finish(o);
  EXPECT_TRUE(o.error);
  EXPECT_FALSE(file.is_open());
  EXPECT_FALSE(copy.is_open());
}

TEST_F(mapped_file_open, is_seen_by_copies_made_before) {
  write_file(path_, "hello");
  mapped_file file(io_);
  mapped_file copy = file;
  run([&]() -> work {
    co_await file.open(path_);
    EXPECT_TRUE(copy.is_open());
    std::string text(5, '\0');
    co_await copy.read_into(0, asio::buffer(text));
    EXPECT_EQ(text, "hello");
    co_await copy.close();
    EXPECT_FALSE(file.is_open());
  });
}

TEST_F(mapped_file_open, again_replaces_the_file_of_every_copy) {
  mapped_file file = opened_with("first");
  const mapped_file copy = file;
  const mapping before = file.map();
  const auto second = dir_ / "second";
  write_file(second, "second");
  run([&]() -> work { co_await file.open(second); });
  EXPECT_EQ(read_all(copy.map()), "second");
  EXPECT_EQ(copy.path(), second);
  EXPECT_TRUE(before.is_open()) << "a file that was open is let go of, not closed";
  EXPECT_EQ(read_all(before), "first");
}

TEST_F(mapped_file_open, with_prefault_leaves_every_page_resident) {
  write_file(path_, pattern(64 * page()));
  if (!support::evict(path_)) GTEST_SKIP() << "this file system does not let go of its pages";
  if (mapping(path_).is_resident(0, 64 * page())) GTEST_SKIP() << "the pages stayed in memory";
  open_options options;
  options.touch = mapio::prefault::eager;
  const mapped_file file = opened(options);
  EXPECT_TRUE(file.map().is_resident(0, file.size()));
}

TEST_F(mapped_file_open, of_an_empty_file_lets_it_grow) {
  mapped_file file = opened_with("");
  run([&]() -> work {
    EXPECT_EQ(file.size(), 0U);
    co_await file.flush();
    co_await file.prefetch();
    const mapio::region nothing = co_await file.view(0, 0);
    EXPECT_TRUE(nothing.empty());
    co_await file.resize(5);
    co_await file.update_region(0, asio::buffer("hello", 5));
    co_await file.flush();
  });
  EXPECT_EQ(read_file(path_), "hello");
}

TEST_F(mapped_file_open, keeps_its_descriptors_from_programs_that_are_started) {
  asio::io_context io;
  const auto before = support::open_descriptors();
  mapped_file file(io);
  support::run_coroutine(io, [&]() -> work { co_await file.open(path_, creating(page())); });
  auto added = support::open_descriptors();
  for (const auto fd : before)
    added.erase(fd);
  EXPECT_TRUE(added.contains(file.native_handle()));
  for (const auto fd : added)
    EXPECT_FALSE(support::is_inherited(fd)) << fd;
}

TEST_F(mapped_file_close, closes_every_copy_and_the_mapping) {
  mapped_file file = created(page());
  const mapped_file copy = file;
  const mapping map = file.map();
  const auto fd = file.native_handle();
  run([&]() -> work { co_await file.close(); });
  EXPECT_FALSE(file.is_open());
  EXPECT_FALSE(copy.is_open());
  EXPECT_FALSE(map.is_open());
  EXPECT_TRUE(eventually([&] { return !support::is_open_descriptor(fd); }));
}

TEST_F(mapped_file_close, does_not_wait_for_views) {
  mapped_file file = opened_with(pattern(page()));
  const mapio::region r = file.map().view(0, page());
  run([&]() -> work { co_await file.close(); });
  EXPECT_FALSE(file.is_open());
  EXPECT_TRUE(same(r.text(), pattern(page())));
}

TEST_F(mapped_file_close, by_the_mapping_is_seen_by_the_file) {
  mapped_file file = created(page());
  file.map().close();
  EXPECT_FALSE(file.is_open());
  outcome o;
  file.flush(o.handler());
  finish(o);
  EXPECT_EQ(o.error, errc::not_open);
}

TEST_F(mapped_file_close, can_be_opened_again) {
  mapped_file file = created(page());
  run([&]() -> work {
    for (int i = 0; i < 5; ++i) {
      co_await file.close();
      co_await file.open(path_, read_write());
    }
  });
  EXPECT_EQ(file.size(), page());
}

TEST_F(mapped_file_handle, reports_not_open_by_every_verb_when_closed) {
  verb_memory memory(io_.get_executor(), dir_ / "other");
  mapped_file never(io_);
  mapped_file closed = created(page());
  run([&]() -> work { co_await closed.close(); });
  mapped_file moved_from = created(page());
  const mapped_file target = std::move(moved_from);
  int calls = 0;
  for (mapped_file* file : {&never, &closed, &moved_from}) {
    start_every_verb_but_open(*file, memory, [&](std::string_view name) {
      return [&calls, name](std::error_code ec, auto&&...) {
        ++calls;
        EXPECT_EQ(ec, errc::not_open) << name << ": " << ec.message();
      };
    });
  }
  EXPECT_EQ(calls, 0) << "nothing completes inside the initiating call";
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, 3 * every_verb_but_open);
}

TEST_F(mapped_file_handle, has_no_properties_when_closed) {
  mapped_file file(io_);
  mapped_file moved_from(io_);
  const mapped_file target = std::move(moved_from);
  for (const mapped_file* f : {&file, &moved_from}) {
    EXPECT_FALSE(f->is_open());
    EXPECT_FALSE(f->map().is_open());
    EXPECT_EQ(f->size(), 0U);
    EXPECT_EQ(f->capacity(), 0U);
    EXPECT_EQ(f->mode(), access::read_only);
    EXPECT_TRUE(f->path().empty());
    EXPECT_EQ(f->pending_bytes(), 0U);
    EXPECT_EQ(f->stats().syncs, 0U);
    EXPECT_EQ(f->native_handle(), support::no_native_handle);
  }
  file.cancel();
  moved_from.cancel();
}

TEST_F(mapped_file_handle, can_be_made_of_a_mapping) {
  mapping m = mapping::create(path_, page());
  mapped_file file(io_.get_executor(), m);
  EXPECT_TRUE(file.is_open());
  EXPECT_EQ(file.map(), m);
  run([&]() -> work {
    co_await file.update_region(0, asio::buffer("both", 4));
    EXPECT_EQ(to_string(m.view(0, 4)), "both");
    m.resize(3 * page());
    EXPECT_EQ(file.size(), 3 * page());
    co_await file.close();
  });
  EXPECT_FALSE(m.is_open());
}

TEST_F(mapped_file_handle, can_be_made_of_a_closed_mapping) {
  mapped_file file(io_.get_executor(), mapping());
  EXPECT_FALSE(file.is_open());
  run([&]() -> work { co_await file.open(path_, creating(page())); });
  EXPECT_TRUE(file.is_open());
}

TEST_F(mapped_file_handle, can_be_converted_to_another_executor) {
  using plain = mapio::basic_mapped_file<asio::io_context::executor_type>;
  plain file(io_);
  EXPECT_TRUE(file.get_executor() == io_.get_executor());
  run([&]() -> work { co_await file.open(path_, creating(page()), asio::use_awaitable); });
  mapped_file any(file);
  EXPECT_TRUE(any.is_open());
  EXPECT_TRUE(any.get_executor() == asio::any_io_executor(io_.get_executor()));
  run([&]() -> work { co_await any.close(); });
  EXPECT_FALSE(file.is_open());
}

TEST_F(mapped_file_update, writes_and_reads_back) {
  mapped_file file = created(4 * page());
  run([&]() -> work {
    const std::string bytes = pattern(2 * page());
    std::size_t n = co_await file.update_region(page() - 10, asio::buffer(bytes));
    EXPECT_EQ(n, bytes.size());
    std::string back(bytes.size(), '\0');
    n = co_await file.read_into(page() - 10, asio::buffer(back));
    EXPECT_EQ(n, bytes.size());
    EXPECT_TRUE(same(back, bytes));
    EXPECT_TRUE(same(to_string(file.map().view(page() - 10, bytes.size())), bytes));
    EXPECT_TRUE(same(read_file(path_).substr(page() - 10, bytes.size()), bytes));
  });
}

TEST_F(mapped_file_update, takes_sequences_of_buffers_of_any_length) {
  mapped_file file = created(8 * page());
  for (const std::size_t count : {0U, 1U, 2U, 3U, 4U, 5U, 9U, 100U}) {
    std::list<std::string> pieces;
    std::string all;
    for (std::size_t i = 0; i < count; ++i) {
      pieces.push_back(pattern(i % 3 == 1 ? 0 : 17 + i, i));
      all += pieces.back();
    }
    std::deque<asio::const_buffer> out;
    for (const std::string& piece : pieces)
      out.push_back(asio::buffer(piece));
    std::list<std::string> targets;
    std::deque<asio::mutable_buffer> in;
    for (const std::string& piece : pieces)
      in.push_back(asio::buffer(targets.emplace_back(piece.size(), '\0')));
    run([&]() -> work {
      std::size_t n = co_await file.update_region(page() - 33, out);
      EXPECT_EQ(n, all.size());
      n = co_await file.read_into(page() - 33, in);
      EXPECT_EQ(n, all.size());
    });
    std::string back;
    for (const std::string& target : targets)
      back += target;
    EXPECT_EQ(back, all) << count;
    EXPECT_EQ(to_string(file.map().view(page() - 33, all.size())), all) << count;
  }
}

TEST_F(mapped_file_update, keeps_its_own_copy_of_the_sequence_but_not_of_the_bytes) {
  mapped_file file = created(page());
  const std::string a = pattern(10, 1);
  const std::string b = pattern(20, 2);
  outcome o;
  {
    std::vector<asio::const_buffer> buffers{asio::buffer(a), asio::buffer(b)};
    file.update_region(0, buffers, o.handler());
    buffers.assign(2, asio::const_buffer());
  }
  finish(o);
  EXPECT_TRUE(o.ok());
  EXPECT_EQ(to_string(file.map().view(0, 30)), a + b);
}

TEST_F(mapped_file_update, takes_a_region_and_keeps_it_alive) {
  const auto source_path = dir_ / "source";
  write_file(source_path, pattern(page()));
  mapped_file file = created(2 * page());
  outcome o;
  {
    const mapping source(source_path);
    file.update_region(100, source.view(0, page()), o.handler());
  }
  finish(o);
  EXPECT_TRUE(o.ok());
  EXPECT_TRUE(same(to_string(file.map().view(100, page())), pattern(page())));
}

TEST_F(mapped_file_update, holds_to_the_bounds_of_the_file) {
  const std::string bytes = pattern(2 * page());
  mapped_file file = opened_with(bytes);
  run([&]() -> work {
    std::string buffer(16, '#');
    std::error_code ec;
    for (const std::uint64_t offset :
         {file.size() - 15, file.size(), file.size() + 1, largest - 15, largest - 16, largest}) {
      std::size_t n = co_await file.update_region(offset, asio::buffer(buffer), into(ec));
      EXPECT_EQ(ec, errc::out_of_range) << offset;
      EXPECT_EQ(n, 0U);
      n = co_await file.read_into(offset, asio::buffer(buffer), into(ec));
      EXPECT_EQ(ec, errc::out_of_range) << offset;
      EXPECT_EQ(n, 0U);
      const auto several =
          std::array{asio::buffer(buffer.data(), 1), asio::buffer(buffer.data() + 1, 15)};
      n = co_await file.update_region(offset, several, into(ec));
      EXPECT_EQ(ec, errc::out_of_range) << offset;
      EXPECT_EQ(n, 0U);
    }
    std::size_t n = co_await file.update_region(file.size(), asio::const_buffer(), into(ec));
    EXPECT_FALSE(ec);
    EXPECT_EQ(n, 0U);
    n = co_await file.update_region(file.size() + 1, asio::const_buffer(), into(ec));
    EXPECT_EQ(ec, errc::out_of_range);
    EXPECT_TRUE(same(buffer, std::string(16, '#')));
    EXPECT_TRUE(same(read_file(path_), bytes));
    n = co_await file.update_region(file.size() - 16, asio::buffer(buffer), into(ec));
    EXPECT_FALSE(ec);
    EXPECT_EQ(n, 16U);
  });
  EXPECT_TRUE(same(read_file(path_), bytes.substr(0, bytes.size() - 16) + std::string(16, '#')));
}

TEST_F(mapped_file_update, is_refused_when_read_only) {
  const std::string bytes = pattern(2 * page());
  mapped_file file = opened_with(bytes, read_only());
  run([&]() -> work {
    std::error_code ec;
    const std::size_t n = co_await file.update_region(0, asio::buffer("x", 1), into(ec));
    EXPECT_EQ(ec, errc::read_only);
    EXPECT_EQ(n, 0U);
    co_await file.resize(page(), into(ec));
    EXPECT_EQ(ec, errc::read_only);
    co_await file.resize(8 * page(), into(ec));
    EXPECT_EQ(ec, errc::read_only);
    co_await file.flush(into(ec));
    EXPECT_FALSE(ec);
    co_await file.flush_range(0, page(), into(ec));
    EXPECT_FALSE(ec);
  });
  EXPECT_EQ(file.stats().syncs, 0U);
  EXPECT_TRUE(same(read_file(path_), bytes));
}

TEST_F(mapped_file_update, stays_private_on_copy_on_write) {
  const std::string bytes = pattern(2 * page());
  for (const auto path : {write_path::automatic, write_path::mapped}) {
    open_options options = copy_on_write();
    options.writes = path;
    mapped_file file = opened_with(bytes, options);
    run([&]() -> work {
      co_await file.update_region(page() - 2, asio::buffer("private", 7));
      std::string back(7, '\0');
      co_await file.read_into(page() - 2, asio::buffer(back));
      EXPECT_EQ(back, "private");
      const mapio::region r = co_await file.view(page() - 2, 7);
      EXPECT_EQ(r.text(), "private");
      co_await file.flush();
      std::error_code ec;
      co_await file.resize(page(), into(ec));
      EXPECT_EQ(ec, errc::unsupported);
    });
    EXPECT_TRUE(same(read_file(path_), bytes));
    EXPECT_EQ(file.stats().syncs, 0U);
  }
}

class mapped_file_write_path : public mapped_file_test,
                               public testing::WithParamInterface<write_path> {
 protected:
  open_options options(std::uint64_t size) const {
    open_options o = creating(size);
    o.writes = GetParam();
    return o;
  }
};

std::string name_of(write_path path) {
  return path == write_path::automatic ? "automatic"
         : path == write_path::mapped  ? "mapped"
                                       : "file";
}

INSTANTIATE_TEST_SUITE_P(by, mapped_file_write_path,
                         testing::Values(write_path::automatic, write_path::mapped,
                                         write_path::file),
                         [](const auto& i) { return name_of(i.param); });

TEST_P(mapped_file_write_path, brings_every_byte_to_its_place) {
  const std::size_t size = 40 * page();
  mapped_file file = opened(options(size));
  const support::foreign_mapping other(path_, size, support::foreign_mapping::access::read);
  std::string expected(size, '\0');
  run([&]() -> work {
    std::uint64_t seed = 0;
    for (const std::size_t length :
         {std::size_t{1}, std::size_t{64}, page() - 1, page(), page() + 1, 33 * page()}) {
      for (const std::size_t offset :
           {std::size_t{0}, std::size_t{13}, page() - 1, page(), 5 * page() + 77}) {
        const std::string bytes = pattern(length, ++seed);
        const std::size_t n = co_await file.update_region(offset, asio::buffer(bytes));
        EXPECT_EQ(n, length);
        expected.replace(offset, length, bytes);
        std::string back(length, '\0');
        co_await file.read_into(offset, asio::buffer(back));
        EXPECT_TRUE(same(back, bytes)) << offset << " + " << length;
        if (seed % 4 == 0) co_await file.flush();
      }
    }
  });
  EXPECT_TRUE(same(read_all(file.map()), expected));
  EXPECT_TRUE(same(read_file(path_), expected));
  EXPECT_TRUE(same(std::string_view(other.data(), size), expected));
}

TEST_P(mapped_file_write_path, is_counted) {
  constexpr std::uint64_t updates = 50;
  mapped_file file = opened(options(16 * page()));
  run([&]() -> work {
    for (std::uint64_t i = 0; i < updates; ++i) {
      co_await file.update_region(i * 1000, asio::buffer("x", 1));
      if (i % 10 == 0) co_await file.flush();
    }
  });
  const mapio::file_stats stats = file.stats();
  EXPECT_EQ(stats.stores + stats.worker_stores + stats.file_writes, updates);
  if (GetParam() == write_path::mapped) {
    EXPECT_EQ(stats.file_writes, 0U);
  }
  if (GetParam() == write_path::file) {
    EXPECT_EQ(stats.file_writes, updates);
  }
}

TEST_P(mapped_file_write_path, makes_its_pages_dirty) {
  mapped_file file = opened(options(16 * page()));
  run([&]() -> work {
    co_await file.flush();
    EXPECT_EQ(file.pending_bytes(), 0U);
    co_await file.update_region(3 * page() - 1, asio::buffer("xy", 2));
    EXPECT_EQ(file.pending_bytes(), 2 * page());
    std::uint64_t syncs = file.stats().syncs;
    co_await file.flush_range(0, 2 * page());
    EXPECT_EQ(file.stats().syncs, syncs) << "a clean range costs nothing";
    co_await file.flush_range(3 * page(), 1);
    EXPECT_GT(file.stats().syncs, syncs);
    EXPECT_EQ(file.pending_bytes(), page());
    co_await file.flush();
    EXPECT_EQ(file.pending_bytes(), 0U);
    syncs = file.stats().syncs;
    co_await file.flush();
    EXPECT_EQ(file.stats().syncs, syncs);
  });
}

TEST_P(mapped_file_write_path, mixes_with_stores_into_the_mapping) {
  mapped_file file = opened(options(page()));
  mapping m = file.map();
  run([&]() -> work {
    for (int i = 0; i < 200; ++i) {
      const char a = static_cast<char>('a' + i % 26);
      m.update_region(0, asio::buffer(&a, 1));
      co_await file.update_region(1, asio::buffer(&a, 1));
      std::array<char, 2> back{};
      co_await file.read_into(0, asio::buffer(back));
      EXPECT_EQ(back[0], a);
      EXPECT_EQ(back[1], a);
      const auto syncs = file.stats().syncs;
      if (i % 20 == 0) {
        co_await file.flush();
        EXPECT_GT(file.stats().syncs, syncs);
      }
    }
  });
}

TEST_P(mapped_file_write_path, runs_many_updates_at_once) {
  constexpr std::size_t count = 2000;
  constexpr std::size_t piece = 100;
  mapped_file file = opened(options(count * piece));
  std::vector<std::string> bytes;
  for (std::size_t i = 0; i < count; ++i)
    bytes.push_back(pattern(piece, i));
  std::size_t done = 0;
  for (std::size_t i = 0; i < count; ++i)
    file.update_region(i * piece, asio::buffer(bytes[i]), [&](std::error_code ec, std::size_t n) {
      EXPECT_FALSE(ec) << ec.message();
      EXPECT_EQ(n, piece);
      ++done;
    });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(done, count);
  std::string expected;
  for (const std::string& b : bytes)
    expected += b;
  EXPECT_TRUE(same(read_all(file.map()), expected));
  EXPECT_TRUE(same(read_file(path_), expected));
}

TEST_F(mapped_file_read, of_what_is_in_memory_is_counted_as_at_once) {
  mapped_file file = opened_with(pattern(4 * page()));
  run([&]() -> work {
    co_await file.prefetch();
    const auto before = file.stats();
    std::string buffer(4 * page(), '\0');
    for (int i = 0; i < 10; ++i)
      co_await file.read_into(0, asio::buffer(buffer));
    EXPECT_EQ(file.stats().reads_at_once, before.reads_at_once + 10);
    EXPECT_EQ(file.stats().reads_off_loop, before.reads_off_loop);
  });
}

TEST_F(mapped_file_read, of_what_is_not_in_memory_goes_off_the_loop) {
  const std::string bytes = pattern(256 * page());
  write_file(path_, bytes);
  if (!support::evict(path_)) GTEST_SKIP() << "this file system does not let go of its pages";
  mapped_file file = opened(read_only());
  if (file.map().is_resident(200 * page(), page())) GTEST_SKIP() << "the pages stayed in memory";
  run([&]() -> work {
    std::string buffer(10 * page(), '\0');
    co_await file.read_into(200 * page() + 5, asio::buffer(buffer));
    EXPECT_TRUE(same(buffer, bytes.substr(200 * page() + 5, 10 * page())));
  });
  EXPECT_EQ(file.stats().reads_off_loop, 1U);
}

// Too much to be copied on the loop: who reads it off the loop must not read the file.
TEST_F(mapped_file_read, of_much_finds_what_was_stored_privately) {
  std::string bytes = pattern(64 * page());
  write_file(path_, bytes);
  mapped_file file = opened(copy_on_write());
  run([&]() -> work {
    co_await file.update_region(40 * page() - 3, asio::buffer("private", 7));
    bytes.replace(40 * page() - 3, 7, "private");
    std::string read(bytes.size(), '\0');
    co_await file.read_into(0, asio::buffer(read));
    EXPECT_TRUE(same(read, bytes));
  });
  EXPECT_EQ(file.stats().reads_off_loop, 1U);
}

TEST_F(mapped_file_view, shows_and_pins) {
  const std::string bytes = pattern(4 * page());
  mapped_file file = opened_with(bytes);
  mapio::region r;
  run([&]() -> work {
    r = co_await file.view(page() + 3, 2 * page());
    EXPECT_EQ(r.offset(), page() + 3);
    EXPECT_TRUE(same(r.text(), bytes.substr(page() + 3, 2 * page())));
    EXPECT_EQ(r.data(), file.map().view(page() + 3, 1).data());
  });
  EXPECT_EQ(code_of([&] { file.map().resize(page()); }), errc::pinned);
  run([&]() -> work { co_await file.close(); });
  EXPECT_TRUE(same(r.text(), bytes.substr(page() + 3, 2 * page())));
}

TEST_F(mapped_file_view, holds_to_the_bounds_of_the_file) {
  mapped_file file = opened_with(pattern(2 * page()));
  run([&]() -> work {
    std::error_code ec;
    for (const auto& [offset, length] :
         std::vector<std::pair<std::uint64_t, std::uint64_t>>{{2 * page(), 1},
                                                              {0, 2 * page() + 1},
                                                              {0, largest},
                                                              {largest, 1},
                                                              {largest, largest},
                                                              {2 * page() + 1, 0}}) {
      const mapio::region r = co_await file.view(offset, length, into(ec));
      EXPECT_EQ(ec, errc::out_of_range) << offset << " + " << length;
      EXPECT_TRUE(r.empty());
      co_await file.prefetch(offset, length, into(ec));
      EXPECT_EQ(ec, errc::out_of_range) << offset << " + " << length;
    }
    const mapio::region nothing = co_await file.view(2 * page(), 0, into(ec));
    EXPECT_FALSE(ec);
    EXPECT_TRUE(nothing.empty());
    co_await file.prefetch(2 * page(), 0, into(ec));
    EXPECT_FALSE(ec);
  });
}

TEST_F(mapped_file_view, brings_cold_pages_in) {
  const std::string bytes = pattern(256 * page());
  write_file(path_, bytes);
  if (!support::evict(path_)) GTEST_SKIP() << "this file system does not let go of its pages";
  mapped_file file = opened(read_only());
  if (file.map().is_resident(100 * page(), page())) GTEST_SKIP() << "the pages stayed in memory";
  run([&]() -> work {
    const mapio::region r = co_await file.view(100 * page() + 1, 8 * page());
    EXPECT_TRUE(file.map().is_resident(100 * page(), 8 * page() + 1));
    EXPECT_TRUE(same(r.text(), std::string_view(bytes).substr(100 * page() + 1, 8 * page())));
    EXPECT_EQ(file.stats().reads_off_loop, 1U);
    const mapio::region again = co_await file.view(100 * page() + 1, 8 * page());
    EXPECT_EQ(file.stats().reads_off_loop, 1U);
    EXPECT_EQ(file.stats().reads_at_once, 1U);
  });
}

TEST_F(mapped_file_prefetch, brings_cold_pages_in) {
  write_file(path_, pattern(256 * page()));
  if (!support::evict(path_)) GTEST_SKIP() << "this file system does not let go of its pages";
  mapped_file file = opened(read_only());
  if (file.map().is_resident(100 * page(), page())) GTEST_SKIP() << "the pages stayed in memory";
  run([&]() -> work {
    co_await file.prefetch(100 * page() + 1, 10);
    EXPECT_TRUE(file.map().is_resident(100 * page(), page()));
    co_await file.prefetch();
    EXPECT_TRUE(file.map().is_resident(0, file.size()));
  });
}

TEST_F(mapped_file_prefetch, of_a_large_file_brings_all_of_it_in) {
  // Larger than the pieces that a prefetch is made of.
  const std::uint64_t size = 48 << 20;
  {
    mapping m = mapping::create(path_, size);
    for (std::uint64_t at = 0; at < size; at += page())
      m.update_region(at, asio::buffer(&at, sizeof at));
    m.flush();
  }
  if (!support::evict(path_)) GTEST_SKIP() << "this file system does not let go of its pages";
  mapped_file file = opened(read_only());
  if (file.map().is_resident(0, size)) GTEST_SKIP() << "the pages stayed in memory";
  run([&]() -> work {
    co_await file.prefetch();
    EXPECT_TRUE(file.map().is_resident(0, file.size()));
  });
}

TEST_F(mapped_file_lock, keeps_pages_until_they_are_unlocked) {
  mapped_file file = opened_with(pattern(16 * page()));
  run([&]() -> work {
    co_await file.lock_pages(1, page());
    support::expect_locked(2 * page());
    co_await file.lock_pages();
    support::expect_locked(16 * page());
    co_await file.unlock_pages(8 * page(), 8 * page());
    support::expect_locked(8 * page());
    co_await file.resize(4 * page());
    support::expect_locked(4 * page());
    co_await file.unlock_pages();
    support::expect_locked(0);
  });
}

TEST_F(mapped_file_lock, waits_for_no_page_on_the_loop) {
  write_file(path_, pattern(256 * page()));
  if (!support::evict(path_)) GTEST_SKIP() << "this file system does not let go of its pages";
  mapped_file file = opened(read_only());
  if (file.map().is_resident(100 * page(), page())) GTEST_SKIP() << "the pages stayed in memory";
  outcome locked;
  file.lock_pages(100 * page(), page(), locked.handler());
  EXPECT_EQ(locked.calls, 0);
  finish(locked);
  EXPECT_TRUE(locked.ok());
  EXPECT_TRUE(file.map().is_resident(100 * page(), page()));
}

TEST_F(mapped_file_lock, that_comes_while_the_mapping_waits_to_move_goes_with_it) {
  open_options options = creating(8 * page());
  options.reserve = 8 * page();
  mapped_file file = opened(options);
  run([&]() -> work { co_await file.lock_pages(0, page()); });
  mapio::region in_the_way = file.map().view(0, 1);
  outcome resized;
  file.resize(64 * page(), resized.handler());
  run([&]() -> work {
    co_await file.lock_pages(2 * page(), 3 * page());
    co_await file.unlock_pages(0, page());
  });
  EXPECT_EQ(resized.calls, 0);
  in_the_way = {};
  finish(resized);
  EXPECT_TRUE(resized.ok());
  EXPECT_EQ(file.stats().moves, 1U);
  support::expect_locked(3 * page());
}

TEST_F(mapped_file_prefetch, of_a_writable_file_keeps_it_clean) {
  mapped_file file = created(64 * page());
  run([&]() -> work {
    co_await file.flush();
    co_await file.prefetch();
    const mapio::region r = co_await file.view(0, file.size());
    EXPECT_EQ(file.pending_bytes(), 0U);
    const auto syncs = file.stats().syncs;
    co_await file.flush();
    EXPECT_EQ(file.stats().syncs, syncs);
  });
}

// A write through the file would silently make it longer again.
TEST_F(mapped_file_fault, of_a_truncated_file_is_an_error_of_an_update_that_goes_through_the_file) {
  open_options options = read_write();
  options.writes = write_path::file;
  mapped_file file = opened_with(pattern(8 * page()), options);
  const std::string bytes = pattern(2 * page(), 5);
  run([&]() -> work {
    std::error_code ec;
    const auto update = [&](std::uint64_t at) {
      return file.update_region(at, asio::buffer(bytes), into(ec));
    };
    EXPECT_EQ(co_await update(6 * page()), bytes.size());
    for (const std::uint64_t size : {4 * page(), 2 * page() + 1}) {
      support::truncate_file(path_, size);
      EXPECT_EQ(co_await update(6 * page()), 0U);
      EXPECT_EQ(ec, errc::page_fault) << ec.message();
      co_await update(size - page());
      EXPECT_EQ(ec, errc::page_fault) << ec.message();
      EXPECT_EQ(fs::file_size(path_), size);
      EXPECT_EQ(co_await update(0), bytes.size());
      EXPECT_FALSE(ec) << ec.message();
      EXPECT_EQ(fs::file_size(path_), size);
    }
    support::truncate_file(path_, 8 * page());
    EXPECT_EQ(co_await update(6 * page()), bytes.size());
    EXPECT_FALSE(ec) << ec.message();
    support::truncate_file(path_, 7 * page());
    co_await update(6 * page());
    EXPECT_EQ(ec, errc::page_fault) << ec.message();
    EXPECT_EQ(fs::file_size(path_), 7 * page());
  });
  EXPECT_GE(file.stats().page_faults, 5U);
}

TEST_F(mapped_file_fault, of_a_truncated_file_is_an_error_of_every_verb_that_touches_it) {
  const std::string bytes = pattern(8 * page());
  for (const bool evicted : {false, true}) {
    open_options options = read_write();
    options.writes = write_path::mapped;
    mapped_file file = opened_with(bytes, options);
    if (evicted) support::evict(path_);
    support::truncate_file(path_, 4 * page());
    run([&]() -> work {
      std::error_code ec;
      std::string buffer(8 * page(), '#');
      std::size_t n =
          co_await file.read_into(100, asio::buffer(buffer.data(), 7 * page()), into(ec));
      EXPECT_EQ(ec, errc::page_fault) << ec.message();
      EXPECT_LE(n, 4 * page() - 100);
      EXPECT_TRUE(same(buffer.substr(0, n), bytes.substr(100, n)));
      n = co_await file.read_into(5 * page(), asio::buffer(buffer.data(), 1), into(ec));
      EXPECT_EQ(ec, errc::page_fault) << ec.message();
      EXPECT_EQ(n, 0U);
      mapio::region r = co_await file.view(0, 8 * page(), into(ec));
      EXPECT_EQ(ec, errc::page_fault) << ec.message();
      EXPECT_TRUE(r.empty());
      r = co_await file.view(0, 4 * page(), into(ec));
      EXPECT_FALSE(ec) << ec.message();
      EXPECT_TRUE(same(r.text(), bytes.substr(0, 4 * page())));
      co_await file.prefetch(into(ec));
      EXPECT_EQ(ec, errc::page_fault) << ec.message();
      co_await file.prefetch(6 * page(), 1, into(ec));
      EXPECT_EQ(ec, errc::page_fault) << ec.message();
      n = co_await file.update_region(6 * page(), asio::buffer("x", 1), into(ec));
      EXPECT_EQ(ec, errc::page_fault) << ec.message();
      EXPECT_EQ(n, 0U);
      const std::string stored = pattern(4 * page(), 5);
      n = co_await file.update_region(2 * page() + 1, asio::buffer(stored), into(ec));
      EXPECT_EQ(ec, errc::page_fault) << ec.message();
      EXPECT_LE(n, 2 * page() - 1);
      EXPECT_TRUE(same(to_string(file.map().view(2 * page() + 1, n)), stored.substr(0, n)));
      EXPECT_EQ(fs::file_size(path_), 4 * page());
    });
  }
}

TEST_F(mapped_file_fault, by_a_concurrent_truncation_kills_nobody) {
  const std::string bytes = pattern(64 * page());
  open_options options = read_write();
  options.writes = write_path::mapped;
  mapped_file file = opened_with(bytes, options);
  std::atomic<bool> stop = false;
  std::thread truncator([&] {
    while (!stop) {
      support::truncate_file(path_, 2 * page());
      support::truncate_file(path_, 64 * page());
    }
  });
  int faults = 0;
  std::string buffer(64 * page(), '\0');
  const auto end = std::chrono::steady_clock::now() + support::patience;
  run([&]() -> work {
    for (int i = 0; (i < 300 || faults < 20) && std::chrono::steady_clock::now() < end; ++i) {
      std::error_code ec;
      co_await file.read_into(0, asio::buffer(buffer), into(ec));
      if (ec) {
        EXPECT_EQ(ec, errc::page_fault) << ec.message();
        ++faults;
      }
      co_await file.update_region(32 * page(), asio::buffer(bytes.data(), 8 * page()), into(ec));
      if (ec) {
        EXPECT_EQ(ec, errc::page_fault) << ec.message();
        ++faults;
      }
    }
  });
  stop = true;
  truncator.join();
  EXPECT_GE(faults, 20);
}

}  // namespace
