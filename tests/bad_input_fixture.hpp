#ifndef MAPIO_TESTS_BAD_INPUT_FIXTURE_HPP
#define MAPIO_TESTS_BAD_INPUT_FIXTURE_HPP

#include <mapio/mapio.hpp>

#include "mapped_file_fixture.hpp"
#include "support.hpp"

#include <asio/buffer.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <system_error>
#include <vector>

namespace support {

using namespace std::string_literals;
using mapio::disposition;
using mapio::errc;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;

inline constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
inline constexpr auto creating_dispositions = {disposition::open_or_create, disposition::create_new,
                                               disposition::create_or_truncate};

inline std::error_code awaited_open(asio::io_context& io, mapped_file& file, const fs::path& path,
                                    const open_options& options) {
  outcome o;
  file.open(path, options, o.handler());
  EXPECT_TRUE(run_until(io, [&] { return o.calls > 0; })) << "it never completes";
  return o.error;
}

/// What opening answers, which must be the same in all three ways. Each attempt follows the one
/// before: what one of them creates is there for the next.
inline std::error_code open_error(asio::io_context& io, const fs::path& path,
                                  const open_options& options) {
  std::error_code error = std::make_error_code(std::errc::protocol_error);
  const mapping m(path, options, error);
  EXPECT_EQ(m.is_open(), !error);
  EXPECT_EQ(code_of([&] { mapping(path, options); }), error);
  mapped_file file(io);
  EXPECT_EQ(awaited_open(io, file, path, options), error);
  EXPECT_EQ(file.is_open(), !error);
  return error;
}

class bad_input : public support::mapped_file_test {
 protected:
  std::error_code open_error(const fs::path& path, const open_options& options = {}) {
    return support::open_error(io_, path, options);
  }
  unsigned permissions_of(const fs::path& path) {
    return static_cast<unsigned>(fs::status(path).permissions());
  }
  bool is_there(const fs::path& path) { return fs::exists(fs::symlink_status(path)); }

  struct attempt {
    fs::path path;
    std::error_condition existing;
    std::error_condition kept_or_new;  // open_or_create, create_or_truncate
    std::error_condition only_new;     // create_new
    bool follow = true;
  };
  void expect_refused(const std::vector<attempt>& attempts) {
    for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{page()}})
      for (const attempt& a : attempts) {
        SCOPED_TRACE(a.path.string().substr(0, 100));
        const auto options = [&](disposition how) {
          open_options result = creating(size, how);
          result.follow_symlinks = a.follow;
          return result;
        };
        EXPECT_EQ(open_error(a.path, options(disposition::open_existing)), a.existing);
        EXPECT_EQ(open_error(a.path, options(disposition::open_or_create)), a.kept_or_new);
        EXPECT_EQ(open_error(a.path, options(disposition::create_or_truncate)), a.kept_or_new);
        EXPECT_EQ(open_error(a.path, options(disposition::create_new)), a.only_new);
      }
  }

  const std::string bytes_ = pattern(3 * page() + 100);
};

/// What adopting answers; the handle must then still be the caller's, if it is one.
inline std::error_code adopt_error(const native_file& fd, const open_options& options) {
  const bool is_one = support::is_open_descriptor(fd.get());
  std::error_code error = std::make_error_code(std::errc::protocol_error);
  EXPECT_FALSE(mapping::adopt(fd.get(), options, error).is_open());
  EXPECT_EQ(code_of([&] { mapping::adopt(fd.get(), options); }), error);
  EXPECT_EQ(support::is_open_descriptor(fd.get()), is_one);
  return error;
}

}  // namespace support

#endif  // MAPIO_TESTS_BAD_INPUT_FIXTURE_HPP
