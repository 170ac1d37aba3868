// How much the device is made to write by one durable update of 64 bytes: the blocks, the journal,
// and what else the page cache takes for dirty.

#include "comparison.hpp"
#include "round_trips.hpp"
#include "scratch_disk.hpp"

#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>
#include <mapio/options.hpp>

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/use_awaitable.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

using bench::last_error;
using bench::scratch_disk;
using clock = std::chrono::steady_clock;

constexpr std::size_t page = 4096;
constexpr std::size_t record = 64;
constexpr std::size_t piece = std::size_t{1} << 20;
constexpr std::size_t file_size = std::size_t{32} << 20;
constexpr std::size_t updates = 100;
constexpr double limit = 16 * 1024;
// What ctest takes for "could not run here".
constexpr int skipped = 77;

std::array<std::byte, record> bytes{};

void check(bool ok, const char* what) {
  if (!ok) throw std::system_error(last_error(), what);
}

/// What makes the updates.
class writer {
 public:
  writer() = default;
  writer(const writer&) = delete;
  writer& operator=(const writer&) = delete;
  virtual ~writer() = default;
  virtual void write(std::uint64_t offset, asio::const_buffer content) = 0;
  virtual void sync(std::uint64_t offset, std::uint64_t length) = 0;
};

mapio::open_options how(bool create) {
  return {.mode = mapio::access::read_write,
          .create = create ? mapio::disposition::create_new : mapio::disposition::open_existing,
          .size = file_size};
}

class blocking_writer final : public writer {
 public:
  blocking_writer(const std::filesystem::path& path, bool create) : map_(path, how(create)) {}
  void write(std::uint64_t offset, asio::const_buffer content) override {
    map_.update_region(offset, content);
  }
  void sync(std::uint64_t offset, std::uint64_t length) override {
    map_.flush_range(offset, length);
  }

 private:
  mapio::mapping map_;
};

class awaited_writer final : public writer {
 public:
  awaited_writer(const std::filesystem::path& path, bool create)
      : file_(loop_.open(path, how(create))) {}
  void write(std::uint64_t offset, asio::const_buffer content) override {
    wait([&](std::size_t) { return update(offset, content); });
  }
  void sync(std::uint64_t offset, std::uint64_t length) override {
    wait([&](std::size_t) { return file_.flush_range(offset, length, asio::use_awaitable); });
  }

 private:
  asio::awaitable<void> update(std::uint64_t offset, asio::const_buffer content) {
    co_await file_.update_region(offset, content, asio::use_awaitable);
  }
  template <class Once>
  void wait(Once once) {
    loop_.run(1, 1, once);
  }

  bench::loop loop_{mapio::backend_kind::automatic};
  mapio::mapped_file file_;
};

/// What is done without mapio.
class plain_writer : public writer {
 public:
  explicit plain_writer(const std::filesystem::path& path)
      : descriptor_(::open(path.c_str(), O_RDWR | O_CLOEXEC)) {
    check(descriptor_ >= 0, "open");
    void* const address =
        ::mmap(nullptr, file_size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
    if (address == MAP_FAILED) {
      const std::error_code error = last_error();
      ::close(descriptor_);
      throw std::system_error(error, "mmap");
    }
    base_ = static_cast<std::byte*>(address);
  }
  ~plain_writer() override {
    ::munmap(base_, file_size);
    ::close(descriptor_);
  }

 protected:
  int descriptor_;
  std::byte* base_ = nullptr;
};

class storing_writer final : public plain_writer {
 public:
  using plain_writer::plain_writer;
  void write(std::uint64_t offset, asio::const_buffer content) override {
    std::memcpy(base_ + offset, content.data(), content.size());
  }
  void sync(std::uint64_t offset, std::uint64_t length) override {
    const std::uint64_t first = offset / page * page;
    check(::msync(base_ + first, offset + length - first, MS_SYNC) == 0, "msync");
  }
};

class file_writer final : public plain_writer {
 public:
  using plain_writer::plain_writer;
  void write(std::uint64_t offset, asio::const_buffer content) override {
    check(::pwrite(descriptor_, content.data(), content.size(), static_cast<off_t>(offset)) ==
              static_cast<ssize_t>(content.size()),
          "pwrite");
  }
  void sync(std::uint64_t, std::uint64_t) override {
    check(::fdatasync(descriptor_) == 0, "fdatasync");
  }
};

enum class origin { existing, created };
enum class cache { warm, cold };

const char* name_of(origin o) {
  return o == origin::created ? "created" : "existing";
}
const char* name_of(cache c) {
  return c == cache::warm ? "warm" : "cold";
}

template <class Write>
void fill(Write write) {
  const std::vector<std::byte> content(piece, std::byte{1});
  for (std::size_t at = 0; at < file_size; at += piece)
    write(at, content);
}

/// Writes the file in large pieces, which makes for large folios in the page cache.
void make_existing(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  check(file >= 0, "open");
  fill([file](std::size_t at, const std::vector<std::byte>& content) {
    check(::pwrite(file, content.data(), content.size(), static_cast<off_t>(at)) ==
              static_cast<ssize_t>(content.size()),
          "pwrite");
  });
  check(::fsync(file) == 0, "fsync");
  ::close(file);
}

void settle(const scratch_disk& disk) {
  const int directory = ::open(disk.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  check(directory >= 0 && ::syncfs(directory) == 0, "syncfs");
  ::close(directory);
}

/// Drops the page cache of a file that nobody has open, and makes sure of it.
void make_cold(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  check(file >= 0, "open");
  check(::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0, "posix_fadvise");
  void* const address = ::mmap(nullptr, file_size, PROT_READ, MAP_SHARED, file, 0);
  check(address != MAP_FAILED, "mmap");
  std::vector<unsigned char> resident(file_size / page);
  check(::mincore(address, file_size, resident.data()) == 0, "mincore");
  ::munmap(address, file_size);
  ::close(file);
  if (std::any_of(resident.begin(), resident.end(), [](unsigned char c) { return (c & 1) != 0; }))
    throw std::runtime_error("the page cache does not let go of a file");
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Makes updates, each at a page of its own and durable before the next, and counts.
void measure(benchmark::State& state, const scratch_disk& disk, writer& w, std::size_t of_page) {
  // A file starts wholly dirty.
  w.sync(0, file_size);
  settle(disk);
  std::vector<double> written;
  std::vector<double> times;
  const std::uint64_t before = disk.bytes_written();
  for (std::size_t i = 0; i < updates; ++i) {
    // Far from each other, in every part of whatever the cache holds them in.
    const std::uint64_t offset = (i * 641 + 77) % (file_size / page) * page;
    const std::uint64_t begin = disk.bytes_written();
    const auto start = clock::now();
    for (std::size_t k = 0; k < of_page; ++k)
      w.write(offset + k * record, asio::buffer(bytes));
    w.sync(offset, of_page * record);
    times.push_back(std::chrono::duration<double>(clock::now() - start).count());
    written.push_back(static_cast<double>(disk.bytes_written() - begin));
  }
  state.SetIterationTime(median(times));
  state.counters["bytes_median"] = median(written);
  state.counters["bytes_mean"] =
      static_cast<double>(disk.bytes_written() - before) / static_cast<double>(updates);
}

std::string title(const std::string& who, cache c, origin o, const std::string& type,
                  std::size_t of_page = 1) {
  return who + ", " + name_of(c) + ", " + name_of(o) + " file on " + type +
         (of_page == 1 ? "" : ", " + std::to_string(of_page) + " updates per flush");
}

/// Registers a writer over a file that is made for it.
template <class Writer>
void add(const std::string& who, const scratch_disk& disk, cache c, origin o,
         std::size_t of_page = 1) {
  benchmark::RegisterBenchmark(
      title(who, c, o, disk.type(), of_page).c_str(),
      [&disk, c, o, of_page](benchmark::State& state) {
        const std::filesystem::path path = disk.path() / "file";
        std::unique_ptr<writer> w;
        if constexpr (std::is_constructible_v<Writer, const std::filesystem::path&, bool>) {
          if (o == origin::created) {
            w = std::make_unique<Writer>(path, true);
            fill([&w](std::size_t at, const std::vector<std::byte>& content) {
              w->write(at, asio::buffer(content));
            });
            w->sync(0, file_size);
          }
        }
        if (o == origin::existing) make_existing(path);
        settle(disk);
        if (c == cache::cold) {
          w = nullptr;
          make_cold(path);
        }
        if (w == nullptr) {
          if constexpr (std::is_constructible_v<Writer, const std::filesystem::path&, bool>)
            w = std::make_unique<Writer>(path, false);
          else
            w = std::make_unique<Writer>(path);
        }
        for (auto _ : state)
          measure(state, disk, *w, of_page);
        w = nullptr;
        std::filesystem::remove(path);
        settle(disk);
      })
      ->Iterations(1)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

constexpr const char* stored = "store, msync";
constexpr const char* written = "pwrite, fdatasync";
constexpr std::array classes = {"mapping", "mapped_file"};
constexpr std::array caches = {cache::warm, cache::cold};
constexpr std::array origins = {origin::existing, origin::created};
constexpr std::size_t several = 2;

void add_all(const scratch_disk& disk) {
  for (const cache c : caches) {
    for (const origin o : origins) {
      add<blocking_writer>(classes[0], disk, c, o);
      add<awaited_writer>(classes[1], disk, c, o);
    }
    add<blocking_writer>(classes[0], disk, c, origin::existing, several);
    add<awaited_writer>(classes[1], disk, c, origin::existing, several);
    add<storing_writer>(stored, disk, c, origin::existing);
    add<file_writer>(written, disk, c, origin::existing);
  }
}

void compare_on(const std::string& type, const bench::medians& m, bench::table& t) {
  const auto bytes_of = [&m](const std::string& name) { return m.counter(name, "bytes_median"); };
  for (const cache c : caches) {
    const std::string baseline = title(stored, c, origin::existing, type);
    for (const char* who : classes)
      for (const origin o : origins) {
        const std::string measured = title(who, c, o, type);
        t.bytes(measured, bytes_of(measured), bytes_of(baseline), limit);
      }
    for (const char* who : classes) {
      const std::string measured = title(who, c, origin::existing, type, several);
      t.bytes(measured, bytes_of(measured), bytes_of(baseline));
    }
    const std::string best = title(written, c, origin::existing, type);
    t.bytes(best, bytes_of(best), bytes_of(baseline));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bench::options given = bench::initialize(argc, argv, {.repetitions = 3});
  try {
    // Before anything has threads.
    bench::leave_mount_namespace();
    const bench::work_directory directory(given.directory);
    std::vector<std::unique_ptr<scratch_disk>> disks;
    for (const char* type : {"ext4", "xfs"})
      disks.push_back(std::make_unique<scratch_disk>(directory.path(), type));
    for (const auto& disk : disks)
      add_all(*disk);
    std::cout << "Bytes that the device writes for each durable update of 64 bytes, median of "
              << updates << "; baseline: " << stored << "\n";
    return bench::run(given, [&](const bench::medians& m, bench::table& t) {
      for (const auto& disk : disks)
        compare_on(disk->type(), m, t);
    });
  } catch (const bench::no_scratch_disk& e) {
    std::cerr << "amplification_bench: not measured: needs root, loop devices and mkfs: "
              << e.what() << "\n";
    return skipped;
  }
}
