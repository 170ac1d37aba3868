#ifndef MAPIO_TESTS_SOCKET_PAIR_HPP
#define MAPIO_TESTS_SOCKET_PAIR_HPP

#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>

namespace support {

/// Two sockets that are connected to each other. Not local ones, of which not every system can make
/// a pair. They take little at once.
struct socket_pair {
  explicit socket_pair(asio::io_context& io) : here(io), there(io) {
    asio::ip::tcp::acceptor acceptor(io, {asio::ip::address_v4::loopback(), 0});
    constexpr int little = 1 << 16;
    acceptor.set_option(asio::socket_base::receive_buffer_size(little));
    here.open(asio::ip::tcp::v4());
    here.set_option(asio::socket_base::send_buffer_size(little));
    here.connect(acceptor.local_endpoint());
    acceptor.accept(there);
  }

  asio::ip::tcp::socket here;
  asio::ip::tcp::socket there;
};

}  // namespace support

#endif  // MAPIO_TESTS_SOCKET_PAIR_HPP
