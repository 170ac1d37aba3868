#ifndef MAPIO_TESTS_SMAPS_HPP
#define MAPIO_TESTS_SMAPS_HPP

// What the kernel says of this process's mappings of a file.

#include "support.hpp"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

namespace support {

/// Calls each(detail, size) for every detail of every mapping of a file.
template <class Each>
void each_detail(const fs::path& path, Each each) {
  std::ifstream smaps("/proc/self/smaps");
  std::uint64_t size = 0;
  for (std::string line; std::getline(smaps, line);) {
    // What begins a mapping is its range; its details begin with a name.
    if (line.find('-') < line.find(' ')) {
      const bool of_file = line.ends_with(path.string());
      const std::uint64_t begin = std::stoull(line, nullptr, 16);
      size = of_file ? std::stoull(line.substr(line.find('-') + 1), nullptr, 16) - begin : 0;
    } else if (size != 0) {
      each(line, size);
    }
  }
}

/// Counts the bytes of them for which the kernel keeps a flag: "rr" for random, "sr" for
/// sequential, "hg" for huge pages.
inline std::uint64_t bytes_with(const fs::path& path, const std::string& flag) {
  std::uint64_t bytes = 0;
  each_detail(path, [&](const std::string& detail, std::uint64_t size) {
    if (detail.starts_with("VmFlags:") && detail.find(' ' + flag) != std::string::npos)
      bytes += size;
  });
  return bytes;
}

}  // namespace support

#endif  // MAPIO_TESTS_SMAPS_HPP
