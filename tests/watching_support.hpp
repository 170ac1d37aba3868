#ifndef MAPIO_TESTS_WATCHING_SUPPORT_HPP
#define MAPIO_TESTS_WATCHING_SUPPORT_HPP

// Ways to watch, and a way to change what is watched.

#include <mapio/watcher.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace support {

inline mapio::watch_options recursive() {
  mapio::watch_options options;
  options.recursive = true;
  return options;
}
inline mapio::watch_options missing() {
  mapio::watch_options options;
  options.allow_missing = true;
  return options;
}
inline mapio::watch_options coalescing(std::chrono::milliseconds interval) {
  mapio::watch_options options;
  options.coalesce = interval;
  return options;
}
inline mapio::watch_options polling(std::chrono::milliseconds interval) {
  mapio::watch_options options;
  options.poll = interval;
  return options;
}

/// Runs a command of the shell in a folder, to its end.
inline void shell_in(const std::filesystem::path& folder, const std::string& command) {
  const std::string line = "cd '" + folder.string() + "' && { " + command + "; }";
  EXPECT_EQ(std::system(line.c_str()), 0) << command;
}

}  // namespace support

#endif  // MAPIO_TESTS_WATCHING_SUPPORT_HPP
