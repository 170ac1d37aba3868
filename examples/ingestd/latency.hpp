#ifndef MAPIO_EXAMPLES_INGESTD_LATENCY_HPP
#define MAPIO_EXAMPLES_INGESTD_LATENCY_HPP

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace ingest {

/// Counts durations in a fixed amount of memory: exact below 64 us, within 1/32 above; the maximum
/// is exact.
class latency_histogram {
 public:
  using duration = std::chrono::nanoseconds;

  void add(duration latency) noexcept {
    const auto us = static_cast<std::uint64_t>(
        std::max<duration::rep>(latency / std::chrono::microseconds(1), 0));
    ++counts_[bucket(us)];
    ++total_;
    max_ = std::max(max_, latency);
  }

  std::uint64_t count() const noexcept { return total_; }
  duration max() const noexcept { return max_; }

  /// Returns a duration that at least this share of the samples did not exceed; 0 without samples.
  duration percentile(double share) const noexcept {
    const auto rank = static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(total_)));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen >= rank && seen > 0)
        return std::min<duration>(std::chrono::microseconds(upper_end(i)), max_);
    }
    return max_;
  }

 private:
  // Values of `digits` significant bits each have a bucket of their own; the larger ones share, 32
  // buckets per octave.
  static constexpr unsigned digits = 6;
  static constexpr std::size_t half = std::size_t{1} << (digits - 1);

  static constexpr std::size_t bucket(std::uint64_t value) noexcept {
    const unsigned width = static_cast<unsigned>(std::bit_width(value));
    if (width <= digits) return value;
    const unsigned shift = width - digits;
    return shift * half + (value >> shift);
  }
  static constexpr std::uint64_t upper_end(std::size_t index) noexcept {
    if (index < 2 * half) return index;
    const std::size_t shift = index / half - 1;
    return ((index - shift * half + 1) << shift) - 1;
  }

  std::array<std::uint64_t, (64 - digits) * half + 2 * half> counts_{};
  std::uint64_t total_ = 0;
  duration max_{0};
};

}  // namespace ingest

#endif  // MAPIO_EXAMPLES_INGESTD_LATENCY_HPP
