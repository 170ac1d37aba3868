#ifndef MAPIO_EXAMPLES_INGESTD_PROGRESS_HPP
#define MAPIO_EXAMPLES_INGESTD_PROGRESS_HPP

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include <fmt/format.h>

namespace ingest {

/// Writes 1234567 as 1,234,567, whatever the locale.
inline std::string grouped(std::uint64_t value) {
  std::string digits = fmt::format("{}", value);
  for (std::size_t i = digits.size(); i > 3; i -= 3)
    digits.insert(i - 3, 1, ',');
  return digits;
}

inline double megabytes(std::uint64_t bytes) {
  return static_cast<double>(bytes) / 1e6;
}

inline double seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

inline double milliseconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

/// Writes how far a job is on stdout: a bar that is redrawn on a terminal, now and then a plain
/// line elsewhere.
class progress_display {
 public:
  using clock = std::chrono::steady_clock;

  progress_display(std::uint64_t total, bool terminal)
      : total_(total), terminal_(terminal), interval_(terminal ? 200 : 2000),
        sampled_(clock::now()) {}

  /// Shows that `done` bytes of the total are done, if it is time to. The first call only sets the
  /// start of the rate.
  void update(std::uint64_t done) {
    const auto now = clock::now();
    if (!started_) {
      started_ = true;
      done_ = done;
      sampled_ = now;
    } else if (now - sampled_ >= interval_) {
      show(done, now);
    }
  }

  /// Shows where it ended.
  void finish(std::uint64_t done) {
    show(done, clock::now());
    end_line();
  }

  /// Writes a line to stderr without tearing the bar.
  void note(std::string_view message) {
    end_line();
    fmt::print(stderr, "ingest: {}\n", message);
  }

  /// Leaves the bar as it is and goes on below.
  void end_line() {
    if (!on_line_) return;
    fmt::print("\n");
    std::fflush(stdout);
    on_line_ = false;
  }

 private:
  void show(std::uint64_t done, clock::time_point now) {
    if (const double step = seconds(now - sampled_); step > 0) {
      // Smoothed over about three seconds.
      const double rate = static_cast<double>(done - std::min(done, done_)) / step;
      const double weight = rate_ < 0 ? 1 : std::min(1.0, step / 3);
      rate_ = std::max(rate_, 0.0) * (1 - weight) + rate * weight;
    }
    done_ = done;
    sampled_ = now;
    if (terminal_) {
      fmt::print("\r{}\x1b[K", describe());
      on_line_ = true;
    } else {
      fmt::print("{}\n", describe());
    }
    std::fflush(stdout);
  }

  std::string describe() const {
    const double share = total_ == 0 ? 1 : static_cast<double>(done_) / static_cast<double>(total_);
    std::string eta = "--:--";
    if (done_ >= total_) {
      eta = "00:00";
    } else if (rate_ >= 1) {
      const double left = static_cast<double>(total_ - done_) / rate_;
      if (left < 360000) {
        const auto whole = static_cast<std::uint64_t>(std::llround(left));
        eta = whole < 3600
                  ? fmt::format("{:02}:{:02}", whole / 60, whole % 60)
                  : fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
      }
    }
    std::string text =
        fmt::format("{:5.1f}%  {:.1f}/{:.1f} MB  {:.1f} MB/s  ETA {}", share * 100,
                    megabytes(done_), megabytes(total_), std::max(rate_, 0.0) / 1e6, eta);
    if (terminal_) {
      constexpr std::size_t width = 28;
      const auto filled = std::min(width, static_cast<std::size_t>(share * width));
      text = fmt::format("[{:<{}}] {}", std::string(filled, '#'), width, text);
    }
    return text;
  }

  std::uint64_t total_;
  bool terminal_;
  std::chrono::milliseconds interval_;
  bool started_ = false;
  bool on_line_ = false;
  std::uint64_t done_ = 0;
  double rate_ = -1;
  clock::time_point sampled_;
};

}  // namespace ingest

#endif  // MAPIO_EXAMPLES_INGESTD_PROGRESS_HPP
