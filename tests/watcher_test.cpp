#include <mapio/watcher.hpp>

#include "support.hpp"
#include "watching_support.hpp"

#include <mapio/mapped_file.hpp>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_future.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using mapio::change_event;
using mapio::change_kind;
using mapio::errc;
using mapio::mapped_file;
using mapio::mapping;
using mapio::watch_options;
using mapio::watcher;
using support::coalescing;
using support::missing;
using support::polling;
using support::recursive;
using support::write_file;

/// What a consumer knows who was told the content of a folder once, and all events from then on.
class rebuilt_tree {
 public:
  static std::map<fs::path, std::uint64_t> look_at(const fs::path& root) {
    std::map<fs::path, std::uint64_t> files{{root, 0}};
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      std::error_code is_gone;
      const std::uint64_t size = entry.is_directory() ? 0 : entry.file_size(is_gone);
      if (!is_gone) files[entry.path()] = size;
    }
    return files;
  }

  void apply(const change_event& event) {
    switch (event.kind) {
    case change_kind::overflow:
      return;
    case change_kind::removed:
      remove(event.path);
      return;
    case change_kind::renamed: {
      std::map<fs::path, std::uint64_t> moved;
      for (const auto& [path, size] : files)
        if (is_in(path, event.previous_path)) {
          const fs::path rest = path.lexically_relative(event.previous_path);
          moved[rest == "." ? event.path : event.path / rest] = size;
        }
      remove(event.previous_path);
      remove(event.path);
      files.insert(moved.begin(), moved.end());
      files[event.path] = event.size.value_or(files[event.path]);
      return;
    }
    case change_kind::created:
    case change_kind::replaced:
      // A folder has none.
      files[event.path] = event.size.value_or(0);
      return;
    default:
      // The size of one that is gone already is not known; its removal follows.
      files[event.path] = event.size.value_or(files[event.path]);
    }
  }

  std::map<fs::path, std::uint64_t> files;

 private:
  static bool is_in(const fs::path& path, const fs::path& folder) {
    return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first ==
           folder.end();
  }
  void remove(const fs::path& path) {
    std::erase_if(files, [&](const auto& f) { return is_in(f.first, path); });
  }
};

class watcher_test : public testing::Test {
 protected:
  void shell(const std::string& command) { support::shell_in(dir_.path(), command); }

  /// Asks for one event after another.
  void listen() {
    if (listening_) return;
    listening_ = true;
    watcher_->next([this](std::error_code error, change_event event) {
      listening_ = false;
      if (error) {
        error_ = error;
        return;
      }
      seen_.push_back(std::move(event));
      if (!stopping_) listen();
    });
  }
  void stop_listening() {
    stopping_ = true;
    watcher_->cancel();
    EXPECT_TRUE(support::run_until(io_, [&] { return !listening_; }));
    stopping_ = false;
  }

  template <class Condition>
  bool wait_until(Condition condition) {
    listen();
    return support::run_until(io_, condition);
  }
  bool has_seen(change_kind kind, const fs::path& path) const {
    return std::any_of(seen_.begin(), seen_.end(), [&](const change_event& event) {
      return event.kind == kind && event.path == path;
    });
  }

  void watch_mark() {
    write_file(mark_, "");
    watcher_->add(mark_);
  }
  /// Waits for all events of what has happened by now: a mark that is watched by itself comes after
  /// them. Where all is polled it is the second one that does.
  void catch_up() {
    for (int marks = is_polled() ? 2 : 1; marks > 0; --marks) {
      const std::size_t before = seen_.size();
      std::ofstream(mark_, std::ios::app) << ".";
      EXPECT_TRUE(wait_until([&] {
        return std::any_of(seen_.begin() + static_cast<std::ptrdiff_t>(before), seen_.end(),
                           [&](const change_event& event) { return event.path == mark_; });
      }));
    }
    std::erase_if(seen_, [&](const change_event& event) { return event.path == mark_; });
  }
  bool is_polled() const {
    const auto fallbacks = watcher_->fallbacks();
    return std::any_of(fallbacks.begin(), fallbacks.end(), [&](const auto& fallback) {
      return fallback.path == mark_ && fallback.reason == errc::unsupported;
    });
  }
  /// Returns what was told since the last call, relative to the scratch folder and without sizes;
  /// the kernel makes one of equal ones in a row, or not.
  std::string told() {
    catch_up();
    std::string all;
    std::string last;
    for (const change_event& event : std::exchange(seen_, {})) {
      std::ostringstream line;
      line << event.kind;
      if (event.kind == change_kind::renamed)
        line << ' ' << event.previous_path.lexically_relative(dir_.path()).string() << " ->";
      line << ' ' << event.path.lexically_relative(dir_.path()).string();
      if (line.str() == last) continue;
      last = line.str();
      all += (all.empty() ? "" : ", ") + last;
    }
    return all;
  }
  /// The same, of a path that is looked at when it is there again: before there is anything in it,
  /// or not, in which case the bytes are no change of their own.
  std::string told_of(const std::string& creation) {
    const std::string all = told();
    const std::string path = creation.substr(creation.rfind(' '));
    return all == creation + ", modified" + path ? creation : all;
  }

  support::temp_dir dir_;
  support::temp_dir mark_dir_;
  const fs::path mark_ = mark_dir_ / "mark";
  const fs::path file_ = dir_ / "f";
  asio::io_context io_;
  std::optional<watcher> watcher_{std::in_place, io_};
  std::vector<change_event> seen_;
  std::error_code error_;
  bool listening_ = false;
  bool stopping_ = false;
};

class watched_file : public watcher_test {
 protected:
  void SetUp() override {
    write_file(file_, "some text\n");
    watch_mark();
    watcher_->add(file_);
  }
};

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

TEST_F(watched_file, is_replaced_by_sed_in_place) {
  shell("sed -i s/some/any/ f");
  EXPECT_EQ(told(), "replaced f");
  shell("sed -i s/any/some/ f");
  EXPECT_EQ(told(), "replaced f");
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
  shell("printf '%100d' 1 > other; cp other f");
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
  shell("chmod 644 f");
  EXPECT_EQ(told(), "metadata f");
}

TEST_F(watched_file, is_modified_through_another_name_of_it) {
  shell("mkdir sub; ln f sub/g");
  EXPECT_EQ(told(), "metadata f");
  shell("echo more >> sub/g");
  EXPECT_EQ(told(), "modified f");
  shell("rm sub/g");
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

TEST_F(watcher_test, follows_links_to_a_file) {
  watch_mark();
  shell("mkdir a b; echo text > a/f; ln -s ../a/f b/link");
  watcher_->add(dir_ / "b" / "link");
  shell("echo more >> a/f");
  EXPECT_EQ(told(), "modified b/link");
  shell("echo new > a/g; mv a/g a/f");
  EXPECT_EQ(told(), "replaced b/link");
  shell("echo more >> a/f");
  EXPECT_EQ(told(), "modified b/link");
  shell("echo third > a/h; ln -s ../a/h b/new; mv b/new b/link");
  EXPECT_EQ(told(), "replaced b/link");
  shell("rm a/h");
  EXPECT_EQ(told(), "removed b/link");
  shell("echo again > a/h");
  EXPECT_EQ(told_of("created b/link"), "created b/link");
}

TEST_F(watcher_test, follows_links_to_a_folder_on_the_way) {
  watch_mark();
  shell("mkdir v1 v2; echo one > v1/f; echo two > v2/f; ln -s v1 current");
  watcher_->add(dir_ / "current" / "f");
  shell("ln -s v2 new; mv -T new current");
  EXPECT_EQ(told(), "replaced current/f");
  shell("echo more >> v1/f");
  EXPECT_EQ(told(), "");
  shell("echo more >> v2/f");
  EXPECT_EQ(told(), "modified current/f");
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

TEST_F(watcher_test, follows_a_link_that_leads_to_its_own_folder) {
  watch_mark();
  shell("mkdir d; ln -s . d/l");
  watcher_->add(dir_ / "d" / "l");
  shell("mv d/l d/m");
  EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::renamed, dir_ / "d/m"); }));
  shell("mv d/m d/l");
  EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::created, dir_ / "d/l"); }));
  told();
  shell("rm d/l");
  EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::removed, dir_ / "d/l"); }));
}

TEST_F(watcher_test, keeps_the_path_that_it_was_given) {
  watch_mark();
  write_file(file_, "text");
  const fs::path before = fs::current_path();
  fs::current_path(dir_.path());
  watcher_->add("f");
  fs::current_path(before);
  shell("echo more >> f; mv f g");
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
  EXPECT_EQ(told(), "created f, modified f");
  shell("echo t > f; chmod 600 f; mv f g; mkdir d; rm g; rmdir d");
  EXPECT_EQ(told(), "modified f, metadata f, renamed f -> g, created d, removed g, removed d");
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
  EXPECT_EQ(told(), "created g, modified g, renamed g -> f, replaced f");
  shell("echo new > ../g-$$; mv ../g-$$ f");
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

TEST_F(watcher_test, tells_the_end_of_a_file_system_in_a_tree) {
  watch_mark();
  shell("mkdir top top/m");
  const fs::path place = dir_ / "top" / "m";
  if (::mount("tmpfs", place.c_str(), "tmpfs", 0, "size=1m") != 0)
    GTEST_SKIP() << "no file system can be mounted";
  write_file(place / "f", "text");
  watcher_->add(dir_ / "top", recursive());
  // It is listed by then.
  EXPECT_TRUE(wait_until([&] {
    write_file(place / "f", "other");
    return has_seen(change_kind::modified, place / "f");
  }));
  ASSERT_EQ(::umount(place.c_str()), 0);
  EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::removed, place); }));
  EXPECT_TRUE(wait_until([&] {
    write_file(place / "under", "text");
    return has_seen(change_kind::modified, place / "under");
  }));
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
    EXPECT_EQ(told(), "created f, modified f");
    EXPECT_TRUE(wait_until([&] { return others.size() == 2; }));
    other.close();
    ASSERT_TRUE(wait_until([&] { return true; }));
  }
  shell("echo more >> f");
  EXPECT_EQ(told(), "modified f") << "the end of the other's watch is not the end of this one";
  EXPECT_EQ(others.size(), 2U);
  stop_listening();
}

TEST_F(watcher_test, misses_nothing_that_is_created_while_the_tree_is_being_added) {
  constexpr int folders = 100;
  constexpr int files = 100;
  // Some of it is there before; of that, nothing has to be told.
  shell("mkdir -p top/old/deep; echo text > top/old/f; echo text > top/old/deep/f");
  const pid_t creator = support::start_child([&] {
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
  EXPECT_TRUE(support::wait_for_child(creator).ok());
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
  const pid_t remover = support::start_child([&] {
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
  EXPECT_TRUE(support::wait_for_child(remover).ok());
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

TEST_F(watched_file, is_modified_by_a_mapping_of_another_process_once_per_flush) {
  const auto store = [&](bool announces, auto flush) {
    const auto end = support::in_child([&] {
      mapio::open_options options = support::read_write();
      options.announce = announces;
      options.writes = mapio::write_path::mapped;  // The OS tells of others.
      mapping m(file_, options);
      m.update_region(0, asio::buffer("SOME", 4));
      m.update_region(5, asio::buffer("TEXT", 4));
      flush(m);
    });
    EXPECT_TRUE(end.ok()) << end;
  };
  store(true, [](mapping& m) { m.flush(); });
  EXPECT_EQ(told(), "modified f");
  store(true, [](mapping& m) { m.publish(0, 9); });
  EXPECT_EQ(told(), "modified f");
  store(false, [](mapping& m) { m.flush(); });
  store(false, [](mapping& m) { m.publish(0, 9); });
  EXPECT_EQ(told(), "");
}

TEST_F(watched_file, tells_a_mapped_file_that_its_size_is_stale) {
  mapped_file file(io_);
  support::run_coroutine(io_, [&]() -> asio::awaitable<void> {
    co_await file.open(file_, support::read_write());
    auto changes = file.watch();
    EXPECT_FALSE(file.size_is_stale());
    shell("truncate -s 4 f");
    change_event event = co_await changes.next();
    EXPECT_EQ(event.kind, change_kind::truncated);
    EXPECT_TRUE(file.size_is_stale());
    EXPECT_EQ(file.size(), 10U);
    EXPECT_EQ(co_await file.refresh(), 4U);
    EXPECT_FALSE(file.size_is_stale());
    EXPECT_EQ(file.size(), 4U);
    co_await file.update_region(0, asio::buffer("text", 4));
    co_await file.flush();
    event = co_await changes.next();
    EXPECT_EQ(event.kind, change_kind::modified);
    EXPECT_FALSE(file.size_is_stale()) << "it is what the mapping knows";
    shell("echo new > g; mv g f");
    event = co_await changes.next();
    EXPECT_EQ(event.kind, change_kind::replaced);
    EXPECT_TRUE(file.size_is_stale());
  });
  mapped_file closed(io_);
  EXPECT_EQ(support::code_of([&] { closed.watch(); }), errc::not_open);
  mapped_file adopted(io_.get_executor(),
                      mapping::adopt(support::open_fd(file_, O_RDONLY).release(), {}));
  EXPECT_EQ(support::code_of([&] { adopted.watch(); }), errc::unsupported);
}

// --- gathering and polling
// ------------------------------------------------------------------------------------------------

TEST_F(watcher_test, makes_one_event_of_a_burst) {
  write_file(file_, "text");
  // Long enough for all of it to fall into one interval.
  watcher_->add(dir_.path(), coalescing(2s));
  shell("for i in 1 2 3 4 5; do echo more >> f; chmod 600 f; done; echo new > g; mv g f; "
        "echo passing > h; rm h; echo last > l");
  ASSERT_TRUE(wait_until([&] { return has_seen(change_kind::created, dir_ / "l"); }));
  stop_listening();
  ASSERT_EQ(seen_.size(), 2U);
  EXPECT_EQ(seen_[0].path == file_ ? seen_[0].kind : seen_[1].kind, change_kind::replaced);
}

TEST_F(watched_file, makes_one_event_of_a_burst) {
  watcher_->add(file_, coalescing(2s));
  shell("for i in 1 2 3 4 5; do echo more >> f; done; mv f g; rm g; echo new > f");
  ASSERT_TRUE(wait_until([&] { return !seen_.empty(); }));
  stop_listening();
  ASSERT_EQ(seen_.size(), 1U);
  EXPECT_EQ(seen_[0].kind, change_kind::replaced);
  EXPECT_EQ(seen_[0].size, 4U);
}

/// Runs `body` with a watcher whose context could get no descriptor of the OS.
template <class Body>
support::child_end without_notices(Body body) {
  return support::in_fresh_process([&] {
    asio::io_context io;
    mapio::backend_of(io);
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    const rlimit none{0, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
    watcher changes(io);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    body(io, changes);
  });
}

TEST_F(watcher_test, polls_where_the_os_does_not_tell) {
  const auto end = without_notices([&](asio::io_context& io, watcher& changes) {
    write_file(file_, "text");
    changes.add(dir_.path(), polling(5ms));
    changes.add(file_, polling(5ms));
    const auto reasons = changes.fallbacks();
    ASSERT_EQ(reasons.size(), 2U);
    EXPECT_EQ(reasons[0].path, dir_.path());
    EXPECT_EQ(reasons[0].reason, std::errc::too_many_files_open);
    support::run_coroutine(io, [&]() -> asio::awaitable<void> {
      const auto until = [&](change_kind kind, const fs::path& path) -> asio::awaitable<void> {
        for (;;) {
          const change_event event = co_await changes.next();
          if (event.kind == kind && event.path == path) co_return;
        }
      };
      shell("echo longer text > f");
      co_await until(change_kind::modified, file_);
      shell("echo t > f");
      co_await until(change_kind::truncated, file_);
      shell("echo new > g; mv g f");
      co_await until(change_kind::replaced, file_);
      shell("echo new > h");
      co_await until(change_kind::created, dir_ / "h");
      shell("rm h f");
      co_await until(change_kind::removed, dir_ / "h");
      co_await until(change_kind::removed, file_);
    });
  });
  EXPECT_TRUE(end.ok()) << end;
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

TEST_F(watcher_test, polls_what_is_beyond_the_limit_of_watches) {
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
        !write_to("/proc/self/gid_map", "0 " + gid + " 1") ||
        !write_to("/proc/sys/user/max_inotify_watches", "4"))
      return;
    shell("mkdir -p top/a/b top/c top/d top/e");
    asio::io_context io;
    watcher changes(io);
    changes.add(dir_ / "top", recursive());
    support::run_coroutine(io, [&]() -> asio::awaitable<void> {
      for (const char* folder : {"a", "a/b", "c", "d", "e"}) {
        const fs::path file = dir_ / "top" / folder / "f";
        write_file(file, "text");
        for (change_event event; event.path != file;)
          event = co_await changes.next();
      }
    });
    const auto reasons = changes.fallbacks();
    EXPECT_FALSE(reasons.empty());
    for (const auto& fallback : reasons)
      EXPECT_EQ(fallback.reason, std::errc::no_space_on_device);
  });
  EXPECT_TRUE(end.ok()) << end;
}

// --- gaps
// ------------------------------------------------------------------------------------------------

class watcher_gap : public watcher_test {
 protected:
  std::ptrdiff_t overflows() const {
    return std::count_if(seen_.begin(), seen_.end(), [](const change_event& event) {
      return event.kind == change_kind::overflow;
    });
  }
  /// Waits until a file is watched with its folder, and for all that was done to it to find out.
  void wait_until_watched(const fs::path& file) {
    ASSERT_TRUE(wait_until([&] {
      write_file(file, "other");
      return has_seen(change_kind::modified, file);
    }));
    fs::permissions(file, fs::perms::owner_all);
    EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::metadata, file); }));
    seen_.clear();
  }
  /// Takes in the notices of all that was done, while nobody reads what the watcher has to tell.
  void take_notices() {
    watcher other(io_);
    other.add(mark_, missing());
    bool is_marked = false;
    other.next([&](std::error_code, const change_event&) { is_marked = true; });
    write_file(mark_, "");
    ASSERT_TRUE(support::run_until(io_, [&] { return is_marked; }));
  }
  /// Leaves the watcher no room: what is added to it from here on is not listed before somebody
  /// reads.
  void leave_no_room() {
    watcher_.emplace(io_, 1);
    watcher_->add(dir_ / "full", missing());
    write_file(dir_ / "full", "");
    take_notices();
  }
  /// Drops notices of what is done from here on until some were read.
  void fill_queue_of_kernel(const fs::path& first, const fs::path& second) {
    int limit = 0;
    std::ifstream("/proc/sys/fs/inotify/max_queued_events") >> limit;
    std::ofstream f(first, std::ios::app);
    std::ofstream g(second, std::ios::app);
    // Equal ones in a row would be one.
    for (int i = 0; i <= limit; ++i) {
      f << 'x' << std::flush;
      g << 'x' << std::flush;
    }
  }
  bool catches_up() {
    return wait_until([&] {
      for (; applied_ < seen_.size(); ++applied_)
        tree_.apply(seen_[applied_]);
      return tree_.files == now_;
    });
  }
  void expect_rebuilt(const fs::path& root) {
    now_ = rebuilt_tree::look_at(root);
    EXPECT_TRUE(catches_up()) << differences();
  }
  /// What differs from what is there, each with what was told of it last.
  std::string differences() const {
    std::ostringstream all;
    std::map<fs::path, std::uint64_t> either = tree_.files;
    either.insert(now_.begin(), now_.end());
    for (const auto& [path, size] : either) {
      const auto told = tree_.files.find(path);
      const auto real = now_.find(path);
      if (told != tree_.files.end() && real != now_.end() && told->second == real->second) continue;
      all << path.filename() << (told == tree_.files.end() ? " is not told" : " is told")
          << (real == now_.end() ? ", not there\n" : ", there\n");
      int shown = 0;
      for (std::size_t i = seen_.size(); i-- > 0 && shown < 8;) {
        if (seen_[i].path != path && seen_[i].previous_path != path &&
            seen_[i].kind != change_kind::overflow)
          continue;
        all << "  " << i << " of " << seen_.size() << ": " << seen_[i] << '\n';
        ++shown;
      }
    }
    return all.str();
  }
  rebuilt_tree tree_;
  std::map<fs::path, std::uint64_t> now_;
  std::size_t applied_ = 0;
};

TEST_F(watcher_gap, of_the_watcher_is_told_once_and_made_up_for) {
  watcher_.emplace(io_, 4);
  shell("mkdir a; for i in 1 2 3 4 5 6 7 8 9; do echo $i > a/$i; done");
  watcher_->add(dir_.path(), recursive());
  ASSERT_NO_FATAL_FAILURE(wait_until_watched(dir_ / "a/9"));
  stop_listening();
  tree_.files = rebuilt_tree::look_at(dir_.path());
  shell("rm a/1; echo longer > a/2; : > a/3; mv a/4 a/five; mkdir b; echo x > b/y; mv a/5 b/z;"
        "for i in 1 2 3 4 5 6 7 8 9; do echo $i > b/$i; done; echo new > n; mv n a/6");
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
  shell("for i in 1 2 3 4 5 6 7 8 9; do echo $i > $i; done; echo text > a/f; rm -r a");
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
  fill_queue_of_kernel(dir_ / "a/f", dir_ / "a/g");
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
  shell("mkdir top; for i in cut gone kept moved new-again read replaced; do echo text > top/$i; "
        "done");
  ASSERT_NO_FATAL_FAILURE(leave_no_room());
  watcher_->add(dir_ / "top");
  tree_.files = rebuilt_tree::look_at(dir_.path());
  shell("rm top/gone; mv top/moved top/name; echo more >> top/kept; : > top/cut; rm top/new-again; "
        "echo again > top/new-again; echo text > top/other; cat top/read > top/passing; "
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
  fill_queue_of_kernel(dir_ / "full", dir_ / "top/kept");
  shell("rm top/gone; mv top/moved top/name");
  expect_rebuilt(dir_.path());
  EXPECT_EQ(overflows(), 1);
  stop_listening();
}

TEST_F(watcher_gap, of_more_names_than_are_kept_hides_nothing_that_went) {
  shell("mkdir top; seq -f 'top/%g' 5000 | xargs touch; echo text > top/kept");
  ASSERT_NO_FATAL_FAILURE(leave_no_room());
  watcher_->add(dir_ / "top");
  tree_.files = rebuilt_tree::look_at(dir_.path());
  shell("seq -f 'top/%g' 5000 | xargs rm");
  ASSERT_NO_FATAL_FAILURE(take_notices());
  expect_rebuilt(dir_.path());
  stop_listening();
}

TEST_F(watcher_gap, leaves_alone_what_did_not_change_before_it_was_listed) {
  shell("mkdir -p top/sub; echo text > top/sub/f; echo text > top/g");
  ASSERT_NO_FATAL_FAILURE(leave_no_room());
  watcher_->add(dir_ / "top", recursive());
  tree_.files = rebuilt_tree::look_at(dir_.path());
  fill_queue_of_kernel(dir_ / "full", dir_ / "top/g");
  shell("echo more >> top/sub/f");
  expect_rebuilt(dir_.path());
  EXPECT_TRUE(has_seen(change_kind::modified, dir_ / "top/sub/f"));
  EXPECT_FALSE(has_seen(change_kind::created, dir_ / "top/g"));
  EXPECT_FALSE(has_seen(change_kind::created, dir_ / "top/sub"));
  stop_listening();
}

TEST_F(watcher_gap, before_the_rest_of_a_tree_is_watched_hides_nothing_that_went) {
  shell("mkdir -p top/sub/deep top/still; for i in top/sub top/sub/deep top/still; do "
        "echo text > $i/f; echo text > $i/g; done");
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

/// Not every file system can.
bool exchange(const fs::path& a, const fs::path& b) {
  return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

// Whoever reads late looks at names that others have by now.

class watcher_behind : public watcher_gap {
 protected:
  /// Watches a tree, with room for all that is to come.
  void watch_tree() {
    watcher_.emplace(io_, 100'000);
    watcher_->add(dir_.path(), recursive());
    write_file(dir_ / "listed", "");
    ASSERT_NO_FATAL_FAILURE(wait_until_watched(dir_ / "listed"));
    stop_listening();
    tree_.files = rebuilt_tree::look_at(dir_.path());
  }
  void expect_right_state() {
    expect_rebuilt(dir_.path());
    EXPECT_EQ(overflows(), 0);
    stop_listening();
  }
};

TEST_F(watcher_behind, tells_two_names_that_were_exchanged) {
  shell("echo text > a; echo longer text > b; mkdir d; echo text > d/f");
  ASSERT_NO_FATAL_FAILURE(watch_tree());
  if (!exchange(dir_ / "a", dir_ / "b")) GTEST_SKIP() << "no names can be exchanged";
  ASSERT_TRUE(exchange(dir_ / "a", dir_ / "d"));
  ASSERT_NO_FATAL_FAILURE(expect_right_state());
  shell("echo more > a/g");
  EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::created, dir_ / "a/g"); }));
  stop_listening();
}

TEST_F(watcher_behind, tells_sizes_of_files_that_had_one_name_after_another) {
  ASSERT_NO_FATAL_FAILURE(watch_tree());
  shell("echo some text > t; mv t a; echo text > t; mv t b; echo x > t");
  ASSERT_NO_FATAL_FAILURE(expect_right_state());
}

TEST_F(watcher_behind, watches_folders_that_had_one_name_after_another) {
  ASSERT_NO_FATAL_FAILURE(watch_tree());
  // More than is read at once, so that the first folder is listed before its new name is known.
  shell("mkdir t; echo text > t/f; seq -f '%g' 3000 | xargs touch; mv t a; mkdir t; echo x > t/g");
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
    switch (random_() % 19) {
    case 0:
      fs::remove(file, ignored);
      return;
    case 1:
      fs::rename(file, there / some_name("fghab"), ignored);
      return;
    case 2:
      static_cast<void>(!::truncate(file.c_str(), static_cast<off_t>(random_() % 5)));
      return;
    case 3:
    case 4:
      fs::create_directory(folder, ignored);
      return;
    case 5:
      fs::rename(folder, there / some_name("abcd"), ignored);
      return;
    case 6:
      static_cast<void>(!::rmdir(folder.c_str()));
      return;
    case 7:
      if (random_() % 3 == 0) fs::remove_all(folder, ignored);
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
      static_cast<void>(exchange(file, there / some_name("fghab")));
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
    default:
      std::ofstream(file, std::ios::app) << std::string(1 + random_() % 9, 'x');
    }
  }
  fs::path some_folder() {
    fs::path folder = top_;
    for (auto depth = random_() % 4; depth > 0; --depth) {
      const fs::path below = folder / some_name("abcd");
      if (!fs::is_directory(below)) break;
      folder = below;
    }
    return folder;
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
  /// Rebuilds a tree from what is told while another process changes it, again and again.
  void rebuild(std::size_t capacity, std::chrono::milliseconds coalesce) {
    const unsigned rounds = support::under_asan || support::under_tsan ? 8 : 30;
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
      watcher_->add(top, options);
      tree_.files = rebuilt_tree::look_at(top);
      const pid_t changer = support::start_child([&] {
        random_changes(top, outside, 2 * round + 1).make(300);
        write_file(top / "over", "");
      });
      EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::created, top / "over"); }));
      EXPECT_TRUE(support::wait_for_child(changer).ok());
      expect_rebuilt(top);
      // Every folder in it is watched, and every file.
      for (const auto& [path, size] : now_)
        std::ofstream(fs::is_directory(path) ? path / "last" : path, std::ios::app) << "last";
      expect_rebuilt(top);
      stop_listening();
      seen_.clear();
      applied_ = 0;
    }
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

class watcher_storm : public watcher_gap {
 protected:
  /// How many there are in all by default; a million of them where there is time.
  static int storm_size(int by_default) {
    const char* wanted = std::getenv("MAPIO_STORM");
    return wanted != nullptr ? std::atoi(wanted) : by_default;
  }

  /// Four processes do what they like to 1,000 files, all at once, while a consumer needs its time
  /// for each event.
  void storm(int size) {
    constexpr int files = 1000;
    watcher_.emplace(io_, 256);
    for (int i = 0; i < files; ++i)
      write_file(dir_ / std::to_string(i), "");
    watcher_->add(dir_.path(), recursive());
    tree_.files = rebuilt_tree::look_at(dir_.path());
    const std::uint64_t memory_before = resident_memory();
    std::vector<pid_t> writers;
    for (unsigned w = 0; w < 4; ++w)
      writers.push_back(support::start_child([&] {
        std::mt19937 random(w);
        for (int i = 0; i < size / 4; ++i)
          do_anything(dir_ / std::to_string(random() % files),
                      dir_ / std::to_string(random() % files), random);
      }));
    std::atomic<bool> is_over{false};
    std::thread waiter([&] {
      for (const pid_t writer : writers)
        EXPECT_TRUE(support::wait_for_child(writer).ok());
      is_over = true;
      asio::post(io_, [] {});
    });
    const auto is_quiet = [&] {
      for (; applied_ < seen_.size(); ++applied_) {
        tree_.apply(seen_[applied_]);
        if (!is_over) std::this_thread::sleep_for(50us);
      }
      forget_old_events();
      return is_over.load();
    };
    while (!wait_until(is_quiet)) {
      // A large storm takes longer than the patience of one wait; the watchdog has the last word.
    }
    waiter.join();
    expect_rebuilt(dir_.path());
    forget_old_events();
    // Sanitizers keep what was freed.
    constexpr std::uint64_t enough = 8 << 20;
    if (!support::under_asan && !support::under_tsan) {
      EXPECT_LT(resident_memory(), memory_before + enough);
    }
    stop_listening();
  }

 private:
  static std::uint64_t resident_memory() {
    std::uint64_t all = 0;
    std::uint64_t resident = 0;
    std::ifstream("/proc/self/statm") >> all >> resident;
    return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  }

  static void do_anything(const fs::path& file, const fs::path& other, std::mt19937& random) {
    switch (random() % 16) {
    case 0:
      ::unlink(file.c_str());
      break;
    case 1:
      static_cast<void>(::rename(file.c_str(), other.c_str()));
      break;
    case 2:
      static_cast<void>(!::truncate(file.c_str(), 0));
      break;
    default: {
      const int fd = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
      if (fd < 0) break;
      static_cast<void>(!::write(fd, "0123456789", random() % 10));
      ::close(fd);
    }
    }
  }

  /// Keeps some of those that were applied, for who wants to know what went wrong.
  void forget_old_events() {
    for (std::size_t i = std::max<std::size_t>(looked_at_, 1); i < applied_; ++i)
      EXPECT_FALSE(seen_[i].kind == change_kind::overflow &&
                   seen_[i - 1].kind == change_kind::overflow)
          << "two for one gap";
    looked_at_ = applied_;
    constexpr std::size_t kept = 4000;
    if (applied_ < 2 * kept) return;
    const std::size_t old = applied_ - kept;
    seen_.erase(seen_.begin(), seen_.begin() + static_cast<std::ptrdiff_t>(old));
    applied_ -= old;
    looked_at_ -= old;
  }

  std::size_t looked_at_ = 0;
};

TEST_F(watcher_storm, leaves_nothing_untold) {
  storm(storm_size(60'000));
}

/// Makes the kernel keep fewer notices than usual, for descriptors that are made meanwhile.
class short_queue {
 protected:
  short_queue() {
    std::ifstream(limit) >> before_;
    is_short_ = write(16);
  }
  ~short_queue() { end_shortness(); }

  void end_shortness() {
    if (is_short_ && before_ != 0) write(std::exchange(before_, 0));
  }
  bool is_short() const { return is_short_; }

 private:
  static constexpr const char* limit = "/proc/sys/fs/inotify/max_queued_events";
  static bool write(int count) {
    std::ofstream out(limit);
    return static_cast<bool>(out << count << std::flush);
  }

  int before_ = 0;
  bool is_short_ = false;
};

class watcher_storm_and_short_queue : private short_queue, public watcher_storm {
 protected:
  watcher_storm_and_short_queue() {
    // The watcher has its descriptor; others are not to suffer.
    end_shortness();
  }
  void SetUp() override {
    if (!is_short()) GTEST_SKIP() << "/proc/sys/fs/inotify/max_queued_events cannot be lowered";
  }
};

TEST_F(watcher_storm_and_short_queue, leaves_nothing_untold) {
  storm(storm_size(20'000));
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
  for (int i = 0; i < 30; ++i) {
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

TEST_F(watched_file, leaves_a_forked_child_nothing) {
  const auto end = support::in_child([&] {
    EXPECT_EQ(support::code_of([&] { watcher_->add(file_); }), errc::unsupported);
    std::error_code error;
    watcher_->next([&](std::error_code e, const change_event&) { error = e; });
    io_.poll();
    EXPECT_EQ(error, errc::unsupported);
    watcher_.reset();
  });
  EXPECT_TRUE(end.ok()) << end;
  shell("echo more >> f");
  EXPECT_EQ(told(), "modified f") << "the child took nothing away";
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
