// What nobody should ask for, asked of both classes: each must answer, and answer the same.

#include <mapio/mapio.hpp>

#include "faults/private_mount.hpp"
#include "faults/seccomp_filter.hpp"
#include "faults/syscall_gate.hpp"
#include "mapped_file_fixture.hpp"
#include "support.hpp"

#include <asio/buffer.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <barrier>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
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
using mapio::durability;
using mapio::errc;
using mapio::flush_policy;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;
using mapio::region;
using support::code_of;
using support::copy_on_write;
using support::creating;
using support::eventually;
using support::into;
using support::outcome;
using support::page;
using support::pattern;
using support::read_all;
using support::read_file;
using support::read_only;
using support::read_write;
using support::run_until;
using support::same;
using support::write_file;

constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
constexpr auto creating_dispositions = {disposition::open_or_create, disposition::create_new,
                                        disposition::create_or_truncate};

open_options with_policy(open_options options, flush_policy policy) {
  options.policy = policy;
  return options;
}
open_options sparse(open_options options) {
  options.preallocate = false;
  return options;
}

std::error_code awaited_open(asio::io_context& io, mapped_file& file, const fs::path& path,
                             const open_options& options) {
  outcome o;
  file.open(path, options, o.handler());
  EXPECT_TRUE(run_until(io, [&] { return o.calls > 0; })) << "it never completes";
  return o.error;
}

/// What opening answers, which must be the same in all three ways. Each attempt follows the one
/// before: what one of them creates is there for the next.
std::error_code open_error(asio::io_context& io, const fs::path& path,
                           const open_options& options) {
  std::error_code error = std::make_error_code(std::errc::protocol_error);
  const mapping m(path, options, error);
  EXPECT_EQ(m.is_open(), !error);
  EXPECT_EQ(code_of([&] { mapping(path, options); }), error);
  mapped_file file(io);
  EXPECT_EQ(awaited_open(io, file, path, options), error);
  EXPECT_EQ(file.is_open(), !error);
  return error;
}

class bad_input : public support::mapped_file_test {
 protected:
  std::error_code open_error(const fs::path& path, const open_options& options = {}) {
    return ::open_error(io_, path, options);
  }
  unsigned permissions_of(const fs::path& path) {
    return static_cast<unsigned>(fs::status(path).permissions());
  }
  bool is_there(const fs::path& path) { return fs::exists(fs::symlink_status(path)); }

  const std::string bytes_ = pattern(3 * page() + 100);
};

using bad_path = bad_input;
using bad_options = bad_input;
using bad_handle = bad_input;
using bad_range = bad_input;
using bad_size = bad_input;
using bad_buffers = bad_input;
using bad_moment = bad_input;
using scarce = bad_input;

// --- paths
// ---------------------------------------------------------------------------------------

TEST_F(bad_path, with_a_nul_within_names_no_other_file) {
  write_file(path_, "kept");
  const auto name = path_.string();
  for (const std::string& path : {name + '\0', name + "\0x"s, "\0"s + name, "\0"s}) {
    EXPECT_EQ(open_error(path), std::errc::invalid_argument);
    EXPECT_EQ(open_error(path, read_write()), std::errc::invalid_argument);
    for (const auto how : creating_dispositions)
      EXPECT_EQ(open_error(path, creating(page(), how)), std::errc::invalid_argument);
    for (const auto& [from, to] : {std::pair<fs::path, fs::path>{path, dir_ / "copy"},
                                   std::pair<fs::path, fs::path>{path_, path}}) {
      outcome copied;
      mapio::copy_file(io_, from, to, copied.handler());
      finish(copied);
      EXPECT_EQ(copied.error, std::errc::invalid_argument);
    }
    outcome removed;
    mapio::remove_file(io_, path, removed.handler());
    finish(removed);
    EXPECT_EQ(removed.error, std::errc::invalid_argument);
  }
  EXPECT_EQ(read_file(path_), "kept");
  for (const auto how : creating_dispositions) {
    EXPECT_EQ(open_error((dir_ / "new").string() + "\0x"s, creating(page(), how)),
              std::errc::invalid_argument);
    EXPECT_FALSE(is_there(dir_ / "new"));
  }
}

TEST_F(bad_path, is_refused_by_every_disposition) {
  write_file(path_, "kept");
  fs::create_symlink(dir_ / "b", dir_ / "a");
  fs::create_symlink(dir_ / "a", dir_ / "b");
  fs::create_symlink(dir_ / "missing" / "file", dir_ / "leads nowhere");
  fs::create_symlink(path_, dir_ / "link");
  fs::create_symlink(dir_ / "absent", dir_ / "dangling");
  const std::string too_long(300, 'n');
  std::string too_deep = dir_.path().string();
  while (too_deep.size() < 5000)
    too_deep += "/.";
  struct attempt {
    fs::path path;
    std::errc existing;
    std::errc kept_or_new;  // open_or_create, create_or_truncate
    std::errc only_new;     // create_new
    bool follow = true;
  };
  using e = std::errc;
  const std::vector<attempt> attempts{
      {"", e::no_such_file_or_directory, e::no_such_file_or_directory,
       e::no_such_file_or_directory},
      {dir_.path(), e::is_a_directory, e::is_a_directory, e::file_exists},
      {dir_.path() / ".", e::is_a_directory, e::is_a_directory, e::file_exists},
      {dir_ / "new/", e::no_such_file_or_directory, e::is_a_directory, e::is_a_directory},
      {dir_ / "file/", e::not_a_directory, e::not_a_directory, e::is_a_directory},
      {path_ / "below", e::not_a_directory, e::not_a_directory, e::not_a_directory},
      {dir_ / "missing" / "file", e::no_such_file_or_directory, e::no_such_file_or_directory,
       e::no_such_file_or_directory},
      {dir_ / too_long, e::filename_too_long, e::filename_too_long, e::filename_too_long},
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
  };
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{page()}})
    for (const attempt& a : attempts) {
      SCOPED_TRACE(a.path.string().substr(0, 100));
      const auto options = [&](disposition how) {
        open_options result = creating(size, how);
        result.follow_symlinks = a.follow;
        return result;
      };
      EXPECT_EQ(open_error(a.path, options(disposition::open_existing)), a.existing);
      EXPECT_EQ(open_error(a.path, options(disposition::open_or_create)), a.kept_or_new);
      EXPECT_EQ(open_error(a.path, options(disposition::create_or_truncate)), a.kept_or_new);
      EXPECT_EQ(open_error(a.path, options(disposition::create_new)), a.only_new);
    }
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

// --- dangling links, which a file can be created through
// ----------------------------------------------------------------------------------------------

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

// --- options
// ---------------------------------------------------------------------------------------

TEST_F(bad_options, are_invalid_and_create_nothing) {
  open_options odd = creating(1);
  std::vector<open_options> refused;
  for (const auto permissions :
       {fs::perms::unknown, fs::perms::set_uid, fs::perms::set_gid | fs::perms::owner_read,
        fs::perms::sticky_bit, static_cast<fs::perms>(0100600), static_cast<fs::perms>(1U << 20)}) {
    odd.permissions = permissions;
    refused.push_back(odd);
  }
  odd = creating(1);
  odd.create = static_cast<disposition>(9);
  refused.push_back(odd);
  odd = read_only();
  odd.mode = static_cast<access>(9);
  refused.push_back(odd);
  odd = read_write();
  odd.touch = static_cast<mapio::prefault>(9);
  refused.push_back(odd);
  odd = read_write();
  odd.writes = static_cast<mapio::write_path>(9);
  refused.push_back(odd);
  for (const auto mode : {access::read_only, access::copy_on_write})
    for (const auto how : creating_dispositions) {
      odd = creating(page(), how);
      odd.mode = mode;
      refused.push_back(odd);
    }
  for (const auto policy :
       {flush_policy::every_bytes(0), flush_policy::every_writes(0), flush_policy::every(0ms),
        flush_policy::every(-1ms), flush_policy::every(std::chrono::milliseconds::min())})
    for (const open_options& options : {creating(1), read_only(), copy_on_write()})
      refused.push_back(with_policy(options, policy));
  for (const open_options& options : refused) {
    EXPECT_EQ(open_error(path_, options), std::errc::invalid_argument);
    EXPECT_FALSE(is_there(path_));
  }
  write_file(path_, "kept");
  for (const open_options& options : refused)
    EXPECT_EQ(open_error(path_, options), std::errc::invalid_argument);
  EXPECT_EQ(read_file(path_), "kept");
}

TEST_F(bad_options, that_ask_for_more_address_space_than_there_is) {
  write_file(path_, bytes_);
  for (const open_options& mode : {read_only(), read_write(), copy_on_write()})
    for (const std::uint64_t reserve : {most, most - page(), (std::uint64_t{1} << 47) + 1}) {
      open_options options = mode;
      options.reserve = reserve;
      EXPECT_EQ(open_error(path_, options), std::errc::file_too_large) << reserve;
    }
  // The thread sanitizer ends a program that takes as much of its address space as there is.
  if (support::under_tsan) return;
  // What cannot be had is reduced; it is a wish.
  open_options options = read_write();
  options.reserve = std::uint64_t{1} << 47;
  EXPECT_FALSE(open_error(path_, options));
  EXPECT_TRUE(same(read_file(path_), bytes_));
}

TEST_F(bad_options, that_reserve_less_than_the_size_reserve_the_size) {
  write_file(path_, bytes_);
  open_options options = read_write();
  options.reserve = 1;
  mapping m(path_, options);
  EXPECT_EQ(m.capacity(), 4 * page());
  options = creating(5 * page());
  options.reserve = page();
  EXPECT_EQ(mapping(dir_ / "new", options).capacity(), 5 * page());
}

TEST_F(bad_options, that_have_no_effect_are_no_error) {
  write_file(path_, bytes_);
  for (const open_options& mode : {read_only(), copy_on_write()}) {
    for (const auto policy :
         {flush_policy::always(), flush_policy::every_bytes(1), flush_policy::every(1h)}) {
      open_options options = with_policy(mode, policy);
      options.writes = mapio::write_path::file;
      options.size = 9 * page();
      options.reserve = 64 * page();
      options.permissions = fs::perms::none;
      EXPECT_FALSE(open_error(path_, options));
      mapped_file file = opened(options);
      EXPECT_EQ(file.size(), bytes_.size());
      if (file.mode() == access::copy_on_write) {
        outcome o;
        file.update_region(0, asio::buffer("private", 7), o.handler());
        finish(o);
        EXPECT_TRUE(o.ok()) << o.error.message();
        mapping m = file.map();
        EXPECT_EQ(m.update_region(7, asio::buffer("!", 1)), 1U);
        EXPECT_EQ(m.view(0, 8).text(), "private!");
      }
      EXPECT_EQ(file.stats().syncs, 0U);
    }
  }
  EXPECT_TRUE(same(read_file(path_), bytes_));
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

// --- handles that are given
// ----------------------------------------------------------------------------------------------

/// What adopting answers; the handle must then still be the caller's.
std::error_code adopt_error(const support::unique_fd& fd, const open_options& options) {
  std::error_code error = std::make_error_code(std::errc::protocol_error);
  EXPECT_FALSE(mapping::adopt(fd.get(), options, error).is_open());
  EXPECT_EQ(code_of([&] { mapping::adopt(fd.get(), options); }), error);
  EXPECT_TRUE(fd.get() < 0 || support::is_open_descriptor(fd.get()));
  return error;
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

TEST_F(bad_handle, options_of_adopt_that_do_not_matter_do_not) {
  write_file(path_, bytes_);
  open_options options = read_only();
  options.create = disposition::create_or_truncate;
  options.size = most;
  options.permissions = fs::perms::unknown;
  options.follow_symlinks = false;
  const mapping m = mapping::adopt(support::open_fd(path_, O_RDONLY).release(), options);
  EXPECT_TRUE(same(read_all(m), bytes_));
  options.policy = flush_policy::every_bytes(0);
  EXPECT_EQ(adopt_error(support::open_fd(path_, O_RDONLY), options), std::errc::invalid_argument);
  options = read_only();
  options.reserve = most;
  EXPECT_EQ(adopt_error(support::open_fd(path_, O_RDONLY), options), std::errc::file_too_large);
}

TEST_F(bad_handle, is_released_once) {
  mapping m = mapping::create(path_, page());
  mapping copy = m;
  const support::unique_fd fd(m.release());
  for (mapping* each : {&m, &copy}) {
    std::error_code error;
    EXPECT_EQ(each->release(error), -1);
    EXPECT_EQ(error, errc::not_open);
    EXPECT_EQ(code_of([&] { each->release(); }), errc::not_open);
    each->close();
  }
  EXPECT_TRUE(support::is_open_descriptor(fd.get())) << "it was given back";
}

/// One of every member of mapping that can fail, and what it throws.
struct member {
  const char* name;
  std::function<void(mapping&)> throwing;
  std::function<void(mapping&, std::error_code&)> reporting;
};

std::vector<member> failing_members() {
  using code = std::error_code;
  static std::array<char, 4> memory{};
  static const auto buffer = asio::buffer(memory);
  return {
      {"release", [](mapping& m) { m.release(); }, [](mapping& m, code& ec) { m.release(ec); }},
      {"view", [](mapping& m) { m.view(most, 1); },
       [](mapping& m, code& ec) { m.view(most, 1, ec); }},
      {"view of nothing", [](mapping& m) { m.view(0, 0); },
       [](mapping& m, code& ec) { m.view(0, 0, ec); }},
      {"mutable_view", [](mapping& m) { m.mutable_view(0, 1); },
       [](mapping& m, code& ec) { m.mutable_view(0, 1, ec); }},
      {"chunks", [](mapping& m) { m.chunks(0); }, [](mapping& m, code& ec) { m.chunks(0, ec); }},
      {"pages", [](mapping& m) { m.pages(); }, [](mapping& m, code& ec) { m.pages(ec); }},
      {"mutable_chunks", [](mapping& m) { m.mutable_chunks(0); },
       [](mapping& m, code& ec) { m.mutable_chunks(0, ec); }},
      {"update_region", [](mapping& m) { m.update_region(0, buffer); },
       [](mapping& m, code& ec) { m.update_region(0, buffer, ec); }},
      {"update_region of several",
       [](mapping& m) {
         m.update_region(most, std::array{buffer, buffer});
       },
       [](mapping& m, code& ec) {
         m.update_region(most, std::array{buffer, buffer}, ec);
       }},
      {"update_region of nothing", [](mapping& m) { m.update_region(0, asio::const_buffer()); },
       [](mapping& m, code& ec) { m.update_region(0, asio::const_buffer(), ec); }},
      {"read_into", [](mapping& m) { m.read_into(0, buffer); },
       [](mapping& m, code& ec) { m.read_into(0, buffer, ec); }},
      {"read_into nothing", [](mapping& m) { m.read_into(0, asio::mutable_buffer()); },
       [](mapping& m, code& ec) { m.read_into(0, asio::mutable_buffer(), ec); }},
      {"flush", [](mapping& m) { m.flush(); }, [](mapping& m, code& ec) { m.flush(ec); }},
      {"flush started", [](mapping& m) { m.flush(durability::started); },
       [](mapping& m, code& ec) { m.flush(durability::started, ec); }},
      {"flush_range", [](mapping& m) { m.flush_range(0, 0); },
       [](mapping& m, code& ec) { m.flush_range(0, 0, ec); }},
      {"flush_range started", [](mapping& m) { m.flush_range(most, 1, durability::started); },
       [](mapping& m, code& ec) { m.flush_range(most, 1, durability::started, ec); }},
      {"resize", [](mapping& m) { m.resize(0); }, [](mapping& m, code& ec) { m.resize(0, ec); }},
      {"resize too large", [](mapping& m) { m.resize(most); },
       [](mapping& m, code& ec) { m.resize(most, ec); }},
      {"refresh", [](mapping& m) { m.refresh(); }, [](mapping& m, code& ec) { m.refresh(ec); }},
      {"prefetch", [](mapping& m) { m.prefetch(); }, [](mapping& m, code& ec) { m.prefetch(ec); }},
      {"prefetch range", [](mapping& m) { m.prefetch(0, 0); },
       [](mapping& m, code& ec) { m.prefetch(0, 0, ec); }},
      {"lock_pages", [](mapping& m) { m.lock_pages(); },
       [](mapping& m, code& ec) { m.lock_pages(ec); }},
      {"lock_pages range", [](mapping& m) { m.lock_pages(0, 0); },
       [](mapping& m, code& ec) { m.lock_pages(0, 0, ec); }},
      {"unlock_pages", [](mapping& m) { m.unlock_pages(); },
       [](mapping& m, code& ec) { m.unlock_pages(ec); }},
      {"unlock_pages range", [](mapping& m) { m.unlock_pages(0, 0); },
       [](mapping& m, code& ec) { m.unlock_pages(0, 0, ec); }},
      {"advise", [](mapping& m) { m.advise(0, 0, static_cast<mapio::advice>(99)); },
       [](mapping& m, code& ec) { m.advise(0, 0, static_cast<mapio::advice>(99), ec); }},
      {"is_resident", [](mapping& m) { m.is_resident(0, 0); },
       [](mapping& m, code& ec) { m.is_resident(0, 0, ec); }},
      {"slice", [](mapping& m) { m.slice(0, 0); }, [](mapping& m, code& ec) { m.slice(0, 0, ec); }},
      {"publish", [](mapping& m) { m.publish(0, 0); },
       [](mapping& m, code& ec) { m.publish(0, 0, ec); }},
      {"atomic", [](mapping& m) { m.atomic<std::uint32_t>(1); },
       [](mapping& m, code& ec) { m.atomic<std::uint32_t>(1, ec); }},
      {"atomics", [](mapping& m) { m.atomics<std::uint64_t>(0, most); },
       [](mapping& m, code& ec) { m.atomics<std::uint64_t>(0, most, ec); }},
  };
}

TEST_F(bad_handle, that_is_not_open_says_so_in_every_member_whatever_else_is_wrong) {
  mapping never;
  mapping closed = mapping::create(path_, page());
  closed.close();
  mapping moved_from = mapping::create(path_, page());
  const mapping target = std::move(moved_from);
  mapping released = mapping::create(path_, page());
  const support::unique_fd fd(released.release());
  std::error_code error;
  mapping failed(dir_ / "missing", read_only(), error);
  for (mapping* m : {&never, &closed, &moved_from, &released, &failed}) {
    for (const member& each : failing_members()) {
      error = std::make_error_code(std::errc::protocol_error);
      each.reporting(*m, error);
      EXPECT_EQ(error, errc::not_open) << each.name;
      EXPECT_EQ(code_of([&] { each.throwing(*m); }), errc::not_open) << each.name;
    }
    EXPECT_FALSE(m->is_open());
    EXPECT_EQ(m->size(), 0U);
    EXPECT_EQ(m->capacity(), 0U);
    EXPECT_EQ(m->mode(), access::read_only);
    EXPECT_TRUE(m->path().empty());
    EXPECT_EQ(m->policy(), flush_policy::manual());
    EXPECT_EQ(m->pending_bytes(), 0U);
    EXPECT_EQ(m->native_handle(), -1);
    EXPECT_FALSE(m->flush_error());
    m->clear_flush_error();
    EXPECT_EQ(m->stats().syncs, 0U);
    m->close(error);
    EXPECT_FALSE(error) << "to close what is closed does nothing";

    mapped_file file(io_.get_executor(), *m);
    EXPECT_EQ(code_of([&] { file.atomic<std::uint32_t>(1); }), errc::not_open);
    auto chunks = file.chunks(0);
    outcome o;
    chunks.next(o.handler());
    finish(o);
    EXPECT_TRUE(o.error == errc::not_open) << o.error.message();
  }
  EXPECT_TRUE(target.is_open());
}

// --- ranges
// ---------------------------------------------------------------------------------------

/// One of every verb that both classes have and that takes a range.
struct ranged_verb {
  const char* name;
  std::function<void(mapping&, std::uint64_t, std::uint64_t)> throwing;
  std::function<void(mapping&, std::uint64_t, std::uint64_t, std::error_code&)> reporting;
  std::function<void(mapped_file&, std::uint64_t, std::uint64_t, outcome&)> awaited;
  bool writes = false;
};

// Any number of bytes, none of which is looked at unless the range is in the file.
asio::const_buffer to_write(std::uint64_t n) {
  static const std::string some = pattern(4 * page());
  return {some.data(), static_cast<std::size_t>(n)};
}
asio::mutable_buffer to_read(std::uint64_t n) {
  static std::string some(4 * page(), '\0');
  return {some.data(), static_cast<std::size_t>(n)};
}

std::vector<ranged_verb> ranged_verbs() {
  using u = std::uint64_t;
  using code = std::error_code;
  return {
      {"view", [](mapping& m, u o, u n) { m.view(o, n); },
       [](mapping& m, u o, u n, code& ec) { m.view(o, n, ec); },
       [](mapped_file& f, u o, u n, outcome& r) { f.view(o, n, r.handler()); }},
      {"update_region", [](mapping& m, u o, u n) { m.update_region(o, to_write(n)); },
       [](mapping& m, u o, u n, code& ec) { m.update_region(o, to_write(n), ec); },
       [](mapped_file& f, u o, u n, outcome& r) { f.update_region(o, to_write(n), r.handler()); },
       true},
      {"update_region of several",
       [](mapping& m, u o, u n) {
         m.update_region(o, std::array{to_write(n / 2), to_write(n - n / 2)});
       },
       [](mapping& m, u o, u n, code& ec) {
         m.update_region(o, std::array{to_write(n / 2), to_write(n - n / 2)}, ec);
       },
       [](mapped_file& f, u o, u n, outcome& r) {
         f.update_region(o, std::array{to_write(n / 2), to_write(n - n / 2)}, r.handler());
       },
       true},
      {"read_into", [](mapping& m, u o, u n) { m.read_into(o, to_read(n)); },
       [](mapping& m, u o, u n, code& ec) { m.read_into(o, to_read(n), ec); },
       [](mapped_file& f, u o, u n, outcome& r) { f.read_into(o, to_read(n), r.handler()); }},
      {"flush_range", [](mapping& m, u o, u n) { m.flush_range(o, n); },
       [](mapping& m, u o, u n, code& ec) { m.flush_range(o, n, ec); },
       [](mapped_file& f, u o, u n, outcome& r) { f.flush_range(o, n, r.handler()); }},
      {"flush_range started",
       [](mapping& m, u o, u n) { m.flush_range(o, n, durability::started); },
       [](mapping& m, u o, u n, code& ec) { m.flush_range(o, n, durability::started, ec); },
       [](mapped_file& f, u o, u n, outcome& r) {
         f.flush_range(o, n, durability::started, r.handler());
       }},
      {"prefetch", [](mapping& m, u o, u n) { m.prefetch(o, n); },
       [](mapping& m, u o, u n, code& ec) { m.prefetch(o, n, ec); },
       [](mapped_file& f, u o, u n, outcome& r) { f.prefetch(o, n, r.handler()); }},
      {"lock_pages", [](mapping& m, u o, u n) { m.lock_pages(o, n); },
       [](mapping& m, u o, u n, code& ec) { m.lock_pages(o, n, ec); },
       [](mapped_file& f, u o, u n, outcome& r) { f.lock_pages(o, n, r.handler()); }},
      {"unlock_pages", [](mapping& m, u o, u n) { m.unlock_pages(o, n); },
       [](mapping& m, u o, u n, code& ec) { m.unlock_pages(o, n, ec); },
       [](mapped_file& f, u o, u n, outcome& r) { f.unlock_pages(o, n, r.handler()); }},
  };
}

TEST_F(bad_range, is_answered_alike_by_both_classes_in_every_mode) {
  write_file(path_, bytes_);
  const std::uint64_t size = bytes_.size();
  const std::vector<std::pair<std::uint64_t, std::uint64_t>> outside{{size, 1},
                                                                     {size + 1, 0},
                                                                     {0, size + 1},
                                                                     {1, size},
                                                                     {size - 1, 2},
                                                                     {4 * page(), 0},
                                                                     {1, most},
                                                                     {most, 1},
                                                                     {most, 0},
                                                                     {most, most},
                                                                     {0, most},
                                                                     {most - size, size},
                                                                     {1, most - 1},
                                                                     {size, most - size + 1},
                                                                     {most - size + 1, size + 1}};
  const std::vector<std::pair<std::uint64_t, std::uint64_t>> inside{
      {0, 0}, {size, 0}, {0, size}, {size - 1, 1}, {1, size - 1}};
  for (const open_options& mode : {read_only(), read_write(), copy_on_write()})
    for (const auto writes :
         {mapio::write_path::automatic, mapio::write_path::mapped, mapio::write_path::file}) {
      open_options options = mode;
      options.writes = writes;
      mapped_file file = opened(options);
      mapping m = file.map();
      for (const ranged_verb& verb : ranged_verbs()) {
        const auto answer = [&](std::uint64_t offset, std::uint64_t length) {
          std::error_code reported = std::make_error_code(std::errc::protocol_error);
          verb.reporting(m, offset, length, reported);
          EXPECT_EQ(code_of([&] { verb.throwing(m, offset, length); }), reported) << verb.name;
          outcome o;
          verb.awaited(file, offset, length, o);
          finish(o);
          EXPECT_EQ(o.error, reported) << verb.name << ' ' << offset << ' ' << length;
          return reported;
        };
        const bool refuses = verb.writes && mode.mode == access::read_only;
        for (const auto& [offset, length] : outside)
          EXPECT_EQ(answer(offset, length), refuses ? errc::read_only : errc::out_of_range)
              << verb.name << ' ' << offset << ' ' << length;
        for (const auto& [offset, length] : inside)
          EXPECT_EQ(answer(offset, length),
                    refuses ? std::error_code(errc::read_only) : std::error_code())
              << verb.name << ' ' << offset << ' ' << length;
      }
      EXPECT_EQ(fs::file_size(path_), size);
    }
  support::expect_locked(0);
}

TEST_F(bad_range, of_an_empty_file_is_all_but_nothing) {
  for (const open_options& mode : {read_only(), read_write(), copy_on_write()}) {
    mapped_file file = opened_with("", mode);
    mapping m = file.map();
    for (const ranged_verb& verb : ranged_verbs()) {
      if (verb.writes && mode.mode == access::read_only) continue;
      for (const std::uint64_t length : {0U, 1U}) {
        const std::error_code expected = length == 0 ? std::error_code() : errc::out_of_range;
        EXPECT_EQ(code_of([&] { verb.throwing(m, 0, length); }), expected) << verb.name;
        outcome o;
        verb.awaited(file, 0, length, o);
        finish(o);
        EXPECT_EQ(o.error, expected) << verb.name;
      }
    }
    EXPECT_EQ(code_of([&] { m.atomic<std::uint32_t>(0); }), errc::out_of_range);
    EXPECT_TRUE(m.atomics<std::uint32_t>(0, 0).empty());
    EXPECT_TRUE(m.chunks(1).empty());
    EXPECT_TRUE(m.pages().empty());
    EXPECT_TRUE(m.slice(0, 0).chunks(1).empty());
    EXPECT_TRUE(m.is_resident(0, 0));
    outcome o;
    auto chunks = file.chunks(1);
    chunks.next(o.handler());
    finish(o);
    EXPECT_TRUE(o.ok());
    EXPECT_TRUE(o.region.empty());
  }
}

TEST_F(bad_range, of_integers_is_answered_alike_by_both_classes) {
  mapped_file file = created(page());
  mapping m = file.map();
  const auto answer = [&](std::uint64_t offset) {
    std::error_code reported;
    const bool is_empty = file.atomic<std::uint64_t>(offset, reported).empty();
    EXPECT_EQ(is_empty, static_cast<bool>(reported));
    EXPECT_EQ(code_of([&] { file.atomic<std::uint64_t>(offset); }), reported);
    EXPECT_EQ(code_of([&] { m.atomic<std::uint64_t>(offset); }), reported);
    return reported;
  };
  EXPECT_FALSE(answer(page() - 8));
  EXPECT_EQ(answer(page()), errc::out_of_range);
  EXPECT_EQ(answer(most - 7), errc::out_of_range);
  EXPECT_EQ(answer(page() - 4), errc::misaligned);
  EXPECT_EQ(answer(1), errc::misaligned);
  EXPECT_EQ(answer(most), errc::misaligned);
}

TEST_F(bad_range, of_chunks_is_none_however_large_they_are) {
  mapped_file file = opened_with(bytes_);
  const mapping m = file.map();
  for (const std::size_t bytes : {bytes_.size(), bytes_.size() + 1, std::size_t{1} << 63,
                                  std::numeric_limits<std::size_t>::max()}) {
    const auto all = m.chunks(bytes);
    EXPECT_EQ(all.size(), 1U);
    EXPECT_TRUE(same((*all.begin()).text(), bytes_));
    for (const std::size_t ahead : {std::size_t{0}, std::numeric_limits<std::size_t>::max()}) {
      auto chunks = file.chunks(bytes, ahead);
      outcome first;
      chunks.next(first.handler());
      finish(first);
      EXPECT_TRUE(first.ok());
      EXPECT_TRUE(same(first.region.text(), bytes_));
      outcome second;
      chunks.next(second.handler());
      finish(second);
      EXPECT_TRUE(second.ok());
      EXPECT_TRUE(second.region.empty());
    }
  }
}

// --- sizes
// ---------------------------------------------------------------------------------------

TEST_F(bad_size, is_answered_alike_by_both_classes) {
  write_file(path_, bytes_);
  const auto answer = [&](mapped_file& file, std::uint64_t size) {
    mapping m = file.map();
    std::error_code reported = std::make_error_code(std::errc::protocol_error);
    m.resize(size, reported);
    EXPECT_EQ(code_of([&] { m.resize(size); }), reported);
    outcome o;
    file.resize(size, o.handler());
    finish(o);
    EXPECT_EQ(o.error, reported) << size;
    EXPECT_EQ(m.size(), bytes_.size());
    EXPECT_TRUE(same(read_file(path_), bytes_));
    return reported;
  };
  for (const bool preallocate : {true, false}) {
    open_options options = read_write();
    options.preallocate = preallocate;
    mapped_file file = opened(options);
    for (const std::uint64_t size :
         {most, most - 1, most - page() + 1, std::uint64_t{1} << 63, (std::uint64_t{1} << 47) + 1})
      EXPECT_EQ(answer(file, size), std::errc::file_too_large) << size;
    // No file is as large, or nothing can be mapped as large: the file system says which.
    EXPECT_TRUE(answer(file, std::uint64_t{1} << 47));
  }
  mapped_file file = opened(read_only());
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{1}, most})
    EXPECT_EQ(answer(file, size), errc::read_only);
  file = opened(copy_on_write());
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{1}, most})
    EXPECT_EQ(answer(file, size), errc::unsupported);
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

TEST_F(bad_size, of_nothing_is_waited_for_and_refused_while_a_region_lives) {
  mapped_file file = opened_with(bytes_);
  auto held = std::make_unique<region>(file.map().view(0, 1));
  EXPECT_EQ(code_of([&] { file.map().resize(0); }), errc::pinned);
  outcome first;
  file.resize(0, first.handler());
  settle();
  EXPECT_EQ(first.calls, 0);
  file.cancel();
  file.cancel();
  finish(first);
  EXPECT_EQ(first.error, asio::error::operation_aborted);
  EXPECT_EQ(file.size(), bytes_.size());
  EXPECT_TRUE(same(held->text(), bytes_.substr(0, 1)));
  outcome second;
  file.resize(0, second.handler());
  held.reset();
  finish(second);
  EXPECT_TRUE(second.ok());
  EXPECT_EQ(fs::file_size(path_), 0U);
}

// --- buffers
// ---------------------------------------------------------------------------------------

TEST_F(bad_buffers, that_are_empty_or_nowhere_count_for_nothing) {
  mapped_file file = opened_with(std::string(page(), '.'));
  mapping m = file.map();
  const auto text = asio::buffer("abcd", 4);
  const asio::const_buffer none;
  const asio::const_buffer nowhere(nullptr, 0);
  const asio::const_buffer empty(text.data(), 0);
  std::vector<asio::const_buffer> out{none, nowhere, text, empty, none, text, nowhere};
  EXPECT_EQ(m.update_region(0, out), 8U);
  EXPECT_EQ(m.update_region(page() - 8, out), 8U);
  outcome o;
  file.update_region(16, out, o.handler());
  finish(o);
  EXPECT_TRUE(o.ok());
  EXPECT_EQ(o.bytes, 8U);
  EXPECT_EQ(m.view(0, 24).text(), "abcdabcd........abcdabcd");
  EXPECT_EQ(m.slice(32, 8).update_region(0, out), 8U);

  std::array<char, 4> first{}, second{};
  std::vector<asio::mutable_buffer> in{
      {}, {nullptr, 0},         asio::buffer(first), asio::buffer(first, 0),
      {}, asio::buffer(second), {nullptr, 0}};
  EXPECT_EQ(m.read_into(16, in), 8U);
  EXPECT_EQ(std::string_view(second.data(), 4), "abcd");
  second = {};
  outcome read;
  file.read_into(page() - 8, in, read.handler());
  finish(read);
  EXPECT_TRUE(read.ok());
  EXPECT_EQ(read.bytes, 8U);
  EXPECT_EQ(std::string_view(second.data(), 4), "abcd");
  EXPECT_EQ(mapio::guarded_copy(nullptr, nullptr, 0), 0U);
}

TEST_F(bad_buffers, of_no_bytes_still_have_to_be_in_the_file) {
  mapped_file file = opened_with(bytes_);
  mapping m = file.map();
  const std::uint64_t size = bytes_.size();
  const std::vector<asio::const_buffer> no_buffers;
  const std::vector<asio::const_buffer> empty_ones(5);
  for (const auto& buffers : {no_buffers, empty_ones})
    for (const std::uint64_t offset : {std::uint64_t{0}, size, size + 1, most}) {
      const std::error_code expected = offset > size ? errc::out_of_range : std::error_code();
      EXPECT_EQ(code_of([&] { m.update_region(offset, buffers); }), expected) << offset;
      outcome o;
      file.update_region(offset, buffers, o.handler());
      finish(o);
      EXPECT_EQ(o.error, expected) << offset;
      const std::vector<asio::mutable_buffer> in(buffers.size());
      EXPECT_EQ(code_of([&] { m.read_into(offset, in); }), expected) << offset;
      outcome read;
      file.read_into(offset, in, read.handler());
      finish(read);
      EXPECT_EQ(read.error, expected) << offset;
    }
}

TEST_F(bad_buffers, whose_sum_overflows_touch_nothing) {
  mapped_file file = opened_with(bytes_);
  mapping m = file.map();
  // Their sum is 10, if one does not look.
  const std::size_t huge = std::numeric_limits<std::size_t>::max() - 5;
  std::string memory(16, '.');
  const std::array out{asio::const_buffer(memory.data(), 16),
                       asio::const_buffer(memory.data(), huge)};
  const std::array in{asio::mutable_buffer(memory.data(), 16),
                      asio::mutable_buffer(memory.data(), huge)};
  EXPECT_EQ(code_of([&] { m.update_region(0, out); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { m.read_into(0, in); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { m.slice(0, 100).update_region(0, out); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { m.slice(0, 100).read_into(0, in); }), errc::out_of_range);
  outcome written;
  file.update_region(0, out, written.handler());
  finish(written);
  EXPECT_EQ(written.error, errc::out_of_range);
  outcome read;
  file.read_into(0, in, read.handler());
  finish(read);
  EXPECT_EQ(read.error, errc::out_of_range);
  EXPECT_EQ(written.bytes + read.bytes, 0U);
  EXPECT_EQ(memory, std::string(16, '.'));
  EXPECT_TRUE(same(read_file(path_), bytes_));
}

// --- moments
// ---------------------------------------------------------------------------------------

TEST_F(bad_moment, to_close_and_cancel_is_after_the_end) {
  mapped_file file = opened_with(bytes_);
  mapped_file copy = file;
  file.cancel();
  file.cancel();
  outcome first, second, of_copy;
  file.close(first.handler());
  file.close(second.handler());
  copy.close(of_copy.handler());
  finish(first);
  finish(second);
  finish(of_copy);
  EXPECT_TRUE(first.ok());
  EXPECT_EQ(second.error, errc::not_open);
  EXPECT_EQ(of_copy.error, errc::not_open);
  file.cancel();
  copy.cancel();
  std::error_code error;
  mapping m = mapping::create(path_, page());
  m.close(error);
  EXPECT_FALSE(error);
  m.close(error);
  EXPECT_FALSE(error) << "of the blocking one it does nothing";
}

TEST_F(bad_moment, to_close_while_it_opens_closes_what_is_open_by_then) {
  write_file(path_, bytes_);
  write_file(dir_ / "other", "other");
  for (int round = 0; round < 20; ++round) {
    mapped_file file(io_);
    outcome opening, closing;
    file.open(path_, opening.handler());
    file.close(closing.handler());
    finish(opening);
    finish(closing);
    EXPECT_TRUE(opening.ok());
    EXPECT_TRUE(!closing.error || closing.error == errc::not_open) << closing.error.message();
    EXPECT_EQ(file.is_open(), closing.error == errc::not_open);

    // One of the two is there to be closed.
    file = opened(read_write());
    outcome opening_other, closing_one;
    file.open(dir_ / "other", opening_other.handler());
    file.close(closing_one.handler());
    finish(opening_other);
    finish(closing_one);
    EXPECT_TRUE(opening_other.ok());
    EXPECT_TRUE(closing_one.ok());
    if (file.is_open()) {
      EXPECT_EQ(read_all(file.map()), "other");
    }
  }
}

TEST_F(bad_moment, to_open_twice_at_once_leaves_one_of_them_open) {
  write_file(path_, "first");
  write_file(dir_ / "other", "other");
  mapped_file file(io_);
  outcome a, b;
  file.open(path_, a.handler());
  file.open(dir_ / "other", b.handler());
  finish(a);
  finish(b);
  EXPECT_TRUE(a.ok());
  EXPECT_TRUE(b.ok());
  EXPECT_TRUE(file.is_open());
  EXPECT_EQ(read_all(file.map()), file.path() == path_ ? "first" : "other");
  const fs::path let_go = file.path() == path_ ? dir_ / "other" : path_;
  EXPECT_TRUE(eventually([&] { return !support::is_mapped(let_go); }));
}

TEST_F(bad_moment, for_a_second_handle_to_the_same_file_is_none) {
  mapped_file first = opened_with(bytes_);
  mapped_file second = opened(read_write());
  EXPECT_FALSE(first.map() == second.map());
  outcome o;
  first.update_region(5, asio::buffer("seen", 4), o.handler());
  finish(o);
  EXPECT_EQ(second.map().view(5, 4).text(), "seen");
  first.map().resize(page());
  EXPECT_EQ(second.size(), bytes_.size()) << "it has its own idea of the size";
  EXPECT_EQ(second.map().refresh(), page());
  first.map().close();
  EXPECT_TRUE(second.is_open());
  EXPECT_EQ(second.map().update_region(0, asio::buffer("x", 1)), 1U);
}

TEST_F(bad_moment, for_a_file_that_is_replaced_keeps_the_old_one) {
  mapped_file file = opened_with("old bytes");
  write_file(dir_ / "new", "new");
  fs::rename(dir_ / "new", path_);
  EXPECT_EQ(file.path(), path_) << "as it was given";
  EXPECT_EQ(file.map().refresh(), 9U);
  EXPECT_EQ(read_all(file.map()), "old bytes");
  outcome written, flushed, resized;
  file.update_region(0, asio::buffer("OLD", 3), written.handler());
  finish(written);
  file.flush(flushed.handler());
  finish(flushed);
  file.resize(page(), resized.handler());
  finish(resized);
  EXPECT_TRUE(written.ok() && flushed.ok() && resized.ok());
  EXPECT_EQ(read_file(path_), "new") << "nothing of it went to the one that took its name";
  outcome again;
  mapped_file other(io_);
  other.open(file.path(), again.handler());
  finish(again);
  EXPECT_EQ(read_all(other.map()), "new");
}

// --- what the process is short of
// ----------------------------------------------------------------------------------------------

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
