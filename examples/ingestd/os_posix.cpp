#include "os.hpp"

#include <mapio/mapping.hpp>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <system_error>

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace ingestd::os {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* what) {
  throw std::system_error(errno, std::system_category(),
                          fmt::format("{}: {}", path.string(), what));
}

/// A file descriptor that is closed at the end.
class descriptor {
 public:
  descriptor(const std::filesystem::path& path, int flags) noexcept
      : number_(::open(path.c_str(), flags | O_CLOEXEC, 0600)) {}
  descriptor(const descriptor&) = delete;
  descriptor& operator=(const descriptor&) = delete;
  ~descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int get() const noexcept { return number_; }
  int release() noexcept {
    const int number = number_;
    number_ = -1;
    return number;
  }

 private:
  int number_;
};

const char* why_it_ends = "";

extern "C" void on_unreadable_page(int signal, siginfo_t* info, void* context) {
  if (mapio::handle_fault(signal, info, context)) return;
  // Nothing is left to do if that fails.
  static_cast<void>(::write(STDERR_FILENO, why_it_ends, std::strlen(why_it_ends)) == 0);
  ::_exit(1);
}

}  // namespace

std::optional<native_handle> open_locked(const std::filesystem::path& path) {
  descriptor file(path, O_RDWR | O_CREAT);
  if (file.get() < 0) fail(path, "open");
  if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0) return file.release();
  if (errno != EWOULDBLOCK) fail(path, "flock");
  return std::nullopt;
}

void close(native_handle file) noexcept {
  ::close(file);
}

bool replace_content(native_handle file, const std::string& text) noexcept {
  return ::ftruncate(file, 0) == 0 && ::pwrite(file, text.data(), text.size(), 0) >= 0;
}

std::uint64_t size_of(native_handle file) {
  struct stat now {};
  if (::fstat(file, &now) != 0) throw std::system_error(errno, std::system_category(), "fstat");
  return static_cast<std::uint64_t>(now.st_size);
}

void sync(native_handle file, const std::filesystem::path& path) {
  if (::fdatasync(file) != 0) fail(path, "fdatasync");
}

void sync_directory(const std::filesystem::path& directory) {
  const descriptor file(directory, O_RDONLY | O_DIRECTORY);
  if (file.get() < 0) fail(directory, "open");
  if (::fsync(file.get()) != 0) fail(directory, "fsync");
}

std::error_code drop_clean_pages(const std::filesystem::path& path) noexcept {
  const descriptor file(path, O_RDONLY);
  if (file.get() < 0) return {errno, std::system_category()};
  return {::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED), std::system_category()};
}

unsigned process_id() noexcept {
  return static_cast<unsigned>(::getpid());
}

bool is_terminal_output() noexcept {
  return ::isatty(STDOUT_FILENO) == 1;
}

void end_when_unreadable(const char* message) {
  why_it_ends = message;
  struct sigaction action {};
  action.sa_sigaction = on_unreadable_page;
  action.sa_flags = SA_SIGINFO;
  if (::sigaction(SIGBUS, &action, nullptr) != 0)
    throw std::system_error(errno, std::system_category(), "sigaction");
}

}  // namespace ingestd::os
