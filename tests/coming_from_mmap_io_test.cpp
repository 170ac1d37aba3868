// Compiles and runs the code that docs/coming-from-mmap-io.md shows, block by block.

#include <mapio/mapio.hpp>

#include "mapped_file_fixture.hpp"

#include <asio/awaitable.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/redirect_error.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <limits>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>

namespace {

#define MAPIO_SNIPPET_PARAMETERS                                                                   \
  mapio::mapping m, mapio::mapped_file file, asio::ip::tcp::socket &socket

struct snippet {
  int line;
  asio::awaitable<void> (*run)(MAPIO_SNIPPET_PARAMETERS);
};

#include "coming-from-mmap-io.inc"

/// In a folder of its own, as what it shows has short names.
class coming_from_mmap_io : public support::mapped_file_test {
 protected:
  coming_from_mmap_io() { std::filesystem::current_path(dir_.path()); }
  ~coming_from_mmap_io() override { std::filesystem::current_path(before_); }

 private:
  const std::filesystem::path before_ = std::filesystem::current_path();
};

TEST_F(coming_from_mmap_io, is_shown_by_code_that_works) {
  asio::ip::tcp::acceptor acceptor(io_, {asio::ip::address_v4::loopback(), 0});
  asio::ip::tcp::socket socket(io_);
  socket.connect(acceptor.local_endpoint());
  const asio::ip::tcp::socket reader = acceptor.accept();
  for (const snippet& s : snippets) {
    SCOPED_TRACE("docs/coming-from-mmap-io.md:" + std::to_string(s.line));
    support::write_file("data.bin", support::pattern(1 << 20));
    const mapio::mapping m("data.bin", support::read_write());
    EXPECT_NO_THROW(run(
        [&]() -> work { co_await s.run(m, mapio::mapped_file(io_.get_executor(), m), socket); }));
  }
}

}  // namespace
