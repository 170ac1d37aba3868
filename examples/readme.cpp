#include <mapio/mapio.hpp>

#include <asio.hpp>

#include <iostream>

asio::awaitable<void> keep_a_record() {
  mapio::mapped_file file(co_await asio::this_coro::executor);
  co_await file.open("records", {.mode = mapio::access::read_write,
                                 .create = mapio::disposition::open_or_create,
                                 .size = 1 << 20});
  co_await file.update_region(4096, asio::buffer("a record"));  // the loop does not wait
  co_await file.flush_range(4096, 9);                           // now it survives power loss
  mapio::region record = co_await file.view(4096, 8);           // no copy, and it stays mapped
  std::cout << record.text() << " is durable\n";
  co_await file.close();
}

int main() {
  asio::io_context io;
  asio::co_spawn(io, keep_a_record(), asio::detached);
  io.run();
}
