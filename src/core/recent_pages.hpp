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

/// Pages that were in memory a short while ago: a hint of fixed size, in which a page takes another
/// one's place, and one in 2^15 is taken for another. It forgets everything once it has been told
/// of many, since the OS takes pages back too. Lock-free.
class recent_pages {
 public:
  /// Those it is told of before it forgets.
  static constexpr std::uint32_t most = 1U << 14;

  recent_pages() = default;
  recent_pages(const recent_pages&) = delete;
  recent_pages& operator=(const recent_pages&) = delete;
  ~recent_pages() { delete slots_.load(std::memory_order_relaxed); }

  /// Tells whether the page at `offset` is among them.
  bool holds(std::uint64_t offset) const noexcept {
    const slots* const known = slots_.load(std::memory_order_acquire);
    if (known == nullptr) return false;
    const std::uint64_t mixed = mix(offset);
    return (*known)[slot_of(mixed)].load(std::memory_order_relaxed) == tag_of(mixed);
  }

  void add(std::uint64_t offset) noexcept {
    slots* known = slots_.load(std::memory_order_acquire);
    if (known == nullptr && (known = provide()) == nullptr) return;
    const std::uint64_t mixed = mix(offset);
    std::atomic<std::uint16_t>& slot = (*known)[slot_of(mixed)];
    if (slot.load(std::memory_order_relaxed) == tag_of(mixed)) return;
    if (count_.fetch_add(1, std::memory_order_relaxed) >= most) forget();
    slot.store(tag_of(mixed), std::memory_order_relaxed);
  }

  void forget() noexcept {
    slots* const known = slots_.load(std::memory_order_acquire);
    if (known == nullptr || count_.exchange(0, std::memory_order_relaxed) == 0) return;
    for (auto& slot : *known)
      slot.store(no_page, std::memory_order_relaxed);
  }

 private:
  static constexpr unsigned slots_shift = 13;
  using slots = std::array<std::atomic<std::uint16_t>, 1U << slots_shift>;
  static constexpr std::uint16_t no_page = 0;

  // Spreads pages that lie at an even distance, whichever it is.
  static std::uint64_t mix(std::uint64_t offset) noexcept {
    std::uint64_t mixed = dirty_pages::first_page(offset) * 0x9E3779B97F4A7C15;
    mixed ^= mixed >> 32;
    return mixed * 0x9E3779B97F4A7C15;
  }
  static std::size_t slot_of(std::uint64_t mixed) noexcept { return mixed >> (64 - slots_shift); }
  // The bits below those of the slot.
  static std::uint16_t tag_of(std::uint64_t mixed) noexcept {
    return static_cast<std::uint16_t>(mixed >> (64 - slots_shift - 16)) | 1;
  }

  slots* provide() noexcept {
    slots* const fresh = new (std::nothrow) slots{};
    slots* expected = nullptr;
    if (slots_.compare_exchange_strong(expected, fresh, std::memory_order_acq_rel)) return fresh;
    delete fresh;
    return expected;
  }

  std::atomic<slots*> slots_{nullptr};
  std::atomic<std::uint32_t> count_{0};
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_RECENT_PAGES_HPP
