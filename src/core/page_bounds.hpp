#ifndef MAPIO_SRC_CORE_PAGE_BOUNDS_HPP
#define MAPIO_SRC_CORE_PAGE_BOUNDS_HPP

#include <mapio/mapping.hpp>

#include <cstdint>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// The start of the page that contains `offset`.
inline std::uint64_t page_floor(std::uint64_t offset) noexcept {
  return offset & ~(std::uint64_t{page_size()} - 1);
}

/// The first start of a page that is not before `offset`.
inline std::uint64_t page_ceil(std::uint64_t offset) noexcept {
  return page_floor(offset + page_size() - 1);
}

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_PAGE_BOUNDS_HPP
