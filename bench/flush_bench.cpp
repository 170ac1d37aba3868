// Durable updates by many coroutines of one thread, beside what is done without mapio and beside
// the best that a loop without coroutines can do.

#include "comparison.hpp"
#include "round_trips.hpp"
#if defined(MAPIO_BENCH_ASIO_FILE)
#include "asio_file.hpp"
#endif

#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>
#include <mapio/region.hpp>

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/io_context.hpp>
#include <asio/use_awaitable.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

using bench::last_error;
using bench::loop;
using bench::result_of;
using mapio::backend_kind;

constexpr std::size_t page = 4096;
constexpr std::size_t record = 256;
constexpr std::size_t pool_threads = 4;
constexpr std::array counts = {std::size_t{1}, std::size_t{8}, std::size_t{64}, std::size_t{512}};
constexpr std::size_t most_coroutines = counts.back();
// Short repetitions and many of them: a disk that others use too changes its mind within seconds,
// and what is compared should meet the same mood.
constexpr double seconds = 0.1;
constexpr int repetitions = 15;

std::array<std::byte, record> bytes{};

/// A file that is open without mapio.
class plain_file {
 public:
  explicit plain_file(const std::filesystem::path& path, int flags = O_RDWR)
      : descriptor_(::open(path.c_str(), flags | O_CLOEXEC, 0600)) {
    if (descriptor_ < 0) throw std::system_error(last_error(), path.string());
  }
  plain_file(const plain_file&) = delete;
  plain_file& operator=(const plain_file&) = delete;
  ~plain_file() { ::close(descriptor_); }

  std::error_code write(std::size_t offset, const void* data, std::size_t size) const {
    const ssize_t n = ::pwrite(descriptor_, data, size, static_cast<off_t>(offset));
    return n == static_cast<ssize_t>(size) ? std::error_code() : last_error();
  }
  std::error_code sync() const { return result_of(::fdatasync(descriptor_)); }
  int get() const noexcept { return descriptor_; }

 private:
  int descriptor_;
};

void check(const std::error_code& error) {
  if (error) throw std::system_error(error);
}

/// Makes a file whose blocks are all written and on the disk. Page by page: the page cache then
/// holds single pages, and a store dirties no more than its own, whoever makes it.
void make_file(const std::filesystem::path& path) {
  const plain_file file(path, O_RDWR | O_CREAT | O_EXCL);
  const std::array<std::byte, page> content{};
  for (std::size_t i = 0; i < most_coroutines; ++i)
    check(file.write(i * page, content.data(), content.size()));
  check(result_of(::fsync(file.get())));
}

class plain_mapping {
 public:
  explicit plain_mapping(const std::filesystem::path& path) {
    const plain_file file(path);
    void* const address = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (address == MAP_FAILED) throw std::system_error(last_error(), "mmap");
    base_ = static_cast<std::byte*>(address);
  }
  plain_mapping(const plain_mapping&) = delete;
  plain_mapping& operator=(const plain_mapping&) = delete;
  ~plain_mapping() { ::munmap(base_, size); }

  std::byte* at(std::size_t index) const noexcept { return base_ + index * page; }

 private:
  static constexpr std::size_t size = most_coroutines * page;
  std::byte* base_ = nullptr;
};

std::string title(const std::string& how, std::size_t coroutines) {
  return how + ", " + std::to_string(coroutines) + (coroutines == 1 ? " coroutine" : " coroutines");
}

/// Registers what prepare() returns: a run(count) that makes so many durable updates.
template <class Prepare>
void add(const std::string& how, std::size_t coroutines, Prepare prepare) {
  benchmark::RegisterBenchmark(title(how, coroutines).c_str(),
                               [prepare, coroutines](benchmark::State& state) {
                                 auto run = prepare(state);
                                 run(static_cast<std::int64_t>(16 + 2 * coroutines));
                                 while (state.KeepRunningBatch(state.max_iterations))
                                   run(state.max_iterations);
                                 state.SetItemsProcessed(state.iterations());
                               })
      ->UseRealTime()
      ->MinTime(seconds);
}

struct engine {
  backend_kind kind;
  const char* name;
};
constexpr std::array engines = {engine{backend_kind::io_uring, "mapio on io_uring"},
                                engine{backend_kind::thread_pool, "mapio on its thread_pool"}};

asio::awaitable<void> update_durably(mapio::mapped_file& file, std::uint64_t offset) {
  co_await file.update_region(offset, asio::buffer(bytes), asio::use_awaitable);
  co_await file.flush_range(offset, record, asio::use_awaitable);
}

/// Also tells how many updates each sync served, and how many syncs there were.
void add_mapio(const engine& e, const std::filesystem::path& path, std::size_t coroutines) {
  const auto prepare = [kind = e.kind, path, coroutines](benchmark::State& state) {
    auto l = std::make_shared<loop>(kind);
    return [l, file = l->open(path), coroutines, &state](std::int64_t count) mutable {
      const std::uint64_t syncs_before = file.stats().syncs;
      const auto once = [&file](std::size_t i) { return update_durably(file, i * page); };
      l->run(count, coroutines, once);
      const auto syncs = static_cast<double>(file.stats().syncs - syncs_before);
      state.counters["syncs_per_second"] = benchmark::Counter(syncs, benchmark::Counter::kIsRate);
      state.counters["records_per_sync"] = static_cast<double>(count) / syncs;
    };
  };
  add(e.name, coroutines, prepare);
}

constexpr const char* on_msync = "store, msync on a pool";
constexpr const char* on_asio = "Asio's file, fdatasync on a pool";
constexpr const char* ideal = "pwrite each, one fdatasync, no event loop";
constexpr const char* on_one_thread = "pwrite and fdatasync on a pool of 1";
constexpr const char* on_four_threads = "pwrite and fdatasync on a pool of 4";

void add_msync(const std::filesystem::path& path, std::size_t coroutines) {
  const auto prepare = [path, coroutines](benchmark::State&) {
    auto memory = std::make_shared<plain_mapping>(path);
    auto sync = bench::calls_on_pool(pool_threads, [memory](std::size_t i) {
      return result_of(::msync(memory->at(i), page, MS_SYNC));
    });
    auto l = std::make_shared<loop>(backend_kind::thread_pool);
    return [memory, sync, l, coroutines](std::int64_t count) {
      const auto once = [&](std::size_t i) {
        std::memcpy(memory->at(i), bytes.data(), record);
        return sync(i);
      };
      l->run(count, coroutines, once);
    };
  };
  add(on_msync, coroutines, prepare);
}

#if defined(MAPIO_BENCH_ASIO_FILE)
void add_asio_file(const std::filesystem::path& path, std::size_t coroutines) {
  add(on_asio, coroutines, [path, coroutines](benchmark::State&) {
    auto file = std::make_shared<bench::asio_file>(path, pool_threads);
    return [file, coroutines](std::int64_t count) { file->run(count, coroutines, record, page); };
  });
}
#endif

void add_ideal(const std::filesystem::path& path, std::size_t coroutines) {
  add(ideal, coroutines, [path, coroutines](benchmark::State&) {
    auto file = std::make_shared<plain_file>(path);
    return [file, coroutines](std::int64_t count) {
      for (std::int64_t done = 0; done < count;) {
        const auto batch = std::min(static_cast<std::int64_t>(coroutines), count - done);
        for (std::int64_t i = 0; i < batch; ++i)
          check(file->write(static_cast<std::size_t>(i) * page, bytes.data(), record));
        check(file->sync());
        done += batch;
      }
    };
  });
}

void add_pooled(const char* name, std::size_t threads, const std::filesystem::path& path) {
  add(name, 1, [threads, path](benchmark::State&) {
    auto file = std::make_shared<plain_file>(path);
    auto update = bench::calls_on_pool(threads, [file](std::size_t i) {
      const std::error_code error = file->write(i * page, bytes.data(), record);
      return error ? error : file->sync();
    });
    auto l = std::make_shared<loop>(backend_kind::thread_pool);
    return [update, l](std::int64_t count) { l->run(count, 1, update); };
  });
}

void compare(const bench::medians& m, bench::table& t) {
  for (const engine& e : engines) {
    const bool promised = e.kind == backend_kind::io_uring;
    for (const std::size_t n : counts) {
      const std::string measured = title(e.name, n);
      const auto beside = [&](const char* baseline, std::optional<double> limit = {}) {
        t.faster(measured + " (baseline: " + baseline + ")", m.rate(measured),
                 m.rate(title(baseline, n)), promised ? limit : std::nullopt);
      };
      beside(ideal, n == 64 ? std::optional(0.8) : std::nullopt);
      beside(on_msync);
      beside(on_asio);
    }
    for (const char* baseline : {on_one_thread, on_four_threads}) {
      const std::string measured = title(e.name, 1);
      t.slower(measured + ", latency (baseline: " + baseline + ")", m.time(measured),
               m.time(title(baseline, 1)), promised ? std::optional(1.2) : std::nullopt);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bench::options given = bench::initialize(argc, argv, {.repetitions = repetitions});
  const bench::work_directory directory(given.directory);
  {
    asio::io_context io;
    std::ostringstream text;
    text << mapio::backend_of(io);
    benchmark::AddCustomContext("engine", text.str());
  }
  int files = 0;
  // A file for each, so that nobody's pages are dirtied by another.
  const auto file = [&] {
    const std::filesystem::path path = directory.path() / std::to_string(files++);
    make_file(path);
    return path;
  };
  for (const std::size_t n : counts) {
    for (const engine& e : engines)
      add_mapio(e, file(), n);
    add_msync(file(), n);
#if defined(MAPIO_BENCH_ASIO_FILE)
    add_asio_file(file(), n);
#endif
    add_ideal(file(), n);
  }
  add_pooled(on_one_thread, 1, file());
  add_pooled(on_four_threads, pool_threads, file());
  return bench::run(given, compare);
}
