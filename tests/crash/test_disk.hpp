#ifndef MAPIO_TESTS_CRASH_TEST_DISK_HPP
#define MAPIO_TESTS_CRASH_TEST_DISK_HPP

// What the tests of crash consistency share: a disk to work on, and a report.

#include "crash_states.hpp"
#include "file_systems.hpp"
#include "logged_device.hpp"

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace crash {

/// Of everything that is random.
inline std::uint64_t seed() {
  return setting("MAPIO_CRASH_SEED", 20240611);
}

/// A file system on a logged device, with a folder whose name is durable.
class disk {
 public:
  explicit disk(fs_type type)
      : type_(type), device_(make_file_system(type)),
        mount_(std::in_place, device_.file(), type, new_folder("disk")) {
    folder_ = mount_->path() / "work";
    fs::create_directory(folder_);
    const auto root = support::open_fd(mount_->path(), O_RDONLY | O_DIRECTORY);
    if (::syncfs(root.get()) != 0) throw std::system_error(errno, std::system_category(), "syncfs");
  }

  const logged_device& device() const noexcept { return device_; }
  const fs::path& folder() const noexcept { return folder_; }
  recording finish() {
    mount_.reset();
    return device_.so_far();
  }

 private:
  fs_type type_;
  logged_device device_;
  std::optional<mounted> mount_;
  fs::path folder_;
};

class stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

inline void report(const std::string& what, const recording& log, const replay_result& r,
                   double recorded, double replayed) {
  std::size_t counts[4] = {};
  for (const recording::entry& e : log.entries())
    ++counts[static_cast<std::size_t>(e.kind)];
  std::cout << what << ": " << r.states << " states, " << r.lost << " lost";
  if (r.unmountable != 0) std::cout << " (" << r.unmountable << " cannot be mounted)";
  std::cout << "; log: " << counts[1] << " writes, " << counts[2] << " flushes, " << counts[3]
            << " marks; " << r.writes_at_stake << " writes were on their way; recorded in "
            << recorded << " s, replayed in " << replayed << " s\n";
  for (const std::string& p : r.problems)
    std::cout << "  " << p << "\n";
}

}  // namespace crash

#endif  // MAPIO_TESTS_CRASH_TEST_DISK_HPP
