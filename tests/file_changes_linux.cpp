#include "file_changes.hpp"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace support {

namespace fs = std::filesystem;

const bool notices_of_all_folders_come_in_order = true;
const bool notices_say_what_was_done = true;
const bool notices_connect_folders = true;
const bool watched_folders_can_be_removed = true;

void run_commands(const fs::path& folder, const std::string& commands) {
  const std::string line = "cd '" + folder.string() + "' && { " + commands + "; }";
  EXPECT_EQ(std::system(line.c_str()), 0) << commands;
}

void change_metadata(const fs::path& file) {
  EXPECT_EQ(::chmod(file.c_str(), 0700), 0) << file;
}

bool exchange(const fs::path& a, const fs::path& b) {
  // Not every file system can.
  return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

void overflow_notices(const fs::path& first, const fs::path& second) {
  int limit = 0;
  std::ifstream("/proc/sys/fs/inotify/max_queued_events") >> limit;
  std::ofstream f(first, std::ios::app);
  std::ofstream g(second, std::ios::app);
  // Equal ones in a row would be one.
  for (int i = 0; i <= limit; ++i) {
    f << 'x' << std::flush;
    g << 'x' << std::flush;
  }
}

std::uint64_t resident_memory() {
  std::uint64_t all = 0;
  std::uint64_t resident = 0;
  std::ifstream("/proc/self/statm") >> all >> resident;
  return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace support
