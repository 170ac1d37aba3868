// What of parity_test.cpp is about Linux.

#include <mapio/mapio.hpp>

#include "faults/counted_syncs.hpp"
#include "faults/failing_syncs.hpp"
#include "faults/private_mount.hpp"
#include "faults/syscall_gate.hpp"
#include "linux/linux_support.hpp"
#include "mapped_file_fixture.hpp"
#include "parity_fixture.hpp"
#include "smaps.hpp"

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/local/connect_pair.hpp>
#include <asio/local/stream_protocol.hpp>
#include <asio/read.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

using mapio::access;
using mapio::advice;
using mapio::disposition;
using mapio::durability;
using mapio::errc;
using mapio::flush_policy;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;
using support::code_of;
using support::copy_on_write;
using support::creating;
using support::into;
using support::largest;
using support::mebibyte;
using support::outcome;
using support::page;
using support::parity;
using support::pattern;
using support::read_all;
using support::read_file;
using support::read_write;
using support::same;
using support::write_file;

#define MAPIO_SKIP_UNLESS(seen)                                                                    \
  if (!(seen)) GTEST_SKIP() << "the kernel does not let us see system calls, or mount"

// create_rw(path, size), builder(path).size(n).create(), create_mmap
//
// The full disk in every form: mapping_test, mapping_disk_full. The name after a power loss:
// tests/crash.
TEST_F(parity, create_rw) {
  const auto seen = faults::syncs_of_file_and_folder(dir_.path(), [&] {
    mapping m = mapping::create(path_, mebibyte);
    EXPECT_EQ(read_all(m), std::string(mebibyte, '\0'));
    EXPECT_GE(support::allocated_bytes(path_), mebibyte) << "a hole";
    m.flush_range(0, 1);
  });
  MAPIO_SKIP_UNLESS(seen);
  EXPECT_EQ(seen->second, 1) << "its name is not durable";
  MAPIO_SKIP_UNLESS(faults::on_small_disk(dir_.path(), mebibyte, [&] {
    EXPECT_EQ(code_of([&] { mapping::create(path_, 2 * mebibyte); }),
              std::errc::no_space_on_device);
  }));
}

// open_or_create(path, default_size), builder().open_or_create()
//
// Between threads and processes: mapping_test, mapping_create.or_open_by_many_*.
TEST_F(parity, open_or_create) {
  // The file appears when whoever looked for it has found none, and is about to make it.
  bool has_appeared = false;
  faults::syscall_gate gate({SYS_openat}, [&](const faults::syscall_gate::call& c) {
    const bool makes = (c.arguments[2] & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) != 0;
    if (makes && !std::exchange(has_appeared, true)) write_file(path_, "of somebody else");
    return faults::syscall_gate::pass;
  });
  MAPIO_SKIP_UNLESS(gate.run([&] {
    const mapping m(path_, creating(page(), disposition::open_or_create));
    EXPECT_EQ(read_all(m), "of somebody else");
  }));
  EXPECT_TRUE(has_appeared);
}

// builder(path).mode(m).size(n).flush_policy(p).touch_hint(t).huge_pages(b).create() or .open()
TEST_F(parity, builder) {
  open_options options = creating(64 * page(), disposition::open_or_create);
  options.policy = flush_policy::every_writes(2);
  options.touch = mapio::prefault::eager;
  options.huge_pages = true;
  options.preallocate = false;
  for (const char* how : {"created", "opened"}) {
    run([&]() -> work {
      mapped_file file(io_);
      co_await file.open(path_, options);
      EXPECT_EQ(file.mode(), access::read_write) << how;
      EXPECT_EQ(file.size(), 64 * page()) << how;
      EXPECT_EQ(file.map().policy(), options.policy) << how;
      EXPECT_TRUE(file.map().is_resident(0, file.size())) << how;
      EXPECT_EQ(support::bytes_with(path_, "hg"), file.capacity()) << how;
      co_await file.flush();
      co_await file.close();
    });
    support::evict(path_);
  }
}

// what flush() of mmap-io is on Linux: msync(MS_ASYNC), which does nothing
TEST_F(parity, ms_async) {
  faults::syscall_gate gate({SYS_sync_file_range, SYS_fsync, SYS_fdatasync, SYS_msync},
                            [](const auto&) { return faults::syscall_gate::pass; });
  MAPIO_SKIP_UNLESS(gate.run([&] {
    mapping m = clean(pattern(4 * page()));
    m.update_region(0, asio::buffer("x", 1));
    const std::size_t before = gate.count();
    m.flush(durability::started);
    ASSERT_EQ(gate.count(), before + 1);
    EXPECT_EQ(gate.seen().back().number, SYS_sync_file_range) << "nothing is written back";
    EXPECT_EQ(m.pending_bytes(), page()) << "it is not durable";
  }));
  run([&]() -> work {
    mapped_file file(io_);
    co_await file.open(path_, read_write());
    co_await file.flush();
    co_await file.update_region(0, asio::buffer("y", 1));
    const std::uint64_t syncs = file.stats().syncs;
    co_await file.flush_range(0, 1, durability::started);
    EXPECT_EQ(file.stats().syncs, syncs);
    EXPECT_EQ(file.pending_bytes(), page());
  });
}

// FlushPolicy::{Never, Manual, Always, EveryBytes, EveryWrites, EveryMillis}
//
// Awaited, and failing in each of them: flush_policy_test.
TEST_F(parity, flush_policies) {
  const auto store = [](mapping& m, std::size_t bytes) {
    m.update_region(0, asio::buffer(pattern(bytes)));
    return m.pending_bytes();
  };
  const auto with = [&](const flush_policy& policy) {
    open_options options = read_write();
    options.policy = policy;
    return clean(pattern(page()), options);
  };
  mapping manual = with(flush_policy::manual());
  EXPECT_NE(store(manual, 100), 0U);
  mapping always = with(flush_policy::always());
  EXPECT_EQ(store(always, 1), 0U);
  mapping bytes = with(flush_policy::every_bytes(100));
  EXPECT_NE(store(bytes, 99), 0U);
  EXPECT_EQ(store(bytes, 1), 0U);
  mapping writes = with(flush_policy::every_writes(2));
  EXPECT_NE(store(writes, 100), 0U);
  EXPECT_EQ(store(writes, 1), 0U);
  mapping timed = with(flush_policy::every(std::chrono::milliseconds(1)));
  store(timed, 1);
  EXPECT_TRUE(support::eventually([&] { return timed.pending_bytes() == 0; }));

  faults::failing_syncs syncs;
  MAPIO_SKIP_UNLESS(syncs.run([&] {
    mapping m = with(flush_policy::every_writes(1));
    syncs.fail_next(1);
    EXPECT_NE(code_of([&] {
                store(m, 1);
                store(m, 1);
              }),
              std::error_code())
        << "the failure is swallowed";
    EXPECT_EQ(m.flush_error(), std::errc::io_error);
  }));
}

// touch_pages(), touch_pages_range, prefetch_range, TouchHint
//
// That the loop does not wait: loop_test, slow_file_test. TouchHint::Eager: prefault_test.
TEST_F(parity, touch_pages) {
  write_file(path_, pattern(64 * mebibyte));
  bool hold_next = true;
  faults::syscall_gate gate(
      {SYS_madvise},
      [&](const faults::syscall_gate::call& c) {
        const bool holds = c.arguments[2] == MADV_POPULATE_READ && std::exchange(hold_next, false);
        return holds ? faults::syscall_gate::hold : faults::syscall_gate::pass;
      },
      faults::advice_that_populates_nothing());
  outcome cancelled;
  const bool cold = support::evict(path_);
  MAPIO_SKIP_UNLESS(gate.run([&] {
    asio::io_context io;
    mapped_file file(io.get_executor(), mapping(path_));
    file.prefetch(cancelled.handler());
    if (mapio::backend_of(io).kind == mapio::backend_kind::thread_pool) gate.wait_until_held();
    file.cancel();
    gate.release();
    EXPECT_TRUE(support::run_to_end(io));
  }));
  EXPECT_TRUE(!cold || cancelled.error == asio::error::operation_aborted)
      << cancelled.error.message();

  run([&]() -> work {
    mapped_file file(io_);
    co_await file.open(path_);
    co_await file.prefetch(5, 32 * page());
    EXPECT_TRUE(file.map().is_resident(5, 32 * page()));
    co_await file.prefetch();
    EXPECT_TRUE(file.map().is_resident(0, file.size()));
    std::error_code error;
    co_await file.prefetch(file.size(), 1, into(error));
    EXPECT_EQ(error, errc::out_of_range);
    support::truncate_file(path_, page());
    co_await file.prefetch(into(error));  // where mmap-io gets a SIGBUS
    EXPECT_EQ(error, errc::page_fault);
    EXPECT_EQ(code_of([&] { file.map().prefetch(); }), errc::page_fault);
  });

  write_file(path_, pattern(64 * mebibyte));
  support::evict(path_);
  mapping blocking(path_);
  blocking.prefetch();
  EXPECT_TRUE(blocking.is_resident(0, blocking.size()));
}

// advise(offset, len, MmapAdvice::{Normal, Random, Sequential, WillNeed, DontNeed})
//
// What each does, and that it follows a mapping that moves: advice_test.
TEST_F(parity, advise) {
  const std::string bytes = pattern(16 * page());
  mapping m = clean(bytes);
  m.advise(3 * page() + 1, 10, advice::random);  // mmap-io wants it aligned
  EXPECT_EQ(support::bytes_with(path_, "rr"), page());
  m.advise(0, m.size(), advice::sequential);
  EXPECT_EQ(support::bytes_with(path_, "sr"), m.size());
  EXPECT_EQ(support::bytes_with(path_, "rr"), 0U);
  m.advise(0, m.size(), advice::normal);
  EXPECT_EQ(support::bytes_with(path_, "sr"), 0U);
  m.advise(0, m.size(), advice::will_need);
  m.advise(0, m.size(), advice::cold);
  m.update_region(0, asio::buffer(bytes.substr(1, 1)));
  m.advise(0, m.size(), advice::dont_need);
  EXPECT_EQ(m.view(0, 1).text(), bytes.substr(1, 1));
  m.advise(0, m.size(), advice::huge_pages);
  EXPECT_GE(support::bytes_with(path_, "hg"), m.size());
}

// atomic_u32, atomic_u64, atomic_u32_slice, atomic_u64_slice
//
// Everything else: atomic_test, and atomic_cell_test (a thousand who wait, killed notifiers).
TEST_F(parity, atomics) {
  mapping m = mapping::create(path_, page());
  EXPECT_EQ(m.atomic<std::uint64_t>(8).fetch_add(5), 0U);
  EXPECT_EQ(m.atomics<std::uint32_t>(8, 2)[0].load() + m.atomics<std::uint32_t>(8, 2)[1].load(),
            5U);
  EXPECT_EQ(code_of([&] { m.atomic<std::uint64_t>(12); }), errc::misaligned);
  EXPECT_EQ(code_of([&] { m.atomics<std::uint32_t>(page() - 4, 2); }), errc::out_of_range);
  mapping reading(path_);
  EXPECT_EQ(reading.atomic<std::uint64_t>(8).load(), 5U);
  EXPECT_EQ(code_of([&] { reading.atomic<std::uint64_t>(8).store(1); }), errc::read_only);

  const pid_t child = support::start_child([&] {
    const mapio::atomic_view<std::uint32_t> turn =
        mapping(path_, read_write()).atomic<std::uint32_t>(0);
    turn.wait(0);
    turn.store(2);
    turn.notify_all();
  });
  run([&]() -> work {
    mapped_file file(io_.get_executor(), m);
    const auto turn = file.atomic<std::uint32_t>(0);
    turn.store(1);
    turn.notify_all();
    co_await turn.wait(1);
    EXPECT_EQ(turn.load(), 2U);
  });
  EXPECT_TRUE(support::wait_for_child(child).ok());
}

// copy_mmap, delete_mmap, copy_mmap_async, delete_mmap_async, create_mmap_async, write_mmap
//
// A reflink, and a cancellation that says how far it came: file_operations_test.
TEST_F(parity, copy_and_delete) {
  const std::string bytes = pattern(3 * mebibyte + 1);
  const auto to = dir_ / "copy";
  write_file(path_, bytes);
  write_file(to, "old");
  bool by_kernel = false;
  faults::syscall_gate gate(
      {SYS_ioctl, SYS_copy_file_range, SYS_read, SYS_pread64},
      [&](const faults::syscall_gate::call& c) {
        if (c.number == SYS_copy_file_range) by_kernel = true;
        const bool clones = c.number == SYS_ioctl && c.arguments[1] == FICLONE;
        return clones ? faults::syscall_gate::fail(EOPNOTSUPP) : faults::syscall_gate::pass;
      });
  std::atomic<std::uint64_t> progress{0};
  outcome copied;
  const bool is_seen = gate.run([&] {
    asio::io_context io;
    mapio::copy_file(io, path_, to, {.progress = &progress}, copied.handler());
    EXPECT_TRUE(support::run_to_end(io));
  });
  MAPIO_SKIP_UNLESS(is_seen);
  EXPECT_TRUE(by_kernel) << "the bytes went through this process";
  EXPECT_TRUE(copied.ok());
  EXPECT_EQ(copied.bytes, bytes.size());
  EXPECT_EQ(progress, bytes.size());
  EXPECT_TRUE(same(read_file(to), bytes));
  run([&]() -> work {
    co_await mapio::remove_file(io_, to);
    EXPECT_FALSE(std::filesystem::exists(to));
  });
}

// builder().huge_pages(true), is_hugepage_backed()
//
// That they are obtained where there are some: advice_test, huge_pages_test.
TEST_F(parity, huge_pages) {
  open_options options = creating(4 * mebibyte);
  options.huge_pages = true;
  options.preallocate = false;
  mapping m(path_, options);
  EXPECT_EQ(support::bytes_with(path_, "hg"), m.capacity()) << "also of what it grows to";
  m.mutable_chunks(page()).begin().operator*().data()[0] = std::byte{1};
  std::uint64_t obtained = 0;
  support::each_detail(path_, [&](const std::string& detail, std::uint64_t) {
    if (detail.starts_with("FilePmdMapped:") || detail.starts_with("ShmemPmdMapped:"))
      obtained += 1024 * std::stoull(detail.substr(detail.find(':') + 1));
  });
  EXPECT_EQ(m.stats().huge_page_bytes, obtained);
}

// MmapIoError::{Io, OutOfBounds, InvalidMode, FlushFailed, ResizeFailed, AdviceFailed, LockFailed,
// UnlockFailed, Misaligned, WatchFailed}
//
// The conditions: error_test. LockFailed: mapping_test, mapping_lock.beyond_the_limit_*.
TEST_F(parity, errors) {
  const std::error_code missing = code_of([&] { mapping(dir_ / "missing"); });
  EXPECT_EQ(missing, std::error_code(ENOENT, std::system_category())) << "its number is lost";
  mapping m = clean(pattern(page()));
  EXPECT_EQ(code_of([&] { m.view(1, largest); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { m.view(1, largest); }), std::errc::invalid_argument);
  EXPECT_EQ(code_of([&] { mapping(path_).mutable_view(0, 1); }), errc::read_only);
  EXPECT_EQ(code_of([&] { mapping(path_).resize(1); }), std::errc::permission_denied);
  EXPECT_EQ(code_of([&] { mapping(path_, copy_on_write()).resize(1); }), errc::unsupported);
  EXPECT_EQ(code_of([&] { m.atomic<std::uint32_t>(1); }), errc::misaligned);
  EXPECT_EQ(code_of([&] { m.advise(0, 1, static_cast<advice>(99)); }), std::errc::invalid_argument);
  EXPECT_EQ(code_of([&] { mapping().flush(); }), errc::not_open);
  EXPECT_EQ(code_of([&] { mapio::watcher(io_).add(dir_ / "missing"); }),
            std::errc::no_such_file_or_directory);
  faults::failing_syncs syncs;
  MAPIO_SKIP_UNLESS(syncs.run([&] {
    m.update_region(0, asio::buffer("x", 1));
    syncs.fail_next(1);
    EXPECT_EQ(code_of([&] { m.flush(); }), std::error_code(EIO, std::system_category()));
    EXPECT_EQ(code_of([&] { m.flush(); }), errc::flush_failed);
    EXPECT_EQ(code_of([&] { m.flush(); }), std::errc::io_error);
  }));
}

}  // namespace
