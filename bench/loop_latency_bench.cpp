// How late a loop is while it works with files: a ticker on the loop's thread, beside the awaited
// verbs of mapio and beside the blocking ones.

#include "comparison.hpp"
#include "round_trips.hpp"

#include <mapio/backend.hpp>
#include <mapio/chunk_stream.hpp>
#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>
#include <mapio/options.hpp>
#include <mapio/region.hpp>

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

using asio::use_awaitable;
using bench::last_error;
using bench::on_pool;
using bench::result_of;
using mapio::backend_kind;
using clock = std::chrono::steady_clock;

constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;
constexpr std::uint64_t gibibyte = std::uint64_t{1} << 30;
constexpr std::size_t page = 4096;
constexpr auto interval = std::chrono::milliseconds(1);
constexpr auto length = std::chrono::seconds(5);

// --- the ticker
// -----------------------------------------------------------------------------------------------------------

/// When the loop does what a phase is about, and not what only prepares it.
class measured_time {
 public:
  void begin() { parts_.push_back({clock::now(), clock::time_point::max()}); }
  void end() {
    if (!under_way()) return;
    parts_.back().end = clock::now();
    ended_ += parts_.back().end - parts_.back().begin;
  }
  clock::duration so_far() const {
    return under_way() ? ended_ + (clock::now() - parts_.back().begin) : ended_;
  }
  /// Whoever asks does so in the order of time, and keeps `next`, which is 0 at first.
  bool contains(clock::time_point t, std::size_t& next) const {
    while (next < parts_.size() && parts_[next].end <= t)
      ++next;
    return next < parts_.size() && parts_[next].begin <= t;
  }

 private:
  struct part {
    clock::time_point begin;
    clock::time_point end;
  };
  bool under_way() const {
    return !parts_.empty() && parts_.back().end == clock::time_point::max();
  }

  std::vector<part> parts_;
  clock::duration ended_{};
};

/// How late ticks were. The deadlines are fixed from the start: a tick that was missed counts with
/// the lateness that it would have had, whatever is measured by then.
class lateness {
 public:
  lateness() { all_.reserve(1 << 16); }

  /// Adds all ticks up to now, and moves `deadline` behind them.
  void add(clock::time_point& deadline, const measured_time& measured) {
    for (const clock::time_point now = clock::now(); deadline <= now; deadline += interval)
      add(deadline, now - deadline, measured);
  }
  /// The same of one that was measured elsewhere.
  void add(clock::time_point deadline, clock::duration late, const measured_time& measured) {
    if (measured.contains(deadline, next_)) all_.push_back(late);
  }
  /// Returns the lateness that a share of the ticks does not exceed, in nanoseconds.
  double quantile(double share) {
    std::sort(all_.begin(), all_.end());
    const auto last = static_cast<double>(all_.size() - 1);
    return static_cast<double>(all_[static_cast<std::size_t>(share * last + 0.5)].count());
  }
  std::size_t ticks() const noexcept { return all_.size(); }

 private:
  std::vector<std::chrono::nanoseconds> all_;
  std::size_t next_ = 0;
};

/// Ticks on the loop for as long as goes_on() says, and at least until all deadlines so far are
/// accounted for.
template <class GoesOn>
asio::awaitable<void> tick(lateness& late, GoesOn goes_on, const measured_time& measured) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  for (clock::time_point deadline = clock::now() + interval; goes_on();) {
    timer.expires_at(deadline);
    co_await timer.async_wait(use_awaitable);
    late.add(deadline, measured);
  }
}

/// Ticks in a thread of real time that does nothing else: so much of the lateness is the machine's.
/// Where such a thread is not to be had there are no ticks.
class real_time_ticker {
 public:
  /// Ends, and returns what was measured.
  lateness end(const measured_time& measured) {
    thread_ = {};
    lateness result;
    for (const auto& [deadline, late] : ticks_)
      result.add(deadline, late, measured);
    return result;
  }

 private:
  void run(const std::stop_token& stop) {
    const sched_param priority{.sched_priority = 1};
    if (::pthread_setschedparam(::pthread_self(), SCHED_FIFO, &priority) != 0) return;
    for (clock::time_point deadline = clock::now() + interval; !stop.stop_requested();) {
      std::this_thread::sleep_until(deadline);
      for (const clock::time_point now = clock::now(); deadline <= now; deadline += interval)
        ticks_.emplace_back(deadline, now - deadline);
    }
  }

  std::vector<std::pair<clock::time_point, clock::duration>> ticks_;
  std::jthread thread_{[this](const std::stop_token& stop) { run(stop); }};
};

// --- what the loop does meanwhile
// -----------------------------------------------------------------------------------------

void check(const std::error_code& error, const char* what) {
  if (error) throw std::system_error(error, what);
}
void check(bool ok, const char* what) {
  if (!ok) check(last_error(), what);
}

/// Lets the others have their turn: a coroutine that blocks never gives it up otherwise.
asio::awaitable<void> yield() {
  co_await asio::post(co_await asio::this_coro::executor, use_awaitable);
}

/// What one phase works with.
struct scene {
  std::filesystem::path directory;
  bench::loop& loop;
  asio::thread_pool& helper;  // for what belongs to no verb that is measured
  measured_time measured;

  bool goes_on() const { return measured.so_far() < length; }
};

/// One kind of work: what its constructor does is on nobody's time; then `coroutines` of them
/// step() again and again.
class work {
 public:
  explicit work(scene& s) : scene_(s) {}
  work(const work&) = delete;
  work& operator=(const work&) = delete;
  virtual ~work() = default;
  virtual std::size_t coroutines() const { return 1; }
  virtual asio::awaitable<void> step(std::size_t coroutine) = 0;

 protected:
  scene& scene_;
};

/// Waits for the end.
class idle : public work {
 public:
  using work::work;
  asio::awaitable<void> step(std::size_t) override {
    asio::steady_timer timer(co_await asio::this_coro::executor, length);
    co_await timer.async_wait(use_awaitable);
  }
};

/// Waits for the end while all processors but one have something to compute: no file is involved,
/// so this is what the machine makes of a loop beside any work.
class computing final : public idle {
 public:
  explicit computing(scene& s) : idle(s) {
    for (unsigned i = 1; i < std::thread::hardware_concurrency(); ++i)
      threads_.emplace_back([](const std::stop_token& stop) {
        for (std::uint64_t n = 0; !stop.stop_requested(); ++n)
          benchmark::DoNotOptimize(n);
      });
  }

 private:
  std::vector<std::jthread> threads_;
};

/// Makes a file of `size` bytes that are written and on the disk, in pieces of `piece`.
void make_file(const std::filesystem::path& path, std::uint64_t size, std::size_t piece) {
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  check(file >= 0, "open");
  const std::vector<std::byte> content(piece, std::byte{1});
  for (std::uint64_t at = 0; at < size; at += piece)
    check(::pwrite(file, content.data(), piece, static_cast<off_t>(at)) ==
              static_cast<ssize_t>(piece),
          "pwrite");
  check(::fsync(file) == 0, "fsync");
  ::close(file);
}

std::error_code drop_from_cache(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return last_error();
  const int error = ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  ::close(file);
  return {error, std::system_category()};
}

/// A file of which the work is, awaited or not.
template <bool Awaited>
using handle = std::conditional_t<Awaited, mapio::mapped_file, mapio::mapping>;

template <bool Awaited>
handle<Awaited> open(bench::loop& loop, const std::filesystem::path& path,
                     const mapio::open_options& how) {
  if constexpr (Awaited)
    return loop.open(path, how);
  else
    return mapio::mapping(path, how);
}

constexpr mapio::open_options writable{.mode = mapio::access::read_write};

/// 64 coroutines, each with a page of its own.
template <bool Awaited>
class durable_updates final : public work {
 public:
  explicit durable_updates(scene& s) : work(s) {
    const auto path = s.directory / "file";
    make_file(path, count * page, page);
    file_ = std::make_unique<handle<Awaited>>(open<Awaited>(s.loop, path, writable));
  }
  std::size_t coroutines() const override { return count; }
  asio::awaitable<void> step(std::size_t i) override {
    if constexpr (Awaited) {
      co_await file_->update_region(i * page, asio::buffer(record_), use_awaitable);
      co_await file_->flush_range(i * page, record_.size(), use_awaitable);
    } else {
      file_->update_region(i * page, asio::buffer(record_));
      file_->flush_range(i * page, record_.size());
      co_await yield();
    }
  }

 private:
  static constexpr std::size_t count = 64;
  std::array<std::byte, 256> record_{};
  std::unique_ptr<handle<Awaited>> file_;
};

/// Takes a file out of memory all the time, mapped or not and dirty or not, as a machine would that
/// has less memory than the file is large: in small pieces, as the kernel does.
class memory_pressure {
 public:
  explicit memory_pressure(const mapio::mapping& map)
      : all_(map.view(0, map.size())), file_(map.native_handle()),
        thread_([this](const std::stop_token& stop) {
          auto next = std::chrono::steady_clock::now();
          for (std::uint64_t at = 0; !stop.stop_requested(); at = (at + piece) % all_.size()) {
            reclaim(at);
            next = std::max(next + pace, std::chrono::steady_clock::now());
            std::this_thread::sleep_until(next);
          }
        }) {}

 private:
  static constexpr std::uint64_t piece = 8 * mebibyte;
  static constexpr std::chrono::milliseconds pace{4};  // a GiB in half a second

  void reclaim(std::uint64_t at) const {
    void* const address = const_cast<std::byte*>(all_.data() + at);
    const auto offset = static_cast<off_t>(at);
    // A shared mapping loses nothing by this but its page tables; what is mapped is not dropped.
    ::madvise(address, piece, MADV_DONTNEED);
    ::sync_file_range(file_, offset, piece,
                      SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                          SYNC_FILE_RANGE_WAIT_AFTER);
    ::posix_fadvise(file_, offset, piece, POSIX_FADV_DONTNEED);
  }

  mapio::region all_;
  int file_;
  std::jthread thread_;
};

/// Updates anywhere in a file that never is in memory for long: so many per second, or as many as
/// there can be.
template <bool Awaited, int PerSecond>
class cold_updates final : public work {
 public:
  explicit cold_updates(scene& s) : work(s) {
    const auto path = s.directory / "file";
    make_file(path, size, mebibyte);
    file_ = std::make_unique<handle<Awaited>>(open<Awaited>(s.loop, path, writable));
    if constexpr (Awaited)
      pressure_ = std::make_unique<memory_pressure>(file_->map());
    else
      pressure_ = std::make_unique<memory_pressure>(*file_);
  }
  std::size_t coroutines() const override { return count; }
  asio::awaitable<void> step(std::size_t i) override {
    if constexpr (PerSecond != 0) co_await turn(i);
    const std::uint64_t at = random_() % (size / record_.size()) * record_.size();
    if constexpr (Awaited) {
      co_await file_->update_region(at, asio::buffer(record_), use_awaitable);
    } else {
      file_->update_region(at, asio::buffer(record_));
      co_await yield();
    }
  }

 private:
  static constexpr std::uint64_t size = gibibyte;
  static constexpr std::size_t count = 64;

  /// Waits until it is a coroutine's turn; one that is late gives up what it missed.
  asio::awaitable<void> turn(std::size_t i) {
    constexpr clock::duration gap = std::chrono::duration_cast<clock::duration>(
        std::chrono::duration<double>(static_cast<double>(count) / PerSecond));
    if (turns_[i] == clock::time_point()) turns_[i] = clock::now() + gap * i / count;
    asio::steady_timer timer(co_await asio::this_coro::executor, turns_[i]);
    turns_[i] = std::max(turns_[i] + gap, clock::now());
    co_await timer.async_wait(use_awaitable);
  }

  std::array<std::byte, 64> record_{};
  std::array<clock::time_point, count> turns_{};
  std::mt19937_64 random_{1};
  std::unique_ptr<handle<Awaited>> file_;
  std::unique_ptr<memory_pressure> pressure_;
};

template <bool Awaited>
using all_cold_updates = cold_updates<Awaited, 0>;
template <bool Awaited>
using some_cold_updates = cold_updates<Awaited, 2000>;

void look_at(const mapio::region& bytes) {
  for (std::size_t at = 0; at < bytes.size(); at += page)
    benchmark::DoNotOptimize(*const_cast<const volatile std::byte*>(bytes.data() + at));
}

/// Looks at every page of a file from start to end, and again.
template <bool Awaited>
class cold_scan final : public work {
 public:
  explicit cold_scan(scene& s) : work(s), path_(s.directory / "file") {
    make_file(path_, size, mebibyte);
  }
  asio::awaitable<void> step(std::size_t) override {
    co_await on_pool(scene_.helper, [this] { return drop_from_cache(path_); });
    if constexpr (Awaited) {
      mapio::mapped_file file(co_await asio::this_coro::executor);
      co_await file.open(path_, {}, use_awaitable);
      for (auto chunks = file.chunks(mebibyte);;) {
        const mapio::region chunk = co_await chunks.next(use_awaitable);
        if (chunk.empty()) break;
        look_at(chunk);
      }
      co_await file.close(use_awaitable);
    } else {
      mapio::mapping file(path_);
      for (std::uint64_t at = 0; at < size; at += mebibyte) {
        look_at(file.view(at, mebibyte));
        co_await yield();
      }
      file.close();
    }
  }

 private:
  static constexpr std::uint64_t size = gibibyte;
  std::filesystem::path path_;
};

/// One coroutine lets a file grow, step by step, to its full size at the end of the phase; the
/// others read in it all the time.
template <bool Awaited>
class growth final : public work {
 public:
  explicit growth(scene& s)
      : work(s), file_(open<Awaited>(s.loop, s.directory / "file",
                                     {.mode = mapio::access::read_write,
                                      .create = mapio::disposition::create_or_truncate,
                                      .size = mebibyte,
                                      .reserve = steps * mebibyte})) {}
  std::size_t coroutines() const override { return 1 + readers; }
  asio::awaitable<void> step(std::size_t i) override {
    if (i == 0)
      co_await grow();
    else
      co_await read();
  }

 private:
  static constexpr std::uint64_t steps = 4 * gibibyte / mebibyte;
  static constexpr std::size_t readers = 4;

  asio::awaitable<void> grow() {
    asio::steady_timer timer(co_await asio::this_coro::executor);
    const clock::time_point start = clock::now();
    for (std::uint64_t size = 2; size <= steps; ++size) {
      timer.expires_at(start + size * clock::duration(length) / steps);
      co_await timer.async_wait(use_awaitable);
      if constexpr (Awaited)
        co_await file_.resize(size * mebibyte, use_awaitable);
      else
        file_.resize(size * mebibyte);
    }
  }
  asio::awaitable<void> read() {
    const std::uint64_t at = random_() % (file_.size() / page) * page;
    std::array<std::byte, 64> bytes{};
    mapio::region seen;
    if constexpr (Awaited) {
      seen = co_await file_.view(at, page, use_awaitable);
      co_await file_.read_into(at, asio::buffer(bytes), use_awaitable);
    } else {
      seen = file_.view(at, page);
      file_.read_into(at, asio::buffer(bytes));
    }
    look_at(seen);
    if constexpr (!Awaited) co_await yield();
  }

  std::mt19937_64 random_{1};
  handle<Awaited> file_;
};

/// Closes a file with a gigabyte of dirty pages; every second time its last name is gone before.
/// Only the closing is measured.
template <bool Awaited>
class closing final : public work {
 public:
  explicit closing(scene& s) : work(s), path_(s.directory / "file") {}
  asio::awaitable<void> step(std::size_t) override {
    mapio::mapping map;
    const bool unlinked = std::exchange(unlinked_, !unlinked_);
    scene_.measured.end();
    co_await on_pool(scene_.helper, [&] { return prepare(map, unlinked); });
    scene_.measured.begin();
    if constexpr (Awaited) {
      mapio::mapped_file file(co_await asio::this_coro::executor, std::move(map));
      co_await file.close(use_awaitable);
    } else {
      map.close();
      co_await yield();
    }
    scene_.measured.end();
    if (!unlinked)
      co_await on_pool(scene_.helper, [this] { return result_of(::unlink(path_.c_str())); });
  }

 private:
  static constexpr std::uint64_t size = gibibyte;

  std::error_code prepare(mapio::mapping& map, bool unlinked) const {
    map = mapio::mapping::create(path_, size);
    const std::vector<std::byte> content(mebibyte, std::byte{1});
    const mapio::mutable_region all = map.mutable_view(0, size);
    for (std::uint64_t at = 0; at < size; at += mebibyte)
      std::copy(content.begin(), content.end(), all.begin() + static_cast<std::ptrdiff_t>(at));
    return unlinked ? result_of(::unlink(path_.c_str())) : std::error_code();
  }
  std::filesystem::path path_;
  bool unlinked_ = false;
};

// --- measuring
// ------------------------------------------------------------------------------------------------------------

void measure(benchmark::State& state, const std::filesystem::path& parent, backend_kind kind,
             const std::function<std::unique_ptr<work>(scene&)>& make) {
  const bench::work_directory directory(parent);
  lateness late;
  lateness of_machine;
  for (auto _ : state) {
    bench::loop loop(kind);
    asio::thread_pool helper(1);
    scene s{directory.path(), loop, helper, {}};
    const std::unique_ptr<work> w = make(s);
    // What the files before left to be written is not to disturb this.
    ::sync();
    real_time_ticker machine;
    const std::size_t coroutines = w->coroutines();
    std::size_t running = coroutines;
    const auto part = [&](std::size_t i) -> asio::awaitable<void> {
      if (i == coroutines) {
        co_await tick(
            late, [&] { return running != 0; }, s.measured);
        co_return;
      }
      while (s.goes_on())
        co_await w->step(i);
      --running;
    };
    const auto start = clock::now();
    s.measured.begin();
    loop.run(static_cast<std::int64_t>(coroutines + 1), coroutines + 1, part);
    state.SetIterationTime(std::chrono::duration<double>(clock::now() - start).count());
    of_machine = machine.end(s.measured);
  }
  state.counters["ticks"] = static_cast<double>(late.ticks());
  state.counters["p50"] = late.quantile(0.5);
  state.counters["p99"] = late.quantile(0.99);
  state.counters["p99.9"] = late.quantile(0.999);
  state.counters["max"] = late.quantile(1);
  if (of_machine.ticks() != 0) state.counters["machine"] = of_machine.quantile(0.999);
}

struct kind_of_work {
  const char* name;
  std::unique_ptr<work> (*awaited)(scene&);
  std::unique_ptr<work> (*blocking)(scene&);
};

template <template <bool> class Work>
constexpr kind_of_work of(const char* name) {
  return {name, [](scene& s) -> std::unique_ptr<work> { return std::make_unique<Work<true>>(s); },
          [](scene& s) -> std::unique_ptr<work> { return std::make_unique<Work<false>>(s); }};
}

constexpr const char* nothing = "idle";
constexpr const char* elsewhere = "idle, others compute";
constexpr const char* blocking = "blocking";
constexpr std::array engines = {
    std::pair{"awaited on io_uring", backend_kind::io_uring},
    std::pair{"awaited on mapio's thread_pool", backend_kind::thread_pool}};
constexpr std::array kinds = {of<durable_updates>("durable updates"),
                              of<some_cold_updates>("2000 random cold updates per second"),
                              of<all_cold_updates>("random cold updates"),
                              of<cold_scan>("cold scan"),
                              of<growth>("growth to 4 GiB"),
                              of<closing>("close of a dirty GiB")};

std::string title(const char* what, const char* how) {
  return std::string(what) + ", " + how;
}

void compare(const bench::medians& m, bench::table& t) {
  using milliseconds = std::chrono::duration<double, std::milli>;
  const auto p999_beside = [](double still) {
    return std::max(bench::table::nanoseconds(milliseconds(2)),
                    bench::table::nanoseconds(1.5 * still) + milliseconds(1));
  };
  const bench::table::nanoseconds most =
      bench::table::nanoseconds(m.counter(nothing, "max")) + milliseconds(10);
  t.absolute("idle, p99.9", m.counter(nothing, "p99.9"), m.counter(nothing, "p99.9"));
  t.absolute("idle, worst", m.counter(nothing, "max"), m.counter(nothing, "max"));
  t.absolute("idle, others compute, p99.9", m.counter(elsewhere, "p99.9"),
             m.counter(nothing, "p99.9"));
  t.absolute("idle, others compute, worst", m.counter(elsewhere, "max"), m.counter(nothing, "max"));
  for (const kind_of_work& kind : kinds)
    for (const auto& [how, engine] : engines) {
      const std::string awaited = title(kind.name, how);
      const auto line = [&](const char* counter, const char* name,
                            std::optional<bench::table::nanoseconds> limit) {
        t.absolute(awaited + ", " + name, m.counter(awaited, counter),
                   m.counter(title(kind.name, blocking), counter), limit);
      };
      line("p50", "p50", {});
      line("p99", "p99", {});
      line("p99.9", "p99.9", p999_beside(m.counter(nothing, "p99.9")));
      line("max", "worst (median of the runs)", most);
      const double machine = m.counter(awaited, "machine");
      t.absolute(awaited + ", p99.9 (baseline: a real-time thread meanwhile)",
                 m.counter(awaited, "p99.9"), machine, p999_beside(machine));
    }
}

void add(const std::string& name, const std::filesystem::path& directory, backend_kind kind,
         std::unique_ptr<work> (*make)(scene&)) {
  benchmark::RegisterBenchmark(
      name.c_str(), [=](benchmark::State& state) { measure(state, directory, kind, make); })
      ->UseManualTime()
      ->Iterations(1)
      ->Unit(benchmark::kMillisecond);
}

}  // namespace

int main(int argc, char** argv) {
  const bench::options given = bench::initialize(argc, argv, {.repetitions = 3});
  add(nothing, given.directory, backend_kind::automatic,
      [](scene& s) -> std::unique_ptr<work> { return std::make_unique<idle>(s); });
  add(elsewhere, given.directory, backend_kind::automatic,
      [](scene& s) -> std::unique_ptr<work> { return std::make_unique<computing>(s); });
  for (const kind_of_work& kind : kinds) {
    for (const auto& [how, engine] : engines)
      add(title(kind.name, how), given.directory, engine, kind.awaited);
    add(title(kind.name, blocking), given.directory, backend_kind::automatic, kind.blocking);
  }
  std::cerr << "How late a tick every millisecond is, in ns; baseline: the blocking verbs of "
               "mapping, on the loop's thread.\n";
  return bench::run(given, compare);
}
