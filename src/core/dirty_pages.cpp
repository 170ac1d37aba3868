#include "dirty_pages.hpp"

#include <bit>
#include <new>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace {

unsigned page_shift() noexcept {
  static const auto shift = static_cast<unsigned>(std::countr_zero(page_size()));
  return shift;
}

}  // namespace

std::uint64_t dirty_pages::first_page(std::uint64_t begin) noexcept {
  return begin >> page_shift();
}

std::uint64_t dirty_pages::last_page(std::uint64_t end) noexcept {
  return end == 0 ? 0 : ((end - 1) >> page_shift()) + 1;
}

dirty_pages::~dirty_pages() {
  if (words_ != nullptr) platform::free_zeroed(words_, size_ * sizeof *words_);
}

bool dirty_pages::reserve(std::uint64_t bytes) noexcept {
  static_assert(sizeof(std::atomic<std::uint64_t>) == 8 &&
                std::atomic<std::uint64_t>::is_always_lock_free);
  shift_ = page_shift();
  size_ = static_cast<std::size_t>(last_page(bytes) / 64 + 1);
  // All zero bytes are a valid array of atomics that hold 0, on every platform that mapio supports.
  words_ =
      static_cast<std::atomic<std::uint64_t>*>(platform::allocate_zeroed(size_ * sizeof *words_));
  return words_ != nullptr;
}

template <class Each>
void dirty_pages::each_word(std::uint64_t begin, std::uint64_t end, Each each) const {
  if (begin >= end) return;
  const std::uint64_t first = first_page(begin);
  const std::uint64_t last = last_page(end) - 1;
  for (std::size_t i = static_cast<std::size_t>(first / 64); i <= last / 64 && i < size_; ++i)
    if (!each(words_[i], mask_of(i, first, last), i)) return;
}

void dirty_pages::mark_each(std::uint64_t begin, std::uint64_t end) noexcept {
  const bool may_look = platform::has_heavy_barrier();
  each_word(begin, end, [&](std::atomic<std::uint64_t>& word, std::uint64_t mask, std::size_t) {
    if (may_look && (word.load(std::memory_order_relaxed) & mask) == mask) return true;
    // Acquire: whoever asks next whether a sync failed sees what was counted before this bit was
    // taken.
    const std::uint64_t before = word.fetch_or(mask, std::memory_order_acq_rel);
    if (const std::uint64_t fresh = mask & ~before)
      marked_.fetch_add(static_cast<std::uint64_t>(std::popcount(fresh)),
                        std::memory_order_relaxed);
    return true;
  });
}

bool dirty_pages::any(std::uint64_t begin, std::uint64_t end) const noexcept {
  bool found = false;
  each_word(begin, end, [&](std::atomic<std::uint64_t>& word, std::uint64_t mask, std::size_t) {
    found = (word.load(std::memory_order_acquire) & mask) != 0;
    return !found;
  });
  return found;
}

bool dirty_pages::all_of_many(std::uint64_t begin, std::uint64_t end) const noexcept {
  bool all = true;
  each_word(begin, end, [&](std::atomic<std::uint64_t>& word, std::uint64_t mask, std::size_t) {
    all = (word.load(std::memory_order_relaxed) & mask) == mask;
    return all;
  });
  return all;
}

std::uint64_t dirty_pages::count(std::uint64_t begin, std::uint64_t end) const noexcept {
  std::uint64_t pages = 0;
  each_word(begin, end, [&](std::atomic<std::uint64_t>& word, std::uint64_t mask, std::size_t) {
    pages += static_cast<std::uint64_t>(std::popcount(word.load(std::memory_order_relaxed) & mask));
    return true;
  });
  return pages;
}

void dirty_pages::take(std::uint64_t begin, std::uint64_t end, std::vector<taken>& cut) {
  each_word(begin, end,
            [&](std::atomic<std::uint64_t>& word, std::uint64_t mask, std::size_t index) {
              if ((word.load(std::memory_order_relaxed) & mask) == 0) return true;
              cut.push_back({index, 0});
              cut.back().bits = word.fetch_and(~mask, std::memory_order_acq_rel) & mask;
              return true;
            });
}

void dirty_pages::put_back(const std::vector<taken>& cut) noexcept {
  for (const taken& t : cut)
    words_[t.word].fetch_or(t.bits, std::memory_order_release);
}

void dirty_pages::clear(std::uint64_t begin, std::uint64_t end) noexcept {
  each_word(begin, end, [&](std::atomic<std::uint64_t>& word, std::uint64_t mask, std::size_t) {
    if ((word.load(std::memory_order_relaxed) & mask) != 0)
      word.fetch_and(~mask, std::memory_order_acq_rel);
    return true;
  });
}

void dirty_pages::copy(const dirty_pages& other) noexcept {
  for (std::size_t i = 0; i < other.size_ && i < size_; ++i)
    if (const std::uint64_t bits = other.words_[i].load(std::memory_order_relaxed))
      words_[i].store(bits, std::memory_order_relaxed);
  marked_.store(other.marked(), std::memory_order_relaxed);
}

}  // namespace detail
MAPIO_NAMESPACE_END
