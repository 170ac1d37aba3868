// What is watched at the edges: files that are mapped, odd paths, and whatever is done to a few
// files.
#include <mapio/watcher.hpp>

#include "support.hpp"
#include "watcher_fixture.hpp"

#include <mapio/mapped_file.hpp>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
#include <asio/this_coro.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace watching;
using mapio::mapped_file;
using mapio::mapping;

/// Where files are polled for want of notices, the usual second is long for much that happens.
watch_options soon() {
  const support::temp_dir dir;
  asio::io_context io;
  watcher changes(io);
  changes.add(dir.path());
  return changes.fallbacks().empty() ? watch_options() : polling(5ms);
}

// --- files that are mapped
// ------------------------------------------------------------------------------------------------

TEST_F(watcher_edges, tell_a_mapped_file_that_it_has_its_name_again) {
  write_file(file_, "some text");
  mapped_file file(io_);
  support::run_coroutine(io_, [&]() -> asio::awaitable<void> {
    co_await file.open(file_, support::read_only());
    auto changes = file.watch();
    shell("mv f g");
    EXPECT_EQ((co_await changes.next()).kind, change_kind::renamed);
    shell("mv g f");
    EXPECT_EQ((co_await changes.next()).kind, change_kind::created);
    EXPECT_FALSE(file.size_is_stale()) << "it is the one that is mapped";
  });
}

TEST_F(watcher_edges, tell_a_mapped_file_of_another_one_of_the_same_size) {
  write_file(file_, "some text");
  mapped_file file(io_);
  support::run_coroutine(io_, [&]() -> asio::awaitable<void> {
    co_await file.open(file_, support::read_only());
    auto changes = file.watch();
    shell("rm f");
    EXPECT_EQ((co_await changes.next()).kind, change_kind::removed);
    write_file(dir_ / "new", "any words");
    shell("mv new f");
    EXPECT_EQ((co_await changes.next()).kind, change_kind::created);
    EXPECT_TRUE(file.size_is_stale());
  });
}

TEST_F(watcher_edges, tell_a_mapped_file_what_changed_before_it_was_watched) {
  write_file(file_, "some text");
  mapped_file file(io_);
  support::run_coroutine(io_, [&]() -> asio::awaitable<void> {
    co_await file.open(file_, support::read_only());
    support::truncate_file(file_, 4);
    const auto changes = file.watch();
    EXPECT_TRUE(file.size_is_stale());
    EXPECT_EQ(co_await file.refresh(), 4U);
    EXPECT_FALSE(file.size_is_stale());
  });
}

TEST_F(watcher_edges, take_no_resize_of_a_mapped_file_for_that_of_another) {
  write_file(file_, "some text");
  mapped_file file(io_);
  support::run_coroutine(
      io_, [&]() -> asio::awaitable<void> { co_await file.open(file_, support::read_write()); });
  watcher changes = file.watch();
  listener all(io_, changes);
  bool is_over = false;
  std::thread other([&, mapped = file.map()]() mutable {
    // Some of them are looked at before, and that is told after the next one.
    for (std::uint64_t i = 0; i < 1000; ++i) {
      mapped.resize(10 + (i * 7919) % 5000);
      EXPECT_FALSE(file.size_is_stale()) << i;
    }
    asio::post(io_, [&] { is_over = true; });
  });
  EXPECT_TRUE(all.wait_until([&] {
    EXPECT_FALSE(file.size_is_stale());
    return is_over;
  }));
  other.join();
}

TEST_F(watcher_edges, tell_a_mapped_file_of_a_size_that_it_gets_while_it_is_resized) {
  write_file(file_, "some text");
  const fs::path mark = dir_ / "mark";
  write_file(mark, "");
  mapped_file file(io_);
  support::run_coroutine(
      io_, [&]() -> asio::awaitable<void> { co_await file.open(file_, support::read_write()); });
  watcher changes = file.watch(soon());
  changes.add(mark, soon());
  listener all(io_, changes);
  mapping mapped = file.map();
  for (std::uint64_t i = 0; i < 50; ++i) {
    std::thread other([&] {
      for (std::uint64_t j = 0; j < 4; ++j)
        mapped.resize(10 + ((i + j) * 7919) % 50);
    });
    support::truncate_file(file_, 10 + (i * 104729) % 50);
    std::ofstream(mark, std::ios::app) << ".";
    EXPECT_TRUE(all.wait_for(change_kind::modified, mark));
    other.join();
    all.seen.clear();
    const auto is_right = [&] {
      return file.size_is_stale() == (fs::file_size(file_) != file.size());
    };
    // Where files are polled, the mark says nothing of others.
    EXPECT_TRUE(changes.fallbacks().empty() ? is_right() : all.wait_until(is_right)) << i;
    EXPECT_EQ(mapped.refresh(), fs::file_size(file_));
    EXPECT_FALSE(file.size_is_stale()) << i;
  }
}

TEST_F(watcher_edges, tell_a_mapped_file_of_a_size_that_it_gets_before_a_growth_ends) {
  write_file(file_, "some text");
  mapped_file file(io_);
  support::run_coroutine(io_, [&]() -> asio::awaitable<void> {
    mapio::open_options options = support::read_write();
    options.reserve = 9;
    co_await file.open(file_, options);
    auto changes = file.watch();
    const std::uint64_t larger = file.capacity() + 1;
    bool is_over = false;
    file.resize(larger, [&](std::error_code error) {
      EXPECT_FALSE(error);
      is_over = true;
    });
    // In time, as a rule, for it to wait when the file has grown and is not yet mapped there.
    std::optional view = file.map().view(0, 9);
    while ((co_await changes.next()).size != larger) {
    }
    EXPECT_FALSE(file.size_is_stale());
    support::truncate_file(file_, 5);
    while ((co_await changes.next()).size != 5) {
    }
    EXPECT_TRUE(file.size_is_stale());
    // What is right by now is not, once it has grown.
    support::truncate_file(file_, 9);
    while ((co_await changes.next()).size != 9) {
    }
    view.reset();
    while (!is_over)
      co_await asio::post(asio::use_awaitable);
    EXPECT_EQ(file.size(), larger);
    EXPECT_TRUE(file.size_is_stale());
  });
}

TEST_F(watcher_edges, tell_a_mapped_file_of_a_size_while_a_shrink_waits_for_a_region) {
  write_file(file_, "some text");
  mapped_file file(io_);
  support::run_coroutine(io_, [&]() -> asio::awaitable<void> {
    co_await file.open(file_, support::read_write());
    auto changes = file.watch();
    std::optional view = co_await file.view(0, 9);
    bool is_over = false;
    file.resize(3, [&](std::error_code error) {
      EXPECT_FALSE(error);
      is_over = true;
    });
    support::truncate_file(file_, 5);
    EXPECT_EQ((co_await changes.next()).kind, change_kind::truncated);
    EXPECT_FALSE(is_over);
    EXPECT_TRUE(file.size_is_stale());
    // What is right by now is not, once it has grown.
    support::truncate_file(file_, 9);
    while ((co_await changes.next()).size != 9) {
    }
    view.reset();
    while (!is_over)
      co_await asio::post(asio::use_awaitable);
    EXPECT_FALSE(file.size_is_stale()) << "it has the size that it was given";
  });
}

TEST_F(watcher_edges, are_of_the_folder_in_which_a_mapped_file_was_opened) {
  write_file(file_, "some text");
  fs::current_path(dir_.path());
  mapped_file file(io_);
  support::run_coroutine(io_, [&]() -> asio::awaitable<void> {
    co_await file.open("f", support::read_only());
    fs::current_path(other_dir_.path());
    write_file("f", "another");
    auto changes = file.watch();
    support::truncate_file("f", 1);
    support::truncate_file(file_, 4);
    const change_event event = co_await changes.next();
    EXPECT_EQ(event.path, "f");
    EXPECT_EQ(event.size, 4U);
    EXPECT_TRUE(file.size_is_stale());
  });
}

// --- paths
// ------------------------------------------------------------------------------------------------

TEST_F(watcher_edges, tell_the_new_name_of_what_was_given_with_a_slash) {
  shell("mkdir -p a/b");
  changes_.add(dir_ / "a/b/");
  shell("mv a/b a/d");
  ASSERT_TRUE(all_.wait_until([&] { return !all_.seen.empty(); }));
  EXPECT_EQ(all_.seen[0].kind, change_kind::renamed);
  EXPECT_EQ(all_.seen[0].previous_path, dir_ / "a/b/");
  EXPECT_EQ(all_.seen[0].path, dir_ / "a/d");
}

TEST_F(watcher_edges, tell_no_new_name_of_what_was_given_without_one) {
  shell("mkdir -p a/b");
  fs::current_path(dir_ / "a/b");
  changes_.add(".");
  shell("mv a/b a/d");
  EXPECT_TRUE(all_.wait_for(change_kind::removed, "."));
  EXPECT_EQ(all_.seen.size(), 1U);
}

TEST_F(watcher_edges, are_watched_whatever_bytes_are_in_a_name) {
  const std::string longest(255, 'n');
  const std::string raw = "\xff\xfe\x01 \n";
  const fs::path folder = dir_ / (longest.substr(1) + "d");
  changes_.add(dir_.path(), recursive());
  changes_.add(dir_ / raw, missing());
  fs::create_directory(folder);
  for (const fs::path& path : {dir_ / longest, dir_ / raw, folder / longest, folder / raw}) {
    write_file(path, "");
    EXPECT_TRUE(all_.wait_for(change_kind::created, path)) << path;
  }
  EXPECT_EQ(support::code_of([&] { changes_.add(dir_ / (longest + "n")); }),
            std::errc::filename_too_long);
}

TEST_F(watcher_edges, tell_of_what_was_there_for_a_moment) {
  for (const char* commands : {"echo text > f; rm f", "echo text > g; mv g f; mv f g"}) {
    SCOPED_TRACE(commands);
    // Not in the same folder: by Wine nothing may be told of one that is watched again just after a
    // notice came that nobody was to hear.
    const fs::path folder = dir_ / std::to_string(std::string(commands).size());
    fs::create_directory(folder);
    changes_.add(folder / "f", missing());
    support::run_commands(folder, commands);
    // A worker may look while it is there; then its new name may be told.
    ASSERT_TRUE(all_.wait_until([&] {
      return all_.has_seen(change_kind::removed, folder / "f") ||
             all_.has_seen(change_kind::renamed, folder / "g");
    }));
    EXPECT_EQ(all_.seen[0].kind, change_kind::created);
    EXPECT_LE(all_.seen.size(), 3U);  // it may also be told to be written
    all_.seen.clear();
    changes_.remove(folder / "f");
  }
}

TEST_F(watcher_edges, tell_nothing_of_what_is_still_missing_when_a_folder_comes_and_goes) {
  changes_.add(dir_ / "d/f", missing());
  shell("mkdir d; rmdir d; mkdir d; echo text > d/f");
  EXPECT_TRUE(all_.wait_for(change_kind::created, dir_ / "d/f"));
  EXPECT_EQ(all_.seen.size(), 1U);
}

// --- what is added again
// ------------------------------------------------------------------------------------------------

// Who adds it again has seen the folder under its new name, and another one under the old.
TEST_F(watcher_behind, tells_of_folders_that_were_renamed_before_a_tree_was_added_again) {
  for (const bool is_queued : {false, true}) {
    SCOPED_TRACE(is_queued);
    // Names of its own: where a watched folder is kept until nobody has it open, so is its name.
    const std::string a = is_queued ? "c" : "a";
    const std::string b = is_queued ? "d" : "b";
    shell("mkdir " + a + "; : > " + a + "/1");
    ASSERT_NO_FATAL_FAILURE(watch_tree());
    shell("mv " + a + " " + b + "; mkdir " + a + "; : > " + a + "/2");
    if (is_queued) {
      ASSERT_NO_FATAL_FAILURE(take_notices());
    }
    watcher_->add(dir_.path(), recursive());
    tree_.files = rebuilt_tree::look_at(dir_.path());
    applied_ = 0;
    shell(": > " + a + "/3; : > " + b + "/4; rm " + a + "/2");
    ASSERT_NO_FATAL_FAILURE(expect_right_state());
    seen_.clear();
  }
}

// Who adds it again has seen what is in a folder, of which nothing was told yet.
TEST_F(watcher_behind, tells_of_folders_that_came_before_a_tree_was_added_again) {
  for (const bool is_noticed : {false, true})
    for (const bool is_gap : {false, true}) {
      SCOPED_TRACE(std::string(is_noticed ? "noticed" : "") + (is_gap ? " in a gap" : ""));
      fs::remove_all(dir_ / "n");
      ASSERT_NO_FATAL_FAILURE(watch_tree(is_gap ? 2 : 100'000));
      if (is_gap) {
        shell(": > 1; : > 2; : > 3; : > 4");
        ASSERT_NO_FATAL_FAILURE(take_notices());
      }
      shell("mkdir -p n/s; : > n/gone; : > n/s/gone; : > n/s/kept");
      if (is_noticed) {
        ASSERT_NO_FATAL_FAILURE(take_notices());
      }
      watcher_->add(dir_.path(), recursive());
      tree_.files = rebuilt_tree::look_at(dir_.path());
      applied_ = 0;
      shell("rm n/gone n/s/gone");
      expect_rebuilt(dir_.path());
      stop_listening();
      seen_.clear();
    }
}

TEST_F(watcher_edges, tell_nothing_of_the_time_before_a_path_was_removed_and_added_again) {
  write_file(file_, "text");
  write_file(dir_ / "other", "text");
  changes_.add(file_);
  changes_.add(dir_ / "other");
  shell("rm f; rm other");
  take_notices(io_);
  changes_.remove(file_);
  write_file(file_, "text");
  changes_.add(file_);
  std::ofstream(file_, std::ios::app) << "more";
  EXPECT_TRUE(all_.wait_for(change_kind::modified, file_));
  EXPECT_TRUE(all_.has_seen(change_kind::removed, dir_ / "other"));
  EXPECT_EQ(all_.seen.size(), 2U);
}

// It takes with it what is known of it, and whoever watches it there goes on from that.
TEST_F(watcher_behind, follows_a_folder_from_one_tree_to_another) {
  for (const bool is_flat_there : {false, true}) {
    SCOPED_TRACE(is_flat_there);
    const fs::path top = dir_ / (is_flat_there ? "flat" : "deep");
    fs::create_directories(top / "from/sub/deep");
    fs::create_directories(top / "to");
    for (const char* name : {"gone", "kept", "deep/gone", "deep/moved"})
      write_file(top / "from/sub" / name, "text");
    write_file(top / "from/f", "");
    watcher_.emplace(io_, 1000);
    watcher_->add(top / "from", recursive());
    ASSERT_NO_FATAL_FAILURE(wait_until_watched(top / "from/f"));
    write_file(top / "to/f", "");
    watcher_->add(top / "to", is_flat_there ? watch_options() : recursive());
    ASSERT_NO_FATAL_FAILURE(wait_until_watched(top / "to/f"));
    // Until there is a list of each folder, and nothing was noticed since: else all is told anew.
    ASSERT_NO_FATAL_FAILURE(take_notices());
    stop_listening();
    applied_ = 0;
    tree_.files = rebuilt_tree::look_at(top);
    fs::rename(top / "from/sub", top / "to/now");
    fs::remove(top / "to/now/gone");
    fs::remove(top / "to/now/deep/gone");
    fs::rename(top / "to/now/deep/moved", top / "to/moved");
    now_ = rebuilt_tree::look_at(top);
    if (is_flat_there)
      std::erase_if(now_, [&](const auto& f) {
        return f.first.parent_path() != top / "to" &&
               f.first.generic_string().find("/now/") != std::string::npos;
      });
    EXPECT_TRUE(catches_up()) << differences();
    EXPECT_EQ(has_seen(change_kind::renamed, top / "to/now"),
              support::notices_connect_folders && !is_flat_there);
    stop_listening();
    seen_.clear();
  }
}

TEST_F(watcher_edges, tell_what_is_left_of_a_rename_when_one_of_its_folders_is_removed) {
  shell("mkdir a b; echo text > a/x; echo text > b/y");
  changes_.add(dir_ / "a");
  changes_.add(dir_ / "b");
  shell("mv a/x b/x; mv b/y a/y");
  take_notices(io_);
  changes_.remove(dir_ / "b");
  ASSERT_TRUE(all_.wait_until([&] { return all_.seen.size() >= 2; }));
  EXPECT_EQ(all_.seen[0].kind, change_kind::removed);
  EXPECT_EQ(all_.seen[0].path, dir_ / "a/x");
  EXPECT_EQ(all_.seen[0].size, std::nullopt);
  EXPECT_EQ(all_.seen[1].kind, change_kind::created);
  EXPECT_EQ(all_.seen[1].path, dir_ / "a/y");
  EXPECT_EQ(all_.seen[1].size, 5U);
  EXPECT_EQ(all_.seen[1].previous_path, fs::path());
}

TEST_F(watcher_edges, go_on_telling_of_a_path_that_is_added_once_more) {
  shell("mkdir d; mkdir d/sub; echo text > d/gone; echo text > d/sub/x");
  changes_.add(dir_ / "d");
  shell("rm d/gone");
  changes_.add(dir_ / "d", recursive());
  shell("echo more >> d/sub/x");
  EXPECT_TRUE(all_.wait_for(change_kind::modified, dir_ / "d/sub/x"));
  // Where it is polled, it may be found later.
  EXPECT_TRUE(all_.wait_for(change_kind::removed, dir_ / "d/gone"));
  changes_.add(dir_ / "d");
  shell("rm d/sub/x; echo text > d/last");
  EXPECT_TRUE(all_.wait_for(change_kind::created, dir_ / "d/last"));
  EXPECT_FALSE(all_.has_seen(change_kind::removed, dir_ / "d/sub/x"));
}

// --- whatever is done to a few files
// ------------------------------------------------------------------------------------------------

/// Changes two folders at random. There are few names, so that one has been a file, a link, another
/// name of a file and a folder by the time that anybody looks.
class random_changes {
 public:
  random_changes(fs::path top, unsigned seed) : top_(std::move(top)), random_(seed) {}

  void make(unsigned count) {
    for (; count > 0; --count)
      make_one();
  }
  unsigned below(unsigned end) { return static_cast<unsigned>(random_() % end); }

 private:
  // Most of them fail, one way or another.
  void make_one() {
    const fs::path file = some_file();
    const fs::path other = some_file();
    std::error_code ignored;
    switch (below(14)) {
    case 0:
      fs::remove_all(file, ignored);
      return;
    case 1:
      fs::remove(file, ignored);
      return;
    case 2:
      fs::rename(file, other, ignored);
      return;
    case 3:
      fs::resize_file(file, below(6), ignored);
      return;
    case 4:
      fs::rename(some_folder(), some_folder(), ignored);
      return;
    case 5:
      fs::rename(some_folder(), top_ / "away", ignored);
      return;
    case 6:
      fs::rename(top_ / "away", some_folder(), ignored);
      return;
    case 7:
      fs::create_directory(some_folder(), ignored);
      return;
    case 8:
      if (below(3) == 0 && support::watched_folders_can_be_removed)
        fs::create_directory(file, ignored);
      return;
    case 9:
      fs::create_hard_link(file, other, ignored);
      return;
    case 10:
      fs::create_symlink(other, file, ignored);
      return;
    case 11:
      write_file(top_ / "new", std::string(below(9), 'x'));
      fs::rename(top_ / "new", file, ignored);
      return;
    default:
      std::ofstream(file, std::ios::app) << std::string(1 + below(4), 'x');
    }
  }
  fs::path some_folder() { return top_ / std::string(1, "de"[below(2)]); }
  fs::path some_file() { return some_folder() / std::string(1, "fgh"[below(3)]); }

  const fs::path top_;
  std::mt19937 random_;
};

/// What a consumer knows of files that are watched one by one: their sizes, if they are there.
class rebuilt_files {
 public:
  static std::optional<std::uint64_t> look_at(const fs::path& path) {
    std::error_code error;
    if (!fs::exists(path, error)) return std::nullopt;
    return fs::is_directory(path, error) ? 0 : fs::file_size(path, error);
  }
  void look_at_all() {
    for (auto& [path, size] : files)
      size = look_at(path);
  }
  void apply(const change_event& event) {
    const bool is_gone = event.kind == change_kind::removed || event.kind == change_kind::renamed;
    const auto known =
        files.find(event.kind == change_kind::renamed ? event.previous_path : event.path);
    if (known == files.end()) return;
    if (is_gone)
      known->second.reset();
    else if (event.size)
      known->second = event.size;
    else if (event.kind == change_kind::created || event.kind == change_kind::replaced)
      known->second = 0;
    else if (event.kind == change_kind::modified && looks)
      known->second = look_at(event.path);
  }

  bool looks = false;  // where it is not told

  std::map<fs::path, std::optional<std::uint64_t>> files;
};

class watched_files : public testing::Test {
 protected:
  void rebuild(std::size_t capacity, watch_options options, bool adds_again = false) {
    options.allow_missing = true;
    constexpr unsigned rounds =
        support::under_asan || support::under_tsan ? 10 : support::as_often_as(40);
    for (unsigned round = 1; round <= rounds && !HasFailure(); ++round) {
      SCOPED_TRACE(round);
      const support::temp_dir dir;
      const fs::path top = dir / "top";
      fs::create_directories(top / "d");
      fs::create_directories(top / "e");
      random_changes changes(top, round);
      changes.make(20);

      asio::io_context io;
      watcher watched(io, capacity);
      listener all(io, watched);
      rebuilt_files told;
      told.looks = !options.sizes;
      const auto add = [&](const fs::path& path) {
        std::error_code loop;
        static_cast<void>(fs::exists(path, loop));
        if (loop) return;  // refused
        watched.add(path, options);
        told.files[path] = rebuilt_files::look_at(path);
      };
      for (const char* name : {"d/f", "d/g", "e/f"})
        add(top / name);
      const auto take = [&] {
        for (const change_event& event : std::exchange(all.seen, {}))
          told.apply(event);
      };
      for (int i = 0; i < 15; ++i) {
        changes.make(1 + changes.below(12));
        if (adds_again && changes.below(3) == 0) {
          if (changes.below(3) != 0) {
            watched.remove(top / "d/f");
            told.files.erase(top / "d/f");
            if (changes.below(2) == 0) io.run_for(std::chrono::microseconds(changes.below(1000)));
            io.restart();
            all.stop();
            take();
          }
          add(top / "d/f");
        }
        // Now and then somebody reads.
        if (changes.below(2) == 0) continue;
        all.listen();
        io.restart();
        io.run_for(std::chrono::microseconds(changes.below(1000)));
      }
      const auto expect_rebuilt = [&] {
        rebuilt_files now = told;
        now.look_at_all();
        EXPECT_TRUE(all.wait_until([&] {
          take();
          return told.files == now.files;
        }));
      };
      expect_rebuilt();
      // All of them are still watched.
      for (const auto& [path, size] : told.files)
        if (size) std::ofstream(path, std::ios::app) << "last";
      expect_rebuilt();
      std::error_code ignored;
      fs::remove_all(top, ignored);
      expect_rebuilt();
    }
  }
};

TEST_F(watched_files, are_rebuilt_from_events_whatever_is_done_to_them) {
  rebuild(4096, soon());
}

TEST_F(watched_files, are_rebuilt_from_events_that_are_gathered) {
  watch_options options = soon();
  options.coalesce = 3ms;
  rebuild(4096, options);
}

TEST_F(watched_files, are_rebuilt_from_events_while_they_are_polled) {
  watch_options options;
  options.poll = 2ms;
  rebuild(4096, options);
}

TEST_F(watched_files, are_rebuilt_by_one_who_looks_himself) {
  watch_options options = soon();
  options.sizes = false;
  rebuild(4096, options);
}

TEST_F(watched_files, are_rebuilt_where_one_event_may_wait) {
  rebuild(1, soon());
}

TEST_F(watched_files, are_rebuilt_from_events_though_one_is_added_again) {
  rebuild(4096, soon(), true);
}

TEST_F(watched_files, are_rebuilt_from_events_that_are_gathered_though_one_is_added_again) {
  watch_options options = soon();
  options.coalesce = 3ms;
  rebuild(4096, options, true);
}

TEST_F(watched_files, are_rebuilt_where_one_event_may_wait_though_one_is_added_again) {
  rebuild(1, soon(), true);
}

// --- the end, and what is cancelled
// ------------------------------------------------------------------------------------------------

/// Changes some files and folders on a thread of its own, as often as it is asked to: one that did
/// so all the time would leave the others none on a busy machine.
class busy_folder {
 public:
  explicit busy_folder(fs::path folder) : folder_(std::move(folder)), writer_([this] { work(); }) {}
  busy_folder(const busy_folder&) = delete;
  busy_folder& operator=(const busy_folder&) = delete;
  ~busy_folder() {
    wait();
    {
      const std::lock_guard lock(mutex_);
      is_over_ = true;
    }
    is_other_.notify_all();
    writer_.join();
  }
  void begin(unsigned changes) {
    {
      const std::lock_guard lock(mutex_);
      wanted_ += changes;
    }
    is_other_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    is_other_.wait(lock, [this] { return done_ == wanted_; });
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      is_other_.wait(lock, [this] { return is_over_ || done_ != wanted_; });
      if (is_over_) return;
      const unsigned i = done_;
      lock.unlock();
      change(i);
      lock.lock();
      ++done_;
      is_other_.notify_all();
    }
  }
  void change(unsigned i) const {
    const fs::path some = folder_ / std::to_string(i % 5);
    std::error_code ignored;
    fs::create_directories(some / "d", ignored);
    write_file(some / "d" / "f", "text");
    fs::rename(some / "d" / "f", folder_ / "f", ignored);
    const fs::path old = folder_ / std::to_string((i + 3) % 5);
    if (support::watched_folders_can_be_removed)
      fs::remove_all(old, ignored);
    else
      fs::remove(old / "d" / "f", ignored);
  }

  const fs::path folder_;
  // Not atomics that are waited for: see starting_line.hpp.
  std::mutex mutex_;
  std::condition_variable is_other_;
  bool is_over_ = false;
  unsigned wanted_ = 0;
  unsigned done_ = 0;
  std::thread writer_;
};

TEST_F(watcher_edges, are_cancelled_closed_and_let_go_of_by_any_thread_while_events_flow) {
  write_file(file_, "text");
  busy_folder busy(dir_.path());
  constexpr unsigned rounds = support::is_emulated ? 3 : 12;
  for (unsigned round = 0; round < rounds; ++round) {
    SCOPED_TRACE(round);
    busy.begin(20);
    auto pool = std::make_unique<asio::thread_pool>(2);
    mapped_file file(*pool);
    file.open(file_, support::read_only(), asio::use_future).get();
    std::vector<std::shared_ptr<watcher>> watchers;
    for (int i = 0; i < 3; ++i)
      watchers.push_back(std::make_shared<watcher>(*pool, i == 0 ? 1 : 64));
    watchers.push_back(std::make_shared<watcher>(file.watch()));
    std::atomic<int> is_heard{0};
    for (const auto& changes : watchers) {
      changes->add(dir_.path(), recursive());
      changes->add(dir_ / "1" / "d" / "f", missing());
      // What cancels one half of `||` when the other is over must not do so while it ends.
      asio::co_spawn(
          asio::make_strand(*pool),
          [&is_heard, changes]() -> asio::awaitable<void> {
            using asio::experimental::awaitable_operators::operator||;
            asio::steady_timer timer(co_await asio::this_coro::executor);
            for (std::chrono::microseconds wait{1};; wait = wait * 2 % 5000us) {
              timer.expires_after(wait);
              const auto first = co_await (changes->next(asio::use_awaitable) ||
                                           timer.async_wait(asio::use_awaitable));
              if (first.index() == 0) ++is_heard;
            }
          },
          asio::detached);
    }
    for (int heard = 0; heard <= 20; heard = is_heard) {
      busy.begin(1);
      busy.wait();
    }
    busy.begin(20);
    watchers[round % 4]->remove(dir_.path());
    watchers[(round + 1) % 4]->add(dir_.path());
    std::thread other([&] { watchers[round % 4]->cancel(); });
    watchers[(round + 1) % 4]->close();
    other.join();
    for (const auto& changes : watchers)
      if (round % 3 != 0) changes->close();
    if (round % 2 == 0) watchers.clear();
    pool.reset();
    file.cancel();
  }
}

}  // namespace
