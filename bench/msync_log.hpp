#ifndef MAPIO_BENCH_MSYNC_LOG_HPP
#define MAPIO_BENCH_MSYNC_LOG_HPP

// The baseline for ingestd: the same server and sessions over a log as it is written without mapio.
// Records are copied into a plain mapping, and an msync on a pool of threads makes each of them
// durable before it is acknowledged.

#include "log.hpp"

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/thread_pool.hpp>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <span>
#include <system_error>

namespace bench {

/// Says what one msync is for.
enum class sync_unit {
  record,  ///< Every record.
  batch,   ///< All records that one read of a socket gave.
};

/// Uses one file, written with zeros and synced before it is used, as the segments of ingestd are.
/// When it is full, it is written from the start again: that is all a benchmark needs.
class msync_log final : public ingestd::record_log {
 public:
  msync_log(const asio::any_io_executor& executor, const std::filesystem::path& path,
            std::size_t size, sync_unit unit, std::size_t threads);
  ~msync_log() override;

  asio::awaitable<std::error_code> append(ingestd::client_state& client,
                                          std::span<const ingestd::input_record> records) override;
  std::unique_ptr<ingestd::log_tail> tail(std::uint64_t) override { return nullptr; }
  ingestd::log_stats stats() const override { return totals_; }

  /// Completes when no msync is under way.
  asio::awaitable<void> settled();

 private:
  struct write {
    std::size_t size = 0;
    ingestd::client_state* client = nullptr;
    std::uint64_t last_sequence = 0;
    std::uint64_t records = 0;
    std::size_t payload_bytes = 0;
    std::error_code error;
    bool done = false;
  };

  void place(ingestd::client_state& client, std::span<const ingestd::input_record> records,
             std::size_t size);
  void acknowledge();

  sync_unit unit_;
  std::byte* memory_ = nullptr;
  std::size_t size_;
  std::size_t position_ = 0;
  std::deque<std::shared_ptr<write>> in_flight_;
  ingestd::log_stats totals_;
  asio::thread_pool pool_;  // last: its threads end before what they use
};

}  // namespace bench

#endif  // MAPIO_BENCH_MSYNC_LOG_HPP
