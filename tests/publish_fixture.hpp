#ifndef MAPIO_TESTS_PUBLISH_FIXTURE_HPP
#define MAPIO_TESTS_PUBLISH_FIXTURE_HPP

#include "support.hpp"

#include <mapio/mapping.hpp>

#include <asio/buffer.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>

namespace support {

using mapio::mapping;
using mapio::open_options;

class publish_test : public testing::Test {
 protected:
  /// A file of which nothing is dirty.
  mapping clean(std::uint64_t size, const open_options& options = support::read_write()) {
    support::write_file(path_, pattern(size));
    mapping m(path_, options);
    m.flush();
    return m;
  }
  std::uint64_t syncs_of_flush(mapping& m) {
    const std::uint64_t before = m.stats().syncs;
    m.flush();
    return m.stats().syncs - before;
  }

  support::temp_dir dir_;
  const fs::path path_ = dir_ / "file";
};

}  // namespace support

#endif  // MAPIO_TESTS_PUBLISH_FIXTURE_HPP
