// What awaiting the growth of a mapped file costs beside the one call to the system that it is,
// made by the same engine.

#include "comparison.hpp"
#include "round_trips.hpp"

#include "core/engine.hpp"

#include <mapio/backend.hpp>
#include <mapio/detail/initiate.hpp>
#include <mapio/detail/operation.hpp>
#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>
#include <mapio/region.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/awaitable.hpp>
#include <asio/execution/context.hpp>
#include <asio/query.hpp>
#include <asio/use_awaitable.hpp>

#include <benchmark/benchmark.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <sys/resource.h>

namespace {

using bench::loop;
using mapio::backend_kind;
namespace detail = mapio::detail;

constexpr std::size_t page = 4096;
constexpr std::uint64_t step = std::uint64_t{1} << 20;
constexpr std::int64_t steps = 255;
constexpr int repetitions = 15;

struct engine {
  backend_kind kind;
  const char* name;
};
constexpr std::array engines = {engine{backend_kind::io_uring, "io_uring"},
                                engine{backend_kind::thread_pool, "mapio's thread_pool"}};

/// What open_options::preallocate stands for.
struct growth {
  bool preallocate;
  const char* name;
};
constexpr std::array growths = {growth{true, "fallocate"}, growth{false, "ftruncate"}};

std::string title(const char* how, const growth& g, const engine& e) {
  return std::string(how) + " (" + g.name + ") on " + e.name;
}
constexpr const char* awaited = "awaited resize";
constexpr const char* raw = "bare call";

/// The arguments of a call that an engine makes for nobody's file: a verb of nothing but that.
struct raw_arguments {
  using operation_type = detail::operation;
  template <class Allocator>
  using memory = detail::no_memory;

  void prepare(detail::operation& op, detail::no_memory&) const {
    op.what = preallocate ? detail::call::allocate : detail::call::truncate;
    op.handle = file;
    op.at = preallocate ? size : size + step;
    op.count = step;
    op.done = [](detail::operation* self) noexcept { detail::finish(*self); };
  }

  detail::native_handle_type file;
  bool preallocate;
  std::uint64_t size;
};

asio::awaitable<void> grow_raw(const std::shared_ptr<detail::engine>& home,
                               asio::any_io_executor executor, raw_arguments arguments) {
  const auto initiate = [home, executor](auto handler, raw_arguments a) {
    using handler_type = decltype(handler);
    using operation_type = detail::bound_operation<handler_type, asio::any_io_executor,
                                                   detail::error_result, raw_arguments>;
    auto* op =
        operation_type::make(std::move(handler), asio::any_io_executor(executor), std::move(a));
    op->home = home;
    op->runner = home.get();
    home->enroll(*op);
    home->submit(*op);
  };
  return asio::async_initiate<const asio::use_awaitable_t<>, void(std::error_code)>(
      initiate, asio::use_awaitable, arguments);
}

/// Grows the file at `path` by steps, from one to 256, with what make(file) returns for each.
template <class Make>
void add(const std::string& name, const std::filesystem::path& path, const growth& g,
         const engine& e, Make make) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
    loop l(e.kind);
    mapio::mapped_file file = l.open(
        path, {.mode = mapio::access::read_write, .preallocate = g.preallocate, .announce = false});
    auto grow = make(file);
    std::uint64_t size = 0;
    const auto once = [&](std::size_t) { return grow(std::exchange(size, size + step)); };
    for (auto _ : state) {
      state.PauseTiming();
      // Whoever grew it last: the file and what mapio knows of it.
      file.map().resize(size == 0 ? 2 * step : size);
      file.map().resize(step);
      size = step;
      state.ResumeTiming();
      l.run(steps, 1, once);
    }
    state.SetItemsProcessed(state.iterations() * steps);
  })->UseRealTime();
}

void add_growth(const std::filesystem::path& path, const growth& g, const engine& e) {
  add(title(awaited, g, e), path, g, e, [](mapio::mapped_file& file) {
    return [&file](std::uint64_t size) { return file.resize(size + step, asio::use_awaitable); };
  });
  add(title(raw, g, e), path, g, e, [g](mapio::mapped_file& file) {
    auto home = detail::engine_of(asio::query(file.get_executor(), asio::execution::context));
    return [home, executor = file.get_executor(), handle = file.native_handle(),
            g](std::uint64_t size) {
      return grow_raw(home, executor, {handle, g.preallocate, size});
    };
  });
}

// --- what growth leaves alone
// -------------------------------------------------------------------------------------------

constexpr const char* retouching = "faults when the old part is touched again after growth";
constexpr const char* touching = "faults when it is touched first";
constexpr const char* faults = "faults";

std::int64_t faults_so_far() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

/// Touches every page; returns the faults that this took.
std::int64_t touch(const mapio::region& r) {
  const std::int64_t before = faults_so_far();
  for (std::size_t at = 0; at < r.size(); at += page)
    benchmark::DoNotOptimize(*static_cast<const volatile std::byte*>(r.data() + at));
  return faults_so_far() - before;
}

void add_retouching(const std::filesystem::path& path, bool again) {
  benchmark::RegisterBenchmark(again ? retouching : touching, [path,
                                                               again](benchmark::State& state) {
    std::int64_t seen = 0;
    for (auto _ : state) {
      loop l(backend_kind::automatic);
      mapio::mapped_file file = l.open(path);
      file.map().resize(16 * step);
      const mapio::region old = file.map().view(0, file.size());
      std::int64_t found = touch(old);
      if (again) {
        std::uint64_t size = file.size();
        const auto once = [&](std::size_t) {
          return file.resize(size += step, asio::use_awaitable);
        };
        l.run(steps, 1, once);
        found = touch(old);
      }
      seen += found;
    }
    state.counters[faults] = static_cast<double>(seen);
  })->Iterations(1);
}

void compare(const bench::medians& m, bench::table& t) {
  for (const engine& e : engines)
    for (const growth& g : growths)
      t.slower(title(awaited, g, e) + " (baseline: " + raw + ")",
               m.time(title(awaited, g, e)) / steps, m.time(title(raw, g, e)) / steps,
               e.kind == backend_kind::io_uring ? std::optional(1.3) : std::nullopt);
  t.count(std::string(retouching) + " (baseline: " + touching + ")", m.counter(retouching, faults),
          m.counter(touching, faults), 0);
}

}  // namespace

int main(int argc, char** argv) {
  const bench::options given = bench::initialize(argc, argv, {.repetitions = repetitions});
  const bench::work_directory directory(given.directory);
  int files = 0;
  const auto file = [&] {
    const std::filesystem::path path = directory.path() / std::to_string(files++);
    mapio::mapping::create(path, step).flush();
    return path;
  };
  for (const engine& e : engines)
    for (const growth& g : growths)
      add_growth(file(), g, e);
  for (const bool again : {false, true})
    add_retouching(file(), again);
  return bench::run(given, compare);
}
