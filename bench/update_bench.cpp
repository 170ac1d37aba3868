// What an awaited update of 64 bytes costs: of a page that was just written, beside a handler that
// is only posted, and of pages that have to come from the disk first.

#include "comparison.hpp"
#include "round_trips.hpp"

#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>
#include <mapio/options.hpp>
#include <mapio/region.hpp>

#include <asio/buffer.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>

#include <benchmark/benchmark.h>

#if defined(MAPIO_BENCH_RING)
#include <liburing.h>
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <sstream>
#include <stdexcept>
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
using mapio::backend_kind;

constexpr std::size_t page = 4096;
constexpr std::size_t record = 64;
constexpr std::size_t in_flight = 64;
constexpr std::size_t pool_threads = 4;
constexpr std::size_t file_size = std::size_t{1} << 30;
constexpr std::size_t file_pages = file_size / page;
// Each page can be cold once; and what is dirty in the end has to be written before the next.
constexpr std::int64_t cold_updates = 16384;
constexpr std::int64_t warm_up = 512;
// As many as a file has, which is new for each repetition.
constexpr std::size_t new_size = std::size_t{64} << 20;
constexpr std::int64_t updates_in_order = new_size / record - warm_up;
constexpr int repetitions = 7;

constexpr const char* posted = "asio::post";
constexpr const char* hot = "awaited update of a dirty page";
constexpr const char* in_order = "awaited updates, one behind the other, new file";
constexpr const char* faulting_in_order = "asio::post and memcpy, one behind the other, new file";
constexpr const char* on_pool = "memcpy on a pool of 4, cold, 64 in flight";
constexpr const char* on_bare_ring = "bare ring: read of 1 byte, store, cold, 64 in flight";
constexpr const char* on_writing_ring = "bare ring: read of 1 byte, write, cold, 64 in flight";
constexpr const char* on_reading_ring = "bare ring: read of 1 byte alone, cold, 64 in flight";

struct engine {
  backend_kind kind;
  const char* cold;
};
constexpr std::array engines = {
    engine{backend_kind::io_uring, "update on io_uring, cold, 64 in flight"},
    engine{backend_kind::thread_pool, "update on mapio's thread_pool, cold, 64 in flight"}};

std::array<std::byte, record> bytes{};

void check(int result) {
  if (result != 0) throw std::system_error(last_error());
}

/// Makes a file whose blocks are all written and on the disk.
void make_file(const std::filesystem::path& path, std::size_t size) {
  auto map = mapio::mapping::create(path, size);
  const std::vector<std::byte> content(std::size_t{1} << 20, std::byte{1});
  for (std::size_t at = 0; at < size; at += content.size())
    map.update_region(at, asio::buffer(content.data(), std::min(content.size(), size - at)));
  map.flush();
}

/// A file none of whose pages is in memory, and its pages in an order that no read-ahead guesses.
class cold_file {
 public:
  explicit cold_file(const std::filesystem::path& path)
      : descriptor_(::open(path.c_str(), O_RDWR | O_CLOEXEC)) {
    if (descriptor_ < 0) throw std::system_error(last_error(), path.string());
    check(::fsync(descriptor_));  // a dirty page would stay
    check(::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_DONTNEED));
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::shuffle(order_.begin(), order_.end(), std::mt19937(1));
  }
  cold_file(const cold_file&) = delete;
  cold_file& operator=(const cold_file&) = delete;
  ~cold_file() {
    if (base_ != nullptr) ::munmap(base_, file_size);
    ::close(descriptor_);
  }

  std::size_t next() { return order_[next_++ % order_.size()] * page; }
  int get() const noexcept { return descriptor_; }

  /// Maps it for stores that somebody makes without mapio. One page for one fault: a program that
  /// writes here and there says so.
  std::byte* map() {
    void* const address =
        ::mmap(nullptr, file_size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
    if (address == MAP_FAILED) throw std::system_error(last_error(), "mmap");
    base_ = static_cast<std::byte*>(address);
    check(::madvise(base_, file_size, MADV_RANDOM));
    return base_;
  }

 private:
  int descriptor_;
  std::byte* base_ = nullptr;
  std::vector<std::size_t> order_ = std::vector<std::size_t>(file_pages);
  std::size_t next_ = 0;
};

/// What this process has had read from the disk, in bytes.
double bytes_read() {
  std::ifstream io("/proc/self/io");
  std::string name;
  double value = 0;
  while (io >> name >> value)
    if (name == "read_bytes:") return value;
  return 0;
}

/// Measures prepare()'s run(count). Also tells how many pages were read for an update: one, where
/// it is cold.
template <class Prepare>
benchmark::internal::Benchmark* add(const char* name, Prepare prepare) {
  return benchmark::RegisterBenchmark(name,
                                      [prepare](benchmark::State& state) {
                                        auto run = prepare();
                                        run(warm_up);
                                        const double before = bytes_read();
                                        while (state.KeepRunningBatch(state.max_iterations))
                                          run(state.max_iterations);
                                        const auto count = static_cast<double>(state.iterations());
                                        state.counters["pages_read"] =
                                            (bytes_read() - before) / page / count;
                                        state.SetItemsProcessed(state.iterations());
                                      })
      ->UseRealTime();
}

void add_hot(const std::filesystem::path& path) {
  const auto on_loop = [path](auto once) {
    return [path, once] {
      auto l = std::make_shared<loop>(backend_kind::automatic);
      // With the file open the context has a reactor to look at between handlers, as any server
      // has.
      return [l, once, file = l->open(path)](std::int64_t count) mutable {
        const auto start = [&](std::size_t) { return once(file); };
        l->run(count, 1, start);
      };
    };
  };
  add(posted, on_loop([](mapio::mapped_file& file) {
        return asio::post(file.get_executor(), asio::use_awaitable);
      }));
  add(hot, on_loop([](mapio::mapped_file& file) {
        return file.update_region(0, asio::buffer(bytes), asio::use_awaitable);
      }));
}

void add_in_order(const std::filesystem::path& path) {
  const mapio::open_options make{.mode = mapio::access::read_write,
                                 .create = mapio::disposition::create_or_truncate,
                                 .size = new_size};
  add(in_order, [=] {
    auto l = std::make_shared<loop>(backend_kind::automatic);
    return [l, at = std::size_t{0}, file = l->open(path, make)](std::int64_t count) mutable {
      const auto once = [&](std::size_t) {
        return file.update_region(std::exchange(at, at + record), asio::buffer(bytes),
                                  asio::use_awaitable);
      };
      l->run(count, 1, once);
    };
  })->Iterations(updates_in_order);
  add(faulting_in_order, [=] {
    auto l = std::make_shared<loop>(backend_kind::automatic);
    auto file = std::make_shared<mapio::mapped_file>(l->open(path, make));
    return [l, file, at = std::size_t{0},
            all = file->map().mutable_view(0, new_size)](std::int64_t count) mutable {
      const auto once = [&](std::size_t) {
        std::memcpy(all.data() + std::exchange(at, at + record), bytes.data(), record);
        return asio::post(file->get_executor(), asio::use_awaitable);
      };
      l->run(count, 1, once);
    };
  })->Iterations(updates_in_order);
}

void add_cold(const std::filesystem::path& path) {
  for (const engine& e : engines) {
    add(e.cold, [path, kind = e.kind] {
      auto cold = std::make_shared<cold_file>(path);
      auto l = std::make_shared<loop>(kind);
      return [cold, l, file = l->open(path)](std::int64_t count) mutable {
        const auto once = [&](std::size_t) {
          return file.update_region(cold->next(), asio::buffer(bytes), asio::use_awaitable);
        };
        l->run(count, in_flight, once);
      };
    })->Iterations(cold_updates);
  }
  add(on_pool, [path] {
    auto cold = std::make_shared<cold_file>(path);
    auto l = std::make_shared<loop>(backend_kind::thread_pool);
    auto pool = std::make_shared<asio::thread_pool>(pool_threads);
    return [cold, l, pool, base = cold->map()](std::int64_t count) {
      const auto once = [&](std::size_t) {
        return bench::on_pool(*pool, [to = base + cold->next()] {
          std::memcpy(to, bytes.data(), record);
          return std::error_code();
        });
      };
      l->run(count, in_flight, once);
    };
  })->Iterations(cold_updates);
}

#if defined(MAPIO_BENCH_RING)
/// What a bare ring does when the page is there.
enum class then { store, write, nothing };

/// What the kernel can do at most: neither a loop nor coroutines around the ring.
class bare_ring {
 public:
  bare_ring(const std::filesystem::path& path, then what)
      : cold_(path), base_(cold_.map()), what_(what) {
    check(-::io_uring_queue_init(2 * in_flight, &ring_, 0));
  }
  bare_ring(const bare_ring&) = delete;
  bare_ring& operator=(const bare_ring&) = delete;
  ~bare_ring() { ::io_uring_queue_exit(&ring_); }

  void run(std::int64_t count) {
    std::int64_t to_start = count;
    for (std::size_t i = 0; i < in_flight && to_start > 0; ++i, --to_start)
      read(i);
    for (std::int64_t left = count; left > 0;) {
      ::io_uring_submit_and_wait(&ring_, 1);
      io_uring_cqe* cqe = nullptr;
      while (::io_uring_peek_cqe(&ring_, &cqe) == 0) {
        const auto i = static_cast<std::size_t>(::io_uring_cqe_get_data64(cqe));
        if (cqe->res != (is_written_[i] ? static_cast<int>(record) : 1))
          throw std::runtime_error("a read or a write failed");
        ::io_uring_cqe_seen(&ring_, cqe);
        if (what_ == then::write && !is_written_[i]) {
          write(i);
          continue;
        }
        if (what_ == then::store) std::memcpy(base_ + offsets_[i], bytes.data(), record);
        --left;
        if (to_start > 0) {
          read(i);
          --to_start;
        }
      }
    }
  }

 private:
  void read(std::size_t i) {
    offsets_[i] = cold_.next();
    is_written_[i] = false;
    io_uring_sqe* const sqe = ::io_uring_get_sqe(&ring_);
    ::io_uring_prep_read(sqe, cold_.get(), &read_[i], 1, offsets_[i]);
    ::io_uring_sqe_set_data64(sqe, i);
  }
  void write(std::size_t i) {
    is_written_[i] = true;
    io_uring_sqe* const sqe = ::io_uring_get_sqe(&ring_);
    ::io_uring_prep_write(sqe, cold_.get(), bytes.data(), record, offsets_[i]);
    ::io_uring_sqe_set_data64(sqe, i);
  }

  cold_file cold_;
  std::byte* base_;
  then what_;
  io_uring ring_{};
  std::array<std::size_t, in_flight> offsets_{};
  std::array<bool, in_flight> is_written_{};
  std::array<std::byte, in_flight> read_{};
};

void add_bare_rings(const std::filesystem::path& path) {
  for (const auto& [name, what] :
       {std::pair(on_bare_ring, then::store), std::pair(on_writing_ring, then::write),
        std::pair(on_reading_ring, then::nothing)})
    add(name, [path, next = what] {
      return [ring = std::make_shared<bare_ring>(path, next)](std::int64_t count) {
        ring->run(count);
      };
    })->Iterations(cold_updates);
}
#endif

void compare(const bench::medians& m, bench::table& t) {
  t.slower(std::string(hot) + " (baseline: asio::post)", m.time(hot), m.time(posted), 1.3);
  t.slower(std::string(in_order) + " (baseline: " + faulting_in_order + ")", m.time(in_order),
           m.time(faulting_in_order));
  for (const engine& e : engines) {
    const bool promised = e.kind == backend_kind::io_uring;
    for (const auto& [baseline, limit] : {std::pair(on_pool, 2.0), std::pair(on_bare_ring, 0.8)})
      t.faster(std::string(e.cold) + " (baseline: " + baseline + ")", m.rate(e.cold),
               m.rate(baseline), promised ? std::optional(limit) : std::nullopt);
    // How much of that is the price of a write fault, which is not the same everywhere.
    for (const char* baseline : {on_writing_ring, on_reading_ring})
      t.faster(std::string(e.cold) + " (baseline: " + baseline + ")", m.rate(e.cold),
               m.rate(baseline));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bench::options given = bench::initialize(argc, argv, {.repetitions = repetitions});
  const bench::work_directory directory(given.directory);
  const std::filesystem::path small = directory.path() / "small";
  const std::filesystem::path large = directory.path() / "large";
  make_file(small, page);
  make_file(large, file_size);
  {
    asio::io_context io;
    std::ostringstream text;
    text << mapio::backend_of(io);
    benchmark::AddCustomContext("engine", text.str());
  }
  add_hot(small);
  add_in_order(directory.path() / "new");
  add_cold(large);
#if defined(MAPIO_BENCH_RING)
  add_bare_rings(large);
#endif
  return bench::run(given, compare);
}
