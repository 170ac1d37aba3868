#ifndef MAPIO_TESTS_FLUSH_POLICY_FIXTURE_HPP
#define MAPIO_TESTS_FLUSH_POLICY_FIXTURE_HPP

#include "support.hpp"

#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <chrono>

namespace support {

using mapio::flush_policy;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;

inline open_options following(flush_policy policy, open_options options = creating(64 * page())) {
  options.policy = policy;
  return options;
}

/// Opens a file that owes nothing.
inline mapping clean(const std::filesystem::path& path, flush_policy policy) {
  mapping m(path, following(policy));
  m.flush();
  return m;
}

inline void store(mapping& m, std::uint64_t which_page, std::size_t bytes = 1) {
  m.update_region(which_page * page(), asio::buffer(support::pattern(bytes)));
}

class flush_policy_test : public testing::Test {
 protected:
  using work = asio::awaitable<void>;

  support::temp_dir dir_;
  std::filesystem::path path_ = dir_ / "file";
};

struct outcome {
  int calls = 0;
  std::error_code error;
  std::size_t bytes = 0;

  auto handler() {
    return [this](std::error_code ec, std::size_t n = 0) {
      ++calls;
      error = ec;
      bytes = n;
    };
  }
};

class mapped_file_policy : public flush_policy_test {
 protected:
  mapped_file opened(flush_policy policy) { return opened_on(io_, path_, policy); }
  static mapped_file opened_on(asio::io_context& io, const std::filesystem::path& path,
                               flush_policy policy) {
    mapped_file file(io);
    support::run_coroutine(io, [&]() -> work {
      co_await file.open(path, following(policy));
      co_await file.flush();
    });
    return file;
  }

  asio::io_context io_;
};

}  // namespace support

#endif  // MAPIO_TESTS_FLUSH_POLICY_FIXTURE_HPP
