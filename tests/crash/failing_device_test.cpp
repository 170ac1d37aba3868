// A disk that answers writes or flushes with EIO, once or from now on: whoever waits for a flush
// hears of it, nobody is told later that all is well, and other disks do not care.

#include "crash_states.hpp"
#include "file_systems.hpp"
#include "logged_device.hpp"
#include "test_disk.hpp"

#include <mapio/mapio.hpp>

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/use_awaitable.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iostream>
#include <mutex>
#include <ostream>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

// Holds threads that come back from msync, to see what happens between the kernel's verdict and
// its delivery.
struct msync_gate {
  std::atomic<bool> closed{false};
  std::atomic<int> waiting{0};
};
msync_gate gate;

}  // namespace

// Takes the place of the C library's; under another name here, which that has declared.
extern "C" int gated_msync(void* address, std::size_t length, int flags) __asm__("msync");
extern "C" int gated_msync(void* address, std::size_t length, int flags) {
  const long result = ::syscall(SYS_msync, address, length, flags);
  const int error = errno;
  if (gate.closed) {
    ++gate.waiting;
    support::eventually([] { return !gate.closed; });
    --gate.waiting;
  }
  errno = error;
  return static_cast<int>(result);
}

namespace {

using namespace crash;
using asio::use_awaitable;

constexpr std::size_t page = 4096;
constexpr std::size_t pages = 64;
constexpr const char* file_name = "data";

enum class broken { writes, flushes };
enum class lanes { range, whole, both };

std::ostream& operator<<(std::ostream& out, broken what) {
  return out << (what == broken::writes ? "writes" : "flushes");
}

// Each version of a page is another byte, all over the page.
std::string page_of(std::size_t number, unsigned version) {
  return std::string(page, static_cast<char>('A' + (number + version * std::size_t{7}) % 26));
}

struct verdict {
  std::size_t page_number = 0;  // pages for a flush of all
  std::error_code error;
};

// A file on a disk that is about to fail: all its pages durable in version 0.
class patient {
 public:
  patient(fs_type type, mapio::backend_kind engine) : disk_(type), type_(type) {
    mapio::use_backend(io_, engine);
    run([this]() -> asio::awaitable<void> {
      mapio::mapped_file f(io_);
      co_await f.open(disk_.folder() / file_name, support::creating(pages * page), use_awaitable);
      file_.emplace(std::move(f));
      for (std::size_t p = 0; p < pages; ++p)
        co_await file_->update_region(p * page, asio::buffer(page_of(p, 0)), use_awaitable);
      co_await file_->flush(use_awaitable);
    });
  }

  const logged_device& device() const noexcept { return disk_.device(); }
  asio::io_context& io() noexcept { return io_; }
  mapio::mapped_file& file() noexcept { return *file_; }
  mapio::mapping map() { return file_->map(); }

  template <class Body>
  void run(Body body) {
    support::run_coroutine(io_, std::move(body));
  }

  std::error_code update(std::size_t number, unsigned version) {
    const std::string bytes = page_of(number, version);
    std::error_code error;
    run([&]() -> asio::awaitable<void> {
      co_await file_->update_region(number * page, asio::buffer(bytes), support::into(error));
    });
    return error;
  }
  void update_all(unsigned version) {
    for (std::size_t p = 0; p < pages; ++p)
      ASSERT_FALSE(update(p, version)) << "page " << p;
  }
  std::error_code flush() {
    std::error_code error;
    run([&]() -> asio::awaitable<void> { co_await file_->flush(support::into(error)); });
    return error;
  }
  std::error_code flush_page(std::size_t number) {
    std::error_code error;
    run([&]() -> asio::awaitable<void> {
      co_await file_->flush_range(number * page, page, support::into(error));
    });
    return error;
  }

  // Many at a time, awaited ones and blocked threads: each waits for a page of its own or for all.
  std::vector<verdict> flush_at_once(lanes which) {
    constexpr std::size_t awaited = 96;
    constexpr std::size_t blocked = 6;
    std::vector<verdict> verdicts(awaited + blocked);
    for (std::size_t i = 0; i < verdicts.size(); ++i) {
      const bool whole = which == lanes::whole || (which == lanes::both && i % 4 == 3);
      verdicts[i].page_number = whole ? pages : i % pages;
    }
    std::vector<std::thread> threads;
    for (std::size_t i = awaited; i < verdicts.size(); ++i)
      threads.emplace_back([m = map(), &v = verdicts[i]]() mutable {
        if (v.page_number == pages)
          m.flush(v.error);
        else
          m.flush_range(v.page_number * page, page, v.error);
      });
    std::size_t done = 0;
    for (std::size_t i = 0; i < awaited; ++i) {
      const auto finish = [&v = verdicts[i], &done](std::error_code error) {
        v.error = error;
        ++done;
      };
      // Stored again, page 0 is no part of the sync under way: this one has to wait for the next.
      if (std::error_code ignored; which == lanes::whole)
        map().update_region(0, asio::buffer(page_of(0, 1)), ignored);
      if (verdicts[i].page_number == pages)
        file_->flush(finish);
      else
        file_->flush_range(verdicts[i].page_number * page, page, finish);
    }
    EXPECT_TRUE(support::run_until(io_, [&] { return done == awaited; }));
    for (std::thread& t : threads)
      t.join();
    return verdicts;
  }

  // Closes the file, and unmounts the disk as it is. Returns what it went through.
  recording finish() {
    if (file_->is_open())
      run([&]() -> asio::awaitable<void> { co_await file_->close(use_awaitable); });
    return disk_.finish();
  }

  // What the file holds if power goes at a mark.
  std::string after_power_loss(const recording& log, std::uint64_t mark,
                               const char* name = file_name) {
    state_builder builder(log);
    const memory_file state = builder.build_durable(log.after_mark(mark));
    const mounted m(state.fd(), type_, new_folder("after"), mounted::mode::read_only);
    return support::read_file(m.path() / disk::folder_name / name);
  }

 private:
  disk disk_;
  fs_type type_;
  asio::io_context io_;
  std::optional<mapio::mapped_file> file_;
};

bool holds(const std::string& bytes, std::size_t number, unsigned version) {
  return std::string_view(bytes).substr(number * page, page) == page_of(number, version);
}

struct failure {
  fs_type type;
  broken what;
  bool once;
  mapio::backend_kind engine;

  void begin(const logged_device& device) const {
    const std::int64_t count = once ? 1 : logged_device::forever;
    if (what == broken::writes)
      device.fail_writes(count);
    else
      device.fail_flushes(count);
  }

  friend std::ostream& operator<<(std::ostream& out, const failure& f) {
    return out << name_of(f.type) << "_" << f.what << (f.once ? "_once_" : "_forever_")
               << (f.engine == mapio::backend_kind::io_uring ? "io_uring" : "thread_pool");
  }
};

// Another disk that is well, and somebody who works on it all the time.
class bystander {
 public:
  explicit bystander(fs_type type) : patient_(type, mapio::backend_kind::automatic) {
    thread_ = std::thread([this] {
      while (!stop_) {
        const std::size_t number = flushes_ % pages;
        patient_.map().update_region(number * page, asio::buffer(page_of(number, 1)), error_);
        if (!error_) patient_.map().flush_range(number * page, page, error_);
        if (error_) return;
        ++flushes_;
      }
    });
  }
  ~bystander() {
    stop_ = true;
    thread_.join();
    EXPECT_FALSE(error_) << error_.message();
    EXPECT_FALSE(patient_.map().flush_error());
    static_cast<void>(patient_.finish());
  }

  bool goes_on() {
    const std::size_t before = flushes_;
    return support::eventually([&] { return flushes_ > before + 2; });
  }

 private:
  patient patient_;
  std::atomic<bool> stop_{false};
  std::atomic<std::size_t> flushes_{0};
  std::error_code error_;
  std::thread thread_;
};

void skip_unless_possible(fs_type type, mapio::backend_kind engine) {
  const std::string missing = why_impossible(type);
  if (!missing.empty()) GTEST_SKIP() << "needs root, FUSE and loop devices: " << missing;
  if (!is_available(engine)) GTEST_SKIP() << "io_uring is not available";
}

class failing_device : public testing::TestWithParam<failure> {
 protected:
  void SetUp() override { skip_unless_possible(GetParam().type, GetParam().engine); }
};

// One batch: only ranges, only whole flushes, and both.
class failing_batch : public failing_device {
 protected:
  void fail(lanes which);
};

void failing_batch::fail(lanes which) {
  const failure f = GetParam();
  bystander other(f.type);
  patient p(f.type, f.engine);
  p.update_all(1);
  f.begin(p.device());

  const auto verdicts = p.flush_at_once(which);
  p.device().mark(1);
  std::size_t told = 0;
  for (const verdict& v : verdicts)
    told += v.error ? 1U : 0U;
  // One failure may be about one of two syncs at a time, and the other be as good as it says.
  const bool all_must_hear = which != lanes::both || !f.once;
  if (all_must_hear) {
    EXPECT_EQ(told, verdicts.size());
  } else {
    EXPECT_GE(told, 1U);
  }

  // Poisoned: now, and when the disk is well again.
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE(p.map().flush_error());
    EXPECT_EQ(p.map().flush_error().category(), std::system_category());
    EXPECT_EQ(p.flush(), mapio::errc::flush_failed);
    EXPECT_EQ(p.flush_page(pages / 2), mapio::errc::flush_failed);
    std::error_code error;
    p.map().flush(error);
    EXPECT_EQ(error, mapio::errc::flush_failed);
    for (const verdict& v : p.flush_at_once(lanes::both))
      EXPECT_EQ(v.error, mapio::errc::flush_failed);
    if (round == 0) p.device().heal();
  }
  EXPECT_TRUE(other.goes_on());

  // Nothing is durable for being forgiven.
  p.map().clear_flush_error();
  EXPECT_FALSE(p.map().flush_error());
  EXPECT_EQ(p.flush(), mapio::errc::flush_failed);
  std::vector<std::error_code> forgiven;
  for (std::size_t n = 0; n < pages; ++n)
    forgiven.push_back(p.flush_page(n));
  p.device().mark(2);
  const auto refused =
      std::count(forgiven.begin(), forgiven.end(), make_error_code(mapio::errc::flush_failed));
  EXPECT_GE(refused, which == lanes::whole ? static_cast<std::ptrdiff_t>(pages) - 1 : 1);
  p.map().clear_flush_error();

  // Written again, it may be flushed again. A file system that gave up may refuse, but not lie.
  // The two syncs of a file each hear of a failure: the other may yet report this one.
  std::error_code last;
  for (int tries = 0; tries < 2; ++tries) {
    bool recovered = true;
    for (std::size_t n = 0; n < pages; ++n)
      recovered = !p.update(n, 2) && recovered;
    last = recovered ? p.flush() : mapio::errc::flush_failed;
    if (!last) break;
    p.map().clear_flush_error();
  }
  p.device().mark(3);
  if (f.once && f.what == broken::writes) {
    EXPECT_FALSE(last) << last.message();
  }

  const recording log = p.finish();
  const std::string then = p.after_power_loss(log, 1);
  for (const verdict& v : verdicts)
    for (std::size_t n = 0; n < pages; ++n)
      if (!v.error && (v.page_number == n || v.page_number == pages)) {
        EXPECT_TRUE(holds(then, n, 1)) << "page " << n << " was called durable";
      }
  const std::string later = p.after_power_loss(log, 2);
  for (std::size_t n = 0; n < pages; ++n)
    if (!forgiven[n]) {
      EXPECT_TRUE(holds(later, n, 1)) << "page " << n << " was called durable when forgiven";
    }
  const std::string now = p.after_power_loss(log, 3);
  for (std::size_t n = 0; n < pages && !last; ++n)
    EXPECT_TRUE(holds(now, n, 2)) << "page " << n << " was called durable after all";
}

TEST_P(failing_batch, of_ranges_fails_for_every_waiter) {
  fail(lanes::range);
}
TEST_P(failing_batch, of_the_whole_file_fails_for_every_waiter) {
  fail(lanes::whole);
}
TEST_P(failing_batch, of_both_kinds_calls_nothing_durable_that_is_not) {
  fail(lanes::both);
}

std::vector<failure> all_failures() {
  std::vector<failure> all;
  for (const fs_type type : {fs_type::ext4, fs_type::xfs})
    for (const broken what : {broken::writes, broken::flushes})
      for (const bool once : {true, false})
        for (const auto engine : {mapio::backend_kind::io_uring, mapio::backend_kind::thread_pool})
          all.push_back({type, what, once, engine});
  return all;
}

INSTANTIATE_TEST_SUITE_P(on, failing_batch, testing::ValuesIn(all_failures()),
                         testing::PrintToStringParamName());

// --- errors that the kernel tells only once
// -------------------------------------------------------------------------------

class failing_write : public testing::TestWithParam<fs_type> {
 protected:
  void SetUp() override { skip_unless_possible(GetParam(), mapio::backend_kind::thread_pool); }
};

// What the kernel does by itself, after a while or when memory is short. Through another open file,
// which takes only its own copy of the report.
void write_back_behind(patient& p, std::size_t number) {
  const auto fd = support::open_fd(p.file().path(), O_RDONLY);
  static_cast<void>(::sync_file_range(fd.get(), static_cast<off64_t>(number * page), page,
                                      SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER));
}

// The kernel reports a failed write once per open file. If a flush of a range took the report and
// is about to deliver it, a flush of the whole file that ends first must not say that all is well.
TEST_P(failing_write, seen_by_one_lane_fails_the_other) {
  patient p(GetParam(), mapio::backend_kind::thread_pool);
  ASSERT_FALSE(p.update(0, 1));
  ASSERT_FALSE(p.update(1, 1));

  // Page 1 fails on its way to the disk, and page 0 is on record as written.
  p.device().fail_writes(1);
  write_back_behind(p, 1);

  std::error_code of_range;
  gate.closed = true;
  std::thread range([&] { p.map().flush_range(0, page, of_range); });
  ASSERT_TRUE(support::eventually([] { return gate.waiting == 1; }));
  // Stored again, page 0 is no business of that flush any more, and no reason to wait for it.
  p.map().update_region(0, asio::buffer(page_of(0, 2)));
  std::error_code of_all;
  std::atomic<bool> all_done{false};
  std::thread whole([&] {
    p.map().flush(of_all);
    all_done = true;
  });
  // It may wait for the other's verdict, which is right, or end with an error of its own.
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
  support::eventually([&] { return all_done || std::chrono::steady_clock::now() > end; });
  gate.closed = false;
  range.join();
  whole.join();
  p.device().mark(1);

  EXPECT_TRUE(of_range || of_all) << "nobody was told";
  const recording log = p.finish();
  const bool durable = holds(p.after_power_loss(log, 1), 1, 1);
  EXPECT_FALSE(durable) << "the scene did not come about";
  EXPECT_TRUE(of_all) << "page 1 was called durable, and is not";
}

// A failed sync also takes the report of pages that the kernel wrote back of its own accord, and
// that nobody has flushed yet. They are as lost as those of the sync.
TEST_P(failing_write, of_pages_that_nobody_flushed_yet_is_not_forgotten) {
  patient p(GetParam(), mapio::backend_kind::thread_pool);
  ASSERT_FALSE(p.update(0, 1));
  ASSERT_FALSE(p.update(1, 1));

  p.device().fail_writes(logged_device::forever);
  write_back_behind(p, 1);
  EXPECT_TRUE(p.flush_page(0));
  p.device().heal();
  p.map().clear_flush_error();
  EXPECT_EQ(p.flush_page(0), mapio::errc::flush_failed);

  const std::error_code of_page_1 = p.flush_page(1);
  p.device().mark(1);
  const recording log = p.finish();
  if (!of_page_1) {
    EXPECT_TRUE(holds(p.after_power_loss(log, 1), 1, 1)) << "page 1 was called durable, and is not";
  }
}

// Pages of a file that was written in one piece share a folio, which is written back as a
// whole: if that fails, the neighbours are lost with the page that was to be flushed.
TEST_P(failing_write, takes_the_neighbours_in_the_folio_along) {
  patient p(GetParam(), mapio::backend_kind::thread_pool);
  std::string version_0;
  for (std::size_t n = 0; n < pages; ++n)
    version_0 += page_of(n, 0);
  const fs::path path = p.file().path().parent_path() / "one-piece";
  {
    const auto fd = support::open_fd(path, O_WRONLY | O_CREAT);
    ASSERT_EQ(::pwrite(fd.get(), version_0.data(), version_0.size(), 0),
              static_cast<ssize_t>(version_0.size()));
  }

  mapio::mapping m(path, support::read_write());
  m.flush();
  for (std::size_t n = 0; n < pages; ++n)
    m.update_region(n * page, asio::buffer(page_of(n, 1)));
  p.device().fail_writes(logged_device::forever);
  std::error_code error;
  m.flush_range(0, page, error);
  EXPECT_TRUE(error);
  p.device().heal();
  m.clear_flush_error();
  std::vector<std::error_code> forgiven(pages);
  for (std::size_t n = 0; n < pages; ++n)
    m.flush_range(n * page, page, forgiven[n]);
  p.device().mark(1);
  EXPECT_EQ(forgiven[0], mapio::errc::flush_failed);

  m.close();
  const recording log = p.finish();
  const std::string then = p.after_power_loss(log, 1, "one-piece");
  std::size_t lies = 0;
  for (std::size_t n = 0; n < pages; ++n)
    lies += !forgiven[n] && !holds(then, n, 1) ? 1U : 0U;
  EXPECT_EQ(lies, 0U) << "pages were called durable, and are not";
}

INSTANTIATE_TEST_SUITE_P(on, failing_write, testing::Values(fs_type::ext4, fs_type::xfs),
                         testing::PrintToStringParamName());

}  // namespace
