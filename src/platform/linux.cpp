#include "file_systems.hpp"
#include "posix.hpp"
#include "scheduling.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

MAPIO_NAMESPACE_BEGIN
namespace detail::platform {

using posix::last_error;

namespace {

// Not in the headers of Debian 12.
constexpr int madvise_populate_read = 22;
constexpr int madvise_populate_write = 23;
constexpr long xfs_magic = 0x58465342;
constexpr long hugetlbfs_magic = 0x958458f6;
constexpr long ramfs_magic = 0x858458f6;

}  // namespace

// --- mapping
// ---------------------------------------------------------------------------------------------------------------

void* posix::map_anywhere(std::size_t bytes, int protection, int flags, int file) noexcept {
  void* const address = ::mmap(nullptr, bytes, protection, flags | MAP_NORESERVE, file, 0);
  // Neither a core dump of the reservation nor of the file's content is of use to anybody. Best
  // effort.
  if (address != MAP_FAILED) ::madvise(address, bytes, MADV_DONTDUMP);
  return address;
}

bool read_in_large_pieces(std::byte* base, std::uint64_t length) noexcept {
  // The only advice that makes a fault read more than the device's read-ahead, and into large
  // folios where the file system has them.
  return ::madvise(base, static_cast<std::size_t>(length), MADV_HUGEPAGE) == 0;
}

namespace {

/// Returns the number of an advice, or -1 for what is none.
int advice_number(advice what) noexcept {
  switch (what) {
  case advice::normal:
    return MADV_NORMAL;
  case advice::sequential:
    return MADV_SEQUENTIAL;
  case advice::random:
    return MADV_RANDOM;
  case advice::will_need:
    return MADV_WILLNEED;
  case advice::dont_need:
    return MADV_DONTNEED;
  case advice::cold:
    return MADV_COLD;
  case advice::huge_pages:
    return MADV_HUGEPAGE;
  }
  return -1;
}

}  // namespace

std::error_code advise(std::byte* address, std::uint64_t length, advice what) noexcept {
  const int number = advice_number(what);
  if (number < 0) return make_error_code(std::errc::invalid_argument);
  if (::madvise(address, static_cast<std::size_t>(length), number) == 0) return {};
  const std::error_code error = last_error();
  // About nothing, the only thing that can be wrong is the advice.
  const bool known = error != std::errc::invalid_argument || ::madvise(address, 0, number) == 0;
  return known ? error : errc::unsupported;
}

namespace {

// Linux 6.7; not in the headers of Debian 12.
struct pagemap_region {
  std::uint64_t begin, end, categories;
};
struct pagemap_scan {
  std::uint64_t size, flags, begin, end, walked_to, regions, most_regions, most_pages;
  std::uint64_t inverted, all_of, any_of, wanted;
};
constexpr unsigned long pagemap_scan_request = _IOWR('f', 16, pagemap_scan);
constexpr std::uint64_t pagemap_is_huge = 1U << 6;

bool count_huge_by_scan(std::uint64_t begin, std::uint64_t end, std::uint64_t& bytes) noexcept {
  const int pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap < 0) return false;
  std::array<pagemap_region, 64> regions;
  pagemap_scan scan{};
  scan.size = sizeof scan;
  scan.begin = begin;
  scan.end = end;
  scan.regions = reinterpret_cast<std::uint64_t>(regions.data());
  scan.most_regions = regions.size();
  scan.all_of = scan.wanted = pagemap_is_huge;
  int found = 0;
  while (scan.begin < end && (found = ::ioctl(pagemap, pagemap_scan_request, &scan)) >= 0) {
    for (int i = 0; i < found; ++i)
      bytes +=
          regions[static_cast<std::size_t>(i)].end - regions[static_cast<std::size_t>(i)].begin;
    scan.begin = scan.walked_to;
  }
  ::close(pagemap);
  return found >= 0;
}

// Slower by far: the kernel goes through the page table of the whole process for it.
std::uint64_t count_huge_by_listing(std::uint64_t begin, std::uint64_t end) {
  std::ifstream listing("/proc/self/smaps");
  std::uint64_t bytes = 0;
  bool within = false;
  for (std::string line; std::getline(listing, line);) {
    unsigned long from = 0, to = 0, kibibytes = 0;
    std::array<char, 32> name{};
    if (std::sscanf(line.c_str(), "%lx-%lx", &from, &to) == 2)
      within = from < end && begin < to;
    else if (within && std::sscanf(line.c_str(), "%31[A-Za-z_]: %lu", name.data(), &kibibytes) == 2)
      for (const std::string_view huge : {"AnonHugePages", "ShmemPmdMapped", "FilePmdMapped",
                                          "Shared_Hugetlb", "Private_Hugetlb"})
        if (huge == name.data()) bytes += std::uint64_t{kibibytes} << 10;
  }
  return bytes;
}

}  // namespace

std::uint64_t count_huge(const std::byte* address, std::uint64_t length) noexcept try {
  const auto begin = reinterpret_cast<std::uint64_t>(address);
  std::uint64_t bytes = 0;
  if (count_huge_by_scan(begin, begin + length, bytes)) return bytes;
  return count_huge_by_listing(begin, begin + length);
} catch (...) {
  return 0;  // too little memory to read the listing
}

void* allocate_zeroed(std::size_t bytes) noexcept {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

void free_zeroed(void* memory, std::size_t bytes) noexcept {
  ::munmap(memory, bytes);
}

std::error_code resident(const std::byte* address, std::uint64_t length, bool& all) noexcept {
  const auto page = static_cast<std::uintptr_t>(page_size());
  const std::uintptr_t into_page = reinterpret_cast<std::uintptr_t>(address) & (page - 1);
  std::byte* at = const_cast<std::byte*>(address) - into_page;
  std::uint64_t left = (into_page + length + page - 1) & ~(page - 1);
  std::array<unsigned char, 1024> pages;
  all = true;
  while (left != 0 && all) {
    const std::size_t piece = std::min<std::size_t>(left, pages.size() * page);
    if (::mincore(at, piece, pages.data()) != 0) {
      all = false;
      return last_error();
    }
    all = std::all_of(pages.begin(), pages.begin() + static_cast<std::ptrdiff_t>(piece / page),
                      [](unsigned char c) { return (c & 1) != 0; });
    at += piece;
    left -= piece;
  }
  return {};
}

bool is_cached(native_handle_type file, std::uint64_t offset, std::uint64_t length) noexcept {
  const std::uint64_t page = page_size();
  for (std::uint64_t at = offset; at < offset + length; at = (at / page + 1) * page) {
    char byte = 0;
    const iovec vector{&byte, 1};
    if (::preadv2(file, &vector, 1, static_cast<off_t>(at), RWF_NOWAIT) != 1) return false;
  }
  return true;
}

bool posix::rename_to_new(const std::filesystem::path& from,
                          const std::filesystem::path& to) noexcept {
  return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0;
}

bool posix::hides_residency(int file, std::uint64_t size) noexcept {
  // mincore tells the truth to those who might write to the file, and to all others that every page
  // is in memory. One behind the end of the file never is.
  const std::uint64_t page = page_size();
  void* const behind = ::mmap(nullptr, page, PROT_READ, MAP_SHARED, file,
                              static_cast<off_t>((size / page + 1) * page));
  if (behind == MAP_FAILED) return false;
  unsigned char in_memory = 0;
  const bool hides = ::mincore(behind, page, &in_memory) == 0 && (in_memory & 1) != 0;
  ::munmap(behind, page);
  return hides;
}

namespace {

// The size alone: whoever asks for the times too makes the next write stamp the inode anew
// (Linux 6.13: timestamps as fine as anybody looks), and the next sync journal it.
std::error_code ask_for_size(int file, int how, std::uint64_t& size) noexcept {
  struct statx status {};
  if (::statx(file, "", AT_EMPTY_PATH | how, STATX_SIZE, &status) != 0) return last_error();
  size = status.stx_size;
  return {};
}

}  // namespace

std::error_code file_size(native_handle_type file, std::uint64_t& size) noexcept {
  // What the kernel knows: loops ask this, and the server of a FUSE file system may be slow.
  return ask_for_size(file, AT_STATX_DONT_SYNC, size);
}

std::error_code current_size(native_handle_type file, std::uint64_t& size) noexcept {
  return ask_for_size(file, AT_STATX_SYNC_AS_STAT, size);
}

bool count_dirty(native_handle_type file, std::uint64_t offset, std::uint64_t length,
                 dirty_count& pages) noexcept {
  // Linux 6.5; not in the headers of Debian 12.
  constexpr long cachestat = 451;
  struct {
    std::uint64_t offset, length;
  } range{offset, length};
  struct {
    std::uint64_t cached, dirty, in_writeback, evicted, recently_evicted;
  } found{};
  if (::syscall(cachestat, file, &range, &found, 0) != 0) return false;
  pages = {found.dirty, found.in_writeback};
  return true;
}

// --- carrying out
// ----------------------------------------------------------------------------------------------------------

namespace {

/// Names an open file in the only way there is for one without a name.
std::array<char, 32> own_link(int file) noexcept {
  std::array<char, 32> path{};
  std::snprintf(path.data(), path.size(), "/proc/self/fd/%d", file);
  return path;
}

}  // namespace

namespace posix {

void identify(int file, opened_file& result) noexcept {
  struct statfs status {};
  if (::fstatfs(file, &status) != 0) return;
  const auto type = static_cast<long>(status.f_type) & 0xFFFFFFFFL;
  switch (type) {
  case EXT4_SUPER_MAGIC:
  case xfs_magic:
  case BTRFS_SUPER_MAGIC:
    result.medium = medium::local;
    result.zeroes_tail = true;
    break;
  case F2FS_SUPER_MAGIC:
  case MSDOS_SUPER_MAGIC:
    result.medium = medium::local;
    break;
  case hugetlbfs_magic:
    result.medium = medium::volatile_memory;
    result.huge_page = static_cast<std::uint64_t>(status.f_bsize);
    break;
  case TMPFS_MAGIC:
  case ramfs_magic:
    result.medium = medium::volatile_memory;
    break;
  default:
    if (is_network(type)) result.medium = medium::network;
    break;
  }
}

int open_unnamed(const std::filesystem::path& path, int flags, unsigned permissions) {
  std::filesystem::path parent = path.parent_path();
  if (parent.empty()) parent = ".";
  return ::open(parent.c_str(), (flags & ~(O_NOFOLLOW | O_NONBLOCK)) | O_TMPFILE, permissions);
}

bool give_name(int file, const std::filesystem::path& path) {
  // The way that needs no privilege.
  return ::linkat(AT_FDCWD, own_link(file).data(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) == 0;
}

bool can_be_named(int file) noexcept {
  return ::access(own_link(file).data(), F_OK) == 0;
}

int open_again(int file) noexcept {
  return ::open(own_link(file).data(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

bool clone(int from, int to) noexcept {
  return ::ioctl(to, FICLONE, from) == 0;
}

ssize_t copy_in_kernel(int from, int to, std::uint64_t at, std::size_t bytes) noexcept {
  auto read_at = static_cast<off64_t>(at);
  auto write_at = read_at;
  return ::copy_file_range(from, &read_at, to, &write_at, bytes, 0);
}

ssize_t read_at(int file, const iovec* buffers, int count, off_t at) noexcept {
  return ::preadv(file, buffers, count, at);
}

ssize_t write_at(int file, const iovec* buffers, int count, off_t at) noexcept {
  return ::pwritev(file, buffers, count, at);
}

void sync(operation& op) noexcept {
  // msync of a range syncs the range of the file behind it, and of the metadata what is needed to
  // read it back.
  const without_signals undisturbed;
  const int result = op.count == 0 || op.address == nullptr
                         ? ::fdatasync(op.handle)
                         : ::msync(op.address, static_cast<std::size_t>(op.count), MS_SYNC);
  if (result != 0) op.error = last_error();
}

void start_writeback(operation& op) noexcept {
  if (::sync_file_range(op.handle, static_cast<off64_t>(op.at), static_cast<off64_t>(op.count),
                        SYNC_FILE_RANGE_WRITE) != 0 &&
      errno != ENOSYS && errno != ESPIPE)
    op.error = last_error();
}

void populate_for_storing(operation& op) noexcept {
  while (::madvise(op.address, static_cast<std::size_t>(op.count), madvise_populate_write) != 0) {
    if (errno == EINTR || errno == EAGAIN) continue;
    op.error = errno == EFAULT ? std::error_code(errc::page_fault) : last_error();
    return;
  }
}

void populate(operation& op) noexcept {
  // In pieces, so that a huge range does not keep the memory map locked for long.
  constexpr std::uint64_t piece = std::uint64_t{4} << 20;
  std::uint64_t done = 0;
  while (done < op.count) {
    const auto n = static_cast<std::size_t>(std::min(piece, op.count - done));
    if (::madvise(op.address + done, n, madvise_populate_read) == 0) {
      done += n;
      continue;
    }
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno != EINVAL) {
      // EFAULT is how it says that a touch would have raised SIGBUS.
      op.error = errno == EFAULT ? std::error_code(errc::page_fault) : last_error();
      return;
    }
    // Before Linux 5.14: touch them.
    std::byte touched;
    for (std::uint64_t at = done; at < op.count; at += page_size())
      if (guarded_copy(&touched, op.address + at, 1) != 1) {
        op.error = errc::page_fault;
        return;
      }
    return;
  }
}

void allocate(operation& op) noexcept {
  while (::fallocate(op.handle, 0, static_cast<off_t>(op.at), static_cast<off_t>(op.count)) != 0) {
    if (errno == EINTR) continue;
    op.error = last_error();
    return;
  }
}

std::error_code zero(int file, std::uint64_t bytes) noexcept {
  while (::fallocate(file, FALLOC_FL_ZERO_RANGE, 0, static_cast<off_t>(bytes)) != 0)
    if (errno != EINTR) return last_error();
  return {};
}

void restore_floating_point([[maybe_unused]] const void* context) noexcept {
#if defined(__x86_64__)
  const auto* const state = static_cast<const ucontext_t*>(context)->uc_mcontext.fpregs;
  if (state == nullptr) return;
  asm volatile("ldmxcsr %0\n\tfldcw %1" : : "m"(state->mxcsr), "m"(state->cwd));
#endif
}

}  // namespace posix

// --- threads of ours
// -------------------------------------------------------------------------------------------------------

// A thread that wakes up takes the processor at once from one whose slice is longer than its own;
// else it waits for the end of that slice, and for each other worker's.
void let_others_preempt() noexcept {
  constexpr std::uint64_t longer_than_usual = 20'000'000;
  scheduling mine;
  if (::syscall(SYS_sched_getattr, 0, &mine, sizeof mine, 0) != 0 || mine.policy != SCHED_OTHER)
    return;
  mine.slice = longer_than_usual;
  ::syscall(SYS_sched_setattr, 0, &mine, 0);
}

// --- barriers
// --------------------------------------------------------------------------------------------------------------

namespace {

int membarrier(int command) noexcept {
  return static_cast<int>(::syscall(SYS_membarrier, command, 0, 0));
}

bool register_barrier() noexcept {
#if defined(MAPIO_THREAD_SANITIZED)
  return false;  // it cannot see this barrier, and would report what is ordered by it
#else
  return membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0;
#endif
}

}  // namespace

// Set before main() and never changed: a thread that took the cheap way must be seen by the one
// that relies on it.
const bool barrier_available = register_barrier();

void heavy_barrier() noexcept {
  if (barrier_available) membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
}

}  // namespace detail::platform
MAPIO_NAMESPACE_END
