#ifndef MAPIO_OPTIONS_HPP
#define MAPIO_OPTIONS_HPP

#include <mapio/detail/config.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>

MAPIO_NAMESPACE_BEGIN

/// Says what a mapping may do with the file.
enum class access {
  read_only,      ///< Views and reads; every store is errc::read_only.
  read_write,     ///< Stores reach the file.
  copy_on_write,  ///< Stores stay private to this mapping and are lost with it; a flush does
                  ///< nothing.
};

/// Says what to do about a file that exists, or does not.
enum class disposition {
  open_existing,   ///< Fails with ENOENT if there is no file.
  open_or_create,  ///< Creates the file if there is none, without a race between the check and the
                   ///< creation. A symbolic link to no file creates the one that it names.
  create_new,      ///< Fails with EEXIST if there is a file.
  create_or_truncate,  ///< Leaves a file of open_options::size zero bytes, whatever was there
                       ///< before. Begins as open_or_create does.
};

/// Says what a flush promises.
enum class durability {
  durable,  ///< At completion the bytes survive power loss.
  started,  ///< Write-back has begun; nothing is promised.
};

/// Says whether pages are brought in by open.
enum class prefault {
  never,  ///< Pages come in when they are needed.
  eager,  ///< Open, and adopt, complete when every page of the file is resident.
};

/// Chooses how update_region of both classes moves bytes; docs/performance.md says why.
enum class write_path {
  automatic,  ///< A store where the page was stored into since its last sync, else a write through
              ///< the file, off the loop if awaited.
  mapped,     ///< Always a store into the mapping; if awaited, off the loop.
  file,       ///< Always a write through the file, off the loop if awaited; the mapping is not
              ///< touched.
};

/// Tells the kernel how a range will be used.
enum class advice {
  normal,      ///< Nothing in particular: the kernel's default read-ahead.
  sequential,  ///< From front to back: reads further ahead, and lets go of pages early.
  random,      ///< Here and there: no read-ahead.
  will_need,   ///< Soon: starts to read it in.
  dont_need,   ///< Not any more: takes the pages out of this mapping; the file keeps its bytes.
  cold,        ///< Not soon: its pages are the first to go when memory runs short.
  huge_pages,  ///< Large pages are wanted, where the file system has them.
};

/// Says when writes become durable without an explicit flush.
///
/// A policy never acknowledges what is not durable. With always() an update_region completes after
/// the sync, which concurrent ones share. The others only set a flush of the whole file off: on an
/// awaited file in the background, on a blocking mapping within the update_region that is one too
/// many, for every() on a thread that all files of the process share and that no run() waits for.
/// A flush of theirs that fails poisons the file, and the next call says so: until
/// mapping::clear_flush_error() every update_region is errc::flush_failed and writes nothing.
/// Closing flushes what the policy still owes; destroying the last handle never does.
///
/// Only what update_region writes is counted; every() also covers stores through a mutable_region,
/// and those that were published.
/// Has no effect on read_only and copy_on_write. A threshold or interval of 0 or less is
/// std::errc::invalid_argument when the file is opened.
///
/// @par Example
///   options.policy = mapio::flush_policy::every_bytes(1 << 20);
class flush_policy {
 public:
  /// Names the kind of a policy.
  enum class trigger : std::uint8_t {
    manual,    ///< Nothing does.
    always,    ///< Every update_region.
    bytes,     ///< A number of bytes written.
    writes,    ///< A number of updates.
    interval,  ///< Time.
  };

  /// Flushes only when asked; the default.
  static constexpr flush_policy manual() noexcept { return {trigger::manual, 0}; }
  /// Completes update_region once its bytes are durable.
  static constexpr flush_policy always() noexcept { return {trigger::always, 0}; }
  /// Flushes once at least `bytes` bytes were written since the last flush.
  static constexpr flush_policy every_bytes(std::uint64_t bytes) noexcept {
    return {trigger::bytes, bytes};
  }
  /// Flushes once at least `writes` updates were made since the last flush.
  static constexpr flush_policy every_writes(std::uint64_t writes) noexcept {
    return {trigger::writes, writes};
  }
  /// Flushes every `interval` if something was written since the last flush.
  static constexpr flush_policy every(std::chrono::milliseconds interval) noexcept {
    return {trigger::interval,
            interval.count() > 0 ? static_cast<std::uint64_t>(interval.count()) : 0};
  }

  /// Makes the manual policy.
  constexpr flush_policy() noexcept = default;

  /// Returns what sets a flush off.
  constexpr trigger kind() const noexcept { return kind_; }
  /// Returns the threshold: bytes, writes or milliseconds, by kind(); 0 for manual and always.
  constexpr std::uint64_t threshold() const noexcept { return threshold_; }

  /// Tells whether two policies do the same.
  friend constexpr bool operator==(const flush_policy&, const flush_policy&) noexcept = default;

 private:
  constexpr flush_policy(trigger kind, std::uint64_t threshold) noexcept
      : kind_(kind), threshold_(threshold) {}

  trigger kind_ = trigger::manual;
  std::uint64_t threshold_ = 0;
};

/// Collects what open and create can be told; the defaults open an existing file for reading.
///
/// Only read_write goes with a disposition that may create a file; another combination is
/// std::errc::invalid_argument. What is only of use for writing (`size`, `reserve`, `policy`,
/// `writes`, `preallocate`, `announce`, `permissions`) has no effect on the other modes.
///
/// @par Example
///   mapio::mapping log{"log", {.mode = mapio::access::read_write,
///                              .create = mapio::disposition::open_or_create, .size = 1 << 20}};
struct open_options {
  /// What the mapping may do with the file.
  access mode = access::read_only;
  /// What happens if the file exists, or does not.
  disposition create = disposition::open_existing;
  /// Bytes of the file when this call creates it; 0 is fine. Ignored for a file that exists and is
  /// kept.
  std::uint64_t size = 0;
  /// Bytes of address space to reserve for growth; 0 chooses (see docs/guarantees.md). A wish: less
  /// than the size of the file counts as that, and where there is not as much, it is less. More
  /// than 2^47 is std::errc::file_too_large.
  std::uint64_t reserve = 0;
  /// When writes become durable without an explicit flush.
  flush_policy policy = flush_policy::manual();
  /// Whether open, or adopt, brings all pages in, before it completes. What cannot be brought in is
  /// its error.
  prefault touch = prefault::never;
  /// How updates move their bytes; for tuning, the result is the same.
  write_path writes = write_path::automatic;
  /// Allocates blocks on create and grow, so that a full disk is an error_code there and not a
  /// fault later.
  bool preallocate = true;
  /// Lets watchers in other processes see stores made through the mapping, once per flush and per
  /// mapping::publish(), by touching the file's mtime.
  bool announce = true;
  /// Asks for huge pages, also where the file grows to; best effort. What was obtained is in
  /// file_stats::huge_page_bytes. Faults and misses of the TLB become rare; on the other hand a
  /// fault reads, and a first store may dirty, up to a huge page (2 MiB). On Linux it takes a file
  /// system with large folios or a tmpfs that is mounted so, and there no `preallocate`.
  bool huge_pages = false;
  /// false: a symbolic link as the last component of the path is an error (ELOOP).
  bool follow_symlinks = true;
  /// Permissions of a file that this call creates; the umask applies. Those to read, write and
  /// execute; others are std::errc::invalid_argument.
  std::filesystem::perms permissions =
      std::filesystem::perms::owner_read | std::filesystem::perms::owner_write;
};

/// Collects what copy_file can be told; the defaults replace an existing target.
///
/// @par Example
///   co_await mapio::copy_file(executor, "log", "log.1", {.overwrite = false, .durable = true});
struct copy_file_options {
  /// false: a target that exists is std::errc::file_exists, also when it appears meanwhile.
  bool overwrite = true;
  /// false: a symbolic link as the last component of either path is an error (ELOOP).
  bool follow_symlinks = true;
  /// Makes the copy and its name survive power loss before the copy counts as done.
  bool durable = false;
  /// If set, holds the bytes that are copied so far, holes included, whenever another piece of a
  /// few MiB is; for any thread to load. Like a buffer, it has to live until the completion.
  std::atomic<std::uint64_t>* progress = nullptr;
};

/// Says what lies under a file, as far as durability is concerned.
enum class medium {
  local,            ///< A file system on a device of this machine.
  network,          ///< A server keeps the bytes; their durability is its promise.
  volatile_memory,  ///< Nothing survives power loss, though every flush succeeds (tmpfs,
                    ///< hugetlbfs).
  unknown,          ///< Not recognised.
};

/// Counts what happened to a mapped file since it was opened; these values only grow. The last two
/// say how it is now.
struct file_stats {
  std::uint64_t flush_calls = 0;  ///< flush and flush_range calls, both classes.
  std::uint64_t syncs = 0;        ///< Syncs of the file issued to the operating system; the one of
                                  ///< its directory, with the first, is not counted.
  std::uint64_t sync_waiters =
      0;  ///< Flush calls that those syncs served; sync_waiters / syncs is the mean group.
  std::uint64_t clean_flushes = 0;   ///< Flush calls that found everything durable and did no I/O.
  std::uint64_t sync_failures = 0;   ///< Syncs that failed.
  std::uint64_t policy_flushes = 0;  ///< Flushes that the byte, write or interval policy began.
  std::uint64_t bytes_dirtied = 0;   ///< Pages that went from clean to dirty, in bytes.
  std::uint64_t stores =
      0;  ///< Awaited updates that were stored into the mapping on the calling thread.
  std::uint64_t worker_stores =
      0;  ///< Awaited updates that were stored into the mapping after a wait off the loop.
  std::uint64_t file_writes = 0;     ///< Updates of both classes that went through the file.
  std::uint64_t reads_at_once = 0;   ///< Awaited reads and views whose pages were resident.
  std::uint64_t reads_off_loop = 0;  ///< Awaited reads and views that went off the loop.
  std::uint64_t moves = 0;           ///< Times that growth moved the mapping to a new address.
  std::uint64_t page_faults =
      0;  ///< Faults that update_region, read_into and awaited waits for atomics survived.
  /// Bytes of the file that the mapping has in huge pages; 0 unless those were asked for, by
  /// open_options::huge_pages or advice::huge_pages. Looking costs then: on Linux a millisecond or
  /// two per GiB that is mapped by small pages, before Linux 6.7 thirty, and for all of the
  /// process.
  std::uint64_t huge_page_bytes = 0;
  mapio::medium medium = mapio::medium::unknown;  ///< What lies under the file.
};

MAPIO_NAMESPACE_END

#endif  // MAPIO_OPTIONS_HPP
