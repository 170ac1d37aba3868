#include "windows.hpp"

#include "guarded.hpp"
#include "words.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <limits>
#include <thread>

#include <pthread.h>
#include <winioctl.h>
#include <winternl.h>

MAPIO_NAMESPACE_BEGIN
namespace detail::platform {

using windows::error_of;
using windows::last_error;
using windows::unique_handle;

// --- names
// -----------------------------------------------------------------------------------------------------------------

namespace windows {

namespace {

/// Makes a path absolute, without the dots and slashes that a long one must not have.
std::wstring absolute(const std::wstring& path) {
  std::wstring result(path.size() + MAX_PATH, L'\0');
  for (;;) {
    const DWORD length =
        ::GetFullPathNameW(path.c_str(), static_cast<DWORD>(result.size()), result.data(), nullptr);
    if (length == 0) return path;
    const bool fits = length < result.size();
    result.resize(length);
    if (fits) return result;
  }
}

}  // namespace

std::wstring native_path(const std::filesystem::path& path) {
  // Less than MAX_PATH, for the names of files that are made in the same folder.
  constexpr std::size_t longest_plain = 240;
  const std::wstring& given = path.native();
  if (given.starts_with(LR"(\\?\)") || given.starts_with(LR"(\\.\)") || given.empty()) return given;
  const std::wstring full = absolute(given);
  // A device's name is made one by this.
  if (full.size() < longest_plain || full.starts_with(LR"(\\.\)")) return given;
  if (full.starts_with(LR"(\\)")) return LR"(\\?\UNC\)" + full.substr(2);
  return LR"(\\?\)" + full;
}

std::error_code check_path(const std::filesystem::path& path) noexcept {
  return path.native().find(L'\0') == std::wstring::npos ? std::error_code()
                                                         : error_of(std::errc::invalid_argument);
}

unique_handle open_by_name(const std::filesystem::path& path, DWORD access, DWORD disposition,
                           DWORD flags, DWORD attributes) {
  return unique_handle(::CreateFileW(native_path(path).c_str(), access, shared_with_all, nullptr,
                                     disposition, flags | attributes, nullptr));
}

std::error_code check_regular(HANDLE file, bool follow_symlinks) noexcept {
  if (::GetFileType(file) != FILE_TYPE_DISK) return error_of(std::errc::no_such_device);
  FILE_ATTRIBUTE_TAG_INFO info{};
  // Not every file system has it.
  if (::GetFileInformationByHandleEx(file, FileAttributeTagInfo, &info, sizeof info) == FALSE)
    return {};
  if ((info.FileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0)
    return error_of(std::errc::is_a_directory);
  const bool is_link = (info.FileAttributes & FILE_ATTRIBUTE_REPARSE_POINT) != 0 &&
                       info.ReparseTag == IO_REPARSE_TAG_SYMLINK;
  return is_link && !follow_symlinks ? error_of(std::errc::too_many_symbolic_link_levels)
                                     : std::error_code();
}

std::error_code why_not_opened(const std::filesystem::path& path, std::error_code error) {
  if (error != std::errc::permission_denied) return error;
  const DWORD attributes = ::GetFileAttributesW(native_path(path).c_str());
  return attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY) != 0
             ? error_of(std::errc::is_a_directory)
             : error;
}

std::error_code file_identity::ask(HANDLE file) noexcept {
  BY_HANDLE_FILE_INFORMATION info{};
  if (::GetFileInformationByHandle(file, &info) == FALSE) return last_error();
  volume = info.dwVolumeSerialNumber;
  index = std::uint64_t{info.nFileIndexHigh} << 32 | info.nFileIndexLow;
  return {};
}

std::error_code set_size(HANDLE file, std::uint64_t size) noexcept {
  // A file is not cut while it is mapped, and one that was closed just now may be unmapped in the
  // background.
  constexpr std::chrono::milliseconds longest_wait{500};
  const auto end_of_wait = std::chrono::steady_clock::now() + longest_wait;
  FILE_END_OF_FILE_INFO end{};
  end.EndOfFile.QuadPart = static_cast<LONGLONG>(size);
  for (bool is_last = false;;) {
    const std::error_code error =
        succeeded(::SetFileInformationByHandle(file, FileEndOfFileInfo, &end, sizeof end));
    file_identity identity;
    if (error != error_of(ERROR_USER_MAPPED_FILE) || is_last || identity.ask(file)) return error;
    // Once more all the same: the one that was in the way may have gone before it was looked for.
    is_last = !wait_for_unmapping(identity, end_of_wait);
  }
}

std::error_code sync_folder(HANDLE folder) noexcept {
  const std::error_code error = succeeded(::FlushFileBuffers(folder));
  return is_not_supported(error) ? std::error_code() : error;
}

}  // namespace windows

// --- opening
// ---------------------------------------------------------------------------------------------------------------

namespace {

DWORD access_of(const open_options& options) noexcept {
  return options.mode == access::read_write ? GENERIC_READ | GENERIC_WRITE : GENERIC_READ;
}

/// Overlapped: else the OS lets only one call at a time go through the handle, and a sync would
/// keep all others waiting.
DWORD flags_of(const open_options& options) noexcept {
  return FILE_FLAG_OVERLAPPED | (options.follow_symlinks ? 0 : FILE_FLAG_OPEN_REPARSE_POINT);
}

std::error_code grow(HANDLE file, std::uint64_t from, std::uint64_t to) noexcept {
  struct growth final : operation {
  } op;
  op.handle = file;
  op.at = from;
  op.count = to - from;
  op.what = call::allocate;
  perform(op);
  return op.error;
}

std::error_code open_existing(const std::filesystem::path& path, const open_options& options,
                              unique_handle& file) {
  file = windows::open_by_name(path, access_of(options), OPEN_EXISTING, flags_of(options));
  if (!file) return windows::why_not_opened(path, last_error());
  return windows::check_regular(file.get(), options.follow_symlinks);
}

std::error_code create_file(const std::filesystem::path& path, const open_options& options,
                            unique_handle& file) {
  const bool may_be_written =
      (options.permissions &
       (std::filesystem::perms::owner_write | std::filesystem::perms::group_write |
        std::filesystem::perms::others_write)) != std::filesystem::perms::none;
  file = windows::open_by_name(path, access_of(options), CREATE_NEW, flags_of(options),
                               may_be_written ? FILE_ATTRIBUTE_NORMAL : FILE_ATTRIBUTE_READONLY);
  if (!file) return windows::why_not_opened(path, last_error());
  std::error_code error = windows::check_regular(file.get(), options.follow_symlinks);
  if (error) return error;
  DWORD ignored = 0;
  // Where the file system has no sparse files, the blocks are there from the beginning.
  if (!options.preallocate)
    ::DeviceIoControl(file.get(), FSCTL_SET_SPARSE, nullptr, 0, nullptr, 0, &ignored, nullptr);
  if (options.size != 0) error = grow(file.get(), 0, options.size);
  if (error) remove_created(file.get(), path);
  return error;
}

/// Opens, or creates, without a moment in between in which somebody else could do the same.
std::error_code open_or_create(const std::filesystem::path& path, const open_options& options,
                               unique_handle& file, bool& created) {
  // A file that comes and goes between the two calls is tried again, but not for ever.
  for (int tries = 0; tries < 100; ++tries) {
    std::error_code error = open_existing(path, options, file);
    // A missing folder is another error, and creates nothing.
    if (error.value() != ERROR_FILE_NOT_FOUND || error.category() != std::system_category())
      return error;
    error = create_file(path, options, file);
    created = !error;
    if (error != std::errc::file_exists) return error;
  }
  return error_of(std::errc::file_exists);
}

/// The folder of a file that was created, to have the name made durable.
void open_directory(const std::filesystem::path& path, opened_file& result) {
  std::error_code error;
  const std::filesystem::path whole = std::filesystem::absolute(path, error);
  const std::filesystem::path& parent = error ? path : whole;
  unique_handle directory = windows::open_by_name(parent.parent_path(), GENERIC_WRITE,
                                                  OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS);
  // Who may not change the folder in other ways cannot sync it. A sync of the file then does it
  // where names are kept in the same log, as on NTFS.
  if (directory) result.directory = directory.release();
}

bool may_only_append(HANDLE file) noexcept {
  // Not in every header.
  constexpr auto file_access_information = static_cast<FILE_INFORMATION_CLASS>(8);
  ACCESS_MASK granted = 0;
  IO_STATUS_BLOCK status{};
  return NT_SUCCESS(::NtQueryInformationFile(file, &status, &granted, sizeof granted,
                                             file_access_information)) &&
         (granted & (FILE_WRITE_DATA | FILE_APPEND_DATA)) == FILE_APPEND_DATA;
}

medium medium_of(HANDLE file) noexcept {
  FILE_REMOTE_PROTOCOL_INFO remote{};
  if (::GetFileInformationByHandleEx(file, FileRemoteProtocolInfo, &remote, sizeof remote) != FALSE)
    return medium::network;
  std::array<wchar_t, MAX_PATH + 1> name{};
  if (::GetVolumeInformationByHandleW(file, nullptr, 0, nullptr, nullptr, nullptr, name.data(),
                                      static_cast<DWORD>(name.size())) == FALSE)
    return medium::unknown;
  for (const wchar_t* local : {L"NTFS", L"ReFS", L"FAT32", L"exFAT", L"FAT"})
    if (std::wcscmp(name.data(), local) == 0) return medium::local;
  return medium::unknown;
}

}  // namespace

std::uint64_t largest_file() noexcept {
  return std::numeric_limits<std::uint64_t>::max();
}

std::error_code open(const std::filesystem::path& path, const open_options& options,
                     opened_file& result) {
  if (std::error_code error = windows::check_path(path)) return error;
  unique_handle file;
  bool created = false;
  std::error_code error;
  switch (options.create) {
  case disposition::open_existing:
    error = open_existing(path, options, file);
    break;
  case disposition::create_new:
    error = create_file(path, options, file);
    created = !error;
    break;
  case disposition::open_or_create:
  case disposition::create_or_truncate:
    error = open_or_create(path, options, file, created);
    break;
  }
  if (!error) error = file_size(file.get(), result.size);
  if (error) return error;
  if (created) result.created = path;
  if (options.create != disposition::open_existing) open_directory(path, result);
  result.medium = medium_of(file.get());
  result.file = file.release();
  return {};
}

// Its own handle may not do that: who opens the file as most programs do, which let nobody remove
// it meanwhile, would be refused because of it.
void remove_created(native_handle_type file, const std::filesystem::path&) noexcept {
  const HANDLE again = ::ReOpenFile(file, DELETE, windows::shared_with_all, 0);
  if (again == nullptr || again == no_handle) return;
  FILE_DISPOSITION_INFO info{};
  info.DeleteFile = TRUE;
  ::SetFileInformationByHandle(again, FileDispositionInfo, &info, sizeof info);
  ::CloseHandle(again);
}

std::error_code start_over(native_handle_type file, std::uint64_t old_size,
                           const open_options& options) noexcept {
  // What was in it is only given up once the new size is certain.
  if (options.size > old_size) {
    if (std::error_code error = grow(file, old_size, options.size)) {
      static_cast<void>(windows::set_size(file, old_size));
      return error;
    }
  }
  if (old_size == 0) return {};
  std::error_code error = windows::set_size(file, 0);
  return error || options.size == 0 ? error : grow(file, 0, options.size);
}

std::error_code inspect(native_handle_type file, const open_options& options, opened_file& result) {
  if (file == nullptr || file == no_handle) return error_of(ERROR_INVALID_HANDLE);
  if (std::error_code error = windows::check_regular(file, true)) return error;
  if (std::error_code error = file_size(file, result.size)) return error;
  std::error_code error;
  // A file that is empty is not mapped, which would find this out.
  std::byte unread;
  static_cast<void>(windows::read_at(file, &unread, 1, 0, error));
  if (error) return error;
  if (options.mode == access::read_write) {
    // Who may only append is refused by the OS as if it might not write at all.
    if (may_only_append(file)) return errc::unsupported;
    // Nothing is written by this, and it is refused where nothing may be.
    static_cast<void>(windows::write_at(file, nullptr, 0, 0, error));
    if (error) return error;
  }
  result.file = file;
  result.medium = medium_of(file);
  return {};
}

native_handle_type open_again(native_handle_type file, const std::filesystem::path&) noexcept {
  const HANDLE again = ::ReOpenFile(file, GENERIC_READ | GENERIC_WRITE, windows::shared_with_all,
                                    FILE_FLAG_OVERLAPPED);
  return again == nullptr ? no_handle : again;
}

void close(native_handle_type handle) noexcept {
  ::CloseHandle(handle);
}

std::error_code file_size(native_handle_type file, std::uint64_t& size) noexcept {
  LARGE_INTEGER found{};
  if (::GetFileSizeEx(file, &found) == FALSE) return last_error();
  size = static_cast<std::uint64_t>(found.QuadPart);
  return {};
}

std::error_code current_size(native_handle_type file, std::uint64_t& size) noexcept {
  return file_size(file, size);
}

bool is_not_supported(const std::error_code& error) noexcept {
  return error == std::errc::operation_not_supported || error == std::errc::not_supported ||
         error == std::errc::function_not_supported || error == error_of(ERROR_INVALID_FUNCTION);
}

// --- carrying out
// ----------------------------------------------------------------------------------------------------------

namespace {

/// A pointer of each thread, that is done away with when the thread ends. Not a thread_local
/// object: MinGW's runtime frees the memory of those before it calls their destructors.
class thread_pointer {
 public:
  explicit thread_pointer(void (*end)(void*)) noexcept
      : is_there_(::pthread_key_create(&key_, end) == 0) {}

  void* get() const noexcept { return is_there_ ? ::pthread_getspecific(key_) : nullptr; }
  bool set(const void* pointer) const noexcept {
    return is_there_ && ::pthread_setspecific(key_, pointer) == 0;
  }

 private:
  pthread_key_t key_{};
  const bool is_there_;
};

/// An event for the calls of this thread, made with the first of them.
HANDLE event_of_this_thread() noexcept {
  static const thread_pointer events([](void* event) { ::CloseHandle(event); });
  HANDLE event = events.get();
  if (event != nullptr) return event;
  event = ::CreateEventW(nullptr, TRUE, FALSE, nullptr);
  if (event == nullptr || events.set(event)) return event;
  ::CloseHandle(event);
  ::SetLastError(ERROR_NOT_ENOUGH_MEMORY);
  return nullptr;
}

/// Makes an overlapped call, and waits for it.
template <class Call>
DWORD transfer_at(HANDLE file, std::uint64_t at, std::error_code& error, Call call) noexcept {
  OVERLAPPED overlapped{};
  overlapped.Offset = static_cast<DWORD>(at & 0xFFFFFFFFU);
  overlapped.OffsetHigh = static_cast<DWORD>(at >> 32);
  const HANDLE event = event_of_this_thread();
  if (event == nullptr) {
    error = last_error();
    return 0;
  }
  // The lowest bit keeps it from a port that the file may belong to.
  overlapped.hEvent = reinterpret_cast<HANDLE>(reinterpret_cast<std::uintptr_t>(event) | 1);
  DWORD done = 0;
  BOOL result = call(&overlapped);
  if (result != FALSE || ::GetLastError() == ERROR_IO_PENDING)
    result = ::GetOverlappedResult(file, &overlapped, &done, TRUE);
  if (result == FALSE && ::GetLastError() != ERROR_HANDLE_EOF) error = last_error();
  return done;
}

/// Tells whether a call failed because of the memory it was given, for which the OS has two names;
/// one of them is also that of too many calls at a time.
bool is_of_memory(const std::error_code& error, const char* memory, DWORD bytes) noexcept {
  if (error != error_of(ERROR_NOACCESS) && error != error_of(ERROR_INVALID_USER_BUFFER))
    return false;
  std::byte touched;
  for (std::size_t at = 0; at < bytes; at += page_size())
    if (guarded_copy(&touched, memory + at, 1) != 1) return true;
  return bytes != 0 && guarded_copy(&touched, memory + bytes - 1, 1) != 1;
}

/// Calls transfer(address, bytes, offset) until the whole range is done.
template <class Transfer>
void transfer_all(operation& op, Transfer transfer) noexcept {
  constexpr std::size_t most_at_once = std::size_t{64} << 20;
  std::uint64_t begin = 0;  // of the buffer, in the range
  for (std::size_t i = 0; i < op.buffer_count && op.transferred < op.count; ++i) {
    const asio::const_buffer& b = op.buffers[i];
    while (op.transferred < begin + b.size() && op.transferred < op.count) {
      const auto skip = static_cast<std::size_t>(op.transferred - begin);
      const auto bytes = static_cast<DWORD>(
          std::min<std::uint64_t>({most_at_once, b.size() - skip, op.count - op.transferred}));
      char* const memory = static_cast<char*>(const_cast<void*>(b.data())) + skip;
      const DWORD n = transfer(memory, bytes, op.at + op.transferred);
      op.transferred += n;
      if (is_of_memory(op.error, memory, bytes)) op.error = errc::page_fault;
      if (n == 0 || op.error) return;
    }
    begin += b.size();
  }
}

void sync(operation& op) noexcept {
  // A sync of the file leaves out what was stored into views of it.
  const std::uint64_t length = op.count != 0 ? op.count : op.length;
  if (op.address != nullptr && length != 0) op.error = windows::flush_views(op.address, length);
  if (!op.error) op.error = windows::succeeded(::FlushFileBuffers(op.handle));
}

void populate(operation& op) noexcept {
  // For all at once to be read, and not page by page.
  windows::prefetch(op.address, op.count);
  std::byte touched;
  for (std::uint64_t at = 0; at < op.count; at += page_size())
    if (guarded_copy(&touched, op.address + at, 1) != 1) {
      op.error = errc::page_fault;
      return;
    }
}

}  // namespace

DWORD windows::read_at(HANDLE file, void* to, DWORD bytes, std::uint64_t at,
                       std::error_code& error) noexcept {
  return transfer_at(file, at, error,
                     [&](OVERLAPPED* o) { return ::ReadFile(file, to, bytes, nullptr, o); });
}

DWORD windows::write_at(HANDLE file, const void* from, DWORD bytes, std::uint64_t at,
                        std::error_code& error) noexcept {
  return transfer_at(file, at, error,
                     [&](OVERLAPPED* o) { return ::WriteFile(file, from, bytes, nullptr, o); });
}

void perform(operation& op) noexcept {
  switch (op.what) {
  case call::work:
    op.work(&op);
    return;
  case call::write_file:
    return transfer_all(op, [&](const void* from, DWORD n, std::uint64_t at) {
      return windows::write_at(op.handle, from, n, at, op.error);
    });
  case call::read_file:
    return transfer_all(op, [&](void* to, DWORD n, std::uint64_t at) {
      return windows::read_at(op.handle, to, n, at, op.error);
    });
  case call::fetch: {
    std::array<std::byte, most_fetched> unwanted;
    static_cast<void>(windows::read_at(op.handle, unwanted.data(), static_cast<DWORD>(op.count),
                                       op.at, op.error));
    return;
  }
  case call::sync:
    return sync(op);
  case call::sync_name:
    op.error = windows::sync_folder(op.handle);
    return;
  case call::start_writeback:
    // It promises nothing, and there is nothing that would do it without an address.
    if (op.address != nullptr && op.count != 0)
      op.error = windows::flush_views(op.address, op.count);
    return;
  case call::announce: {
    FILETIME now{};
    ::GetSystemTimePreciseAsFileTime(&now);
    op.error = windows::succeeded(::SetFileTime(op.handle, nullptr, nullptr, &now));
    return;
  }
  case call::populate:
    return populate(op);
  case call::populate_write:
    // Only who has something to store can store: what is there may be another thing by then.
    populate(op);
    if (!op.error) op.error = error_of(std::errc::invalid_argument);
    return;
  case call::allocate: {
    // A file that is not sparse has its blocks with its size. One that others have made larger than
    // that is not cut: by this nothing is, and it might be mapped.
    zero_to_page_end(op.address);
    const std::uint64_t end = op.at + op.count;
    std::uint64_t size = 0;
    op.error = file_size(op.handle, size);
    if (op.error || size >= end) return;
    op.error = windows::set_size(op.handle, end);
    // Or have made it larger since it was asked for its size.
    if (op.error == error_of(ERROR_USER_MAPPED_FILE) && !file_size(op.handle, size) && size >= end)
      op.error = {};
    return;
  }
  case call::truncate:
    zero_to_page_end(op.address);
    op.error = windows::set_size(op.handle, op.at);
    return;
  case call::pause:
    std::this_thread::sleep_for(std::chrono::nanoseconds(op.count));
    return;
  case call::wait_word:
    // Not for long: a thread that others need may be the one that waits, and whoever asks looks at
    // the word and asks again.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): aligned, and bytes of a file
    op.error = wait_for_word_a_little(
        {reinterpret_cast<const std::uint32_t*>(op.address), static_cast<std::uint32_t>(op.at)});
    return;
  }
}

// --- threads of ours, barriers, forks
// --------------------------------------------------------------------------------------

void call_at_thread_end(thread_end& end) noexcept {
  static const thread_pointer ends([](void* pointer) {
    auto& of_this_thread = *static_cast<thread_end*>(pointer);
    of_this_thread.call(of_this_thread);
  });
  static_cast<void>(ends.set(&end));
}

// There are no signals, and whoever wakes up is served at once as it is.
void block_signals() noexcept {}
void let_others_preempt() noexcept {}

// FlushProcessWriteBuffers does not say whether it did anything, and under Wine it need not have.
const bool barrier_available = false;
void heavy_barrier() noexcept {}

unsigned fork_generation() noexcept {
  return 0;
}

}  // namespace detail::platform
MAPIO_NAMESPACE_END
