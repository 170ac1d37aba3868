#ifndef MAPIO_SRC_PLATFORM_PLATFORM_HPP
#define MAPIO_SRC_PLATFORM_PLATFORM_HPP

// What core and the engines need of an operating system. One file per OS implements it; nothing
// else talks to the OS but the engines and the watchers.

#include <mapio/detail/operation.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <system_error>

MAPIO_NAMESPACE_BEGIN
namespace detail::platform {

inline const native_handle_type no_handle = native_handle_type(std::intptr_t{-1});

/// A file as open() leaves it, with what the rest needs to know about where it lives.
struct opened_file {
  native_handle_type file = no_handle;
  native_handle_type directory =
      no_handle;  // of a file that open may have created: its name is not durable yet
  std::error_code directory_error;  // why there is no directory handle though there should be
  std::uint64_t size = 0;
  mapio::medium medium = mapio::medium::unknown;
  bool zeroes_tail =
      false;  // growth zeroes what was stored behind the old end, on this file system
  // Bytes of the pages of hugetlbfs, else 0: only whole ones can be unmapped, and to map any beyond
  // the end of the file makes it longer.
  std::uint64_t huge_page = 0;
  bool hides_residency = false;   // resident() would say yes to everything
  std::filesystem::path created;  // the name under which open() created it; none: it was there
};

/// Opens a regular file as it is, or creates it and gives it its size; after an error nothing is
/// left open or created.
std::error_code open(const std::filesystem::path& path, const open_options& options,
                     opened_file& result);
/// Takes a file back that open() created, if it still has that name; before it is closed.
void remove_created(native_handle_type file, const std::filesystem::path& name) noexcept;
/// Gives a file that was there, and is to begin anew, options.size zero bytes; has it what it had
/// where there is no room for them.
std::error_code start_over(native_handle_type file, std::uint64_t old_size,
                           const open_options& options) noexcept;
/// Looks at a file that is open already; does not close it on error.
std::error_code inspect(native_handle_type file, const open_options& options, opened_file& result);
/// Opens the same file once more, as an open file description of its own: the OS tells each of them
/// of a failed write-back. Where the OS can do that by a name only, by `path`, if it has one and
/// that is still its own. no_handle where that is not to be had.
native_handle_type open_again(native_handle_type file, const std::filesystem::path& path) noexcept;
void close(native_handle_type handle) noexcept;
/// Returns how large this process may make a file (RLIMIT_FSIZE). Who goes on gets a signal besides
/// the error, and dies of it.
std::uint64_t largest_file() noexcept;
/// Looks at the size that the kernel has in memory; never waits.
std::error_code file_size(native_handle_type file, std::uint64_t& size) noexcept;
/// Looks at the size that the file has now, wherever it is; may wait.
std::error_code current_size(native_handle_type file, std::uint64_t& size) noexcept;

/// A copy of a file, as long as it is not in its place.
struct file_copy {
  native_handle_type source = no_handle;
  native_handle_type target = no_handle;
  std::filesystem::path place;      // where it is to be
  std::filesystem::path temporary;  // the name that it has until then, if any
  std::uint64_t size = 0;           // of the source; 0 also where nobody knows (/proc)
  unsigned permissions = 0;
  bool may_clone = true;
  bool may_copy_in_kernel = true;
  bool is_at_end = false;  // known other than by the size
};

/// Looks at both files, and creates one that nobody but the owner can use.
std::error_code begin_copy(const std::filesystem::path& from, const std::filesystem::path& to,
                           const copy_file_options& options, file_copy& copy);
/// Copies the next few MiB at most, or all there is where that costs nothing; `copied` counts from
/// the beginning.
std::error_code copy_next(file_copy& copy, std::uint64_t& copied) noexcept;
/// Puts the copy in its place.
std::error_code end_copy(file_copy& copy, std::uint64_t copied, const copy_file_options& options);
/// Closes both files, and removes the copy unless it is in its place.
void abandon_copy(file_copy& copy) noexcept;
/// Removes the name of a file; not of a folder.
std::error_code remove(const std::filesystem::path& path) noexcept;

/// Tells whether a mapping may be longer than its file, which can be given any size meanwhile. If
/// not, only what the file has is mapped, and it cannot be cut before it is unmapped.
extern const bool mappings_are_free;
/// Maps a file of `size` bytes, and `capacity` of them, more than it has, where the OS can do that;
/// else keeps the address space free, and lowers `capacity` to what it can keep.
std::error_code map(native_handle_type file, access mode, std::uint64_t size,
                    std::uint64_t& capacity, std::byte*& base) noexcept;
/// Where mappings are not free: maps the bytes up to `size` as well, which the file has got since
/// `mapped` of them were, and lowers `capacity` to what can still be mapped behind them. After an
/// error nothing can.
std::error_code map_more(native_handle_type file, std::byte* base, std::uint64_t mapped,
                         std::uint64_t size, std::uint64_t& capacity) noexcept;
/// Has a mapping's pages read in pieces of some MiB, however far the device's read-ahead goes;
/// false where that is not to be had.
bool read_in_large_pieces(std::byte* base, std::uint64_t length) noexcept;
void unmap(std::byte* base, std::uint64_t capacity) noexcept;
/// Returns the address space to reserve for a file beyond its size when the user did not say, or 0
/// where there is none.
std::uint64_t largest_reservation() noexcept;
/// Tells whether `error` of map() can be cured by asking for less.
bool is_out_of_address_space(const std::error_code& error) noexcept;
/// Tells whether the file system cannot preallocate, so that growth is a plain truncate.
bool is_not_supported(const std::error_code& error) noexcept;

/// Keeps pages of a mapping in memory, bringing them in first; makes none of them dirty.
std::error_code lock_pages(std::byte* address, std::uint64_t length) noexcept;
std::error_code unlock_pages(std::byte* address, std::uint64_t length) noexcept;

/// Says how pages of a mapping will be used; errc::unsupported where the OS does not know that.
std::error_code advise(std::byte* address, std::uint64_t length, advice what) noexcept;

/// Counts the bytes of a range of whole pages that the page table has as huge pages. Goes through
/// the page table: a millisecond or two per GiB that is in it by small pages.
std::uint64_t count_huge(const std::byte* address, std::uint64_t length) noexcept;

/// Returns zeroed memory that costs nothing until it is written; null when there is none.
void* allocate_zeroed(std::size_t bytes) noexcept;
void free_zeroed(void* memory, std::size_t bytes) noexcept;

/// Tells whether every page of the range is in memory; never waits for the disk.
std::error_code resident(const std::byte* address, std::uint64_t length, bool& all) noexcept;
/// The same by another way, for a file that hides_residency; unlike the other it may set off the
/// reading of what is missing, and says no where it cannot tell.
bool is_cached(native_handle_type file, std::uint64_t offset, std::uint64_t length) noexcept;

/// A clock that only goes on, some milliseconds at a time, and costs next to nothing.
std::chrono::milliseconds coarse_time() noexcept;

struct dirty_count {
  std::uint64_t dirty = 0;
  std::uint64_t in_writeback = 0;  // may be dirty again, and count twice
};
/// Counts the pages of the range whose part of the page cache is not on the disk, in units that the
/// kernel tracks (whole folios); false where it does not tell.
bool count_dirty(native_handle_type file, std::uint64_t offset, std::uint64_t length,
                 dirty_count& pages) noexcept;

/// Bytes that one call::fetch may be of.
inline constexpr std::size_t most_fetched = std::size_t{64} << 10;
/// Carries out op.what, blocking; sets error and transferred.
void perform(operation& op) noexcept;

/// Installs the fault handler, once per process.
void guard_faults();
/// Copies and survives a fault; returns the bytes of whole pages before it.
std::size_t guarded_copy(void* destination, const void* source, std::size_t n) noexcept;

/// Tells whether heavy_barrier() makes a full barrier in every other thread, so that those need
/// none of their own.
extern const bool barrier_available;
inline bool has_heavy_barrier() noexcept {
  return barrier_available;
}
void heavy_barrier() noexcept;

/// Keeps the application's signals away from this thread, which is ours; faults stay deliverable.
void block_signals() noexcept;

/// What is to be done when a thread ends.
struct thread_end {
  void (*call)(thread_end& end) noexcept = nullptr;
};
/// Has it done when this thread ends, or never, where the OS does not have what that takes. Once
/// per thread, and not by whom it calls.
void call_at_thread_end(thread_end& end) noexcept;

/// Lets whoever wakes up take the processor from this thread at once, where the OS can do that. Its
/// share stays the same.
void let_others_preempt() noexcept;

/// Counts the forks that lie between the first process and this one.
unsigned fork_generation() noexcept;

}  // namespace detail::platform
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_PLATFORM_PLATFORM_HPP
