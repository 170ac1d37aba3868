#ifndef MAPIO_TESTS_FAULTS_PRIVATE_MOUNT_HPP
#define MAPIO_TESTS_FAULTS_PRIVATE_MOUNT_HPP

// Mounts that only one thread, and what it starts, can see, a small tmpfs for one. They vanish with
// them, even after a crash.

#include <exception>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include <sched.h>
#include <sys/mount.h>

namespace faults {

/// Runs `body` in a thread of its own, whose mounts nobody else sees but what it starts; false
/// where that is not allowed, or else what `body` returns.
inline bool with_private_mounts(const std::function<bool()>& body) {
  bool result = false;
  std::exception_ptr failure;
  std::thread([&] {
    if (::unshare(CLONE_NEWNS) != 0) return;
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return;
    try {
      result = body();
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure) std::rethrow_exception(failure);
  return result;
}

/// Mounts a tmpfs of `bytes` on the folder `where` and runs `body`; false where that is not
/// allowed. `body` runs in a thread of its own and may call remount_read_only().
inline bool on_small_disk(const std::filesystem::path& where, std::size_t bytes,
                          const std::function<void()>& body) {
  return with_private_mounts([&] {
    const std::string size = "size=" + std::to_string(bytes);
    if (::mount("tmpfs", where.c_str(), "tmpfs", 0, size.c_str()) != 0) return false;
    body();
    return true;
  });
}

inline bool remount_read_only(const std::filesystem::path& where) {
  return ::mount(nullptr, where.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0;
}

}  // namespace faults

#endif  // MAPIO_TESTS_FAULTS_PRIVATE_MOUNT_HPP
