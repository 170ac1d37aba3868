// What of watcher_edges_test.cpp is about Linux.

#include <mapio/watcher.hpp>

#include "linux/linux_support.hpp"
#include "watcher_fixture.hpp"

#include <mapio/mapped_file.hpp>

#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

namespace {

using namespace watching;
using mapio::mapped_file;

TEST_F(watcher_edges, follow_links_that_lead_nowhere_for_a_while) {
  shell("ln -s b a; ln -s a b; echo text > f");
  EXPECT_EQ(support::code_of([&] { changes_.add(dir_ / "a"); }),
            std::errc::too_many_symbolic_link_levels);
  changes_.add(file_);
  shell("rm f; ln -s a f");
  EXPECT_TRUE(all_.wait_for(change_kind::removed, file_));
  shell("rm b; echo text > b");
  EXPECT_TRUE(all_.wait_for(change_kind::created, file_));
  shell("echo more >> b");
  EXPECT_TRUE(all_.wait_for(change_kind::modified, file_));
}

TEST_F(watcher_edges, tell_that_a_folder_is_gone_where_its_name_leads_to_a_file) {
  shell("mkdir d; echo text > d/x; echo text > file; ln -s d link; ln -s file new");
  changes_.add(dir_ / "link", recursive());
  shell("mv -T new link");
  EXPECT_TRUE(all_.wait_for(change_kind::created, dir_ / "link"));
  ASSERT_EQ(all_.seen.size(), 2U);
  EXPECT_EQ(all_.seen[0].kind, change_kind::removed) << "with all that was in it";
  shell("ln -s d new; mv -T new link");
  EXPECT_TRUE(all_.wait_for(change_kind::created, dir_ / "link" / "x"));
}

// --- two that are exchanged
// ------------------------------------------------------------------------------------------------

TEST_F(watcher_edges, go_on_telling_of_what_is_exchanged) {
  shell("mkdir other; echo old > f; echo newer > g; echo 'other one' > other/h");
  changes_.add(file_);
  const auto expect_to_know = [&](const fs::path& a, const fs::path& b) {
    if (!support::exchange(a, b)) GTEST_SKIP() << "this file system exchanges nothing";
    std::ofstream(file_, std::ios::app) << "more\n";
    const std::uint64_t size = fs::file_size(file_);
    EXPECT_TRUE(all_.wait_until([&] {
      return !all_.seen.empty() && all_.seen.back().path == file_ && all_.seen.back().size == size;
    })) << a
        << ' ' << b;
    take_notices(io_);
    std::ofstream(file_, std::ios::app) << "and more\n";
    EXPECT_TRUE(all_.wait_until([&] {
      return all_.seen.back().path == file_ && all_.seen.back().size == size + 9;
    })) << a
        << ' ' << b;
  };
  expect_to_know(file_, dir_ / "g");
  expect_to_know(dir_ / "g", file_);
  expect_to_know(file_, dir_ / "other" / "h");
  expect_to_know(dir_ / "other" / "h", file_);
}

TEST_F(watcher_edges, go_on_telling_of_trees_that_are_exchanged) {
  shell("mkdir a b other; echo text > a/x; echo text > b/y; echo text > b/x; echo text > other/z");
  changes_.add(dir_ / "a", recursive());
  changes_.add(dir_ / "b", recursive());
  rebuilt_tree model;
  const auto look = [&] {
    auto files = rebuilt_tree::look_at(dir_ / "a");
    files.merge(rebuilt_tree::look_at(dir_ / "b"));
    return files;
  };
  model.files = look();
  int mark = 0;
  for (const auto& [one, two] : {std::pair{"a", "b"}, {"b", "a"}, {"a", "other"}, {"other", "a"}}) {
    if (!support::exchange(dir_ / one, dir_ / two))
      GTEST_SKIP() << "this file system exchanges nothing";
    const fs::path in_a = dir_ / "a" / ("new" + std::to_string(++mark));
    write_file(in_a, "some text");
    write_file(dir_ / "b" / in_a.filename(), "some text");
    const auto now = look();
    EXPECT_TRUE(all_.wait_until([&] {
      for (const change_event& event : std::exchange(all_.seen, {}))
        model.apply(event);
      // Where it was moved to nothing is watched.
      std::erase_if(model.files, [&](const auto& file) {
        return file.first.native().starts_with((dir_ / "other").native());
      });
      return model.files == now;
    })) << one
        << ' ' << two;
  }
}

void wait_until_listed(listener& all, const fs::path& folder) {
  write_file(folder / "listed", "");
  ASSERT_TRUE(all.wait_for(change_kind::created, folder / "listed"));
}

/// Waits until these folders have been listed and nothing is left to be told of `root`; what is in
/// it then is what a consumer knows.
rebuilt_tree known_tree(listener& all, asio::io_context& io, const fs::path& root,
                        std::initializer_list<fs::path> folders) {
  for (const fs::path& folder : folders)
    wait_until_listed(all, folder);
  take_notices(io);
  rebuilt_tree known;
  known.files = rebuilt_tree::look_at(root);
  all.seen.clear();
  return known;
}

// What was in it goes with it, and may have gone before anybody looks at it there.
TEST_F(watcher_edges, tell_what_is_left_of_a_tree_that_takes_the_place_of_another_one) {
  for (const char* const place : {"b", "c/a"}) {
    SCOPED_TRACE(place);
    shell("rm -rf a b c; mkdir -p a/s b c; echo text > a/gone; echo text > a/s/gone; echo text > "
          "a/s/kept");
    asio::io_context io;
    watcher changes(io);
    listener all(io, changes);
    for (const char* const root : {"a", "b", "c"})
      changes.add(dir_ / root, recursive());
    rebuilt_tree model = known_tree(all, io, dir_.path(), {dir_ / "a"});
    ASSERT_FALSE(HasFailure());
    fs::rename(dir_ / "a", dir_ / place);
    fs::remove(dir_ / place / "gone");
    fs::remove(dir_ / place / "s" / "gone");
    EXPECT_TRUE(is_rebuilt(model, all, dir_.path()));
  }
}

TEST_F(watcher_edges, follow_a_tree_in_another_one_to_its_new_name) {
  shell("mkdir -p a/x/s; echo text > a/x/s/f");
  changes_.add(dir_ / "a", recursive());
  changes_.add(dir_ / "a/x", recursive());
  rebuilt_tree model = known_tree(all_, io_, dir_.path(), {dir_ / "a", dir_ / "a/x"});
  ASSERT_FALSE(HasFailure());
  shell("mv a/x a/w; mkdir a/x; echo other > a/x/g");
  EXPECT_TRUE(is_rebuilt(model, all_, dir_.path()));
}

// The notices say that what came to a name went from there again; what went is what had been there.
TEST_F(watcher_edges, gather_what_is_exchanged_with_something_new) {
  shell("mkdir -p b/x; echo text > b/x/z");
  watch_options options = recursive();
  options.coalesce = std::chrono::milliseconds(20);
  changes_.add(dir_ / "b", options);
  // Who does not gather has what is there looked at with every notice.
  watcher other(io_);
  other.add(dir_ / "b", recursive());
  rebuilt_tree model = known_tree(all_, io_, dir_ / "b", {dir_ / "b", dir_ / "b/x"});
  ASSERT_FALSE(HasFailure());
  shell("mkdir b/z");
  if (!support::exchange(dir_ / "b/z", dir_ / "b/x/z"))
    GTEST_SKIP() << "this file system exchanges nothing";
  EXPECT_TRUE(is_rebuilt(model, all_, dir_ / "b"));
}

// The folder around it tells that the name went, when the tree has been told already.
TEST_F(watcher_edges, tell_a_tree_anew_that_went_with_what_another_root_told) {
  shell("mkdir -p a/x other/t; echo text > other/t/f");
  changes_.add(dir_ / "a");
  changes_.add(dir_ / "a/x", recursive());
  rebuilt_tree model = known_tree(all_, io_, dir_ / "a", {dir_ / "a", dir_ / "a/x"});
  ASSERT_FALSE(HasFailure());
  if (!support::exchange(dir_ / "other/t", dir_ / "a/x"))
    GTEST_SKIP() << "this file system exchanges nothing";
  // Of that which took the name, and later of that which lost it.
  ASSERT_TRUE(all_.wait_for(change_kind::removed, dir_ / "a/x"));
  EXPECT_TRUE(is_rebuilt(model, all_, dir_ / "a"));
}

// A root follows the link, and finds nothing; the folder around it has the link itself.
TEST_F(watcher_edges, tell_of_a_link_to_nowhere_that_is_a_root_by_itself) {
  shell("mkdir a; echo text > a/x");
  changes_.add(dir_ / "a");
  changes_.add(dir_ / "a/x", watching::missing());
  ASSERT_NO_FATAL_FAILURE(wait_until_listed(all_, dir_ / "a"));
  take_notices(io_);
  rebuilt_tree model;
  all_.seen.clear();
  shell("ln -s nowhere link; mv -T link a/x; echo text > a/mark");
  EXPECT_TRUE(all_.wait_until([&] {
    for (const change_event& event : std::exchange(all_.seen, {}))
      model.apply(event);
    return model.files.contains(dir_ / "a/mark") && model.files.contains(dir_ / "a/x");
  }));
}

// What was told of it by another root is told anew.
TEST_F(watcher_edges, tell_of_a_folder_that_takes_another_root_with_it) {
  shell("mkdir -p a/x/y b; echo text > a/x/y/gone; echo text > a/x/y/kept");
  changes_.add(dir_ / "a");
  changes_.add(dir_ / "a/x/y", recursive());
  changes_.add(dir_ / "b", recursive());
  rebuilt_tree model = known_tree(all_, io_, dir_.path(), {dir_ / "a", dir_ / "a/x/y", dir_ / "b"});
  ASSERT_FALSE(HasFailure());
  shell("mv a/x b/x; rm b/x/y/gone");
  EXPECT_TRUE(is_rebuilt(model, all_, dir_.path()));
}

// Told by one of them as a rename, it has its content; told by another one to be gone, it has none.
TEST_F(watcher_edges, tell_of_a_folder_that_goes_from_one_of_three_roots_to_another) {
  shell("mkdir -p t/b/a/c t/a; echo text > t/b/a/f");
  changes_.add(dir_ / "t/a");
  ASSERT_NO_FATAL_FAILURE(wait_until_listed(all_, dir_ / "t/a"));
  changes_.add(dir_ / "t", recursive());
  changes_.add(dir_ / "t/b", recursive());
  rebuilt_tree model = known_tree(all_, io_, dir_ / "t", {dir_ / "t", dir_ / "t/b", dir_ / "t/a"});
  ASSERT_FALSE(HasFailure());
  fs::rename(dir_ / "t/b/a", dir_ / "t/a/b");
  EXPECT_TRUE(is_rebuilt(model, all_, dir_ / "t"));
}

TEST_F(watcher_edges, tell_what_is_in_a_folder_that_came_from_a_root_that_is_removed) {
  shell("mkdir -p t u/x/sub; echo text > u/x/f; echo text > u/x/sub/g");
  changes_.add(dir_ / "t", recursive());
  changes_.add(dir_ / "u", recursive());
  rebuilt_tree model = known_tree(all_, io_, dir_ / "t", {dir_ / "t", dir_ / "u"});
  ASSERT_FALSE(HasFailure());
  all_.stop();
  shell("mv u/x t/x");
  take_notices(io_);
  changes_.remove(dir_ / "u");
  EXPECT_TRUE(is_rebuilt(model, all_, dir_ / "t"));
}

TEST_F(watcher_edges, tell_how_large_a_file_is_that_was_not_there_for_a_look) {
  shell("mkdir -p top/d");
  changes_.add(dir_ / "top", recursive());
  rebuilt_tree model = known_tree(all_, io_, dir_ / "top", {dir_ / "top", dir_ / "top/d"});
  ASSERT_FALSE(HasFailure());
  all_.stop();
  shell("echo text > top/d/h; mv top/d top/b; chmod 600 top/b/h");
  EXPECT_TRUE(is_rebuilt(model, all_, dir_ / "top"));
}

// What one root tells to be gone before it was listed, the other one must not tell to be gone when
// all of it has been told again.
TEST_F(watcher_edges, tell_what_comes_to_a_root_in_a_tree_that_is_not_listed_yet) {
  for (int round = 0; round < 10; ++round) {
    const fs::path top = dir_ / std::to_string(round);
    fs::create_directories(top / "a/b/c");
    write_file(top / "a/b/f", "text");
    for (int i = 0; i < 100; ++i)
      fs::create_directories(top / std::to_string(i) / "d");
    rebuilt_tree model;
    model.files = rebuilt_tree::look_at(top);
    watcher changes(io_);
    listener all(io_, changes);
    changes.add(top, recursive());
    changes.add(top / "a");
    write_file(top / "a/new", "new");
    EXPECT_TRUE(is_rebuilt(model, all, top));
  }
}

TEST_F(watcher_edges, that_gather_keep_no_more_renames_than_there_is_room_for) {
  constexpr std::size_t capacity = 16;
  shell("mkdir a; echo text > a/x");
  watcher changes(io_, capacity);
  listener all(io_, changes);
  watch_options options;
  options.coalesce = std::chrono::milliseconds(20);
  changes.add(dir_ / "a", options);
  ASSERT_NO_FATAL_FAILURE(wait_until_listed(all, dir_ / "a"));
  all.stop();
  for (int i = 0; i < 200; ++i) {
    fs::rename(dir_ / "a/x", dir_ / "a/y");
    fs::rename(dir_ / "a/y", dir_ / "a/x");
  }
  take_notices(io_);
  all.seen.clear();
  EXPECT_TRUE(all.wait_until([&] {
    return std::any_of(all.seen.begin(), all.seen.end(), [](const change_event& event) {
      return event.kind == change_kind::overflow;
    });
  }));
  EXPECT_LE(all.seen.size(), 2 * capacity);
}

// A loop that has told what it knows by itself must not rest with a look left to be made.
TEST_F(watcher_edges, find_out_what_was_exchanged_while_others_wait) {
  shell("mkdir d other quiet; echo text > d/x; echo other > other/h");
  changes_.add(dir_ / "d");
  watcher quiet(io_);
  quiet.add(dir_ / "quiet");
  listener waits(io_, quiet);
  waits.listen();
  const fs::path file = dir_ / "d" / "x";
  // Before the folder was listed, and later.
  for (int times = 0; times < 2; ++times) {
    if (!support::exchange(dir_ / "other" / "h", file))
      GTEST_SKIP() << "this file system exchanges nothing";
    EXPECT_TRUE(all_.wait_until([&] {
      return !all_.seen.empty() && all_.seen.back().kind == change_kind::created &&
             all_.has_seen(change_kind::removed, file);
    })) << times;
    all_.seen.clear();
  }
}

// --- where the OS does not tell
// ------------------------------------------------------------------------------------------------

TEST_F(watcher_edges, poll_a_file_system_in_a_tree_that_does_not_tell) {
  const auto end = support::in_fresh_process([&] {
    shell("mkdir -p top/s");
    const fs::path folder = dir_ / "top" / "s";
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("/sys/kernel/mm", folder.c_str(), nullptr, MS_BIND, nullptr) != 0)
      return;
    asio::io_context io;
    watcher changes(io);
    listener all(io, changes);
    changes.add(dir_ / "top", recursive());
    // Found on a worker.
    EXPECT_TRUE(all.wait_until([&] {
      write_file(dir_ / "top" / "f", "text");
      const auto reasons = changes.fallbacks();
      return std::any_of(reasons.begin(), reasons.end(), [&](const auto& fallback) {
        return fallback.path == folder && fallback.reason == errc::unsupported;
      });
    }));
    EXPECT_EQ(changes.fallbacks().size(), 1U) << "it speaks for what is in it";
  });
  EXPECT_TRUE(end.ok()) << end;
}

TEST_F(watcher_edges, let_go_of_a_folder_though_another_one_may_not_be_watched) {
  const auto end = support::in_fresh_process([&] {
    // What this process may watch is limited by its own rules then.
    const auto write_to = [](const char* path, const std::string& text) {
      std::ofstream out(path);
      out << text << std::flush;
      return static_cast<bool>(out);
    };
    const auto uid = std::to_string(::getuid());
    const auto gid = std::to_string(::getgid());
    if (::unshare(CLONE_NEWUSER) != 0) return;
    write_to("/proc/self/setgroups", "deny");
    if (!write_to("/proc/self/uid_map", "0 " + uid + " 1") ||
        !write_to("/proc/self/gid_map", "0 " + gid + " 1"))
      return;
    shell("mkdir a b; ln -s a link; ln -s b new");
    const fs::path link = dir_ / "link";
    asio::io_context io;
    watcher changes(io);
    listener all(io, changes);
    changes.add(link);
    write_file(dir_ / "a" / "x", "");
    ASSERT_TRUE(all.wait_for(change_kind::created, link / "x"));
    if (!write_to("/proc/sys/user/max_inotify_watches", "1")) return;
    shell("mv -T new link");
    ASSERT_TRUE(all.wait_for(change_kind::replaced, link));
    shell("echo > a/wrong; echo > b/right");
    EXPECT_TRUE(all.wait_for(change_kind::created, link / "right"));
    EXPECT_FALSE(all.has_seen(change_kind::created, link / "wrong"));
  });
  EXPECT_TRUE(end.ok()) << end;
}

// --- without sizes
// ------------------------------------------------------------------------------------------------

watch_options without_sizes() {
  watch_options options;
  options.sizes = false;
  return options;
}

/// Waits for the next event after what came before, which has to be of this kind and without a
/// size.
class watcher_without_sizes : public watcher_edges {
 protected:
  void expect_next(change_kind kind, const fs::path& path, std::optional<std::uint64_t> size = {}) {
    ASSERT_TRUE(all_.wait_until([&] { return !all_.seen.empty(); }));
    EXPECT_EQ(all_.seen.front().kind, kind) << all_.seen.front();
    EXPECT_EQ(all_.seen.front().path, path);
    EXPECT_EQ(all_.seen.front().size, size);
    all_.seen.erase(all_.seen.begin());
  }
};

TEST_F(watcher_without_sizes, tells_what_happened_in_a_folder) {
  changes_.add(dir_.path(), without_sizes());
  write_file(file_, "");
  expect_next(change_kind::created, file_, 0);
  shell("echo text >> f");
  expect_next(change_kind::modified, file_);
  shell("truncate -s 2 f");
  expect_next(change_kind::modified, file_);
  shell("mv f g");
  expect_next(change_kind::renamed, dir_ / "g", 2);
  // It was looked at for that, and is not what was known.
  expect_next(change_kind::modified, dir_ / "g", 2);
  shell("rm g");
  expect_next(change_kind::removed, dir_ / "g");
}

TEST_F(watcher_without_sizes, tells_what_happened_to_a_file) {
  write_file(file_, "some text");
  changes_.add(file_, without_sizes());
  shell("echo text >> f");
  expect_next(change_kind::modified, file_);
  shell("truncate -s 2 f");
  expect_next(change_kind::modified, file_);
  write_file(other_dir_ / "f", "another");
  shell("cp '" + (other_dir_ / "f").string() + "' new; mv new f");
  expect_next(change_kind::replaced, file_, 7);
  shell("echo text >> f");
  expect_next(change_kind::modified, file_);
  shell("rm f");
  expect_next(change_kind::removed, file_);
}

TEST_F(watcher_without_sizes, leaves_others_theirs) {
  write_file(file_, "some text");
  watcher with_sizes(io_);
  listener others(io_, with_sizes);
  changes_.add(file_, without_sizes());
  with_sizes.add(file_);
  shell("truncate -s 2 f");
  ASSERT_TRUE(others.wait_for(change_kind::truncated, file_));
  EXPECT_EQ(others.seen.front().size, 2U);
  ASSERT_TRUE(all_.wait_until([&] { return !all_.seen.empty(); }));
}

TEST_F(watcher_without_sizes, still_tells_a_mapped_file_its_own) {
  write_file(file_, "some text");
  mapped_file file(io_);
  support::run_coroutine(io_, [&]() -> asio::awaitable<void> {
    co_await file.open(file_, support::read_only());
    auto changes = file.watch(without_sizes());
    shell("truncate -s 2 f");
    EXPECT_EQ((co_await changes.next()).kind, change_kind::truncated);
    EXPECT_TRUE(file.size_is_stale());
  });
}

}  // namespace
