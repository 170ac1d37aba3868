#ifndef MAPIO_TESTS_PREFAULT_FIXTURE_HPP
#define MAPIO_TESTS_PREFAULT_FIXTURE_HPP

#include "support.hpp"

#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include <asio/awaitable.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <filesystem>
#include <system_error>
#include <vector>

namespace support {

using mapio::errc;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;

inline constexpr std::size_t pages = 64;

inline open_options eager(open_options options) {
  options.touch = mapio::prefault::eager;
  return options;
}

class prefault_test : public testing::Test {
 protected:
  std::error_code await_open(mapped_file& file, const open_options& options) {
    std::error_code ec = std::make_error_code(std::errc::protocol_error);
    support::run_coroutine(io_, [&]() -> asio::awaitable<void> {
      co_await file.open(path_, options, support::into(ec));
    });
    return ec;
  }
  /// Writes the file and gets it out of memory; false where that does not work.
  bool make_cold() {
    support::write_file(path_, pattern(pages * page()));
    if (!support::evict(path_)) return false;
    const mapping m(path_, support::read_only());
    return !m.is_resident(0, m.size());
  }

  support::temp_dir dir_;
  const fs::path path_ = dir_ / "file";
  asio::io_context io_;
};

inline std::vector<open_options> every_mode() {
  return {support::read_only(), support::read_write(), support::copy_on_write()};
}

}  // namespace support

#endif  // MAPIO_TESTS_PREFAULT_FIXTURE_HPP
