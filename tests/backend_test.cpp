#include <mapio/backend.hpp>

#include "backend_fixture.hpp"
#include "support.hpp"

#include <mapio/mapped_file.hpp>

#include <asio/buffer.hpp>
#include <asio/io_context.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace {

using mapio::backend_info;
using mapio::backend_kind;
using mapio::backend_of;
using mapio::mapped_file;
using mapio::use_backend;
using support::backend_test;
using support::best_engine;
using support::code_of;
using support::contains;
using support::creating;
using support::failure;
using support::failure_of;
using support::io_uring_is_available;
using support::page;
using support::scoped_environment;
using support::text_of;

using backend_of_context = backend_test;
using backend_chosen = backend_test;
using backend_environment = backend_test;

TEST_F(backend_of_context, is_known_and_has_a_reason) {
  asio::io_context io;
  const backend_info info = backend_of(io);
  EXPECT_TRUE(info.kind == best_engine() || info.kind == backend_kind::thread_pool);
  EXPECT_FALSE(info.reason.empty());
  expect_to_work(io);
}

TEST_F(backend_of_context, is_what_the_environment_asked_for) {
  const char* const name = std::getenv("MAPIO_BACKEND");
  if (name == nullptr) GTEST_SKIP() << "MAPIO_BACKEND is not set";
  asio::io_context io;
  std::ostringstream kind;
  kind << backend_of(io).kind;
  EXPECT_EQ(kind.str(), name);
}

TEST_F(backend_of_context, stays_what_it_is) {
  asio::io_context io;
  const backend_info first = backend_of(io);
  expect_to_work(io);
  const scoped_environment ignored("MAPIO_BACKEND", "no such engine");
  const backend_info second = backend_of(io);
  EXPECT_EQ(first.kind, second.kind);
  EXPECT_EQ(first.reason, second.reason);
}

TEST_F(backend_of_context, is_its_own_for_every_context) {
  asio::io_context a;
  asio::io_context b;
  asio::thread_pool c(1);
  use_backend(a, backend_kind::thread_pool);
  const scoped_environment automatic("MAPIO_BACKEND", nullptr);
  EXPECT_EQ(backend_of(a).kind, backend_kind::thread_pool);
  EXPECT_EQ(backend_of(b).kind, best_engine());
  EXPECT_EQ(backend_of(c).kind, best_engine());
  expect_to_work(a);
  expect_to_work(b);
}

TEST_F(backend_of_context, is_the_same_for_threads_that_ask_at_once) {
  for (int round = 0; round < 10; ++round) {
    asio::io_context io;
    std::vector<backend_kind> seen(4);
    std::vector<std::thread> threads;
    for (auto& kind : seen)
      threads.emplace_back([&] { kind = backend_of(io).kind; });
    for (auto& t : threads)
      t.join();
    for (const backend_kind kind : seen)
      EXPECT_EQ(kind, backend_of(io).kind);
  }
}

TEST_F(backend_chosen, thread_pool_serves) {
  asio::io_context io;
  use_backend(io, backend_kind::thread_pool);
  EXPECT_EQ(backend_of(io).kind, backend_kind::thread_pool);
  EXPECT_FALSE(backend_of(io).reason.empty());
  expect_to_work(io);
}

TEST_F(backend_chosen, io_uring_serves_where_there_is_one) {
  asio::io_context io;
  if (io_uring_is_available()) {
    use_backend(io, backend_kind::io_uring);
    EXPECT_EQ(backend_of(io).kind, backend_kind::io_uring);
  } else {
    EXPECT_EQ(code_of([&] { use_backend(io, backend_kind::io_uring); }), mapio::errc::unsupported);
  }
  expect_to_work(io);
}

TEST_F(backend_chosen, automatic_serves) {
  asio::io_context io;
  use_backend(io, backend_kind::automatic);
  EXPECT_NE(backend_of(io).kind, backend_kind::automatic);
  expect_to_work(io);
}

TEST_F(backend_chosen, wins_over_the_environment) {
  const scoped_environment other("MAPIO_BACKEND", "io_uring");
  asio::io_context io;
  use_backend(io, backend_kind::thread_pool);
  EXPECT_EQ(backend_of(io).kind, backend_kind::thread_pool);
  expect_to_work(io);
}

TEST_F(backend_chosen, ring_wins_over_the_environment) {
  if (!io_uring_is_available()) GTEST_SKIP() << "no io_uring here";
  const scoped_environment other("MAPIO_BACKEND", "thread_pool");
  asio::io_context io;
  use_backend(io, backend_kind::io_uring);
  EXPECT_EQ(backend_of(io).kind, backend_kind::io_uring);
}

TEST_F(backend_chosen, can_be_changed_before_the_first_use) {
  if (!io_uring_is_available()) GTEST_SKIP() << "no io_uring here";
  asio::io_context io;
  use_backend(io, backend_kind::io_uring);
  use_backend(io, backend_kind::thread_pool);
  EXPECT_EQ(backend_of(io).kind, backend_kind::thread_pool);
}

TEST_F(backend_chosen, can_be_chosen_after_a_file_was_made_and_before_its_first_verb) {
  asio::io_context io;
  mapped_file file(io);
  use_backend(io, backend_kind::thread_pool);
  support::run_coroutine(
      io, [&]() -> asio::awaitable<void> { co_await file.open(dir_ / "file", creating(page())); });
  EXPECT_EQ(backend_of(io).kind, backend_kind::thread_pool);
  EXPECT_EQ(code_of([&] { use_backend(io, backend_kind::thread_pool); }),
            std::errc::device_or_resource_busy);
}

TEST_F(backend_chosen, cannot_be_changed_after_backend_of) {
  for (const auto kind :
       {backend_kind::thread_pool, backend_kind::io_uring, backend_kind::automatic}) {
    asio::io_context io;
    const backend_kind before = backend_of(io).kind;
    const failure f = failure_of([&] { use_backend(io, kind); });
    EXPECT_EQ(f.code, std::errc::device_or_resource_busy) << text_of(f.code);
    EXPECT_EQ(backend_of(io).kind, before);
    expect_to_work(io);
  }
}

TEST_F(backend_chosen, cannot_be_changed_after_the_first_verb) {
  asio::io_context io;
  expect_to_work(io);
  EXPECT_EQ(code_of([&] { use_backend(io, backend_kind::thread_pool); }),
            std::errc::device_or_resource_busy);
  expect_to_work(io);
}

TEST_F(backend_chosen, works_for_a_thread_pool_context) {
  for (const auto kind : {backend_kind::thread_pool, backend_kind::io_uring}) {
    if (kind == backend_kind::io_uring && !io_uring_is_available()) continue;
    asio::thread_pool pool(2);
    use_backend(pool, kind);
    EXPECT_EQ(backend_of(pool).kind, kind);
    std::atomic<int> flushed = 0;
    mapped_file file(pool);
    file.open(dir_ / "file", creating(page()), [&](std::error_code ec) {
      EXPECT_FALSE(ec) << ec.message();
      file.flush([&](std::error_code error) {
        EXPECT_FALSE(error) << error.message();
        ++flushed;
      });
    });
    pool.join();
    EXPECT_EQ(flushed, 1);
  }
}

TEST_F(backend_environment, chooses_the_thread_pool) {
  const scoped_environment set("MAPIO_BACKEND", "thread_pool");
  asio::io_context io;
  EXPECT_EQ(backend_of(io).kind, backend_kind::thread_pool);
  EXPECT_FALSE(backend_of(io).reason.empty());
  expect_to_work(io);
}

TEST_F(backend_environment, chooses_io_uring) {
  const scoped_environment set("MAPIO_BACKEND", "io_uring");
  asio::io_context io;
  if (io_uring_is_available()) {
    EXPECT_EQ(backend_of(io).kind, backend_kind::io_uring);
    expect_to_work(io);
  } else {
    const failure f = failure_of([&] { backend_of(io); });
    EXPECT_EQ(f.code, mapio::errc::unsupported) << text_of(f.code);
    EXPECT_TRUE(contains(f.text, "io_uring")) << f.text;
  }
}

TEST_F(backend_environment, cannot_choose_what_is_not_for_this_system) {
  const scoped_environment set(
      "MAPIO_BACKEND", support::engine_of_this_os == backend_kind::iocp ? "io_uring" : "iocp");
  asio::io_context io;
  EXPECT_EQ(code_of([&] { backend_of(io); }), mapio::errc::unsupported);
}

TEST_F(backend_environment, cannot_name_what_does_not_exist) {
  for (const char* const name : {"uring", "IO_URING", "threads", "thread_pool "}) {
    const scoped_environment set("MAPIO_BACKEND", name);
    asio::io_context io;
    const failure f = failure_of([&] { backend_of(io); });
    EXPECT_TRUE(f.code) << '"' << name << '"';
    EXPECT_TRUE(contains(f.text, name)) << f.text;
    EXPECT_TRUE(contains(f.text, "MAPIO_BACKEND")) << f.text;
  }
}

TEST_F(backend_environment, that_is_wrong_fails_the_first_verb) {
  const scoped_environment set("MAPIO_BACKEND", "no such engine");
  asio::io_context io;
  mapped_file file(io);
  int calls = 0;
  std::error_code completed;
  const std::error_code thrown = code_of([&] {
    file.open(dir_ / "file", creating(page()), [&](std::error_code ec) {
      completed = ec;
      ++calls;
    });
  });
  EXPECT_TRUE(support::run_to_end(io));
  EXPECT_FALSE(thrown) << "errors come through completion: " << text_of(thrown);
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(completed);
  EXPECT_FALSE(file.is_open());
}

// However many contexts use the file: what the blocked thread waits for may be in the ring of any.
TEST(backend_blocking, a_verb_behind_an_awaited_one_of_the_last_of_many_contexts_ends) {
  const support::temp_dir dir;
  mapio::mapping m(dir / "file", creating(4 * page()));
  std::array<asio::io_context, 9> contexts;
  int calls = 0;
  const auto handler = [&](std::error_code error) { calls += error ? 0 : 1; };
  for (asio::io_context& io : contexts) {
    mapped_file file(io.get_executor(), m);
    m.update_region(0, asio::buffer("x", 1));
    file.flush(handler);
    ASSERT_TRUE(support::run_to_end(io));
  }
  mapped_file file(contexts.back().get_executor(), m);
  m.update_region(0, asio::buffer("x", 1));
  file.flush(handler);
  m.update_region(page(), asio::buffer("x", 1));
  m.flush();
  EXPECT_TRUE(support::run_to_end(contexts.back()));
  EXPECT_EQ(calls, 10);
}

TEST(backend_blocking, a_verb_behind_an_awaited_one_ends_although_the_file_is_closed_meanwhile) {
  const support::temp_dir dir;
  mapio::mapping m(dir / "file", creating(std::uint64_t{64} << 20));
  for (std::uint64_t at = 0; at < m.size(); at += page())
    m.update_region(at, asio::buffer("x", 1));
  asio::io_context io;
  mapped_file file(io.get_executor(), m);
  int calls = 0;
  file.flush([&](std::error_code) { ++calls; });
  std::thread closer([copy = m]() mutable {
    // So that it most likely falls into the flush; where it does not, less is tried.
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    std::error_code ignored;
    copy.close(ignored);
  });
  std::error_code error;
  m.flush(mapio::durability::durable, error);
  EXPECT_TRUE(!error || error == mapio::errc::not_open) << error.message();
  closer.join();
  EXPECT_TRUE(support::run_to_end(io));
  EXPECT_EQ(calls, 1);
}

TEST(backend_blocking, a_verb_behind_an_awaited_one_ends_on_the_thread_that_should_run_the_loop) {
  const support::temp_dir dir;
  asio::io_context io;
  mapped_file file(io);
  support::run_coroutine(io, [&]() -> asio::awaitable<void> {
    co_await file.open(dir / "file", creating(4 * page()));
  });
  mapio::mapping m = file.map();
  int calls = 0;
  const auto handler = [&](std::error_code error) { calls += error ? 0 : 1; };
  for (const bool submitted : {false, true}) {
    m.update_region(0, asio::buffer("x", 1));
    file.flush(handler);
    if (submitted) {
      io.restart();
      io.poll_one();
    }
    m.update_region(page(), asio::buffer("x", 1));
    m.flush();
    file.resize(m.size() + page(), handler);
    m.resize(m.size() + 2 * page());
  }
  EXPECT_TRUE(support::run_to_end(io));
  EXPECT_EQ(calls, 4);
}

std::string printed(const auto& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

TEST(backend_print, kinds_by_the_names_of_the_environment) {
  EXPECT_EQ(printed(backend_kind::automatic), "automatic");
  EXPECT_EQ(printed(backend_kind::io_uring), "io_uring");
  EXPECT_EQ(printed(backend_kind::iocp), "iocp");
  EXPECT_EQ(printed(backend_kind::thread_pool), "thread_pool");
}

TEST(backend_print, info_with_its_reason_in_brackets) {
  const backend_info info{backend_kind::thread_pool, "io_uring_setup: Operation not permitted"};
  EXPECT_EQ(printed(info), "thread_pool (io_uring_setup: Operation not permitted)");
}

}  // namespace
