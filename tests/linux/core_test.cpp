// What of core_test.cpp is about Linux.

#include "core_fixture.hpp"
#include "linux/linux_support.hpp"

#include "backend/io_uring.hpp"
#include "backend/thread_pool.hpp"
#include "core/copy_window.hpp"
#include "core/dirty_pages.hpp"
#include "core/engine.hpp"
#include "core/extent.hpp"
#include "core/file_state.hpp"
#include "core/flush_scheduler.hpp"
#include "core/page_locks.hpp"
#include "core/range_set.hpp"
#include "core/recent_pages.hpp"
#include "faults/seccomp_filter.hpp"
#include "faults/syscall_gate.hpp"
#include "platform/scheduling.hpp"

#include <mapio/mapped_file.hpp>

#include <array>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

using namespace mapio;          // NOLINT: the internals are all there
using namespace mapio::detail;  // NOLINT
using platform::scheduling;
using support::counted;
using support::open_state;
using support::page;
using support::transfer;

TEST(PageLocks, StayWhereTheOsDoesNotTakeThemBack) {
  if (!support::locks_work) GTEST_SKIP() << "a sanitizer makes mlock do nothing";
  const support::temp_dir dir;
  const auto state = open_state(dir / "f", 4 * page());
  const extent& e = *state->mapped();
  page_locks locks;
  const std::atomic<bool> wanted{false};
  ASSERT_FALSE(locks.lock(e, 0, 4 * page(), wanted));
  faults::syscall_gate gate({SYS_munlock}, [](const faults::syscall_gate::call&) {
    return faults::syscall_gate::fail(ENOMEM);
  });
  if (!gate.run([&] { EXPECT_EQ(locks.unlock(e, 0, page()), std::errc::not_enough_memory); }))
    GTEST_SKIP() << "seccomp does not let us fail system calls";
  EXPECT_TRUE(locks.any(0, page())) << "who moves the mapping would leave it unlocked";
  ASSERT_FALSE(locks.unlock(e, 0, 4 * page()));
  EXPECT_FALSE(locks.any(0, 4 * page()));
}

class ring_engine : public testing::Test {
 protected:
  void make(unsigned entries = 0) {
    std::string reason;
    std::error_code error;
    ring_ = make_io_uring(io_, reason, error, entries);
    if (!ring_) GTEST_SKIP() << "no io_uring here: " << reason;
  }
  void TearDown() override {
    if (ring_) ring_->shut_down();
  }

  // The context goes first: it may still have a turn of the ring in its queue.
  std::unique_ptr<backend> ring_;
  asio::io_context io_;
};

struct pipe_ends {
  pipe_ends() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0)
      throw std::system_error(errno, std::system_category(), "pipe2");
    read = support::unique_fd(fds[0]);
    write = support::unique_fd(fds[1]);
  }
  support::unique_fd read;
  support::unique_fd write;
};

TEST_F(ring_engine, MoreOperationsThanEntriesAndCompletionsAllCompleteOnce) {
  make(2);  // and room for 32 completions
  if (!ring_) return;
  const support::temp_dir dir;
  support::write_file(dir / "f", support::pattern(page()));
  const support::unique_fd file = support::open_fd(dir / "f", O_RDWR);
  std::vector<transfer> ops(2000);
  for (std::size_t i = 0; i < ops.size(); ++i) {
    ops[i].set(i % 3 == 0 ? call::sync : call::read_file, file, i % page());
    ring_->submit(ops[i]);
  }
  ASSERT_TRUE(support::run_to_end(io_));
  const std::string expected = support::pattern(page());
  for (std::size_t i = 0; i < ops.size(); ++i) {
    ASSERT_EQ(ops[i].count_done, 1);
    ASSERT_FALSE(ops[i].error) << ops[i].error.message();
    if (i % 3 != 0) {
      ASSERT_EQ(ops[i].byte, expected[i % page()]);
    }
  }
}

TEST_F(ring_engine, AnOperationOutlivesTheThreadThatSubmittedIt) {
  make();
  if (!ring_) return;
  const pipe_ends pipe;
  transfer op(call::read_file, pipe.read);
  ring_->submit(op);
  // The submission happens in a turn of the loop, on a thread that leaves right after it. The
  // kernel cancels what it left.
  std::thread([this] { io_.run_one(); }).join();
  EXPECT_EQ(op.count_done, 0);
  io_.restart();
  io_.run_for(std::chrono::milliseconds(
      100));  // long enough for the cancellation to arrive, if it is to be delivered
  EXPECT_EQ(op.count_done, 0);
  ASSERT_EQ(::write(pipe.write.get(), "y", 1), 1);
  EXPECT_TRUE(support::run_until(io_, [&] { return op.count_done != 0; }));
  EXPECT_EQ(op.count_done, 1);
  EXPECT_FALSE(op.error) << op.error.message();
  EXPECT_EQ(op.byte, 'y');
}

TEST_F(ring_engine, ARunningOperationIsCancelledOnRequest) {
  make();
  if (!ring_) return;
  const pipe_ends pipe;
  transfer op(call::read_file, pipe.read);
  ring_->submit(op);
  io_.run_one();
  op.cancel_requested = true;
  EXPECT_FALSE(ring_->withdraw(op, true));
  ASSERT_TRUE(support::run_to_end(io_));
  EXPECT_EQ(op.count_done, 1);
  EXPECT_EQ(op.error, asio::error::operation_aborted);
}

TEST_F(ring_engine, AQueuedOperationIsTakenOut) {
  make();
  if (!ring_) return;
  const pipe_ends pipe;
  counted op;
  op.what = call::read_file;
  op.handle = pipe.read.get();
  ring_->submit(op);
  EXPECT_TRUE(ring_->withdraw(op, true));
  EXPECT_FALSE(ring_->withdraw(op, true));
  ASSERT_TRUE(support::run_to_end(io_));
  EXPECT_EQ(op.count_done, 0);
}

TEST_F(ring_engine, WhatIsPartlyDoneIsOnlyTakenOutOnInterrupt) {
  make();
  if (!ring_) return;
  const pipe_ends pipe;
  counted op;
  op.what = call::write_file;
  op.handle = pipe.write.get();
  op.count = 2;
  op.transferred = 1;  // and queued again for the rest
  ring_->submit(op);
  EXPECT_FALSE(ring_->withdraw(op, false));
  EXPECT_TRUE(ring_->withdraw(op, true));
}

TEST_F(ring_engine, ARefusedCallIsNotMade) {
  make();
  if (!ring_) return;
  const support::temp_dir dir;
  support::write_file(dir / "f", "..");
  const support::unique_fd file = support::open_fd(dir / "f", O_RDWR);
  static std::array<std::uint64_t, 4> batches;
  std::array<transfer, 4> ops;
  for (std::size_t i = 0; i < ops.size(); ++i) {
    transfer& op = ops[i];
    op.set(call::write_file, file, i % 2);
    op.offset = i;
    op.is_refused = [](operation* self, std::uint64_t batch) noexcept {
      batches[self->offset] = batch;
      if (self->at == 1) self->error = errc::page_fault;
      return self->at == 1;
    };
  }
  for (std::size_t i = 0; i < ops.size(); i += 2) {
    ring_->submit(ops[i]);
    ring_->submit(ops[i + 1]);
    ASSERT_TRUE(support::run_to_end(io_));
  }
  for (const counted& op : ops) {
    EXPECT_EQ(op.count_done, 1);
    EXPECT_EQ(op.transferred, op.at == 1 ? 0U : 1U);
    EXPECT_EQ(op.error, op.at == 1 ? make_error_code(errc::page_fault) : std::error_code());
  }
  EXPECT_EQ(support::read_file(dir / "f"), "x.");
  EXPECT_EQ(batches[0], batches[1]) << "submitted at once";
  EXPECT_EQ(batches[2], batches[3]);
  EXPECT_NE(batches[0], batches[2]);
}

// Total cancellation promises that nothing happened; a read under way is filling buffers.
TEST(RingCancellation, TotalLeavesARunningReadAlone) {
  asio::io_context io;
  if (const auto error = support::code_of([&] { use_backend(io, backend_kind::io_uring); }))
    GTEST_SKIP() << "there is no io_uring here: " << error.message();
  const auto home = engine_of(io);
  ASSERT_FALSE(home->ensure_started());
  const pipe_ends pipe;
  transfer op(call::read_file, pipe.read);
  op.kind = verb::read;
  op.home = home;
  std::atomic<cancel_link*> end{nullptr};
  cancel_link link(op, end);
  ASSERT_TRUE(home->enroll(op));
  home->submit(op);
  io.run_one();
  cancel(link, asio::cancellation_type::total);
  EXPECT_FALSE(op.cancel_requested);
  io.run_for(std::chrono::milliseconds(100));  // long enough for a cancellation to arrive
  EXPECT_EQ(op.count_done, 0);
  ASSERT_EQ(::write(pipe.write.get(), "y", 1), 1);
  EXPECT_TRUE(support::run_until(io, [&] { return op.count_done != 0; }));
  EXPECT_FALSE(op.error) << op.error.message();
  EXPECT_EQ(op.byte, 'y');
  cancel_link::cut(op, end);
  home->forget(op);
}

TEST_F(ring_engine, WhatIsQueuedAtTheEndIsDropped) {
  make();
  if (!ring_) return;
  const pipe_ends pipe;
  counted op;
  op.what = call::read_file;
  op.handle = pipe.read.get();
  ring_->submit(op);
  ring_->shut_down();
  EXPECT_EQ(op.count_done, 1);
  EXPECT_TRUE(op.dropped);
}

TEST_F(ring_engine, TheLoopEndsWhenNothingIsInFlight) {
  make();
  if (!ring_) return;
  const support::temp_dir dir;
  support::write_file(dir / "f", "x");
  const support::unique_fd file = support::open_fd(dir / "f", O_RDWR);
  for (int i = 0; i < 3; ++i) {
    counted op;
    op.what = call::sync;
    op.handle = file.get();
    ring_->submit(op);
    ASSERT_TRUE(support::run_to_end(io_));
    EXPECT_EQ(op.count_done, 1);
  }
}

// A read of more buffers than go into one call is answered at once and in part.
TEST_F(ring_engine, TheRestOfAnOperationDoesNotWaitForAnother) {
  make();
  if (!ring_) return;
  const pipe_ends pipe;
  transfer slow(call::read_file, pipe.read);
  ring_->submit(slow);
  io_.run_one();
  const support::temp_dir dir;
  const std::string content = support::pattern(100);
  support::write_file(dir / "f", content);
  const support::unique_fd file = support::open_fd(dir / "f", O_RDWR);
  std::string bytes(content.size(), '\0');
  std::vector<asio::const_buffer> buffers;
  for (char& c : bytes)
    buffers.emplace_back(&c, 1);
  counted op;
  op.what = call::read_file;
  op.handle = file.get();
  op.count = bytes.size();
  op.buffers = buffers.data();
  op.buffer_count = buffers.size();
  ring_->submit(op);
  for (int i = 0; i < 50 && op.count_done == 0; ++i)
    io_.run_for(std::chrono::milliseconds(100));
  EXPECT_EQ(op.count_done, 1);
  EXPECT_EQ(bytes, content);
  EXPECT_EQ(slow.count_done, 0);
  ASSERT_EQ(::write(pipe.write.get(), "x", 1), 1);
  ASSERT_TRUE(support::run_to_end(io_));
}

// The thread that should run the loop is blocked behind an operation that only the loop submits.
TEST_F(ring_engine, HelpCarriesAnOperationOutWithoutTheLoop) {
  make();
  if (!ring_) return;
  const support::temp_dir dir;
  support::write_file(dir / "f", "x");
  const support::unique_fd file = support::open_fd(dir / "f", O_RDWR);
  counted op;
  op.what = call::sync;
  op.handle = file.get();
  ring_->submit(op);
  EXPECT_TRUE(support::eventually([&] {
    ring_->help();
    return op.count_done == 1;
  }));
  EXPECT_FALSE(op.error) << op.error.message();
  // The loop finds nothing left to do, and what comes later takes its usual way.
  ASSERT_TRUE(support::run_to_end(io_));
  ring_->submit(op);
  ASSERT_TRUE(support::run_to_end(io_));
  EXPECT_EQ(op.count_done, 2);
  ring_->shut_down();
  ring_->help();
}

// A filter that comes when the ring is in use: the kernel then refuses submissions for good.
TEST(RingInAChild, ThePoolTakesOverWhenSubmissionIsForbiddenLater) {
  const support::temp_dir dir;
  support::write_file(dir / "f", "x");
  const support::child_end end = support::in_child([&] {
    asio::io_context io;
    std::string reason;
    std::error_code error;
    const auto ring = make_io_uring(io, reason, error);
    if (!ring) return;  // forbidden from the start: another test's business
    const support::unique_fd file = support::open_fd(dir / "f", O_RDWR);
    faults::deny({SYS_io_uring_enter}, EPERM);
    counted op;
    op.what = call::sync;
    op.handle = file.get();
    ring->submit(op);
    EXPECT_TRUE(support::eventually([&] {
      io.restart();
      io.run_for(std::chrono::milliseconds(10));
      return op.count_done == 1;
    }));
    EXPECT_FALSE(op.error) << op.error.message();
    ring->shut_down();
  });
  EXPECT_TRUE(end.ok()) << end;
}

// No thread may start any more: what the ring cannot do must still be done, by the one that is
// there, and never while the ring is locked.
TEST(RingInAChild, WhatGoesToThePoolIsDoneWhereNoThreadIsToBeHad) {
  const support::child_end end = support::in_child([&] {
    asio::io_context io;
    std::string reason;
    std::error_code error;
    const auto ring = make_io_uring(io, reason, error);
    if (!ring) return;
    const pipe_ends pipe;
    ASSERT_EQ(::write(pipe.write.get(), "x", 1), 1);
    faults::deny({SYS_clone, SYS_clone3}, EAGAIN);
    struct chained final : operation {
      backend* where = nullptr;
      counted* next_one = nullptr;
      std::atomic<bool> is_done{false};
    };
    counted second;
    second.what = call::work;
    second.work = [](operation* op) noexcept { op->transferred = 1; };
    chained first;
    first.where = ring.get();
    first.next_one = &second;
    first.done = [](operation* op) noexcept {
      auto* self = static_cast<chained*>(op);
      static_cast<void>(self->where->withdraw(*self, true));
      self->where->submit(*self->next_one);
      self->is_done = true;
    };
    // No memory of ours: EFAULT, which the pool is to confirm.
    const asio::const_buffer nowhere(reinterpret_cast<void*>(16), 1);
    first.what = call::read_file;
    first.handle = pipe.read.get();
    first.count = 1;
    first.buffers = &nowhere;
    first.buffer_count = 1;
    ring->submit(first);
    EXPECT_TRUE(support::eventually([&] {
      io.restart();
      io.run_for(std::chrono::milliseconds(10));
      return first.is_done && second.count_done == 1;
    }));
    EXPECT_TRUE(first.error);
    EXPECT_EQ(second.transferred, 1U) << "the work was done";
    ring->shut_down();
  });
  EXPECT_TRUE(end.ok()) << end;
}

TEST(Workers, AskForALongSliceAndChangeNothingElse) {
  scheduling before;
  scheduling after;
  std::thread([&] {
    EXPECT_EQ(::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), 3), 0);
    EXPECT_EQ(::syscall(SYS_sched_getattr, 0, &before, sizeof before, 0), 0);
    platform::let_others_preempt();
    EXPECT_EQ(::syscall(SYS_sched_getattr, 0, &after, sizeof after, 0), 0);
  }).join();
  EXPECT_EQ(after.policy, before.policy);
  EXPECT_EQ(after.nice, 3);
  // A kernel before 6.12 says nothing of slices and knows none.
  if (before.slice == 0) GTEST_SKIP() << "no slices per thread on this kernel";
  EXPECT_GT(after.slice, before.slice);
}

TEST(Workers, OfThePoolLetOthersPreempt) {
  scheduling mine;
  scheduling of_the_worker;
  ASSERT_EQ(::syscall(SYS_sched_getattr, 0, &mine, sizeof mine, 0), 0);
  {
    thread_pool pool(1);
    struct look final : operation {
      scheduling* result = nullptr;
      std::atomic<bool> is_done{false};
    };
    look op;
    op.result = &of_the_worker;
    op.what = call::work;
    op.work = [](operation* self) noexcept {
      scheduling& result = *static_cast<look*>(self)->result;
      static_cast<void>(::syscall(SYS_sched_getattr, 0, &result, sizeof result, 0));
    };
    op.done = [](operation* self) noexcept { static_cast<look*>(self)->is_done = true; };
    pool.submit(op);
    EXPECT_TRUE(support::eventually([&] { return op.is_done.load(); }));
  }
  if (mine.slice == 0) GTEST_SKIP() << "no slices per thread on this kernel";
  EXPECT_GT(of_the_worker.slice, mine.slice);
}

}  // namespace
