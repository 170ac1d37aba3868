#ifndef MAPIO_SRC_CORE_RANGE_SET_HPP
#define MAPIO_SRC_CORE_RANGE_SET_HPP

#include <mapio/detail/config.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// A set of disjoint ranges of bytes.
class range_set {
 public:
  struct range {
    std::uint64_t begin;
    std::uint64_t end;
  };

  void add(std::uint64_t begin, std::uint64_t end);
  /// Takes [begin, end) out and appends what was in it to `cut`.
  void take(std::uint64_t begin, std::uint64_t end, std::vector<range>& cut);
  bool overlaps(std::uint64_t begin, std::uint64_t end) const noexcept;
  bool covers(std::uint64_t begin, std::uint64_t end) const noexcept;
  void clear() noexcept { ranges_.clear(); }
  bool empty() const noexcept { return ranges_.empty(); }
  std::size_t count() const noexcept { return ranges_.size(); }
  template <class Each>
  void each_overlapping(std::uint64_t begin, std::uint64_t end, Each each) const {
    for (const auto& [from, to] : ranges_)
      if (from < end && begin < to && !each(from > begin ? from : begin, to < end ? to : end))
        return;
  }

 private:
  std::map<std::uint64_t, std::uint64_t> ranges_;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_RANGE_SET_HPP
