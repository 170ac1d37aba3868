// What of mapping_test.cpp is about Linux.

#include <mapio/mapping.hpp>

#include "faults/counted_syncs.hpp"
#include "faults/failing_syncs.hpp"
#include "faults/loop_disk.hpp"
#include "faults/private_mount.hpp"
#include "faults/syscall_gate.hpp"
#include "linux/linux_support.hpp"
#include "mapping_fixture.hpp"
#include "modification_watch.hpp"

#include <asio/buffer.hpp>

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace {

namespace fs = std::filesystem;
using mapio::disposition;
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
using support::read_write;
using support::same;
using support::to_string;
using support::write_file;
using support::write_slot;

using mapping_open = mapping_test;
using mapping_create = mapping_test;
using mapping_flush = mapping_test;
using mapping_poison = mapping_test;
using mapping_prefetch = mapping_test;
using mapping_lock = mapping_test;
using mapping_adopt = mapping_test;
using mapping_copy_on_write = mapping_test;
using mapping_sigbus = mapping_test;
using mapping_disk_full = mapping_test;
using mapping_announce = mapping_test;

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

TEST_F(mapping_create, of_an_existing_file_takes_no_room_for_another_one) {
  write_file(path_, "x");
  const open_options options = creating(std::uint64_t{1} << 43, disposition::create_new);
  EXPECT_EQ(open_error(path_, options), std::errc::file_exists);
}

TEST_F(mapping_create, begins_anew_in_the_blocks_that_it_was_given) {
  for (const std::uint64_t size : {page(), 3 * page() + 1, 9 * page()}) {
    write_file(path_, pattern(5 * page()));
    bool is_given = false;
    faults::syscall_gate gate({SYS_fallocate}, [&](const faults::syscall_gate::call& c) {
      const bool is_wanted = c.arguments[1] == 0;
      return is_wanted && std::exchange(is_given, true) ? faults::syscall_gate::fail(ENOSPC)
                                                        : faults::syscall_gate::pass;
    });
    const bool possible = gate.run([&] {
      open_options options = creating(size, disposition::create_or_truncate);
      options.preallocate = true;
      const mapping m(path_, options);
      EXPECT_TRUE(same(read_all(m), std::string(size, '\0')));
      EXPECT_EQ(fs::file_size(path_), size);
    });
    if (!possible) GTEST_SKIP() << "seccomp does not let us fail system calls";
  }
}

TEST_F(mapping_create, maps_what_it_created_though_another_file_took_the_name) {
  const fs::path other = dir_ / "other";
  write_file(other, "somebody else's");
  faults::syscall_gate gate({SYS_openat}, [&](const faults::syscall_gate::call&) {
    std::error_code ignored;
    // Between its getting the name and being opened by that.
    if (fs::exists(path_, ignored)) fs::rename(other, path_, ignored);
    return faults::syscall_gate::pass;
  });
  const bool possible = gate.run([&] {
    mapping m(path_, creating(page(), disposition::create_new));
    EXPECT_EQ(m.size(), page());
    m.update_region(0, asio::buffer("mine", 4));
    EXPECT_EQ(read_file(path_), "somebody else's");
    // Whose name is to be durable, nobody knows.
    EXPECT_EQ(code_of([&] { m.flush(); }), std::errc::no_such_file_or_directory);
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us see system calls";
}

// Who waits at its other end would take it for a reader.
TEST_F(mapping_open, of_a_pipe_is_refused_without_opening_it) {
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  const support::unique_fd opens(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  ASSERT_GE(::inotify_add_watch(opens.get(), path_.c_str(), IN_OPEN), 0);
  const auto is_opened = [&] {
    alignas(inotify_event) std::array<char, 4096> events{};
    return ::read(opens.get(), events.data(), events.size()) > 0;
  };
  for (const disposition create :
       {disposition::open_existing, disposition::open_or_create, disposition::create_or_truncate}) {
    EXPECT_EQ(open_error(path_, creating(1, create)), std::errc::no_such_device);
    EXPECT_FALSE(is_opened());
  }
  const support::unique_fd pipe = support::open_fd(path_, O_RDONLY | O_NONBLOCK);
  EXPECT_TRUE(is_opened());
}

TEST_F(mapping_create, leaves_the_permissions_of_an_existing_file_alone) {
  file_of("x");
  fs::permissions(path_, fs::perms{0640});
  open_options options = creating(page());
  options.permissions = fs::perms{0600};
  EXPECT_FALSE(open_error(path_, options));
  EXPECT_EQ(static_cast<unsigned>(fs::status(path_).permissions()), 0640U);
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
    // To ask has it read, which a quick disk may have done before there is an answer.
    bool was_told_apart = false;
    for (int i = 0; i < 20 && !was_told_apart && support::evict(path); ++i)
      was_told_apart = !m.is_resident(0, page()) && !m.is_resident(0, m.size());
    EXPECT_TRUE(was_told_apart);
    m.prefetch();
    EXPECT_TRUE(m.is_resident(0, m.size()));
    EXPECT_TRUE(m.is_resident(5, 10 * page()));
  });
  EXPECT_TRUE(end.exited_with(0)) << end;
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

TEST_F(mapping_adopt, takes_a_file_without_a_name) {
  support::unique_fd fd(::open(dir_.path().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (fd.get() < 0) GTEST_SKIP() << "this file system has no O_TMPFILE";
  mapping m = mapping::adopt(fd.release(), read_write());
  m.resize(page());
  m.update_region(0, asio::buffer("x", 1));
  m.flush();
  EXPECT_EQ(to_string(m.view(0, 1)), "x");
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
  EXPECT_EQ(end, without_mapio) << end << ", without mapio " << without_mapio;
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

}  // namespace
