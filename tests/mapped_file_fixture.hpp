#ifndef MAPIO_TESTS_MAPPED_FILE_FIXTURE_HPP
#define MAPIO_TESTS_MAPPED_FILE_FIXTURE_HPP

// What the tests of mapped_file have in common: a file on a loop, what its handlers were told, and
// one of every verb.

#include <mapio/mapped_file.hpp>

#include "support.hpp"

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <limits>
#include <string>
#include <system_error>
#include <utility>

namespace support {

using mapio::mapped_file;

inline const std::error_code aborted = asio::error::operation_aborted;
inline constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;
inline constexpr std::uint64_t largest = std::numeric_limits<std::uint64_t>::max();

/// What a handler was told.
struct outcome {
  int calls = 0;
  std::error_code error;
  std::uint64_t bytes = 0;
  mapio::region region;

  /// A handler for any verb. The outcome must outlive it.
  auto handler() {
    return [this](std::error_code ec, auto... result) {
      ++calls;
      error = ec;
      (keep(std::move(result)), ...);
    };
  }
  bool ok() const { return calls == 1 && !error; }

 private:
  void keep(std::uint64_t n) { bytes = n; }
  void keep(mapio::region r) { region = std::move(r); }
};

class mapped_file_test : public testing::Test {
 protected:
  using work = asio::awaitable<void>;

  template <class Body>
  void run(Body body) {
    support::run_coroutine(io_, std::move(body));
  }
  /// Runs handlers until this one was called.
  void finish(const outcome& o) {
    EXPECT_TRUE(run_until(io_, [&] { return o.calls > 0; })) << "it never completes";
  }
  /// Lets everything that is ready happen, without waiting for what is not.
  void settle() {
    io_.restart();
    while (io_.poll() > 0) {
    }
  }

  mapped_file opened(const mapio::open_options& options) {
    mapped_file file(io_);
    run([&]() -> work { co_await file.open(path_, options); });
    return file;
  }
  mapped_file created(std::uint64_t size) { return opened(creating(size)); }
  mapped_file opened_with(const std::string& bytes,
                          const mapio::open_options& options = read_write()) {
    write_file(path_, bytes);
    return opened(options);
  }

  support::temp_dir dir_;
  const fs::path path_ = dir_ / "file";
  asio::io_context io_;
};

/// What verbs under way refer to, and a second file for open.
struct verb_memory {
  verb_memory(const asio::any_io_executor& executor, fs::path second)
      : path(std::move(second)), other(executor) {
    write_file(path, "other");
  }

  // These never go: a context may end with verbs under way that use them.
  inline static const std::string out = pattern(64, 9);
  inline static std::deque<std::array<char, 64>> inputs{};

  /// Memory of its own for each reading: two of them may be carried out at the same time.
  static asio::mutable_buffer next_input() { return asio::buffer(inputs.emplace_back()); }

  fs::path path;
  mapped_file other;
};

/// Starts one of every verb on an open file of a page or more; `make(name)` gives the handler of
/// each. None reads what another one writes meanwhile.
template <class Make>
void start_every_verb(mapped_file& file, verb_memory& memory, Make make) {
  file.update_region(0, asio::buffer(memory.out), make("update_region"));
  file.read_into(64, memory.next_input(), make("read_into"));
  file.flush(make("flush"));
  file.flush(mapio::durability::started, make("flush started"));
  file.flush_range(0, 64, make("flush_range"));
  file.flush_range(0, 64, mapio::durability::started, make("flush_range started"));
  file.resize(file.size() + page(), make("resize"));
  file.refresh(make("refresh"));
  file.prefetch(make("prefetch"));
  file.prefetch(0, 64, make("prefetch range"));
  file.lock_pages(make("lock_pages"));
  file.lock_pages(0, 64, make("lock_pages range"));
  file.unlock_pages(make("unlock_pages"));
  file.unlock_pages(0, 64, make("unlock_pages range"));
  file.view(128, 64, make("view"));
  memory.other.open(memory.path, make("open for reading"));
  memory.other.open(memory.path, read_write(), make("open"));
}
inline constexpr int every_verb = 17;

/// Starts one of every verb that needs an open file, on a file that is not.
template <class Make>
void start_every_verb_but_open(mapped_file& file, verb_memory& memory, Make make) {
  file.update_region(0, asio::buffer(memory.out), make("update_region"));
  file.update_region(0, asio::const_buffer(), make("update_region of nothing"));
  file.read_into(0, memory.next_input(), make("read_into"));
  file.flush(make("flush"));
  file.flush(mapio::durability::started, make("flush started"));
  file.flush_range(0, 0, make("flush_range"));
  file.resize(page(), make("resize"));
  file.refresh(make("refresh"));
  file.prefetch(make("prefetch"));
  file.prefetch(0, 0, make("prefetch range"));
  file.lock_pages(make("lock_pages"));
  file.lock_pages(0, 0, make("lock_pages range"));
  file.unlock_pages(make("unlock_pages"));
  file.unlock_pages(0, 0, make("unlock_pages range"));
  file.view(0, 0, make("view"));
  file.close(make("close"));
}
inline constexpr int every_verb_but_open = 16;

}  // namespace support

#endif  // MAPIO_TESTS_MAPPED_FILE_FIXTURE_HPP
