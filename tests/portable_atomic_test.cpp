// What waits for words on systems that cannot do so across processes, in the place of what this
// system has.

#include "platform/words.hpp"

#include "mapped_file_fixture.hpp"

#include <mapio/atomic_cell.hpp>
#include <mapio/backend.hpp>

#include <asio/error.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <thread>
#include <vector>

namespace {

using mapio::mapped_file;
using support::mapped_file_test;
using support::outcome;
using support::page;

class portable_atomic : public mapped_file_test {
 protected:
  portable_atomic() {
    // A ring's kernel would not hear of notifications that stay in the process.
    mapio::use_backend(io_, mapio::backend_kind::thread_pool);
  }
};

TEST_F(portable_atomic, wait_blocks_until_the_word_changes) {
  mapped_file file = created(page());
  const auto word = file.map().atomic<std::uint32_t>(0);
  std::atomic<int> over{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      word.wait(0);
      ++over;
    });
  for (int i = 0; i < 100; ++i)
    word.notify_all();
  EXPECT_EQ(over, 0);
  word.store(1);
  word.notify_all();
  for (std::thread& t : threads)
    t.join();
}

TEST_F(portable_atomic, waits_are_woken_and_cancelled) {
  mapped_file file = created(page());
  mapped_file other(io_.get_executor(), file.map());
  std::deque<outcome> woken(300);
  std::deque<outcome> cancelled(300);
  for (std::uint64_t i = 0; i < 300; ++i) {
    file.atomic<std::uint32_t>(4 * i).wait(0, woken[i].handler());
    other.atomic<std::uint32_t>(4 * i).wait(0, cancelled[i].handler());
  }
  settle();
  other.cancel();
  for (const outcome& o : cancelled) {
    finish(o);
    EXPECT_EQ(o.error, asio::error::operation_aborted);
  }
  for (const auto word : file.map().atomics<std::uint32_t>(0, 300)) {
    word.store(1);
    word.notify_all();
  }
  ASSERT_TRUE(support::run_to_end(io_));
  for (const outcome& o : woken)
    EXPECT_TRUE(o.ok());
}

TEST_F(portable_atomic, threads_and_coroutines_take_turns) {
  constexpr std::uint32_t rounds = 5'000;
  mapped_file file = created(page());
  std::thread other([m = file.map()]() mutable {
    const auto turn = m.atomic<std::uint32_t>(0);
    for (std::uint32_t i = 1; i < 2 * rounds; i += 2) {
      turn.wait(i - 1);
      turn.store(i + 1);
      turn.notify_one();
    }
  });
  run([&]() -> work {
    const auto turn = file.atomic<std::uint32_t>(0);
    for (std::uint32_t i = 0; i < 2 * rounds; i += 2) {
      turn.store(i + 1);
      turn.notify_one();
      co_await turn.wait(i + 1);
    }
  });
  other.join();
}

TEST_F(portable_atomic, a_look_that_is_short_ends_by_itself) {
  const std::uint32_t word = 3;
  EXPECT_FALSE(mapio::detail::platform::wait_for_word_a_little({&word, 3}));
}

}  // namespace
