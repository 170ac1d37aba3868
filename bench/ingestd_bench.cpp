// Durable records per second of ingestd, beside the same server over a log that calls msync.

#include "comparison.hpp"
#include "load.hpp"
#include "msync_log.hpp"

#include "recovery.hpp"
#include "server.hpp"
#include "store.hpp"

#include <mapio/backend.hpp>

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/post.hpp>

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>

namespace {

using namespace std::chrono_literals;
using clock = std::chrono::steady_clock;

constexpr std::size_t pool_threads = 4;
// As large as a segment of ingestd.
constexpr std::size_t baseline_file = std::size_t{64} << 20;
constexpr auto warm_up = 700ms;
constexpr auto measured_time = 2000ms;

/// The server on a thread of its own, over whatever log it is given.
class running_server {
 public:
  /// What is there beside the server: start() completes before it listens, stop() after it is done.
  struct storage {
    std::unique_ptr<ingestd::record_log> log;
    std::function<asio::awaitable<void>()> start;
    std::function<asio::awaitable<void>()> stop;
  };

  template <class Make>
  explicit running_server(Make make) {
    std::promise<asio::ip::tcp::endpoint> listening;
    auto endpoint = listening.get_future();
    thread_ = std::thread([this, make, &listening] {
      asio::io_context io(1);
      storage s = make(io);
      log_ = s.log.get();
      ingestd::server server(io.get_executor(), *s.log, {.backend = {}, .backend_reason = {}});
      io_ = &io;
      server_ = &server;
      asio::co_spawn(io, serve(s, server, listening), [](const std::exception_ptr& failure) {
        if (failure) std::rethrow_exception(failure);
      });
      io.run();
    });
    endpoint_ = endpoint.get();
  }
  running_server(const running_server&) = delete;
  running_server& operator=(const running_server&) = delete;
  /// Ends the server; the clients must have stopped.
  ~running_server() {
    asio::post(*io_, [this] { server_->stop(); });
    thread_.join();
  }

  asio::ip::tcp::endpoint endpoint() const { return endpoint_; }
  ingestd::log_stats stats() const {
    std::promise<ingestd::log_stats> answer;
    asio::post(*io_, [this, &answer] { answer.set_value(log_->stats()); });
    return answer.get_future().get();
  }

 private:
  static asio::awaitable<void> serve(storage& s, ingestd::server& server,
                                     std::promise<asio::ip::tcp::endpoint>& listening) {
    co_await s.start();
    listening.set_value(server.listen({asio::ip::address_v4::loopback(), 0}));
    co_await server.run();
    co_await s.stop();
  }

  asio::io_context* io_ = nullptr;
  ingestd::server* server_ = nullptr;
  ingestd::record_log* log_ = nullptr;
  asio::ip::tcp::endpoint endpoint_;
  std::thread thread_;
};

double milliseconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

/// Registers a server over what make(io_context, directory) returns.
template <class Make>
void add(const std::string& name, const std::filesystem::path& parent, Make make) {
  benchmark::RegisterBenchmark(
      name.c_str(),
      [=](benchmark::State& state) {
        const bench::work_directory directory(parent);
        const running_server server(
            [&](asio::io_context& io) { return make(io, directory.path()); });
        bench::load load({.server = server.endpoint()});
        for (auto _ : state) {
          std::this_thread::sleep_for(warm_up);
          const ingestd::log_stats before = server.stats();
          load.restart_latency();
          const std::uint64_t first = load.acknowledged();
          const auto begin = clock::now();
          std::this_thread::sleep_for(measured_time);
          const std::uint64_t records = load.acknowledged() - first;
          const std::chrono::duration<double> elapsed = clock::now() - begin;
          const auto latency = load.latency();
          const ingestd::log_stats after = server.stats();

          state.SetIterationTime(elapsed.count());
          state.SetItemsProcessed(static_cast<std::int64_t>(records));
          state.counters["records_per_sync"] = static_cast<double>(after.records - before.records) /
                                               static_cast<double>(after.syncs - before.syncs);
          state.counters["ack_p50_ms"] = milliseconds(latency.percentile(0.5));
          state.counters["ack_p99_ms"] = milliseconds(latency.percentile(0.99));
        }
        try {
          load.stop();
        } catch (const std::exception& e) {
          state.SkipWithError(e.what());
        }
      })
      ->Iterations(1)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

void add_ingestd(const std::string& name, const std::filesystem::path& parent,
                 mapio::backend_kind kind) {
  add(name, parent, [kind](asio::io_context& io, const std::filesystem::path& directory) {
    mapio::use_backend(io, kind);
    auto log = std::make_unique<ingestd::store>(io.get_executor(),
                                                ingestd::store_options{.directory = directory},
                                                ingestd::recover(directory));
    ingestd::store& store = *log;
    return running_server::storage{std::move(log), [&store] { return store.start(); },
                                   [&store] { return store.stop(); }};
  });
}

void add_baseline(const std::string& name, const std::filesystem::path& parent,
                  bench::sync_unit unit) {
  add(name, parent, [unit](asio::io_context& io, const std::filesystem::path& directory) {
    auto log = std::make_unique<bench::msync_log>(io.get_executor(), directory / "log",
                                                  baseline_file, unit, pool_threads);
    bench::msync_log& baseline = *log;
    return running_server::storage{std::move(log), []() -> asio::awaitable<void> { co_return; },
                                   [&baseline] { return baseline.settled(); }};
  });
}

const std::string on_ring = "ingestd on io_uring";
const std::string on_pool = "ingestd on mapio's thread_pool";
const std::string per_record = "msync per record";
const std::string per_batch = "msync per batch";

void compare(const bench::medians& m, bench::table& t) {
  for (const std::string& engine : {on_ring, on_pool}) {
    const auto beside = [&engine](const char* what, const std::string& baseline) {
      return fmt::format("{}, {} (baseline: {})", engine, what, baseline);
    };
    t.faster(beside("durable records", per_record), m.rate(engine), m.rate(per_record), 5);
    t.faster(beside("durable records", per_batch), m.rate(engine), m.rate(per_batch));
    t.factor(beside("records per sync", per_batch), m.counter(engine, "records_per_sync"),
             m.counter(per_batch, "records_per_sync"));
    t.slower(beside("median time to ACK", per_record), m.counter(engine, "ack_p50_ms") * 1e6,
             m.counter(per_record, "ack_p50_ms") * 1e6);
    t.slower(beside("median time to ACK", per_batch), m.counter(engine, "ack_p50_ms") * 1e6,
             m.counter(per_batch, "ack_p50_ms") * 1e6);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bench::options given = bench::initialize(argc, argv, {.repetitions = 5});
  spdlog::set_level(spdlog::level::err);
  add_ingestd(on_ring, given.directory, mapio::backend_kind::io_uring);
  add_ingestd(on_pool, given.directory, mapio::backend_kind::thread_pool);
  add_baseline(per_record, given.directory, bench::sync_unit::record);
  add_baseline(per_batch, given.directory, bench::sync_unit::batch);
  return bench::run(given, compare);
}
