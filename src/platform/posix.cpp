#include "posix.hpp"

#include "guarded.hpp"
#include "words.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <thread>

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__) && !defined(MAPIO_POSIX_ONLY)
#define MAPIO_ON_LINUX 1
#include <ucontext.h>
#endif
#ifdef __x86_64__
#include <cpuid.h>
#endif

MAPIO_NAMESPACE_BEGIN

std::size_t page_size() noexcept {
  static const auto size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

namespace detail::platform {

using posix::last_error;

namespace {

std::error_code error_of(std::errc e) noexcept {
  return {static_cast<int>(e), std::system_category()};
}

template <class Call>
auto retry_interrupted(Call call) noexcept {
  for (;;) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

/// Tells whether a file may not reach that far.
bool exceeds_limit(std::uint64_t end) noexcept {
  return end > largest_file();
}

std::error_code too_large() noexcept {
  return {EFBIG, std::system_category()};
}

// --- opening
// ---------------------------------------------------------------------------------------------------------------

int open_flags(const open_options& options) noexcept {
  // O_NONBLOCK: opening a FIFO must not wait for its other end, nor a file for who holds a lease of
  // it (EAGAIN). Once it is open it means nothing for the regular files that we keep.
  int flags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  flags |= options.mode == access::read_write ? O_RDWR : O_RDONLY;
  if (!options.follow_symlinks) flags |= O_NOFOLLOW;
  return flags;
}

/// The OS would take the name to end there, and find another file.
std::error_code check_path(const std::filesystem::path& path) noexcept {
  return path.native().find('\0') == std::string::npos ? std::error_code()
                                                       : error_of(std::errc::invalid_argument);
}

int open_file(const char* path, int flags, mode_t permissions = 0) noexcept {
  return retry_interrupted([&] { return ::open(path, flags, permissions); });
}

std::error_code grow(int file, std::uint64_t from, std::uint64_t to, bool preallocate) noexcept {
  struct growth final : operation {
  } op;
  op.handle = file;
  op.at = preallocate ? from : to;
  op.count = to - from;
  op.what = preallocate ? call::allocate : call::truncate;
  perform(op);
  if (preallocate && op.error && is_not_supported(op.error)) {
    op.error = {};
    op.what = call::truncate;
    op.at = to;
    perform(op);
  }
  return op.error;
}

std::error_code size_new_file(int file, const open_options& options) noexcept {
  return options.size == 0 ? std::error_code() : grow(file, 0, options.size, options.preallocate);
}

bool is_same_file(const struct stat& a, const struct stat& b) noexcept {
  return a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

bool is_same_file(int a, int b) noexcept {
  struct stat of_a {};
  struct stat of_b {};
  return ::fstat(a, &of_a) == 0 && ::fstat(b, &of_b) == 0 && is_same_file(of_a, of_b);
}

/// Opens a file that got its name after it was opened by that name, which is the one that others
/// are shown from then on: who watches the folder, and who looks at what this process has open and
/// mapped.
int reopen(int file, const std::filesystem::path& path, int flags) noexcept {
  const int named = open_file(path.c_str(), flags);
  if (named < 0) return file;
  const bool same = is_same_file(file, named);
  ::close(same ? file : named);
  return same ? named : file;
}

/// For what is done by a name later: the working directory may be another one by then.
std::filesystem::path absolute_name(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute;
}

/// Creates a file that nobody can see before it has its size. Where the file system cannot do that,
/// it has a moment with a name and without a size.
std::error_code create_file(const std::filesystem::path& path, int flags,
                            const open_options& options, int& file) {
  const auto permissions = static_cast<mode_t>(options.permissions) & 07777;
  if (options.size != 0) {
    // Before it takes the disk from others.
    struct stat status {};
    if (::lstat(path.c_str(), &status) == 0) return error_of(std::errc::file_exists);
    const int unnamed = posix::open_unnamed(path, flags, permissions);
    if (unnamed >= 0) {
      std::error_code error = size_new_file(unnamed, options);
      const bool named = !error && posix::give_name(unnamed, path);
      if (named) {
        file = reopen(unnamed, path, flags);
        return {};
      }
      if (!error && errno == EEXIST) error = last_error();
      ::close(unnamed);
      if (error) return error;
    }
  }
  file = open_file(path.c_str(), flags | O_CREAT | O_EXCL, permissions);
  if (file < 0) return last_error();
  const std::error_code error = size_new_file(file, options);
  if (error) {
    remove_created(file, path);
    ::close(file);
  }
  return error;
}

std::error_code check_regular(const struct stat& status) noexcept {
  if (S_ISREG(status.st_mode)) return {};
  return error_of(S_ISDIR(status.st_mode) ? std::errc::is_a_directory : std::errc::no_such_device);
}

std::error_code check_regular(int file, struct stat& status) noexcept {
  return ::fstat(file, &status) == 0 ? check_regular(status) : last_error();
}

/// Nothing else is even opened: who waits at the other end of a FIFO would take that for a reader,
/// and what a device does then is its own affair.
std::error_code open_regular(const std::filesystem::path& path, int flags, int& file) noexcept {
  struct stat status {};
  const int found =
      (flags & O_NOFOLLOW) != 0 ? ::lstat(path.c_str(), &status) : ::stat(path.c_str(), &status);
  // Of what is not there, may not be looked at or is a link, opening it tells why not.
  if (found == 0 && !S_ISLNK(status.st_mode))
    if (std::error_code error = check_regular(status)) return error;
  file = open_file(path.c_str(), flags);
  if (file >= 0) return {};
  // What a socket answers that took the name meanwhile.
  return errno == ENXIO ? error_of(std::errc::no_such_device) : last_error();
}

/// Follows symbolic links to the name of a file, or to none: a dangling link names a file that can
/// be created.
std::error_code find_place(const std::filesystem::path& to, bool follow_symlinks,
                           std::filesystem::path& place, struct stat& status, bool& exists) {
  constexpr int most_links = 40;  // the kernel's own limit
  if (to.empty()) return error_of(std::errc::no_such_file_or_directory);
  // The working directory may be another one when the copy ends.
  std::error_code error;
  place = std::filesystem::absolute(to, error);
  for (int links = 0; !error && links < most_links; ++links) {
    exists = ::lstat(place.c_str(), &status) == 0;
    if (!exists) return errno == ENOENT ? std::error_code() : last_error();
    if (!S_ISLNK(status.st_mode)) return {};
    if (!follow_symlinks) break;
    const std::filesystem::path next = std::filesystem::read_symlink(place, error);
    place = place.parent_path() / next;
  }
  return error ? error : error_of(std::errc::too_many_symbolic_link_levels);
}

/// Opens, or creates, without a moment in between in which somebody else could do the same.
std::error_code open_or_create(const std::filesystem::path& path, int flags,
                               const open_options& options, int& file,
                               std::filesystem::path& created) {
  std::filesystem::path place = path;
  // A file that comes and goes between the two calls is tried again, but not for ever.
  for (int tries = 0; tries < 100; ++tries) {
    std::error_code error = open_regular(path, flags, file);
    if (error != std::errc::no_such_file_or_directory) return error;
    error = create_file(place, flags, options, file);
    if (!error) created = absolute_name(place);
    if (error != std::errc::file_exists) return error;
    // A dangling symbolic link is there for O_EXCL and is not for a plain open.
    struct stat status {};
    bool exists = false;
    error = find_place(path, options.follow_symlinks, place, status, exists);
    if (error) return error;
  }
  return error_of(std::errc::file_exists);
}

std::error_code cut(int file, std::uint64_t size) noexcept {
  std::uint64_t size_now = 0;
  if (exceeds_limit(size) && !file_size(file, size_now) && size > size_now) return too_large();
  return retry_interrupted([&] { return ::ftruncate(file, static_cast<off_t>(size)); }) == 0
             ? std::error_code()
             : last_error();
}

/// Has the first bytes of a file be zero, without another block for them.
std::error_code zero(int file, std::uint64_t bytes) noexcept {
  const std::error_code error = posix::zero(file, bytes);
  if (!is_not_supported(error)) return error;
  static constexpr std::array<char, std::size_t{64} << 10> zeros{};
  for (std::uint64_t done = 0; done < bytes;) {
    const auto piece =
        static_cast<std::size_t>(std::min<std::uint64_t>(zeros.size(), bytes - done));
    const ssize_t n = retry_interrupted(
        [&] { return ::pwrite(file, zeros.data(), piece, static_cast<off_t>(done)); });
    if (n < 0) return last_error();
    done += static_cast<std::uint64_t>(n);
  }
  return {};
}

/// Finds out what the OS does with such a file.
void look_at(int file, const open_options& options, opened_file& result) noexcept {
  posix::identify(file, result);
  if (options.mode != access::read_write && result.medium != medium::volatile_memory)
    result.hides_residency = posix::hides_residency(file, result.size);
}

void open_directory(const std::filesystem::path& path, int file, opened_file& result) noexcept {
  try {
    // The name that must become durable is the one behind symbolic links.
    std::error_code error;
    std::filesystem::path real = std::filesystem::canonical(path, error);
    if (error) real = path;
    std::filesystem::path parent = real.parent_path();
    if (parent.empty()) parent = ".";
    result.directory = open_file(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (result.directory < 0) {
      result.directory_error = last_error();
      return;
    }
    struct stat by_name {};
    struct stat by_handle {};
    if (::fstatat(result.directory, real.filename().c_str(), &by_name, AT_SYMLINK_NOFOLLOW) == 0 &&
        ::fstat(file, &by_handle) == 0 && is_same_file(by_name, by_handle))
      return;
    // Renamed under our hands: there is no saying which directory holds the name.
    ::close(std::exchange(result.directory, no_handle));
    result.directory_error = error_of(std::errc::no_such_file_or_directory);
  } catch (...) {
    result.directory_error = error_of(std::errc::not_enough_memory);
  }
}

}  // namespace

std::uint64_t largest_file() noexcept {
  struct rlimit limit {};
  const bool is_limited = ::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  return is_limited ? limit.rlim_cur : std::numeric_limits<std::uint64_t>::max();
}

std::error_code open(const std::filesystem::path& path, const open_options& options,
                     opened_file& result) {
  if (std::error_code error = check_path(path)) return error;
  const int flags = open_flags(options);
  int file = -1;
  std::filesystem::path& created = result.created;
  std::error_code error;
  switch (options.create) {
  case disposition::open_existing:
    error = open_regular(path, flags, file);
    break;
  case disposition::create_new:
    error = create_file(path, flags, options, file);
    if (!error) created = absolute_name(path);
    break;
  case disposition::open_or_create:
  case disposition::create_or_truncate:
    error = open_or_create(path, flags, options, file, created);
    break;
  }
  if (error) return error;

  struct stat status {};
  error = check_regular(file, status);
  if (error) {
    ::close(file);
    return error;
  }
  result.file = file;
  result.size = static_cast<std::uint64_t>(status.st_size);
  if (options.create != disposition::open_existing) open_directory(path, file, result);
  look_at(file, options, result);
  return {};
}

void remove_created(native_handle_type file, const std::filesystem::path& name) noexcept {
  struct stat of_name {};
  struct stat of_file {};
  if (::lstat(name.c_str(), &of_name) == 0 && ::fstat(file, &of_file) == 0 &&
      is_same_file(of_name, of_file))
    ::unlink(name.c_str());
}

std::error_code start_over(native_handle_type file, std::uint64_t old_size,
                           const open_options& options) noexcept {
  const bool has_blocks = options.preallocate && options.size != 0;
  // What was in it is only given up once the new size is certain, and with it the blocks.
  if (options.size > old_size || has_blocks) {
    const std::uint64_t from = options.preallocate ? 0 : old_size;
    if (std::error_code error = grow(file, from, options.size, options.preallocate)) {
      static_cast<void>(cut(file, old_size));
      return error;
    }
  }
  if (old_size == 0) return {};
  if (!has_blocks) {
    std::error_code error = cut(file, 0);
    return error || options.size == 0 ? error : grow(file, 0, options.size, false);
  }
  // Blocks that were given up might not be had again. What somebody stored behind the old end, in
  // its page, goes too.
  std::error_code error = zero(file, std::min(options.size, page_ceil(old_size)));
  return error || old_size <= options.size ? error : cut(file, options.size);
}

std::error_code inspect(native_handle_type file, const open_options& options, opened_file& result) {
  const int flags = ::fcntl(file, F_GETFL);
  if (flags < 0) return last_error();
  // A write at an offset goes to the end there, whatever offset it names.
  if (options.mode == access::read_write && (flags & O_APPEND) != 0) return errc::unsupported;
#ifdef O_DIRECT
  // Reads and writes take whole blocks there, of aligned memory.
  if ((flags & O_DIRECT) != 0) return errc::unsupported;
#endif
  struct stat status {};
  if (std::error_code error = check_regular(file, status)) return error;
  // A file that is empty is not mapped, which would find this out.
  const int how = flags & O_ACCMODE;
  if (how == O_WRONLY || (how != O_RDWR && options.mode == access::read_write))
    return error_of(std::errc::permission_denied);
  // Nor can one be used that is open only to be named (O_PATH).
  if (::pread(file, nullptr, 0, 0) != 0) return last_error();
  result.file = file;
  result.size = static_cast<std::uint64_t>(status.st_size);
  look_at(file, options, result);
  return {};
}

native_handle_type open_again(native_handle_type file, const std::filesystem::path& path) noexcept {
  const int again = posix::open_again(file);
  if (again >= 0 || path.empty()) return again;
  const int named = open_file(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (named < 0 || is_same_file(file, named)) return named < 0 ? no_handle : named;
  ::close(named);
  return no_handle;
}

void close(native_handle_type handle) noexcept {
  ::close(handle);
}

std::error_code posix::sync_file(int file) noexcept {
  const without_signals undisturbed;
#ifdef F_FULLFSYNC
  // fsync leaves it in the cache of the device there. Not every file system knows the other.
  if (::fcntl(file, F_FULLFSYNC) == 0) return {};
  if (errno != ENOTSUP && errno != ENOTTY && errno != EINVAL) return last_error();
#endif
  return ::fsync(file) == 0 ? std::error_code() : last_error();
}

// --- copying and removing
// --------------------------------------------------------------------------------------------------

namespace {

constexpr std::size_t largest_copy_piece = std::size_t{8} << 20;
constexpr std::size_t copy_buffer = std::size_t{256} << 10;

std::error_code open_source(const std::filesystem::path& from, const copy_file_options& options,
                            file_copy& copy, struct stat& status) noexcept {
  open_options reading;
  reading.follow_symlinks = options.follow_symlinks;
  std::error_code error = open_regular(from, open_flags(reading), copy.source);
  if (!error) error = check_regular(copy.source, status);
  if (error) return error;
  copy.size = static_cast<std::uint64_t>(status.st_size);
  copy.permissions = status.st_mode & (S_IRWXU | S_IRWXG | S_IRWXO);
  return exceeds_limit(copy.size) ? too_large() : std::error_code();
}

std::error_code check_target(const std::filesystem::path& place, const struct stat& target,
                             const struct stat& source, const copy_file_options& options) noexcept {
  if (is_same_file(target, source)) return error_of(std::errc::invalid_argument);
  if (std::error_code error = check_regular(target)) return error;
  if (!options.overwrite) return error_of(std::errc::file_exists);
  // A rename would replace it all the same.
  return ::faccessat(AT_FDCWD, place.c_str(), W_OK, AT_EACCESS) == 0 ? std::error_code()
                                                                     : last_error();
}

/// Calls use(path) with names in the folder of `place`, until there is one that nothing has.
template <class Use>
std::error_code use_temporary_name(file_copy& copy, Use use) {
  static std::atomic<unsigned> last{0};
  constexpr int most_tries = 1000;
  for (int tries = 0; tries < most_tries; ++tries) {
    const unsigned number = last.fetch_add(1, std::memory_order_relaxed);
    // Known before there is such a file, which somebody has to remove.
    copy.temporary = copy.place.parent_path() /
                     (".mapio-copy-" + std::to_string(::getpid()) + '-' + std::to_string(number));
    if (use(copy.temporary)) return {};
    const std::error_code error = last_error();
    copy.temporary.clear();
    if (error != std::errc::file_exists) return error;
  }
  return error_of(std::errc::file_exists);
}

std::error_code create_copy(file_copy& copy) {
  constexpr int flags = O_WRONLY | O_CLOEXEC;
  constexpr mode_t owner_only = S_IRUSR | S_IWUSR;
  copy.target = posix::open_unnamed(copy.place, flags, owner_only);
  if (copy.target >= 0 && posix::can_be_named(copy.target)) return {};
  if (copy.target >= 0) ::close(std::exchange(copy.target, no_handle));
  return use_temporary_name(copy, [&](const std::filesystem::path& path) {
    copy.target = open_file(path.c_str(), flags | O_CREAT | O_EXCL, owner_only);
    return copy.target >= 0;
  });
}

/// Finds the bytes from `at` on that are not a hole; none: nothing but a hole is left.
std::error_code find_data(const file_copy& copy, std::uint64_t& at, std::uint64_t& bytes) noexcept {
  bytes = copy.size - at;
#ifdef SEEK_DATA
  const off_t begin = ::lseek(copy.source, static_cast<off_t>(at), SEEK_DATA);
  if (begin < 0 && errno == ENXIO) {
    // So it is behind the end.
    std::uint64_t size = 0;
    if (std::error_code error = current_size(copy.source, size)) return error;
    if (size < copy.size) return errc::page_fault;
    at = copy.size;
    bytes = 0;
    return {};
  }
  // Where it does not know holes, all of it is data.
  if (begin < 0) return {};
  at = std::min(static_cast<std::uint64_t>(begin), copy.size);
  bytes = copy.size - at;
  const off_t end = ::lseek(copy.source, begin, SEEK_HOLE);
  if (end > begin) bytes = std::min(bytes, static_cast<std::uint64_t>(end - begin));
#endif
  return {};
}

/// Returns the bytes copied, or -1.
ssize_t copy_by_hand(const file_copy& copy, std::uint64_t at, std::size_t bytes) noexcept {
  const std::unique_ptr<char[]> buffer(new (std::nothrow) char[copy_buffer]);
  if (!buffer) {
    errno = ENOMEM;
    return -1;
  }
  const ssize_t n = retry_interrupted([&] {
    return ::pread(copy.source, buffer.get(), std::min(bytes, copy_buffer), static_cast<off_t>(at));
  });
  for (ssize_t written = 0; written < n;) {
    const ssize_t m = retry_interrupted([&] {
      return ::pwrite(copy.target, buffer.get() + written, static_cast<std::size_t>(n - written),
                      static_cast<off_t>(at) + written);
    });
    if (m < 0) return -1;
    written += m;
  }
  return n;
}

bool is_no_kernel_copy(int error) noexcept {
  return error == EXDEV || error == EINVAL || error == EOPNOTSUPP || error == ENOSYS ||
         error == EPERM;
}

std::error_code put_in_place(file_copy& copy, bool overwrite) {
  if (copy.temporary.empty()) {
    if (posix::give_name(copy.target, copy.place)) return {};
    if (errno != EEXIST || !overwrite) return last_error();
    // Only a rename replaces what is there, and it takes a name.
    if (std::error_code error = use_temporary_name(copy, [&](const std::filesystem::path& path) {
          return posix::give_name(copy.target, path);
        }))
      return error;
  } else if (::close(std::exchange(copy.target, no_handle)) != 0 && errno != EINTR) {
    // Some file systems write to their server now.
    return last_error();
  }
  if (overwrite) {
    if (::rename(copy.temporary.c_str(), copy.place.c_str()) != 0) return last_error();
    copy.temporary.clear();
    return {};
  }
  if (posix::rename_to_new(copy.temporary, copy.place)) {
    copy.temporary.clear();
    return {};
  }
  if (errno != EINVAL && errno != ENOSYS) return last_error();
  // This replaces nothing either; the other name goes with the rest.
  return ::link(copy.temporary.c_str(), copy.place.c_str()) == 0 ? std::error_code() : last_error();
}

std::error_code sync_folder_of(const std::filesystem::path& path) {
  const int folder = open_file(path.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return last_error();
  const std::error_code error = posix::sync_file(folder);
  ::close(folder);
  return error;
}

}  // namespace

std::error_code begin_copy(const std::filesystem::path& from, const std::filesystem::path& to,
                           const copy_file_options& options, file_copy& copy) {
  struct stat source {};
  struct stat target {};
  bool exists = false;
  std::error_code error = check_path(from);
  if (!error) error = check_path(to);
  if (!error) error = open_source(from, options, copy, source);
  if (!error) error = find_place(to, options.follow_symlinks, copy.place, target, exists);
  if (!error && exists) error = check_target(copy.place, target, source, options);
  return error ? error : create_copy(copy);
}

std::error_code copy_next(file_copy& copy, std::uint64_t& copied) noexcept {
  const bool knows_size = copy.size != 0;
  if (std::exchange(copy.may_clone, false) && posix::clone(copy.source, copy.target)) {
    copy.is_at_end = true;
    std::uint64_t cloned = 0;
    if (std::error_code error = current_size(copy.target, cloned)) return error;
    // It is that of the moment, whatever the source had at the beginning.
    copied = knows_size ? std::min(cloned, copy.size) : cloned;
    return copied < copy.size ? errc::page_fault : std::error_code();
  }
  std::uint64_t bytes = largest_copy_piece;
  if (knows_size) {
    if (std::error_code error = find_data(copy, copied, bytes)) return error;
    if (bytes == 0) return {};
  }
  const auto piece = static_cast<std::size_t>(std::min<std::uint64_t>(bytes, largest_copy_piece));
  ssize_t n = 0;
  if (copy.may_copy_in_kernel) {
    n = retry_interrupted(
        [&] { return posix::copy_in_kernel(copy.source, copy.target, copied, piece); });
    if (n < 0 && !is_no_kernel_copy(errno)) return last_error();
    // Of some files it does not know that there are bytes: reading finds out.
    copy.may_copy_in_kernel = n > 0;
  }
  if (!copy.may_copy_in_kernel) n = copy_by_hand(copy, copied, piece);
  if (n < 0) return last_error();
  if (n == 0 && knows_size) return errc::page_fault;
  copy.is_at_end = n == 0;
  copied += static_cast<std::uint64_t>(n);
  return {};
}

std::error_code end_copy(file_copy& copy, std::uint64_t copied, const copy_file_options& options) {
  // What ends with a hole is still too short.
  if (std::error_code error = cut(copy.target, copied)) return error;
  // Some file systems have no permissions, and say that only others may change them.
  if (::fchmod(copy.target, copy.permissions) != 0 && errno != EPERM) return last_error();
  if (options.durable)
    if (std::error_code error = posix::sync_file(copy.target)) return error;
  if (std::error_code error = put_in_place(copy, options.overwrite)) return error;
  return options.durable ? sync_folder_of(copy.place) : std::error_code();
}

void abandon_copy(file_copy& copy) noexcept {
  if (!copy.temporary.empty()) ::unlink(copy.temporary.c_str());
  for (const native_handle_type file : {copy.source, copy.target})
    if (file != no_handle) ::close(file);
}

std::error_code remove(const std::filesystem::path& path) noexcept {
  if (std::error_code error = check_path(path)) return error;
  if (::unlink(path.c_str()) == 0) return {};
  const std::error_code error = last_error();
  // Where POSIX lets an OS say something less clear.
  struct stat status {};
  return error == std::errc::operation_not_permitted && ::lstat(path.c_str(), &status) == 0 &&
                 S_ISDIR(status.st_mode)
             ? error_of(std::errc::is_a_directory)
             : error;
}

// --- memory
// ----------------------------------------------------------------------------------------------------------------

namespace {

#if defined(MAPIO_THREAD_SANITIZED)
// Its shadow memory takes the rest of the address space, and where the last of it is reserved the
// sanitizer ends the program.
constexpr std::uint64_t reservation_budget = std::uint64_t{256} << 30;
constexpr std::uint64_t most_for_one = std::uint64_t{1} << 30;
#else
constexpr std::uint64_t reservation_budget = std::uint64_t{16} << 40;
constexpr std::uint64_t most_for_one = reservation_budget;
#endif
std::atomic<std::uint64_t> reserved{0};

}  // namespace

const bool mappings_are_free = true;

std::error_code map(native_handle_type file, access mode, std::uint64_t, std::uint64_t& capacity,
                    std::byte*& base) noexcept {
  const int protection = mode == access::read_only ? PROT_READ : PROT_READ | PROT_WRITE;
  const int flags = mode == access::copy_on_write ? MAP_PRIVATE : MAP_SHARED;
  void* const address =
      posix::map_anywhere(static_cast<std::size_t>(capacity), protection, flags, file);
  if (address == MAP_FAILED) return last_error();
  base = static_cast<std::byte*>(address);
  reserved.fetch_add(capacity, std::memory_order_relaxed);
  return {};
}

std::error_code map_more(native_handle_type, std::byte*, std::uint64_t, std::uint64_t,
                         std::uint64_t&) noexcept {
  return {};
}

void unmap(std::byte* base, std::uint64_t capacity) noexcept {
  ::munmap(base, static_cast<std::size_t>(capacity));
  reserved.fetch_sub(capacity, std::memory_order_relaxed);
}

std::chrono::milliseconds coarse_time() noexcept {
#if defined(CLOCK_MONOTONIC_COARSE)
  constexpr clockid_t ticks = CLOCK_MONOTONIC_COARSE;
#else
  constexpr clockid_t ticks = CLOCK_MONOTONIC;
#endif
  timespec now{};
  ::clock_gettime(ticks, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::milliseconds(now.tv_nsec / 1000000);
}

std::uint64_t largest_reservation() noexcept {
  const std::uint64_t used = reserved.load(std::memory_order_relaxed);
  return used < reservation_budget ? std::min(reservation_budget - used, most_for_one) : 0;
}

bool is_out_of_address_space(const std::error_code& error) noexcept {
  return error == std::errc::not_enough_memory ||
         error == std::errc::resource_unavailable_try_again ||
         error == std::errc::value_too_large || error == std::errc::file_too_large;
}

bool is_not_supported(const std::error_code& error) noexcept {
  return error == std::errc::operation_not_supported || error == std::errc::not_supported ||
         error == std::errc::function_not_supported;
}

std::error_code lock_pages(std::byte* address, std::uint64_t length) noexcept {
  // First, because mlock tells of a page that is not there as of a limit that is reached, and tries
  // for ever to read one that cannot be read (Linux 6.18).
  struct look final : operation {
  } look;
  look.address = address;
  look.count = length;
  posix::populate(look);
  if (look.error) return look.error;
  return ::mlock(address, length) == 0 ? std::error_code() : last_error();
}

std::error_code unlock_pages(std::byte* address, std::uint64_t length) noexcept {
  return ::munlock(address, length) == 0 ? std::error_code() : last_error();
}

// --- carrying out
// ----------------------------------------------------------------------------------------------------------

namespace {

/// Calls transfer(vector, count, offset) until the whole range is done, in pieces that the OS takes
/// at once.
template <class Transfer>
void transfer_all(operation& op, Transfer transfer) noexcept {
  constexpr std::size_t most_buffers = 64;
  while (op.transferred < op.count) {
    std::array<iovec, most_buffers> vector;
    std::size_t used = 0;
    std::uint64_t skip = op.transferred;
    for (std::size_t i = 0; i < op.buffer_count && used < most_buffers; ++i) {
      const asio::const_buffer& b = op.buffers[i];
      if (skip >= b.size()) {
        skip -= b.size();
        continue;
      }
      vector[used++] = {static_cast<char*>(const_cast<void*>(b.data())) + skip,
                        b.size() - static_cast<std::size_t>(skip)};
      skip = 0;
    }
    const ssize_t n = retry_interrupted([&] {
      return transfer(vector.data(), static_cast<int>(used),
                      static_cast<off_t>(op.at + op.transferred));
    });
    if (n < 0) {
      op.error = last_error();
      return;
    }
    if (n == 0) return;
    op.transferred += static_cast<std::uint64_t>(n);
  }
}

}  // namespace

void perform(operation& op) noexcept {
  switch (op.what) {
  case call::work:
    op.work(&op);
    return;
  case call::write_file:
    if (exceeds_limit(op.at + op.count)) {
      op.error = too_large();
      return;
    }
    return transfer_all(
        op, [&](const iovec* v, int n, off_t at) { return posix::write_at(op.handle, v, n, at); });
  case call::read_file:
    return transfer_all(
        op, [&](const iovec* v, int n, off_t at) { return posix::read_at(op.handle, v, n, at); });
  case call::fetch: {
    std::array<std::byte, most_fetched> unwanted;
    if (retry_interrupted([&] {
          return ::pread(op.handle, unwanted.data(), op.count, static_cast<off_t>(op.at));
        }) < 0)
      op.error = last_error();
    return;
  }
  case call::sync:
    return posix::sync(op);
  case call::sync_name:
    op.error = posix::sync_file(op.handle);
    return;
  case call::start_writeback:
    return posix::start_writeback(op);
  case call::announce: {
    // Only the time of modification: an event of its own kind (IN_MODIFY) for those who watch.
    const timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}};
    if (::futimens(op.handle, times) != 0) op.error = last_error();
    return;
  }
  case call::populate:
    return posix::populate(op);
  case call::populate_write:
    return posix::populate_for_storing(op);
  case call::allocate:
    if (exceeds_limit(op.at + op.count)) {
      op.error = too_large();
      return;
    }
    zero_to_page_end(op.address);
    return posix::allocate(op);
  case call::truncate:
    zero_to_page_end(op.address);
    op.error = cut(op.handle, op.at);
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

// --- faults
// ----------------------------------------------------------------------------------------------------------------

namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define MAPIO_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define MAPIO_SANITIZED 1
#endif
#endif

// The built-in saves three words and costs a nanosecond; sanitizers only follow the library's.
#if defined(__x86_64__) && !defined(MAPIO_SANITIZED)
#ifdef MAPIO_ON_LINUX
#define MAPIO_STRING_COPIES 1
#endif
using jump_buffer = void* [5];
#define MAPIO_SET_JUMP(buffer) __builtin_setjmp(buffer)
#define MAPIO_JUMP(buffer) __builtin_longjmp(buffer, 1)
#else
using jump_buffer = sigjmp_buf;
#define MAPIO_SET_JUMP(buffer) sigsetjmp(buffer, 0)
#define MAPIO_JUMP(buffer) siglongjmp(buffer, 1)
#endif

struct guarded_range {
  guarded_range* outer;  // of a copy in a handler that interrupted another one
  const char* destination;
  const char* source;
  std::size_t size;
  jump_buffer resume;
  stack_t alternate_stack;  // of the thread, set when there was a fault
};

// Read by the signal handler: their storage must not be allocated by the first look at them.
__attribute__((tls_model("initial-exec"))) thread_local guarded_range* volatile guarded = nullptr;
#ifdef MAPIO_STRING_COPIES
// Where this thread has its instruction for copies of strings, once it has copied.
__attribute__((tls_model("initial-exec"))) thread_local const void* string_copy_at = nullptr;
#endif

struct sigaction previous_action {};
struct sigaction own_action {};
std::atomic<bool> previous_was_called{false};

/// Tells a fault of this thread from a signal that somebody sent, and from memory that failed
/// elsewhere.
bool is_fault(const siginfo_t& info) noexcept {
#ifdef BUS_MCEERR_AO
  if (info.si_code == BUS_MCEERR_AO) return false;
#endif
  // Not everywhere are these two negative.
  return info.si_code > 0 && info.si_code != SI_USER && info.si_code != SI_QUEUE;
}

#ifdef MAPIO_STRING_COPIES

// The instruction leaves nothing on the stack and in no register but its own: it is enough to go on
// behind it. What it counts down tells that it is not over.
bool leave_string_copy(ucontext_t* context) noexcept {
  constexpr greg_t size_of_instruction = 2;
  if (context == nullptr || string_copy_at == nullptr) return false;
  greg_t& next = context->uc_mcontext.gregs[REG_RIP];
  if (next != reinterpret_cast<greg_t>(string_copy_at)) return false;
  next += size_of_instruction;
  return true;
}

#endif

// Returns true where the caller, a signal handler, has but to return; else jumps.
bool leave_guarded_copy(const siginfo_t& info, void* context) noexcept {
  if (!is_fault(info)) return false;
#ifdef MAPIO_STRING_COPIES
  if (leave_string_copy(static_cast<ucontext_t*>(context))) return true;
#endif
  guarded_range* const g = guarded;
  if (g == nullptr) return false;
  const auto* const at = static_cast<const char*>(info.si_addr);
  // A vector load may begin before the range by less than its page, and reports the page.
  const auto within = [&](const char* from) {
    const auto page = static_cast<std::uintptr_t>(page_size());
    const auto low = reinterpret_cast<std::uintptr_t>(from) & ~(page - 1);
    const auto high = reinterpret_cast<std::uintptr_t>(from) + g->size;
    const auto fault = reinterpret_cast<std::uintptr_t>(at);
    return low <= fault && fault < high;
  };
  if (!within(g->destination) && !within(g->source)) return false;
  guarded = nullptr;
  g->alternate_stack = {};
  // We may have been called by a handler that was installed later and blocks signals while it runs.
  if (context != nullptr) {
    const auto& interrupted = *static_cast<const ucontext_t*>(context);
    g->alternate_stack = interrupted.uc_stack;
    ::pthread_sigmask(SIG_SETMASK, &interrupted.uc_sigmask, nullptr);
    posix::restore_floating_point(context);
  } else {
    sigset_t fault;
    sigemptyset(&fault);
    sigaddset(&fault, SIGBUS);
    ::pthread_sigmask(SIG_UNBLOCK, &fault, nullptr);
  }
  MAPIO_JUMP(g->resume);
}

// Like the kernel, which has these two whatever the flags say.
bool is_previous_called() noexcept {
  if (previous_action.sa_handler == SIG_DFL || previous_action.sa_handler == SIG_IGN) return false;
  return (static_cast<unsigned>(previous_action.sa_flags) & SA_RESETHAND) == 0 ||
         !previous_was_called.exchange(true);
}

void call_previous(int signal, siginfo_t* info, void* context) noexcept {
  sigset_t blocked = previous_action.sa_mask;
  if ((previous_action.sa_flags & SA_NODEFER) == 0) sigaddset(&blocked, signal);
  sigset_t before;
  ::pthread_sigmask(SIG_BLOCK, &blocked, &before);
  if ((previous_action.sa_flags & SA_SIGINFO) != 0)
    previous_action.sa_sigaction(signal, info, context);
  else
    previous_action.sa_handler(signal);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void on_fault(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  const bool left = leave_guarded_copy(*info, context);
  errno = saved_errno;
  if (left) return;
  // Not ours: whoever was there before.
  if (is_previous_called()) return call_previous(signal, info, context);
  // A fault cannot be ignored.
  if (previous_action.sa_handler == SIG_IGN && !is_fault(*info)) return;
  // Run into it again without us. What was sent does not come again by itself.
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  ::sigaction(signal, &standard, nullptr);
  if (is_fault(*info)) return;
  ::raise(signal);
  // Where it is blocked it comes when we return; and the first process of a container survives it.
  sigset_t pending;
  if (::sigpending(&pending) == 0 && ::sigismember(&pending, signal) == 0)
    ::sigaction(signal, &own_action, nullptr);
}

#ifdef MAPIO_ON_LINUX
constexpr unsigned put_aside = 1U << 31;  // SS_AUTODISARM, which not every C library names
#else
constexpr unsigned put_aside = 0;
#endif

// The kernel puts such a stack aside while a handler runs on it, and takes it back when that
// returns, which it did not. Only now: a signal would have begun at the same end of it.
[[gnu::cold, gnu::noinline]] void take_back(const stack_t& alternate_stack) noexcept {
  if ((static_cast<unsigned>(alternate_stack.ss_flags) & put_aside) != 0)
    ::sigaltstack(&alternate_stack, nullptr);
}

#ifdef MAPIO_STRING_COPIES

// Where the processor copies short strings fast too (FSRM), a copy by one instruction is what
// memcpy itself makes of such a length. A fault in it needs no jump, so that nothing is prepared
// for one: that would cost as much as all else that an update does.
bool has_fast_string_copies() noexcept {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & 1U << 4) != 0;
}

const std::size_t shortest_string_copy =
    has_fast_string_copies() ? 2048 : std::numeric_limits<std::size_t>::max();
constexpr std::size_t longest_string_copy = 32 << 10;  // beyond, the jump does not show

// In one place: the handler knows it by its address.
[[gnu::noinline]] bool string_copy_or_fault(void* destination, const void* source,
                                            std::size_t n) noexcept {
  asm volatile("lea 1f(%%rip), %%rax\n\t"
               "mov %%rax, %[at]\n"
               "1:\trep movsb"
               : "+D"(destination), "+S"(source), "+c"(n), [at] "=m"(string_copy_at)
               :
               : "rax", "memory");
  return n == 0;
}

#endif

// Nothing here may need a destructor: a fault leaves by a jump. What it leaves must be a call: the
// compiler knows of no other way by which a jump could come.
template <class Access>
[[gnu::noinline]] bool access_or_fault(void* destination, const void* source, std::size_t n,
                                       Access access) noexcept {
  guarded_range range;
  range.outer = guarded;
  range.destination = static_cast<const char*>(destination);
  range.source = static_cast<const char*>(source);
  range.size = n;
  if (MAPIO_SET_JUMP(range.resume) != 0) {
    guarded = range.outer;
    take_back(range.alternate_stack);
    return false;
  }
  guarded = &range;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  access(destination, source, n);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  guarded = range.outer;
  return true;
}

bool copy_or_fault(void* destination, const void* source, std::size_t n) noexcept {
  return access_or_fault(
      destination, source, n,
      [](void* to, const void* from, std::size_t count) noexcept { std::memcpy(to, from, count); });
}

}  // namespace

void guard_faults() {
  // To find it done costs less than a once_flag, and guarded_copy() asks for every copy.
  [[maybe_unused]] static const bool done = [] {
    own_action.sa_sigaction = on_fault;
    // NODEFER: the handler is left by a jump, after which the next fault must be delivered again.
    own_action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigemptyset(&own_action.sa_mask);
    // Known before the first fault can ask for them.
    static_cast<void>(page_size());
    if (::sigaction(SIGBUS, nullptr, &previous_action) != 0 ||
        ::sigaction(SIGBUS, &own_action, nullptr) != 0)
      throw std::system_error(last_error(), "sigaction");
    return true;
  }();
}

std::size_t guarded_copy(void* destination, const void* source, std::size_t n) noexcept {
#ifdef MAPIO_STRING_COPIES
  if (n >= shortest_string_copy && n <= longest_string_copy) {
    if (string_copy_or_fault(destination, source, n)) [[likely]]
      return n;
    return copy_until_fault(destination, source, n, copy_or_fault);
  }
#endif
  if (copy_or_fault(destination, source, n)) [[likely]]
    return n;
  return copy_until_fault(destination, source, n, copy_or_fault);
}

bool load_word(const std::uint32_t* word, std::uint32_t& value) noexcept {
  return access_or_fault(
      &value, word, sizeof value,
      [](void* to, const void* from, std::size_t n) noexcept { load_shared(to, from, n); });
}

namespace {

// Faults stay deliverable.
sigset_t signals_of_others() noexcept {
  sigset_t all;
  sigfillset(&all);
  for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP})
    sigdelset(&all, fault);
  return all;
}

}  // namespace

void call_at_thread_end(thread_end& end) noexcept {
  struct caller {
    thread_end* end = nullptr;
    ~caller() {
      if (end != nullptr) end->call(*end);
    }
  };
  thread_local caller of_this_thread;
  of_this_thread.end = &end;
}

void block_signals() noexcept {
  const sigset_t all = signals_of_others();
  ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
}

posix::without_signals::without_signals() noexcept {
  const sigset_t all = signals_of_others();
  ::pthread_sigmask(SIG_SETMASK, &all, &before_);
}

posix::without_signals::~without_signals() {
  ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

// --- forks
// -----------------------------------------------------------------------------------------------------------------

namespace {

std::atomic<unsigned> forks{0};

// Registered when the library is loaded, long before the first engine.
[[maybe_unused]] const int fork_handler =
    ::pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });

}  // namespace

unsigned fork_generation() noexcept {
  return forks.load(std::memory_order_relaxed);
}

}  // namespace detail::platform

bool handle_fault(int signal, void* info, void* context) noexcept {
  return signal == SIGBUS && info != nullptr &&
         detail::platform::leave_guarded_copy(*static_cast<const siginfo_t*>(info), context);
}

MAPIO_NAMESPACE_END
