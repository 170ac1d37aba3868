#ifndef MAPIO_BENCH_ROUND_TRIPS_HPP
#define MAPIO_BENCH_ROUND_TRIPS_HPP

// Coroutines on the one thread of a context that wait for something elsewhere, again and again.

#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>
#include <mapio/options.hpp>

#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

namespace bench {

inline std::error_code last_error() {
  return {errno, std::system_category()};
}
inline std::error_code result_of(int call) {
  return call == 0 ? std::error_code() : last_error();
}

/// What people write today: the call runs on a pool, and its result is posted back.
template <class Call>
asio::awaitable<void> on_pool(asio::thread_pool& pool, Call call) {
  const auto initiate = [&pool](auto handler, Call c) {
    asio::post(pool, [handler = std::move(handler), c = std::move(c)]() mutable {
      const std::error_code result = c();
      const auto executor = asio::get_associated_executor(handler);
      asio::post(executor, [handler = std::move(handler), result]() mutable { handler(result); });
    });
  };
  return asio::async_initiate<const asio::use_awaitable_t<>, void(std::error_code)>(
      initiate, asio::use_awaitable, std::move(call));
}

/// Turns call(i), which returns an error_code, into a round trip over a pool that lives as long as
/// the result.
template <class Call>
auto calls_on_pool(std::size_t threads, Call call) {
  return [call, pool = std::make_shared<asio::thread_pool>(threads)](std::size_t i) {
    return on_pool(*pool, [call, i] { return call(i); });
  };
}

/// A context that one thread runs.
class loop {
 public:
  explicit loop(mapio::backend_kind kind) { mapio::use_backend(io_, kind); }

  mapio::mapped_file open(const std::filesystem::path& path, const mapio::open_options& how) {
    mapio::mapped_file file(io_);
    asio::co_spawn(io_, file.open(path, how, asio::use_awaitable), rethrow);
    io_.restart();
    io_.run();
    return file;
  }
  mapio::mapped_file open(const std::filesystem::path& path,
                          mapio::write_path writes = mapio::write_path::automatic) {
    return open(path, {.mode = mapio::access::read_write, .writes = writes, .announce = false});
  }

  /// Makes `count` round trips, `in_flight` at a time; once(i) starts one of coroutine i.
  template <class Once>
  void run(std::int64_t count, std::size_t in_flight, Once& once) {
    left_ = count;
    running_ = in_flight;
    io_.restart();
    // The context does not know of a call that is on the pool.
    const auto work = asio::make_work_guard(io_);
    for (std::size_t i = 0; i < in_flight; ++i)
      asio::co_spawn(io_, repeat(once, i), rethrow);
    io_.run();
  }

 private:
  static void rethrow(const std::exception_ptr& failure) {
    if (failure) std::rethrow_exception(failure);
  }

  template <class Once>
  asio::awaitable<void> repeat(Once& once, std::size_t i) {
    while (left_-- > 0)
      co_await once(i);
    if (--running_ == 0) io_.stop();
  }

  asio::io_context io_{1};
  std::int64_t left_ = 0;
  std::size_t running_ = 0;
};

}  // namespace bench

#endif  // MAPIO_BENCH_ROUND_TRIPS_HPP
