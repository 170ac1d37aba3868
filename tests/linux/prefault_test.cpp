// What of prefault_test.cpp is about Linux.

#include "faults/syscall_gate.hpp"
#include "linux/linux_support.hpp"
#include "prefault_fixture.hpp"

#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include <asio/awaitable.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <functional>
#include <system_error>

#include <unistd.h>

namespace {

namespace fs = std::filesystem;
using mapio::errc;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;
using support::creating;
using support::eager;
using support::every_mode;
using support::page;
using support::pages;
using support::pattern;
using support::prefault_test;

constexpr int madvise_populate_read = 22;  // not in the headers of Debian 12

/// Runs `body` while nothing can be brought into memory, and `meanwhile` before that fails; false
/// where that cannot be had.
bool without_populating(
    const std::function<void()>& body, const std::function<void()>& meanwhile = [] {}) {
  faults::syscall_gate gate(
      {SYS_madvise},
      [&](const faults::syscall_gate::call& c) {
        if (c.arguments[2] != madvise_populate_read) return faults::syscall_gate::pass;
        meanwhile();
        return faults::syscall_gate::fail(EFAULT);
      },
      faults::advice_that_populates_nothing());
  return gate.run(body);
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

TEST_F(prefault_test, that_fails_leaves_a_file_that_took_the_name_meanwhile) {
  const fs::path other = dir_ / "other";
  support::write_file(other, "precious");
  const bool possible = without_populating(
      [&] {
        std::error_code ec;
        const mapping m(path_, eager(creating(page(), mapio::disposition::create_new)), ec);
        EXPECT_EQ(ec, errc::page_fault);
        EXPECT_EQ(support::read_file(path_), "precious");
      },
      [&] {
        std::error_code ignored;
        fs::rename(other, path_, ignored);
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
