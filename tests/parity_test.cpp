// Whoever comes from mmap-io finds everything here: a test for each of its calls, or families of
// calls, that shows what does their work, and what is better about it. Once per engine. More about
// each is in the test programs that are named; docs/coming-from-mmap-io.md has the code side by
// side.
#include <mapio/mapio.hpp>

#include "file_changes.hpp"
#include "mapped_file_fixture.hpp"
#include "parity_fixture.hpp"
#include "smaps.hpp"
#include "socket_pair.hpp"
#include "support.hpp"

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/io_context.hpp>
#include <asio/read.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <ranges>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using mapio::access;
using mapio::errc;
using mapio::flush_policy;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;
using support::code_of;
using support::copy_on_write;
using support::into;
using support::largest;
using support::mebibyte;
using support::outcome;
using support::page;
using support::parity;
using support::pattern;
using support::read_all;
using support::read_file;
using support::read_write;
using support::same;
using support::to_string;
using support::write_file;

// open_ro, open_rw, open_cow, load_mmap
TEST_F(parity, open_ro_rw_cow) {
  write_file(path_, "as it was");
  EXPECT_EQ(code_of([&] { mapping(path_).update_region(0, asio::buffer("A", 1)); }),
            errc::read_only);
  mapping shared(path_, read_write());
  shared.update_region(0, asio::buffer("AS", 2));
  run([&]() -> work {
    mapped_file mine(io_);
    co_await mine.open(path_, copy_on_write());
    co_await mine.update_region(3, asio::buffer("IT", 2));
    EXPECT_EQ(to_string(co_await mine.view(0, 9)), "AS IT was");
  });
  EXPECT_EQ(read_all(shared), "AS it was");
  EXPECT_EQ(read_file(path_), "AS it was");
}

// from_file(file, mode, path), unmap() -> File
TEST_F(parity, from_file_and_unmap) {
  write_file(path_, pattern(page()));
  const auto fd = support::open_native(path_, support::opening::to_read_and_write).release();
  mapping m = mapping::adopt(fd, read_write());
  m.update_region(0, asio::buffer("adopted", 7));
  {
    const mapping copy = m;
    const mapio::region r = m.view(0, 1);
    EXPECT_EQ(code_of([&] { m.release(); }), errc::pinned);
  }
  const support::native_file back(m.release());
  EXPECT_EQ(back.get(), fd);
  EXPECT_FALSE(m.is_open());
  EXPECT_FALSE(support::is_mapped(path_));
  EXPECT_EQ(support::read_at(back.get(), 0, 7), "adopted");
}

// mode(), len(), current_len(), is_empty(), path(), flush_policy(), pending_bytes()
TEST_F(parity, properties) {
  using std::chrono::hours;
  for (const flush_policy& policy :
       {flush_policy::manual(), flush_policy::every_bytes(mebibyte), flush_policy::every_writes(9),
        flush_policy::every(hours(1)), flush_policy::always()}) {
    open_options options = read_write();
    options.policy = policy;
    const mapping m = clean(pattern(3 * page()), options);
    run([&]() -> work {
      mapped_file file(io_.get_executor(), m);
      co_await file.update_region(page() + 1, asio::buffer("x", 1));
      EXPECT_EQ(file.pending_bytes(), policy == flush_policy::always() ? 0 : page());
      EXPECT_EQ(file.mode(), m.mode());
      EXPECT_EQ(file.size(), 3 * page());
      EXPECT_EQ(file.path(), path_);
    });
    EXPECT_EQ(m.mode(), access::read_write);
    EXPECT_EQ(m.size(), 3 * page());
    EXPECT_FALSE(m.empty());
    EXPECT_EQ(m.path(), path_);
    EXPECT_EQ(m.policy(), policy);
  }
}

// ResizeFailed: a size of zero, or too large, or open_rw of an empty file
TEST_F(parity, sizes_of_zero_and_too_large) {
  EXPECT_EQ(code_of([&] { mapping::create(path_, largest); }), std::errc::file_too_large);
  mapping::create(path_, 0);
  run([&]() -> work {
    mapped_file file(io_);
    co_await file.open(path_, read_write());
    EXPECT_TRUE(file.map().empty());
    std::error_code error;
    co_await file.resize(largest, into(error));
    EXPECT_EQ(error, std::errc::file_too_large);
    co_await file.resize(5);
    co_await file.update_region(0, asio::buffer("grown", 5));
    co_await file.close();
  });
  EXPECT_EQ(read_file(path_), "grown");
}

// as_slice(offset, len), as_slice_bytes, MappedSlice
//
// Never dangling under load: region_test, never_dangles_while_another_thread_shrinks_the_file.
TEST_F(parity, as_slice) {
  const std::string bytes = pattern(64 * page());
  mapped_file file = opened_with(bytes);
  const bool cold = support::evict(path_);
  mapio::region awaited;
  run([&]() -> work {
    const std::uint64_t off_loop = file.stats().reads_off_loop;
    awaited = co_await file.view(3, 32 * page());
    EXPECT_TRUE(!support::tells_residency() || file.map().is_resident(3, 32 * page()));
    EXPECT_TRUE(!cold || file.stats().reads_off_loop > off_loop);
  });
  const mapio::region blocking = file.map().view(3, 32 * page());
  EXPECT_EQ(blocking.data(), awaited.data()) << "a copy";
  file.map().close();
  file = mapped_file(io_);
  EXPECT_TRUE(same(awaited.text(), bytes.substr(3, 32 * page()))) << "it dangles";
}

// as_slice_mut(offset, len), MappedSliceMut
TEST_F(parity, as_slice_mut) {
  mapping m = clean(pattern(4 * page()));
  {
    const mapio::mutable_region r = m.mutable_view(page() - 1, 2);
    m.flush();
    std::memcpy(r.data(), "ab", 2);
  }
  EXPECT_EQ(m.pending_bytes(), 2 * page());
  const std::uint64_t syncs = m.stats().syncs;
  m.flush();
  EXPECT_EQ(m.stats().syncs, syncs + 1) << "what was stored since the flush is not counted";
  EXPECT_EQ(read_file(path_).substr(page() - 1, 2), "ab");
}

// read_into(offset, buf)
//
// Under a truncator, and where a device fails: mapping_test, mapping_fault.
TEST_F(parity, read_into) {
  const std::string bytes = pattern(4 * page());
  mapped_file file = opened_with(bytes);
  std::string head(3, '\0');
  std::string rest(2 * page() - 3, '\0');
  const std::array<asio::mutable_buffer, 2> both{asio::buffer(head), asio::buffer(rest)};
  EXPECT_EQ(file.map().read_into(page(), both), 2 * page());
  EXPECT_TRUE(same(head + rest, bytes.substr(page(), 2 * page())));
  run([&]() -> work {
    EXPECT_EQ(co_await file.read_into(0, both), 2 * page());
    EXPECT_TRUE(same(head + rest, bytes.substr(0, 2 * page())));
    support::truncate_file(path_, 2 * page());
    std::error_code error;
    EXPECT_EQ(file.map().read_into(page(), both, error), page());
    EXPECT_EQ(error, errc::page_fault);
    EXPECT_EQ(co_await file.read_into(3 * page(), asio::buffer(head), into(error)), 0U);
    EXPECT_EQ(error, errc::page_fault);
  });
}

// update_region(offset, data), update_region_async
//
// That the loop does not wait for a page: loop_test, slow_file_test, cold_pages_test.
TEST_F(parity, update_region) {
  open_options options = read_write();
  options.policy = flush_policy::always();
  mapping m = clean(pattern(64 * page()), options);
  const mapio::region reading = m.view(0, m.size());
  const std::array<asio::const_buffer, 2> both{asio::buffer("no", 2), asio::buffer(" lock", 5)};
  m.update_region(0, both);  // mmap-io would wait for the one who reads: for this thread
  run([&]() -> work {
    mapped_file file(io_.get_executor(), m);
    const std::uint64_t syncs = file.stats().syncs;
    EXPECT_EQ(co_await file.update_region(page(), both), 7U);
    EXPECT_EQ(file.stats().syncs, syncs + 1) << "not durable, though the policy says so";
    EXPECT_EQ(file.pending_bytes(), 0U);
  });
  EXPECT_EQ(reading.text().substr(0, 7), "no lock");
  EXPECT_EQ(reading.text().substr(page(), 7), "no lock");
  EXPECT_EQ(support::unwritten_pages(path_), 0U);
}

// flush(), flush_async()
//
// After a power loss: tests/crash. Whom a sync may serve: mapped_file_flush_test, and core_test.
TEST_F(parity, flush) {
  mapped_file file = opened_with(pattern(64 * page()));
  file.map().flush();
  file.map().update_region(0, asio::buffer("x", 1));
  file.map().flush();
  EXPECT_EQ(support::unwritten_pages(path_), 0U) << "a hint is no flush";
  const mapio::file_stats before = file.stats();
  constexpr std::size_t count = 64;
  std::array<outcome, count> flushes;
  run([&]() -> work {
    for (std::size_t i = 0; i < count; ++i)
      co_await file.update_region(i * page(), asio::buffer("y", 1));
    EXPECT_EQ(file.pending_bytes(), count * page());
    for (outcome& o : flushes)
      file.flush(o.handler());
  });
  ASSERT_TRUE(support::run_to_end(io_));
  EXPECT_TRUE(std::ranges::all_of(flushes, &outcome::ok));
  EXPECT_EQ(support::unwritten_pages(path_), 0U);
  EXPECT_EQ(file.pending_bytes(), 0U);
  EXPECT_GE(file.stats().syncs, before.syncs + 1);
  EXPECT_LE(file.stats().syncs, before.syncs + 2) << "they do not share";
  EXPECT_EQ(file.stats().flush_calls, before.flush_calls + count);
}

// flush_range(offset, len), flush_range_async
TEST_F(parity, flush_range) {
  mapping m = clean(pattern(8 * page()));
  run([&]() -> work {
    mapped_file file(io_.get_executor(), m);
    for (int i = 0; i < 2; ++i) {
      co_await file.update_region(2 * page() - 1, asio::buffer("ab", 2));  // of two pages
      co_await file.update_region(5 * page(), asio::buffer("c", 1));
      const std::uint64_t syncs = m.stats().syncs;
      if (i == 0)
        m.flush_range(2 * page() - 1, 2);
      else
        co_await file.flush_range(2 * page() - 1, 2);
      EXPECT_EQ(m.stats().syncs, syncs + 1);
      EXPECT_EQ(m.pending_bytes(), page()) << "it is about two pages and not the third";
      m.flush();
    }
  });
}

// resize(new_size)
TEST_F(parity, resize) {
  // After so much, every system can map more behind it.
  const std::string bytes = pattern(16 * page());
  mapped_file file = opened_with(bytes);
  const mapio::region before = file.map().view(0, bytes.size());
  const mapio::mutable_region writing = file.map().mutable_view(page(), 1);
  file.map().resize(64 * page());  // mmap-io would wait for both of them: for this thread
  run([&]() -> work { co_await file.resize(1000 * page()); });
  EXPECT_EQ(file.stats().moves, 0U);
  EXPECT_EQ(file.map().view(0, 1).data(), before.data());
  EXPECT_TRUE(same(before.text(), bytes));
  writing.data()[0] = std::byte{'!'};
  EXPECT_EQ(to_string(file.map().view(page(), 1)), "!");
  EXPECT_EQ(to_string(file.map().view(999 * page(), page())), std::string(page(), '\0'));
}

template <class T>
concept lockable = requires(T t) {
  t.lock();
}
|| requires(T t) {
  t.unlock();
};
static_assert(!lockable<mapping> && !lockable<mapped_file> && !lockable<mapio::segment>,
              "std::lock_guard of a mapping would lock its pages");

// lock(offset, len), unlock, lock_all, unlock_all
TEST_F(parity, lock) {
  mapped_file file = opened_with(pattern(16 * page()));
  run([&]() -> work {
    co_await file.lock_pages(page() + 1, page());
    support::expect_locked(2 * page());
    co_await file.lock_pages();
    support::expect_locked(16 * page());
    co_await file.unlock_pages(0, page());
    support::expect_locked(15 * page());
    co_await file.unlock_pages();
    support::expect_locked(0);
  });
  file.map().lock_pages();
  support::expect_locked(16 * page());
  file.map().unlock_pages();
  support::expect_locked(0);
}

static_assert(std::ranges::forward_range<mapio::chunk_range>);
static_assert(std::convertible_to<mapio::region, std::span<const std::byte>>);
static_assert(std::convertible_to<mapio::region, asio::const_buffer>);
static_assert(std::is_same_v<decltype(mapio::region().text()), std::string_view>);

// chunks(n), pages(), chunks_owned, pages_owned, reader() (Read + Seek)
//
// That the stream reads ahead, and how far: chunk_stream_test.
TEST_F(parity, chunks) {
  const std::string bytes = pattern(20 * page() + 5);
  mapped_file file = opened_with(bytes);
  const mapping m = file.map();
  std::string seen;
  mapio::region owned;
  for (const mapio::region& chunk : m.chunks(3 * page())) {
    seen += chunk.text();
    owned = chunk;  // outlives the range, and copies nothing
  }
  EXPECT_TRUE(same(seen, bytes));
  EXPECT_EQ(owned.offset(), 18 * page());
  EXPECT_EQ(std::ranges::distance(m.pages()), 21);

  support::evict(path_);
  run([&]() -> work {
    auto stream = file.chunks(3 * page());
    seen.clear();
    for (auto chunk = co_await stream.next(); !chunk.empty(); chunk = co_await stream.next()) {
      EXPECT_TRUE(!support::tells_residency() || m.is_resident(chunk.offset(), chunk.size()));
      seen += chunk.text();
    }
  });
  EXPECT_TRUE(same(seen, bytes));

  mapio::region reader = m.view(0, m.size());
  reader += 7;  // seek
  EXPECT_EQ(reader.subregion(0, 9).text(), bytes.substr(7, 9));
  std::string parsed(9, '\0');
  EXPECT_EQ(asio::buffer_copy(asio::buffer(parsed), reader), 9U);
  EXPECT_EQ(parsed, bytes.substr(7, 9));
}

// chunks_mut(n).for_each_mut(f), for_each_mut_legacy
TEST_F(parity, chunks_mut) {
  static_assert(std::ranges::forward_range<mapio::mutable_chunk_range>);
  mapping m = clean(std::string(4 * page() + 1, 'a'));
  for (const mapio::mutable_region& chunk : m.mutable_chunks(page()) | std::views::drop(3))
    std::ranges::fill(chunk.bytes(), std::byte{'b'});
  EXPECT_EQ(m.pending_bytes(), 2 * page()) << "those that were passed over are not dirty";
  EXPECT_TRUE(same(read_all(m), std::string(3 * page(), 'a') + std::string(page() + 1, 'b')));
  m.flush();
  EXPECT_EQ(support::unwritten_pages(path_), 0U);
}

// Segment::new, SegmentMut::new, as_slice, as_slice_mut, write, len, offset, parent, is_valid
TEST_F(parity, segments) {
  mapping m = clean(pattern(8 * page()));
  mapio::segment s = m.slice(page(), 4 * page());
  s.update_region(2, asio::buffer("at 2", 4));
  EXPECT_EQ(s.view(2, 4).text(), "at 2");
  EXPECT_EQ(m.view(page() + 2, 4).text(), "at 2");
  s.mutable_view(0, 1).data()[0] = std::byte{'s'};
  s.flush();
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_EQ(code_of([&] { s.view(4 * page() - 1, 2); }), errc::out_of_range) << "of the segment";
  m.resize(2 * page());
  EXPECT_EQ(s.view(0, 1).text(), "s");
  EXPECT_EQ(code_of([&] { s.view(page(), 1); }), errc::out_of_range) << "of the file";
  m.resize(8 * page());
  EXPECT_EQ(s.view(page(), 1).text(), std::string(1, '\0'));
  EXPECT_EQ(s.size(), 4 * page());
  EXPECT_EQ(s.offset(), page());
  EXPECT_EQ(s.map(), m);
}

// watch(callback) -> WatchHandle; ChangeKind::{Modified, Metadata, Removed}
//
// Overflow and recovery, trees, other programs: watcher_test.
class parity_watch : public parity {
 protected:
  /// What comes after the changes made here, up to and with one of this kind.
  std::vector<mapio::change_event> told(mapio::watcher& changes, mapio::change_kind last) {
    std::vector<mapio::change_event> seen;
    run([&]() -> work {
      do {
        seen.push_back(co_await changes.next());
        EXPECT_EQ(seen.back().path, path_);
      } while (seen.back().kind != last);
    });
    return seen;
  }
};

TEST_F(parity_watch, tells_what_is_done_to_the_file) {
  mapped_file file = opened_with(pattern(100));
  auto changes = file.watch();
  using enum mapio::change_kind;
  // A store into a mapping, which the OS tells nobody of.
  run([&]() -> work {
    co_await file.update_region(0, asio::buffer("new", 3));
    co_await file.flush();
  });
  told(changes, modified);
  support::change_metadata(path_);
  told(changes, metadata);
  support::truncate_file(path_, 50);
  EXPECT_EQ(told(changes, truncated).back().size, 50U);
  EXPECT_TRUE(file.size_is_stale());
  run([&]() -> work { EXPECT_EQ(co_await file.refresh(), 50U); });
}

// Saved by a rename, it is watched on under its name.
TEST_F(parity_watch, goes_on_with_another_file_of_the_name) {
  mapped_file file = opened_with(pattern(100));
  auto changes = file.watch();
  using enum mapio::change_kind;
  write_file(dir_ / "saved", pattern(70));
  std::filesystem::rename(dir_ / "saved", path_);
  told(changes, replaced);
  write_file(path_, pattern(80));
  told(changes, modified);
  std::filesystem::remove(path_);
  told(changes, removed);
  write_file(path_, pattern(90));
  told(changes, created);
}

// Clone, Debug, AsRawFd and AsRawHandle, AsFd
TEST_F(parity, clone_debug_and_handle) {
  mapping m = mapping::create(path_, 5);
  mapping copy = m;
  copy.update_region(0, asio::buffer("share", 5));
  EXPECT_EQ(m.view(0, 5).text(), "share");
  EXPECT_EQ(copy, m);
  std::ostringstream printed;
  printed << m;
  EXPECT_NE(printed.str().find(path_.string()), std::string::npos) << printed.str();
  EXPECT_EQ(support::identity(m.native_handle()), support::identity(path_));
  EXPECT_EQ(mapped_file(io_.get_executor(), m).native_handle(), m.native_handle());
}

// Send + Sync, RwLock
//
// How it scales: bench/mapping_bench. While the file grows: mapping_test,
// mapping_io.runs_beside_flushes_growth_and_views_in_other_threads.
TEST_F(parity, threads) {
  constexpr std::size_t count = 4;
  mapping m = mapping::create(path_, count * 64 * page());
  const mapio::region held = m.view(0, m.size());
  const mapio::mutable_region held_too = m.mutable_view(0, m.size());
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < count; ++t)
    threads.emplace_back([&, t] {
      const std::string mine = pattern(64 * page(), t);
      const std::uint64_t begin = t * mine.size();
      std::string back(mine.size(), '\0');
      m.update_region(begin, asio::buffer(mine));
      m.read_into(begin, asio::buffer(back));
      EXPECT_TRUE(same(back, mine));
    });
  for (std::thread& t : threads)
    t.join();
  for (std::size_t t = 0; t < count; ++t)
    EXPECT_TRUE(same(held.text().substr(t * 64 * page(), 64 * page()), pattern(64 * page(), t)));
}

// utils::page_size(), utils::align_up
TEST_F(parity, page_size) {
  EXPECT_EQ(mapio::page_size(), support::system_page_size());
}

// bytes::Bytes from a MappedSlice, read_bytes, which both copy
TEST_F(parity, bytes) {
  const std::string bytes = pattern(2 * mebibyte);  // more than a socket takes at once
  mapped_file file = opened_with(bytes);
  support::socket_pair sockets(io_);
  outcome sent;
  run([&]() -> work {
    const void* const mapped = file.map().view(0, 1).data();
    mapio::region all = co_await file.view(0, file.size());
    EXPECT_EQ(static_cast<const asio::const_buffer&>(all).data(), mapped) << "a copy";
    asio::async_write(sockets.here, std::move(all), sent.handler());
    co_await file.close();
  });
  EXPECT_EQ(sent.calls, 0);
  EXPECT_TRUE(support::is_mapped(path_)) << "the socket needs it";
  std::string received(bytes.size(), '\0');
  asio::async_read(sockets.there, asio::buffer(received), [](std::error_code, std::size_t) {});
  ASSERT_TRUE(support::run_to_end(io_));
  EXPECT_TRUE(sent.ok());
  EXPECT_TRUE(same(received, bytes));
  EXPECT_TRUE(support::eventually([&] { return !support::is_mapped(path_); }));
}

// Linux, macOS, Windows
//
// Every engine has to pass these tests, and all others that await something; what makes them up is
// ENGINES in CMakeLists.txt.
TEST_F(parity, platforms) {
  std::ostringstream engine;
  engine << mapio::backend_of(io_).kind;
  const char* const asked_for = std::getenv("MAPIO_BACKEND");
  EXPECT_TRUE(asked_for == nullptr || engine.str() == asked_for) << engine.str();
  EXPECT_NE(mapio::backend_of(io_).kind, mapio::backend_kind::automatic);
}

}  // namespace
