// Mappings, and the faults in them.

#include "guarded.hpp"
#include "windows.hpp"
#include "words.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include <psapi.h>

MAPIO_NAMESPACE_BEGIN

namespace {

const SYSTEM_INFO& system_info() noexcept {
  static const SYSTEM_INFO info = [] {
    SYSTEM_INFO asked{};
    ::GetSystemInfo(&asked);
    return asked;
  }();
  return info;
}

}  // namespace

std::size_t page_size() noexcept {
  return system_info().dwPageSize;
}

namespace detail::platform {

using windows::error_of;
using windows::last_error;
using windows::unique_handle;

// --- mapping
// ---------------------------------------------------------------------------------------------------------------

const bool mappings_are_free = false;

namespace {

// Views begin at such multiples, in memory and in the file.
std::uint64_t granule() noexcept {
  return system_info().dwAllocationGranularity;
}

// Not in every header.
constexpr ULONG mem_reserve_placeholder = 0x40000;
constexpr ULONG mem_replace_placeholder = 0x4000;
constexpr ULONG mem_preserve_placeholder = 2;
using virtual_alloc_2 = void*(WINAPI*)(HANDLE process, void* base, SIZE_T bytes, ULONG kind,
                                       ULONG protection, void* parameters, ULONG parameter_count);
using map_view_of_file_3 = void*(WINAPI*)(HANDLE section, HANDLE process, void* base,
                                          ULONG64 offset, SIZE_T bytes, ULONG kind,
                                          ULONG protection, void* parameters,
                                          ULONG parameter_count);

/// The calls for address space that is kept free, of which parts can be mapped and given back.
/// Windows has them since 10, version 1803; others may have their names and nothing behind.
struct placeholder_calls {
  virtual_alloc_2 allocate = nullptr;
  map_view_of_file_3 map = nullptr;
  bool work = false;

  placeholder_calls() noexcept {
    const HMODULE library = ::GetModuleHandleW(L"kernelbase.dll");
    if (library == nullptr) return;
    // By way of void*, since the types of functions have nothing in common.
    allocate = reinterpret_cast<virtual_alloc_2>(
        reinterpret_cast<void*>(::GetProcAddress(library, "VirtualAlloc2")));
    map = reinterpret_cast<map_view_of_file_3>(
        reinterpret_cast<void*>(::GetProcAddress(library, "MapViewOfFile3")));
    if (allocate == nullptr || map == nullptr) return;
    // All that will be asked of them, on memory.
    const unique_handle section(::CreateFileMappingW(INVALID_HANDLE_VALUE, nullptr, PAGE_READWRITE,
                                                     0, static_cast<DWORD>(page_size()), nullptr));
    const std::uint64_t reserved = 2 * granule();
    std::byte* const base = section ? reserve(reserved) : nullptr;
    if (base == nullptr) return;
    const bool is_split = split(base, page_size());
    work = is_split && place(section.get(), base, 0, page_size());
    if (work) ::UnmapViewOfFile(base);
    if (is_split && !work) ::VirtualFree(base, 0, MEM_RELEASE);
    ::VirtualFree(is_split ? base + page_size() : base, 0, MEM_RELEASE);
  }

  std::byte* reserve(std::uint64_t bytes) const noexcept {
    return static_cast<std::byte*>(allocate(nullptr, nullptr, static_cast<SIZE_T>(bytes),
                                            MEM_RESERVE | mem_reserve_placeholder, PAGE_NOACCESS,
                                            nullptr, 0));
  }
  /// Makes two of one: it ends after `bytes`, and the rest is another one.
  bool split(std::byte* base, std::uint64_t bytes) const noexcept {
    return ::VirtualFree(base, static_cast<SIZE_T>(bytes),
                         MEM_RELEASE | mem_preserve_placeholder) != FALSE;
  }
  /// Puts a view in the place of one.
  bool place(HANDLE section, std::byte* base, std::uint64_t offset,
             std::uint64_t bytes) const noexcept {
    return map(section, ::GetCurrentProcess(), base, offset, static_cast<SIZE_T>(bytes),
               mem_replace_placeholder, PAGE_READWRITE, nullptr, 0) != nullptr;
  }
};

const placeholder_calls& placeholders() noexcept {
  static const placeholder_calls calls;
  return calls;
}

/// Views one behind the other, and the address space that is kept free behind them.
struct mapped_range {
  struct view {
    std::uint64_t begin;
    std::uint64_t bytes;
  };
  std::vector<view> views;
  std::uint64_t end = 0;  // of the views, in whole pages
  std::byte* rest = nullptr;
  bool by_placeholders = false;
  windows::file_identity file;
};

/// By base address.
using mapped_ranges = std::map<std::byte*, mapped_range>;
std::mutex mapped_mutex;
std::condition_variable unmapped;
mapped_ranges& all_mapped() {
  static mapped_ranges& ranges = *new mapped_ranges;  // for whoever unmaps at the very end
  return ranges;
}

/// Those that are being unmapped.
using ranges_on_their_way = std::multimap<std::byte*, mapped_range>;
ranges_on_their_way& all_leaving() {
  static ranges_on_their_way& ranges = *new ranges_on_their_way;
  return ranges;
}

std::atomic<std::uint64_t> reserved{0};
constexpr std::uint64_t reservation_budget = std::uint64_t{1} << 40;
constexpr std::uint64_t most_for_one = std::uint64_t{16} << 30;

struct kinds {
  DWORD section;
  DWORD view;
};

kinds kinds_of(access mode) noexcept {
  switch (mode) {
  case access::read_write:
    return {PAGE_READWRITE, FILE_MAP_WRITE};
  case access::copy_on_write:
    return {PAGE_WRITECOPY, FILE_MAP_COPY};
  case access::read_only:
    break;
  }
  return {PAGE_READONLY, FILE_MAP_READ};
}

/// As large as the file is now: to ask for more would extend it.
unique_handle make_section(HANDLE file, access mode) noexcept {
  return unique_handle(::CreateFileMappingW(file, nullptr, kinds_of(mode).section, 0, 0, nullptr));
}

std::byte* map_view(HANDLE section, access mode, std::uint64_t offset, std::uint64_t bytes,
                    std::byte* at) noexcept {
  return static_cast<std::byte*>(
      ::MapViewOfFileEx(section, kinds_of(mode).view, static_cast<DWORD>(offset >> 32),
                        static_cast<DWORD>(offset & 0xFFFFFFFFU), static_cast<SIZE_T>(bytes), at));
}

/// Keeps address space free; where `at` is not null, that and no other.
std::byte* keep_free(std::byte* at, std::uint64_t bytes) noexcept {
  return static_cast<std::byte*>(
      ::VirtualAlloc(at, static_cast<SIZE_T>(bytes), MEM_RESERVE, PAGE_NOACCESS));
}

void give_back(std::byte* at) noexcept {
  if (at != nullptr) ::VirtualFree(at, 0, MEM_RELEASE);
}

/// Maps `size` bytes with free space up to `capacity` behind them, in a place that was free a
/// moment ago; null: not to be had.
std::byte* map_with_rest(HANDLE section, std::uint64_t size, std::uint64_t capacity,
                         mapped_range& range) noexcept {
  if (placeholders().work) {
    std::byte* const base = placeholders().reserve(capacity);
    if (base == nullptr) return nullptr;
    range.by_placeholders = true;
    range.rest = base + range.end;
    if (size == 0) return base;
    const bool is_split = placeholders().split(base, range.end);
    if (is_split && placeholders().place(section, base, 0, range.end)) return base;
    give_back(base);
    if (is_split) give_back(range.rest);
    range.by_placeholders = false;
    range.rest = nullptr;
  }
  // What follows can only begin at such a place.
  if (size % granule() != 0) return nullptr;
  std::byte* const base = keep_free(nullptr, capacity);
  if (base == nullptr || size == 0) {
    range.rest = base;
    return base;
  }
  give_back(base);
  if (map_view(section, access::read_write, 0, size, base) == nullptr) return nullptr;
  range.rest = keep_free(base + size, capacity - size);
  if (range.rest != nullptr) return base;
  ::UnmapViewOfFile(base);
  return nullptr;
}

}  // namespace

std::error_code map(native_handle_type file, access mode, std::uint64_t size,
                    std::uint64_t& capacity, std::byte*& base) noexcept try {
  mapped_range range;
  range.end = page_ceil(size);
  static_cast<void>(range.file.ask(file));
  range.views.reserve(1);
  if (size != 0) range.views.push_back({0, size});
  const unique_handle section = size != 0 ? make_section(file, mode) : unique_handle();
  if (size != 0 && !section) return last_error();
  std::byte* at = nullptr;
  if (mode == access::read_write && capacity > range.end)
    at = map_with_rest(section.get(), size, capacity, range);
  if (range.rest == nullptr) capacity = range.end;
  if (at == nullptr && size != 0) {
    at = map_view(section.get(), mode, 0, size, nullptr);
    if (at == nullptr) return last_error();
  }
  if (at == nullptr) return {};
  try {
    const std::lock_guard lock(mapped_mutex);
    all_mapped().emplace(at, std::move(range));
  } catch (...) {
    if (size != 0) ::UnmapViewOfFile(at);
    give_back(range.rest);
    throw;
  }
  base = at;
  reserved.fetch_add(capacity, std::memory_order_relaxed);
  return {};
} catch (...) {
  return error_of(ERROR_NOT_ENOUGH_MEMORY);
}

std::error_code map_more(native_handle_type file, std::byte* base, std::uint64_t mapped,
                         std::uint64_t size, std::uint64_t& capacity) noexcept try {
  const std::lock_guard lock(mapped_mutex);
  mapped_range& range = all_mapped().at(base);
  const std::uint64_t whole = capacity;
  const std::uint64_t end = page_ceil(size);
  capacity = mapped;
  range.views.reserve(range.views.size() + 1);
  const unique_handle section = make_section(file, access::read_write);
  if (!section) return last_error();
  std::byte* const at = base + mapped;
  std::byte* const free_space = std::exchange(range.rest, nullptr);
  if (range.by_placeholders) {
    const bool fills = end == whole;
    if ((!fills && !placeholders().split(at, end - mapped)) ||
        !placeholders().place(section.get(), at, mapped, end - mapped)) {
      const std::error_code error = last_error();
      // One that was split is two.
      give_back(free_space);
      return error;
    }
    range.rest = fills ? nullptr : base + end;
  } else {
    give_back(free_space);
    if (map_view(section.get(), access::read_write, mapped, size - mapped, at) == nullptr)
      return last_error();
    if (end < whole && size % granule() == 0) range.rest = keep_free(base + end, whole - end);
  }
  range.views.push_back({mapped, size - mapped});
  range.end = end;
  capacity = range.rest != nullptr ? whole : end;
  return {};
} catch (...) {
  return error_of(ERROR_NOT_ENOUGH_MEMORY);
}

void unmap(std::byte* base, std::uint64_t capacity) noexcept {
  ranges_on_their_way::iterator leaving;
  {
    const std::lock_guard lock(mapped_mutex);
    // Its place is free before it is, and the next one there goes among the others.
    auto node = all_mapped().extract(base);
    if (node.empty()) return;
    leaving = all_leaving().insert(std::move(node));
  }
  for (const mapped_range::view& view : leaving->second.views)
    ::UnmapViewOfFile(base + view.begin);
  give_back(leaving->second.rest);
  {
    const std::lock_guard lock(mapped_mutex);
    all_leaving().erase(leaving);
  }
  unmapped.notify_all();
  reserved.fetch_sub(capacity, std::memory_order_relaxed);
}

bool windows::wait_for_unmapping(const file_identity& file,
                                 std::chrono::steady_clock::time_point end) {
  std::unique_lock lock(mapped_mutex);
  const auto is_of_it = [&](const auto& entry) { return entry.second.file == file; };
  const auto count = [&] {
    const auto& mapped = all_mapped();
    const auto& leaving = all_leaving();
    return std::count_if(mapped.begin(), mapped.end(), is_of_it) +
           std::count_if(leaving.begin(), leaving.end(), is_of_it);
  };
  const auto before = count();
  return before != 0 && unmapped.wait_until(lock, end, [&] { return count() < before; });
}

namespace {

/// Calls each(address, bytes) for the part of every view that lies in a range, until there is an
/// error: not every call takes more than one view.
template <class Each>
std::error_code each_view(std::byte* address, std::uint64_t length, Each each) noexcept try {
  std::vector<std::pair<std::byte*, std::uint64_t>> parts;
  {
    const std::lock_guard lock(mapped_mutex);
    auto it = all_mapped().upper_bound(address);
    if (it == all_mapped().begin()) return error_of(ERROR_INVALID_ADDRESS);
    --it;
    const auto offset = static_cast<std::uint64_t>(address - it->first);
    for (const mapped_range::view& view : it->second.views) {
      const std::uint64_t begin = std::max(offset, view.begin);
      const std::uint64_t end = std::min(offset + length, page_ceil(view.begin + view.bytes));
      if (begin < end) parts.emplace_back(it->first + begin, end - begin);
    }
  }
  for (const auto& [at, bytes] : parts)
    if (std::error_code error = each(at, bytes)) return error;
  return {};
} catch (...) {
  return error_of(ERROR_NOT_ENOUGH_MEMORY);
}

}  // namespace

std::error_code windows::flush_views(std::byte* address, std::uint64_t length) noexcept {
  return each_view(address, length, [](std::byte* at, std::uint64_t bytes) noexcept {
    return succeeded(::FlushViewOfFile(at, static_cast<SIZE_T>(bytes)));
  });
}

void windows::prefetch(std::byte* address, std::uint64_t length) noexcept {
  static_cast<void>(each_view(address, length, [](std::byte* at, std::uint64_t bytes) noexcept {
    WIN32_MEMORY_RANGE_ENTRY range{at, static_cast<SIZE_T>(bytes)};
    return succeeded(::PrefetchVirtualMemory(::GetCurrentProcess(), 1, &range, 0));
  }));
}

bool read_in_large_pieces(std::byte*, std::uint64_t) noexcept {
  return false;
}

std::uint64_t largest_reservation() noexcept {
  const std::uint64_t used = reserved.load(std::memory_order_relaxed);
  return used < reservation_budget ? std::min(reservation_budget - used, most_for_one) : 0;
}

bool is_out_of_address_space(const std::error_code& error) noexcept {
  return error == std::errc::not_enough_memory || error == error_of(ERROR_NO_SYSTEM_RESOURCES) ||
         error == error_of(ERROR_COMMITMENT_LIMIT) || error == error_of(ERROR_INVALID_ADDRESS);
}

namespace {

std::error_code lock_views(std::byte* address, std::uint64_t length) noexcept {
  return each_view(address, length, [](std::byte* at, std::uint64_t bytes) noexcept {
    return windows::succeeded(::VirtualLock(at, static_cast<SIZE_T>(bytes)));
  });
}

std::error_code unlock_view(std::byte* address, std::uint64_t length) noexcept {
  if (::VirtualUnlock(address, static_cast<SIZE_T>(length)) != FALSE) return {};
  if (::GetLastError() != ERROR_NOT_LOCKED) return last_error();
  // Of a range of which a part is not locked, no other part is unlocked either.
  for (std::uint64_t at = 0; at < length; at += page_size())
    if (::VirtualUnlock(address + at, page_size()) == FALSE && ::GetLastError() != ERROR_NOT_LOCKED)
      return last_error();
  return {};
}

}  // namespace

std::error_code lock_pages(std::byte* address, std::uint64_t length) noexcept {
  // Tells of a page that is not there as of what it is.
  struct look final : operation {
  } look;
  look.what = call::populate;
  look.address = address;
  look.count = length;
  perform(look);
  if (look.error) return look.error;
  const std::error_code error = lock_views(address, length);
  if (error != error_of(ERROR_WORKING_SET_QUOTA)) return error;
  // What a process may lock is what it is granted as a minimum to have in memory.
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  SIZE_T least = 0;
  SIZE_T most = 0;
  const auto bytes = static_cast<SIZE_T>(length);
  const HANDLE process = ::GetCurrentProcess();
  if (::GetProcessWorkingSetSize(process, &least, &most) == FALSE ||
      ::SetProcessWorkingSetSize(process, least + bytes, std::max(most, least + 2 * bytes)) ==
          FALSE)
    return error;
  return lock_views(address, length);
}

std::error_code unlock_pages(std::byte* address, std::uint64_t length) noexcept {
  return each_view(address, length, unlock_view);
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

std::chrono::milliseconds coarse_time() noexcept {
  return std::chrono::milliseconds(::GetTickCount64());
}

bool count_dirty(native_handle_type, std::uint64_t, std::uint64_t, dirty_count&) noexcept {
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
  return copy_until_fault(destination, source, n, copy_or_fault);
}

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
