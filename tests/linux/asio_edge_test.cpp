// What of asio_edge_test.cpp is about Linux.

#include "asio_edge_fixture.hpp"
#include "linux/linux_support.hpp"

#include "faults/seccomp_filter.hpp"

#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>

#include <asio/bind_allocator.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/execution_context.hpp>
#include <asio/use_future.hpp>

#include <chrono>
#include <cstdlib>
#include <vector>

namespace {

using mapio::mapped_file;
using support::asio_edge;
using support::page;

TEST_F(asio_edge, AnEngineThatServesDoesNotNeedMoreThreads) {
  const support::child_end end = support::in_fresh_process([&] {
    mapped_file file = open_file(page());
    ASSERT_NE(mapio::backend_of(io_).kind, mapio::backend_kind::automatic);
    faults::deny({SYS_clone, SYS_clone3}, EAGAIN);
    support::run_coroutine(io_, [&]() -> asio::awaitable<void> {
      co_await file.update_region(0, asio::buffer("abc", 3), asio::use_awaitable);
      co_await file.flush(asio::use_awaitable);
      co_await file.close(asio::use_awaitable);
    });
    EXPECT_FALSE(support::is_mapped(dir_ / "f"));
  });
  EXPECT_TRUE(end.ok()) << end;
}

TEST_F(asio_edge, WithoutAThreadAnEngineIsRefusedAndNothingIsLost) {
  const support::child_end end = support::in_fresh_process([&] {
    mapped_file file = open_file(page());
    faults::deny({SYS_clone, SYS_clone3}, EAGAIN);
    std::error_code error;
    file.close([&](std::error_code e) { error = e; });
    EXPECT_TRUE(support::run_to_end(io_));
    EXPECT_EQ(error, std::errc::resource_unavailable_try_again);
    EXPECT_TRUE(file.is_open());
  });
  EXPECT_TRUE(end.ok()) << end;
}

// A child that goes on running the context must not take what the kernel answers to its parent.
TEST_F(asio_edge, AForkedChildThatRunsTheContextLeavesTheParentAlone) {
  mapped_file file = open_file(64 << 20);
  const std::vector<char> bytes(4 << 20, 'x');
  for (const bool submitted : {true, false}) {
    int done = 0;
    constexpr int updates = 8;
    for (int i = 0; i < updates; ++i)
      file.update_region(static_cast<std::uint64_t>(i) * bytes.size(), asio::buffer(bytes),
                         [&](std::error_code error, std::size_t n) {
                           EXPECT_FALSE(error) << error.message();
                           EXPECT_EQ(n, bytes.size());
                           ++done;
                         });
    file.flush([&](std::error_code error) {
      EXPECT_FALSE(error) << error.message();
      ++done;
    });
    io_.restart();
    if (submitted) io_.poll();
    io_.notify_fork(asio::execution_context::fork_prepare);
    const support::child_end end = support::in_child([&] {
      io_.notify_fork(asio::execution_context::fork_child);
      io_.run_for(std::chrono::milliseconds(300));
      file.cancel();
      std::error_code error;
      file.flush([&](std::error_code e) { error = e; });
      io_.run_for(std::chrono::milliseconds(100));
      EXPECT_EQ(error, mapio::errc::unsupported);
    });
    EXPECT_TRUE(end.ok()) << end;
    io_.notify_fork(asio::execution_context::fork_parent);
    io_.run_for(std::chrono::seconds(20));
    EXPECT_EQ(done, updates + 1);
    if (done != updates + 1) std::abort();  // they refer to what is about to go
  }
}

}  // namespace
