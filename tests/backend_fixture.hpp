#ifndef MAPIO_TESTS_BACKEND_FIXTURE_HPP
#define MAPIO_TESTS_BACKEND_FIXTURE_HPP

#include <mapio/backend.hpp>

#include "support.hpp"

#include <mapio/mapped_file.hpp>

#include <asio/buffer.hpp>
#include <asio/io_context.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <system_error>

namespace support {

using mapio::mapped_file;

#if defined(MAPIO_TEST_WITH_IO_URING)
inline constexpr bool built_with_io_uring = MAPIO_TEST_WITH_IO_URING != 0;
#else
inline constexpr bool built_with_io_uring = true;
#endif

inline bool io_uring_is_available() {
  return built_with_io_uring && io_uring_is_allowed();
}

/// The engine of a context for which nobody asked for another one.
inline mapio::backend_kind best_engine() {
  if (engine_of_this_os != mapio::backend_kind::io_uring) return engine_of_this_os;
  return io_uring_is_available() ? mapio::backend_kind::io_uring : mapio::backend_kind::thread_pool;
}

inline std::string text_of(const std::error_code& ec) {
  return ec.category().name() + std::string(": ") + ec.message();
}

/// The code and the text of the std::system_error that `body` throws.
struct failure {
  std::error_code code;
  std::string text;
};

template <class Body>
failure failure_of(Body&& body) {
  try {
    body();
  } catch (const std::system_error& e) {
    return {e.code(), e.what()};
  }
  return {};
}

inline bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

class backend_test : public testing::Test {
 protected:
  /// Makes the engine of the context do some of everything.
  void expect_to_work(asio::io_context& io) {
    const auto path = dir_ / "file";
    support::run_coroutine(io, [&]() -> asio::awaitable<void> {
      mapped_file file(io);
      const std::string bytes = pattern(4 * page());
      co_await file.open(path, creating(4 * page()));
      co_await file.update_region(0, asio::buffer(bytes));
      co_await file.flush();
      co_await file.flush_range(0, page());
      co_await file.resize(8 * page());
      co_await file.prefetch();
      std::string back(4 * page(), '\0');
      co_await file.read_into(0, asio::buffer(back));
      EXPECT_TRUE(same(back, bytes));
      const mapio::region r = co_await file.view(0, page());
      EXPECT_TRUE(same(r.text(), bytes.substr(0, page())));
      EXPECT_EQ(file.pending_bytes(), 0U);
      co_await file.close();
    });
    EXPECT_TRUE(support::run_to_end(io));
  }

  support::temp_dir dir_;
};

}  // namespace support

#endif  // MAPIO_TESTS_BACKEND_FIXTURE_HPP
