#include "page_locks.hpp"

#include "extent.hpp"

#include <asio/error.hpp>

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace {

// Small enough that a cancellation is heard while the disk is slow.
constexpr std::uint64_t piece = std::uint64_t{4} << 20;

}  // namespace

std::error_code page_locks::lock(const extent& e, std::uint64_t begin, std::uint64_t end,
                                 const std::atomic<bool>& cancelled) noexcept {
  std::lock_guard turn(turn_);
  std::error_code error;
  std::uint64_t at = begin;
  while (at < end && !error) {
    const std::uint64_t n = std::min(piece, end - at);
    error = platform::lock_pages(e.base() + at, n);
    at += n;  // also of the piece that failed some pages may be locked
    if (!error && at < end && cancelled.load(std::memory_order_relaxed))
      error = asio::error::operation_aborted;
  }
  if (!error)
    error = change([&](range_set& ranges) {
      ranges.add(begin, end);
      return std::error_code();
    });
  if (error) unlock_what_was_not(e, begin, at);
  return error;
}

std::error_code page_locks::unlock(const extent& e, std::uint64_t begin,
                                   std::uint64_t end) noexcept {
  std::lock_guard turn(turn_);
  return change([&](range_set& ranges) {
    std::vector<range_set::range> unlocked;
    ranges.take(begin, end, unlocked);
    return platform::unlock_pages(e.base() + begin, end - begin);
  });
}

std::error_code page_locks::forget(std::uint64_t begin, std::uint64_t end) noexcept {
  std::lock_guard turn(turn_);
  return change([&](range_set& ranges) {
    std::vector<range_set::range> forgotten;
    ranges.take(begin, end, forgotten);
    return std::error_code();
  });
}

bool page_locks::any(std::uint64_t begin, std::uint64_t end) const noexcept {
  std::lock_guard guard(mutex_);
  return ranges_.overlaps(begin, end);
}

std::error_code page_locks::repeat_in(const extent& larger) noexcept {
  std::lock_guard turn(turn_);
  if (changes_ == 0) return {};
  // What was unlocked since it was repeated is not among the ranges.
  std::error_code error = platform::unlock_pages(larger.base(), larger.mapped_end());
  if (error) return error;
  ranges_.each_overlapping(0, larger.mapped_end(), [&](std::uint64_t begin, std::uint64_t end) {
    error = platform::lock_pages(larger.base() + begin, end - begin);
    return !error;
  });
  if (error) return error;
  std::lock_guard guard(mutex_);
  repeated_changes_ = changes_;
  return {};
}

bool page_locks::are_repeated() const noexcept {
  std::lock_guard guard(mutex_);
  return changes_ == repeated_changes_;
}

// Without memory for it, or after an error, nothing has changed.
template <class Change>
std::error_code page_locks::change(Change change) noexcept {
  try {
    range_set changed = ranges_;
    if (const std::error_code error = change(changed)) return error;
    std::lock_guard guard(mutex_);
    ranges_ = std::move(changed);
    ++changes_;
    return {};
  } catch (const std::bad_alloc&) {
    return make_error_code(std::errc::not_enough_memory);
  }
}

void page_locks::unlock_what_was_not(const extent& e, std::uint64_t begin,
                                     std::uint64_t end) const noexcept {
  const auto unlock = [&e](std::uint64_t from, std::uint64_t to) {
    if (from < to) static_cast<void>(platform::unlock_pages(e.base() + from, to - from));
  };
  ranges_.each_overlapping(begin, end, [&](std::uint64_t from, std::uint64_t to) {
    unlock(std::exchange(begin, to), from);
    return true;
  });
  unlock(begin, end);
}

}  // namespace detail
MAPIO_NAMESPACE_END
