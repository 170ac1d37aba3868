// Moves a file, to another file system too: copies it durably, then removes the source. Nothing
// waits for a disk, so that Ctrl-C is heard at once: then both files are as they were.
//
//   move_file FROM TO

#include <mapio/file_operations.hpp>

#include <asio.hpp>

#include <csignal>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <system_error>
#include <utility>

asio::awaitable<void> move_file(std::filesystem::path from, std::filesystem::path to) {
  const auto executor = co_await asio::this_coro::executor;
  std::error_code error;
  const std::uint64_t bytes =
      co_await mapio::copy_file(executor, from, to, {.overwrite = false, .durable = true},
                                asio::redirect_error(asio::use_awaitable, error));
  if (error) throw std::system_error(error, "after " + std::to_string(bytes) + " bytes");
  co_await mapio::remove_file(executor, from);  // the copy survives power loss by now
  std::cout << bytes << " bytes\n";
}

int main(int argc, char* argv[]) {
  if (argc != 3) {
    std::cerr << "usage: move_file FROM TO\n";
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
  asio::co_spawn(io, move_file(argv[1], argv[2]),
                 asio::bind_cancellation_slot(stop.slot(), finished));
  io.run();
  try {
    if (failure) std::rethrow_exception(failure);
  } catch (const std::exception& e) {
    std::cerr << "move_file: " << e.what() << '\n';
    return 1;
  }
  return 0;
}
