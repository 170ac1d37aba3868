// tail -F: shows a file from its beginning and what is added to it, by whatever file has the name.
#include <mapio/mapio.hpp>

#include <asio.hpp>

#include <algorithm>
#include <cstdint>
#include <iostream>

class follower {
 public:
  explicit follower(const asio::any_io_executor& executor) : changes_(executor), file_(executor) {}

  asio::awaitable<void> run(std::filesystem::path path) {
    changes_.add(path, {.allow_missing = true});
    for (mapio::change_event event{mapio::change_kind::created, {}, {}, {}};;) {
      try {
        const bool is_other =
            event.kind == mapio::change_kind::created || event.kind == mapio::change_kind::replaced;
        if (event.kind == mapio::change_kind::truncated && *event.size < shown_) shown_ = 0;
        co_await show_what_is_new();  // also the end of a file that has lost the name
        if (is_other) shown_ = 0;
        if (is_other) co_await file_.open(path);
        co_await show_what_is_new();
      } catch (const std::system_error& e) {
        // Gone or cut meanwhile, of which the next event tells.
        if (file_.is_open()) std::cerr << e.what() << '\n';
      }
      event = co_await changes_.next();
    }
  }

 private:
  asio::awaitable<void> show_what_is_new() {
    if (!file_.is_open()) co_return;
    const std::uint64_t size = co_await file_.refresh();
    for (shown_ = shown_ > size ? 0 : shown_; shown_ < size;) {
      const mapio::region text =
          co_await file_.view(shown_, std::min<std::uint64_t>(size - shown_, 1 << 20));
      std::cout << text.text();
      shown_ += text.size();
    }
    std::cout << std::flush;
  }

  mapio::watcher changes_;
  mapio::mapped_file file_;
  std::uint64_t shown_ = 0;
};

int main(int argc, char** argv) {
  if (argc != 2) return std::cerr << "usage: follow FILE\n", 2;
  asio::io_context io;
  follower tail(io.get_executor());
  asio::co_spawn(io, tail.run(argv[1]), asio::detached);
  io.run();
}
