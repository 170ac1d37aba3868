// What of bad_input_test.cpp is about Linux.

#include <mapio/mapio.hpp>

#include "bad_input_fixture.hpp"
#include "faults/loop_disk.hpp"
#include "faults/private_mount.hpp"
#include "faults/seccomp_filter.hpp"
#include "faults/syscall_gate.hpp"
#include "linux/linux_support.hpp"
#include "mapped_file_fixture.hpp"

#include <asio/buffer.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <array>
#include <barrier>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using namespace std::string_literals;
using mapio::access;
using mapio::disposition;
using mapio::errc;
using mapio::flush_policy;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;
using support::adopt_error;
using support::awaited_open;
using support::bad_input;
using support::code_of;
using support::copy_on_write;
using support::creating;
using support::creating_dispositions;
using support::eventually;
using support::open_error;
using support::outcome;
using support::page;
using support::pattern;
using support::read_file;
using support::read_only;
using support::read_write;
using support::run_until;
using support::same;
using support::write_file;

open_options sparse(open_options options) {
  options.preallocate = false;
  return options;
}

using bad_path = bad_input;
using bad_options = bad_input;
using bad_handle = bad_input;
using bad_size = bad_input;
using scarce = bad_input;

TEST_F(bad_path, of_links_or_slashes_is_refused_by_every_disposition) {
  write_file(path_, "kept");
  fs::create_symlink(dir_ / "b", dir_ / "a");
  fs::create_symlink(dir_ / "a", dir_ / "b");
  fs::create_symlink(dir_ / "missing" / "file", dir_ / "leads nowhere");
  fs::create_symlink(path_, dir_ / "link");
  fs::create_symlink(dir_ / "absent", dir_ / "dangling");
  std::string too_deep = dir_.path().string();
  while (too_deep.size() < 5000)
    too_deep += "/.";
  using e = std::errc;
  expect_refused({
      {dir_ / "new/", e::no_such_file_or_directory, e::is_a_directory, e::is_a_directory},
      {dir_ / "file/", e::not_a_directory, e::not_a_directory, e::is_a_directory},
      {too_deep + "/new", e::filename_too_long, e::filename_too_long, e::filename_too_long},
      {dir_ / "a", e::too_many_symbolic_link_levels, e::too_many_symbolic_link_levels,
       e::file_exists},
      {dir_ / "a" / "new", e::too_many_symbolic_link_levels, e::too_many_symbolic_link_levels,
       e::too_many_symbolic_link_levels},
      {dir_ / "leads nowhere", e::no_such_file_or_directory, e::no_such_file_or_directory,
       e::file_exists},
      {dir_ / "link", e::too_many_symbolic_link_levels, e::too_many_symbolic_link_levels,
       e::file_exists, false},
      {dir_ / "dangling", e::too_many_symbolic_link_levels, e::too_many_symbolic_link_levels,
       e::file_exists, false},
  });
  EXPECT_EQ(read_file(path_), "kept");
  EXPECT_FALSE(is_there(dir_ / "absent"));
  EXPECT_FALSE(is_there(dir_ / "new"));
}

TEST_F(bad_path, of_what_is_no_regular_file) {
  const auto fifo = dir_ / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string socket_name = (dir_ / "socket").string();
  ASSERT_LT(socket_name.size(), sizeof address.sun_path);
  std::memcpy(address.sun_path, socket_name.c_str(), socket_name.size() + 1);
  const support::unique_fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  // The terminal of nobody: opening it must not make it ours either.
  for (const fs::path& path : {fifo, fs::path(socket_name), fs::path("/dev/null"),
                               fs::path("/dev/zero"), fs::path("/dev/full"), fs::path("/dev/ptmx")})
    for (const open_options& options :
         {read_only(), read_write(), copy_on_write(), creating(0), creating(page()),
          creating(page(), disposition::open_or_create)})
      EXPECT_EQ(open_error(path, options), std::errc::no_such_device) << path;
  EXPECT_TRUE(fs::is_fifo(fifo));
}

TEST_F(bad_path, of_a_file_that_must_not_be_read) {
  write_file(path_, "secret");
  fs::permissions(dir_.path(), fs::perms::all);
  fs::permissions(path_, fs::perms::none);
  write_file(dir_ / "to write", "secret");
  fs::permissions(dir_ / "to write", fs::perms::others_write);
  fs::create_directory(dir_ / "closed");
  fs::permissions(dir_ / "closed", fs::perms::none);
  support::as_ordinary_user([&] {
    asio::io_context io;
    for (const fs::path& path : {path_, dir_ / "to write", dir_ / "closed" / "file"}) {
      for (const open_options& options : {read_only(), read_write(), copy_on_write(), creating(1),
                                          creating(1, disposition::open_or_create)})
        EXPECT_EQ(::open_error(io, path, options), std::errc::permission_denied) << path;
    }
  });
  fs::permissions(dir_ / "closed", fs::perms::owner_all);
  EXPECT_EQ(read_file(path_), "secret");
}

TEST_F(bad_path, on_a_file_system_for_reading) {
  const fs::path where = dir_ / "disk";
  fs::create_directory(where);
  const bool is_mounted = faults::on_small_disk(where, std::size_t{1} << 20, [&] {
    asio::io_context io;
    write_file(where / "file", "kept");
    ASSERT_TRUE(faults::remount_read_only(where));
    EXPECT_FALSE(::open_error(io, where / "file", read_only()));
    EXPECT_FALSE(::open_error(io, where / "file", copy_on_write()));
    EXPECT_EQ(::open_error(io, where / "file", read_write()), std::errc::read_only_file_system);
    EXPECT_EQ(::open_error(io, where / "file", creating(1)), std::errc::read_only_file_system);
    for (const std::uint64_t size : {0U, 1U})
      for (const auto how : creating_dispositions)
        EXPECT_EQ(::open_error(io, where / "new", creating(size, how)),
                  std::errc::read_only_file_system);
    // The handle may have been opened for writing elsewhere; this one was not.
    std::error_code error;
    const support::unique_fd fd = support::open_fd(where / "file", O_RDONLY);
    EXPECT_FALSE(mapping::adopt(fd.get(), read_write(), error).is_open());
    EXPECT_EQ(error, std::errc::permission_denied);
    EXPECT_EQ(read_file(where / "file"), "kept");
  });
  if (!is_mounted) GTEST_SKIP() << "mounting is not allowed here";
}

TEST_F(bad_path, of_a_dangling_link_creates_what_it_names) {
  for (const auto how : {disposition::open_or_create, disposition::create_or_truncate})
    for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{5 * page()}}) {
      const fs::path target = dir_ / "target";
      fs::remove(target);
      fs::remove(dir_ / "link");
      fs::create_symlink("further", dir_ / "link");  // relative, and by two steps
      fs::remove(dir_ / "further");
      fs::create_symlink(target, dir_ / "further");
      const mode_t before = ::umask(0);
      EXPECT_FALSE(open_error(dir_ / "link", creating(size, how)));
      ::umask(before);
      EXPECT_TRUE(fs::is_symlink(dir_ / "link"));
      EXPECT_EQ(fs::file_size(target), size);
      EXPECT_EQ(permissions_of(target), 0600U);
    }
}

TEST_F(bad_path, of_a_dangling_link_leaves_nothing_when_the_size_cannot_be_had) {
  fs::create_symlink(dir_ / "target", dir_ / "link");
  open_error(dir_ / "missing");  // whatever is opened once for all
  const auto before = support::open_descriptors();
  for (const bool preallocate : {true, false}) {
    open_options options = creating(std::uint64_t{1} << 47, disposition::open_or_create);
    options.preallocate = preallocate;
    EXPECT_TRUE(open_error(dir_ / "link", options));
    EXPECT_FALSE(is_there(dir_ / "target"));
    EXPECT_TRUE(fs::is_symlink(dir_ / "link")) << "the link was there before";
  }
  EXPECT_TRUE(eventually([&] { return support::open_descriptors() == before; }));
}

TEST_F(bad_path, of_a_dangling_link_for_many_threads_is_one_file_that_nobody_cuts) {
  constexpr std::size_t threads = 6;
  for (int round = 0; round < 20; ++round) {
    const fs::path link = dir_ / ("link" + std::to_string(round));
    fs::create_symlink(dir_ / ("target" + std::to_string(round)), link);
    std::barrier start(threads);
    std::vector<std::thread> running;
    for (std::size_t t = 0; t < threads; ++t)
      running.emplace_back([&, t] {
        // The first one says how large it is; one that comes later must not make it smaller.
        const open_options options =
            sparse(creating((t + 1) * page(), disposition::open_or_create));
        start.arrive_and_wait();
        std::error_code error;
        mapping m(link, options, error);
        EXPECT_FALSE(error) << error.message();
        EXPECT_GE(m.size(), page());
        m.update_region(t * 64, asio::buffer(pattern(64, t)), error);
        EXPECT_FALSE(error) << error.message();
      });
    for (auto& t : running)
      t.join();
    const std::string all = read_file(link);
    for (std::size_t t = 0; t < threads; ++t)
      EXPECT_TRUE(same(all.substr(t * 64, 64), pattern(64, t)));
  }
}

TEST_F(bad_options, of_an_awaited_create_never_give_more_than_was_asked_for) {
  const mode_t before = ::umask(0);
  for (const std::uint64_t size : {0U, 1U}) {
    fs::remove(path_);
    EXPECT_FALSE(open_error(path_, creating(size, disposition::open_or_create)));
    EXPECT_EQ(permissions_of(path_), 0600U);
  }
  ::umask(before);
}

TEST_F(bad_handle, is_not_adopted) {
  for (const std::string& content : {""s, bytes_}) {
    write_file(path_, content);
    for (const open_options& options : {read_only(), read_write(), copy_on_write()}) {
      EXPECT_EQ(adopt_error(support::open_fd(path_, O_PATH), options),
                options.mode == access::read_write ? std::errc::permission_denied
                                                   : std::errc::bad_file_descriptor);
      EXPECT_EQ(adopt_error(support::open_fd(path_, O_WRONLY), options),
                std::errc::permission_denied);
    }
    EXPECT_EQ(adopt_error(support::open_fd(path_, O_RDONLY), read_write()),
              std::errc::permission_denied);
    EXPECT_EQ(adopt_error(support::open_fd(path_, O_RDWR | O_APPEND), read_write()),
              errc::unsupported);
    // Not every file system has such.
    if (const int direct = ::open(path_.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC); direct >= 0) {
      const support::unique_fd owner(direct);
      for (const open_options& options : {read_only(), read_write(), copy_on_write()})
        EXPECT_EQ(adopt_error(owner, options), errc::unsupported);
    }
    EXPECT_EQ(read_file(path_), content);
  }
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const support::unique_fd reading(ends[0]), writing(ends[1]);
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  const support::unique_fd socket(ends[0]), other(ends[1]);
  const support::unique_fd folder = support::open_fd(dir_.path(), O_RDONLY | O_DIRECTORY);
  const support::unique_fd device = support::open_fd("/dev/zero", O_RDWR);
  for (const open_options& options : {read_only(), read_write(), copy_on_write()}) {
    EXPECT_EQ(adopt_error(reading, options), std::errc::no_such_device);
    EXPECT_EQ(adopt_error(writing, options), std::errc::no_such_device);
    EXPECT_EQ(adopt_error(socket, options), std::errc::no_such_device);
    EXPECT_EQ(adopt_error(device, options), std::errc::no_such_device);
    EXPECT_EQ(adopt_error(folder, options), std::errc::is_a_directory);
    for (const int none : {-1, -1000, 1 << 30, std::numeric_limits<int>::max()})
      EXPECT_EQ(adopt_error(support::unique_fd(none < 0 ? none : -1), options),
                std::errc::bad_file_descriptor);
  }
}

TEST_F(bad_size, of_a_file_that_fits_into_no_address_space) {
  const fs::path where = dir_ / "disk";
  fs::create_directory(where);
  const bool is_mounted = faults::on_small_disk(where, std::size_t{1} << 20, [&] {
    asio::io_context io;
    write_file(where / "file", "x");
    for (const std::uint64_t size :
         {(std::uint64_t{1} << 47) + 1, std::uint64_t{1} << 62, (std::uint64_t{1} << 63) - 1}) {
      support::truncate_file(where / "file", size);
      for (const open_options& options : {read_only(), read_write(), copy_on_write()}) {
        EXPECT_EQ(::open_error(io, where / "file", options), std::errc::file_too_large) << size;
        EXPECT_EQ(adopt_error(support::open_fd(where / "file", O_RDWR), options),
                  std::errc::file_too_large);
      }
    }
    // One that fits by its number, and nowhere else.
    support::truncate_file(where / "file", (std::uint64_t{1} << 47) - page());
    EXPECT_EQ(::open_error(io, where / "file", read_only()), std::errc::not_enough_memory);
    // It is replaced all the same, and not before it is known that it can be.
    EXPECT_FALSE(::open_error(io, where / "file", creating(page())));
    EXPECT_EQ(fs::file_size(where / "file"), page());
  });
  if (!is_mounted) GTEST_SKIP() << "mounting is not allowed here";
}

TEST_F(bad_size, that_cannot_be_mapped_leaves_what_was_there) {
  const fs::path where = dir_ / "disk";
  fs::create_directory(where);
  const bool is_mounted = faults::on_small_disk(where, std::size_t{1} << 20, [&] {
    asio::io_context io;
    write_file(where / "file", bytes_);
    // This file system would give it that size; there is no place to map it at.
    const open_options options = sparse(creating((std::uint64_t{1} << 47) - page()));
    EXPECT_EQ(::open_error(io, where / "file", options), std::errc::not_enough_memory);
    ASSERT_EQ(fs::file_size(where / "file"), bytes_.size());  // before it is read
    EXPECT_TRUE(same(read_file(where / "file"), bytes_));
    EXPECT_EQ(::open_error(io, where / "new", options), std::errc::not_enough_memory);
    EXPECT_FALSE(is_there(where / "new"));
    // Nor does it leave what a link names, or take the link.
    fs::create_symlink("new", where / "link");
    EXPECT_EQ(::open_error(io, where / "link", options), std::errc::not_enough_memory);
    EXPECT_FALSE(is_there(where / "new"));
    EXPECT_TRUE(is_there(where / "link"));
  });
  if (!is_mounted) GTEST_SKIP() << "mounting is not allowed here";
}

TEST_F(bad_size, that_a_full_disk_has_not_leaves_a_file_of_holes_that_was_there) {
  const fs::path where = dir_ / "disk";
  fs::create_directory(where);
  const bool is_mounted = faults::on_small_disk(where, std::size_t{1} << 20, [&] {
    asio::io_context io;
    write_file(where / "file", bytes_);
    support::truncate_file(where / "file", std::uint64_t{1} << 30);
    // Smaller than what was there, and yet more than the disk has.
    EXPECT_EQ(::open_error(io, where / "file", creating(std::uint64_t{1} << 29)),
              std::errc::no_space_on_device);
    EXPECT_EQ(fs::file_size(where / "file"), std::uint64_t{1} << 30);
    const mapping m(where / "file");
    EXPECT_TRUE(same(m.view(0, bytes_.size()).text(), bytes_));
    EXPECT_FALSE(::open_error(io, where / "file", sparse(creating(std::uint64_t{1} << 29))));
    EXPECT_EQ(fs::file_size(where / "file"), std::uint64_t{1} << 29);
  });
  if (!is_mounted) GTEST_SKIP() << "mounting is not allowed here";
}

// Some file systems give a part of what they were asked for, and keep it.
TEST_F(bad_size, that_a_full_disk_has_not_is_given_back) {
  const fs::path where = dir_ / "disk";
  fs::create_directory(where);
  const bool is_mounted = faults::on_loop_disk(dir_ / "image", where, std::size_t{64} << 20, [&] {
    asio::io_context io;
    write_file(where / "file", bytes_);
    EXPECT_EQ(::open_error(io, where / "file", creating(std::uint64_t{1} << 30)),
              std::errc::no_space_on_device);
    EXPECT_EQ(fs::file_size(where / "file"), bytes_.size());
    EXPECT_TRUE(same(read_file(where / "file"), bytes_));
  });
  if (!is_mounted) GTEST_SKIP() << "mounting is not allowed here";
}

// Where a file cannot be without a name, it has one before its size is certain.
TEST_F(bad_size, that_cannot_be_had_leaves_no_name_behind) {
  faults::syscall_gate gate(
      {SYS_openat},
      [](const faults::syscall_gate::call&) { return faults::syscall_gate::fail(EOPNOTSUPP); },
      {{SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, 0}});
  const bool possible = gate.run([&] {
    asio::io_context io;
    for (const auto how : creating_dispositions) {
      EXPECT_TRUE(::open_error(io, path_, creating(std::uint64_t{1} << 47, how)));
      EXPECT_FALSE(is_there(path_));
    }
  });
  if (!possible) GTEST_SKIP() << "the kernel does not let us fail system calls";
}

TEST_F(scarce, size_of_files_is_an_error_and_no_signal) {
  const auto end = support::in_child([&] {
    asio::io_context io;
    write_file(path_, pattern(8 * page()));
    write_file(dir_ / "to grow", pattern(page()));
    rlimit limit{};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = 4 * page();
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
    for (const bool preallocate : {true, false})
      for (const auto how : creating_dispositions) {
        open_options options = creating(6 * page(), how);
        options.preallocate = preallocate;
        EXPECT_EQ(::open_error(io, dir_ / "new", options), std::errc::file_too_large);
        EXPECT_FALSE(is_there(dir_ / "new"));
        options = read_write();
        options.preallocate = preallocate;
        mapped_file file(io);
        ASSERT_FALSE(awaited_open(io, file, dir_ / "to grow", options));
        outcome o;
        file.resize(5 * page(), o.handler());
        EXPECT_TRUE(run_until(io, [&] { return o.calls > 0; }));
        EXPECT_EQ(o.error, std::errc::file_too_large) << o.error.message();
        EXPECT_EQ(fs::file_size(dir_ / "to grow"), page());
      }
    for (const auto writes :
         {mapio::write_path::automatic, mapio::write_path::mapped, mapio::write_path::file}) {
      open_options options = read_write();
      options.writes = writes;
      mapped_file file(io);
      ASSERT_FALSE(awaited_open(io, file, path_, options));
      // Across the limit, and beyond it.
      for (const std::uint64_t at : {4 * page() - 2, 6 * page()}) {
        outcome o;
        file.update_region(at, asio::buffer("beyond", 6), o.handler());
        EXPECT_TRUE(run_until(io, [&] { return o.calls > 0; }));
        std::error_code error;
        mapping m = file.map();
        if (writes == mapio::write_path::file) {
          EXPECT_EQ(o.error, std::errc::file_too_large) << o.error.message();
          EXPECT_EQ(o.bytes, 0U);
          m.update_region(at, asio::buffer("beyond", 6), error);
          EXPECT_EQ(error, errc::page_fault) << "it cannot be written there";
        } else {
          EXPECT_TRUE(o.ok()) << o.error.message();
          EXPECT_EQ(o.bytes, 6U);
          EXPECT_EQ(m.view(at, 6).text(), "beyond");
          EXPECT_EQ(m.update_region(at, asio::buffer("second", 6)), 6U);
          EXPECT_EQ(m.view(at, 6).text(), "second");
        }
      }
      outcome flushed;
      file.flush(flushed.handler());
      EXPECT_TRUE(run_until(io, [&] { return flushed.calls > 0; }));
      EXPECT_TRUE(flushed.ok()) << flushed.error.message();
    }
    write_file(dir_ / "replaced", "kept");
    EXPECT_EQ(::open_error(io, dir_ / "replaced", creating(5 * page())), std::errc::file_too_large);
    EXPECT_EQ(read_file(dir_ / "replaced"), "kept");
  });
  EXPECT_TRUE(end.ok()) << end;
}

// The thread that keeps the time of flush_policy::every() cannot be had.
TEST_F(scarce, threads_leave_a_file_that_was_to_begin_anew_as_it_was) {
  const auto end = support::in_fresh_process([&] {
    write_file(path_, "kept");
    open_options options = creating(page());
    options.policy = mapio::flush_policy::every(std::chrono::seconds(1));
    faults::deny({SYS_clone, SYS_clone3}, EAGAIN);
    std::error_code error;
    const mapping m(path_, options, error);
    EXPECT_EQ(error, std::errc::resource_unavailable_try_again);
    EXPECT_FALSE(m.is_open());
    EXPECT_EQ(read_file(path_), "kept");
  });
  EXPECT_TRUE(end.ok()) << end;
}

TEST_F(scarce, descriptors_lose_nothing) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  outcome started;
  mapped_file file(io_);
  file.open(dir_ / "missing", started.handler());  // starts the engine, which takes some
  finish(started);
  // Without holes among the numbers, so that there are as many left as there should be.
  std::vector<support::unique_fd> fillers;
  const int highest = *support::open_descriptors().rbegin();
  do
    fillers.emplace_back(::dup(STDERR_FILENO));
  while (fillers.back().get() < highest);
  const auto used = support::open_descriptors();
  const auto least = static_cast<rlim_t>(*used.rbegin()) + 1;
  bool refused = false;
  bool succeeded = false;
  for (rlim_t more = 0; more < 8; ++more)
    for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{page()}}) {
      for (const bool is_awaited : {false, true}) {
        const fs::path path = dir_ / "new";
        fs::remove(path);
        const rlimit limit{least + more, before.rlim_max};
        ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
        std::error_code error;
        if (is_awaited)
          error = awaited_open(io_, file, path, creating(size, disposition::create_new));
        else
          file = mapped_file(io_.get_executor(),
                             mapping(path, creating(size, disposition::create_new), error));
        std::error_code flush_error;
        std::error_code resize_error;
        if (!error) {
          file.map().resize(2 * page(), resize_error);
          file.map().flush(flush_error);
        }
        ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
        SCOPED_TRACE(more);
        if (error) {
          refused = true;
          EXPECT_EQ(error, std::errc::too_many_files_open);
          EXPECT_FALSE(fs::exists(path));
        } else {
          succeeded = true;
          EXPECT_FALSE(resize_error) << resize_error.message();
          EXPECT_EQ(fs::file_size(path), 2 * page());
          // Its folder could perhaps not be opened: that the name is not durable is no secret.
          EXPECT_TRUE(!flush_error || flush_error == std::errc::too_many_files_open)
              << flush_error.message();
          EXPECT_FALSE(more == 7 && flush_error);
        }
        file = mapped_file(io_);
        EXPECT_TRUE(eventually([&] { return support::open_descriptors() == used; }));
      }
    }
  EXPECT_TRUE(refused);
  EXPECT_TRUE(succeeded);
}

TEST_F(scarce, memory_to_lock_is_an_error_of_awaited_locks_too) {
  if (!support::locks_work) GTEST_SKIP() << "the sanitizer locks nothing, and fails nothing";
  write_file(path_, pattern(16 * page()));
  fs::permissions(dir_.path(), fs::perms(0755));
  fs::permissions(path_, fs::perms(0666));
  support::as_ordinary_user([&] {
    asio::io_context io;
    const auto answer = [&](auto start) {
      outcome o;
      start(o);
      EXPECT_TRUE(run_until(io, [&] { return o.calls > 0; }));
      return o.error;
    };
    mapped_file file(io);
    ASSERT_FALSE(awaited_open(io, file, path_, read_write()));
    rlimit limit{4 * page(), 4 * page()};
    ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    EXPECT_FALSE(answer([&](outcome& o) { file.lock_pages(0, 3 * page(), o.handler()); }));
    EXPECT_EQ(answer([&](outcome& o) { file.lock_pages(2 * page(), 4 * page(), o.handler()); }),
              std::errc::not_enough_memory);
    EXPECT_EQ(answer([&](outcome& o) { file.lock_pages(o.handler()); }),
              std::errc::not_enough_memory);
    support::expect_locked(3 * page());
    EXPECT_FALSE(answer([&](outcome& o) { file.unlock_pages(o.handler()); }));
    limit = {0, 0};
    ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    EXPECT_EQ(answer([&](outcome& o) { file.lock_pages(0, 1, o.handler()); }),
              std::errc::operation_not_permitted);
    EXPECT_FALSE(answer([&](outcome& o) { file.lock_pages(page(), 0, o.handler()); }));
    EXPECT_EQ(code_of([&] { file.map().lock_pages(0, 1); }), std::errc::operation_not_permitted);
    support::expect_locked(0);
  });
}

}  // namespace
