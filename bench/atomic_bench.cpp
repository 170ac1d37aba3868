// Atomics in a file: what an operation costs beside one on memory of the process, and how fast two
// processes answer each other through an awaited one, beside a pipe through Asio.

#include "comparison.hpp"
#include "round_trips.hpp"

#include <mapio/atomic_cell.hpp>
#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/read.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using namespace std::chrono_literals;
using bench::last_error;
using mapio::backend_kind;

constexpr std::uint32_t rounds = 20'000;
constexpr std::uint32_t many_rounds = 1'000'000;
constexpr std::size_t page = 4096;

// --- one operation
// ---------------------------------------------------------------------------------------------------------------

template <class Atomic>
void add_operations(const std::string& where, const Atomic& word) {
  const auto add = [&](const std::string& what, auto operation) {
    benchmark::RegisterBenchmark((what + where).c_str(),
                                 [word, operation](benchmark::State& state) {
                                   for (auto _ : state)
                                     benchmark::DoNotOptimize(operation(word));
                                 });
  };
  add("load ", [](const Atomic& a) { return a.load(); });
  add("store ", [](const Atomic& a) {
    a.store(1);
    return 0;
  });
  add("fetch_add ", [](const Atomic& a) { return a.fetch_add(1); });
  add("compare_exchange ", [](const Atomic& a) {
    std::uint64_t expected = 1;
    return a.compare_exchange_strong(expected, 1);
  });
}
constexpr std::array operations = {"load ", "store ", "fetch_add ", "compare_exchange "};
constexpr const char* in_a_file = "through a view";
constexpr const char* in_memory = "of a std::atomic_ref";
constexpr const char* taken = "view taken, fetch_add, view dropped";
constexpr const char* unheard = "notify_one that nobody waits for";

// --- two processes
// ---------------------------------------------------------------------------------------------------------------

/// A process that does something until that returns.
class partner {
 public:
  template <class Body>
  explicit partner(Body body) : pid_(::fork()) {
    if (pid_ == -1) throw std::system_error(last_error(), "fork");
    if (pid_ != 0) return;
    try {
      body();
      ::_exit(0);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "the other process: %s\n", e.what());
      ::_exit(1);
    }
  }
  partner(const partner&) = delete;
  partner& operator=(const partner&) = delete;
  ~partner() { ::waitpid(pid_, nullptr, 0); }

 private:
  pid_t pid_;
};

/// Runs what make(context) returns a coroutine of, on a context of its own.
template <class Make>
void run_to_end(Make make) {
  asio::io_context io(1);
  std::exception_ptr failure;
  asio::co_spawn(io, make(io), [&](std::exception_ptr e) { failure = std::move(e); });
  io.run();
  if (failure) std::rethrow_exception(failure);
}

/// The time of each round trip.
class stop_watch {
 public:
  explicit stop_watch(std::uint32_t count) { times_.reserve(count); }
  void start() { began_ = std::chrono::steady_clock::now(); }
  void stop() {
    times_.push_back(
        std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - began_)
            .count());
  }
  double quantile(double share) {
    const auto at = times_.begin() +
                    static_cast<std::ptrdiff_t>(share * static_cast<double>(times_.size() - 1));
    std::nth_element(times_.begin(), at, times_.end());
    return *at;
  }
  std::size_t count() const { return times_.size(); }

 private:
  std::chrono::steady_clock::time_point began_;
  std::vector<double> times_;
};

/// Waits until it is somebody's turn, and gives it to the other one; even values are the turns of
/// who begins.
asio::awaitable<void> move(const mapio::atomic_cell<std::uint32_t>& turn, std::uint32_t mine) {
  for (std::uint32_t seen = turn.load(); seen != mine; seen = turn.load())
    co_await turn.wait(seen, asio::use_awaitable);
  turn.store(mine + 1);
  turn.notify_one();
}

asio::awaitable<void> answer_through_file(asio::io_context& io, std::filesystem::path path,
                                          backend_kind kind, std::uint32_t count) {
  mapio::use_backend(io, kind);
  mapio::mapped_file file(io);
  co_await file.open(path, {.mode = mapio::access::read_write}, asio::use_awaitable);
  const auto turn = file.atomic<std::uint32_t>(0);
  for (std::uint32_t i = 0; i < count; ++i)
    co_await move(turn, 2 * i + 1);
}

asio::awaitable<void> ask_through_file(asio::io_context& io, std::filesystem::path path,
                                       backend_kind kind, std::uint32_t count, stop_watch& watch) {
  mapio::use_backend(io, kind);
  mapio::mapped_file file(io);
  co_await file.open(path, {.mode = mapio::access::read_write}, asio::use_awaitable);
  const auto turn = file.atomic<std::uint32_t>(0);
  for (std::uint32_t i = 0; i < count; ++i) {
    watch.start();
    co_await move(turn, 2 * i);
    while (turn.load() == 2 * i + 1)
      co_await turn.wait(2 * i + 1, asio::use_awaitable);
    watch.stop();
  }
}

struct pipe_ends {
  pipe_ends() {
    if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0)
      throw std::system_error(last_error(), "pipe2");
  }
  std::array<int, 2> ends{};
};

/// Awaited, a write that is done at once still takes a turn of the loop.
enum class pipe_writes { awaited, at_once };

asio::awaitable<void> tell(asio::posix::stream_descriptor& out, pipe_writes how) {
  constexpr char byte = 0;
  if (how == pipe_writes::awaited)
    co_await asio::async_write(out, asio::buffer(&byte, 1), asio::use_awaitable);
  else
    asio::write(out, asio::buffer(&byte, 1));
}

asio::awaitable<void> hear(asio::posix::stream_descriptor& in) {
  char byte = 0;
  co_await asio::async_read(in, asio::buffer(&byte, 1), asio::use_awaitable);
}

asio::awaitable<void> answer_through_pipe(asio::io_context& io, int from, int to, pipe_writes how,
                                          std::uint32_t count) {
  asio::posix::stream_descriptor in(io, from);
  asio::posix::stream_descriptor out(io, to);
  for (std::uint32_t i = 0; i < count; ++i) {
    co_await hear(in);
    co_await tell(out, how);
  }
}

asio::awaitable<void> ask_through_pipe(asio::io_context& io, int from, int to, pipe_writes how,
                                       std::uint32_t count, stop_watch& watch) {
  asio::posix::stream_descriptor in(io, from);
  asio::posix::stream_descriptor out(io, to);
  for (std::uint32_t i = 0; i < count; ++i) {
    watch.start();
    co_await tell(out, how);
    co_await hear(in);
    watch.stop();
  }
}

/// Registers a game of two processes that play(count, watch) makes.
template <class Play>
benchmark::internal::Benchmark* add_game(const std::string& name, std::uint32_t count, Play play) {
  return benchmark::RegisterBenchmark(name.c_str(),
                                      [play, count](benchmark::State& state) {
                                        stop_watch watch(count);
                                        while (state.KeepRunningBatch(count))
                                          play(count, watch);
                                        state.counters["p50"] = watch.quantile(0.5);
                                        state.counters["p99"] = watch.quantile(0.99);
                                        state.counters["rounds"] =
                                            static_cast<double>(watch.count());
                                      })
      ->UseRealTime()
      ->Iterations(count);
}

auto through_file(const std::filesystem::path& path, backend_kind kind) {
  return [path, kind](std::uint32_t count, stop_watch& watch) {
    mapio::mapping::create(path, page);
    const partner other([&] {
      run_to_end([&](asio::io_context& io) { return answer_through_file(io, path, kind, count); });
    });
    run_to_end(
        [&](asio::io_context& io) { return ask_through_file(io, path, kind, count, watch); });
  };
}

auto through_pipe(pipe_writes how) {
  return [how](std::uint32_t count, stop_watch& watch) {
    const auto [ask_in, ask_out] = pipe_ends().ends;
    const auto [answer_in, answer_out] = pipe_ends().ends;
    {
      const partner other([&, from = ask_in, to = answer_out] {
        run_to_end(
            [&](asio::io_context& io) { return answer_through_pipe(io, from, to, how, count); });
      });
      run_to_end([&, from = answer_in, to = ask_out](asio::io_context& io) {
        return ask_through_pipe(io, from, to, how, count, watch);
      });
    }
    ::close(ask_in);
    ::close(answer_out);
  };
}

constexpr const char* by_pipe = "ask and answer: pipe through Asio";
constexpr const char* by_pipe_at_once = "ask and answer: pipe through Asio, written at once";
std::string by_file(backend_kind kind) {
  return std::string("ask and answer: awaited atomic, ") +
         (kind == backend_kind::io_uring ? "io_uring" : "thread_pool");
}
std::string by_file_again(backend_kind kind) {
  return by_file(kind) + ", a million times";
}
constexpr std::array engines = {backend_kind::io_uring, backend_kind::thread_pool};

void compare(const bench::medians& m, bench::table& t) {
  for (const char* what : operations) {
    const std::string operation = what;
    t.absolute(operation + in_a_file + " (baseline: " + in_memory + ")",
               m.processor_time(operation + in_a_file), m.processor_time(operation + in_memory),
               15ns);
  }
  t.absolute(std::string(taken) + " (baseline: the fetch_add)", m.processor_time(taken),
             m.processor_time(std::string("fetch_add ") + in_a_file));
  t.absolute(std::string(unheard) + " (the same)", m.processor_time(unheard),
             m.processor_time(std::string("fetch_add ") + in_a_file));
  for (const backend_kind kind : engines) {
    for (const char* quantile : {"p50", "p99"}) {
      const bool is_promised = kind == backend_kind::io_uring && quantile == std::string("p50");
      t.slower(by_file(kind) + ", " + quantile + " (baseline: pipe)",
               m.counter(by_file(kind), quantile), m.counter(by_pipe, quantile),
               is_promised ? std::optional(1.1) : std::nullopt);
    }
    t.slower(by_file(kind) + ", p50 (baseline: pipe, written at once)",
             m.counter(by_file(kind), "p50"), m.counter(by_pipe_at_once, "p50"));
    t.factor(by_file_again(kind) + ": answers (baseline: questions)",
             m.counter(by_file_again(kind), "rounds"), many_rounds, 1.0);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bench::options given = bench::initialize(argc, argv);
  const bench::work_directory directory(given.directory);
  mapio::mapping map = mapio::mapping::create(directory.path() / "words", page);
  add_operations(in_a_file, map.atomic<std::uint64_t>(0));
  alignas(64) std::uint64_t word = 0;
  add_operations(in_memory, std::atomic_ref<std::uint64_t>(word));
  benchmark::RegisterBenchmark(taken, [&map](benchmark::State& state) {
    for (auto _ : state)
      benchmark::DoNotOptimize(map.atomic<std::uint64_t>(0).fetch_add(1));
  });
  benchmark::RegisterBenchmark(unheard, [&map](benchmark::State& state) {
    const auto word_of_file = map.atomic<std::uint32_t>(64);
    for (auto _ : state)
      word_of_file.notify_one();
  });
  const std::filesystem::path path = directory.path() / "turns";
  add_game(by_pipe, rounds, through_pipe(pipe_writes::awaited));
  add_game(by_pipe_at_once, rounds, through_pipe(pipe_writes::at_once));
  for (const backend_kind kind : engines)
    add_game(by_file(kind), rounds, through_file(path, kind));
  for (const backend_kind kind : engines)
    add_game(by_file_again(kind), many_rounds, through_file(path, kind))->Repetitions(1);
  return bench::run(given, compare);
}
