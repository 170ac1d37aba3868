#ifndef MAPIO_TESTS_WATCHER_FIXTURE_HPP
#define MAPIO_TESTS_WATCHER_FIXTURE_HPP

// What the tests of watchers share: someone who listens, and a tree that is rebuilt from what is
// told.

#include "file_changes.hpp"
#include "support.hpp"

#include <mapio/watcher.hpp>

#include <asio/io_context.hpp>
#include <asio/post.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace watching {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using mapio::change_event;
using mapio::change_kind;
using mapio::errc;
using mapio::watch_options;
using mapio::watcher;
using support::write_file;

inline watch_options recursive() {
  watch_options options;
  options.recursive = true;
  return options;
}
inline watch_options missing() {
  watch_options options;
  options.allow_missing = true;
  return options;
}
inline watch_options coalescing(std::chrono::milliseconds interval) {
  watch_options options;
  options.coalesce = interval;
  return options;
}
inline watch_options polling(std::chrono::milliseconds interval) {
  watch_options options;
  options.poll = interval;
  return options;
}

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
    // What is in a folder comes right behind it.
    const auto first = files.lower_bound(path);
    files.erase(first, std::find_if(first, files.end(),
                                    [&](const auto& f) { return !is_in(f.first, path); }));
  }
};

/// Takes everything that a watcher tells.
class listener {
 public:
  listener(asio::io_context& io, watcher& changes) : io_(io), changes_(changes) {}
  listener(const listener&) = delete;
  listener& operator=(const listener&) = delete;
  ~listener() { stop(); }

  void listen() {
    if (std::exchange(is_listening_, true)) return;
    changes_.next([this](std::error_code error, change_event event) {
      is_listening_ = false;
      if (error) return;
      seen.push_back(std::move(event));
      if (!is_stopping_) listen();
    });
  }
  void stop() {
    is_stopping_ = true;
    changes_.cancel();
    EXPECT_TRUE(support::run_until(io_, [&] { return !is_listening_; }));
    is_stopping_ = false;
  }
  template <class Condition>
  bool wait_until(Condition condition) {
    listen();
    return support::run_until(io_, condition);
  }
  bool wait_for(change_kind kind, const fs::path& path) {
    return wait_until([&] { return has_seen(kind, path); });
  }
  bool has_seen(change_kind kind, const fs::path& path) const {
    return std::any_of(seen.begin(), seen.end(), [&](const change_event& event) {
      return event.kind == kind && event.path == path;
    });
  }

  std::vector<change_event> seen;

 private:
  asio::io_context& io_;
  watcher& changes_;
  bool is_listening_ = false;
  bool is_stopping_ = false;
};

/// Has a watcher find out what was done, though nobody asks it.
inline void take_notices(asio::io_context& io) {
  const support::temp_dir dir;
  watcher other(io);
  listener all(io, other);
  other.add(dir / "mark", missing());
  write_file(dir / "mark", "");
  EXPECT_TRUE(all.wait_for(change_kind::created, dir / "mark"));
}

/// Tells whether a tree that does not change any more comes to what is there.
inline bool is_rebuilt(rebuilt_tree& told, listener& all, const fs::path& root) {
  const auto now = rebuilt_tree::look_at(root);
  return all.wait_until([&] {
    for (const change_event& event : std::exchange(all.seen, {}))
      told.apply(event);
    return told.files == now;
  });
}

class watcher_test : public testing::Test {
 protected:
  /// Does what a shell would, in the scratch folder.
  void shell(const std::string& commands) { support::run_commands(dir_.path(), commands); }

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
  /// them. Where all is polled, or the OS tells of each folder by itself, it is the second one that
  /// does. Of equal events in a row, of which the OS makes one or more, one stays.
  void catch_up() {
    const bool is_ordered = support::notices_of_all_folders_come_in_order && !is_polled();
    for (int marks = is_ordered ? 1 : 2; marks > 0; --marks) {
      std::ofstream(mark_, std::ios::app) << ".";
      const std::uint64_t size = fs::file_size(mark_);
      EXPECT_TRUE(wait_until([&] {
        return std::any_of(seen_.begin(), seen_.end(), [&](const change_event& event) {
          return event.path == mark_ && event.size == size;
        });
      }));
    }
    std::erase_if(seen_, [&](const change_event& event) { return event.path == mark_; });
    const auto is_same = [](const change_event& a, const change_event& b) {
      return a.kind == b.kind && a.path == b.path && a.previous_path == b.previous_path &&
             a.size == b.size;
    };
    seen_.erase(std::unique(seen_.begin(), seen_.end(), is_same), seen_.end());
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
        line << ' ' << event.previous_path.lexically_relative(dir_.path()).generic_string()
             << " ->";
      line << ' ' << event.path.lexically_relative(dir_.path()).generic_string();
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
  /// The same as told(), where it is not always told by itself that what was created was written.
  std::string told_with_writes(const std::string& all) {
    const std::string now = told();
    if (support::notices_say_what_was_done) return now;
    return without_first_writes(now) == without_first_writes(all) ? all : now;
  }
  static std::string without_first_writes(std::string all) {
    const std::string_view creation = "created ";
    for (std::size_t at = all.find(creation); at != all.npos; at = all.find(creation, at + 1)) {
      const std::size_t end = std::min(all.find(',', at), all.size());
      const std::string write =
          ", modified " + all.substr(at + creation.size(), end - at - creation.size());
      const std::size_t end_of_write = end + write.size();
      if (all.compare(end, write.size(), write) == 0 &&
          (end_of_write == all.size() || all[end_of_write] == ','))
        all.erase(end, write.size());
    }
    return all;
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
    const auto end = std::chrono::steady_clock::now() + support::patience;
    while (!has_seen(change_kind::metadata, file)) {
      ASSERT_LT(std::chrono::steady_clock::now(), end);
      support::change_metadata(file);
      // One that comes in a gap is told as the rest of it.
      const auto until = std::chrono::steady_clock::now() + 200ms;
      while (!has_seen(change_kind::metadata, file) && std::chrono::steady_clock::now() < until) {
        listen();
        io_.restart();
        io_.run_one_until(until);
      }
    }
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

// Whoever reads late looks at names that others have by now.
class watcher_behind : public watcher_gap {
 protected:
  /// Watches a tree, with room for all that is to come.
  void watch_tree(std::size_t capacity = 100'000) {
    watcher_.emplace(io_, capacity);
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

class watcher_storm : public watcher_gap {
 protected:
  /// How many there are in all by default; a million of them where there is time.
  static int storm_size(int by_default) {
    const char* wanted = std::getenv("MAPIO_STORM");
    return wanted != nullptr ? std::atoi(wanted) : by_default;
  }

  /// Four threads do what they like to many files, all at once, while a consumer needs its time
  /// for each event.
  void storm(int size) {
    watcher_.emplace(io_, 256);
    for (int i = 0; i < files; ++i)
      write_file(dir_ / std::to_string(i), "");
    watcher_->add(dir_.path(), recursive());
    tree_.files = rebuilt_tree::look_at(dir_.path());
    const std::uint64_t memory_before = support::resident_memory();
    std::vector<std::future<void>> writers;
    for (unsigned w = 0; w < 4; ++w)
      writers.push_back(std::async(std::launch::async, [this, size, w] {
        std::mt19937 random(w);
        for (int i = 0; i < size / 4; ++i)
          do_anything(dir_ / std::to_string(random() % files),
                      dir_ / std::to_string(random() % files), random);
      }));
    std::atomic<bool> is_over{false};
    std::thread waiter([&] {
      for (const auto& writer : writers)
        writer.wait();
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
      EXPECT_LT(support::resident_memory(), memory_before + enough);
    }
    stop_listening();
  }

 private:
  static constexpr int files = support::is_emulated ? 100 : 1000;

  static void do_anything(const fs::path& file, const fs::path& other, std::mt19937& random) {
    std::error_code ignored;
    switch (random() % 16) {
    case 0:
      fs::remove(file, ignored);
      break;
    case 1:
      fs::rename(file, other, ignored);
      break;
    case 2:
      fs::resize_file(file, 0, ignored);
      break;
    default:
      std::ofstream(file, std::ios::app | std::ios::binary)
          .write("0123456789", static_cast<std::streamsize>(random() % 10));
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

// --- at the edges
// ------------------------------------------------------------------------------------------------

class watcher_edges : public testing::Test {
 protected:
  ~watcher_edges() override { fs::current_path(working_folder_); }

  void shell(const std::string& command) { support::run_commands(dir_.path(), command); }

  const fs::path working_folder_ = fs::current_path();
  support::temp_dir dir_;
  support::temp_dir other_dir_;
  const fs::path file_ = dir_ / "f";
  asio::io_context io_;
  watcher changes_{io_};
  listener all_{io_, changes_};
};

}  // namespace watching

#endif  // MAPIO_TESTS_WATCHER_FIXTURE_HPP
