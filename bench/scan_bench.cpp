// What it takes to read a cold file once, from start to end, adding up its bytes: chunk_stream
// beside plain faults, read() and direct reads through a ring.
//
// How far the kernel reads ahead of faults and of read() is up to the device, and decides what they
// are worth. All contenders meet first a device with the 128 KiB that Linux gives unless told
// otherwise, and then the disk that is there, as it is set up.

#include "comparison.hpp"
#include "round_trips.hpp"
#include "scratch_disk.hpp"

#include <mapio/backend.hpp>
#include <mapio/chunk_stream.hpp>
#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/use_awaitable.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <new>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#ifdef MAPIO_BENCH_RING
#include <liburing.h>
#endif

namespace {

using bench::last_error;
using mapio::backend_kind;

constexpr std::size_t mebibyte = std::size_t{1} << 20;
constexpr std::size_t file_size = 1024 * mebibyte;
constexpr std::size_t chunk = mebibyte;
constexpr std::size_t readahead = 4;
constexpr std::size_t page = 4096;
constexpr std::size_t huge_page = 2 * mebibyte;
constexpr std::size_t usual_readahead = std::size_t{128} << 10;

void check(bool succeeded, const char* what) {
  if (!succeeded) throw std::system_error(last_error(), what);
}

class descriptor {
 public:
  descriptor(const std::filesystem::path& path, int flags)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC)) {
    check(fd_ >= 0, "open");
  }
  descriptor(const descriptor&) = delete;
  descriptor& operator=(const descriptor&) = delete;
  ~descriptor() { ::close(fd_); }
  int get() const noexcept { return fd_; }

 private:
  int fd_;
};

/// What the program does with the bytes; the same for all.
std::uint64_t sum(std::span<const std::byte> bytes) {
  std::uint64_t total = 0;
  for (std::size_t at = 0; at + 8 <= bytes.size(); at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, sizeof word);
    total += word;
  }
  return total;
}

/// Makes the file, and returns the sum that every reader must arrive at.
std::uint64_t make_file(const std::filesystem::path& path) {
  auto map = mapio::mapping::create(path, file_size);
  std::mt19937_64 random(1);
  std::vector<std::uint64_t> words(mebibyte / 8);
  std::uint64_t total = 0;
  for (std::size_t at = 0; at < file_size; at += mebibyte) {
    for (std::uint64_t& word : words)
      total += word = random();
    map.update_region(at, asio::buffer(words));
  }
  map.flush();
  return total;
}

/// Drops a file that nobody has mapped from the page cache. What is still under way when it is
/// dropped stays, so that once may not be enough.
void make_cold(const std::filesystem::path& path) {
  const descriptor file(path, O_RDONLY);
  void* const address = ::mmap(nullptr, file_size, PROT_READ, MAP_SHARED, file.get(), 0);
  check(address != MAP_FAILED, "mmap");
  const std::unique_ptr<void, void (*)(void*)> mapped(address,
                                                      [](void* p) { ::munmap(p, file_size); });
  std::vector<unsigned char> resident(file_size / page);
  for (int attempt = 0; attempt < 100; ++attempt) {
    check(::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED) == 0, "posix_fadvise");
    check(::mincore(address, file_size, resident.data()) == 0, "mincore");
    if (std::none_of(resident.begin(), resident.end(),
                     [](unsigned char c) { return (c & 1) != 0; }))
      return;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  throw std::runtime_error("the page cache does not let go of a file");
}

struct place {
  std::string name;
  std::filesystem::path file;
  std::uint64_t sum = 0;  // that every reader must arrive at
  bool is_usual = false;
};

std::string title(const std::string& who, const place& where) {
  return who + ", " + where.name;
}

/// Times reader(), again and again, with nothing of the file in memory.
template <class Reader>
void add(const std::string& who, const place& where, Reader reader) {
  benchmark::RegisterBenchmark(
      title(who, where).c_str(),
      [&where, reader](benchmark::State& state) {
        for (auto _ : state) {
          // Once without the clock: under a hypervisor the memory that the page cache is given next
          // is cheap or dear by what was freed last, and that is to be one's own.
          reader(where.file);
          make_cold(where.file);
          const auto start = std::chrono::steady_clock::now();
          const std::uint64_t total = reader(where.file);
          state.SetIterationTime(
              std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
          if (total != where.sum) state.SkipWithError("it has read something else");
        }
        state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(file_size));
      })
      ->UseManualTime()
      ->Iterations(1)
      ->Unit(benchmark::kMillisecond);
}

std::uint64_t read_chunks(const std::filesystem::path& path, backend_kind kind) {
  bench::loop l(kind);
  mapio::mapped_file file = l.open(path, {});
  auto chunks = file.chunks(chunk, readahead);
  std::uint64_t total = 0;
  const auto all = [&](std::size_t) -> asio::awaitable<void> {
    for (;;) {
      const mapio::region r = co_await chunks.next(asio::use_awaitable);
      if (r.empty()) co_return;
      total += sum(r);
    }
  };
  l.run(1, 1, all);
  return total;
}

std::uint64_t read_by_faults(const std::filesystem::path& path) {
  const mapio::mapping map(path);
  const mapio::region all = map.view(0, map.size());
  return sum(all);
}

std::uint64_t read_by_calls(const std::filesystem::path& path) {
  const descriptor file(path, O_RDONLY);
  check(::posix_fadvise(file.get(), 0, 0, POSIX_FADV_SEQUENTIAL) == 0, "posix_fadvise");
  std::vector<std::byte> buffer(chunk);
  std::uint64_t total = 0;
  for (;;) {
    const ssize_t n = ::read(file.get(), buffer.data(), buffer.size());
    check(n >= 0, "read");
    if (n == 0) return total;
    total += sum({buffer.data(), static_cast<std::size_t>(n)});
  }
}

#ifdef MAPIO_BENCH_RING
/// As many direct reads in flight as a chunk_stream has chunks, each in a buffer of its own. Unless
/// that is in huge pages, a read of 1 MiB is 256 pieces to the device.
std::uint64_t read_directly(const std::filesystem::path& path, bool in_huge_pages) {
  constexpr std::size_t depth = readahead + 1;
  constexpr std::size_t all = (depth * chunk + huge_page - 1) / huge_page * huge_page;
  const descriptor file(path, O_RDONLY | O_DIRECT);
  const auto free_aligned = [](std::byte* p) {
    ::operator delete[](p, std::align_val_t(huge_page));
  };
  const std::unique_ptr<std::byte[], decltype(free_aligned)> buffers(
      static_cast<std::byte*>(::operator new[](all, std::align_val_t(huge_page))), free_aligned);
  if (in_huge_pages) ::madvise(buffers.get(), all, MADV_HUGEPAGE);
  io_uring ring{};
  check(::io_uring_queue_init(2 * depth, &ring, 0) == 0, "io_uring_queue_init");
  const auto submit = [&](std::size_t index) {
    io_uring_sqe* const sqe = ::io_uring_get_sqe(&ring);
    ::io_uring_prep_read(sqe, file.get(), buffers.get() + index % depth * chunk, chunk,
                         index * chunk);
    ::io_uring_sqe_set_data64(sqe, index % depth);
    check(::io_uring_submit(&ring) == 1, "io_uring_submit");
  };
  constexpr std::size_t count = file_size / chunk;
  for (std::size_t i = 0; i < depth; ++i)
    submit(i);
  std::uint64_t total = 0;
  std::vector<bool> there(depth);
  for (std::size_t i = 0; i < count; ++i) {
    while (!there[i % depth]) {
      io_uring_cqe* cqe = nullptr;
      check(::io_uring_wait_cqe(&ring, &cqe) == 0 && cqe->res == static_cast<int>(chunk), "read");
      there[cqe->user_data] = true;
      ::io_uring_cqe_seen(&ring, cqe);
    }
    there[i % depth] = false;
    total += sum({buffers.get() + i % depth * chunk, chunk});
    if (i + depth < count) submit(i + depth);
  }
  ::io_uring_queue_exit(&ring);
  return total;
}
#endif

constexpr const char* on_ring = "chunk_stream on io_uring";
constexpr const char* on_pool = "chunk_stream on mapio's thread_pool";
constexpr const char* faults = "plain faults";
constexpr const char* calls = "read() of 1 MiB";
constexpr const char* direct = "direct reads on a ring";
constexpr const char* direct_huge = "direct reads on a ring into huge pages";

void add_all(const place& where) {
  add(on_ring, where, [](const auto& p) { return read_chunks(p, backend_kind::io_uring); });
  add(on_pool, where, [](const auto& p) { return read_chunks(p, backend_kind::thread_pool); });
  add(faults, where, read_by_faults);
  add(calls, where, read_by_calls);
#ifdef MAPIO_BENCH_RING
  add(direct, where, [](const auto& p) { return read_directly(p, false); });
  add(direct_huge, where, [](const auto& p) { return read_directly(p, true); });
#endif
}

void compare(const place& where, const bench::medians& m, bench::table& t) {
  const auto speed = [&](const char* who) {
    return static_cast<double>(file_size / mebibyte) * 1e9 / m.time(title(who, where));
  };
  const auto line = [&](const char* who, const char* baseline, std::optional<double> limit) {
    t.factor(title(who, where) + " (baseline: " + baseline + ")", speed(who), speed(baseline),
             limit);
  };
  // What reads 8 MiB ahead by itself leaves nothing to be gained.
  line(on_ring, faults, where.is_usual ? std::optional(2.0) : std::nullopt);
  line(on_ring, calls, {});
  line(on_ring, direct, 0.8);
  line(on_ring, direct_huge, 0.8);
  line(on_pool, faults, {});
  line(on_pool, calls, {});
  line(on_pool, direct, {});
  line(on_pool, direct_huge, {});
}

/// Says how far the kernel reads ahead on the disk of a file.
std::string readahead_of(const std::filesystem::path& file) {
  struct stat status {};
  check(::stat(file.c_str(), &status) == 0, "stat");
  std::ifstream setting("/sys/class/bdi/" + std::to_string(major(status.st_dev)) + ":" +
                        std::to_string(minor(status.st_dev)) + "/read_ahead_kb");
  std::string kib;
  return setting >> kib ? kib + " KiB read-ahead" : "unknown read-ahead";
}

}  // namespace

int main(int argc, char** argv) {
  const bench::options given = bench::initialize(argc, argv, {.repetitions = 3});
  std::unique_ptr<bench::work_directory> directory;
  std::unique_ptr<bench::scratch_disk> disk;
  std::vector<place> places;
  try {
    // Before anything has threads.
    bench::leave_mount_namespace();
    directory = std::make_unique<bench::work_directory>(given.directory);
    disk = std::make_unique<bench::scratch_disk>(
        directory->path(), "ext4",
        bench::scratch_options{.size = 2 * file_size, .readahead = usual_readahead});
    places.push_back({.name = "usual read-ahead", .file = disk->path() / "file", .is_usual = true});
  } catch (const bench::no_scratch_disk& e) {
    std::cerr << "scan_bench: not measured with the usual read-ahead: needs root, loop devices and "
                 "mkfs: "
              << e.what() << "\n";
    if (!directory) directory = std::make_unique<bench::work_directory>(given.directory);
  }
  places.push_back({.name = "this disk", .file = directory->path() / "file"});
  for (place& where : places) {
    where.sum = make_file(where.file);
    std::cerr << where.name << ": " << readahead_of(where.file) << "\n";
    add_all(where);
  }
  std::cerr << "The table's numbers are MiB/s.\n";
  return bench::run(given, [&](const bench::medians& m, bench::table& t) {
    for (const place& where : places)
      compare(where, m, t);
  });
}
