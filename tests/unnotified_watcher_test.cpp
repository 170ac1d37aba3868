// Watchers where the platform tells nothing: linked before what the library itself has for this
// one.

#include <mapio/watcher.hpp>

#include "support.hpp"
#include "watcher_fixture.hpp"

#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>

namespace {

using namespace watching;

TEST(unnotified_watcher_test, polls_files_and_trees_and_says_so) {
  const support::temp_dir dir;
  const fs::path file = dir / "file";
  const fs::path top = dir / "top";
  write_file(file, "text");
  fs::create_directories(top / "sub");
  write_file(top / "sub" / "old", "text");
  asio::io_context io;
  mapio::watcher changes(io);
  changes.add(file, {.poll = 5ms});
  changes.add(top, {.recursive = true, .poll = 5ms});
  const auto fallbacks = changes.fallbacks();
  // Folders below may have been found by now.
  ASSERT_GE(fallbacks.size(), 2U);
  EXPECT_EQ(fallbacks[0].path, file);
  EXPECT_EQ(fallbacks[0].reason, mapio::errc::unsupported);
  EXPECT_EQ(fallbacks[1].path, top);
  support::run_coroutine(io, [&]() -> asio::awaitable<void> {
    const auto until = [&](change_kind kind, const fs::path& path) -> asio::awaitable<void> {
      for (;;) {
        const change_event event = co_await changes.next();
        if (event.kind == kind && event.path == path) co_return;
      }
    };
    write_file(file, "longer text");
    co_await until(change_kind::modified, file);
    // Found by a first listing, it is modified; only what is known has new metadata after that.
    write_file(top / "sub" / "old", "longer text");
    co_await until(change_kind::modified, top / "sub" / "old");
    support::change_metadata(top / "sub" / "old");
    co_await until(change_kind::metadata, top / "sub" / "old");
    write_file(top / "sub" / "new", "text");
    co_await until(change_kind::created, top / "sub" / "new");
    write_file(top / "sub" / "old", "t");
    co_await until(change_kind::truncated, top / "sub" / "old");
    fs::remove(top / "sub" / "old");
    co_await until(change_kind::removed, top / "sub" / "old");
    fs::remove(file);
    co_await until(change_kind::removed, file);
  });
}

TEST(unnotified_watcher_test, tells_what_came_before_a_folder_was_listed) {
  for (const bool is_recursive : {false, true}) {
    SCOPED_TRACE(is_recursive);
    const support::temp_dir dir;
    write_file(dir / "old", "text");
    asio::io_context io;
    watcher changes(io);
    listener all(io, changes);
    rebuilt_tree told;
    told.files = rebuilt_tree::look_at(dir.path());
    changes.add(dir.path(), {.recursive = is_recursive, .poll = 5ms});
    fs::remove(dir / "old");
    write_file(dir / "new", "text");
    fs::create_directory(dir / "folder");
    if (is_recursive) write_file(dir / "folder" / "new", "text");
    EXPECT_TRUE(is_rebuilt(told, all, dir.path()));
  }
}

TEST(unnotified_watcher_test, tells_what_came_and_went_while_a_folder_was_listed) {
  constexpr int files = 400;
  for (int round = 0; round < 30; ++round) {
    const support::temp_dir dir;
    fs::create_directory(dir / "sub");
    for (int i = 0; i < files; ++i)
      write_file(dir / "sub" / std::to_string(i), "text");
    asio::io_context io;
    watcher changes(io);
    listener all(io, changes);
    rebuilt_tree told;
    told.files = rebuilt_tree::look_at(dir.path());
    changes.add(dir.path(), {.recursive = true, .poll = 5ms});
    // A little later each time: some are in the middle of the listing.
    std::this_thread::sleep_for(round * 200us);
    for (int i = 0; i < files; i += 8)
      fs::rename(dir / "sub" / std::to_string(i), dir / "sub" / ("new" + std::to_string(i)));
    ASSERT_TRUE(is_rebuilt(told, all, dir.path())) << "round " << round;
  }
}

}  // namespace
