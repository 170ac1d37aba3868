#include <mapio/mapping.hpp>

#include "mapping_fixture.hpp"
#include "starting_line.hpp"
#include "support.hpp"

#include <asio/buffer.hpp>

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using mapio::access;
using mapio::disposition;
using mapio::durability;
using mapio::errc;
using mapio::mapping;
using mapio::open_options;
using support::code_of;
using support::copy_on_write;
using support::cost_of_flush;
using support::creating;
using support::expect_slots;
using support::mapping_resize;
using support::mapping_test;
using support::open_error;
using support::page;
using support::pattern;
using support::read_all;
using support::read_file;
using support::read_only;
using support::read_write;
using support::same;
using support::syncs_of;
using support::to_string;
using support::write_file;
using support::write_slot;

constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();

using mapping_open = mapping_test;
using mapping_create = mapping_test;
using mapping_handle = mapping_test;
using mapping_bounds = mapping_test;
using mapping_io = mapping_test;
using mapping_flush = mapping_test;
using mapping_prefetch = mapping_test;
using mapping_lock = mapping_test;
using mapping_adopt = mapping_test;
using mapping_copy_on_write = mapping_test;
using mapping_fault = mapping_test;
using mapping_print = mapping_test;

TEST_F(mapping_open, maps_an_existing_file_for_reading) {
  const std::string bytes = pattern(3 * page() + 17);
  const mapping m(file_of(bytes));
  EXPECT_TRUE(m.is_open());
  EXPECT_EQ(m.size(), bytes.size());
  EXPECT_FALSE(m.empty());
  EXPECT_EQ(m.mode(), access::read_only);
  EXPECT_EQ(m.path(), path_);
  EXPECT_EQ(m.policy(), mapio::flush_policy::manual());
  EXPECT_TRUE(support::is_open_descriptor(m.native_handle()));
  EXPECT_TRUE(same(to_string(m.view(0, m.size())), bytes));
}

TEST_F(mapping_open, maps_an_existing_file_for_writing_and_keeps_its_content) {
  const std::string bytes = pattern(page());
  open_options options = read_write();
  options.size = 5 * page();  // of a file that would be created
  const mapping m(file_of(bytes), options);
  EXPECT_EQ(m.mode(), access::read_write);
  EXPECT_EQ(m.size(), page());
  EXPECT_TRUE(same(read_all(m), bytes));
}

TEST_F(mapping_open, reports_the_policy_it_was_given) {
  open_options options = creating(page());
  options.policy = mapio::flush_policy::every_bytes(12345);
  EXPECT_EQ(mapping(path_, options).policy(), mapio::flush_policy::every_bytes(12345));
}

TEST_F(mapping_open, throws_the_code_that_the_other_overload_returns) {
  const auto missing = dir_ / "missing";
  EXPECT_EQ(code_of([&] { mapping m(missing); }), open_error(missing));
  mapping m;
  EXPECT_EQ(code_of([&] { m.open(missing); }), open_error(missing));
  EXPECT_FALSE(m.is_open());
}

TEST_F(mapping_open, clears_the_error_code_on_success) {
  file_of("x");
  EXPECT_FALSE(open_error(path_));
}

TEST_F(mapping_open, lets_go_of_what_the_handle_had_before_and_of_nothing_else) {
  file_of("first");
  const auto second = file_of("second", "second");
  mapping m(path_);
  const mapping copy = m;
  const mapio::region r = m.view(0, 5);
  m.open(second);
  EXPECT_EQ(read_all(m), "second");
  EXPECT_EQ(m.path(), second);
  EXPECT_TRUE(copy.is_open());
  EXPECT_EQ(read_all(copy), "first");
  EXPECT_EQ(r.text(), "first");
}

TEST_F(mapping_open, leaves_the_handle_closed_after_an_error) {
  file_of("first");
  mapping m(path_);
  std::error_code ec;
  m.open(dir_ / "missing", read_only(), ec);
  EXPECT_EQ(ec, std::errc::no_such_file_or_directory);
  EXPECT_FALSE(m.is_open());
  EXPECT_EQ(m.size(), 0U);
}

TEST_F(mapping_open, keeps_its_descriptors_from_programs_that_are_started) {
  const auto before = support::open_descriptors();
  const mapping m(path_, creating(page()));
  auto added = support::open_descriptors();
  for (const auto fd : before)
    added.erase(fd);
  EXPECT_TRUE(added.contains(m.native_handle()));
  for (const auto fd : added)
    EXPECT_FALSE(support::is_inherited(fd)) << fd;
}

TEST_F(mapping_open, leaks_no_descriptor_and_no_mapping) {
  mapping(path_, creating(page())).close();  // whatever is opened once for all
  const auto before = support::open_descriptors();
  for (int i = 0; i < 50; ++i) {
    mapping m(path_, creating(page()));
    m.update_region(0, asio::buffer("x", 1));
    const mapping copy = m;
    const mapio::region r = m.view(0, 1);
    if (i % 2 == 0) m.close();
    EXPECT_TRUE(open_error(dir_ / "missing"));
    EXPECT_TRUE(open_error(dir_.path()));
    EXPECT_TRUE(open_error("/dev/null"));
    EXPECT_TRUE(open_error(path_, creating(most)));
    EXPECT_TRUE(open_error(path_, creating(page(), disposition::create_new)));
  }
  EXPECT_EQ(support::open_descriptors(), before);
  EXPECT_FALSE(support::is_mapped(path_));
}

TEST_F(mapping_open, brings_every_page_in_when_asked_to) {
  const auto path = file_of(pattern(64 * page()));
  if (!support::evict(path)) GTEST_SKIP() << "this file system does not let go of its pages";
  {
    const mapping cold(path);
    if (cold.is_resident(0, cold.size())) GTEST_SKIP() << "the pages stayed in memory";
  }
  open_options options;
  options.touch = mapio::prefault::eager;
  const mapping m(path, options);
  EXPECT_TRUE(m.is_resident(0, m.size()));
}

TEST_F(mapping_open, brings_in_an_empty_file_too) {
  open_options options;
  options.touch = mapio::prefault::eager;
  EXPECT_FALSE(open_error(file_of(""), options));
  options = creating(0);
  options.touch = mapio::prefault::eager;
  EXPECT_FALSE(open_error(dir_ / "new", options));
}

TEST_F(mapping_open, of_a_missing_file_fails) {
  EXPECT_EQ(open_error(dir_ / "missing"), std::errc::no_such_file_or_directory);
  EXPECT_EQ(open_error(dir_ / "missing", read_write()), std::errc::no_such_file_or_directory);
  EXPECT_EQ(open_error(dir_ / "missing", copy_on_write()), std::errc::no_such_file_or_directory);
  EXPECT_EQ(open_error(dir_ / "missing" / "file", creating(1)),
            std::errc::no_such_file_or_directory);
  EXPECT_FALSE(fs::exists(dir_ / "missing"));
}

TEST_F(mapping_open, keeps_the_category_of_the_operating_system) {
  EXPECT_EQ(open_error(dir_ / "missing"), std::error_code(ENOENT, std::system_category()));
}

TEST_F(mapping_open, of_an_empty_path_fails) {
  EXPECT_EQ(open_error(""), std::errc::no_such_file_or_directory);
  EXPECT_EQ(open_error("", creating(1)), std::errc::no_such_file_or_directory);
}

TEST_F(mapping_open, of_a_directory_fails) {
  EXPECT_EQ(open_error(dir_.path()), std::errc::is_a_directory);
  EXPECT_EQ(open_error(dir_.path(), read_write()), std::errc::is_a_directory);
  EXPECT_EQ(open_error(dir_.path(), creating(1)), std::errc::is_a_directory);
  EXPECT_EQ(open_error(dir_.path(), creating(1, disposition::open_or_create)),
            std::errc::is_a_directory);
  EXPECT_TRUE(fs::is_directory(dir_.path()));
}

TEST_F(mapping_open, of_something_below_a_file_fails) {
  file_of("x");
  EXPECT_EQ(open_error(path_ / "below"), support::error_below_a_file());
}

TEST_F(mapping_open, of_a_name_that_is_too_long_fails) {
  EXPECT_EQ(open_error(dir_ / std::string(300, 'n')), support::error_of_a_long_name());
  EXPECT_EQ(open_error(dir_ / std::string(300, 'n'), creating(1)), support::error_of_a_long_name());
}

TEST_F(mapping_open, follows_a_symbolic_link_unless_told_otherwise) {
  file_of("target");
  const auto link = dir_ / "link";
  fs::create_symlink(path_, link);
  EXPECT_EQ(read_all(mapping(link)), "target");
  open_options options;
  options.follow_symlinks = false;
  EXPECT_EQ(open_error(link, options), std::errc::too_many_symbolic_link_levels);
  EXPECT_FALSE(open_error(path_, options));
  options = read_write();
  options.follow_symlinks = false;
  EXPECT_EQ(open_error(link, options), std::errc::too_many_symbolic_link_levels);
  for (const auto how : {disposition::open_or_create, disposition::create_or_truncate}) {
    options.create = how;
    EXPECT_EQ(open_error(link, options), std::errc::too_many_symbolic_link_levels);
  }
  EXPECT_EQ(read_file(path_), "target");
}

TEST_F(mapping_open, follows_links_before_the_last_component_in_any_case) {
  fs::create_directory(dir_ / "folder");
  file_of("deep", "folder/file");
  fs::create_directory_symlink(dir_ / "folder", dir_ / "link");
  open_options options;
  options.follow_symlinks = false;
  EXPECT_FALSE(open_error(dir_ / "link" / "file", options));
}

TEST_F(mapping_open, of_a_dangling_link_fails) {
  const auto link = dir_ / "link";
  fs::create_symlink(dir_ / "missing", link);
  EXPECT_EQ(open_error(link), std::errc::no_such_file_or_directory);
  EXPECT_EQ(open_error(link, creating(1, disposition::create_new)), std::errc::file_exists);
  EXPECT_FALSE(fs::exists(dir_ / "missing"));
}

TEST_F(mapping_open, of_links_in_a_circle_fails) {
  fs::create_symlink(dir_ / "b", dir_ / "a");
  fs::create_symlink(dir_ / "a", dir_ / "b");
  EXPECT_EQ(open_error(dir_ / "a"), std::errc::too_many_symbolic_link_levels);
}

TEST_F(mapping_open, refuses_options_that_contradict_each_other) {
  for (const auto mode : {access::read_only, access::copy_on_write})
    for (const auto how :
         {disposition::open_or_create, disposition::create_new, disposition::create_or_truncate}) {
      open_options options;
      options.mode = mode;
      options.create = how;
      options.size = page();
      EXPECT_EQ(open_error(path_, options), std::errc::invalid_argument);
      EXPECT_FALSE(fs::exists(path_));
    }
  file_of("kept");
  open_options options;
  options.create = disposition::create_or_truncate;
  EXPECT_EQ(open_error(path_, options), std::errc::invalid_argument);
  EXPECT_EQ(read_file(path_), "kept");
}

TEST_F(mapping_create, makes_a_file_of_zeros) {
  const mapping m = mapping::create(path_, 3 * page() + 5);
  EXPECT_EQ(m.mode(), access::read_write);
  EXPECT_EQ(m.size(), 3 * page() + 5);
  EXPECT_EQ(fs::file_size(path_), 3 * page() + 5);
  EXPECT_TRUE(same(read_all(m), std::string(3 * page() + 5, '\0')));
}

TEST_F(mapping_create, leaves_nothing_of_what_was_there) {
  for (const std::size_t before : {std::size_t{1}, 2 * page(), 9 * page()}) {
    file_of(pattern(before));
    const mapping m = mapping::create(path_, 4 * page());
    EXPECT_TRUE(same(read_all(m), std::string(4 * page(), '\0')));
    EXPECT_EQ(fs::file_size(path_), 4 * page());
  }
}

TEST_F(mapping_create, can_make_an_empty_file) {
  const mapping m = mapping::create(path_, 0);
  EXPECT_TRUE(m.is_open());
  EXPECT_TRUE(m.empty());
  EXPECT_EQ(fs::file_size(path_), 0U);
}

TEST_F(mapping_create, reports_errors_by_code_as_well) {
  std::error_code ec;
  const mapping bad = mapping::create(dir_ / "missing" / "file", 1, ec);
  EXPECT_EQ(ec, std::errc::no_such_file_or_directory);
  EXPECT_FALSE(bad.is_open());
  const mapping good = mapping::create(path_, 1, ec);
  EXPECT_FALSE(ec);
  EXPECT_TRUE(good.is_open());
}

TEST_F(mapping_create, new_fails_when_the_file_exists) {
  {
    const mapping m(path_, creating(page(), disposition::create_new));
    EXPECT_EQ(m.size(), page());
  }
  write_file(path_, "kept");
  EXPECT_EQ(open_error(path_, creating(page(), disposition::create_new)), std::errc::file_exists);
  EXPECT_EQ(read_file(path_), "kept");
}

TEST_F(mapping_create, or_open_creates_or_keeps) {
  {
    mapping m(path_, creating(page(), disposition::open_or_create));
    EXPECT_TRUE(same(read_all(m), std::string(page(), '\0')));
    m.update_region(0, asio::buffer("kept", 4));
  }
  const mapping m(path_, creating(9 * page(), disposition::open_or_create));
  EXPECT_EQ(m.size(), page());
  EXPECT_EQ(to_string(m.view(0, 4)), "kept");
}

TEST_F(mapping_create, new_is_won_by_exactly_one_thread) {
  constexpr int threads = 8;
  support::starting_line start(threads);
  std::atomic<int> won = 0;
  std::atomic<int> lost = 0;
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t)
    running.emplace_back([&] {
      start.arrive_and_wait();
      const std::error_code ec = open_error(path_, creating(page(), disposition::create_new));
      if (!ec) ++won;
      if (ec == std::errc::file_exists) ++lost;
    });
  for (auto& t : running)
    t.join();
  EXPECT_EQ(won, 1);
  EXPECT_EQ(lost, threads - 1);
}

TEST_F(mapping_create, or_open_by_many_threads_loses_nobodys_bytes) {
  constexpr std::size_t threads = 8;
  for (int round = 0; round < 10; ++round) {
    const auto path = dir_ / ("shared" + std::to_string(round));
    support::starting_line start(threads);
    std::vector<std::thread> running;
    for (std::size_t t = 0; t < threads; ++t)
      running.emplace_back([&, t] {
        start.arrive_and_wait();
        EXPECT_NO_THROW(write_slot(path, threads, t));
      });
    for (auto& t : running)
      t.join();
    expect_slots(path, threads);
  }
}

TEST_F(mapping_create, or_open_never_shows_a_file_that_has_not_got_its_size_yet) {
  constexpr std::size_t threads = 4;
  for (int round = 0; round < 50; ++round) {
    const auto path = dir_ / ("shared" + std::to_string(round));
    support::starting_line start(threads);
    std::vector<std::thread> running;
    for (std::size_t t = 0; t < threads; ++t)
      running.emplace_back([&] {
        start.arrive_and_wait();
        const mapping m(path, creating(page(), disposition::open_or_create));
        EXPECT_EQ(m.size(), page());
      });
    for (auto& t : running)
      t.join();
  }
}

TEST_F(mapping_create, allocates_blocks_only_when_told_to) {
  open_options options = creating(256 * page());
  mapping(path_, options).close();
  EXPECT_GE(support::allocated_bytes(path_), 256 * page());
  options.preallocate = false;
  mapping(dir_ / "sparse", options).close();
  EXPECT_LT(support::allocated_bytes(dir_ / "sparse"), 256 * page());
}

TEST_F(mapping_create, refuses_sizes_that_no_file_can_have) {
  for (const std::uint64_t size : {most, most - 1, most - page(), std::uint64_t{1} << 63}) {
    EXPECT_EQ(open_error(path_, creating(size)), std::errc::file_too_large) << size;
    EXPECT_FALSE(fs::exists(path_)) << "a file that the call created must be gone again";
    EXPECT_EQ(open_error(path_, creating(size, disposition::create_new)), std::errc::file_too_large)
        << size;
    EXPECT_EQ(open_error(path_, creating(size, disposition::open_or_create)),
              std::errc::file_too_large)
        << size;
    EXPECT_FALSE(fs::exists(path_));
  }
}

TEST_F(mapping_create, keeps_an_existing_file_when_the_size_cannot_be_had) {
  const std::string bytes = pattern(3 * page() + 1);
  file_of(bytes);
  for (const std::uint64_t size : {most, std::uint64_t{1} << 63, std::uint64_t{1} << 62}) {
    for (const bool preallocate : {true, false}) {
      open_options options = creating(size);
      options.preallocate = preallocate;
      const std::error_code ec = open_error(path_, options);
      EXPECT_TRUE(ec) << size;
      if (size >> 63 != 0) {
        EXPECT_EQ(ec, std::errc::file_too_large) << size;
      }
      EXPECT_TRUE(same(read_file(path_), bytes)) << size;
    }
  }
}

TEST_F(mapping_open, of_an_empty_file_works_in_every_mode) {
  file_of("");
  for (const auto& options : {read_only(), read_write(), copy_on_write()}) {
    mapping m(path_, options);
    EXPECT_TRUE(m.is_open());
    EXPECT_TRUE(m.empty());
    EXPECT_TRUE(m.view(0, 0).empty());
    EXPECT_EQ(code_of([&] { m.view(0, 1); }), errc::out_of_range);
    EXPECT_TRUE(m.is_resident(0, 0));
    m.prefetch();
    m.prefetch(0, 0);
    m.flush();
    m.flush_range(0, 0);
    EXPECT_EQ(m.read_into(0, asio::mutable_buffer()), 0U);
    EXPECT_EQ(m.pending_bytes(), 0U);
  }
}

TEST_F(mapping_open, of_an_empty_file_lets_it_grow) {
  file_of("");
  mapping m(path_, read_write());
  m.resize(5);
  EXPECT_TRUE(same(read_all(m), std::string(5, '\0')));
  m.update_region(0, asio::buffer("hello", 5));
  m.flush();
  EXPECT_EQ(read_file(path_), "hello");
  m.resize(100 * page());
  EXPECT_EQ(to_string(m.view(0, 5)), "hello");
}

/// Calls every member that needs an open file, and hands each error to `check`.
template <class Check>
void call_everything(mapping& m, Check check) {
  std::array<char, 4> bytes{};
  const auto run = [&](const char* what, auto&& call) {
    std::error_code ec;
    call(ec);
    check(what, ec);
  };
  run("view", [&](auto& ec) { EXPECT_TRUE(m.view(0, 1, ec).empty()); });
  run("view of nothing", [&](auto& ec) { EXPECT_TRUE(m.view(0, 0, ec).empty()); });
  run("mutable_view", [&](auto& ec) { EXPECT_TRUE(m.mutable_view(0, 1, ec).empty()); });
  run("update_region",
      [&](auto& ec) { EXPECT_EQ(m.update_region(0, asio::buffer(bytes), ec), 0U); });
  run("update_region of several", [&](auto& ec) {
    EXPECT_EQ(m.update_region(0, std::array{asio::buffer(bytes), asio::buffer(bytes)}, ec), 0U);
  });
  run("update_region of nothing",
      [&](auto& ec) { EXPECT_EQ(m.update_region(0, asio::const_buffer(), ec), 0U); });
  run("read_into", [&](auto& ec) { EXPECT_EQ(m.read_into(0, asio::buffer(bytes), ec), 0U); });
  run("read_into several", [&](auto& ec) {
    EXPECT_EQ(m.read_into(0, std::array{asio::buffer(bytes), asio::buffer(bytes)}, ec), 0U);
  });
  run("flush", [&](auto& ec) { m.flush(ec); });
  run("flush started", [&](auto& ec) { m.flush(durability::started, ec); });
  run("flush_range", [&](auto& ec) { m.flush_range(0, 1, ec); });
  run("flush_range of nothing", [&](auto& ec) { m.flush_range(0, 0, ec); });
  run("resize", [&](auto& ec) { m.resize(1, ec); });
  run("prefetch", [&](auto& ec) { m.prefetch(ec); });
  run("prefetch range", [&](auto& ec) { m.prefetch(0, 1, ec); });
  run("is_resident", [&](auto& ec) { EXPECT_FALSE(m.is_resident(0, 1, ec)); });
  run("release", [&](auto& ec) { EXPECT_EQ(m.release(ec), support::no_native_handle); });
}

void expect_closed(mapping& m) {
  EXPECT_FALSE(m.is_open());
  EXPECT_EQ(m.size(), 0U);
  EXPECT_TRUE(m.empty());
  EXPECT_EQ(m.capacity(), 0U);
  EXPECT_EQ(m.mode(), access::read_only);
  EXPECT_TRUE(m.path().empty());
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_EQ(m.native_handle(), support::no_native_handle);
  EXPECT_FALSE(m.flush_error());
  const mapio::file_stats stats = m.stats();
  EXPECT_EQ(stats.flush_calls, 0U);
  EXPECT_EQ(stats.syncs, 0U);
  EXPECT_EQ(stats.bytes_dirtied, 0U);
  m.clear_flush_error();
  call_everything(m, [](const char* what, std::error_code ec) {
    EXPECT_EQ(ec, errc::not_open) << what << ": " << ec.message();
  });
}

TEST_F(mapping_handle, is_closed_by_default) {
  mapping m;
  expect_closed(m);
  m.close();
  std::error_code ec = errc::pinned;
  m.close(ec);
  EXPECT_FALSE(ec);
}

TEST_F(mapping_handle, is_closed_after_close) {
  mapping m = mapping::create(path_, page());
  m.update_region(0, asio::buffer("x", 1));
  m.flush();
  m.close();
  expect_closed(m);
  m.close();
  expect_closed(m);
}

TEST_F(mapping_handle, is_closed_when_moved_from) {
  mapping a = mapping::create(path_, page());
  mapping b = std::move(a);
  expect_closed(a);
  EXPECT_TRUE(b.is_open());
  mapping c;
  c = std::move(b);
  expect_closed(b);
  EXPECT_EQ(c.size(), page());
  a = c;
  EXPECT_TRUE(a.is_open());
}

TEST_F(mapping_handle, throws_not_open_when_closed) {
  mapping m;
  EXPECT_EQ(code_of([&] { m.view(0, 1); }), errc::not_open);
  EXPECT_EQ(code_of([&] { m.mutable_view(0, 1); }), errc::not_open);
  EXPECT_EQ(code_of([&] { m.update_region(0, asio::buffer("x", 1)); }), errc::not_open);
  EXPECT_EQ(code_of([&] { m.read_into(0, asio::mutable_buffer()); }), errc::not_open);
  EXPECT_EQ(code_of([&] { m.flush(); }), errc::not_open);
  EXPECT_EQ(code_of([&] { m.flush_range(0, 0); }), errc::not_open);
  EXPECT_EQ(code_of([&] { m.resize(0); }), errc::not_open);
  EXPECT_EQ(code_of([&] { m.prefetch(); }), errc::not_open);
  EXPECT_EQ(code_of([&] { m.prefetch(0, 0); }), errc::not_open);
  EXPECT_EQ(code_of([&] { m.is_resident(0, 0); }), errc::not_open);
  EXPECT_EQ(code_of([&] { m.release(); }), errc::not_open);
}

TEST_F(mapping_handle, copies_share_the_file) {
  mapping a = mapping::create(path_, page());
  mapping b = a;
  a.update_region(0, asio::buffer("shared", 6));
  EXPECT_EQ(to_string(b.view(0, 6)), "shared");
  b.resize(3 * page());
  EXPECT_EQ(a.size(), 3 * page());
  EXPECT_EQ(a.native_handle(), b.native_handle());
}

TEST_F(mapping_handle, closes_the_file_for_every_copy) {
  mapping a = mapping::create(path_, page());
  mapping b = a;
  const auto fd = a.native_handle();
  b.close();
  expect_closed(a);
  EXPECT_FALSE(support::is_open_descriptor(fd));
}

TEST_F(mapping_handle, closed_copies_share_nothing) {
  const mapping closed;
  mapping copy = closed;
  copy.open(file_of("x"));
  EXPECT_TRUE(copy.is_open());
  EXPECT_FALSE(closed.is_open());

  mapping a(path_);
  mapping b = a;
  a.close();
  b.open(path_);
  EXPECT_TRUE(b.is_open());
  EXPECT_FALSE(a.is_open());
}

TEST_F(mapping_handle, equals_its_copies) {
  const mapping a = mapping::create(path_, page());
  const mapping b = a;  // NOLINT(performance-unnecessary-copy-initialization)
  const mapping c(path_);
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
  EXPECT_NE(a, mapping());
  EXPECT_EQ(mapping(), mapping());
}

TEST_F(mapping_handle, closes_the_file_with_the_last_copy) {
  auto a = std::make_unique<mapping>(mapping::create(path_, page()));
  auto b = std::make_unique<mapping>(*a);
  const auto fd = a->native_handle();
  a.reset();
  EXPECT_TRUE(support::is_open_descriptor(fd));
  EXPECT_TRUE(b->is_open());
  b.reset();
  EXPECT_FALSE(support::is_open_descriptor(fd));
  EXPECT_FALSE(support::is_mapped(path_));
}

TEST_F(mapping_handle, sees_a_file_that_was_removed_or_renamed) {
  mapping m = mapping::create(path_, page());
  fs::rename(path_, dir_ / "elsewhere");
  m.update_region(0, asio::buffer("moved", 5));
  m.flush();
  EXPECT_EQ(read_file(dir_ / "elsewhere").substr(0, 5), "moved");
  fs::remove(dir_ / "elsewhere");
  m.update_region(0, asio::buffer("gone!", 5));
  m.flush();
  EXPECT_EQ(to_string(m.view(0, 5)), "gone!");
}

struct range {
  std::uint64_t offset;
  std::uint64_t length;
};

std::vector<range> bad_ranges(std::uint64_t size) {
  return {{size, 1},        {size + 1, 0},       {0, size + 1},
          {size - 1, 2},    {most, 0},           {most, 1},
          {0, most},        {1, most},           {most, most},
          {most - 7, 8},    {8, most - 7},       {std::uint64_t{1} << 63, std::uint64_t{1} << 63},
          {size + 5, most}, {most - size, size}, {most - size + 1, size}};
}

std::vector<range> good_ranges(std::uint64_t size) {
  return {{0, 0}, {0, size}, {size, 0}, {size - 1, 1}, {page() - 1, 2}, {5, page()}};
}

TEST_F(mapping_bounds, hold_for_everything_that_takes_a_range) {
  mapping m = mapping::create(path_, 4 * page() + 100);
  for (const auto& [offset, length] : bad_ranges(m.size())) {
    SCOPED_TRACE(std::to_string(offset) + " + " + std::to_string(length));
    std::error_code ec;
    EXPECT_TRUE(m.view(offset, length, ec).empty());
    EXPECT_EQ(ec, errc::out_of_range);
    EXPECT_TRUE(m.mutable_view(offset, length, ec).empty());
    EXPECT_EQ(ec, errc::out_of_range);
    m.flush_range(offset, length, ec);
    EXPECT_EQ(ec, errc::out_of_range);
    m.prefetch(offset, length, ec);
    EXPECT_EQ(ec, errc::out_of_range);
    EXPECT_FALSE(m.is_resident(offset, length, ec));
    EXPECT_EQ(ec, errc::out_of_range);
    EXPECT_EQ(code_of([&] { m.view(offset, length); }), errc::out_of_range);
    EXPECT_EQ(code_of([&] { m.mutable_view(offset, length); }), errc::out_of_range);
    EXPECT_EQ(code_of([&] { m.flush_range(offset, length); }), errc::out_of_range);
    EXPECT_EQ(code_of([&] { m.prefetch(offset, length); }), errc::out_of_range);
    EXPECT_EQ(code_of([&] { m.is_resident(offset, length); }), errc::out_of_range);
  }
  for (const auto& [offset, length] : good_ranges(m.size())) {
    SCOPED_TRACE(std::to_string(offset) + " + " + std::to_string(length));
    std::error_code ec = errc::pinned;
    EXPECT_EQ(m.view(offset, length, ec).size(), length);
    EXPECT_FALSE(ec);
    EXPECT_EQ(m.mutable_view(offset, length).size(), length);
    m.flush_range(offset, length);
    m.prefetch(offset, length);
    EXPECT_TRUE(!support::tells_residency() || m.is_resident(offset, length));
  }
}

TEST_F(mapping_bounds, hold_for_buffers_which_are_then_left_alone) {
  const std::string bytes = pattern(2 * page());
  mapping m(file_of(bytes), read_write());
  std::string buffer(16, '#');
  for (const std::uint64_t offset :
       {m.size() - 15, m.size(), m.size() + 1, most - 15, most - 16, most}) {
    SCOPED_TRACE(offset);
    std::error_code ec;
    EXPECT_EQ(m.update_region(offset, asio::buffer(buffer), ec), 0U);
    EXPECT_EQ(ec, errc::out_of_range);
    EXPECT_EQ(m.read_into(offset, asio::buffer(buffer), ec), 0U);
    EXPECT_EQ(ec, errc::out_of_range);
    // The first of several would fit.
    const auto several =
        std::array{asio::buffer(buffer.data(), 1), asio::buffer(buffer.data() + 1, 15)};
    EXPECT_EQ(m.update_region(offset, several, ec), 0U);
    EXPECT_EQ(ec, errc::out_of_range);
    EXPECT_EQ(m.read_into(offset, several, ec), 0U);
    EXPECT_EQ(ec, errc::out_of_range);
    EXPECT_EQ(code_of([&] { m.update_region(offset, asio::buffer(buffer)); }), errc::out_of_range);
    EXPECT_EQ(code_of([&] { m.read_into(offset, several); }), errc::out_of_range);
  }
  EXPECT_TRUE(same(buffer, std::string(16, '#')));
  EXPECT_TRUE(same(read_all(m), bytes));
  m.update_region(m.size() - 16, asio::buffer(buffer));
  EXPECT_TRUE(same(read_all(m), bytes.substr(0, bytes.size() - 16) + buffer));
}

TEST_F(mapping_bounds, allow_no_bytes_up_to_the_end_and_not_beyond) {
  mapping m(file_of("12345"), read_write());
  std::error_code ec;
  for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{5}}) {
    EXPECT_EQ(m.update_region(offset, asio::const_buffer(), ec), 0U);
    EXPECT_FALSE(ec);
    EXPECT_EQ(m.read_into(offset, asio::mutable_buffer(), ec), 0U);
    EXPECT_FALSE(ec);
    EXPECT_EQ(m.update_region(offset, std::vector<asio::const_buffer>(), ec), 0U);
    EXPECT_FALSE(ec);
    EXPECT_EQ(m.read_into(offset, std::vector<asio::mutable_buffer>(3), ec), 0U);
    EXPECT_FALSE(ec);
  }
  m.update_region(6, asio::const_buffer(), ec);
  EXPECT_EQ(ec, errc::out_of_range);
  m.update_region(6, std::vector<asio::const_buffer>(), ec);
  EXPECT_EQ(ec, errc::out_of_range);
  m.read_into(6, asio::mutable_buffer(), ec);
  EXPECT_EQ(ec, errc::out_of_range);
  m.read_into(most, std::vector<asio::mutable_buffer>(3), ec);
  EXPECT_EQ(ec, errc::out_of_range);
  EXPECT_EQ(m.pending_bytes() % page(), 0U);
}

TEST_F(mapping_bounds, end_at_the_file_and_not_at_the_capacity) {
  mapping m = mapping::create(path_, 10);
  ASSERT_GT(m.capacity(), 11U);
  EXPECT_EQ(code_of([&] { m.view(0, 11); }), errc::out_of_range);
  m.resize(11);
  EXPECT_EQ(m.view(0, 11).size(), 11U);
  m.resize(10);
  EXPECT_EQ(code_of([&] { m.view(0, 11); }), errc::out_of_range);
}

TEST_F(mapping_io, moves_bytes_of_every_size_at_every_alignment) {
  const std::size_t size = 40 * page();
  mapping m = mapping::create(path_, size);
  std::string expected(size, '\0');
  std::uint64_t seed = 1;
  for (const std::size_t length :
       {std::size_t{1}, std::size_t{2}, std::size_t{3}, std::size_t{7}, std::size_t{8},
        std::size_t{15}, std::size_t{16}, std::size_t{17}, std::size_t{63}, std::size_t{64},
        std::size_t{65}, std::size_t{255}, page() - 1, page(), page() + 1, 5 * page() + 3,
        33 * page()}) {
    for (const std::size_t offset :
         {std::size_t{0}, std::size_t{1}, std::size_t{13}, page() - 1, page(), 2 * page() + 5}) {
      const std::string bytes = pattern(length, ++seed);
      EXPECT_EQ(m.update_region(offset, asio::buffer(bytes)), length);
      expected.replace(offset, length, bytes);
      std::string back(length, '\0');
      EXPECT_EQ(m.read_into(offset, asio::buffer(back)), length);
      ASSERT_TRUE(same(back, bytes)) << offset << " + " << length;
    }
  }
  EXPECT_TRUE(same(read_all(m), expected));
  EXPECT_TRUE(same(read_file(path_), expected));
}

TEST_F(mapping_io, takes_sequences_of_buffers) {
  mapping m = mapping::create(path_, 4 * page());
  const std::string a = pattern(10, 1);
  const std::string b = pattern(2 * page(), 2);
  const std::string c = pattern(3, 3);
  const std::vector<asio::const_buffer> out{asio::buffer(a), asio::const_buffer(), asio::buffer(b),
                                            asio::buffer(c), asio::const_buffer()};
  EXPECT_EQ(m.update_region(page() - 5, out), a.size() + b.size() + c.size());
  EXPECT_EQ(to_string(m.view(page() - 5, a.size() + b.size() + c.size())), a + b + c);
  EXPECT_TRUE(same(to_string(m.view(0, page() - 5)), std::string(page() - 5, '\0')));

  std::string x(page(), '\0');
  std::array<char, 13> y{};
  std::vector<char> z(page());
  const std::array<asio::mutable_buffer, 3> in{asio::buffer(x), asio::buffer(y), asio::buffer(z)};
  EXPECT_EQ(m.read_into(page() - 5, in), 2 * page() + 13);
  EXPECT_EQ(x + std::string(y.data(), y.size()) + std::string(z.data(), z.size()), a + b + c);
}

TEST_F(mapping_io, takes_regions_as_buffers) {
  const std::string bytes = pattern(2 * page());
  const mapping source(file_of(bytes, "source"));
  mapping m = mapping::create(path_, 4 * page());
  EXPECT_EQ(m.update_region(100, source.view(0, source.size())), bytes.size());
  EXPECT_TRUE(same(to_string(m.view(100, bytes.size())), bytes));
  mapping target = mapping::create(dir_ / "target", bytes.size());
  EXPECT_EQ(m.read_into(100, target.mutable_view(0, bytes.size())), bytes.size());
  EXPECT_TRUE(same(read_all(target), bytes));
}

TEST_F(mapping_io, reaches_every_other_mapping_of_the_file) {
  mapping m = mapping::create(path_, page());
  const support::foreign_mapping foreign(path_, page());
  m.update_region(5, asio::buffer("hello", 5));
  EXPECT_EQ(std::string_view(foreign.data() + 5, 5), "hello");
  std::memcpy(foreign.data() + 100, "world", 5);
  EXPECT_EQ(to_string(m.view(100, 5)), "world");
}

TEST_F(mapping_io, refuses_stores_when_it_is_read_only) {
  const std::string bytes = pattern(2 * page());
  mapping m(file_of(bytes));
  std::error_code ec;
  EXPECT_EQ(m.update_region(0, asio::buffer("x", 1), ec), 0U);
  EXPECT_EQ(ec, errc::read_only);
  EXPECT_EQ(m.update_region(0, std::array{asio::buffer("x", 1), asio::buffer("y", 1)}, ec), 0U);
  EXPECT_EQ(ec, errc::read_only);
  EXPECT_TRUE(m.mutable_view(0, 1, ec).empty());
  EXPECT_EQ(ec, errc::read_only);
  m.resize(page(), ec);
  EXPECT_EQ(ec, errc::read_only);
  m.resize(8 * page(), ec);
  EXPECT_EQ(ec, errc::read_only);
  EXPECT_EQ(code_of([&] { m.update_region(0, asio::buffer("x", 1)); }), errc::read_only);
  EXPECT_EQ(code_of([&] { m.mutable_view(0, 1); }), errc::read_only);
  EXPECT_EQ(code_of([&] { m.resize(1); }), errc::read_only);
  EXPECT_TRUE(same(read_file(path_), bytes));
  EXPECT_EQ(m.capacity(), m.size());
}

TEST_F(mapping_io, updates_of_disjoint_ranges_by_many_threads_are_all_there) {
  constexpr std::size_t threads = 4;
  constexpr std::size_t piece =
      24;  // does not divide a page: neighbours of different threads share cache lines
  const std::size_t count = 32 * page() / (threads * piece);
  mapping m = mapping::create(path_, threads * piece * count);
  support::starting_line start(threads);
  std::vector<std::thread> running;
  for (std::size_t t = 0; t < threads; ++t)
    running.emplace_back([&, t] {
      start.arrive_and_wait();
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t slot = i * threads + t;
        m.update_region(slot * piece, asio::buffer(pattern(piece, slot)));
      }
    });
  for (auto& t : running)
    t.join();
  std::string expected;
  for (std::size_t slot = 0; slot < threads * count; ++slot)
    expected += pattern(piece, slot);
  EXPECT_TRUE(same(read_all(m), expected));
  m.flush();
  EXPECT_EQ(m.pending_bytes(), 0U);
}

TEST_F(mapping_io, runs_beside_flushes_growth_and_views_in_other_threads) {
  mapping m = mapping::create(path_, 16 * page());
  std::atomic<bool> stop = false;
  std::vector<std::thread> running;
  for (std::size_t t = 0; t < 2; ++t)
    running.emplace_back([&, t] {
      for (std::uint64_t i = 0; !stop; ++i) {
        const std::uint64_t value = i;
        m.update_region(t * 8, asio::buffer(&value, sizeof value));
        std::uint64_t back = 0;
        m.read_into(t * 8, asio::buffer(&back, sizeof back));
        EXPECT_EQ(back, value);
      }
    });
  running.emplace_back([&] {
    while (!stop) {
      const mapio::region r = m.view(0, 16);
      EXPECT_EQ(r.size(), 16U);
    }
  });
  for (int i = 1; i <= 50; ++i) {
    m.flush();
    // By so much, every system can let it grow behind a view.
    m.resize((1 + static_cast<std::uint64_t>(i)) * 16 * page());
    m.flush_range(0, 16);
  }
  stop = true;
  for (auto& t : running)
    t.join();
  m.flush();
  EXPECT_EQ(m.pending_bytes(), 0U);
}

INSTANTIATE_TEST_SUITE_P(on, mapping_resize, testing::Values("disk", "tmpfs"),
                         [](const auto& i) { return std::string(i.param); });

TEST_P(mapping_resize, grows_by_zeros_and_keeps_what_was_there) {
  const std::string bytes = pattern(page() + 100);
  mapping m = create(bytes);
  for (const std::size_t size :
       {page() + 101, 2 * page(), 2 * page() + 1, 100 * page(), 1000 * page() + 7}) {
    m.resize(size);
    EXPECT_EQ(m.size(), size);
    EXPECT_EQ(fs::file_size(path_), size);
    EXPECT_TRUE(same(read_all(m), bytes + std::string(size - bytes.size(), '\0'))) << size;
  }
  EXPECT_TRUE(same(read_file(path_), read_all(m)));
}

TEST_P(mapping_resize, to_the_same_size_changes_nothing) {
  const std::string bytes = pattern(page() + 100);
  mapping m = create(bytes);
  const mapio::region r = m.view(0, m.size());
  m.resize(m.size());
  EXPECT_EQ(m.size(), bytes.size());
  EXPECT_TRUE(same(r.text(), bytes));
}

TEST_P(mapping_resize, shrinks_and_forgets_what_was_cut) {
  const std::string bytes = pattern(4 * page());
  mapping m = create(bytes);
  m.resize(page() + 10);
  EXPECT_EQ(fs::file_size(path_), page() + 10);
  EXPECT_TRUE(same(read_all(m), bytes.substr(0, page() + 10)));
  m.resize(4 * page());
  EXPECT_TRUE(same(read_all(m), bytes.substr(0, page() + 10) + std::string(3 * page() - 10, '\0')));
}

TEST_P(mapping_resize, to_zero_and_back) {
  mapping m = create(pattern(3 * page()));
  m.resize(0);
  EXPECT_TRUE(m.is_open());
  EXPECT_TRUE(m.empty());
  EXPECT_EQ(fs::file_size(path_), 0U);
  EXPECT_TRUE(m.view(0, 0).empty());
  EXPECT_EQ(code_of([&] { m.view(0, 1); }), errc::out_of_range);
  m.flush();
  m.resize(2 * page());
  EXPECT_TRUE(same(read_all(m), std::string(2 * page(), '\0')));
}

TEST_P(mapping_resize, moves_nothing_within_the_capacity) {
  const std::size_t granule = support::mapping_granule();
  mapping m = create(pattern(granule));
  const std::uint64_t capacity = m.capacity();
  ASSERT_GE(capacity, 64 * granule);
  const mapio::region r = m.view(0, granule);
  for (int i = 2; i <= 64; ++i) {
    m.resize(static_cast<std::uint64_t>(i) * granule);
    EXPECT_EQ(m.view(0, 1).data(), r.data());
  }
  EXPECT_EQ(m.capacity(), capacity);
  EXPECT_EQ(m.stats().moves, 0U);
  EXPECT_TRUE(same(r.text(), pattern(granule)));
}

TEST_P(mapping_resize, reaches_to_the_last_byte_of_the_capacity_without_moving) {
  open_options options = read_write();
  options.reserve = 1 << 20;
  options.preallocate = false;
  mapping m = create(pattern(support::mapping_granule()), options);
  ASSERT_GE(m.capacity(), 1U << 20);
  ASSERT_LT(m.capacity(), 64U << 20);
  const std::uint64_t capacity = m.capacity();
  const mapio::region r = m.view(0, 1);
  m.resize(capacity);
  EXPECT_EQ(m.stats().moves, 0U);
  EXPECT_EQ(m.view(0, 1).data(), r.data());
  m.update_region(capacity - 1, asio::buffer("z", 1));
  EXPECT_EQ(to_string(m.view(capacity - 1, 1)), "z");
}

TEST_P(mapping_resize, beyond_the_capacity_moves_when_no_region_lives) {
  open_options options = read_write();
  options.reserve = 1 << 20;
  options.preallocate = false;
  const std::string bytes = pattern(page() + 1);
  mapping m = create(bytes, options);
  const mapping copy = m;
  const std::uint64_t beyond = m.capacity() + 1;
  {
    const mapio::region r = m.view(0, 1);
    EXPECT_EQ(code_of([&] { m.resize(beyond); }), errc::pinned);
    EXPECT_EQ(m.size(), bytes.size());
    EXPECT_EQ(fs::file_size(path_), bytes.size());
    EXPECT_TRUE(same(to_string(r), bytes.substr(0, 1)));
    EXPECT_EQ(m.stats().moves, 0U);
  }
  m.resize(beyond);
  EXPECT_EQ(m.stats().moves, 1U);
  EXPECT_EQ(m.size(), beyond);
  EXPECT_GE(m.capacity(), beyond);
  EXPECT_EQ(copy.size(), beyond);
  EXPECT_TRUE(same(to_string(copy.view(0, bytes.size())), bytes));
  EXPECT_TRUE(same(to_string(m.view(beyond - 100, 100)), std::string(100, '\0')));
  m.update_region(beyond - 1, asio::buffer("z", 1));
  m.flush();
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_EQ(fs::file_size(path_), beyond);
}

TEST_P(mapping_resize, beyond_the_capacity_keeps_what_is_dirty_dirty) {
  open_options options = read_write();
  options.reserve = 1 << 20;
  options.preallocate = false;
  mapping m = create(pattern(4 * page()), options);
  m.flush();
  m.update_region(2 * page(), asio::buffer("dirty", 5));
  m.resize(m.capacity() + 1);
  EXPECT_GE(cost_of_flush(m, 2 * page(), 5), 1U);
}

TEST_P(mapping_resize, beyond_the_capacity_is_refused_while_pinned_and_waits_for_copies) {
  open_options options = read_write();
  options.reserve = 1 << 20;
  options.preallocate = false;
  const std::string bytes = pattern(page());
  mapping m = create(bytes, options);
  std::atomic<bool> stop = false;
  std::vector<std::thread> running;
  for (int t = 0; t < 2; ++t)
    running.emplace_back([&] {
      std::string copy(64, '\0');
      for (int i = 0; !stop; ++i) {
        m.read_into(0, asio::buffer(copy));
        EXPECT_TRUE(same(copy, bytes.substr(0, 64)));
        if (i % 1000 != 0) continue;
        const mapio::region r = m.view(0, 64);
        EXPECT_TRUE(same(r.text(), bytes.substr(0, 64)));
      }
    });
  EXPECT_TRUE(support::eventually([&] {
    std::error_code ec;
    m.resize(m.capacity() + 1, ec);
    if (ec) {
      EXPECT_EQ(ec, errc::pinned) << ec.message();
    }
    return m.stats().moves >= 3;
  }));
  stop = true;
  for (auto& t : running)
    t.join();
}

TEST_P(mapping_resize, gives_zeros_where_somebody_stored_past_the_end) {
  const std::string bytes = pattern(100);
  for (const std::uint64_t target :
       {std::uint64_t{150}, std::uint64_t{page()}, std::uint64_t{3 * page()}}) {
    mapping m = create(bytes);
    const support::foreign_mapping foreign(path_, page());
    std::memset(foreign.data() + 100, '#',
                page() - 100);  // in the last page, behind the end of the file
    m.resize(target);
    EXPECT_TRUE(same(read_all(m), bytes + std::string(target - 100, '\0'))) << target;
    EXPECT_TRUE(same(read_file(path_), bytes + std::string(target - 100, '\0'))) << target;
  }
}

TEST_P(mapping_resize, gives_zeros_after_a_shrink_into_a_page) {
  const std::string bytes = pattern(2 * page());
  mapping m = create(bytes);
  m.resize(100);
  {
    const support::foreign_mapping foreign(path_, page());
    std::memset(foreign.data() + 100, '#', page() - 100);
  }
  m.resize(2 * page());
  EXPECT_TRUE(same(read_all(m), bytes.substr(0, 100) + std::string(2 * page() - 100, '\0')));
}

TEST_P(mapping_resize, beyond_the_capacity_gives_zeros_too) {
  open_options options = read_write();
  options.reserve = 1 << 20;
  options.preallocate = false;
  mapping m = create(pattern(100), options);
  const support::foreign_mapping foreign(path_, page());
  std::memset(foreign.data() + 100, '#', page() - 100);
  m.resize(m.capacity() + page() + 1);
  EXPECT_TRUE(
      same(to_string(m.view(0, 2 * page())), pattern(100) + std::string(2 * page() - 100, '\0')));
}

TEST_P(mapping_resize, refuses_to_cut_pages_under_a_region) {
  const std::string bytes = pattern(4 * page());
  mapping m = create(bytes);
  for (const bool writable : {false, true}) {
    mapio::region r;
    mapio::mutable_region w;
    if (writable)
      w = m.mutable_view(2 * page(), 100);
    else
      r = m.view(2 * page(), 100);
    for (const std::uint64_t size :
         {std::uint64_t{0}, std::uint64_t{2 * page()}, std::uint64_t{2 * page() + 99}}) {
      EXPECT_EQ(code_of([&] { m.resize(size); }), errc::pinned) << size;
      EXPECT_EQ(m.size(), 4 * page());
    }
    EXPECT_EQ(fs::file_size(path_), 4 * page());
  }
  EXPECT_TRUE(same(read_all(m), bytes));
}

TEST_P(mapping_resize, cuts_up_to_the_last_byte_of_a_region) {
  const std::string bytes = pattern(4 * page());
  mapping m = create(bytes);
  const mapio::region r = m.view(2 * page(), 100);
  m.resize(2 * page() + 100);
  EXPECT_EQ(m.size(), 2 * page() + 100);
  EXPECT_TRUE(same(r.text(), bytes.substr(2 * page(), 100)));
}

TEST_P(mapping_resize, refuses_sizes_that_no_file_can_have) {
  const std::string bytes = pattern(page());
  mapping m = create(bytes);
  for (const std::uint64_t size : {most, most - 1, most - page() + 1, std::uint64_t{1} << 63}) {
    EXPECT_EQ(code_of([&] { m.resize(size); }), std::errc::file_too_large) << size;
    EXPECT_EQ(m.size(), page());
    EXPECT_TRUE(same(read_file(path_), bytes));
  }
  EXPECT_TRUE(code_of([&] { m.resize(std::uint64_t{1} << 62); }));
  EXPECT_EQ(m.size(), page());
  EXPECT_EQ(fs::file_size(path_), page());
  m.resize(2 * page());
  EXPECT_TRUE(same(read_all(m), bytes + std::string(page(), '\0')));
}

TEST_P(mapping_resize, makes_new_bytes_durable_with_the_next_flush) {
  mapping m = create(pattern(page()));
  m.flush();
  EXPECT_EQ(cost_of_flush(m), 0U);
  m.resize(4 * page());
  EXPECT_GE(cost_of_flush(m), 1U) << "the size has to be made durable";
  EXPECT_EQ(cost_of_flush(m), 0U);
  m.resize(page());
  EXPECT_GE(cost_of_flush(m), 1U);
  EXPECT_EQ(cost_of_flush(m), 0U);
}

TEST_P(mapping_resize, by_many_threads_ends_with_one_of_their_sizes) {
  mapping m = create(pattern(page()));
  std::vector<std::thread> running;
  for (std::uint64_t t = 2; t <= 5; ++t)
    running.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i)
        m.resize(t * page());
    });
  for (auto& t : running)
    t.join();
  EXPECT_EQ(fs::file_size(path_), m.size());
  EXPECT_EQ(m.size() % page(), 0U);
  EXPECT_GE(m.size(), 2 * page());
  EXPECT_LE(m.size(), 5 * page());
  EXPECT_TRUE(same(to_string(m.view(0, page())), pattern(page())));
}

TEST_F(mapping_flush, syncs_once_after_create_and_then_nothing) {
  mapping m = mapping::create(path_, 4 * page());
  EXPECT_GE(cost_of_flush(m), 1U);
  EXPECT_EQ(m.pending_bytes(), 0U);
  const std::uint64_t clean = m.stats().clean_flushes;
  EXPECT_EQ(cost_of_flush(m), 0U);
  EXPECT_EQ(cost_of_flush(m, 0, 4 * page()), 0U);
  EXPECT_EQ(m.stats().clean_flushes, clean + 2);
}

TEST_F(mapping_flush, syncs_a_file_that_was_there_before_us_once) {
  mapping m(file_of(pattern(4 * page())), read_write());
  EXPECT_GE(cost_of_flush(m), 1U);
  EXPECT_EQ(cost_of_flush(m), 0U);
}

TEST_F(mapping_flush, syncs_only_what_was_stored_to) {
  mapping m = mapping::create(path_, 16 * page());
  m.flush();
  m.update_region(5 * page() + 100, asio::buffer("x", 1));
  EXPECT_EQ(cost_of_flush(m, 0, 5 * page()), 0U);
  EXPECT_EQ(cost_of_flush(m, 6 * page(), 10 * page()), 0U);
  EXPECT_EQ(cost_of_flush(m, 5 * page(), 0), 0U);
  EXPECT_EQ(cost_of_flush(m, 5 * page(), 1), 1U);  // another byte of the same page
  EXPECT_EQ(cost_of_flush(m), 0U);
}

TEST_F(mapping_flush, a_view_that_is_refused_makes_nothing_dirty) {
  mapping m = mapping::create(path_, 0);
  m.flush();
  EXPECT_EQ(code_of([&] { m.mutable_view(page(), 10); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { m.atomic<std::uint32_t>(2 * page()); }), errc::out_of_range);
  m.resize(4 * page());
  EXPECT_EQ(m.pending_bytes(), 0U);
}

TEST_F(mapping_flush, of_a_range_leaves_the_rest_dirty) {
  mapping m = mapping::create(path_, 16 * page());
  m.flush();
  m.update_region(2 * page(), asio::buffer("x", 1));
  m.update_region(9 * page(), asio::buffer("x", 1));
  EXPECT_EQ(m.pending_bytes(), 2 * page());
  m.flush_range(0, 4 * page());
  EXPECT_EQ(m.pending_bytes(), page());
  EXPECT_EQ(cost_of_flush(m, 0, 4 * page()), 0U);
  EXPECT_GE(cost_of_flush(m), 1U);
  EXPECT_EQ(m.pending_bytes(), 0U);
}

TEST_F(mapping_flush, of_the_first_range_after_open_leaves_the_rest_dirty) {
  mapping m(file_of(pattern(16 * page())), read_write());
  EXPECT_GE(cost_of_flush(m, 0, page()), 1U);
  EXPECT_EQ(cost_of_flush(m, 0, page()), 0U);
  EXPECT_GE(cost_of_flush(m, 8 * page(), page()), 1U);
  EXPECT_EQ(cost_of_flush(m, 8 * page(), page()), 0U);
  EXPECT_GE(cost_of_flush(m), 1U);
  EXPECT_EQ(cost_of_flush(m), 0U);
}

TEST_F(mapping_flush, counts_dirty_pages_exactly) {
  mapping m = mapping::create(path_, 300 * page());
  m.flush();
  EXPECT_EQ(m.pending_bytes(), 0U);
  const std::uint64_t dirtied = m.stats().bytes_dirtied;
  m.update_region(0, asio::buffer("a", 1));
  EXPECT_EQ(m.pending_bytes(), page());
  m.update_region(page() - 1, asio::buffer("b", 1));
  EXPECT_EQ(m.pending_bytes(), page());
  m.update_region(2 * page() - 1, asio::buffer("cd", 2));
  EXPECT_EQ(m.pending_bytes(), 3 * page());
  m.update_region(64 * page() - 1,
                  asio::buffer(pattern(130 * page() + 2)));  // across words of any bitmap
  EXPECT_EQ(m.pending_bytes(), (3 + 132) * page());
  m.update_region(0, asio::const_buffer());
  EXPECT_EQ(m.pending_bytes(), (3 + 132) * page());
  EXPECT_EQ(m.stats().bytes_dirtied - dirtied, (3 + 132) * page());
  m.flush();
  EXPECT_EQ(m.pending_bytes(), 0U);
}

TEST_F(mapping_flush, counts_a_last_page_that_is_not_whole_as_a_page) {
  mapping m = mapping::create(path_, 2 * page() + 1);
  m.flush();
  m.update_region(2 * page(), asio::buffer("x", 1));
  EXPECT_EQ(m.pending_bytes(), page());
  EXPECT_EQ(cost_of_flush(m, 2 * page(), 1), 1U);
  EXPECT_EQ(m.pending_bytes(), 0U);
}

TEST_F(mapping_flush, reads_make_nothing_dirty) {
  mapping m = mapping::create(path_, 4 * page());
  m.flush();
  read_all(m);
  { const mapio::region r = m.view(0, m.size()); }
  m.prefetch();
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_EQ(cost_of_flush(m), 0U);
}

TEST_F(mapping_flush, does_nothing_on_a_read_only_mapping) {
  mapping m(file_of(pattern(4 * page())));
  m.flush();
  m.flush_range(0, page());
  m.flush(durability::started);
  EXPECT_EQ(syncs_of(m), 0U);
  EXPECT_EQ(m.pending_bytes(), 0U);
}

TEST_F(mapping_flush, that_only_starts_writing_makes_nothing_durable) {
  mapping m = mapping::create(path_, 4 * page());
  m.flush();
  m.update_region(0, asio::buffer("x", 1));
  m.flush(durability::started);
  m.flush_range(0, page(), durability::started);
  EXPECT_GE(cost_of_flush(m), 1U) << "a durable flush after a started one still has to sync";
  EXPECT_EQ(cost_of_flush(m), 0U);
}

TEST_F(mapping_flush, counts_its_calls) {
  mapping m = mapping::create(path_, 4 * page());
  m.flush();
  m.flush_range(0, page());
  EXPECT_EQ(m.stats().flush_calls, 2U);
  EXPECT_EQ(m.stats().sync_waiters + m.stats().clean_flushes, 2U);
  EXPECT_EQ(m.stats().sync_failures, 0U);
}

TEST_F(mapping_prefetch, brings_pages_in) {
  const auto path = file_of(pattern(256 * page()));
  if (!support::evict(path)) GTEST_SKIP() << "this file system does not let go of its pages";
  mapping m(path);
  if (m.is_resident(0, m.size())) GTEST_SKIP() << "the pages stayed in memory";
  EXPECT_FALSE(m.is_resident(0, page()));
  m.prefetch(100 * page() + 5, 10);
  EXPECT_TRUE(m.is_resident(100 * page(), page()));
  m.prefetch();
  EXPECT_TRUE(m.is_resident(0, m.size()));
}

TEST_F(mapping_prefetch, of_a_range_brings_all_of_it_in) {
  const auto path = file_of(pattern(256 * page()));
  if (!support::evict(path)) GTEST_SKIP() << "this file system does not let go of its pages";
  mapping m(path);
  if (m.is_resident(0, m.size())) GTEST_SKIP() << "the pages stayed in memory";
  m.prefetch(10 * page() + 1, 200 * page() - 2);
  EXPECT_TRUE(m.is_resident(10 * page(), 200 * page()));
}

TEST_F(mapping_prefetch, of_a_writable_mapping_keeps_it_clean_and_sparse) {
  open_options options = creating(64 * page());
  options.preallocate = false;
  mapping m(path_, options);
  m.flush();
  m.prefetch();
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_LT(support::allocated_bytes(path_), 64 * page());
  EXPECT_EQ(cost_of_flush(m), 0U);
}

TEST_F(mapping_prefetch, of_nothing_succeeds) {
  mapping m(file_of("12345"));
  m.prefetch(0, 0);
  m.prefetch(5, 0);
  EXPECT_TRUE(m.is_resident(0, 0));
  EXPECT_TRUE(m.is_resident(5, 0));
}

TEST_F(mapping_prefetch, of_a_truncated_file_is_a_page_fault) {
  mapping m(file_of(pattern(8 * page())));
  support::truncate_file(path_, 2 * page());
  std::error_code ec;
  m.prefetch(ec);
  EXPECT_EQ(ec, errc::page_fault);
  m.prefetch(0, 2 * page(), ec);
  EXPECT_FALSE(ec);
  m.prefetch(2 * page(), 1, ec);
  EXPECT_EQ(ec, errc::page_fault);
}

TEST_F(mapping_lock, keeps_whole_pages_until_they_are_unlocked) {
  mapping m(file_of(pattern(16 * page())));
  m.lock_pages(2 * page() + 1, page());  // two pages
  support::expect_locked(2 * page());
  m.lock_pages(3 * page(), 4 * page());
  support::expect_locked(5 * page());
  m.unlock_pages(4 * page(), 1);
  support::expect_locked(4 * page());
  m.lock_pages();
  support::expect_locked(16 * page());
  m.unlock_pages();
  support::expect_locked(0);
  m.lock_pages();
  m.close();
  support::expect_locked(0);
}

TEST_F(mapping_lock, brings_pages_in_and_keeps_them_clean) {
  { const mapping m = mapping::create(file_of(pattern(64 * page())), 64 * page()); }
  if (!support::evict(path_)) GTEST_SKIP() << "this file system does not let go of its pages";
  mapping m(path_, read_write());
  m.flush();
  if (m.is_resident(0, m.size())) GTEST_SKIP() << "the pages stayed in memory";
  m.lock_pages(3 * page(), 20 * page());
  EXPECT_TRUE(m.is_resident(3 * page(), 20 * page()));
  EXPECT_EQ(m.pending_bytes(), 0U);
}

TEST_F(mapping_lock, of_nothing_or_of_what_is_not_there_changes_nothing) {
  mapping m(file_of(pattern(4 * page())));
  m.lock_pages(0, 0);
  m.unlock_pages(4 * page(), 0);
  support::expect_locked(0);
  m.lock_pages(0, page());
  for (const auto& [offset, length] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
           {4 * page(), 1}, {0, 4 * page() + 1}, {1, std::numeric_limits<std::uint64_t>::max()}}) {
    std::error_code ec;
    m.lock_pages(offset, length, ec);
    EXPECT_EQ(ec, errc::out_of_range) << offset << ' ' << length;
    m.unlock_pages(offset, length, ec);
    EXPECT_EQ(ec, errc::out_of_range) << offset << ' ' << length;
    EXPECT_EQ(code_of([&] { m.lock_pages(offset, length); }), errc::out_of_range);
  }
  support::expect_locked(page());
  m.close();
  EXPECT_EQ(code_of([&] { m.lock_pages(); }), errc::not_open);
  EXPECT_EQ(code_of([&] { m.unlock_pages(0, 1); }), errc::not_open);
  EXPECT_EQ(code_of([] { mapping().lock_pages(); }), errc::not_open);
}

TEST_F(mapping_lock, of_an_empty_file_is_of_nothing) {
  mapping m = mapping::create(path_, 0);
  m.lock_pages();
  m.unlock_pages();
  support::expect_locked(0);
}

TEST_F(mapping_lock, of_a_truncated_file_is_a_page_fault_and_takes_nothing) {
  mapping m(file_of(pattern(8 * page())));
  m.lock_pages(0, page());
  support::truncate_file(path_, 4 * page());
  std::error_code ec;
  m.lock_pages(ec);
  EXPECT_EQ(ec, errc::page_fault);
  support::expect_locked(page());
}

TEST_F(mapping_lock, ends_where_a_shrink_cuts) {
  mapping m = mapping::create(path_, 16 * page());
  m.lock_pages(2 * page(), 10 * page());
  m.resize(5 * page() + 1);
  support::expect_locked(4 * page());
  m.resize(16 * page());
  m.update_region(10 * page(), asio::buffer("x", 1));
  support::expect_locked(4 * page());
  m.unlock_pages();
  support::expect_locked(0);
}

TEST_F(mapping_lock, follows_a_mapping_that_moves) {
  open_options options = creating(8 * page());
  options.reserve = 8 * page();
  mapping m(path_, options);
  m.lock_pages(0, 6 * page());
  m.unlock_pages(2 * page(), page());
  m.resize(64 * page());
  ASSERT_EQ(m.stats().moves, 1U);
  support::expect_locked(5 * page());
  m.unlock_pages(0, 2 * page());
  m.resize(4096 * page());
  ASSERT_EQ(m.stats().moves, 2U);
  support::expect_locked(3 * page());
  m.resize(16384 * page());  // nothing was locked since
  ASSERT_EQ(m.stats().moves, 3U);
  support::expect_locked(3 * page());
}

TEST_F(mapping_prefetch, residency_is_that_of_every_page) {
  const std::size_t size = 256 << 20;  // a hole, farther than any read-ahead goes
  const auto path = file_of("");
  support::truncate_file(path, size);
  const mapping m(path);
  std::array<char, 1> byte{};
  m.read_into(0, asio::buffer(byte));
  EXPECT_TRUE(m.is_resident(0, 1));
  EXPECT_FALSE(m.is_resident(0, size));
  EXPECT_FALSE(m.is_resident(size - 1, 1));
}

TEST_F(mapping_adopt, takes_the_descriptor_over) {
  const std::string bytes = pattern(page() + 5);
  file_of(bytes);
  auto fd = support::open_native(path_, support::opening::to_read_and_write);
  const auto number = fd.get();
  mapping m = mapping::adopt(fd.release(), read_write());
  EXPECT_TRUE(m.is_open());
  EXPECT_EQ(m.native_handle(), number);
  EXPECT_TRUE(m.path().empty());
  EXPECT_EQ(m.mode(), access::read_write);
  EXPECT_TRUE(same(read_all(m), bytes));
  m.update_region(0, asio::buffer("adopted", 7));
  m.resize(3 * page());
  m.flush();
  m.close();
  EXPECT_FALSE(support::is_open_descriptor(number));
  EXPECT_EQ(read_file(path_).substr(0, 7), "adopted");
  EXPECT_EQ(fs::file_size(path_), 3 * page());
}

TEST_F(mapping_adopt, starts_wholly_dirty) {
  file_of(pattern(4 * page()));
  mapping m = mapping::adopt(
      support::open_native(path_, support::opening::to_read_and_write).release(), read_write());
  EXPECT_GE(cost_of_flush(m), 1U);
  EXPECT_EQ(cost_of_flush(m), 0U);
}

TEST_F(mapping_adopt, leaves_the_descriptor_alone_after_an_error) {
  file_of("x");
  const auto expect_error = [](support::native_handle fd, const open_options& options,
                               auto condition) {
    std::error_code ec;
    EXPECT_FALSE(mapping::adopt(fd, options, ec).is_open());
    EXPECT_EQ(ec, condition) << ec.message();
    EXPECT_EQ(code_of([&] { mapping::adopt(fd, options); }), ec);
    EXPECT_TRUE(fd == support::no_native_handle || support::is_open_descriptor(fd));
  };
  expect_error(support::open_native(path_, support::opening::to_read).release(), read_write(),
               std::errc::permission_denied);
  expect_error(support::open_native(path_, support::opening::to_write).release(), read_only(),
               std::errc::permission_denied);
  expect_error(support::open_native(path_, support::opening::to_write).release(), read_write(),
               std::errc::permission_denied);
  expect_error(support::open_native(path_, support::opening::to_append).release(), read_write(),
               errc::unsupported);
  expect_error(support::open_native_folder(dir_.path()).release(), read_only(),
               std::errc::is_a_directory);
  expect_error(support::open_null_device().release(), read_write(), std::errc::no_such_device);
  expect_error(support::open_pipe().release(), read_only(), std::errc::no_such_device);
  expect_error(support::no_native_handle, read_only(), std::errc::bad_file_descriptor);
}

TEST_F(mapping_adopt, refuses_an_empty_file_that_cannot_be_read) {
  file_of("");
  const auto fd = support::open_native(path_, support::opening::to_write);
  for (const open_options& options : {read_only(), copy_on_write()})
    EXPECT_EQ(code_of([&] { mapping::adopt(fd.get(), options); }), std::errc::permission_denied);
}

TEST_F(mapping_adopt, does_not_mind_what_is_about_creating) {
  const std::string bytes = pattern(100);
  file_of(bytes);
  open_options options = read_only();
  options.create = disposition::create_or_truncate;
  options.size = std::uint64_t{1} << 60;
  const mapping m =
      mapping::adopt(support::open_native(path_, support::opening::to_read).release(), options);
  EXPECT_TRUE(same(read_all(m), bytes));
}

TEST_F(mapping_adopt, needs_only_reading_for_private_stores) {
  file_of("12345");
  mapping m = mapping::adopt(support::open_native(path_, support::opening::to_read).release(),
                             copy_on_write());
  m.update_region(0, asio::buffer("x", 1));
  EXPECT_EQ(read_all(m), "x2345");
  EXPECT_EQ(read_file(path_), "12345");
}

TEST_F(mapping_adopt, release_gives_the_open_file_back) {
  mapping m = mapping::create(path_, page());
  mapping copy = m;
  m.update_region(0, asio::buffer("kept", 4));
  const auto number = m.native_handle();
  const support::native_file fd(m.release());
  EXPECT_EQ(fd.get(), number);
  expect_closed(m);
  expect_closed(copy);
  EXPECT_FALSE(support::is_mapped(path_));
  EXPECT_EQ(support::read_at(fd.get(), 0, 4), "kept");
  EXPECT_EQ(support::write_at(fd.get(), 0, "more"), 4U);
}

TEST_F(mapping_adopt, release_leaks_nothing) {
  const auto before = support::open_descriptors();
  for (int i = 0; i < 20; ++i) {
    mapping m = mapping::create(path_, page());
    const support::native_file fd(m.release());
  }
  EXPECT_EQ(support::open_descriptors(), before);
}

TEST_F(mapping_adopt, release_is_refused_while_a_region_lives) {
  mapping m = mapping::create(path_, page());
  auto r = std::make_unique<mapio::region>(m.view(0, 1));
  std::error_code ec;
  EXPECT_EQ(m.release(ec), support::no_native_handle);
  EXPECT_EQ(ec, errc::pinned);
  EXPECT_TRUE(m.is_open());
  EXPECT_EQ(code_of([&] { m.release(); }), errc::pinned);
  m.update_region(0, asio::buffer("y", 1));
  EXPECT_EQ(r->text(), "y");
  r.reset();
  const support::native_file fd(m.release());
  EXPECT_TRUE(support::is_open_descriptor(fd.get()));
}

TEST_F(mapping_adopt, a_refused_release_is_in_no_resizes_way) {
  mapping m = mapping::create(path_, page());
  const mapio::region held = m.view(0, 1);
  std::atomic<bool> stop = false;
  std::thread releasing([&] {
    while (!stop) {
      std::error_code ec;
      EXPECT_EQ(m.release(ec), support::no_native_handle);
      EXPECT_EQ(ec, errc::pinned);
      std::this_thread::sleep_for(std::chrono::microseconds(20));  // a mutex is not fair
    }
  });
  for (int i = 0; i < support::as_often_as(20'000) && !HasFailure(); ++i) {
    std::error_code ec;
    m.resize(i % 2 == 0 ? 16 * page() : page(), ec);
    EXPECT_FALSE(ec) << ec.message();
    EXPECT_EQ(fs::file_size(path_), m.size());
  }
  stop = true;
  releasing.join();
}

TEST_F(mapping_adopt, release_gives_nobody_else_the_file) {
  for (int round = 0; round < 200; ++round) {
    mapping m = mapping::create(path_, page());
    std::thread other([m]() mutable {
      for (int i = 0; i < 20; ++i) {
        std::error_code ec;
        m.flush(mapio::durability::started, ec);
        static_cast<void>(m.native_handle());
      }
    });
    std::error_code ec;
    support::native_handle fd = support::no_native_handle;
    while (fd == support::no_native_handle)
      fd = m.release(ec);
    support::close_native(fd);
    other.join();
    EXPECT_EQ(m.native_handle(), support::no_native_handle);
  }
}

TEST_F(mapping_adopt, takes_back_what_was_released) {
  mapping m = mapping::create(path_, page());
  for (int i = 0; i < 3; ++i) {
    const std::string bytes = pattern(page(), static_cast<std::uint64_t>(i));
    m.update_region(0, asio::buffer(bytes));
    m = mapping::adopt(m.release(), read_write());
    EXPECT_TRUE(same(read_all(m), bytes));
  }
}

TEST_F(mapping_copy_on_write, keeps_stores_to_itself) {
  const std::string bytes = pattern(4 * page());
  file_of(bytes);
  mapping m(path_, copy_on_write());
  const mapping other(path_);
  EXPECT_EQ(m.mode(), access::copy_on_write);
  EXPECT_EQ(m.update_region(page() - 3, asio::buffer("private", 7)), 7U);
  std::memcpy(m.mutable_view(3 * page(), 7).data(), "secret!", 7);
  EXPECT_EQ(to_string(m.view(page() - 3, 7)), "private");
  EXPECT_EQ(to_string(m.view(3 * page(), 7)), "secret!");
  std::array<char, 7> back{};
  m.read_into(page() - 3, asio::buffer(back));
  EXPECT_EQ(std::string_view(back.data(), back.size()), "private");
  m.flush();
  m.flush_range(0, m.size());
  EXPECT_TRUE(same(read_all(other), bytes));
  EXPECT_TRUE(same(read_file(path_), bytes));
  m.close();
  EXPECT_TRUE(same(read_file(path_), bytes));
}

TEST_F(mapping_copy_on_write, has_nothing_to_flush) {
  file_of(pattern(4 * page()));
  mapping m(path_, copy_on_write());
  m.update_region(0, asio::buffer("x", 1));
  m.flush();
  m.flush(durability::started);
  EXPECT_EQ(syncs_of(m), 0U);
  EXPECT_EQ(m.pending_bytes(), 0U);
}

TEST_F(mapping_copy_on_write, cannot_be_resized) {
  file_of(pattern(4 * page()));
  mapping m(path_, copy_on_write());
  for (const std::size_t size : {std::size_t{0}, page(), 8 * page()})
    EXPECT_EQ(code_of([&] { m.resize(size); }), errc::unsupported);
  EXPECT_EQ(m.size(), 4 * page());
  EXPECT_EQ(fs::file_size(path_), 4 * page());
  EXPECT_EQ(m.capacity(), m.size());
}

TEST_F(mapping_fault, of_read_into_reports_the_bytes_of_whole_pages) {
  const std::string bytes = pattern(8 * page());
  const mapping m(file_of(bytes));
  support::truncate_file(path_, 4 * page());
  for (const std::size_t offset :
       {std::size_t{0}, std::size_t{100}, page() - 1, 3 * page() + 5, 4 * page() - 1}) {
    std::string buffer(8 * page() - offset, '#');
    std::error_code ec;
    const std::size_t n = m.read_into(offset, asio::buffer(buffer), ec);
    EXPECT_EQ(ec, errc::page_fault) << ec.message();
    ASSERT_EQ(n, 4 * page() - offset);
    EXPECT_TRUE(same(buffer.substr(0, n), bytes.substr(offset, n)));
  }
  EXPECT_GE(m.stats().page_faults, 5U);
}

TEST_F(mapping_fault, of_read_into_several_buffers_counts_across_them) {
  const std::string bytes = pattern(8 * page());
  const mapping m(file_of(bytes));
  support::truncate_file(path_, 4 * page());
  std::string a(page() + 7, '#');
  std::string b(100, '#');
  std::string c(6 * page(), '#');
  const std::array<asio::mutable_buffer, 3> buffers{asio::buffer(a), asio::buffer(b),
                                                    asio::buffer(c)};
  std::error_code ec;
  const std::size_t n = m.read_into(50, buffers, ec);
  EXPECT_EQ(ec, errc::page_fault) << ec.message();
  EXPECT_EQ(n, 4 * page() - 50);
  EXPECT_TRUE(same((a + b + c).substr(0, n), bytes.substr(50, n)));
}

TEST_F(mapping_fault, at_the_first_byte_reports_nothing_done) {
  mapping m(file_of(pattern(8 * page())), read_write());
  support::truncate_file(path_, 4 * page());
  std::string buffer(page(), '#');
  std::error_code ec;
  EXPECT_EQ(m.read_into(4 * page(), asio::buffer(buffer), ec), 0U);
  EXPECT_EQ(ec, errc::page_fault);
  EXPECT_EQ(m.read_into(7 * page() + 9, asio::buffer(buffer.data(), 1), ec), 0U);
  EXPECT_EQ(ec, errc::page_fault);
  EXPECT_EQ(m.update_region(5 * page(), asio::buffer(buffer), ec), 0U);
  EXPECT_EQ(ec, errc::page_fault);
  EXPECT_EQ(code_of([&] { m.read_into(4 * page(), asio::buffer(buffer)); }), errc::page_fault);
  EXPECT_EQ(code_of([&] { m.update_region(4 * page(), asio::buffer(buffer)); }), errc::page_fault);
  EXPECT_EQ(fs::file_size(path_), 4 * page()) << "a store must not extend what somebody cut";
}

TEST_F(mapping_fault, of_update_region_stores_whole_pages_and_says_how_much) {
  mapping m(file_of(pattern(8 * page())), read_write());
  support::truncate_file(path_, 4 * page());
  const std::string bytes = pattern(7 * page(), 77);
  std::error_code ec;
  const std::size_t n = m.update_region(page() + 11, asio::buffer(bytes.data(), 6 * page()), ec);
  EXPECT_EQ(ec, errc::page_fault) << ec.message();
  EXPECT_EQ(n, 3 * page() - 11);
  EXPECT_TRUE(same(to_string(m.view(page() + 11, n)), bytes.substr(0, n)));
  EXPECT_TRUE(same(read_file(path_).substr(page() + 11), bytes.substr(0, n)));
  EXPECT_EQ(m.stats().page_faults, 1U);
}

TEST_F(mapping_fault, of_update_region_from_several_buffers_counts_across_them) {
  mapping m(file_of(pattern(8 * page())), read_write());
  support::truncate_file(path_, 4 * page());
  const std::string a = pattern(page() + 3, 5);
  const std::string b = pattern(10, 6);
  const std::string c = pattern(5 * page(), 7);
  std::error_code ec;
  const std::array<asio::const_buffer, 3> buffers{asio::buffer(a), asio::buffer(b),
                                                  asio::buffer(c)};
  const std::size_t n = m.update_region(100, buffers, ec);
  EXPECT_EQ(ec, errc::page_fault) << ec.message();
  ASSERT_EQ(n, 4 * page() - 100);
  EXPECT_TRUE(same(read_file(path_).substr(100), (a + b + c).substr(0, n)));
}

TEST_F(mapping_fault, of_the_source_of_an_update_is_no_store_that_was_refused) {
  mapping m(file_of(pattern(8 * page())), read_write());
  m.flush();
  write_file(dir_ / "other", pattern(4 * page(), 3));
  const mapping other(dir_ / "other");
  const mapio::region source = other.view(0, 4 * page());
  support::truncate_file(dir_ / "other", 2 * page());
  std::error_code ec;
  EXPECT_EQ(m.update_region(page(), asio::buffer(source.data(), source.size()), ec), 2 * page());
  EXPECT_EQ(ec, errc::page_fault) << ec.message();
  m.flush(ec);
  EXPECT_FALSE(ec) << "nothing of it was lost: " << ec.message();
  EXPECT_FALSE(m.flush_error());
  EXPECT_TRUE(same(read_file(path_).substr(page(), 2 * page()), pattern(2 * page(), 3)));
}

TEST_F(mapping_fault, marks_what_was_stored_before_it_as_dirty) {
  mapping m(file_of(pattern(8 * page())), read_write());
  m.flush();
  support::truncate_file(path_, 4 * page());
  std::error_code ec;
  m.update_region(3 * page(), asio::buffer(pattern(2 * page())), ec);
  ASSERT_EQ(ec, errc::page_fault);
  EXPECT_GE(m.pending_bytes(), page());
}

TEST_F(mapping_fault, of_large_copies_loses_no_whole_page) {
  // A fast memcpy of this size may start anywhere.
  const std::string bytes = pattern(4 << 20);
  const mapping m(file_of(bytes));
  for (std::size_t keep = (4 << 20) - page(); keep > 0; keep /= 3) {
    keep -= keep % page();
    if (keep == 0) break;
    support::truncate_file(path_, keep);
    std::string buffer(bytes.size(), '#');
    std::error_code ec;
    ASSERT_EQ(m.read_into(0, asio::buffer(buffer), ec), keep);
    ASSERT_EQ(ec, errc::page_fault);
    ASSERT_TRUE(buffer.compare(0, keep, bytes, 0, keep) == 0);
  }
}

TEST_F(mapping_fault, leaves_the_mapping_usable) {
  const std::string bytes = pattern(8 * page());
  mapping m(file_of(bytes), read_write());
  support::truncate_file(path_, 0);
  std::error_code ec;
  std::string buffer(page(), '#');
  m.read_into(0, asio::buffer(buffer), ec);
  ASSERT_EQ(ec, errc::page_fault);
  EXPECT_EQ(m.size(), bytes.size()) << "as this library knows it";
  write_file(path_, bytes);
  EXPECT_EQ(m.read_into(0, asio::buffer(buffer), ec), page());
  EXPECT_FALSE(ec);
  EXPECT_TRUE(same(buffer, bytes.substr(0, page())));
}

TEST_F(mapping_fault, is_survived_by_many_threads_while_somebody_truncates) {
  const std::string bytes = pattern(8 * page());
  mapping m(file_of(bytes), read_write());
  std::atomic<bool> stop = false;
  std::atomic<std::uint64_t> faults = 0;
  std::vector<std::thread> running;
  for (int t = 0; t < 3; ++t)
    running.emplace_back([&] {
      std::string buffer(8 * page(), '\0');
      while (!stop) {
        std::error_code ec;
        const std::size_t n = m.read_into(0, asio::buffer(buffer), ec);
        if (ec) {
          EXPECT_EQ(ec, errc::page_fault) << ec.message();
          EXPECT_EQ(n % page(), 0U);
          ++faults;
        } else {
          EXPECT_EQ(n, buffer.size());
        }
      }
    });
  EXPECT_TRUE(support::eventually([&] {
    support::truncate_file(path_, page());
    support::truncate_file(path_, 8 * page());
    return faults >= 200;
  }));
  stop = true;
  for (auto& t : running)
    t.join();
  EXPECT_GE(m.stats().page_faults, 200U);
}

TEST_F(mapping_fault, guarded_copy_copies_everything_where_there_is_no_fault) {
  const std::string bytes = pattern(3 * page() + 5);
  std::string target(bytes.size() + 1, '#');
  EXPECT_EQ(mapio::guarded_copy(target.data(), bytes.data(), bytes.size()), bytes.size());
  EXPECT_TRUE(same(target, bytes + '#'));
  EXPECT_EQ(mapio::guarded_copy(target.data(), bytes.data(), 0), 0U);
}

TEST_F(mapping_fault, guarded_copy_survives_a_source_that_is_gone) {
  const std::string bytes = pattern(4 * page());
  const mapping m(file_of(bytes));
  const mapio::region r = m.view(0, m.size());
  support::truncate_file(path_, 2 * page());
  std::string target(bytes.size(), '#');
  EXPECT_EQ(mapio::guarded_copy(target.data(), r.data() + 10, r.size() - 10), 2 * page() - 10);
  EXPECT_TRUE(same(target.substr(0, 2 * page() - 10), bytes.substr(10, 2 * page() - 10)));
  EXPECT_TRUE(same(target.substr(2 * page() - 10), std::string(2 * page() + 10, '#')))
      << "bytes after it are untouched";
  EXPECT_EQ(mapio::guarded_copy(target.data(), r.data() + 2 * page(), 1), 0U);
}

TEST_F(mapping_fault, guarded_copy_survives_a_destination_that_is_gone) {
  mapping m(file_of(pattern(4 * page())), read_write());
  const mapio::mutable_region r = m.mutable_view(0, m.size());
  support::truncate_file(path_, 2 * page());
  const std::string bytes = pattern(4 * page(), 3);
  EXPECT_EQ(mapio::guarded_copy(r.data() + 10, bytes.data(), 3 * page()), 2 * page() - 10);
  EXPECT_TRUE(same(read_file(path_).substr(10), bytes.substr(0, 2 * page() - 10)));
}

TEST_F(mapping_print, names_path_mode_size_and_capacity) {
  const mapping m = mapping::create(path_, 12345);
  std::ostringstream out;
  out << m;
  EXPECT_NE(out.str().find(path_.string()), std::string::npos) << out.str();
  EXPECT_NE(out.str().find("read"), std::string::npos) << out.str();
  EXPECT_NE(out.str().find("write"), std::string::npos) << out.str();
  EXPECT_NE(out.str().find("12345"), std::string::npos) << out.str();
  EXPECT_NE(out.str().find(std::to_string(m.capacity())), std::string::npos) << out.str();
}

TEST_F(mapping_print, says_closed) {
  std::ostringstream out;
  out << mapping();
  EXPECT_EQ(out.str(), "closed");
}

TEST(page_size, is_that_of_the_system) {
  EXPECT_EQ(mapio::page_size(), support::system_page_size());
}

TEST_F(mapping_print, capacity_is_at_least_the_size_and_what_was_reserved) {
  open_options options = creating(support::mapping_granule());
  options.reserve = 16 << 20;
  EXPECT_GE(mapping(path_, options).capacity(), 16U << 20);
  options.size = 32 << 20;
  EXPECT_GE(mapping(path_, options).capacity(), 32U << 20);
}

TEST_F(mapping_print, many_files_fit_into_the_address_space) {
  std::vector<mapping> all;
  for (int i = 0; i < 300; ++i) {
    std::error_code ec;
    all.push_back(mapping::create(dir_ / ("file" + std::to_string(i)), page(), ec));
    ASSERT_FALSE(ec) << i << ": " << ec.message();
    all.back().update_region(0, asio::buffer(&i, sizeof i));
  }
  for (int i = 0; i < 300; ++i) {
    int value = -1;
    all[static_cast<std::size_t>(i)].read_into(0, asio::buffer(&value, sizeof value));
    EXPECT_EQ(value, i);
  }
}

}  // namespace
