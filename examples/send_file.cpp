// Sends a file over TCP, to a receiver in the same program that compares it: no byte is copied on
// the way to the socket, and the file is closed while it is being sent. The region that the write
// holds keeps it mapped.
//
//   send_file FILE

#include <mapio/mapio.hpp>

#include <asio.hpp>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <iostream>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using asio::ip::tcp;

asio::awaitable<void> send_file(tcp::socket socket, std::string path) {
  mapio::mapped_file file(co_await asio::this_coro::executor);
  co_await file.open(path);
  const mapio::region content = co_await file.view(0, file.size());
  co_await file.close();  // does not wait for the region
  co_await asio::async_write(socket, content, asio::use_awaitable);
}  // the socket says that this is all

asio::awaitable<void> receive(tcp::acceptor& acceptor, std::string path) {
  tcp::socket socket = co_await acceptor.async_accept(asio::use_awaitable);
  std::vector<std::byte> received;
  std::error_code error;
  co_await asio::async_read(socket, asio::dynamic_buffer(received),
                            asio::redirect_error(asio::use_awaitable, error));
  if (error != asio::error::eof) throw std::system_error(error, "receive");
  const mapio::mapping map(path);
  const mapio::region expected = map.view(0, map.size());
  if (!std::ranges::equal(received, expected.bytes())) throw std::runtime_error("bytes differ");
  std::cout << received.size() << " bytes arrived as they were\n";
}

void rethrow(std::exception_ptr failure) {
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

int main(int argc, char* argv[]) try {
  if (argc != 2) {
    std::cerr << "usage: send_file FILE\n";
    return 2;
  }
  asio::io_context io;
  tcp::acceptor acceptor(io, {asio::ip::address_v4::loopback(), 0});
  tcp::socket socket(io);
  socket.connect(acceptor.local_endpoint());
  asio::co_spawn(io, receive(acceptor, argv[1]), rethrow);
  asio::co_spawn(io, send_file(std::move(socket), argv[1]), rethrow);
  io.run();
  return 0;
} catch (const std::exception& e) {
  std::cerr << "send_file: " << e.what() << '\n';
  return 1;
}
