// What of mapped_file_lifetime_test.cpp is about Linux.

#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>

#include "faults/syscall_gate.hpp"
#include "linux/linux_support.hpp"
#include "mapped_file_fixture.hpp"
#include "mapped_file_lifetime_fixture.hpp"

#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/system_executor.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using namespace asio::experimental::awaitable_operators;
using mapio::errc;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;
using support::census;
using support::code_of;
using support::counted_handler;
using support::creating;
using support::every_verb;
using support::into;
using support::mapped_file_test;
using support::outcome;
using support::page;
using support::pattern;
using support::read_all;
using support::read_file;
using support::read_write;
using support::run_to_end;
using support::run_until;
using support::start_every_verb;
using support::to_string;
using support::verb_memory;
using support::write_file;

using mapped_file_lifetime = mapped_file_test;
using mapped_file_process = mapped_file_test;

TEST_F(mapped_file_lifetime, of_a_context_takes_back_with_it_a_growth_that_was_not_over) {
  // Where the file has grown, and is about to be mapped anew.
  std::atomic<int> held_file{-1};
  faults::syscall_gate gate({SYS_mmap},
                            [&](const faults::syscall_gate::call& c) {
                              return static_cast<int>(c.arguments[4]) == held_file
                                         ? faults::syscall_gate::hold
                                         : faults::syscall_gate::pass;
                            },
                            {{SYS_mmap, 3, MAP_ANONYMOUS, MAP_ANONYMOUS}});
  for (const bool preallocate : {true, false}) {
    census c;
    const bool possible = gate.run([&] {
      auto io = std::make_unique<asio::io_context>();
      open_options options = creating(4 * page());
      options.reserve = 4 * page();
      options.preallocate = preallocate;
      std::optional<mapped_file> file(*io);
      support::run_coroutine(*io, [&]() -> work { co_await file->open(path_, options); });
      held_file = file->native_handle();
      file->resize(64 * page(), counted_handler(c));
      io->restart();
      while (gate.held() == 0)
        io->poll();
      held_file = -1;
      EXPECT_EQ(fs::file_size(path_), 64 * page());
      // It is in the way of the move, for as long as the context lives.
      const mapping map = file->map();
      const mapio::region in_the_way = map.view(0, 1);
      gate.release();
      file.reset();
      io.reset();
      EXPECT_EQ(fs::file_size(path_), 4 * page());
      EXPECT_EQ(map.size(), 4 * page());
      EXPECT_EQ(c.called, 0);
    });
    if (!possible) GTEST_SKIP() << "the kernel does not let us see system calls";
    EXPECT_EQ(c.live, 0);
  }
}

TEST_F(mapped_file_process, that_forks_goes_on_and_its_child_gets_errors) {
  mapped_file file = opened_with(pattern(4 * page()));
  verb_memory memory(io_.get_executor(), dir_ / "other");
  mapio::region in_the_way = file.map().view(3 * page(), 1);
  outcome waiting;
  file.resize(page(), waiting.handler());  // under way across the fork
  settle();

  io_.notify_fork(asio::io_context::fork_prepare);
  const pid_t child = support::start_child([&] {
    io_.notify_fork(asio::io_context::fork_child);
    int calls = 0;
    const auto make = [&](std::string_view name) {
      return [&calls, name](std::error_code ec, auto&&...) {
        EXPECT_EQ(ec, errc::unsupported) << name << ": " << ec.message();
        ++calls;
      };
    };
    start_every_verb(file, memory, make);
    file.close(make("close"));
    EXPECT_TRUE(run_until(io_, [&] { return calls == every_verb + 1; })) << calls;
  });
  io_.notify_fork(asio::io_context::fork_parent);
  const auto end = support::wait_for_child(child);
  EXPECT_TRUE(end.ok()) << end;

  EXPECT_EQ(waiting.calls, 0);
  in_the_way = mapio::region();
  finish(waiting);
  EXPECT_TRUE(waiting.ok()) << waiting.error.message();
  run([&]() -> work {
    co_await file.update_region(0, asio::buffer("parent", 6));
    co_await file.flush();
    co_await file.resize(2 * page());
  });
  EXPECT_EQ(read_file(path_).substr(0, 6), "parent");
}

TEST_F(mapped_file_process, that_is_a_child_may_use_a_context_of_its_own) {
  mapped_file file = opened_with(pattern(4 * page()));
  run([&]() -> work { co_await file.flush(); });
  if (support::under_tsan)
    GTEST_SKIP() << "ThreadSanitizer allows no threads after a fork with threads";
  const auto end = support::in_child([&] {
    asio::io_context io;
    mapped_file mine(io);
    support::run_coroutine(io, [&]() -> work {
      co_await mine.open(dir_ / "child", creating(page()));
      co_await mine.update_region(0, asio::buffer("child", 5));
      co_await mine.flush();
    });
  });
  EXPECT_TRUE(end.ok()) << end;
  EXPECT_EQ(read_file(dir_ / "child").substr(0, 5), "child");
  run([&]() -> work { co_await file.flush(); });
}

TEST_F(mapped_file_process, without_descriptors_left_gets_errors) {
  mapped_file file = opened_with(pattern(4 * page()));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  outcome existing;
  outcome created_one;
  outcome flush;
  mapped_file a(io_);
  mapped_file b(io_);
  a.open(path_, existing.handler());
  b.open(dir_ / "new", creating(page()), created_one.handler());
  file.map().update_region(0, asio::buffer("x", 1));
  file.flush(flush.handler());
  const bool ended = run_to_end(io_);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(ended);
  EXPECT_EQ(existing.error, std::errc::too_many_files_open) << existing.error.message();
  EXPECT_EQ(created_one.error, std::errc::too_many_files_open) << created_one.error.message();
  EXPECT_TRUE(flush.ok()) << "it needs none: " << flush.error.message();
  EXPECT_FALSE(fs::exists(dir_ / "new"));
  run([&]() -> work { co_await a.open(path_); });
}

TEST_F(mapped_file_process, without_descriptors_left_cannot_start_an_engine_and_says_so) {
  write_file(path_, "x");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  mapped_file file(io_);  // not a use of the engine
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  outcome o;
  const std::error_code thrown = code_of([&] { file.open(path_, o.handler()); });
  const bool ended = run_to_end(io_);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_FALSE(thrown) << "errors come through completion: " << thrown.message();
  EXPECT_TRUE(ended);
  EXPECT_EQ(o.calls, 1);
  EXPECT_EQ(o.error, std::errc::too_many_files_open) << o.error.message();
  outcome again;
  file.open(path_, again.handler());
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(again.ok()) << again.error.message();
}

TEST_F(mapped_file_process, may_have_thousands_of_files_open) {
  constexpr std::size_t count = support::as_often_as(10'000);
  constexpr std::size_t openers = 64;
  // Besides the files: the engine, and what the test itself opens.
  constexpr rlim_t others = 200;
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  // Root may raise it, but not in every container.
  rlimit raised = limit;
  raised.rlim_max = std::max<rlim_t>(limit.rlim_max, 2 * count + others);
  if (support::in_child([&] { ::_exit(::setrlimit(RLIMIT_NOFILE, &raised) == 0 ? 0 : 1); }).ok())
    limit = raised;
  limit.rlim_cur = limit.rlim_max;
  if (limit.rlim_max < count + others)
    GTEST_SKIP() << "only " << limit.rlim_max << " descriptors are to be had";
  // A file that is written has two. As many of them as there are descriptors for.
  const std::size_t written =
      static_cast<std::size_t>(std::min<rlim_t>(count, limit.rlim_max - others - count));
  // A file, and its dirty pages twice.
  constexpr std::size_t mappings = 3 * count + 1000;
  std::size_t most_mappings = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> most_mappings;
  if (most_mappings < mappings) GTEST_SKIP() << "only " << most_mappings << " mappings at a time";

  const auto path_of = [&](std::size_t i) { return dir_ / std::to_string(i); };
  const auto content_of = [&](std::size_t i) {
    return (i < written ? "FILE " : "file ") + std::to_string(i);
  };
  for (std::size_t i = 0; i < count; ++i)
    write_file(path_of(i), "file " + std::to_string(i));
  const auto end = support::in_child([&] {
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
    const std::size_t open_before = support::open_descriptors().size();
    asio::io_context io;
    std::vector<mapped_file> files;
    for (std::size_t i = 0; i < count; ++i)
      files.emplace_back(io);
    // Each of some coroutines does it for its share of the files.
    const auto with_each = [&](auto what) {
      std::size_t done = 0;
      for (std::size_t first = 0; first < openers; ++first)
        asio::co_spawn(
            io,
            [&, first]() -> work {
              for (std::size_t i = first; i < count; i += openers)
                co_await what(i);
            },
            [&](std::exception_ptr e) {
              EXPECT_FALSE(e);
              ++done;
            });
      EXPECT_TRUE(run_to_end(io));
      EXPECT_EQ(done, openers);
    };
    with_each([&](std::size_t i) -> work {
      co_await files[i].open(path_of(i), i < written ? read_write() : support::read_only());
    });
    if (testing::Test::HasFailure()) return;
    EXPECT_GE(support::open_descriptors().size(), open_before + count);
    with_each([&](std::size_t i) -> work {
      if (i >= written) co_return;
      co_await files[i].update_region(0, asio::buffer("FILE", 4));
      // Each is a sync of its own.
      if (i % 100 == 0) co_await files[i].flush_range(0, 4);
    });
    for (std::size_t i = 0; i < count; ++i)
      EXPECT_EQ(read_all(files[i].map()), content_of(i));
    with_each([&](std::size_t i) -> work { co_await files[i].close(); });
  });
  EXPECT_TRUE(end.ok()) << end;
  for (std::size_t i = 0; i < count; i += 77)
    EXPECT_EQ(read_file(path_of(i)), content_of(i));
}

/// The address space that this process uses, in bytes.
std::uint64_t address_space_in_use() {
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * page();
}

/// Runs `body` where only so much more address space is to be had. Its engine is there already.
template <class Body>
void with_address_space(std::uint64_t bytes, Body body) {
  const auto end = support::in_child([&] {
    // How many threads allocate is up to chance, and each would reserve a heap of its own.
    ASSERT_EQ(::mallopt(M_ARENA_MAX, 1), 1);
    asio::io_context io;
    mapio::backend_of(io);
    const std::uint64_t most = address_space_in_use() + bytes;
    const rlimit limit{most, most};
    ASSERT_EQ(::setrlimit(RLIMIT_AS, &limit), 0);
    support::run_coroutine(io, [&] { return body(mapped_file(io)); });
  });
  EXPECT_TRUE(end.ok()) << end;
}

// A sanitizer reserves terabytes for itself, and ends where it cannot have more.
constexpr bool address_space_can_be_limited = !support::under_asan && !support::under_tsan;
constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;

open_options growing_without_blocks() {
  open_options options = read_write();
  options.preallocate = false;
  return options;
}

TEST_F(mapped_file_process, with_little_address_space_reserves_no_more_than_the_size) {
  if (!address_space_can_be_limited) GTEST_SKIP() << "not under a sanitizer";
  const std::uint64_t size = 1024 * mebibyte;
  write_file(path_, "begin");
  support::truncate_file(path_, size);
  with_address_space(1536 * mebibyte, [&](mapped_file file) -> work {
    co_await file.open(path_, growing_without_blocks());
    EXPECT_EQ(file.capacity(), size);
    EXPECT_EQ((co_await file.view(0, 5)).text(), "begin");
    co_await file.update_region(size - 3, asio::buffer("end", 3));
    co_await file.flush();
    // The old and the new mapping would have to be there at the same time.
    std::error_code ec;
    co_await file.resize(size + 1, into(ec));
    EXPECT_EQ(ec, std::errc::not_enough_memory) << ec.message();
    EXPECT_EQ(file.size(), size);
    EXPECT_EQ(fs::file_size(path_), size);
    EXPECT_EQ((co_await file.view(0, 5)).text(), "begin");
    EXPECT_EQ((co_await file.view(size - 3, 3)).text(), "end");
    co_await file.resize(size - 1);
    co_await file.resize(size);
    std::array<char, 3> last{};
    co_await file.read_into(size - 3, asio::buffer(last));
    EXPECT_EQ(std::string_view(last.data(), last.size()), std::string_view("en\0", 3));
    co_await file.close();
  });
}

TEST_F(mapped_file_process, with_limited_address_space_grows_as_far_as_it_reserved) {
  if (!address_space_can_be_limited) GTEST_SKIP() << "not under a sanitizer";
  const std::uint64_t size = 64 * mebibyte;
  write_file(path_, "begin");
  support::truncate_file(path_, size);
  with_address_space(1024 * mebibyte, [&](mapped_file file) -> work {
    co_await file.open(path_, growing_without_blocks());
    const std::uint64_t capacity = file.capacity();
    EXPECT_GE(capacity, 512 * mebibyte);
    EXPECT_LE(capacity, 1024 * mebibyte);
    co_await file.resize(capacity);
    co_await file.update_region(capacity - 3, asio::buffer("end", 3));
    std::error_code ec;
    co_await file.resize(capacity + 1, into(ec));
    EXPECT_EQ(ec, std::errc::not_enough_memory) << ec.message();
    EXPECT_EQ(fs::file_size(path_), capacity);
    EXPECT_EQ((co_await file.view(0, 5)).text(), "begin");
    EXPECT_EQ((co_await file.view(capacity - 3, 3)).text(), "end");
    EXPECT_EQ(file.stats().moves, 0U);
  });
}

TEST_F(mapped_file_process, with_limited_address_space_moves_to_what_is_left) {
  if (!address_space_can_be_limited) GTEST_SKIP() << "not under a sanitizer";
  const std::uint64_t size = 64 * mebibyte;
  write_file(path_, "begin");
  support::truncate_file(path_, size);
  with_address_space(512 * mebibyte, [&](mapped_file file) -> work {
    open_options options = growing_without_blocks();
    options.reserve = 192 * mebibyte;
    co_await file.open(path_, options);
    const std::uint64_t capacity = file.capacity();
    EXPECT_EQ(capacity, options.reserve);
    // Twice as much would be reserved where there is more.
    co_await file.resize(capacity + 1);
    EXPECT_EQ(file.stats().moves, 1U);
    EXPECT_GT(file.capacity(), capacity);
    EXPECT_LT(file.capacity(), 2 * capacity);
    EXPECT_EQ((co_await file.view(0, 5)).text(), "begin");
    co_await file.update_region(capacity, asio::buffer("!", 1));
    EXPECT_EQ((co_await file.view(capacity, 1)).text(), "!");
  });
}

}  // namespace
