#include "extent.hpp"

#include "engine.hpp"
#include "file_state.hpp"
#include "platform/page_bounds.hpp"
#include "platform/platform.hpp"

#include <algorithm>
#include <array>
#include <new>
#include <thread>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {

// --- shared_resource
// -------------------------------------------------------------------------------------------------------

struct shared_resource::background_disposal final : operation {
  explicit background_disposal(shared_resource& r) noexcept : resource(r) {
    what = call::work;
    work = [](operation* op) noexcept {
      static_cast<background_disposal*>(op)->resource.dispose();
    };
    done = [](operation* op) noexcept {
      auto* self = static_cast<background_disposal*>(op);
      if (self->dropped) self->resource.dispose();
      delete self;
    };
  }
  shared_resource& resource;
};

shared_resource::~shared_resource() = default;

void shared_resource::dispose_on(const std::shared_ptr<engine>& home) noexcept {
  std::lock_guard lock(home_mutex_);
  home_ = home;
}

std::shared_ptr<engine> shared_resource::home() noexcept {
  std::lock_guard lock(home_mutex_);
  return home_.lock();
}

bool shared_resource::try_retain() noexcept {
  std::uint64_t users = users_.load(std::memory_order_relaxed);
  while (users != 0)
    if (users_.compare_exchange_weak(users, users + 1, std::memory_order_acquire,
                                     std::memory_order_relaxed))
      return true;
  return false;
}

bool shared_resource::end_if_sole() noexcept {
  std::uint64_t sole = 1;
  return users_.compare_exchange_strong(sole, 0, std::memory_order_acq_rel,
                                        std::memory_order_relaxed);
}

void shared_resource::release(bool here) noexcept {
  if (users_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (const std::shared_ptr<engine> disposer = here ? nullptr : home()) {
    if (auto* disposal = new (std::nothrow) background_disposal(*this)) {
      if (disposer->run_in_background(*disposal)) return;
      delete disposal;
    }
  }
  dispose();
}

void shared_resource::dispose() noexcept {
  let_go();
  drop();
}

void shared_resource::drop() noexcept {
  if (holders_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

// --- shared_handle
// ---------------------------------------------------------------------------------------------------------

native_handle_type shared_handle::detach() noexcept {
  const native_handle_type handle = handle_.exchange(platform::no_handle);
  drop();  // on behalf of the users, of whom there are none
  return handle;
}

void shared_handle::let_go() noexcept {
  platform::close(handle_.load(std::memory_order_relaxed));
}

// --- extent: slots
// ---------------------------------------------------------------------------------------------------------

namespace {

constexpr std::size_t probes = 16;

std::size_t first_hint() noexcept {
  // Threads begin on cache lines of their own.
  static std::atomic<std::size_t> threads{0};
  return threads.fetch_add(8, std::memory_order_relaxed) + 1;
}

}  // namespace

constinit thread_local std::size_t extent::slot_hint = 0;

std::uint64_t extent::settled_word(const pin_slot& slot) noexcept {
  std::uint64_t word = slot.word.load(std::memory_order_seq_cst);
  while ((word & pin_slot::claiming) != 0) {
    // Its owner is between two stores.
    std::this_thread::yield();
    word = slot.word.load(std::memory_order_seq_cst);
  }
  return word;
}

pin_slot* extent::claim_elsewhere() noexcept {
  if (slot_hint == 0) slot_hint = first_hint();
  for (;;) {
    slot_block* const newest = newest_.load(std::memory_order_acquire);
    for (slot_block* block = newest; block != nullptr; block = block->older)
      for (std::size_t i = slot_hint; i < slot_hint + probes; ++i) {
        pin_slot& slot = block->at(i);
        std::uint64_t expected = 0;
        if (slot.word.load(std::memory_order_relaxed) == 0 &&
            slot.word.compare_exchange_strong(expected, pin_slot::claiming,
                                              std::memory_order_seq_cst)) {
          slot_hint = i;
          return &slot;
        }
      }
    slot_hint += probes;
    std::lock_guard lock(mutex_);
    if (orphaned_) return nullptr;
    if (newest_.load(std::memory_order_relaxed) != newest) continue;
    auto* block = new (std::nothrow) slot_block;
    if (block == nullptr) return nullptr;
    block->size = newest->size * 2;
    block->slots = new (std::nothrow) pin_slot[block->size];
    if (block->slots == nullptr) {
      delete block;
      return nullptr;
    }
    block->older = newest;
    newest_.store(block, std::memory_order_release);
  }
}

// --- extent
// ----------------------------------------------------------------------------------------------------------------

extent::~extent() {
  for (slot_block* block = newest_.load(std::memory_order_relaxed); block != &first_block_;) {
    delete[] block->slots;
    delete std::exchange(block, block->older);
  }
}

void extent::let_go() noexcept {
  if (base() != nullptr) platform::unmap(base(), capacity());
  if (std::byte* const reading = reading_base_.load(std::memory_order_relaxed))
    platform::unmap(reading, reading_length_);
  is_unmapped_.store(true, std::memory_order_release);
}

void extent::map_for_reading(native_handle_type file, std::uint64_t length) noexcept {
  std::byte* base = nullptr;
  std::uint64_t capacity = length;
  if (was_mapped_for_reading_.exchange(true)) return;
  if (platform::map(file, access::read_only, length, capacity, base)) return;
  if (!platform::read_in_large_pieces(base, length)) return platform::unmap(base, length);
  reading_length_ = length;
  reading_base_.store(base, std::memory_order_release);
}

std::error_code extent::make(native_handle_type file, access mode, std::uint64_t size,
                             std::uint64_t capacity, extent*& result) noexcept {
  const std::uint64_t most_capacity = capacity;
  std::byte* base = nullptr;
  if (capacity != 0)
    if (std::error_code error = platform::map(file, mode, size, capacity, base)) return error;
  const std::uint64_t mapped_end = platform::mappings_are_free ? capacity : page_ceil(size);
  auto* e = new (std::nothrow) extent(base, size, capacity, mapped_end, most_capacity);
  if (e == nullptr) {
    if (base != nullptr) platform::unmap(base, capacity);
    return make_error_code(std::errc::not_enough_memory);
  }
  if (!e->dirty.reserve(most_capacity) || !e->stored.reserve(most_capacity)) {
    e->release(true);
    e->drop();
    return make_error_code(std::errc::not_enough_memory);
  }
  result = e;
  return {};
}

std::error_code extent::map_more(native_handle_type file, std::uint64_t size) noexcept {
  std::uint64_t capacity = this->capacity();
  const std::error_code error = platform::map_more(file, base(), mapped_end(), size, capacity);
  if (!error) mapped_end_.store(page_ceil(size), std::memory_order_relaxed);
  capacity_.store(error ? mapped_end() : capacity, std::memory_order_relaxed);
  return error;
}

bool extent::unmap_if_unused() noexcept {
  if (!has_sole_user()) return false;
  if (base() != nullptr) platform::unmap(base(), capacity());
  base_.store(nullptr, std::memory_order_relaxed);
  capacity_.store(0, std::memory_order_relaxed);
  mapped_end_.store(0, std::memory_order_relaxed);
  limit.store(0, std::memory_order_relaxed);
  return true;
}

std::error_code extent::map_again(native_handle_type file, access mode, std::uint64_t size,
                                  std::uint64_t capacity) noexcept {
  std::byte* base = nullptr;
  capacity = std::min(capacity, most_capacity_);
  if (capacity != 0)
    if (std::error_code error = platform::map(file, mode, size, capacity, base)) return error;
  base_.store(base, std::memory_order_relaxed);
  capacity_.store(capacity, std::memory_order_relaxed);
  mapped_end_.store(page_ceil(size), std::memory_order_relaxed);
  limit.store(size, std::memory_order_relaxed);
  return {};
}

pin pin::part(std::uint64_t begin, std::uint64_t end, std::uint64_t flags) const {
  // A pin without a slot has no range, and needs none: it only counts.
  if (slot_ != nullptr) {
    if (extent_->copies_wait_.load(std::memory_order_seq_cst)) [[unlikely]] {
      const std::lock_guard wait(extent_->mutex_);
    }
    pin copy = extent_->acquire(begin, end, flags);
    if (copy) {
      // Before this pin can go: see each_pass().
      extent_->copies_.fetch_add(1, std::memory_order_seq_cst);
      // What was stored through this one would else count as written anew with the copy's end.
      if ((flags & pin_slot::writable) != 0 &&
          (slot_->word.load(std::memory_order_seq_cst) & pin_slot::suspect) != 0)
        copy.slot_->word.fetch_or(pin_slot::suspect, std::memory_order_seq_cst);
      return copy;
    }
    if (!extent_->is_orphaned()) throw_failure(out_of_memory, "region");
  }
  extent_->retain();
  return {extent_, nullptr, flags};
}

pin pin::duplicate() const {
  if (slot_ == nullptr) return part(0, 0, 0);
  return part(word_ >> pin_slot::shift, slot_->end.load(std::memory_order_relaxed),
              word_ & pin_slot::writable);
}

void pin::drop_slow() noexcept {
  std::exchange(extent_, nullptr)->drop_pin(slot_, word_);
}

void extent::drop_pin(pin_slot* slot, std::uint64_t word) noexcept {
  if (slot == nullptr) {
    // Only counted: the file itself was gone when the copy was made, and with it whoever would
    // flush the pages.
    release();
    return;
  }
  const std::uint64_t begin = word >> pin_slot::shift;
  const std::uint64_t end = slot->end.load(std::memory_order_relaxed);
  std::shared_ptr<file_state> told;  // that what is dropped has written
  std::uint32_t failures_before = 0;
  if ((word & pin_slot::writable) != 0) {
    // Of a sync that failed meanwhile, the mark would look like a write since.
    if ((slot->word.load(std::memory_order_acquire) & pin_slot::suspect) == 0) {
      if (tells_of_drops.load(std::memory_order_acquire) && (told = watcher()))
        failures_before = told->flushes().failures();
      dirty.mark(begin, end);
      stored.mark(begin, end);
    }
    unannounced.store(true, std::memory_order_relaxed);
    retain();  // the count below must outlive the slot
    std::uint64_t expected = word;
    const bool dropped = slot->word.compare_exchange_strong(expected, 0, std::memory_order_seq_cst);
    writable_pins_.fetch_sub(1, std::memory_order_seq_cst);
    if (dropped) {
      release();
      if (told) told->flushes().written(failures_before, begin, end);
      return;
    }
  } else {
    retain();
  }
  std::uint64_t old = 0;
  std::weak_ptr<file_state> waiting;
  {
    std::lock_guard lock(mutex_);
    old = slot->word.exchange(orphaned_ ? pin_slot::orphaned : 0, std::memory_order_seq_cst);
    if ((old & (pin_slot::watched | pin_slot::suspect)) != 0) waiting = watcher_;
  }
  if ((old & pin_slot::orphaned) != 0) release();
  release();
  if (told && (old & pin_slot::suspect) == 0) told->flushes().written(failures_before, begin, end);
  if (auto file = waiting.lock()) {
    if ((old & pin_slot::suspect) != 0) file->flushes().lose(begin, end);
    if ((old & pin_slot::watched) != 0) file->pins_dropped();
  }
}

std::shared_ptr<file_state> extent::watcher() noexcept {
  std::lock_guard lock(mutex_);
  return watcher_.lock();
}

void extent::notify_on_drop(std::weak_ptr<file_state> watcher) noexcept {
  std::lock_guard lock(mutex_);
  watcher_ = std::move(watcher);
}

extent::pin_count extent::count_pins(std::uint64_t from, bool watch) noexcept {
  pin_count count;
  std::lock_guard lock(mutex_);
  each_pass_under_lock([&] {
    count = {};
    each_slot([&](pin_slot& slot, std::uint64_t word) {
      if (watch && count.regions + count.operations != 0) return;
      // A slot that changes hands meanwhile is a pin taken after the caller closed the range: it
      // will notice by itself.
      while ((word & pin_slot::occupied) != 0 && slot.end.load(std::memory_order_acquire) > from) {
        if (watch && !slot.word.compare_exchange_strong(word, word | pin_slot::watched,
                                                        std::memory_order_seq_cst))
          continue;
        ++((word & pin_slot::operation) != 0 ? count.operations : count.regions);
        return;
      }
    });
    return count.regions + count.operations != 0;
  });
  return count;
}

bool extent::has_writable_pin(std::uint64_t begin, std::uint64_t end) const noexcept {
  if (writable_pins_.load(std::memory_order_seq_cst) == 0) return false;
  bool found = false;
  // One that cannot be caught is as good as found: what it may have stored is synced once more.
  const bool sure = each_pass([&] {
    each_slot([&](pin_slot& slot, std::uint64_t word) {
      found = found || ((word & pin_slot::writable) != 0 && word >> pin_slot::shift < end &&
                        begin < slot.end.load(std::memory_order_acquire));
    });
    return found;
  });
  return found || !sure;
}

void extent::orphan(bool here) noexcept {
  {
    std::lock_guard lock(mutex_);
    orphaned_ = true;
    each_slot([&](pin_slot& slot, std::uint64_t word) {
      // A free slot is taken for good; an occupied one makes its pin a user that releases when it
      // goes.
      for (;;) {
        if ((word & pin_slot::claiming) != 0) {
          std::this_thread::yield();
          word = slot.word.load(std::memory_order_seq_cst);
          continue;
        }
        const bool pinned = (word & pin_slot::occupied) != 0;
        if (pinned) retain();
        if (slot.word.compare_exchange_strong(word, word | pin_slot::orphaned,
                                              std::memory_order_seq_cst))
          return;
        if (pinned) undo_retain();
      }
    });
  }
  release(here);
}

}  // namespace detail
MAPIO_NAMESPACE_END
