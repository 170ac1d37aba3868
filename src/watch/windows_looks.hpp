#ifndef MAPIO_SRC_WATCH_WINDOWS_LOOKS_HPP
#define MAPIO_SRC_WATCH_WINDOWS_LOOKS_HPP

// What the looks and the notices of Windows share.

#include "platform/windows.hpp"
#include "watch_source.hpp"

#include <system_error>

MAPIO_NAMESPACE_BEGIN
namespace detail::watching {

/// Returns the same for all that Windows takes for one name.
file_name folded(const file_name& name);

/// As look_at(), of a name in an open folder of this volume, wherever that is by now; without
/// following links.
std::error_code look_at(HANDLE folder, std::uint64_t device, const file_name& name,
                        file_look& look) noexcept;

}  // namespace detail::watching
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_WATCH_WINDOWS_LOOKS_HPP
