#include <mapio/watcher.hpp>

#include "watcher_fixture.hpp"

#include <mapio/mapped_file.hpp>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_future.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
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

// --- one file
// ------------------------------------------------------------------------------------------------

TEST_F(watched_file, is_modified_by_redirection_of_a_shell) {
  shell("echo more >> f");
  catch_up();
  ASSERT_EQ(seen_.size(), 1U);
  EXPECT_EQ(seen_[0].kind, change_kind::modified);
  EXPECT_EQ(seen_[0].path, file_);
  EXPECT_EQ(seen_[0].size, 15U);
}

TEST_F(watched_file, is_truncated_by_redirection_of_a_shell) {
  shell("echo x > f");
  catch_up();
  ASSERT_GE(seen_.size(), 1U);
  EXPECT_EQ(seen_[0].kind, change_kind::truncated);
  // Cutting and writing are two steps of the shell: the first may have been looked at by itself.
  EXPECT_EQ(seen_.back().size, 2U);
}

TEST_F(watched_file, stays_watched_when_another_one_is_moved_over_it) {
  shell("echo new > g; mv g f");
  EXPECT_EQ(told(), "replaced f");
  shell("echo more >> f");
  EXPECT_EQ(told(), "modified f");
}

TEST_F(watched_file, is_moved_away_and_created_by_an_editor_that_keeps_a_backup) {
  shell("mv f f~; echo new > f; rm f~");
  EXPECT_EQ(told_of("renamed f -> f~, created f"), "renamed f -> f~, created f");
  shell("echo more >> f");
  EXPECT_EQ(told(), "modified f");
}

TEST_F(watched_file, follows_the_name_when_logs_are_rotated) {
  shell("mv f f.1; : > f; echo line >> f");
  EXPECT_EQ(told_of("renamed f -> f.1, created f"), "renamed f -> f.1, created f");
  shell("echo line >> f.1");
  EXPECT_EQ(told(), "");
  shell("echo line >> f");
  EXPECT_EQ(told(), "modified f");
}

TEST_F(watched_file, is_truncated_when_logs_are_copied_and_cut) {
  shell("cp f f.1; : > f");
  catch_up();
  ASSERT_EQ(seen_.size(), 1U);
  EXPECT_EQ(seen_[0].kind, change_kind::truncated);
  EXPECT_EQ(seen_[0].size, 0U);
}

TEST_F(watched_file, is_modified_by_cp_and_truncated_by_truncate) {
  write_file(dir_ / "other", std::string(100, '1'));
  shell("cp other f");
  catch_up();
  ASSERT_GE(seen_.size(), 1U);
  EXPECT_EQ(seen_.back().kind, change_kind::modified);
  EXPECT_EQ(seen_.back().size, 100U);
  seen_.clear();
  shell("truncate -s 5 f");
  catch_up();
  ASSERT_EQ(seen_.size(), 1U);
  EXPECT_EQ(seen_[0].kind, change_kind::truncated);
  EXPECT_EQ(seen_[0].size, 5U);
}

TEST_F(watched_file, stays_watched_when_it_is_removed_and_created) {
  shell("rm f");
  EXPECT_EQ(told(), "removed f");
  shell("echo new > f");
  EXPECT_EQ(told_of("created f"), "created f");
  shell("echo more >> f");
  EXPECT_EQ(told(), "modified f");
}

TEST_F(watched_file, stays_watched_when_its_folder_goes_and_comes_again) {
  fs::create_directory(dir_ / "sub");
  write_file(dir_ / "sub" / "g", "text");
  watcher_->add(dir_ / "sub" / "g");
  shell("rm -r sub");
  EXPECT_EQ(told(), "removed sub/g");
  shell("mkdir sub");
  EXPECT_EQ(told(), "");
  shell("echo new > sub/g");
  EXPECT_EQ(told_of("created sub/g"), "created sub/g");
  shell("mv sub away");
  EXPECT_EQ(told(), "removed sub/g");
}

TEST_F(watched_file, has_metadata) {
  support::change_metadata(file_);
  EXPECT_EQ(told(), "metadata f");
}

TEST_F(watched_file, is_told_of_until_it_is_removed_from_the_watcher) {
  watcher_->remove(file_);
  shell("echo more >> f; rm f; echo new > f");
  EXPECT_EQ(told(), "");
  watcher_->add(file_);
  shell("echo more >> f");
  EXPECT_EQ(told(), "modified f");
}

TEST_F(watched_file, is_told_of_once_though_it_was_added_twice) {
  watcher_->add(file_);
  catch_up();  // It is looked at once more.
  shell("echo more >> f");
  catch_up();
  EXPECT_EQ(seen_.size(), 1U);
}

TEST_F(watcher_test, waits_for_a_path_that_does_not_exist_yet) {
  watch_mark();
  EXPECT_EQ(support::code_of([&] { watcher_->add(dir_ / "a" / "b" / "f"); }),
            std::errc::no_such_file_or_directory);
  watcher_->add(dir_ / "a" / "b" / "f", missing());
  shell("mkdir a");
  EXPECT_EQ(told(), "");
  shell("mkdir a/b; echo text > a/b/f");
  EXPECT_EQ(told_of("created a/b/f"), "created a/b/f");
  shell("echo text >> a/b/f");
  EXPECT_EQ(told(), "modified a/b/f");
}

TEST_F(watcher_test, waits_for_a_folder_where_there_is_a_file_for_a_while) {
  watch_mark();
  shell("mkdir d; echo text > d/f");
  watcher_->add(dir_ / "d" / "f");
  shell("rm -r d; echo text > d");
  EXPECT_EQ(told(), "removed d/f");
  shell("rm d; mkdir d; echo text > d/f");
  EXPECT_EQ(told_of("created d/f"), "created d/f");
  shell("echo text >> d/f");
  EXPECT_EQ(told(), "modified d/f");
}

TEST_F(watcher_test, keeps_a_path_watched_when_a_folder_further_up_is_renamed) {
  watch_mark();
  shell("mkdir -p a/b/c; echo text > a/b/c/f");
  watcher_->add(dir_ / "a/b/c/f");
  shell("mv a z");
  EXPECT_EQ(told(), "removed a/b/c/f");
  shell("mkdir -p a/b/c; echo text > a/b/c/f");
  EXPECT_EQ(told_of("created a/b/c/f"), "created a/b/c/f");
  shell("echo text >> a/b/c/f");
  EXPECT_EQ(told(), "modified a/b/c/f");
}

TEST_F(watcher_test, keeps_the_path_that_it_was_given) {
  watch_mark();
  write_file(file_, "text");
  const fs::path before = fs::current_path();
  fs::current_path(dir_.path());
  watcher_->add("f");
  fs::current_path(before);
  shell("echo more >> f");
  catch_up();  // or its name is gone before anybody looks
  shell("mv f g");
  catch_up();
  ASSERT_EQ(seen_.size(), 2U);
  EXPECT_EQ(seen_[0].path, "f");
  EXPECT_EQ(seen_[1].previous_path, "f");
  EXPECT_EQ(seen_[1].path, "g");
}

// --- folders
// ------------------------------------------------------------------------------------------------

TEST_F(watcher_test, tells_what_happens_in_a_folder) {
  watch_mark();
  shell("mkdir sub; echo text > sub/deep");
  watcher_->add(dir_.path());
  shell("echo text > f");
  EXPECT_EQ(told_with_writes("created f, modified f"), "created f, modified f");
  shell("echo more >> f");
  EXPECT_EQ(told(), "modified f");
  support::change_metadata(file_);
  EXPECT_EQ(told(), "metadata f");
  shell("mv f g; mkdir d; rm g; rmdir d");
  EXPECT_EQ(told(), "renamed f -> g, created d, removed g, removed d");
  shell("echo more >> sub/deep; echo text > sub/other");
  EXPECT_EQ(told(), "");
}

TEST_F(watcher_test, tells_of_a_file_in_a_folder_that_is_cut_or_replaced) {
  watch_mark();
  watcher_->add(dir_.path());
  shell("echo text > f");
  told();
  shell("truncate -s 1 f");
  EXPECT_EQ(told(), "truncated f");
  shell("echo new > g; mv g f");
  const std::string all = "created g, modified g, renamed g -> f, replaced f";
  EXPECT_EQ(told_with_writes(all), all);
  write_file(mark_dir_ / "g", "new\n");
  fs::rename(mark_dir_ / "g", file_);
  EXPECT_EQ(told(), "replaced f");
}

TEST_F(watcher_test, tells_what_is_moved_into_a_folder_and_out_of_it) {
  watch_mark();
  shell("mkdir in out; echo text > out/f; mkdir -p out/d/e; echo text > out/d/e/g");
  watcher_->add(dir_ / "in", recursive());
  shell("mv out/f in/f");
  EXPECT_EQ(told(), "created in/f");
  shell("mv out/d in/d");
  ASSERT_TRUE(wait_until([&] { return has_seen(change_kind::created, dir_ / "in/d/e/g"); }));
  told();
  shell("echo more >> in/d/e/g");
  EXPECT_EQ(told(), "modified in/d/e/g");
  shell("mv in/d in/x; echo more >> in/x/e/g");
  EXPECT_EQ(told(), "renamed in/d -> in/x, modified in/x/e/g");
  shell("mv in/x out/d");
  ASSERT_TRUE(wait_until([&] { return has_seen(change_kind::removed, dir_ / "in/x"); }));
  told();
  shell("echo more >> out/d/e/g");
  EXPECT_EQ(told(), "");
}

TEST_F(watcher_test, tells_the_end_of_a_tree_and_its_return) {
  watch_mark();
  shell("mkdir -p top/a/b; echo text > top/a/b/f; echo text > top/g");
  watcher_->add(dir_ / "top", recursive());
  rebuilt_tree tree;
  tree.files = rebuilt_tree::look_at(dir_ / "top");
  shell("rm -r top");
  ASSERT_TRUE(wait_until([&] { return has_seen(change_kind::removed, dir_ / "top"); }));
  for (const change_event& event : std::exchange(seen_, {}))
    tree.apply(event);
  EXPECT_TRUE(tree.files.empty());
  shell("mkdir -p top/c; echo text > top/c/f");
  ASSERT_TRUE(wait_until([&] { return has_seen(change_kind::created, dir_ / "top/c/f"); }));
  EXPECT_TRUE(has_seen(change_kind::created, dir_ / "top"));
  EXPECT_TRUE(has_seen(change_kind::created, dir_ / "top/c"));
}

TEST_F(watcher_test, tells_two_watchers_of_the_same_folder) {
  watch_mark();
  watcher_->add(dir_.path());
  std::vector<change_event> others;
  {
    watcher other(io_);
    other.add(dir_.path());
    std::function<void()> go_on = [&] {
      other.next([&](std::error_code error, change_event event) {
        if (error) return;
        others.push_back(std::move(event));
        go_on();
      });
    };
    go_on();
    shell("echo text > f");
    EXPECT_EQ(told_with_writes("created f, modified f"), "created f, modified f");
    const std::size_t enough = support::notices_say_what_was_done ? 2 : 1;
    EXPECT_TRUE(wait_until([&] { return others.size() >= enough; }));
    other.close();
    ASSERT_TRUE(wait_until([&] { return true; }));
  }
  shell("echo more >> f");
  EXPECT_EQ(told(), "modified f") << "the end of the other's watch is not the end of this one";
  EXPECT_LE(others.size(), 2U);
  stop_listening();
}

TEST_F(watcher_test, misses_nothing_that_is_created_while_the_tree_is_being_added) {
  constexpr int folders = support::is_emulated ? 20 : 100;
  constexpr int files = support::is_emulated ? 20 : 100;
  // Some of it is there before; of that, nothing has to be told.
  shell("mkdir -p top/old/deep; echo text > top/old/f; echo text > top/old/deep/f");
  std::future<void> creator = std::async(std::launch::async, [&] {
    for (int i = 0; i < folders; ++i) {
      const fs::path folder =
          dir_ / "top" / (i % 2 == 0 ? "old/deep" : "new") / std::to_string(i) / "below";
      fs::create_directories(folder);
      for (int k = 0; k < files; ++k)
        write_file(folder / std::to_string(k), std::string(static_cast<std::size_t>(k), 'x'));
    }
  });
  rebuilt_tree tree;
  watcher_->add(dir_ / "top", recursive());
  tree.files = rebuilt_tree::look_at(dir_ / "top");
  const auto has_all = [&] {
    for (const change_event& event : std::exchange(seen_, {}))
      tree.apply(event);
    return tree.files.size() == 5 + 1 + folders * (2 + files);
  };
  EXPECT_TRUE(wait_until(has_all)) << tree.files.size();
  creator.get();
  // The last sizes may still be on the way.
  const auto now = rebuilt_tree::look_at(dir_ / "top");
  EXPECT_TRUE(wait_until([&] { return has_all() && tree.files == now; }));
  stop_listening();
}

TEST_F(watcher_test, tells_what_is_created_in_the_rest_of_a_tree_before_that_is_watched) {
  shell("mkdir -p top/old/deep; echo text > top/old/deep/f");
  watcher_->add(dir_ / "top", recursive());
  // Nobody has looked beyond the top yet, or only just.
  shell("echo text > top/old/deep/g");
  EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::created, dir_ / "top/old/deep/g"); }));
  EXPECT_FALSE(has_seen(change_kind::created, dir_ / "top/old"));
  stop_listening();
}

TEST_F(watcher_test, misses_nothing_that_goes_while_the_tree_is_being_added) {
  constexpr int folders = 50;
  constexpr int files = 20;
  for (int i = 0; i < folders; ++i) {
    fs::create_directories(dir_ / "top" / std::to_string(i) / "below");
    for (int k = 0; k < files; ++k)
      write_file(dir_ / "top" / std::to_string(i) / "below" / std::to_string(k), "text");
  }
  std::future<void> remover = std::async(std::launch::async, [&] {
    std::mt19937 random(1);
    for (int i = 0; i < folders; ++i)
      for (int k = 0; k < files; k += 2) {
        const fs::path from = dir_ / "top" / std::to_string(i) / "below";
        const fs::path to = dir_ / "top" / std::to_string(random() % folders) / "below";
        fs::remove(from / std::to_string(k));
        fs::rename(from / std::to_string(k + 1),
                   to / ("from-" + std::to_string(i) + "-" + std::to_string(k)));
      }
  });
  watcher_->add(dir_ / "top", recursive());
  rebuilt_tree tree;
  tree.files = rebuilt_tree::look_at(dir_ / "top");
  remover.get();
  const auto now = rebuilt_tree::look_at(dir_ / "top");
  EXPECT_TRUE(wait_until([&] {
    for (const change_event& event : std::exchange(seen_, {}))
      tree.apply(event);
    return tree.files == now;
  }));
  stop_listening();
}

// --- stores through mappings
// ------------------------------------------------------------------------------------------------

// --- gathering and polling
// ------------------------------------------------------------------------------------------------

TEST_F(watcher_test, makes_one_event_of_a_burst) {
  write_file(file_, "text");
  // Long enough for all of it to fall into one interval.
  watcher_->add(dir_.path(), coalescing(2s));
  // What is replaced before it was ever looked at is created, for all that is known.
  write_file(dir_ / "listed", "");
  ASSERT_TRUE(wait_until([&] { return has_seen(change_kind::created, dir_ / "listed"); }));
  seen_.clear();
  for (int i = 0; i < 5; ++i) {
    shell("echo more >> f");
    support::change_metadata(file_);
  }
  shell("echo new > g; mv g f; echo passing > h; rm h; echo last > l");
  ASSERT_TRUE(wait_until([&] { return has_seen(change_kind::created, dir_ / "l"); }));
  stop_listening();
  ASSERT_EQ(seen_.size(), 2U);
  EXPECT_EQ(seen_[0].path == file_ ? seen_[0].kind : seen_[1].kind, change_kind::replaced);
}

TEST_F(watched_file, makes_one_event_of_a_burst) {
  watcher_->add(file_, coalescing(2s));
  for (int i = 0; i < 5; ++i)
    shell("echo more >> f");
  shell("mv f g; rm g; echo new > f");
  ASSERT_TRUE(wait_until([&] { return !seen_.empty(); }));
  stop_listening();
  ASSERT_EQ(seen_.size(), 1U);
  EXPECT_EQ(seen_[0].kind, change_kind::replaced);
  EXPECT_EQ(seen_[0].size, 4U);
}

TEST_F(watcher_test, sees_foreign_mappings_by_polling) {
  write_file(file_, support::pattern(support::page()));
  support::foreign_mapping foreign(file_, support::page());
  if (!support::tells_cached_pages(file_)) GTEST_SKIP() << "no times of stores on this file system";
  watcher_->add(file_, polling(5ms));
  // The store that makes the page dirty moves the file's time.
  foreign.data()[0] = '!';
  EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::modified, file_); }));
  stop_listening();
}

// --- gaps
// ------------------------------------------------------------------------------------------------

void write_nine_files(const fs::path& folder) {
  for (int i = 1; i <= 9; ++i)
    write_file(folder / std::to_string(i), std::to_string(i) + "\n");
}

TEST_F(watcher_gap, of_the_watcher_is_told_once_and_made_up_for) {
  watcher_.emplace(io_, 4);
  shell("mkdir a");
  write_nine_files(dir_ / "a");
  watcher_->add(dir_.path(), recursive());
  ASSERT_NO_FATAL_FAILURE(wait_until_watched(dir_ / "a/9"));
  stop_listening();
  tree_.files = rebuilt_tree::look_at(dir_.path());
  shell("rm a/1; echo longer > a/2; : > a/3; mv a/4 a/five; mkdir b; echo x > b/y; mv a/5 b/z");
  write_nine_files(dir_ / "b");
  shell("echo new > n; mv n a/6");
  ASSERT_NO_FATAL_FAILURE(take_notices());
  expect_rebuilt(dir_.path());
  EXPECT_EQ(overflows(), 1);
  // From here on it tells everything again.
  shell("mv a/7 a/seven");
  EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::renamed, dir_ / "a/seven"); }));
  EXPECT_EQ(overflows(), 1);
  stop_listening();
}

TEST_F(watcher_gap, that_nobody_reads_keeps_no_loop_busy) {
  watcher_.emplace(io_, 1);
  shell("mkdir a");
  watcher_->add(dir_.path(), recursive());
  watcher other(io_);
  other.add(mark_, missing());
  bool is_marked = false;
  other.next([&](std::error_code, const change_event&) { is_marked = true; });
  write_nine_files(dir_.path());
  shell("echo text > a/f");
  shell(support::watched_folders_can_be_removed ? "rm -r a" : "rm a/f");
  // As many times as it looks for more to do, then not at all.
  ASSERT_TRUE(support::eventually([&] { return io_.run_for(20ms) == 0; }));
  write_file(mark_, "");
  ASSERT_TRUE(support::run_until(io_, [&] { return is_marked; }));
  EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::created, dir_ / "9"); }));
  stop_listening();
}

TEST_F(watcher_gap, of_the_kernel_is_told_once_and_made_up_for) {
  shell("mkdir a; echo text > a/f; echo text > a/g; echo text > a/h");
  watcher_->add(dir_.path(), recursive());
  watcher_->add(dir_ / "a" / "g");
  ASSERT_NO_FATAL_FAILURE(wait_until_watched(dir_ / "a/f"));
  stop_listening();
  support::overflow_notices(dir_ / "a/f", dir_ / "a/g");
  tree_.files = rebuilt_tree::look_at(dir_.path());
  tree_.files[dir_ / "a/f"] = 0;
  shell("mv a/h a/i; rm a/g; mkdir -p b/c; echo text > b/c/d");
  expect_rebuilt(dir_.path());
  EXPECT_EQ(overflows(), 1);
  shell("mv b/c/d b/c/e");
  EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::renamed, dir_ / "b/c/e"); }));
  stop_listening();
}

// What goes before it was listed, the watcher has never seen; who applies the events has.

TEST_F(watcher_gap, before_a_folder_was_listed_hides_nothing_that_went) {
  shell("mkdir top");
  for (const char* name : {"cut", "gone", "kept", "moved", "new-again", "read", "replaced"})
    write_file(dir_ / "top" / name, "text\n");
  ASSERT_NO_FATAL_FAILURE(leave_no_room());
  watcher_->add(dir_ / "top");
  tree_.files = rebuilt_tree::look_at(dir_.path());
  shell("rm top/gone; mv top/moved top/name; echo more >> top/kept; : > top/cut; rm top/new-again; "
        "echo again > top/new-again; echo text > top/other; cp top/read top/passing; "
        "rm top/passing; echo text > top/over; mv top/over top/replaced; rm top/replaced");
  ASSERT_NO_FATAL_FAILURE(take_notices());
  expect_rebuilt(dir_.path());
  EXPECT_EQ(overflows(), 1);
  EXPECT_FALSE(has_seen(change_kind::created, dir_ / "top/kept")) << "it was there";
  EXPECT_FALSE(has_seen(change_kind::removed, dir_ / "top")) << "so was this";
  stop_listening();
}

TEST_F(watcher_gap, of_the_kernel_before_a_folder_was_listed_hides_nothing_that_went) {
  shell("mkdir top; echo text > top/gone; echo text > top/kept; echo text > top/moved");
  ASSERT_NO_FATAL_FAILURE(leave_no_room());
  watcher_->add(dir_ / "top");
  tree_.files = rebuilt_tree::look_at(dir_.path());
  support::overflow_notices(dir_ / "full", dir_ / "top/kept");
  shell("rm top/gone; mv top/moved top/name");
  expect_rebuilt(dir_.path());
  EXPECT_EQ(overflows(), 1);
  stop_listening();
}

TEST_F(watcher_gap, hides_no_bytes_that_were_there_when_new_metadata_was_told) {
  for (const bool is_by_itself : {false, true}) {
    SCOPED_TRACE(is_by_itself);
    const fs::path file = dir_ / (is_by_itself ? "g" : "f");
    write_file(file, "text");
    watcher_.emplace(io_, 1);
    watcher_->add(is_by_itself ? file : dir_.path());
    ASSERT_NO_FATAL_FAILURE(wait_until_watched(file));
    stop_listening();
    tree_.files = {{file, fs::file_size(file)}};
    now_ = {{file, fs::file_size(file) + 5}};
    applied_ = 0;
    support::change_metadata(file);
    std::ofstream(file, std::ios::app) << "bytes";
    ASSERT_NO_FATAL_FAILURE(take_notices());
    EXPECT_TRUE(catches_up()) << differences();
    stop_listening();
    seen_.clear();
  }
}

TEST_F(watcher_gap, before_a_folder_was_listed_hides_no_content_of_one_in_its_place) {
  shell("mkdir -p top/sub; mkdir old; mkdir -p other/deep; echo text > top/gone; "
        "echo text > top/sub/gone; echo text > other/f; echo text > other/deep/f");
  ASSERT_NO_FATAL_FAILURE(leave_no_room());
  watcher_->add(dir_ / "top", recursive());
  tree_.files = rebuilt_tree::look_at(dir_.path());
  shell("rm top/gone; mv top old/top; mv other top");
  now_ = rebuilt_tree::look_at(dir_.path());
  const auto leave_what_is_watched = [&](std::map<fs::path, std::uint64_t>& files) {
    std::erase_if(files, [&](const auto& f) {
      const fs::path name = *f.first.lexically_relative(dir_.path()).begin();
      return name != "top" && name != "full";
    });
  };
  leave_what_is_watched(tree_.files);
  leave_what_is_watched(now_);
  EXPECT_TRUE(catches_up()) << differences();
  stop_listening();
}

TEST_F(watcher_gap, before_a_tree_was_listed_hides_what_was_in_no_folder_of_it) {
  shell("mkdir -p top/a; mkdir top/b; mkdir other; echo text > top/a/f; echo text > top/b/f; "
        ": > other/g");
  watcher_.emplace(io_, 1);
  watcher_->add(dir_ / "top");
  ASSERT_NO_FATAL_FAILURE(wait_until_watched(dir_ / "top/f"));
  stop_listening();
  shell("echo text > top/full; : > top/more");
  ASSERT_NO_FATAL_FAILURE(take_notices());
  watcher_->add(dir_ / "top", recursive());
  tree_.files = rebuilt_tree::look_at(dir_ / "top");
  shell("rm -r top/a; echo text > top/a; rm -r top/b; mv other top/b");
  expect_rebuilt(dir_ / "top");
  stop_listening();
}

TEST_F(watcher_gap, of_more_names_than_are_kept_hides_nothing_that_went) {
  constexpr int too_many = support::is_emulated ? 4200 : 5000;
  shell("mkdir top; echo text > top/kept");
  for (int i = 0; i < too_many; ++i)
    write_file(dir_ / "top" / std::to_string(i), "");
  ASSERT_NO_FATAL_FAILURE(leave_no_room());
  watcher_->add(dir_ / "top");
  tree_.files = rebuilt_tree::look_at(dir_.path());
  for (int i = 0; i < too_many; ++i)
    fs::remove(dir_ / "top" / std::to_string(i));
  ASSERT_NO_FATAL_FAILURE(take_notices());
  expect_rebuilt(dir_.path());
  stop_listening();
}

TEST_F(watcher_gap, leaves_alone_what_did_not_change_before_it_was_listed) {
  shell("mkdir -p top/sub; echo text > top/sub/f; echo text > top/g");
  ASSERT_NO_FATAL_FAILURE(leave_no_room());
  watcher_->add(dir_ / "top", recursive());
  tree_.files = rebuilt_tree::look_at(dir_.path());
  support::overflow_notices(dir_ / "full", dir_ / "top/g");
  shell("echo more >> top/sub/f");
  expect_rebuilt(dir_.path());
  EXPECT_TRUE(has_seen(change_kind::modified, dir_ / "top/sub/f"));
  EXPECT_FALSE(has_seen(change_kind::created, dir_ / "top/g"));
  EXPECT_FALSE(has_seen(change_kind::created, dir_ / "top/sub"));
  stop_listening();
}

TEST_F(watcher_gap, before_the_rest_of_a_tree_is_watched_hides_nothing_that_went) {
  shell("mkdir -p top/sub/deep top/still");
  for (const char* folder : {"top/sub", "top/sub/deep", "top/still"}) {
    write_file(dir_ / folder / "f", "text\n");
    write_file(dir_ / folder / "g", "text\n");
  }
  ASSERT_NO_FATAL_FAILURE(leave_no_room());
  watcher_->add(dir_ / "top", recursive());
  tree_.files = rebuilt_tree::look_at(dir_.path());
  shell("rm top/sub/deep/f; mv top/sub/g top/sub/h; echo more >> top/still/f");
  expect_rebuilt(dir_.path());
  EXPECT_TRUE(has_seen(change_kind::modified, dir_ / "top/still/f"));
  EXPECT_FALSE(has_seen(change_kind::created, dir_ / "top/still")) << "all of it was still there";
  // What is told of it anew is watched as before.
  seen_.clear();
  applied_ = 0;
  shell("mv top/sub/deep/g top/sub/deep/h");
  EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::renamed, dir_ / "top/sub/deep/h"); }));
  stop_listening();
}

TEST_F(watcher_gap, is_none_when_what_is_gathered_went_before_it_was_listed) {
  shell("mkdir top; echo text > top/gone; echo text > top/kept");
  ASSERT_NO_FATAL_FAILURE(leave_no_room());
  watcher_->add(dir_ / "top", coalescing(1ms));
  tree_.files = rebuilt_tree::look_at(dir_.path());
  shell("rm top/gone; echo more >> top/kept; echo text > top/new");
  ASSERT_NO_FATAL_FAILURE(take_notices());
  expect_rebuilt(dir_.path());
  EXPECT_EQ(overflows(), 0);
  EXPECT_FALSE(has_seen(change_kind::created, dir_ / "top/kept")) << "it was there";
  stop_listening();
}

// Added again in a gap, or while what happens is gathered: who looks at it then may find what
// nobody was told of, and nobody is going to.
TEST_F(watcher_gap, when_a_tree_is_added_again_hides_nothing_that_went) {
  for (const auto coalesce : {0ms, 1000ms}) {
    SCOPED_TRACE(coalesce.count());
    // A name of its own: where a watched folder is kept until nobody has it open, so is its name.
    const std::string top = coalesce == 0ms ? "top" : "gathered";
    shell("mkdir -p " + top + "/sub; : > " + top + "/f");
    watch_options options = recursive();
    watcher_.emplace(io_, coalesce == 0ms ? 1 : 100);
    watcher_->add(dir_ / top, options);
    ASSERT_NO_FATAL_FAILURE(wait_until_watched(dir_ / top / "f"));
    stop_listening();
    options.coalesce = coalesce;
    if (coalesce != 0ms) watcher_->add(dir_ / top, options);
    support::run_commands(dir_ / top, "echo more >> f; : > a; : > b; : > sub/c");
    ASSERT_NO_FATAL_FAILURE(take_notices());
    watcher_->add(dir_ / top, options);
    tree_.files = rebuilt_tree::look_at(dir_ / top);
    applied_ = 0;
    support::run_commands(dir_ / top, "rm b sub/c");
    expect_rebuilt(dir_ / top);
    EXPECT_EQ(overflows(), coalesce == 0ms ? 1 : 0);
    stop_listening();
    seen_.clear();
  }
}

TEST_F(watcher_behind, tells_sizes_of_files_that_had_one_name_after_another) {
  ASSERT_NO_FATAL_FAILURE(watch_tree());
  shell("echo some text > t; mv t a; echo text > t; mv t b; echo x > t");
  ASSERT_NO_FATAL_FAILURE(expect_right_state());
}

TEST_F(watcher_behind, watches_folders_that_had_one_name_after_another) {
  ASSERT_NO_FATAL_FAILURE(watch_tree());
  // More than is read at once, so that the first folder is listed before its new name is known.
  shell("mkdir t; echo text > t/f");
  for (int i = 0; i < 3000; ++i)
    write_file(dir_ / std::to_string(i), "");
  shell("mv t a; mkdir t; echo x > t/g");
  ASSERT_NO_FATAL_FAILURE(expect_right_state());
  shell("echo more > a/h; echo more > t/h");
  EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::created, dir_ / "a/h"); }));
  EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::created, dir_ / "t/h"); }));
  stop_listening();
}

// --- whatever is done to a tree
// ------------------------------------------------------------------------------------------------

/// Changes a tree at random. There are few names, so that what a look finds is often not what the
/// notice was about.
class random_changes {
 public:
  random_changes(const fs::path& top, const fs::path& outside, unsigned seed)
      : top_(top), outside_(outside), random_(seed) {}

  void make(int count) {
    for (int i = 0; i < count; ++i) {
      make_one();
      // Now and then the watcher keeps up.
      if (random_() % 8 == 0)
        std::this_thread::sleep_for(std::chrono::microseconds(random_() % 2000));
    }
  }

 private:
  // Most of them fail, one way or another.
  void make_one() {
    const fs::path here = some_folder();
    const fs::path there = some_folder();
    const fs::path file = here / some_name("fghab");
    const fs::path folder = here / some_name("abcd");
    std::error_code ignored;
    switch (random_() % 20) {
    case 0:
      if (can_be_removed(file)) fs::remove(file, ignored);
      return;
    case 1:
      fs::rename(file, there / some_name("fghab"), ignored);
      return;
    case 2:
      fs::resize_file(file, random_() % 5, ignored);
      return;
    case 3:
    case 4:
      fs::create_directory(folder, ignored);
      return;
    case 5:
      fs::rename(folder, there / some_name("abcd"), ignored);
      return;
    case 6:
      if (fs::is_directory(folder, ignored) && can_be_removed(folder)) fs::remove(folder, ignored);
      return;
    case 7:
      if (random_() % 3 == 0 && can_be_removed(folder)) fs::remove_all(folder, ignored);
      return;
    case 8:
      fs::rename(folder, outside_ / some_name("abcd"), ignored);
      return;
    case 9:
      fs::rename(outside_ / some_name("abcd"), folder, ignored);
      return;
    case 10:
      fs::rename(outside_ / some_name("fghab"), file, ignored);
      return;
    case 11:
      fs::rename(file, outside_ / some_name("fghab"), ignored);
      return;
    case 12:
      static_cast<void>(support::exchange(file, there / some_name("fghab")));
      return;
    case 13:
      write_file(here / "new", std::string(random_() % 9, 'x'));
      fs::rename(here / "new", file, ignored);
      return;
    case 14: {
      const fs::path other = here / some_name("abcd");
      fs::create_directory(folder, ignored);
      fs::create_directory(other, ignored);
      fs::rename(folder, there / some_name("abcd"), ignored);
      fs::rename(other, folder, ignored);
      return;
    }
    case 15:
      if (fs::exists(file, ignored)) support::change_metadata(file);
      return;
    default:
      std::ofstream(file, std::ios::app) << std::string(1 + random_() % 9, 'x');
    }
  }
  fs::path some_folder() {
    fs::path folder = top_;
    for (auto depth = random_() % 4; depth > 0; --depth) {
      const fs::path below = folder / some_name("abcd");
      std::error_code ignored;
      if (!fs::is_directory(below, ignored)) break;
      folder = below;
    }
    return folder;
  }
  static bool can_be_removed(const fs::path& path) {
    std::error_code ignored;
    return support::watched_folders_can_be_removed || !fs::is_directory(path, ignored);
  }
  std::string some_name(const std::string& letters) {
    return {letters[random_() % letters.size()]};
  }
  const fs::path top_;
  const fs::path outside_;
  std::mt19937 random_;
};

class watched_tree : public watcher_gap {
 protected:
  /// Rebuilds a tree from what is told while another thread changes it, again and again; also the
  /// one with which it exchanges files and folders, if both are watched.
  void rebuild(std::size_t capacity, std::chrono::milliseconds coalesce,
               bool watches_both = false) {
    constexpr unsigned rounds = support::under_asan || support::under_tsan ? 8
                                : support::is_emulated                     ? 1
                                                                           : 30;
    for (unsigned round = 1; round <= rounds && !HasFailure(); ++round) {
      SCOPED_TRACE(round);
      const support::temp_dir dir;
      const fs::path top = dir / "top";
      const fs::path outside = dir / "outside";
      fs::create_directories(top);
      fs::create_directories(outside);
      random_changes(top, outside, 2 * round).make(60);

      watcher_.emplace(io_, capacity);
      watch_options options = recursive();
      options.coalesce = coalesce;
      std::vector<fs::path> watched{top};
      if (watches_both) watched.push_back(outside);
      for (const fs::path& root : watched)
        watcher_->add(root, options);
      tree_.files = look_at_all(watched);
      std::future<void> changer = std::async(std::launch::async, [&] {
        random_changes(top, outside, 2 * round + 1).make(300);
        write_file(top / "over", "");
      });
      EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::created, top / "over"); }));
      changer.get();
      now_ = look_at_all(watched);
      EXPECT_TRUE(catches_up()) << differences();
      // Every folder in it is watched, and every file.
      for (const auto& [path, size] : now_)
        std::ofstream(fs::is_directory(path) ? path / "last" : path, std::ios::app) << "last";
      now_ = look_at_all(watched);
      EXPECT_TRUE(catches_up()) << differences();
      stop_listening();
      seen_.clear();
      applied_ = 0;
    }
  }

 private:
  static std::map<fs::path, std::uint64_t> look_at_all(const std::vector<fs::path>& roots) {
    std::map<fs::path, std::uint64_t> all;
    for (const fs::path& root : roots)
      all.merge(rebuilt_tree::look_at(root));
    return all;
  }
};

TEST_F(watched_tree, is_rebuilt_from_events_whatever_is_done_to_it) {
  rebuild(4096, 0ms);
}

TEST_F(watched_tree, is_rebuilt_from_events_that_are_gathered) {
  rebuild(4096, 5ms);
}

TEST_F(watched_tree, is_rebuilt_after_many_gaps) {
  rebuild(4, 0ms);
}

TEST_F(watched_tree, is_rebuilt_with_another_one) {
  rebuild(4096, 0ms, true);
}

TEST_F(watched_tree, is_rebuilt_with_another_one_from_events_that_are_gathered) {
  rebuild(4096, 5ms, true);
}

TEST_F(watched_tree, is_rebuilt_with_another_one_after_many_gaps) {
  rebuild(4, 0ms, true);
}

TEST_F(watcher_storm, leaves_nothing_untold) {
  storm(storm_size(support::is_emulated ? 1'000 : support::as_often_as(60'000)));
}

// --- next() and its end
// ------------------------------------------------------------------------------------------------

TEST_F(watched_file, lets_the_context_end_when_nobody_waits) {
  EXPECT_TRUE(support::run_to_end(io_));
  shell("echo more >> f");
  EXPECT_EQ(told(), "modified f") << "what happened meanwhile is told";
  stop_listening();
  EXPECT_TRUE(support::run_to_end(io_));
}

TEST_F(watched_file, loses_no_event_by_a_cancelled_next) {
  asio::cancellation_signal signal;
  std::error_code first;
  watcher_->next(asio::bind_cancellation_slot(
      signal.slot(), [&](std::error_code error, const change_event&) { first = error; }));
  signal.emit(asio::cancellation_type::total);
  ASSERT_TRUE(support::run_to_end(io_));
  EXPECT_EQ(first, asio::error::operation_aborted);
  shell("echo more >> f");
  EXPECT_EQ(told(), "modified f");
}

TEST_F(watched_file, refuses_a_second_next) {
  int calls = 0;
  std::error_code first;
  std::error_code second;
  watcher_->next([&](std::error_code error, const change_event&) {
    ++calls;
    first = error;
  });
  watcher_->next([&](std::error_code error, const change_event&) {
    ++calls;
    second = error;
  });
  ASSERT_TRUE(support::run_until(io_, [&] { return calls == 1; }));
  EXPECT_EQ(second, std::errc::operation_in_progress);
  shell("echo more >> f");
  ASSERT_TRUE(support::run_until(io_, [&] { return calls == 2; }));
  EXPECT_FALSE(first);
}

TEST_F(watched_file, ends_next_when_it_is_closed) {
  listen();
  asio::post(io_, [&] { watcher_->close(); });
  ASSERT_TRUE(support::run_to_end(io_));
  EXPECT_EQ(error_, asio::error::operation_aborted);
  EXPECT_EQ(support::code_of([&] { watcher_->add(file_); }), errc::not_open);
  listen();
  ASSERT_TRUE(support::run_to_end(io_));
  EXPECT_EQ(error_, errc::not_open);
}

TEST_F(watched_file, is_told_of_with_any_token_and_on_any_context) {
  asio::thread_pool pool(2);
  watcher changes(pool.get_executor());
  changes.add(file_);
  std::future<change_event> event = changes.next(asio::use_future);
  shell("echo more >> f");
  ASSERT_EQ(event.wait_for(support::patience), std::future_status::ready);
  EXPECT_EQ(event.get().path, file_);
  watcher moved(std::move(changes));
  event = moved.next(asio::use_future);
  moved.close();
  ASSERT_EQ(event.wait_for(support::patience), std::future_status::ready);
  EXPECT_EQ(support::code_of([&] { event.get(); }), asio::error::operation_aborted);
  EXPECT_EQ(support::code_of([&] { changes.add(file_); }), errc::not_open);
}

TEST_F(watcher_test, may_go_before_and_after_its_context_while_events_flow) {
  std::atomic<bool> is_over{false};
  std::thread writer([&] {
    for (int i = 0; !is_over; ++i) {
      fs::create_directories(dir_ / std::to_string(i % 10) / "d");
      write_file(dir_ / std::to_string(i % 10) / "d" / "f", "text");
      std::error_code ignored;
      fs::remove_all(dir_ / std::to_string((i + 5) % 10), ignored);
    }
  });
  constexpr int rounds = support::is_emulated ? 12 : 30;
  for (int i = 0; i < rounds; ++i) {
    auto io = std::make_unique<asio::io_context>();
    auto changes = std::make_unique<watcher>(*io, 16);
    auto second = std::make_unique<watcher>(*io, 16);
    mapped_file file(*io);
    write_file(mark_, "text");
    file.open(mark_, [](std::error_code) {});
    changes->add(dir_.path(), recursive());
    second->add(dir_.path(), recursive());
    int events = 0;
    std::function<void()> go_on = [&] {
      changes->next([&](std::error_code error, const change_event&) {
        if (!error && ++events < 20) go_on();
      });
    };
    go_on();
    second->next([](std::error_code, const change_event&) {});
    io->run_for(i % 2 == 0 ? 20ms : 1ms);
    if (file.is_open()) {
      auto own = file.watch();
      own.next([](std::error_code, const change_event&) {});
      io->poll();
    }
    switch (i % 3) {
    case 0:
      changes.reset();
      io.reset();
      second.reset();
      break;
    case 1:
      io.reset();
      second.reset();
      changes.reset();
      break;
    default:
      second->close();
      second.reset();
      io->poll();
      file.cancel();
      changes.reset();
      io.reset();
    }
  }
  is_over = true;
  writer.join();
}

TEST(change_event_test, is_printed_in_one_line) {
  const auto print = [](const change_event& event) {
    std::ostringstream out;
    out << event;
    return out.str();
  };
  EXPECT_EQ(print({change_kind::overflow, {}, {}, {}}), "overflow");
  EXPECT_EQ(print({change_kind::truncated, "a/b", {}, 5}), "truncated a/b (5 bytes)");
  EXPECT_EQ(print({change_kind::renamed, "a/new", "a/old", {}}), "renamed a/old -> a/new");
  EXPECT_EQ(print({change_kind::modified, "f", {}, {}}), "modified f");
  EXPECT_EQ(print({change_kind::metadata, "f", {}, {}}), "metadata f");
  EXPECT_EQ(print({change_kind::created, "f", {}, {}}), "created f");
  EXPECT_EQ(print({change_kind::removed, "f", {}, {}}), "removed f");
  EXPECT_EQ(print({change_kind::replaced, "f", {}, {}}), "replaced f");
}

}  // namespace
