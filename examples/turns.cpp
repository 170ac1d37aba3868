// Two processes take turns through an integer in a file: each awaits the other's move, and neither
// of their event loops ever blocks.

#include <mapio/mapio.hpp>

#include <asio.hpp>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>

#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr std::uint32_t rounds = 5;

asio::awaitable<void> play(std::filesystem::path path, std::uint32_t mine, const char* name) {
  mapio::mapped_file file(co_await asio::this_coro::executor);
  co_await file.open(path, {.mode = mapio::access::read_write});
  const auto turn = file.atomic<std::uint32_t>(0);
  for (std::uint32_t i = mine; i < 2 * rounds; i += 2) {
    for (std::uint32_t seen = turn.load(); seen != i; seen = turn.load())
      co_await turn.wait(seen);  // until the other process has moved
    std::printf("move %u is by %s\n", i, name);
    std::fflush(stdout);
    turn.store(i + 1);
    turn.notify_one();
  }
  co_await file.close();
}

int run(const std::filesystem::path& path, std::uint32_t mine, const char* name) {
  int status = 0;
  asio::io_context io;
  asio::co_spawn(io, play(path, mine, name),
                 [&](std::exception_ptr failure) { status = failure ? 1 : 0; });
  io.run();
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  const std::filesystem::path path = argc > 1 ? argv[1] : "turns";
  mapio::mapping::create(path, mapio::page_size());
  // Before there is an engine, whose threads would not come along.
  const pid_t child = ::fork();
  if (child < 0) return 1;
  if (child == 0) ::_exit(run(path, 1, "the child"));
  const int status = run(path, 0, "the parent");
  int child_status = 0;
  ::waitpid(child, &child_status, 0);
  return status != 0 || child_status != 0 ? 1 : 0;
}
