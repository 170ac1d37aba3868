#include "server.hpp"

#include "session.hpp"

#include <asio/buffer.hpp>
#include <asio/co_spawn.hpp>
#include <asio/socket_base.hpp>

#include <algorithm>
#include <exception>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

namespace ingestd {

server::server(const asio::any_io_executor& executor, record_log& log, server_options options)
    : executor_(executor), log_(log), options_(std::move(options)), acceptor_(executor),
      pause_(executor), sweep_(executor), changed_(executor) {}

server::~server() = default;

asio::ip::tcp::endpoint server::listen(const asio::ip::tcp::endpoint& endpoint) {
  acceptor_.open(endpoint.protocol());
  acceptor_.set_option(asio::socket_base::reuse_address(true));
  acceptor_.bind(endpoint);
  acceptor_.listen();
  return acceptor_.local_endpoint();
}

asio::awaitable<void> server::run() {
  const auto ended = [this](const std::exception_ptr& failure) {
    --running_;
    changed_.notify_all();
    if (failure) std::rethrow_exception(failure);
  };
  running_ += 2;
  asio::co_spawn(executor_, accept_connections(), ended);
  asio::co_spawn(executor_, watch_for_stalls(), ended);
  while (!stopping_)
    co_await changed_.wait();

  if (!sessions_.empty())
    spdlog::info("stopping: {} connections have their records acknowledged", sessions_.size());
  asio::steady_timer deadline(executor_, options_.drain_timeout);
  deadline.async_wait([this](std::error_code cancelled) {
    if (cancelled) return;
    spdlog::warn("{} connections do not end and are cut off", sessions_.size());
    const auto sessions = sessions_;
    for (const auto& s : sessions)
      s->abort();
  });
  while (!sessions_.empty() || running_ > 0)
    co_await changed_.wait();
}

void server::stop() {
  if (stopping_) return;
  stopping_ = true;
  std::error_code error;
  if (acceptor_.close(error)) spdlog::warn("closing the acceptor: {}", error.message());
  pause_.cancel();
  sweep_.cancel();
  const auto sessions = sessions_;
  for (const auto& s : sessions)
    s->finish();
  changed_.notify_all();
}

asio::awaitable<void> server::accept_connections() {
  while (!stopping_) {
    auto [error, socket] = co_await acceptor_.async_accept(as_result);
    if (stopping_) break;
    if (error) {
      // Out of descriptors, most likely: the connection stays in the queue, and trying again at
      // once would spin.
      spdlog::error("accept: {}", error.message());
      pause_.expires_after(std::chrono::milliseconds(100));
      co_await pause_.async_wait(as_result);
      continue;
    }
    admit(std::move(socket));
  }
}

void server::admit(asio::ip::tcp::socket socket) {
  if (sessions_.size() >= options_.max_connections) {
    spdlog::warn("a connection is refused: there are {} already", sessions_.size());
    // Fits into the empty buffer of a new socket, so that nothing waits.
    constexpr std::string_view words = "ERR too many connections\n";
    std::error_code error;
    if (!socket.non_blocking(true, error)) socket.write_some(asio::buffer(words), error);
    return;
  }
  auto s = std::make_shared<session>(*this, std::move(socket));
  sessions_.insert(s);
  asio::co_spawn(executor_, s->run(), [this, s](const std::exception_ptr& failure) {
    if (failure) {
      try {
        std::rethrow_exception(failure);
      } catch (const std::exception& e) {
        spdlog::error("a session ended by an exception: {}", e.what());
      }
      s->abort();
    }
    sessions_.erase(s);
    changed_.notify_all();
  });
}

asio::awaitable<void> server::watch_for_stalls() {
  while (!stopping_ || !sessions_.empty()) {
    const auto allowed = stopping_ ? std::min(options_.idle_timeout, options_.last_idle_timeout)
                                   : options_.idle_timeout;
    sweep_.expires_after(
        std::clamp(allowed / 4, std::chrono::milliseconds(10), std::chrono::milliseconds(1000)));
    co_await sweep_.async_wait(as_result);
    const auto before = std::chrono::steady_clock::now() - allowed;
    const auto sessions = sessions_;
    for (const auto& s : sessions) {
      s->end_if_stalled(before);
      s->end_if_deaf(before);
    }
  }
}

std::string server::stats_line() const {
  const log_stats log = log_.stats();
  const std::uint64_t new_records = log.records - log.recovered_records;
  const nlohmann::ordered_json line = {
      {"records", log.records},
      {"bytes", log.bytes},
      {"recovered_records", log.recovered_records},
      {"syncs", log.syncs},
      {"sync_failures", log.sync_failures},
      {"records_per_sync",
       log.syncs == 0 ? 0.0 : static_cast<double>(new_records) / static_cast<double>(log.syncs)},
      {"durable_offset", log_.durable_offset()},
      {"segments", log.segments},
      {"segment_waits", log.segment_waits},
      {"clients", log_.clients()},
      {"connections", sessions_.size()},
      {"backend", options_.backend},
      {"backend_reason", options_.backend_reason},
      {"problem", log.problem},
  };
  return line.dump();
}

std::shared_ptr<session> server::claim(client_state& client, const std::shared_ptr<session>& s) {
  return std::exchange(owners_[&client], s).lock();
}

bool server::owns(const client_state& client, const session& s) const {
  const auto found = owners_.find(&client);
  return found != owners_.end() && found->second.lock().get() == &s;
}

void server::disown(const client_state& client, const session& s) {
  if (owns(client, s)) owners_.erase(&client);
}

}  // namespace ingestd
