// What the blocking verbs of mapio::mapping cost beside a bare memcpy on the same mapping.

#include "comparison.hpp"

#include <mapio/mapping.hpp>

#include <asio/buffer.hpp>

#include <benchmark/benchmark.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace std::chrono_literals;

struct copy_size {
  std::size_t bytes;
  const char* name;
};
constexpr std::array sizes = {copy_size{64, "64 B"}, copy_size{4096, "4 KiB"},
                              copy_size{64 << 10, "64 KiB"}, copy_size{1 << 20, "1 MiB"}};
constexpr std::size_t largest = sizes.back().bytes;
constexpr int most_threads = 2;

// Neither the call nor the size may be known to the compiler: those of mapio are not.
void* (*volatile bare_memcpy)(void*, const void*, std::size_t) = std::memcpy;

/// One file for all; each thread has a range of its own in it, and a buffer of its own.
struct fixture {
  explicit fixture(const std::filesystem::path& path)
      : map(mapio::mapping::create(path, most_threads * largest)),
        memory(map.mutable_view(0, map.size())) {
    std::memset(memory.data(), 1, memory.size());
    for (auto& buffer : buffers)
      buffer.assign(largest, std::byte{2});
  }

  mapio::mapping map;
  mapio::mutable_region memory;
  std::array<std::vector<std::byte>, most_threads> buffers;
};

struct range {
  range(fixture& f, const benchmark::State& state)
      : offset(static_cast<std::uint64_t>(state.thread_index()) * largest),
        mapped(f.memory.data() + offset),
        buffer(f.buffers[static_cast<std::size_t>(state.thread_index())].data()) {}

  std::uint64_t offset;
  std::byte* mapped;
  std::byte* buffer;
};

/// Runs the loop of a benchmark at another place in the page, by its stack, each time.
///
/// A load from the stack that has the last 12 bits of its address in common with a store into the
/// mapping before it must wait, so that by chance a whole process is slower by 10 ns per call. Over
/// the repetitions the chances even out.
template <class Loop>
[[gnu::noinline]] void somewhere_in_the_page(Loop loop) {
  static std::atomic<std::size_t> runs{0};
  volatile char* const padding =
      static_cast<char*>(__builtin_alloca(1 + runs.fetch_add(1) * 464 % 4096));
  *padding = 0;
  loop();
}

/// Registers the pair for one thread, and for two on disjoint ranges.
template <class Measured, class Baseline>
void add_pair(fixture& f, const std::string& verb, const copy_size& size, Measured measured,
              Baseline baseline) {
  const auto add = [&](const std::string& name, auto copy, int threads) {
    auto* added = benchmark::RegisterBenchmark(
        name.c_str(), [&f, copy, bytes = size.bytes](benchmark::State& state) {
          const range r(f, state);
          somewhere_in_the_page([&] {
            for (auto _ : state) {
              std::size_t n = bytes;
              benchmark::DoNotOptimize(n);
              copy(r, n);
              benchmark::ClobberMemory();
            }
          });
          state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes));
        });
    if (threads > 1) added->Threads(threads)->UseRealTime();
  };
  const std::string what = verb + " " + size.name;
  add(what, measured, 1);
  add("memcpy of " + what, baseline, 1);
  if (size.bytes > 4096) return;
  add(what + ", 2 threads", measured, 2);
  add("memcpy of " + what + ", 2 threads", baseline, 2);
}

void add_copies(fixture& f) {
  mapio::mapping& map = f.map;
  for (const copy_size& size : sizes) {
    add_pair(
        f, "update_region", size,
        [&map](const range& r, std::size_t n) {
          map.update_region(r.offset, asio::buffer(r.buffer, n));
        },
        [](const range& r, std::size_t n) { bare_memcpy(r.mapped, r.buffer, n); });
    add_pair(
        f, "read_into", size,
        [&map](const range& r, std::size_t n) {
          map.read_into(r.offset, asio::buffer(r.buffer, n));
        },
        [](const range& r, std::size_t n) { bare_memcpy(r.buffer, r.mapped, n); });
    add_pair(
        f, "guarded_copy", size,
        [](const range& r, std::size_t n) { mapio::guarded_copy(r.buffer, r.mapped, n); },
        [](const range& r, std::size_t n) { bare_memcpy(r.buffer, r.mapped, n); });
  }
}

void add_views(fixture& f) {
  benchmark::RegisterBenchmark("view", [&f](benchmark::State& state) {
    for (auto _ : state)
      benchmark::DoNotOptimize(f.map.view(0, 4096));
  });
  benchmark::RegisterBenchmark("mutable_view", [&f](benchmark::State& state) {
    for (auto _ : state)
      benchmark::DoNotOptimize(f.map.mutable_view(0, 4096));
  });
  benchmark::RegisterBenchmark("copy of a shared_ptr", [](benchmark::State& state) {
    const auto owner = std::make_shared<int>(1);
    for (auto _ : state) {
      std::shared_ptr<int> copy = owner;
      benchmark::DoNotOptimize(copy);
    }
  });
}

/// A file that is in memory and mapped, for loops over all of it.
struct warm_file {
  explicit warm_file(const std::filesystem::path& path)
      : map(mapio::mapping::create(path, std::uint64_t{256} << 20)) {
    for (const mapio::mutable_region& chunk : map.mutable_chunks(1 << 20))
      std::memset(chunk.data(), 3, chunk.size());
    map.prefetch();
  }

  mapio::mapping map;
};
constexpr std::size_t chunk_size = 64 << 10;

[[gnu::noinline]] std::uint64_t sum_of(const std::byte* data, std::size_t n) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i + sizeof sum <= n; i += sizeof sum) {
    std::uint64_t word = 0;
    std::memcpy(&word, data + i, sizeof word);
    sum += word;
  }
  return sum;
}

void add_chunks(warm_file& f) {
  // As many times for both, and what other benches left in the caches does not count: one that is
  // measured once, after them, is no match for one that finds all where it left it.
  const auto add = [](const char* name, auto sum_of_file) {
    benchmark::RegisterBenchmark(name,
                                 [sum_of_file](benchmark::State& state) {
                                   benchmark::DoNotOptimize(sum_of_file());
                                   for (auto _ : state)
                                     benchmark::DoNotOptimize(sum_of_file());
                                 })
        ->Iterations(8)
        ->Unit(benchmark::kMillisecond);
  };
  add("chunks(64 KiB)", [&f] {
    std::uint64_t sum = 0;
    for (const mapio::region& chunk : f.map.chunks(chunk_size))
      sum += sum_of(chunk.data(), chunk.size());
    return sum;
  });
  const mapio::region all = f.map.view(0, f.map.size());
  add("pointer by 64 KiB", [all] {
    std::uint64_t sum = 0;
    for (const std::byte* at = all.begin(); at != all.end(); at += chunk_size)
      sum += sum_of(at, chunk_size);
    return sum;
  });
}

void compare(const bench::medians& m, bench::table& t) {
  for (const char* verb : {"update_region", "read_into"}) {
    for (const copy_size& size : sizes) {
      const std::string what = std::string(verb) + " " + size.name;
      const double measured = m.processor_time(what);
      const double baseline = m.processor_time("memcpy of " + what);
      if (size.bytes <= 4096)
        t.difference(what, measured, baseline, 10ns);
      else
        t.slower(what, measured, baseline, 1.05);
    }
  }
  for (const char* verb : {"update_region", "read_into"}) {
    for (const char* size : {"64 B", "4 KiB"}) {
      const std::string what = std::string(verb) + " " + size;
      const double alone = m.processor_time(what);
      t.slower(what + ", 2 threads (baseline: 1)", m.processor_time(what + ", 2 threads"), alone,
               1.1);
      const auto speedup = [&m](const std::string& name) {
        return m.time(name) / m.time(name + ", 2 threads");
      };
      t.factor(what + ": speed-up by a 2nd thread", speedup(what), speedup("memcpy of " + what),
               0.9);
    }
  }
  for (const copy_size& size : sizes) {
    const std::string what = std::string("guarded_copy ") + size.name;
    const double measured = m.processor_time(what);
    const double baseline = m.processor_time("memcpy of " + what);
    if (size.bytes < 4096)
      t.difference(what, measured, baseline, 6ns);
    else
      t.slower(what, measured, baseline, 1.05);
  }
  const double shared_ptr = m.processor_time("copy of a shared_ptr");
  t.absolute("view and destroy (baseline: a shared_ptr)", m.processor_time("view"), shared_ptr,
             15ns);
  t.absolute("mutable_view and destroy (the same)", m.processor_time("mutable_view"), shared_ptr);
  t.slower("chunks(64 KiB) of 256 MiB (baseline: a pointer)", m.processor_time("chunks(64 KiB)"),
           m.processor_time("pointer by 64 KiB"), 1.05);
}

}  // namespace

int main(int argc, char** argv) {
  const bench::options given = bench::initialize(argc, argv);
  // Until a second thread was started, a shared_ptr counts without atomic operations.
  std::thread([] {}).join();
  const bench::work_directory directory(given.directory);
  fixture f(directory.path() / "file");
  add_copies(f);
  add_views(f);
  warm_file warm(directory.path() / "warm");
  add_chunks(warm);
  return bench::run(given, compare);
}
