// For a Unix of which nothing is known but POSIX: what linux.cpp does better.

#include "posix.hpp"

#include <cstdlib>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

MAPIO_NAMESPACE_BEGIN
namespace detail::platform {

using posix::last_error;

// --- mapping
// ---------------------------------------------------------------------------------------------------------------

bool read_in_large_pieces(std::byte*, std::uint64_t) noexcept {
  return false;
}

namespace {

/// Returns the number of an advice, or -1 for what POSIX does not know.
int advice_number(advice what) noexcept {
  switch (what) {
  case advice::normal:
    return POSIX_MADV_NORMAL;
  case advice::sequential:
    return POSIX_MADV_SEQUENTIAL;
  case advice::random:
    return POSIX_MADV_RANDOM;
  case advice::will_need:
    return POSIX_MADV_WILLNEED;
  case advice::dont_need:
    return POSIX_MADV_DONTNEED;
  case advice::cold:
  case advice::huge_pages:
    break;
  }
  return -1;
}

std::error_code error_of(int number) noexcept {
  return {number, std::system_category()};
}

}  // namespace

std::error_code advise(std::byte* address, std::uint64_t length, advice what) noexcept {
  if (what < advice::normal || what > advice::huge_pages)
    return make_error_code(std::errc::invalid_argument);
  const int number = advice_number(what);
  if (number < 0) return errc::unsupported;
  return error_of(::posix_madvise(address, static_cast<std::size_t>(length), number));
}

std::uint64_t count_huge(const std::byte*, std::uint64_t) noexcept {
  return 0;
}

// Where that matters, an allocator maps such an amount.
void* allocate_zeroed(std::size_t bytes) noexcept {
  return std::calloc(bytes, 1);
}

void free_zeroed(void* memory, std::size_t) noexcept {
  std::free(memory);
}

// POSIX has nothing like mincore, which means something else wherever there is one: all that is
// awaited goes off the loop.
std::error_code resident(const std::byte*, std::uint64_t, bool& all) noexcept {
  all = false;
  return errc::unsupported;
}

bool is_cached(native_handle_type, std::uint64_t, std::uint64_t) noexcept {
  return false;
}

bool posix::hides_residency(int, std::uint64_t) noexcept {
  return false;
}

bool count_dirty(native_handle_type, std::uint64_t, std::uint64_t, dirty_count&) noexcept {
  return false;
}

std::error_code file_size(native_handle_type file, std::uint64_t& size) noexcept {
  struct stat status {};
  if (::fstat(file, &status) != 0) return last_error();
  size = static_cast<std::uint64_t>(status.st_size);
  return {};
}

std::error_code current_size(native_handle_type file, std::uint64_t& size) noexcept {
  return file_size(file, size);
}

// --- carrying out
// ----------------------------------------------------------------------------------------------------------

namespace posix {

void* map_anywhere(std::size_t bytes, int protection, int flags, int file) noexcept {
  return ::mmap(nullptr, bytes, protection, flags, file, 0);
}

void identify(int, opened_file&) noexcept {}

int open_unnamed(const std::filesystem::path&, int, unsigned) {
  return -1;
}

bool give_name(int, const std::filesystem::path&) {
  errno = ENOSYS;
  return false;
}

bool can_be_named(int) noexcept {
  return false;
}

bool rename_to_new(const std::filesystem::path&, const std::filesystem::path&) noexcept {
  errno = ENOSYS;
  return false;
}

// A name in /dev/fd, where there is one, is the same open file description.
int open_again(int) noexcept {
  return no_handle;
}

bool clone(int, int) noexcept {
  return false;
}

ssize_t copy_in_kernel(int, int, std::uint64_t, std::size_t) noexcept {
  errno = ENOSYS;
  return -1;
}

ssize_t read_at(int file, const iovec* buffers, int, off_t at) noexcept {
  return ::pread(file, buffers->iov_base, buffers->iov_len, at);
}

ssize_t write_at(int file, const iovec* buffers, int, off_t at) noexcept {
  return ::pwrite(file, buffers->iov_base, buffers->iov_len, at);
}

namespace {

std::error_code sync_data(int file) noexcept {
#if !defined(F_FULLFSYNC) && _POSIX_SYNCHRONIZED_IO > 0
  const without_signals undisturbed;
  return ::fdatasync(file) == 0 ? std::error_code() : last_error();
#else
  return sync_file(file);
#endif
}

}  // namespace

void sync(operation& op) noexcept {
  // Not every sync of a file takes what was stored into a mapping, and not every msync what was
  // written through the file, or the metadata needed to read it back.
  const std::uint64_t length = op.count != 0 ? op.count : op.length;
  if (op.address != nullptr && length != 0) {
    const without_signals undisturbed;
    if (::msync(op.address, static_cast<std::size_t>(length), MS_SYNC) != 0) {
      op.error = last_error();
      return;
    }
  }
  op.error = sync_data(op.handle);
}

// It promises nothing, and there is nothing that would do it.
void start_writeback(operation&) noexcept {}

void populate(operation& op) noexcept {
  // For all at once to be read, and not page by page.
  static_cast<void>(advise(op.address, op.count, advice::will_need));
  std::byte touched;
  for (std::uint64_t at = 0; at < op.count; at += page_size())
    if (guarded_copy(&touched, op.address + at, 1) != 1) {
      op.error = errc::page_fault;
      return;
    }
}

void populate_for_storing(operation& op) noexcept {
  // Only who has something to store can store: what is there may be another thing by then.
  populate(op);
  if (!op.error) op.error = make_error_code(std::errc::invalid_argument);
}

void allocate(operation& op) noexcept {
#if _POSIX_ADVISORY_INFO > 0
  int error = 0;
  do {
    error = ::posix_fallocate(op.handle, static_cast<off_t>(op.at), static_cast<off_t>(op.count));
  } while (error == EINTR);
  // How some file systems say that they cannot.
  op.error = error_of(error == EINVAL ? ENOTSUP : error);
#else
  op.error = error_of(ENOTSUP);
#endif
}

std::error_code zero(int, std::uint64_t) noexcept {
  return error_of(ENOTSUP);
}

void restore_floating_point(const void*) noexcept {}

}  // namespace posix

// --- threads of ours, barriers
// ---------------------------------------------------------------------------------------------

void let_others_preempt() noexcept {}

const bool barrier_available = false;

void heavy_barrier() noexcept {}

}  // namespace detail::platform
MAPIO_NAMESPACE_END
