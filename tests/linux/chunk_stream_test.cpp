// What of chunk_stream_test.cpp is about Linux.

#include <mapio/chunk_stream.hpp>
#include <mapio/file_operations.hpp>
#include <mapio/mapped_file.hpp>

#include "chunk_stream_fixture.hpp"
#include "faults/syscall_gate.hpp"
#include "linux/linux_support.hpp"
#include "mapped_file_fixture.hpp"

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/error.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace {

using mapio::chunk_stream;
using mapio::mapped_file;
using mapio::region;
using support::chunk_stream_test;
using support::mebibyte;
using support::outcome;

TEST_F(chunk_stream_test, that_goes_before_its_file_is_mapped_once_more_leaves_that_to_the_next) {
  constexpr std::size_t pool_threads = 4;
  std::vector<long> removals{SYS_unlinkat};
#ifdef SYS_unlink
  removals.push_back(SYS_unlink);
#endif
  faults::syscall_gate gate(std::move(removals), [](const faults::syscall_gate::call&) {
    return faults::syscall_gate::hold;
  });
  const std::string bytes = support::pattern(20 * mebibyte + 1);
  support::write_file(path_, bytes);
  bool is_local = true;
  const bool possible = gate.run([&] {
    asio::io_context io;
    mapped_file file(io);
    support::run_coroutine(io, [&]() -> work { co_await file.open(path_); });
    is_local = file.stats().medium == mapio::medium::local;
    if (!is_local) return;
    const int before = support::count_mappings(path_);
    // Nobody is left to map anything.
    for (std::size_t i = 0; i < pool_threads; ++i)
      mapio::remove_file(io, dir_ / "missing", [](std::error_code) {});
    gate.wait_until_held(pool_threads);
    outcome o;
    {
      chunk_stream chunks = file.chunks(mebibyte);
      chunks.next(o.handler());
    }
    gate.release();
    EXPECT_TRUE(support::run_to_end(io));
    EXPECT_EQ(o.calls, 1);
    EXPECT_EQ(support::count_mappings(path_), before);
    std::string all;
    support::run_coroutine(io, [&]() -> work {
      chunk_stream chunks = file.chunks(mebibyte);
      for (;;) {
        const region chunk = co_await chunks.next(asio::use_awaitable);
        if (chunk.empty()) break;
        all += chunk.text();
      }
    });
    EXPECT_TRUE(support::same(all, bytes));
    EXPECT_EQ(support::count_mappings(path_), before + 1);
  });
  if (!possible) GTEST_SKIP() << "the kernel does not let us see system calls";
  if (!is_local) GTEST_SKIP() << "nothing to be read from a disk here";
}

}  // namespace
