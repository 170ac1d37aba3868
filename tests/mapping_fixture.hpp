#ifndef MAPIO_TESTS_MAPPING_FIXTURE_HPP
#define MAPIO_TESTS_MAPPING_FIXTURE_HPP

#include <mapio/mapping.hpp>

#include "support.hpp"

#include <asio/buffer.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>

namespace support {

using mapio::disposition;
using mapio::errc;
using mapio::mapping;
using mapio::open_options;

/// Opens without throwing and returns the code; the handle must be open exactly when there is none.
inline std::error_code open_error(const fs::path& path, const open_options& options = {}) {
  std::error_code ec =
      std::make_error_code(std::errc::protocol_error);  // to see that it is cleared
  const mapping m(path, options, ec);
  EXPECT_EQ(m.is_open(), !ec);
  return ec;
}

inline std::uint64_t syncs_of(const mapping& m) {
  return m.stats().syncs;
}

/// Syncs that flushing a range costs.
inline std::uint64_t cost_of_flush(mapping& m, std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t before = syncs_of(m);
  m.flush_range(offset, length);
  return syncs_of(m) - before;
}

inline std::uint64_t cost_of_flush(mapping& m) {
  const std::uint64_t before = syncs_of(m);
  m.flush();
  return syncs_of(m) - before;
}

class mapping_test : public testing::Test {
 protected:
  /// A new file of known bytes, not opened.
  fs::path file_of(const std::string& bytes, std::string_view name = "file") {
    const fs::path path = dir_ / name;
    write_file(path, bytes);
    return path;
  }

  support::temp_dir dir_;
  const fs::path path_ = dir_ / "file";
};

/// Opens or creates a file for `slots` writers and writes slot `mine`.
inline void write_slot(const fs::path& path, std::size_t slots, std::size_t mine) {
  mapping m(path, creating(slots * page(), disposition::open_or_create));
  // Somebody else may be about to give it its size.
  if (m.size() < slots * page()) m.resize(slots * page());
  m.update_region(mine * page(), asio::buffer(pattern(page(), mine)));
}

inline void expect_slots(const fs::path& path, std::size_t slots) {
  const std::string all = read_file(path);
  ASSERT_EQ(all.size(), slots * page());
  for (std::size_t i = 0; i < slots; ++i)
    EXPECT_TRUE(same(all.substr(i * page(), page()), pattern(page(), i))) << i;
}

class mapping_resize : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const bool in_memory = GetParam() == std::string_view("tmpfs");
    const fs::path parent = in_memory ? fs::path("/dev/shm") : fs::temp_directory_path();
    if (!fs::is_directory(parent)) GTEST_SKIP() << "no " << parent;
    dir_ = std::make_unique<support::temp_dir>(parent);
    path_ = *dir_ / "file";
  }

  mapping create(const std::string& bytes, open_options options = read_write()) {
    write_file(path_, bytes);
    return mapping(path_, options);
  }

  std::unique_ptr<support::temp_dir> dir_;
  fs::path path_;
};

}  // namespace support

#endif  // MAPIO_TESTS_MAPPING_FIXTURE_HPP
