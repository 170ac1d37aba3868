#ifndef MAPIO_SRC_PLATFORM_POSIX_HPP
#define MAPIO_SRC_PLATFORM_POSIX_HPP

// The pieces of the POSIX platform that one kernel does better than POSIX asks for.

#include "platform.hpp"

#include <cerrno>

#include <signal.h>
#include <sys/types.h>
#include <sys/uio.h>

#if defined(__SANITIZE_THREAD__)
#define MAPIO_THREAD_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MAPIO_THREAD_SANITIZED 1
#endif
#endif

MAPIO_NAMESPACE_BEGIN
namespace detail::platform::posix {

inline std::error_code last_error() noexcept {
  return {errno, std::system_category()};
}

/// Recognises the file system of an open file.
void identify(int file, opened_file& result) noexcept;
/// Tells whether the OS keeps from this process what of a file is in memory.
bool hides_residency(int file, std::uint64_t size) noexcept;
/// Opens a file without a name in the folder of `path`; -1 where that is not to be had.
int open_unnamed(const std::filesystem::path& path, int flags, unsigned permissions);
/// Gives it its name, if nothing has that yet; else false, with errno.
bool give_name(int file, const std::filesystem::path& path);
/// Renames a file if nothing has the other name; else false, with errno: EINVAL or ENOSYS where
/// that is not to be had.
bool rename_to_new(const std::filesystem::path& from, const std::filesystem::path& to) noexcept;
/// Tells whether give_name() can name this file, whatever the name.
bool can_be_named(int file) noexcept;
/// Makes a new file share all the bytes of another one; false where that is not to be had.
bool clone(int from, int to) noexcept;
/// Copies bytes at an offset without their passing through this process; as copy_file_range.
ssize_t copy_in_kernel(int from, int to, std::uint64_t at, std::size_t bytes) noexcept;
/// As platform::open_again, without a name.
int open_again(int file) noexcept;
/// Keeps this thread's signals waiting while it lives. For a sync: one that is interrupted may have
/// been told of a failure to write back, and the next one would not be.
class without_signals {
 public:
  without_signals() noexcept;
  without_signals(const without_signals&) = delete;
  without_signals& operator=(const without_signals&) = delete;
  ~without_signals();

 private:
  sigset_t before_;
};
/// As mmap at whatever address, without swap space for it, and without its being dumped, where
/// that is to be had.
void* map_anywhere(std::size_t bytes, int protection, int flags, int file) noexcept;
/// As preadv and pwritev; may do the first buffer alone.
ssize_t read_at(int file, const iovec* buffers, int count, off_t at) noexcept;
ssize_t write_at(int file, const iovec* buffers, int count, off_t at) noexcept;
/// Has all of a file on its medium, or a folder: data and metadata.
std::error_code sync_file(int file) noexcept;
void sync(operation& op) noexcept;
void start_writeback(operation& op) noexcept;
void populate(operation& op) noexcept;
void populate_for_storing(operation& op) noexcept;
void allocate(operation& op) noexcept;
/// Has the first bytes of a file be zero and keep their blocks; else std::errc::not_supported.
std::error_code zero(int file, std::uint64_t bytes) noexcept;
/// Of a thread that a signal interrupted and that is to go on elsewhere: rounding and the like are
/// what a handler begins with until it returns, which it does not.
void restore_floating_point(const void* context) noexcept;

}  // namespace detail::platform::posix
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_PLATFORM_POSIX_HPP
