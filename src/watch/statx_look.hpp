#ifndef MAPIO_SRC_WATCH_STATX_LOOK_HPP
#define MAPIO_SRC_WATCH_STATX_LOOK_HPP

// For who looks by statx: what it says, as a file_look.

#include "watch_source.hpp"

#include <cstdint>

#include <fcntl.h>
#include <sys/stat.h>

#if defined(STATX_BTIME)

MAPIO_NAMESPACE_BEGIN
namespace detail::watching {

inline file_look look_of(const struct statx& s) noexcept {
  const auto nanoseconds = [](const statx_timestamp& t) {
    return t.tv_sec * 1'000'000'000 + static_cast<std::int64_t>(t.tv_nsec);
  };
  file_look look;
  look.exists = true;
  look.is_folder = S_ISDIR(s.stx_mode);
  look.device = (std::uint64_t{s.stx_dev_major} << 32) | s.stx_dev_minor;
  look.inode = s.stx_ino;
  look.size = s.stx_size;
  look.modified = nanoseconds(s.stx_mtime);
  look.changed = nanoseconds(s.stx_ctime);
  if ((s.stx_mask & STATX_BTIME) != 0) look.born = nanoseconds(s.stx_btime);
  return look;
}

}  // namespace detail::watching
MAPIO_NAMESPACE_END

#endif

#endif  // MAPIO_SRC_WATCH_STATX_LOOK_HPP
