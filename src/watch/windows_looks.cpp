// Looks at files and folders of Windows.

#include "watch_source.hpp"

#include "platform/windows.hpp"

#include <mapio/error.hpp>

#include <chrono>
#include <cstring>
#include <memory>
#include <new>
#include <thread>

MAPIO_NAMESPACE_BEGIN
namespace detail::watching {
namespace {

using platform::windows::last_error;
using platform::windows::unique_handle;

/// From ticks of 100 ns since 1601 to nanoseconds since 1970.
std::int64_t nanoseconds(std::int64_t ticks) noexcept {
  constexpr std::int64_t epoch = 116'444'736'000'000'000;
  return (ticks - epoch) * 100;
}
std::int64_t nanoseconds(const FILETIME& t) noexcept {
  return nanoseconds(
      static_cast<std::int64_t>(std::uint64_t{t.dwHighDateTime} << 32 | t.dwLowDateTime));
}

std::error_code look_at_open(HANDLE file, file_look& look) noexcept {
  BY_HANDLE_FILE_INFORMATION info{};
  FILE_BASIC_INFO times{};
  if (::GetFileInformationByHandle(file, &info) == FALSE ||
      ::GetFileInformationByHandleEx(file, FileBasicInfo, &times, sizeof times) == FALSE)
    return last_error();
  look.exists = true;
  look.is_folder = (info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0;
  look.device = info.dwVolumeSerialNumber;
  look.inode = std::uint64_t{info.nFileIndexHigh} << 32 | info.nFileIndexLow;
  look.size = std::uint64_t{info.nFileSizeHigh} << 32 | info.nFileSizeLow;
  look.modified = nanoseconds(times.LastWriteTime.QuadPart);
  look.changed = nanoseconds(times.ChangeTime.QuadPart);
  look.born = nanoseconds(times.CreationTime.QuadPart);
  return {};
}

}  // namespace

std::error_code look_at(const std::filesystem::path& path, bool follow, file_look& look) noexcept
    try {
  look = {};
  const unique_handle file = platform::windows::open_by_name(
      path, FILE_READ_ATTRIBUTES, OPEN_EXISTING,
      FILE_FLAG_BACKUP_SEMANTICS | (follow ? 0 : FILE_FLAG_OPEN_REPARSE_POINT));
  if (file) return look_at_open(file.get(), look);
  const std::error_code error = last_error();
  return error == std::errc::no_such_file_or_directory ? std::error_code() : error;
} catch (...) {
  return std::make_error_code(std::errc::not_enough_memory);
}

bool look_at_once(const std::filesystem::path&, bool, file_look&) noexcept {
  return false;
}

bool may_change_unseen(const std::filesystem::path&) noexcept {
  return false;
}

std::int64_t file_clock() noexcept {
  FILETIME now{};
  ::GetSystemTimePreciseAsFileTime(&now);
  return nanoseconds(now);
}

void let_pass(std::int64_t time) noexcept {
  const auto ticks = [] {
    FILETIME now{};
    ::GetSystemTimeAsFileTime(&now);
    return nanoseconds(now);
  };
  // Unless somebody sets the clock back.
  while (ticks() <= time && file_clock() >= time)
    std::this_thread::sleep_for(std::chrono::microseconds(500));
}

struct folder_reader::state {
  ~state() {
    if (found != INVALID_HANDLE_VALUE) ::FindClose(found);
  }
  std::filesystem::path path;
  unique_handle folder;
  HANDLE found = INVALID_HANDLE_VALUE;
  WIN32_FIND_DATAW entry{};
  bool is_read = false;  // that entry
};

folder_reader::folder_reader() noexcept = default;
folder_reader::~folder_reader() = default;

std::error_code folder_reader::open(const std::filesystem::path& folder) noexcept try {
  close();
  auto s = std::make_unique<state>();
  s->path = folder;
  s->folder =
      platform::windows::open_by_name(folder, FILE_LIST_DIRECTORY, OPEN_EXISTING,
                                      FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT);
  if (!s->folder) return last_error();
  s->found =
      ::FindFirstFileExW(platform::windows::native_path(folder / L"*").c_str(), FindExInfoBasic,
                         &s->entry, FindExSearchNameMatch, nullptr, FIND_FIRST_EX_LARGE_FETCH);
  if (s->found == INVALID_HANDLE_VALUE) return last_error();
  state_ = std::move(s);
  return {};
} catch (...) {
  return std::make_error_code(std::errc::not_enough_memory);
}

bool folder_reader::is_open() const noexcept {
  return state_ != nullptr;
}

std::error_code folder_reader::look_at_itself(file_look& look) const noexcept {
  look = {};
  return look_at_open(state_->folder.get(), look);
}

void folder_reader::close() noexcept {
  state_.reset();
}

bool folder_reader::next(std::string& name, file_look& look, std::error_code& error) {
  state& s = *state_;
  for (;;) {
    if (std::exchange(s.is_read, true) && ::FindNextFileW(s.found, &s.entry) == FALSE) {
      if (::GetLastError() != ERROR_NO_MORE_FILES) error = last_error();
      return false;
    }
    const std::filesystem::path entry(s.entry.cFileName);
    if (entry == L"." || entry == L"..") continue;
    const std::u8string utf8 = entry.u8string();
    name.assign(utf8.begin(), utf8.end());
    // What cannot be looked at is there all the same.
    if (look_at(s.path / entry, false, look)) look.exists = true;
    if (look.exists) return true;
  }
}

std::unique_ptr<watch_source> make_watch_source(asio::execution_context&, std::function<void()>) {
  return make_silent_source(errc::unsupported);
}

}  // namespace detail::watching
MAPIO_NAMESPACE_END
