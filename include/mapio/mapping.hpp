#ifndef MAPIO_MAPPING_HPP
#define MAPIO_MAPPING_HPP

#include <mapio/atomic.hpp>
#include <mapio/detail/config.hpp>
#include <mapio/detail/total_bytes.hpp>
#include <mapio/error.hpp>
#include <mapio/options.hpp>
#include <mapio/region.hpp>

#include <asio/buffer.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <memory>
#include <system_error>
#include <utility>

MAPIO_NAMESPACE_BEGIN

class segment;

namespace detail {
class file_state;
struct mapping_access;

#if defined(_WIN32)
using native_handle_type = void*;
#else
using native_handle_type = int;
#endif

[[noreturn]] MAPIO_DECL void throw_error(const std::error_code& error, const char* what);

/// Why something failed, without what an error_code costs to make when nothing did: an errc, or one
/// of these.
using failure = errc;
inline constexpr failure no_failure{};
inline constexpr failure out_of_memory{1000};
/// Nothing failed, and the file has a flush policy that must hear of the update.
inline constexpr failure policy_due{1001};
constexpr bool is_failure(failure why) noexcept {
  return why != no_failure && why != policy_due;
}

MAPIO_DECL std::error_code error_of(failure why) noexcept;
[[noreturn]] MAPIO_DECL void throw_failure(failure why, const char* what);
}  // namespace detail

/// Maps a file and works on it with blocking calls; needs no executor.
///
/// A cheap copyable handle. Copies of an open handle share the file: close() closes it for all of
/// them. Copying a handle that is not open shares nothing. Destroying the last handle closes the
/// file without a flush; regions stay valid.
///
/// Each throwing call throws std::system_error with the code that its `std::error_code&` overload
/// sets; those overloads clear the code on success.
///
/// @par Thread safety
///   Different objects: any thread, copies included. One object: every member but open, assignment
///   and destruction may be called from any thread at once. Overlapping updates are the caller's
///   race; disjoint ones run without a lock.
/// @par Example
///   auto m = mapio::mapping::create("data", 1 << 20); m.update_region(0, asio::buffer("hi"));
///   m.flush();
class mapping {
 public:
  /// An int on POSIX, a HANDLE on Windows.
  using native_handle_type = detail::native_handle_type;

  /// Makes a closed handle.
  mapping() noexcept = default;
  /// Opens `path`, as open() does.
  explicit mapping(const std::filesystem::path& path, const open_options& options = {}) {
    open(path, options);
  }
  /// Opens `path`, as open() does.
  mapping(const std::filesystem::path& path, const open_options& options, std::error_code& error) {
    open(path, options, error);
  }
  /// Shares the file of the other handle, if it is open.
  mapping(const mapping&) noexcept = default;
  /// Lets go of this handle's file and shares that of the other one, if it is open.
  mapping& operator=(const mapping&) noexcept = default;
  /// Leaves `other` closed.
  mapping(mapping&& other) noexcept = default;
  /// Leaves `other` closed.
  mapping& operator=(mapping&& other) noexcept = default;
  /// Lets go of the file; never flushes.
  ~mapping() = default;

  /// Opens `path` for reading and writing and makes it `size` zero bytes long, replacing what was
  /// there.
  ///
  /// @par Errors
  ///   As open(). An existing file keeps its content when the new size is not to be had.
  /// @par Example
  ///   auto m = mapio::mapping::create("data", 4096);
  static mapping create(const std::filesystem::path& path, std::uint64_t size) {
    return mapping(
        path,
        {.mode = access::read_write, .create = disposition::create_or_truncate, .size = size});
  }
  /// Opens without throwing; returns a closed handle on error.
  static mapping create(const std::filesystem::path& path, std::uint64_t size,
                        std::error_code& error) {
    return mapping(
        path, {.mode = access::read_write, .create = disposition::create_or_truncate, .size = size},
        error);
  }

  /// Maps a file that is open already, and takes it over: it is closed with the mapping.
  ///
  /// Only `mode`, `reserve`, `policy`, `touch`, `writes`, `preallocate`, `announce` and
  /// `huge_pages` of the options matter. Flushes make its data and size durable; its name is the
  /// caller's.
  ///
  /// @par Errors
  ///   errc::unsupported for a handle in append mode that is to be written, and for one with
  ///   O_DIRECT; EACCES where it was not opened for what `mode` needs; EBADF for what is no handle,
  ///   or can only be named (O_PATH); as open() for what is not a regular file, and for what
  ///   prefault::eager cannot bring in. After an error the handle is still the caller's.
  /// @par Example
  ///   auto m = mapio::mapping::adopt(fd, {.mode = mapio::access::read_write});
  static mapping adopt(native_handle_type handle, const open_options& options) {
    std::error_code error;
    mapping result = adopt(handle, options, error);
    if (error) detail::throw_error(error, "adopt");
    return result;
  }
  /// Adopts without throwing; returns a closed handle on error.
  MAPIO_DECL static mapping adopt(native_handle_type handle, const open_options& options,
                                  std::error_code& error);

  /// Unmaps the file and gives it back, open; every copy of this handle is closed then.
  ///
  /// Flushes nothing, also not what a policy would. POSIX record locks (fcntl, not OFD locks) of
  /// the process on this file are gone then, as with every close() of one of its descriptors.
  ///
  /// @par Errors
  ///   errc::pinned while a region lives or a verb is under way (the file stays open), also a sync
  ///   whose flushes were all cancelled; errc::not_open.
  /// @par Example
  ///   int fd = m.release();
  native_handle_type release() {
    std::error_code error;
    native_handle_type handle = release(error);
    if (error) detail::throw_error(error, "release");
    return handle;
  }
  /// Releases without throwing; returns -1 (an invalid handle on Windows) on error.
  MAPIO_DECL native_handle_type release(std::error_code& error);

  /// Opens and maps a regular file; lets go of what this handle had before.
  ///
  /// At completion the file is mapped and, with prefault::eager, resident. An empty file can be
  /// opened, and grown.
  ///
  /// @par Errors
  ///   The OS code of the call that failed; std::errc::is_a_directory; std::errc::no_such_device
  ///   for what cannot be mapped (FIFO, socket, device); std::errc::invalid_argument for options
  ///   that contradict each other, for a path with a NUL within, and on hugetlbfs for a size that
  ///   is no multiple of its pages; std::errc::file_too_large for sizes beyond any address space,
  ///   the file system's maximum or RLIMIT_FSIZE; std::errc::not_enough_memory where there is no
  ///   room to map the file; with flush_policy::every() those of starting a thread; with
  ///   prefault::eager those of prefetch(). After an error this handle is closed, a file that
  ///   existed has its content and size, and a file that this call created is gone. Only
  ///   create_or_truncate with prefault::eager has truncated a file by the time that its new pages
  ///   cannot be brought in.
  /// @par Example
  ///   m.open("data", {.mode = mapio::access::read_write});
  void open(const std::filesystem::path& path, const open_options& options = {}) {
    std::error_code error;
    open(path, options, error);
    if (error) detail::throw_error(error, "open");
  }
  /// Opens without throwing.
  MAPIO_DECL void open(const std::filesystem::path& path, const open_options& options,
                       std::error_code& error);

  /// Closes the file for every copy of this handle; does nothing on a closed one.
  ///
  /// First flushes what a policy other than manual still owes. Never waits for regions: the last
  /// one unmaps. Verbs under way finish on the file as it was.
  ///
  /// @par Errors
  ///   None with the manual policy. Else those of flush(): what the policy owed is not durable; the
  ///   file is closed all the same.
  /// @par Example
  ///   m.flush(); m.close();
  void close() {
    std::error_code error;
    close(error);
    if (error) detail::throw_error(error, "close");
  }
  /// Closes without throwing.
  MAPIO_DECL void close(std::error_code& error);

  /// Tells whether the file is open.
  MAPIO_DECL bool is_open() const noexcept;
  /// Returns the size of the file in bytes, as this library knows it; 0 when closed.
  MAPIO_DECL std::uint64_t size() const noexcept;
  /// Tells whether size() is 0.
  bool empty() const noexcept { return size() == 0; }
  /// Returns the bytes that the file can grow to without moving; 0 when closed.
  MAPIO_DECL std::uint64_t capacity() const noexcept;
  /// Returns the access it was opened with; read_only when closed.
  MAPIO_DECL access mode() const noexcept;
  /// Returns the path given to open; empty when closed or adopted. The mapping is of the file that
  /// had that name then: it follows no rename, and what has the name since is another file.
  MAPIO_DECL std::filesystem::path path() const;
  /// Returns the flush policy it was opened with.
  MAPIO_DECL flush_policy policy() const noexcept;
  /// Returns the bytes of the pages that were stored to and not yet covered by a started sync.
  MAPIO_DECL std::uint64_t pending_bytes() const noexcept;
  /// Returns the file itself, still owned by the mapping; -1 (an invalid handle on Windows) when
  /// closed.
  MAPIO_DECL native_handle_type native_handle() const noexcept;

  /// Shows [offset, offset + length) without copying; the region keeps it mapped.
  ///
  /// Takes no lock. The pages come in when they are touched; mapped_file::view brings them in
  /// first.
  ///
  /// @param offset  Bytes from the start of the file; any alignment.
  /// @param length  Bytes; 0 gives an empty region.
  /// @par Errors
  ///   errc::out_of_range, errc::not_open.
  /// @par Example
  ///   std::string_view text = m.view(0, m.size()).text();  // only while a region lives
  region view(std::uint64_t offset, std::uint64_t length) const {
    detail::failure why{};
    region result = show(offset, length, why);
    if (why != detail::no_failure) detail::throw_failure(why, "view");
    return result;
  }
  /// Views without throwing; returns an empty region on error.
  region view(std::uint64_t offset, std::uint64_t length, std::error_code& error) const {
    detail::failure why{};
    region result = show(offset, length, why);
    error = detail::error_of(why);
    return result;
  }

  /// Shows [offset, offset + length) for writing; its pages count as dirty until the region is
  /// gone.
  ///
  /// @param offset  Bytes from the start of the file; any alignment.
  /// @param length  Bytes; 0 gives an empty region.
  /// @par Errors
  ///   errc::read_only, errc::out_of_range, errc::not_open.
  /// @par Example
  ///   std::memset(m.mutable_view(0, 16).data(), 0, 16);
  mutable_region mutable_view(std::uint64_t offset, std::uint64_t length) {
    std::error_code error;
    mutable_region result = mutable_view(offset, length, error);
    if (error) detail::throw_error(error, "mutable_view");
    return result;
  }
  /// Views without throwing; returns an empty region on error.
  MAPIO_DECL mutable_region mutable_view(std::uint64_t offset, std::uint64_t length,
                                         std::error_code& error);

  /// Cuts the file, as it is now, into chunks of `bytes` bytes, of which the last may be short.
  ///
  /// A forward range of regions that pins the file for as long as it lives; see basic_chunk_range.
  ///
  /// @param bytes  Of a chunk.
  /// @par Errors
  ///   errc::not_open; std::errc::invalid_argument: chunks of 0 bytes.
  /// @par Example
  ///   for (const mapio::region& chunk : m.chunks(64 << 10)) digest.update(chunk.bytes());
  chunk_range chunks(std::size_t bytes) const {
    std::error_code error;
    chunk_range result = chunks(bytes, error);
    if (error) detail::throw_error(error, "chunks");
    return result;
  }
  /// Makes the range without throwing; it is empty on error.
  chunk_range chunks(std::size_t bytes, std::error_code& error) const {
    return cut(true, 0, 0, bytes, error);
  }

  /// Cuts the file, as it is now, into chunks of page_size() bytes; see chunks().
  ///
  /// @par Errors
  ///   errc::not_open.
  /// @par Example
  ///   for (const mapio::region& page : m.pages()) index(page.offset(), page.bytes());
  chunk_range pages() const {
    std::error_code error;
    chunk_range result = pages(error);
    if (error) detail::throw_error(error, "pages");
    return result;
  }
  /// Makes the range without throwing; it is empty on error.
  MAPIO_DECL chunk_range pages(std::error_code& error) const;

  /// Cuts the file, as it is now, into chunks for writing, of which the last may be short.
  ///
  /// As chunks(), of mutable regions: a chunk counts as dirty from the time it is dereferenced
  /// until its last copy is gone.
  ///
  /// @param bytes  Of a chunk.
  /// @par Errors
  ///   errc::not_open, errc::read_only; std::errc::invalid_argument: chunks of 0 bytes.
  /// @par Example
  ///   for (const mapio::mutable_region& chunk : m.mutable_chunks(4096)) encrypt(chunk.bytes());
  mutable_chunk_range mutable_chunks(std::size_t bytes) {
    std::error_code error;
    mutable_chunk_range result = mutable_chunks(bytes, error);
    if (error) detail::throw_error(error, "mutable_chunks");
    return result;
  }
  /// Makes the range without throwing; it is empty on error.
  mutable_chunk_range mutable_chunks(std::size_t bytes, std::error_code& error) {
    return mutable_cut(true, 0, 0, bytes, error);
  }

  /// Stores `buffers`, one after another, at `offset`; returns the bytes stored.
  ///
  /// Lock-free; concurrent calls for disjoint ranges scale. Short of errors the update is complete.
  ///
  /// @param offset   Bytes from the start of the file; any alignment.
  /// @param buffers  A ConstBufferSequence; not kept. May be empty. Bytes of a view of this file
  ///   that overlap what is stored to may be new already when they are read.
  /// @par Errors
  ///   errc::read_only, errc::out_of_range, errc::not_open and, with a policy other than manual on
  ///   a poisoned file, errc::flush_failed store nothing. errc::page_fault: the file was truncated
  ///   by somebody else or cannot be written there (a full disk under a hole; with write_path::file
  ///   also beyond RLIMIT_FSIZE, which is no limit for stores); whole pages up to the fault are
  ///   stored, and the error_code overload returns their bytes. With
  ///   flush_policy::always also those of flush_range(): the bytes are stored, and not durable.
  /// @par Example
  ///   m.update_region(128, asio::buffer(record));
  template <class ConstBufferSequence>
  std::size_t update_region(std::uint64_t offset, const ConstBufferSequence& buffers) {
    detail::failure why{};
    const std::size_t stored =
        each_buffer<asio::const_buffer>(offset, buffers, why, &mapping::store);
    if (why != detail::no_failure)
      if (const std::error_code error = end_update(offset, stored, why))
        detail::throw_error(error, "update_region");
    return stored;
  }
  /// Updates without throwing.
  template <class ConstBufferSequence>
  std::size_t update_region(std::uint64_t offset, const ConstBufferSequence& buffers,
                            std::error_code& error) {
    detail::failure why{};
    const std::size_t stored =
        each_buffer<asio::const_buffer>(offset, buffers, why, &mapping::store);
    error = why == detail::no_failure ? std::error_code() : end_update(offset, stored, why);
    return stored;
  }

  /// Copies from `offset` on into `buffers`, one after another; returns the bytes copied.
  ///
  /// @param offset   Bytes from the start of the file; any alignment.
  /// @param buffers  A MutableBufferSequence; all of it is filled, or it is an error.
  /// @par Errors
  ///   errc::out_of_range and errc::not_open copy nothing. errc::page_fault: the file was truncated
  ///   by somebody else or cannot be read there; the error_code overload returns the bytes of the
  ///   whole pages that were copied.
  /// @par Example
  ///   std::array<char, 16> key; m.read_into(0, asio::buffer(key));
  template <class MutableBufferSequence>
  std::size_t read_into(std::uint64_t offset, const MutableBufferSequence& buffers) const {
    detail::failure why{};
    const std::size_t copied =
        each_buffer<asio::mutable_buffer>(offset, buffers, why, &mapping::load);
    if (why != detail::no_failure) detail::throw_failure(why, "read_into");
    return copied;
  }
  /// Reads without throwing.
  template <class MutableBufferSequence>
  std::size_t read_into(std::uint64_t offset, const MutableBufferSequence& buffers,
                        std::error_code& error) const {
    detail::failure why{};
    const std::size_t copied =
        each_buffer<asio::mutable_buffer>(offset, buffers, why, &mapping::load);
    error = detail::error_of(why);
    return copied;
  }

  /// Makes everything written so far survive power loss; see flush_range().
  void flush(durability level = durability::durable) {
    std::error_code error;
    flush(level, error);
    if (error) detail::throw_error(error, "flush");
  }
  /// Flushes without throwing.
  void flush(std::error_code& error) { flush(durability::durable, error); }
  /// Flushes without throwing.
  MAPIO_DECL void flush(durability level, std::error_code& error);

  /// Makes every byte of [offset, offset + length) written so far survive power loss.
  ///
  /// Also makes the file's size and, if open may have created it, its name durable. Concurrent
  /// calls, awaited ones included, share one sync. Neighbouring bytes of the same pages may be
  /// written too. A clean range costs no I/O. Does nothing on read-only and copy-on-write mappings.
  ///
  /// @param offset  Bytes from the start of the file; any alignment.
  /// @param length  Bytes; 0 returns at once with success.
  /// @param level   durability::started only begins write-back.
  /// @par Errors
  ///   errc::out_of_range, errc::not_open, errc::flush_failed (an earlier sync failed), else the OS
  ///   code; after an OS error the file is poisoned and nothing in the range may be assumed
  ///   durable.
  /// @par Example
  ///   m.flush_range(0, 4096);
  void flush_range(std::uint64_t offset, std::uint64_t length,
                   durability level = durability::durable) {
    std::error_code error;
    flush_range(offset, length, level, error);
    if (error) detail::throw_error(error, "flush_range");
  }
  /// Flushes without throwing.
  void flush_range(std::uint64_t offset, std::uint64_t length, std::error_code& error) {
    flush_range(offset, length, durability::durable, error);
  }
  /// Flushes without throwing.
  MAPIO_DECL void flush_range(std::uint64_t offset, std::uint64_t length, durability level,
                              std::error_code& error);

  /// Makes the file `new_size` bytes long; new bytes read as zero.
  ///
  /// Growth inside capacity() does not move anything and disturbs nobody. Beyond it the mapping
  /// moves.
  ///
  /// @param new_size  Bytes.
  /// @par Errors
  ///   errc::pinned: a region reaches into the part to be cut, or any region lives and the mapping
  ///   would have to move; errc::read_only, errc::unsupported (copy-on-write), errc::not_open,
  ///   std::errc::file_too_large (also beyond RLIMIT_FSIZE; no SIGXFSZ is raised),
  ///   std::errc::no_space_on_device, std::errc::invalid_argument (hugetlbfs has whole pages only);
  ///   else the OS code. After an error the size is what it was.
  /// @par Example
  ///   m.resize(m.size() + (1 << 20));
  void resize(std::uint64_t new_size) {
    std::error_code error;
    resize(new_size, error);
    if (error) detail::throw_error(error, "resize");
  }
  /// Resizes without throwing.
  MAPIO_DECL void resize(std::uint64_t new_size, std::error_code& error);

  /// Adopts the size that the file has now, if somebody else changed it, and returns it.
  ///
  /// What was cut is out of range from then on; regions that reach there stay mapped, and touching
  /// their bytes raises SIGBUS as before. A larger size that does not fit into capacity() moves the
  /// mapping. Takes its turn among the resizes of the file.
  ///
  /// @return The size in bytes; after an error, the size as it was known before.
  /// @par Errors
  ///   errc::pinned: a region lives and the mapping would have to move; errc::unsupported
  ///   (copy-on-write), errc::not_open, else the OS code.
  /// @par Example
  ///   const std::uint64_t grown = log.refresh();  // another process appends to it
  std::uint64_t refresh() {
    std::error_code error;
    const std::uint64_t size_now = refresh(error);
    if (error) detail::throw_error(error, "refresh");
    return size_now;
  }
  /// Adopts the size without throwing.
  MAPIO_DECL std::uint64_t refresh(std::error_code& error);

  /// Brings the whole file into memory.
  void prefetch() {
    std::error_code error;
    prefetch(error);
    if (error) detail::throw_error(error, "prefetch");
  }
  /// Prefetches without throwing.
  MAPIO_DECL void prefetch(std::error_code& error);

  /// Brings [offset, offset + length) into memory and returns when every page is resident and
  /// mapped.
  ///
  /// @param offset  Bytes from the start of the file; any alignment.
  /// @param length  Bytes; 0 returns at once with success.
  /// @par Errors
  ///   errc::out_of_range, errc::not_open; errc::page_fault where the file was truncated by
  ///   somebody else.
  /// @par Example
  ///   m.prefetch(0, 1 << 20);
  void prefetch(std::uint64_t offset, std::uint64_t length) {
    std::error_code error;
    prefetch(offset, length, error);
    if (error) detail::throw_error(error, "prefetch");
  }
  /// Prefetches without throwing.
  MAPIO_DECL void prefetch(std::uint64_t offset, std::uint64_t length, std::error_code& error);

  /// Keeps the whole file in memory as it is now; see lock_pages(offset, length).
  ///
  /// @par Errors
  ///   errc::not_open, else as lock_pages(offset, length).
  /// @par Example
  ///   m.lock_pages();
  void lock_pages() {
    std::error_code error;
    lock_pages(error);
    if (error) detail::throw_error(error, "lock_pages");
  }
  /// Locks without throwing.
  MAPIO_DECL void lock_pages(std::error_code& error);

  /// Brings the pages of [offset, offset + length) into memory and keeps them there, until
  /// unlock_pages(), a shrink that cuts them, or the end of the mapping.
  ///
  /// Whole pages are locked, and once: several calls are undone by one unlock_pages(). All or
  /// nothing: after an error what was locked before is, and nothing else. A lock follows a mapping
  /// that moves; until the move is over, the pages count twice for the limit. What is added by
  /// growth is not locked. A copy-on-write mapping gets pages of its own by it.
  ///
  /// @param offset  Bytes from the start of the file; any alignment.
  /// @param length  Bytes; 0 returns at once with success.
  /// @par Errors
  ///   errc::out_of_range, errc::not_open; errc::page_fault: the file was truncated by somebody
  ///   else, or cannot be read there; std::errc::not_enough_memory,
  ///   std::errc::operation_not_permitted: more than the process may lock (RLIMIT_MEMLOCK). Else
  ///   the OS code.
  /// @par Example
  ///   m.lock_pages(0, 4096);
  void lock_pages(std::uint64_t offset, std::uint64_t length) {
    std::error_code error;
    lock_pages(offset, length, error);
    if (error) detail::throw_error(error, "lock_pages");
  }
  /// Locks without throwing.
  MAPIO_DECL void lock_pages(std::uint64_t offset, std::uint64_t length, std::error_code& error);

  /// Ends the locks of the whole file; see unlock_pages(offset, length).
  ///
  /// @par Errors
  ///   errc::not_open, else the OS code.
  /// @par Example
  ///   m.unlock_pages();
  void unlock_pages() {
    std::error_code error;
    unlock_pages(error);
    if (error) detail::throw_error(error, "unlock_pages");
  }
  /// Unlocks without throwing.
  MAPIO_DECL void unlock_pages(std::error_code& error);

  /// Lets the OS take the pages of [offset, offset + length) out of memory again; those that are
  /// not locked may be among them.
  ///
  /// @param offset  Bytes from the start of the file; any alignment.
  /// @param length  Bytes; 0 returns at once with success.
  /// @par Errors
  ///   errc::out_of_range, errc::not_open, else the OS code.
  /// @par Example
  ///   m.unlock_pages(0, 4096);
  void unlock_pages(std::uint64_t offset, std::uint64_t length) {
    std::error_code error;
    unlock_pages(offset, length, error);
    if (error) detail::throw_error(error, "unlock_pages");
  }
  /// Unlocks without throwing.
  MAPIO_DECL void unlock_pages(std::uint64_t offset, std::uint64_t length, std::error_code& error);

  /// Tells the OS how [offset, offset + length) will be used.
  ///
  /// A hint: no byte changes, whatever the advice, and what is dirty stays so. It is about whole
  /// pages. `normal`, `sequential` and `random` hold until another of these is given, and
  /// `huge_pages` for good; they follow a mapping that moves, and are about what is in the file
  /// there later as well, but not about what growth adds behind them. `will_need` begins to read,
  /// and may wait for the device's queue; the others ask for nothing.
  ///
  /// @param offset  Bytes from the start of the file; any alignment.
  /// @param length  Bytes; 0 returns at once with success.
  /// @param what    The advice.
  /// @par Errors
  ///   errc::out_of_range, errc::not_open; errc::unsupported: the OS has no such advice, or
  ///   advice::dont_need on a copy-on-write mapping, where it would take private stores;
  ///   std::errc::invalid_argument: no advice at all, or dont_need or cold for locked pages. Else
  ///   the OS code.
  /// @par Example
  ///   m.advise(0, m.size(), mapio::advice::random);
  void advise(std::uint64_t offset, std::uint64_t length, advice what) {
    std::error_code error;
    advise(offset, length, what, error);
    if (error) detail::throw_error(error, "advise");
  }
  /// Advises without throwing.
  MAPIO_DECL void advise(std::uint64_t offset, std::uint64_t length, advice what,
                         std::error_code& error);

  /// Tells whether every page of [offset, offset + length) is in memory now; an empty range is.
  ///
  /// Linux keeps this from who has only read permission for a file of somebody else's. There the
  /// answer is no where it is not certainly yes, and asking may set off the reading. What counts
  /// are the permissions at open: who gives them up later is told that everything is in memory.
  ///
  /// @par Errors
  ///   errc::out_of_range, errc::not_open, errc::unsupported where the platform cannot tell.
  /// @par Example
  ///   if (!m.is_resident(0, 4096)) m.prefetch(0, 4096);
  bool is_resident(std::uint64_t offset, std::uint64_t length) const {
    std::error_code error;
    const bool resident = is_resident(offset, length, error);
    if (error) detail::throw_error(error, "is_resident");
    return resident;
  }
  /// Asks without throwing; false on error.
  MAPIO_DECL bool is_resident(std::uint64_t offset, std::uint64_t length,
                              std::error_code& error) const;

  /// Makes a segment of [offset, offset + length): the same verbs, at offsets from its start,
  /// within its own bounds.
  ///
  /// @param offset  Bytes from the start of the file; any alignment.
  /// @param length  Bytes; 0 gives an empty segment.
  /// @par Errors
  ///   errc::out_of_range, errc::not_open.
  /// @par Example
  ///   mapio::segment index = m.slice(0, 4096); index.update_region(0, asio::buffer(entry));
  segment slice(std::uint64_t offset, std::uint64_t length);
  /// Slices without throwing; returns a segment without a file on error.
  segment slice(std::uint64_t offset, std::uint64_t length, std::error_code& error);

  /// Counts stores to [offset, offset + length) that mapio has not seen: by another process,
  /// through another mapping, a pointer that no mutable_region stands for, or native_handle().
  ///
  /// The pages are dirty then, so that the next flush makes durable what was stored before this
  /// call, and watchers in other processes are told at once, unless open_options::announce is
  /// false. Best effort: only the owner of a file may tell them. Policies do not count it;
  /// flush_policy::every() finds it all the same. Does nothing on copy-on-write mappings.
  ///
  /// Bytes that were stored before a sync failed may have gone with it: store them again before
  /// they are published, once the error is cleared.
  ///
  /// @param offset  Bytes from the start of the file; any alignment.
  /// @param length  Bytes; 0 returns at once with success.
  /// @par Errors
  ///   errc::read_only, errc::out_of_range, errc::not_open; errc::flush_failed: the file is
  ///   poisoned, and no flush covers these pages until they are written or published after
  ///   clear_flush_error().
  /// @par Example
  ///   std::memcpy(raw + 128, record, 64); m.publish(128, 64); m.flush_range(128, 64);
  void publish(std::uint64_t offset, std::uint64_t length) {
    std::error_code error;
    publish(offset, length, error);
    if (error) detail::throw_error(error, "publish");
  }
  /// Publishes without throwing.
  MAPIO_DECL void publish(std::uint64_t offset, std::uint64_t length, std::error_code& error);

  /// Refers to the integer at `offset`, for atomic operations by threads and processes at once.
  ///
  /// Touches nothing; the page counts as dirty until the view is gone. On a read-only mapping the
  /// view can load() and wait(), on a copy-on-write one it can neither wait nor notify.
  ///
  /// @tparam T       An integer of 4 or 8 bytes.
  /// @param  offset  Bytes from the start of the file; a multiple of sizeof(T).
  /// @par Errors
  ///   errc::misaligned, errc::out_of_range, errc::not_open.
  /// @par Example
  ///   std::uint64_t id = m.atomic<std::uint64_t>(0).fetch_add(1);
  template <atomic_word T>
  atomic_view<T> atomic(std::uint64_t offset) {
    return refer<atomic_view<T>>(offset, sizeof(T), 1, "atomic");
  }
  /// Refers without throwing; returns an empty view on error.
  template <atomic_word T>
  atomic_view<T> atomic(std::uint64_t offset, std::error_code& error) {
    return refer<atomic_view<T>>(offset, sizeof(T), 1, error);
  }

  /// Refers to `count` integers from `offset` on, side by side; see atomic().
  ///
  /// @tparam T       An integer of 4 or 8 bytes.
  /// @param  offset  Bytes from the start of the file; a multiple of sizeof(T).
  /// @param  count   Integers; 0 gives an empty span.
  /// @par Errors
  ///   As atomic().
  /// @par Example
  ///   auto slots = m.atomics<std::uint32_t>(4096, 1024);
  template <atomic_word T>
  atomic_span<T> atomics(std::uint64_t offset, std::size_t count) {
    return refer<atomic_span<T>>(offset, sizeof(T), count, "atomics");
  }
  /// Refers without throwing; returns an empty span on error.
  template <atomic_word T>
  atomic_span<T> atomics(std::uint64_t offset, std::size_t count, std::error_code& error) {
    return refer<atomic_span<T>>(offset, sizeof(T), count, error);
  }

  /// Returns why the file is poisoned: the code of the sync that failed; no error if it is not.
  MAPIO_DECL std::error_code flush_error() const noexcept;
  /// Permits flushing again after a failed sync; makes nothing durable.
  ///
  /// Whatever was dirty when the sync failed, or not synced since the file was opened, still fails
  /// to flush until it is written again, since the kernel may have reverted its content.
  MAPIO_DECL void clear_flush_error();
  /// Returns the counters of this file, all zero when closed. Cheap, unless huge pages were asked
  /// for (see file_stats::huge_page_bytes).
  MAPIO_DECL file_stats stats() const noexcept;

  /// Tells whether both share one open file, or both are closed and never shared one.
  friend bool operator==(const mapping& a, const mapping& b) noexcept {
    return a.state_ == b.state_;
  }
  /// Prints path, mode, size and capacity, or "closed".
  MAPIO_DECL friend std::ostream& operator<<(std::ostream& out, const mapping& m);

 private:
  friend struct detail::mapping_access;
  friend class segment;

  MAPIO_DECL region show(std::uint64_t offset, std::uint64_t length,
                         detail::failure& why) const noexcept;
  MAPIO_DECL std::size_t store(std::uint64_t offset, asio::const_buffer bytes,
                               detail::failure& why) const noexcept;
  MAPIO_DECL std::size_t load(std::uint64_t offset, asio::mutable_buffer bytes,
                              detail::failure& why) const noexcept;
  // The end of an update that failed, or that a policy must hear of.
  MAPIO_DECL std::error_code end_update(std::uint64_t offset, std::size_t stored,
                                        detail::failure why) const noexcept;
  MAPIO_DECL detail::failure check(std::uint64_t offset, std::uint64_t length) const noexcept;
  MAPIO_DECL chunk_range cut(bool whole_file, std::uint64_t offset, std::uint64_t length,
                             std::size_t bytes, std::error_code& error) const;
  MAPIO_DECL mutable_chunk_range mutable_cut(bool whole_file, std::uint64_t offset,
                                             std::uint64_t length, std::size_t bytes,
                                             std::error_code& error);
  template <class Region>
  basic_chunk_range<Region> cut_into(bool whole_file, std::uint64_t offset, std::uint64_t length,
                                     std::size_t bytes, std::uint64_t chunk_flags,
                                     std::error_code& error) const;

  /// Pins `count` words of `size` bytes each.
  MAPIO_DECL detail::pinned_words pin_words(std::uint64_t offset, std::size_t size,
                                            std::size_t count, detail::failure& why) const noexcept;

  template <class Atomic>
  Atomic refer(std::uint64_t offset, std::size_t size, std::size_t count, const char* what) const {
    detail::failure why{};
    auto words = pin_words(offset, size, count, why);
    if (why != detail::no_failure) detail::throw_failure(why, what);
    return detail::atomic_access::make<Atomic>(std::move(words), count);
  }
  template <class Atomic>
  Atomic refer(std::uint64_t offset, std::size_t size, std::size_t count,
               std::error_code& error) const {
    detail::failure why{};
    auto words = pin_words(offset, size, count, why);
    error = detail::error_of(why);
    return detail::atomic_access::make<Atomic>(std::move(words), error ? 0 : count);
  }

  // One buffer, the common case, goes straight through. Several are checked as a whole first, so
  // that a range that does not fit stores nothing.
  template <class Buffer, class Sequence>
  std::size_t each_buffer(std::uint64_t offset, const Sequence& buffers, detail::failure& why,
                          std::size_t (mapping::*copy)(std::uint64_t, Buffer, detail::failure&)
                              const noexcept) const {
    auto it = asio::buffer_sequence_begin(buffers);
    const auto end = asio::buffer_sequence_end(buffers);
    if (it == end) return (this->*copy)(offset, Buffer(), why);
    const Buffer first(*it);
    if (++it == end) return (this->*copy)(offset, first, why);
    // What is refused whatever its range comes first, as it does for one buffer.
    (this->*copy)(offset, Buffer(), why);
    if (!detail::is_failure(why)) why = check(offset, detail::total_bytes(buffers));
    if (why != detail::no_failure) return 0;
    std::size_t done = (this->*copy)(offset, first, why);
    for (; !detail::is_failure(why) && it != end; ++it)
      done += (this->*copy)(offset + done, Buffer(*it), why);
    return done;
  }

  std::shared_ptr<detail::file_state> state_;
};

/// Returns the size of a page of memory in bytes: what dirty tracking and residency count in.
///
/// @par Example
///   auto rounded = (n + mapio::page_size() - 1) / mapio::page_size() * mapio::page_size();
MAPIO_DECL std::size_t page_size() noexcept;

/// Copies `n` bytes and survives a fault on either side; returns the bytes copied before it.
///
/// For bytes of a region that somebody outside may truncate away. After a fault the count is that
/// of the bytes before the faulting page; those after it may have been copied or not.
///
/// @par Thread safety
///   Any thread; not from a signal handler, but for one of SIGBUS that was installed with
///   SA_NODEFER.
/// @par Example
///   if (mapio::guarded_copy(buffer, r.data(), r.size()) < r.size()) { /* truncated */ }
MAPIO_DECL std::size_t guarded_copy(void* destination, const void* source, std::size_t n) noexcept;

/// Gives mapio the chance to handle a fault, for programs that install a SIGBUS handler of their
/// own after mapio did.
///
/// If the fault was inside a copy that mapio guards, it returns true, or does not return: the
/// handler has nothing to do but to return then. False means that it is not mapio's.
///
/// @param signal   The signal number, as the handler got it.
/// @param info     The siginfo_t, as the handler got it.
/// @param context  The ucontext_t, as the handler got it, never null; what it says of the thread is
/// changed.
/// @par Thread safety
///   Async-signal-safe.
/// @par Example
///   void on_sigbus(int s, siginfo_t* i, void* c) { if (!mapio::handle_fault(s, i, c))
///   std::abort(); }
MAPIO_DECL bool handle_fault(int signal, void* info, void* context) noexcept;

MAPIO_NAMESPACE_END

#include <mapio/segment.hpp>  // what slice() returns, made of mappings itself

#endif  // MAPIO_MAPPING_HPP
