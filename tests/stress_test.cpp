// Many at once, at random: what no single case shows. Every random number comes from a seed that a
// failure names.

#include <mapio/mapped_file.hpp>

#include "mapped_file_fixture.hpp"
#include "support.hpp"

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/bind_executor.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
#include <asio/use_awaitable.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
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
  // Where a resize waits for all regions, it is to find a moment without one.
  static constexpr int readers = support::is_emulated ? 2 : 4;
  static constexpr std::size_t most_held = 4;
  static constexpr std::uint64_t most_in_view = 24;
  // Where there are fewer processors than readers, one that never rests is stopped with regions in
  // its hands, and every shrink waits for its next turn.
  static constexpr auto pause = 100us;

  /// What a reader may find in a cell: the number of its filling, or one of these.
  static constexpr std::uint32_t zeros = 0;
  static constexpr std::uint32_t being_written = ~std::uint32_t{0};

  /// What is in the file from `offset` on, which is a multiple of its size. Words, because a
  /// sanitizer takes its time for each of what is compared.
  static std::uint64_t word_at(std::uint64_t offset, std::uint32_t filling) {
    return filling == zeros ? 0 : (std::uint64_t{filling} << 32 | offset) * 0x9E3779B97F4A7C15U;
  }

  /// Looks at every byte that is pinned and not about to be written.
  void check(const mapio::region& r) {
    for (std::uint64_t at = 0; at < r.size(); at += cell) {
      const std::uint64_t offset = r.offset() + at;
      const std::uint32_t filling = content_[offset / cell].load(std::memory_order_acquire);
      if (filling == being_written) continue;
      std::array<std::uint64_t, cell / sizeof(std::uint64_t)> words;
      std::memcpy(words.data(), r.data() + at, cell);
      std::uint64_t wrong = 0;
      for (std::uint64_t i = 0; i < words.size(); ++i)
        wrong += static_cast<unsigned>(words[i] != word_at(offset + i * sizeof words[i], filling));
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
    std::vector<std::uint64_t> words((last - first) * cell / sizeof(std::uint64_t));
    for (std::uint64_t i = 0; i < words.size(); ++i)
      words[i] = word_at(first * cell + i * sizeof words[i], filling);
    co_await file.update_region(first * cell, asio::buffer(words), asio::use_awaitable);
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
  // One that waits for all regions waits long for a reader that is stopped with some in its hands.
  constexpr int calls = support::as_often_as(support::is_emulated ? 2'000 : 10'000);
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
  // Else it is mapped anew for any other size.
  if (support::mapping_granule() == support::page()) {
    EXPECT_EQ(file.stats().moves, 0U);
  }
  EXPECT_TRUE(support::same(support::read_all(map_), support::read_file(path_)));
}

// --- cancellations at any moment
// ----------------------------------------------------------------------------------------

/// Starts verbs and cancels them at random. All of it happens on one executor that runs one handler
/// at a time, a turn of it between two steps, while the verbs go their way.
class random_cancellations {
 public:
  random_cancellations(const asio::any_io_executor& executor, const support::temp_dir& dir,
                       int count, std::uint64_t seed)
      : executor_(executor), random_(seed), left_(count), hot_map_(made(dir / "hot", own_bytes)),
        cold_map_(made(dir / "cold", only_read + own_bytes)), hot_(executor, hot_map_),
        cold_(executor, cold_map_), second_path_(dir / "second"), second_(executor) {
    support::write_file(second_path_, std::string(own_bytes, written));
    begin_round();
  }

  void start() {
    asio::post(executor_, [this] { step(); });
  }
  int completions() const { return completions_; }
  int aborted() const { return aborted_; }

  /// Looks a last time at what nobody may have touched.
  void check_end() {
    EXPECT_EQ(left_, 0);
    EXPECT_EQ(outstanding_, 0);
    while (!resting_.empty())
      check_rested();
  }

 private:
  static constexpr char written = 'w';
  static constexpr char poison = '!';  // in memory that belongs to no verb any more
  static constexpr int in_a_round = 256;
  static constexpr std::size_t rest = 1024;
  // Each verb of a round has bytes of its own in both files: what overlapping ones do is the
  // caller's race. In the cold one they lie behind what is only read.
  static constexpr std::uint64_t most_bytes = 600;
  static constexpr std::uint64_t own_bytes = in_a_round * most_bytes;
  static constexpr std::uint64_t only_read = std::uint64_t{2} << 20;
  struct attempt {
    asio::cancellation_signal signal;
    std::string bytes = std::string(most_bytes, written);
    mapio::region region;
    int calls = 0;
  };

  static mapio::mapping made(const fs::path& path, std::uint64_t size) {
    support::write_file(path, std::string(size, written));
    return mapio::mapping(path, support::read_write());
  }

  std::uint64_t any(std::uint64_t end) { return below(random_, end); }

  void begin_round() {
    in_round_ = std::min(left_, in_a_round);
    attempts_.clear();
    chunks_.emplace(cold_.chunks(32 << 10, 2));
    if (any(4) != 0) return;
    // Cold again, as far as it is clean.
    const mapio::region all = cold_map_.view(0, cold_map_.size());
    support::forget_pages(all.data(), all.size(), cold_map_.native_handle());
  }

  /// Does some things at once, and lets handlers run before the next.
  void step() {
    for (std::uint64_t n = 1 + any(8); n != 0 && in_round_ != 0; --n) {
      switch (any(8)) {
      default:
        begin();
        if (any(4) == 0) emit(*attempts_.back());
        break;
      case 4:
      case 5:
      case 6:
        if (!attempts_.empty()) {
          // Of any age: it waits, it runs, it is over, it has been cancelled before.
          attempt& a = *attempts_[any(attempts_.size())];
          if (any(4) != 0) emit(a);
          a.region = mapio::region();
        }
        break;
      case 7:
        if (any(16) == 0) hot_.cancel();
        break;
      }
    }
    if (in_round_ != 0) return start();
    for (auto& a : attempts_)
      a->region = mapio::region();
    if (outstanding_ == 0) end_round();
  }

  void emit(attempt& a) {
    using asio::cancellation_type;
    constexpr std::array types{cancellation_type::terminal, cancellation_type::partial,
                               cancellation_type::total, cancellation_type::all,
                               cancellation_type::none};
    a.signal.emit(types[any(types.size())]);
    if (any(8) == 0) a.signal.emit(types[any(types.size())]);
  }

  auto handler(attempt& a, std::error_code also = {}) {
    return asio::bind_executor(
        executor_, asio::bind_cancellation_slot(
                       a.signal.slot(), [this, &a, also](std::error_code ec, auto... result) {
                         ++a.calls;
                         ++completions_;
                         aborted_ += ec == asio::error::operation_aborted ? 1 : 0;
                         EXPECT_TRUE(!ec || ec == asio::error::operation_aborted ||
                                     ec == errc::out_of_range || ec == also)
                             << ec.message();
                         a.bytes.assign(a.bytes.size(), poison);
                         (keep(a, std::move(result)), ...);
                         if (--outstanding_ == 0 && in_round_ == 0) end_round();
                       }));
  }
  void keep(attempt& a, mapio::region r) const {
    if (in_round_ != 0) a.region = std::move(r);
  }
  static void keep(attempt&, std::size_t) {}

  auto unopened(attempt& a) { return handler(a, errc::not_open); }

  void begin() {
    attempt& a = *attempts_.emplace_back(std::make_unique<attempt>());
    --in_round_;
    --left_;
    ++outstanding_;
    const bool is_hot = any(2) == 0;
    mapped_file& file = is_hot ? hot_ : cold_;
    const std::uint64_t length = any(2) == 0 ? 64 : 1 + any(most_bytes);
    const std::uint64_t slot = (attempts_.size() - 1) * most_bytes;
    const std::uint64_t own = is_hot ? slot : only_read + slot;
    const std::uint64_t anywhere = is_hot || any(2) == 0 ? own : any(only_read - length);
    switch (any(14)) {
    case 0:
    case 1:
      return file.update_region(own, asio::buffer(a.bytes, length), handler(a));
    case 2:
    case 3:
      return file.read_into(anywhere, asio::buffer(a.bytes, length), handler(a));
    case 4:
    case 5:
      return file.view(anywhere, length, handler(a));
    case 6:
      return any(2) == 0 ? file.prefetch(handler(a)) : file.prefetch(anywhere, length, handler(a));
    case 7:
      return file.flush(handler(a));
    case 8:
      return file.flush_range(own, length, handler(a));
    case 9:
      return any(2) == 0 ? file.flush(mapio::durability::started, handler(a))
                         : file.flush_range(own, length, mapio::durability::started, handler(a));
    case 10:
    case 11:
      return hot_.resize(own_bytes / 2 + any(own_bytes / 2), handler(a));
    case 12:
      return chunks_->next(handler(a, std::make_error_code(std::errc::operation_in_progress)));
    default:
      if (any(2) == 0) return second_.update_region(slot, asio::buffer(a.bytes, 64), unopened(a));
      return any(2) == 0 ? second_.open(second_path_, support::read_write(), unopened(a))
                         : second_.close(unopened(a));
    }
  }

  void end_round() {
    for (auto& a : attempts_)
      resting_.push_back(std::move(a));
    while (resting_.size() > rest)
      check_rested();
    for (const mapio::mapping& m : {hot_map_, cold_map_}) {
      content_.resize(m.size());
      m.read_into(0, asio::buffer(content_));
      EXPECT_EQ(content_.find(poison), std::string::npos) << "written after the handler had run";
    }
    begin_round();
    if (in_round_ != 0 && !testing::Test::HasFailure()) start();
  }

  /// A second call or a late byte has had some rounds to come.
  void check_rested() {
    const attempt& a = *resting_.front();
    EXPECT_EQ(a.calls, 1);
    EXPECT_EQ(a.bytes.find_first_not_of(poison), std::string::npos)
        << "read after the handler had run";
    resting_.pop_front();
  }

  asio::any_io_executor executor_;
  random_source random_;
  int left_;
  int in_round_ = 0;
  int outstanding_ = 0;
  int completions_ = 0;
  int aborted_ = 0;
  std::vector<std::unique_ptr<attempt>> attempts_;
  std::deque<std::unique_ptr<attempt>> resting_;
  std::string content_;
  mapio::mapping hot_map_;
  mapio::mapping cold_map_;
  mapped_file hot_;
  mapped_file cold_;
  fs::path second_path_;
  mapped_file second_;
  std::optional<mapio::chunk_stream> chunks_;
};

using mapped_file_cancellations = mapped_file_test;

TEST_F(mapped_file_cancellations, completes_each_of_many_verbs_once_whenever_they_are_cancelled) {
  constexpr int count = support::as_often_as(100'000);
  constexpr std::uint64_t seed = 1;
  SCOPED_TRACE("seed " + std::to_string(seed));
  random_cancellations all(io_.get_executor(), dir_, count, seed);
  all.start();
  io_.run();
  EXPECT_EQ(all.completions(), count);
  EXPECT_GT(all.aborted(), count / 100);
  EXPECT_LT(all.aborted(), count - count / 100);
  all.check_end();
}

TEST_F(mapped_file_cancellations,
       completes_each_verb_once_when_a_strand_cancels_what_other_threads_end) {
  constexpr int count = support::as_often_as(30'000);
  constexpr std::uint64_t seed = 2;
  SCOPED_TRACE("seed " + std::to_string(seed));
  random_cancellations all(asio::make_strand(io_), dir_, count, seed);
  all.start();
  std::thread second_runner([this] { io_.run(); });
  io_.run();
  second_runner.join();
  EXPECT_EQ(all.completions(), count);
  EXPECT_GT(all.aborted(), count / 100);
  all.check_end();
}

}  // namespace
