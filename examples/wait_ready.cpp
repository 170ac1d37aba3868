// Waits until another process says in a shared file that it is ready, but not for ever: whatever is
// awaited can be raced against a timer, and the loser is cancelled.
//
//   wait_ready FILE MILLISECONDS       waits; status 1 if the time is over
//   wait_ready FILE                    says that it is ready

#include <mapio/mapio.hpp>

#include <asio.hpp>
#include <asio/experimental/awaitable_operators.hpp>

#include <chrono>
#include <cstdint>
#include <exception>
#include <iostream>
#include <string>

namespace {

const mapio::open_options shared{.mode = mapio::access::read_write,
                                 .create = mapio::disposition::open_or_create,
                                 .size = sizeof(std::uint32_t)};

asio::awaitable<void> wait(std::string path, std::chrono::milliseconds limit, int& status) {
  using namespace asio::experimental::awaitable_operators;
  const auto executor = co_await asio::this_coro::executor;
  mapio::mapped_file file(executor);
  co_await file.open(path, shared);
  const auto ready = file.atomic<std::uint32_t>(0);
  asio::steady_timer timer(executor, limit);
  const auto first =
      co_await (ready.wait(0, asio::use_awaitable) || timer.async_wait(asio::use_awaitable));
  status = static_cast<int>(first.index());
  std::cout << (status == 0 ? "ready\n" : "the time is over\n");
}

}  // namespace

int main(int argc, char* argv[]) try {
  if (argc != 2 && argc != 3) {
    std::cerr << "usage: wait_ready FILE [MILLISECONDS]\n";
    return 2;
  }
  if (argc == 2) {
    const auto ready = mapio::mapping(argv[1], shared).atomic<std::uint32_t>(0);
    ready.store(1);
    ready.notify_all();
    return 0;
  }
  int status = 0;
  asio::io_context io;
  const std::chrono::milliseconds limit(std::stoi(argv[2]));
  asio::co_spawn(io, wait(argv[1], limit, status), [](std::exception_ptr failure) {
    if (failure) std::rethrow_exception(failure);
  });
  io.run();
  return status;
} catch (const std::exception& e) {
  std::cerr << "wait_ready: " << e.what() << '\n';
  return 2;
}
