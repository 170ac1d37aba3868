// What is found out from notices that come in an order that a test decides.

#include "support.hpp"

#include "core/change_finder.hpp"
#include "core/watch_hub.hpp"
#include "core/watch_stream.hpp"
#include "watch/watch_source.hpp"

#include <mapio/watcher.hpp>

#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using namespace mapio;                    // NOLINT: the internals are all there
using namespace mapio::detail;            // NOLINT
using namespace mapio::detail::watching;  // NOLINT

/// Tells what it is told to tell.
class scripted_source final : public watch_source {
 public:
  std::error_code add(const fs::path& path, interest, watch_id& id) noexcept override {
    if (path == hidden_) return std::make_error_code(std::errc::permission_denied);
    id = ids_.try_emplace(path, static_cast<watch_id>(ids_.size()) + 1).first->second;
    return {};
  }
  void remove(watch_id) noexcept override {}
  std::error_code look_in(watch_id id, const fs::path& folder, const file_name& name,
                          file_look& look) noexcept override {
    look = {};
    if (folder == hidden_) return std::make_error_code(std::errc::permission_denied);
    const auto moved = places_.find(id);
    return look_at((moved != places_.end() ? moved->second : folder) / name, false, look);
  }
  bool read(std::vector<notice>& notices) override {
    notices = std::exchange(notices_, {});
    return !notices.empty();
  }
  void ask_for_all(watch_id) noexcept override {}
  bool has_told_all(watch_id) noexcept override { return has_told_all_; }
  bool arm() noexcept override { return true; }
  void disarm() noexcept override {}
  void shut_down() noexcept override {}

  void say(const fs::path& path, std::uint32_t what, std::uint32_t cookie = 0) {
    notices_.push_back({ids_.at(path.parent_path()), what, cookie, path.filename().native()});
  }
  /// Knows where a folder is before anybody was told.
  void knows_that_moved(const fs::path& from, const fs::path& to) { places_[ids_.at(from)] = to; }
  void say_that_some_were_dropped() { notices_.push_back({no_watch, notice::overflow, 0, {}}); }
  /// Nothing in it can be looked at.
  void hide(const fs::path& folder) { hidden_ = folder; }
  void say_that_this_is_all() { has_told_all_ = true; }

 private:
  std::map<fs::path, watch_id> ids_;
  std::map<watch_id, fs::path> places_;
  fs::path hidden_;
  std::vector<notice> notices_;
  bool has_told_all_ = false;
};

class change_finder_test : public testing::Test {
 protected:
  change_finder_test() { fs::create_directory(top_); }
  ~change_finder_test() override {
    finder_.clear();
    hub_->shut_down();
  }

  /// Watches the tree from here on. Nothing in it was looked at yet.
  void add(std::size_t capacity, std::chrono::milliseconds coalesce = {}, bool recursive = true) {
    if (!stream_) stream_ = std::make_shared<watch_stream>(hub_, capacity);
    watch_options options;
    options.recursive = recursive;
    options.coalesce = coalesce;
    auto root = std::make_unique<watched_root>(*stream_, top_, options, nullptr);
    root->begin = file_clock();
    auto placed = finder_.place(top_);
    let_pass(root->begin);
    finder_.add(stream_, std::move(root), std::move(placed), finder_.misses());
  }
  /// Takes in what was said, and looks where there is reason to.
  void work() {
    do
      finder_.read();
    while (finder_.work(true) == change_finder::outcome::more ||
           finder_.next_deadline() <= watch_clock::now());
  }
  /// Watches the tree, and has listed it.
  void add_and_list(std::chrono::milliseconds coalesce = {}) {
    add(100, coalesce);
    source_.say_that_this_is_all();
    work();
  }
  /// Watches a tree with a folder that has content, which is a file when the tree is listed.
  void add_before_a_file_takes_the_place_of_a_folder(std::size_t capacity) {
    fs::create_directories(sub_ / "deep");
    add(capacity);
    fs::rename(sub_, dir_.path() / "away");
    std::ofstream(sub_) << "text";
    work();
    ASSERT_EQ(told(), "");
  }
  /// Takes all that is to be told.
  std::string told() {
    std::vector<operation*> over;
    stream_->push({change_kind::metadata, end_, {}, {}}, nullptr, nullptr, over);
    std::ostringstream all;
    for (change_operation next; stream_->start(next) && next.event.path != end_;) {
      all << (all.str().empty() ? "" : "; ") << next.event.kind;
      if (!next.event.path.empty())
        all << ' ' << next.event.path.lexically_relative(top_).generic_string();
    }
    return all.str();
  }

  const support::temp_dir dir_;
  const fs::path top_ = dir_ / "top";
  const fs::path sub_ = top_ / "sub";
  const fs::path end_ = dir_ / "end";
  asio::io_context io_;
  // Of the stream; what it has to tell is found here.
  const std::shared_ptr<watch_hub> hub_ = std::make_shared<watch_hub>(io_, engine_of(io_));
  scripted_source source_;
  change_finder finder_{source_};
  std::shared_ptr<watch_stream> stream_;
};

// Who added the tree has looked at a folder that went right after that, and the first listing finds
// what came instead.

TEST_F(change_finder_test, tells_what_went_before_a_listing_found_another_one) {
  ASSERT_NO_FATAL_FAILURE(add_before_a_file_takes_the_place_of_a_folder(100));
  source_.say(sub_, notice::deleted);
  source_.say(sub_, notice::created);
  work();
  EXPECT_EQ(told(), "removed sub; created sub");
}

TEST_F(change_finder_test, tells_it_where_notices_leave_open_what_happened) {
  ASSERT_NO_FATAL_FAILURE(add_before_a_file_takes_the_place_of_a_folder(100));
  source_.say(sub_, notice::deleted | notice::touched);
  source_.say(sub_, notice::created);
  work();
  EXPECT_EQ(told(), "removed sub; created sub");
}

TEST_F(change_finder_test, tells_it_after_a_gap) {
  ASSERT_NO_FATAL_FAILURE(add_before_a_file_takes_the_place_of_a_folder(1));
  std::ofstream(top_ / "full") << "text";
  source_.say(top_ / "full", notice::created);
  source_.say(sub_, notice::deleted);
  source_.say(sub_, notice::created);
  work();
  EXPECT_EQ(told(), "created full; overflow");
  work();
  EXPECT_EQ(told(), "removed sub; created sub");
}

TEST_F(change_finder_test, tells_a_folder_anew_of_which_notices_were_dropped_after_it_was_listed) {
  std::ofstream(top_ / "gone") << "text";
  std::ofstream(top_ / "kept") << "text";
  add(1);
  fs::remove(top_ / "gone");
  work();
  EXPECT_EQ(told(), "");
  source_.say_that_some_were_dropped();
  source_.say_that_this_is_all();
  work();
  EXPECT_EQ(told(), "overflow");
  work();
  EXPECT_EQ(told(), "removed .; created .");
  work();
  EXPECT_EQ(told(), "created kept");
}

TEST_F(change_finder_test, tells_all_of_a_tree_that_was_replaced_before_it_was_listed) {
  fs::remove(top_);
  add(1);
  fs::create_directory(top_);
  std::ofstream(top_ / "old") << "text";
  source_.say(top_, notice::created);
  work();
  fs::rename(top_, dir_.path() / "away");
  fs::create_directory(top_);
  std::ofstream(top_ / "new") << "text";
  source_.say(top_, notice::deleted);
  source_.say(top_, notice::created);
  work();
  EXPECT_EQ(told(), "created .; overflow");
  work();
  EXPECT_EQ(told(), "replaced .");
  work();
  EXPECT_EQ(told(), "created new");
}

TEST_F(change_finder_test, keeps_what_it_knows_while_nobody_can_look) {
  fs::create_directory(top_ / "sub");
  std::ofstream(top_ / "f") << "text";
  add_and_list();
  source_.hide(top_);
  std::ofstream(top_ / "f") << "other text";
  source_.say(top_ / "f", notice::modified);
  source_.say(top_ / "sub", notice::touched);
  work();
  EXPECT_EQ(told(), "modified f");
  ASSERT_EQ(stream_->fallbacks().size(), 1U);
  EXPECT_EQ(stream_->fallbacks()[0].path, top_);
  source_.hide({});
  ASSERT_NE(finder_.next_deadline(), watch_clock::time_point::max()) << "it looks again";
  // It does so once a second.
  const auto due = finder_.next_deadline();
  while (watch_clock::now() <= due)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  work();
  EXPECT_EQ(told(), "modified f") << "it has the size now";
}

TEST_F(change_finder_test, polls_what_is_in_a_folder_that_may_not_be_read) {
  source_.hide(top_);
  EXPECT_EQ(finder_.place(top_ / "f").limit, std::errc::permission_denied);
}

TEST_F(change_finder_test, gathers_no_longer_than_it_is_asked_to_now) {
  std::ofstream(top_ / "f") << "text";
  add_and_list(std::chrono::hours(1));
  source_.say(top_ / "f", notice::modified);
  work();
  EXPECT_GT(finder_.next_deadline(), watch_clock::now() + std::chrono::minutes(1));
  add(100, std::chrono::milliseconds(1));
  EXPECT_LT(finder_.next_deadline(), watch_clock::now() + std::chrono::minutes(1));
}

TEST_F(change_finder_test, tells_of_a_folder_once_for_each_time_that_its_tree_is_added_again) {
  add_and_list();
  for (const char* name : {"a", "b", "c"}) {
    fs::create_directory(top_ / name);
    source_.say(top_ / name, notice::created);
  }
  work();
  for (int i = 0; i < 8; ++i) {
    add(100, {}, i % 2 != 0);
    work();
  }
  const std::string all = told();
  EXPECT_LE(std::count(all.begin(), all.end(), ';'), 3 * (1 + 2 * 8)) << all;
}

TEST_F(change_finder_test, looks_into_a_folder_wherever_it_is_by_now) {
  fs::create_directory(top_ / "a");
  std::ofstream(top_ / "a" / "f") << "text";
  add_and_list();
  fs::rename(top_ / "a", top_ / "b");
  source_.knows_that_moved(top_ / "a", top_ / "b");
  source_.say(top_ / "a" / "f", notice::touched);
  work();
  EXPECT_EQ(told(), "") << "it is there";
  source_.say(top_ / "a", notice::moved_from, 1);
  source_.say(top_ / "b", notice::moved_to, 1);
  work();
  EXPECT_EQ(told(), "renamed b");
}

TEST_F(change_finder_test, tells_a_file_that_was_replaced_once_it_is_known) {
  std::ofstream(top_ / "f") << "text";
  add_and_list();
  std::ofstream(top_ / "new") << "other text";
  fs::rename(top_ / "new", top_ / "f");
  source_.say(top_ / "f", notice::deleted | notice::touched);
  work();
  EXPECT_EQ(told(), "replaced f");
}

}  // namespace
