// What of flush_policy_test.cpp is about Linux.

#include "faults/syscall_gate.hpp"
#include "flush_policy_fixture.hpp"
#include "linux/linux_support.hpp"

#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include <unistd.h>

namespace {

using namespace std::chrono_literals;
using faults::syscall_gate;
using mapio::errc;
using mapio::flush_policy;
using mapio::mapped_file;
using mapio::mapping;
using support::clean;
using support::code_of;
using support::flush_policy_test;
using support::following;
using support::mapped_file_policy;
using support::outcome;
using support::page;
using support::store;

using mapping_policy = flush_policy_test;

TEST_F(mapping_policy, always_shares_the_sync_of_updates_at_the_same_time) {
  std::atomic<bool> hold_next = false;
  syscall_gate gate(syscall_gate::syncs(), [&](const syscall_gate::call&) {
    return hold_next.exchange(false) ? syscall_gate::hold : syscall_gate::pass;
  });
  const bool possible = gate.run([&] {
    constexpr std::uint64_t others = 6;
    mapping m = clean(path_, flush_policy::always());
    const auto before = m.stats();
    hold_next = true;
    std::vector<std::thread> running;
    running.emplace_back([&] { store(m, 0); });
    gate.wait_until_held();
    for (std::uint64_t i = 1; i <= others; ++i)
      running.emplace_back([&m, i] { store(m, i); });
    EXPECT_TRUE(support::eventually(
        [&] { return m.stats().flush_calls == before.flush_calls + 1 + others; }));
    gate.release();
    for (std::thread& t : running)
      t.join();
    EXPECT_EQ(m.stats().syncs, before.syncs + 2);
    EXPECT_EQ(m.stats().sync_waiters, before.sync_waiters + 1 + others);
    EXPECT_EQ(m.pending_bytes(), 0U);
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us hold system calls";
}

const std::error_code io_error(EIO, std::system_category());

/// Runs a body whose syncs fail on demand, and counts them.
class mapping_policy_failure : public flush_policy_test {
 protected:
  void run(const std::function<void()>& body) {
    if (!gate_.run(body)) GTEST_SKIP() << "seccomp does not let us fail system calls";
  }

  std::atomic<int> fail_next_ = 0;
  syscall_gate gate_{syscall_gate::syncs(), [this](const syscall_gate::call&) {
                       if (fail_next_ <= 0) return syscall_gate::pass;
                       --fail_next_;
                       return syscall_gate::fail(EIO);
                     }};
};

TEST_F(mapping_policy_failure, of_always_is_the_updates_own) {
  run([&] {
    mapping m = clean(path_, flush_policy::always());
    fail_next_ = 1;
    std::error_code error;
    EXPECT_EQ(m.update_region(page(), asio::buffer("abc", 3), error), 3U);
    EXPECT_EQ(error, io_error);
    EXPECT_EQ(m.update_region(2 * page(), asio::buffer("abc", 3), error), 0U);
    EXPECT_EQ(error, errc::flush_failed);
    m.clear_flush_error();
    m.update_region(2 * page(), asio::buffer("abc", 3), error);
    EXPECT_FALSE(error) << error.message();
    // Not what was lost, unless it is written again.
    m.flush_range(page(), 1, error);
    EXPECT_EQ(error, errc::flush_failed);
  });
}

TEST_F(mapping_policy_failure, of_a_triggered_flush_poisons_and_is_reported_by_the_next_call) {
  for (const flush_policy policy : {flush_policy::every_bytes(2), flush_policy::every_writes(2)}) {
    run([&] {
      mapping m = clean(path_, policy);
      store(m, 0);
      fail_next_ = 1;
      EXPECT_FALSE(code_of([&] { store(m, 1); })) << "it was stored";
      EXPECT_EQ(m.flush_error(), io_error);
      EXPECT_EQ(code_of([&] { store(m, 2); }), errc::flush_failed);
      char byte = 1;
      m.read_into(2 * page(), asio::buffer(&byte, 1));
      EXPECT_EQ(byte, 0) << "nothing may be written that the policy cannot make durable";
      EXPECT_EQ(code_of([&] { m.flush(); }), errc::flush_failed);
      EXPECT_EQ(code_of([&] { m.close(); }), errc::flush_failed);
      EXPECT_FALSE(m.is_open());
    });
  }
}

TEST_F(mapping_policy_failure, of_the_timer_poisons_and_is_reported_by_the_next_call) {
  run([&] {
    mapping m = clean(path_, flush_policy::every(5ms));
    fail_next_ = 1;
    store(m, 0);
    EXPECT_TRUE(support::eventually([&] { return m.flush_error() == io_error; }));
    EXPECT_EQ(code_of([&] { store(m, 2); }), errc::flush_failed);
    m.clear_flush_error();
    EXPECT_FALSE(code_of([&] { store(m, 0, page()); }));
    EXPECT_TRUE(support::eventually([&] { return m.pending_bytes() == 0; }));
  });
}

TEST_F(mapping_policy_failure, of_what_was_owed_at_the_end_is_the_closes) {
  run([&] {
    mapping m = clean(path_, flush_policy::every(1h));
    store(m, 0);
    fail_next_ = 1;
    EXPECT_EQ(code_of([&] { m.close(); }), io_error);
    EXPECT_FALSE(m.is_open());
    EXPECT_FALSE(code_of([&] { m.close(); }));
  });
}

// As long as its folder could not be synced, the name is owed.
TEST_F(mapping_policy_failure, of_the_name_is_the_closes_too) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  std::filesystem::permissions(dir_.path(), std::filesystem::perms(0755));
  const std::filesystem::path folder = dir_ / "folder";
  std::filesystem::create_directory(folder);
  std::filesystem::permissions(folder, std::filesystem::perms(0333));
  const auto end = support::in_child([&] {
    support::become_nobody();
    for (const flush_policy policy : {flush_policy::always(), flush_policy::every_writes(100),
                                      flush_policy::every(std::chrono::hours(1))}) {
      mapping m(folder / "file", following(policy));
      EXPECT_EQ(code_of([&] { m.flush(); }), std::errc::permission_denied);
      EXPECT_EQ(code_of([&] { m.close(); }), std::errc::permission_denied);
      std::filesystem::remove(folder / "file");
    }
  });
  EXPECT_TRUE(end.ok()) << end;
}

TEST_F(mapping_policy_failure, is_not_there_when_close_flushes_what_is_owed) {
  run([&] {
    for (const flush_policy policy : {flush_policy::every_bytes(1 << 20),
                                      flush_policy::every_writes(100), flush_policy::every(1h)}) {
      mapping m = clean(path_, policy);
      std::size_t syncs = gate_.count();
      m.close();
      EXPECT_EQ(gate_.count(), syncs) << "nothing was owed";
      m = clean(path_, policy);
      store(m, 0);
      syncs = gate_.count();
      m.close();
      EXPECT_EQ(gate_.count(), syncs + 1);
    }
  });
}

TEST_F(mapping_policy_failure, is_not_there_when_a_destructor_owes_a_flush_and_makes_none) {
  run([&] {
    std::size_t syncs = 0;
    {
      mapping m = clean(path_, flush_policy::every_writes(100));
      store(m, 0);
      syncs = gate_.count();
    }
    EXPECT_EQ(gate_.count(), syncs);
  });
}

/// The same where the syncs can be held and failed.
class mapped_file_policy_failure : public mapped_file_policy {
 protected:
  template <class Body>
  void on_the_pool(flush_policy policy, Body body) {
    if (!gate_.run([&] {
          asio::io_context io;
          mapio::use_backend(io, mapio::backend_kind::thread_pool);
          mapped_file file = opened_on(io, path_, policy);
          body(io, file);
        }))
      GTEST_SKIP() << "seccomp does not let us fail system calls";
  }

  std::atomic<int> fail_next_ = 0;
  std::atomic<bool> hold_next_ = false;
  syscall_gate gate_{syscall_gate::syncs(), [this](const syscall_gate::call&) {
                       if (hold_next_.exchange(false)) return syscall_gate::hold;
                       if (fail_next_ <= 0) return syscall_gate::pass;
                       --fail_next_;
                       return syscall_gate::fail(EIO);
                     }};
};

// A flush that is given up has flushed nothing: what was counted before it is owed still.
TEST_F(mapped_file_policy_failure, is_not_what_a_cancelled_flush_makes_of_the_count) {
  on_the_pool(flush_policy::every_writes(4), [&](asio::io_context& io, mapped_file& file) {
    const auto before = file.stats();
    hold_next_ = true;
    outcome running, given_up;
    file.map().update_region(0, asio::buffer("x", 1));
    file.flush(running.handler());
    io.restart();
    io.poll();
    gate_.wait_until_held();
    for (std::uint64_t i = 1; i < 4; ++i)
      file.map().update_region(i * page(), asio::buffer("x", 1));
    asio::cancellation_signal signal;
    file.flush(asio::bind_cancellation_slot(signal.slot(), given_up.handler()));
    signal.emit(asio::cancellation_type::all);
    EXPECT_TRUE(support::run_until(io, [&] { return given_up.calls == 1; }));
    EXPECT_EQ(given_up.error, asio::error::operation_aborted);
    EXPECT_EQ(file.stats().policy_flushes, before.policy_flushes);
    outcome last;
    file.update_region(5 * page(), asio::buffer("x", 1), last.handler());
    EXPECT_TRUE(support::run_until(io, [&] { return last.calls == 1; }));
    EXPECT_EQ(file.stats().policy_flushes, before.policy_flushes + 1);
    gate_.release();
    EXPECT_TRUE(support::run_to_end(io));
    EXPECT_TRUE(support::eventually([&] { return file.pending_bytes() == 0; }));
  });
}

TEST_F(mapped_file_policy_failure, of_always_reaches_every_update_of_the_batch) {
  on_the_pool(flush_policy::always(), [&](asio::io_context& io, mapped_file& file) {
    outcome running;
    std::deque<outcome> gathered(20);
    hold_next_ = true;
    file.update_region(0, asio::buffer("x", 1), running.handler());
    gate_.wait_until_held();
    for (std::uint64_t i = 0; i < gathered.size(); ++i)
      file.update_region((i + 1) * page(), asio::buffer("x", 1), gathered[i].handler());
    EXPECT_TRUE(
        support::eventually([&] { return file.stats().flush_calls == 2 + gathered.size(); }));
    fail_next_ = 1;
    gate_.release();
    ASSERT_TRUE(support::run_to_end(io));
    EXPECT_FALSE(running.error) << running.error.message();
    for (const outcome& o : gathered) {
      EXPECT_EQ(o.calls, 1);
      EXPECT_EQ(o.error, io_error);
      EXPECT_EQ(o.bytes, 1U) << "it was written";
    }
    outcome next;
    file.update_region(0, asio::buffer("y", 1), next.handler());
    ASSERT_TRUE(support::run_to_end(io));
    EXPECT_EQ(next.error, errc::flush_failed);
    EXPECT_EQ(next.bytes, 0U);
  });
}

TEST_F(mapped_file_policy_failure, of_a_triggered_flush_is_reported_by_the_next_call) {
  on_the_pool(flush_policy::every_writes(1), [&](asio::io_context& io, mapped_file& file) {
    fail_next_ = 1;
    outcome first;
    outcome next;
    outcome closed;
    file.update_region(0, asio::buffer("x", 1), first.handler());
    ASSERT_TRUE(support::run_to_end(io));
    EXPECT_FALSE(first.error);
    EXPECT_TRUE(support::eventually([&] { return file.map().flush_error() == io_error; }));
    file.update_region(0, asio::buffer("x", 1), next.handler());
    ASSERT_TRUE(support::run_to_end(io));
    EXPECT_EQ(next.error, errc::flush_failed);
    file.close(closed.handler());
    ASSERT_TRUE(support::run_to_end(io));
    EXPECT_EQ(closed.error, errc::flush_failed);
    EXPECT_FALSE(file.is_open());
  });
}

TEST_F(mapped_file_policy_failure, of_what_was_owed_at_the_end_is_the_closes) {
  on_the_pool(flush_policy::every(1h), [&](asio::io_context& io, mapped_file& file) {
    outcome stored;
    outcome closed;
    file.update_region(0, asio::buffer("x", 1), stored.handler());
    ASSERT_TRUE(support::run_to_end(io));
    fail_next_ = 1;
    file.close(closed.handler());
    ASSERT_TRUE(support::run_to_end(io));
    EXPECT_EQ(closed.error, io_error);
    EXPECT_FALSE(file.is_open());
    EXPECT_FALSE(support::is_mapped(path_));
  });
}

TEST_F(mapped_file_policy_failure, is_not_there_when_close_flushes_what_is_owed) {
  on_the_pool(flush_policy::every(1h), [&](asio::io_context& io, mapped_file& file) {
    const std::size_t syncs = gate_.count();
    outcome stored;
    outcome closed;
    file.update_region(0, asio::buffer("x", 1), stored.handler());
    ASSERT_TRUE(support::run_to_end(io));
    file.close(closed.handler());
    ASSERT_TRUE(support::run_to_end(io));
    EXPECT_FALSE(closed.error);
    EXPECT_EQ(gate_.count(), syncs + 1);
  });
}

TEST_F(mapped_file_policy_failure, is_not_what_a_cancelled_close_gets) {
  on_the_pool(flush_policy::every(1h), [&](asio::io_context& io, mapped_file& file) {
    outcome stored;
    outcome closed;
    file.update_region(0, asio::buffer("x", 1), stored.handler());
    ASSERT_TRUE(support::run_to_end(io));
    hold_next_ = true;
    asio::cancellation_signal signal;
    file.close(asio::bind_cancellation_slot(signal.slot(), closed.handler()));
    io.restart();
    io.poll();
    gate_.wait_until_held();
    signal.emit(asio::cancellation_type::terminal);
    file.cancel();
    io.restart();
    io.poll();
    EXPECT_EQ(closed.calls, 0) << "what the policy owes is not given up";
    gate_.release();
    ASSERT_TRUE(support::run_to_end(io));
    EXPECT_FALSE(closed.error) << closed.error.message();
    EXPECT_FALSE(file.is_open());
  });
}

TEST_F(mapped_file_policy_failure,
       is_an_abort_for_an_update_that_is_cancelled_before_its_sync_ends) {
  on_the_pool(flush_policy::always(), [&](asio::io_context& io, mapped_file& file) {
    hold_next_ = true;
    asio::cancellation_signal signal;
    outcome cancelled;
    file.update_region(0, asio::buffer("abc", 3),
                       asio::bind_cancellation_slot(signal.slot(), cancelled.handler()));
    gate_.wait_until_held();
    signal.emit(asio::cancellation_type::total);
    io.restart();
    io.poll();
    EXPECT_EQ(cancelled.calls, 0) << "something has happened: total cannot undo it";
    signal.emit(asio::cancellation_type::partial);
    EXPECT_TRUE(support::run_until(io, [&] { return cancelled.calls > 0; }));
    EXPECT_EQ(cancelled.error, asio::error::operation_aborted);
    EXPECT_EQ(cancelled.bytes, 3U) << "they are written, if not durable";
    gate_.release();
    ASSERT_TRUE(support::run_to_end(io));
    EXPECT_EQ(cancelled.calls, 1);
  });
}

}  // namespace
