#ifndef MAPIO_SRC_CORE_RECENT_PAGES_HPP
#define MAPIO_SRC_CORE_RECENT_PAGES_HPP

#include "dirty_pages.hpp"

#include <mapio/detail/config.hpp>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// Pages that were in memory a short while ago: a hint of fixed size, that takes some for others.
/// It forgets everything once it knows many, since the OS takes pages back too. Lock-free.
class recent_pages {
 public:
  /// What it knows at most.
  static constexpr std::uint32_t most = 1U << 14;

  recent_pages() = default;
  recent_pages(const recent_pages&) = delete;
  recent_pages& operator=(const recent_pages&) = delete;
  ~recent_pages() { delete words_.load(std::memory_order_relaxed); }

  /// Tells whether the page at `offset` is among them.
  bool holds(std::uint64_t offset) const noexcept {
    const words* const known = words_.load(std::memory_order_acquire);
    if (known == nullptr) return false;
    const std::uint64_t bit = bit_of(offset);
    return ((*known)[bit / 64].load(std::memory_order_relaxed) >> bit % 64 & 1) != 0;
  }

  void add(std::uint64_t offset) noexcept {
    words* known = words_.load(std::memory_order_acquire);
    if (known == nullptr && (known = provide()) == nullptr) return;
    const std::uint64_t bit = bit_of(offset);
    const std::uint64_t mask = std::uint64_t{1} << bit % 64;
    std::atomic<std::uint64_t>& word = (*known)[bit / 64];
    if ((word.load(std::memory_order_relaxed) & mask) != 0) return;
    if (count_.fetch_add(1, std::memory_order_relaxed) >= most) forget();
    word.fetch_or(mask, std::memory_order_relaxed);
  }

  void forget() noexcept {
    words* const known = words_.load(std::memory_order_acquire);
    if (known == nullptr || count_.exchange(0, std::memory_order_relaxed) == 0) return;
    for (auto& w : *known)
      w.store(0, std::memory_order_relaxed);
  }

 private:
  // One bit in four is set at most, so that few pages are taken for others.
  static constexpr unsigned bits_shift = 16;
  using words = std::array<std::atomic<std::uint64_t>, (1U << bits_shift) / 64>;

  // Spreads pages that lie at an even distance, whichever it is.
  static std::uint64_t bit_of(std::uint64_t offset) noexcept {
    std::uint64_t mixed = dirty_pages::first_page(offset) * 0x9E3779B97F4A7C15;
    mixed ^= mixed >> 32;
    return (mixed * 0x9E3779B97F4A7C15) >> (64 - bits_shift);
  }

  words* provide() noexcept {
    words* const fresh = new (std::nothrow) words{};
    words* expected = nullptr;
    if (words_.compare_exchange_strong(expected, fresh, std::memory_order_acq_rel)) return fresh;
    delete fresh;
    return expected;
  }

  std::atomic<words*> words_{nullptr};
  std::atomic<std::uint32_t> count_{0};
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_RECENT_PAGES_HPP
