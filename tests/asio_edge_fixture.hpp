#ifndef MAPIO_TESTS_ASIO_EDGE_FIXTURE_HPP
#define MAPIO_TESTS_ASIO_EDGE_FIXTURE_HPP

#include "support.hpp"

#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>

#include <asio/bind_allocator.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/execution_context.hpp>
#include <asio/use_future.hpp>

namespace support {

using mapio::mapped_file;

class asio_edge : public testing::Test {
 protected:
  mapped_file open_file(std::uint64_t size) {
    return {io_.get_executor(), mapio::mapping::create(dir_ / "f", size)};
  }

  support::temp_dir dir_;
  asio::io_context io_;
};

}  // namespace support

#endif  // MAPIO_TESTS_ASIO_EDGE_FIXTURE_HPP
