// chunk_stream: what comes out, and what becomes of a file that changes, of a reading that is
// stopped, of calls that make no sense. Once per engine.
#include <mapio/chunk_stream.hpp>
#include <mapio/file_operations.hpp>
#include <mapio/mapped_file.hpp>

#include "chunk_stream_fixture.hpp"
#include "mapped_file_fixture.hpp"

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/error.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>

#include <cstdint>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using mapio::chunk_stream;
using mapio::errc;
using mapio::mapped_file;
using mapio::region;
using support::chunk_stream_test;
using support::mebibyte;
using support::outcome;
using support::page;

TEST_F(chunk_stream_test, hands_out_all_of_a_file_in_order) {
  const std::string bytes = support::pattern(5 * page() + 123);
  mapped_file file = opened_with(bytes);
  for (const std::uint64_t chunk :
       {std::uint64_t{1000}, std::uint64_t{page()}, std::uint64_t{3 * page()},
        std::uint64_t{bytes.size()}, std::uint64_t{mebibyte}, ~std::uint64_t{0}})
    for (const std::size_t readahead :
         {std::size_t{0}, std::size_t{1}, std::size_t{4}, ~std::size_t{0}}) {
      chunk_stream chunks = file.chunks(chunk, readahead);
      EXPECT_TRUE(support::same(rest_of(chunks), bytes)) << chunk << ", " << readahead;
    }
}

TEST_F(chunk_stream_test, reads_a_cold_file_as_well) {
  const std::string bytes = support::pattern(20 * mebibyte + 1);
  mapped_file file = cold(bytes);
  chunk_stream chunks = file.chunks(mebibyte);
  EXPECT_TRUE(support::same(rest_of(chunks), bytes));
}

// The second mapping is what the kernel reads a large file by, in pieces larger than the device's
// read-ahead.
TEST_F(chunk_stream_test, maps_a_large_file_once_more_until_it_is_closed) {
  const std::string bytes = support::pattern(20 * mebibyte + 1);
  mapped_file file = cold(bytes);
  if (file.stats().medium != mapio::medium::local)
    GTEST_SKIP() << "nothing to be read from a disk here";
  const int before = support::count_mappings(path_);
  for (int i = 0; i < 2; ++i) {
    chunk_stream chunks = file.chunks(mebibyte);
    EXPECT_TRUE(support::same(rest_of(chunks), bytes));
    EXPECT_EQ(support::count_mappings(path_), before + 1);
  }
  outcome o;
  file.close(o.handler());
  finish(o);
  EXPECT_FALSE(o.error);
  EXPECT_TRUE(support::eventually([&] { return !support::is_mapped(path_); }));
}

TEST_F(chunk_stream_test, has_chunks_of_one_size_and_a_short_last_one) {
  mapped_file file = opened_with(support::pattern(2500));
  run([&]() -> work {
    chunk_stream chunks = file.chunks(1000);
    const region first = co_await chunks.next(asio::use_awaitable);
    const region second = co_await chunks.next(asio::use_awaitable);
    const region third = co_await chunks.next(asio::use_awaitable);
    EXPECT_EQ(first.size(), 1000U);
    EXPECT_EQ(second.offset(), 1000U);
    EXPECT_EQ(third.offset(), 2000U);
    EXPECT_EQ(third.size(), 500U);
    for (int i = 0; i < 3; ++i) {
      const region end = co_await chunks.next(asio::use_awaitable);
      EXPECT_TRUE(end.empty());
    }
  });
}

TEST_F(chunk_stream_test, of_an_empty_file_is_at_its_end) {
  mapped_file file = created(0);
  chunk_stream chunks = file.chunks(page());
  EXPECT_EQ(rest_of(chunks), "");
}

TEST_F(chunk_stream_test, shows_what_is_private_to_a_copy_on_write_mapping) {
  mapped_file file = opened_with(support::pattern(3 * page()), support::copy_on_write());
  mapio::mapping m = file.map();
  m.update_region(page(), asio::buffer("private", 7));
  std::string expected = support::pattern(3 * page());
  expected.replace(page(), 7, "private");
  chunk_stream chunks = file.chunks(page());
  EXPECT_TRUE(support::same(rest_of(chunks), expected));
}

TEST_F(chunk_stream_test, pins_what_it_hands_out_and_nothing_else) {
  mapped_file file = opened_with(support::pattern(64 * page()));
  chunk_stream chunks = file.chunks(4 * page());
  region chunk;
  ASSERT_FALSE(next(chunks, chunk));
  settle();
  std::error_code ec;
  mapio::mapping m = file.map();
  // What was read ahead is no obstacle, not even to a call that waits for nobody.
  ASSERT_TRUE(support::eventually([&] {
    settle();
    m.resize(4 * page(), ec);
    return !ec;
  }));
  m.resize(page(), ec);
  EXPECT_EQ(ec, errc::pinned);
  chunk = region();
  m.resize(page(), ec);
  EXPECT_FALSE(ec) << ec.message();
}

TEST_F(chunk_stream_test, goes_on_where_the_end_was_when_the_file_has_grown) {
  mapped_file file = created(1500);
  run([&]() -> work {
    chunk_stream chunks = file.chunks(1000);
    co_await chunks.next(asio::use_awaitable);
    const region last = co_await chunks.next(asio::use_awaitable);
    EXPECT_EQ(last.size(), 500U);
    const region end = co_await chunks.next(asio::use_awaitable);
    EXPECT_TRUE(end.empty());
    co_await file.resize(1700, asio::use_awaitable);
    const std::string more(200, 'm');
    co_await file.update_region(1500, asio::buffer(more), asio::use_awaitable);
    const region appended = co_await chunks.next(asio::use_awaitable);
    EXPECT_EQ(appended.offset(), 1500U);
    EXPECT_EQ(support::to_string(appended), more);
  });
}

TEST_F(chunk_stream_test, sees_growth_of_a_chunk_that_was_read_ahead_when_it_was_short) {
  mapped_file file = created(1500);
  run([&]() -> work {
    chunk_stream chunks = file.chunks(1000);
    co_await chunks.next(asio::use_awaitable);  // reads the other 500 bytes ahead
    co_await file.resize(4000, asio::use_awaitable);
    const region second = co_await chunks.next(asio::use_awaitable);
    EXPECT_EQ(second.offset(), 1000U);
    EXPECT_EQ(second.size(), 1000U);
  });
}

TEST_F(chunk_stream_test, ends_where_the_file_was_cut) {
  mapped_file file = created(64 * page());
  run([&]() -> work {
    chunk_stream chunks = file.chunks(8 * page());
    region chunk = co_await chunks.next(asio::use_awaitable);
    chunk = region();
    co_await file.resize(9 * page(), asio::use_awaitable);  // in the middle of the next
    chunk = co_await chunks.next(asio::use_awaitable);
    EXPECT_EQ(chunk.offset(), 8 * page());
    EXPECT_EQ(chunk.size(), page());
    chunk = region();
    co_await file.resize(page(), asio::use_awaitable);  // before where it has come to
    chunk = co_await chunks.next(asio::use_awaitable);
    EXPECT_TRUE(chunk.empty());
    co_await file.resize(10 * page(), asio::use_awaitable);
    chunk = co_await chunks.next(asio::use_awaitable);
    EXPECT_EQ(chunk.offset(), 9 * page());
  });
}

TEST_F(chunk_stream_test, reports_what_somebody_else_has_cut_and_can_be_asked_again) {
  mapped_file file = opened_with(support::pattern(64 * page()), support::read_only());
  chunk_stream chunks = file.chunks(4 * page(), 0);
  region chunk;
  ASSERT_FALSE(next(chunks, chunk));
  support::truncate_file(path_, 6 * page());
  EXPECT_EQ(next(chunks, chunk), errc::page_fault);
  EXPECT_TRUE(chunk.empty());
  EXPECT_EQ(next(chunks, chunk), errc::page_fault);
  support::truncate_file(path_, 64 * page());
  ASSERT_FALSE(next(chunks, chunk));
  EXPECT_EQ(chunk.offset(), 4 * page());
}

TEST_F(chunk_stream_test, brings_in_as_much_ahead_as_it_was_told) {
  mapped_file file = cold(support::pattern(32 * mebibyte));
  const mapio::mapping m = file.map();
  if (!is_cold_ || !support::tells_cached_pages(path_))
    GTEST_SKIP() << "this file system does not tell";
  ASSERT_FALSE(m.is_resident(mebibyte, 4 * mebibyte));
  chunk_stream chunks = file.chunks(mebibyte, 4);
  region chunk;
  ASSERT_FALSE(next(chunks, chunk));
  ASSERT_TRUE(support::eventually([&] {
    settle();
    return m.is_resident(mebibyte, 4 * mebibyte);
  }));
  EXPECT_FALSE(m.is_resident(16 * mebibyte, 16 * mebibyte));
}

TEST_F(chunk_stream_test, stops_reading_when_it_goes) {
  const std::string bytes = support::pattern(96 * mebibyte);
  mapped_file file = cold(bytes);
  if (!is_cold_ || !support::tells_cached_pages(path_))
    GTEST_SKIP() << "this file system does not tell";
  // The disk may be faster than this thread, but not every time.
  EXPECT_TRUE(support::eventually([&] {
    file = mapped_file(io_);
    EXPECT_TRUE(support::evict(path_));
    file = opened(support::read_only());
    outcome o;
    {
      chunk_stream chunks = file.chunks(24 * mebibyte, 3);
      chunks.next(o.handler());
      const chunk_stream moved = std::move(chunks);
    }
    finish(o);
    EXPECT_TRUE(o.ok());
    EXPECT_TRUE(support::run_to_end(io_));
    o.region = region();
    // Of what is being read on a pool the context knows nothing; it is in the way of a release.
    std::error_code ec;
    support::native_file released;
    EXPECT_TRUE(support::eventually([&] {
      released = support::native_file(file.map().release(ec));
      return !ec;
    }));
    const mapio::mapping again(path_);
    return !again.is_resident(24 * mebibyte, 72 * mebibyte);
  }));
}

TEST_F(chunk_stream_test, may_go_while_a_call_waits_for_what_is_being_read) {
  const std::string bytes = support::pattern(8 * mebibyte);
  for (int round = 0; round < 8; ++round) {
    mapped_file file = cold(bytes);
    std::optional<chunk_stream> chunks = file.chunks(2 * mebibyte);
    region chunk;
    ASSERT_FALSE(next(*chunks, chunk));
    outcome o;
    chunks->next(o.handler());
    chunks.reset();
    finish(o);
    EXPECT_EQ(o.calls, 1);
    if (o.error) {
      EXPECT_EQ(o.error, asio::error::operation_aborted);
    }
    ASSERT_TRUE(support::run_to_end(io_));
    EXPECT_EQ(support::to_string(chunk), bytes.substr(0, 2 * mebibyte));
  }
}

TEST_F(chunk_stream_test, outlives_its_context_and_the_file_handle) {
  support::write_file(path_, support::pattern(8 * mebibyte));
  for (int round = 0; round < 20; ++round) {
    static_cast<void>(support::evict(path_));
    std::optional<asio::io_context> io(std::in_place);
    std::optional<mapped_file> file(std::in_place, *io);
    bool open = false;
    file->open(path_, [&](std::error_code ec) { open = !ec; });
    ASSERT_TRUE(support::run_to_end(*io));
    ASSERT_TRUE(open);
    chunk_stream chunks = file->chunks(mebibyte);
    file.reset();
    int calls = 0;
    chunks.next([&](std::error_code, const region&) { ++calls; });
    io->restart();
    if (round % 2 == 0) io->poll();
    io.reset();
    EXPECT_LE(calls, 1);
  }
}

TEST_F(chunk_stream_test, refuses_chunks_of_nothing) {
  mapped_file file = created(page());
  chunk_stream chunks = file.chunks(0);
  region chunk;
  EXPECT_EQ(next(chunks, chunk), std::errc::invalid_argument);
}

TEST_F(chunk_stream_test, of_a_file_that_is_not_open_says_so) {
  region chunk;
  mapped_file closed(io_);
  chunk_stream of_closed = closed.chunks(page());
  EXPECT_EQ(next(of_closed, chunk), errc::not_open);

  mapped_file file = created(16 * page());
  // It is about the file that was open when it was made.
  chunk_stream chunks = file.chunks(page());
  ASSERT_FALSE(next(chunks, chunk));
  support::write_file(dir_ / "another", support::pattern(page()));
  outcome o;
  file.open(dir_ / "another", o.handler());
  finish(o);
  EXPECT_EQ(next(chunks, chunk), errc::not_open);

  chunk_stream again = file.chunks(page());
  chunk_stream moved = std::move(again);
  // NOLINTNEXTLINE(bugprone-use-after-move): what it says then
  EXPECT_EQ(next(again, chunk), errc::not_open);
  EXPECT_FALSE(next(moved, chunk));
  file.map().close();
  EXPECT_EQ(next(moved, chunk), errc::not_open);
}

TEST_F(chunk_stream_test, is_asked_for_one_chunk_at_a_time) {
  const std::string bytes = support::pattern(8 * mebibyte);
  // The first may be over, although its handler has not run yet.
  const bool refused = support::eventually([&] {
    mapped_file file = cold(bytes);
    chunk_stream chunks = file.chunks(2 * mebibyte);
    outcome first;
    outcome second;
    chunks.next(first.handler());
    chunks.next(second.handler());
    finish(first);
    finish(second);
    EXPECT_TRUE(first.ok());
    EXPECT_EQ(first.region.offset(), 0U);
    region chunk;
    EXPECT_FALSE(next(chunks, chunk));
    EXPECT_EQ(chunk.offset(), second.error ? 2 * mebibyte : 4 * mebibyte);
    return second.error == std::errc::operation_in_progress;
  });
  EXPECT_TRUE(refused);
}

TEST_F(chunk_stream_test, is_ended_by_close) {
  const std::string bytes = support::pattern(8 * mebibyte);
  for (int round = 0; round < 8; ++round) {
    mapped_file file = cold(bytes);
    chunk_stream chunks = file.chunks(2 * mebibyte);
    region chunk;
    if (round % 2 == 0) {
      ASSERT_FALSE(next(chunks, chunk));
    }
    outcome o;
    outcome closed;
    chunks.next(o.handler());
    file.close(closed.handler());
    finish(o);
    finish(closed);
    EXPECT_TRUE(closed.ok());
    if (o.error) {
      EXPECT_TRUE(o.error == asio::error::operation_aborted || o.error == errc::not_open)
          << o.error.message();
    } else {
      EXPECT_FALSE(o.region.empty()) << "the end of a closed file";
    }
    EXPECT_EQ(next(chunks, chunk), errc::not_open);
    ASSERT_TRUE(support::run_to_end(io_));
  }
}

TEST_F(chunk_stream_test, takes_any_token) {
  const std::string bytes = support::pattern(3 * page());
  mapped_file file = opened_with(bytes);
  chunk_stream chunks = file.chunks(2 * page());
  auto future = chunks.next(asio::use_future);
  ASSERT_TRUE(support::run_to_end(io_));
  EXPECT_EQ(support::to_string(future.get()), bytes.substr(0, 2 * page()));
}

TEST_F(chunk_stream_test, loses_no_chunk_to_a_cancellation) {
  // Wine reads so slowly that there is to be more than one try, and it is the first chunk of each
  // that may still be on its way.
  constexpr std::uint64_t size = (support::is_emulated ? 4 : 24) * mebibyte;
  const std::string bytes = support::pattern(size, 3);
  std::mt19937 random(4);
  const auto read_all = [&] {
    mapped_file file = cold(bytes);
    chunk_stream chunks = file.chunks(2 * mebibyte, 2);
    std::string all;
    int cancelled = 0;
    for (bool at_end = false; !at_end;) {
      asio::cancellation_signal signal;
      outcome o;
      chunks.next(asio::bind_cancellation_slot(signal.slot(), o.handler()));
      for (unsigned turns = random() % 4; turns > 0; --turns) {
        io_.restart();
        io_.poll_one();
      }
      signal.emit(random() % 2 == 0 ? asio::cancellation_type::terminal
                                    : asio::cancellation_type::total);
      finish(o);
      if (o.error) {
        EXPECT_EQ(o.error, asio::error::operation_aborted);
        EXPECT_TRUE(o.region.empty());
        ++cancelled;
        continue;
      }
      at_end = o.region.empty();
      all += support::to_string(o.region);
    }
    EXPECT_TRUE(support::same(all, bytes));
    return cancelled;
  };
  // A disk may be faster than the cancellation, but not every time.
  EXPECT_TRUE(support::eventually([&] { return read_all() > 0; }));
}

TEST_F(chunk_stream_test, of_one_file_may_be_read_by_many_threads_of_a_loop) {
  const std::string bytes = support::pattern(4 * mebibyte, 5);
  mapped_file file = cold(bytes);
  constexpr int streams = 8;
  int done = 0;
  std::mutex mutex;
  for (int i = 0; i < streams; ++i)
    asio::co_spawn(
        io_,
        [&, i]() -> work {
          chunk_stream chunks = file.chunks(static_cast<std::uint64_t>(i + 1) * 50000);
          std::string all;
          for (;;) {
            const region chunk = co_await chunks.next(asio::use_awaitable);
            if (chunk.empty()) break;
            all += support::to_string(chunk);
          }
          EXPECT_TRUE(support::same(all, bytes));
          std::lock_guard lock(mutex);
          ++done;
        },
        asio::detached);
  io_.restart();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] { io_.run(); });
  for (auto& t : threads)
    t.join();
  EXPECT_EQ(done, streams);
}

}  // namespace
