#ifndef MAPIO_TESTS_ADVICE_FIXTURE_HPP
#define MAPIO_TESTS_ADVICE_FIXTURE_HPP

#include "smaps.hpp"
#include "support.hpp"

#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>

namespace support {

using mapio::advice;
using mapio::mapping;
using mapio::open_options;

inline constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
inline constexpr std::array all_advice = {advice::normal,    advice::sequential, advice::random,
                                          advice::will_need, advice::dont_need,  advice::cold,
                                          advice::huge_pages};

class advice_test : public testing::Test {
 protected:
  mapping file_of(const std::string& bytes, const open_options& options = support::read_write()) {
    support::write_file(path_, bytes);
    return mapping(path_, options);
  }
  std::uint64_t with(const std::string& flag) const { return bytes_with(path_, flag); }

  support::temp_dir dir_;
  const fs::path path_ = dir_ / "file";
};

inline constexpr std::size_t huge_page = 2 << 20;
using huge_pages_test = advice_test;

}  // namespace support

#endif  // MAPIO_TESTS_ADVICE_FIXTURE_HPP
