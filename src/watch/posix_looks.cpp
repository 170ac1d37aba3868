#include "posix_looks.hpp"

#include "platform/posix.hpp"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <functional>
#include <new>
#include <thread>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

MAPIO_NAMESPACE_BEGIN
namespace detail::watching {
namespace {

using platform::posix::last_error;

std::int64_t now(clockid_t clock) noexcept {
  timespec t{};
  ::clock_gettime(clock, &t);
  return nanoseconds(t);
}

}  // namespace

std::size_t name_hash::operator()(const file_name& name) const noexcept {
  return std::hash<file_name>()(name);
}

bool same_name::operator()(const file_name& a, const file_name& b) const noexcept {
  return a == b;
}

std::error_code look_at(const std::filesystem::path& path, bool follow, file_look& look) noexcept {
  return look_from(AT_FDCWD, path.c_str(), follow, look);
}

// The times of files move in ticks, but may be ahead of the tick where somebody asks for them often
// (Linux 6.13).
std::int64_t file_clock() noexcept {
  return now(CLOCK_REALTIME);
}

void let_pass(std::int64_t time) noexcept {
#if defined(CLOCK_REALTIME_COARSE)
  constexpr clockid_t ticks = CLOCK_REALTIME_COARSE;
#else
  constexpr clockid_t ticks = CLOCK_REALTIME;
#endif
  // Unless somebody sets the clock back.
  while (now(ticks) <= time && now(CLOCK_REALTIME) >= time)
    std::this_thread::sleep_for(std::chrono::microseconds(500));
}

struct folder_reader::state {
  ~state() {
    if (folder != nullptr) ::closedir(folder);
  }
  DIR* folder = nullptr;
};

folder_reader::folder_reader() noexcept = default;
folder_reader::~folder_reader() = default;

std::error_code folder_reader::open(const std::filesystem::path& folder, bool follow) noexcept {
  close();
  const int fd =
      ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW));
  if (fd < 0) return last_error();
  std::unique_ptr<state> s(new (std::nothrow) state);
  if (s) s->folder = ::fdopendir(fd);
  if (!s || s->folder == nullptr) {
    const std::error_code error = last_error();
    ::close(fd);
    return error;
  }
  state_ = std::move(s);
  return {};
}

bool folder_reader::is_open() const noexcept {
  return state_ != nullptr;
}

std::error_code folder_reader::look_at_itself(file_look& look) const noexcept {
  return look_from(::dirfd(state_->folder), ".", false, look);
}

void folder_reader::close() noexcept {
  state_.reset();
}

bool folder_reader::next(file_name& name, file_look& look, std::error_code& error) {
  for (;;) {
    errno = 0;
    const dirent* const e = ::readdir(state_->folder);
    if (e == nullptr) {
      if (errno != 0) error = last_error();
      return false;
    }
    if (std::strcmp(e->d_name, ".") == 0 || std::strcmp(e->d_name, "..") == 0) continue;
    name = e->d_name;
    // What cannot be looked at is there all the same.
    if (look_from(::dirfd(state_->folder), e->d_name, false, look)) look = unseen_look();
    if (look.exists) return true;
  }
}

}  // namespace detail::watching
MAPIO_NAMESPACE_END
