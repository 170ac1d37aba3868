#ifndef MAPIO_TESTS_CRASH_TEST_DISK_HPP
#define MAPIO_TESTS_CRASH_TEST_DISK_HPP

// What the tests of crash consistency share: a disk to work on, and a report.

#include "crash_states.hpp"
#include "file_systems.hpp"
#include "logged_device.hpp"

#include <mapio/backend.hpp>
#include <mapio/error.hpp>

#include <asio/io_context.hpp>

#include <algorithm>
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
  static constexpr const char* folder_name = "work";

  explicit disk(fs_type type)
      : device_(make_file_system(type)),
        mount_(std::in_place, device_.file(), type, new_folder("disk")) {
    folder_ = mount_->path() / folder_name;
    fs::create_directory(folder_);
    const auto root = support::open_fd(mount_->path(), O_RDONLY | O_DIRECTORY);
    if (::syncfs(root.get()) != 0) throw std::system_error(errno, std::system_category(), "syncfs");
  }

  const logged_device& device() const noexcept { return device_; }
  const fs::path& folder() const noexcept { return folder_; }
  /// Unmounts it, whatever state it is in.
  recording finish() {
    mount_->unmount();
    mount_.reset();
    return device_.so_far();
  }

 private:
  logged_device device_;
  std::optional<mounted> mount_;
  fs::path folder_;
};

/// Where io_uring is forbidden, what it would have shown is left out.
inline bool is_available(mapio::backend_kind engine) {
  try {
    asio::io_context io;
    mapio::use_backend(io, engine);
    return mapio::backend_of(io).kind == engine;
  } catch (const std::system_error& e) {
    if (e.code() == mapio::errc::unsupported) return false;
    throw;
  }
}

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
  // That a control loses is no news.
  const std::size_t told = r.lost * 2 >= r.states ? 2 : r.problems.size();
  for (std::size_t i = 0; i < std::min(told, r.problems.size()); ++i)
    std::cout << "  " << r.problems[i] << "\n";
}

}  // namespace crash

#endif  // MAPIO_TESTS_CRASH_TEST_DISK_HPP
