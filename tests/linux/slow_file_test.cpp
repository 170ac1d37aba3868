// The loop never waits: all verbs on files of a file system that takes 200 ms to read or to write.
// Meanwhile a timer of the loop is on time, and its thread has no fault that takes a disk. Once per
// engine.

#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>

#include "faults/fuse_server.hpp"
#include "faults/private_mount.hpp"
#include "mapped_file_fixture.hpp"

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <ostream>
#include <string>
#include <system_error>
#include <thread>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

namespace {

using mapio::durability;
using mapio::mapped_file;
using mapio::region;
using support::outcome;
using support::page;

using clock = std::chrono::steady_clock;
using work = asio::awaitable<void>;
using namespace std::chrono_literals;

constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;
constexpr auto tick = 1ms;
constexpr auto latest = 20ms;

long major_faults() {
  rusage used{};
  ::getrusage(RUSAGE_THREAD, &used);
  return used.ru_majflt;
}

asio::awaitable<void> pause(clock::duration duration) {
  asio::steady_timer timer(co_await asio::this_coro::executor, duration);
  co_await timer.async_wait(asio::use_awaitable);
}

asio::awaitable<void> until_over(const outcome& o) {
  while (o.calls == 0)
    co_await pause(tick);
}

/// How late a clock that ticks was at worst. One that was held up makes up for every tick that it
/// missed, each as late as it is.
class lateness {
 public:
  clock::time_point next() { return due_ += tick; }
  void ticked() { worst_ = std::max<clock::duration>(worst_, clock::now() - due_); }
  clock::duration worst() const { return worst_; }
  void reset() { worst_ = clock::duration::zero(); }

 private:
  clock::time_point due_ = clock::now();
  std::atomic<clock::duration> worst_{clock::duration::zero()};
};

/// The same clock in a thread that does nothing else: when that one is late, the machine is busy.
class control {
 public:
  control() = default;
  control(const control&) = delete;
  control& operator=(const control&) = delete;
  ~control() {
    stop_ = true;
    thread_.join();
  }
  lateness& late() { return late_; }

 private:
  lateness late_;
  std::atomic<bool> stop_{false};
  std::thread thread_{[this] {
    while (!stop_) {
      std::this_thread::sleep_until(late_.next());
      late_.ticked();
    }
  }};
};

struct measured {
  clock::duration loop{};
  clock::duration control{};
  long faults = 0;

  bool is_good() const { return loop - control <= latest && faults == 0; }
};

std::ostream& operator<<(std::ostream& out, const measured& m) {
  const auto ms = [](clock::duration d) {
    return std::chrono::duration<double, std::milli>(d).count();
  };
  return out << ms(m.loop) << " ms late, the control " << ms(m.control) << " ms, " << m.faults
             << " major faults";
}

class slow_file : public testing::Test {
 protected:
  /// Runs `body`, a coroutine, on a loop of this machine's slowest file system.
  template <class Body>
  void on_slow_files(Body body) {
    if (::access("/dev/fuse", R_OK | W_OK) != 0) GTEST_SKIP() << "/dev/fuse cannot be opened";
    const bool is_mounted = faults::with_private_mounts([&] {
      const support::unique_fd outside = support::open_fd("/proc/self/ns/mnt", O_RDONLY);
      const faults::fuse_server server(SLOW_FILES_PATH, folder_.path(), {}, outside.get());
      asio::io_context io;
      io_ = &io;
      static_cast<void>(mapio::backend_of(io));
      bool stop = false;
      asio::co_spawn(io, keep_time(stop), asio::detached);
      support::run_coroutine(io, body);
      stop = true;
      EXPECT_TRUE(support::run_to_end(io));
      return true;
    });
    if (!is_mounted) GTEST_SKIP() << "mounting is not allowed here";
  }

  work keep_time(const bool& stop) {
    asio::steady_timer timer(co_await asio::this_coro::executor);
    late_.emplace();
    while (!stop) {
      timer.expires_at(late_->next());
      co_await timer.async_wait(asio::use_awaitable);
      late_->ticked();
    }
  }

  asio::awaitable<measured> measure(const std::function<work()>& body) {
    // What came before must not count: until its missed ticks are made up for.
    do {
      late_->reset();
      co_await pause(2 * tick);
    } while (late_->worst() > latest / 2);
    late_->reset();
    control_.late().reset();
    const long faults = major_faults();
    co_await body();
    // The ticks that it made late come now.
    co_await pause(2 * tick);
    co_return measured{late_->worst(), control_.late().worst(), major_faults() - faults};
  }

  /// Expects that the loop is on time while `body` is carried out, which may be several times: a
  /// busy machine makes it late now and then, a verb that waits each time.
  work on_time(const char* what, std::function<work()> body) {
    constexpr int tries = 5;
    for (int i = 1;; ++i) {
      const measured m = co_await measure(body);
      if (!m.is_good() && i < tries) continue;
      EXPECT_TRUE(m.is_good()) << what << ": " << m;
      co_return;
    }
  }

  /// A file of zeros of which nothing is in memory: it was never read.
  support::fs::path cold_file(const char* name) {
    std::thread([&] {
      const auto fd = support::open_fd(folder_ / name, O_RDWR | O_CREAT);
      support::truncate_file(folder_ / name, 512 * mebibyte);
    }).join();
    return folder_ / name;
  }
  /// A place that was not used yet.
  std::uint64_t place() { return next_place_ += 2 * mebibyte; }

  support::temp_dir folder_;
  asio::io_context* io_ = nullptr;
  std::uint64_t next_place_ = 0;
  std::optional<lateness> late_;
  control control_;
};

// If this fails, the others prove nothing.
TEST_F(slow_file, is_seen_when_the_loop_waits) {
  on_slow_files([&]() -> work {
    mapped_file file(*io_);
    co_await file.open(cold_file("file"));
    const measured m = co_await measure([&]() -> work {
      char byte = 1;
      file.map().read_into(place(), asio::buffer(&byte, 1));
      EXPECT_EQ(byte, 0);
      co_return;
    });
    EXPECT_GT(m.loop, 150ms);
    EXPECT_GT(m.faults, 0);
    co_await file.close();
  });
}

TEST_F(slow_file, is_opened_and_closed) {
  on_slow_files([&]() -> work {
    mapped_file file(*io_);
    const auto existing = cold_file("file");
    co_await on_time("open and close", [&]() -> work {
      co_await file.open(existing, support::read_write());
      co_await file.close();
    });
    co_await on_time("create", [&]() -> work {
      co_await file.open(folder_ / "new", support::creating(page()));
      co_await file.update_region(0, asio::buffer("x", 1));
      co_await file.flush();
    });
    co_await on_time("open instead of another", [&]() -> work { co_await file.open(existing); });
    co_await on_time("close with dirty pages", [&]() -> work {
      mapio::open_options options = support::read_write();
      options.writes = mapio::write_path::mapped;
      co_await file.open(existing, options);
      co_await file.update_region(place(), asio::buffer("x", 1));
      co_await file.close();
    });
    co_await on_time("last region", [&]() -> work {
      co_await file.open(existing, support::read_write());
      region last = co_await file.view(place(), page());
      co_await file.update_region(last.offset(), asio::buffer("x", 1));
      co_await file.close();
      last = {};
      co_await pause(50ms);
    });
    co_await on_time("last handle", [&]() -> work {
      std::optional<mapped_file> other(*io_);
      co_await other->open(existing, support::read_write());
      co_await other->update_region(place(), asio::buffer("x", 1));
      other.reset();
      co_await pause(50ms);
    });
  });
}

TEST_F(slow_file, is_updated) {
  on_slow_files([&]() -> work {
    const auto path = cold_file("file");
    const std::string large = support::pattern(100 * 1000);
    for (const mapio::write_path how :
         {mapio::write_path::automatic, mapio::write_path::mapped, mapio::write_path::file}) {
      mapped_file file(*io_);
      mapio::open_options options = support::read_write();
      options.writes = how;
      co_await file.open(path, options);
      std::uint64_t at = 0;
      co_await on_time("cold update", [&]() -> work {
        at = place();
        co_await file.update_region(at, asio::buffer(large, 64));
      });
      co_await on_time("hot update",
                       [&]() -> work { co_await file.update_region(at, asio::buffer(large, 64)); });
      co_await on_time("update of what is being synced", [&]() -> work {
        outcome flush;
        file.flush_range(at, 64, flush.handler());
        co_await pause(50ms);
        co_await file.update_region(at, asio::buffer(large, 64));
        co_await until_over(flush);
        EXPECT_TRUE(flush.ok()) << flush.error.message();
      });
      co_await on_time("large update", [&]() -> work {
        const std::array<asio::const_buffer, 2> both{asio::buffer(large), asio::buffer(large, 1)};
        co_await file.update_region(place(), both);
      });
      co_await file.close();
    }
  });
}

TEST_F(slow_file, is_read) {
  on_slow_files([&]() -> work {
    mapped_file file(*io_);
    co_await file.open(cold_file("file"), support::read_write());
    std::uint64_t at = 0;
    std::string bytes(100, 'x');
    for (const std::size_t size : {std::size_t{100}, std::size_t{100000}}) {
      bytes.resize(size);
      co_await on_time("cold read_into", [&]() -> work {
        at = place();
        co_await file.read_into(at, asio::buffer(bytes));
      });
      co_await on_time("hot read_into",
                       [&]() -> work { co_await file.read_into(at, asio::buffer(bytes)); });
      co_await on_time("cold view", [&]() -> work {
        at = place();
        const region r = co_await file.view(at, size);
        EXPECT_EQ(std::count(r.begin(), r.end(), std::byte{0}), static_cast<std::ptrdiff_t>(size));
      });
      co_await on_time("hot view", [&]() -> work {
        const region r = co_await file.view(at, size);
        EXPECT_EQ(std::count(r.begin(), r.end(), std::byte{0}), static_cast<std::ptrdiff_t>(size));
      });
    }
    co_await on_time("prefetch", [&]() -> work { co_await file.prefetch(place(), 10 * page()); });
    co_await file.close();
    co_await file.open(cold_file("other"));
    co_await on_time("chunks", [&]() -> work {
      auto chunks = file.chunks(10 * page(), 2);
      for (int i = 0; i < 3; ++i) {
        const region chunk = co_await chunks.next();
        EXPECT_EQ(chunk.size(), 10 * page());
      }
    });
    co_await file.open(folder_ / "file", support::copy_on_write());
    co_await on_time("update of a private mapping", [&]() -> work {
      at = place();
      co_await file.update_region(at, asio::buffer(bytes));
      co_await file.read_into(at, asio::buffer(bytes));
    });
    co_await file.close();
  });
}

TEST_F(slow_file, is_flushed) {
  on_slow_files([&]() -> work {
    mapped_file file(*io_);
    mapio::open_options options = support::read_write();
    options.writes = mapio::write_path::mapped;
    co_await file.open(cold_file("file"), options);
    for (const durability level : {durability::durable, durability::started}) {
      co_await on_time("flush_range", [&]() -> work {
        const std::uint64_t at = place();
        co_await file.update_region(at, asio::buffer("x", 1));
        co_await file.flush_range(at, 1, level);
      });
      co_await on_time("flush", [&]() -> work {
        co_await file.update_region(place(), asio::buffer("x", 1));
        co_await file.flush(level);
      });
    }
    co_await file.close();
    options.policy = mapio::flush_policy::always();
    co_await file.open(folder_ / "file", options);
    co_await on_time("update that is durable",
                     [&]() -> work { co_await file.update_region(place(), asio::buffer("x", 1)); });
    co_await file.close();
  });
}

TEST_F(slow_file, is_resized) {
  on_slow_files([&]() -> work {
    mapped_file file(*io_);
    mapio::open_options options = support::creating(3 * page() + 1);
    options.reserve = mebibyte;
    co_await file.open(folder_ / "file", options);
    co_await file.update_region(2 * page(), asio::buffer("x", 1));
    co_await on_time("growth",
                     [&]() -> work { co_await file.resize(file.size() + 10 * page() + 1); });
    co_await on_time("growth that moves", [&]() -> work {
      co_await file.resize(file.capacity() + 1);
      co_await file.update_region(file.size() - 1, asio::buffer("x", 1));
    });
    co_await on_time("shrink", [&]() -> work { co_await file.resize(file.size() / 2 + 1); });
    co_await on_time("shrink that waits for a region", [&]() -> work {
      std::optional<region> held = co_await file.view(page(), 1);
      outcome shrink;
      file.resize(page(), shrink.handler());
      co_await pause(50ms);
      EXPECT_EQ(shrink.calls, 0);
      held.reset();
      co_await until_over(shrink);
      EXPECT_TRUE(shrink.ok()) << shrink.error.message();
      co_await file.resize(3 * page());
    });
    co_await file.close();
  });
}

TEST_F(slow_file, is_worked_on_by_all_at_once) {
  on_slow_files([&]() -> work {
    mapped_file file(*io_);
    co_await file.open(cold_file("file"), support::read_write());
    const auto second = cold_file("other");
    int outstanding = 0;
    bool cancelled = false;
    const auto make = [&](const char* what) {
      ++outstanding;
      return [&, what](std::error_code error, auto...) {
        --outstanding;
        EXPECT_TRUE(cancelled || !error) << what << ": " << error.message();
      };
    };
    std::deque<std::array<char, 64>> inputs;
    mapped_file other(*io_);
    const auto start_all = [&] {
      const auto into = [&] { return asio::buffer(inputs.emplace_back()); };
      const std::uint64_t hot = 0;
      for (int i = 0; i < 3; ++i) {
        file.update_region(hot, asio::buffer("x", 1), make("hot update"));
        file.update_region(place(), asio::buffer("x", 1), make("update"));
        file.read_into(place(), into(), make("read_into"));
        file.view(place(), page(), make("view"));
        file.prefetch(place(), 5 * page(), make("prefetch"));
        file.flush_range(hot, 1, make("flush_range"));
        file.flush(make("flush"));
        file.flush(durability::started, make("flush started"));
        file.resize(file.size() + mebibyte, make("resize"));
      }
      other.open(second, support::read_write(), make("open"));
    };
    co_await on_time("all at once", [&]() -> work {
      start_all();
      while (outstanding != 0)
        co_await pause(tick);
    });
    cancelled = true;
    co_await on_time("all cancelled", [&]() -> work {
      start_all();
      co_await pause(50ms);
      file.cancel();
      other.cancel();
      while (outstanding != 0)
        co_await pause(tick);
    });
    co_await on_time("all closed", [&]() -> work {
      start_all();
      co_await pause(50ms);
      co_await file.close();
      while (outstanding != 0)
        co_await pause(tick);
      co_await file.open(folder_ / "file", support::read_write());
    });
    co_await file.close();
  });
}

// A server tells of what it could not write once.
TEST_F(slow_file, fails_to_flush_whatever_the_number_of_the_error) {
  on_slow_files([&]() -> work {
    for (const int number : {EIO, EINVAL, EOPNOTSUPP, EAGAIN, EFAULT, EINTR, ENOSPC}) {
      mapped_file file(*io_);
      co_await file.open(folder_.path() / ("fails_once_with_" + std::to_string(number)),
                         support::creating(4 * page()));
      co_await file.update_region(0, asio::buffer("x", 1));
      std::error_code verdict;
      co_await file.flush(support::into(verdict));
      EXPECT_EQ(verdict, std::error_code(number, std::system_category()));
      EXPECT_EQ(file.map().flush_error(), verdict);
      co_await file.flush(support::into(verdict));
      EXPECT_EQ(verdict, mapio::errc::flush_failed);
    }
  });
}

TEST_F(slow_file, fails_to_flush_for_a_blocked_thread_too) {
  on_slow_files([&]() -> work {
    for (const int number : {EIO, EINTR}) {
      mapio::mapping m(folder_.path() / ("fails_once_with_" + std::to_string(number)),
                       support::creating(4 * page()));
      m.update_region(0, asio::buffer("x", 1));
      EXPECT_EQ(support::code_of([&] { m.flush(); }),
                std::error_code(number, std::system_category()));
    }
    co_return;
  });
}

}  // namespace
