// What of advice_test.cpp is about Linux.
#include "advice_fixture.hpp"
#include "faults/private_mount.hpp"
#include "faults/syscall_gate.hpp"
#include "linux/linux_support.hpp"
#include "smaps.hpp"

#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>
#include <thread>

#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

namespace {

namespace fs = std::filesystem;
using mapio::advice;
using mapio::errc;
using mapio::mapping;
using mapio::open_options;
using support::advice_test;
using support::all_advice;
using support::code_of;
using support::creating;
using support::each_detail;
using support::huge_page;
using support::huge_pages_test;
using support::mapped_pages;
using support::page;
using support::pattern;
using support::read_all;
using support::same;

TEST_F(advice_test, reaches_the_kernel_by_whole_pages) {
  mapping m = file_of(pattern(16 * page()));
  m.advise(page() + 1, page(), advice::random);
  EXPECT_EQ(with("rr"), 2 * page());
  m.advise(8 * page(), 4 * page(), advice::sequential);
  EXPECT_EQ(with("sr"), 4 * page());
  m.advise(0, m.size(), advice::huge_pages);
  EXPECT_EQ(with("hg"), 16 * page());
}

TEST_F(advice_test, of_one_kind_ends_the_other_and_normal_ends_both) {
  mapping m = file_of(pattern(16 * page()));
  m.advise(0, 8 * page(), advice::random);
  m.advise(4 * page(), 8 * page(), advice::sequential);
  EXPECT_EQ(with("rr"), 4 * page());
  EXPECT_EQ(with("sr"), 8 * page());
  m.advise(2 * page(), 4 * page(), advice::normal);
  EXPECT_EQ(with("rr"), 2 * page());
  EXPECT_EQ(with("sr"), 6 * page());
}

TEST_F(advice_test, is_taken_on_every_kind_of_mapping) {
  const std::string bytes = pattern(8 * page());
  for (const open_options& options :
       {support::read_only(), support::read_write(), support::copy_on_write()}) {
    mapping m = file_of(bytes, options);
    for (const advice what : all_advice) {
      std::error_code ec = make_error_code(errc::pinned);
      m.advise(0, m.size(), what, ec);
      const bool loses = what == advice::dont_need && options.mode == mapio::access::copy_on_write;
      EXPECT_EQ(ec, loses ? std::error_code(errc::unsupported) : std::error_code())
          << static_cast<int>(what);
      EXPECT_TRUE(same(read_all(m), bytes));
    }
  }
}

TEST_F(advice_test, that_pages_are_not_needed_takes_them_out_and_loses_nothing) {
  std::string bytes = pattern(16 * page());
  mapping m = file_of(bytes);
  m.flush();
  const mapio::region all = m.view(0, m.size());
  m.update_region(3 * page(), asio::buffer("stored", 6));
  m.mutable_view(5 * page(), 6).data()[0] = std::byte{'x'};
  bytes.replace(3 * page(), 6, "stored").replace(5 * page(), 1, "x");
  m.prefetch();
  ASSERT_EQ(mapped_pages(all), 16U);
  m.advise(2 * page(), 12 * page(), advice::dont_need);
  EXPECT_EQ(mapped_pages(all), 4U);
  EXPECT_EQ(m.pending_bytes(), 2 * page());
  EXPECT_TRUE(same(all.text(), bytes));
  m.flush();
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_TRUE(same(support::read_file(path_), bytes));
}

// Its next store faults, which the loop's thread is spared.
TEST_F(advice_test, that_pages_will_go_sends_the_next_awaited_update_off_the_loop) {
  for (const advice what : {advice::dont_need, advice::cold}) {
    mapping m = file_of(pattern(4 * page()));
    m.mutable_view(0, m.size()).data()[0] = std::byte{'x'};
    asio::io_context io;
    mapio::mapped_file file(io.get_executor(), m);
    const auto stores_of_update = [&] {
      const std::uint64_t before = m.stats().stores;
      support::run_coroutine(io, [&]() -> asio::awaitable<void> {
        co_await file.update_region(page(), asio::buffer("x", 1));
      });
      return m.stats().stores - before;
    };
    EXPECT_EQ(stores_of_update(), 1U);
    m.advise(page(), page(), what);
    EXPECT_EQ(stores_of_update(), 0U);
  }
}

TEST_F(advice_test, that_pages_are_needed_brings_them_in) {
  { file_of(pattern(64 * page())); }
  if (!support::evict(path_)) GTEST_SKIP() << "this file system does not let go of its pages";
  mapping m(path_, support::read_only());
  if (m.is_resident(0, m.size())) GTEST_SKIP() << "the pages stayed in memory";
  m.advise(0, m.size(), advice::will_need);
  EXPECT_TRUE(support::eventually([&] { return m.is_resident(0, m.size()); }));
}

TEST_F(advice_test, follows_a_mapping_that_moves) {
  open_options options = creating(16 * page());
  options.reserve = 16 * page();
  mapping m(path_, options);
  m.advise(0, 8 * page(), advice::random);
  m.advise(2 * page(), page(), advice::normal);
  m.advise(8 * page(), 4 * page(), advice::sequential);
  m.advise(4 * page(), 6 * page(), advice::huge_pages);
  m.resize(64 * page());
  ASSERT_EQ(m.stats().moves, 1U);
  EXPECT_EQ(with("rr"), 7 * page());
  EXPECT_EQ(with("sr"), 4 * page());
  EXPECT_EQ(with("hg"), 6 * page());
  m.advise(0, 4 * page(), advice::normal);
  m.resize(4096 * page());
  ASSERT_EQ(m.stats().moves, 2U);
  EXPECT_EQ(with("rr"), 4 * page());
  EXPECT_EQ(with("sr"), 4 * page());
  EXPECT_EQ(with("hg"), 6 * page());
}

TEST_F(advice_test, that_is_given_while_the_mapping_moves_is_not_lost) {
  if (!support::locks_work) GTEST_SKIP() << "sanitizers make mlock do nothing";
  // Locking comes last in what is done before a move.
  std::atomic<bool> holding{false};
  faults::syscall_gate gate({SYS_mlock}, [&](const auto&) {
    return holding.exchange(false) ? faults::syscall_gate::hold : faults::syscall_gate::pass;
  });
  const bool possible = gate.run([&] {
    open_options options = creating(16 * page());
    options.reserve = 16 * page();
    mapping m(path_, options);
    m.advise(0, 4 * page(), advice::random);
    m.lock_pages(0, page());
    holding = true;
    std::thread grower([m]() mutable { m.resize(64 * page()); });
    gate.wait_until_held();
    m.advise(0, 2 * page(), advice::normal);
    m.advise(8 * page(), page(), advice::sequential);
    gate.release();
    grower.join();
    EXPECT_EQ(m.stats().moves, 1U);
    EXPECT_EQ(with("rr"), 2 * page());
    EXPECT_EQ(with("sr"), page());
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us hold system calls";
}

TEST_F(advice_test, that_locked_pages_are_not_needed_is_refused) {
  if (!support::locks_work) GTEST_SKIP() << "sanitizers make mlock do nothing";
  mapping m = file_of(pattern(4 * page()));
  m.lock_pages(0, page());
  EXPECT_EQ(code_of([&] { m.advise(0, m.size(), advice::dont_need); }),
            std::errc::invalid_argument);
  EXPECT_TRUE(m.is_resident(0, page()));
}

TEST_F(advice_test, that_the_kernel_does_not_know_is_unsupported) {
  faults::syscall_gate gate({SYS_madvise}, [](const faults::syscall_gate::call& c) {
    return c.arguments[2] == MADV_COLD ? faults::syscall_gate::fail(EINVAL)
                                       : faults::syscall_gate::pass;
  });
  const bool possible = gate.run([&] {
    mapping m = file_of(pattern(4 * page()));
    EXPECT_EQ(code_of([&] { m.advise(0, page(), advice::cold); }), errc::unsupported);
    m.advise(0, page(), advice::random);
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us fail system calls";
}

/// Counts what the kernel says that this process's mappings of a file have in huge pages.
std::uint64_t huge_bytes_of(const fs::path& path) {
  std::uint64_t bytes = 0;
  each_detail(path, [&](const std::string& detail, std::uint64_t) {
    if (detail.starts_with("FilePmdMapped:") || detail.starts_with("ShmemPmdMapped:"))
      bytes += std::stoull(detail.substr(detail.find(':') + 1)) << 10;
  });
  return bytes;
}

open_options with_huge_pages(open_options options = support::read_write()) {
  options.huge_pages = true;
  return options;
}

TEST_F(huge_pages_test, are_asked_for_on_every_kind_of_mapping) {
  const std::string bytes = pattern(8 * page());
  for (const open_options& options :
       {support::read_only(), support::read_write(), support::copy_on_write()}) {
    {
      const mapping m = file_of(bytes, with_huge_pages(options));
      EXPECT_EQ(with("hg"), m.capacity());
    }
    support::unique_fd fd = support::open_fd(path_, O_RDWR);
    const mapping adopted = mapping::adopt(fd.release(), with_huge_pages(options));
    EXPECT_EQ(with("hg"), adopted.capacity());
  }
  const mapping created(path_, with_huge_pages(creating(0)));
  EXPECT_EQ(with("hg"), created.capacity());
}

TEST_F(huge_pages_test, are_asked_for_again_when_the_mapping_moves) {
  open_options options = with_huge_pages(creating(8 * page()));
  options.reserve = 8 * page();
  mapping m(path_, options);
  EXPECT_EQ(with("hg"), 8 * page());
  m.resize(64 * page());
  ASSERT_EQ(m.stats().moves, 1U);
  EXPECT_EQ(with("hg"), m.capacity());
}

TEST_F(huge_pages_test, that_were_obtained_are_counted) {
  mapping m = file_of(pattern(4 * huge_page), with_huge_pages());
  EXPECT_EQ(m.stats().huge_page_bytes, 0U) << "nothing was touched yet";
  m.prefetch();
  const std::uint64_t obtained = huge_bytes_of(path_);
  EXPECT_EQ(m.stats().huge_page_bytes, obtained);
  m.close();
  EXPECT_EQ(m.stats().huge_page_bytes, 0U);
  if (obtained == 0) GTEST_SKIP() << "this kernel gave none";
}

TEST_F(huge_pages_test, are_to_be_had_on_a_tmpfs_that_is_mounted_so) {
  const bool possible = faults::with_private_mounts([&] {
    if (::mount("tmpfs", dir_.path().c_str(), "tmpfs", 0, "size=64m,huge=advise") != 0)
      return false;
    open_options options = with_huge_pages(creating(4 * huge_page));
    options.preallocate = false;
    mapping m(path_, options);
    m.update_region(0, asio::buffer(pattern(4 * huge_page)));
    EXPECT_EQ(m.stats().huge_page_bytes, huge_bytes_of(path_));
    return m.stats().huge_page_bytes != 0;
  });
  if (!possible) GTEST_SKIP() << "no such mount, or no memory in such large pieces";
}

// Takes none of the huge pages of the machine: nothing is allocated, and nothing touched.
TEST_F(huge_pages_test, of_a_file_that_has_no_others_bound_its_size) {
  const bool possible = faults::with_private_mounts([&] {
    if (::mount("none", dir_.path().c_str(), "hugetlbfs", 0, "pagesize=2M") != 0) return false;
    open_options options = creating(huge_page);
    options.preallocate = false;
    mapping m(path_, options);
    m.resize(3 * huge_page);
    EXPECT_EQ(m.size(), 3 * huge_page);
    EXPECT_EQ(fs::file_size(path_), m.size());
    std::error_code error;
    m.resize(4 * huge_page + page(), error);
    EXPECT_EQ(error, std::errc::invalid_argument);
    m.resize(huge_page);
    EXPECT_EQ(fs::file_size(path_), m.size());
    m.close();
    EXPECT_FALSE(support::is_mapped(path_));

    options.size = huge_page + page();
    m.open(dir_ / "odd", options, error);
    EXPECT_EQ(error, std::errc::invalid_argument);
    EXPECT_FALSE(fs::exists(dir_ / "odd"));
    m.open(path_, options, error);
    EXPECT_EQ(error, std::errc::invalid_argument);
    EXPECT_EQ(fs::file_size(path_), huge_page);
    return true;
  });
  if (!possible) GTEST_SKIP() << "no file system of huge pages can be mounted here";
}

TEST_F(huge_pages_test, that_were_advised_are_counted) {
  mapping m = file_of(pattern(4 * huge_page));
  m.advise(0, m.size(), advice::huge_pages);
  m.prefetch();
  EXPECT_EQ(m.stats().huge_page_bytes, huge_bytes_of(path_));
}

TEST_F(huge_pages_test, are_counted_within_this_file_only) {
  const std::string bytes = pattern(4 * huge_page);
  mapping m = file_of(bytes, with_huge_pages());
  m.prefetch();
  const std::uint64_t alone = m.stats().huge_page_bytes;
  support::write_file(dir_ / "other", bytes);
  mapping other(dir_ / "other", with_huge_pages());
  other.prefetch();
  EXPECT_EQ(m.stats().huge_page_bytes, alone);
}

TEST_F(huge_pages_test, are_counted_without_the_help_of_a_new_kernel) {
  faults::syscall_gate gate({SYS_ioctl},
                            [](const auto&) { return faults::syscall_gate::fail(ENOTTY); });
  const bool possible = gate.run([&] {
    mapping m = file_of(pattern(4 * huge_page), with_huge_pages());
    m.prefetch();
    EXPECT_EQ(m.stats().huge_page_bytes, huge_bytes_of(path_));
    EXPECT_GT(gate.count(), 0U);
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us fail system calls";
}

}  // namespace
