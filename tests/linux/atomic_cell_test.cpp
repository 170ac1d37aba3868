// What of atomic_cell_test.cpp is about Linux.

#include <mapio/atomic_cell.hpp>

#include "atomic_cell_fixture.hpp"
#include "faults/seccomp_filter.hpp"
#include "linux/linux_support.hpp"
#include "mapped_file_fixture.hpp"

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
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <system_error>

#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

namespace {

using mapio::errc;
using mapio::mapped_file;
using mapio::mapping;
using support::aborted;
using support::atomic_cell_test;
using support::eventually;
using support::outcome;
using support::outcomes;
using support::page;
using support::read_write;
using support::run_coroutine;
using support::run_to_end;
using support::run_until;

using atomic_cell_wait = atomic_cell_test;
using atomic_cell_errors = atomic_cell_test;
using atomic_cell_processes = atomic_cell_test;
using atomic_cell_fallback = atomic_cell_test;

TEST_F(atomic_cell_wait, sees_a_change_that_comes_before_the_loop_gets_to_it) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(0);
  outcome first;
  c.wait(0, first.handler());
  settle();
  change(c, 1);
  finish(first);
  const auto threads = [] {
    return std::distance(support::fs::directory_iterator("/proc/self/task"), {});
  };
  const auto before = threads();
  outcome o;
  c.wait(1, o.handler());
  change(c, 2);  // and on a ring nobody waits yet
  finish(o);
  EXPECT_TRUE(o.ok());
  // A pool has more and more of them, until it has all.
  if (mapio::backend_of(io_).kind == mapio::backend_kind::io_uring) {
    EXPECT_EQ(threads(), before) << "it is an answer, and no reason to try elsewhere";
  }
}

TEST_F(atomic_cell_errors, in_a_forked_child) {
  mapped_file file = created(page());
  const cell c = file.atomic<std::uint32_t>(0);
  const auto end = support::in_child([&] {
    outcome o;
    c.wait(0, o.handler());
    finish(o);
    EXPECT_EQ(o.error, errc::unsupported);
    change(c, 1);
  });
  EXPECT_TRUE(end.ok()) << end;
  EXPECT_EQ(c.load(), 1U);
}

/// One of two processes that take turns. Even values: the one with `mine` 0 is to move.
void take_turns(const support::fs::path& path, std::uint32_t mine, std::uint32_t rounds) {
  asio::io_context io;
  run_coroutine(io, [&]() -> asio::awaitable<void> {
    mapped_file file(io);
    co_await file.open(path, read_write());
    const auto turn = file.atomic<std::uint32_t>(0);
    const auto sum = file.atomic<std::uint64_t>(8);
    for (std::uint32_t i = mine; i < 2 * rounds; i += 2) {
      for (std::uint32_t seen = turn.load(); seen != i; seen = turn.load())
        co_await turn.wait(seen);
      // Not atomic together: it is the turn that keeps the other away.
      sum.store(sum.load(std::memory_order_relaxed) + i, std::memory_order_relaxed);
      turn.store(i + 1);
      turn.notify_one();
    }
  });
}

TEST_F(atomic_cell_processes, take_turns) {
  constexpr std::uint32_t rounds = support::as_often_as(100'000);
  mapping m = mapping::create(path_, page());
  const pid_t child = support::start_child([&] { take_turns(path_, 1, rounds); });
  take_turns(path_, 0, rounds);
  EXPECT_TRUE(support::wait_for_child(child).ok());
  EXPECT_EQ(m.atomic<std::uint64_t>(8).load(), std::uint64_t{rounds} * (2 * rounds - 1));
}

TEST_F(atomic_cell_processes, are_woken_by_one_that_blocks) {
  mapping m = mapping::create(path_, page());
  const pid_t child = support::start_child([&] {
    mapping mine(path_, read_write());
    const auto c = mine.atomic<std::uint32_t>(0);
    c.wait(0);
    change(c, 2);
  });
  mapped_file file = opened(read_write());
  run([&]() -> work {
    const cell c = file.atomic<std::uint32_t>(0);
    change(c, 1);
    co_await c.wait(1);
    EXPECT_EQ(c.load(), 2U);
  });
  EXPECT_TRUE(support::wait_for_child(child).ok());
}

TEST_F(atomic_cell_processes, whose_notifier_was_killed_can_cancel) {
  mapping m = mapping::create(path_, page());
  const pid_t child = support::start_child([&] {
    mapping mine(path_, read_write());
    mine.atomic<std::uint32_t>(4).store(1);
    for (;;)
      ::pause();
  });
  ASSERT_TRUE(eventually([&] { return m.atomic<std::uint32_t>(4).load() == 1; }));
  mapped_file file = opened(read_write());
  asio::cancellation_signal signal;
  outcome o;
  file.atomic<std::uint32_t>(0).wait(0, asio::bind_cancellation_slot(signal.slot(), o.handler()));
  settle();
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  EXPECT_TRUE(support::wait_for_child(child).killed_by(SIGKILL));
  settle();
  EXPECT_EQ(o.calls, 0);
  signal.emit(asio::cancellation_type::total);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(o.error, aborted);
}

/// Waits, wakes and cancels, for many words at once.
void expect_to_work(const support::fs::path& path) {
  asio::io_context io;
  mapped_file file(io);
  run_coroutine(
      io, [&]() -> asio::awaitable<void> { co_await file.open(path, support::creating(page())); });
  for (int round = 0; round < 3; ++round) {
    outcomes woken;
    outcomes cancelled;
    mapped_file other(io.get_executor(), file.map());
    for (std::uint64_t i = 0; i < 200; ++i) {
      const auto c = file.atomic<std::uint32_t>(4 * i);
      c.store(0);
      c.wait(0, woken.next());
      other.atomic<std::uint32_t>(4 * i).wait(0, cancelled.next());
    }
    io.restart();
    io.poll();
    other.cancel();
    ASSERT_TRUE(run_until(io, [&] { return cancelled.completed() == 200; }));
    cancelled.expect_all(aborted);
    EXPECT_EQ(woken.completed(), 0);
    for (const auto word : file.map().atomics<std::uint32_t>(0, 200)) {
      word.store(1);
      word.notify_all();
    }
    ASSERT_TRUE(run_to_end(io));
    woken.expect_all({});
  }
}

TEST_F(atomic_cell_fallback, where_one_cannot_wait_for_several_words) {
  constexpr long futex_waitv = 449;
  const auto end = support::in_fresh_process([&] {
    faults::deny({futex_waitv}, ENOSYS);
    expect_to_work(path_);
  });
  EXPECT_TRUE(end.ok()) << end;
}

TEST_F(atomic_cell_fallback, where_the_ring_is_forbidden_with_waits_under_way) {
  const auto end = support::in_fresh_process([&] {
    outcomes all;
    outcomes unheard;
    {
      mapped_file file = created(page());
      mapped_file other(io_.get_executor(), file.map());
      for (std::uint64_t i = 0; i < 20; ++i) {
        file.atomic<std::uint32_t>(4 * i).wait(0, all.next());
        other.atomic<std::uint32_t>(4 * i).wait(0, all.next());
      }
      asio::io_context io;
      const mapped_file third(asio::any_io_executor(io.get_executor()), file.map());
      for (std::uint64_t i = 0; i < 20; ++i)
        third.atomic<std::uint32_t>(4 * i).wait(0, unheard.next());
      settle();
      io.poll();
      faults::deny({SYS_io_uring_enter}, EPERM);
      other.cancel();
      ASSERT_TRUE(run_for([&] { return all.completed() == 20; }));
      for (const auto word : file.map().atomics<std::uint32_t>(0, 20))
        change(word, 1);
      ASSERT_TRUE(run_to_end(io_));
      int cancelled = 0;
      all.each([&](const outcome& o) { cancelled += o.error == aborted ? 1 : 0; });
      EXPECT_EQ(cancelled, 20);
      outcome begun_later;
      file.atomic<std::uint32_t>(0).wait(1, begun_later.handler());
      settle();
      EXPECT_EQ(begun_later.calls, 0);
      change(file.map().atomic<std::uint32_t>(0), 2);
      ASSERT_TRUE(run_to_end(io_));
      EXPECT_TRUE(begun_later.ok());
    }
    EXPECT_EQ(unheard.completed(), 0) << "and a context ends";
  });
  EXPECT_TRUE(end.ok()) << end;
}

}  // namespace
