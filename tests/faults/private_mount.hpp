#ifndef MAPIO_TESTS_FAULTS_PRIVATE_MOUNT_HPP
#define MAPIO_TESTS_FAULTS_PRIVATE_MOUNT_HPP

// A small tmpfs that only one thread, and what it starts, can see. It vanishes with them, even
// after a crash.

#include <exception>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include <sched.h>
#include <sys/mount.h>

namespace faults {

/// Mounts a tmpfs of `bytes` on the folder `where` and runs `body`; false where that is not
/// allowed. `body` runs in a thread of its own and may call remount_read_only().
inline bool on_small_disk(const std::filesystem::path& where, std::size_t bytes,
                          const std::function<void()>& body) {
  bool mounted = false;
  std::exception_ptr failure;
  std::thread([&] {
    const std::string size = "size=" + std::to_string(bytes);
    if (::unshare(CLONE_NEWNS) != 0) return;
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return;
    if (::mount("tmpfs", where.c_str(), "tmpfs", 0, size.c_str()) != 0) return;
    mounted = true;
    try {
      body();
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure) std::rethrow_exception(failure);
  return mounted;
}

inline bool remount_read_only(const std::filesystem::path& where) {
  return ::mount(nullptr, where.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0;
}

}  // namespace faults

#endif  // MAPIO_TESTS_FAULTS_PRIVATE_MOUNT_HPP
