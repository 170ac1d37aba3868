// What of file_operations_test.cpp is about Linux.

#include <mapio/file_operations.hpp>

#include "faults/loop_disk.hpp"
#include "faults/private_mount.hpp"
#include "faults/syscall_gate.hpp"
#include "file_operations_fixture.hpp"
#include "linux/linux_support.hpp"
#include "mapped_file_fixture.hpp"

#include <asio/any_io_executor.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/bind_executor.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/strand.hpp>
#include <asio/this_coro.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

namespace {

namespace fs = std::filesystem;
using faults::syscall_gate;
using mapio::copy_file_options;
using mapio::errc;
using mapio::mapping;
using support::aborted;
using support::by_hand;
using support::durably;
using support::file_operations;
using support::file_operations_copy;
using support::file_operations_remove;
using support::keeping;
using support::mebibyte;
using support::outcome;
using support::page;
using support::pattern;
using support::pool_threads;
using support::read_file;
using support::run_to_end;
using support::run_until;
using support::same;
using support::turn;
using support::write_file;

mode_t mode_of(const fs::path& path) {
  struct stat status {};
  EXPECT_EQ(::lstat(path.c_str(), &status), 0) << path;
  return status.st_mode & 07777;
}

std::uint64_t allocated_bytes(const fs::path& path) {
  struct stat status {};
  EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
  return 512 * static_cast<std::uint64_t>(status.st_blocks);
}

bool shares_its_first_block(const fs::path& path) {
  alignas(fiemap) std::array<unsigned char, sizeof(fiemap) + sizeof(fiemap_extent)> memory{};
  auto* const map = reinterpret_cast<fiemap*>(memory.data());
  map->fm_length = FIEMAP_MAX_OFFSET;
  map->fm_flags = FIEMAP_FLAG_SYNC;
  map->fm_extent_count = 1;
  const support::unique_fd fd = support::open_fd(path, O_RDONLY);
  EXPECT_EQ(::ioctl(fd.get(), FS_IOC_FIEMAP, map), 0);
  return map->fm_mapped_extents == 1 && (map->fm_extents[0].fe_flags & FIEMAP_EXTENT_SHARED) != 0;
}

void make_socket(const fs::path& path) {
  const support::unique_fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.string().copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
}

/// For tests whose child starts an engine.
#define MAPIO_SKIP_UNDER_TSAN()                                                                    \
  if (support::under_tsan)                                                                         \
  GTEST_SKIP() << "ThreadSanitizer allows no threads after a fork with threads"

// Windows has other errors for these.
TEST_F(file_operations_copy, refuses_names_that_no_file_has) {
  write_file(from_, "new");
  const fs::path too_long = dir_ / std::string(300, 'x');
  for (const auto& [path, why] : {std::pair{fs::path(from_) += "/", std::errc::not_a_directory},
                                  std::pair{too_long, std::errc::filename_too_long}}) {
    expect_refused(path, to_, why);
    expect_refused(from_, path, why);
    const outcome o = remove(path);
    EXPECT_EQ(o.calls, 1);
    EXPECT_EQ(o.error, why) << path << ": " << o.error.message();
  }
  EXPECT_EQ(names(), (std::set<std::string>{"from"}));
}

TEST_F(file_operations_copy, has_the_permissions_of_its_source_and_no_privileges) {
  write_file(from_, "x");
  const mode_t mask = ::umask(0077);
  for (const mode_t mode : {0600U, 0644U, 0755U, 06755U, 01664U, 0444U}) {
    ASSERT_EQ(::chmod(from_.c_str(), mode), 0);
    fs::remove(to_);
    EXPECT_TRUE(copy(from_, to_).ok());
    EXPECT_EQ(mode_of(to_), mode & 0777);
  }
  fs::remove(to_);
  write_file(to_, "old");
  ASSERT_EQ(::chmod(to_.c_str(), 0600), 0);
  EXPECT_TRUE(copy(from_, to_).ok());
  EXPECT_EQ(mode_of(to_), 0444U);
  ::umask(mask);
}

TEST_F(file_operations_copy, keeps_holes) {
  constexpr std::uint64_t size = 40 * mebibyte + 5;
  write_file(from_, "");
  support::truncate_file(from_, size);
  {
    mapping m(from_, support::read_write());
    m.update_region(3 * mebibyte, asio::buffer(pattern(page(), 1)));
    m.update_region(20 * mebibyte + 1, asio::buffer(pattern(2 * mebibyte, 2)));
  }
  if (allocated_bytes(from_) > 8 * mebibyte) GTEST_SKIP() << "this file system has no holes";
  const outcome o = copy(from_, to_);
  EXPECT_TRUE(o.ok()) << o.error.message();
  EXPECT_EQ(o.bytes, size);
  EXPECT_LE(allocated_bytes(to_), 8 * mebibyte);
  const mapping a(from_);
  const mapping b(to_);
  ASSERT_EQ(b.size(), size);
  EXPECT_EQ(std::memcmp(a.view(0, size).data(), b.view(0, size).data(), size), 0);

  // Nothing but a hole.
  fs::remove(from_);
  write_file(from_, "");
  support::truncate_file(from_, 3 * mebibyte);
  expect_complete(copy(from_, to_));
  EXPECT_EQ(allocated_bytes(to_), 0U);
}

TEST_F(file_operations_copy, has_what_a_file_without_a_size_gives) {
  const outcome o = copy("/proc/version", to_);
  EXPECT_TRUE(o.ok()) << o.error.message();
  EXPECT_EQ(read_file(to_), read_file("/proc/version"));
  EXPECT_EQ(o.bytes, fs::file_size(to_));
}

TEST_F(file_operations_copy, shares_blocks_where_the_file_system_can) {
  const fs::path where = dir_ / "disk";
  fs::create_directory(where);
  bool is_seen = false;
  const auto copy_there = [&] {
    write_file(where / "from", pattern(20 * mebibyte));
    // To copy bytes would share them too, here; but that is not to be relied on.
    syscall_gate gate({SYS_copy_file_range, SYS_pread64},
                      [](const syscall_gate::call&) { return syscall_gate::fail(EIO); });
    outcome o;
    is_seen = gate.run([&] {
      asio::io_context io;
      mapio::copy_file(io, where / "from", where / "to", o.handler());
      EXPECT_TRUE(run_to_end(io));
    });
    if (!is_seen) return;
    EXPECT_TRUE(o.ok()) << o.error.message();
    EXPECT_EQ(o.bytes, 20 * mebibyte);
    EXPECT_TRUE(same(read_file(where / "to"), read_file(where / "from")));
    EXPECT_TRUE(shares_its_first_block(where / "to"));
  };
  if (!faults::on_loop_disk(dir_ / "image", where, 400 * mebibyte, copy_there,
                            "mkfs.xfs -q -f -m reflink=1"))
    GTEST_SKIP() << "no xfs can be mounted here";
  if (!is_seen) GTEST_SKIP() << "the kernel does not let us see system calls";
}

TEST_F(file_operations_copy, that_shares_blocks_has_the_size_of_the_beginning_or_fails) {
  const fs::path where = dir_ / "disk";
  fs::create_directory(where);
  constexpr std::uint64_t size = 2 * mebibyte;
  bool is_seen = false;
  const auto copy_while = [&](auto changes_the_source) {
    write_file(where / "from", pattern(size));
    write_file(where / "to", "old");
    syscall_gate gate({SYS_ioctl}, [](const syscall_gate::call& c) {
      return c.arguments[1] == FICLONE ? syscall_gate::hold : syscall_gate::pass;
    });
    outcome o;
    is_seen = gate.run([&] {
      asio::io_context io;
      mapio::copy_file(io, where / "from", where / "to", o.handler());
      gate.wait_until_held();
      changes_the_source();
      gate.release();
      EXPECT_TRUE(run_to_end(io));
    });
    return o;
  };
  const auto copy_there = [&] {
    outcome o = copy_while([&] { support::truncate_file(where / "from", 10); });
    if (!is_seen) return;
    EXPECT_EQ(o.error, errc::page_fault) << o.error.message();
    EXPECT_EQ(o.bytes, 10U);
    EXPECT_EQ(read_file(where / "to"), "old");

    o = copy_while(
        [&] { std::ofstream(where / "from", std::ios::app | std::ios::binary) << "more"; });
    EXPECT_TRUE(o.ok()) << o.error.message();
    EXPECT_EQ(o.bytes, size);
    EXPECT_TRUE(same(read_file(where / "to"), pattern(size)));
    EXPECT_TRUE(shares_its_first_block(where / "to"));
  };
  if (!faults::on_loop_disk(dir_ / "image", where, 400 * mebibyte, copy_there,
                            "mkfs.xfs -q -f -m reflink=1"))
    GTEST_SKIP() << "no xfs can be mounted here";
  if (!is_seen) GTEST_SKIP() << "the kernel does not let us see system calls";
}

// As they do of files that have bytes and do not say so.
TEST_F(file_operations_copy, reads_what_the_kernel_says_it_cannot_find) {
  write_file(from_, pattern(3 * by_hand + 1));
  syscall_gate gate({SYS_ioctl, SYS_copy_file_range}, [](const syscall_gate::call& c) {
    if (c.number == SYS_copy_file_range) return syscall_gate::fail(0);
    return c.arguments[1] == FICLONE ? syscall_gate::fail(EOPNOTSUPP) : syscall_gate::pass;
  });
  const bool is_seen = gate.run([&] { expect_complete(copy(from_, to_)); });
  if (!is_seen) GTEST_SKIP() << "the kernel does not let us see system calls";
}

// Left by a copy that was killed, and a process that has its number now.
TEST_F(file_operations_copy, takes_another_name_where_its_own_is_taken) {
  write_file(from_, "new");
  write_file(to_, "old");
  constexpr int taken = 900;
  const auto left = [&](int i) {
    return dir_ / (".mapio-copy-" + std::to_string(::getpid()) + '-' + std::to_string(i));
  };
  for (int i = 0; i < taken; ++i)
    write_file(left(i), "left");
  const outcome o = copy(from_, to_);
  EXPECT_TRUE(o.ok()) << o.error.message();
  EXPECT_EQ(read_file(to_), "new");
  for (int i = 0; i < taken; ++i)
    ASSERT_EQ(read_file(left(i)), "left") << i;
  EXPECT_EQ(names().size(), std::size_t{taken} + 2);
}

TEST_F(file_operations_copy, refuses_what_is_no_file) {
  fs::create_directory(dir_ / "folder");
  ASSERT_EQ(::mkfifo((dir_ / "fifo").c_str(), 0600), 0);
  make_socket(dir_ / "socket");
  write_file(from_, "new");
  const std::array<std::pair<fs::path, std::errc>, 3> others{
      {{dir_ / "folder", std::errc::is_a_directory},
       {dir_ / "fifo", std::errc::no_such_device},
       {dir_ / "socket", std::errc::no_such_device}}};
  for (const auto& [path, why] : others)
    for (const copy_file_options& options : {copy_file_options(), keeping}) {
      expect_refused(path, to_, why, options);
      expect_refused(from_, path, why, options);
      EXPECT_FALSE(fs::is_regular_file(path)) << path;
    }
}

TEST_F(file_operations_copy, refuses_devices) {
  // Only as a source: root can replace the machine's own, and would if this failed.
  expect_refused("/dev/null", to_, std::errc::no_such_device);
  const fs::path device = dir_ / "null";
  if (::mknod(device.c_str(), S_IFCHR | 0666, makedev(1, 3)) != 0)
    GTEST_SKIP() << "no devices can be made here";
  write_file(from_, "new");
  expect_refused(from_, device, std::errc::no_such_device);
  EXPECT_TRUE(fs::is_character_file(device));
}

TEST_F(file_operations_copy, holds_to_permissions) {
  MAPIO_SKIP_UNDER_TSAN();
  write_file(from_, "new");
  write_file(to_, "old");
  fs::create_directory(dir_ / "closed");
  ASSERT_EQ(::chmod(dir_.path().c_str(), 0777), 0);
  ASSERT_EQ(::chmod((dir_ / "closed").c_str(), 0555), 0);
  ASSERT_EQ(::chmod(from_.c_str(), 0644), 0);
  ASSERT_EQ(::chmod(to_.c_str(), 0444), 0);
  support::as_ordinary_user([&] {
    expect_refused(from_, to_, std::errc::permission_denied);  // which a rename could replace
    expect_refused(from_, dir_ / "closed" / "to", std::errc::permission_denied);
    EXPECT_TRUE(copy(from_, dir_ / "mine").ok());
    EXPECT_EQ(::chmod((dir_ / "mine").c_str(), 0), 0);
    expect_refused(dir_ / "mine", dir_ / "other", std::errc::permission_denied);
  });
  EXPECT_EQ(read_file(to_), "old");
}

TEST_F(file_operations_copy, of_a_full_disk_is_an_error_and_leaves_nothing) {
  const fs::path where = dir_ / "disk";
  fs::create_directory(where);
  write_file(from_, pattern(4 * mebibyte));
  const bool is_mounted = faults::on_small_disk(where, 2 * mebibyte, [&] {
    asio::io_context io;
    write_file(where / "to", "old");
    outcome o;
    mapio::copy_file(io, from_, where / "to", o.handler());
    EXPECT_TRUE(run_to_end(io));
    EXPECT_EQ(o.error, std::errc::no_space_on_device) << o.error.message();
    EXPECT_LT(o.bytes, 2 * mebibyte);
    EXPECT_EQ(read_file(where / "to"), "old");
    // The room is there again.
    write_file(where / "large", pattern(mebibyte + mebibyte / 2));
    fs::remove(where / "large");

    ASSERT_TRUE(faults::remount_read_only(where));
    for (const char* name : {"to", "new"}) {
      o = {};
      mapio::copy_file(io, from_, where / name, o.handler());
      io.restart();
      EXPECT_TRUE(run_to_end(io));
      EXPECT_EQ(o.error, std::errc::read_only_file_system) << o.error.message();
    }
    o = {};
    mapio::remove_file(io, where / "to", o.handler());
    io.restart();
    EXPECT_TRUE(run_to_end(io));
    EXPECT_EQ(o.error, std::errc::read_only_file_system) << o.error.message();
  });
  if (!is_mounted) GTEST_SKIP() << "mounting is not allowed here";
}

TEST_F(file_operations_copy, beyond_the_limit_for_files_is_an_error_and_no_signal) {
  MAPIO_SKIP_UNDER_TSAN();
  write_file(from_, pattern(2 * page()));
  write_file(to_, "old");
  const auto end = support::in_child([&] {
    const rlimit limit{page(), page()};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
    expect_refused(from_, to_, std::errc::file_too_large);
  });
  EXPECT_TRUE(end.ok()) << end;
  expect_untouched();
}

/// Makes copies go through this process, a buffer at a time, and shows the name of the source to
/// `decide` before each is read.
class by_hand_gate : public syscall_gate {
 public:
  explicit by_hand_gate(std::function<verdict(std::string_view)> decide)
      : syscall_gate({SYS_ioctl, SYS_copy_file_range, SYS_pread64},
                     [decide = std::move(decide)](const call& c) {
                       if (c.number == SYS_ioctl)
                         return c.arguments[1] == FICLONE ? fail(EOPNOTSUPP) : pass;
                       if (c.number == SYS_copy_file_range) return fail(EXDEV);
                       const fs::path link = "/proc/self/fd/" + std::to_string(c.fd());
                       return decide(fs::read_symlink(link).filename().string());
                     }) {}
};

/// Holds the `n`th reading.
auto hold_at(int n) {
  return [n, count = std::make_shared<int>(0)](std::string_view) {
    return ++*count == n ? syscall_gate::hold : syscall_gate::pass;
  };
}

/// Lets everything go on that a gate holds, again and again until the end of the scope.
class releaser {
 public:
  explicit releaser(syscall_gate& gate) : gate_(gate) {}
  releaser(const releaser&) = delete;
  releaser& operator=(const releaser&) = delete;
  ~releaser() {
    stop_ = true;
    thread_.join();
  }

 private:
  syscall_gate& gate_;
  std::atomic<bool> stop_{false};
  std::thread thread_{[this] {
    while (!stop_) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      gate_.release();
    }
  }};
};

class file_operations_stopped : public file_operations {
 protected:
  file_operations_stopped() {
    write_file(from_, bytes_);
    write_file(to_, "old");
  }

  /// Starts a copy on a loop of its own, runs `meanwhile(io, copy)` while the third buffer is being
  /// read, and the copy to its end.
  template <class Meanwhile>
  outcome with_third_buffer_held(Meanwhile meanwhile, const copy_file_options& options = {}) {
    outcome o;
    by_hand_gate gate(hold_at(3));
    const bool is_seen = gate.run([&] {
      asio::io_context io;
      asio::cancellation_signal stop;
      mapio::copy_file(io, from_, to_, options,
                       asio::bind_cancellation_slot(stop.slot(), o.handler()));
      gate.wait_until_held();
      meanwhile(stop);
      gate.release();
      EXPECT_TRUE(run_to_end(io));
    });
    is_skipped_ = !is_seen;
    return o;
  }

  const std::string bytes_ = pattern(8 * by_hand);
  bool is_skipped_ = false;
};

#define MAPIO_SKIP_UNLESS_SEEN()                                                                   \
  if (is_skipped_) GTEST_SKIP() << "the kernel does not let us see system calls"

TEST_F(file_operations_stopped, says_how_far_it_is) {
  std::atomic<std::uint64_t> progress{1};
  const outcome o = with_third_buffer_held([&](auto&) { EXPECT_EQ(progress, 2 * by_hand); },
                                           {.progress = &progress});
  MAPIO_SKIP_UNLESS_SEEN();
  EXPECT_EQ(progress, bytes_.size());
  expect_complete(o);
}

TEST_F(file_operations_stopped, goes_on_and_has_every_byte) {
  const outcome o = with_third_buffer_held([&](auto&) { expect_untouched(); });
  MAPIO_SKIP_UNLESS_SEEN();
  expect_complete(o);
}

TEST_F(file_operations_stopped, keeps_its_descriptors_from_programs_that_are_started) {
  const std::set<int> before = support::open_descriptors();
  with_third_buffer_held([&](auto&) {
    int new_ones = 0;
    for (const int fd : support::open_descriptors())
      if (!before.contains(fd)) {
        ++new_ones;
        EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0) << fd;
      }
    EXPECT_GE(new_ones, 2);
  });
  MAPIO_SKIP_UNLESS_SEEN();
  // The gate's own goes with the last thread that was under its filter.
  EXPECT_TRUE(support::eventually([&] { return support::open_descriptors() == before; }));
}

TEST_F(file_operations_stopped, and_cancelled_says_how_far_it_came_and_leaves_the_target) {
  using asio::cancellation_type;
  for (const cancellation_type type :
       {cancellation_type::terminal, cancellation_type::partial, cancellation_type::total})
    for (const int times : {1, 2}) {
      const outcome o = with_third_buffer_held([&](auto& stop) {
        for (int i = 0; i < times; ++i)
          stop.emit(type);
      });
      MAPIO_SKIP_UNLESS_SEEN();
      EXPECT_EQ(o.calls, 1);
      EXPECT_EQ(o.error, aborted) << o.error.message();
      EXPECT_EQ(o.bytes, 3 * by_hand);
      expect_untouched();
    }
}

TEST_F(file_operations_stopped, is_cancelled_by_the_coroutine) {
  by_hand_gate gate(hold_at(3));
  outcome o;
  const bool is_seen = gate.run([&] {
    asio::io_context io;
    asio::cancellation_signal stop;
    asio::co_spawn(
        io,
        [&]() -> work {
          o.bytes = co_await mapio::copy_file(co_await asio::this_coro::executor, from_, to_,
                                              support::into(o.error));
        },
        asio::bind_cancellation_slot(stop.slot(), [&](std::exception_ptr) { ++o.calls; }));
    io.poll();
    gate.wait_until_held();
    stop.emit(asio::cancellation_type::terminal);
    gate.release();
    EXPECT_TRUE(run_to_end(io));
  });
  if (!is_seen) GTEST_SKIP() << "the kernel does not let us see system calls";
  EXPECT_EQ(o.calls, 1);
  EXPECT_EQ(o.error, aborted);
  EXPECT_EQ(o.bytes, 3 * by_hand);
  expect_untouched();
}

TEST_F(file_operations_stopped, while_its_source_shrinks_is_an_error) {
  // Amid the buffer that is read, before it, and amid one that comes later.
  for (const std::uint64_t size : {2 * by_hand + 1, std::uint64_t{0}, 5 * by_hand + 1}) {
    write_file(from_, bytes_);
    const outcome o = with_third_buffer_held([&](auto&) { support::truncate_file(from_, size); });
    MAPIO_SKIP_UNLESS_SEEN();
    EXPECT_EQ(o.error, errc::page_fault) << o.error.message();
    EXPECT_EQ(o.bytes, std::max(size, 2 * by_hand));
    expect_untouched();
  }
}

TEST_F(file_operations_stopped, while_its_source_grows_has_the_size_of_the_beginning) {
  const outcome o = with_third_buffer_held(
      [&](auto&) { std::ofstream(from_, std::ios::app | std::ios::binary) << "more"; });
  MAPIO_SKIP_UNLESS_SEEN();
  EXPECT_TRUE(o.ok()) << o.error.message();
  EXPECT_EQ(o.bytes, bytes_.size());
  EXPECT_TRUE(same(read_file(to_), bytes_));
}

TEST_F(file_operations_stopped, while_its_target_appears_does_not_overwrite_it_unless_it_may) {
  for (const bool may_overwrite : {false, true}) {
    fs::remove(to_);
    copy_file_options options;
    options.overwrite = may_overwrite;
    const outcome o = with_third_buffer_held([&](auto&) { write_file(to_, "old"); }, options);
    MAPIO_SKIP_UNLESS_SEEN();
    if (may_overwrite) {
      expect_complete(o);
    } else {
      EXPECT_EQ(o.error, std::errc::file_exists) << o.error.message();
      expect_untouched();
    }
  }
}

TEST_F(file_operations_stopped, goes_to_where_its_folder_was_when_it_began) {
  const fs::path before = fs::current_path();
  fs::current_path(dir_.path());
  outcome o;
  by_hand_gate gate(hold_at(3));
  const bool is_seen = gate.run([&] {
    asio::io_context io;
    mapio::copy_file(io, "from", "to", o.handler());
    gate.wait_until_held();
    fs::current_path(before);
    gate.release();
    EXPECT_TRUE(run_to_end(io));
  });
  fs::current_path(before);
  if (!is_seen) GTEST_SKIP() << "the kernel does not let us see system calls";
  expect_complete(o);
}

/// Four copies of "from" that keep every worker busy.
class file_operations_queued : public file_operations {
 protected:
  file_operations_queued() {
    write_file(from_, pattern(2 * by_hand));
    write_file(long_, pattern(turn + mebibyte));
    write_file(to_, "old");
  }

  /// Runs `body(io, gate)` with a gate that holds every copy of "from".
  template <class Body>
  void run_held(Body body) {
    by_hand_gate gate([](std::string_view name) {
      return name == "from" ? syscall_gate::hold : syscall_gate::pass;
    });
    if (!gate.run([&] { body(gate); }))
      GTEST_SKIP() << "the kernel does not let us see system calls";
  }
  void start_held(asio::io_context& io, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const fs::path to = dir_ / ("held " + std::to_string(held_.size()));
      mapio::copy_file(io, from_, to, held_.emplace_back().handler());
    }
  }
  /// The rest of the copies is allowed.
  void expect_target_untouched() const {
    EXPECT_EQ(read_file(to_), "old");
    for (const std::string& name : names())
      EXPECT_FALSE(name.starts_with('.')) << name;
  }

  const fs::path long_ = dir_ / "long";
  std::deque<outcome> held_;
};

TEST_F(file_operations_queued, and_cancelled_have_done_nothing) {
  run_held([&](syscall_gate& gate) {
    asio::io_context io;
    start_held(io, pool_threads);
    gate.wait_until_held(pool_threads);
    asio::cancellation_signal stop;
    outcome copying;
    outcome removing;
    mapio::copy_file(io, from_, to_, asio::bind_cancellation_slot(stop.slot(), copying.handler()));
    stop.emit(asio::cancellation_type::total);
    stop.emit(asio::cancellation_type::total);
    mapio::remove_file(io, to_, asio::bind_cancellation_slot(stop.slot(), removing.handler()));
    stop.emit(asio::cancellation_type::total);
    EXPECT_EQ(copying.calls, 0);
    EXPECT_TRUE(run_until(io, [&] { return copying.calls > 0 && removing.calls > 0; }));
    EXPECT_EQ(copying.error, aborted);
    EXPECT_EQ(copying.bytes, 0U);
    EXPECT_EQ(removing.error, aborted);
    const releaser go_on(gate);
    EXPECT_TRUE(run_to_end(io));
    for (const outcome& o : held_)
      EXPECT_TRUE(o.ok()) << o.error.message();
    expect_target_untouched();
  });
}

TEST_F(file_operations_queued, between_two_turns_can_be_cancelled) {
  for (const int times : {1, 2})
    run_held([&](syscall_gate& gate) {
      asio::io_context io;
      asio::cancellation_signal stop;
      outcome o;
      // All workers but one are busy, so that they take turns.
      start_held(io, pool_threads - 1);
      gate.wait_until_held(pool_threads - 1);
      mapio::copy_file(io, long_, to_, asio::bind_cancellation_slot(stop.slot(), o.handler()));
      start_held(io, 1);
      gate.wait_until_held(pool_threads);
      for (int i = 0; i < times; ++i)
        stop.emit(asio::cancellation_type::total);
      const releaser go_on(gate);
      EXPECT_TRUE(run_to_end(io));
      EXPECT_EQ(o.calls, 1);
      EXPECT_EQ(o.error, aborted) << o.error.message();
      EXPECT_EQ(o.bytes, turn);
      expect_target_untouched();
    });
}

TEST_F(file_operations_queued, or_under_way_end_with_their_context) {
  run_held([&](syscall_gate& gate) {
    const std::set<int> before = support::open_descriptors();
    const auto sentinel = std::make_shared<int>();
    int calls = 0;
    const auto handler = [&calls, sentinel](std::error_code, auto...) { ++calls; };
    auto io = std::make_unique<asio::io_context>();
    for (std::size_t i = 0; i < pool_threads - 1; ++i)
      mapio::copy_file(*io, from_, to_, handler);
    gate.wait_until_held(pool_threads - 1);
    mapio::copy_file(*io, long_, to_, handler);
    mapio::copy_file(*io, from_, to_, handler);
    gate.wait_until_held(pool_threads);
    mapio::copy_file(*io, from_, to_, handler);
    mapio::remove_file(*io, dir_ / "none", handler);
    {
      const releaser go_on(gate);
      io.reset();
    }
    EXPECT_EQ(calls, 0);
    EXPECT_EQ(sentinel.use_count(), 2) << "what is not called is destroyed";
    EXPECT_EQ(support::open_descriptors(), before);
    // One that was faster than the end of its context is complete.
    const std::string found = read_file(to_);
    EXPECT_TRUE(found == "old" || found == read_file(from_));
    EXPECT_EQ(names(), (std::set<std::string>{"from", "long", "to"}));
  });
}

/// Refuses files without a name and further names, as some file systems do, and holds the `n`th
/// system call that copies. `before_rename` is called before whatever renames.
class named_gate : public syscall_gate {
 public:
  explicit named_gate(
      int n = 0, const std::function<void()>& before_rename = [] {})
      : syscall_gate({SYS_openat, SYS_ioctl, SYS_copy_file_range, SYS_link, SYS_linkat, SYS_rename,
                      SYS_renameat, SYS_renameat2},
                     [n, before_rename, count = std::make_shared<int>(0)](const call& c) {
                       if (c.number == SYS_rename || c.number == SYS_renameat ||
                           c.number == SYS_renameat2) {
                         before_rename();
                         return pass;
                       }
                       if (c.number == SYS_openat) return fail(EOPNOTSUPP);
                       if (c.number == SYS_link || c.number == SYS_linkat) return fail(EPERM);
                       if (c.number == SYS_ioctl)
                         return c.arguments[1] == FICLONE ? fail(EOPNOTSUPP) : pass;
                       return ++*count == n ? hold : pass;
                     },
                     {{SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, 0}}) {}
};

TEST_F(file_operations_copy, goes_by_a_name_where_it_must) {
  write_file(from_, pattern(3 * mebibyte));
  named_gate gate;
  const bool is_seen = gate.run([&] {
    asio::io_context io;
    const auto copy_here = [&](const copy_file_options& options) {
      outcome o;
      mapio::copy_file(io, from_, to_, options, o.handler());
      io.restart();
      EXPECT_TRUE(run_to_end(io));
      return o;
    };
    expect_complete(copy_here(keeping));
    write_file(to_, "old");
    EXPECT_EQ(copy_here(keeping).error, std::errc::file_exists);
    expect_untouched();
    expect_complete(copy_here({}));
    expect_complete(copy_here(durably));
  });
  if (!is_seen) GTEST_SKIP() << "the kernel does not let us see system calls";
}

TEST_F(file_operations_copy, that_goes_by_a_name_leaves_a_file_alone_that_came_late) {
  write_file(from_, pattern(page()));
  named_gate gate(0, [&] { write_file(to_, "old"); });
  const bool is_seen = gate.run([&] {
    asio::io_context io;
    outcome o;
    mapio::copy_file(io, from_, to_, keeping, o.handler());
    EXPECT_TRUE(run_to_end(io));
    EXPECT_EQ(o.error, std::errc::file_exists);
    EXPECT_EQ(read_file(to_), "old");
    EXPECT_EQ(names(), (std::set<std::string>{"from", "to"}));
  });
  if (!is_seen) GTEST_SKIP() << "the kernel does not let us see system calls";
}

TEST_F(file_operations_copy, that_has_a_name_is_its_owners_alone_and_goes_when_it_is_cancelled) {
  write_file(from_, pattern(2 * turn));
  ASSERT_EQ(::chmod(from_.c_str(), 0666), 0);
  write_file(to_, "old");
  named_gate gate(1);
  outcome o;
  const bool is_seen = gate.run([&] {
    asio::io_context io;
    asio::cancellation_signal stop;
    mapio::copy_file(io, from_, to_, asio::bind_cancellation_slot(stop.slot(), o.handler()));
    gate.wait_until_held();
    const auto now = names();
    ASSERT_EQ(now.size(), 3U);
    EXPECT_TRUE(now.begin()->starts_with(".mapio-copy-")) << *now.begin();
    EXPECT_EQ(mode_of(dir_ / *now.begin()), 0600U);
    stop.emit(asio::cancellation_type::terminal);
    gate.release();
    EXPECT_TRUE(run_to_end(io));
  });
  if (!is_seen) GTEST_SKIP() << "the kernel does not let us see system calls";
  EXPECT_EQ(o.error, aborted);
  expect_untouched();
}

TEST_F(file_operations_copy, is_synced_before_and_after_it_takes_its_place_if_it_is_durable) {
  write_file(from_, pattern(page()));
  // Which of the syncs fails; -1: none of them.
  for (const int failing : {-1, 0, 1}) {
    write_file(to_, "old");
    bool was_in_place = false;
    int syncs = 0;
    syscall_gate gate({SYS_fsync, SYS_fdatasync}, [&](const syscall_gate::call&) {
      was_in_place = fs::file_size(to_) == page();
      EXPECT_EQ(was_in_place, syncs == 1);
      return syncs++ == failing ? syscall_gate::fail(EIO) : syscall_gate::pass;
    });
    outcome o;
    const bool is_seen = gate.run([&] {
      asio::io_context io;
      mapio::copy_file(io, from_, to_, o.handler());
      EXPECT_TRUE(run_to_end(io));
      EXPECT_EQ(syncs, 0);
      write_file(to_, "old");
      o = {};
      mapio::copy_file(io, from_, to_, durably, o.handler());
      io.restart();
      EXPECT_TRUE(run_to_end(io));
    });
    if (!is_seen) GTEST_SKIP() << "the kernel does not let us see system calls";
    EXPECT_EQ(o.error,
              failing == -1 ? std::error_code() : std::error_code(EIO, std::system_category()));
    if (failing == 0)
      expect_untouched();
    else
      EXPECT_EQ(syncs, 2);
    EXPECT_EQ(fs::file_size(to_) == page(), failing != 0);
  }
}

TEST_F(file_operations_copy, that_is_killed_leaves_the_target) {
  MAPIO_SKIP_UNDER_TSAN();
  write_file(from_, pattern(8 * by_hand));
  write_file(to_, "old");
  const auto end = support::in_child([&] {
    by_hand_gate gate([count = std::make_shared<int>(0)](std::string_view) {
      if (++*count == 3) ::kill(::getpid(), SIGKILL);
      return syscall_gate::pass;
    });
    gate.run([&] {
      asio::io_context io;
      mapio::copy_file(io, from_, to_, [](std::error_code, std::uint64_t) {});
      io.run();
    });
  });
  if (end.ok()) GTEST_SKIP() << "the kernel does not let us see system calls";
  EXPECT_TRUE(end.killed_by(SIGKILL)) << end;
  EXPECT_EQ(read_file(to_), "old");
}

TEST_F(file_operations_copy, in_a_forked_child_is_unsupported) {
  write_file(from_, "new");
  write_file(to_, "old");
  EXPECT_TRUE(remove(to_).ok());  // starts the engine
  write_file(to_, "old");
  io_.notify_fork(asio::io_context::fork_prepare);
  const pid_t child = support::start_child([&] {
    io_.notify_fork(asio::io_context::fork_child);
    EXPECT_EQ(copy(from_, to_).error, errc::unsupported);
    EXPECT_EQ(remove(to_).error, errc::unsupported);
  });
  io_.notify_fork(asio::io_context::fork_parent);
  const auto end = support::wait_for_child(child);
  EXPECT_TRUE(end.ok()) << end;
  expect_untouched();
  expect_complete(copy(from_, to_));
}

TEST_F(file_operations_remove, holds_to_permissions) {
  MAPIO_SKIP_UNDER_TSAN();
  write_file(from_, "x");
  ASSERT_EQ(::chmod(dir_.path().c_str(), 0555), 0);
  support::as_ordinary_user([&] { EXPECT_EQ(remove(from_).error, std::errc::permission_denied); });
  ASSERT_EQ(::chmod(dir_.path().c_str(), 0755), 0);
  EXPECT_EQ(names(), (std::set<std::string>{"from"}));
}

}  // namespace
