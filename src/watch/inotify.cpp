#include "core/inline_executor.hpp"
#include "platform/file_systems.hpp"
#include "platform/posix.hpp"
#include "posix_looks.hpp"

#include <mapio/error.hpp>

#include <asio/posix/basic_stream_descriptor.hpp>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

MAPIO_NAMESPACE_BEGIN
namespace detail::watching {
namespace {

using platform::posix::last_error;

// Not in the headers of Debian 12, or in ones that do not go with those of glibc.
constexpr std::uint64_t resolve_cached = 0x20;
struct open_how {
  std::uint64_t flags;
  std::uint64_t mode;
  std::uint64_t resolve;
};
constexpr long fuse_magic = 0x65735546;
constexpr long ceph_magic = 0x00C36400;

constexpr std::uint32_t itself_mask = IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
constexpr std::uint32_t names_mask =
    itself_mask | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_EXCL_UNLINK;
constexpr std::uint32_t file_mask = IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF;

std::uint32_t mask_of(interest what) noexcept {
  switch (what) {
  case interest::names:
    return names_mask;
  case interest::folder:
    return names_mask | IN_MODIFY | IN_ATTRIB;
  case interest::itself:
    return itself_mask;
  case interest::file:
    break;
  }
  return file_mask;
}

std::uint32_t translate(std::uint32_t mask) noexcept {
  constexpr std::array<std::pair<std::uint32_t, std::uint32_t>, 10> names{{
      {IN_MODIFY, notice::modified},
      {IN_ATTRIB, notice::metadata},
      {IN_CREATE, notice::created},
      {IN_DELETE, notice::deleted},
      {IN_MOVED_FROM, notice::moved_from},
      {IN_MOVED_TO, notice::moved_to},
      {IN_DELETE_SELF | IN_MOVE_SELF, notice::self_is_gone},
      {IN_UNMOUNT, notice::self_is_gone},
      {IN_IGNORED, notice::ended},
      {IN_Q_OVERFLOW, notice::overflow},
  }};
  std::uint32_t what = 0;
  for (const auto& [from, to] : names)
    if ((mask & from) != 0) what |= to;
  return what;
}

file_look look_of(const struct statx& s) noexcept {
  const auto nanoseconds = [](const statx_timestamp& t) {
    return t.tv_sec * 1'000'000'000 + static_cast<std::int64_t>(t.tv_nsec);
  };
  file_look look;
  look.exists = true;
  look.is_folder = S_ISDIR(s.stx_mode);
  look.device = (std::uint64_t{s.stx_dev_major} << 32) | s.stx_dev_minor;
  look.inode = s.stx_ino;
  look.size = s.stx_size;
  look.modified = nanoseconds(s.stx_mtime);
  look.changed = nanoseconds(s.stx_ctime);
  if ((s.stx_mask & STATX_BTIME) != 0) look.born = nanoseconds(s.stx_btime);
  look.generation = look.born;
  look.mode = s.stx_mode;
  look.owners = (std::uint64_t{s.stx_uid} << 32) | s.stx_gid;
  return look;
}

/// False: errno says why.
bool ask(int folder, const char* name, int flags, file_look& look) noexcept {
  look = {};
  struct statx s {};
  if (::statx(folder, name, flags, STATX_BASIC_STATS | STATX_BTIME, &s) != 0) return false;
  look = look_of(s);
  return true;
}

class inotify_source final : public watch_source {
 public:
  inotify_source(asio::execution_context& context, std::function<void()> ready)
      : executor_(context), ready_(std::move(ready)) {}
  ~inotify_source() override {
    if (file_ >= 0) ::close(file_);
  }

  std::error_code set_up() noexcept {
    file_ = ::inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (file_ < 0) return last_error();
    // The reactor closes what it is given; others may be about to use this one.
    const int copy = ::fcntl(file_, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return last_error();
    asio::error_code error;
    readable_.emplace(executor_);
    static_cast<void>(readable_->assign(copy, error));
    if (error) ::close(copy);
    return error;
  }

  std::error_code add(const std::filesystem::path& path, interest what,
                      watch_id& id) noexcept override {
    const int got = ::inotify_add_watch(file_, path.c_str(), mask_of(what) | IN_MASK_ADD);
    if (got < 0) return last_error();
    id = got;
    return {};
  }

  void remove(watch_id id) noexcept override { static_cast<void>(::inotify_rm_watch(file_, id)); }

  bool read(std::vector<notice>& notices) override {
    const ssize_t n = ::read(file_, buffer_.data(), buffer_.size());
    if (n <= 0) return false;
    for (std::size_t at = 0; at < static_cast<std::size_t>(n);) {
      inotify_event event;
      std::memcpy(&event, buffer_.data() + at, sizeof event);
      at += sizeof event;
      notice& added = notices.emplace_back();
      added.id = event.wd;
      added.what = translate(event.mask);
      added.cookie = event.cookie;
      // Padded with zeros.
      if (event.len != 0) added.name = reinterpret_cast<const char*>(buffer_.data() + at);
      at += event.len;
    }
    return true;
  }

  void ask_for_all(watch_id) noexcept override {}
  bool has_told_all(watch_id) noexcept override { return true; }

  bool arm() noexcept override {
    if (!readable_) return false;
    try {
      readable_->async_wait(descriptor::wait_read, [this](const asio::error_code&) { ready_(); });
      return true;
    } catch (...) {
      return false;
    }
  }
  void disarm() noexcept override {
    asio::error_code ignored;
    if (readable_) static_cast<void>(readable_->cancel(ignored));
  }
  void shut_down() noexcept override { readable_.reset(); }

 private:
  using descriptor = asio::posix::basic_stream_descriptor<inline_executor>;

  const inline_executor executor_;
  const std::function<void()> ready_;
  int file_ = -1;
  std::optional<descriptor> readable_;
  alignas(inotify_event) std::array<std::byte, std::size_t{64} << 10> buffer_;
};

}  // namespace

std::unique_ptr<watch_source> make_watch_source(asio::execution_context& context,
                                                std::function<void()> ready) {
  auto source = std::make_unique<inotify_source>(context, std::move(ready));
  if (const std::error_code error = source->set_up()) return make_silent_source(error);
  return source;
}

bool may_change_unseen(const std::filesystem::path& path) noexcept {
  struct statfs s {};
  if (::statfs(path.c_str(), &s) != 0) return false;
  const long type = static_cast<long>(s.f_type) & 0xFFFFFFFFL;
  if (platform::is_network(type)) return true;
  switch (type) {
  case AFS_SUPER_MAGIC:
  case CODA_SUPER_MAGIC:
  case V9FS_MAGIC:
  case ceph_magic:
  case fuse_magic:
  case PROC_SUPER_MAGIC:
  case SYSFS_MAGIC:
    return true;
  default:
    return false;
  }
}

std::error_code look_at(int file, file_look& look) noexcept {
  return ask(file, "", AT_EMPTY_PATH, look) ? std::error_code() : last_error();
}

std::error_code look_from(int folder, const char* name, bool follow, file_look& look) noexcept {
  if (ask(folder, name, follow ? 0 : AT_SYMLINK_NOFOLLOW, look)) return {};
  return errno == ENOENT || errno == ENOTDIR ? std::error_code() : last_error();
}

bool look_at_once(const std::filesystem::path& path, bool follow, file_look& look) noexcept {
  // Before Linux 5.12 it is refused, and so it is for what is not in memory.
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW);
  how.resolve = resolve_cached;
  const auto file =
      static_cast<int>(::syscall(SYS_openat2, AT_FDCWD, path.c_str(), &how, sizeof how));
  look = {};
  if (file < 0) return errno == ENOENT;
  const bool is_seen = ask(file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, look);
  ::close(file);
  return is_seen;
}

}  // namespace detail::watching
MAPIO_NAMESPACE_END
