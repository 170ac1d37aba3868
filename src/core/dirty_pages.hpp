#ifndef MAPIO_SRC_CORE_DIRTY_PAGES_HPP
#define MAPIO_SRC_CORE_DIRTY_PAGES_HPP

#include "platform/platform.hpp"

#include <mapio/detail/config.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// One bit per page: written, and not yet covered by a sync that started later. The memory is taken
/// from the OS and costs only what is touched: 8 bytes of it stand for 64 pages.
///
/// Write side, lock-free: store first, then mark(). Where the flush side has a barrier that reaches
/// into running threads (platform::heavy_barrier), a mark that finds its bit set may leave it at
/// that: if the flush side clears the bit after that look, its barrier comes after the store and
/// before its sync.
class dirty_pages {
 public:
  /// The bits that a cut took, for putting them back.
  struct taken {
    std::size_t word;
    std::uint64_t bits;
  };

  dirty_pages() = default;
  dirty_pages(const dirty_pages&) = delete;
  dirty_pages& operator=(const dirty_pages&) = delete;
  ~dirty_pages();

  /// Provides bits for `bytes` bytes of file; false: no memory.
  bool reserve(std::uint64_t bytes) noexcept;

  /// Marks the pages of [begin, end); call after the store.
  void mark(std::uint64_t begin, std::uint64_t end) noexcept {
    // Keeps the compiler from moving the look at the bit before the store.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (platform::has_heavy_barrier()) {
      const std::uint64_t first = begin >> shift_;
      const std::uint64_t last = (end - 1) >> shift_;
      const std::uint64_t mask =
          (~std::uint64_t{0} << first % 64) & (~std::uint64_t{0} >> (63 - last % 64));
      if (first / 64 == last / 64 &&
          (words_[first / 64].load(std::memory_order_relaxed) & mask) == mask)
        return;
    }
    mark_each(begin, end);
  }
  bool any(std::uint64_t begin, std::uint64_t end) const noexcept;
  bool all(std::uint64_t begin, std::uint64_t end) const noexcept {
    if (begin >= end) return true;
    const std::uint64_t first = begin >> shift_;
    const std::uint64_t last = (end - 1) >> shift_;
    if (first / 64 != last / 64) return all_of_many(begin, end);
    const std::uint64_t mask =
        (~std::uint64_t{0} << first % 64) & (~std::uint64_t{0} >> (63 - last % 64));
    return (words_[first / 64].load(std::memory_order_relaxed) & mask) == mask;
  }
  std::uint64_t count(std::uint64_t begin, std::uint64_t end) const noexcept;

  /// Returns the bits of 64 pages, as in `taken`.
  std::uint64_t bits_of(std::size_t word) const noexcept {
    return word < size_ ? words_[word].load(std::memory_order_acquire) : 0;
  }
  /// Tells whether a cut holds a page of [begin, end) that is not among except(word).
  template <class Except>
  static bool holds_any(const std::vector<taken>& cut, std::uint64_t begin, std::uint64_t end,
                        Except except) noexcept;
  /// Returns the bits of a word that a cut holds.
  static std::uint64_t bits_in(const std::vector<taken>& cut, std::size_t word) noexcept {
    const auto it = find(cut, word);
    return it != cut.end() && it->word == word ? it->bits : 0;
  }

  /// Clears the pages of [begin, end) and appends what was set to `cut`, in the order of the words;
  /// one flush at a time.
  void take(std::uint64_t begin, std::uint64_t end, std::vector<taken>& cut);
  void put_back(const std::vector<taken>& cut) noexcept;
  void clear(std::uint64_t begin, std::uint64_t end) noexcept;
  /// Copies the bits of `other`, whose pages nobody marks meanwhile.
  void copy(const dirty_pages& other) noexcept;
  /// Pages that went from clean to dirty so far.
  std::uint64_t marked() const noexcept { return marked_.load(std::memory_order_relaxed); }

  /// First page and one past the last page of a range of bytes.
  static std::uint64_t first_page(std::uint64_t begin) noexcept;
  static std::uint64_t last_page(std::uint64_t end) noexcept;

 private:
  bool all_of_many(std::uint64_t begin, std::uint64_t end) const noexcept;
  void mark_each(std::uint64_t begin, std::uint64_t end) noexcept;
  /// The bits of a word that stand for pages from `first` to `last`.
  static std::uint64_t mask_of(std::size_t word, std::uint64_t first, std::uint64_t last) noexcept {
    std::uint64_t mask = ~std::uint64_t{0};
    if (word == first / 64) mask <<= first % 64;
    if (word == last / 64) mask &= ~std::uint64_t{0} >> (63 - last % 64);
    return mask;
  }
  template <class Each>
  void each_word(std::uint64_t begin, std::uint64_t end, Each each) const;
  /// The first of a cut at `word` or behind it.
  static std::vector<taken>::const_iterator find(const std::vector<taken>& cut,
                                                 std::size_t word) noexcept {
    return std::lower_bound(cut.begin(), cut.end(), word,
                            [](const taken& t, std::size_t w) { return t.word < w; });
  }

  std::atomic<std::uint64_t>* words_ = nullptr;
  std::size_t size_ = 0;  // in words
  unsigned shift_ = 12;   // of a page
  std::atomic<std::uint64_t> marked_{0};
};

template <class Except>
bool dirty_pages::holds_any(const std::vector<taken>& cut, std::uint64_t begin, std::uint64_t end,
                            Except except) noexcept {
  if (begin >= end) return false;
  const std::uint64_t first = first_page(begin);
  const std::uint64_t last = last_page(end) - 1;
  for (auto it = find(cut, static_cast<std::size_t>(first / 64));
       it != cut.end() && it->word <= last / 64; ++it) {
    const std::uint64_t bits = it->bits & mask_of(it->word, first, last);
    if (bits != 0 && (bits & ~except(it->word)) != 0) return true;
  }
  return false;
}

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_DIRTY_PAGES_HPP
