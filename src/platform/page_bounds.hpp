#ifndef MAPIO_SRC_PLATFORM_PAGE_BOUNDS_HPP
#define MAPIO_SRC_PLATFORM_PAGE_BOUNDS_HPP

#include <mapio/mapping.hpp>

#include <cstddef>
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

/// The bytes from an address to the end of its page.
inline std::size_t to_page_end(const void* p) noexcept {
  return page_size() - static_cast<std::size_t>(reinterpret_cast<std::uintptr_t>(p) % page_size());
}

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_PLATFORM_PAGE_BOUNDS_HPP
