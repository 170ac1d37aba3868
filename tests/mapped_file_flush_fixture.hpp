#ifndef MAPIO_TESTS_MAPPED_FILE_FLUSH_FIXTURE_HPP
#define MAPIO_TESTS_MAPPED_FILE_FLUSH_FIXTURE_HPP

#include <mapio/mapped_file.hpp>

#include "mapped_file_fixture.hpp"
#include "support.hpp"

#include <mapio/backend.hpp>

#include <asio/awaitable.hpp>
#include <asio/bind_allocator.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <cstring>
#include <string>

namespace support {

using namespace asio::experimental::awaitable_operators;

class mapped_file_resize : public mapped_file_test {
 protected:
  std::string bytes_ = pattern(4 * page());
};

}  // namespace support

#endif  // MAPIO_TESTS_MAPPED_FILE_FLUSH_FIXTURE_HPP
