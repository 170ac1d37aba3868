#ifndef MAPIO_BENCH_LOAD_HPP
#define MAPIO_BENCH_LOAD_HPP

// Clients of ingestd that send without end, on a thread of their own.

#include "latency.hpp"

#include <asio/awaitable.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

namespace bench {

struct load_options {
  asio::ip::tcp::endpoint server;
  std::size_t connections = 64;
  std::size_t window = 256;   ///< Unacknowledged records of each connection.
  std::size_t payload = 100;  ///< Bytes of each record.
};

/// Keeps every connection's window full: after each acknowledgement it sends as many records as
/// were acknowledged.
class load {
 public:
  explicit load(const load_options& options);
  load(const load&) = delete;
  load& operator=(const load&) = delete;
  ~load();

  /// Returns how many records were acknowledged so far.
  std::uint64_t acknowledged() const noexcept {
    return acknowledged_.load(std::memory_order_relaxed);
  }
  /// Forgets the latencies seen so far.
  void restart_latency();
  /// Returns the times from handing a record to the socket to its acknowledgement.
  ingest::latency_histogram latency() const;
  /// Sends no more and waits until all is acknowledged and every connection closed. Throws what
  /// ended a client.
  void stop();

 private:
  asio::awaitable<void> run_client(std::size_t index);

  load_options options_;
  std::string payload_;
  std::atomic<std::uint64_t> acknowledged_{0};
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;  // guards what follows
  ingest::latency_histogram latency_;
  std::exception_ptr failure_;
  asio::io_context io_{1};
  std::thread thread_;
};

}  // namespace bench

#endif  // MAPIO_BENCH_LOAD_HPP
