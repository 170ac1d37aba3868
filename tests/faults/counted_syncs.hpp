#ifndef MAPIO_TESTS_FAULTS_COUNTED_SYNCS_HPP
#define MAPIO_TESTS_FAULTS_COUNTED_SYNCS_HPP

#include "syscall_gate.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <optional>
#include <utility>

#include <sys/stat.h>

namespace faults {

/// Runs `body`, and tells how many of the syncs that it made were of files, and how many of this
/// folder, the only one there may be; nothing where the kernel does not let us see.
inline std::optional<std::pair<int, int>>
syncs_of_file_and_folder(const std::filesystem::path& folder, const std::function<void()>& body) {
  std::atomic<int> of_file = 0;
  std::atomic<int> of_folder = 0;
  struct stat expected {};
  EXPECT_EQ(::stat(folder.c_str(), &expected), 0);
  syscall_gate gate(syscall_gate::syncs(), [&](const syscall_gate::call& c) {
    struct stat status {};
    if (c.takes_fd() && ::fstat(c.fd(), &status) == 0 && S_ISDIR(status.st_mode)) {
      EXPECT_EQ(status.st_ino, expected.st_ino);
      ++of_folder;
    } else {
      ++of_file;
    }
    return syscall_gate::pass;
  });
  if (!gate.run(body)) return {};
  return std::pair(of_file.load(), of_folder.load());
}

}  // namespace faults

#endif  // MAPIO_TESTS_FAULTS_COUNTED_SYNCS_HPP
