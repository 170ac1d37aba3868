#include "scratch_disk.hpp"

#include <array>
#include <cerrno>
#include <fstream>
#include <memory>
#include <sstream>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sched.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

namespace bench {
namespace {

constexpr std::uint64_t sector = 512;  // of /proc/diskstats, whatever the device's

std::string reason(const std::string& what) {
  return what + ": " + std::system_category().message(errno);
}

class descriptor {
 public:
  descriptor(const std::filesystem::path& path, int flags)
      : value_(::open(path.c_str(), flags | O_CLOEXEC, 0600)) {
    if (value_ < 0) throw no_scratch_disk(reason(path.string()));
  }
  descriptor(const descriptor&) = delete;
  descriptor& operator=(const descriptor&) = delete;
  ~descriptor() { ::close(value_); }
  int get() const noexcept { return value_; }

 private:
  int value_;
};

void run(std::vector<std::string> command) {
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (std::string& argument : command)
    arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  pid_t child = 0;
  if (const int error =
          ::posix_spawnp(&child, arguments.front(), nullptr, nullptr, arguments.data(), environ);
      error != 0)
    throw no_scratch_disk(command.front() + ": " + std::system_category().message(error));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0) throw no_scratch_disk(command.front() + " failed");
}

std::vector<std::string> mkfs(const std::string& type, const std::filesystem::path& image) {
  if (type == "xfs") return {"mkfs.xfs", "-q", "-f", image};
  // As on a large disk. And what it leaves for later would be written while we count.
  return {"mkfs." + type, "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0",
          image};
}

struct loop_device {
  std::string name;
  std::unique_ptr<descriptor> user;
};

/// Attaches a file to a free loop device, which is detached when its last user is gone: a
/// descriptor, or a mount.
loop_device attach(const descriptor& image, std::uint64_t readahead) {
  const descriptor control("/dev/loop-control", O_RDWR);
  for (int attempt = 0; attempt < 100; ++attempt) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) throw no_scratch_disk(reason("/dev/loop-control"));
    const std::string name = "loop" + std::to_string(number);
    auto device = std::make_unique<descriptor>("/dev/" + name, O_RDWR);
    loop_config config{};
    config.fd = static_cast<__u32>(image.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR | (readahead != 0 ? LO_FLAGS_DIRECT_IO : 0);
    if (::ioctl(device->get(), LOOP_CONFIGURE, &config) == 0) {
      if (readahead != 0 && ::ioctl(device->get(), BLKRASET, readahead / sector) != 0)
        throw no_scratch_disk(reason("read-ahead of /dev/" + name));
      return {name, std::move(device)};
    }
    // Somebody was faster.
    if (errno != EBUSY) throw no_scratch_disk(reason("/dev/" + name));
  }
  throw no_scratch_disk("no loop device is free");
}

}  // namespace

void leave_mount_namespace() {
  if (::unshare(CLONE_NEWNS) != 0) throw no_scratch_disk(reason("unshare"));
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    throw no_scratch_disk(reason("mount"));
}

scratch_disk::scratch_disk(const std::filesystem::path& parent, const std::string& type,
                           const scratch_options& how)
    : type_(type), mount_point_(std::filesystem::absolute(parent) / type) {
  const std::filesystem::path image = mount_point_.string() + ".image";
  const descriptor file(image, O_RDWR | O_CREAT | O_EXCL);
  if (::ftruncate(file.get(), static_cast<off_t>(how.size)) != 0)
    throw no_scratch_disk(reason(image.string()));
  run(mkfs(type, image));
  std::filesystem::create_directory(mount_point_);
  const loop_device attached = attach(file, how.readahead);
  device_ = attached.name;
  const std::string device = "/dev/" + device_;
  if (::mount(device.c_str(), mount_point_.c_str(), type.c_str(), MS_NOATIME, nullptr) != 0)
    throw no_scratch_disk(reason("mount of " + device));
  std::filesystem::remove(image);
}

scratch_disk::~scratch_disk() {
  ::umount2(mount_point_.c_str(), MNT_DETACH);
}

std::uint64_t scratch_disk::bytes_written() const {
  std::ifstream all("/proc/diskstats");
  for (std::string line; std::getline(all, line);) {
    std::istringstream fields(line);
    std::string major;
    std::string minor;
    std::string name;
    std::array<std::uint64_t, 7> numbers{};  // the seventh: sectors written
    fields >> major >> minor >> name;
    for (std::uint64_t& number : numbers)
      fields >> number;
    if (fields && name == device_) return numbers.back() * sector;
  }
  throw std::runtime_error("/proc/diskstats does not know " + device_);
}

}  // namespace bench
