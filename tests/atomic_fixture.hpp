#ifndef MAPIO_TESTS_ATOMIC_FIXTURE_HPP
#define MAPIO_TESTS_ATOMIC_FIXTURE_HPP

#include <mapio/atomic.hpp>

#include "support.hpp"

#include <mapio/mapping.hpp>

#include <asio/buffer.hpp>

#include <gtest/gtest.h>

#include <cstdint>

namespace support {

using mapio::mapping;

class atomic_fixture : public testing::Test {
 protected:
  mapping created(std::uint64_t size) { return mapping::create(path_, size); }
  mapping opened(const mapio::open_options& options) { return mapping(path_, options); }

  support::temp_dir dir_;
  const fs::path path_ = dir_ / "file";
};

}  // namespace support

#endif  // MAPIO_TESTS_ATOMIC_FIXTURE_HPP
