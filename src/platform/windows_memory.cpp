// Mappings, and the faults in them.

#include "windows.hpp"
#include "words.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <mutex>

#include <psapi.h>

MAPIO_NAMESPACE_BEGIN

std::size_t page_size() noexcept {
  static const std::size_t size = [] {
    SYSTEM_INFO info{};
    ::GetSystemInfo(&info);
    return std::size_t{info.dwPageSize};
  }();
  return size;
}

namespace detail::platform {

using windows::error_of;
using windows::last_error;
using windows::unique_handle;

// --- mapping
// ---------------------------------------------------------------------------------------------------------------

std::error_code map(native_handle_type file, access mode, std::uint64_t size, std::uint64_t,
                    std::byte*& base) noexcept {
  const DWORD protection = mode == access::read_write      ? PAGE_READWRITE
                           : mode == access::copy_on_write ? PAGE_WRITECOPY
                                                           : PAGE_READONLY;
  const DWORD how = mode == access::read_write      ? FILE_MAP_WRITE
                    : mode == access::copy_on_write ? FILE_MAP_COPY
                                                    : FILE_MAP_READ;
  // As large as the file is now: to ask for more would extend it.
  const unique_handle section(::CreateFileMappingW(file, nullptr, protection, 0, 0, nullptr));
  if (!section) return last_error();
  void* const address = ::MapViewOfFile(section.get(), how, 0, 0, static_cast<SIZE_T>(size));
  if (address == nullptr) return last_error();
  base = static_cast<std::byte*>(address);
  return {};
}

void unmap(std::byte* base, std::uint64_t) noexcept {
  ::UnmapViewOfFile(base);
}

std::error_code windows::flush_views(std::byte* address, std::uint64_t length) noexcept {
  return succeeded(::FlushViewOfFile(address, static_cast<SIZE_T>(length)));
}

void windows::prefetch(std::byte* address, std::uint64_t length) noexcept {
  WIN32_MEMORY_RANGE_ENTRY range{address, static_cast<SIZE_T>(length)};
  if (length != 0) ::PrefetchVirtualMemory(::GetCurrentProcess(), 1, &range, 0);
}

bool read_in_large_pieces(std::byte*, std::uint64_t) noexcept {
  return false;
}

std::uint64_t largest_reservation() noexcept {
  return 0;
}

bool is_out_of_address_space(const std::error_code& error) noexcept {
  return error == std::errc::not_enough_memory || error == error_of(ERROR_NO_SYSTEM_RESOURCES) ||
         error == error_of(ERROR_COMMITMENT_LIMIT) || error == error_of(ERROR_INVALID_ADDRESS);
}

std::error_code lock_pages(std::byte* address, std::uint64_t length) noexcept {
  // Tells of a page that is not there as of what it is.
  struct look final : operation {
  } look;
  look.what = call::populate;
  look.address = address;
  look.count = length;
  perform(look);
  if (look.error) return look.error;
  const auto bytes = static_cast<SIZE_T>(length);
  if (::VirtualLock(address, bytes) != FALSE) return {};
  const std::error_code error = last_error();
  if (error != error_of(ERROR_WORKING_SET_QUOTA)) return error;
  // What a process may lock is what it is granted as a minimum to have in memory.
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  SIZE_T least = 0;
  SIZE_T most = 0;
  const HANDLE process = ::GetCurrentProcess();
  if (::GetProcessWorkingSetSize(process, &least, &most) == FALSE ||
      ::SetProcessWorkingSetSize(process, least + bytes, std::max(most, least + 2 * bytes)) ==
          FALSE)
    return error;
  return windows::succeeded(::VirtualLock(address, bytes));
}

std::error_code unlock_pages(std::byte* address, std::uint64_t length) noexcept {
  return windows::succeeded(::VirtualUnlock(address, static_cast<SIZE_T>(length)));
}

std::error_code advise(std::byte* address, std::uint64_t length, advice what) noexcept {
  switch (what) {
  case advice::normal:
    return {};
  case advice::will_need:
    windows::prefetch(address, length);
    return {};
  case advice::sequential:
  case advice::random:
  case advice::dont_need:
  case advice::cold:
  case advice::huge_pages:
    return errc::unsupported;
  }
  return std::make_error_code(std::errc::invalid_argument);
}

std::uint64_t count_huge(const std::byte*, std::uint64_t) noexcept {
  return 0;
}

void* allocate_zeroed(std::size_t bytes) noexcept {
  return ::VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

void free_zeroed(void* memory, std::size_t) noexcept {
  ::VirtualFree(memory, 0, MEM_RELEASE);
}

// In memory here means in that of this process: what is only in the cache of files is said to be
// missing, and is fetched off the loop.
std::error_code resident(const std::byte* address, std::uint64_t length, bool& all) noexcept {
  const auto page = static_cast<std::uintptr_t>(page_size());
  const auto begin = reinterpret_cast<std::uintptr_t>(address) & ~(page - 1);
  const auto end = reinterpret_cast<std::uintptr_t>(address) + length;
  std::array<PSAPI_WORKING_SET_EX_INFORMATION, 128> pages;
  all = true;
  for (std::uintptr_t at = begin; at < end && all;) {
    std::size_t count = 0;
    for (; count < pages.size() && at < end; ++count, at += page)
      pages[count] = {reinterpret_cast<void*>(at), {}};
    if (::QueryWorkingSetEx(::GetCurrentProcess(), pages.data(),
                            static_cast<DWORD>(count * sizeof pages[0])) == FALSE) {
      all = false;
      return last_error();
    }
    all = std::all_of(pages.begin(), pages.begin() + static_cast<std::ptrdiff_t>(count),
                      [](const auto& p) { return p.VirtualAttributes.Valid != 0; });
  }
  return {};
}

bool is_cached(native_handle_type, std::uint64_t, std::uint64_t) noexcept {
  return false;
}

bool count_dirty(native_handle_type, std::uint64_t, std::uint64_t, std::uint64_t&) noexcept {
  return false;
}

// --- faults
// ----------------------------------------------------------------------------------------------------------------

namespace {

using jump_buffer = void* [5];

struct guarded_range {
  const char* destination;
  const char* source;
  std::size_t size;
  jump_buffer resume;
};

/// Where a thread has the range that it copies. Not thread_local: the handler of an exception must
/// not be the first to look at it, which would allocate it.
const DWORD guarded_slot = ::TlsAlloc();

void set_guarded(guarded_range* range) noexcept {
  ::TlsSetValue(guarded_slot, range);
}

[[noreturn]] void leave(guarded_range* range) noexcept {
  __builtin_longjmp(range->resume, 1);
}

/// Makes the thread go on in leave(), and not where it was.
void redirect(CONTEXT& context, guarded_range* range) noexcept {
#if defined(__x86_64__)
  // As if it had been called from there: below what may be in use, aligned, with a return address
  // and the space that it may use above that.
  constexpr DWORD64 space = 128;
  context.Rsp = ((context.Rsp - space) & ~DWORD64{15}) - sizeof(void*);
  context.Rcx = reinterpret_cast<DWORD64>(range);
  context.Rip = reinterpret_cast<DWORD64>(&leave);
#elif defined(__aarch64__)
  context.X0 = reinterpret_cast<DWORD64>(range);
  context.Pc = reinterpret_cast<DWORD64>(&leave);
#else
#error "mapio does not know how to leave a guarded copy on this processor"
#endif
}

bool leave_guarded_copy(const EXCEPTION_POINTERS& exception) noexcept {
  const EXCEPTION_RECORD& record = *exception.ExceptionRecord;
  // Which of the two it is differs between versions, for one and the same cause.
  if ((record.ExceptionCode != EXCEPTION_ACCESS_VIOLATION &&
       record.ExceptionCode != EXCEPTION_IN_PAGE_ERROR) ||
      record.NumberParameters < 2)
    return false;
  // To look at the slot clears the last error.
  const DWORD last = ::GetLastError();
  auto* const g = static_cast<guarded_range*>(::TlsGetValue(guarded_slot));
  ::SetLastError(last);
  if (g == nullptr) return false;
  const auto fault = static_cast<std::uintptr_t>(record.ExceptionInformation[1]);
  // A vector load may begin before the range by less than its page.
  const auto within = [&](const char* from) {
    const auto page = static_cast<std::uintptr_t>(page_size());
    const auto first = reinterpret_cast<std::uintptr_t>(from);
    return (first & ~(page - 1)) <= fault && fault < first + g->size;
  };
  if (!within(g->destination) && !within(g->source)) return false;
  set_guarded(nullptr);
  redirect(*exception.ContextRecord, g);
  return true;
}

LONG CALLBACK on_exception(EXCEPTION_POINTERS* exception) {
  return leave_guarded_copy(*exception) ? EXCEPTION_CONTINUE_EXECUTION : EXCEPTION_CONTINUE_SEARCH;
}

// Nothing here may need a destructor: a fault leaves by a jump. What it leaves must be a call: the
// compiler knows of no other way by which a jump could come.
template <class Access>
[[gnu::noinline]] bool access_or_fault(void* destination, const void* source, std::size_t n,
                                       Access access) noexcept {
  guarded_range range;
  range.destination = static_cast<const char*>(destination);
  range.source = static_cast<const char*>(source);
  range.size = n;
  if (__builtin_setjmp(range.resume) != 0) return false;
  set_guarded(&range);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  access(destination, source, n);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  set_guarded(nullptr);
  return true;
}

[[gnu::noinline]] void copy(void* to, const void* from, std::size_t n) noexcept {
  std::memcpy(to, from, n);
}

bool copy_or_fault(void* destination, const void* source, std::size_t n) noexcept {
  return access_or_fault(
      destination, source, n,
      [](void* to, const void* from, std::size_t count) noexcept { copy(to, from, count); });
}

std::size_t to_page_end(const void* p) noexcept {
  return page_size() - static_cast<std::size_t>(reinterpret_cast<std::uintptr_t>(p) % page_size());
}

// memcpy may have begun anywhere: again, a page at a time, to know how far it goes.
[[gnu::cold, gnu::noinline]] std::size_t copy_until_fault(void* destination, const void* source,
                                                          std::size_t n) noexcept {
  auto* to = static_cast<char*>(destination);
  const auto* from = static_cast<const char*>(source);
  std::size_t done = 0;
  while (done < n) {
    const std::size_t piece =
        std::min({n - done, to_page_end(to + done), to_page_end(from + done)});
    if (!copy_or_fault(to + done, from + done, piece)) break;
    done += piece;
  }
  return done;
}

}  // namespace

void guard_faults() {
  [[maybe_unused]] static const bool done = [] {
    if (guarded_slot == TLS_OUT_OF_INDEXES ||
        ::AddVectoredExceptionHandler(1, on_exception) == nullptr)
      throw std::system_error(error_of(ERROR_NOT_ENOUGH_MEMORY), "AddVectoredExceptionHandler");
    // Known before the first fault can ask for it.
    static_cast<void>(page_size());
    return true;
  }();
}

std::size_t guarded_copy(void* destination, const void* source, std::size_t n) noexcept {
  if (copy_or_fault(destination, source, n)) [[likely]]
    return n;
  return copy_until_fault(destination, source, n);
}

namespace {

[[gnu::noinline]] void load_shared(void* to, const void* from, std::size_t) noexcept {
  auto* const word = const_cast<std::uint32_t*>(static_cast<const std::uint32_t*>(from));
  *static_cast<std::uint32_t*>(to) = std::atomic_ref<std::uint32_t>(*word).load();
}

}  // namespace

bool load_word(const std::uint32_t* word, std::uint32_t& value) noexcept {
  return access_or_fault(
      &value, word, sizeof value,
      [](void* to, const void* from, std::size_t n) noexcept { load_shared(to, from, n); });
}

}  // namespace detail::platform

bool handle_fault(int, void* info, void*) noexcept {
  return info != nullptr &&
         detail::platform::leave_guarded_copy(*static_cast<const EXCEPTION_POINTERS*>(info));
}

MAPIO_NAMESPACE_END
