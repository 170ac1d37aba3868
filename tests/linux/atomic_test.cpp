// What of atomic_test.cpp is about Linux.

#include <mapio/atomic.hpp>

#include "atomic_fixture.hpp"
#include "linux/linux_support.hpp"

#include <mapio/mapping.hpp>

#include <asio/buffer.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <vector>

#include <sys/types.h>
#include <unistd.h>

namespace {

using mapio::mapping;
using support::atomic_fixture;
using support::page;
using support::read_only;
using support::read_write;

using atomic_processes = atomic_fixture;

TEST_F(atomic_processes, count_together) {
  created(page());
  constexpr std::uint64_t each = 50'000;
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i)
    children.push_back(support::start_child([&] {
      mapping m = opened(read_write());
      const auto a = m.atomic<std::uint64_t>(8);
      for (std::uint64_t n = 0; n < each; ++n)
        a.fetch_add(1, std::memory_order_relaxed);
    }));
  for (const pid_t child : children)
    EXPECT_TRUE(support::wait_for_child(child).ok());
  EXPECT_EQ(opened(read_only()).atomic<std::uint64_t>(8).load(), 3 * each);
}

TEST_F(atomic_processes, wake_each_other) {
  created(page());
  constexpr std::uint32_t rounds = 5'000;
  // Even: the parent's turn.
  const auto play = [&](std::uint32_t mine) {
    mapping m = opened(read_write());
    const auto turn = m.atomic<std::uint32_t>(0);
    const auto sum = m.atomic<std::uint64_t>(8);
    for (std::uint32_t i = mine; i < 2 * rounds; i += 2) {
      for (std::uint32_t seen = turn.load(); seen != i; seen = turn.load())
        turn.wait(seen);
      sum.store(sum.load(std::memory_order_relaxed) + i, std::memory_order_relaxed);
      turn.store(i + 1);
      turn.notify_one();
    }
  };
  const pid_t child = support::start_child([&] { play(1); });
  play(0);
  EXPECT_TRUE(support::wait_for_child(child).ok());
  EXPECT_EQ(opened(read_only()).atomic<std::uint64_t>(8).load(),
            std::uint64_t{rounds} * (2 * rounds - 1));
}

}  // namespace
