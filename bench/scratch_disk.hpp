#ifndef MAPIO_BENCH_SCRATCH_DISK_HPP
#define MAPIO_BENCH_SCRATCH_DISK_HPP

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace bench {

/// Says why there can be no scratch_disk here.
struct no_scratch_disk : std::runtime_error {
  using runtime_error::runtime_error;
};

struct scratch_options {
  std::uint64_t size = std::uint64_t{384} << 20;  // mkfs.xfs wants 300 MiB
  // Of the device; 0: whatever the kernel gives it. What is set is read past the page cache of the
  // file below, or that would read ahead as well.
  std::uint64_t readahead = 0;
};

/// A file system of one's own on a loop device, so that what is written to the device is known to
/// the byte. For root on Linux.
///
/// Nothing is left behind even by a process that is killed, but for empty directories: the file
/// below the device has no name any more, the device goes with the mount, and the mount with the
/// mount namespace of this process, which nobody else sees.
class scratch_disk {
 public:
  /// Makes a file system with mkfs.`type` in a file in `parent`, and mounts it at `parent`/`type`.
  scratch_disk(const std::filesystem::path& parent, const std::string& type,
               const scratch_options& how = {});
  scratch_disk(const scratch_disk&) = delete;
  scratch_disk& operator=(const scratch_disk&) = delete;
  ~scratch_disk();

  const std::filesystem::path& path() const noexcept { return mount_point_; }
  const std::string& type() const noexcept { return type_; }
  /// Returns how many bytes the device was asked to write so far.
  std::uint64_t bytes_written() const;

 private:
  std::string type_;
  std::filesystem::path mount_point_;
  std::string device_;  // its name in /proc/diskstats
};

/// Gives this process a mount namespace of its own; call while there is only one thread.
void leave_mount_namespace();

}  // namespace bench

#endif  // MAPIO_BENCH_SCRATCH_DISK_HPP
