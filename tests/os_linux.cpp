#include "os.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <system_error>

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;  // NOLINT(readability-redundant-declaration)

namespace support {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::system_category(), what);
}

struct stat status_of(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) fail("stat " + path.string());
  return status;
}

}  // namespace

// --- files
// ----------------------------------------------------------------------------------------

void close_native(native_handle file) noexcept {
  ::close(file);
}

native_file open_native(const fs::path& path, opening how) {
  const int flags = [how] {
    switch (how) {
    case opening::to_read:
      return O_RDONLY;
    case opening::to_write:
      return O_WRONLY;
    case opening::to_append:
      return O_RDWR | O_APPEND;
    case opening::to_create:
      return O_RDWR | O_CREAT;
    case opening::to_read_and_write:
      break;
    }
    return O_RDWR;
  }();
  native_file file(::open(path.c_str(), flags | O_CLOEXEC, 0600));
  if (file.get() < 0) fail(path.string());
  return file;
}

native_file open_native_folder(const fs::path& path) {
  return open_native(path, opening::to_read);
}

native_file open_null_device() {
  return open_native("/dev/null", opening::to_read_and_write);
}

native_file open_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail("pipe2");
  ::close(ends[1]);
  return native_file(ends[0]);
}

std::string read_at(native_handle file, std::uint64_t offset, std::size_t count) {
  std::string bytes(count, '\0');
  const auto n = ::pread(file, bytes.data(), count, static_cast<off_t>(offset));
  if (n < 0) fail("pread");
  bytes.resize(static_cast<std::size_t>(n));
  return bytes;
}

std::size_t write_at(native_handle file, std::uint64_t offset, std::string_view bytes) {
  const auto n = ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
  if (n < 0) fail("pwrite");
  return static_cast<std::size_t>(n);
}

bool is_open_descriptor(native_handle file) noexcept {
  return ::fcntl(file, F_GETFD) != -1;
}

bool is_inherited(native_handle file) noexcept {
  return (::fcntl(file, F_GETFD) & FD_CLOEXEC) == 0;
}

std::set<native_handle> open_descriptors() {
  std::set<native_handle> numbers;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd"))
    numbers.insert(std::stoi(entry.path().filename().string()));
  // The iterator had one of its own, which is closed by now.
  std::erase_if(numbers, [](int fd) { return !is_open_descriptor(fd); });
  return numbers;
}

fs::path make_unique_folder(const fs::path& parent) {
  std::string name = (parent / "mapio-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) fail("mkdtemp " + name);
  return name;
}

void truncate_file(const fs::path& path, std::uint64_t size) {
  if (::truncate(path.c_str(), static_cast<off_t>(size)) != 0) fail("truncate");
}

void remove_tree(const fs::path& folder) noexcept {
  std::error_code ignored;
  fs::remove_all(folder, ignored);
}

std::error_condition error_below_a_file() {
  return std::errc::not_a_directory;
}

std::error_condition error_of_a_long_name() {
  return std::errc::filename_too_long;
}

std::uint64_t allocated_bytes(const fs::path& path) {
  constexpr std::uint64_t unit = 512;
  return static_cast<std::uint64_t>(status_of(path).st_blocks) * unit;
}

std::pair<std::uint64_t, std::uint64_t> identity(const fs::path& path) {
  const struct stat status = status_of(path);
  return {status.st_dev, status.st_ino};
}

std::pair<std::uint64_t, std::uint64_t> identity(native_handle file) {
  struct stat status {};
  if (::fstat(file, &status) != 0) fail("fstat");
  return {status.st_dev, status.st_ino};
}

// --- memory
// ---------------------------------------------------------------------------------------

bool evict(const fs::path& path) {
  const native_file file = open_native(path, opening::to_read);
  struct statfs what {};
  if (::fstatfs(file.get(), &what) != 0 || what.f_type == TMPFS_MAGIC) return false;
  return ::fsync(file.get()) == 0 && ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED) == 0;
}

void forget_pages(const std::byte* data, std::size_t length, native_handle file) noexcept {
  ::madvise(const_cast<std::byte*>(data), length, MADV_DONTNEED);
  ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
}

// Without mincore: not on tmpfs, and not on an overlay.
bool tells_cached_pages(const fs::path& path) {
  const native_file file = open_native(path, opening::to_read);
  char byte = 0;
  const iovec vector{&byte, 1};
  return ::pread(file.get(), &byte, 1, 0) == 1 &&
         ::preadv2(file.get(), &vector, 1, 0, RWF_NOWAIT) == 1;
}

// By cachestat, which sees none before Linux 6.5, and on an overlay.
std::uint64_t unwritten_pages(const fs::path& path) {
  constexpr long cachestat = 451;
  const native_file file = open_native(path, opening::to_read_and_write);
  const std::array<std::uint64_t, 2> all{0, 0};
  std::array<std::uint64_t, 5> counts{};
  const bool told = ::syscall(cachestat, file.get(), all.data(), counts.data(), 0) == 0;
  return told ? counts[1] + counts[2] : 0;  // dirty, and being written
}

foreign_mapping::foreign_mapping(const fs::path& path, std::size_t length, access how)
    : length_(length) {
  const bool writes = how == access::read_and_write;
  const native_file file =
      open_native(path, writes ? opening::to_read_and_write : opening::to_read);
  void* at = ::mmap(nullptr, length, writes ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED,
                    file.get(), 0);
  if (at == MAP_FAILED) fail("mmap");
  data_ = static_cast<char*>(at);
}

foreign_mapping::~foreign_mapping() {
  ::munmap(data_, length_);
}

int count_mappings(const fs::path& path) {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);)
    if (line.find(path.string()) != std::string::npos) ++count;
  return count;
}

std::optional<std::uint64_t> locked_bytes() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line))
    if (line.starts_with("VmLck:")) return 1024 * std::stoull(line.substr(6));
  return {};
}

std::size_t system_page_size() {
  return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

std::size_t mapping_granule() {
  return system_page_size();
}

// --- processes
// ------------------------------------------------------------------------------------

void set_environment(const std::string& name, const char* value) {
  if (value != nullptr)
    ::setenv(name.c_str(), value, 1);
  else
    ::unsetenv(name.c_str());
}

void arm_watchdog(unsigned seconds) {
  std::signal(SIGALRM, [](int) {
    static constexpr char message[] = "\nwatchdog: the test hangs\n";
    static_cast<void>(!::write(STDERR_FILENO, message, sizeof message - 1));
    ::_exit(124);
  });
  ::alarm(seconds);
}

void disarm_watchdog() {
  ::alarm(0);
}

const mapio::backend_kind engine_of_this_os = mapio::backend_kind::io_uring;

bool io_uring_is_allowed() {
  // 120 bytes of zeros are valid parameters.
  alignas(8) unsigned char parameters[120] = {};
  const long fd = ::syscall(SYS_io_uring_setup, 4, parameters);
  if (fd >= 0) ::close(static_cast<int>(fd));
  return fd >= 0;
}

fs::path this_program() {
  return "/proc/self/exe";
}

struct child_process::state {
  pid_t process = -1;
};

child_process::child_process(const fs::path& program, const std::vector<std::string>& arguments,
                             const fs::path& output)
    : state_(std::make_unique<state>()) {
  native_file out;
  if (!output.empty()) {
    out.reset(::open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (out.get() < 0) fail(output.string());
  }
  // Everything that allocates comes before the fork.
  std::vector<std::string> words{program.string()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& word : words)
    pointers.push_back(word.data());
  pointers.push_back(nullptr);

  state_->process = ::fork();
  if (state_->process == -1) fail("fork");
  if (state_->process == 0) {
    if (out.get() >= 0) {
      ::dup2(out.get(), STDOUT_FILENO);
      ::dup2(out.get(), STDERR_FILENO);
    }
    ::execve(program.c_str(), pointers.data(), environ);
    ::_exit(126);
  }
}

child_process::~child_process() {
  if (state_->process == -1) return;
  kill();
  wait();
}

void child_process::kill() {
  if (state_->process != -1) ::kill(state_->process, SIGKILL);
}

child_end child_process::wait() {
  const pid_t process = std::exchange(state_->process, -1);
  int status = 0;
  pid_t got = -1;
  while ((got = ::waitpid(process, &status, 0)) == -1 && errno == EINTR) {
  }
  if (got != process) fail("waitpid");
  child_end end;
  if (WIFSIGNALED(status))
    end.signal = WTERMSIG(status);
  else
    end.code = WEXITSTATUS(status);
  return end;
}

}  // namespace support
