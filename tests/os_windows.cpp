#include "os.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cwctype>
#include <random>
#include <stdexcept>
#include <system_error>
#include <thread>

// psapi.h needs what windows.h declares.
#include <windows.h>

#include <psapi.h>

namespace support {
namespace {

[[noreturn]] void fail(const std::string& what, DWORD error = ::GetLastError()) {
  throw std::system_error(static_cast<int>(error), std::system_category(), what);
}

constexpr DWORD share_all = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

native_file open_or_fail(const fs::path& path, DWORD access, DWORD how, DWORD flags = 0) {
  native_file file(::CreateFileW(path.c_str(), access, share_all, nullptr, how, flags, nullptr));
  if (file.get() == no_native_handle) fail(path.string());
  return file;
}

OVERLAPPED at_offset(std::uint64_t offset) {
  OVERLAPPED where{};
  where.Offset = static_cast<DWORD>(offset);
  where.OffsetHigh = static_cast<DWORD>(offset >> 32);
  return where;
}

BY_HANDLE_FILE_INFORMATION information_of(native_handle file) {
  BY_HANDLE_FILE_INFORMATION information{};
  if (::GetFileInformationByHandle(file, &information) == 0) fail("GetFileInformationByHandle");
  return information;
}

// The name that Wine's host has for a path, in quotation marks; empty where this is not Wine.
std::wstring name_on_the_host(const fs::path& path) {
  using unix_file_name = char*(CDECL*)(const wchar_t*);
  const HMODULE kernel = ::GetModuleHandleW(L"kernel32.dll");
  const auto name_of = reinterpret_cast<unix_file_name>(
      reinterpret_cast<void*>(::GetProcAddress(kernel, "wine_get_unix_file_name")));
  char* const name = name_of != nullptr ? name_of(path.c_str()) : nullptr;
  if (name == nullptr) return {};
  std::wstring quoted = L"\"";
  for (const char* c = name; *c != 0; ++c)
    quoted += static_cast<wchar_t>(static_cast<unsigned char>(*c));
  ::HeapFree(::GetProcessHeap(), 0, name);
  return quoted + L'"';
}

// Where Windows lets nobody cut a file that is mapped, Wine's host does, and what becomes of the
// mapping can be seen. False where this is not Wine.
bool truncate_by_the_host(const fs::path& path, std::uint64_t size) {
  static std::atomic<unsigned> last{0};
  // There is no handle of a process of the host to wait for. It makes this file after the other.
  const fs::path mark =
      fs::temp_directory_path() /
      ("mapio-cut-" + std::to_string(::GetCurrentProcessId()) + '-' + std::to_string(++last));
  const std::wstring name = name_on_the_host(path);
  const std::wstring name_of_mark = name_on_the_host(mark);
  if (name.empty() || name_of_mark.empty()) return false;
  std::wstring command =
      L"truncate -s " + std::to_wstring(size) + L' ' + name + L' ' + name_of_mark;

  STARTUPINFOW start{};
  start.cb = sizeof start;
  PROCESS_INFORMATION process{};
  if (::CreateProcessW(LR"(\\?\unix\usr\bin\truncate)", command.data(), nullptr, nullptr, FALSE, 0,
                       nullptr, nullptr, &start, &process) == 0)
    return false;
  if (process.hThread != nullptr) ::CloseHandle(process.hThread);
  if (process.hProcess != nullptr) ::CloseHandle(process.hProcess);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (::DeleteFileW(mark.c_str()) == FALSE) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

bool equal_without_case(std::wstring_view left, std::wstring_view right) {
  return std::equal(left.begin(), left.end(), right.begin(), right.end(),
                    [](wchar_t l, wchar_t r) { return std::towlower(l) == std::towlower(r); });
}

// An argument so that the C runtime of the program takes it for one.
std::wstring quoted(const std::wstring& argument) {
  std::wstring result = L"\"";
  std::size_t backslashes = 0;
  for (const wchar_t c : argument) {
    if (c == L'"') result.append(backslashes + 1, L'\\');
    backslashes = c == L'\\' ? backslashes + 1 : 0;
    result += c;
  }
  result.append(backslashes, L'\\');
  return result + L'"';
}

}  // namespace

// --- files
// ----------------------------------------------------------------------------------------

void close_native(native_handle file) noexcept {
  ::CloseHandle(file);
}

native_file open_native(const fs::path& path, opening how) {
  switch (how) {
  case opening::to_read:
    return open_or_fail(path, GENERIC_READ, OPEN_EXISTING);
  case opening::to_write:
    return open_or_fail(path, GENERIC_WRITE, OPEN_EXISTING);
  case opening::to_append:
    return open_or_fail(path, GENERIC_READ | FILE_APPEND_DATA | SYNCHRONIZE, OPEN_EXISTING);
  case opening::to_create:
    return open_or_fail(path, GENERIC_READ | GENERIC_WRITE, OPEN_ALWAYS);
  case opening::to_read_and_write:
    break;
  }
  return open_or_fail(path, GENERIC_READ | GENERIC_WRITE, OPEN_EXISTING);
}

native_file open_native_folder(const fs::path& path) {
  return open_or_fail(path, GENERIC_READ, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS);
}

native_file open_null_device() {
  return open_or_fail("NUL", GENERIC_READ | GENERIC_WRITE, OPEN_EXISTING);
}

native_file open_pipe() {
  HANDLE to_read = nullptr;
  HANDLE to_write = nullptr;
  if (::CreatePipe(&to_read, &to_write, nullptr, 0) == 0) fail("CreatePipe");
  ::CloseHandle(to_write);
  return native_file(to_read);
}

namespace {

// A handle of mapio's is for overlapped calls, which may not be over at once.
bool is_done(BOOL result, native_handle file, OVERLAPPED& where, DWORD& bytes) {
  return result != 0 || (::GetLastError() == ERROR_IO_PENDING &&
                         ::GetOverlappedResult(file, &where, &bytes, TRUE) != 0);
}

}  // namespace

std::string read_at(native_handle file, std::uint64_t offset, std::size_t count) {
  std::string bytes(count, '\0');
  OVERLAPPED where = at_offset(offset);
  DWORD n = 0;
  const BOOL result = ::ReadFile(file, bytes.data(), static_cast<DWORD>(count), &n, &where);
  if (!is_done(result, file, where, n) && ::GetLastError() != ERROR_HANDLE_EOF) fail("ReadFile");
  bytes.resize(n);
  return bytes;
}

std::size_t write_at(native_handle file, std::uint64_t offset, std::string_view bytes) {
  OVERLAPPED where = at_offset(offset);
  DWORD n = 0;
  const BOOL result = ::WriteFile(file, bytes.data(), static_cast<DWORD>(bytes.size()), &n, &where);
  if (!is_done(result, file, where, n)) fail("WriteFile");
  return n;
}

bool is_open_descriptor(native_handle file) noexcept {
  DWORD flags = 0;
  return ::GetHandleInformation(file, &flags) != 0;
}

bool is_inherited(native_handle file) noexcept {
  DWORD flags = 0;
  return ::GetHandleInformation(file, &flags) != 0 && (flags & HANDLE_FLAG_INHERIT) != 0;
}

// Those of files: others come and go with what the runtime does.
std::set<native_handle> open_descriptors() {
  std::set<native_handle> files;
  // They are numbered from below, and how many there are, Wine does not say.
  constexpr std::uintptr_t step = 4;
  constexpr std::uintptr_t longest_gap = 1024 * step;
  for (std::uintptr_t number = step, last = 0; number - last < longest_gap; number += step) {
    const auto handle = reinterpret_cast<native_handle>(number);
    if (!is_open_descriptor(handle)) continue;
    last = number;
    if (::GetFileType(handle) == FILE_TYPE_DISK) files.insert(handle);
  }
  return files;
}

fs::path make_unique_folder(const fs::path& parent) {
  std::random_device random;
  for (;;) {
    fs::path path = parent / ("mapio-test-" + std::to_string(random()));
    if (::CreateDirectoryW(path.c_str(), nullptr) != 0) return path;
    if (::GetLastError() != ERROR_ALREADY_EXISTS) fail(path.string());
  }
}

void truncate_file(const fs::path& path, std::uint64_t size) {
  const native_file file = open_native(path, opening::to_read_and_write);
  LARGE_INTEGER end{};
  end.QuadPart = static_cast<LONGLONG>(size);
  if (::SetFilePointerEx(file.get(), end, nullptr, FILE_BEGIN) != 0 &&
      ::SetEndOfFile(file.get()) != 0)
    return;
  const DWORD error = ::GetLastError();
  if (error == ERROR_USER_MAPPED_FILE && truncate_by_the_host(path, size)) return;
  fail("SetEndOfFile", error);
}

// MinGW's std::filesystem::remove_all() crashes over a folder that cannot be removed because
// somebody has it open.
void remove_tree(const fs::path& folder) noexcept try {
  std::vector<fs::path> folders;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_directory(ignored)) {
      folders.push_back(entry.path());
      continue;
    }
    ::SetFileAttributesW(entry.path().c_str(), FILE_ATTRIBUTE_NORMAL);
    ::DeleteFileW(entry.path().c_str());
  }
  for (const fs::path& inner : folders)
    remove_tree(inner);
  ::RemoveDirectoryW(folder.c_str());
} catch (const std::exception&) {
  // It stays.
}

std::error_condition error_below_a_file() {
  return std::errc::no_such_file_or_directory;
}

std::error_condition error_of_a_long_name() {
  return std::errc::no_such_file_or_directory;
}

std::uint64_t allocated_bytes(const fs::path& path) {
  // Not by GetCompressedFileSize, which opens the file in its own way, and by Wine says the size.
  const native_file file = open_native(path, opening::to_read);
  FILE_STANDARD_INFO info{};
  if (::GetFileInformationByHandleEx(file.get(), FileStandardInfo, &info, sizeof info) == 0)
    fail(path.string());
  return static_cast<std::uint64_t>(info.AllocationSize.QuadPart);
}

std::pair<std::uint64_t, std::uint64_t> identity(const fs::path& path) {
  return identity(open_native(path, opening::to_read).get());
}

std::pair<std::uint64_t, std::uint64_t> identity(native_handle file) {
  const BY_HANDLE_FILE_INFORMATION information = information_of(file);
  return {information.dwVolumeSerialNumber,
          (std::uint64_t{information.nFileIndexHigh} << 32) | information.nFileIndexLow};
}

// --- memory
// ---------------------------------------------------------------------------------------

bool evict(const fs::path&) {
  return false;
}

void forget_pages(const std::byte*, std::size_t, native_handle) noexcept {}

bool tells_cached_pages(const fs::path&) {
  return false;
}

std::uint64_t unwritten_pages(const fs::path&) {
  return 0;
}

foreign_mapping::foreign_mapping(const fs::path& path, std::size_t length, access how)
    : length_(length) {
  const bool writes = how == access::read_and_write;
  const native_file file =
      open_native(path, writes ? opening::to_read_and_write : opening::to_read);
  const HANDLE section = ::CreateFileMappingW(
      file.get(), nullptr, writes ? PAGE_READWRITE : PAGE_READONLY, 0, 0, nullptr);
  if (section == nullptr) fail("CreateFileMapping");
  data_ = static_cast<char*>(
      ::MapViewOfFile(section, writes ? FILE_MAP_WRITE : FILE_MAP_READ, 0, 0, 0));
  const DWORD error = ::GetLastError();
  ::CloseHandle(section);
  if (data_ == nullptr) fail("MapViewOfFile", error);
}

foreign_mapping::~foreign_mapping() {
  ::UnmapViewOfFile(data_);
}

int count_mappings(const fs::path& path) {
  // What is mapped is named by its device, where a path has a drive.
  const std::wstring tail = path.lexically_normal().relative_path().native();
  int count = 0;
  MEMORY_BASIC_INFORMATION range{};
  for (const char* at = nullptr; ::VirtualQuery(at, &range, sizeof range) != 0;
       at = static_cast<const char*>(range.BaseAddress) + range.RegionSize) {
    if (range.Type != MEM_MAPPED || range.BaseAddress != range.AllocationBase) continue;
    std::array<wchar_t, 1024> name{};
    const DWORD length = ::K32GetMappedFileNameW(::GetCurrentProcess(), range.BaseAddress,
                                                 name.data(), static_cast<DWORD>(name.size()));
    const std::wstring_view mapped(name.data(), length);
    if (mapped.size() >= tail.size() &&
        equal_without_case(mapped.substr(mapped.size() - tail.size()), tail))
      ++count;
  }
  return count;
}

std::optional<std::uint64_t> locked_bytes() {
  return {};
}

namespace {

SYSTEM_INFO system_information() {
  SYSTEM_INFO information{};
  ::GetSystemInfo(&information);
  return information;
}

}  // namespace

std::size_t system_page_size() {
  return system_information().dwPageSize;
}

std::size_t mapping_granule() {
  return system_information().dwAllocationGranularity;
}

// --- processes
// ------------------------------------------------------------------------------------

void set_environment(const std::string& name, const char* value) {
  // An empty value removes it.
  if (::_putenv_s(name.c_str(), value != nullptr ? value : "") != 0)
    throw std::runtime_error("cannot set " + name);
}

namespace {

HANDLE watchdog_timer = nullptr;

void CALLBACK end_program(void*, BOOLEAN) {
  std::fputs("\nwatchdog: the test hangs\n", stderr);
  std::fflush(stderr);
  ::TerminateProcess(::GetCurrentProcess(), 124);
}

}  // namespace

void arm_watchdog(unsigned seconds) {
  disarm_watchdog();
  if (::CreateTimerQueueTimer(&watchdog_timer, nullptr, end_program, nullptr, seconds * 1000, 0,
                              WT_EXECUTEONLYONCE) == 0)
    fail("CreateTimerQueueTimer");
}

void disarm_watchdog() {
  if (watchdog_timer == nullptr) return;
  static_cast<void>(
      ::DeleteTimerQueueTimer(nullptr, std::exchange(watchdog_timer, nullptr), nullptr));
}

const mapio::backend_kind engine_of_this_os = mapio::backend_kind::iocp;

bool io_uring_is_allowed() {
  return false;
}

fs::path this_program() {
  std::wstring name(1024, L'\0');
  for (;;) {
    const DWORD length =
        ::GetModuleFileNameW(nullptr, name.data(), static_cast<DWORD>(name.size()));
    if (length == 0) fail("GetModuleFileName");
    if (length < name.size()) {
      name.resize(length);
      return name;
    }
    name.resize(2 * name.size());
  }
}

struct child_process::state {
  HANDLE process = nullptr;
};

child_process::child_process(const fs::path& program, const std::vector<std::string>& arguments,
                             const fs::path& output)
    : state_(std::make_unique<state>()) {
  std::wstring command = quoted(program.native());
  for (const std::string& argument : arguments)
    command += L' ' + quoted(fs::path(argument).native());

  STARTUPINFOW start{};
  start.cb = sizeof start;
  native_file out;
  if (!output.empty()) {
    SECURITY_ATTRIBUTES inherited{};
    inherited.nLength = sizeof inherited;
    inherited.bInheritHandle = TRUE;
    out.reset(::CreateFileW(output.c_str(), GENERIC_WRITE, share_all, &inherited, CREATE_ALWAYS, 0,
                            nullptr));
    if (out.get() == no_native_handle) fail(output.string());
    start.dwFlags = STARTF_USESTDHANDLES;
    start.hStdInput = ::GetStdHandle(STD_INPUT_HANDLE);
    start.hStdOutput = out.get();
    start.hStdError = out.get();
  }
  PROCESS_INFORMATION process{};
  if (::CreateProcessW(program.c_str(), command.data(), nullptr, nullptr, TRUE, 0, nullptr, nullptr,
                       &start, &process) == 0)
    fail(program.string());
  ::CloseHandle(process.hThread);
  state_->process = process.hProcess;
}

child_process::~child_process() {
  if (state_->process == nullptr) return;
  kill();
  wait();
}

void child_process::kill() {
  if (state_->process != nullptr) ::TerminateProcess(state_->process, 137);
}

child_end child_process::wait() {
  const HANDLE process = std::exchange(state_->process, nullptr);
  ::WaitForSingleObject(process, INFINITE);
  DWORD code = 0;
  const bool told = ::GetExitCodeProcess(process, &code) != 0;
  const DWORD error = ::GetLastError();
  ::CloseHandle(process);
  if (!told) fail("GetExitCodeProcess", error);
  child_end end;
  end.code = static_cast<int>(code);
  return end;
}

}  // namespace support
