// A TCP server that makes records durable before it acknowledges them. docs/ingestd.md describes
// it.

#include "recovery.hpp"
#include "server.hpp"
#include "sizes.hpp"
#include "store.hpp"

#include <mapio/backend.hpp>

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/signal_set.hpp>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <sstream>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace {

enum exit_status { ended = 0, failed = 1, in_use = 2, corrupt = 3 };

struct arguments {
  std::filesystem::path directory;
  std::string listen = "127.0.0.1:7411";
  std::uint64_t segment_size = std::uint64_t{64} << 20;
  std::uint64_t max_record = std::uint64_t{1} << 20;
  std::uint64_t max_pending = std::uint64_t{1} << 20;
  std::size_t max_connections = 1024;
  double idle_timeout = 60;
  mapio::backend_kind backend = mapio::backend_kind::automatic;
  bool verbose = false;
};

/// Reads "127.0.0.1:7411" or "[::1]:7411".
asio::ip::tcp::endpoint endpoint_of(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) throw CLI::ValidationError("--listen", "needs ADDRESS:PORT");
  std::string address = text.substr(0, colon);
  if (address.starts_with('[') && address.ends_with(']'))
    address = address.substr(1, address.size() - 2);
  std::uint16_t port = 0;
  std::error_code error;
  const asio::ip::address parsed = asio::ip::make_address(address, error);
  if (error || !CLI::detail::lexical_cast(text.substr(colon + 1), port)) {
    throw CLI::ValidationError("--listen", text + " is not ADDRESS:PORT");
  }
  return {parsed, port};
}

asio::awaitable<void> serve(ingestd::store& log, ingestd::server& server,
                            asio::ip::tcp::endpoint endpoint) {
  co_await log.start();
  const asio::ip::tcp::endpoint here = server.listen(endpoint);
  const std::string address =
      here.address().is_v6() ? "[" + here.address().to_string() + "]" : here.address().to_string();
  fmt::print("listening on {}:{}\n", address, here.port());
  std::fflush(stdout);
  co_await server.run();
  co_await log.stop();
}

int run(const arguments& given) {
  const asio::ip::tcp::endpoint endpoint = endpoint_of(given.listen);

  const ingestd::directory_lock lock(given.directory);
  asio::io_context io(1);
  // Before the recovery, which may take long: a signal lets it end, and then the daemon.
  asio::signal_set signals(io, SIGINT, SIGTERM);
  std::function<void()> stop;
  bool is_stopped = false;
  signals.async_wait([&](std::error_code error, int number) {
    if (error) return;
    spdlog::info("signal {}", number);
    is_stopped = true;
    if (stop) stop();
  });

  const ingestd::recovered_log recovered = ingestd::recover(given.directory);
  io.poll();
  if (is_stopped) {
    spdlog::info("ended; the log ends at {}", recovered.end_offset);
    return ended;
  }
  io.restart();

  // Unless told here, the environment may choose.
  if (given.backend != mapio::backend_kind::automatic) mapio::use_backend(io, given.backend);
  const mapio::backend_info backend = mapio::backend_of(io);
  std::ostringstream kind;
  kind << backend.kind;
  spdlog::info("engine: {} ({})", kind.str(), backend.reason);

  ingestd::store log(io.get_executor(),
                     {.directory = given.directory, .segment_size = given.segment_size}, recovered);
  ingestd::server server(io.get_executor(), log,
                         {.max_record = given.max_record,
                          .max_pending = given.max_pending,
                          .max_connections = given.max_connections,
                          .idle_timeout = std::chrono::milliseconds(
                              static_cast<std::int64_t>(given.idle_timeout * 1000)),
                          .backend = kind.str(),
                          .backend_reason = backend.reason});

  stop = [&server] { server.stop(); };
  asio::co_spawn(io, serve(log, server, endpoint), [&signals](const std::exception_ptr& failure) {
    signals.cancel();
    if (failure) std::rethrow_exception(failure);
  });
  io.run();
  spdlog::info("ended; the log ends at {}", log.durable_offset());
  return ended;
}

}  // namespace

int main(int argc, char** argv) {
  spdlog::set_default_logger(spdlog::stderr_color_mt("ingestd"));
  spdlog::set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ %v");

  arguments given;
  CLI::App app{"Stores lines that it gets over TCP, and acknowledges each once it is durable."};
  const std::map<std::string, mapio::backend_kind> backends = {
      {"automatic", mapio::backend_kind::automatic},
      {"io_uring", mapio::backend_kind::io_uring},
      {"iocp", mapio::backend_kind::iocp},
      {"thread_pool", mapio::backend_kind::thread_pool}};
  constexpr std::uint64_t most = std::uint64_t{1} << 40;
  app.add_option("--dir", given.directory, "Directory of the segments; created if there is none")
      ->required();
  app.add_option("--listen", given.listen, "ADDRESS:PORT; port 0 picks one")->capture_default_str();
  app.add_option("--segment-size", given.segment_size, "Bytes; K, M, G as suffix")
      ->transform(ingestd::size_option(1, most))
      ->capture_default_str();
  app.add_option("--max-record", given.max_record, "Longest payload")
      ->transform(ingestd::size_option(1, ingestd::max_payload_length))
      ->capture_default_str();
  app.add_option(
         "--max-pending", given.max_pending,
         "Payload bytes of one client that are not durable, beyond which its socket is not read")
      ->transform(ingestd::size_option(0, most))
      ->capture_default_str();
  app.add_option("--max-connections", given.max_connections, "More are refused")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--idle-timeout", given.idle_timeout,
                 "Seconds that a client may leave a line unfinished or answers unread")
      ->check(CLI::Validator(
          [](const std::string& text) {
            double seconds = 0;
            // Written so that what is not a number is refused as well.
            return CLI::detail::lexical_cast(text, seconds) && seconds >= 0.001 && seconds <= 1e9
                       ? std::string()
                       : text + " is not between 0.001 and 1000000000 seconds";
          },
          "SECONDS"))
      ->capture_default_str();
  app.add_option("--backend", given.backend, "automatic, io_uring, iocp or thread_pool")
      ->transform(CLI::CheckedTransformer(backends))
      ->default_str("automatic");
  app.add_flag("--verbose", given.verbose, "Log more");
  CLI11_PARSE(app, argc, argv);
  if (given.verbose) spdlog::set_level(spdlog::level::debug);

  try {
    const std::uint64_t least = ingestd::first_record_position +
                                ingestd::encoded_size(ingestd::max_client_length, given.max_record);
    if (given.segment_size < least) {
      throw CLI::ValidationError(
          "--segment-size", fmt::format("a segment with a record of --max-record needs {} bytes, "
                                        "and {} were given",
                                        least, given.segment_size));
    }
    return run(given);
  } catch (const CLI::Error& e) {
    return app.exit(e);
  } catch (const ingestd::directory_in_use& e) {
    spdlog::critical("{}", e.what());
    return in_use;
  } catch (const ingestd::log_corrupt& e) {
    spdlog::critical("{}", e.what());
    return corrupt;
  } catch (const std::exception& e) {
    spdlog::critical("{}", e.what());
    return failed;
  }
}
