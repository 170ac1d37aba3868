// Awaiting words of a file, between processes. Once per engine.
#include <mapio/atomic_cell.hpp>

#include "atomic_cell_fixture.hpp"
#include "mapped_file_fixture.hpp"
#include "support.hpp"

#include <mapio/atomic.hpp>
#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>

#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/io_context.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <future>
#include <string>
#include <system_error>
#include <thread>

namespace {

using mapio::atomic_cell;
using mapio::errc;
using mapio::mapped_file;
using mapio::mapping;
using support::aborted;
using support::atomic_cell_test;
using support::code_of;
using support::eventually;
using support::into;
using support::outcome;
using support::outcomes;
using support::page;
using support::read_only;
using support::read_write;
using support::run_coroutine;
using support::run_to_end;

template <class T>
concept awaitable_word = requires(const atomic_cell<T>& cell, void (*handler)(std::error_code)) {
  cell.wait(T(), handler);
};
static_assert(awaitable_word<std::uint32_t> && !awaitable_word<std::uint64_t>);

using atomic_cell_operations = atomic_cell_test;
using atomic_cell_wait = atomic_cell_test;
using atomic_cell_errors = atomic_cell_test;
using atomic_cell_cancel = atomic_cell_test;
using atomic_cell_load = atomic_cell_test;
using atomic_cell_lifetime = atomic_cell_test;

TEST_F(atomic_cell_operations, are_those_of_a_view) {
  mapped_file file = created(page());
  const auto wide = file.atomic<std::uint64_t>(8);
  EXPECT_EQ(wide.fetch_add(3), 0U);
  EXPECT_EQ(file.map().atomic<std::uint64_t>(8).load(), 3U);
  EXPECT_EQ(wide.offset(), 8U);
  cell c = file.atomic<std::uint32_t>(4);
  const cell copy = c;
  c = copy;
  c.store(9);
  EXPECT_EQ(copy.load(), 9U);
  EXPECT_EQ(c.get_executor(), file.get_executor());
  EXPECT_EQ(code_of([&] { file.atomic<std::uint32_t>(2); }), errc::misaligned);
  EXPECT_EQ(code_of([&] { file.atomic<std::uint32_t>(page()); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { mapped_file(io_).atomic<std::uint32_t>(0); }), errc::not_open);
  std::error_code error;
  EXPECT_TRUE(file.atomic<std::uint32_t>(1, error).empty());
  EXPECT_EQ(error, errc::misaligned);
  EXPECT_FALSE(file.atomic<std::uint32_t>(0, error).empty());
  EXPECT_FALSE(error);
}

TEST_F(atomic_cell_wait, is_over_at_once_for_another_value) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(0);
  for (int i = 0; i < 2; ++i) {
    outcome o;
    c.store(1);
    c.wait(0, o.handler());
    EXPECT_EQ(o.calls, 0) << "never inside of the call";
    ASSERT_TRUE(run_to_end(io_));
    EXPECT_TRUE(o.ok());
  }
}

TEST_F(atomic_cell_wait, ends_with_a_change_and_not_with_a_mere_notification) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(4);
  outcome o;
  c.wait(0, o.handler());
  settle();
  EXPECT_EQ(o.calls, 0);
  for (int i = 0; i < 100; ++i) {
    c.notify_all();
    settle();
    EXPECT_EQ(o.calls, 0);
  }
  c.store(1);
  c.notify_one();
  finish(o);
  EXPECT_TRUE(o.ok());
  ASSERT_TRUE(run_to_end(io_)) << "and then there is nothing left to do";
}

TEST_F(atomic_cell_wait, is_what_the_default_token_awaits) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(0);
  std::thread other;
  run([&]() -> work {
    other = std::thread([c] { change(c, 5); });
    co_await c.wait(0);
    EXPECT_EQ(c.load(), 5U);
  });
  other.join();
}

TEST_F(atomic_cell_wait, takes_other_tokens) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(0);
  std::future<void> done = c.wait(0, asio::use_future);
  settle();
  change(c, 1);
  ASSERT_TRUE(run_to_end(io_));
  done.get();
}

TEST_F(atomic_cell_wait, works_for_signed_words) {
  mapped_file file = created(page());
  const auto c = file.atomic<std::int32_t>(0);
  c.store(-1);
  outcome o;
  c.wait(-1, o.handler());
  settle();
  EXPECT_EQ(o.calls, 0);
  c.store(1);
  c.notify_all();
  finish(o);
  EXPECT_TRUE(o.ok());
}

TEST_F(atomic_cell_wait, keeps_run_from_returning_until_it_is_over) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(0);
  outcome o;
  c.wait(0, o.handler());
  std::thread other([&] { change(file.map().atomic<std::uint32_t>(0), 1); });
  io_.restart();
  io_.run();
  EXPECT_TRUE(o.ok());
  other.join();
}

TEST_F(atomic_cell_wait, hears_of_other_mappings_of_the_file) {
  mapped_file file = created(page());
  mapping other(path_, read_write());
  mapped_file reader(io_);
  run([&]() -> work { co_await reader.open(path_, read_only()); });
  outcome writes;
  outcome reads;
  file.atomic<std::uint32_t>(0).wait(0, writes.handler());
  reader.atomic<std::uint32_t>(0).wait(0, reads.handler());
  settle();
  EXPECT_EQ(writes.calls + reads.calls, 0);
  change(other.atomic<std::uint32_t>(0), 1);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(writes.ok());
  EXPECT_TRUE(reads.ok());
}

TEST_F(atomic_cell_wait, notify_one_wakes_at_least_one) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(0);
  outcomes all;
  for (int i = 0; i < 8; ++i)
    c.wait(0, all.next());
  settle();
  EXPECT_EQ(all.completed(), 0);
  c.store(1);
  for (int i = 1; i <= 8; ++i) {
    c.notify_one();
    EXPECT_TRUE(run_for([&] { return all.completed() >= i; }));
  }
  ASSERT_TRUE(run_to_end(io_));
  all.expect_all({});
}

TEST_F(atomic_cell_wait, completes_only_those_whose_value_is_gone) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(0);
  outcome first;
  outcome second;
  c.wait(0, first.handler());
  settle();
  c.store(1);  // nobody is told
  c.wait(1, second.handler());
  settle();
  c.notify_all();
  finish(first);
  EXPECT_TRUE(first.ok());
  settle();
  EXPECT_EQ(second.calls, 0);
  change(c, 2);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(second.ok());
}

TEST_F(atomic_cell_wait, is_over_for_pages_that_are_not_in_memory_too) {
  support::write_file(path_, support::pattern(4 * page()));
  static_cast<void>(support::evict(path_));
  for (const auto& options : {read_only(), read_write()}) {
    mapped_file file = opened(options);
    std::uint32_t value = 0;
    mapping(path_).read_into(2 * page(), asio::buffer(&value, sizeof value));
    static_cast<void>(support::evict(path_));
    const cell c = file.atomic<std::uint32_t>(2 * page());
    outcome differs;
    c.wait(value + 1, differs.handler());
    ASSERT_TRUE(run_to_end(io_));
    EXPECT_TRUE(differs.ok());
    outcome waits;
    c.wait(value, waits.handler());
    settle();
    EXPECT_EQ(waits.calls, 0);
    mapping writer(path_, read_write());
    change(writer.atomic<std::uint32_t>(2 * page()), value + 1);
    ASSERT_TRUE(run_to_end(io_));
    EXPECT_TRUE(waits.ok());
    change(writer.atomic<std::uint32_t>(2 * page()), value);
  }
}

TEST_F(atomic_cell_wait, goes_on_when_the_thread_that_began_it_ends) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(0);
  outcomes all;
  std::thread([&] {
    for (int i = 0; i < 10; ++i)
      c.wait(0, all.next());
    settle();
  }).join();
  for (int i = 0; i < 100; ++i)
    settle();
  EXPECT_EQ(all.completed(), 0) << "what the kernel cancelled nobody asked for";
  change(c, 1);
  ASSERT_TRUE(run_to_end(io_));
  all.expect_all({});
}

TEST_F(atomic_cell_errors, of_access_that_cannot_wait) {
  support::write_file(path_, std::string(page(), '\0'));
  mapped_file file = opened(support::copy_on_write());
  const cell c = file.atomic<std::uint32_t>(0);
  EXPECT_EQ(c.fetch_add(1), 0U);
  outcome o;
  c.wait(0, o.handler());
  EXPECT_EQ(o.calls, 0);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(o.error, errc::unsupported);
}

TEST_F(atomic_cell_errors, of_a_file_that_is_closed_or_another_one) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(0);
  run([&]() -> work {
    std::error_code error;
    co_await file.close();
    co_await c.wait(0, into(error));
    EXPECT_EQ(error, errc::not_open);
    co_await file.open(path_, read_write());
    co_await c.wait(0, into(error));
    EXPECT_EQ(error, errc::not_open) << "it is about the file that was open";
    c.store(3);
    EXPECT_EQ(file.atomic<std::uint32_t>(0).load(), 3U);
    std::error_code none;
    co_await mapped_file(io_).atomic<std::uint32_t>(0, none).wait(0, into(error));
    EXPECT_EQ(error, errc::not_open) << "an empty cell";
  });
}

TEST_F(atomic_cell_errors, of_a_file_that_somebody_cut) {
  mapped_file file = created(2 * page());
  const cell c = file.atomic<std::uint32_t>(page());
  support::truncate_file(path_, page());
  outcome o;
  c.wait(0, o.handler());
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(o.error, errc::page_fault);
  EXPECT_EQ(file.stats().page_faults, 1U);
}

TEST_F(atomic_cell_cancel, by_the_slot_ends_it_at_once) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(0);
  for (const auto type : {asio::cancellation_type::terminal, asio::cancellation_type::partial,
                          asio::cancellation_type::total, asio::cancellation_type::all})
    for (const bool is_under_way : {false, true}) {
      asio::cancellation_signal signal;
      outcome o;
      c.wait(0, asio::bind_cancellation_slot(signal.slot(), o.handler()));
      if (is_under_way) settle();
      signal.emit(type);
      EXPECT_EQ(o.calls, 0);
      ASSERT_TRUE(run_to_end(io_));
      EXPECT_EQ(o.calls, 1);
      EXPECT_EQ(o.error, aborted);
      signal.emit(type);
    }
  EXPECT_EQ(code_of([&] { file.map().resize(0); }), errc::pinned) << "the cell is still there";
}

TEST_F(atomic_cell_cancel, by_cancel_and_close_ends_those_of_every_copy) {
  for (const bool closes : {false, true}) {
    mapped_file file = created(page());
    const mapped_file copy = file;
    outcomes all;
    for (std::uint64_t i = 0; i < 20; ++i)
      (i % 2 == 0 ? file : copy).atomic<std::uint32_t>(4 * i).wait(0, all.next());
    settle();
    EXPECT_EQ(all.completed(), 0);
    outcome closed;
    if (closes)
      file.close(closed.handler());
    else
      file.cancel();
    ASSERT_TRUE(run_to_end(io_));
    all.expect_all(aborted);
    EXPECT_EQ(closed.calls, closes ? 1 : 0);
    EXPECT_FALSE(closed.error);
  }
}

TEST_F(atomic_cell_cancel, by_closing_on_another_thread_leaves_none_behind) {
  for (int round = 0; round < 100; ++round) {
    mapped_file file = created(page());
    const cell c = file.atomic<std::uint32_t>(0);
    std::thread other([m = file.map()]() mutable { m.close(); });
    outcomes all;
    for (int i = 0; i < 20; ++i)
      c.wait(0, all.next());
    ASSERT_TRUE(run_to_end(io_));
    other.join();
    all.each([](const outcome& o) {
      EXPECT_EQ(o.calls, 1);
      EXPECT_TRUE(o.error == aborted || o.error == errc::not_open) << o.error;
    });
  }
}

TEST_F(atomic_cell_cancel, beside_a_change_ends_it_exactly_once) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(0);
  constexpr std::uint32_t rounds = support::as_often_as(20'000);
  std::atomic<std::uint32_t> begun{0};
  std::thread other([&] {
    const auto word = file.map().atomic<std::uint32_t>(0);
    for (std::uint32_t i = 1; i <= rounds; ++i) {
      while (begun.load() < i)
        std::this_thread::yield();
      change(word, i);
    }
  });
  std::uint32_t cancelled = 0;
  for (std::uint32_t i = 1; i <= rounds; ++i) {
    asio::cancellation_signal signal;
    outcome o;
    c.wait(i - 1, asio::bind_cancellation_slot(signal.slot(), o.handler()));
    if (i % 4 != 0) settle();
    begun = i;
    for (std::uint32_t spin = 0; spin < i % 64; ++spin)
      static_cast<void>(c.load());
    if (i % 3 == 0) settle();
    signal.emit(asio::cancellation_type::total);
    ASSERT_TRUE(run_to_end(io_));
    ASSERT_EQ(o.calls, 1);
    ASSERT_TRUE(!o.error || o.error == aborted) << o.error;
    cancelled += o.error ? 1 : 0;
    ASSERT_TRUE(eventually([&] { return c.load() == i; }));
  }
  other.join();
  RecordProperty("cancelled", static_cast<int>(cancelled));
}

// Of two who wait, the one that is cancelled must not have taken the only wake-up.
TEST_F(atomic_cell_cancel, leaves_the_wake_up_for_one_to_the_other) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(0);
  const auto word = file.map().atomic<std::uint32_t>(0);
  constexpr std::uint32_t rounds = 200;
  // So that they are mostly in the kernel by then, and in this order; whoever is not sees the
  // change by himself.
  constexpr auto to_be_queued = std::chrono::microseconds(300);
  std::atomic<std::uint32_t> waiting{0};
  std::atomic<std::uint32_t> woken{0};
  std::thread other([&] {
    for (std::uint32_t i = 1; i <= rounds; ++i) {
      while (waiting.load() < i)
        std::this_thread::yield();
      word.wait(i - 1);
      woken = i;
    }
  });
  for (std::uint32_t i = 1; i <= rounds && !HasFailure(); ++i) {
    asio::cancellation_signal signal;
    outcome o;
    c.wait(i - 1, asio::bind_cancellation_slot(signal.slot(), o.handler()));
    settle();
    std::this_thread::sleep_for(to_be_queued);
    waiting = i;
    std::this_thread::sleep_for(to_be_queued);
    // Its thread is still queued when it has been told to look.
    signal.emit(asio::cancellation_type::total);
    word.store(i);
    word.notify_one();
    EXPECT_TRUE(run_to_end(io_));
    EXPECT_EQ(o.calls, 1);
    if (!o.error) word.notify_all();  // the first wake-up was for this one
    EXPECT_TRUE(eventually([&] { return woken == i; })) << "round " << i << ": " << o.error;
  }
  // After a failure too the thread ends.
  waiting = rounds;
  word.store(rounds);
  while (woken < rounds) {
    word.notify_all();
    std::this_thread::yield();
  }
  other.join();
}

// Its thread knows the word by the value that it saw last. Whoever comes with another one, which is
// gone by then, is not told of it.
TEST_F(atomic_cell_wait, is_over_though_the_value_is_what_it_was_for_those_who_came_before) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(0);
  const auto word = file.map().atomic<std::uint32_t>(0);
  const int rounds = support::as_often_as(20'000);
  std::atomic<int> begun{0};
  std::atomic<int> changed{0};
  word.store(1);
  std::thread other([&] {
    for (int i = 1; i <= rounds; ++i) {
      while (begun < i) {
      }
      // A little later each time.
      for (int n = 0; n < i % 256; ++n)
        std::atomic_signal_fence(std::memory_order_seq_cst);
      word.store(1);
      changed = i;
    }
  });
  outcome before;
  c.wait(1, before.handler());
  settle();
  for (int i = 1; i <= rounds && !HasFailure(); ++i) {
    outcome o;
    word.store(2);
    begun = i;
    c.wait(2, o.handler());
    while (changed < i) {
    }
    // Whoever waits in the kernel by now.
    word.notify_all();
    EXPECT_TRUE(run_for([&] { return o.calls == 1; })) << "round " << i;
    EXPECT_FALSE(o.error);
    if (before.calls == 0) continue;
    before = {};
    c.wait(1, before.handler());
    settle();
  }
  begun = rounds;
  other.join();
  file.cancel();
  ASSERT_TRUE(run_to_end(io_));
}

TEST_F(atomic_cell_load, a_thousand_wait_for_one_word) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(0);
  outcomes all;
  for (int i = 0; i < 1000; ++i)
    c.wait(0, all.next());
  settle();
  EXPECT_EQ(all.completed(), 0);
  change(c, 1);
  ASSERT_TRUE(run_to_end(io_));
  all.expect_all({});
}

TEST_F(atomic_cell_load, a_thousand_are_cancelled) {
  mapped_file file = created(page());
  outcomes all;
  for (std::uint64_t i = 0; i < 1000; ++i)
    file.atomic<std::uint32_t>(4 * (i % 500)).wait(0, all.next());
  settle();
  file.cancel();
  ASSERT_TRUE(run_to_end(io_));
  all.expect_all(aborted);
}

TEST_F(atomic_cell_load, many_words_are_waited_for_at_a_time) {
  mapped_file file = created(page());
  constexpr std::uint64_t words = 600;
  outcomes all;
  const auto span = file.map().atomics<std::uint32_t>(0, words);
  for (std::uint64_t i = 0; i < words; ++i)
    file.atomic<std::uint32_t>(4 * i).wait(0, all.next());
  settle();
  EXPECT_EQ(all.completed(), 0);
  for (std::uint64_t i = 0; i < words; ++i) {
    change(span[i * 7 % words], 1);
    if (i % 50 == 0) {
      EXPECT_TRUE(run_for([&] { return all.completed() >= static_cast<int>(i); }));
    }
  }
  ASSERT_TRUE(run_to_end(io_));
  all.expect_all({});
}

TEST_F(atomic_cell_load, does_not_keep_other_verbs_waiting) {
  // More than the completion queue of a ring has room for.
  constexpr int waits = 6000;
  mapped_file file = created(64 * page());
  const cell c = file.atomic<std::uint32_t>(0);
  outcomes all;
  for (int i = 0; i < waits; ++i)
    c.wait(0, all.next());
  settle();
  run([&]() -> work {
    const std::string bytes = support::pattern(8 * page());
    std::string back(bytes.size(), '\0');
    for (int i = 0; i < 20; ++i) {
      co_await file.update_region(page(), asio::buffer(bytes));
      co_await file.flush();
      co_await file.prefetch(0, 64 * page());
      co_await file.read_into(page(), asio::buffer(back));
    }
    co_await file.resize(65 * page());
    EXPECT_TRUE(support::same(back, bytes));
  });
  EXPECT_EQ(all.completed(), 0);
  change(c, 1);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(all.completed(), waits);
  all.expect_all({});
}

TEST_F(atomic_cell_lifetime, outlives_the_cell_and_the_file) {
  outcome o;
  {
    mapped_file file = created(page());
    file.atomic<std::uint32_t>(0).wait(0, o.handler());
  }
  settle();
  EXPECT_EQ(o.calls, 0);
  change(mapping(path_, read_write()).atomic<std::uint32_t>(0), 1);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(o.ok());
}

TEST_F(atomic_cell_lifetime, is_in_the_way_of_a_shrink) {
  mapped_file file = created(2 * page());
  outcome o;
  file.atomic<std::uint32_t>(page()).wait(0, o.handler());
  settle();
  EXPECT_EQ(code_of([&] { file.map().resize(page()); }), errc::pinned);
  outcome cut;
  file.resize(page(), cut.handler());
  settle();
  EXPECT_EQ(cut.calls, 0);
  change(mapping(path_, read_write()).atomic<std::uint32_t>(page()), 1);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(o.ok());
  EXPECT_TRUE(cut.ok());
  EXPECT_EQ(file.size(), page());
}

TEST_F(atomic_cell_lifetime, ends_unheard_with_its_context) {
  outcomes all;
  {
    asio::io_context io;
    mapped_file file(io);
    run_coroutine(io, [&]() -> work { co_await file.open(path_, support::creating(page())); });
    for (std::uint64_t i = 0; i < 300; ++i) {
      file.atomic<std::uint32_t>(4 * i).wait(0, all.next());
      if (i % 3 == 0) io.poll();
    }
  }
  EXPECT_EQ(all.completed(), 0);
  EXPECT_FALSE(support::is_mapped(path_));
}

TEST_F(atomic_cell_lifetime, leaves_the_word_to_be_flushed) {
  mapped_file file = created(2 * page());
  run([&]() -> work {
    co_await file.flush();
    const cell c = file.atomic<std::uint32_t>(page());
    const auto before = file.stats().syncs;
    c.store(1);
    co_await file.flush_range(page(), 4);
    EXPECT_EQ(file.stats().syncs, before + 1);
    c.store(2);
    co_await file.flush_range(page(), 4);
    EXPECT_EQ(file.stats().syncs, before + 2);
  });
  EXPECT_EQ(file.pending_bytes(), page());
}

// To the kernel a page at which one waits is one that is stored to, also when the cell is gone.
TEST_F(atomic_cell_lifetime, leaves_the_word_that_is_waited_for_to_be_flushed) {
  mapped_file file = created(2 * page());
  outcome o;
  file.atomic<std::uint32_t>(page()).wait(0, o.handler());
  run([&]() -> work {
    co_await file.flush();
    const auto before = file.stats().syncs;
    co_await file.flush_range(page(), 4);
    EXPECT_EQ(file.stats().syncs, before + 1);
    co_await file.flush_range(0, 4);
    EXPECT_EQ(file.stats().syncs, before + 1);
  });
  EXPECT_EQ(o.calls, 0);
  change(mapping(path_, read_write()).atomic<std::uint32_t>(page()), 1);
  finish(o);
  EXPECT_EQ(file.pending_bytes(), page());
}

}  // namespace
