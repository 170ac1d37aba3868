// Of watchers: links, file systems that are mounted, limits of inotify, forked children.

#include "linux/linux_support.hpp"
#include "watcher_fixture.hpp"

#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include <asio/awaitable.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

namespace {

using namespace watching;
using mapio::mapped_file;
using mapio::mapping;

TEST_F(watcher_gap, hides_no_new_metadata_of_folders) {
  shell("mkdir -p top/sub; : > top/f");
  watcher_.emplace(io_, 1);
  watcher_->add(dir_ / "top", recursive());
  ASSERT_NO_FATAL_FAILURE(wait_until_watched(dir_ / "top/f"));
  stop_listening();
  shell("echo text > top/f; echo text > top/g; chmod 711 top/sub; chmod 711 top");
  ASSERT_NO_FATAL_FAILURE(take_notices());
  EXPECT_TRUE(wait_until([&] {
    return has_seen(change_kind::metadata, dir_ / "top") &&
           has_seen(change_kind::metadata, dir_ / "top/sub");
  }));
  stop_listening();
}

TEST_F(watched_file, is_replaced_by_sed_in_place) {
  shell("sed -i s/some/any/ f");
  EXPECT_EQ(told(), "replaced f");
  shell("sed -i s/any/some/ f");
  EXPECT_EQ(told(), "replaced f");
}

TEST_F(watched_file, is_modified_through_another_name_of_it) {
  shell("mkdir sub; ln f sub/g");
  EXPECT_EQ(told(), "metadata f");
  shell("echo more >> sub/g");
  EXPECT_EQ(told(), "modified f");
  shell("rm sub/g");
  EXPECT_EQ(told(), "metadata f");
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

TEST_F(watcher_test, tells_of_each_step_that_was_made_before_anybody_looked) {
  watch_mark();
  write_file(file_, "text");
  watcher_->add(dir_.path());
  // Appended to: who does look in between sees no file that is shorter.
  shell("echo t >> f; chmod 600 f; mv f g; mkdir d; rm g; rmdir d");
  EXPECT_EQ(told(), "modified f, metadata f, renamed f -> g, created d, removed g, removed d");
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

TEST_F(watched_file, tells_a_mapped_file_of_another_one_that_has_its_name_already) {
  mapped_file file(io_);
  support::run_coroutine(io_, [&]() -> asio::awaitable<void> {
    co_await file.open(file_, support::read_write());
    shell("echo another > other; mv other f");
    const auto changes = file.watch();
    EXPECT_TRUE(file.size_is_stale());
  });
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
      shell("rm h");
      co_await until(change_kind::removed, dir_ / "h");
      shell("rm f");
      co_await until(change_kind::removed, file_);
    });
  });
  EXPECT_TRUE(end.ok()) << end;
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

TEST_F(watcher_behind, tells_two_names_that_were_exchanged) {
  shell("echo text > a; echo longer text > b; mkdir d; echo text > d/f");
  ASSERT_NO_FATAL_FAILURE(watch_tree());
  if (!support::exchange(dir_ / "a", dir_ / "b")) GTEST_SKIP() << "no names can be exchanged";
  ASSERT_TRUE(support::exchange(dir_ / "a", dir_ / "d"));
  ASSERT_NO_FATAL_FAILURE(expect_right_state());
  shell("echo more > a/g");
  EXPECT_TRUE(wait_until([&] { return has_seen(change_kind::created, dir_ / "a/g"); }));
  stop_listening();
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

}  // namespace
