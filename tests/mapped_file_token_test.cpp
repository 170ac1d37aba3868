#include <mapio/mapped_file.hpp>

#include "mapped_file_fixture.hpp"
#include "support.hpp"

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/bind_allocator.hpp>
#include <asio/bind_executor.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
#include <asio/system_executor.hpp>
#include <asio/this_coro.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>

#if __has_include(<asio/as_tuple.hpp>)
#include <asio/as_tuple.hpp>
#else
#include <asio/experimental/as_tuple.hpp>
#endif
#if __has_include(<asio/deferred.hpp>)
#include <asio/deferred.hpp>
#else
#include <asio/experimental/deferred.hpp>
#endif
#if __has_include(<asio/bind_immediate_executor.hpp>)
#include <asio/bind_immediate_executor.hpp>
#define MAPIO_TEST_IMMEDIATE_EXECUTOR
#endif
#if __has_include(<asio/cancel_after.hpp>)
#include <asio/cancel_after.hpp>
#define MAPIO_TEST_CANCEL_AFTER
#endif

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using namespace asio::experimental::awaitable_operators;
using mapio::durability;
using mapio::errc;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;
using support::aborted;
using support::code_of;
using support::creating;
using support::every_verb;
using support::mapped_file_test;
using support::outcome;
using support::page;
using support::pattern;
using support::read_write;
using support::run_to_end;
using support::same;
using support::start_every_verb;
using support::to_string;
using support::verb_memory;
using support::write_file;

#if __has_include(<asio/as_tuple.hpp>)
using asio::as_tuple;
#else
using asio::experimental::as_tuple;
#endif

#if __has_include(<asio/deferred.hpp>)
using asio::deferred;
#else
using asio::experimental::deferred;
#endif

using mapped_file_token = mapped_file_test;
using mapped_file_handler = mapped_file_test;
using mapped_file_executor = mapped_file_test;

// --- completion tokens
// ---------------------------------------------------------------------------------------

TEST_F(mapped_file_token, use_awaitable) {
  mapped_file file = opened_with("hello");
  run([&]() -> work {
    std::string text(5, '\0');
    const std::size_t n = co_await file.read_into(0, asio::buffer(text), asio::use_awaitable);
    EXPECT_EQ(n, 5U);
    EXPECT_EQ(text, "hello");
    const mapio::region r = co_await file.view(1, 3, asio::use_awaitable);
    EXPECT_EQ(r.text(), "ell");
    std::error_code caught;
    try {
      co_await file.view(0, 6, asio::use_awaitable);
    } catch (const std::system_error& e) {
      caught = e.code();
    }
    EXPECT_EQ(caught, errc::out_of_range);
  });
}

TEST_F(mapped_file_token, default_one_can_be_awaited_for_every_verb) {
  write_file(path_, pattern(page()));
  run([&]() -> work {
    mapped_file file(co_await asio::this_coro::executor);
    co_await file.open(path_);
    co_await file.open(path_, read_write());
    const std::size_t written = co_await file.update_region(0, asio::buffer("x", 1));
    EXPECT_EQ(written, 1U);
    char c = 0;
    const std::size_t read = co_await file.read_into(0, asio::buffer(&c, 1));
    EXPECT_EQ(read, 1U);
    EXPECT_EQ(c, 'x');
    co_await file.flush();
    co_await file.flush(durability::started);
    co_await file.flush_range(0, 1);
    co_await file.flush_range(0, 1, durability::started);
    co_await file.resize(2 * page());
    co_await file.prefetch();
    co_await file.prefetch(0, 1);
    co_await file.lock_pages();
    co_await file.lock_pages(0, 1);
    co_await file.unlock_pages(0, 1);
    co_await file.unlock_pages();
    const mapio::region r = co_await file.view(0, 1);
    EXPECT_EQ(r.text(), "x");
    co_await file.close();
  });
}

TEST_F(mapped_file_token, default_one_of_the_executor_wins) {
  using file_type = asio::use_awaitable_t<>::as_default_on_t<mapped_file>;
  static_assert(
      std::is_same_v<decltype(std::declval<file_type&>().flush()), asio::awaitable<void>>);
  static_assert(std::is_same_v<decltype(std::declval<file_type&>().view(0, 0)),
                               asio::awaitable<mapio::region>>);
  file_type file(io_);
  run([&]() -> work {
    co_await file.open(path_, creating(page()));
    co_await file.flush();
  });
  EXPECT_TRUE(file.is_open());
}

TEST_F(mapped_file_token, deferred_starts_nothing_before_it_is_launched) {
  mapped_file file = opened_with(pattern(page()));
  auto flush = file.flush(deferred);
  auto grow = file.resize(2 * page(), deferred);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(file.stats().flush_calls, 0U);
  EXPECT_EQ(file.size(), page());
  outcome flushed;
  outcome grown;
  std::move(flush)(flushed.handler());
  std::move(grow)(grown.handler());
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(flushed.ok() && grown.ok());
  EXPECT_EQ(file.size(), 2 * page());
}

TEST_F(mapped_file_token, deferred_keeps_its_arguments) {
  mapped_file file = created(page());
  auto update = [&] {
    const std::vector<asio::const_buffer> buffers{asio::buffer("hello", 5),
                                                  asio::buffer(" world", 6)};
    return file.update_region(0, buffers, deferred);
  }();
  mapped_file other(io_);
  auto open = [&] {
    const fs::path temporary = path_;
    const open_options options = read_write();
    return other.open(temporary, options, deferred);
  }();
  outcome o;
  outcome p;
  std::move(update)(o.handler());
  std::move(open)(p.handler());
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(o.ok() && p.ok());
  EXPECT_EQ(o.bytes, 11U);
  EXPECT_EQ(to_string(file.map().view(0, 11)), "hello world");
}

TEST_F(mapped_file_token, callback) {
  mapped_file file = opened_with("hello");
  outcome read;
  outcome view;
  outcome bad;
  std::string text(5, '\0');
  file.read_into(0, asio::buffer(text), read.handler());
  file.view(1, 3, view.handler());
  file.view(0, 6, bad.handler());
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(read.ok() && view.ok());
  EXPECT_EQ(read.bytes, 5U);
  EXPECT_EQ(text, "hello");
  EXPECT_EQ(view.region.text(), "ell");
  EXPECT_EQ(bad.error, errc::out_of_range);
}

TEST_F(mapped_file_token, callback_that_is_only_an_lvalue_or_a_function_pointer) {
  mapped_file file = opened_with("hello");
  static int calls = 0;
  const auto handler = [](std::error_code ec) { calls += ec ? 0 : 1; };
  file.flush(handler);
  void (*plain)(std::error_code) = +[](std::error_code ec) { calls += ec ? 0 : 1; };
  file.flush(plain);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, 2);
}

TEST_F(mapped_file_token, callback_that_can_only_be_moved) {
  mapped_file file = opened_with("hello");
  int called = 0;
  auto token = std::make_unique<int>(7);
  file.flush([&called, t = std::move(token)](std::error_code) { called += *t; });
  auto buffer = std::make_unique<std::string>(5, '\0');
  auto& bytes = *buffer;
  file.read_into(0, asio::buffer(bytes),
                 [&called, b = std::move(buffer)](std::error_code, std::size_t) {
                   called += *b == "hello" ? 1 : 0;
                 });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(called, 8);
}

TEST_F(mapped_file_token, use_future) {
  mapped_file file = opened_with("hello");
  const auto guard = asio::make_work_guard(io_);
  io_.restart();
  std::thread runner([&] { io_.run(); });
  std::string text(5, '\0');
  EXPECT_EQ(file.read_into(0, asio::buffer(text), asio::use_future).get(), 5U);
  EXPECT_EQ(text, "hello");
  EXPECT_EQ(file.view(1, 3, asio::use_future).get().text(), "ell");
  EXPECT_NO_THROW(file.flush(asio::use_future).get());
  auto bad = file.view(0, 6, asio::use_future);
  EXPECT_EQ(code_of([&] { bad.get(); }), errc::out_of_range);
  io_.stop();
  runner.join();
}

TEST_F(mapped_file_token, detached) {
  mapped_file file = created(page());
  file.update_region(0, asio::buffer("detached", 8), asio::detached);
  file.resize(3 * page(), asio::detached);
  file.view(0, 10 * page(), asio::detached);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(to_string(file.map().view(0, 8)), "detached");
  EXPECT_EQ(file.size(), 3 * page());
}

TEST_F(mapped_file_token, as_tuple_of_awaitable) {
  mapped_file file = opened_with("hello");
  run([&]() -> work {
    const auto [ok, r] = co_await file.view(1, 3, as_tuple(asio::use_awaitable));
    EXPECT_FALSE(ok);
    EXPECT_EQ(r.text(), "ell");
    const auto [bad, nothing] = co_await file.view(0, 6, as_tuple(asio::use_awaitable));
    EXPECT_EQ(bad, errc::out_of_range);
    EXPECT_TRUE(nothing.empty());
    const auto [flushed] = co_await file.flush(as_tuple(asio::use_awaitable));
    EXPECT_FALSE(flushed);
    char c = 0;
    const auto [error, n] =
        co_await file.read_into(4, asio::buffer(&c, 1), as_tuple(asio::use_awaitable));
    EXPECT_FALSE(error);
    EXPECT_EQ(n, 1U);
  });
}

TEST_F(mapped_file_token, redirect_error_to_a_callback) {
  mapped_file file = opened_with("hello");
  std::error_code ec;
  bool called = false;
  file.view(0, 6,
            asio::redirect_error(
                [&](const mapio::region& r) {
                  EXPECT_TRUE(r.empty());
                  called = true;
                },
                ec));
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(called);
  EXPECT_EQ(ec, errc::out_of_range);
}

TEST_F(mapped_file_token, awaitable_operators) {
  mapped_file file = opened_with(pattern(4 * page()));
  mapped_file other(io_);
  run([&]() -> work {
    co_await (file.flush(asio::use_awaitable) &&
              other.open(path_, read_write(), asio::use_awaitable));
    EXPECT_TRUE(other.is_open());
    // Whoever loses is cancelled.
    const mapio::region in_the_way = file.map().view(3 * page(), 1);
    asio::steady_timer timer(io_, 1ms);
    const auto winner = co_await (file.resize(page(), asio::use_awaitable) ||
                                  timer.async_wait(asio::use_awaitable));
    EXPECT_EQ(winner.index(), 1U);
    EXPECT_EQ(file.size(), 4 * page());
    timer.expires_after(1h);
    const auto second =
        co_await (file.flush(asio::use_awaitable) || timer.async_wait(asio::use_awaitable));
    EXPECT_EQ(second.index(), 0U);
  });
}

#if defined(MAPIO_TEST_IMMEDIATE_EXECUTOR)
TEST_F(mapped_file_token, immediate_executor_gets_what_is_ready_at_once) {
  mapped_file closed(io_);
  bool called = false;
  closed.flush(asio::bind_immediate_executor(asio::system_executor(), [&](std::error_code ec) {
    EXPECT_EQ(ec, errc::not_open);
    called = true;
  }));
  EXPECT_TRUE(called);
}

TEST_F(mapped_file_token, immediate_executor_gets_nothing_that_had_to_wait) {
  mapped_file file = opened_with(pattern(4 * page()));
  auto in_the_way = std::make_unique<mapio::region>(file.map().view(3 * page(), 1));
  std::thread::id where;
  file.resize(page(), asio::bind_immediate_executor(asio::system_executor(), [&](std::error_code) {
                where = std::this_thread::get_id();
              }));
  settle();
  in_the_way.reset();
  EXPECT_EQ(where, std::thread::id());
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(where, std::this_thread::get_id());
}
#endif

#if defined(MAPIO_TEST_CANCEL_AFTER)
TEST_F(mapped_file_token, cancel_after) {
  mapped_file file = opened_with(pattern(4 * page()));
  const mapio::region in_the_way = file.map().view(3 * page(), 1);
  outcome o;
  file.resize(page(), asio::cancel_after(1ms, o.handler()));
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(o.calls, 1);
  EXPECT_EQ(o.error, aborted);
  EXPECT_EQ(file.size(), 4 * page());
}
#endif

// --- handlers
// ------------------------------------------------------------------------------------------------

TEST_F(mapped_file_handler, is_never_called_inside_the_initiating_call) {
  mapped_file file = created(4 * page());
  verb_memory memory(io_.get_executor(), dir_ / "other");
  int calls = 0;
  for (int round = 0; round < 3; ++round) {
    bool initiating = false;
    // Inside of run() is where it could happen.
    asio::post(io_, [&] {
      initiating = true;
      start_every_verb(file, memory, [&](std::string_view name) {
        return [&, name](std::error_code ec, auto&&...) {
          EXPECT_FALSE(initiating) << name;
          EXPECT_FALSE(ec) << name << ": " << ec.message();
          ++calls;
        };
      });
      initiating = false;
    });
    ASSERT_TRUE(run_to_end(io_));
  }
  EXPECT_EQ(calls, 3 * every_verb);
}

TEST_F(mapped_file_handler, is_not_called_by_anybody_but_run) {
  mapped_file file = created(4 * page());
  verb_memory memory(io_.get_executor(), dir_ / "other");
  std::atomic<int> calls = 0;
  start_every_verb(file, memory, [&](std::string_view) { return [&](auto&&...) { ++calls; }; });
  // Whatever the engine does meanwhile, it is done when a file of its own has been worked on for a
  // while.
  asio::io_context other_io;
  mapped_file other(other_io);
  support::run_coroutine(other_io, [&]() -> work {
    co_await other.open(dir_ / "third", creating(page()));
    for (int i = 0; i < 10; ++i) {
      co_await other.update_region(0, asio::buffer("x", 1));
      co_await other.flush();
    }
  });
  EXPECT_EQ(calls, 0);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, every_verb);
}

TEST_F(mapped_file_handler, may_start_the_next_verb) {
  mapped_file file = created(page());
  int rounds = 0;
  std::function<void(std::error_code)> next = [&](std::error_code ec) {
    EXPECT_FALSE(ec) << ec.message();
    if (++rounds < 500)
      file.resize((1 + static_cast<std::uint64_t>(rounds) % 3) * page(), std::ref(next));
  };
  file.resize(page(), std::ref(next));
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(rounds, 500);
}

TEST_F(mapped_file_handler, may_destroy_every_handle_and_close) {
  auto file = std::make_unique<mapped_file>(created(page()));
  int calls = 0;
  file->flush([&](std::error_code) {
    ++calls;
    file->close(asio::detached);
    file.reset();
  });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, 1);
}

TEST_F(mapped_file_handler, that_throws_takes_no_other_completion_with_it) {
  mapped_file file = created(64 * page());
  int calls = 0;
  int thrown = 0;
  // For each reading its own: two of them may be carried out at the same time.
  std::array<std::array<char, 8>, 40> inputs{};
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const bool throws = i % 4 == 0;
    const auto handler = [&calls, throws](std::error_code ec, auto&&...) {
      EXPECT_FALSE(ec) << ec.message();
      ++calls;
      if (throws) throw std::runtime_error("from a handler");
    };
    file.read_into(0, asio::buffer(inputs[i]), handler);
    file.update_region(i * page(), asio::buffer("x", 1), handler);
    file.flush(handler);
    file.prefetch(handler);
  }
  io_.restart();
  for (;;) {
    try {
      io_.run_for(support::patience);
      break;
    } catch (const std::runtime_error&) {
      ++thrown;
    }
  }
  EXPECT_TRUE(io_.stopped());
  EXPECT_EQ(calls, 160);
  EXPECT_EQ(thrown, 40);
}

TEST_F(mapped_file_handler, may_run_the_loop_for_the_completions_that_are_found_with_its_own) {
  mapped_file file = created(64 * page());
  constexpr int verbs = 16;
  int calls = 0;
  int innermost = 0;
  for (int i = 0; i < verbs; ++i)
    file.prefetch(static_cast<std::uint64_t>(i) * page(), page(),
                  [&](std::error_code ec, auto&&...) {
                    EXPECT_FALSE(ec) << ec.message();
                    if (++calls > 1) return;
                    EXPECT_TRUE(support::run_until(io_, [&] { return calls == verbs; }));
                    innermost = calls;
                  });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, verbs);
  EXPECT_EQ(innermost, verbs);
}

TEST_F(mapped_file_handler, runs_with_what_finds_its_completion_and_never_inside_the_initiation) {
  constexpr std::uint64_t pages = 100;
  mapped_file file = created(pages * page());
  std::uint64_t turns = 0;
  for (std::uint64_t i = 0; i < pages; ++i) {
    bool is_done = false;
    bool is_inside = true;
    file.prefetch(i * page(), page(), [&](std::error_code ec, auto&&...) {
      EXPECT_FALSE(ec) << ec.message();
      EXPECT_FALSE(is_inside);
      is_done = true;
    });
    is_inside = false;
    io_.restart();
    while (!is_done && io_.run_one_for(support::patience) != 0)
      ++turns;
    ASSERT_TRUE(is_done) << i;
  }
  // What submits it, and what finds the ring readable: to be called it is not queued behind another
  // look at every descriptor. Once in a while the ring is found readable for what was taken before.
  EXPECT_LE(turns, 2 * pages + pages / 2);
}

/// Counts what its copies have allocated and not given back.
struct memory_account {
  std::atomic<std::int64_t> live = 0;
  std::atomic<std::int64_t> allocations = 0;
};

template <class T>
struct counting_allocator {
  using value_type = T;

  explicit counting_allocator(memory_account& a) noexcept : account(&a) {}
  template <class U>
  counting_allocator(const counting_allocator<U>& other) noexcept
      : account(other.account) {}  // NOLINT: as the standard's do

  T* allocate(std::size_t n) {
    T* p = std::allocator<T>().allocate(n);
    ++account->live;
    ++account->allocations;
    return p;
  }
  void deallocate(T* p, std::size_t n) noexcept {
    --account->live;
    std::allocator<T>().deallocate(p, n);
  }
  template <class U>
  friend bool operator==(const counting_allocator& a, const counting_allocator<U>& b) noexcept {
    return a.account == b.account;
  }

  memory_account* account;
};

TEST_F(mapped_file_handler, takes_memory_from_its_allocator_and_gives_it_back_before_the_call) {
  mapped_file file = created(4 * page());
  verb_memory memory(io_.get_executor(), dir_ / "other");
  std::map<std::string, memory_account, std::less<>> accounts;
  int calls = 0;
  start_every_verb(file, memory, [&](std::string_view name) {
    memory_account& account = accounts[std::string(name)];
    return asio::bind_allocator(counting_allocator<char>(account),
                                [&, name](std::error_code ec, auto&&...) {
                                  EXPECT_FALSE(ec) << name << ": " << ec.message();
                                  EXPECT_EQ(account.live, 0) << name;
                                  ++calls;
                                });
  });
  for (const auto& [name, account] : accounts)
    EXPECT_GE(account.allocations, 1) << name;
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, every_verb);
  for (const auto& [name, account] : accounts)
    EXPECT_EQ(account.live, 0) << name;
}

TEST_F(mapped_file_handler, gives_its_memory_back_when_it_is_never_called) {
  memory_account account;
  mapio::region in_the_way;
  {
    asio::io_context io;
    mapped_file file(io);
    support::run_coroutine(io, [&]() -> work { co_await file.open(path_, creating(4 * page())); });
    verb_memory memory(io.get_executor(), dir_ / "other");
    const auto counting = [&](std::string_view) {
      return asio::bind_allocator(counting_allocator<char>(account), [](auto&&...) {});
    };
    start_every_verb(file, memory, counting);
    // The rest may have ended and wait in the context's queue, in memory of the executor's. This
    // one cannot end.
    in_the_way = file.map().view(3 * page(), 1);
    file.resize(page(), counting("shrink"));
    EXPECT_GE(account.live, 1);
  }
  EXPECT_EQ(account.live, 0);
}

/// A handler with every association that Asio 1.22 knows.
template <class Function>
struct full_handler {
  using allocator_type = counting_allocator<char>;
  using executor_type = asio::strand<asio::io_context::executor_type>;
  using cancellation_slot_type = asio::cancellation_slot;

  allocator_type get_allocator() const noexcept { return allocator; }
  executor_type get_executor() const noexcept { return executor; }
  cancellation_slot_type get_cancellation_slot() const noexcept { return slot; }

  template <class... Result>
  void operator()(Result&&... result) {
    function(std::forward<Result>(result)...);
  }

  allocator_type allocator;
  executor_type executor;
  cancellation_slot_type slot;
  Function function;
};

TEST_F(mapped_file_handler, may_have_executor_allocator_and_slot_at_once) {
  mapped_file file = opened_with(pattern(4 * page()));
  const mapio::region in_the_way = file.map().view(3 * page(), 1);
  memory_account account;
  asio::cancellation_signal signal;
  const auto strand = asio::make_strand(io_.get_executor());
  int calls = 0;
  auto function = [&](std::error_code ec) {
    EXPECT_EQ(ec, aborted);
    EXPECT_TRUE(strand.running_in_this_thread());
    EXPECT_EQ(account.live, 0);
    ++calls;
  };
  file.resize(page(), full_handler<decltype(function)>{counting_allocator<char>(account), strand,
                                                       signal.slot(), function});
  settle();
  EXPECT_EQ(calls, 0);
  signal.emit(asio::cancellation_type::partial);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, 1);
}

// --- executors
// -------------------------------------------------------------------------------------------------

TEST_F(mapped_file_executor, of_the_handler_is_where_it_runs) {
  mapped_file file = created(4 * page());
  verb_memory memory(io_.get_executor(), dir_ / "other");
  const auto strand = asio::make_strand(io_);
  int calls = 0;  // the strand guards it
  for (int round = 0; round < 10; ++round) {
    start_every_verb(file, memory, [&](std::string_view name) {
      return asio::bind_executor(strand, [&, name](std::error_code ec, auto&&...) {
        EXPECT_TRUE(strand.running_in_this_thread()) << name;
        EXPECT_FALSE(ec) << name << ": " << ec.message();
        ++calls;
      });
    });
    io_.restart();
    std::vector<std::thread> runners;
    for (int t = 0; t < 3; ++t)
      runners.emplace_back([&] { io_.run_for(support::patience); });
    for (auto& t : runners)
      t.join();
  }
  EXPECT_EQ(calls, 10 * every_verb);
}

TEST_F(mapped_file_executor, of_the_file_is_where_handlers_without_their_own_run) {
  const auto strand = asio::make_strand(io_);
  mapped_file file(strand);
  EXPECT_TRUE(file.get_executor() == asio::any_io_executor(strand));
  int calls = 0;
  file.open(path_, creating(page()), [&](std::error_code ec) {
    EXPECT_FALSE(ec);
    EXPECT_TRUE(strand.running_in_this_thread());
    ++calls;
    file.update_region(0, asio::buffer("x", 1), [&](std::error_code error, std::size_t) {
      EXPECT_FALSE(error);
      EXPECT_TRUE(strand.running_in_this_thread());
      ++calls;
    });
    file.view(0, 2 * page(), [&](std::error_code error, const mapio::region&) {
      EXPECT_EQ(error, errc::out_of_range);
      EXPECT_TRUE(strand.running_in_this_thread());
      ++calls;
    });
  });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, 3);
}

TEST_F(mapped_file_executor, of_a_handler_may_belong_to_another_context_that_it_keeps_running) {
  mapped_file file = opened_with(pattern(4 * page()));
  auto in_the_way = std::make_unique<mapio::region>(file.map().view(3 * page(), 1));
  asio::io_context other;
  std::thread::id where;
  file.resize(page(), asio::bind_executor(other, [&](std::error_code ec) {
                EXPECT_FALSE(ec) << ec.message();
                where = std::this_thread::get_id();
              }));
  settle();
  other.poll();
  EXPECT_FALSE(other.stopped()) << "work is outstanding there";
  std::thread runner([&] {
    in_the_way.reset();
    run_to_end(io_);
  });
  other.restart();
  other.run_for(support::patience);
  runner.join();
  EXPECT_EQ(where, std::this_thread::get_id());
  EXPECT_TRUE(other.stopped());
}

TEST_F(mapped_file_executor, of_a_type_of_its_own) {
  mapio::basic_mapped_file<asio::io_context::executor_type> file(io_);
  std::error_code opened_error = errc::pinned;
  std::size_t read = 0;
  write_file(path_, "hello");
  std::string text(5, '\0');
  file.open(path_, [&](std::error_code ec) {
    opened_error = ec;
    file.read_into(0, asio::buffer(text), [&](std::error_code, std::size_t n) { read = n; });
  });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_FALSE(opened_error);
  EXPECT_EQ(read, 5U);
  EXPECT_EQ(text, "hello");
}

TEST_F(mapped_file_executor, of_a_type_of_its_own_can_be_awaited) {
  using executor = asio::io_context::executor_type;
  write_file(path_, "hello");
  std::string text;
  asio::co_spawn(
      io_,
      [](asio::io_context& io, fs::path path, std::string& out) -> asio::awaitable<void, executor> {
        mapio::basic_mapped_file<executor> file(io);
        co_await file.open(path);
        const mapio::region r = co_await file.view(0, 5);
        out = r.text();
      }(io_, path_, text),
      asio::detached);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(text, "hello");
}

TEST_F(mapped_file_executor, of_a_context_for_one_thread) {
  asio::io_context io(1);
  mapped_file file(io);
  support::run_coroutine(io, [&]() -> work {
    co_await file.open(path_, creating(page()));
    for (int i = 0; i < 20; ++i) {
      co_await file.update_region(0, asio::buffer("x", 1));
      co_await file.flush();
      const mapio::region r = co_await file.view(0, page());
    }
    co_await file.close();
  });
}

TEST_F(mapped_file_executor, of_a_thread_pool) {
  asio::thread_pool pool(2);
  mapped_file file(pool);
  write_file(path_, pattern(16 * page()));
  file.open(path_, read_write(), asio::use_future).get();
  std::vector<std::future<std::size_t>> updates;
  std::vector<std::string> bytes;
  for (std::size_t i = 0; i < 64; ++i)
    bytes.push_back(pattern(100, i));
  for (std::size_t i = 0; i < 64; ++i)
    updates.push_back(file.update_region(i * 100, asio::buffer(bytes[i]), asio::use_future));
  for (auto& u : updates)
    EXPECT_EQ(u.get(), 100U);
  file.flush(asio::use_future).get();
  EXPECT_EQ(file.view(0, 16 * page(), asio::use_future).get().size(), 16 * page());
  auto in_the_way = std::make_unique<mapio::region>(file.map().view(15 * page(), 1));
  auto shrink = file.resize(8 * page(), asio::use_future);
  in_the_way.reset();
  shrink.get();
  EXPECT_EQ(file.size(), 8 * page());
  for (std::size_t i = 0; i < 64; ++i)
    EXPECT_TRUE(same(to_string(file.map().view(i * 100, 100)), bytes[i]));
  file.close(asio::use_future).get();
  pool.join();
}

TEST_F(mapped_file_executor, of_a_thread_pool_that_goes_away_with_verbs_under_way) {
  for (int round = 0; round < 10; ++round) {
    asio::thread_pool pool(2);
    mapped_file file(pool);
    file.open(path_, creating(4 * page()), asio::use_future).get();
    verb_memory memory(pool.get_executor(), dir_ / "other");
    start_every_verb(file, memory, [](std::string_view) { return [](auto&&...) {}; });
    pool.stop();
    pool.join();
  }
}

TEST_F(mapped_file_executor, of_several_contexts_may_share_one_mapping) {
  constexpr std::size_t contexts = 3;
  mapping m = mapping::create(path_, contexts * 64 * 100);
  std::vector<std::thread> threads;
  for (std::size_t c = 0; c < contexts; ++c)
    threads.emplace_back([&, c] {
      asio::io_context io;
      mapped_file file(io.get_executor(), m);
      support::run_coroutine(io, [&]() -> work {
        for (std::size_t i = 0; i < 64; ++i) {
          const std::string bytes = pattern(100, c * 64 + i);
          co_await file.update_region((c * 64 + i) * 100, asio::buffer(bytes));
          if (i % 8 == 0) co_await file.flush();
          if (i % 8 == 4) co_await file.flush_range((c * 64 + i) * 100, 100);
          std::string back(100, '\0');
          co_await file.read_into((c * 64 + i) * 100, asio::buffer(back));
          EXPECT_TRUE(same(back, bytes));
        }
      });
    });
  for (auto& t : threads)
    t.join();
  for (std::size_t i = 0; i < contexts * 64; ++i)
    EXPECT_TRUE(same(to_string(m.view(i * 100, 100)), pattern(100, i))) << i;
  m.flush();
  EXPECT_EQ(m.pending_bytes(), 0U);
}

TEST_F(mapped_file_executor, of_one_context_serves_waits_that_another_one_ends) {
  mapping m = mapping::create(path_, 4 * page());
  asio::io_context first;
  asio::io_context second;
  mapped_file a(first.get_executor(), m);
  mapped_file b(second.get_executor(), m);
  outcome shrink;
  outcome grow;
  mapio::region in_the_way = m.view(3 * page(), 1);
  a.resize(page(), shrink.handler());
  b.resize(8 * page(), grow.handler());
  first.poll();
  second.poll();
  EXPECT_EQ(shrink.calls + grow.calls, 0);
  in_the_way = mapio::region();
  std::thread runner([&] { run_to_end(first); });
  run_to_end(second);
  runner.join();
  EXPECT_TRUE(shrink.ok() && grow.ok());
  EXPECT_EQ(m.size(), 8 * page());
}

}  // namespace
