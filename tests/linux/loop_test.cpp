// The loop never waits: no awaited verb makes its thread call what may wait for a file system, from
// open to the last region. Once per engine.

#include <mapio/backend.hpp>
#include <mapio/file_operations.hpp>
#include <mapio/mapped_file.hpp>

#include "faults/waiting_calls.hpp"
#include "linux/linux_support.hpp"
#include "mapped_file_fixture.hpp"

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <thread>
#include <utility>

namespace {

using mapio::durability;
using mapio::errc;
using mapio::mapped_file;
using mapio::region;
using support::outcome;
using support::page;

constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;

// What a test does to files itself.
template <class Body>
void elsewhere(Body body) {
  std::thread(std::move(body)).join();
}

class never_waits : public testing::Test {
 protected:
  using work = asio::awaitable<void>;

  /// Runs a coroutine, and what it leaves to be done, on a loop that is watched. The engine is
  /// started and ended elsewhere: to have one takes system calls that wait.
  template <class Body>
  void on_watched_loop(Body body) {
    const bool is_seen = calls_.run([&] {
      elsewhere([&] {
        io_.emplace();
        static_cast<void>(mapio::backend_of(*io_));
      });
      support::run_coroutine(*io_, body);
      EXPECT_TRUE(support::run_to_end(*io_));
      elsewhere([&] { io_.reset(); });
    });
    if (!is_seen) GTEST_SKIP() << "the kernel does not let us see system calls";
    EXPECT_EQ(calls_.found(), "");
  }

  /// Writes a file of which nothing is in memory.
  void make_cold(std::uint64_t size) {
    elsewhere([&] {
      support::write_file(path_, support::pattern(size));
      static_cast<void>(support::evict(path_));
    });
  }
  mapio::open_options writing(mapio::write_path how) const {
    mapio::open_options options = support::read_write();
    options.writes = how;
    return options;
  }

  support::temp_dir dir_;
  const support::fs::path path_ = dir_ / "file";
  std::optional<asio::io_context> io_;
  faults::waiting_calls calls_;
};

constexpr std::array write_paths{mapio::write_path::automatic, mapio::write_path::mapped,
                                 mapio::write_path::file};
constexpr std::array levels{durability::durable, durability::started};

/// Lets other handlers run, and what they have let go of go.
asio::awaitable<void> pause() {
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(5));
  co_await timer.async_wait(asio::use_awaitable);
}

// If this fails, the others prove nothing.
TEST_F(never_waits, is_seen_when_it_does) {
  support::write_file(path_, support::pattern(page()));
  const bool is_seen = calls_.run([&] {
    support::unique_fd fd = support::open_fd(path_, O_RDWR);
    EXPECT_EQ(calls_.found(), "openat");
    ::fdatasync(fd.get());
    EXPECT_EQ(calls_.found(), "fdatasync");
    void* const at = ::mmap(nullptr, page(), PROT_READ, MAP_SHARED, fd.get(), 0);
    ::msync(at, page(), MS_SYNC);
    ::munmap(at, page());
    EXPECT_EQ(calls_.found(), "mmap msync munmap");
    char byte = 0;
    EXPECT_EQ(::pread(fd.get(), &byte, 1, 0), 1);
    EXPECT_EQ(::write(fd.get(), &byte, 1), 1);
    EXPECT_EQ(calls_.found(), "pread64 write");
    fd.reset();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(calls_.found(), "close clock_nanosleep");
    elsewhere([&] { support::write_file(path_, "of another thread"); });
    void* const anonymous = ::mmap(nullptr, page(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ::munmap(anonymous, page());
    EXPECT_EQ(calls_.found(), "");
  });
  if (!is_seen) GTEST_SKIP() << "the kernel does not let us see system calls";
}

TEST_F(never_waits, in_open) {
  make_cold(3 * page());
  on_watched_loop([&]() -> work {
    mapped_file file(*io_);
    co_await file.open(path_);
    co_await file.open(path_, support::read_write());  // lets go of the one before
    co_await file.open(path_, support::copy_on_write());
    co_await file.close();
    co_await file.open(dir_ / "new", support::creating(5 * page() + 1));
    co_await file.update_region(0, asio::buffer("x", 1));
    co_await file.flush();  // and its name
    co_await file.open(path_, support::creating(page(), mapio::disposition::open_or_create));
    co_await file.open(path_, support::creating(page(), mapio::disposition::create_or_truncate));
    std::error_code error;
    co_await file.open(path_, support::creating(1, mapio::disposition::create_new),
                       support::into(error));
    EXPECT_EQ(error, std::errc::file_exists);
    co_await file.open(dir_ / "none", support::into(error));
    EXPECT_EQ(error, std::errc::no_such_file_or_directory);
    mapio::open_options eager = support::read_write();
    eager.touch = mapio::prefault::eager;
    eager.policy = mapio::flush_policy::every(std::chrono::milliseconds(1));
    co_await file.open(path_, eager);
    co_await file.update_region(0, asio::buffer("y", 1));
    co_await pause();
    co_await file.close();
  });
}

TEST_F(never_waits, in_update_region) {
  const std::string large = support::pattern(mebibyte, 2);
  for (const mapio::write_path how : write_paths) {
    make_cold(8 * mebibyte);
    on_watched_loop([&]() -> work {
      mapped_file file(*io_);
      co_await file.open(path_, writing(how));
      const auto update = [&](std::uint64_t at, std::uint64_t n) {
        return file.update_region(at, asio::buffer(large.data(), n), asio::use_awaitable);
      };
      EXPECT_EQ(co_await update(3 * mebibyte, 64), 64U);  // cold
      for (int i = 0; i < 3; ++i)                         // hot
        EXPECT_EQ(co_await update(3 * mebibyte, 64), 64U);
      co_await file.flush_range(3 * mebibyte, 64);
      EXPECT_EQ(co_await update(3 * mebibyte, 64), 64U);  // resident, and clean
      for (std::uint64_t at = 0; at < 64'000; at += 1000)
        EXPECT_EQ(co_await update(at, 1000), 1000U);
      EXPECT_EQ(co_await update(5 * mebibyte + 1, mebibyte), mebibyte);
      const std::array<asio::const_buffer, 3> several{asio::buffer(large.data(), 100),
                                                      asio::buffer(large.data() + 100, 5000),
                                                      asio::buffer(large.data() + 5100, 1)};
      for (int i = 0; i < 2; ++i)
        EXPECT_EQ(co_await file.update_region(7 * mebibyte, several), 5101U);
      co_await file.close();
    });
    elsewhere([&] {
      const std::string bytes = support::read_file(path_);
      EXPECT_TRUE(support::same(bytes.substr(5 * mebibyte + 1, mebibyte), large));
      EXPECT_TRUE(support::same(bytes.substr(7 * mebibyte, 5101), large.substr(0, 5101)));
    });
  }
}

TEST_F(never_waits, in_update_region_that_has_a_policy) {
  using policy = mapio::flush_policy;
  for (const policy& p : {policy::always(), policy::every_bytes(100), policy::every_writes(2)}) {
    make_cold(mebibyte);
    on_watched_loop([&]() -> work {
      mapped_file file(*io_);
      mapio::open_options options = support::read_write();
      options.policy = p;
      co_await file.open(path_, options);
      for (std::uint64_t at = 0; at < 8 * page(); at += page() / 2)
        co_await file.update_region(at, asio::buffer("abc", 3));
      co_await file.close();
    });
  }
}

TEST_F(never_waits, in_update_region_of_a_private_mapping) {
  make_cold(mebibyte);
  on_watched_loop([&]() -> work {
    mapped_file file(*io_);
    co_await file.open(path_, support::copy_on_write());
    std::string back(3, '\0');
    for (int i = 0; i < 2; ++i) {
      co_await file.update_region(page(), asio::buffer("abc", 3));
      co_await file.read_into(page(), asio::buffer(back));
      EXPECT_EQ(back, "abc");
    }
    co_await file.close();
  });
}

TEST_F(never_waits, in_update_region_of_a_file_that_was_cut) {
  for (const mapio::write_path how : write_paths) {
    make_cold(8 * page());
    on_watched_loop([&]() -> work {
      mapped_file file(*io_);
      co_await file.open(path_, writing(how));
      co_await file.update_region(6 * page(), asio::buffer("abc", 3));
      elsewhere([&] { support::truncate_file(path_, 2 * page()); });
      // The second of them is at hand, as far as anybody knows.
      for (const std::uint64_t at : {std::uint64_t{4 * page()}, std::uint64_t{6 * page()}}) {
        std::error_code error;
        co_await file.update_region(at, asio::buffer("abc", 3), support::into(error));
        EXPECT_EQ(error, errc::page_fault) << at;
      }
      co_await file.close();
    });
  }
}

TEST_F(never_waits, in_read_into_and_view) {
  const std::string bytes = support::pattern(8 * mebibyte);
  for (const mapio::open_options& options :
       {support::read_only(), support::read_write(), support::copy_on_write()}) {
    make_cold(8 * mebibyte);
    on_watched_loop([&]() -> work {
      mapped_file file(*io_);
      co_await file.open(path_, options);
      std::string small(100, '\0');
      std::string large(mebibyte + 1, '\0');
      for (int i = 0; i < 2; ++i) {  // cold, hot
        EXPECT_EQ(co_await file.read_into(mebibyte - 1, asio::buffer(small)), small.size());
        EXPECT_EQ(small, bytes.substr(mebibyte - 1, small.size()));
        const std::array<asio::mutable_buffer, 2> both{asio::buffer(small), asio::buffer(large)};
        EXPECT_EQ(co_await file.read_into(3 * mebibyte, both), small.size() + large.size());
        EXPECT_TRUE(support::same(large, bytes.substr(3 * mebibyte + 100, large.size())));
        region r = co_await file.view(5 * mebibyte + 7, 2 * page());
        EXPECT_TRUE(support::same(r.text(), bytes.substr(5 * mebibyte + 7, 2 * page())));
        r = co_await file.view(6 * mebibyte, mebibyte);
        EXPECT_TRUE(support::same(r.text(), bytes.substr(6 * mebibyte, mebibyte)));
      }
      co_await file.close();
    });
  }
}

TEST_F(never_waits, in_prefetch_and_chunks) {
  const std::string bytes = support::pattern(8 * mebibyte + 5);
  make_cold(bytes.size());
  on_watched_loop([&]() -> work {
    mapped_file file(*io_);
    co_await file.open(path_);
    co_await file.prefetch(mebibyte, page());
    co_await file.prefetch();
    co_await file.close();
    elsewhere([&] { static_cast<void>(support::evict(path_)); });
    co_await file.open(path_);
    std::string all;
    auto chunks = file.chunks(mebibyte, 2);
    for (;;) {
      const region chunk = co_await chunks.next();
      if (chunk.empty()) break;
      all += chunk.text();
    }
    EXPECT_TRUE(support::same(all, bytes));
    // One that is dropped while it reads.
    elsewhere([&] { static_cast<void>(support::evict(path_)); });
    outcome last;
    file.chunks(mebibyte, 3).next(last.handler());
    co_await file.close();
    while (last.calls == 0)
      co_await pause();
  });
}

TEST_F(never_waits, in_wait_for_an_atomic) {
  make_cold(4 * page());
  on_watched_loop([&]() -> work {
    mapped_file file(*io_);
    co_await file.open(path_, support::read_write());
    const auto word = file.atomic<std::uint32_t>(2 * page());
    std::uint32_t value = 0;
    co_await file.read_into(2 * page(), asio::buffer(&value, sizeof value));
    for (int i = 0; i < 3; ++i) {
      outcome over;
      word.wait(value, over.handler());
      co_await pause();
      EXPECT_EQ(over.calls, 0);
      word.store(++value);
      word.notify_one();
      while (over.calls == 0)
        co_await pause();
      EXPECT_TRUE(over.ok());
      co_await file.flush();  // the page is clean again
    }
    outcome cancelled;
    word.wait(value, cancelled.handler());
    co_await pause();
    file.cancel();
    while (cancelled.calls == 0)
      co_await pause();
    EXPECT_EQ(cancelled.error, asio::error::operation_aborted);
    co_await file.close();
  });
}

TEST_F(never_waits, in_flush) {
  for (const mapio::write_path how : write_paths) {
    make_cold(mebibyte);
    on_watched_loop([&]() -> work {
      mapped_file file(*io_);
      co_await file.open(path_, writing(how));
      for (const durability level : levels) {
        co_await file.update_region(page(), asio::buffer("abc", 3));
        co_await file.flush_range(0, 3 * page(), level);
        co_await file.flush_range(0, 3 * page(), level);
        co_await file.update_region(7 * page(), asio::buffer("abc", 3));
        co_await file.flush(level);
        co_await file.flush(level);
      }
      // Many that share a sync, on their way while others write.
      std::array<outcome, 20> flushes;
      for (std::size_t i = 0; i < flushes.size(); ++i) {
        co_await file.update_region(i * page(), asio::buffer("abc", 3));
        file.flush_range(i * page(), 3, flushes[i].handler());
      }
      for (const outcome& o : flushes) {
        while (o.calls == 0)
          co_await pause();
        EXPECT_TRUE(o.ok()) << o.error.message();
      }
      co_await file.close();
    });
  }
}

TEST_F(never_waits, in_resize) {
  for (const bool preallocate : {true, false}) {
    make_cold(mebibyte);
    on_watched_loop([&]() -> work {
      mapped_file file(*io_);
      mapio::open_options options = support::read_write();
      options.reserve = 2 * mebibyte;
      options.preallocate = preallocate;
      co_await file.open(path_, options);
      co_await file.update_region(mebibyte - 3, asio::buffer("abc", 3));
      co_await file.resize(mebibyte + 1);      // inside of capacity()
      co_await file.resize(3 * mebibyte + 1);  // beyond it
      EXPECT_GE(file.capacity(), 3 * mebibyte);
      co_await file.update_region(3 * mebibyte, asio::buffer("d", 1));
      co_await file.resize(100);
      co_await file.resize(mebibyte);

      // Those that wait for a region go on where it is dropped.
      for (const std::uint64_t size : {std::uint64_t{page()}, 64 * mebibyte}) {
        std::optional<region> held = co_await file.view(mebibyte / 2, 1);
        outcome waits;
        file.resize(size, waits.handler());
        co_await pause();
        EXPECT_EQ(waits.calls, 0);
        held.reset();
        while (waits.calls == 0)
          co_await pause();
        EXPECT_TRUE(waits.ok()) << waits.error.message();
        co_await file.resize(mebibyte);
      }
      co_await file.close();
    });
  }
}

TEST_F(never_waits, when_a_resize_is_given_up) {
  enum class end { cancel, cancel_early, close };
  for (const end how : {end::cancel, end::cancel_early, end::close})
    // Whether a region is there before or after the file has grown.
    for (const bool grows_first : {false, true}) {
      make_cold(mebibyte);
      on_watched_loop([&]() -> work {
        mapped_file file(*io_);
        mapio::open_options options = support::read_write();
        options.reserve = mebibyte;
        co_await file.open(path_, options);
        std::optional<region> held;
        outcome larger;
        outcome shrink;
        for (int tries = 0; tries < 20; ++tries) {
          const std::uint64_t size = file.capacity() + mebibyte;
          larger = {};
          if (!grows_first) held = file.map().view(0, 1);
          file.resize(size, larger.handler());
          if (grows_first) held = file.map().view(0, 1);
          if (how == end::cancel_early) {
            // On its way, and not yet waiting for the region.
            co_await asio::post(co_await asio::this_coro::executor, asio::use_awaitable);
            break;
          }
          co_await pause();
          if (larger.calls == 0) break;
          held.reset();  // it was faster
        }
        EXPECT_TRUE(larger.calls == 0 || how == end::cancel_early);
        file.resize(page(), shrink.handler());
        if (how != end::close) file.cancel();
        if (how == end::close) co_await file.close();
        while (larger.calls == 0 || shrink.calls == 0)
          co_await pause();
        // One that was still under way may have come to its end, or to that of the file.
        EXPECT_TRUE(larger.error == asio::error::operation_aborted ||
                    (how == end::cancel_early && !larger.error) ||
                    (how == end::close && larger.error == errc::not_open))
            << larger.error.message();
        // It waits behind the other, unless that was over.
        EXPECT_TRUE(shrink.error == asio::error::operation_aborted ||
                    (how == end::cancel_early && !larger.error && !shrink.error))
            << shrink.error.message();
      });
    }
}

TEST_F(never_waits, in_copy_file_and_remove_file) {
  make_cold(9 * mebibyte);
  elsewhere([&] { support::write_file(dir_ / "old", support::pattern(mebibyte)); });
  on_watched_loop([&]() -> work {
    for (const bool durable : {false, true}) {
      mapio::copy_file_options options;
      options.durable = durable;
      EXPECT_EQ(co_await mapio::copy_file(*io_, path_, dir_ / "new", options), 9 * mebibyte);
      EXPECT_EQ(co_await mapio::copy_file(*io_, path_, dir_ / "old", options), 9 * mebibyte);
      co_await mapio::remove_file(*io_, dir_ / "new");
    }
    std::error_code error;
    co_await mapio::copy_file(*io_, dir_ / "none", path_, support::into(error));
    EXPECT_EQ(error, std::errc::no_such_file_or_directory);
    co_await mapio::remove_file(*io_, dir_ / "none", support::into(error));
    EXPECT_EQ(error, std::errc::no_such_file_or_directory);
  });
}

TEST_F(never_waits, in_copy_file_that_is_cancelled) {
  make_cold(9 * mebibyte);
  on_watched_loop([&]() -> work {
    for (const bool at_once : {true, false, true, false}) {
      // More than there are workers: some of them wait in the queue, begun or not.
      std::array<outcome, 8> copies;
      std::array<asio::cancellation_signal, copies.size()> stops;
      for (std::size_t i = 0; i < copies.size(); ++i)
        mapio::copy_file(*io_, path_, dir_ / "new",
                         asio::bind_cancellation_slot(stops[i].slot(), copies[i].handler()));
      if (!at_once) co_await pause();
      for (std::size_t i = 0; i < copies.size(); ++i) {
        stops[i].emit(asio::cancellation_type::terminal);
        while (copies[i].calls == 0)
          co_await pause();
        EXPECT_TRUE(copies[i].ok() || copies[i].error == asio::error::operation_aborted)
            << copies[i].error.message();
      }
    }
  });
}

TEST_F(never_waits, in_close) {
  for (const mapio::write_path how : write_paths) {
    make_cold(2 * mebibyte);
    on_watched_loop([&]() -> work {
      mapped_file file(*io_);
      co_await file.open(path_, writing(how));
      co_await file.update_region(0, asio::buffer(support::pattern(mebibyte, 3)));
      // The last close of a file without a name throws its content away.
      if (how == mapio::write_path::mapped) elsewhere([&] { ::unlink(path_.c_str()); });
      co_await file.close();
      EXPECT_FALSE(file.is_open());
    });
  }
}

TEST_F(never_waits, when_the_last_one_lets_go) {
  enum class last { region, region_of_moved, handle, verb, blocking_handle };
  for (const last what :
       {last::region, last::region_of_moved, last::handle, last::verb, last::blocking_handle}) {
    make_cold(mebibyte);
    bool is_mapped = true;
    on_watched_loop([&]() -> work {
      std::optional<mapped_file> file(*io_);
      mapio::open_options options = support::read_write();
      options.reserve = mebibyte;
      co_await file->open(path_, options);
      if (what == last::region_of_moved)
        elsewhere([&] { file->map().resize(2 * file->capacity()); });
      std::optional<region> held = co_await file->view(page(), 2 * page());
      std::optional<region> copy = held;
      std::optional<mapio::mapping> blocking = file->map();
      co_await file->update_region(0, asio::buffer("abc", 3));
      outcome flush;
      switch (what) {
      case last::region:
      case last::region_of_moved:
        co_await file->close();
        file.reset();
        blocking.reset();
        held.reset();
        copy.reset();
        break;
      case last::handle:
        held.reset();
        copy.reset();
        blocking.reset();
        file.reset();
        break;
      case last::verb:
        held.reset();
        copy.reset();
        blocking.reset();
        file->flush(flush.handler());
        file.reset();
        while (flush.calls == 0)
          co_await pause();
        EXPECT_TRUE(flush.ok());
        break;
      case last::blocking_handle:
        file.reset();
        held.reset();
        copy.reset();
        blocking.reset();
        break;
      }
      elsewhere(
          [&] { is_mapped = !support::eventually([&] { return !support::is_mapped(path_); }); });
    });
    EXPECT_FALSE(is_mapped);
  }
}

TEST_F(never_waits, in_cancel) {
  make_cold(8 * mebibyte);
  on_watched_loop([&]() -> work {
    for (const int turns : {0, 1, 3}) {
      mapped_file file(*io_);
      std::optional<support::verb_memory> memory;
      elsewhere([&] { memory.emplace(io_->get_executor(), dir_ / "other"); });
      co_await file.open(path_, support::read_write());
      int open = 0;
      const auto make = [&](const char*) {
        ++open;
        return [&open](std::error_code, auto...) { --open; };
      };
      support::start_every_verb(file, *memory, make);
      auto chunks = file.chunks(page());
      chunks.next(make("next"));
      file.update_region(3 * mebibyte, asio::buffer(memory->out), make("update"));
      file.prefetch(make("prefetch"));
      for (int i = 0; i < turns; ++i)
        co_await asio::post(co_await asio::this_coro::executor, asio::use_awaitable);
      file.cancel();
      memory->other.cancel();
      file.close(make("close"));
      while (open != 0)
        co_await pause();
      memory.reset();
    }
  });
}

}  // namespace
