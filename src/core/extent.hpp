#ifndef MAPIO_SRC_CORE_EXTENT_HPP
#define MAPIO_SRC_CORE_EXTENT_HPP

#include "copy_window.hpp"
#include "dirty_pages.hpp"
#include "platform/platform.hpp"

#include <mapio/detail/operation.hpp>
#include <mapio/detail/pin.hpp>
#include <mapio/options.hpp>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <system_error>

MAPIO_NAMESPACE_BEGIN
namespace detail {

class engine;

/// Something of the OS that is let go of when its last user is gone: on a worker of an engine where
/// there is one, since the last munmap or close of a file can take long, else at once. The object
/// itself stays until its owner drops it too.
class shared_resource {
 public:
  shared_resource(const shared_resource&) = delete;
  shared_resource& operator=(const shared_resource&) = delete;

  /// Adds a user; only while there is one.
  void retain() noexcept { users_.fetch_add(1, std::memory_order_relaxed); }
  /// Adds a user unless the last one is gone.
  bool try_retain() noexcept;
  /// Ends a use. With `here`, the last one lets go on this thread: for workers.
  void release(bool here = false) noexcept;
  /// Takes effect for a release that is not yet under way.
  void dispose_on(const std::shared_ptr<engine>& home) noexcept;
  /// The same, on the engine of another one, if it has any.
  void dispose_like(shared_resource& other) noexcept { dispose_on(other.home()); }
  /// Ends the owner's interest in the object; not to be touched afterwards.
  void drop() noexcept;
  /// Tells whether the caller is the only user; another thread may become one, or end.
  bool has_sole_user() const noexcept { return users_.load(std::memory_order_acquire) == 1; }
  /// Ends the use of the caller if it is the only one: nobody can become a user any more, and
  /// nothing is let go of. True: it was.
  bool end_if_sole() noexcept;

 protected:
  shared_resource() = default;
  virtual ~shared_resource();
  virtual void let_go() noexcept = 0;
  /// Takes back a retain(); the caller knows that it was not the last.
  void undo_retain() noexcept { users_.fetch_sub(1, std::memory_order_relaxed); }

 private:
  struct background_disposal;
  std::shared_ptr<engine> home() noexcept;
  void dispose() noexcept;

  std::atomic<std::uint64_t> users_{1};
  std::atomic<std::uint32_t> holders_{2};  // the owner, and the users together
  std::mutex home_mutex_;
  std::weak_ptr<engine> home_;
};

/// An open file or directory.
class shared_handle final : public shared_resource {
 public:
  explicit shared_handle(native_handle_type handle) noexcept : handle_(handle) {}
  /// Returns the handle; who is no user may get one that is closed by now.
  native_handle_type get() const noexcept { return handle_.load(std::memory_order_relaxed); }
  /// Takes the handle out, to be closed by somebody else; after end_if_sole().
  native_handle_type detach() noexcept;

 private:
  void let_go() noexcept override;
  std::atomic<native_handle_type> handle_;
};

/// A mapping of a file at one address: its range, its pins, its dirty pages. Unmapped when the file
/// state has let go of it and the last pin and the last call under way are gone.
class extent final : public shared_resource {
 public:
  /// Maps; on success the caller is the first user.
  static std::error_code make(native_handle_type file, access mode, std::uint64_t size,
                              std::uint64_t capacity, extent*& result) noexcept;

  std::byte* base() const noexcept { return base_.load(std::memory_order_relaxed); }
  std::uint64_t capacity() const noexcept { return capacity_.load(std::memory_order_relaxed); }
  /// Returns how far there are pages: all of the capacity, or what the file has.
  std::uint64_t mapped_end() const noexcept { return mapped_end_.load(std::memory_order_relaxed); }
  /// Maps what is not mapped of a file that has grown to `size`, within the capacity.
  std::error_code map_more(native_handle_type file, std::uint64_t size) noexcept;

  /// Views and copies may reach up to here. Lowered when a shrink is initiated, so that it ends
  /// some day.
  std::atomic<std::uint64_t> limit;
  dirty_pages dirty;
  /// Of the dirty pages those that were stored into: their write fault is paid for, and what the
  /// kernel writes because of it is dirty. A hint, cleared with the dirty bits.
  dirty_pages stored;
  /// Pages that a write fault may dirty besides its own: earned one per update that went through
  /// the file to a page that was dirty already.
  std::atomic<std::uint64_t> credit{0};
  /// Bytes were stored through the mapping that watchers have not been told of.
  std::atomic<bool> unannounced{false};
  /// A sync of some page failed: the drop of a mutable region is to be told to the file, as a
  /// write.
  std::atomic<bool> tells_of_drops{false};

  /// Maps the first `length` bytes once more, to be read in large pieces; may wait. Only the first
  /// time: then, whether it worked or not, it is not wanted any more.
  void map_for_reading(native_handle_type file, std::uint64_t length) noexcept;
  bool wants_to_be_mapped_for_reading() const noexcept {
    return !was_mapped_for_reading_.load(std::memory_order_relaxed);
  }
  /// Returns where [offset, offset + length) can be read in large pieces; null: nowhere.
  std::byte* reading_address(std::uint64_t offset, std::uint64_t length) const noexcept {
    std::byte* const base = reading_base_.load(std::memory_order_acquire);
    return base != nullptr && offset + length <= reading_length_ ? base + offset : nullptr;
  }

  /// Pins [begin, end). No pin: the extent is_orphaned(), or there is no memory.
  pin acquire(std::uint64_t begin, std::uint64_t end, std::uint64_t flags) noexcept {
    pin_slot* const slot = claim();
    if (slot == nullptr) return {};
    const std::uint64_t word = begin << pin_slot::shift | flags | pin_slot::occupied;
    if ((flags & pin_slot::writable) != 0) writable_pins_.fetch_add(1, std::memory_order_seq_cst);
    slot->end.store(end, std::memory_order_release);
    slot->word.store(word, std::memory_order_release);
    return {this, slot, word};
  }
  /// As acquire() for a plain view, in a slot that only this thread takes; null: it has none free.
  /// The caller must see that the extent is current afterwards, or drop the pin.
  pin_slot* acquire_fast(std::uint64_t begin, std::uint64_t end) noexcept {
    const copy_window* const me = this_thread_window();
    if (me == nullptr || me->number >= own_slots_.size()) return nullptr;
    for (pin_slot& slot : own_slots_[me->number].slots) {
      // Acquire: whoever freed it may still have had to look at its end.
      if (slot.word.load(std::memory_order_acquire) != 0) continue;
      slot.end.store(end, std::memory_order_release);
      const std::uint64_t word = begin << pin_slot::shift | pin_slot::occupied;
      if (platform::has_heavy_barrier()) {
        // The store-load order between this and the caller's look comes from the other side. What
        // orphan() put here meanwhile may be lost with it: then the caller sees that, and a free
        // slot needs no flag, since nobody else takes it.
        slot.word.store(word, std::memory_order_release);
        std::atomic_signal_fence(std::memory_order_seq_cst);
      } else {
        slot.word.exchange(word, std::memory_order_seq_cst);
      }
      return &slot;
    }
    return nullptr;
  }
  bool is_orphaned() noexcept {
    std::lock_guard lock(mutex_);
    return orphaned_;
  }
  void notify_on_drop(std::weak_ptr<file_state> watcher) noexcept;
  struct pin_count {
    std::size_t regions = 0;
    std::size_t operations = 0;
  };
  /// Counts the pins that reach beyond `from`. With `watch` it stops at the first, whose drop is
  /// then told to the watcher.
  pin_count count_pins(std::uint64_t from, bool watch) noexcept;
  /// Tells whether a live mutable region overlaps [begin, end).
  bool has_writable_pin(std::uint64_t begin, std::uint64_t end) const noexcept;
  /// Calls each(begin, end) for every live mutable region. What was stored through it so far is not
  /// to be trusted any more: its drop will mark nothing, and tell the file.
  template <class Each>
  void suspect_writable_pins(Each each) {
    std::lock_guard lock(mutex_);
    each_pass_under_lock([&] {
      each_slot([&](pin_slot& slot, std::uint64_t word) {
        while ((word & pin_slot::writable) != 0) {
          const std::uint64_t end = slot.end.load(std::memory_order_relaxed);
          if (!slot.word.compare_exchange_strong(word, word | pin_slot::suspect,
                                                 std::memory_order_seq_cst))
            continue;
          each(word >> pin_slot::shift, end);
          return;
        }
      });
      return false;
    });
  }
  /// Where mappings are not free: unmaps if nobody but the caller uses it. Who has it current again
  /// after map_again() may use it as before.
  bool unmap_if_unused() noexcept;
  std::error_code map_again(native_handle_type file, access mode, std::uint64_t size,
                            std::uint64_t capacity) noexcept;
  /// Returns the largest size that map_again() takes.
  std::uint64_t largest_mapped_again() const noexcept { return most_capacity_; }
  /// Tells whether its last user is gone, and its views.
  bool is_unmapped() const noexcept { return is_unmapped_.load(std::memory_order_acquire); }
  /// Forbids new pins; the ones that live become users, and the last of them unmaps. Then releases
  /// the caller's use.
  void orphan(bool here) noexcept;

 private:
  friend class pin;

  // Most files have few pins at a time; a file with many gets blocks that double.
  struct slot_block {
    pin_slot& at(std::size_t i) noexcept { return slots[i & (size - 1)]; }
    slot_block* older = nullptr;
    std::size_t size = 0;  // a power of two
    pin_slot* slots = nullptr;
  };
  static constinit thread_local std::size_t slot_hint;
  // A thread's own, on a cache line of its own: others only end what is in it.
  struct alignas(64) slot_line {
    std::array<pin_slot, 4> slots;
  };

  extent(std::byte* base, std::uint64_t size, std::uint64_t capacity, std::uint64_t mapped_end,
         std::uint64_t most_capacity) noexcept
      : limit(size), base_(base), capacity_(capacity), mapped_end_(mapped_end),
        most_capacity_(most_capacity), newest_(&first_block_) {
    first_block_.size = first_slots_.size();
    first_block_.slots = first_slots_.data();
  }
  ~extent() override;
  void let_go() noexcept override;
  pin_slot* claim() noexcept {
    // Where this thread found a free slot last is the place to look first.
    pin_slot& slot = newest_.load(std::memory_order_acquire)->at(slot_hint);
    std::uint64_t expected = 0;
    if (slot.word.compare_exchange_strong(expected, pin_slot::claiming, std::memory_order_seq_cst))
      return &slot;
    return claim_elsewhere();
  }
  pin_slot* claim_elsewhere() noexcept;
  void drop_pin(pin_slot* slot, std::uint64_t word) noexcept;
  std::shared_ptr<file_state> watcher() noexcept;
  template <class Each>
  void each_slot(Each each) const {
    for (slot_block* block = newest_.load(std::memory_order_acquire); block != nullptr;
         block = block->older)
      for (std::size_t i = 0; i < block->size; ++i)
        each(block->slots[i], settled_word(block->slots[i]));
    for (const slot_line& line : own_slots_)
      for (const pin_slot& slot : line.slots)
        each(const_cast<pin_slot&>(slot), settled_word(slot));
  }
  static std::uint64_t settled_word(const pin_slot& slot) noexcept;
  /// Goes over the slots until pass() returns true, or no copy was made meanwhile: one made behind
  /// the pass, of a pin that is dropped before it, would be seen in neither place. False: copies
  /// are made all the time.
  template <class Pass>
  bool each_pass(Pass pass) const {
    for (int passes = 0; passes < 16; ++passes) {
      const std::uint64_t copies = copies_.load(std::memory_order_seq_cst);
      if (pass() || copies_.load(std::memory_order_seq_cst) == copies) return true;
    }
    return false;
  }
  /// The same to the end, with mutex_ held: if need be, copies wait for it.
  template <class Pass>
  void each_pass_under_lock(Pass pass) {
    if (each_pass(pass)) return;
    copies_wait_.store(true, std::memory_order_seq_cst);
    while (!each_pass(pass)) {
    }
    copies_wait_.store(false, std::memory_order_relaxed);
  }

  std::atomic<std::byte*> base_;
  std::atomic<std::uint64_t> capacity_;
  std::atomic<std::uint64_t> mapped_end_;
  const std::uint64_t most_capacity_;  // there are bits for so much
  std::atomic<bool> is_unmapped_{false};
  std::atomic<bool> was_mapped_for_reading_{false};
  std::atomic<std::byte*> reading_base_{nullptr};
  std::uint64_t reading_length_ = 0;
  std::array<slot_line, 16> own_slots_;
  std::array<pin_slot, 64> first_slots_;
  slot_block first_block_;
  std::atomic<slot_block*> newest_;
  std::atomic<std::uint64_t> writable_pins_{0};
  std::atomic<std::uint64_t> copies_{0};  // made of pins
  std::atomic<bool> copies_wait_{false};
  std::mutex mutex_;  // guards growth of the slots, watched and orphaned flags
  bool orphaned_ = false;
  std::weak_ptr<file_state> watcher_;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_EXTENT_HPP
