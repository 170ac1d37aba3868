// Appends what comes on standard input to a file, a line at a time, while a reader goes on looking
// at the beginning of it: the file grows in place, and nobody's view is moved or held up.
//
//   grow FILE < LINES

#include <mapio/mapio.hpp>

#include <asio.hpp>

#include <exception>
#include <iostream>
#include <string>

namespace {

asio::awaitable<void> append(std::string path) {
  mapio::mapped_file file(co_await asio::this_coro::executor);
  co_await file.open(
      path, {.mode = mapio::access::read_write, .create = mapio::disposition::create_or_truncate});
  mapio::region first;  // of the reader
  for (std::string line; std::getline(std::cin, line);) {
    line += '\n';
    const auto end = file.size();
    co_await file.resize(end + line.size());
    co_await file.update_region(end, asio::buffer(line));
    if (first.empty()) first = co_await file.view(0, line.size());
  }
  co_await file.flush();
  if (!first.empty()) {
    const mapio::region again = co_await file.view(0, first.size());
    std::cout << "the view " << (again.data() == first.data() ? "stayed" : "moved")
              << " while the file grew to " << file.size() << " bytes: " << first.text();
  }
  co_await file.close();
}

}  // namespace

int main(int argc, char* argv[]) try {
  if (argc != 2) {
    std::cerr << "usage: grow FILE < LINES\n";
    return 2;
  }
  asio::io_context io;
  asio::co_spawn(io, append(argv[1]), [](std::exception_ptr failure) {
    if (failure) std::rethrow_exception(failure);
  });
  io.run();
  return 0;
} catch (const std::exception& e) {
  std::cerr << "grow: " << e.what() << '\n';
  return 1;
}
