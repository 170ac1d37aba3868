// What of mapped_file_test.cpp is about Linux.

#include <mapio/mapped_file.hpp>

#include "faults/private_mount.hpp"
#include "linux/linux_support.hpp"
#include "mapped_file_fixture.hpp"

#include <mapio/backend.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/cancellation_type.hpp>
#include <asio/co_spawn.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/io_context.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

using work = asio::awaitable<void>;

namespace fs = std::filesystem;
using namespace asio::experimental::awaitable_operators;
using mapio::disposition;
using mapio::errc;
using mapio::mapped_file;
using mapio::open_options;
using support::creating;
using support::largest;
using support::mapped_file_test;
using support::mebibyte;
using support::outcome;
using support::page;
using support::pattern;
using support::read_file;
using support::read_only;
using support::read_write;
using support::same;
using support::write_file;

using mapped_file_open = mapped_file_test;
using mapped_file_update = mapped_file_test;
using mapped_file_read = mapped_file_test;
using mapped_file_prefetch = mapped_file_test;

TEST_F(mapped_file_open, reports_what_the_blocking_one_reports) {
  write_file(path_, "x");
  const auto fifo = dir_ / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  fs::create_symlink(path_, dir_ / "link");
  open_options no_links;
  no_links.follow_symlinks = false;
  open_options contradiction;
  contradiction.create = disposition::create_or_truncate;
  struct attempt {
    fs::path path;
    open_options options;
    std::errc expected;
  };
  const std::vector<attempt> attempts{
      {dir_ / "missing", read_only(), std::errc::no_such_file_or_directory},
      {dir_ / "missing", read_write(), std::errc::no_such_file_or_directory},
      {"", read_only(), std::errc::no_such_file_or_directory},
      {dir_.path(), read_only(), std::errc::is_a_directory},
      {dir_.path(), creating(1), std::errc::is_a_directory},
      {path_ / "below", read_only(), std::errc::not_a_directory},
      {fifo, read_only(), std::errc::no_such_device},
      {fifo, read_write(), std::errc::no_such_device},
      {"/dev/null", read_write(), std::errc::no_such_device},
      {dir_ / std::string(300, 'n'), creating(1), std::errc::filename_too_long},
      {dir_ / "link", no_links, std::errc::too_many_symbolic_link_levels},
      {path_, contradiction, std::errc::invalid_argument},
      {path_, creating(1, disposition::create_new), std::errc::file_exists},
      {path_, creating(largest), std::errc::file_too_large},
  };
  for (const auto& a : attempts) {
    SCOPED_TRACE(a.path.string());
    outcome o;
    mapped_file file(io_);
    file.open(a.path, a.options, o.handler());
    finish(o);
    EXPECT_EQ(o.error, a.expected) << o.error.message();
    EXPECT_FALSE(file.is_open());
  }
  EXPECT_EQ(read_file(path_), "x");
}

TEST_F(mapped_file_update, of_a_page_that_is_known_to_be_dirty_is_stored_at_once) {
  mapped_file file = created(page());
  run([&]() -> work {
    for (int i = 0; i < 10; ++i)
      co_await file.update_region(0, asio::buffer("x", 1));
  });
  if (!support::tells_dirty_pages(path_)) GTEST_SKIP() << "nothing tells what a store would cost";
  EXPECT_GE(file.stats().stores, 1U);
}

// The kernel writes what has been dirty for long, or when memory is short, and may then drop it.
TEST_F(mapped_file_update, of_a_page_that_was_written_and_dropped_meanwhile_goes_off_the_loop) {
  mapped_file file = created(page());
  const mapio::region all = file.map().view(0, page());
  run([&]() -> work {
    for (int i = 0; i < 10; ++i)
      co_await file.update_region(0, asio::buffer("x", 1));
  });
  if (file.stats().stores == 0) GTEST_SKIP() << "nothing tells what a store would cost";
  if (!support::evict(path_)) GTEST_SKIP() << "nothing is ever cold on this file system";
  support::forget_pages(all.data(), all.size(), file.native_handle());
  if (file.map().is_resident(0, page()))
    GTEST_SKIP() << "this file system does not let go of its pages";
  // What the kernel has told of a page counts for a while.
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const auto before = file.stats().stores;
  run([&]() -> work { co_await file.update_region(1, asio::buffer("y", 1)); });
  EXPECT_EQ(file.stats().stores, before);
  EXPECT_EQ(read_file(path_).substr(0, 3), std::string("xy\0", 3));
}

/// Updates a file from its start to its end, or to an error.
asio::awaitable<std::uint64_t> append(mapped_file& file, const std::string& bytes,
                                      std::uint64_t length, std::error_code& ec) {
  std::uint64_t at = 0;
  while (at < length && !ec) {
    const std::uint64_t n = std::min<std::uint64_t>(length - at, bytes.size());
    at += co_await file.update_region(at, asio::buffer(bytes.data(), n), support::into(ec));
  }
  co_return at;
}

/// Writes a file, up to the disk, so that no store into it makes more dirty than its page.
void write_in_pages(const fs::path& path, std::uint64_t size) {
  const support::unique_fd file = support::open_fd(path, O_WRONLY | O_CREAT | O_TRUNC);
  const std::string bytes(page(), 'o');
  for (std::uint64_t at = 0; at < size; at += bytes.size())
    ASSERT_EQ(::write(file.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  ASSERT_EQ(::fsync(file.get()), 0);
}

std::uint64_t off_the_loop(const mapped_file& file) {
  return file.stats().worker_stores + file.stats().file_writes;
}

/// Tells whether `once(file)` updates `length` bytes of a file that is opened for it, and leaves
/// the loop less than once in 64 KiB. Where somebody has all files written meanwhile it begins
/// anew.
template <class Open, class Once>
bool stays_on_the_loop(std::uint64_t length, Open open, Once once) {
  constexpr int attempts = 5;
  for (int i = 0; i < attempts; ++i) {
    mapped_file file = open();
    once(file);
    if (off_the_loop(file) < length >> 16) return true;
  }
  return false;
}

bool tells_what_stores_cost(asio::io_context& io, const fs::path& path) {
  mapped_file file(io);
  support::run_coroutine(io, [&]() -> work {
    co_await file.open(path, creating(page()));
    co_await file.update_region(0, asio::buffer("x", 1));
  });
  const mapio::medium medium = file.stats().medium;
  return medium == mapio::medium::volatile_memory ||
         (medium == mapio::medium::local && support::tells_dirty_pages(path));
}

TEST_F(mapped_file_update, that_is_written_through_the_file_leaves_the_mapping_alone) {
  open_options options = creating(16 * page());
  options.writes = mapio::write_path::file;
  mapped_file file = opened(options);
  const mapio::region all = file.map().view(0, file.size());
  run([&]() -> work {
    for (std::uint64_t i = 0; i < 50; ++i) {
      co_await file.update_region(i * 1000, asio::buffer("x", 1));
      if (i % 10 == 0) co_await file.flush();
    }
  });
  EXPECT_EQ(support::mapped_pages(all), 0U);
  EXPECT_EQ(all.text().front(), 'x');
  EXPECT_GE(support::mapped_pages(all), 1U) << "it would have been seen";
}

TEST_F(mapped_file_update, that_follow_one_another_go_off_the_loop_once_per_64_kib_at_most) {
  constexpr std::uint64_t size = mebibyte;
  if (!tells_what_stores_cost(io_, path_)) GTEST_SKIP() << "nothing tells what a store costs";
  for (const mapio::write_path writes : {mapio::write_path::automatic, mapio::write_path::mapped})
    for (const std::size_t length : {100U, 4096U, 5000U})
      for (const bool is_new : {true, false}) {
        SCOPED_TRACE(std::to_string(length) + (is_new ? " new" : " old"));
        const std::string bytes = pattern(length);
        const auto open = [&] {
          if (!is_new) write_in_pages(path_, size);
          open_options options = is_new ? creating(size) : read_write();
          options.writes = writes;
          return opened(options);
        };
        EXPECT_TRUE(stays_on_the_loop(size, open, [&](mapped_file& file) {
          run([&]() -> work {
            std::error_code ec;
            EXPECT_EQ(co_await append(file, bytes, size, ec), size);
            EXPECT_FALSE(ec) << ec.message();
          });
        }));
        std::string expected;
        while (expected.size() < size)
          expected += bytes;
        EXPECT_TRUE(same(read_file(path_), expected.substr(0, size)));
      }
}

TEST_F(mapped_file_update, that_follow_one_another_may_be_under_way_at_the_same_time) {
  constexpr std::uint64_t size = 4 * mebibyte;
  if (!tells_what_stores_cost(io_, path_)) GTEST_SKIP() << "nothing tells what a store costs";
  for (const mapio::write_path writes : {mapio::write_path::automatic, mapio::write_path::mapped})
    for (const int appenders : {8, 64})
      for (const std::size_t length : {64U, 1000U, 5000U}) {
        SCOPED_TRACE(std::to_string(appenders) + " of " + std::to_string(length));
        const auto open = [&] {
          open_options options = creating(size);
          options.writes = writes;
          return opened(options);
        };
        EXPECT_TRUE(stays_on_the_loop(size, open, [&](mapped_file& file) {
          std::uint64_t tail = 0;
          const auto appender = [&](char name) -> work {
            const std::string bytes(length, name);
            while (tail + length <= size)
              co_await file.update_region(std::exchange(tail, tail + length), asio::buffer(bytes));
          };
          int ended = 0;
          for (int i = 0; i < appenders; ++i)
            asio::co_spawn(io_, appender(static_cast<char>('0' + i)),
                           [&](const std::exception_ptr& failure) {
                             EXPECT_EQ(failure, nullptr);
                             ++ended;
                           });
          ASSERT_TRUE(support::run_until(io_, [&] { return ended == appenders; }));
          const std::string text = read_file(path_);
          for (std::uint64_t at = 0; at + length <= tail; at += length)
            EXPECT_TRUE(text[at] >= '0' && text.find_first_not_of(text[at], at) >= at + length)
                << at;
        }));
      }
}

/// Records that are appended at the same time: most wait for one that is off the loop.
class appended_records {
 public:
  static constexpr std::size_t count = 64;
  static constexpr std::size_t length = 100;

  void append(mapped_file& file, std::size_t i) {
    bytes_[i] = pattern(length, i);
    file.update_region(i * length, asio::buffer(bytes_[i]),
                       asio::bind_cancellation_slot(signals[i].slot(), outcomes[i].handler()));
  }
  void append_all(mapped_file& file) {
    for (std::size_t i = 0; i < count; ++i)
      append(file, i);
  }
  bool are_over() const {
    return std::all_of(outcomes.begin(), outcomes.end(),
                       [](const outcome& o) { return o.calls != 0; });
  }
  /// Those that say so are in the file, and the others are not.
  void expect_in(const fs::path& path) const {
    const std::string text = read_file(path);
    for (std::size_t i = 0; i < count; ++i) {
      EXPECT_EQ(outcomes[i].calls, 1) << i;
      const bool is_written = !outcomes[i].error;
      EXPECT_TRUE(is_written || outcomes[i].error == support::aborted) << i;
      EXPECT_EQ(outcomes[i].bytes, is_written ? length : 0) << i;
      EXPECT_EQ(text.substr(i * length, length), is_written ? bytes_[i] : std::string(length, '\0'))
          << i;
    }
  }

  std::array<asio::cancellation_signal, count> signals;
  std::array<outcome, count> outcomes;

 private:
  std::array<std::string, count> bytes_;
};

TEST_F(mapped_file_update, that_follow_one_another_are_each_cancelled_alone) {
  for (const std::size_t first : {0U, 1U, 2U, 3U}) {
    mapped_file file = created(mebibyte);
    appended_records records;
    records.append_all(file);
    for (std::size_t i = first; i < records.count; i += 2 + first)
      records.signals[i].emit(asio::cancellation_type::terminal);
    ASSERT_TRUE(support::run_until(io_, [&] { return records.are_over(); }));
    for (std::size_t i = 0; i < records.count; ++i) {
      const bool was_cancelled = i >= first && (i - first) % (2 + first) == 0;
      EXPECT_TRUE(was_cancelled || records.outcomes[i].ok()) << i;
    }
    records.expect_in(path_);
    run([&]() -> work { co_await file.close(); });
    fs::remove(path_);
  }
}

TEST_F(mapped_file_update, that_follow_one_another_end_with_the_file) {
  mapped_file file = created(mebibyte);
  appended_records records;
  records.append_all(file);
  outcome closed;
  file.close(closed.handler());
  finish(closed);
  EXPECT_TRUE(closed.ok());
  ASSERT_TRUE(support::run_until(io_, [&] { return records.are_over(); }));
  records.expect_in(path_);
  EXPECT_TRUE(support::run_until(io_, [&] { return !support::is_mapped(path_); }));
}

TEST_F(mapped_file_update, that_follow_one_another_end_with_their_context_alone) {
  for (const std::size_t of_the_other : {0U, 1U, 2U, 3U}) {
    mapped_file file = created(mebibyte);
    appended_records records;
    {
      asio::io_context other_io;
      mapped_file other(other_io.get_executor(), file.map());
      for (std::size_t i = 0; i < records.count; ++i)
        records.append(i % 4 == of_the_other ? other : file, i);
    }
    const auto is_here = [&](std::size_t i) { return i % 4 != of_the_other; };
    ASSERT_TRUE(support::run_until(io_, [&] {
      std::size_t over = 0;
      for (std::size_t i = 0; i < records.count; ++i)
        over += is_here(i) && records.outcomes[i].calls != 0 ? 1 : 0;
      return over == records.count * 3 / 4;
    }));
    for (std::size_t i = 0; i < records.count; ++i) {
      EXPECT_EQ(records.outcomes[i].calls, is_here(i) ? 1 : 0) << i;
      EXPECT_TRUE(!is_here(i) || records.outcomes[i].ok()) << i;
    }
    run([&]() -> work { co_await file.close(); });
    EXPECT_FALSE(support::is_mapped(path_));
    fs::remove(path_);
  }
}

TEST_F(mapped_file_update, that_follow_one_another_make_at_most_as_many_pages_dirty_again) {
  constexpr std::uint64_t length = 1000;
  mapped_file file = created(mebibyte);
  const std::string bytes = pattern(length);
  run([&]() -> work {
    for (std::uint64_t at = 0; at + length <= mebibyte / 2; at += length) {
      co_await file.update_region(at, asio::buffer(bytes));
      const std::uint64_t written = (at + length + page() - 1) / page();
      EXPECT_LE(support::unwritten_pages(path_), 2 * written + 1) << at;
      if (at / length % 37 != 0) continue;
      // Behind a sync it begins again with nothing.
      co_await file.flush();
      const auto before = file.stats().file_writes;
      co_await file.update_region(at + length, asio::buffer(bytes));
      EXPECT_EQ(file.stats().file_writes, before + 1) << at;
      co_await file.flush();
    }
  });
}

TEST_F(mapped_file_update, that_follow_one_another_may_have_others_between_them) {
  constexpr std::uint64_t size = mebibyte;
  const std::string bytes = pattern(100);
  if (!tells_what_stores_cost(io_, path_)) GTEST_SKIP() << "nothing tells what a store costs";
  EXPECT_TRUE(stays_on_the_loop(
      2 * size, [&] { return created(3 * size); },
      [&](mapped_file& file) {
        run([&]() -> work {
          for (std::uint64_t at = 0; at + 104 <= size; at += 104) {
            co_await file.update_region(size + at, asio::buffer(bytes));  // padded
            co_await file.update_region(2 * size + at, asio::buffer(bytes));
            co_await file.update_region(0, asio::buffer(&at, sizeof at));
          }
        });
      }));
}

TEST_F(mapped_file_update, that_follow_one_another_begin_anew_where_the_kernel_has_written) {
  mapped_file file = created(mebibyte);
  const std::string bytes = pattern(page());
  const support::unique_fd other = support::open_fd(path_, O_RDWR);
  run([&]() -> work {
    std::error_code ec;
    std::uint64_t at = co_await append(file, bytes, 64 * page(), ec);
    if (!support::tells_dirty_pages(path_)) co_return;
    for (int i = 0; i < 6; ++i) {
      EXPECT_EQ(::fsync(other.get()), 0);
      // What the kernel has told of a page counts for a while.
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      const auto before = file.stats();
      at += co_await file.update_region(at, asio::buffer(bytes));
      EXPECT_EQ(file.stats().file_writes, before.file_writes + 1) << i;
    }
  });
}

TEST_F(mapped_file_update,
       that_follow_one_another_make_nothing_ready_where_a_large_folio_may_begin) {
  const std::uint64_t border = 512 * page();
  mapped_file file = created(2 * border);
  const std::string bytes = pattern(page() / 2);
  run([&]() -> work {
    for (std::uint64_t at = border - 64 * page(); at < border; at += bytes.size())
      co_await file.update_region(at, asio::buffer(bytes));
    if (file.stats().medium != mapio::medium::local || !support::tells_dirty_pages(path_))
      co_return;
    const auto before = file.stats().file_writes;
    co_await file.update_region(border, asio::buffer(bytes));
    EXPECT_EQ(file.stats().file_writes, before + 1);
  });
}

TEST_F(mapped_file_update, that_follow_one_another_vanish_when_they_are_cancelled_in_the_queue) {
  constexpr std::uint64_t size = mebibyte;
  const std::string bytes = pattern(page());
  mapped_file file = created(size);
  if (mapio::backend_of(io_).kind != mapio::backend_kind::io_uring)
    GTEST_SKIP() << "a thread of the pool may have begun already";
  int cancelled = 0;
  for (std::uint64_t at = 0; at + bytes.size() <= size; at += bytes.size()) {
    const auto before = file.stats().stores;
    outcome o;
    asio::cancellation_signal signal;
    file.update_region(at, asio::buffer(bytes),
                       asio::bind_cancellation_slot(signal.slot(), o.handler()));
    if (file.stats().stores != before) {
      finish(o);
      continue;
    }
    signal.emit(asio::cancellation_type::terminal);
    finish(o);
    ++cancelled;
    EXPECT_EQ(o.error, support::aborted) << at;
    EXPECT_EQ(o.bytes, 0U);
    EXPECT_EQ(file.map().view(at, 1).text(), std::string(1, '\0')) << at;
    run([&]() -> work { co_await file.update_region(at, asio::buffer(bytes)); });
  }
  EXPECT_GT(cancelled, 1);
}

TEST_F(mapped_file_update, that_follow_one_another_on_a_full_disk_say_that_it_is_full) {
  constexpr std::size_t disk = mebibyte;
  const fs::path where = dir_ / "disk";
  fs::create_directory(where);
  const bool is_mounted = faults::on_small_disk(where, disk, [&] {
    asio::io_context io;
    mapped_file file(io);
    open_options options = creating(2 * disk);
    options.preallocate = false;
    const std::string bytes = pattern(page());
    support::run_coroutine(io, [&]() -> work {
      co_await file.open(where / "file", options);
      std::error_code ec;
      const std::uint64_t written = co_await append(file, bytes, 2 * disk, ec);
      EXPECT_EQ(ec, std::errc::no_space_on_device) << ec.message();
      EXPECT_GT(written, disk / 2);
      EXPECT_LE(written, disk);
      for (std::uint64_t at = 0; at < written; at += page())
        EXPECT_TRUE(same(file.map().view(at, page()).text(), bytes)) << at;
      ec = {};
      co_await file.update_region(written, asio::buffer(bytes), support::into(ec));
      EXPECT_EQ(ec, std::errc::no_space_on_device) << ec.message();
    });
  });
  if (!is_mounted) GTEST_SKIP() << "mounting is not allowed here";
}

TEST_F(mapped_file_update, that_is_off_the_loop_when_a_cut_begins_happens_before_it) {
  for (const mapio::write_path writes :
       {mapio::write_path::automatic, mapio::write_path::mapped, mapio::write_path::file}) {
    write_file(path_, pattern(8 * page()));
    open_options options = read_write();
    options.writes = writes;
    mapped_file file = opened(options);
    std::vector<outcome> before(6);
    for (std::uint64_t i = 0; i < before.size(); ++i)
      file.update_region(2 * page() + 10 * i, asio::buffer("0123456789", 10), before[i].handler());
    outcome cut;
    file.resize(2 * page(), cut.handler());
    outcome behind_it;
    file.update_region(2 * page(), asio::buffer("y", 1), behind_it.handler());
    outcome flush_behind_it;
    file.flush_range(2 * page(), 1, flush_behind_it.handler());
    outcome inside;
    file.update_region(page() + 1, asio::buffer("z", 1), inside.handler());
    for (const outcome& o : before)
      EXPECT_EQ(o.calls, 0);
    finish(cut);
    EXPECT_TRUE(cut.ok()) << cut.error.message();
    for (const outcome& o : before) {
      finish(o);
      EXPECT_TRUE(o.ok()) << o.error.message();
      EXPECT_EQ(o.bytes, 10U);
    }
    finish(behind_it);
    EXPECT_EQ(behind_it.error, errc::out_of_range);
    finish(flush_behind_it);
    EXPECT_EQ(flush_behind_it.error, errc::out_of_range);
    finish(inside);
    EXPECT_TRUE(inside.ok()) << inside.error.message();
    std::string expected = pattern(8 * page()).substr(0, 2 * page());
    expected[page() + 1] = 'z';
    EXPECT_TRUE(same(read_file(path_), expected));
  }
}

/// Counts the pages of a part of a mapping of the whole file that are in memory.
std::ptrdiff_t resident_pages(const support::foreign_mapping& all, std::size_t length) {
  std::vector<unsigned char> pages(length / page());
  EXPECT_EQ(::mincore(all.data(), length, pages.data()), 0);
  return std::count_if(pages.begin(), pages.end(), [](unsigned char p) { return (p & 1) != 0; });
}

TEST_F(mapped_file_prefetch, stops_early_when_it_is_cancelled) {
  constexpr std::uint64_t size = 256 * mebibyte;
  constexpr int attempts = 10;  // It may be over before this thread has a processor.
  bool stopped = false;
  for (int i = 0; i < attempts && !stopped; ++i) {
    fs::remove(path_);
    write_file(path_, "");
    fs::resize_file(path_, size);
    const support::foreign_mapping all(path_, size, support::foreign_mapping::access::read);
    mapped_file file = opened(read_only());
    outcome prefetch;
    asio::cancellation_signal signal;
    file.prefetch(asio::bind_cancellation_slot(signal.slot(), prefetch.handler()));
    // Without a pause, in which it would go on.
    while (prefetch.calls == 0 && resident_pages(all, page()) == 0)
      settle();
    signal.emit(asio::cancellation_type::terminal);
    finish(prefetch);
    stopped = prefetch.error == support::aborted &&
              resident_pages(all, size) < static_cast<std::ptrdiff_t>(size / page());
  }
  EXPECT_TRUE(stopped);
}

TEST_F(mapped_file_update, that_follow_one_another_wait_for_no_other_context) {
  mapped_file file = created(mebibyte);
  asio::io_context other_io;
  mapped_file other(other_io.get_executor(), file.map());
  appended_records records;
  for (std::size_t i = 0; i < records.count; ++i)
    records.append(i < 3 ? other : file, i);
  ASSERT_TRUE(support::run_until(io_, [&] {
    return std::all_of(records.outcomes.begin() + 3, records.outcomes.end(),
                       [](const outcome& o) { return o.calls != 0; });
  }));
  ASSERT_TRUE(support::run_until(other_io, [&] { return records.are_over(); }));
  records.expect_in(path_);
}

TEST_F(mapped_file_update, that_follow_one_another_are_all_durable_where_the_policy_says_so) {
  open_options options = creating(mebibyte);
  options.policy = mapio::flush_policy::always();
  mapped_file file = opened(options);
  appended_records records;
  records.append_all(file);
  ASSERT_TRUE(support::run_until(io_, [&] { return records.are_over(); }));
  EXPECT_EQ(file.pending_bytes(), 0U);
  records.expect_in(path_);
}

TEST_F(mapped_file_update, that_follow_one_another_are_all_counted_by_the_policy) {
  open_options options = creating(mebibyte);
  options.policy = mapio::flush_policy::every_writes(appended_records::count);
  mapped_file file = opened(options);
  appended_records records;
  records.append_all(file);
  ASSERT_TRUE(support::run_until(io_, [&] { return records.are_over(); }));
  EXPECT_TRUE(support::run_until(io_, [&] { return file.pending_bytes() == 0; }));
}

// mincore says of a file that one could not write to that all of it is in memory.
TEST_F(mapped_file_read, of_a_cold_file_of_somebody_else_goes_off_the_loop) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  write_file(path_, pattern(256 * page()));
  fs::permissions(dir_.path(), fs::perms(0755));
  fs::permissions(path_, fs::perms(0644));
  if (!support::tells_cached_pages(path_)) GTEST_SKIP() << "nothing tells what is in memory";
  const auto reads_as_somebody_else = [&] {
    support::become_nobody();
    asio::io_context io;
    mapped_file file(io);
    support::run_coroutine(io, [&]() -> work {
      co_await file.open(path_, read_only());
      std::string read(100, '.');
      co_await file.read_into(200 * page(), asio::buffer(read));
      EXPECT_EQ(read, pattern(256 * page()).substr(200 * page(), 100));
      EXPECT_EQ(file.stats().reads_off_loop, 1U);
      // The kernel may say once in a while that it would have to wait.
      for (int i = 0; i < 100 && file.stats().reads_at_once == 0; ++i)
        co_await file.read_into(200 * page(), asio::buffer(read));
      EXPECT_EQ(file.stats().reads_at_once, 1U);
      const auto before = file.stats().reads_off_loop;
      const mapio::region view = co_await file.view(100 * page(), page());
      EXPECT_EQ(file.stats().reads_off_loop, before + 1);
    });
  };
  // A quick disk may answer before the kernel says that it would have to wait.
  constexpr int attempts = 10;
  bool once = false;
  for (int i = 0; i < attempts && !once; ++i) {
    if (!support::evict(path_)) GTEST_SKIP() << "this file system does not let go of its pages";
    once = support::in_child(reads_as_somebody_else).ok();
  }
  EXPECT_TRUE(once);
}

}  // namespace
