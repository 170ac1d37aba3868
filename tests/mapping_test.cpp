#include <mapio/mapping.hpp>

#include "faults/counted_syncs.hpp"
#include "faults/failing_syncs.hpp"
#include "faults/loop_disk.hpp"
#include "faults/private_mount.hpp"
#include "faults/syscall_gate.hpp"
#include "modification_watch.hpp"
#include "support.hpp"

#include <asio/buffer.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <csetjmp>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

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
using support::creating;
using support::page;
using support::pattern;
using support::read_all;
using support::read_file;
using support::read_only;
using support::read_write;
using support::same;
using support::to_string;
using support::write_file;

constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();

/// Opens without throwing and returns the code; the handle must be open exactly when there is none.
std::error_code open_error(const fs::path& path, const open_options& options = {}) {
  std::error_code ec =
      std::make_error_code(std::errc::protocol_error);  // to see that it is cleared
  const mapping m(path, options, ec);
  EXPECT_EQ(m.is_open(), !ec);
  return ec;
}

std::uint64_t syncs_of(const mapping& m) {
  return m.stats().syncs;
}

/// Syncs that flushing a range costs.
std::uint64_t cost_of_flush(mapping& m, std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t before = syncs_of(m);
  m.flush_range(offset, length);
  return syncs_of(m) - before;
}

std::uint64_t cost_of_flush(mapping& m) {
  const std::uint64_t before = syncs_of(m);
  m.flush();
  return syncs_of(m) - before;
}

class mapping_test : public testing::Test {
 protected:
  /// A new file of known bytes, not opened.
  fs::path file_of(const std::string& bytes, std::string_view name = "file") {
    const fs::path path = dir_ / name;
    write_file(path, bytes);
    return path;
  }

  support::temp_dir dir_;
  const fs::path path_ = dir_ / "file";
};

using mapping_open = mapping_test;
using mapping_create = mapping_test;
using mapping_handle = mapping_test;
using mapping_bounds = mapping_test;
using mapping_io = mapping_test;
using mapping_flush = mapping_test;
using mapping_poison = mapping_test;
using mapping_prefetch = mapping_test;
using mapping_lock = mapping_test;
using mapping_adopt = mapping_test;
using mapping_copy_on_write = mapping_test;
using mapping_fault = mapping_test;
using mapping_sigbus = mapping_test;
using mapping_disk_full = mapping_test;
using mapping_announce = mapping_test;
using mapping_print = mapping_test;

// --- opening what exists
// -----------------------------------------------------------------------------

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
  const std::set<int> before = support::open_descriptors();
  const mapping m(path_, creating(page()));
  std::set<int> added = support::open_descriptors();
  for (const int fd : before)
    added.erase(fd);
  EXPECT_TRUE(added.contains(m.native_handle()));
  for (const int fd : added)
    EXPECT_TRUE((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0) << fd;
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

// --- what cannot be opened
// -----------------------------------------------------------------------------

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
  EXPECT_EQ(open_error(path_ / "below"), std::errc::not_a_directory);
}

TEST_F(mapping_open, of_a_fifo_fails_and_does_not_wait_for_a_writer) {
  const auto fifo = dir_ / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_EQ(open_error(fifo), std::errc::no_such_device);
  EXPECT_EQ(open_error(fifo, read_write()), std::errc::no_such_device);
  EXPECT_EQ(open_error(fifo, creating(1)), std::errc::no_such_device);
  EXPECT_EQ(open_error(fifo, creating(1, disposition::open_or_create)), std::errc::no_such_device);
  EXPECT_TRUE(fs::is_fifo(fifo));
}

TEST_F(mapping_open, of_a_device_fails) {
  EXPECT_EQ(open_error("/dev/null"), std::errc::no_such_device);
  EXPECT_EQ(open_error("/dev/null", read_write()), std::errc::no_such_device);
  EXPECT_EQ(open_error("/dev/zero", copy_on_write()), std::errc::no_such_device);
  EXPECT_EQ(open_error("/dev/null", creating(page())), std::errc::no_such_device);
}

TEST_F(mapping_open, of_a_socket_fails) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = (dir_ / "socket").string();
  ASSERT_LT(name.size(), sizeof address.sun_path);
  std::memcpy(address.sun_path, name.c_str(), name.size() + 1);
  const support::unique_fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(open_error(name), std::errc::no_such_device);
  EXPECT_EQ(open_error(name, read_write()), std::errc::no_such_device);
}

TEST_F(mapping_open, of_a_name_that_is_too_long_fails) {
  EXPECT_EQ(open_error(dir_ / std::string(300, 'n')), std::errc::filename_too_long);
  EXPECT_EQ(open_error(dir_ / std::string(300, 'n'), creating(1)), std::errc::filename_too_long);
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

TEST_F(mapping_open, needs_the_permissions_for_its_mode) {
  file_of("secret");
  fs::permissions(dir_.path(), fs::perms::all);
  fs::permissions(path_, fs::perms::none);
  const auto readable = file_of("readable", "readable");
  fs::permissions(readable, fs::perms::owner_read | fs::perms::others_read);
  support::as_ordinary_user([&] {
    EXPECT_EQ(open_error(path_), std::errc::permission_denied);
    EXPECT_EQ(open_error(path_, creating(1)), std::errc::permission_denied);
    EXPECT_FALSE(open_error(readable));
    EXPECT_FALSE(open_error(readable, copy_on_write()));
    EXPECT_EQ(open_error(readable, read_write()), std::errc::permission_denied);
  });
  fs::permissions(path_, fs::perms::owner_all);
  EXPECT_EQ(read_file(path_), "secret");
}

TEST_F(mapping_create, needs_a_folder_that_may_be_written) {
  fs::permissions(dir_.path(), fs::perms::owner_read | fs::perms::owner_exec |
                                   fs::perms::others_read | fs::perms::others_exec);
  support::as_ordinary_user([&] {
    EXPECT_EQ(open_error(path_, creating(1)), std::errc::permission_denied);
    EXPECT_EQ(open_error(path_, creating(1, disposition::create_new)),
              std::errc::permission_denied);
  });
  fs::permissions(dir_.path(), fs::perms::owner_all);
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(mapping_open, works_in_a_folder_that_may_not_be_listed) {
  // The parent directory has to be synced some day, and opening it is not always possible.
  file_of("x");
  fs::permissions(path_, fs::perms::all);
  fs::permissions(dir_.path(), fs::perms::owner_exec | fs::perms::others_exec);
  support::as_ordinary_user([&] {
    EXPECT_FALSE(open_error(path_));
    EXPECT_FALSE(open_error(path_, read_write()));
  });
  fs::permissions(dir_.path(), fs::perms::owner_all);
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

TEST_F(mapping_open, reports_that_descriptors_ran_out) {
  file_of("x");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const auto used = support::open_descriptors();
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const std::error_code existing = open_error(path_);
  const std::error_code created = open_error(dir_ / "new", creating(page()));
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(existing, std::errc::too_many_files_open);
  EXPECT_EQ(created, std::errc::too_many_files_open);
  EXPECT_FALSE(fs::exists(dir_ / "new"));
  EXPECT_EQ(support::open_descriptors(), used);
}

// --- creating
// -----------------------------------------------------------------------------------------

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
  std::barrier start(threads);
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

/// Opens or creates a file for `slots` writers and writes slot `mine`.
void write_slot(const fs::path& path, std::size_t slots, std::size_t mine) {
  mapping m(path, creating(slots * page(), disposition::open_or_create));
  // Somebody else may be about to give it its size.
  if (m.size() < slots * page()) m.resize(slots * page());
  m.update_region(mine * page(), asio::buffer(pattern(page(), mine)));
}

void expect_slots(const fs::path& path, std::size_t slots) {
  const std::string all = read_file(path);
  ASSERT_EQ(all.size(), slots * page());
  for (std::size_t i = 0; i < slots; ++i)
    EXPECT_TRUE(same(all.substr(i * page(), page()), pattern(page(), i))) << i;
}

TEST_F(mapping_create, or_open_by_many_threads_loses_nobodys_bytes) {
  constexpr std::size_t threads = 8;
  for (int round = 0; round < 10; ++round) {
    const auto path = dir_ / ("shared" + std::to_string(round));
    std::barrier start(threads);
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

TEST_F(mapping_create, or_open_by_many_processes_loses_nobodys_bytes) {
  constexpr std::size_t processes = 6;
  std::array<int, 2> gate{};
  ASSERT_EQ(::pipe2(gate.data(), O_CLOEXEC), 0);
  support::unique_fd closed_to_start(gate[1]);
  const support::unique_fd wait_here(gate[0]);
  std::vector<pid_t> children;
  for (std::size_t p = 0; p < processes; ++p)
    children.push_back(support::start_child([&, p] {
      closed_to_start.reset();
      char byte = 0;
      EXPECT_EQ(::read(wait_here.get(), &byte, 1), 0);
      write_slot(path_, processes, p);
    }));
  closed_to_start.reset();
  for (const pid_t pid : children) {
    const auto end = support::wait_for_child(pid);
    EXPECT_TRUE(end.ok()) << end;
  }
  expect_slots(path_, processes);
}

TEST_F(mapping_create, or_open_never_shows_a_file_that_has_not_got_its_size_yet) {
  constexpr std::size_t threads = 4;
  for (int round = 0; round < 50; ++round) {
    const auto path = dir_ / ("shared" + std::to_string(round));
    std::barrier start(threads);
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

TEST_F(mapping_create, gives_a_new_file_the_permissions_that_the_umask_allows) {
  const auto permissions_of = [&](fs::perms wanted, mode_t mask, std::string_view name) {
    open_options options = creating(1, disposition::create_new);
    options.permissions = wanted;
    const mode_t before = ::umask(mask);
    const std::error_code ec = open_error(dir_ / name, options);
    ::umask(before);
    EXPECT_FALSE(ec) << ec.message();
    return static_cast<unsigned>(fs::status(dir_ / name).permissions());
  };
  EXPECT_EQ(permissions_of(open_options().permissions, 0, "default"), 0600U);
  EXPECT_EQ(permissions_of(fs::perms{0666}, 022, "masked"), 0644U);
  EXPECT_EQ(permissions_of(fs::perms{0640}, 0, "as asked"), 0640U);
  EXPECT_EQ(permissions_of(fs::perms{0400}, 0, "read only"), 0400U);
}

TEST_F(mapping_create, leaves_the_permissions_of_an_existing_file_alone) {
  file_of("x");
  fs::permissions(path_, fs::perms{0640});
  open_options options = creating(page());
  options.permissions = fs::perms{0600};
  EXPECT_FALSE(open_error(path_, options));
  EXPECT_EQ(static_cast<unsigned>(fs::status(path_).permissions()), 0640U);
}

TEST_F(mapping_create, allocates_blocks_only_when_told_to) {
  struct stat status {};
  open_options options = creating(256 * page());
  mapping(path_, options).close();
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_GE(static_cast<std::uint64_t>(status.st_blocks) * 512, 256 * page());
  options.preallocate = false;
  mapping(dir_ / "sparse", options).close();
  ASSERT_EQ(::stat((dir_ / "sparse").c_str(), &status), 0);
  EXPECT_LT(static_cast<std::uint64_t>(status.st_blocks) * 512, 256 * page());
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

// --- empty files
// ------------------------------------------------------------------------------------------

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

// --- handles
// ----------------------------------------------------------------------------------------------

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
  run("release", [&](auto& ec) { EXPECT_EQ(m.release(ec), -1); });
}

void expect_closed(mapping& m) {
  EXPECT_FALSE(m.is_open());
  EXPECT_EQ(m.size(), 0U);
  EXPECT_TRUE(m.empty());
  EXPECT_EQ(m.capacity(), 0U);
  EXPECT_EQ(m.mode(), access::read_only);
  EXPECT_TRUE(m.path().empty());
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_EQ(m.native_handle(), -1);
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
  const int fd = a.native_handle();
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
  const int fd = a->native_handle();
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

// --- bounds
// -----------------------------------------------------------------------------------------------

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

// --- update_region and read_into
// ---------------------------------------------------------------------------

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
  std::barrier start(threads);
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
    m.resize((16 + static_cast<std::uint64_t>(i)) * page());
    m.flush_range(0, 16);
  }
  stop = true;
  for (auto& t : running)
    t.join();
  m.flush();
  EXPECT_EQ(m.pending_bytes(), 0U);
}

// --- resize, on a disk and in memory
// --------------------------------------------------------------------------

class mapping_resize : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const bool in_memory = GetParam() == std::string_view("tmpfs");
    const fs::path parent = in_memory ? fs::path("/dev/shm") : fs::temp_directory_path();
    if (!fs::is_directory(parent)) GTEST_SKIP() << "no " << parent;
    dir_ = std::make_unique<support::temp_dir>(parent);
    path_ = *dir_ / "file";
  }

  mapping create(const std::string& bytes, open_options options = read_write()) {
    write_file(path_, bytes);
    return mapping(path_, options);
  }

  std::unique_ptr<support::temp_dir> dir_;
  fs::path path_;
};

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
  mapping m = create(pattern(page()));
  const std::uint64_t capacity = m.capacity();
  ASSERT_GE(capacity, 64 * page());
  const mapio::region r = m.view(0, page());
  for (int i = 2; i <= 64; ++i) {
    m.resize(static_cast<std::uint64_t>(i) * page());
    EXPECT_EQ(m.view(0, 1).data(), r.data());
  }
  EXPECT_EQ(m.capacity(), capacity);
  EXPECT_EQ(m.stats().moves, 0U);
  EXPECT_TRUE(same(r.text(), pattern(page())));
}

TEST_P(mapping_resize, reaches_to_the_last_byte_of_the_capacity_without_moving) {
  open_options options = read_write();
  options.reserve = 1 << 20;
  options.preallocate = false;
  mapping m = create(pattern(page()), options);
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
  m.resize(m.capacity() + 1);
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

TEST_P(mapping_resize, obeys_the_limit_of_the_process) {
  const auto end = support::in_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    mapping m = create(pattern(page()));
    const rlimit limit{64 * page(), 64 * page()};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
    EXPECT_EQ(code_of([&] { m.resize(65 * page()); }), std::errc::file_too_large);
    EXPECT_EQ(m.size(), page());
    EXPECT_EQ(fs::file_size(path_), page());
    m.resize(64 * page());
    EXPECT_EQ(m.size(), 64 * page());
  });
  EXPECT_TRUE(end.ok()) << end;
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

TEST_P(mapping_resize, knows_what_lies_under_it) {
  const mapping m = create("x");
  struct statfs what {};
  ASSERT_EQ(::statfs(path_.c_str(), &what), 0);
  if (what.f_type == TMPFS_MAGIC) {
    EXPECT_EQ(m.stats().medium, mapio::medium::volatile_memory);
  } else if (what.f_type == EXT4_SUPER_MAGIC || what.f_type == BTRFS_SUPER_MAGIC) {
    EXPECT_EQ(m.stats().medium, mapio::medium::local);
  } else {
    GTEST_SKIP() << "some other file system";
  }
}

// --- flush
// --------------------------------------------------------------------------------------------------

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

TEST_F(mapping_flush, leaves_the_handle_to_be_destroyed_without_one) {
  faults::syscall_gate gate(faults::syscall_gate::syncs(),
                            [](const auto&) { return faults::syscall_gate::pass; });
  if (!gate.run([&] {
        mapping m = mapping::create(path_, page());
        m.update_region(0, asio::buffer("x", 1));
        const mapping copy = m;
        m.close();
        mapping again(path_, read_write());
        again.update_region(0, asio::buffer("y", 1));
      }))
    GTEST_SKIP() << "seccomp does not let us watch system calls";
  EXPECT_EQ(gate.count(), 0U) << "neither close nor a destructor flushes";
}

class mapping_flush_name : public mapping_test {
 protected:
  using gate_type = faults::syscall_gate;

  std::optional<std::pair<int, int>> syncs_of_file_and_folder(const std::function<void()>& body) {
    return faults::syncs_of_file_and_folder(dir_.path(), body);
  }
};

TEST_F(mapping_flush_name, is_made_durable_by_the_first_flush_after_a_create) {
  for (const auto how :
       {disposition::create_new, disposition::create_or_truncate, disposition::open_or_create}) {
    const auto seen = syncs_of_file_and_folder([&] {
      mapping m(path_, creating(page(), how));
      m.flush();
      m.update_region(0, asio::buffer("x", 1));
      m.flush();
    });
    if (!seen) GTEST_SKIP() << "seccomp does not let us watch system calls";
    EXPECT_GE(seen->first, 2);
    EXPECT_EQ(seen->second, 1);
    fs::remove(path_);
  }
}

TEST_F(mapping_flush_name, is_made_durable_by_a_flush_of_any_range) {
  const auto seen = syncs_of_file_and_folder([&] {
    mapping m(path_, creating(4 * page()));
    m.flush_range(page(), 1);
  });
  if (!seen) GTEST_SKIP() << "seccomp does not let us watch system calls";
  EXPECT_EQ(seen->second, 1);
}

TEST_F(mapping_flush_name, is_made_durable_for_a_file_that_somebody_else_just_created) {
  // open_or_create may have found a file whose creator did not sync its name.
  file_of("x");
  const auto seen = syncs_of_file_and_folder([&] {
    mapping m(path_, creating(page(), disposition::open_or_create));
    m.flush();
  });
  if (!seen) GTEST_SKIP() << "seccomp does not let us watch system calls";
  EXPECT_EQ(seen->second, 1);
}

TEST_F(mapping_flush_name, is_made_durable_in_the_working_directory_too) {
  const auto seen = syncs_of_file_and_folder([&] {
    const fs::path before = fs::current_path();
    fs::current_path(dir_.path());
    mapping m("relative", creating(page()));
    fs::current_path(before);  // the folder counts that it was created in
    m.flush();
  });
  if (!seen) GTEST_SKIP() << "seccomp does not let us watch system calls";
  EXPECT_EQ(seen->second, 1);
}

TEST_F(mapping_flush_name, of_an_adopted_file_is_the_callers) {
  const auto seen = syncs_of_file_and_folder([&] {
    auto fd = support::open_fd(path_, O_RDWR | O_CREAT);
    mapping m = mapping::adopt(fd.release(), read_write());
    m.resize(page());
    m.flush();
  });
  if (!seen) GTEST_SKIP() << "seccomp does not let us watch system calls";
  EXPECT_GE(seen->first, 1);
  EXPECT_EQ(seen->second, 0);
}

TEST_F(mapping_flush_name, whose_sync_fails_fails_the_flush) {
  faults::syscall_gate gate(faults::syscall_gate::syncs(), [](const faults::syscall_gate::call& c) {
    struct stat status {};
    const bool folder = c.takes_fd() && ::fstat(c.fd(), &status) == 0 && S_ISDIR(status.st_mode);
    return folder ? faults::syscall_gate::fail(EIO) : faults::syscall_gate::pass;
  });
  if (!gate.run([&] {
        mapping m = mapping::create(path_, page());
        std::error_code ec;
        m.flush(ec);
        EXPECT_TRUE(ec);
        m.flush(ec);
        EXPECT_TRUE(ec);
      }))
    GTEST_SKIP() << "seccomp does not let us watch system calls";
}

TEST_F(mapping_flush, by_many_threads_shares_syncs) {
  // Holds the first sync, so that the others gather behind it.
  std::atomic<bool> holding = false;
  faults::syscall_gate gate(faults::syscall_gate::syncs(), [&](const auto&) {
    return holding.exchange(false) ? faults::syscall_gate::hold : faults::syscall_gate::pass;
  });
  const bool possible = gate.run([&] {
    constexpr std::size_t others = 7;
    mapping m = mapping::create(path_, (others + 1) * page());
    m.flush();
    const auto before = m.stats();
    holding = true;
    std::vector<std::thread> running;
    m.update_region(0, asio::buffer("x", 1));
    running.emplace_back([&] { m.flush(); });
    gate.wait_until_held();
    std::atomic<std::size_t> finished = 0;
    for (std::size_t t = 1; t <= others; ++t)
      running.emplace_back([&, t] {
        m.update_region(t * page(), asio::buffer("x", 1));
        m.flush();
        ++finished;
      });
    EXPECT_TRUE(support::eventually(
        [&] { return m.stats().flush_calls == before.flush_calls + 1 + others; }));
    EXPECT_EQ(finished, 0U) << "a flush finished although no sync that started after it did";
    gate.release();
    for (auto& t : running)
      t.join();
    EXPECT_EQ(m.stats().syncs, before.syncs + 2)
        << "one for the first, one for all who came meanwhile";
    EXPECT_EQ(m.stats().sync_waiters, before.sync_waiters + 1 + others);
    EXPECT_EQ(m.pending_bytes(), 0U);
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us hold system calls";
}

TEST_F(mapping_flush, of_a_clean_range_waits_for_the_sync_that_makes_it_clean) {
  std::atomic<bool> holding = false;
  faults::syscall_gate gate(faults::syscall_gate::syncs(), [&](const auto&) {
    return holding.exchange(false) ? faults::syscall_gate::hold : faults::syscall_gate::pass;
  });
  const bool possible = gate.run([&] {
    mapping m = mapping::create(path_, 4 * page());
    m.flush();
    m.update_region(0, asio::buffer("x", 1));
    holding = true;
    std::thread first([&] { m.flush_range(0, page()); });
    gate.wait_until_held();
    // No bit is set any more, but nothing is durable yet either.
    const std::uint64_t calls = m.stats().flush_calls;
    std::atomic<bool> finished = false;
    std::thread second([&] {
      m.flush_range(0, 1);
      finished = true;
    });
    EXPECT_TRUE(support::eventually([&] { return m.stats().flush_calls == calls + 1; }));
    EXPECT_FALSE(finished);
    // A range that has nothing to do with it is not kept.
    m.flush_range(2 * page(), page());
    EXPECT_FALSE(finished);
    gate.release();
    first.join();
    second.join();
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us hold system calls";
}

TEST_F(mapping_flush, of_a_range_does_not_queue_behind_one_of_the_whole_file) {
  std::atomic<bool> holding = false;
  faults::syscall_gate gate(faults::syscall_gate::syncs(), [&](const auto&) {
    return holding.exchange(false) ? faults::syscall_gate::hold : faults::syscall_gate::pass;
  });
  const bool possible = gate.run([&] {
    mapping m = mapping::create(path_, 4 * page());
    m.flush();
    m.update_region(0, asio::buffer("x", 1));
    holding = true;
    std::thread whole([&] { m.flush(); });
    gate.wait_until_held();
    m.update_region(2 * page(), asio::buffer("x", 1));
    m.flush_range(2 * page(), 1);  // hangs if it queues
    gate.release();
    whole.join();
    EXPECT_EQ(m.pending_bytes(), 0U);
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us hold system calls";
}

TEST_F(mapping_flush, covers_a_store_that_was_made_while_a_sync_was_running) {
  std::atomic<bool> holding = false;
  faults::syscall_gate gate(faults::syscall_gate::syncs(), [&](const auto&) {
    return holding.exchange(false) ? faults::syscall_gate::hold : faults::syscall_gate::pass;
  });
  const bool possible = gate.run([&] {
    mapping m = mapping::create(path_, page());
    m.flush();
    m.update_region(0, asio::buffer("x", 1));
    holding = true;
    std::thread first([&] { m.flush(); });
    gate.wait_until_held();
    m.update_region(0, asio::buffer("y", 1));  // the same page, after the sync of it has started
    EXPECT_EQ(m.pending_bytes(), page());
    gate.release();
    first.join();
    EXPECT_EQ(m.pending_bytes(), page()) << "a sync must not declare later stores durable";
    EXPECT_EQ(cost_of_flush(m), 1U);
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us hold system calls";
}

// --- a sync that fails
// ---------------------------------------------------------------------------------------

TEST_F(mapping_poison, a_failed_sync_is_reported_and_poisons_the_file) {
  faults::failing_syncs syncs;
  const bool possible = syncs.run([&] {
    mapping m = mapping::create(path_, 8 * page());
    const mapping copy = m;
    m.flush();
    EXPECT_FALSE(m.flush_error());
    m.update_region(0, asio::buffer("x", 1));
    syncs.fail_next(1);
    std::error_code ec;
    m.flush(ec);
    EXPECT_EQ(ec, std::error_code(EIO, std::system_category()));
    EXPECT_EQ(m.flush_error(), std::error_code(EIO, std::system_category()));
    EXPECT_EQ(copy.flush_error(), std::errc::io_error);
    EXPECT_EQ(m.stats().sync_failures, 1U);

    // No later flush may say that all is well, although the next sync would.
    const std::size_t made = syncs.count();
    m.flush(ec);
    EXPECT_EQ(ec, errc::flush_failed);
    m.flush_range(0, page(), ec);
    EXPECT_EQ(ec, errc::flush_failed);
    EXPECT_EQ(code_of([&] { m.flush(); }), errc::flush_failed);
    m.update_region(0, asio::buffer("x", 1), ec);
    m.flush(ec);
    EXPECT_EQ(ec, errc::flush_failed);
    EXPECT_EQ(syncs.count(), made) << "no sync is retried silently";
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us fail system calls";
}

TEST_F(mapping_poison, clearing_it_makes_nothing_durable_that_was_not_written_again) {
  faults::failing_syncs syncs;
  const bool possible = syncs.run([&] {
    mapping m = mapping::create(path_, 8 * page());
    m.flush();
    m.update_region(0, asio::buffer("x", 1));
    m.update_region(5 * page(), asio::buffer("x", 1));
    syncs.fail_next(1);
    std::error_code ec;
    m.flush(ec);
    ASSERT_TRUE(ec);
    m.clear_flush_error();
    EXPECT_FALSE(m.flush_error());

    // The ranges of the failed sync fail until they are written anew.
    m.flush_range(0, page(), ec);
    EXPECT_EQ(ec, errc::flush_failed);
    m.clear_flush_error();
    m.flush(ec);
    EXPECT_EQ(ec, errc::flush_failed);
    m.clear_flush_error();

    // What the failed sync had nothing to do with is fine.
    m.update_region(7 * page(), asio::buffer("x", 1));
    m.flush_range(7 * page(), page(), ec);
    EXPECT_FALSE(ec) << ec.message();

    // Written again, page by page.
    m.update_region(0, asio::buffer(pattern(page())));
    m.flush_range(0, page(), ec);
    EXPECT_FALSE(ec) << ec.message();
    m.flush_range(5 * page(), page(), ec);
    EXPECT_EQ(ec, errc::flush_failed);
    m.clear_flush_error();
    m.update_region(5 * page(), asio::buffer(pattern(page())));
    m.flush(ec);
    EXPECT_FALSE(ec) << ec.message();
    EXPECT_FALSE(m.flush_error());
    EXPECT_EQ(m.pending_bytes(), 0U);
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us fail system calls";
}

TEST_F(mapping_poison, a_failed_sync_fails_everybody_who_shared_it) {
  std::atomic<bool> holding = false;
  std::atomic<bool> failing = false;
  faults::syscall_gate gate(faults::syscall_gate::syncs(), [&](const auto&) {
    if (holding.exchange(false)) return faults::syscall_gate::hold;
    return failing ? faults::syscall_gate::fail(EIO) : faults::syscall_gate::pass;
  });
  const bool possible = gate.run([&] {
    constexpr std::uint64_t others = 4;
    mapping m = mapping::create(path_, 8 * page());
    m.flush();
    m.update_region(0, asio::buffer("x", 1));
    const std::uint64_t calls = m.stats().flush_calls;
    holding = true;
    std::thread first([&] { EXPECT_FALSE(code_of([&] { m.flush(); })); });
    gate.wait_until_held();
    std::vector<std::thread> running;
    std::atomic<int> failed = 0;
    for (std::uint64_t t = 1; t <= others; ++t)
      running.emplace_back([&, t] {
        m.update_region(t * page(), asio::buffer("x", 1));
        if (code_of([&] { m.flush(); })) ++failed;
      });
    EXPECT_TRUE(support::eventually([&] { return m.stats().flush_calls == calls + 1 + others; }));
    failing = true;
    gate.release();
    first.join();
    for (auto& t : running)
      t.join();
    EXPECT_EQ(failed, static_cast<int>(others));
    EXPECT_EQ(m.stats().sync_failures, 1U);
    EXPECT_EQ(m.flush_error(), std::errc::io_error);
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us fail system calls";
}

TEST_F(mapping_poison, of_one_mapping_does_not_concern_another) {
  faults::failing_syncs syncs;
  const bool possible = syncs.run([&] {
    mapping m = mapping::create(path_, page());
    mapping other = mapping::create(dir_ / "other", page());
    syncs.fail_next(1);
    EXPECT_TRUE(code_of([&] { m.flush(); }));
    EXPECT_FALSE(code_of([&] { other.flush(); }));
    EXPECT_FALSE(other.flush_error());
    m.open(path_, read_write());
    EXPECT_FALSE(m.flush_error());
    EXPECT_FALSE(code_of([&] { m.flush(); }));
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us fail system calls";
}

// Who goes beyond the limit gets SIGXFSZ besides the error.
TEST_P(mapping_resize, beyond_the_limit_of_the_process_is_an_error_and_no_signal) {
  const auto end = support::in_child([&] {
    const fs::path other = path_.string() + "-other";
    mapping m(path_, creating(8 * page()));
    rlimit limit{};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = 4 * page();
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
    for (const bool preallocate : {false, true}) {
      open_options options = creating(6 * page());
      options.preallocate = preallocate;
      EXPECT_EQ(code_of([&] { mapping(other, options); }), std::errc::file_too_large);
      EXPECT_FALSE(fs::exists(other));
    }
    EXPECT_EQ(code_of([&] { m.resize(9 * page()); }), std::errc::file_too_large);
    EXPECT_EQ(m.size(), 8 * page());
    EXPECT_FALSE(code_of([&] { m.resize(7 * page()); }));
    EXPECT_EQ(m.update_region(5 * page(), asio::buffer("x", 1)), 1U);
    EXPECT_FALSE(code_of([&] { m.flush(); }));
    EXPECT_EQ(read_file(path_).at(5 * page()), 'x');
  });
  EXPECT_TRUE(end.ok()) << end;
}

// --- prefetch and is_resident
// --------------------------------------------------------------------------------

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

// mincore says of a file that one could not write to that all of it is in memory.
TEST_F(mapping_prefetch, and_residency_are_right_for_a_file_of_somebody_else) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  const auto path = file_of(pattern(256 * page()));
  fs::permissions(dir_.path(), fs::perms(0755));
  fs::permissions(path, fs::perms(0644));
  if (!support::tells_cached_pages(path)) GTEST_SKIP() << "nothing tells what is in memory";
  if (!support::evict(path)) GTEST_SKIP() << "this file system does not let go of its pages";
  if (mapping(path).is_resident(0, page())) GTEST_SKIP() << "the pages stayed in memory";
  const auto end = support::in_child([&] {
    support::become_nobody();
    mapping m(path);
    EXPECT_FALSE(m.is_resident(0, page()));
    EXPECT_FALSE(m.is_resident(0, m.size()));
    m.prefetch();
    EXPECT_TRUE(m.is_resident(0, m.size()));
    EXPECT_TRUE(m.is_resident(5, 10 * page()));
  });
  EXPECT_TRUE(end.exited_with(0)) << end;
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
  struct stat status {};
  ASSERT_EQ(::fstat(m.native_handle(), &status), 0);
  EXPECT_LT(static_cast<std::uint64_t>(status.st_blocks) * 512, 64 * page());
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

TEST_F(mapping_lock, of_a_page_that_cannot_be_read_is_a_page_fault_and_takes_nothing) {
  const fs::path disk = dir_ / "disk";
  fs::create_directory(disk);
  bool is_cut = false;
  const bool mounted = faults::on_loop_disk(dir_ / "image", disk, 16 << 20, [&] {
    write_file(disk / "file", pattern(64 * page()));
    mapping m(disk / "file");
    is_cut = faults::cut_disk_under(dir_ / "image", disk / "file", 32 * page());
    if (!is_cut) return;
    m.lock_pages(0, page());
    std::error_code ec;
    m.lock_pages(ec);
    EXPECT_EQ(ec, errc::page_fault) << ec.message();
    support::expect_locked(page());
    m.lock_pages(0, 32 * page());
    support::expect_locked(32 * page());
  });
  if (!mounted || !is_cut) GTEST_SKIP() << "no disk can be made here";
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

TEST_F(mapping_lock, beyond_the_limit_of_the_process_is_an_error_that_leaves_what_was) {
  if (!support::locks_work) GTEST_SKIP() << "the sanitizer locks nothing, and fails nothing";
  open_options options = creating(16 * page());
  options.reserve = 16 * page();
  mapping m(path_, options);
  fs::permissions(dir_.path(), fs::perms(0755));
  support::as_ordinary_user([&] {
    const rlimit limit{6 * page(), 6 * page()};
    ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    m.lock_pages(0, 4 * page());
    std::error_code ec;
    m.lock_pages(2 * page(), 8 * page(), ec);
    EXPECT_EQ(ec, std::errc::not_enough_memory);
    support::expect_locked(4 * page());
    // To move it takes the double.
    m.resize(64 * page(), ec);
    EXPECT_EQ(ec, std::errc::not_enough_memory);
    EXPECT_EQ(m.size(), 16 * page());
    EXPECT_EQ(fs::file_size(path_), 16 * page());
    support::expect_locked(4 * page());
    m.unlock_pages(1 * page(), 3 * page());
    m.resize(64 * page());
    support::expect_locked(page());
  });
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

// --- adopt and release
// ----------------------------------------------------------------------------------------

TEST_F(mapping_adopt, takes_the_descriptor_over) {
  const std::string bytes = pattern(page() + 5);
  file_of(bytes);
  auto fd = support::open_fd(path_, O_RDWR);
  const int number = fd.get();
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

TEST_F(mapping_adopt, takes_a_file_without_a_name) {
  support::unique_fd fd(::open(dir_.path().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (fd.get() < 0) GTEST_SKIP() << "this file system has no O_TMPFILE";
  mapping m = mapping::adopt(fd.release(), read_write());
  m.resize(page());
  m.update_region(0, asio::buffer("x", 1));
  m.flush();
  EXPECT_EQ(to_string(m.view(0, 1)), "x");
}

TEST_F(mapping_adopt, starts_wholly_dirty) {
  file_of(pattern(4 * page()));
  mapping m = mapping::adopt(support::open_fd(path_, O_RDWR).release(), read_write());
  EXPECT_GE(cost_of_flush(m), 1U);
  EXPECT_EQ(cost_of_flush(m), 0U);
}

TEST_F(mapping_adopt, leaves_the_descriptor_alone_after_an_error) {
  file_of("x");
  const auto expect_error = [](int fd, const open_options& options, auto condition) {
    std::error_code ec;
    EXPECT_FALSE(mapping::adopt(fd, options, ec).is_open());
    EXPECT_EQ(ec, condition) << ec.message();
    EXPECT_EQ(code_of([&] { mapping::adopt(fd, options); }), ec);
    EXPECT_TRUE(fd < 0 || support::is_open_descriptor(fd));
  };
  expect_error(support::open_fd(path_, O_RDONLY).release(), read_write(),
               std::errc::permission_denied);
  expect_error(support::open_fd(path_, O_WRONLY).release(), read_only(),
               std::errc::permission_denied);
  expect_error(support::open_fd(path_, O_WRONLY).release(), read_write(),
               std::errc::permission_denied);
  expect_error(support::open_fd(path_, O_RDWR | O_APPEND).release(), read_write(),
               errc::unsupported);
  expect_error(support::open_fd(dir_.path(), O_RDONLY).release(), read_only(),
               std::errc::is_a_directory);
  expect_error(support::open_fd("/dev/null", O_RDWR).release(), read_write(),
               std::errc::no_such_device);
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
  expect_error(pipe[0], read_only(), std::errc::no_such_device);
  expect_error(-1, read_only(), std::errc::bad_file_descriptor);
}

TEST_F(mapping_adopt, refuses_an_empty_file_that_cannot_be_read) {
  file_of("");
  const auto fd = support::open_fd(path_, O_WRONLY);
  for (const open_options& options : {read_only(), copy_on_write()})
    EXPECT_EQ(code_of([&] { mapping::adopt(fd.get(), options); }), std::errc::permission_denied);
}

TEST_F(mapping_adopt, does_not_mind_what_is_about_creating) {
  const std::string bytes = pattern(100);
  file_of(bytes);
  open_options options = read_only();
  options.create = disposition::create_or_truncate;
  options.size = std::uint64_t{1} << 60;
  const mapping m = mapping::adopt(support::open_fd(path_, O_RDONLY).release(), options);
  EXPECT_TRUE(same(read_all(m), bytes));
}

TEST_F(mapping_adopt, needs_only_reading_for_private_stores) {
  file_of("12345");
  mapping m = mapping::adopt(support::open_fd(path_, O_RDONLY).release(), copy_on_write());
  m.update_region(0, asio::buffer("x", 1));
  EXPECT_EQ(read_all(m), "x2345");
  EXPECT_EQ(read_file(path_), "12345");
}

TEST_F(mapping_adopt, release_gives_the_open_file_back) {
  mapping m = mapping::create(path_, page());
  mapping copy = m;
  m.update_region(0, asio::buffer("kept", 4));
  const int number = m.native_handle();
  const support::unique_fd fd(m.release());
  EXPECT_EQ(fd.get(), number);
  expect_closed(m);
  expect_closed(copy);
  EXPECT_FALSE(support::is_mapped(path_));
  std::array<char, 4> bytes{};
  ASSERT_EQ(::pread(fd.get(), bytes.data(), bytes.size(), 0), 4);
  EXPECT_EQ(std::string_view(bytes.data(), 4), "kept");
  EXPECT_EQ(::pwrite(fd.get(), "more", 4, 0), 4);
}

TEST_F(mapping_adopt, release_leaks_nothing) {
  const auto before = support::open_descriptors();
  for (int i = 0; i < 20; ++i) {
    mapping m = mapping::create(path_, page());
    const support::unique_fd fd(m.release());
  }
  EXPECT_EQ(support::open_descriptors(), before);
}

TEST_F(mapping_adopt, release_is_refused_while_a_region_lives) {
  mapping m = mapping::create(path_, page());
  auto r = std::make_unique<mapio::region>(m.view(0, 1));
  std::error_code ec;
  EXPECT_EQ(m.release(ec), -1);
  EXPECT_EQ(ec, errc::pinned);
  EXPECT_TRUE(m.is_open());
  EXPECT_EQ(code_of([&] { m.release(); }), errc::pinned);
  m.update_region(0, asio::buffer("y", 1));
  EXPECT_EQ(r->text(), "y");
  r.reset();
  const support::unique_fd fd(m.release());
  EXPECT_TRUE(support::is_open_descriptor(fd.get()));
}

TEST_F(mapping_adopt, a_refused_release_is_in_no_resizes_way) {
  mapping m = mapping::create(path_, page());
  const mapio::region held = m.view(0, 1);
  std::atomic<bool> stop = false;
  std::thread releasing([&] {
    while (!stop) {
      std::error_code ec;
      EXPECT_EQ(m.release(ec), -1);
      EXPECT_EQ(ec, errc::pinned);
      std::this_thread::sleep_for(std::chrono::microseconds(20));  // a mutex is not fair
    }
  });
  for (int i = 0; i < (support::under_tsan ? 2000 : 20000) && !HasFailure(); ++i) {
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
    int fd = -1;
    while (fd < 0)
      fd = m.release(ec);
    EXPECT_EQ(::close(fd), 0);
    other.join();
    EXPECT_EQ(m.native_handle(), -1);
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

// --- copy on write
// ------------------------------------------------------------------------------------------

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

TEST_F(mapping_copy_on_write, works_on_a_file_that_may_only_be_read) {
  file_of("12345");
  fs::permissions(dir_.path(), fs::perms::all);
  fs::permissions(path_, fs::perms::owner_read | fs::perms::others_read);
  support::as_ordinary_user([&] {
    mapping m(path_, copy_on_write());
    m.update_region(0, asio::buffer("x", 1));
    EXPECT_EQ(read_all(m), "x2345");
  });
}

// --- truncated by somebody else
// --------------------------------------------------------------------------------

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

// --- other handlers of SIGBUS
// -----------------------------------------------------------------------------------

// What the application's own handlers do: end the process with a status that tells who was there.
constexpr int handled_by_application = 42;
constexpr int not_meant_for_application = 43;
volatile std::sig_atomic_t meant_for_application = 0;

void end_in_application() {
  ::_exit(meant_for_application != 0 ? handled_by_application : not_meant_for_application);
}

void application_handler(int) {
  end_in_application();
}

void application_handler_with_info(int, siginfo_t* info, void*) {
  if (info != nullptr && info->si_addr != nullptr) end_in_application();
  ::_exit(1);
}

void chaining_handler(int signal, siginfo_t* info, void* context) {
  if (!mapio::handle_fault(signal, info, context)) end_in_application();
}

void install(void (*handler)(int, siginfo_t*, void*), int flags = 0, int also_blocked = 0) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | flags;
  if (also_blocked != 0) sigaddset(&action.sa_mask, also_blocked);
  ASSERT_EQ(::sigaction(SIGBUS, &action, nullptr), 0);
}

void install_plain(void (*handler)(int), int flags = 0) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  ASSERT_EQ(::sigaction(SIGBUS, &action, nullptr), 0);
}

/// Opens the file, cuts it, and lets mapio survive a fault.
void survive_a_fault(const fs::path& path) {
  write_file(path, pattern(2 * page()));
  const mapping m(path);
  support::truncate_file(path, page());
  std::string buffer(2 * page(), '#');
  std::error_code ec;
  EXPECT_EQ(m.read_into(0, asio::buffer(buffer), ec), page());
  EXPECT_EQ(ec, errc::page_fault);
}

/// Touches a page that is gone, outside of mapio.
void fault_elsewhere(const fs::path& path) {
  write_file(path, "x");
  const support::foreign_mapping m(path, page());
  support::truncate_file(path, 0);
  meant_for_application = 1;
  const char byte = *static_cast<volatile char*>(m.data());
  ADD_FAILURE() << "there was no fault, but a byte: " << static_cast<int>(byte);
}

TEST_F(mapping_sigbus, outside_of_mapio_goes_to_the_handler_that_was_there_before) {
  const auto end = support::in_fresh_process([&] {
    install(application_handler_with_info);
    survive_a_fault(path_);
    fault_elsewhere(dir_ / "other");
  });
  EXPECT_TRUE(end.exited_with(handled_by_application)) << end;
}

TEST_F(mapping_sigbus, outside_of_mapio_goes_to_a_handler_without_information_too) {
  const auto end = support::in_fresh_process([&] {
    install_plain(application_handler);
    survive_a_fault(path_);
    fault_elsewhere(dir_ / "other");
  });
  EXPECT_TRUE(end.exited_with(handled_by_application)) << end;
}

TEST_F(mapping_sigbus, outside_of_mapio_kills_where_nobody_handles_it) {
  const auto end = support::in_fresh_process([&] {
    install_plain(SIG_DFL);
    survive_a_fault(path_);
    fault_elsewhere(dir_ / "other");
  });
  EXPECT_TRUE(end.killed_by(SIGBUS)) << end;
}

TEST_F(mapping_sigbus, outside_of_mapio_kills_where_it_was_ignored) {
  const auto end = support::in_fresh_process([&] {
    install_plain(SIG_IGN);
    survive_a_fault(path_);
    fault_elsewhere(dir_ / "other");
  });
  EXPECT_TRUE(end.killed_by(SIGBUS)) << end;
}

TEST_F(mapping_sigbus, outside_of_mapio_does_not_change_what_mapio_survives) {
  const auto end = support::in_fresh_process([&] {
    install_plain(application_handler);
    for (int i = 0; i < 3; ++i)
      survive_a_fault(path_);
  });
  EXPECT_TRUE(end.ok()) << end;
}

TEST_F(mapping_sigbus, is_survived_when_a_later_handler_chains) {
  const auto end = support::in_fresh_process([&] {
    survive_a_fault(path_);
    install(chaining_handler);
    survive_a_fault(path_);
    survive_a_fault(path_);
    fault_elsewhere(dir_ / "other");
  });
  EXPECT_TRUE(end.exited_with(handled_by_application)) << end;
}

TEST_F(mapping_sigbus, that_somebody_sent_goes_to_the_application) {
  // A signal that was sent is no fault: it goes to the application too.
  const auto end = support::in_fresh_process([&] {
    install_plain(application_handler);
    survive_a_fault(path_);
    meant_for_application = 1;
    ::raise(SIGBUS);
  });
  EXPECT_TRUE(end.exited_with(handled_by_application)) << end;
}

TEST_F(mapping_sigbus, that_somebody_sent_kills_where_nobody_handles_it) {
  const auto end = support::in_fresh_process([&] {
    install_plain(SIG_DFL, SA_SIGINFO);
    survive_a_fault(path_);
    ::raise(SIGBUS);
  });
  EXPECT_TRUE(end.killed_by(SIGBUS)) << end;
}

TEST_F(mapping_sigbus, that_somebody_sent_is_ignored_where_it_was_and_nothing_else_changes) {
  const auto end = support::in_fresh_process([&] {
    install_plain(SIG_IGN);
    survive_a_fault(path_);
    ::raise(SIGBUS);
    survive_a_fault(path_);
  });
  EXPECT_TRUE(end.ok()) << end;
}

volatile std::sig_atomic_t handled_before = 0;

void once_only_handler(int, siginfo_t*, void*) {
  if (handled_before != 0) ::_exit(not_meant_for_application);
  handled_before = 1;
}

// It returns, or raises the signal anew, and expects the process to end by that.
TEST_F(mapping_sigbus, kills_after_the_one_call_that_the_handler_before_asked_for) {
  const auto end = support::in_fresh_process([&] {
    install(once_only_handler, static_cast<int>(SA_RESETHAND));
    survive_a_fault(path_);
    fault_elsewhere(dir_ / "other");
  });
  EXPECT_TRUE(end.killed_by(SIGBUS)) << end;
}

// No status that a child ends with by itself.
constexpr int nothing_is_blocked = 16;
constexpr int sigusr1_is_blocked = 1;
constexpr int sigbus_is_blocked = 2;

void exit_with_what_is_blocked(int, siginfo_t*, void*) {
  sigset_t blocked;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
  int status = nothing_is_blocked;
  if (sigismember(&blocked, SIGUSR1) == 1) status += sigusr1_is_blocked;
  if (sigismember(&blocked, SIGBUS) == 1) status += sigbus_is_blocked;
  ::_exit(status);
}

TEST_F(mapping_sigbus, blocks_in_the_handler_before_what_that_asked_for) {
  const auto end = support::in_fresh_process([&] {
    install(exit_with_what_is_blocked, 0, SIGUSR1);
    survive_a_fault(path_);
    fault_elsewhere(dir_ / "other");
  });
  EXPECT_TRUE(end.exited_with(nothing_is_blocked + sigusr1_is_blocked + sigbus_is_blocked)) << end;
}

TEST_F(mapping_sigbus, is_not_blocked_in_a_handler_that_asked_for_that) {
  const auto end = support::in_fresh_process([&] {
    install(exit_with_what_is_blocked, SA_NODEFER);
    survive_a_fault(path_);
    fault_elsewhere(dir_ / "other");
  });
  // ThreadSanitizer blocks everything in every handler.
  const auto without_mapio = support::in_child([&] {
    install(exit_with_what_is_blocked, SA_NODEFER);
    fault_elsewhere(dir_ / "other");
  });
  EXPECT_EQ(end.status, without_mapio.status) << end << ", without mapio " << without_mapio;
}

/// An alternate stack for the signals of this thread, as it was asked for.
class alternate_stack {
 public:
  explicit alternate_stack(unsigned flags = 0) {
    stack_t stack{};
    stack.ss_sp = memory_.data();
    stack.ss_size = memory_.size();
    stack.ss_flags = static_cast<int>(flags);
    EXPECT_EQ(::sigaltstack(&stack, &before_), 0);
  }
  alternate_stack(const alternate_stack&) = delete;
  alternate_stack& operator=(const alternate_stack&) = delete;
  ~alternate_stack() { ::sigaltstack(&before_, nullptr); }

  void expect_in_use(unsigned flags) const {
    stack_t now{};
    ASSERT_EQ(::sigaltstack(nullptr, &now), 0);
    EXPECT_EQ(now.ss_sp, memory_.data());
    EXPECT_EQ(now.ss_size, memory_.size());
    EXPECT_EQ(static_cast<unsigned>(now.ss_flags), flags);
  }

 private:
  std::vector<char> memory_ = std::vector<char>(256 << 10);
  stack_t before_{};
};

TEST_F(mapping_sigbus, leaves_an_alternate_stack_in_use) {
  constexpr unsigned autodisarm = 1U << 31;  // SS_AUTODISARM, not in the C library's headers
  write_file(path_, pattern(16 * page()));
  const mapping m(path_);
  support::truncate_file(path_, page());
  for (const unsigned flags : {0U, autodisarm}) {
    const alternate_stack stack(flags);
    // Of each kind of copy.
    for (const std::size_t n : {std::size_t{1}, page(), 15 * page()})
      for (int i = 0; i < 3; ++i) {
        std::string buffer(n, '#');
        std::error_code ec;
        EXPECT_EQ(m.read_into(page(), asio::buffer(buffer), ec), 0U);
        EXPECT_EQ(ec, errc::page_fault);
        stack.expect_in_use(flags);
      }
  }
}

TEST_F(mapping_sigbus, is_no_business_of_handle_fault_outside_of_a_copy) {
  siginfo_t info{};
  info.si_signo = SIGBUS;
  info.si_code = BUS_ADRERR;
  EXPECT_FALSE(mapio::handle_fault(SIGBUS, &info, nullptr));
  info.si_signo = SIGSEGV;
  EXPECT_FALSE(mapio::handle_fault(SIGSEGV, &info, nullptr));
}

TEST_F(mapping_sigbus, from_a_region_can_be_handled_by_the_application) {
  const auto end = support::in_fresh_process([&] {
    install(application_handler_with_info);
    write_file(path_, pattern(2 * page()));
    const mapping m(path_);
    const mapio::region r = m.view(0, m.size());
    support::truncate_file(path_, 0);
    meant_for_application = 1;
    const auto byte = *static_cast<const volatile std::byte*>(r.data());
    ADD_FAILURE() << static_cast<int>(byte);
  });
  EXPECT_TRUE(end.exited_with(handled_by_application)) << end;
}

TEST_F(mapping_sigbus, leaves_the_signal_mask_as_it_was) {
  sigset_t before;
  sigset_t after;
  ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, nullptr, &before), 0);
  for (int i = 0; i < 3; ++i)
    survive_a_fault(path_);
  ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, nullptr, &after), 0);
  for (int signal = 1; signal < 32; ++signal)
    EXPECT_EQ(sigismember(&before, signal), sigismember(&after, signal)) << signal;
}

// --- a full disk
// --------------------------------------------------------------------------------------------------

#define MAPIO_ON_SMALL_DISK(...)                                                                   \
  if (!faults::on_small_disk(dir_.path(), 1 << 20, __VA_ARGS__))                                   \
  GTEST_SKIP() << "only root may mount a small file system to fill it"

TEST_F(mapping_disk_full, refuses_to_grow_and_keeps_the_size) {
  MAPIO_ON_SMALL_DISK([&] {
    const std::string bytes = pattern(4 * page());
    file_of(bytes);
    mapping m(path_, read_write());
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(code_of([&] { m.resize(8 << 20); }), std::errc::no_space_on_device);
      EXPECT_EQ(m.size(), bytes.size());
      EXPECT_EQ(fs::file_size(path_), bytes.size());
    }
    EXPECT_TRUE(same(read_all(m), bytes));
    m.resize(5 * page());  // there is still room for this
    EXPECT_TRUE(same(read_all(m), bytes + std::string(page(), '\0')));
    m.flush();
  });
}

TEST_F(mapping_disk_full, refuses_to_create_and_leaves_nothing_behind) {
  MAPIO_ON_SMALL_DISK([&] {
    for (const auto how :
         {disposition::create_new, disposition::open_or_create, disposition::create_or_truncate}) {
      EXPECT_EQ(open_error(path_, creating(8 << 20, how)), std::errc::no_space_on_device);
      EXPECT_FALSE(fs::exists(path_));
      EXPECT_EQ(fs::space(dir_.path()).available, fs::space(dir_.path()).capacity);
    }
  });
}

TEST_F(mapping_disk_full, keeps_the_file_that_was_to_be_replaced) {
  MAPIO_ON_SMALL_DISK([&] {
    const std::string bytes = pattern(4 * page() + 1);
    file_of(bytes);
    EXPECT_EQ(open_error(path_, creating(8 << 20)), std::errc::no_space_on_device);
    EXPECT_TRUE(same(read_file(path_), bytes));
  });
}

TEST_F(mapping_disk_full, is_a_fault_under_a_hole) {
  MAPIO_ON_SMALL_DISK([&] {
    open_options options = creating(4 << 20);
    options.preallocate = false;
    mapping m(path_, options);
    const std::string bytes = pattern(4 << 20);
    std::error_code ec;
    const std::size_t n = m.update_region(0, asio::buffer(bytes), ec);
    EXPECT_EQ(ec, errc::page_fault) << ec.message();
    EXPECT_LE(n, 1U << 20);
    EXPECT_EQ(n % page(), 0U);
    EXPECT_TRUE(same(to_string(m.view(0, n)), bytes.substr(0, n)));
    // The kernel's own sync would say that all is well.
    m.flush(ec);
    EXPECT_TRUE(ec);
    EXPECT_TRUE(m.flush_error());
  });
}

TEST_F(mapping_disk_full, cannot_hit_what_was_allocated_before) {
  MAPIO_ON_SMALL_DISK([&] {
    mapping m = mapping::create(path_, 64 * page());
    open_options rest = creating((1 << 20) - 64 * page());
    rest.create = disposition::create_new;
    const mapping filler(dir_ / "filler", rest);
    EXPECT_EQ(fs::space(dir_.path()).available, 0U);
    const std::string bytes = pattern(64 * page());
    EXPECT_EQ(m.update_region(0, asio::buffer(bytes)), bytes.size());
    m.flush();
    EXPECT_TRUE(same(read_all(m), bytes));
  });
}

TEST_F(mapping_disk_full, is_told_from_one_that_may_only_be_read) {
  MAPIO_ON_SMALL_DISK([&] {
    file_of("x");
    if (!faults::remount_read_only(dir_.path())) return;
    EXPECT_FALSE(open_error(path_));
    EXPECT_EQ(open_error(path_, read_write()), std::errc::read_only_file_system);
    EXPECT_EQ(open_error(dir_ / "new", creating(1)), std::errc::read_only_file_system);
  });
}

// --- what watchers in other programs see
// ---------------------------------------------------------------------------

TEST_F(mapping_announce, tells_watchers_of_stores_once_per_flush) {
  open_options options = creating(4 * page());
  options.writes =
      mapio::write_path::mapped;  // the kernel tells of a write through the file itself
  mapping m(path_, options);
  m.flush();
  support::modification_watch watch(path_);
  for (std::uint64_t i = 0; i < 4; ++i)
    m.update_region(i * page(), asio::buffer("x", 1));
  EXPECT_EQ(watch.modifications(), 0) << "a store is silent by itself";
  m.flush();
  EXPECT_TRUE(support::eventually([&] { return watch.modifications() > 0; }));
}

TEST_F(mapping_announce, tells_nothing_where_nothing_was_stored) {
  mapping m = mapping::create(path_, 4 * page());
  m.flush();
  support::modification_watch watch(path_);
  m.flush();
  m.flush_range(0, page());
  m.close();
  EXPECT_EQ(watch.modifications(), 0);
}

TEST_F(mapping_announce, can_be_switched_off) {
  open_options options = creating(4 * page());
  options.announce = false;
  options.writes = mapio::write_path::mapped;
  mapping m(path_, options);
  m.flush();
  support::modification_watch watch(path_);
  m.update_region(0, asio::buffer("x", 1));
  m.flush();
  m.close();
  EXPECT_EQ(watch.modifications(), 0);
}

// --- printing and numbers
// -------------------------------------------------------------------------------------------

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
  EXPECT_EQ(mapio::page_size(), static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)));
}

TEST_F(mapping_print, capacity_is_at_least_the_size_and_what_was_reserved) {
  open_options options = creating(page());
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
