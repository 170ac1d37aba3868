#ifndef MAPIO_SRC_CORE_PAGE_ADVICE_HPP
#define MAPIO_SRC_CORE_PAGE_ADVICE_HPP

#include "range_set.hpp"

#include <mapio/detail/config.hpp>
#include <mapio/options.hpp>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <system_error>

MAPIO_NAMESPACE_BEGIN
namespace detail {

class extent;

/// What the OS was told of how the pages of a file will be used, as far as that lasts: the OS
/// forgets it when the mapping moves.
///
/// Ranges are of whole pages.
class page_advice {
 public:
  /// Tells the OS, and remembers what lasts.
  std::error_code advise(const extent& e, std::uint64_t begin, std::uint64_t end,
                         advice what) noexcept;

  /// Tells the OS the same about `larger`. Best effort: these are hints.
  void repeat_in(const extent& larger) noexcept;
  /// Tells whether nothing was added since repeat_in(), if all of advise() is over.
  bool is_repeated() const noexcept { return changes_.load() == repeated_changes_.load(); }

  /// Tells whether huge pages were ever asked for.
  bool wants_huge_pages() const noexcept {
    return wants_huge_pages_.load(std::memory_order_relaxed);
  }

 private:
  std::mutex mutex_;  // guards what follows, and is held while the OS is told of it
  range_set sequential_;
  range_set random_;
  range_set huge_;
  std::atomic<std::uint64_t> changes_{0};
  std::atomic<std::uint64_t> repeated_changes_{0};
  std::atomic<bool> wants_huge_pages_{false};
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_PAGE_ADVICE_HPP
