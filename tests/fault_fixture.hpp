#ifndef MAPIO_TESTS_FAULT_FIXTURE_HPP
#define MAPIO_TESTS_FAULT_FIXTURE_HPP

#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include "support.hpp"

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

namespace support {

using mapio::mapped_file;
using mapio::mapping;

enum class kind { blocking, awaited };
inline constexpr std::array both_kinds{kind::blocking, kind::awaited};

/// The verbs of an open file, blocking or awaited. For one thread.
class verbs {
 public:
  verbs(mapping map, kind k) : map_(std::move(map)), file_(io_.get_executor(), map_), kind_(k) {}

  std::size_t read(std::uint64_t offset, std::string& bytes, std::error_code& error) {
    if (kind_ == kind::blocking) return map_.read_into(offset, asio::buffer(bytes), error);
    std::size_t n = 0;
    support::run_coroutine(io_, [&]() -> asio::awaitable<void> {
      n = co_await file_.read_into(offset, asio::buffer(bytes), support::into(error));
    });
    return n;
  }
  std::size_t update(std::uint64_t offset, std::string_view bytes, std::error_code& error) {
    if (kind_ == kind::blocking) return map_.update_region(offset, asio::buffer(bytes), error);
    std::size_t n = 0;
    support::run_coroutine(io_, [&]() -> asio::awaitable<void> {
      n = co_await file_.update_region(offset, asio::buffer(bytes), support::into(error));
    });
    return n;
  }
  void prefetch(std::error_code& error) {
    if (kind_ == kind::blocking) return map_.prefetch(error);
    support::run_coroutine(
        io_, [&]() -> asio::awaitable<void> { co_await file_.prefetch(support::into(error)); });
  }

 private:
  mapping map_;
  asio::io_context io_;
  mapped_file file_;
  kind kind_;
};

inline constexpr char untouched = '\xff';
inline constexpr unsigned most = 251;

class fault_aftermath : public testing::Test {
 protected:
  const support::temp_dir folder_;
  const fs::path path_ = folder_ / "file";
};

}  // namespace support

#endif  // MAPIO_TESTS_FAULT_FIXTURE_HPP
