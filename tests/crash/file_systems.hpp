#ifndef MAPIO_TESTS_CRASH_FILE_SYSTEMS_HPP
#define MAPIO_TESTS_CRASH_FILE_SYSTEMS_HPP

// File systems in memory: a place to mount them that vanishes with the process, images, loop
// devices, mounts. What the machine does not allow is reported as `unavailable`.

#include "../linux/linux_support.hpp"

#include <cstdint>
#include <filesystem>
#include <ostream>
#include <stdexcept>
#include <string>
#include <vector>

namespace crash {

namespace fs = std::filesystem;

/// Something that these tests need is not to be had on this machine.
class unavailable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class fs_type { ext4, xfs };

inline const char* name_of(fs_type type) {
  return type == fs_type::ext4 ? "ext4" : "xfs";
}

inline std::ostream& operator<<(std::ostream& out, fs_type type) {
  return out << name_of(type);
}

/// A file without a name, in memory.
class memory_file {
 public:
  explicit memory_file(std::uint64_t size);
  /// Copies a file; its holes stay holes.
  static memory_file copy_of(int file);

  int fd() const noexcept { return fd_.get(); }
  std::uint64_t size() const noexcept { return size_; }

 private:
  support::unique_fd fd_;
  std::uint64_t size_;
};

/// A folder in memory, mounted in a namespace of mounts of this process: mounts below it are seen
/// by nobody else, and are gone when this process and what it started are gone.
///
/// @throws unavailable
const fs::path& workspace();

/// The namespace of mounts in which this process was before.
int outer_namespace();

/// Makes an empty folder in the workspace.
fs::path new_folder(const std::string& name);

/// Runs a program to its end.
///
/// @throws unavailable if there is no such program; std::runtime_error with what it printed if it
/// fails.
void run_program(const std::vector<std::string>& command);

/// Makes an empty file system, in memory.
///
/// @throws unavailable
memory_file make_file_system(fs_type type);

/// A file system on a loop device on any file. Unmounted at the end; the kernel lets the loop
/// device go with the mount, whatever becomes of this process.
class mounted {
 public:
  enum class mode { read_write, read_only };

  /// @throws unavailable; std::system_error if it cannot be mounted.
  mounted(int backing_file, fs_type type, const fs::path& where, mode how = mode::read_write);
  mounted(const mounted&) = delete;
  mounted& operator=(const mounted&) = delete;
  ~mounted();

  const fs::path& path() const noexcept { return where_; }
  /// @throws std::system_error
  void unmount();

 private:
  fs::path where_;
  bool is_mounted_ = false;
};

/// Says what is missing for a file system on a disk by FUSE; empty if nothing is.
std::string why_impossible(fs_type type);

}  // namespace crash

#endif  // MAPIO_TESTS_CRASH_FILE_SYSTEMS_HPP
