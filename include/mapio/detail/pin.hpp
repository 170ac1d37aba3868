#ifndef MAPIO_DETAIL_PIN_HPP
#define MAPIO_DETAIL_PIN_HPP

#include <mapio/detail/config.hpp>

#include <atomic>
#include <cstdint>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {

class extent;

/// One pinned range. `word` holds the first byte and the flags; 0 is a free slot.
struct pin_slot {
  static constexpr std::uint64_t occupied = 1;   // set in every word that is not free
  static constexpr std::uint64_t claiming = 2;   // taken, range not yet written
  static constexpr std::uint64_t writable = 4;   // a mutable_region: dirty for as long as it lives
  static constexpr std::uint64_t operation = 8;  // held by a verb under way, not by a region
  static constexpr std::uint64_t watched = 16;   // somebody waits for this pin to go
  static constexpr std::uint64_t orphaned = 32;  // the file is gone; the last pin unmaps
  static constexpr std::uint64_t suspect = 64;   // a sync failed while a mutable_region lived
  static constexpr unsigned shift = 7;

  std::atomic<std::uint64_t> word{0};
  /// Stored with release, and looked at with acquire by who goes over the slots: the word may be
  /// that of the pin before, and this all that tells of its end.
  std::atomic<std::uint64_t> end{0};
};

/// Keeps a range of an extent mapped, at its address, for as long as it lives.
///
/// Dropping one is a compare-and-swap, and so is taking one, unless the thread has a slot of its
/// own free. Once the drop has swapped its slot free it must not touch the extent any more, since
/// that may be unmapped by then: whoever wants to be told sets a flag in the slot, which makes the
/// swap fail and sends the owner down the slow path while the slot still holds the extent.
class pin {
 public:
  pin() noexcept = default;
  pin(extent* owner, pin_slot* slot, std::uint64_t word) noexcept
      : extent_(owner), slot_(slot), word_(word) {}
  pin(const pin& other) : pin(other.extent_ != nullptr ? other.duplicate() : pin()) {}
  pin(pin&& other) noexcept
      : extent_(std::exchange(other.extent_, nullptr)), slot_(std::exchange(other.slot_, nullptr)),
        word_(other.word_) {}
  pin& operator=(pin other) noexcept {
    std::swap(extent_, other.extent_);
    std::swap(slot_, other.slot_);
    std::swap(word_, other.word_);
    return *this;
  }
  ~pin() {
    if (extent_ != nullptr) drop();
  }

  extent* owner() const noexcept { return extent_; }
  /// Pins [begin, end), a part of what this one pins, by itself; throws when there is no memory.
  MAPIO_DECL pin part(std::uint64_t begin, std::uint64_t end, std::uint64_t flags) const;
  explicit operator bool() const noexcept { return extent_ != nullptr; }

 private:
  void drop() noexcept {
    std::uint64_t expected = word_;
    if ((word_ & pin_slot::writable) != 0 || slot_ == nullptr ||
        !slot_->word.compare_exchange_strong(expected, 0, std::memory_order_release,
                                             std::memory_order_relaxed))
      drop_slow();
  }
  MAPIO_DECL void drop_slow() noexcept;
  MAPIO_DECL pin duplicate() const;

  extent* extent_ = nullptr;
  pin_slot* slot_ =
      nullptr;  // null for a copy that only counts: made after the file itself was gone
  std::uint64_t word_ = 0;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_DETAIL_PIN_HPP
