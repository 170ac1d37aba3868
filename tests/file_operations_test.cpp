// Copying and removing files. Once per engine.
#include <mapio/file_operations.hpp>

#include "file_operations_fixture.hpp"
#include "mapped_file_fixture.hpp"

#include <asio/any_io_executor.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/bind_executor.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/strand.hpp>
#include <asio/this_coro.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>

#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using mapio::copy_file_options;
using mapio::errc;
using mapio::mapping;
using support::aborted;
using support::durably;
using support::file_operations_copy;
using support::file_operations_remove;
using support::keeping;
using support::mebibyte;
using support::not_following;
using support::outcome;
using support::page;
using support::pattern;
using support::read_file;
using support::run_to_end;
using support::same;
using support::turn;
using support::write_file;

TEST_F(file_operations_copy, has_every_byte_of_files_of_any_size) {
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{1}, page() - 1, page() + 1,
                                   3 * mebibyte + 7, 2 * turn, 2 * turn + 1}) {
    write_file(from_, pattern(size));
    for (const bool exists : {false, true}) {
      fs::remove(to_);
      if (exists) write_file(to_, "old");
      expect_complete(copy(from_, to_));
    }
  }
}

TEST_F(file_operations_copy, takes_an_executor_or_a_context_and_any_token) {
  write_file(from_, pattern(page()));
  run([&]() -> work {
    EXPECT_EQ(co_await mapio::copy_file(co_await asio::this_coro::executor, from_, to_), page());
    EXPECT_EQ(co_await mapio::copy_file(io_, from_, to_, durably), page());
    EXPECT_EQ(co_await mapio::copy_file(io_.get_executor(), from_, to_, asio::use_awaitable),
              page());
    std::error_code error;
    co_await mapio::copy_file(asio::make_strand(io_), dir_ / "none", to_, support::into(error));
    EXPECT_EQ(error, std::errc::no_such_file_or_directory);
    co_await mapio::remove_file(io_, to_);
  });
  const auto run_here = [&](std::future<std::uint64_t> result) {
    EXPECT_TRUE(run_to_end(io_));
    return result.get();
  };
  EXPECT_EQ(run_here(mapio::copy_file(io_, from_, to_, asio::use_future)), page());

  asio::thread_pool threads(1);
  EXPECT_EQ(mapio::copy_file(threads, from_, to_, asio::use_future).get(), page());
  mapio::remove_file(threads.get_executor(), to_, asio::use_future).get();
  EXPECT_FALSE(fs::exists(to_));
}

TEST_F(file_operations_copy, throws_into_the_coroutine_that_awaits_it) {
  run([&]() -> work {
    std::error_code code;
    try {
      co_await mapio::copy_file(io_, from_, to_);
    } catch (const std::system_error& e) {
      code = e.code();
    }
    EXPECT_EQ(code, std::errc::no_such_file_or_directory);
  });
}

TEST_F(file_operations_copy, completes_on_the_executor_of_its_handler_and_not_inside_the_call) {
  write_file(from_, "x");
  asio::io_context other;
  outcome o;
  std::thread::id where;
  mapio::copy_file(io_, from_, to_, asio::bind_executor(other, [&, h = o.handler()](auto... r) {
                     where = std::this_thread::get_id();
                     h(r...);
                   }));
  EXPECT_EQ(o.calls, 0);
  std::thread runner([&] { other.run_for(support::patience); });
  const std::thread::id expected = runner.get_id();
  EXPECT_TRUE(run_to_end(io_));
  runner.join();
  expect_complete(o);
  EXPECT_EQ(where, expected);
}

TEST_F(file_operations_copy, leaves_the_old_target_to_those_who_have_it) {
  write_file(from_, pattern(2 * page(), 1));
  const std::string old = pattern(page(), 2);
  write_file(to_, old);
  fs::create_hard_link(to_, dir_ / "other name");
  const mapping mapped(to_);
  const mapio::region r = mapped.view(0, page());
  EXPECT_TRUE(copy(from_, to_).ok());
  EXPECT_TRUE(same(r.text(), old));
  EXPECT_TRUE(same(read_file(dir_ / "other name"), old));
  EXPECT_TRUE(same(read_file(to_), read_file(from_)));
}

TEST_F(file_operations_copy, that_must_not_overwrite_leaves_what_is_there) {
  write_file(from_, "new");
  expect_complete(copy(from_, to_, keeping));
  write_file(to_, "old");
  expect_refused(from_, to_, std::errc::file_exists, keeping);
  expect_untouched();
}

TEST_F(file_operations_copy, follows_symbolic_links) {
  write_file(from_, pattern(page()));
  write_file(dir_ / "real", "old");
  fs::create_symlink("from", dir_ / "link from");
  fs::create_symlink("real", dir_ / "link to");
  fs::create_symlink(dir_ / "link to", dir_ / "link to link");
  EXPECT_TRUE(copy(dir_ / "link from", dir_ / "link to link").ok());
  EXPECT_TRUE(same(read_file(dir_ / "real"), read_file(from_)));
  EXPECT_TRUE(fs::is_symlink(dir_ / "link to"));
  EXPECT_TRUE(fs::is_symlink(dir_ / "link to link"));

  // One that names nothing names what can be created.
  fs::create_symlink("to", dir_ / "dangling");
  EXPECT_TRUE(copy(from_, dir_ / "dangling", keeping).ok());
  EXPECT_TRUE(same(read_file(to_), read_file(from_)));
  EXPECT_TRUE(fs::is_symlink(dir_ / "dangling"));

  fs::create_symlink("loop", dir_ / "loop");
  expect_refused(from_, dir_ / "loop", std::errc::too_many_symbolic_link_levels);
  expect_refused(dir_ / "loop", to_, std::errc::too_many_symbolic_link_levels);
}

TEST_F(file_operations_copy, that_must_not_follow_symbolic_links_refuses_them) {
  write_file(from_, "new");
  write_file(dir_ / "real", "old");
  fs::create_symlink("from", dir_ / "link from");
  fs::create_symlink("real", dir_ / "link to");
  expect_refused(dir_ / "link from", to_, std::errc::too_many_symbolic_link_levels, not_following);
  expect_refused(from_, dir_ / "link to", std::errc::too_many_symbolic_link_levels, not_following);
  EXPECT_EQ(read_file(dir_ / "real"), "old");
  EXPECT_TRUE(copy(from_, dir_ / "real", not_following).ok());
  EXPECT_EQ(read_file(dir_ / "real"), "new");
}

TEST_F(file_operations_copy, counts_relative_paths_from_where_it_begins) {
  const fs::path before = fs::current_path();
  fs::current_path(dir_.path());
  write_file("from", "new");
  EXPECT_TRUE(copy("from", "to").ok());
  EXPECT_TRUE(remove("from").ok());
  fs::current_path(before);
  EXPECT_EQ(names(), (std::set<std::string>{"to"}));
}

TEST_F(file_operations_copy, refuses_names_that_lead_nowhere) {
  write_file(from_, "new");
  const std::error_condition nothing_there = std::errc::no_such_file_or_directory;
  for (const auto& [path, why] :
       {std::pair{fs::path(), nothing_there}, std::pair{dir_ / "none" / "file", nothing_there},
        std::pair{from_ / "file", support::error_below_a_file()}}) {
    expect_refused(path, to_, why);
    expect_refused(from_, path, why);
  }
  expect_refused(dir_ / "none", to_, nothing_there);
  expect_refused(from_, dir_ / "none/", nothing_there);
  expect_refused(from_, dir_.path(), std::errc::is_a_directory);
  expect_refused(from_, ".", std::errc::is_a_directory);
}

TEST_F(file_operations_copy, refuses_its_own_source) {
  const std::string bytes = pattern(page());
  write_file(from_, bytes);
  fs::create_hard_link(from_, dir_ / "hard");
  for (const fs::path& same_file : {from_, dir_ / "hard", dir_ / "." / "from"})
    for (const copy_file_options& options : {copy_file_options(), keeping}) {
      expect_refused(from_, same_file, std::errc::invalid_argument, options);
      expect_refused(same_file, from_, std::errc::invalid_argument, options);
    }
  EXPECT_TRUE(same(read_file(from_), bytes));
}

TEST_F(file_operations_copy, refuses_its_own_source_behind_a_link) {
  write_file(from_, "text");
  fs::create_symlink("from", to_);
  for (const copy_file_options& options : {copy_file_options(), keeping}) {
    expect_refused(from_, to_, std::errc::invalid_argument, options);
    expect_refused(to_, from_, std::errc::invalid_argument, options);
  }
  EXPECT_EQ(read_file(from_), "text");
}

TEST_F(file_operations_copy, leaves_no_descriptor_behind) {
  write_file(from_, pattern(page()));
  copy(from_, to_);
  const std::set<support::native_handle> before = support::open_descriptors();
  for (const copy_file_options& options : {copy_file_options(), keeping, durably}) {
    copy(from_, to_, options);
    copy(dir_ / "none", to_, options);
    copy(dir_.path(), to_, options);
    copy(from_, dir_.path(), options);
  }
  EXPECT_EQ(support::open_descriptors(), before);
}

TEST_F(file_operations_copy, of_many_at_once_loses_none_and_the_last_one_wins) {
  std::vector<std::string> sources;
  for (std::uint64_t i = 0; i < 8; ++i) {
    sources.push_back(pattern(mebibyte + i, i));
    write_file(dir_ / ("from " + std::to_string(i)), sources.back());
  }
  std::deque<outcome> outcomes;
  for (int round = 0; round < 10; ++round)
    for (int i = 0; i < 8; ++i) {
      const fs::path from = dir_ / ("from " + std::to_string(i));
      mapio::copy_file(io_, from, to_, outcomes.emplace_back().handler());
      mapio::copy_file(io_, from, dir_ / ("to " + std::to_string(i)),
                       outcomes.emplace_back().handler());
    }
  EXPECT_TRUE(run_to_end(io_));
  for (const outcome& o : outcomes)
    EXPECT_TRUE(o.ok()) << o.error.message();
  EXPECT_NE(std::find(sources.begin(), sources.end(), read_file(to_)), sources.end());
  for (std::size_t i = 0; i < 8; ++i)
    EXPECT_TRUE(same(read_file(dir_ / ("to " + std::to_string(i))), sources[i]));
  EXPECT_EQ(names().size(), 17U);
}

TEST_F(file_operations_copy, may_be_cancelled_from_any_thread_at_any_moment) {
  write_file(from_, pattern(turn + mebibyte));
  for (int round = 0; round < 15; ++round) {
    write_file(to_, "old");
    asio::cancellation_signal stop;
    outcome o;
    mapio::copy_file(asio::make_strand(io_), from_, to_,
                     asio::bind_cancellation_slot(stop.slot(), o.handler()));
    std::thread canceller([&] {
      for (int i = 0; i < round * 60; ++i)
        std::this_thread::yield();
      stop.emit(asio::cancellation_type::total);
      stop.emit(asio::cancellation_type::terminal);
    });
    canceller.join();
    finish(o);
    EXPECT_EQ(o.calls, 1);
    if (o.error) {
      EXPECT_EQ(o.error, aborted);
      expect_untouched();
    } else {
      expect_complete(o);
    }
  }
}

TEST_F(file_operations_remove, takes_a_name_away) {
  const std::string bytes = pattern(page());
  write_file(from_, bytes);
  fs::create_hard_link(from_, to_);
  const mapping mapped(from_);
  const mapio::region r = mapped.view(0, page());
  EXPECT_TRUE(remove(from_).ok());
  EXPECT_EQ(names(), (std::set<std::string>{"to"}));
  EXPECT_TRUE(remove(to_).ok());
  EXPECT_EQ(names(), std::set<std::string>());
  EXPECT_TRUE(same(r.text(), bytes));
}

TEST_F(file_operations_remove, of_a_symbolic_link_takes_the_link) {
  write_file(from_, "x");
  fs::create_symlink("from", to_);
  fs::create_symlink("none", dir_ / "dangling");
  EXPECT_TRUE(remove(to_).ok());
  EXPECT_TRUE(remove(dir_ / "dangling").ok());
  EXPECT_EQ(names(), (std::set<std::string>{"from"}));
}

TEST_F(file_operations_remove, refuses_what_it_cannot_remove) {
  write_file(from_, "x");
  fs::create_directory(dir_ / "folder");
  const auto refused = [&](const fs::path& path, std::errc why) {
    const outcome o = remove(path);
    EXPECT_EQ(o.calls, 1);
    EXPECT_EQ(o.error, why) << path << ": " << o.error.message();
  };
  refused(dir_ / "folder", std::errc::is_a_directory);
  refused(dir_.path(), std::errc::is_a_directory);
  refused(dir_ / "none", std::errc::no_such_file_or_directory);
  refused({}, std::errc::no_such_file_or_directory);
  EXPECT_EQ(names(), (std::set<std::string>{"folder", "from"}));
}

}  // namespace
