#include "range_set.hpp"

#include <algorithm>
#include <iterator>

MAPIO_NAMESPACE_BEGIN
namespace detail {

void range_set::add(std::uint64_t begin, std::uint64_t end) {
  if (begin >= end) return;
  auto it = ranges_.upper_bound(begin);
  if (it != ranges_.begin() && std::prev(it)->second >= begin) {
    --it;
    begin = it->first;
  }
  while (it != ranges_.end() && it->first <= end) {
    end = std::max(end, it->second);
    it = ranges_.erase(it);
  }
  ranges_.emplace(begin, end);
}

void range_set::take(std::uint64_t begin, std::uint64_t end, std::vector<range>& cut) {
  auto it = ranges_.upper_bound(begin);
  if (it != ranges_.begin()) --it;
  while (it != ranges_.end() && it->first < end) {
    const auto [from, to] = *it;
    if (to <= begin) {
      ++it;
      continue;
    }
    cut.push_back({std::max(from, begin), std::min(to, end)});
    it = ranges_.erase(it);
    if (from < begin) ranges_.emplace(from, begin);
    if (to > end) it = ranges_.emplace(end, to).first;
  }
}

bool range_set::overlaps(std::uint64_t begin, std::uint64_t end) const noexcept {
  if (begin >= end) return false;
  const auto it = ranges_.lower_bound(end);
  return it != ranges_.begin() && std::prev(it)->second > begin;
}

bool range_set::covers(std::uint64_t begin, std::uint64_t end) const noexcept {
  if (begin >= end) return true;
  // Neighbours are one range.
  const auto it = ranges_.upper_bound(begin);
  return it != ranges_.begin() && std::prev(it)->second >= end;
}

}  // namespace detail
MAPIO_NAMESPACE_END
