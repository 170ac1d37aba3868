// For a Unix that tells of no changes: everything is polled.
#include "platform/posix.hpp"
#include "posix_looks.hpp"

#include <mapio/error.hpp>

#include <cerrno>

#include <fcntl.h>
#include <sys/stat.h>

MAPIO_NAMESPACE_BEGIN
namespace detail::watching {

std::unique_ptr<watch_source> make_watch_source(asio::execution_context&, std::function<void()>) {
  return make_silent_source(errc::unsupported);
}

bool may_change_unseen(const std::filesystem::path&) noexcept {
  return false;
}

namespace {

file_look look_of(const struct stat& s) noexcept {
  file_look look;
  look.exists = true;
  look.is_folder = S_ISDIR(s.st_mode);
  look.device = static_cast<std::uint64_t>(s.st_dev);
  look.inode = s.st_ino;
  look.size = static_cast<std::uint64_t>(s.st_size);
  look.modified = nanoseconds(s.st_mtim);
  look.changed = nanoseconds(s.st_ctim);
  look.mode = static_cast<std::uint32_t>(s.st_mode);
  look.owners = (static_cast<std::uint64_t>(s.st_uid) << 32) | s.st_gid;
  return look;
}

}  // namespace

std::error_code look_at(int file, file_look& look) noexcept {
  look = {};
  struct stat s {};
  if (::fstat(file, &s) != 0) return platform::posix::last_error();
  look = look_of(s);
  return {};
}

std::error_code look_from(int folder, const char* name, bool follow, file_look& look) noexcept {
  look = {};
  struct stat s {};
  if (::fstatat(folder, name, &s, follow ? 0 : AT_SYMLINK_NOFOLLOW) != 0)
    return errno == ENOENT || errno == ENOTDIR ? std::error_code() : platform::posix::last_error();
  look = look_of(s);
  return {};
}

bool look_at_once(const std::filesystem::path&, bool, file_look&) noexcept {
  return false;
}

}  // namespace detail::watching
MAPIO_NAMESPACE_END
