#ifndef MAPIO_TESTS_MAPPED_FILE_LIFETIME_FIXTURE_HPP
#define MAPIO_TESTS_MAPPED_FILE_LIFETIME_FIXTURE_HPP

#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>

#include "mapped_file_fixture.hpp"
#include "support.hpp"

#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/system_executor.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <utility>

#include <malloc.h>

namespace support {

using namespace asio::experimental::awaitable_operators;

/// Knows what became of its handlers.
struct census {
  std::atomic<int> live = 0;
  std::atomic<int> called = 0;
  std::atomic<int> made = 0;
  std::atomic<int> dropped = 0;  // destroyed without having been called or moved from
};

/// A handler that can only be moved and tells the census about itself.
class counted_handler {
 public:
  explicit counted_handler(census& c) : census_(&c) {
    ++census_->live;
    ++census_->made;
  }
  counted_handler(counted_handler&& other) noexcept
      : census_(other.census_), armed_(std::exchange(other.armed_, false)) {
    ++census_->live;
  }
  counted_handler& operator=(counted_handler&&) = delete;
  ~counted_handler() {
    --census_->live;
    if (armed_) ++census_->dropped;
  }

  template <class... Result>
  void operator()(Result&&...) {
    EXPECT_TRUE(armed_);
    armed_ = false;
    ++census_->called;
  }

 private:
  census* census_;
  bool armed_ = true;
};

}  // namespace support

#endif  // MAPIO_TESTS_MAPPED_FILE_LIFETIME_FIXTURE_HPP
