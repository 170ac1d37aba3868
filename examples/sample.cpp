// Records measurements that may be lost for a moment, but not for long: the file flushes itself a
// few milliseconds after something was written, and close() flushes the rest.
//
//   sample FILE

#include <mapio/mapio.hpp>

#include <asio.hpp>

#include <chrono>
#include <cstdint>
#include <exception>
#include <iostream>
#include <string>

namespace {

using namespace std::chrono_literals;

asio::awaitable<void> sample(std::string path) {
  const auto executor = co_await asio::this_coro::executor;
  mapio::mapped_file file(executor);
  co_await file.open(path, {.mode = mapio::access::read_write,
                            .create = mapio::disposition::create_or_truncate,
                            .size = 1 << 20,
                            .policy = mapio::flush_policy::every(5ms)});
  asio::steady_timer timer(executor);
  std::uint64_t at = 0;
  while (file.stats().policy_flushes < 3) {
    const std::string line = std::to_string(at) + '\n';               // what would be measured
    co_await file.update_region(at % (1 << 19), asio::buffer(line));  // throws if a flush failed
    at += line.size();
    timer.expires_after(1ms);
    co_await timer.async_wait(asio::use_awaitable);
  }
  co_await file.close();
  std::cout << "flushed 3 times, and never asked for it\n";
}

}  // namespace

int main(int argc, char* argv[]) try {
  if (argc != 2) {
    std::cerr << "usage: sample FILE\n";
    return 2;
  }
  asio::io_context io;
  asio::co_spawn(io, sample(argv[1]), [](std::exception_ptr failure) {
    if (failure) std::rethrow_exception(failure);
  });
  io.run();
  return 0;
} catch (const std::exception& e) {
  std::cerr << "sample: " << e.what() << '\n';
  return 1;
}
