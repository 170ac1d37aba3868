#include <asio.hpp>
#include <exception>
#include <filesystem>
#include <mapio/mapio.hpp>
#include <string_view>

asio::awaitable<void> update(const std::filesystem::path& path) {
  mapio::mapped_file file(co_await asio::this_coro::executor);
  co_await file.open(path, {.mode = mapio::access::read_write});
  co_await file.update_region(5, asio::buffer(" awaited", 8));
  co_await file.flush();
  co_await file.close();
}

int main(int, char** argv) {
  const std::filesystem::path path = argv[1];
  auto map = mapio::mapping::create(path, 4096);
  map.update_region(0, asio::buffer("hello", 5));
  map.flush();

  asio::io_context context;
  asio::co_spawn(context, update(path), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
  });
  context.run();

  char text[13];
  map.read_into(0, asio::buffer(text));
  return std::string_view(text, 13) == "hello awaited" ? 0 : 1;
}
