#ifndef MAPIO_EXAMPLES_INGESTD_SERVER_HPP
#define MAPIO_EXAMPLES_INGESTD_SERVER_HPP

#include "event.hpp"
#include "log.hpp"

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/steady_timer.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>

namespace ingestd {

class session;

struct server_options {
  /// Longest payload, in bytes.
  std::size_t max_record = std::size_t{1} << 20;
  /// A socket is not read while more payload bytes of its client than this are not durable.
  std::size_t max_pending = std::size_t{1} << 20;
  /// More are refused: what one connection may hold in memory is bounded, and so must be their
  /// number.
  std::size_t max_connections = 1024;
  /// How long a client may leave a line unfinished, or not read what is sent to it.
  std::chrono::milliseconds idle_timeout{60'000};
  /// How long it may not read at the end.
  std::chrono::milliseconds last_idle_timeout{2'000};
  /// How long the end may take: clients that do not read their acknowledgements are cut off then.
  std::chrono::milliseconds drain_timeout{10'000};
  /// What STATS says about the engine.
  std::string backend;
  std::string backend_reason;
};

/// Accepts connections and runs a session on each. The protocol is described in docs/ingestd.md.
class server {
 public:
  server(const asio::any_io_executor& executor, record_log& log, server_options options);
  ~server();

  /// Listens; port 0 picks one. Returns where it listens. Throws std::system_error.
  asio::ip::tcp::endpoint listen(const asio::ip::tcp::endpoint& endpoint);
  /// Serves until stop(); completes once every session has acknowledged what it took and is gone.
  asio::awaitable<void> run();
  /// Accepts and reads nothing any more.
  void stop();

  // What sessions use.

  record_log& log() noexcept { return log_; }
  const server_options& options() const noexcept { return options_; }
  std::string stats_line() const;
  /// Makes `s` the one session that may append for a client; returns the one it takes that from, or
  /// null.
  std::shared_ptr<session> claim(client_state& client, const std::shared_ptr<session>& s);
  /// Tells whether `s` is still that session.
  bool owns(const client_state& client, const session& s) const;
  void disown(const client_state& client, const session& s);

 private:
  asio::awaitable<void> accept_connections();
  asio::awaitable<void> watch_for_stalls();
  void admit(asio::ip::tcp::socket socket);

  asio::any_io_executor executor_;
  record_log& log_;
  server_options options_;
  asio::ip::tcp::acceptor acceptor_;
  asio::steady_timer pause_;
  asio::steady_timer sweep_;
  event changed_;
  bool stopping_ = false;
  std::size_t running_ = 0;
  std::unordered_set<std::shared_ptr<session>> sessions_;
  std::unordered_map<const client_state*, std::weak_ptr<session>> owners_;
};

}  // namespace ingestd

#endif  // MAPIO_EXAMPLES_INGESTD_SERVER_HPP
