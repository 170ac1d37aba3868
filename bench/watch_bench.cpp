// What a watcher costs beside a bare inotify descriptor that is read through Asio.
//
// The bare one does what its user would have to: parse what was read, and find the path. The size
// of the file, which comes with the events of a watcher, takes a look at it: that is a baseline of
// its own.

#include "comparison.hpp"

#include <mapio/watcher.hpp>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/error.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/use_awaitable.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <malloc.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

using clock = std::chrono::steady_clock;

// Written to in turn: equal notices in a row would be one.
constexpr std::size_t written_files = 64;
constexpr std::size_t many_files = 10'000;
constexpr std::size_t folders = 100;
// Less than what the kernel, or a watcher, keeps.
constexpr std::int64_t most_ahead = 4000;
constexpr std::chrono::seconds idle_time{1};

int checked(int result, const char* what) {
  if (result < 0) throw std::system_error(errno, std::system_category(), what);
  return result;
}

/// The files that are written to.
class written {
 public:
  explicit written(const std::filesystem::path& folder) {
    for (std::size_t i = 0; i < written_files; ++i)
      files_.push_back(checked(
          ::open((folder / std::to_string(i)).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600),
          "open"));
  }
  written(const written&) = delete;
  written& operator=(const written&) = delete;
  ~written() {
    for (const int file : files_)
      ::close(file);
  }

  void write() {
    checked(static_cast<int>(::pwrite(files_[next_++ % written_files], "x", 1, 0)), "pwrite");
  }

 private:
  std::vector<int> files_;
  std::size_t next_ = 0;
};

/// Reads an inotify descriptor through Asio.
template <bool Looks>
class bare {
 public:
  explicit bare(asio::io_context& io)
      : descriptor_(io, checked(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC), "inotify_init1")) {}

  void add(const std::filesystem::path& path) {
    const int id =
        ::inotify_add_watch(descriptor_.native_handle(), path.c_str(),
                            IN_MODIFY | IN_ATTRIB | IN_CREATE | IN_DELETE | IN_MOVED_FROM |
                                IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF);
    paths_[checked(id, "inotify_add_watch")] = path;
  }
  void add_tree(const std::filesystem::path& path) {
    add(path);
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path))
      if (entry.is_directory()) add(entry.path());
  }

  /// Calls told() for each event, until it returns false.
  template <class Told>
  asio::awaitable<void> run(Told told) {
    std::size_t n = 0;
    do
      n = co_await descriptor_.async_read_some(asio::buffer(buffer_), asio::use_awaitable);
    while (tell(n, told));
  }

 private:
  template <class Told>
  bool tell(std::size_t length, Told& told) {
    for (std::size_t at = 0; at < length;) {
      inotify_event event;
      std::memcpy(&event, buffer_.data() + at, sizeof event);
      at += sizeof event;
      mapio::change_event change;
      change.path = paths_.at(event.wd);
      if (event.len != 0) change.path /= reinterpret_cast<const char*>(buffer_.data() + at);
      at += event.len;
      if constexpr (Looks) {
        struct stat s {};
        if (::lstat(change.path.c_str(), &s) == 0)
          change.size = static_cast<std::uint64_t>(s.st_size);
      }
      benchmark::DoNotOptimize(change);
      if (!told()) return false;
    }
    return true;
  }

  asio::posix::stream_descriptor descriptor_;
  std::unordered_map<int, std::filesystem::path> paths_;
  alignas(inotify_event) std::array<std::byte, std::size_t{64} << 10> buffer_;
};

template <bool Sizes>
class watcher {
 public:
  explicit watcher(asio::io_context& io) : changes_(io, std::size_t{1} << 16) {}

  void add(const std::filesystem::path& path) { changes_.add(path, options(false)); }
  void add_tree(const std::filesystem::path& path) { changes_.add(path, options(true)); }

  template <class Told>
  asio::awaitable<void> run(Told told) {
    do {
      mapio::change_event change = co_await changes_.next(asio::use_awaitable);
      if (change.kind == mapio::change_kind::overflow) throw std::runtime_error("overflow");
      benchmark::DoNotOptimize(change);
    } while (told());
  }

 private:
  static mapio::watch_options options(bool recursive) {
    mapio::watch_options result;
    result.recursive = recursive;
    result.sizes = Sizes;
    return result;
  }

  mapio::watcher changes_;
};

/// A loop with a source of events in it.
template <class Source>
class scene {
 public:
  Source& source() { return source_; }

  /// Runs until told() returns false.
  template <class Told>
  void run(Told told) {
    io_.restart();
    asio::co_spawn(io_, source_.run(told), [](const std::exception_ptr& failure) {
      if (failure) std::rethrow_exception(failure);
    });
    io_.run();
  }
  /// Runs until something that is done to a path is told: all that is below it is watched then.
  void warm_up(written& files) {
    files.write();
    run([] { return false; });
  }

 private:
  asio::io_context io_{1};
  Source source_{io_};
};

// --- one event
// ------------------------------------------------------------------------------------------------

/// From a write of another thread to the handler, on a loop that waits.
template <class Source>
void measure_latency(benchmark::State& state, const std::filesystem::path& folder) {
  written files(folder);
  scene<Source> s;
  s.source().add(folder);
  s.warm_up(files);
  std::vector<double> latencies;
  latencies.reserve(static_cast<std::size_t>(state.max_iterations));
  std::atomic<std::int64_t> wanted{0};
  std::atomic<clock::time_point> begin;
  std::thread writer([&] {
    for (std::int64_t i = 0; i < state.max_iterations; ++i) {
      while (wanted.load() <= i)
        std::this_thread::yield();
      // Until the loop waits.
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      begin = clock::now();
      files.write();
    }
  });
  std::int64_t left = state.max_iterations;
  while (state.KeepRunningBatch(state.max_iterations)) {
    ++wanted;
    s.run([&] {
      latencies.push_back(
          std::chrono::duration<double, std::nano>(clock::now() - begin.load()).count());
      if (--left == 0) return false;
      ++wanted;
      return true;
    });
  }
  writer.join();
  std::nth_element(latencies.begin(),
                   latencies.begin() + static_cast<std::ptrdiff_t>(latencies.size() / 2),
                   latencies.end());
  state.counters["p50"] = latencies[latencies.size() / 2];
}

// --- many events
// ------------------------------------------------------------------------------------------------

/// While another thread writes as fast as it can, and as what is read allows.
template <class Source>
void measure_rate(benchmark::State& state, const std::filesystem::path& folder) {
  written files(folder);
  scene<Source> s;
  s.source().add(folder);
  s.warm_up(files);
  std::atomic<std::int64_t> read{0};
  const std::int64_t count = state.max_iterations;
  while (state.KeepRunningBatch(count)) {
    std::thread writer([&] {
      for (std::int64_t i = 0; i < count; ++i) {
        while (i - read.load(std::memory_order_relaxed) > most_ahead)
          std::this_thread::yield();
        files.write();
      }
    });
    std::int64_t left = count;
    s.run([&] {
      read.fetch_add(1, std::memory_order_relaxed);
      return --left > 0;
    });
    writer.join();
  }
  state.SetItemsProcessed(state.iterations());
}

// --- no event
// ------------------------------------------------------------------------------------------------

/// How often threads of this process had to wait so far, but this one.
std::int64_t waits_of_others() {
  std::int64_t waits = 0;
  const std::string self = std::to_string(::gettid());
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    if (task.path().filename() == self) continue;
    std::ifstream status(task.path() / "status");
    constexpr std::string_view wanted = "voluntary_ctxt_switches:";
    for (std::string line; std::getline(status, line);)
      if (line.starts_with(wanted)) waits += std::stoll(line.substr(wanted.size()));
  }
  return waits;
}

template <class Source>
void measure_idle(benchmark::State& state, const std::filesystem::path& folder) {
  written files(folder);
  scene<Source> s;
  s.source().add_tree(folder);
  s.warm_up(files);
  double waits = 0;
  for (auto _ : state) {
    std::atomic<bool> is_over{false};
    std::thread loop([&] { s.run([&] { return !is_over.load(); }); });
    // What was begun by adding comes to its end.
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const std::int64_t before = waits_of_others();
    std::this_thread::sleep_for(idle_time);
    waits += static_cast<double>(waits_of_others() - before);
    is_over = true;
    files.write();
    loop.join();
  }
  state.counters["waits"] = waits / static_cast<double>(state.iterations());
}

// --- many files
// ------------------------------------------------------------------------------------------------

void make_many(const std::filesystem::path& top) {
  if (std::filesystem::exists(top)) return;
  for (std::size_t i = 0; i < folders; ++i)
    std::filesystem::create_directories(top / std::to_string(i));
  for (std::size_t i = 0; i < many_files; ++i)
    std::ofstream(top / std::to_string(i % folders) / std::to_string(i));
}

/// Until a change in every folder is told, which is made once all are added: each is watched then,
/// and listed.
template <class Source>
void measure_many(benchmark::State& state, const std::filesystem::path& top, bool as_tree) {
  make_many(top);
  double memory = 0;
  for (auto _ : state) {
    const std::size_t before = ::mallinfo2().uordblks;
    scene<Source> s;
    if (as_tree)
      s.source().add_tree(top);
    else
      for (std::size_t i = 0; i < many_files; ++i)
        s.source().add(top / std::to_string(i % folders) / std::to_string(i));
    for (std::size_t i = 0; i < folders; ++i)
      std::ofstream(top / std::to_string(i) / std::to_string(i), std::ios::app) << 'x';
    std::size_t left = folders;
    s.run([&] { return --left > 0; });
    state.PauseTiming();
    memory = static_cast<double>(::mallinfo2().uordblks - before);
    state.ResumeTiming();
  }
  state.counters["bytes"] = memory;
}

// --- all of it
// ------------------------------------------------------------------------------------------------

constexpr const char* latency = "write() to handler";
constexpr const char* rate = "events";
constexpr const char* idle = "idle";
constexpr const char* files = "10,000 files, each by itself";
constexpr const char* tree = "10,000 files, as a tree";
constexpr const char* by_watcher = ", mapio::watcher without sizes";
constexpr const char* by_looking_watcher = ", mapio::watcher";
constexpr const char* by_bare = ", bare inotify";
constexpr const char* by_looking = ", bare inotify and lstat";

template <class Source>
void add_all(const char* how, const std::filesystem::path& few, const std::filesystem::path& many) {
  const auto add = [&](const char* what, auto measure) {
    return benchmark::RegisterBenchmark((std::string(what) + how).c_str(), measure)->UseRealTime();
  };
  add(latency, [few](benchmark::State& s) { measure_latency<Source>(s, few); })->Iterations(2000);
  add(rate, [few](benchmark::State& s) { measure_rate<Source>(s, few); })->Iterations(200'000);
  add(idle, [few](benchmark::State& s) { measure_idle<Source>(s, few); })->Iterations(1);
  add(files, [many](benchmark::State& s) { measure_many<Source>(s, many, false); })->Iterations(1);
  add(tree, [many](benchmark::State& s) { measure_many<Source>(s, many, true); })->Iterations(1);
}

void compare(const bench::medians& m, bench::table& t) {
  const auto name = [](const char* what, const char* how) { return std::string(what) + how; };
  // The bare one does not know a file's size, unless it looks.
  for (const auto& [how, base] :
       {std::pair(by_watcher, by_bare), std::pair(by_looking_watcher, by_looking),
        std::pair(by_looking_watcher, by_bare)}) {
    t.slower(std::string("write() to handler, p50") + how + "; baseline" + base,
             m.counter(name(latency, how), "p50"), m.counter(name(latency, base), "p50"), 1.3);
    t.faster(std::string("events per second") + how + "; baseline" + base, m.rate(name(rate, how)),
             m.rate(name(rate, base)), 0.8);
  }
  t.count("wake-ups in a second without events", m.counter(name(idle, by_watcher), "waits"),
          m.counter(name(idle, by_bare), "waits"), 0.0);
  for (const char* what : {files, tree}) {
    t.slower(what, m.time(name(what, by_watcher)), m.time(name(what, by_bare)));
    t.bytes(name(what, ", memory"), m.counter(name(what, by_watcher), "bytes"),
            m.counter(name(what, by_bare), "bytes"));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bench::options given = bench::initialize(argc, argv, {.repetitions = 5});
  // What memory is in use is known of one arena.
  ::mallopt(M_ARENA_MAX, 1);
  const bench::work_directory directory(given.directory);
  const std::filesystem::path few = directory.path() / "few";
  const std::filesystem::path many = directory.path() / "many";
  std::filesystem::create_directory(few);
  add_all<watcher<false>>(by_watcher, few, many);
  add_all<watcher<true>>(by_looking_watcher, few, many);
  add_all<bare<false>>(by_bare, few, many);
  add_all<bare<true>>(by_looking, few, many);
  return bench::run(given, compare);
}
