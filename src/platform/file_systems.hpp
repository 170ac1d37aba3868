#ifndef MAPIO_SRC_PLATFORM_FILE_SYSTEMS_HPP
#define MAPIO_SRC_PLATFORM_FILE_SYSTEMS_HPP

// The kinds of file systems that more than one file tells apart, by statfs::f_type (Linux).

#include <mapio/detail/config.hpp>

#include <linux/magic.h>

MAPIO_NAMESPACE_BEGIN
namespace detail::platform {

/// Tells whether the files are those of another host.
inline bool is_network(long type) noexcept {
  // Not in the headers of Debian 12.
  constexpr long cifs_magic = 0xFF534D42;
  constexpr long smb2_magic = 0xFE534D42;
  return type == NFS_SUPER_MAGIC || type == SMB_SUPER_MAGIC || type == cifs_magic ||
         type == smb2_magic;
}

}  // namespace detail::platform
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_PLATFORM_FILE_SYSTEMS_HPP
