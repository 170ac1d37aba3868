// Says which engine carries out what is awaited, and why, and reads a file by it.
//
//   engine FILE             the best one there is, or that of MAPIO_BACKEND
//   engine FILE ENGINE      this one and no other

#include <mapio/mapio.hpp>

#include <asio.hpp>

#include <exception>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace {

mapio::backend_kind named(std::string_view name) {
  for (const auto kind : {mapio::backend_kind::automatic, mapio::backend_kind::io_uring,
                          mapio::backend_kind::iocp, mapio::backend_kind::thread_pool}) {
    std::ostringstream known;
    known << kind;
    if (known.str() == name) return kind;
  }
  throw std::runtime_error("the engines are automatic, io_uring, iocp and thread_pool");
}

asio::awaitable<void> read(std::string path) {
  mapio::mapped_file file(co_await asio::this_coro::executor);
  co_await file.open(path);
  std::string bytes(file.size(), '\0');
  std::cout << co_await file.read_into(0, asio::buffer(bytes)) << " bytes read\n";
}

}  // namespace

int main(int argc, char* argv[]) try {
  if (argc != 2 && argc != 3) {
    std::cerr << "usage: engine FILE [ENGINE]\n";
    return 2;
  }
  asio::io_context io;
  if (argc == 3) mapio::use_backend(io, named(argv[2]));  // before the first use
  std::cout << mapio::backend_of(io) << '\n';
  asio::co_spawn(io, read(argv[1]), [](std::exception_ptr failure) {
    if (failure) std::rethrow_exception(failure);
  });
  io.run();
  return 0;
} catch (const std::exception& e) {
  std::cerr << "engine: " << e.what() << '\n';
  return 1;
}
