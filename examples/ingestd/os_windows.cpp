#include "os.hpp"

#include <cstdio>
#include <system_error>

#include <fmt/format.h>

#include <windows.h>

#include <io.h>

namespace ingestd::os {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* what) {
  const DWORD error = ::GetLastError();
  throw std::system_error(static_cast<int>(error), std::system_category(),
                          fmt::format("{}: {}", path.string(), what));
}

/// A handle that is closed at the end.
class handle {
 public:
  explicit handle(HANDLE value) noexcept : value_(value) {}
  handle(const handle&) = delete;
  handle& operator=(const handle&) = delete;
  ~handle() {
    if (is_open()) ::CloseHandle(value_);
  }
  HANDLE get() const noexcept { return value_; }
  bool is_open() const noexcept { return value_ != INVALID_HANDLE_VALUE; }
  HANDLE release() noexcept {
    HANDLE value = value_;
    value_ = INVALID_HANDLE_VALUE;
    return value;
  }

 private:
  HANDLE value_;
};

constexpr DWORD share_all = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

const char* why_it_ends = "";

LONG CALLBACK on_unhandled(EXCEPTION_POINTERS* exception) {
  const DWORD code = exception->ExceptionRecord->ExceptionCode;
  if (code != EXCEPTION_IN_PAGE_ERROR && code != EXCEPTION_ACCESS_VIOLATION)
    return EXCEPTION_CONTINUE_SEARCH;
  std::fputs(why_it_ends, stderr);
  std::fflush(stderr);
  ::TerminateProcess(::GetCurrentProcess(), 1);
  return EXCEPTION_CONTINUE_SEARCH;
}

}  // namespace

std::optional<native_handle> open_locked(const std::filesystem::path& path) {
  handle file(::CreateFileW(path.c_str(), GENERIC_READ | GENERIC_WRITE, share_all, nullptr,
                            OPEN_ALWAYS, 0, nullptr));
  if (!file.is_open()) fail(path, "open");
  // What is locked cannot be read by others: a byte far behind what is written is.
  OVERLAPPED far_behind{};
  far_behind.OffsetHigh = 1;
  if (::LockFileEx(file.get(), LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0,
                   &far_behind) != 0)
    return file.release();
  const DWORD error = ::GetLastError();
  if (error != ERROR_LOCK_VIOLATION && error != ERROR_IO_PENDING) fail(path, "LockFileEx");
  return std::nullopt;
}

void close(native_handle file) noexcept {
  ::CloseHandle(file);
}

bool replace_content(native_handle file, const std::string& text) noexcept {
  OVERLAPPED beginning{};
  DWORD written = 0;
  LARGE_INTEGER end{};
  end.QuadPart = static_cast<LONGLONG>(text.size());
  return ::WriteFile(file, text.data(), static_cast<DWORD>(text.size()), &written, &beginning) !=
             0 &&
         ::SetFilePointerEx(file, end, nullptr, FILE_BEGIN) != 0 && ::SetEndOfFile(file) != 0;
}

std::uint64_t size_of(native_handle file) {
  LARGE_INTEGER size{};
  if (::GetFileSizeEx(file, &size) == 0)
    throw std::system_error(static_cast<int>(::GetLastError()), std::system_category(),
                            "GetFileSizeEx");
  return static_cast<std::uint64_t>(size.QuadPart);
}

void sync(native_handle, const std::filesystem::path& path) {
  // Only who may write may have it written out.
  const handle file(
      ::CreateFileW(path.c_str(), GENERIC_WRITE, share_all, nullptr, OPEN_EXISTING, 0, nullptr));
  if (!file.is_open()) fail(path, "open");
  if (::FlushFileBuffers(file.get()) == 0) fail(path, "FlushFileBuffers");
}

void sync_directory(const std::filesystem::path& directory) {
  const handle folder(::CreateFileW(directory.c_str(), GENERIC_WRITE, share_all, nullptr,
                                    OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, nullptr));
  if (!folder.is_open()) fail(directory, "open");
  if (::FlushFileBuffers(folder.get()) != 0) return;
  const DWORD error = ::GetLastError();
  // Not every file system has a sync of folders.
  if (error != ERROR_INVALID_FUNCTION && error != ERROR_NOT_SUPPORTED &&
      error != ERROR_INVALID_HANDLE)
    fail(directory, "FlushFileBuffers");
}

std::error_code drop_clean_pages(const std::filesystem::path& path) noexcept {
  // To open it so that it is read past the cache throws out what the cache has of it.
  const handle file(::CreateFileW(path.c_str(), GENERIC_READ, share_all, nullptr, OPEN_EXISTING,
                                  FILE_FLAG_NO_BUFFERING, nullptr));
  if (file.is_open()) return {};
  return {static_cast<int>(::GetLastError()), std::system_category()};
}

unsigned process_id() noexcept {
  return ::GetCurrentProcessId();
}

bool is_terminal_output() noexcept {
  return ::_isatty(::_fileno(stdout)) != 0;
}

void end_when_unreadable(const char* message) {
  why_it_ends = message;
  // mapio's own handler sees every exception before this one.
  ::SetUnhandledExceptionFilter(on_unhandled);
}

}  // namespace ingestd::os
