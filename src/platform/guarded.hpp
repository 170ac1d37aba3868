#ifndef MAPIO_SRC_PLATFORM_GUARDED_HPP
#define MAPIO_SRC_PLATFORM_GUARDED_HPP

// What is done by accesses that survive a fault, however a platform makes them.

#include "page_bounds.hpp"
#include "platform.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

MAPIO_NAMESPACE_BEGIN
namespace detail::platform {

/// Copies once more, by copy_or_fault(to, from, n), a page at a time, to know how far it goes: what
/// copies at once may have begun anywhere.
template <class Copy>
[[gnu::cold, gnu::noinline]] std::size_t copy_until_fault(void* destination, const void* source,
                                                          std::size_t n,
                                                          Copy copy_or_fault) noexcept {
  auto* to = static_cast<char*>(destination);
  const auto* from = static_cast<const char*>(source);
  std::size_t done = 0;
  while (done < n) {
    const std::size_t piece =
        std::min({n - done, to_page_end(to + done), to_page_end(from + done)});
    if (!copy_or_fault(to + done, from + done, piece)) break;
    done += piece;
  }
  return done;
}

/// Loads a word that others store to. A call, since a jump leaves nothing else.
[[gnu::noinline]] inline void load_shared(void* to, const void* from, std::size_t) noexcept {
  auto* const word = const_cast<std::uint32_t*>(static_cast<const std::uint32_t*>(from));
  *static_cast<std::uint32_t*>(to) = std::atomic_ref<std::uint32_t>(*word).load();
}

/// Zeroes the rest of a page, if there is one: what was stored behind the old end shows when a file
/// grows, unless the file system does this.
inline void zero_to_page_end(std::byte* address) noexcept {
  static constexpr std::array<std::byte, 4096> zeros{};
  if (address == nullptr) return;
  for (std::size_t rest = to_page_end(address); rest != 0;) {
    const std::size_t piece = std::min(rest, zeros.size());
    guarded_copy(address, zeros.data(), piece);
    address += piece;
    rest -= piece;
  }
}

}  // namespace detail::platform
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_PLATFORM_GUARDED_HPP
