// What of mapped_file_flush_test.cpp is about Linux.

#include <mapio/mapped_file.hpp>

#include "faults/syscall_gate.hpp"
#include "linux/linux_support.hpp"
#include "mapped_file_fixture.hpp"
#include "mapped_file_flush_fixture.hpp"

#include <mapio/backend.hpp>

#include <asio/awaitable.hpp>
#include <asio/bind_allocator.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include <sys/inotify.h>
#include <sys/resource.h>
#include <unistd.h>

namespace {

namespace fs = std::filesystem;
using namespace asio::experimental::awaitable_operators;
using mapio::errc;
using mapio::mapped_file;
using mapio::open_options;
using mapio::write_path;
using support::aborted;
using support::copy_on_write;
using support::creating;
using support::eventually;
using support::into;
using support::mapped_file_resize;
using support::mapped_file_test;
using support::outcome;
using support::page;
using support::pattern;
using support::read_all;
using support::read_write;
using support::run_to_end;
using support::run_until;
using support::same;
using support::write_file;

using mapped_file_announce = mapped_file_test;

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

  /// Starts a flush whose sync is held.
  template <class Handler>
  void hold_flush(asio::io_context& io, mapped_file& file, Handler handler) {
    hold_next_ = true;
    file.flush(std::move(handler));
    io.restart();
    io.poll();
    gate_.wait_until_held();
  }

  template <class Action>
  void expect_waiters_to_be_let_go_by(Action action) {
    on_the_pool([&](asio::io_context& io, mapped_file& file) {
      outcome running;
      outcome queued;
      outcome closed;
      hold_flush(io, file, running.handler());
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
    outcome first;
    hold_flush(io, file, first.handler());
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
    asio::cancellation_signal signal;
    outcome cancelled;
    outcome stays;
    hold_flush(io, file, asio::bind_cancellation_slot(signal.slot(), cancelled.handler()));
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
    outcome whole;
    outcome clean;
    outcome dirty;
    hold_flush(io, file, whole.handler());
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
    std::array<outcome, 3> waiters;
    hold_flush(io, file, waiters[0].handler());
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
    outcome o;
    hold_flush(io, file, o.handler());
    file = mapped_file(io);  // the last handle
    file.cancel();
    EXPECT_TRUE(support::is_open_descriptor(fd));
    gate_.release();
    ASSERT_TRUE(run_to_end(io));
    EXPECT_TRUE(o.ok());
    EXPECT_TRUE(eventually([&] { return !support::is_open_descriptor(fd); }));
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

}  // namespace
