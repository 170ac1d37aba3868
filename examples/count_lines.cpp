// Counts the lines of files, as `wc -l` does. Each file comes chunk by chunk, and while one is
// looked at, the disk works on the next ones; the loop never waits for it, so that several files
// are read at once.
//
//   count_lines FILE...

#include <mapio/mapio.hpp>

#include <asio.hpp>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>

namespace {

asio::awaitable<void> count_lines(std::string path) {
  mapio::mapped_file file(co_await asio::this_coro::executor);
  co_await file.open(path);
  auto chunks = file.chunks(1 << 20);
  std::ptrdiff_t lines = 0;
  for (;;) {
    const mapio::region chunk = co_await chunks.next();  // in memory, and pinned
    if (chunk.empty()) break;
    const std::string_view text = chunk.text();
    lines += std::count(text.begin(), text.end(), '\n');
  }
  co_await file.close();
  std::cout << lines << ' ' << path << '\n';
}

}  // namespace

int main(int argc, char* argv[]) {
  if (argc < 2) {
    std::cerr << "usage: count_lines FILE...\n";
    return 2;
  }
  int status = 0;
  asio::io_context io;
  for (int i = 1; i < argc; ++i)
    asio::co_spawn(io, count_lines(argv[i]), [&status, path = argv[i]](std::exception_ptr failure) {
      try {
        if (failure) std::rethrow_exception(failure);
      } catch (const std::exception& e) {
        std::cerr << "count_lines: " << path << ": " << e.what() << '\n';
        status = 1;
      }
    });
  io.run();
  return status;
}
