// How updates and views bring in pages that are not in memory, seen by the system calls that the
// pool makes for them.

#include <mapio/mapped_file.hpp>

#include "faults/syscall_gate.hpp"
#include "linux/linux_support.hpp"
#include "mapped_file_fixture.hpp"

#include <mapio/backend.hpp>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <sys/syscall.h>

namespace {

using faults::syscall_gate;
using mapio::mapped_file;
using support::outcome;
using support::page;
using support::pattern;
using support::read_file;
using support::read_write;
using support::run_until;
using support::same;

constexpr int madvise_populate_read = 22;

class cold_pages : public support::mapped_file_test {
 protected:
  void SetUp() override {
    support::write_file(path_, bytes_);
    if (!support::evict(path_)) GTEST_SKIP() << "nothing is ever cold on this file system";
    if (opened(read_write()).stats().medium != mapio::medium::local)
      GTEST_SKIP() << "this is not a local disk";
  }

  /// Runs `body` with an open file of which nothing is in memory.
  void on_the_pool(const std::function<void(asio::io_context&, mapped_file&)>& body) {
    if (!gate_.run([&] {
          asio::io_context io;
          mapio::use_backend(io, mapio::backend_kind::thread_pool);
          mapped_file file(io);
          support::run_coroutine(io, [&]() -> work { co_await file.open(path_, read_write()); });
          support::evict(path_);
          body(io, file);
        }))
      GTEST_SKIP() << "seccomp does not let us see system calls";
  }

  void update(asio::io_context& io, mapped_file& file, std::uint64_t offset,
              const std::string& bytes) {
    outcome o;
    file.update_region(offset, asio::buffer(bytes), o.handler());
    EXPECT_TRUE(run_until(io, [&] { return o.calls > 0; }));
    EXPECT_TRUE(o.ok()) << o.error.message();
    EXPECT_EQ(o.bytes, bytes.size());
  }

  /// Where the pages were read that nobody asked the bytes of.
  std::vector<std::uint64_t> fetched() const {
    std::vector<std::uint64_t> offsets;
    for (const syscall_gate::call& c : gate_.seen())
      if (c.number == SYS_pread64) offsets.push_back(c.arguments[3]);
    return offsets;
  }
  std::ptrdiff_t count(long number) const {
    const auto seen = gate_.seen();
    return std::count_if(seen.begin(), seen.end(),
                         [&](const syscall_gate::call& c) { return c.number == number; });
  }
  bool has_populated() const {
    const auto seen = gate_.seen();
    return std::any_of(seen.begin(), seen.end(), [](const syscall_gate::call& c) {
      return c.number == SYS_madvise && c.arguments[2] == madvise_populate_read;
    });
  }

  const std::string bytes_ = pattern(16 * page());
  std::atomic<bool> holds_reads_{false};
  syscall_gate gate_{{SYS_pread64, SYS_pwritev, SYS_madvise},
                     [this](const syscall_gate::call& c) {
                       return holds_reads_ && c.number == SYS_pread64 ? syscall_gate::hold
                                                                      : syscall_gate::pass;
                     },
                     faults::advice_that_populates_nothing()};
};

using offsets = std::vector<std::uint64_t>;

TEST_F(cold_pages, are_read_before_a_part_of_them_is_written) {
  on_the_pool([&](asio::io_context& io, mapped_file& file) {
    update(io, file, 2 * page() + 10, "in one page");
    EXPECT_EQ(fetched(), (offsets{2 * page()}));
    update(io, file, 5 * page() - 3, std::string(2 * page(), 'x'));
    EXPECT_EQ(fetched(), (offsets{2 * page(), 4 * page(), 6 * page()}));
    update(io, file, 9 * page() - 1, std::string(page() + 1, 'y'));
    EXPECT_EQ(fetched(), (offsets{2 * page(), 4 * page(), 6 * page(), 8 * page()}));
    update(io, file, 11 * page(), std::string(page() + 1, 'z'));
    EXPECT_EQ(fetched(), (offsets{2 * page(), 4 * page(), 6 * page(), 8 * page(), 12 * page()}));
    EXPECT_EQ(count(SYS_pwritev), 4);
  });
  std::string expected = bytes_;
  expected.replace(2 * page() + 10, 11, "in one page");
  expected.replace(5 * page() - 3, 2 * page(), std::string(2 * page(), 'x'));
  expected.replace(9 * page() - 1, page() + 1, std::string(page() + 1, 'y'));
  expected.replace(11 * page(), page() + 1, std::string(page() + 1, 'z'));
  EXPECT_TRUE(same(read_file(path_), expected));
}

TEST_F(cold_pages, are_not_read_when_they_are_written_as_a_whole) {
  on_the_pool([&](asio::io_context& io, mapped_file& file) {
    update(io, file, 2 * page(), std::string(page(), 'x'));
    update(io, file, 4 * page(), std::string(3 * page(), 'y'));
    EXPECT_EQ(fetched(), offsets());
    EXPECT_EQ(count(SYS_pwritev), 2);
  });
}

TEST_F(cold_pages, are_read_once) {
  on_the_pool([&](asio::io_context& io, mapped_file& file) {
    for (int i = 0; i < 3; ++i) {
      update(io, file, 2 * page(), "again");
      support::run_coroutine(io, [&]() -> work { co_await file.flush(); });
    }
    EXPECT_EQ(fetched(), (offsets{2 * page()}));
    EXPECT_EQ(count(SYS_pwritev), 3);
  });
}

TEST_F(cold_pages, are_read_for_many_updates_at_a_time) {
  on_the_pool([&](asio::io_context& io, mapped_file& file) {
    holds_reads_ = true;
    outcome first;
    outcome second;
    file.update_region(2 * page(), asio::buffer("first", 5), first.handler());
    file.update_region(7 * page(), asio::buffer("second", 6), second.handler());
    gate_.wait_until_held(2);
    EXPECT_EQ(count(SYS_pwritev), 0);
    holds_reads_ = false;
    gate_.release();
    EXPECT_TRUE(run_until(io, [&] { return first.calls > 0 && second.calls > 0; }));
    EXPECT_TRUE(first.ok() && second.ok());
    EXPECT_EQ(count(SYS_pwritev), 2);
  });
}

TEST_F(cold_pages, that_cannot_be_read_leave_it_to_the_write_to_say_so) {
  on_the_pool([&](asio::io_context& io, mapped_file& file) {
    holds_reads_ = true;
    outcome o;
    file.update_region(2 * page(), asio::buffer("bytes", 5), o.handler());
    gate_.wait_until_held();
    holds_reads_ = false;
    gate_.release(syscall_gate::fail(EIO));
    EXPECT_TRUE(run_until(io, [&] { return o.calls > 0; }));
    EXPECT_TRUE(o.ok()) << o.error.message();  // this disk could write it
  });
  EXPECT_EQ(read_file(path_).substr(2 * page(), 5), "bytes");
}

TEST_F(cold_pages, are_not_written_when_the_update_was_cancelled_meanwhile) {
  on_the_pool([&](asio::io_context& io, mapped_file& file) {
    holds_reads_ = true;
    outcome o;
    asio::cancellation_signal signal;
    file.update_region(2 * page(), asio::buffer("bytes", 5),
                       asio::bind_cancellation_slot(signal.slot(), o.handler()));
    gate_.wait_until_held();
    signal.emit(asio::cancellation_type::terminal);
    holds_reads_ = false;
    gate_.release();
    EXPECT_TRUE(run_until(io, [&] { return o.calls > 0; }));
    EXPECT_EQ(o.error, asio::error::operation_aborted);
    EXPECT_EQ(o.bytes, 0U);
    EXPECT_EQ(count(SYS_pwritev), 0);
  });
  EXPECT_TRUE(same(read_file(path_), bytes_));
}

TEST_F(cold_pages, that_are_gone_by_the_time_of_the_write_are_a_page_fault) {
  on_the_pool([&](asio::io_context& io, mapped_file& file) {
    holds_reads_ = true;
    outcome update;
    outcome view;
    file.update_region(8 * page(), asio::buffer("bytes", 5), update.handler());
    file.view(9 * page(), 5, view.handler());
    gate_.wait_until_held(2);
    support::truncate_file(path_, 4 * page());
    holds_reads_ = false;
    gate_.release();
    EXPECT_TRUE(run_until(io, [&] { return update.calls > 0 && view.calls > 0; }));
    EXPECT_EQ(update.error, mapio::errc::page_fault);
    EXPECT_EQ(view.error, mapio::errc::page_fault);
    EXPECT_TRUE(view.region.empty());
  });
  EXPECT_EQ(read_file(path_).size(), 4 * page());
}

TEST_F(cold_pages, of_a_view_are_read_and_nothing_around_them) {
  on_the_pool([&](asio::io_context& io, mapped_file& file) {
    outcome o;
    file.view(6 * page() + 5, page(), o.handler());
    EXPECT_TRUE(run_until(io, [&] { return o.calls > 0; }));
    ASSERT_TRUE(o.ok()) << o.error.message();
    EXPECT_TRUE(same(o.region.text(), bytes_.substr(6 * page() + 5, page())));
    EXPECT_EQ(fetched(), (offsets{6 * page() + 5}));
    EXPECT_FALSE(has_populated()) << "a fault would read all that the device reads ahead";
  });
}

TEST_F(cold_pages, of_a_view_are_let_go_of_when_it_was_cancelled_meanwhile) {
  on_the_pool([&](asio::io_context& io, mapped_file& file) {
    holds_reads_ = true;
    outcome o;
    asio::cancellation_signal signal;
    file.view(6 * page(), page(), asio::bind_cancellation_slot(signal.slot(), o.handler()));
    gate_.wait_until_held();
    signal.emit(asio::cancellation_type::terminal);
    holds_reads_ = false;
    gate_.release();
    EXPECT_TRUE(run_until(io, [&] { return o.calls > 0; }));
    EXPECT_EQ(o.error, asio::error::operation_aborted);
    EXPECT_TRUE(o.region.empty());
    std::error_code shrunk;
    file.map().resize(page(), shrunk);
    EXPECT_FALSE(shrunk) << "nothing is pinned any more";
  });
}

}  // namespace
