#ifndef MAPIO_EXAMPLES_INGESTD_LOG_HPP
#define MAPIO_EXAMPLES_INGESTD_LOG_HPP

// What the server asks of the thing that stores its records. `store` is the real one; a benchmark
// may put another behind the same server. Everything happens on the one thread that runs the
// io_context.

#include "event.hpp"
#include "reader.hpp"

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <vector>

namespace ingestd {

/// Keeps what the log knows of one client id. Lives as long as the log, unless there is nothing to
/// know.
struct client_state {
  client_state(const asio::any_io_executor& executor, std::string_view name)
      : id(name), changed(executor) {}

  /// Tells whether every record that was appended is durable, or was given up.
  bool settled() const noexcept { return appended == durable; }
  /// Tells whether it is as new: a client that was never seen has the same state.
  bool blank() const noexcept { return appended == 0 && durable == 0 && pending_bytes == 0; }

  std::string id;
  std::uint64_t appended = 0;     ///< Highest sequence that has a place in the log.
  std::uint64_t durable = 0;      ///< Highest sequence that is durable, and everything before it.
  std::size_t pending_bytes = 0;  ///< Of payloads appended and not yet durable.
  std::uint64_t setbacks = 0;     ///< How often `appended` fell back to `durable`.
  std::error_code setback;        ///< Why, the last time.
  std::size_t sessions = 0;       ///< How many refer to it.
  event changed;                  ///< Any of the above, or what sessions tell each other.
};

/// One line of a client; the payload is in the session's buffer.
struct input_record {
  std::uint64_t sequence = 0;
  std::string_view payload;
};

struct log_stats {
  std::uint64_t records = 0;            ///< Durable ones in the log.
  std::uint64_t bytes = 0;              ///< Of their payloads.
  std::uint64_t recovered_records = 0;  ///< Those that were there at the start.
  std::uint64_t syncs = 0;  ///< Since the start; those that prepare segments are not counted.
  std::uint64_t sync_failures = 0;
  std::uint64_t segments = 0;       ///< In use.
  std::uint64_t segment_waits = 0;  ///< Appends that had to wait for a segment to be prepared.
  std::string problem;  ///< Why records are refused at the moment; empty if they are not.
};

/// Reads durable records from a log offset on, and waits for more.
class log_tail {
 public:
  virtual ~log_tail() = default;
  /// Replaces `records` by at least one record that follows; their bytes stay until the next call.
  ///
  /// Completes with operation_aborted after cancel().
  virtual asio::awaitable<std::error_code> next(std::vector<record_view>& records) = 0;
  /// Ends a next() that waits, and every later one.
  virtual void cancel() = 0;
};

class record_log {
 public:
  explicit record_log(const asio::any_io_executor& executor)
      : progress_(executor), executor_(executor) {}
  record_log(const record_log&) = delete;
  record_log& operator=(const record_log&) = delete;
  virtual ~record_log() = default;

  asio::any_io_executor get_executor() const noexcept { return executor_; }

  /// Returns the state of a client; makes one for an id that was never seen.
  client_state& client(std::string_view id);
  /// Drops a state that no session refers to, if it is blank: anybody can make up ids without end.
  void forget_if_blank(const client_state& state);
  std::size_t clients() const noexcept { return clients_.size(); }

  /// Returns the log offset before which everything is durable.
  std::uint64_t durable_offset() const noexcept { return durable_offset_; }
  /// Is notified when the durable offset has moved.
  event& progress() noexcept { return progress_; }

  /// Gives records their places in the log, in this order.
  ///
  /// They must follow client.appended without a gap, and one append per client may be under way.
  /// Completes once all have places or one cannot get one, long before they are durable: that is
  /// seen in client.durable. Those before client.appended are in; an error is about the rest. The
  /// payloads are copied.
  virtual asio::awaitable<std::error_code> append(client_state& client,
                                                  std::span<const input_record> records) = 0;

  /// Returns a tail that starts at a log offset; null if this log has none.
  virtual std::unique_ptr<log_tail> tail(std::uint64_t offset) = 0;

  virtual log_stats stats() const = 0;

 protected:
  std::uint64_t durable_offset_ = 0;
  event progress_;

 private:
  asio::any_io_executor executor_;
  // A client_state holds its id: the key points to it.
  std::unordered_map<std::string_view, std::unique_ptr<client_state>> clients_;
};

inline client_state& record_log::client(std::string_view id) {
  if (const auto found = clients_.find(id); found != clients_.end()) return *found->second;
  auto made = std::make_unique<client_state>(executor_, id);
  client_state& state = *made;
  clients_.emplace(state.id, std::move(made));
  return state;
}

inline void record_log::forget_if_blank(const client_state& state) {
  if (state.sessions > 0 || !state.blank()) return;
  if (const auto found = clients_.find(state.id); found != clients_.end()) clients_.erase(found);
}

}  // namespace ingestd

#endif  // MAPIO_EXAMPLES_INGESTD_LOG_HPP
