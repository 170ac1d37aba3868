#ifndef MAPIO_EXAMPLES_INGESTD_EVENT_HPP
#define MAPIO_EXAMPLES_INGESTD_EVENT_HPP

// Before Asio: with libstdc++, Asio 1.22 frees memory in another way in files that include it
// before any standard header.
#include <version>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/version.hpp>
#if ASIO_VERSION >= 102400
#include <asio/as_tuple.hpp>
#else
#include <asio/experimental/as_tuple.hpp>
#endif

namespace ingestd {

#if ASIO_VERSION >= 102400
using asio::as_tuple;
#else
using asio::experimental::as_tuple;
#endif

/// The token of every call whose error is looked at: co_await gives a tuple and does not throw.
inline constexpr auto as_result = as_tuple(asio::use_awaitable);

/// Wakes coroutines that wait for a condition. For one thread: between testing the condition and
/// waiting, nobody notifies.
///
/// @par Example
///   while (!ready) co_await changed.wait();
class event {
 public:
  explicit event(const asio::any_io_executor& executor) : timer_(executor) {
    timer_.expires_at(asio::steady_timer::time_point::max());
  }

  /// Completes at the next notification; test the condition again.
  asio::awaitable<void> wait() { co_await timer_.async_wait(as_result); }

  void notify_all() { timer_.cancel(); }

 private:
  asio::steady_timer timer_;
};

}  // namespace ingestd

#endif  // MAPIO_EXAMPLES_INGESTD_EVENT_HPP
