#include "page_advice.hpp"

#include "extent.hpp"
#include "platform/platform.hpp"

#include <new>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace {

/// Tells whether it is about what comes, and not done with at once.
bool lasts(advice what) noexcept {
  return what == advice::normal || what == advice::sequential || what == advice::random ||
         what == advice::huge_pages;
}

}  // namespace

std::error_code page_advice::advise(const extent& e, std::uint64_t begin, std::uint64_t end,
                                    advice what) noexcept try {
  if (!lasts(what)) return platform::advise(e.base() + begin, end - begin, what);
  std::lock_guard lock(mutex_);
  if (std::error_code error = platform::advise(e.base() + begin, end - begin, what)) return error;
  ++changes_;
  if (what == advice::huge_pages) {
    wants_huge_pages_.store(true, std::memory_order_relaxed);
    huge_.add(begin, end);
    return {};
  }
  // One at a time holds.
  std::vector<range_set::range> superseded;
  sequential_.take(begin, end, superseded);
  random_.take(begin, end, superseded);
  if (what == advice::sequential) sequential_.add(begin, end);
  if (what == advice::random) random_.add(begin, end);
  return {};
} catch (const std::bad_alloc&) {
  return make_error_code(std::errc::not_enough_memory);
}

void page_advice::repeat_in(const extent& larger) noexcept {
  std::lock_guard lock(mutex_);
  repeated_changes_ = changes_.load();
  if (repeated_changes_ == 0) return;
  const auto repeat = [&](const range_set& ranges, advice what) {
    ranges.each_overlapping(0, larger.mapped_end(), [&](std::uint64_t begin, std::uint64_t end) {
      static_cast<void>(platform::advise(larger.base() + begin, end - begin, what));
      return true;
    });
  };
  // What was superseded since it was repeated is not among the ranges.
  static_cast<void>(platform::advise(larger.base(), larger.mapped_end(), advice::normal));
  repeat(sequential_, advice::sequential);
  repeat(random_, advice::random);
  repeat(huge_, advice::huge_pages);
}

}  // namespace detail
MAPIO_NAMESPACE_END
