#ifndef MAPIO_SRC_PLATFORM_WINDOWS_HPP
#define MAPIO_SRC_PLATFORM_WINDOWS_HPP

// What the files of the Windows platform share.

#include "platform.hpp"

#include <chrono>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

// Asio's headers, which bring sockets along, insist on being before this one.
#include <asio/detail/socket_types.hpp>

#include <windows.h>

MAPIO_NAMESPACE_BEGIN
namespace detail::platform::windows {

inline std::error_code error_of(DWORD code) noexcept {
  return {static_cast<int>(code), std::system_category()};
}
inline std::error_code error_of(std::errc e) noexcept {
  return std::make_error_code(e);
}
inline std::error_code last_error() noexcept {
  return error_of(::GetLastError());
}
inline std::error_code succeeded(BOOL result) noexcept {
  return result != FALSE ? std::error_code() : last_error();
}

/// Closes a handle of the OS when it goes.
class unique_handle {
 public:
  explicit unique_handle(HANDLE handle = INVALID_HANDLE_VALUE) noexcept : handle_(handle) {}
  unique_handle(unique_handle&& other) noexcept : handle_(other.release()) {}
  unique_handle& operator=(unique_handle other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~unique_handle() {
    if (*this) ::CloseHandle(handle_);
  }

  explicit operator bool() const noexcept {
    return handle_ != INVALID_HANDLE_VALUE && handle_ != nullptr;
  }
  HANDLE get() const noexcept { return handle_; }
  HANDLE release() noexcept { return std::exchange(handle_, INVALID_HANDLE_VALUE); }

 private:
  HANDLE handle_;
};

/// What others may do with a file that we have open: all that they may on other systems.
inline constexpr DWORD shared_with_all = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

/// Returns the path as system calls take it, however long it is.
std::wstring native_path(const std::filesystem::path& path);
/// The OS would take the name to end at a zero, and find another file.
std::error_code check_path(const std::filesystem::path& path) noexcept;
/// As CreateFileW by native_path().
unique_handle open_by_name(const std::filesystem::path& path, DWORD access, DWORD disposition,
                           DWORD flags, DWORD attributes = 0);
/// Tells why a file that was opened so is none that can be mapped or copied.
std::error_code check_regular(HANDLE file, bool follow_symlinks) noexcept;
/// Tells what it is that could not be opened, where the OS only says that access is denied.
std::error_code why_not_opened(const std::filesystem::path& path, std::error_code error);
std::error_code set_size(HANDLE file, std::uint64_t size) noexcept;
/// Has the names in an open folder on the medium, where the file system has a sync of folders.
std::error_code sync_folder(HANDLE folder) noexcept;
/// Reads or writes at an offset, whether the file was opened for overlapped calls or not; returns
/// how many bytes it were. The end of the file is none.
DWORD read_at(HANDLE file, void* to, DWORD bytes, std::uint64_t at,
              std::error_code& error) noexcept;
DWORD write_at(HANDLE file, const void* from, DWORD bytes, std::uint64_t at,
               std::error_code& error) noexcept;

/// Which file it is, among all that are open.
struct file_identity {
  DWORD volume = 0;
  std::uint64_t index = 0;

  std::error_code ask(HANDLE file) noexcept;
  bool operator==(const file_identity&) const noexcept = default;
};

/// Waits for the next mapping of this file to go, of those that this process has; false: it has
/// none, or the time is over.
bool wait_for_unmapping(const file_identity& file, std::chrono::steady_clock::time_point end);
/// Has what was stored in a range of a mapping written to its file.
std::error_code flush_views(std::byte* address, std::uint64_t length) noexcept;
/// Begins to read a range of a mapping.
void prefetch(std::byte* address, std::uint64_t length) noexcept;

}  // namespace detail::platform::windows
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_PLATFORM_WINDOWS_HPP
