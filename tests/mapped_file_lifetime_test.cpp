#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>

#include "mapped_file_fixture.hpp"
#include "mapped_file_lifetime_fixture.hpp"
#include "support.hpp"

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

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <malloc.h>

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using namespace asio::experimental::awaitable_operators;
using mapio::errc;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;
using mapio::write_path;
using support::aborted;
using support::census;
using support::counted_handler;
using support::creating;
using support::eventually;
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
using support::same;
using support::start_every_verb;
using support::to_string;
using support::verb_memory;
using support::write_file;

using mapped_file_executor = mapped_file_test;
using mapped_file_lifetime = mapped_file_test;
using mapped_file_threads = mapped_file_test;
using mapped_file_load = mapped_file_test;

/// A file with a region that keeps it from shrinking: a verb that waits for as long as a test
/// likes.
class mapped_file_cancel : public mapped_file_test {
 protected:
  mapped_file_cancel()
      : file_(opened_with(bytes_)), in_the_way_(file_.map().view(3 * page(), page())) {}

  /// Starts a verb that cannot complete by itself.
  template <class Handler>
  void start_waiting(Handler&& handler) {
    file_.resize(page(), std::forward<Handler>(handler));
  }
  void expect_untouched() {
    EXPECT_EQ(file_.size(), 4 * page());
    EXPECT_TRUE(same(read_file(path_), bytes_));
  }

  const std::string bytes_ = pattern(4 * page());
  mapped_file file_;
  mapio::region in_the_way_;
};

TEST_F(mapped_file_cancel, by_the_slot_ends_a_verb_that_waits) {
  for (const auto type : {asio::cancellation_type::terminal, asio::cancellation_type::partial,
                          asio::cancellation_type::total, asio::cancellation_type::all}) {
    asio::cancellation_signal signal;
    outcome o;
    start_waiting(asio::bind_cancellation_slot(signal.slot(), o.handler()));
    settle();
    EXPECT_EQ(o.calls, 0);
    signal.emit(type);
    EXPECT_EQ(o.calls, 0) << "never inside of emit";
    ASSERT_TRUE(run_to_end(io_));
    EXPECT_EQ(o.calls, 1);
    EXPECT_EQ(o.error, aborted);
    expect_untouched();
  }
}

TEST_F(mapped_file_cancel, by_the_slot_works_right_after_the_initiation) {
  for (const auto type : {asio::cancellation_type::terminal, asio::cancellation_type::total}) {
    asio::cancellation_signal signal;
    outcome o;
    start_waiting(asio::bind_cancellation_slot(signal.slot(), o.handler()));
    signal.emit(type);
    ASSERT_TRUE(run_to_end(io_));
    EXPECT_EQ(o.error, aborted);
    expect_untouched();
  }
}

TEST_F(mapped_file_cancel, of_type_none_does_nothing) {
  asio::cancellation_signal signal;
  outcome o;
  start_waiting(asio::bind_cancellation_slot(signal.slot(), o.handler()));
  signal.emit(asio::cancellation_type::none);
  settle();
  EXPECT_EQ(o.calls, 0);
  in_the_way_ = mapio::region();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(o.ok());
}

TEST_F(mapped_file_cancel, can_be_asked_for_twice_and_after_completion) {
  asio::cancellation_signal signal;
  outcome o;
  start_waiting(asio::bind_cancellation_slot(signal.slot(), o.handler()));
  settle();
  signal.emit(asio::cancellation_type::total);
  signal.emit(asio::cancellation_type::terminal);
  file_.cancel();
  file_.cancel();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(o.calls, 1);
  EXPECT_EQ(o.error, aborted);
  signal.emit(asio::cancellation_type::terminal);
  file_.cancel();
  EXPECT_EQ(o.calls, 1);
  outcome next;
  file_.flush(asio::bind_cancellation_slot(signal.slot(), next.handler()));
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(next.ok()) << "an old request does not hit a new verb";
}

TEST_F(mapped_file_cancel, by_cancel_ends_the_verbs_of_every_copy) {
  mapped_file copy = file_;
  outcome a;
  outcome b;
  file_.resize(page(), a.handler());
  copy.resize(2 * page(), b.handler());
  settle();
  mapped_file(copy).cancel();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(a.error, aborted);
  EXPECT_EQ(b.error, aborted);
  expect_untouched();
}

TEST_F(mapped_file_cancel, by_cancel_leaves_other_handles_alone) {
  mapped_file other(io_.get_executor(), file_.map());
  outcome mine;
  outcome others;
  file_.resize(page(), mine.handler());
  other.resize(2 * page(), others.handler());
  settle();
  file_.cancel();
  finish(mine);
  EXPECT_EQ(mine.error, aborted);
  settle();
  EXPECT_EQ(others.calls, 0);
  in_the_way_ = mapio::region();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(others.ok());
}

TEST_F(mapped_file_cancel, may_come_from_another_thread) {
  for (int round = 0; round < 50; ++round) {
    outcome o;
    start_waiting(o.handler());
    std::thread canceller([copy = file_]() mutable { copy.cancel(); });
    finish(o);
    canceller.join();
    EXPECT_EQ(o.error, aborted);
  }
  expect_untouched();
}

TEST_F(mapped_file_cancel, by_close_ends_what_waits_and_not_the_regions) {
  outcome o;
  outcome close;
  start_waiting(o.handler());
  settle();
  file_.close(close.handler());
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(o.calls, 1);
  EXPECT_EQ(o.error, aborted);
  EXPECT_TRUE(close.ok());
  EXPECT_FALSE(file_.is_open());
  EXPECT_TRUE(same(in_the_way_.text(), bytes_.substr(3 * page())));
  EXPECT_TRUE(same(read_file(path_), bytes_));
}

TEST_F(mapped_file_cancel, by_closing_the_mapping_ends_what_waits) {
  outcome o;
  start_waiting(o.handler());
  settle();
  file_.map().close();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(o.calls, 1);
  EXPECT_TRUE(o.error);
  EXPECT_TRUE(same(in_the_way_.text(), bytes_.substr(3 * page())));
}

TEST_F(mapped_file_cancel, of_the_coroutine_reaches_the_verb) {
  asio::cancellation_signal signal;
  std::error_code seen;
  asio::co_spawn(
      io_,
      [](mapped_file file, std::error_code& ec) -> work {
        co_await file.resize(page(), into(ec));
      }(file_, seen),
      asio::bind_cancellation_slot(signal.slot(), [](std::exception_ptr) {}));
  settle();
  signal.emit(asio::cancellation_type::terminal);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(seen, aborted);
  expect_untouched();
}

TEST_F(mapped_file_cancel, completes_every_verb_exactly_once_whatever_it_was_doing) {
  in_the_way_ = mapio::region();
  verb_memory memory(io_.get_executor(), dir_ / "other");
  for (int round = 0; round < 30; ++round) {
    std::list<asio::cancellation_signal> signals;
    std::map<std::string, int, std::less<>> calls;
    start_every_verb(file_, memory, [&](std::string_view name) {
      int& mine = calls[std::string(name)];
      return asio::bind_cancellation_slot(
          signals.emplace_back().slot(), [&mine, name](std::error_code ec, auto&&...) {
            ++mine;
            EXPECT_TRUE(!ec || ec == aborted) << name << ": " << ec.message();
          });
    });
    io_.restart();
    for (int i = 0; i < round % 5; ++i)
      io_.poll_one();
    for (auto& signal : signals)
      signal.emit(round % 2 == 0 ? asio::cancellation_type::terminal
                                 : asio::cancellation_type::total);
    const bool ended = run_to_end(io_);
    EXPECT_EQ(calls.size(), static_cast<std::size_t>(every_verb));
    for (const auto& [name, count] : calls)
      EXPECT_EQ(count, 1) << name << " in round " << round;
    ASSERT_TRUE(ended);
  }
}

TEST_F(mapped_file_cancel, completes_single_verbs_exactly_once_too) {
  in_the_way_ = mapio::region();
  file_.map().resize(16 * page());  // there is enough to cut if nothing of that is cancelled
  for (const auto type : {asio::cancellation_type::terminal, asio::cancellation_type::partial,
                          asio::cancellation_type::total})
    for (int turns = 0; turns < 4; ++turns)
      for (int verb = 0; verb < 5; ++verb) {
        SCOPED_TRACE("verb " + std::to_string(verb) + " after " + std::to_string(turns));
        asio::cancellation_signal signal;
        outcome o;
        const auto start = [&](auto token) {
          switch (verb) {
          case 0:
            file_.resize(file_.size() + page(), token);
            break;
          case 1:
            file_.resize(file_.size() - page() / 2, token);
            break;
          case 2:
            file_.flush(token);
            break;
          case 3:
            file_.prefetch(token);
            break;
          default:
            file_.flush_range(0, page(), token);
            break;
          }
        };
        start(asio::bind_cancellation_slot(signal.slot(), o.handler()));
        io_.restart();
        for (int i = 0; i < turns; ++i)
          io_.poll_one();
        signal.emit(type);
        ASSERT_TRUE(run_to_end(io_));
        EXPECT_EQ(o.calls, 1);
        EXPECT_TRUE(!o.error || o.error == aborted) << o.error.message();
      }
}

TEST_F(mapped_file_cancel, by_a_close_ends_a_resize_that_is_under_way) {
  in_the_way_ = {};
  outcome o;
  file_.resize(8 * page(), o.handler());
  io_.restart();
  io_.poll_one();  // io_uring hands it to the kernel, and does not look whether it is done
  // Where the file has to be mapped anew, that may take more than one try.
  ASSERT_TRUE(eventually([&] {
    if (fs::file_size(path_) == 8 * page()) return true;
    io_.poll_one();
    return false;
  }));
  file_.map().close();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(o.calls, 1);
  EXPECT_TRUE(!o.error || o.error == aborted) << o.error.message();
}

TEST_F(mapped_file_cancel, by_a_close_ends_an_update_between_its_buffers) {
  const std::string piece = pattern(1 << 20);
  const std::vector<asio::const_buffer> pieces(256, asio::buffer(piece));
  open_options options = creating(asio::buffer_size(pieces));
  options.writes = write_path::mapped;
  mapped_file file(io_);
  run([&]() -> work { co_await file.open(dir_ / "large", options); });
  const auto fd = support::open_native(dir_ / "large", support::opening::to_read);
  outcome o;
  file.update_region(0, pieces, o.handler());
  io_.restart();
  ASSERT_TRUE(eventually([&] {
    io_.poll();
    const std::string first = support::read_at(fd.get(), 0, 1);
    return !first.empty() && first[0] != 0;
  }));
  file.map().close();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(o.calls, 1);
  EXPECT_TRUE(!o.error || o.error == aborted) << o.error.message();
  EXPECT_EQ(o.bytes % piece.size(), 0U);
}

TEST_F(mapped_file_cancel, by_a_close_ends_an_update_that_its_policy_would_sync) {
  const std::string bytes = pattern(8 << 20);
  open_options options = creating(bytes.size());
  options.writes = write_path::file;
  options.policy = mapio::flush_policy::always();
  mapped_file file(io_);
  run([&]() -> work { co_await file.open(dir_ / "synced", options); });
  const auto fd = support::open_native(dir_ / "synced", support::opening::to_read);
  outcome o;
  file.update_region(0, asio::buffer(bytes), o.handler());
  io_.restart();
  ASSERT_TRUE(eventually([&] {
    io_.poll();
    const std::string first = support::read_at(fd.get(), 0, 1);
    return !first.empty() && first[0] != 0;
  }));
  file.map().close();  // the write goes on
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(o.calls, 1);
  EXPECT_TRUE(!o.error || o.error == aborted) << o.error.message();
}

TEST_F(mapped_file_cancel, of_an_update_reports_what_was_done) {
  in_the_way_ = mapio::region();
  for (const auto path : {write_path::file, write_path::mapped, write_path::automatic}) {
    open_options options = creating(64 * page());
    options.writes = path;
    mapped_file file(io_);
    run([&]() -> work { co_await file.open(dir_ / "updates", options); });
    const std::string bytes = pattern(64 * page());
    for (int round = 0; round < 20; ++round) {
      run([&]() -> work {
        const std::string zeros(64 * page(), '\0');
        co_await file.update_region(0, asio::buffer(zeros));
      });
      asio::cancellation_signal signal;
      outcome o;
      file.update_region(0, asio::buffer(bytes),
                         asio::bind_cancellation_slot(signal.slot(), o.handler()));
      io_.restart();
      if (round % 2 == 1) io_.poll_one();
      signal.emit(asio::cancellation_type::partial);
      ASSERT_TRUE(run_to_end(io_));
      EXPECT_EQ(o.calls, 1);
      EXPECT_TRUE(!o.error || o.error == aborted) << o.error.message();
      if (!o.error) {
        EXPECT_EQ(o.bytes, bytes.size());
      }
      const std::string now = read_all(file.map());
      EXPECT_TRUE(now.compare(0, o.bytes, bytes, 0, o.bytes) == 0);
      if (o.bytes == 0) {
        EXPECT_TRUE(same(now, std::string(64 * page(), '\0'))) << "nothing was done, it said";
      }
    }
  }
}

TEST_F(mapped_file_lifetime, of_a_context_may_end_with_every_verb_under_way) {
  for (int turns = 0; turns < 12; ++turns) {
    census c;
    {
      asio::io_context io;
      mapped_file file(io);
      mapped_file waiting(io);
      mapio::region in_the_way;
      support::run_coroutine(io, [&]() -> work {
        co_await file.open(path_, creating(64 * page()));
        co_await waiting.open(dir_ / "waiting", creating(4 * page()));
      });
      in_the_way = waiting.map().view(3 * page(), 1);
      verb_memory memory(io.get_executor(), dir_ / "other");
      waiting.resize(page(), counted_handler(c));
      waiting.resize(2 * page(), counted_handler(c));
      for (int i = 0; i < 3; ++i)
        start_every_verb(file, memory, [&](std::string_view) { return counted_handler(c); });
      file.close(counted_handler(c));
      io.restart();
      for (int i = 0; i < turns; ++i)
        io.poll_one();
    }
    EXPECT_EQ(c.made, 3 * every_verb + 3);
    EXPECT_EQ(c.live, 0);
    EXPECT_EQ(c.called + c.dropped, c.made) << "each is called or destroyed, once";
  }
}

TEST_F(mapped_file_lifetime, of_a_context_may_end_while_the_kernel_reads) {
  write_file(path_, pattern(16 << 20));
  for (int round = 0; round < 5; ++round) {
    support::evict(path_);
    census c;
    std::vector<std::string> buffers(32, std::string(512 << 10, '\0'));
    {
      asio::io_context io;
      mapped_file file(io);
      support::run_coroutine(io, [&]() -> work { co_await file.open(path_); });
      for (std::size_t i = 0; i < buffers.size(); ++i)
        file.read_into(i * (512 << 10), asio::buffer(buffers[i]), counted_handler(c));
      file.prefetch(counted_handler(c));
      file.view(8 << 20, 4 << 20, counted_handler(c));
      io.restart();
      for (int i = 0; i < round; ++i)
        io.poll();
    }
    // Nobody writes into a buffer any more: freeing and reusing it is what the sanitizers look at.
    buffers.assign(32, std::string(512 << 10, '#'));
    for (const std::string& b : buffers)
      EXPECT_EQ(b.find_first_not_of('#'), std::string::npos);
    EXPECT_EQ(c.live, 0);
    EXPECT_EQ(c.called + c.dropped, c.made);
  }
}

TEST_F(mapped_file_lifetime, of_a_context_may_end_while_a_sync_runs) {
  for (int round = 0; round < 5; ++round) {
    census c;
    asio::io_context io;
    auto file = std::make_unique<mapped_file>(io);
    support::run_coroutine(io, [&]() -> work { co_await file->open(path_, creating(4 << 20)); });
    file->map().update_region(0, asio::buffer(pattern(4 << 20)));
    for (int i = 0; i < 3; ++i) {
      file->flush(counted_handler(c));
      file->map().update_region(0, asio::buffer("x", 1));
      file->flush_range(0, 1, counted_handler(c));
    }
    io.restart();
    for (int i = 0; i < round; ++i)
      io.poll();
    file.reset();
  }
}

TEST_F(mapped_file_lifetime, of_a_handler_may_be_that_of_the_last_handle) {
  for (int turns = 0; turns < 4; ++turns) {
    asio::io_context io;
    auto file = std::make_shared<mapped_file>(io);
    support::run_coroutine(io, [&]() -> work { co_await file->open(path_, creating(4 * page())); });
    auto in_the_way = std::make_shared<mapio::region>(file->map().view(3 * page(), 1));
    // It owns the region that it waits for: only the end of the context can end this.
    file->resize(page(), [file, in_the_way](std::error_code) {});
    file->flush([file, in_the_way](std::error_code) {});
    file.reset();
    in_the_way.reset();
    for (int i = 0; i < turns; ++i)
      io.poll();
  }
  EXPECT_FALSE(support::is_mapped(path_));
}

TEST_F(mapped_file_lifetime, of_a_coroutine_ends_with_its_context) {
  const auto sentinel = std::make_shared<int>(0);
  {
    asio::io_context io;
    asio::co_spawn(
        io,
        [](asio::io_context& context, fs::path path, std::shared_ptr<int> keep) -> work {
          mapped_file file(context);
          co_await file.open(path, creating(4 * page()));
          const mapio::region in_the_way = file.map().view(3 * page(), 1);
          co_await file.resize(page());
          ADD_FAILURE() << "nobody dropped the region";
          *keep = 1;
        }(io, path_, sentinel),
        asio::detached);
    EXPECT_TRUE(run_until(io, [&] { return fs::exists(path_) && support::is_mapped(path_); }));
    while (io.poll() > 0) {
    }
  }
  EXPECT_EQ(sentinel.use_count(), 1);
  EXPECT_FALSE(support::is_mapped(path_));
}

TEST_F(mapped_file_lifetime, of_handles_may_end_before_their_verbs) {
  verb_memory memory(io_.get_executor(), dir_ / "other");
  int calls = 0;
  {
    mapped_file file = created(4 * page());
    start_every_verb(file, memory, [&](std::string_view name) {
      return [&, name](std::error_code ec, auto&&...) {
        EXPECT_FALSE(ec) << name << ": " << ec.message();
        ++calls;
      };
    });
  }
  EXPECT_EQ(calls, 0);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(calls, every_verb);
  EXPECT_TRUE(same(read_file(path_).substr(0, 64), memory.out));
  EXPECT_TRUE(eventually([&] { return !support::is_mapped(path_); }));
}

TEST_F(mapped_file_lifetime, of_regions_and_mappings_may_be_longer_than_that_of_the_context) {
  const std::string bytes = pattern(4 * page());
  write_file(path_, bytes);
  mapping m;
  mapio::region r;
  {
    asio::io_context io;
    mapped_file file(io);
    support::run_coroutine(io, [&]() -> work {
      co_await file.open(path_, read_write());
      r = co_await file.view(page(), page());
    });
    m = file.map();
  }
  EXPECT_TRUE(same(r.text(), bytes.substr(page(), page())));
  EXPECT_TRUE(m.is_open());
  m.update_region(0, asio::buffer("x", 1));
  m.flush();
  m.close();
  EXPECT_TRUE(same(r.text(), bytes.substr(page(), page())));
  r = mapio::region();
  EXPECT_FALSE(support::is_mapped(path_));
}

TEST_F(mapped_file_lifetime, leaves_no_descriptor_behind) {
  std::optional<std::set<support::native_handle>> before;
  for (int round = 0; round < 3; ++round) {
    {
      asio::io_context io;
      mapped_file file(io);
      verb_memory memory(io.get_executor(), dir_ / "other");
      support::run_coroutine(io,
                             [&]() -> work { co_await file.open(path_, creating(4 * page())); });
      start_every_verb(file, memory, [&](std::string_view) { return [](auto&&...) {}; });
      if (round == 1) run_to_end(io);
    }
    if (!before) before = support::open_descriptors();
    EXPECT_EQ(support::open_descriptors(), *before);
    EXPECT_FALSE(support::is_mapped(path_));
  }
}

TEST_F(mapped_file_lifetime, of_an_idle_file_keeps_no_context_running) {
  mapped_file file = created(4 * page());
  run([&]() -> work {
    co_await file.update_region(0, asio::buffer("x", 1));
    co_await file.flush();
    co_await file.prefetch();
  });
  const mapio::region r = file.map().view(0, page());
  ASSERT_TRUE(run_to_end(io_)) << "run() does not return";
  io_.restart();
  EXPECT_EQ(io_.poll(), 0U);
  EXPECT_TRUE(io_.stopped());
  // And it can be taken up again.
  run([&]() -> work { co_await file.update_region(0, asio::buffer("y", 1)); });
  ASSERT_TRUE(run_to_end(io_));
}

TEST_F(mapped_file_lifetime, of_a_context_may_be_stopped_and_restarted) {
  constexpr std::size_t rounds = 20;
  const std::size_t length = 64 * page();
  mapped_file file = created(2 * rounds * length);
  int calls = 0;
  // A buffer, and places in the file, of its own for each: all of them are under way at once.
  std::vector<std::string> buffers(rounds, std::string(length, '\0'));
  for (std::size_t round = 0; round < rounds; ++round) {
    const std::uint64_t at = 2 * round * length;
    file.read_into(at, asio::buffer(buffers[round]), [&](std::error_code ec, std::size_t) {
      EXPECT_FALSE(ec);
      ++calls;
      io_.stop();
    });
    file.update_region(at + length, asio::buffer("x", 1), [&](std::error_code ec, std::size_t) {
      EXPECT_FALSE(ec);
      ++calls;
      io_.stop();
    });
    file.flush([&](std::error_code ec) {
      EXPECT_FALSE(ec);
      ++calls;
      io_.stop();
    });
  }
  EXPECT_TRUE(eventually([&] {
    io_.restart();
    io_.run_for(1s);
    return calls == 60;
  }));
}

/// Works on a slot of its own: what it wrote is what it reads, whatever others do.
asio::awaitable<void> hammer(mapped_file file, std::uint64_t slot, int rounds) {
  const std::uint64_t at = slot * 200;
  for (int i = 0; i < rounds; ++i) {
    const std::string bytes = pattern(200, slot * 1000 + static_cast<std::uint64_t>(i));
    const std::size_t n = co_await file.update_region(at, asio::buffer(bytes), asio::use_awaitable);
    EXPECT_EQ(n, bytes.size());
    if (i % 4 == 0) co_await file.flush_range(at, bytes.size(), asio::use_awaitable);
    if (i % 16 == 7) co_await file.flush(asio::use_awaitable);
    std::string back(200, '\0');
    co_await file.read_into(at, asio::buffer(back), asio::use_awaitable);
    EXPECT_TRUE(same(back, bytes));
    const mapio::region r = co_await file.view(at, bytes.size(), asio::use_awaitable);
    EXPECT_TRUE(same(r.text(), bytes));
  }
}

TEST_F(mapped_file_threads, may_all_run_one_context) {
  constexpr std::uint64_t slots = 32;
  mapped_file file = created(slots * 200);
  std::atomic<int> done = 0;
  for (std::uint64_t s = 0; s < slots; ++s)
    asio::co_spawn(io_, hammer(file, s, 32), [&](std::exception_ptr e) {
      EXPECT_FALSE(e);
      ++done;
    });
  io_.restart();
  std::vector<std::thread> runners;
  for (int t = 0; t < 4; ++t)
    runners.emplace_back([&] { io_.run_for(2 * support::patience); });
  for (auto& t : runners)
    t.join();
  EXPECT_EQ(done, static_cast<int>(slots));
  for (std::uint64_t s = 0; s < slots; ++s)
    EXPECT_TRUE(same(to_string(file.map().view(s * 200, 200)), pattern(200, s * 1000 + 31)));
}

TEST_F(mapped_file_threads, may_initiate_from_outside_of_run) {
  mapped_file file = created(16 * page());
  std::atomic<int> done = 0;
  auto guard = std::make_optional(asio::make_work_guard(io_));
  io_.restart();
  std::thread runner([&] { io_.run(); });
  std::vector<std::thread> starters;
  for (std::uint64_t t = 0; t < 3; ++t)
    starters.emplace_back([&, t, mine = file]() mutable {
      for (std::uint64_t i = 0; i < 200; ++i) {
        mine.update_region(t * 1000 + i, asio::buffer("x", 1),
                           [&](std::error_code ec, std::size_t) {
                             EXPECT_FALSE(ec) << ec.message();
                             ++done;
                           });
        if (i % 50 == 0) {
          mine.flush([&](std::error_code ec) {
            EXPECT_FALSE(ec) << ec.message();
            ++done;
          });
        }
      }
    });
  for (auto& t : starters)
    t.join();
  EXPECT_TRUE(eventually([&] { return done == 3 * 204; }));
  guard.reset();
  runner.join();
}

TEST_F(mapped_file_threads, may_open_close_and_cancel_while_others_work) {
  mapped_file file(io_);
  write_file(path_, pattern(4 * page()));
  std::atomic<int> left = 300;
  std::function<void(int)> work_on = [&](int kind) {
    const auto next = [&, kind](std::error_code, auto&&...) {
      if (--left > 0) work_on(kind);
    };
    switch (kind) {
    case 0:
      file.open(path_, read_write(), next);
      break;
    case 1:
      file.close(next);
      break;
    case 2:
      file.update_region(0, asio::buffer("x", 1), next);
      break;
    case 3:
      file.flush(next);
      break;
    case 4:
      file.view(0, page(), next);
      break;
    default:
      file.resize(4 * page(), next);
      break;
    }
    if (kind == 3) file.cancel();
  };
  for (int kind = 0; kind < 6; ++kind)
    work_on(kind);
  io_.restart();
  std::vector<std::thread> runners;
  for (int t = 0; t < 4; ++t)
    runners.emplace_back([&] { io_.run_for(support::patience); });
  for (auto& t : runners)
    t.join();
  EXPECT_TRUE(io_.stopped());
  EXPECT_LE(left, 0);
}

TEST_F(mapped_file_threads, may_leave_with_verbs_under_way) {
  const std::string bytes = pattern(16 << 20);
  write_file(path_, bytes);
  constexpr std::size_t piece = 64 << 10;
  constexpr std::size_t count = (16 << 20) / piece;
  for (int round = 0; round < 10; ++round) {
    support::evict(path_);
    asio::io_context io;
    mapped_file file(io);
    support::run_coroutine(io, [&]() -> work { co_await file.open(path_, read_write()); });
    std::vector<std::string> buffers(count, std::string(piece, '\0'));
    std::atomic<int> done = 0;
    const auto count_it = [&](std::error_code ec, auto&&...) {
      // In particular: no cancellation that nobody asked for.
      EXPECT_FALSE(ec) << ec.message() << " in round " << round;
      ++done;
    };
    // The first thread starts everything from inside run(), has a few turns of the loop, and ends.
    asio::post(io, [&] {
      for (std::size_t i = 0; i < count; ++i)
        file.read_into(i * piece, asio::buffer(buffers[i]), count_it);
      file.flush(count_it);
      file.prefetch(count_it);
    });
    io.restart();
    std::thread([&] {
      for (int i = 0; i < 1 + round; ++i)
        io.poll_one();
    }).join();
    std::vector<std::thread> others;
    for (int t = 0; t < 3; ++t)
      others.emplace_back([&] { io.run_for(support::patience); });
    for (auto& t : others)
      t.join();
    EXPECT_EQ(done, static_cast<int>(count) + 2);
    EXPECT_TRUE(io.stopped());
    for (std::size_t i = 0; i < count; ++i)
      ASSERT_TRUE(same(buffers[i], bytes.substr(i * piece, piece))) << i;
  }
}

TEST_F(mapped_file_threads, may_leave_one_of_four_while_the_others_go_on) {
  constexpr std::uint64_t slots = 16;
  for (int round = 0; round < 5; ++round) {
    mapped_file file = created(slots * 200);
    std::atomic<int> done = 0;
    for (std::uint64_t s = 0; s < slots; ++s)
      asio::co_spawn(io_, hammer(file, s, 16), [&](std::exception_ptr e) {
        EXPECT_FALSE(e);
        ++done;
      });
    io_.restart();
    std::vector<std::thread> runners;
    for (int t = 0; t < 3; ++t)
      runners.emplace_back([&] { io_.run_for(support::patience); });
    // These come, start something, and go.
    std::vector<std::thread> guests;
    for (int t = 0; t < 4; ++t)
      guests.emplace_back([&, t] {
        for (int i = 0; i < 10 * (t + 1); ++i)
          io_.run_one_for(1s);
      });
    for (auto& t : guests)
      t.join();
    for (auto& t : runners)
      t.join();
    EXPECT_EQ(done, static_cast<int>(slots));
  }
}

TEST_F(mapped_file_threads, may_leave_while_a_verb_waits_for_a_region) {
  mapped_file file = opened_with(pattern(4 * page()));
  mapio::region in_the_way = file.map().view(3 * page(), 1);
  outcome o;
  asio::post(io_, [&] { file.resize(page(), o.handler()); });
  io_.restart();
  std::thread([&] {
    for (int i = 0; i < 5; ++i)
      io_.poll_one();
  }).join();
  EXPECT_EQ(o.calls, 0);
  in_the_way = mapio::region();
  finish(o);
  EXPECT_TRUE(o.ok()) << o.error.message();
}

TEST_F(mapped_file_load, of_a_hundred_thousand_verbs_in_a_row_needs_no_stack) {
  const int count = support::as_often_as(100'000);
  mapped_file file = opened_with(pattern(page()));
  run([&]() -> work {
    char c = 0;
    for (int i = 0; i < count; ++i)
      co_await file.read_into(0, asio::buffer(&c, 1));
    EXPECT_TRUE(c == pattern(1)[0]);
    std::error_code ec;
    for (int i = 0; i < count; ++i)
      co_await file.view(2 * page(), 1, into(ec));
    EXPECT_EQ(ec, errc::out_of_range);
  });
}

TEST_F(mapped_file_load, of_thousands_of_verbs_at_once_loses_none) {
  // More than any ring or queue of completions has room for.
  constexpr std::size_t count = 5000;
  const std::string bytes = pattern(count * 512);
  write_file(path_, bytes);
  support::evict(path_);
  open_options options = read_write();
  options.writes = write_path::file;
  mapped_file file = opened(options);
  std::vector<std::array<char, 512>> buffers(count);
  std::size_t done = 0;
  const auto count_it = [&](std::error_code ec, auto&&...) {
    EXPECT_FALSE(ec) << ec.message();
    ++done;
  };
  for (std::size_t i = 0; i < count; ++i) {
    if (i % 2 == 0)
      file.read_into(i * 512, asio::buffer(buffers[i]), count_it);
    else
      file.update_region(i * 512, asio::buffer(bytes.data(), 512), count_it);
    if (i % 100 == 0) file.prefetch(i * 512, 512, count_it);
  }
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(done, count + count / 100);
  for (std::size_t i = 0; i < count; i += 2)
    ASSERT_TRUE(same(std::string_view(buffers[i].data(), 512),
                     std::string_view(bytes).substr(i * 512, 512)))
        << i;
  const std::string all = read_file(path_);
  for (std::size_t i = 1; i < count; i += 2)
    ASSERT_TRUE(all.compare(i * 512, 512, bytes, 0, 512) == 0) << i;
}

TEST_F(mapped_file_load, of_many_files_at_once) {
  constexpr std::size_t count = 100;
  std::vector<mapped_file> files;
  for (std::size_t i = 0; i < count; ++i)
    files.emplace_back(io_);
  std::size_t done = 0;
  for (std::size_t i = 0; i < count; ++i)
    asio::co_spawn(
        io_,
        [](mapped_file file, fs::path path, std::uint64_t seed) -> work {
          co_await file.open(path, creating(page()));
          const std::string bytes = pattern(page(), seed);
          co_await file.update_region(0, asio::buffer(bytes));
          co_await file.flush();
          co_await file.close();
        }(files[i], dir_ / ("file" + std::to_string(i)), i),
        [&](std::exception_ptr e) {
          EXPECT_FALSE(e);
          ++done;
        });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(done, count);
  for (std::size_t i = 0; i < count; ++i)
    EXPECT_TRUE(same(read_file(dir_ / ("file" + std::to_string(i))), pattern(page(), i))) << i;
}

// Last: the threads of the system context stay until the end of the program.
TEST_F(mapped_file_executor, of_the_system_context) {
  mapio::basic_mapped_file<asio::system_executor> file{asio::system_executor()};
  write_file(path_, "hello");
  file.open(path_, read_write(), asio::use_future).get();
  EXPECT_EQ(file.update_region(0, asio::buffer("J", 1), asio::use_future).get(), 1U);
  file.flush(asio::use_future).get();
  EXPECT_EQ(file.view(0, 5, asio::use_future).get().text(), "Jello");
  file.close(asio::use_future).get();
}

}  // namespace
