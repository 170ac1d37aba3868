#ifndef MAPIO_TESTS_PARITY_FIXTURE_HPP
#define MAPIO_TESTS_PARITY_FIXTURE_HPP

#include <mapio/mapio.hpp>

#include "mapped_file_fixture.hpp"
#include "smaps.hpp"
#include "support.hpp"

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/local/connect_pair.hpp>
#include <asio/local/stream_protocol.hpp>
#include <asio/read.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>

#include <gtest/gtest.h>

#include <cstring>
#include <string>

namespace support {

using mapio::mapping;
using mapio::open_options;

class parity : public support::mapped_file_test {
 protected:
  /// Opens a file of these bytes of which nothing is dirty.
  mapping clean(const std::string& bytes, const open_options& options = read_write()) {
    write_file(path_, bytes);
    mapping m(path_, options);
    m.flush();
    return m;
  }
};

}  // namespace support

#endif  // MAPIO_TESTS_PARITY_FIXTURE_HPP
