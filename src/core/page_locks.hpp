#ifndef MAPIO_SRC_CORE_PAGE_LOCKS_HPP
#define MAPIO_SRC_CORE_PAGE_LOCKS_HPP

#include "range_set.hpp"

#include <mapio/detail/config.hpp>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <system_error>

MAPIO_NAMESPACE_BEGIN
namespace detail {

class extent;

/// Which pages of a file are locked into memory: the OS forgets it when the mapping moves.
///
/// Ranges are of whole pages. What locks and unlocks may take as long as the disk, and waits for
/// its turn: for workers, and for who blocks anyway.
class page_locks {
 public:
  /// Locks, all or nothing. Looks at `cancelled` now and then.
  std::error_code lock(const extent& e, std::uint64_t begin, std::uint64_t end,
                       const std::atomic<bool>& cancelled) noexcept;
  std::error_code unlock(const extent& e, std::uint64_t begin, std::uint64_t end) noexcept;
  /// Takes pages that are there no more for unlocked.
  std::error_code forget(std::uint64_t begin, std::uint64_t end) noexcept;
  /// Tells whether a page of [begin, end) is locked.
  bool any(std::uint64_t begin, std::uint64_t end) const noexcept;

  /// Locks in `larger` what is locked.
  std::error_code repeat_in(const extent& larger) noexcept;
  /// Tells whether nothing was locked or unlocked since repeat_in().
  bool are_repeated() const noexcept;

 private:
  template <class Change>
  std::error_code change(Change change) noexcept;
  void unlock_what_was_not(const extent& e, std::uint64_t begin, std::uint64_t end) const noexcept;

  std::mutex turn_;           // held by who locks or unlocks; the ranges change only under it,
  mutable std::mutex mutex_;  // and this
  range_set ranges_;
  std::uint64_t changes_ = 0;
  std::uint64_t repeated_changes_ = 0;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_PAGE_LOCKS_HPP
