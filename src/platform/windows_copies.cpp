// Copying and removing files.

#include "windows.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include <winioctl.h>

MAPIO_NAMESPACE_BEGIN
namespace detail::platform {

using windows::error_of;
using windows::last_error;
using windows::native_path;
using windows::succeeded;
using windows::unique_handle;

namespace {

constexpr std::size_t largest_copy_piece = std::size_t{8} << 20;
constexpr std::size_t copy_buffer = std::size_t{256} << 10;

DWORD flags_of(const copy_file_options& options) noexcept {
  return options.follow_symlinks ? 0 : FILE_FLAG_OPEN_REPARSE_POINT;
}

std::error_code open_source(const std::filesystem::path& from, const copy_file_options& options,
                            file_copy& copy, windows::file_identity& source) {
  unique_handle file = windows::open_by_name(from, GENERIC_READ, OPEN_EXISTING, flags_of(options));
  if (!file) return windows::why_not_opened(from, last_error());
  std::error_code error = windows::check_regular(file.get(), options.follow_symlinks);
  if (!error) error = source.ask(file.get());
  if (!error) error = current_size(file.get(), copy.size);
  if (error) return error;
  FILE_BASIC_INFO info{};
  if (::GetFileInformationByHandleEx(file.get(), FileBasicInfo, &info, sizeof info) != FALSE)
    copy.permissions = info.FileAttributes & FILE_ATTRIBUTE_READONLY;
  copy.source = file.release();
  return {};
}

/// Follows links to the name that the copy is to get: a dangling one names a file that can be
/// created.
std::error_code find_place(const std::filesystem::path& to, bool follow_symlinks,
                           std::filesystem::path& place) {
  constexpr int most_links = 40;
  if (to.empty()) return error_of(std::errc::no_such_file_or_directory);
  // The working directory may be another one when the copy ends.
  std::error_code error;
  place = std::filesystem::absolute(to, error);
  for (int links = 0; !error && links < most_links; ++links) {
    std::error_code ignored;
    if (!std::filesystem::is_symlink(std::filesystem::symlink_status(place, ignored))) return {};
    if (!follow_symlinks) break;
    const std::filesystem::path next = std::filesystem::read_symlink(place, error);
    place = place.parent_path() / next;
  }
  return error ? error : error_of(std::errc::too_many_symbolic_link_levels);
}

/// Refuses a target that could not be written to, though another file could take its place.
std::error_code check_target(const std::filesystem::path& place,
                             const windows::file_identity& source,
                             const copy_file_options& options) {
  const DWORD attributes = ::GetFileAttributesW(native_path(place).c_str());
  if (attributes == INVALID_FILE_ATTRIBUTES) {
    const std::error_code error = last_error();
    // No folder is told by whoever creates the copy.
    return error == std::errc::no_such_file_or_directory ? std::error_code() : error;
  }
  if ((attributes & FILE_ATTRIBUTE_DIRECTORY) != 0) return error_of(std::errc::is_a_directory);
  unique_handle file = windows::open_by_name(place, GENERIC_READ, OPEN_EXISTING, 0);
  if (!file) return last_error();
  if (std::error_code error = windows::check_regular(file.get(), true)) return error;
  windows::file_identity target;
  if (std::error_code error = target.ask(file.get())) return error;
  if (target == source) return error_of(std::errc::invalid_argument);
  if (!options.overwrite) return error_of(std::errc::file_exists);
  file = windows::open_by_name(place, GENERIC_WRITE, OPEN_EXISTING, 0);
  return file ? std::error_code() : last_error();
}

std::error_code create_copy(file_copy& copy) {
  static std::atomic<unsigned> last{0};
  constexpr int most_tries = 1000;
  for (int tries = 0; tries < most_tries; ++tries) {
    const unsigned number = last.fetch_add(1, std::memory_order_relaxed);
    // Known before there is such a file, which somebody has to remove.
    copy.temporary =
        copy.place.parent_path() / (L".mapio-copy-" + std::to_wstring(::GetCurrentProcessId()) +
                                    L'-' + std::to_wstring(number));
    unique_handle file =
        windows::open_by_name(copy.temporary, GENERIC_READ | GENERIC_WRITE | DELETE, CREATE_NEW, 0);
    if (file) {
      copy.target = file.release();
      return {};
    }
    const std::error_code error = last_error();
    copy.temporary.clear();
    if (error != std::errc::file_exists) return error;
  }
  return error_of(std::errc::file_exists);
}

/// Finds the bytes from `at` on that are not a hole; none: nothing but a hole is left.
void find_data(const file_copy& copy, std::uint64_t& at, std::uint64_t& bytes) noexcept {
  bytes = copy.size - at;
  FILE_ALLOCATED_RANGE_BUFFER asked{}, found{};
  asked.FileOffset.QuadPart = static_cast<LONGLONG>(at);
  asked.Length.QuadPart = static_cast<LONGLONG>(bytes);
  DWORD size = 0;
  const BOOL all = ::DeviceIoControl(copy.source, FSCTL_QUERY_ALLOCATED_RANGES, &asked,
                                     sizeof asked, &found, sizeof found, &size, nullptr);
  // Where it does not know holes, all of it is data.
  if (all == FALSE && ::GetLastError() != ERROR_MORE_DATA) return;
  if (size == 0) {
    at = copy.size;
    bytes = 0;
    return;
  }
  at = std::max(at, static_cast<std::uint64_t>(found.FileOffset.QuadPart));
  bytes = std::min(copy.size, static_cast<std::uint64_t>(found.FileOffset.QuadPart) +
                                  static_cast<std::uint64_t>(found.Length.QuadPart)) -
          at;
}

/// Renames the open copy. So that a target which others have open can be replaced, it is asked for
/// what POSIX would do first.
std::error_code rename(const file_copy& copy, bool overwrite) {
  const std::wstring to = native_path(copy.place);
  const std::size_t bytes = sizeof(FILE_RENAME_INFO) + to.size() * sizeof(wchar_t);
  const auto memory = std::make_unique<std::byte[]>(bytes);
  auto* const info = new (memory.get()) FILE_RENAME_INFO{};
  info->FileNameLength = static_cast<DWORD>(to.size() * sizeof(wchar_t));
  std::copy(to.begin(), to.end(), info->FileName);
  // Not in every header.
  constexpr auto rename_info_ex = static_cast<FILE_INFO_BY_HANDLE_CLASS>(22);
  constexpr DWORD replace_if_exists = 1;
  constexpr DWORD posix_semantics = 2;
  const DWORD how = posix_semantics | (overwrite ? replace_if_exists : 0);
  static_assert(offsetof(FILE_RENAME_INFO, ReplaceIfExists) == 0);
  std::memcpy(memory.get(), &how, sizeof how);
  if (::SetFileInformationByHandle(copy.target, rename_info_ex, info, static_cast<DWORD>(bytes)) !=
      FALSE)
    return {};
  std::error_code error = last_error();
  if (error == std::errc::file_exists) return error;
  const std::wstring from = native_path(copy.temporary);
  // Not while anybody has the target open, be it only to look at it, as other copies do.
  constexpr std::chrono::seconds longest_wait{2};
  const auto end_of_wait = std::chrono::steady_clock::now() + longest_wait;
  for (;;) {
    error = succeeded(
        ::MoveFileExW(from.c_str(), to.c_str(), overwrite ? MOVEFILE_REPLACE_EXISTING : 0));
    if ((error != error_of(ERROR_ACCESS_DENIED) && error != error_of(ERROR_SHARING_VIOLATION)) ||
        std::chrono::steady_clock::now() > end_of_wait)
      return error;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

std::error_code sync_folder_of(const std::filesystem::path& path) {
  const unique_handle folder = windows::open_by_name(path.parent_path(), GENERIC_WRITE,
                                                     OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS);
  return folder ? windows::sync_folder(folder.get()) : last_error();
}

}  // namespace

std::error_code begin_copy(const std::filesystem::path& from, const std::filesystem::path& to,
                           const copy_file_options& options, file_copy& copy) {
  windows::file_identity source;
  std::error_code error = windows::check_path(from);
  if (!error) error = windows::check_path(to);
  if (!error) error = open_source(from, options, copy, source);
  if (!error) error = find_place(to, options.follow_symlinks, copy.place);
  if (!error) error = check_target(copy.place, source, options);
  return error ? error : create_copy(copy);
}

std::error_code copy_next(file_copy& copy, std::uint64_t& copied) noexcept {
  const bool knows_size = copy.size != 0;
  std::uint64_t bytes = largest_copy_piece;
  if (knows_size) {
    find_data(copy, copied, bytes);
    if (bytes == 0) return {};
  }
  const std::unique_ptr<char[]> buffer(new (std::nothrow) char[copy_buffer]);
  if (!buffer) return error_of(std::errc::not_enough_memory);
  for (std::uint64_t left = std::min<std::uint64_t>(bytes, largest_copy_piece); left != 0;) {
    const auto piece = static_cast<DWORD>(std::min<std::uint64_t>(left, copy_buffer));
    std::error_code error;
    const DWORD n = windows::read_at(copy.source, buffer.get(), piece, copied, error);
    for (DWORD written = 0; written < n && !error;) {
      const DWORD m = windows::write_at(copy.target, buffer.get() + written, n - written,
                                        copied + written, error);
      written += m;
    }
    if (error) return error;
    if (n == 0 && knows_size) return errc::page_fault;
    copy.is_at_end = n == 0;
    if (copy.is_at_end) return {};
    copied += n;
    left -= n;
  }
  return {};
}

std::error_code end_copy(file_copy& copy, std::uint64_t copied, const copy_file_options& options) {
  // What ends with a hole is still too short.
  if (std::error_code error = windows::set_size(copy.target, copied)) return error;
  if (options.durable)
    if (std::error_code error = succeeded(::FlushFileBuffers(copy.target))) return error;
  if (std::error_code error = rename(copy, options.overwrite)) return error;
  copy.temporary.clear();
  if (copy.permissions != 0) {
    FILE_BASIC_INFO info{};
    info.FileAttributes = copy.permissions;
    if (::SetFileInformationByHandle(copy.target, FileBasicInfo, &info, sizeof info) == FALSE)
      return last_error();
  }
  return options.durable ? sync_folder_of(copy.place) : std::error_code();
}

void abandon_copy(file_copy& copy) noexcept {
  for (const native_handle_type file : {copy.source, copy.target})
    if (file != no_handle) ::CloseHandle(file);
  if (copy.temporary.empty()) return;
  try {
    ::DeleteFileW(native_path(copy.temporary).c_str());
  } catch (...) {
    // No memory for the name: it stays.
  }
}

std::error_code remove(const std::filesystem::path& path) noexcept try {
  if (std::error_code error = windows::check_path(path)) return error;
  const std::wstring name = native_path(path);
  {
    // What others have open loses its name at once by this, as on other systems.
    const unique_handle file =
        windows::open_by_name(path, DELETE, OPEN_EXISTING, FILE_FLAG_OPEN_REPARSE_POINT);
    // Not in every header.
    constexpr auto disposition_info_ex = static_cast<FILE_INFO_BY_HANDLE_CLASS>(21);
    DWORD remove_as_posix = 3;
    if (file && ::SetFileInformationByHandle(file.get(), disposition_info_ex, &remove_as_posix,
                                             sizeof remove_as_posix) != FALSE)
      return {};
  }
  if (::DeleteFileW(name.c_str()) != FALSE) return {};
  return windows::why_not_opened(path, last_error());
} catch (...) {
  return error_of(std::errc::not_enough_memory);
}

}  // namespace detail::platform
MAPIO_NAMESPACE_END
