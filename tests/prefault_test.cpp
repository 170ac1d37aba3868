#include "faults/syscall_gate.hpp"
#include "support.hpp"

#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include <asio/awaitable.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <functional>
#include <string>
#include <system_error>
#include <vector>

#include <unistd.h>

namespace {

namespace fs = std::filesystem;
using mapio::errc;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;
using support::creating;
using support::page;
using support::pattern;

constexpr std::size_t pages = 64;
constexpr int madvise_populate_read = 22;  // not in the headers of Debian 12

open_options eager(open_options options) {
  options.touch = mapio::prefault::eager;
  return options;
}

class prefault_test : public testing::Test {
 protected:
  std::error_code await_open(mapped_file& file, const open_options& options) {
    std::error_code ec = std::make_error_code(std::errc::protocol_error);
    support::run_coroutine(io_, [&]() -> asio::awaitable<void> {
      co_await file.open(path_, options, support::into(ec));
    });
    return ec;
  }
  /// Writes the file and gets it out of memory; false where that does not work.
  bool make_cold() {
    support::write_file(path_, pattern(pages * page()));
    if (!support::evict(path_)) return false;
    const mapping m(path_, support::read_only());
    return !m.is_resident(0, m.size());
  }
  /// Runs `body` while nothing can be brought into memory; false where that cannot be had.
  static bool without_populating(const std::function<void()>& body) {
    faults::syscall_gate gate(
        {SYS_madvise},
        [](const faults::syscall_gate::call& c) {
          return c.arguments[2] == madvise_populate_read ? faults::syscall_gate::fail(EFAULT)
                                                         : faults::syscall_gate::pass;
        },
        faults::advice_that_populates_nothing());
    return gate.run(body);
  }

  support::temp_dir dir_;
  const fs::path path_ = dir_ / "file";
  asio::io_context io_;
};

std::vector<open_options> every_mode() {
  return {support::read_only(), support::read_write(), support::copy_on_write()};
}

TEST_F(prefault_test, opens_when_everything_is_in_memory) {
  for (const open_options& options : every_mode()) {
    if (!make_cold()) GTEST_SKIP() << "the pages stay in memory";
    const mapping m(path_, eager(options));
    EXPECT_TRUE(m.is_resident(0, m.size()));
    EXPECT_EQ(m.pending_bytes(), 0U);
  }
}

TEST_F(prefault_test, adopts_when_everything_is_in_memory) {
  for (const open_options& options : every_mode()) {
    if (!make_cold()) GTEST_SKIP() << "the pages stay in memory";
    const mapping m = mapping::adopt(support::open_fd(path_, O_RDWR).release(), eager(options));
    EXPECT_TRUE(m.is_resident(0, m.size()));
  }
}

TEST_F(prefault_test, opens_an_awaited_file_when_everything_is_in_memory) {
  for (const open_options& options : every_mode()) {
    if (!make_cold()) GTEST_SKIP() << "the pages stay in memory";
    mapped_file file(io_);
    EXPECT_FALSE(await_open(file, eager(options)));
    EXPECT_TRUE(file.map().is_resident(0, file.size()));
  }
}

TEST_F(prefault_test, brings_in_a_file_that_is_created) {
  const mapping m(path_, eager(creating(pages * page())));
  EXPECT_TRUE(m.is_resident(0, m.size()));
  mapped_file file(io_);
  EXPECT_FALSE(await_open(file, eager(creating(pages * page()))));
  EXPECT_TRUE(file.map().is_resident(0, file.size()));
}

TEST_F(prefault_test, that_fails_leaves_nothing_open) {
  support::write_file(path_, pattern(pages * page()));
  const bool possible = without_populating([&] {
    const auto before = support::open_descriptors();
    for (const open_options& options : every_mode()) {
      std::error_code ec;
      const mapping m(path_, eager(options), ec);
      EXPECT_EQ(ec, errc::page_fault);
      EXPECT_FALSE(m.is_open());
    }
    EXPECT_EQ(support::open_descriptors(), before);
    EXPECT_FALSE(support::is_mapped(path_));
    EXPECT_TRUE(support::same(support::read_file(path_), pattern(pages * page())));
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us fail system calls";
}

TEST_F(prefault_test, that_fails_removes_the_file_that_was_created) {
  const bool possible = without_populating([&] {
    std::error_code ec;
    const mapping m(path_, eager(creating(page(), mapio::disposition::create_new)), ec);
    EXPECT_EQ(ec, errc::page_fault);
    EXPECT_FALSE(fs::exists(path_));
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us fail system calls";
}

TEST_F(prefault_test, that_fails_gives_back_the_handle_that_was_to_be_adopted) {
  support::write_file(path_, pattern(pages * page()));
  const bool possible = without_populating([&] {
    const support::unique_fd fd = support::open_fd(path_, O_RDWR);
    const auto before = support::open_descriptors();
    for (const open_options& options : every_mode()) {
      std::error_code ec;
      EXPECT_FALSE(mapping::adopt(fd.get(), eager(options), ec).is_open());
      EXPECT_EQ(ec, errc::page_fault);
      EXPECT_EQ(support::code_of([&] { mapping::adopt(fd.get(), eager(options)); }),
                errc::page_fault);
    }
    EXPECT_EQ(support::open_descriptors(), before);
    EXPECT_FALSE(support::is_mapped(path_));
    char first = 0;
    EXPECT_EQ(::pread(fd.get(), &first, 1, 0), 1);
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us fail system calls";
}

TEST_F(prefault_test, that_fails_is_the_error_of_an_awaited_open) {
  support::write_file(path_, pattern(pages * page()));
  const bool possible = without_populating([&] {
    asio::io_context io;  // with workers that the filter covers
    mapped_file file(io);
    std::error_code ec;
    support::run_coroutine(io, [&]() -> asio::awaitable<void> {
      co_await file.open(path_, eager(support::read_write()), support::into(ec));
    });
    EXPECT_EQ(ec, errc::page_fault);
    EXPECT_FALSE(file.is_open());
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us fail system calls";
}

}  // namespace
