#ifndef MAPIO_TESTS_CHUNK_STREAM_FIXTURE_HPP
#define MAPIO_TESTS_CHUNK_STREAM_FIXTURE_HPP

#include <mapio/chunk_stream.hpp>
#include <mapio/file_operations.hpp>
#include <mapio/mapped_file.hpp>

#include "mapped_file_fixture.hpp"

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/error.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>

#include <string>
#include <utility>

namespace support {

using mapio::chunk_stream;
using mapio::mapped_file;
using mapio::region;

class chunk_stream_test : public support::mapped_file_test {
 protected:
  /// A file of which nothing is in memory.
  mapped_file cold(const std::string& bytes) {
    support::write_file(path_, bytes);
    is_cold_ = support::evict(path_);
    return opened(support::read_only());
  }
  bool is_cold_ = false;

  std::error_code next(chunk_stream& chunks, region& chunk) {
    outcome o;
    chunks.next(o.handler());
    finish(o);
    chunk = std::move(o.region);
    return o.error;
  }
  std::string rest_of(chunk_stream& chunks) {
    std::string all;
    for (region chunk;;) {
      EXPECT_FALSE(next(chunks, chunk));
      if (chunk.empty()) return all;
      EXPECT_EQ(chunk.offset(), all.size());
      all += support::to_string(chunk);
    }
  }
};

}  // namespace support

#endif  // MAPIO_TESTS_CHUNK_STREAM_FIXTURE_HPP
