// Looks words up in a list of lines that are sorted by their bytes, with no wait for a disk once it
// is ready: the list is read in, locked and told to be used here and there. What of that cannot be
// had is said, and is no reason to stop.
//
//   look FILE WORD...

#include <mapio/mapio.hpp>

#include <asio.hpp>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace {

bool has_line(std::string_view sorted, std::string_view word) {
  while (!sorted.empty()) {
    const std::size_t middle = sorted.size() / 2;
    const std::size_t before = sorted.substr(0, middle).rfind('\n');
    const std::size_t begin = before + 1;  // 0 if there is none before
    const std::size_t end = std::min(sorted.find('\n', begin), sorted.size());
    const std::string_view line = sorted.substr(begin, end - begin);
    if (line == word) return true;
    sorted =
        word < line ? sorted.substr(0, begin) : sorted.substr(std::min(end + 1, sorted.size()));
  }
  return false;
}

void say(std::string_view what, const std::error_code& error) {
  std::cout << what << ": " << (error ? "no, " + error.message() : "yes") << '\n';
}

asio::awaitable<void> look(std::string path, std::vector<std::string> words) {
  mapio::mapped_file file(co_await asio::this_coro::executor);
  co_await file.open(path, {.touch = mapio::prefault::eager, .huge_pages = true});
  mapio::mapping map = file.map();

  const auto pages = map.pages();
  std::error_code error;
  const auto resident = std::ranges::count_if(
      pages, [&](const auto& page) { return map.is_resident(page.offset(), page.size(), error); });
  if (error)
    say("in memory", error);
  else
    std::cout << "in memory: " << resident << " of " << pages.size() << " pages\n";
  std::cout << "in huge pages: " << file.stats().huge_page_bytes << " of " << file.size()
            << " bytes\n";
  co_await file.lock_pages(asio::redirect_error(asio::use_awaitable, error));
  say("locked", error);
  map.advise(0, map.size(), mapio::advice::random, error);
  say("without read-ahead", error);

  const mapio::region list = co_await file.view(0, file.size());
  for (const std::string& word : words)
    std::cout << word << (has_line(list.text(), word) ? " is there\n" : " is not there\n");
}

}  // namespace

int main(int argc, char* argv[]) try {
  if (argc < 3) {
    std::cerr << "usage: look FILE WORD...\n";
    return 2;
  }
  asio::io_context io;
  asio::co_spawn(io, look(argv[1], {argv + 2, argv + argc}), [](std::exception_ptr failure) {
    if (failure) std::rethrow_exception(failure);
  });
  io.run();
  return 0;
} catch (const std::exception& e) {
  std::cerr << "look: " << argv[1] << ": " << e.what() << '\n';
  return 1;
}
