// Looks at files and folders of Windows.

#include "windows_looks.hpp"
#include "platform/windows.hpp"
#include "watch_source.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <thread>
#include <utility>

#include <winternl.h>

MAPIO_NAMESPACE_BEGIN
namespace detail::watching {
namespace {

using platform::windows::error_of;
using platform::windows::last_error;
using platform::windows::unique_handle;

// How long the clock of file times may stand still: that of the system does for up to 15.6 ms.
constexpr std::int64_t longest_tick = 16'000'000;

/// From ticks of 100 ns since 1601 to nanoseconds since 1970.
std::int64_t nanoseconds(const LARGE_INTEGER& t) noexcept {
  constexpr std::int64_t epoch = 116'444'736'000'000'000;
  return (t.QuadPart - epoch) * 100;
}

/// Tells whether it is a link of any kind: another name for a file or a folder.
bool is_link(HANDLE file) noexcept {
  FILE_ATTRIBUTE_TAG_INFO info{};
  return ::GetFileInformationByHandleEx(file, FileAttributeTagInfo, &info, sizeof info) != FALSE &&
         (info.FileAttributes & FILE_ATTRIBUTE_REPARSE_POINT) != 0 &&
         IsReparseTagNameSurrogate(info.ReparseTag);
}

/// Opens what may be looked at, whoever has it open for what.
unique_handle open_to_look(const std::filesystem::path& path, bool follow) {
  return platform::windows::open_by_name(path, FILE_READ_ATTRIBUTES, OPEN_EXISTING,
                                         FILE_FLAG_BACKUP_SEMANTICS |
                                             (follow ? 0 : FILE_FLAG_OPEN_REPARSE_POINT));
}

/// The same, by a name in an open folder, wherever that is by now, and without following links.
unique_handle open_to_look(HANDLE folder, const file_name& name, DWORD& error) noexcept {
  UNICODE_STRING wide{};
  wide.Buffer = const_cast<wchar_t*>(name.data());
  wide.Length = wide.MaximumLength = static_cast<USHORT>(name.size() * sizeof(wchar_t));
  OBJECT_ATTRIBUTES what{};
  InitializeObjectAttributes(&what, &wide, 0, folder, nullptr);
  IO_STATUS_BLOCK status{};
  HANDLE file = INVALID_HANDLE_VALUE;
  const NTSTATUS result = ::NtCreateFile(&file, FILE_READ_ATTRIBUTES | SYNCHRONIZE, &what, &status,
                                         nullptr, 0, platform::windows::shared_with_all, FILE_OPEN,
                                         FILE_OPEN_REPARSE_POINT | FILE_SYNCHRONOUS_IO_NONALERT |
                                             FILE_OPEN_FOR_BACKUP_INTENT,
                                         nullptr, 0);
  error = ::RtlNtStatusToDosError(result);
  return unique_handle(NT_SUCCESS(result) ? file : INVALID_HANDLE_VALUE);
}

/// Tells whether there is nothing under a name that could not be opened so.
bool is_nothing(DWORD error) noexcept {
  return error == ERROR_FILE_NOT_FOUND || error == ERROR_PATH_NOT_FOUND ||
         error == ERROR_DIRECTORY || error == ERROR_DELETE_PENDING || error == ERROR_INVALID_NAME ||
         error == ERROR_BAD_PATHNAME;
}

}  // namespace

// --- names
// ------------------------------------------------------------------------------------------------

file_name folded(const file_name& name) {
  file_name upper(name.size(), L'\0');
  const int length = ::LCMapStringEx(LOCALE_NAME_INVARIANT, LCMAP_UPPERCASE, name.data(),
                                     static_cast<int>(name.size()), upper.data(),
                                     static_cast<int>(upper.size()), nullptr, nullptr, 0);
  return length > 0 ? upper : name;
}

std::size_t name_hash::operator()(const file_name& name) const noexcept {
  return std::hash<file_name>()(folded(name));
}

bool same_name::operator()(const file_name& a, const file_name& b) const noexcept {
  return a.size() == b.size() && folded(a) == folded(b);
}

// --- one look
// ------------------------------------------------------------------------------------------------

namespace {

/// Finds what tells files apart.
std::error_code identify(HANDLE file, file_look& look) noexcept {
  // ReFS has longer ones than all systems tell; NTFS has a generation in its own.
  FILE_ID_INFO id{};
  if (::GetFileInformationByHandleEx(file, FileIdInfo, &id, sizeof id) != FALSE) {
    std::array<std::uint64_t, 2> halves{};
    static_assert(sizeof halves == sizeof id.FileId);
    std::memcpy(halves.data(), &id.FileId, sizeof halves);
    look.device = id.VolumeSerialNumber;
    look.inode = halves[0] ^ (halves[1] * 0x9E37'79B9'7F4A'7C15);
    return {};
  }
  platform::windows::file_identity identity;
  const std::error_code error = identity.ask(file);
  look.device = identity.volume;
  look.inode = identity.index;
  return error;
}

}  // namespace

std::error_code look_at(HANDLE file, file_look& look) noexcept {
  look = {};
  FILE_BASIC_INFO times{};
  FILE_STANDARD_INFO sizes{};
  if (::GetFileInformationByHandleEx(file, FileBasicInfo, &times, sizeof times) == FALSE ||
      ::GetFileInformationByHandleEx(file, FileStandardInfo, &sizes, sizeof sizes) == FALSE)
    return last_error();
  if (const auto error = identify(file, look)) return error;
  look.exists = true;
  look.is_folder = (times.FileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0 && !is_link(file);
  look.size = look.is_folder ? 0 : static_cast<std::uint64_t>(sizes.EndOfFile.QuadPart);
  look.modified = nanoseconds(times.LastWriteTime);
  look.changed = nanoseconds(times.ChangeTime);
  // No generation: programs set this time as they like.
  look.born = nanoseconds(times.CreationTime);
  look.is_fresh = look.modified > file_clock() - longest_tick;
  return {};
}

std::error_code look_at(const std::filesystem::path& path, bool follow, file_look& look) noexcept
    try {
  // Wine asks the path which volume a file is on, and finds none if it was moved meanwhile: there
  // may be nothing by now, or another one.
  for (int attempt = 0; attempt < 2; ++attempt) {
    look = {};
    const unique_handle file = open_to_look(path, follow);
    const DWORD failure = ::GetLastError();
    if (!file) return is_nothing(failure) ? std::error_code() : error_of(failure);
    if (const auto error = look_at(file.get(), look)) return error;
    if (look.device != 0) break;
  }
  return {};
} catch (...) {
  return std::make_error_code(std::errc::not_enough_memory);
}

std::error_code look_at(HANDLE folder, std::uint64_t device, const file_name& name,
                        file_look& look) noexcept {
  look = {};
  DWORD failure = ERROR_SUCCESS;
  const unique_handle file = open_to_look(folder, name, failure);
  if (!file) return is_nothing(failure) ? std::error_code() : error_of(failure);
  const std::error_code error = look_at(file.get(), look);
  look.device = device;
  return error;
}

bool look_at_once(const std::filesystem::path&, bool, file_look&) noexcept {
  // To open a file asks its file system, and whatever filters virus scanners put before it.
  return false;
}

bool may_change_unseen(const std::filesystem::path& path) noexcept try {
  // Servers tell of what all their clients do, where they tell anything: add() says.
  const std::wstring root = std::filesystem::absolute(path).root_path().native();
  return ::GetDriveTypeW(root.c_str()) == DRIVE_REMOTE;
} catch (...) {
  return false;
}

std::int64_t file_clock() noexcept {
  FILETIME now{};
  ::GetSystemTimePreciseAsFileTime(&now);
  LARGE_INTEGER ticks{};
  ticks.LowPart = now.dwLowDateTime;
  ticks.HighPart = static_cast<LONG>(now.dwHighDateTime);
  return nanoseconds(ticks);
}

void let_pass(std::int64_t time) noexcept {
  // The clock that a file system gives times by is behind this one by up to a tick.
  for (std::int64_t now = file_clock(); now >= time && now <= time + longest_tick;
       now = file_clock())
    std::this_thread::sleep_for(std::chrono::nanoseconds(time + longest_tick - now + 1));
}

// --- folders
// ------------------------------------------------------------------------------------------------

struct folder_reader::state {
  unique_handle folder;
  std::uint64_t device = 0;
  alignas(FILE_ID_BOTH_DIR_INFO) std::array<std::byte, std::size_t{32} << 10> buffer;
  std::size_t at = 0;
  bool has_entry = false;  // there
  bool is_begun = false;

  /// False: at the end, or with an error.
  bool next(file_name& name, std::error_code& error) {
    if (!has_entry) {
      const auto what =
          std::exchange(is_begun, true) ? FileIdBothDirectoryInfo : FileIdBothDirectoryRestartInfo;
      if (::GetFileInformationByHandleEx(folder.get(), what, buffer.data(),
                                         static_cast<DWORD>(buffer.size())) == FALSE) {
        if (::GetLastError() != ERROR_NO_MORE_FILES) error = last_error();
        return false;
      }
      at = 0;
    }
    FILE_ID_BOTH_DIR_INFO entry{};
    constexpr std::size_t before_name = offsetof(FILE_ID_BOTH_DIR_INFO, FileName);
    std::memcpy(&entry, buffer.data() + at, before_name);
    name.resize(entry.FileNameLength / sizeof(wchar_t));
    std::memcpy(name.data(), buffer.data() + at + before_name, entry.FileNameLength);
    has_entry = entry.NextEntryOffset != 0;
    at += entry.NextEntryOffset;
    return true;
  }
};

folder_reader::folder_reader() noexcept = default;
folder_reader::~folder_reader() = default;

std::error_code folder_reader::open(const std::filesystem::path& folder, bool follow) noexcept try {
  close();
  auto s = std::make_unique<state>();
  s->folder = platform::windows::open_by_name(
      folder, FILE_LIST_DIRECTORY | FILE_TRAVERSE | FILE_READ_ATTRIBUTES, OPEN_EXISTING,
      FILE_FLAG_BACKUP_SEMANTICS | (follow ? 0 : FILE_FLAG_OPEN_REPARSE_POINT));
  if (!s->folder) {
    const DWORD error = ::GetLastError();
    return is_nothing(error) ? std::make_error_code(std::errc::no_such_file_or_directory)
                             : error_of(error);
  }
  file_look itself;
  if (const auto error = look_at(s->folder.get(), itself)) return error;
  if (!itself.is_folder) return std::make_error_code(std::errc::not_a_directory);
  s->device = itself.device;
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
  return look_at(state_->folder.get(), look);
}

void folder_reader::close() noexcept {
  state_.reset();
}

bool folder_reader::next(file_name& name, file_look& look, std::error_code& error) {
  while (state_->next(name, error)) {
    if (name == L"." || name == L"..") continue;
    // What the folder says of sizes and times may be old. What cannot be looked at is there all the
    // same.
    if (look_at(state_->folder.get(), state_->device, name, look)) look = unseen_look();
    if (look.exists) return true;
  }
  return false;
}

}  // namespace detail::watching
MAPIO_NAMESPACE_END
