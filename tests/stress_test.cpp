// Many at once, at random: what no single case shows. Every random number comes from a seed that a
// failure names.

#include <mapio/mapped_file.hpp>

#include "mapped_file_fixture.hpp"
#include "support.hpp"

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace std::chrono_literals;
using mapio::errc;
using mapio::mapped_file;
using support::creating;
using support::mapped_file_test;

using random_source = std::mt19937_64;

std::uint64_t below(random_source& random, std::uint64_t end) {
  return random() % end;
}

// --- readers beside a file that grows and shrinks
// -----------------------------------------------------------------------

/// A file of cells. What is in one changes only while nobody can have it pinned: it is cut, comes
/// back as zeros, and is then left so or written once.
class mapped_file_stress : public mapped_file_test {
 protected:
  static constexpr std::uint64_t cell = 512;  // so that a size is seldom one of whole pages
  static constexpr std::uint64_t cells = 512;
  static constexpr std::uint64_t cells_kept = 64;
  static constexpr int readers = 4;
  static constexpr std::size_t most_held = 4;
  static constexpr std::uint64_t most_in_view = 24;
  // Where there are fewer processors than readers, one that never rests is stopped with regions in
  // its hands, and every shrink waits for its next turn.
  static constexpr auto pause = 100us;

  /// What a reader may find in a cell: the number of its filling, or one of these.
  static constexpr std::uint32_t zeros = 0;
  static constexpr std::uint32_t being_written = ~std::uint32_t{0};

  static std::byte byte_of(std::uint64_t offset, std::uint32_t filling) {
    if (filling == zeros) return std::byte{0};
    return static_cast<std::byte>(1 + (offset * 7 + (offset >> 8) * 31 + filling * 101) % 255);
  }

  /// Looks at every byte that is pinned and not about to be written.
  void check(const mapio::region& r) {
    for (std::uint64_t at = 0; at < r.size(); at += cell) {
      const std::uint64_t offset = r.offset() + at;
      const std::uint32_t filling = content_[offset / cell].load(std::memory_order_acquire);
      if (filling == being_written) continue;
      std::uint64_t wrong = 0;
      for (std::uint64_t i = at; i < at + cell; ++i)
        wrong += static_cast<unsigned>(r.data()[i] != byte_of(r.offset() + i, filling));
      EXPECT_EQ(wrong, 0U) << "at " << offset << ", filling " << filling;
      checked_.fetch_add(1, std::memory_order_relaxed);
    }
  }

  std::pair<std::uint64_t, std::uint64_t> any_range(random_source& random) const {
    const std::uint64_t first = below(random, cells);
    const std::uint64_t count = 1 + below(random, std::min(most_in_view, cells - first));
    return {first * cell, count * cell};
  }

  /// Holds some regions for a while, and looks at each when it comes and before it goes.
  void keep(std::deque<mapio::region>& held, mapio::region r, random_source& random) {
    check(r);
    held.push_back(std::move(r));
    while (held.size() > most_held || (!held.empty() && below(random, 2) == 0)) {
      check(held.front());
      held.pop_front();
    }
  }

  void read_blocking(std::uint64_t seed) {
    random_source random(seed);
    std::deque<mapio::region> held;
    while (!stop_) {
      const auto [offset, length] = any_range(random);
      std::error_code ec;
      mapio::region r = map_.view(offset, length, ec);
      if (!ec)
        keep(held, std::move(r), random);
      else {
        EXPECT_EQ(ec, errc::out_of_range) << ec.message();
        held.clear();
      }
      if (held.empty()) std::this_thread::sleep_for(pause);
    }
  }

  work read_awaited(mapped_file file, std::uint64_t seed) {
    asio::steady_timer pausing(io_);
    random_source random(seed);
    std::deque<mapio::region> held;
    while (!stop_) {
      const auto [offset, length] = any_range(random);
      std::error_code ec;
      mapio::region r = co_await file.view(offset, length, support::into(ec));
      if (!ec)
        keep(held, std::move(r), random);
      else {
        EXPECT_EQ(ec, errc::out_of_range) << ec.message();
        held.clear();
      }
      if (held.empty()) {
        pausing.expires_after(pause);
        co_await pausing.async_wait(asio::use_awaitable);
      }
    }
  }

  /// Writes the cells from `first` to `last`, and then shows them.
  work fill(mapped_file file, std::uint64_t first, std::uint64_t last) {
    const std::uint32_t filling = ++fillings_;
    std::vector<std::byte> bytes((last - first) * cell);
    for (std::uint64_t i = 0; i < bytes.size(); ++i)
      bytes[i] = byte_of(first * cell + i, filling);
    co_await file.update_region(first * cell, asio::buffer(bytes), asio::use_awaitable);
    for (std::uint64_t c = first; c < last; ++c)
      content_[c].store(filling, std::memory_order_release);
  }

  work resize_at_random(mapped_file file, int calls, std::uint64_t seed) {
    random_source random(seed);
    std::uint64_t now = cells;
    co_await fill(file, 0, now);
    for (int i = 0; i < calls && !HasFailure(); ++i) {
      const std::uint64_t next = cells_kept + below(random, cells - cells_kept + 1);
      const bool is_filled = below(random, 2) == 0;
      // Nobody can look at these before they are there.
      for (std::uint64_t c = now; c < next; ++c)
        content_[c].store(is_filled ? being_written : zeros, std::memory_order_release);
      co_await file.resize(next * cell, asio::use_awaitable);
      EXPECT_EQ(file.size(), next * cell);
      if (next > now && is_filled) co_await fill(file, now, next);
      now = next;
    }
    stop_ = true;
  }

  mapio::mapping map_;
  std::array<std::atomic<std::uint32_t>, cells> content_{};
  std::uint32_t fillings_ = 0;
  std::atomic<bool> stop_ = false;
  std::atomic<std::uint64_t> checked_ = 0;
};

TEST_F(mapped_file_stress, readers_find_what_was_written_while_the_file_grows_and_shrinks) {
  constexpr int calls = 10'000;
  constexpr std::uint64_t seed = 1;
  SCOPED_TRACE("seed " + std::to_string(seed));
  mapped_file file = created(cells * cell);
  map_ = file.map();
  for (auto& c : content_)
    c = being_written;
  std::exception_ptr failure;
  int coroutines = 0;
  const auto begin = [&](work w) {
    ++coroutines;
    asio::co_spawn(io_, std::move(w), [&](std::exception_ptr e) {
      if (e) failure = std::move(e);
    });
  };
  begin(resize_at_random(file, calls, seed));
  std::vector<std::thread> threads;
  for (std::uint64_t r = 1; r <= readers; ++r) {
    if (r % 2 == 0)
      begin(read_awaited(file, seed + r));
    else
      threads.emplace_back([this, r] { read_blocking(seed + r); });
  }
  io_.restart();
  std::thread second_runner([this] { io_.run(); });
  io_.run();
  second_runner.join();
  stop_ = true;
  for (auto& t : threads)
    t.join();
  if (failure) std::rethrow_exception(failure);
  EXPECT_GT(checked_, static_cast<std::uint64_t>(calls));
  EXPECT_EQ(file.stats().moves, 0U);
  EXPECT_TRUE(support::same(support::read_all(map_), support::read_file(path_)));
}

}  // namespace
