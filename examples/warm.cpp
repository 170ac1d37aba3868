// Brings files into memory before somebody needs them, a piece at a time, and says how far it is.
// Ctrl-C ends it within a piece.
//
//   warm FILE...

#include <mapio/mapio.hpp>

#include <asio.hpp>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <exception>
#include <iostream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace {

constexpr std::uint64_t piece = 64 << 20;

asio::awaitable<void> warm(std::vector<std::string> paths) {
  for (const std::string& path : paths) {
    mapio::mapped_file file(co_await asio::this_coro::executor);
    co_await file.open(path);
    for (std::uint64_t at = 0; at < file.size();) {
      const std::uint64_t length = std::min(piece, file.size() - at);
      co_await file.prefetch(at, length);
      at += length;
      std::cerr << path << ": " << 100 * at / file.size() << "%\r";
    }
    std::error_code unknown;
    const bool resident = file.map().is_resident(0, file.size(), unknown);
    std::cout << path << ": " << file.size() << " bytes "
              << (unknown    ? "have been"
                  : resident ? "are"
                             : "are not all")
              << " in memory\n";
  }
}

}  // namespace

int main(int argc, char* argv[]) {
  if (argc < 2) {
    std::cerr << "usage: warm FILE...\n";
    return 2;
  }
  asio::io_context io;
  asio::cancellation_signal stop;
  asio::signal_set signals(io, SIGINT, SIGTERM);
  signals.async_wait([&](std::error_code error, int) {
    if (!error) stop.emit(asio::cancellation_type::terminal);
  });
  std::exception_ptr failure;
  const auto finished = [&](std::exception_ptr e) {
    failure = std::move(e);
    signals.cancel();
  };
  asio::co_spawn(io, warm({argv + 1, argv + argc}),
                 asio::bind_cancellation_slot(stop.slot(), finished));
  io.run();
  try {
    if (failure) std::rethrow_exception(failure);
  } catch (const std::exception& e) {
    std::cerr << "warm: " << e.what() << '\n';
    return 1;
  }
  return 0;
}
