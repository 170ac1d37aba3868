#ifndef MAPIO_SRC_WATCH_POSIX_LOOKS_HPP
#define MAPIO_SRC_WATCH_POSIX_LOOKS_HPP

// The pieces of the looks of POSIX that one kernel does better than POSIX asks for, and what they
// share.

#include "watch_source.hpp"

#include <cstdint>
#include <ctime>

MAPIO_NAMESPACE_BEGIN
namespace detail::watching {

inline std::int64_t nanoseconds(const timespec& t) noexcept {
  return static_cast<std::int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

/// As look_at(), of a name in an open folder, or AT_FDCWD.
std::error_code look_from(int folder, const char* name, bool follow, file_look& look) noexcept;

}  // namespace detail::watching
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_WATCH_POSIX_LOOKS_HPP
