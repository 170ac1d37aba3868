// ingest: sends the lines of files to ingestd, and checks afterwards that they are all there.
//
//   ingest --connect HOST:PORT FILE...    send
//   ingest --verify DIR FILE...           compare a daemon's directory with the files
//   ingest --follow DIR                   show a daemon's records as they become durable
//   ingest --stats HOST:PORT              print the daemon's counters

#include "client.hpp"
#include "follow.hpp"
#include "input.hpp"
#include "os.hpp"
#include "progress.hpp"
#include "record.hpp"
#include "sizes.hpp"
#include "verify.hpp"

#include <asio/co_spawn.hpp>
#include <asio/connect.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/read_until.hpp>
#include <asio/write.hpp>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace {

using namespace ingest;
using nlohmann::json;

struct arguments {
  std::string connect;
  std::string verify;
  std::string stats;
  std::string follow;
  std::string json_file;
  std::vector<std::filesystem::path> files;
  dealing deal;
  std::size_t window = 256;
  std::uint32_t retry_for = 60;
};

std::pair<std::string, std::string> host_and_port(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == address.size())
    throw std::runtime_error(fmt::format("'{}' is not HOST:PORT", address));
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  return {host, address.substr(colon + 1)};
}

void write_json(const std::string& path, const json& value) {
  if (path.empty()) return;
  std::ofstream out(path);
  out << value.dump(2) << '\n';
  out.close();
  if (!out) throw std::runtime_error(fmt::format("cannot write {}", path));
}

int send(const arguments& args) {
  auto [host, port] = host_and_port(args.connect);
  const input in(args.files);
  // Its lines are used where they are mapped. An error like others, from here on.
  ingestd::os::end_when_unreadable(
      "\ningest: an input file cannot be read, or was cut short meanwhile\n");
  client c(in, args.deal,
           {std::move(host), std::move(port), args.window, std::chrono::seconds(args.retry_for)},
           ingestd::os::is_terminal_output());
  fmt::print("{} records, {:.1f} MB, of {} file{} over {} connection{}\n", grouped(c.records()),
             megabytes(in.bytes()), in.files(), in.files() == 1 ? "" : "s", c.channels(),
             c.channels() == 1 ? "" : "s");
  std::fflush(stdout);

  const client_report& r = c.run();

  const double time = seconds(r.elapsed);
  const auto per_second = [time](double n) { return time > 0 ? n / time : 0; };
  const double p50 = milliseconds(r.ack_latency.percentile(0.50));
  const double p99 = milliseconds(r.ack_latency.percentile(0.99));
  const double max = milliseconds(r.ack_latency.max());
  fmt::print("durable:      {} records, {:.1f} MB in {:.2f} s\n", grouped(r.records),
             megabytes(r.bytes), time);
  if (r.already_durable != 0) fmt::print("already were: {} records\n", grouped(r.already_durable));
  if (c.too_long() != 0) fmt::print("too long:     {} lines, left out\n", grouped(c.too_long()));
  fmt::print("rate:         {} records/s, {:.1f} MB/s\n",
             grouped(static_cast<std::uint64_t>(per_second(static_cast<double>(r.records)))),
             per_second(megabytes(r.bytes)));
  fmt::print("ack latency:  p50 {:.2f} ms, p99 {:.2f} ms, max {:.2f} ms\n", p50, p99, max);
  fmt::print("reconnects:   {}\n", r.reconnects);
  if (r.server_errors != 0) fmt::print("ERR answers:  {}\n", r.server_errors);
  std::fflush(stdout);
  if (!r.failure.empty()) fmt::print(stderr, "ingest: {}\n", r.failure);

  write_json(args.json_file, {{"complete", r.failure.empty() && c.too_long() == 0},
                              {"failure", r.failure},
                              {"records", r.records},
                              {"bytes", r.bytes},
                              {"seconds", time},
                              {"records_per_second", per_second(static_cast<double>(r.records))},
                              {"megabytes_per_second", per_second(megabytes(r.bytes))},
                              {"ack_latency_ms", {{"p50", p50}, {"p99", p99}, {"max", max}}},
                              {"connections", c.channels()},
                              {"input_records", c.records()},
                              {"already_durable", r.already_durable},
                              {"too_long", c.too_long()},
                              {"reconnects", r.reconnects},
                              {"server_errors", r.server_errors}});
  return r.failure.empty() && c.too_long() == 0 ? 0 : 1;
}

int verify(const arguments& args) {
  const input in(args.files);
  // Its lines are used where they are mapped. An error like others, from here on.
  ingestd::os::end_when_unreadable(
      "\ningest: an input file cannot be read, or was cut short meanwhile\n");
  const verification v = verify_directory(args.verify, in, args.deal);
  for (const std::string& problem : v.problems)
    fmt::print(stderr, "ingest: {}\n", problem);
  fmt::print("expected:  {} records\n", grouped(v.expected));
  fmt::print("found:     {} records of these clients\n", grouped(v.found));
  if (v.foreign != 0)
    fmt::print("foreign:   {} records of {} other client{}\n", grouped(v.foreign),
               v.foreign_clients, v.foreign_clients == 1 ? "" : "s");
  if (v.too_long != 0) fmt::print("too long:  {} lines, never sent\n", grouped(v.too_long));
  fmt::print("lost {}, corrupt {}, duplicate {}\n", v.lost, v.corrupt, v.duplicate);
  std::fflush(stdout);
  write_json(args.json_file, {{"expected", v.expected},
                              {"found", v.found},
                              {"lost", v.lost},
                              {"corrupt", v.corrupt},
                              {"duplicate", v.duplicate},
                              {"foreign", v.foreign},
                              {"foreign_clients", v.foreign_clients},
                              {"too_long", v.too_long}});
  return v.lost == 0 && v.corrupt == 0 && v.duplicate == 0 ? 0 : 1;
}

int follow_directory(const arguments& args) {
  asio::io_context io;
  asio::co_spawn(io,
                 follow(args.follow,
                        [](std::string_view lines) {
                          if (std::fwrite(lines.data(), 1, lines.size(), stdout) != lines.size() ||
                              std::fflush(stdout) != 0)
                            throw std::system_error(errno, std::system_category(),
                                                    "standard output");
                        }),
                 [](const std::exception_ptr& failure) {
                   if (failure) std::rethrow_exception(failure);
                 });
  io.run();
  return 0;
}

int print_stats(const arguments& args) {
  const auto [host, port] = host_and_port(args.stats);
  asio::io_context io;
  tcp::socket socket(io);
  asio::connect(socket, tcp::resolver(io).resolve(host, port));
  asio::write(socket, asio::buffer(std::string("STATS\n")));
  std::string answer;
  const std::size_t length = asio::read_until(socket, asio::dynamic_buffer(answer, 1 << 20), '\n');
  answer.resize(length);
  fmt::print("{}", answer);
  return answer.starts_with("ERR") ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  arguments args;
  CLI::App app("Sends the lines of files to ingestd, each a durable record, and verifies them.");
  auto* connect =
      app.add_option("--connect", args.connect, "Send to this daemon")->type_name("HOST:PORT");
  auto* verify_option =
      app.add_option(
             "--verify", args.verify,
             "Compare the daemon's directory with the files; needs the same files in the same "
             "order, --connections, --client-prefix and --max-record as for sending")
          ->type_name("DIR");
  auto* stats = app.add_option("--stats", args.stats, "Print the daemon's counters, a line of JSON")
                    ->type_name("HOST:PORT");
  auto* follow_option =
      app.add_option("--follow", args.follow,
                     "Show the records in a daemon's directory as TAIL does, from the first on and "
                     "as they become durable; needs no daemon")
          ->type_name("DIR");
  app.add_option("--connections", args.deal.clients, "Connections, each one client of the daemon")
      ->check(CLI::Range(1U, 65536U))
      ->capture_default_str();
  app.add_option("--window", args.window, "Unacknowledged records per connection")
      ->check(CLI::Range(1U, 1U << 24))
      ->capture_default_str();
  app.add_option("--client-prefix", args.deal.prefix, "How the clients' names begin")
      ->check(CLI::Validator(
          [](const std::string& text) {
            return text.empty() || text.size() > 200 ||
                           text.find_first_of(" \t\r\n") != std::string::npos
                       ? std::string("must have 1 to 200 characters, none of them white space")
                       : std::string();
          },
          "NAME"))
      ->capture_default_str();
  app.add_option("--max-record", args.deal.max_record,
                 "Leave out longer lines; at most what the daemon takes. With suffix: 64K, 1M")
      ->transform(ingestd::size_option(0, ingestd::max_payload_length))
      ->capture_default_str();
  app.add_option("--retry-for", args.retry_for, "Seconds without progress after which to give up")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--json", args.json_file, "Write the numbers to this file")->type_name("FILE");
  auto* files =
      app.add_option("FILE", args.files, "Text to send, line by line; must not change meanwhile");
  connect->excludes(verify_option)->excludes(stats)->excludes(follow_option);
  verify_option->excludes(stats)->excludes(follow_option);
  stats->excludes(follow_option);
  connect->needs(files);
  verify_option->needs(files);
  CLI11_PARSE(app, argc, argv);

  try {
    if (*stats) return print_stats(args);
    if (*follow_option) return follow_directory(args);
    if (*verify_option) return verify(args);
    if (*connect) return send(args);
    fmt::print(stderr,
               "ingest: one of --connect, --verify, --follow and --stats is needed; see --help\n");
    return 2;
  } catch (const std::exception& e) {
    fmt::print(stderr, "ingest: {}\n", e.what());
    return 1;
  }
}
