#ifndef MAPIO_TESTS_SUPPORT_HPP
#define MAPIO_TESTS_SUPPORT_HPP

// What several test programs share: scratch folders, files with known bytes, children, a watchdog
// for tests that hang, and running a coroutine to its end.

#include "sanitizers.hpp"

#include <mapio/mapio.hpp>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <ostream>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <grp.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

namespace support {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

/// How long anything may take before a test gives up on it; never the time that a test waits on
/// purpose.
inline constexpr std::chrono::seconds patience{60};

inline std::size_t page() {
  return mapio::page_size();
}

/// Ends the program when a single test hangs: a blocked thread cannot be given up on in any other
/// way.
class watchdog : public testing::EmptyTestEventListener {
 public:
  // Below what ctest allows, with and without a sanitizer.
  static constexpr unsigned seconds = under_tsan || under_asan ? 500 : 200;

  static void arm() {
    std::signal(SIGALRM, [](int) {
      static constexpr char message[] = "\nwatchdog: the test hangs\n";
      static_cast<void>(!::write(STDERR_FILENO, message, sizeof message - 1));
      ::_exit(124);
    });
    ::alarm(seconds);
  }

 private:
  void OnTestStart(const testing::TestInfo&) override {
    arm();
  }  // NOLINT(readability-identifier-naming)
  void OnTestEnd(const testing::TestInfo&) override {
    ::alarm(0);
  }  // NOLINT(readability-identifier-naming)
};

inline const bool watchdog_installed = [] {
  testing::UnitTest::GetInstance()->listeners().Append(new watchdog);
  return true;
}();

/// A folder that goes away with its content.
class temp_dir {
 public:
  explicit temp_dir(const fs::path& parent = fs::temp_directory_path()) {
    std::string name = (parent / "mapio-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr)
      throw std::system_error(errno, std::system_category(), "mkdtemp " + name);
    path_ = name;
  }
  temp_dir(const temp_dir&) = delete;
  temp_dir& operator=(const temp_dir&) = delete;
  ~temp_dir() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  const fs::path& path() const noexcept { return path_; }
  fs::path operator/(std::string_view name) const { return path_ / name; }

 private:
  fs::path path_;
};

/// A file descriptor that is closed at the end.
class unique_fd {
 public:
  explicit unique_fd(int fd = -1) noexcept : fd_(fd) {}
  unique_fd(unique_fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  unique_fd& operator=(unique_fd&& other) noexcept {
    reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~unique_fd() { reset(); }

  int get() const noexcept { return fd_; }
  int release() noexcept { return std::exchange(fd_, -1); }
  void reset(int fd = -1) noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_;
};

inline unique_fd open_fd(const fs::path& path, int flags, mode_t mode = 0600) {
  unique_fd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (fd.get() < 0) throw std::system_error(errno, std::system_category(), path.string());
  return fd;
}

inline bool is_open_descriptor(int fd) {
  return ::fcntl(fd, F_GETFD) != -1;
}

/// The numbers of all open file descriptors of this process.
inline std::set<int> open_descriptors() {
  std::set<int> numbers;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd"))
    numbers.insert(std::stoi(entry.path().filename().string()));
  // The iterator had one of its own, which is closed by now.
  std::erase_if(numbers, [](int fd) { return !is_open_descriptor(fd); });
  return numbers;
}

/// Bytes that are never zero and differ from place to place, so that shifted or missing data shows.
inline std::string pattern(std::size_t size, std::uint64_t seed = 1) {
  std::string bytes(size, '\0');
  for (std::size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<char>(1 + (i * 7 + (i >> 8) * 31 + seed * 101) % 255);
  return bytes;
}

inline void write_file(const fs::path& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out) throw std::runtime_error("cannot write " + path.string());
}

inline std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  // Not byte by byte, for which a sanitizer takes its time; and some files do not say their size.
  std::string bytes;
  std::string piece(std::size_t{64} << 10, '\0');
  do {
    in.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    bytes.append(piece, 0, static_cast<std::size_t>(in.gcount()));
  } while (in);
  return bytes;
}

/// Compares bytes; says where they differ instead of printing all of them.
inline testing::AssertionResult same(std::string_view actual, std::string_view expected) {
  if (actual == expected) return testing::AssertionSuccess();
  const auto common = std::min(actual.size(), expected.size());
  const auto at = static_cast<std::size_t>(
      std::mismatch(actual.begin(), actual.begin() + static_cast<std::ptrdiff_t>(common),
                    expected.begin())
          .first -
      actual.begin());
  const auto byte = [at](std::string_view bytes) {
    return at < bytes.size() ? std::to_string(static_cast<unsigned char>(bytes[at]))
                             : std::string("the end");
  };
  return testing::AssertionFailure()
         << "byte " << at << " is " << byte(actual) << " instead of " << byte(expected) << "; "
         << actual.size() << " bytes instead of " << expected.size();
}

/// Cuts or extends a file behind the library's back.
inline void truncate_file(const fs::path& path, std::uint64_t size) {
  if (::truncate(path.c_str(), static_cast<off_t>(size)) != 0)
    throw std::system_error(errno, std::system_category(), "truncate");
}

/// Writes a file out and throws its pages out of memory; false where the file system cannot.
inline bool evict(const fs::path& path) {
  const unique_fd fd = open_fd(path, O_RDONLY);
  struct statfs what {};
  if (::fstatfs(fd.get(), &what) != 0 || what.f_type == TMPFS_MAGIC) return false;
  return ::fsync(fd.get()) == 0 && ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED) == 0;
}

/// Tells whether reading without waiting works, and so whether residency can be found out without
/// mincore: not on tmpfs, and not on an overlay.
inline bool tells_cached_pages(const fs::path& path) {
  const unique_fd fd = open_fd(path, O_RDONLY);
  char byte = 0;
  const iovec vector{&byte, 1};
  return ::pread(fd.get(), &byte, 1, 0) == 1 && ::preadv2(fd.get(), &vector, 1, 0, RWF_NOWAIT) == 1;
}

/// How many pages of a file the disk does not have yet, by cachestat, which sees none before Linux
/// 6.5, and on an overlay.
inline std::uint64_t unwritten_pages(const fs::path& path) {
  constexpr long cachestat = 451;
  const unique_fd fd = open_fd(path, O_RDWR);
  const std::array<std::uint64_t, 2> all{0, 0};
  std::array<std::uint64_t, 5> counts{};
  const bool told = ::syscall(cachestat, fd.get(), all.data(), counts.data(), 0) == 0;
  return told ? counts[1] + counts[2] : 0;  // dirty, and being written
}

/// Tells whether cachestat sees the dirty pages of a file that has some.
inline bool tells_dirty_pages(const fs::path& path) {
  return unwritten_pages(path) != 0;
}

/// A second, independent MAP_SHARED mapping of a file: what another program would have.
class foreign_mapping {
 public:
  foreign_mapping(const fs::path& path, std::size_t length, int protection = PROT_READ | PROT_WRITE)
      : length_(length) {
    const unique_fd fd = open_fd(path, (protection & PROT_WRITE) != 0 ? O_RDWR : O_RDONLY);
    void* at = ::mmap(nullptr, length, protection, MAP_SHARED, fd.get(), 0);
    if (at == MAP_FAILED) throw std::system_error(errno, std::system_category(), "mmap");
    data_ = static_cast<char*>(at);
  }
  foreign_mapping(const foreign_mapping&) = delete;
  foreign_mapping& operator=(const foreign_mapping&) = delete;
  ~foreign_mapping() { ::munmap(data_, length_); }

  char* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return length_; }

 private:
  char* data_ = nullptr;
  std::size_t length_;
};

/// Counts the mappings of this file in this process.
inline int count_mappings(const fs::path& path) {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);)
    if (line.find(path.string()) != std::string::npos) ++count;
  return count;
}
inline bool is_mapped(const fs::path& path) {
  return count_mappings(path) != 0;
}

/// Waits for something that another thread is about to bring about; false if it never comes.
template <class Condition>
bool eventually(Condition condition, std::chrono::seconds limit = patience) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

/// Sanitizers make mlock do nothing.
inline constexpr bool locks_work = !under_asan && !under_tsan;

/// Expects that so much of this process is locked into memory, as soon as what is unmapped
/// elsewhere is gone.
inline void expect_locked(std::uint64_t bytes) {
  if (!locks_work) return;
  std::uint64_t locked = 0;
  const bool is_so = eventually([&] {
    std::ifstream status("/proc/self/status");
    std::string line;
    while (std::getline(status, line) && !line.starts_with("VmLck:")) {
    }
    locked = 1024 * std::stoull(line.substr(6));
    return locked == bytes;
  });
  EXPECT_TRUE(is_so) << locked << " bytes are locked, not " << bytes;
}

/// The code of the std::system_error that `body` throws; no error if it throws nothing.
template <class Body>
std::error_code code_of(Body&& body) {
  try {
    std::forward<Body>(body)();
  } catch (const std::system_error& e) {
    return e.code();
  }
  return {};
}

/// How a child process ended.
struct child_end {
  int status = 0;

  bool exited_with(int code) const { return WIFEXITED(status) && WEXITSTATUS(status) == code; }
  bool ok() const { return exited_with(0); }
  bool killed_by(int signal) const { return WIFSIGNALED(status) && WTERMSIG(status) == signal; }

  friend std::ostream& operator<<(std::ostream& out, const child_end& end) {
    if (WIFSIGNALED(end.status)) return out << "killed by signal " << WTERMSIG(end.status);
    return out << "exit status " << WEXITSTATUS(end.status);
  }
};

inline child_end wait_for_child(pid_t pid) {
  child_end end;
  pid_t got = -1;
  while ((got = ::waitpid(pid, &end.status, 0)) == -1 && errno == EINTR) {
  }
  if (got != pid) throw std::system_error(errno, std::system_category(), "waitpid");
  return end;
}

/// Runs `body` and ends the process; its status is 1 if an expectation failed.
template <class Body>
[[noreturn]] void run_and_exit(Body body) {
  int code = 0;
  try {
    watchdog::arm();
    body();
    code = testing::Test::HasFailure() ? 1 : 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "child: %s\n", e.what());
    code = 2;
  }
  std::cout.flush();
  std::fflush(nullptr);
  ::_exit(code);
}

/// Runs `body` in a forked child, which never returns.
template <class Body>
pid_t start_child(Body body) {
  std::cout.flush();
  std::fflush(nullptr);
  const pid_t pid = ::fork();
  if (pid == -1) throw std::system_error(errno, std::system_category(), "fork");
  if (pid == 0) run_and_exit(std::move(body));
  return pid;
}

template <class Body>
child_end in_child(Body body) {
  return wait_for_child(start_child(std::move(body)));
}

/// Gives up all that distinguishes root from others; for children.
inline void become_nobody() {
  constexpr uid_t nobody = 65534;
  if (::setgroups(0, nullptr) != 0 || ::setresgid(nobody, nobody, nobody) != 0 ||
      ::setresuid(nobody, nobody, nobody) != 0)
    throw std::system_error(errno, std::system_category(), "setresuid");
}

/// Runs `body` in a new process that has done nothing before: this program once more, with only the
/// current test, which comes here again and goes no further. Once per test.
template <class Body>
child_end in_fresh_process(Body body) {
  static constexpr const char* marker = "MAPIO_TEST_FRESH_PROCESS";
  if (std::getenv(marker) != nullptr) run_and_exit(std::move(body));
  const auto* const info = testing::UnitTest::GetInstance()->current_test_info();
  const std::string filter =
      std::string("--gtest_filter=") + info->test_suite_name() + "." + info->name();
  std::cout.flush();
  std::fflush(nullptr);
  const pid_t pid = ::fork();
  if (pid == -1) throw std::system_error(errno, std::system_category(), "fork");
  if (pid == 0) {
    ::setenv(marker, "1", 1);
    ::execl("/proc/self/exe", "test", filter.c_str(), "--gtest_brief=1",
            static_cast<char*>(nullptr));
    ::_exit(126);
  }
  return wait_for_child(pid);
}

/// Runs `body` where permissions count: in a child without privileges if this is root. The folder
/// must let it in.
template <class Body>
void as_ordinary_user(Body body) {
  if (::geteuid() != 0) {
    body();
    return;
  }
  const child_end end = in_child([&] {
    constexpr unsigned nobody = 65534;
    if (::setresgid(nobody, nobody, nobody) != 0 || ::setresuid(nobody, nobody, nobody) != 0)
      throw std::system_error(errno, std::system_category(), "setresuid");
    body();
  });
  EXPECT_TRUE(end.ok()) << end;
}

/// Sets or unsets a variable of the environment until the end of the scope.
class scoped_environment {
 public:
  scoped_environment(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) {
      had_ = true;
      before_ = before;
    }
    set(value);
  }
  scoped_environment(const scoped_environment&) = delete;
  scoped_environment& operator=(const scoped_environment&) = delete;
  ~scoped_environment() { set(had_ ? before_.c_str() : nullptr); }

 private:
  void set(const char* value) {
    if (value != nullptr)
      ::setenv(name_.c_str(), value, 1);
    else
      ::unsetenv(name_.c_str());
  }

  std::string name_;
  bool had_ = false;
  std::string before_;
};

// --- options that tests use again and again
// ---------------------------------------------------------

inline mapio::open_options read_only() {
  return {};
}

inline mapio::open_options read_write() {
  mapio::open_options options;
  options.mode = mapio::access::read_write;
  return options;
}

inline mapio::open_options copy_on_write() {
  mapio::open_options options;
  options.mode = mapio::access::copy_on_write;
  return options;
}

inline mapio::open_options
creating(std::uint64_t size, mapio::disposition how = mapio::disposition::create_or_truncate) {
  mapio::open_options options = read_write();
  options.create = how;
  options.size = size;
  return options;
}

inline std::string read_all(const mapio::mapping& m) {
  std::string bytes(static_cast<std::size_t>(m.size()), '\0');
  m.read_into(0, asio::buffer(bytes));
  return bytes;
}

/// The bytes as text, also of a temporary region, which lives to the end of the full expression.
inline std::string to_string(const mapio::region& r) {
  return std::string(r.text());
}

/// Tells whether this platform knows at all what is in memory.
inline bool tells_residency() {
  static const bool tells = [] {
    const temp_dir dir;
    write_file(dir / "file", "text");
    std::error_code error;
    static_cast<void>(mapio::mapping(dir / "file").is_resident(0, 1, error));
    return error != mapio::errc::unsupported;
  }();
  return tells;
}

// --- coroutines
// ---------------------------------------------------------------------------------------

/// The token that puts the error of an awaited verb into `error` instead of throwing it.
inline auto into(std::error_code& error) {
  return asio::redirect_error(asio::use_awaitable, error);
}

/// Runs handlers until `condition` holds; false if that takes too long.
///
/// A thread that lets go of the last work of a turn before may stop the context only now: to be
/// stopped is not to be at the end.
template <class Condition>
bool run_until(asio::io_context& io, Condition condition) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    io.restart();
    if (io.run_one_until(end) == 0) std::this_thread::sleep_for(1ms);
  }
  return true;
}

/// Runs everything that is outstanding; false if something is still outstanding when patience is
/// over.
inline bool run_to_end(asio::io_context& io) {
  // Twice, for the reason above.
  for (int idle = 0; idle < 2;) {
    io.restart();
    idle = io.run_for(patience) == 0 ? idle + 1 : 0;
    if (!io.stopped()) return false;
  }
  return true;
}

/// Runs one coroutine to its end, and throws what it throws. `body` is a function object without
/// arguments that stays alive meanwhile: a lambda with captures is fine here.
template <class Body>
void run_coroutine(asio::io_context& io, Body body) {
  std::exception_ptr failure;
  bool finished = false;
  asio::co_spawn(io, body(), [&](std::exception_ptr e) {
    failure = std::move(e);
    finished = true;
  });
  if (!run_until(io, [&] { return finished; })) {
    std::fprintf(stderr, "run_coroutine: the coroutine never ends\n");
    std::abort();  // it refers to what is about to go
  }
  if (failure) std::rethrow_exception(failure);
}

/// An engine that was asked for by the environment.
inline bool engine_is_forced() {
  return std::getenv("MAPIO_BACKEND") != nullptr;
}

}  // namespace support

#endif  // MAPIO_TESTS_SUPPORT_HPP
