#ifndef MAPIO_TESTS_ATOMIC_CELL_FIXTURE_HPP
#define MAPIO_TESTS_ATOMIC_CELL_FIXTURE_HPP

#include <mapio/atomic_cell.hpp>

#include "mapped_file_fixture.hpp"
#include "support.hpp"

#include <mapio/atomic.hpp>
#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>

#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <deque>
#include <system_error>
#include <utility>

namespace support {

using mapio::atomic_cell;

/// Outcomes of many waits, at addresses that stay.
class outcomes {
 public:
  auto next() { return all_.emplace_back().handler(); }
  int completed() const {
    int n = 0;
    for (const outcome& o : all_)
      n += o.calls;
    return n;
  }
  template <class Expect>
  void each(Expect expect) const {
    for (const outcome& o : all_)
      expect(o);
  }
  void expect_all(const std::error_code& error) const {
    each([&](const outcome& o) {
      ASSERT_EQ(o.calls, 1);
      ASSERT_EQ(o.error, error);
    });
  }

 private:
  std::deque<outcome> all_;
};

class atomic_cell_test : public mapped_file_test {
 protected:
  using cell = atomic_cell<std::uint32_t>;

  template <class Condition>
  bool run_for(Condition condition) {
    return run_until(io_, std::move(condition));
  }
  static void change(const mapio::atomic_reference<std::uint32_t>& word, std::uint32_t value) {
    word.store(value);
    word.notify_all();
  }
};

}  // namespace support

#endif  // MAPIO_TESTS_ATOMIC_CELL_FIXTURE_HPP
