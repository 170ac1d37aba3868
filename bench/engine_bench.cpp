// What an awaited verb costs on each engine, beside the same system call on an asio::thread_pool.

#include "comparison.hpp"
#include "round_trips.hpp"

#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>
#include <mapio/region.hpp>

#include <asio/buffer.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

using bench::calls_on_pool;
using bench::last_error;
using bench::loop;
using bench::on_pool;
using bench::result_of;
using mapio::backend_kind;
using mapio::write_path;

constexpr std::size_t page = 4096;
constexpr std::size_t record = 64;
constexpr std::size_t most_in_flight = 64;
constexpr std::size_t pool_threads = 4;
// Round trips whose wait is the disk's have a number of their own: each page can be cold once.
constexpr std::int64_t cold_reads = 8192;
constexpr std::int64_t warm_up = 512;
constexpr std::size_t cold_file_pages = cold_reads + warm_up;
// Not in the headers of Debian 12.
constexpr int madvise_populate_read = 22;

std::array<std::byte, record> bytes{};

/// Makes a file whose every page is on the disk and in memory: a first write to a block would have
/// more to do.
void make_file(const std::filesystem::path& path, std::size_t size) {
  auto map = mapio::mapping::create(path, size);
  const std::vector<std::byte> content(size, std::byte{1});
  map.update_region(0, asio::buffer(content));
  map.flush();
}

/// Measures the round trips that make(loop) returns.
template <class Make>
benchmark::internal::Benchmark* add(const std::string& name, backend_kind kind,
                                    std::size_t in_flight, Make make) {
  return benchmark::RegisterBenchmark(
             name.c_str(),
             [=](benchmark::State& state) {
               loop l(kind);
               auto once = make(l);
               l.run(warm_up, in_flight, once);  // threads, workers of the kernel, Asio's memory
               while (state.KeepRunningBatch(state.max_iterations))
                 l.run(state.max_iterations, in_flight, once);
               state.SetItemsProcessed(state.iterations());
             })
      ->UseRealTime();
}

struct engine {
  backend_kind kind;
  const char* name;
};
constexpr std::array engines = {engine{backend_kind::io_uring, "io_uring"},
                                engine{backend_kind::thread_pool, "mapio's thread_pool"}};
constexpr std::array depths = {std::size_t{1}, most_in_flight};
constexpr const char* baseline = "asio::thread_pool";

std::string title(const std::string& what, const char* where, std::size_t in_flight) {
  return what + " on " + where +
         (in_flight == 1 ? ", alone" : ", " + std::to_string(in_flight) + " in flight");
}

std::byte* address_of(const mapio::region& r, std::size_t index) {
  return const_cast<std::byte*>(r.data()) + index * page;
}

/// Nothing has to be waited for: what is left is the way to a worker and back.
void add_resident(const std::filesystem::path& path, std::size_t in_flight) {
  for (const engine& e : engines) {
    add(title("prefetch of a resident page", e.name, in_flight), e.kind, in_flight,
        [path](loop& l) {
          return [file = l.open(path)](std::size_t i) mutable {
            return file.prefetch(i * page, page, asio::use_awaitable);
          };
        });
    add(title("write of 64 B", e.name, in_flight), e.kind, in_flight, [path](loop& l) {
      return [file = l.open(path, write_path::file)](std::size_t i) mutable {
        return file.update_region(i * page, asio::buffer(bytes), asio::use_awaitable);
      };
    });
  }
  add(title("prefetch of a resident page", baseline, in_flight), backend_kind::thread_pool,
      in_flight, [path](loop& l) {
        auto file = l.open(path);
        return calls_on_pool(pool_threads, [all = file.map().view(0, file.size())](std::size_t i) {
          return result_of(::madvise(address_of(all, i), page, madvise_populate_read));
        });
      });
  add(title("write of 64 B", baseline, in_flight), backend_kind::thread_pool, in_flight,
      [path](loop& l) {
        return calls_on_pool(pool_threads, [file = l.open(path)](std::size_t i) {
          const auto at = static_cast<off_t>(i * page);
          return ::pwrite(file.native_handle(), bytes.data(), record, at) < 0 ? last_error()
                                                                              : std::error_code();
        });
      });
}

/// Drops the pages of a file from memory; nothing else may have them mapped, or dirty.
class cold_file {
 public:
  cold_file(loop& l, const std::filesystem::path& path)
      : file(l.open(path)), all(file.map().view(0, file.size())) {
    // One page for one fault, as for a program that reads here and there.
    check(::madvise(address_of(all, 0), all.size(), MADV_RANDOM));
    check(::madvise(address_of(all, 0), all.size(), MADV_DONTNEED));
    check(::posix_fadvise(file.native_handle(), 0, 0, POSIX_FADV_DONTNEED));
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::shuffle(order_.begin(), order_.end(), std::mt19937(1));
  }

  std::size_t next_page() { return order_[next_++ % order_.size()]; }

  mapio::mapped_file file;
  mapio::region all;

 private:
  static void check(int result) {
    if (result != 0) throw std::system_error(last_error(), "madvise");
  }

  std::vector<std::size_t> order_ = std::vector<std::size_t>(cold_file_pages);
  std::size_t next_ = 0;
};

/// The disk has to be waited for.
void add_cold(const std::filesystem::path& path, std::size_t in_flight) {
  for (const engine& e : engines) {
    add(title("prefetch of a cold page", e.name, in_flight), e.kind, in_flight, [path](loop& l) {
      return [cold = std::make_shared<cold_file>(l, path)](std::size_t) {
        return cold->file.prefetch(cold->next_page() * page, page, asio::use_awaitable);
      };
    })->Iterations(cold_reads);
  }
  add(title("prefetch of a cold page", baseline, in_flight), backend_kind::thread_pool, in_flight,
      [path](loop& l) {
        return [cold = std::make_shared<cold_file>(l, path),
                pool = std::make_shared<asio::thread_pool>(pool_threads)](std::size_t) {
          return on_pool(*pool, [address = address_of(cold->all, cold->next_page())] {
            return result_of(::madvise(address, page, madvise_populate_read));
          });
        };
      })
      ->Iterations(cold_reads);
}

std::vector<mapio::mapped_file> open_all(loop& l, const std::vector<std::filesystem::path>& paths) {
  std::vector<mapio::mapped_file> files;
  files.reserve(paths.size());
  for (const auto& path : paths)
    files.push_back(l.open(path));
  return files;
}

/// Each coroutine has a file of its own: the flushes of one file would share a sync.
void add_flush(const std::vector<std::filesystem::path>& paths, std::size_t in_flight) {
  for (const engine& e : engines) {
    add(title("flush of a page", e.name, in_flight), e.kind, in_flight, [paths](loop& l) {
      return [files = open_all(l, paths)](std::size_t i) mutable {
        files[i].map().update_region(0, asio::buffer(bytes));
        return files[i].flush_range(0, page, asio::use_awaitable);
      };
    });
  }
  add(title("flush of a page", baseline, in_flight), backend_kind::thread_pool, in_flight,
      [paths](loop& l) {
        std::vector<mapio::mapping> maps;
        std::vector<mapio::region> regions;
        maps.reserve(paths.size());
        regions.reserve(paths.size());
        for (const auto& file : open_all(l, paths)) {
          maps.push_back(file.map());
          regions.push_back(maps.back().view(0, page));
        }
        auto sync = calls_on_pool(pool_threads, [regions](std::size_t i) {
          return result_of(::msync(address_of(regions[i], 0), page, MS_SYNC));
        });
        return [maps, sync](std::size_t i) mutable {
          maps[i].update_region(0, asio::buffer(bytes));
          return sync(i);
        };
      });
}

/// What can be had at once: the rest is the price of awaiting.
void add_immediate(const std::filesystem::path& path) {
  const auto kind = backend_kind::automatic;
  add("asio::post", kind, 1, [path](loop& l) {
    // With the file open the context has a reactor to look at between handlers, as any server has.
    return [file = l.open(path)](std::size_t) mutable {
      return asio::post(file.get_executor(), asio::use_awaitable);
    };
  });
  add("update of a dirty page", kind, 1, [path](loop& l) {
    return [file = l.open(path)](std::size_t) mutable {
      return file.update_region(0, asio::buffer(bytes), asio::use_awaitable);
    };
  });
  add("read of a resident page", kind, 1, [path](loop& l) {
    return [file = l.open(path)](std::size_t) mutable {
      return file.read_into(0, asio::buffer(bytes), asio::use_awaitable);
    };
  });
  add("view of a resident page", kind, 1, [path](loop& l) {
    return [file = l.open(path)](std::size_t) mutable {
      return file.view(0, record, asio::use_awaitable);
    };
  });
}

void compare(const bench::medians& m, bench::table& t) {
  const auto rate = [&](const std::string& what, const char* where) {
    return m.rate(title(what, where, most_in_flight));
  };
  const auto time = [&](const std::string& what, const char* where) {
    return m.time(title(what, where, 1));
  };
  for (const engine& e : engines) {
    const bool promised = e.kind == backend_kind::io_uring;
    for (const char* what : {"flush of a page", "prefetch of a cold page",
                             "prefetch of a resident page", "write of 64 B"}) {
      const bool waits = promised && what != std::string("write of 64 B");
      t.faster(title(what, e.name, most_in_flight), rate(what, e.name), rate(what, baseline),
               waits ? std::optional(2.0) : std::nullopt);
      t.slower(title(what, e.name, 1), time(what, e.name), time(what, baseline),
               waits ? std::optional(1.3) : std::nullopt);
    }
  }
  for (const char* what :
       {"update of a dirty page", "read of a resident page", "view of a resident page"})
    t.difference(std::string(what) + " (baseline: asio::post)", m.processor_time(what),
                 m.processor_time("asio::post"));
}

}  // namespace

int main(int argc, char** argv) {
  const bench::options given = bench::initialize(argc, argv);
  const bench::work_directory directory(given.directory);
  const std::filesystem::path resident = directory.path() / "resident";
  const std::filesystem::path cold = directory.path() / "cold";
  std::vector<std::filesystem::path> many;
  many.reserve(most_in_flight);
  for (std::size_t i = 0; i < most_in_flight; ++i)
    many.push_back(directory.path() / ("file-" + std::to_string(i)));
  make_file(resident, most_in_flight * page);
  make_file(cold, cold_file_pages * page);
  for (const auto& path : many)
    make_file(path, page);
  {
    asio::io_context io;
    std::ostringstream text;
    text << mapio::backend_of(io);
    benchmark::AddCustomContext("engine", text.str());
  }
  for (const std::size_t in_flight : depths) {
    add_resident(resident, in_flight);
    add_cold(cold, in_flight);
    add_flush(many, in_flight);
  }
  add_immediate(resident);
  return bench::run(given, compare);
}
