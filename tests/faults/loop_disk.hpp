#ifndef MAPIO_TESTS_FAULTS_LOOP_DISK_HPP
#define MAPIO_TESTS_FAULTS_LOOP_DISK_HPP

// A disk that ends in the middle: an ext4 in a file, mounted where only one thread and what it
// starts can see it. What lies behind the place where the file is cut cannot be read. It vanishes
// with them, even after a crash.

#include "private_mount.hpp"

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace faults {

/// Makes a file system of `bytes`, by a command, in the new file `image`, mounts it on the folder
/// `where` and runs `body`; false where that is not allowed, or where there is no loop device or no
/// such command.
inline bool on_loop_disk(const std::filesystem::path& image, const std::filesystem::path& where,
                         std::size_t bytes, const std::function<void()>& body,
                         const std::string& make_files = "mkfs.ext4 -q -F -O ^has_journal") {
  return with_private_mounts([&] {
    std::ofstream(image).close();
    std::filesystem::resize_file(image, bytes);
    // Direct: a loop device that goes through the page cache takes what it cannot read for zeros.
    // Let go of at once, it goes with the mount.
    const std::string make = "exec >/dev/null 2>&1; " + make_files + " '" + image.string() +
                             "' && d=$(losetup -f --show --direct-io=on '" + image.string() +
                             "') && { mount \"$d\" '" + where.string() +
                             "'; s=$?; losetup -d \"$d\"; exit $s; }";
    if (std::system(make.c_str()) != 0) return false;
    body();
    return true;
  });
}

/// Cuts `image` where byte `position` of `file` is, which must be on the disk already, and drops
/// what the kernel has of it in memory; false if that cannot be done.
inline bool cut_disk_under(const std::filesystem::path& image, const std::filesystem::path& file,
                           std::uint64_t position) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  // FIBMAP takes and gives ints.
  int block_size = 0;
  int block = 0;
  bool known = fd >= 0 && ::fsync(fd) == 0 && ::ioctl(fd, FIGETBSZ, &block_size) == 0;
  if (known) {
    block = static_cast<int>(position / static_cast<std::uint64_t>(block_size));
    known = ::ioctl(fd, FIBMAP, &block) == 0 && block > 0;
  }
  if (fd >= 0) ::close(fd);
  if (!known) return false;
  ::sync();
  std::filesystem::resize_file(image, static_cast<std::uint64_t>(block) *
                                          static_cast<std::uint64_t>(block_size));
  std::ofstream drop("/proc/sys/vm/drop_caches");
  drop << "1\n";
  drop.close();
  return static_cast<bool>(drop);
}

}  // namespace faults

#endif  // MAPIO_TESTS_FAULTS_LOOP_DISK_HPP
