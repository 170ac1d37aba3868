#include "file_systems.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace crash {

namespace {

[[noreturn]] void fail(const std::string& what, int error = errno) {
  throw std::system_error(error, std::system_category(), what);
}

// Errors that mean "not here", not "broken".
bool is_refusal(int error) {
  return error == EPERM || error == EACCES || error == ENOENT || error == ENODEV ||
         error == ENXIO || error == ENOSYS;
}

[[noreturn]] void refuse_or_fail(const std::string& what, int error = errno) {
  if (is_refusal(error)) throw unavailable(what + ": " + std::strerror(error));
  fail(what, error);
}

// The folder of the workspace, for the signal handler.
char workspace_path[PATH_MAX];

void remove_workspace() noexcept {
  if (workspace_path[0] == '\0') return;
  // Lazily: what is mounted below goes when its last user goes.
  ::umount2(workspace_path, MNT_DETACH);
  ::rmdir(workspace_path);
}

void on_end(int signal) {
  remove_workspace();
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

class private_workspace {
 public:
  private_workspace() {
    if (::geteuid() != 0) throw unavailable("mounting needs root");
    outside_ = support::open_fd("/proc/self/ns/mnt", O_RDONLY);
    if (::unshare(CLONE_NEWNS) != 0) refuse_or_fail("a mount namespace (unshare)");
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
      refuse_or_fail("private mounts (mount)");
    folder_.emplace();
    if (::mount("tmpfs", folder_->path().c_str(), "tmpfs", 0, nullptr) != 0)
      refuse_or_fail("a tmpfs (mount)");
    std::strncpy(workspace_path, folder_->path().c_str(), sizeof workspace_path - 1);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGABRT})
      ::signal(signal, on_end);
  }
  ~private_workspace() {
    remove_workspace();
    workspace_path[0] = '\0';
  }

  const fs::path& path() const { return folder_->path(); }
  int outside() const { return outside_.get(); }

 private:
  support::unique_fd outside_;
  std::optional<support::temp_dir> folder_;
};

// Of the thread that comes first, and of the threads and processes that it starts later: the main
// thread, in the first test.
const private_workspace& the_workspace() {
  static const private_workspace only;
  return only;
}

}  // namespace

const fs::path& workspace() {
  return the_workspace().path();
}

int outer_namespace() {
  return the_workspace().outside();
}

fs::path new_folder(const std::string& name) {
  std::string path = (workspace() / (name + "-XXXXXX")).string();
  if (::mkdtemp(path.data()) == nullptr) fail("mkdtemp " + path);
  return path;
}

// --- files in memory
// ------------------------------------------------------------------------------

memory_file::memory_file(std::uint64_t size)
    : fd_(::memfd_create("mapio-crash", MFD_CLOEXEC)), size_(size) {
  if (fd_.get() < 0) fail("memfd_create");
  if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) fail("ftruncate");
}

memory_file memory_file::copy_of(int file) {
  struct stat status {};
  if (::fstat(file, &status) != 0) fail("fstat");
  memory_file copy(static_cast<std::uint64_t>(status.st_size));
  std::vector<char> piece(std::size_t{1} << 20);
  off_t at = 0;
  while ((at = ::lseek(file, at, SEEK_DATA)) >= 0) {
    const off_t end = ::lseek(file, at, SEEK_HOLE);
    while (at < end) {
      const std::size_t n = std::min(piece.size(), static_cast<std::size_t>(end - at));
      if (::pread(file, piece.data(), n, at) != static_cast<ssize_t>(n)) fail("pread");
      if (::pwrite(copy.fd(), piece.data(), n, at) != static_cast<ssize_t>(n)) fail("pwrite");
      at += static_cast<off_t>(n);
    }
  }
  return copy;
}

// --- programs
// -------------------------------------------------------------------------------------

void run_program(const std::vector<std::string>& command) {
  const fs::path output = workspace() / "output";
  const auto out = support::open_fd(output, O_WRONLY | O_CREAT | O_TRUNC);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out.get(), STDERR_FILENO);
  std::vector<char*> arguments;
  for (const std::string& word : command)
    arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_t pid = -1;
  int error = ENOENT;
  // Not everybody's PATH has the folders of the administrator.
  for (const char* folder : {"/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/"}) {
    const std::string program = folder + command.front();
    error = ::posix_spawn(&pid, program.c_str(), &actions, nullptr, arguments.data(), environ);
    if (error != ENOENT) break;
  }
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) refuse_or_fail(command.front(), error);
  const support::child_end end = support::wait_for_child(pid);
  if (!end.ok()) throw std::runtime_error(command.front() + ": " + support::read_file(output));
}

memory_file make_file_system(fs_type type) {
  const fs::path image = workspace() / "image";
  const auto make = [&](std::uint64_t size, const std::vector<std::string>& command) {
    const auto file = support::open_fd(image, O_RDWR | O_CREAT | O_TRUNC);
    if (::ftruncate(file.get(), static_cast<off_t>(size)) != 0) fail("ftruncate");
    auto whole = command;
    whole.push_back(image.string());
    run_program(whole);
    memory_file made = memory_file::copy_of(file.get());
    fs::remove(image);
    return made;
  };
  constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;
  if (type == fs_type::ext4)
    return make(64 * mebibyte, {"mkfs.ext4", "-q", "-F", "-b", "4096", "-N", "512", "-J", "size=4",
                                "-E", "nodiscard,lazy_itable_init=1"});
  try {
    return make(64 * mebibyte, {"mkfs.xfs", "-q", "-f", "-K", "--unsupported"});
  } catch (const std::runtime_error&) {
    // Older ones do not know the option, and do not need it. Newer ones may drop it.
  }
  try {
    return make(64 * mebibyte, {"mkfs.xfs", "-q", "-f", "-K"});
  } catch (const std::runtime_error&) {
    return make(320 * mebibyte, {"mkfs.xfs", "-q", "-f", "-K"});
  }
}

// --- mounts
// ---------------------------------------------------------------------------------------

namespace {

struct loop_device {
  support::unique_fd device;
  std::string path;
};

loop_device attach(int backing_file) {
  const support::unique_fd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (control.get() < 0) refuse_or_fail("/dev/loop-control");
  for (int attempt = 0; attempt < 100; ++attempt) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) refuse_or_fail("a free loop device");
    loop_device result;
    result.path = "/dev/loop" + std::to_string(number);
    result.device.reset(::open(result.path.c_str(), O_RDWR | O_CLOEXEC));
    if (result.device.get() < 0) refuse_or_fail(result.path);
    loop_config config{};
    config.fd = static_cast<std::uint32_t>(backing_file);
    config.block_size = 512;
    // The kernel detaches it when the last one closes it: nothing stays behind after a crash.
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
    if (::ioctl(result.device.get(), LOOP_CONFIGURE, &config) == 0) return result;
    if (errno != EBUSY) refuse_or_fail("LOOP_CONFIGURE");
    // Somebody else took it in between.
  }
  throw std::runtime_error("no loop device to be had");
}

}  // namespace

mounted::mounted(int backing_file, fs_type type, const fs::path& where, mode how) : where_(where) {
  const loop_device loop = attach(backing_file);
  unsigned long flags = MS_NOATIME;
  if (how == mode::read_only) flags |= MS_RDONLY;
  // The same file system may be mounted twice at a time. ext4 must write nothing of its own accord.
  const char* const options = type == fs_type::xfs ? "nouuid" : "noinit_itable";
  if (::mount(loop.path.c_str(), where.c_str(), name_of(type), flags, options) != 0) {
    if (errno == ENODEV) throw unavailable(std::string("the kernel has no ") + name_of(type));
    fail(std::string("mount ") + name_of(type));
  }
  is_mounted_ = true;
}

void mounted::unmount() {
  if (!std::exchange(is_mounted_, false)) return;
  // Somebody may hold a file for another moment, an engine that closes off the loop for example.
  for (int attempt = 0; attempt < 2000; ++attempt) {
    if (::umount2(where_.c_str(), 0) == 0) return;
    if (errno != EBUSY) fail("umount " + where_.string());
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ::umount2(where_.c_str(), MNT_DETACH);
  fail("umount " + where_.string(), EBUSY);
}

mounted::~mounted() {
  try {
    unmount();
  } catch (const std::exception& e) {
    ADD_FAILURE() << e.what();
  }
}

std::string why_impossible(fs_type type) {
  try {
    const support::unique_fd fuse(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
    if (fuse.get() < 0) refuse_or_fail("/dev/fuse");
    const memory_file image = make_file_system(type);
    const mounted probe(image.fd(), type, new_folder("probe"));
  } catch (const unavailable& e) {
    return e.what();
  }
  return {};
}

}  // namespace crash
