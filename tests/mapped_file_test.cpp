#include <mapio/mapped_file.hpp>

#include "faults/syscall_gate.hpp"
#include "support.hpp"

#include <mapio/backend.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/bind_allocator.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/bind_executor.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/error.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
#include <asio/system_executor.hpp>
#include <asio/this_coro.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>

#if __has_include(<asio/as_tuple.hpp>)
#include <asio/as_tuple.hpp>
#else
#include <asio/experimental/as_tuple.hpp>
#endif
#if __has_include(<asio/deferred.hpp>)
#include <asio/deferred.hpp>
#else
#include <asio/experimental/deferred.hpp>
#endif
#if __has_include(<asio/bind_immediate_executor.hpp>)
#include <asio/bind_immediate_executor.hpp>
#define MAPIO_TEST_IMMEDIATE_EXECUTOR
#endif
#if __has_include(<asio/cancel_after.hpp>)
#include <asio/cancel_after.hpp>
#define MAPIO_TEST_CANCEL_AFTER
#endif

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <filesystem>
#include <functional>
#include <future>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using namespace asio::experimental::awaitable_operators;
using mapio::access;
using mapio::disposition;
using mapio::durability;
using mapio::errc;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;
using mapio::write_path;
using support::code_of;
using support::copy_on_write;
using support::creating;
using support::eventually;
using support::into;
using support::page;
using support::pattern;
using support::read_all;
using support::read_file;
using support::read_only;
using support::read_write;
using support::run_to_end;
using support::run_until;
using support::same;
using support::to_string;
using support::write_file;

#if __has_include(<asio/as_tuple.hpp>)
using asio::as_tuple;
#else
using asio::experimental::as_tuple;
#endif
#if __has_include(<asio/deferred.hpp>)
using asio::deferred;
#else
using asio::experimental::deferred;
#endif

const std::error_code aborted = asio::error::operation_aborted;
constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();

static_assert(std::is_same_v<mapped_file, mapio::basic_mapped_file<asio::any_io_executor>>);
static_assert(std::is_same_v<mapped_file::executor_type, asio::any_io_executor>);
static_assert(std::is_same_v<mapped_file::rebind_executor<asio::io_context::executor_type>::other,
                             mapio::basic_mapped_file<asio::io_context::executor_type>>);
static_assert(std::is_copy_constructible_v<mapped_file> &&
              std::is_nothrow_move_constructible_v<mapped_file>);
static_assert(!std::is_convertible_v<asio::io_context&, mapped_file>);

/// What a handler was told.
struct outcome {
  int calls = 0;
  std::error_code error;
  std::size_t bytes = 0;
  mapio::region region;

  /// A handler for any verb. The outcome must outlive it.
  auto handler() {
    return [this](std::error_code ec, auto... result) {
      ++calls;
      error = ec;
      (keep(std::move(result)), ...);
    };
  }
  bool ok() const { return calls == 1 && !error; }

 private:
  void keep(std::size_t n) { bytes = n; }
  void keep(mapio::region r) { region = std::move(r); }
};

class mapped_file_test : public testing::Test {
 protected:
  using work = asio::awaitable<void>;

  template <class Body>
  void run(Body body) {
    support::run_coroutine(io_, std::move(body));
  }
  /// Runs handlers until this one was called.
  void finish(const outcome& o) {
    EXPECT_TRUE(run_until(io_, [&] { return o.calls > 0; })) << "it never completes";
  }
  /// Lets everything that is ready happen, without waiting for what is not.
  void settle() {
    io_.restart();
    while (io_.poll() > 0) {
    }
  }

  mapped_file opened(const open_options& options) {
    mapped_file file(io_);
    run([&]() -> work { co_await file.open(path_, options); });
    return file;
  }
  mapped_file created(std::uint64_t size) { return opened(creating(size)); }
  mapped_file opened_with(const std::string& bytes, const open_options& options = read_write()) {
    write_file(path_, bytes);
    return opened(options);
  }

  support::temp_dir dir_;
  const fs::path path_ = dir_ / "file";
  asio::io_context io_;
};

using mapped_file_open = mapped_file_test;
using mapped_file_close = mapped_file_test;
using mapped_file_handle = mapped_file_test;
using mapped_file_update = mapped_file_test;
using mapped_file_read = mapped_file_test;
using mapped_file_flush = mapped_file_test;
using mapped_file_view = mapped_file_test;
using mapped_file_prefetch = mapped_file_test;
using mapped_file_fault = mapped_file_test;
using mapped_file_token = mapped_file_test;
using mapped_file_handler = mapped_file_test;
using mapped_file_executor = mapped_file_test;
using mapped_file_announce = mapped_file_test;
using mapped_file_lifetime = mapped_file_test;
using mapped_file_threads = mapped_file_test;
using mapped_file_process = mapped_file_test;
using mapped_file_load = mapped_file_test;

/// What verbs under way refer to, and a second file for open.
struct verb_memory {
  verb_memory(const asio::any_io_executor& executor, fs::path second)
      : path(std::move(second)), other(executor) {
    write_file(path, "other");
  }

  // These never go: a context may end with verbs under way that use them.
  inline static const std::string out = pattern(64, 9);
  inline static std::array<char, 64> in{};

  fs::path path;
  mapped_file other;
};

/// Starts one of every verb on an open file of a page or more; `make(name)` gives the handler of
/// each.
template <class Make>
void start_every_verb(mapped_file& file, verb_memory& memory, Make make) {
  file.update_region(0, asio::buffer(memory.out), make("update_region"));
  file.read_into(0, asio::buffer(memory.in), make("read_into"));
  file.flush(make("flush"));
  file.flush(durability::started, make("flush started"));
  file.flush_range(0, 64, make("flush_range"));
  file.flush_range(0, 64, durability::started, make("flush_range started"));
  file.resize(file.size() + page(), make("resize"));
  file.prefetch(make("prefetch"));
  file.prefetch(0, 64, make("prefetch range"));
  file.view(0, 64, make("view"));
  memory.other.open(memory.path, make("open for reading"));
  memory.other.open(memory.path, read_write(), make("open"));
}
constexpr int every_verb = 12;

/// Starts one of every verb that needs an open file, on a file that is not.
template <class Make>
void start_every_verb_but_open(mapped_file& file, verb_memory& memory, Make make) {
  file.update_region(0, asio::buffer(memory.out), make("update_region"));
  file.update_region(0, asio::const_buffer(), make("update_region of nothing"));
  file.read_into(0, asio::buffer(memory.in), make("read_into"));
  file.flush(make("flush"));
  file.flush(durability::started, make("flush started"));
  file.flush_range(0, 0, make("flush_range"));
  file.resize(page(), make("resize"));
  file.prefetch(make("prefetch"));
  file.prefetch(0, 0, make("prefetch range"));
  file.view(0, 0, make("view"));
  file.close(make("close"));
}
constexpr int every_verb_but_open = 11;

// --- open and close
// --------------------------------------------------------------------------------

TEST_F(mapped_file_open, opens_an_existing_file_for_reading) {
  const std::string bytes = pattern(3 * page() + 5);
  write_file(path_, bytes);
  run([&]() -> work {
    mapped_file file(co_await asio::this_coro::executor);
    EXPECT_FALSE(file.is_open());
    EXPECT_EQ(file.size(), 0U);
    EXPECT_EQ(file.native_handle(), -1);
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

TEST_F(mapped_file_open, reports_what_the_blocking_one_reports) {
  write_file(path_, "x");
  const auto fifo = dir_ / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  fs::create_symlink(path_, dir_ / "link");
  open_options no_links;
  no_links.follow_symlinks = false;
  open_options contradiction;
  contradiction.create = disposition::create_or_truncate;
  struct attempt {
    fs::path path;
    open_options options;
    std::errc expected;
  };
  const std::vector<attempt> attempts{
      {dir_ / "missing", read_only(), std::errc::no_such_file_or_directory},
      {dir_ / "missing", read_write(), std::errc::no_such_file_or_directory},
      {"", read_only(), std::errc::no_such_file_or_directory},
      {dir_.path(), read_only(), std::errc::is_a_directory},
      {dir_.path(), creating(1), std::errc::is_a_directory},
      {path_ / "below", read_only(), std::errc::not_a_directory},
      {fifo, read_only(), std::errc::no_such_device},
      {fifo, read_write(), std::errc::no_such_device},
      {"/dev/null", read_write(), std::errc::no_such_device},
      {dir_ / std::string(300, 'n'), creating(1), std::errc::filename_too_long},
      {dir_ / "link", no_links, std::errc::too_many_symbolic_link_levels},
      {path_, contradiction, std::errc::invalid_argument},
      {path_, creating(1, disposition::create_new), std::errc::file_exists},
      {path_, creating(most), std::errc::file_too_large},
  };
  for (const auto& a : attempts) {
    SCOPED_TRACE(a.path.string());
    outcome o;
    mapped_file file(io_);
    file.open(a.path, a.options, o.handler());
    finish(o);
    EXPECT_EQ(o.error, a.expected) << o.error.message();
    EXPECT_FALSE(file.is_open());
  }
  EXPECT_EQ(read_file(path_), "x");
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
  for (const int fd : before)
    added.erase(fd);
  EXPECT_TRUE(added.contains(file.native_handle()));
  for (const int fd : added)
    EXPECT_TRUE((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0) << fd;
}

TEST_F(mapped_file_close, closes_every_copy_and_the_mapping) {
  mapped_file file = created(page());
  const mapped_file copy = file;
  const mapping map = file.map();
  const int fd = file.native_handle();
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

// --- handles
// ---------------------------------------------------------------------------------------

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
    EXPECT_EQ(f->native_handle(), -1);
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

// --- update_region and read_into
// ---------------------------------------------------------------------

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
         {file.size() - 15, file.size(), file.size() + 1, most - 15, most - 16, most}) {
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
  const support::foreign_mapping other(path_, size, PROT_READ);
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

TEST_F(mapped_file_update, of_a_page_that_is_known_to_be_dirty_is_stored_at_once) {
  mapped_file file = created(page());
  run([&]() -> work {
    for (int i = 0; i < 10; ++i)
      co_await file.update_region(0, asio::buffer("x", 1));
  });
  EXPECT_GE(file.stats().stores, 1U);
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

// --- flush
// -------------------------------------------------------------------------------------------

TEST_F(mapped_file_flush, costs_nothing_where_nothing_was_written) {
  mapped_file file = created(4 * page());
  run([&]() -> work {
    EXPECT_EQ(file.stats().syncs, 0U);
    co_await file.flush();
    EXPECT_GE(file.stats().syncs, 1U) << "the first one after a create";
    const auto before = file.stats();
    co_await file.flush();
    co_await file.flush_range(0, 4 * page());
    co_await file.flush_range(0, 0);
    EXPECT_EQ(file.stats().syncs, before.syncs);
    EXPECT_GE(file.stats().clean_flushes, before.clean_flushes + 2);
  });
}

TEST_F(mapped_file_flush, holds_to_the_bounds_of_the_file) {
  mapped_file file = created(2 * page());
  run([&]() -> work {
    std::error_code ec;
    co_await file.flush_range(2 * page(), 0, into(ec));
    EXPECT_FALSE(ec);
    for (const auto& [offset, length] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
             {2 * page(), 1}, {0, most}, {most, 1}, {most, most}, {2 * page() + 1, 0}}) {
      co_await file.flush_range(offset, length, into(ec));
      EXPECT_EQ(ec, errc::out_of_range) << offset << " + " << length;
      co_await file.flush_range(offset, length, durability::started, into(ec));
      EXPECT_EQ(ec, errc::out_of_range) << offset << " + " << length;
    }
  });
}

TEST_F(mapped_file_flush, that_only_starts_writing_makes_nothing_durable) {
  mapped_file file = created(4 * page());
  run([&]() -> work {
    co_await file.flush();
    co_await file.update_region(0, asio::buffer("x", 1));
    co_await file.flush(durability::started);
    co_await file.flush_range(0, page(), durability::started);
    const auto syncs = file.stats().syncs;
    co_await file.flush();
    EXPECT_GT(file.stats().syncs, syncs);
  });
}

TEST_F(mapped_file_flush, by_a_thousand_at_once_shares_few_syncs) {
  constexpr std::uint64_t count = 1000;
  mapped_file file = created(count * 64);
  run([&]() -> work { co_await file.flush(); });
  const auto before = file.stats();
  std::uint64_t done = 0;
  for (std::uint64_t i = 0; i < count; ++i)
    asio::co_spawn(
        io_,
        [](mapped_file f, std::uint64_t at) -> work {
          co_await f.update_region(at, asio::buffer("x", 1));
          co_await f.flush();
        }(file, i * 64),
        [&](std::exception_ptr e) {
          EXPECT_FALSE(e);
          ++done;
        });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(done, count);
  const auto after = file.stats();
  EXPECT_EQ(after.flush_calls - before.flush_calls, count);
  EXPECT_LE((after.syncs - before.syncs) * 20, count);
  EXPECT_GE(after.syncs - before.syncs, 1U);
  EXPECT_EQ(file.pending_bytes(), 0U);
}

TEST_F(mapped_file_flush, of_ranges_by_many_at_once_leaves_nothing_dirty) {
  constexpr std::uint64_t count = 200;
  mapped_file file = created(count * page());
  run([&]() -> work { co_await file.flush(); });
  std::uint64_t done = 0;
  for (std::uint64_t i = 0; i < count; ++i)
    asio::co_spawn(
        io_,
        [](mapped_file f, std::uint64_t at) -> work {
          co_await f.update_region(at, asio::buffer("x", 1));
          co_await f.flush_range(at, 1);
        }(file, i * page()),
        [&](std::exception_ptr e) {
          EXPECT_FALSE(e);
          ++done;
        });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(done, count);
  EXPECT_EQ(file.pending_bytes(), 0U);
}

/// Runs `body` on the thread pool engine, whose syncs can be held and failed. The body gets a
/// context of its own.
class mapped_file_held_sync : public mapped_file_test {
 protected:
  using gate_type = faults::syscall_gate;

  template <class Body>
  void on_the_pool(Body body) {
    if (!gate_.run([&] {
          asio::io_context io;
          mapio::use_backend(io, mapio::backend_kind::thread_pool);
          mapped_file file(io);
          support::run_coroutine(io, [&]() -> work {
            co_await file.open(path_, creating(8 * page()));
            co_await file.flush();
            co_await file.update_region(0, asio::buffer("x", 1));
          });
          body(io, file);
        }))
      GTEST_SKIP() << "seccomp does not let us hold system calls";
  }

  template <class Action>
  void expect_waiters_to_be_let_go_by(Action action) {
    on_the_pool([&](asio::io_context& io, mapped_file& file) {
      hold_next_ = true;
      outcome running;
      outcome queued;
      outcome closed;
      file.flush(running.handler());
      io.restart();
      io.poll();
      gate_.wait_until_held();
      file.map().update_region(page(), asio::buffer("x", 1));
      file.flush(queued.handler());
      action(file, closed);
      EXPECT_TRUE(run_until(io, [&] { return running.calls > 0 && queued.calls > 0; }));
      EXPECT_EQ(running.error, aborted);
      EXPECT_EQ(queued.error, aborted);
      gate_.release();
      ASSERT_TRUE(run_to_end(io));
      EXPECT_EQ(running.calls, 1);
      EXPECT_EQ(queued.calls, 1);
      EXPECT_FALSE(closed.error) << closed.error.message();
    });
  }

  std::atomic<bool> hold_next_ = false;
  std::atomic<int> fail_next_ = 0;
  gate_type gate_{gate_type::syncs(), [this](const gate_type::call&) {
                    if (hold_next_.exchange(false)) return gate_type::hold;
                    if (fail_next_ > 0) {
                      --fail_next_;
                      return gate_type::fail(EIO);
                    }
                    return gate_type::pass;
                  }};
};

TEST_F(mapped_file_held_sync, gathers_later_flushes_behind_it) {
  on_the_pool([&](asio::io_context& io, mapped_file& file) {
    const auto before = file.stats();
    hold_next_ = true;
    outcome first;
    file.flush(first.handler());
    io.restart();
    io.poll();
    gate_.wait_until_held();
    std::array<outcome, 20> later;
    for (std::size_t i = 0; i < later.size(); ++i) {
      file.map().update_region(page() + i, asio::buffer("y", 1));
      file.flush(later[i].handler());
    }
    while (io.poll() > 0) {
    }
    EXPECT_EQ(first.calls, 0);
    for (const outcome& o : later)
      EXPECT_EQ(o.calls, 0);
    gate_.release();
    ASSERT_TRUE(run_to_end(io));
    EXPECT_TRUE(first.ok());
    for (const outcome& o : later)
      EXPECT_TRUE(o.ok());
    EXPECT_EQ(file.stats().syncs, before.syncs + 2);
    EXPECT_EQ(file.pending_bytes(), 0U);
  });
}

TEST_F(mapped_file_held_sync, lets_a_cancelled_waiter_go_and_serves_the_others) {
  on_the_pool([&](asio::io_context& io, mapped_file& file) {
    hold_next_ = true;
    asio::cancellation_signal signal;
    outcome cancelled;
    outcome stays;
    file.flush(asio::bind_cancellation_slot(signal.slot(), cancelled.handler()));
    io.restart();
    io.poll();
    gate_.wait_until_held();
    file.flush_range(0, page(), stays.handler());  // waits for the same bytes
    signal.emit(asio::cancellation_type::total);
    EXPECT_TRUE(run_until(io, [&] { return cancelled.calls > 0; }))
        << "it waits for the sync all the same";
    EXPECT_EQ(cancelled.error, aborted);
    EXPECT_EQ(stays.calls, 0);
    EXPECT_EQ(gate_.held(), 1U);
    gate_.release();
    ASSERT_TRUE(run_to_end(io));
    EXPECT_TRUE(stays.ok());
    EXPECT_EQ(cancelled.calls, 1);
    // The sync went on, so nothing is left to do.
    const auto syncs = file.stats().syncs;
    support::run_coroutine(io, [&]() -> work { co_await file.flush(); });
    EXPECT_EQ(file.stats().syncs, syncs);
  });
}

TEST_F(mapped_file_held_sync, is_not_waited_for_by_those_who_are_cancelled) {
  expect_waiters_to_be_let_go_by([](mapped_file& file, outcome&) { file.cancel(); });
}

TEST_F(mapped_file_held_sync, is_not_waited_for_by_those_whose_file_is_closed) {
  expect_waiters_to_be_let_go_by(
      [](mapped_file& file, outcome& closed) { file.close(closed.handler()); });
}

TEST_F(mapped_file_held_sync, does_not_make_a_range_wait_that_has_nothing_to_do_with_it) {
  on_the_pool([&](asio::io_context& io, mapped_file& file) {
    hold_next_ = true;
    outcome whole;
    outcome clean;
    outcome dirty;
    file.flush(whole.handler());
    io.restart();
    io.poll();
    gate_.wait_until_held();
    file.map().update_region(5 * page(), asio::buffer("x", 1));
    file.flush_range(5 * page(), 1, dirty.handler());
    EXPECT_TRUE(run_until(io, [&] { return dirty.calls > 0; }));
    EXPECT_TRUE(dirty.ok());
    EXPECT_EQ(whole.calls, 0);
    gate_.release();
    ASSERT_TRUE(run_to_end(io));
    EXPECT_TRUE(whole.ok());
  });
}

TEST_F(mapped_file_held_sync, that_fails_fails_its_waiters_and_poisons_the_file) {
  on_the_pool([&](asio::io_context& io, mapped_file& file) {
    hold_next_ = true;
    std::array<outcome, 3> waiters;
    file.flush(waiters[0].handler());
    io.restart();
    io.poll();
    gate_.wait_until_held();
    // Both wait for the bytes of the sync that is held.
    file.flush_range(0, 1, waiters[1].handler());
    file.flush_range(0, page(), waiters[2].handler());
    while (io.poll() > 0) {
    }
    gate_.release(gate_type::fail(EIO));
    ASSERT_TRUE(run_to_end(io));
    for (const outcome& o : waiters) {
      EXPECT_EQ(o.calls, 1);
      EXPECT_EQ(o.error, std::errc::io_error) << o.error.message();
    }
    EXPECT_EQ(waiters[0].error, std::error_code(EIO, std::system_category()));
    EXPECT_EQ(file.map().flush_error(), std::error_code(EIO, std::system_category()));
    EXPECT_EQ(file.stats().sync_failures, 1U);
    const auto made = gate_.count();
    outcome later;
    file.flush(later.handler());
    ASSERT_TRUE(run_to_end(io));
    EXPECT_EQ(later.error, errc::flush_failed);
    EXPECT_EQ(gate_.count(), made);
  });
}

TEST_F(mapped_file_held_sync, that_fails_can_be_recovered_from_by_writing_again) {
  on_the_pool([&](asio::io_context& io, mapped_file& file) {
    support::run_coroutine(io, [&]() -> work {
      std::error_code ec;
      fail_next_ = 1;
      co_await file.flush(into(ec));
      EXPECT_EQ(ec, std::errc::io_error);
      file.map().clear_flush_error();
      co_await file.flush(into(ec));
      EXPECT_EQ(ec, errc::flush_failed) << "it was not written again";
      file.map().clear_flush_error();
      co_await file.update_region(0, asio::buffer(pattern(page())));
      co_await file.flush(into(ec));
      EXPECT_FALSE(ec) << ec.message();
      EXPECT_EQ(file.pending_bytes(), 0U);
    });
  });
}

TEST_F(mapped_file_held_sync, keeps_the_file_until_it_ends) {
  on_the_pool([&](asio::io_context& io, mapped_file& file) {
    const int fd = file.native_handle();
    hold_next_ = true;
    outcome o;
    file.flush(o.handler());
    io.restart();
    io.poll();
    gate_.wait_until_held();
    file = mapped_file(io);  // the last handle
    file.cancel();
    EXPECT_TRUE(support::is_open_descriptor(fd));
    gate_.release();
    ASSERT_TRUE(run_to_end(io));
    EXPECT_TRUE(o.ok());
    EXPECT_TRUE(eventually([&] { return !support::is_open_descriptor(fd); }));
  });
}

// --- resize
// --------------------------------------------------------------------------------------------

class mapped_file_resize : public mapped_file_test {
 protected:
  std::string bytes_ = pattern(4 * page());
};

TEST_F(mapped_file_resize, grows_by_zeros_and_shrinks) {
  mapped_file file = opened_with(bytes_);
  run([&]() -> work {
    for (const std::size_t size : {4 * page() + 1, 5 * page(), 100 * page(), 1000 * page() + 7}) {
      co_await file.resize(size);
      EXPECT_EQ(file.size(), size);
      EXPECT_EQ(fs::file_size(path_), size);
      EXPECT_TRUE(same(read_all(file.map()), bytes_ + std::string(size - bytes_.size(), '\0')))
          << size;
    }
    co_await file.resize(page() + 5);
    EXPECT_EQ(fs::file_size(path_), page() + 5);
    co_await file.resize(4 * page());
    EXPECT_TRUE(same(read_all(file.map()),
                     bytes_.substr(0, page() + 5) + std::string(3 * page() - 5, '\0')));
    co_await file.resize(0);
    EXPECT_EQ(file.size(), 0U);
    co_await file.resize(10);
    EXPECT_TRUE(same(read_all(file.map()), std::string(10, '\0')));
  });
}

TEST_F(mapped_file_resize, gives_zeros_where_somebody_stored_past_the_end) {
  for (const fs::path& parent : {fs::temp_directory_path(), fs::path("/dev/shm")}) {
    if (!fs::is_directory(parent)) continue;
    const support::temp_dir dir(parent);
    const auto path = dir / "file";
    for (const std::uint64_t target : {std::uint64_t{200}, std::uint64_t{3 * page()}}) {
      write_file(path, pattern(100));
      mapped_file file(io_);
      run([&]() -> work { co_await file.open(path, read_write()); });
      const support::foreign_mapping foreign(path, page());
      std::memset(foreign.data() + 100, '#', page() - 100);
      run([&]() -> work { co_await file.resize(target); });
      EXPECT_TRUE(same(read_all(file.map()), pattern(100) + std::string(target - 100, '\0')))
          << path;
    }
  }
}

TEST_F(mapped_file_resize, refuses_sizes_that_no_file_can_have) {
  mapped_file file = opened_with(bytes_);
  run([&]() -> work {
    std::error_code ec;
    for (const std::uint64_t size : {most, most - page() + 1, std::uint64_t{1} << 63}) {
      co_await file.resize(size, into(ec));
      EXPECT_EQ(ec, std::errc::file_too_large) << ec.message();
      EXPECT_EQ(file.size(), 4 * page());
    }
    co_await file.resize(std::uint64_t{1} << 62, into(ec));
    EXPECT_TRUE(ec);
    EXPECT_EQ(file.size(), 4 * page());
    EXPECT_EQ(fs::file_size(path_), 4 * page());
    co_await file.resize(5 * page());
  });
  EXPECT_TRUE(same(read_all(file.map()), bytes_ + std::string(page(), '\0')));
}

TEST_F(mapped_file_resize, happens_in_the_order_of_initiation) {
  mapped_file file = opened_with(bytes_);
  for (int round = 0; round < 20; ++round) {
    std::vector<int> order;
    for (int i = 0; i < 10; ++i)
      file.resize((i % 2 == 0 ? 1U : 20U + static_cast<unsigned>(i)) * page(),
                  [&order, i](std::error_code ec) {
                    EXPECT_FALSE(ec) << ec.message();
                    order.push_back(i);
                  });
    ASSERT_TRUE(run_to_end(io_));
    EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
    EXPECT_EQ(file.size(), 29 * page());
    EXPECT_EQ(fs::file_size(path_), 29 * page());
  }
  EXPECT_TRUE(same(to_string(file.map().view(0, page())), bytes_.substr(0, page())));
}

TEST_F(mapped_file_resize, shrinks_when_the_last_region_in_the_way_is_gone) {
  mapped_file file = opened_with(bytes_);
  auto in_the_way = std::make_unique<mapio::region>(file.map().view(3 * page(), 10));
  auto copy = std::make_unique<mapio::region>(*in_the_way);
  const mapio::region harmless = file.map().view(0, 2 * page());
  outcome o;
  file.resize(2 * page(), o.handler());
  settle();
  EXPECT_EQ(o.calls, 0);
  EXPECT_FALSE(io_.stopped()) << "a verb that waits keeps run() going";
  EXPECT_TRUE(same(in_the_way->text(), bytes_.substr(3 * page(), 10)));
  in_the_way.reset();
  settle();
  EXPECT_EQ(o.calls, 0);
  EXPECT_EQ(fs::file_size(path_), 4 * page());
  copy.reset();
  finish(o);
  EXPECT_TRUE(o.ok()) << o.error.message();
  EXPECT_EQ(file.size(), 2 * page());
  EXPECT_EQ(fs::file_size(path_), 2 * page());
  EXPECT_TRUE(same(harmless.text(), bytes_.substr(0, 2 * page())));
}

TEST_F(mapped_file_resize, waits_for_mutable_regions_too) {
  mapped_file file = opened_with(bytes_);
  auto in_the_way =
      std::make_unique<mapio::mutable_region>(file.map().mutable_view(page(), 2 * page()));
  outcome o;
  file.resize(2 * page(), o.handler());
  settle();
  EXPECT_EQ(o.calls, 0);
  in_the_way.reset();
  finish(o);
  EXPECT_TRUE(o.ok());
}

TEST_F(mapped_file_resize, is_woken_by_a_region_that_another_thread_drops) {
  mapped_file file = opened_with(bytes_);
  for (int round = 0; round < 50; ++round) {
    mapio::region in_the_way = file.map().view(3 * page(), 1);
    outcome o;
    file.resize(page(), o.handler());
    std::thread dropper([r = std::move(in_the_way)]() mutable { r = mapio::region(); });
    finish(o);
    dropper.join();
    ASSERT_TRUE(o.ok());
    run([&]() -> work { co_await file.resize(4 * page()); });
  }
}

TEST_F(mapped_file_resize, to_a_smaller_size_refuses_new_views_there_from_its_initiation_on) {
  mapped_file file = opened_with(bytes_);
  auto in_the_way = std::make_unique<mapio::region>(file.map().view(3 * page(), 1));
  outcome o;
  file.resize(2 * page(), o.handler());
  EXPECT_EQ(code_of([&] { file.map().view(2 * page(), 1); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { file.map().mutable_view(3 * page(), 1); }), errc::out_of_range);
  outcome view;
  file.view(3 * page(), 1, view.handler());
  finish(view);
  EXPECT_EQ(view.error, errc::out_of_range);
  EXPECT_EQ(file.map().view(0, 2 * page()).size(), 2 * page());
  outcome kept;
  file.view(page(), page(), kept.handler());
  finish(kept);
  EXPECT_TRUE(kept.ok());
  EXPECT_EQ(o.calls, 0);
  in_the_way.reset();
  finish(o);
  EXPECT_TRUE(o.ok());
}

TEST_F(mapped_file_resize, gives_the_views_back_when_it_is_cancelled) {
  mapped_file file = opened_with(bytes_);
  const mapio::region in_the_way = file.map().view(3 * page(), 1);
  outcome o;
  file.resize(2 * page(), o.handler());
  settle();
  file.cancel();
  finish(o);
  EXPECT_EQ(o.error, aborted);
  EXPECT_EQ(file.size(), 4 * page());
  EXPECT_EQ(file.map().view(2 * page(), 2 * page()).text().size(), 2 * page());
  EXPECT_TRUE(same(read_file(path_), bytes_));
}

TEST_F(mapped_file_resize, beyond_the_capacity_waits_for_every_region) {
  open_options options = read_write();
  options.reserve = 1 << 20;
  options.preallocate = false;
  mapped_file file = opened_with(bytes_, options);
  const std::uint64_t beyond = file.capacity() + 1;
  auto low = std::make_unique<mapio::region>(file.map().view(0, 1));
  outcome o;
  file.resize(beyond, o.handler());
  settle();
  EXPECT_EQ(o.calls, 0);
  EXPECT_TRUE(same(low->text(), bytes_.substr(0, 1)));
  low.reset();
  finish(o);
  EXPECT_TRUE(o.ok()) << o.error.message();
  EXPECT_EQ(file.size(), beyond);
  EXPECT_GE(file.capacity(), beyond);
  EXPECT_EQ(file.stats().moves, 1U);
  EXPECT_TRUE(same(to_string(file.map().view(0, bytes_.size())), bytes_));
}

TEST_F(mapped_file_resize, beyond_the_capacity_runs_beside_other_verbs) {
  open_options options = read_write();
  options.reserve = 1 << 20;
  options.preallocate = false;
  mapped_file file = opened_with(bytes_, options);
  int done = 0;
  std::string slots(64, '\0');
  for (int round = 0; round < 3; ++round) {
    const std::uint64_t beyond = file.capacity() + 1;
    for (std::size_t i = 0; i < 64; ++i) {
      file.read_into(i, asio::buffer(&slots[i], 1), [&](std::error_code ec, std::size_t) {
        EXPECT_FALSE(ec) << ec.message();
        ++done;
      });
      file.update_region(page() + i, asio::buffer("x", 1), [&](std::error_code ec, std::size_t) {
        EXPECT_FALSE(ec) << ec.message();
        ++done;
      });
      if (i == 10) {
        file.flush([&](std::error_code ec) {
          EXPECT_FALSE(ec) << ec.message();
          ++done;
        });
      }
      if (i == 32) {
        file.resize(beyond, [&](std::error_code ec) {
          EXPECT_FALSE(ec) << ec.message();
          ++done;
        });
      }
    }
    ASSERT_TRUE(run_to_end(io_));
    EXPECT_EQ(file.size(), beyond);
  }
  EXPECT_EQ(done, 3 * 130);
  EXPECT_TRUE(same(slots, bytes_.substr(0, 64)));
  EXPECT_TRUE(same(to_string(file.map().view(page(), 64)), std::string(64, 'x')));
}

TEST_F(mapped_file_resize, waits_for_its_turn_behind_one_that_waits_for_a_region) {
  mapped_file file = opened_with(bytes_);
  auto in_the_way = std::make_unique<mapio::region>(file.map().view(3 * page(), 1));
  outcome shrink;
  outcome grow;
  file.resize(page(), shrink.handler());
  file.resize(8 * page(), grow.handler());
  settle();
  EXPECT_EQ(shrink.calls + grow.calls, 0);
  in_the_way.reset();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(shrink.ok() && grow.ok());
  EXPECT_EQ(file.size(), 8 * page());
  EXPECT_TRUE(same(read_all(file.map()), bytes_.substr(0, page()) + std::string(7 * page(), '\0')));
}

TEST_F(mapped_file_resize, goes_on_with_the_next_one_when_one_is_cancelled) {
  mapped_file file = opened_with(bytes_);
  const mapio::region in_the_way = file.map().view(3 * page(), 1);
  asio::cancellation_signal signal;
  outcome shrink;
  outcome grow;
  file.resize(page(), asio::bind_cancellation_slot(signal.slot(), shrink.handler()));
  file.resize(8 * page(), grow.handler());
  settle();
  signal.emit(asio::cancellation_type::terminal);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(shrink.error, aborted);
  EXPECT_TRUE(grow.ok());
  EXPECT_TRUE(same(read_all(file.map()), bytes_ + std::string(4 * page(), '\0')));
}

TEST_F(mapped_file_resize, that_waits_for_its_turn_can_be_cancelled) {
  mapped_file file = opened_with(bytes_);
  auto in_the_way = std::make_unique<mapio::region>(file.map().view(3 * page(), 1));
  asio::cancellation_signal signal;
  outcome shrink;
  outcome grow;
  file.resize(page(), shrink.handler());
  file.resize(8 * page(), asio::bind_cancellation_slot(signal.slot(), grow.handler()));
  settle();
  signal.emit(asio::cancellation_type::total);
  finish(grow);
  EXPECT_EQ(grow.error, aborted);
  EXPECT_EQ(shrink.calls, 0);
  in_the_way.reset();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(shrink.ok());
  EXPECT_EQ(file.size(), page());
}

TEST_F(mapped_file_resize, by_the_mapping_does_not_wait) {
  mapped_file file = opened_with(bytes_);
  const mapio::region in_the_way = file.map().view(3 * page(), 1);
  EXPECT_EQ(code_of([&] { file.map().resize(page()); }), errc::pinned);
}

TEST_F(mapped_file_resize, reports_a_full_disk) {
  // A limit on the size of a file behaves the same everywhere, and needs no file system of its own.
  const auto end = support::in_child([&] {
    asio::io_context io;
    std::signal(SIGXFSZ, SIG_IGN);
    write_file(path_, bytes_);
    mapped_file file(io);
    const rlimit limit{64 * page(), 64 * page()};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
    support::run_coroutine(io, [&]() -> work {
      co_await file.open(path_, read_write());
      std::error_code ec;
      co_await file.resize(65 * page(), into(ec));
      EXPECT_EQ(ec, std::errc::file_too_large) << ec.message();
      EXPECT_EQ(file.size(), 4 * page());
      co_await file.resize(64 * page());
      EXPECT_EQ(file.size(), 64 * page());
    });
  });
  EXPECT_TRUE(end.ok()) << end;
}

// --- view and prefetch
// -----------------------------------------------------------------------------------

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
                                                              {0, most},
                                                              {most, 1},
                                                              {most, most},
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

// --- truncated by somebody else
// ------------------------------------------------------------------------------

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

// --- completion tokens
// ---------------------------------------------------------------------------------------

TEST_F(mapped_file_token, use_awaitable) {
  mapped_file file = opened_with("hello");
  run([&]() -> work {
    std::string text(5, '\0');
    const std::size_t n = co_await file.read_into(0, asio::buffer(text), asio::use_awaitable);
    EXPECT_EQ(n, 5U);
    EXPECT_EQ(text, "hello");
    const mapio::region r = co_await file.view(1, 3, asio::use_awaitable);
    EXPECT_EQ(r.text(), "ell");
    std::error_code caught;
    try {
      co_await file.view(0, 6, asio::use_awaitable);
    } catch (const std::system_error& e) {
      caught = e.code();
    }
    EXPECT_EQ(caught, errc::out_of_range);
  });
}

TEST_F(mapped_file_token, default_one_can_be_awaited_for_every_verb) {
  write_file(path_, pattern(page()));
  run([&]() -> work {
    mapped_file file(co_await asio::this_coro::executor);
    co_await file.open(path_);
    co_await file.open(path_, read_write());
    const std::size_t written = co_await file.update_region(0, asio::buffer("x", 1));
    EXPECT_EQ(written, 1U);
    char c = 0;
    const std::size_t read = co_await file.read_into(0, asio::buffer(&c, 1));
    EXPECT_EQ(read, 1U);
    EXPECT_EQ(c, 'x');
    co_await file.flush();
    co_await file.flush(durability::started);
    co_await file.flush_range(0, 1);
    co_await file.flush_range(0, 1, durability::started);
    co_await file.resize(2 * page());
    co_await file.prefetch();
    co_await file.prefetch(0, 1);
    const mapio::region r = co_await file.view(0, 1);
    EXPECT_EQ(r.text(), "x");
    co_await file.close();
  });
}

TEST_F(mapped_file_token, default_one_of_the_executor_wins) {
  using file_type = asio::use_awaitable_t<>::as_default_on_t<mapped_file>;
  static_assert(
      std::is_same_v<decltype(std::declval<file_type&>().flush()), asio::awaitable<void>>);
  static_assert(std::is_same_v<decltype(std::declval<file_type&>().view(0, 0)),
                               asio::awaitable<mapio::region>>);
  file_type file(io_);
  run([&]() -> work {
    co_await file.open(path_, creating(page()));
    co_await file.flush();
  });
  EXPECT_TRUE(file.is_open());
}

TEST_F(mapped_file_token, deferred_starts_nothing_before_it_is_launched) {
  mapped_file file = opened_with(pattern(page()));
  auto flush = file.flush(deferred);
  auto grow = file.resize(2 * page(), deferred);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(file.stats().flush_calls, 0U);
  EXPECT_EQ(file.size(), page());
  outcome flushed;
  outcome grown;
  std::move(flush)(flushed.handler());
  std::move(grow)(grown.handler());
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(flushed.ok() && grown.ok());
  EXPECT_EQ(file.size(), 2 * page());
}

TEST_F(mapped_file_token, deferred_keeps_its_arguments) {
  mapped_file file = created(page());
  auto update = [&] {
    const std::vector<asio::const_buffer> buffers{asio::buffer("hello", 5),
                                                  asio::buffer(" world", 6)};
    return file.update_region(0, buffers, deferred);
  }();
  mapped_file other(io_);
  auto open = [&] {
    const fs::path temporary = path_;
    const open_options options = read_write();
    return other.open(temporary, options, deferred);
  }();
  outcome o;
  outcome p;
  std::move(update)(o.handler());
  std::move(open)(p.handler());
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(o.ok() && p.ok());
  EXPECT_EQ(o.bytes, 11U);
  EXPECT_EQ(to_string(file.map().view(0, 11)), "hello world");
}

TEST_F(mapped_file_token, callback) {
  mapped_file file = opened_with("hello");
  outcome read;
  outcome view;
  outcome bad;
  std::string text(5, '\0');
  file.read_into(0, asio::buffer(text), read.handler());
  file.view(1, 3, view.handler());
  file.view(0, 6, bad.handler());
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(read.ok() && view.ok());
  EXPECT_EQ(read.bytes, 5U);
  EXPECT_EQ(text, "hello");
  EXPECT_EQ(view.region.text(), "ell");
  EXPECT_EQ(bad.error, errc::out_of_range);
}

TEST_F(mapped_file_token, callback_that_is_only_an_lvalue_or_a_function_pointer) {
  mapped_file file = opened_with("hello");
  static int calls = 0;
  const auto handler = [](std::error_code ec) { calls += ec ? 0 : 1; };
  file.flush(handler);
  void (*plain)(std::error_code) = +[](std::error_code ec) { calls += ec ? 0 : 1; };
  file.flush(plain);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, 2);
}

TEST_F(mapped_file_token, callback_that_can_only_be_moved) {
  mapped_file file = opened_with("hello");
  int called = 0;
  auto token = std::make_unique<int>(7);
  file.flush([&called, t = std::move(token)](std::error_code) { called += *t; });
  auto buffer = std::make_unique<std::string>(5, '\0');
  auto& bytes = *buffer;
  file.read_into(0, asio::buffer(bytes),
                 [&called, b = std::move(buffer)](std::error_code, std::size_t) {
                   called += *b == "hello" ? 1 : 0;
                 });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(called, 8);
}

TEST_F(mapped_file_token, use_future) {
  mapped_file file = opened_with("hello");
  const auto guard = asio::make_work_guard(io_);
  io_.restart();
  std::thread runner([&] { io_.run(); });
  std::string text(5, '\0');
  EXPECT_EQ(file.read_into(0, asio::buffer(text), asio::use_future).get(), 5U);
  EXPECT_EQ(text, "hello");
  EXPECT_EQ(file.view(1, 3, asio::use_future).get().text(), "ell");
  EXPECT_NO_THROW(file.flush(asio::use_future).get());
  auto bad = file.view(0, 6, asio::use_future);
  EXPECT_EQ(code_of([&] { bad.get(); }), errc::out_of_range);
  io_.stop();
  runner.join();
}

TEST_F(mapped_file_token, detached) {
  mapped_file file = created(page());
  file.update_region(0, asio::buffer("detached", 8), asio::detached);
  file.resize(3 * page(), asio::detached);
  file.view(0, 10 * page(), asio::detached);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(to_string(file.map().view(0, 8)), "detached");
  EXPECT_EQ(file.size(), 3 * page());
}

TEST_F(mapped_file_token, as_tuple_of_awaitable) {
  mapped_file file = opened_with("hello");
  run([&]() -> work {
    const auto [ok, r] = co_await file.view(1, 3, as_tuple(asio::use_awaitable));
    EXPECT_FALSE(ok);
    EXPECT_EQ(r.text(), "ell");
    const auto [bad, nothing] = co_await file.view(0, 6, as_tuple(asio::use_awaitable));
    EXPECT_EQ(bad, errc::out_of_range);
    EXPECT_TRUE(nothing.empty());
    const auto [flushed] = co_await file.flush(as_tuple(asio::use_awaitable));
    EXPECT_FALSE(flushed);
    char c = 0;
    const auto [error, n] =
        co_await file.read_into(4, asio::buffer(&c, 1), as_tuple(asio::use_awaitable));
    EXPECT_FALSE(error);
    EXPECT_EQ(n, 1U);
  });
}

TEST_F(mapped_file_token, redirect_error_to_a_callback) {
  mapped_file file = opened_with("hello");
  std::error_code ec;
  bool called = false;
  file.view(0, 6,
            asio::redirect_error(
                [&](const mapio::region& r) {
                  EXPECT_TRUE(r.empty());
                  called = true;
                },
                ec));
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(called);
  EXPECT_EQ(ec, errc::out_of_range);
}

TEST_F(mapped_file_token, awaitable_operators) {
  mapped_file file = opened_with(pattern(4 * page()));
  mapped_file other(io_);
  run([&]() -> work {
    co_await (file.flush(asio::use_awaitable) &&
              other.open(path_, read_write(), asio::use_awaitable));
    EXPECT_TRUE(other.is_open());
    // Whoever loses is cancelled.
    const mapio::region in_the_way = file.map().view(3 * page(), 1);
    asio::steady_timer timer(io_, 1ms);
    const auto winner = co_await (file.resize(page(), asio::use_awaitable) ||
                                  timer.async_wait(asio::use_awaitable));
    EXPECT_EQ(winner.index(), 1U);
    EXPECT_EQ(file.size(), 4 * page());
    timer.expires_after(1h);
    const auto second =
        co_await (file.flush(asio::use_awaitable) || timer.async_wait(asio::use_awaitable));
    EXPECT_EQ(second.index(), 0U);
  });
}

#if defined(MAPIO_TEST_IMMEDIATE_EXECUTOR)
TEST_F(mapped_file_token, immediate_executor_gets_what_is_ready_at_once) {
  mapped_file closed(io_);
  bool called = false;
  closed.flush(asio::bind_immediate_executor(asio::system_executor(), [&](std::error_code ec) {
    EXPECT_EQ(ec, errc::not_open);
    called = true;
  }));
  EXPECT_TRUE(called);
}

TEST_F(mapped_file_token, immediate_executor_gets_nothing_that_had_to_wait) {
  mapped_file file = opened_with(pattern(4 * page()));
  auto in_the_way = std::make_unique<mapio::region>(file.map().view(3 * page(), 1));
  std::thread::id where;
  file.resize(page(), asio::bind_immediate_executor(asio::system_executor(), [&](std::error_code) {
                where = std::this_thread::get_id();
              }));
  settle();
  in_the_way.reset();
  EXPECT_EQ(where, std::thread::id());
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(where, std::this_thread::get_id());
}
#endif

#if defined(MAPIO_TEST_CANCEL_AFTER)
TEST_F(mapped_file_token, cancel_after) {
  mapped_file file = opened_with(pattern(4 * page()));
  const mapio::region in_the_way = file.map().view(3 * page(), 1);
  outcome o;
  file.resize(page(), asio::cancel_after(1ms, o.handler()));
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(o.calls, 1);
  EXPECT_EQ(o.error, aborted);
  EXPECT_EQ(file.size(), 4 * page());
}
#endif

// --- handlers
// ------------------------------------------------------------------------------------------------

TEST_F(mapped_file_handler, is_never_called_inside_the_initiating_call) {
  mapped_file file = created(4 * page());
  verb_memory memory(io_.get_executor(), dir_ / "other");
  int calls = 0;
  for (int round = 0; round < 3; ++round) {
    bool initiating = false;
    // Inside of run() is where it could happen.
    asio::post(io_, [&] {
      initiating = true;
      start_every_verb(file, memory, [&](std::string_view name) {
        return [&, name](std::error_code ec, auto&&...) {
          EXPECT_FALSE(initiating) << name;
          EXPECT_FALSE(ec) << name << ": " << ec.message();
          ++calls;
        };
      });
      initiating = false;
    });
    ASSERT_TRUE(run_to_end(io_));
  }
  EXPECT_EQ(calls, 3 * every_verb);
}

TEST_F(mapped_file_handler, is_not_called_by_anybody_but_run) {
  mapped_file file = created(4 * page());
  verb_memory memory(io_.get_executor(), dir_ / "other");
  std::atomic<int> calls = 0;
  start_every_verb(file, memory, [&](std::string_view) { return [&](auto&&...) { ++calls; }; });
  // Whatever the engine does meanwhile, it is done when a file of its own has been worked on for a
  // while.
  asio::io_context other_io;
  mapped_file other(other_io);
  support::run_coroutine(other_io, [&]() -> work {
    co_await other.open(dir_ / "third", creating(page()));
    for (int i = 0; i < 10; ++i) {
      co_await other.update_region(0, asio::buffer("x", 1));
      co_await other.flush();
    }
  });
  EXPECT_EQ(calls, 0);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, every_verb);
}

TEST_F(mapped_file_handler, may_start_the_next_verb) {
  mapped_file file = created(page());
  int rounds = 0;
  std::function<void(std::error_code)> next = [&](std::error_code ec) {
    EXPECT_FALSE(ec) << ec.message();
    if (++rounds < 500)
      file.resize((1 + static_cast<std::uint64_t>(rounds) % 3) * page(), std::ref(next));
  };
  file.resize(page(), std::ref(next));
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(rounds, 500);
}

TEST_F(mapped_file_handler, may_destroy_every_handle_and_close) {
  auto file = std::make_unique<mapped_file>(created(page()));
  int calls = 0;
  file->flush([&](std::error_code) {
    ++calls;
    file->close(asio::detached);
    file.reset();
  });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, 1);
}

TEST_F(mapped_file_handler, that_throws_takes_no_other_completion_with_it) {
  mapped_file file = created(64 * page());
  int calls = 0;
  int thrown = 0;
  std::array<char, 8> buffer{};
  for (int i = 0; i < 40; ++i) {
    const bool throws = i % 4 == 0;
    const auto handler = [&calls, throws](std::error_code ec, auto&&...) {
      EXPECT_FALSE(ec) << ec.message();
      ++calls;
      if (throws) throw std::runtime_error("from a handler");
    };
    file.read_into(0, asio::buffer(buffer), handler);
    file.update_region(static_cast<std::uint64_t>(i) * page(), asio::buffer("x", 1), handler);
    file.flush(handler);
    file.prefetch(handler);
  }
  io_.restart();
  for (;;) {
    try {
      io_.run_for(support::patience);
      break;
    } catch (const std::runtime_error&) {
      ++thrown;
    }
  }
  EXPECT_TRUE(io_.stopped());
  EXPECT_EQ(calls, 160);
  EXPECT_EQ(thrown, 40);
}

/// Counts what its copies have allocated and not given back.
struct memory_account {
  std::atomic<std::int64_t> live = 0;
  std::atomic<std::int64_t> allocations = 0;
};

template <class T>
struct counting_allocator {
  using value_type = T;

  explicit counting_allocator(memory_account& a) noexcept : account(&a) {}
  template <class U>
  counting_allocator(const counting_allocator<U>& other) noexcept
      : account(other.account) {}  // NOLINT: as the standard's do

  T* allocate(std::size_t n) {
    T* p = std::allocator<T>().allocate(n);
    ++account->live;
    ++account->allocations;
    return p;
  }
  void deallocate(T* p, std::size_t n) noexcept {
    --account->live;
    std::allocator<T>().deallocate(p, n);
  }
  template <class U>
  friend bool operator==(const counting_allocator& a, const counting_allocator<U>& b) noexcept {
    return a.account == b.account;
  }

  memory_account* account;
};

TEST_F(mapped_file_handler, takes_memory_from_its_allocator_and_gives_it_back_before_the_call) {
  mapped_file file = created(4 * page());
  verb_memory memory(io_.get_executor(), dir_ / "other");
  std::map<std::string, memory_account, std::less<>> accounts;
  int calls = 0;
  start_every_verb(file, memory, [&](std::string_view name) {
    memory_account& account = accounts[std::string(name)];
    return asio::bind_allocator(counting_allocator<char>(account),
                                [&, name](std::error_code ec, auto&&...) {
                                  EXPECT_FALSE(ec) << name << ": " << ec.message();
                                  EXPECT_EQ(account.live, 0) << name;
                                  ++calls;
                                });
  });
  for (const auto& [name, account] : accounts)
    EXPECT_GE(account.allocations, 1) << name;
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, every_verb);
  for (const auto& [name, account] : accounts)
    EXPECT_EQ(account.live, 0) << name;
}

TEST_F(mapped_file_handler, gives_its_memory_back_when_it_is_never_called) {
  memory_account account;
  mapio::region in_the_way;
  {
    asio::io_context io;
    mapped_file file(io);
    support::run_coroutine(io, [&]() -> work { co_await file.open(path_, creating(4 * page())); });
    verb_memory memory(io.get_executor(), dir_ / "other");
    const auto counting = [&](std::string_view) {
      return asio::bind_allocator(counting_allocator<char>(account), [](auto&&...) {});
    };
    start_every_verb(file, memory, counting);
    // The rest may have ended and wait in the context's queue, in memory of the executor's. This
    // one cannot end.
    in_the_way = file.map().view(3 * page(), 1);
    file.resize(page(), counting("shrink"));
    EXPECT_GE(account.live, 1);
  }
  EXPECT_EQ(account.live, 0);
}

/// A handler with every association that Asio 1.22 knows.
template <class Function>
struct full_handler {
  using allocator_type = counting_allocator<char>;
  using executor_type = asio::strand<asio::io_context::executor_type>;
  using cancellation_slot_type = asio::cancellation_slot;

  allocator_type get_allocator() const noexcept { return allocator; }
  executor_type get_executor() const noexcept { return executor; }
  cancellation_slot_type get_cancellation_slot() const noexcept { return slot; }

  template <class... Result>
  void operator()(Result&&... result) {
    function(std::forward<Result>(result)...);
  }

  allocator_type allocator;
  executor_type executor;
  cancellation_slot_type slot;
  Function function;
};

TEST_F(mapped_file_handler, may_have_executor_allocator_and_slot_at_once) {
  mapped_file file = opened_with(pattern(4 * page()));
  const mapio::region in_the_way = file.map().view(3 * page(), 1);
  memory_account account;
  asio::cancellation_signal signal;
  const auto strand = asio::make_strand(io_.get_executor());
  int calls = 0;
  auto function = [&](std::error_code ec) {
    EXPECT_EQ(ec, aborted);
    EXPECT_TRUE(strand.running_in_this_thread());
    EXPECT_EQ(account.live, 0);
    ++calls;
  };
  file.resize(page(), full_handler<decltype(function)>{counting_allocator<char>(account), strand,
                                                       signal.slot(), function});
  settle();
  EXPECT_EQ(calls, 0);
  signal.emit(asio::cancellation_type::partial);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, 1);
}

// --- executors
// -------------------------------------------------------------------------------------------------

TEST_F(mapped_file_executor, of_the_handler_is_where_it_runs) {
  mapped_file file = created(4 * page());
  verb_memory memory(io_.get_executor(), dir_ / "other");
  const auto strand = asio::make_strand(io_);
  int calls = 0;  // the strand guards it
  for (int round = 0; round < 10; ++round) {
    start_every_verb(file, memory, [&](std::string_view name) {
      return asio::bind_executor(strand, [&, name](std::error_code ec, auto&&...) {
        EXPECT_TRUE(strand.running_in_this_thread()) << name;
        EXPECT_FALSE(ec) << name << ": " << ec.message();
        ++calls;
      });
    });
    io_.restart();
    std::vector<std::thread> runners;
    for (int t = 0; t < 3; ++t)
      runners.emplace_back([&] { io_.run_for(support::patience); });
    for (auto& t : runners)
      t.join();
  }
  EXPECT_EQ(calls, 10 * every_verb);
}

TEST_F(mapped_file_executor, of_the_file_is_where_handlers_without_their_own_run) {
  const auto strand = asio::make_strand(io_);
  mapped_file file(strand);
  EXPECT_TRUE(file.get_executor() == asio::any_io_executor(strand));
  int calls = 0;
  file.open(path_, creating(page()), [&](std::error_code ec) {
    EXPECT_FALSE(ec);
    EXPECT_TRUE(strand.running_in_this_thread());
    ++calls;
    file.update_region(0, asio::buffer("x", 1), [&](std::error_code error, std::size_t) {
      EXPECT_FALSE(error);
      EXPECT_TRUE(strand.running_in_this_thread());
      ++calls;
    });
    file.view(0, 2 * page(), [&](std::error_code error, const mapio::region&) {
      EXPECT_EQ(error, errc::out_of_range);
      EXPECT_TRUE(strand.running_in_this_thread());
      ++calls;
    });
  });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, 3);
}

TEST_F(mapped_file_executor, of_a_handler_may_belong_to_another_context_that_it_keeps_running) {
  mapped_file file = opened_with(pattern(4 * page()));
  auto in_the_way = std::make_unique<mapio::region>(file.map().view(3 * page(), 1));
  asio::io_context other;
  std::thread::id where;
  file.resize(page(), asio::bind_executor(other, [&](std::error_code ec) {
                EXPECT_FALSE(ec) << ec.message();
                where = std::this_thread::get_id();
              }));
  settle();
  other.poll();
  EXPECT_FALSE(other.stopped()) << "work is outstanding there";
  std::thread runner([&] {
    in_the_way.reset();
    run_to_end(io_);
  });
  other.restart();
  other.run_for(support::patience);
  runner.join();
  EXPECT_EQ(where, std::this_thread::get_id());
  EXPECT_TRUE(other.stopped());
}

TEST_F(mapped_file_executor, of_a_type_of_its_own) {
  mapio::basic_mapped_file<asio::io_context::executor_type> file(io_);
  std::error_code opened_error = errc::pinned;
  std::size_t read = 0;
  write_file(path_, "hello");
  std::string text(5, '\0');
  file.open(path_, [&](std::error_code ec) {
    opened_error = ec;
    file.read_into(0, asio::buffer(text), [&](std::error_code, std::size_t n) { read = n; });
  });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_FALSE(opened_error);
  EXPECT_EQ(read, 5U);
  EXPECT_EQ(text, "hello");
}

TEST_F(mapped_file_executor, of_a_type_of_its_own_can_be_awaited) {
  using executor = asio::io_context::executor_type;
  write_file(path_, "hello");
  std::string text;
  asio::co_spawn(
      io_,
      [](asio::io_context& io, fs::path path, std::string& out) -> asio::awaitable<void, executor> {
        mapio::basic_mapped_file<executor> file(io);
        co_await file.open(path);
        const mapio::region r = co_await file.view(0, 5);
        out = r.text();
      }(io_, path_, text),
      asio::detached);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(text, "hello");
}

TEST_F(mapped_file_executor, of_a_context_for_one_thread) {
  asio::io_context io(1);
  mapped_file file(io);
  support::run_coroutine(io, [&]() -> work {
    co_await file.open(path_, creating(page()));
    for (int i = 0; i < 20; ++i) {
      co_await file.update_region(0, asio::buffer("x", 1));
      co_await file.flush();
      const mapio::region r = co_await file.view(0, page());
    }
    co_await file.close();
  });
}

TEST_F(mapped_file_executor, of_a_thread_pool) {
  asio::thread_pool pool(2);
  mapped_file file(pool);
  write_file(path_, pattern(16 * page()));
  file.open(path_, read_write(), asio::use_future).get();
  std::vector<std::future<std::size_t>> updates;
  std::vector<std::string> bytes;
  for (std::size_t i = 0; i < 64; ++i)
    bytes.push_back(pattern(100, i));
  for (std::size_t i = 0; i < 64; ++i)
    updates.push_back(file.update_region(i * 100, asio::buffer(bytes[i]), asio::use_future));
  for (auto& u : updates)
    EXPECT_EQ(u.get(), 100U);
  file.flush(asio::use_future).get();
  EXPECT_EQ(file.view(0, 16 * page(), asio::use_future).get().size(), 16 * page());
  auto in_the_way = std::make_unique<mapio::region>(file.map().view(15 * page(), 1));
  auto shrink = file.resize(8 * page(), asio::use_future);
  in_the_way.reset();
  shrink.get();
  EXPECT_EQ(file.size(), 8 * page());
  for (std::size_t i = 0; i < 64; ++i)
    EXPECT_TRUE(same(to_string(file.map().view(i * 100, 100)), bytes[i]));
  file.close(asio::use_future).get();
  pool.join();
}

TEST_F(mapped_file_executor, of_a_thread_pool_that_goes_away_with_verbs_under_way) {
  for (int round = 0; round < 10; ++round) {
    asio::thread_pool pool(2);
    mapped_file file(pool);
    file.open(path_, creating(4 * page()), asio::use_future).get();
    verb_memory memory(pool.get_executor(), dir_ / "other");
    start_every_verb(file, memory, [](std::string_view) { return [](auto&&...) {}; });
    pool.stop();
    pool.join();
  }
}

TEST_F(mapped_file_executor, of_several_contexts_may_share_one_mapping) {
  constexpr std::size_t contexts = 3;
  mapping m = mapping::create(path_, contexts * 64 * 100);
  std::vector<std::thread> threads;
  for (std::size_t c = 0; c < contexts; ++c)
    threads.emplace_back([&, c] {
      asio::io_context io;
      mapped_file file(io.get_executor(), m);
      support::run_coroutine(io, [&]() -> work {
        for (std::size_t i = 0; i < 64; ++i) {
          const std::string bytes = pattern(100, c * 64 + i);
          co_await file.update_region((c * 64 + i) * 100, asio::buffer(bytes));
          if (i % 8 == 0) co_await file.flush();
          if (i % 8 == 4) co_await file.flush_range((c * 64 + i) * 100, 100);
          std::string back(100, '\0');
          co_await file.read_into((c * 64 + i) * 100, asio::buffer(back));
          EXPECT_TRUE(same(back, bytes));
        }
      });
    });
  for (auto& t : threads)
    t.join();
  for (std::size_t i = 0; i < contexts * 64; ++i)
    EXPECT_TRUE(same(to_string(m.view(i * 100, 100)), pattern(100, i))) << i;
  m.flush();
  EXPECT_EQ(m.pending_bytes(), 0U);
}

TEST_F(mapped_file_executor, of_one_context_serves_waits_that_another_one_ends) {
  mapping m = mapping::create(path_, 4 * page());
  asio::io_context first;
  asio::io_context second;
  mapped_file a(first.get_executor(), m);
  mapped_file b(second.get_executor(), m);
  outcome shrink;
  outcome grow;
  mapio::region in_the_way = m.view(3 * page(), 1);
  a.resize(page(), shrink.handler());
  b.resize(8 * page(), grow.handler());
  first.poll();
  second.poll();
  EXPECT_EQ(shrink.calls + grow.calls, 0);
  in_the_way = mapio::region();
  std::thread runner([&] { run_to_end(first); });
  run_to_end(second);
  runner.join();
  EXPECT_TRUE(shrink.ok() && grow.ok());
  EXPECT_EQ(m.size(), 8 * page());
}

// --- cancellation
// ----------------------------------------------------------------------------------------------

/// A file with a region that keeps it from shrinking: a verb that waits for as long as a test
/// likes.
class mapped_file_cancel : public mapped_file_test {
 protected:
  mapped_file_cancel()
      : file_(opened_with(bytes_)), in_the_way_(file_.map().view(3 * page(), page())) {}

  /// Starts a verb that cannot complete by itself.
  template <class Handler>
  void start_waiting(Handler&& handler) {
    file_.resize(page(), std::forward<Handler>(handler));
  }
  void expect_untouched() {
    EXPECT_EQ(file_.size(), 4 * page());
    EXPECT_TRUE(same(read_file(path_), bytes_));
  }

  const std::string bytes_ = pattern(4 * page());
  mapped_file file_;
  mapio::region in_the_way_;
};

TEST_F(mapped_file_cancel, by_the_slot_ends_a_verb_that_waits) {
  for (const auto type : {asio::cancellation_type::terminal, asio::cancellation_type::partial,
                          asio::cancellation_type::total, asio::cancellation_type::all}) {
    asio::cancellation_signal signal;
    outcome o;
    start_waiting(asio::bind_cancellation_slot(signal.slot(), o.handler()));
    settle();
    EXPECT_EQ(o.calls, 0);
    signal.emit(type);
    EXPECT_EQ(o.calls, 0) << "never inside of emit";
    ASSERT_TRUE(run_to_end(io_));
    EXPECT_EQ(o.calls, 1);
    EXPECT_EQ(o.error, aborted);
    expect_untouched();
  }
}

TEST_F(mapped_file_cancel, by_the_slot_works_right_after_the_initiation) {
  for (const auto type : {asio::cancellation_type::terminal, asio::cancellation_type::total}) {
    asio::cancellation_signal signal;
    outcome o;
    start_waiting(asio::bind_cancellation_slot(signal.slot(), o.handler()));
    signal.emit(type);
    ASSERT_TRUE(run_to_end(io_));
    EXPECT_EQ(o.error, aborted);
    expect_untouched();
  }
}

TEST_F(mapped_file_cancel, of_type_none_does_nothing) {
  asio::cancellation_signal signal;
  outcome o;
  start_waiting(asio::bind_cancellation_slot(signal.slot(), o.handler()));
  signal.emit(asio::cancellation_type::none);
  settle();
  EXPECT_EQ(o.calls, 0);
  in_the_way_ = mapio::region();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(o.ok());
}

TEST_F(mapped_file_cancel, can_be_asked_for_twice_and_after_completion) {
  asio::cancellation_signal signal;
  outcome o;
  start_waiting(asio::bind_cancellation_slot(signal.slot(), o.handler()));
  settle();
  signal.emit(asio::cancellation_type::total);
  signal.emit(asio::cancellation_type::terminal);
  file_.cancel();
  file_.cancel();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(o.calls, 1);
  EXPECT_EQ(o.error, aborted);
  signal.emit(asio::cancellation_type::terminal);
  file_.cancel();
  EXPECT_EQ(o.calls, 1);
  outcome next;
  file_.flush(asio::bind_cancellation_slot(signal.slot(), next.handler()));
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(next.ok()) << "an old request does not hit a new verb";
}

TEST_F(mapped_file_cancel, by_cancel_ends_the_verbs_of_every_copy) {
  mapped_file copy = file_;
  outcome a;
  outcome b;
  file_.resize(page(), a.handler());
  copy.resize(2 * page(), b.handler());
  settle();
  mapped_file(copy).cancel();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(a.error, aborted);
  EXPECT_EQ(b.error, aborted);
  expect_untouched();
}

TEST_F(mapped_file_cancel, by_cancel_leaves_other_handles_alone) {
  mapped_file other(io_.get_executor(), file_.map());
  outcome mine;
  outcome others;
  file_.resize(page(), mine.handler());
  other.resize(2 * page(), others.handler());
  settle();
  file_.cancel();
  finish(mine);
  EXPECT_EQ(mine.error, aborted);
  settle();
  EXPECT_EQ(others.calls, 0);
  in_the_way_ = mapio::region();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(others.ok());
}

TEST_F(mapped_file_cancel, may_come_from_another_thread) {
  for (int round = 0; round < 50; ++round) {
    outcome o;
    start_waiting(o.handler());
    std::thread canceller([copy = file_]() mutable { copy.cancel(); });
    finish(o);
    canceller.join();
    EXPECT_EQ(o.error, aborted);
  }
  expect_untouched();
}

TEST_F(mapped_file_cancel, by_close_ends_what_waits_and_not_the_regions) {
  outcome o;
  outcome close;
  start_waiting(o.handler());
  settle();
  file_.close(close.handler());
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(o.calls, 1);
  EXPECT_EQ(o.error, aborted);
  EXPECT_TRUE(close.ok());
  EXPECT_FALSE(file_.is_open());
  EXPECT_TRUE(same(in_the_way_.text(), bytes_.substr(3 * page())));
  EXPECT_TRUE(same(read_file(path_), bytes_));
}

TEST_F(mapped_file_cancel, by_closing_the_mapping_ends_what_waits) {
  outcome o;
  start_waiting(o.handler());
  settle();
  file_.map().close();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(o.calls, 1);
  EXPECT_TRUE(o.error);
  EXPECT_TRUE(same(in_the_way_.text(), bytes_.substr(3 * page())));
}

TEST_F(mapped_file_cancel, of_the_coroutine_reaches_the_verb) {
  asio::cancellation_signal signal;
  std::error_code seen;
  asio::co_spawn(
      io_,
      [](mapped_file file, std::error_code& ec) -> work {
        co_await file.resize(page(), into(ec));
      }(file_, seen),
      asio::bind_cancellation_slot(signal.slot(), [](std::exception_ptr) {}));
  settle();
  signal.emit(asio::cancellation_type::terminal);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(seen, aborted);
  expect_untouched();
}

TEST_F(mapped_file_cancel, completes_every_verb_exactly_once_whatever_it_was_doing) {
  in_the_way_ = mapio::region();
  verb_memory memory(io_.get_executor(), dir_ / "other");
  for (int round = 0; round < 30; ++round) {
    std::list<asio::cancellation_signal> signals;
    std::map<std::string, int, std::less<>> calls;
    start_every_verb(file_, memory, [&](std::string_view name) {
      int& mine = calls[std::string(name)];
      return asio::bind_cancellation_slot(
          signals.emplace_back().slot(), [&mine, name](std::error_code ec, auto&&...) {
            ++mine;
            EXPECT_TRUE(!ec || ec == aborted) << name << ": " << ec.message();
          });
    });
    io_.restart();
    for (int i = 0; i < round % 5; ++i)
      io_.poll_one();
    for (auto& signal : signals)
      signal.emit(round % 2 == 0 ? asio::cancellation_type::terminal
                                 : asio::cancellation_type::total);
    const bool ended = run_to_end(io_);
    EXPECT_EQ(calls.size(), static_cast<std::size_t>(every_verb));
    for (const auto& [name, count] : calls)
      EXPECT_EQ(count, 1) << name << " in round " << round;
    ASSERT_TRUE(ended);
  }
}

TEST_F(mapped_file_cancel, completes_single_verbs_exactly_once_too) {
  in_the_way_ = mapio::region();
  for (const auto type : {asio::cancellation_type::terminal, asio::cancellation_type::partial,
                          asio::cancellation_type::total})
    for (int turns = 0; turns < 4; ++turns)
      for (int verb = 0; verb < 5; ++verb) {
        SCOPED_TRACE("verb " + std::to_string(verb) + " after " + std::to_string(turns));
        asio::cancellation_signal signal;
        outcome o;
        const auto start = [&](auto token) {
          switch (verb) {
          case 0:
            file_.resize(file_.size() + page(), token);
            break;
          case 1:
            file_.resize(file_.size() - page() / 2, token);
            break;
          case 2:
            file_.flush(token);
            break;
          case 3:
            file_.prefetch(token);
            break;
          default:
            file_.flush_range(0, page(), token);
            break;
          }
        };
        start(asio::bind_cancellation_slot(signal.slot(), o.handler()));
        io_.restart();
        for (int i = 0; i < turns; ++i)
          io_.poll_one();
        signal.emit(type);
        ASSERT_TRUE(run_to_end(io_));
        EXPECT_EQ(o.calls, 1);
        EXPECT_TRUE(!o.error || o.error == aborted) << o.error.message();
      }
}

TEST_F(mapped_file_cancel, of_an_update_reports_what_was_done) {
  in_the_way_ = mapio::region();
  for (const auto path : {write_path::file, write_path::mapped, write_path::automatic}) {
    open_options options = creating(64 * page());
    options.writes = path;
    mapped_file file(io_);
    run([&]() -> work { co_await file.open(dir_ / "updates", options); });
    const std::string bytes = pattern(64 * page());
    for (int round = 0; round < 20; ++round) {
      run([&]() -> work {
        const std::string zeros(64 * page(), '\0');
        co_await file.update_region(0, asio::buffer(zeros));
      });
      asio::cancellation_signal signal;
      outcome o;
      file.update_region(0, asio::buffer(bytes),
                         asio::bind_cancellation_slot(signal.slot(), o.handler()));
      io_.restart();
      if (round % 2 == 1) io_.poll_one();
      signal.emit(asio::cancellation_type::partial);
      ASSERT_TRUE(run_to_end(io_));
      EXPECT_EQ(o.calls, 1);
      EXPECT_TRUE(!o.error || o.error == aborted) << o.error.message();
      if (!o.error) {
        EXPECT_EQ(o.bytes, bytes.size());
      }
      const std::string now = read_all(file.map());
      EXPECT_TRUE(now.compare(0, o.bytes, bytes, 0, o.bytes) == 0);
      if (o.bytes == 0) {
        EXPECT_TRUE(same(now, std::string(64 * page(), '\0'))) << "nothing was done, it said";
      }
    }
  }
}

// --- lifetime
// ---------------------------------------------------------------------------------------------------

/// Knows what became of its handlers.
struct census {
  std::atomic<int> live = 0;
  std::atomic<int> called = 0;
  std::atomic<int> made = 0;
  std::atomic<int> dropped = 0;  // destroyed without having been called or moved from
};

/// A handler that can only be moved and tells the census about itself.
class counted_handler {
 public:
  explicit counted_handler(census& c) : census_(&c) {
    ++census_->live;
    ++census_->made;
  }
  counted_handler(counted_handler&& other) noexcept
      : census_(other.census_), armed_(std::exchange(other.armed_, false)) {
    ++census_->live;
  }
  counted_handler& operator=(counted_handler&&) = delete;
  ~counted_handler() {
    --census_->live;
    if (armed_) ++census_->dropped;
  }

  template <class... Result>
  void operator()(Result&&...) {
    EXPECT_TRUE(armed_);
    armed_ = false;
    ++census_->called;
  }

 private:
  census* census_;
  bool armed_ = true;
};

TEST_F(mapped_file_lifetime, of_a_context_may_end_with_every_verb_under_way) {
  for (int turns = 0; turns < 12; ++turns) {
    census c;
    {
      asio::io_context io;
      mapped_file file(io);
      mapped_file waiting(io);
      mapio::region in_the_way;
      support::run_coroutine(io, [&]() -> work {
        co_await file.open(path_, creating(64 * page()));
        co_await waiting.open(dir_ / "waiting", creating(4 * page()));
      });
      in_the_way = waiting.map().view(3 * page(), 1);
      verb_memory memory(io.get_executor(), dir_ / "other");
      waiting.resize(page(), counted_handler(c));
      waiting.resize(2 * page(), counted_handler(c));
      for (int i = 0; i < 3; ++i)
        start_every_verb(file, memory, [&](std::string_view) { return counted_handler(c); });
      file.close(counted_handler(c));
      io.restart();
      for (int i = 0; i < turns; ++i)
        io.poll_one();
    }
    EXPECT_EQ(c.made, 3 * every_verb + 3);
    EXPECT_EQ(c.live, 0);
    EXPECT_EQ(c.called + c.dropped, c.made) << "each is called or destroyed, once";
  }
}

TEST_F(mapped_file_lifetime, of_a_context_may_end_while_the_kernel_reads) {
  write_file(path_, pattern(16 << 20));
  for (int round = 0; round < 5; ++round) {
    support::evict(path_);
    census c;
    std::vector<std::string> buffers(32, std::string(512 << 10, '\0'));
    {
      asio::io_context io;
      mapped_file file(io);
      support::run_coroutine(io, [&]() -> work { co_await file.open(path_); });
      for (std::size_t i = 0; i < buffers.size(); ++i)
        file.read_into(i * (512 << 10), asio::buffer(buffers[i]), counted_handler(c));
      file.prefetch(counted_handler(c));
      file.view(8 << 20, 4 << 20, counted_handler(c));
      io.restart();
      for (int i = 0; i < round; ++i)
        io.poll();
    }
    // Nobody writes into a buffer any more: freeing and reusing it is what the sanitizers look at.
    buffers.assign(32, std::string(512 << 10, '#'));
    for (const std::string& b : buffers)
      EXPECT_EQ(b.find_first_not_of('#'), std::string::npos);
    EXPECT_EQ(c.live, 0);
    EXPECT_EQ(c.called + c.dropped, c.made);
  }
}

TEST_F(mapped_file_lifetime, of_a_context_may_end_while_a_sync_runs) {
  for (int round = 0; round < 5; ++round) {
    census c;
    asio::io_context io;
    auto file = std::make_unique<mapped_file>(io);
    support::run_coroutine(io, [&]() -> work { co_await file->open(path_, creating(4 << 20)); });
    file->map().update_region(0, asio::buffer(pattern(4 << 20)));
    for (int i = 0; i < 3; ++i) {
      file->flush(counted_handler(c));
      file->map().update_region(0, asio::buffer("x", 1));
      file->flush_range(0, 1, counted_handler(c));
    }
    io.restart();
    for (int i = 0; i < round; ++i)
      io.poll();
    file.reset();
  }
}

TEST_F(mapped_file_lifetime, of_a_handler_may_be_that_of_the_last_handle) {
  for (int turns = 0; turns < 4; ++turns) {
    asio::io_context io;
    auto file = std::make_shared<mapped_file>(io);
    support::run_coroutine(io, [&]() -> work { co_await file->open(path_, creating(4 * page())); });
    auto in_the_way = std::make_shared<mapio::region>(file->map().view(3 * page(), 1));
    // It owns the region that it waits for: only the end of the context can end this.
    file->resize(page(), [file, in_the_way](std::error_code) {});
    file->flush([file, in_the_way](std::error_code) {});
    file.reset();
    in_the_way.reset();
    for (int i = 0; i < turns; ++i)
      io.poll();
  }
  EXPECT_FALSE(support::is_mapped(path_));
}

TEST_F(mapped_file_lifetime, of_a_coroutine_ends_with_its_context) {
  const auto sentinel = std::make_shared<int>(0);
  {
    asio::io_context io;
    asio::co_spawn(
        io,
        [](asio::io_context& context, fs::path path, std::shared_ptr<int> keep) -> work {
          mapped_file file(context);
          co_await file.open(path, creating(4 * page()));
          const mapio::region in_the_way = file.map().view(3 * page(), 1);
          co_await file.resize(page());
          ADD_FAILURE() << "nobody dropped the region";
          *keep = 1;
        }(io, path_, sentinel),
        asio::detached);
    EXPECT_TRUE(run_until(io, [&] { return fs::exists(path_) && support::is_mapped(path_); }));
    while (io.poll() > 0) {
    }
  }
  EXPECT_EQ(sentinel.use_count(), 1);
  EXPECT_FALSE(support::is_mapped(path_));
}

TEST_F(mapped_file_lifetime, of_handles_may_end_before_their_verbs) {
  verb_memory memory(io_.get_executor(), dir_ / "other");
  int calls = 0;
  {
    mapped_file file = created(4 * page());
    start_every_verb(file, memory, [&](std::string_view name) {
      return [&, name](std::error_code ec, auto&&...) {
        EXPECT_FALSE(ec) << name << ": " << ec.message();
        ++calls;
      };
    });
  }
  EXPECT_EQ(calls, 0);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, every_verb);
  EXPECT_TRUE(same(read_file(path_).substr(0, 64), memory.out));
  EXPECT_TRUE(eventually([&] { return !support::is_mapped(path_); }));
}

TEST_F(mapped_file_lifetime, of_regions_and_mappings_may_be_longer_than_that_of_the_context) {
  const std::string bytes = pattern(4 * page());
  write_file(path_, bytes);
  mapping m;
  mapio::region r;
  {
    asio::io_context io;
    mapped_file file(io);
    support::run_coroutine(io, [&]() -> work {
      co_await file.open(path_, read_write());
      r = co_await file.view(page(), page());
    });
    m = file.map();
  }
  EXPECT_TRUE(same(r.text(), bytes.substr(page(), page())));
  EXPECT_TRUE(m.is_open());
  m.update_region(0, asio::buffer("x", 1));
  m.flush();
  m.close();
  EXPECT_TRUE(same(r.text(), bytes.substr(page(), page())));
  r = mapio::region();
  EXPECT_FALSE(support::is_mapped(path_));
}

TEST_F(mapped_file_lifetime, leaves_no_descriptor_behind) {
  std::optional<std::set<int>> before;
  for (int round = 0; round < 3; ++round) {
    {
      asio::io_context io;
      mapped_file file(io);
      verb_memory memory(io.get_executor(), dir_ / "other");
      support::run_coroutine(io,
                             [&]() -> work { co_await file.open(path_, creating(4 * page())); });
      start_every_verb(file, memory, [&](std::string_view) { return [](auto&&...) {}; });
      if (round == 1) run_to_end(io);
    }
    if (!before) before = support::open_descriptors();
    EXPECT_EQ(support::open_descriptors(), *before);
    EXPECT_FALSE(support::is_mapped(path_));
  }
}

TEST_F(mapped_file_lifetime, of_an_idle_file_keeps_no_context_running) {
  mapped_file file = created(4 * page());
  run([&]() -> work {
    co_await file.update_region(0, asio::buffer("x", 1));
    co_await file.flush();
    co_await file.prefetch();
  });
  const mapio::region r = file.map().view(0, page());
  ASSERT_TRUE(run_to_end(io_)) << "run() does not return";
  io_.restart();
  EXPECT_EQ(io_.poll(), 0U);
  EXPECT_TRUE(io_.stopped());
  // And it can be taken up again.
  run([&]() -> work { co_await file.update_region(0, asio::buffer("y", 1)); });
  ASSERT_TRUE(run_to_end(io_));
}

TEST_F(mapped_file_lifetime, of_a_context_may_be_stopped_and_restarted) {
  mapped_file file = created(64 * page());
  int calls = 0;
  constexpr std::size_t rounds = 20;
  // One for each: reads that are under way at once write at once.
  std::vector<std::string> buffers(rounds, std::string(64 * page(), '\0'));
  for (std::size_t round = 0; round < rounds; ++round) {
    file.read_into(0, asio::buffer(buffers[round]), [&](std::error_code ec, std::size_t) {
      EXPECT_FALSE(ec);
      ++calls;
      io_.stop();
    });
    file.update_region(0, asio::buffer("x", 1), [&](std::error_code ec, std::size_t) {
      EXPECT_FALSE(ec);
      ++calls;
      io_.stop();
    });
    file.flush([&](std::error_code ec) {
      EXPECT_FALSE(ec);
      ++calls;
      io_.stop();
    });
  }
  EXPECT_TRUE(eventually([&] {
    io_.restart();
    io_.run_for(1s);
    return calls == 60;
  }));
}

// --- threads
// ------------------------------------------------------------------------------------------------------

/// Works on a slot of its own: what it wrote is what it reads, whatever others do.
asio::awaitable<void> hammer(mapped_file file, std::uint64_t slot, int rounds) {
  const std::uint64_t at = slot * 200;
  for (int i = 0; i < rounds; ++i) {
    const std::string bytes = pattern(200, slot * 1000 + static_cast<std::uint64_t>(i));
    const std::size_t n = co_await file.update_region(at, asio::buffer(bytes), asio::use_awaitable);
    EXPECT_EQ(n, bytes.size());
    if (i % 4 == 0) co_await file.flush_range(at, bytes.size(), asio::use_awaitable);
    if (i % 16 == 7) co_await file.flush(asio::use_awaitable);
    std::string back(200, '\0');
    co_await file.read_into(at, asio::buffer(back), asio::use_awaitable);
    EXPECT_TRUE(same(back, bytes));
    const mapio::region r = co_await file.view(at, bytes.size(), asio::use_awaitable);
    EXPECT_TRUE(same(r.text(), bytes));
  }
}

TEST_F(mapped_file_threads, may_all_run_one_context) {
  constexpr std::uint64_t slots = 32;
  mapped_file file = created(slots * 200);
  std::atomic<int> done = 0;
  for (std::uint64_t s = 0; s < slots; ++s)
    asio::co_spawn(io_, hammer(file, s, 32), [&](std::exception_ptr e) {
      EXPECT_FALSE(e);
      ++done;
    });
  io_.restart();
  std::vector<std::thread> runners;
  for (int t = 0; t < 4; ++t)
    runners.emplace_back([&] { io_.run_for(2 * support::patience); });
  for (auto& t : runners)
    t.join();
  EXPECT_EQ(done, static_cast<int>(slots));
  for (std::uint64_t s = 0; s < slots; ++s)
    EXPECT_TRUE(same(to_string(file.map().view(s * 200, 200)), pattern(200, s * 1000 + 31)));
}

TEST_F(mapped_file_threads, may_initiate_from_outside_of_run) {
  mapped_file file = created(16 * page());
  std::atomic<int> done = 0;
  auto guard = std::make_optional(asio::make_work_guard(io_));
  io_.restart();
  std::thread runner([&] { io_.run(); });
  std::vector<std::thread> starters;
  for (std::uint64_t t = 0; t < 3; ++t)
    starters.emplace_back([&, t, mine = file]() mutable {
      for (std::uint64_t i = 0; i < 200; ++i) {
        mine.update_region(t * 1000 + i, asio::buffer("x", 1),
                           [&](std::error_code ec, std::size_t) {
                             EXPECT_FALSE(ec) << ec.message();
                             ++done;
                           });
        if (i % 50 == 0) {
          mine.flush([&](std::error_code ec) {
            EXPECT_FALSE(ec) << ec.message();
            ++done;
          });
        }
      }
    });
  for (auto& t : starters)
    t.join();
  EXPECT_TRUE(eventually([&] { return done == 3 * 204; }));
  guard.reset();
  runner.join();
}

TEST_F(mapped_file_threads, may_open_close_and_cancel_while_others_work) {
  mapped_file file(io_);
  write_file(path_, pattern(4 * page()));
  std::atomic<int> left = 300;
  std::function<void(int)> work_on = [&](int kind) {
    const auto next = [&, kind](std::error_code, auto&&...) {
      if (--left > 0) work_on(kind);
    };
    switch (kind) {
    case 0:
      file.open(path_, read_write(), next);
      break;
    case 1:
      file.close(next);
      break;
    case 2:
      file.update_region(0, asio::buffer("x", 1), next);
      break;
    case 3:
      file.flush(next);
      break;
    case 4:
      file.view(0, page(), next);
      break;
    default:
      file.resize(4 * page(), next);
      break;
    }
    if (kind == 3) file.cancel();
  };
  for (int kind = 0; kind < 6; ++kind)
    work_on(kind);
  io_.restart();
  std::vector<std::thread> runners;
  for (int t = 0; t < 4; ++t)
    runners.emplace_back([&] { io_.run_for(support::patience); });
  for (auto& t : runners)
    t.join();
  EXPECT_TRUE(io_.stopped());
  EXPECT_LE(left, 0);
}

TEST_F(mapped_file_threads, may_leave_with_verbs_under_way) {
  const std::string bytes = pattern(16 << 20);
  write_file(path_, bytes);
  constexpr std::size_t piece = 64 << 10;
  constexpr std::size_t count = (16 << 20) / piece;
  for (int round = 0; round < 10; ++round) {
    support::evict(path_);
    asio::io_context io;
    mapped_file file(io);
    support::run_coroutine(io, [&]() -> work { co_await file.open(path_, read_write()); });
    std::vector<std::string> buffers(count, std::string(piece, '\0'));
    std::atomic<int> done = 0;
    const auto count_it = [&](std::error_code ec, auto&&...) {
      // In particular: no cancellation that nobody asked for.
      EXPECT_FALSE(ec) << ec.message() << " in round " << round;
      ++done;
    };
    // The first thread starts everything from inside run(), has a few turns of the loop, and ends.
    asio::post(io, [&] {
      for (std::size_t i = 0; i < count; ++i)
        file.read_into(i * piece, asio::buffer(buffers[i]), count_it);
      file.flush(count_it);
      file.prefetch(count_it);
    });
    io.restart();
    std::thread([&] {
      for (int i = 0; i < 1 + round; ++i)
        io.poll_one();
    }).join();
    std::vector<std::thread> others;
    for (int t = 0; t < 3; ++t)
      others.emplace_back([&] { io.run_for(support::patience); });
    for (auto& t : others)
      t.join();
    EXPECT_EQ(done, static_cast<int>(count) + 2);
    EXPECT_TRUE(io.stopped());
    for (std::size_t i = 0; i < count; ++i)
      ASSERT_TRUE(same(buffers[i], bytes.substr(i * piece, piece))) << i;
  }
}

TEST_F(mapped_file_threads, may_leave_one_of_four_while_the_others_go_on) {
  constexpr std::uint64_t slots = 16;
  for (int round = 0; round < 5; ++round) {
    mapped_file file = created(slots * 200);
    std::atomic<int> done = 0;
    for (std::uint64_t s = 0; s < slots; ++s)
      asio::co_spawn(io_, hammer(file, s, 16), [&](std::exception_ptr e) {
        EXPECT_FALSE(e);
        ++done;
      });
    io_.restart();
    std::vector<std::thread> runners;
    for (int t = 0; t < 3; ++t)
      runners.emplace_back([&] { io_.run_for(support::patience); });
    // These come, start something, and go.
    std::vector<std::thread> guests;
    for (int t = 0; t < 4; ++t)
      guests.emplace_back([&, t] {
        for (int i = 0; i < 10 * (t + 1); ++i)
          io_.run_one_for(1s);
      });
    for (auto& t : guests)
      t.join();
    for (auto& t : runners)
      t.join();
    EXPECT_EQ(done, static_cast<int>(slots));
  }
}

TEST_F(mapped_file_threads, may_leave_while_a_verb_waits_for_a_region) {
  mapped_file file = opened_with(pattern(4 * page()));
  mapio::region in_the_way = file.map().view(3 * page(), 1);
  outcome o;
  asio::post(io_, [&] { file.resize(page(), o.handler()); });
  io_.restart();
  std::thread([&] {
    for (int i = 0; i < 5; ++i)
      io_.poll_one();
  }).join();
  EXPECT_EQ(o.calls, 0);
  in_the_way = mapio::region();
  finish(o);
  EXPECT_TRUE(o.ok()) << o.error.message();
}

// --- load
// -----------------------------------------------------------------------------------------------------------

TEST_F(mapped_file_load, of_a_hundred_thousand_verbs_in_a_row_needs_no_stack) {
  const int count = support::under_tsan ? 20'000 : 100'000;
  mapped_file file = opened_with(pattern(page()));
  run([&]() -> work {
    char c = 0;
    for (int i = 0; i < count; ++i)
      co_await file.read_into(0, asio::buffer(&c, 1));
    EXPECT_TRUE(c == pattern(1)[0]);
    std::error_code ec;
    for (int i = 0; i < count; ++i)
      co_await file.view(2 * page(), 1, into(ec));
    EXPECT_EQ(ec, errc::out_of_range);
  });
}

TEST_F(mapped_file_load, of_thousands_of_verbs_at_once_loses_none) {
  // More than any ring or queue of completions has room for.
  constexpr std::size_t count = 5000;
  const std::string bytes = pattern(count * 512);
  write_file(path_, bytes);
  support::evict(path_);
  open_options options = read_write();
  options.writes = write_path::file;
  mapped_file file = opened(options);
  std::vector<std::array<char, 512>> buffers(count);
  std::size_t done = 0;
  const auto count_it = [&](std::error_code ec, auto&&...) {
    EXPECT_FALSE(ec) << ec.message();
    ++done;
  };
  for (std::size_t i = 0; i < count; ++i) {
    if (i % 2 == 0)
      file.read_into(i * 512, asio::buffer(buffers[i]), count_it);
    else
      file.update_region(i * 512, asio::buffer(bytes.data(), 512), count_it);
    if (i % 100 == 0) file.prefetch(i * 512, 512, count_it);
  }
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(done, count + count / 100);
  for (std::size_t i = 0; i < count; i += 2)
    ASSERT_TRUE(same(std::string_view(buffers[i].data(), 512),
                     std::string_view(bytes).substr(i * 512, 512)))
        << i;
  const std::string all = read_file(path_);
  for (std::size_t i = 1; i < count; i += 2)
    ASSERT_TRUE(all.compare(i * 512, 512, bytes, 0, 512) == 0) << i;
}

TEST_F(mapped_file_load, of_many_files_at_once) {
  constexpr std::size_t count = 100;
  std::vector<mapped_file> files;
  for (std::size_t i = 0; i < count; ++i)
    files.emplace_back(io_);
  std::size_t done = 0;
  for (std::size_t i = 0; i < count; ++i)
    asio::co_spawn(
        io_,
        [](mapped_file file, fs::path path, std::uint64_t seed) -> work {
          co_await file.open(path, creating(page()));
          const std::string bytes = pattern(page(), seed);
          co_await file.update_region(0, asio::buffer(bytes));
          co_await file.flush();
          co_await file.close();
        }(files[i], dir_ / ("file" + std::to_string(i)), i),
        [&](std::exception_ptr e) {
          EXPECT_FALSE(e);
          ++done;
        });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(done, count);
  for (std::size_t i = 0; i < count; ++i)
    EXPECT_TRUE(same(read_file(dir_ / ("file" + std::to_string(i))), pattern(page(), i))) << i;
}

// --- what watchers in other programs see
// ------------------------------------------------------------------------------

class modifications {
 public:
  explicit modifications(const fs::path& path) : fd_(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
    EXPECT_GE(::inotify_add_watch(fd_.get(), path.c_str(), IN_MODIFY), 0);
  }
  bool any() {
    alignas(inotify_event) std::array<char, 4096> buffer{};
    return ::read(fd_.get(), buffer.data(), buffer.size()) > 0;
  }

 private:
  support::unique_fd fd_;
};

TEST_F(mapped_file_announce, tells_watchers_of_stores_when_they_are_flushed) {
  open_options options = creating(4 * page());
  options.writes = write_path::mapped;
  mapped_file file = opened(options);
  run([&]() -> work { co_await file.flush(); });
  modifications seen(path_);
  run([&]() -> work { co_await file.update_region(0, asio::buffer("x", 1)); });
  EXPECT_FALSE(seen.any()) << "a store is silent by itself";
  run([&]() -> work { co_await file.flush(); });
  EXPECT_TRUE(eventually([&] { return seen.any(); }));
  run([&]() -> work {
    co_await file.flush();
    co_await file.flush_range(0, page());
    co_await file.close();
  });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_FALSE(seen.any()) << "nothing was stored since";
}

TEST_F(mapped_file_announce, can_be_switched_off) {
  open_options options = creating(4 * page());
  options.writes = write_path::mapped;
  options.announce = false;
  mapped_file file = opened(options);
  run([&]() -> work { co_await file.flush(); });
  modifications seen(path_);
  run([&]() -> work {
    for (int i = 0; i < 5; ++i) {
      co_await file.update_region(0, asio::buffer("x", 1));
      co_await file.flush();
    }
    co_await file.close();
  });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_FALSE(seen.any());
}

TEST_F(mapped_file_announce, tells_nobody_of_private_stores) {
  mapped_file file = opened_with(pattern(page()), copy_on_write());
  modifications seen(path_);
  run([&]() -> work {
    co_await file.update_region(0, asio::buffer("x", 1));
    co_await file.flush();
    co_await file.close();
  });
  EXPECT_FALSE(seen.any());
}

// --- processes and their limits
// ------------------------------------------------------------------------------------------

TEST_F(mapped_file_process, that_forks_goes_on_and_its_child_gets_errors) {
  mapped_file file = opened_with(pattern(4 * page()));
  verb_memory memory(io_.get_executor(), dir_ / "other");
  mapio::region in_the_way = file.map().view(3 * page(), 1);
  outcome waiting;
  file.resize(page(), waiting.handler());  // under way across the fork
  settle();

  io_.notify_fork(asio::io_context::fork_prepare);
  const pid_t child = support::start_child([&] {
    io_.notify_fork(asio::io_context::fork_child);
    int calls = 0;
    const auto make = [&](std::string_view name) {
      return [&calls, name](std::error_code ec, auto&&...) {
        EXPECT_EQ(ec, errc::unsupported) << name << ": " << ec.message();
        ++calls;
      };
    };
    start_every_verb(file, memory, make);
    file.close(make("close"));
    EXPECT_TRUE(run_until(io_, [&] { return calls == every_verb + 1; })) << calls;
  });
  io_.notify_fork(asio::io_context::fork_parent);
  const auto end = support::wait_for_child(child);
  EXPECT_TRUE(end.ok()) << end;

  EXPECT_EQ(waiting.calls, 0);
  in_the_way = mapio::region();
  finish(waiting);
  EXPECT_TRUE(waiting.ok()) << waiting.error.message();
  run([&]() -> work {
    co_await file.update_region(0, asio::buffer("parent", 6));
    co_await file.flush();
    co_await file.resize(2 * page());
  });
  EXPECT_EQ(read_file(path_).substr(0, 6), "parent");
}

TEST_F(mapped_file_process, that_is_a_child_may_use_a_context_of_its_own) {
  mapped_file file = opened_with(pattern(4 * page()));
  run([&]() -> work { co_await file.flush(); });
  if (support::under_tsan)
    GTEST_SKIP() << "ThreadSanitizer allows no threads after a fork with threads";
  const auto end = support::in_child([&] {
    asio::io_context io;
    mapped_file mine(io);
    support::run_coroutine(io, [&]() -> work {
      co_await mine.open(dir_ / "child", creating(page()));
      co_await mine.update_region(0, asio::buffer("child", 5));
      co_await mine.flush();
    });
  });
  EXPECT_TRUE(end.ok()) << end;
  EXPECT_EQ(read_file(dir_ / "child").substr(0, 5), "child");
  run([&]() -> work { co_await file.flush(); });
}

TEST_F(mapped_file_process, without_descriptors_left_gets_errors) {
  mapped_file file = opened_with(pattern(4 * page()));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  outcome existing;
  outcome created_one;
  outcome flush;
  mapped_file a(io_);
  mapped_file b(io_);
  a.open(path_, existing.handler());
  b.open(dir_ / "new", creating(page()), created_one.handler());
  file.map().update_region(0, asio::buffer("x", 1));
  file.flush(flush.handler());
  const bool ended = run_to_end(io_);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(ended);
  EXPECT_EQ(existing.error, std::errc::too_many_files_open) << existing.error.message();
  EXPECT_EQ(created_one.error, std::errc::too_many_files_open) << created_one.error.message();
  EXPECT_TRUE(flush.ok()) << "it needs none: " << flush.error.message();
  EXPECT_FALSE(fs::exists(dir_ / "new"));
  run([&]() -> work { co_await a.open(path_); });
}

TEST_F(mapped_file_process, without_descriptors_left_cannot_start_an_engine_and_says_so) {
  write_file(path_, "x");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  mapped_file file(io_);  // not a use of the engine
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  outcome o;
  const std::error_code thrown = code_of([&] { file.open(path_, o.handler()); });
  const bool ended = run_to_end(io_);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_FALSE(thrown) << "errors come through completion: " << thrown.message();
  EXPECT_TRUE(ended);
  EXPECT_EQ(o.calls, 1);
  EXPECT_EQ(o.error, std::errc::too_many_files_open) << o.error.message();
  outcome again;
  file.open(path_, again.handler());
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(again.ok()) << again.error.message();
}

// Last: the threads of the system context stay until the end of the program.
TEST_F(mapped_file_executor, of_the_system_context) {
  mapio::basic_mapped_file<asio::system_executor> file{asio::system_executor()};
  write_file(path_, "hello");
  file.open(path_, read_write(), asio::use_future).get();
  EXPECT_EQ(file.update_region(0, asio::buffer("J", 1), asio::use_future).get(), 1U);
  file.flush(asio::use_future).get();
  EXPECT_EQ(file.view(0, 5, asio::use_future).get().text(), "Jello");
  file.close(asio::use_future).get();
}

}  // namespace
