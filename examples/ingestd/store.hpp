#ifndef MAPIO_EXAMPLES_INGESTD_STORE_HPP
#define MAPIO_EXAMPLES_INGESTD_STORE_HPP

#include "log.hpp"
#include "recovery.hpp"

#include <mapio/mapped_file.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/steady_timer.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <span>
#include <system_error>
#include <vector>

namespace ingestd {

struct store_options {
  std::filesystem::path directory;
  std::uint64_t segment_size = std::uint64_t{64} << 20;
  /// How long to wait before a segment is prepared again after that failed, on a full disk for
  /// example.
  std::chrono::milliseconds retry{500};
};

/// Keeps the log in segment files that are written through mapio::mapped_file.
///
/// One append is one batch: one update of the current segment, then one flush of the batch's range,
/// which the library merges with the flushes of every other session. Nothing here gathers, delays
/// or counts flushes. A batch counts as durable once its flush and those of all batches before it
/// are done.
///
/// When a segment is full the next one takes over at once: it was prepared in the background, with
/// zeros that are on the disk, because a sync into blocks that were never written has to journal
/// their first use as well.
///
/// After a failed write or sync the segment is given up. What was durable in it stays in the log,
/// what was not is reported to its clients as a setback, and the log goes on in the next segment,
/// from the durable offset on. The start record there is synced first, so that a recovery cannot
/// see the lost records again.
class store final : public record_log {
 public:
  /// Takes over what recover() returned; the directory must stay locked.
  store(const asio::any_io_executor& executor, store_options options,
        const recovered_log& recovered);

  /// Opens the last segment and begins to prepare the next, which in a new directory is the first:
  /// completes when it is there, or cannot be had for now. Must complete before append().
  asio::awaitable<void> start();
  /// Ends the work in the background. Nothing may be appended any more.
  asio::awaitable<void> stop();

  asio::awaitable<std::error_code> append(client_state& client,
                                          std::span<const input_record> records) override;
  std::unique_ptr<log_tail> tail(std::uint64_t offset) override;
  log_stats stats() const override;

 private:
  class tail_reader;
  struct segment;
  struct batch;
  struct zeroing;

  asio::awaitable<void> prepare_ahead();
  asio::awaitable<std::error_code> prepare(segment& made);
  asio::awaitable<void> write_zeros(segment& made, zeroing& work);
  asio::awaitable<void> commit(std::shared_ptr<batch> b);
  asio::awaitable<void> replace_failed();
  asio::awaitable<void> retire(std::shared_ptr<segment> done);
  std::size_t place(client_state& client, std::span<const input_record> records);
  void use_next();
  void settle();
  void give_up(std::error_code error);
  void leave(std::shared_ptr<segment> s);
  template <class Coroutine>
  void spawn(Coroutine coroutine, const char* what);

  store_options options_;
  event changed_;  // a segment was prepared or is wanted, a problem came or went, the end
  asio::steady_timer pause_;
  bool stopping_ = false;
  std::size_t running_ = 0;  // coroutines in the background

  std::shared_ptr<segment> current_;  // null before the first segment, and after one failed
  std::shared_ptr<segment> next_;     // prepared
  std::vector<std::shared_ptr<segment>> left_;  // and not closed yet
  std::size_t longest_record_;                  // encoded; no other can be behind an offset
  std::uint32_t last_number_;
  bool replacing_ = false;
  std::error_code problem_;

  std::uint64_t end_offset_;  // of what has a place
  std::deque<std::shared_ptr<batch>> in_flight_;
  std::vector<segment_part> parts_;

  log_stats totals_;  // of segments that are closed
};

}  // namespace ingestd

#endif  // MAPIO_EXAMPLES_INGESTD_STORE_HPP
