#ifndef MAPIO_TESTS_CRASH_LOGGED_DEVICE_HPP
#define MAPIO_TESTS_CRASH_LOGGED_DEVICE_HPP

// A disk whose writes and flushes are on record, and that fails on demand: the test's end of
// crash_device.

#include "device_protocol.hpp"
#include "file_systems.hpp"

#include "../faults/fuse_server.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace crash {

/// What a disk went through: what was on it, and what happened then.
class recording {
 public:
  struct entry {
    entry_kind kind{};
    std::uint64_t value = 0;  ///< Where a write went; the number of a mark.
    std::span<const std::byte> bytes;
  };

  /// @param base  What was on the disk.
  /// @param log   As crash_device writes it.
  recording(memory_file base, const memory_file& log);
  recording(const recording&) = delete;
  recording& operator=(const recording&) = delete;
  ~recording();

  const memory_file& base() const noexcept { return base_; }
  const std::vector<entry>& entries() const noexcept { return entries_; }
  /// Returns the index behind the entry of a mark.
  std::size_t after_mark(std::uint64_t number) const;

 private:
  memory_file base_;
  const std::byte* log_ = nullptr;
  std::size_t log_size_ = 0;
  std::vector<entry> entries_;
};

class logged_device {
 public:
  static constexpr std::int64_t forever = -1;

  /// Starts with a copy of `image`.
  explicit logged_device(const memory_file& image);
  logged_device(const logged_device&) = delete;
  logged_device& operator=(const logged_device&) = delete;
  /// The file system on it must be unmounted.
  ~logged_device() = default;

  /// The disk, as what a loop device takes.
  int file() const noexcept { return disk_.get(); }

  /// Puts a mark into the log. When it returns, the mark is behind everything that was answered
  /// before the call. Any thread.
  void mark(std::uint64_t number) const {
    send(command_kind::mark, static_cast<std::int64_t>(number));
  }
  /// Lets the next `count` writes fail with EIO.
  void fail_writes(std::int64_t count) const { send(command_kind::fail_writes, count); }
  void fail_flushes(std::int64_t count) const { send(command_kind::fail_flushes, count); }
  void heal() const {
    fail_writes(0);
    fail_flushes(0);
  }

  /// Returns what happened so far.
  recording so_far() const;

 private:
  void send(command_kind kind, std::int64_t value) const;

  memory_file base_;
  memory_file content_;
  memory_file log_;
  fs::path folder_;
  faults::fuse_server server_;
  support::unique_fd control_;
  support::unique_fd disk_;
};

}  // namespace crash

#endif  // MAPIO_TESTS_CRASH_LOGGED_DEVICE_HPP
