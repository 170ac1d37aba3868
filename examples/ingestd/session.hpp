#ifndef MAPIO_EXAMPLES_INGESTD_SESSION_HPP
#define MAPIO_EXAMPLES_INGESTD_SESSION_HPP

#include "event.hpp"
#include "log.hpp"

#include <asio/awaitable.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/ip/tcp.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ingestd {

class server;

/// Speaks with one connection.
///
/// Two coroutines: one reads lines and appends what they hold to the log, the other writes answers
/// and, as the log reports records as durable, acknowledgements. Neither waits for the other, but
/// the reader stops while too much is not durable.
class session : public std::enable_shared_from_this<session> {
 public:
  session(server& owner, asio::ip::tcp::socket socket);

  /// Serves the connection to its end.
  asio::awaitable<void> run();

  /// Ends it after what was taken is acknowledged; `last_words`, a line, tells the client why.
  void finish(std::string last_words = {});
  /// Ends it now.
  void abort();
  /// Ends it if a line was begun before `before` and nothing came since.
  void end_if_stalled(std::chrono::steady_clock::time_point before);
  /// Ends it if something was to be sent before `before` and the client took nothing since.
  void end_if_deaf(std::chrono::steady_clock::time_point before);

 private:
  asio::awaitable<void> read_lines();
  asio::awaitable<void> write_answers();
  asio::awaitable<void> consume();
  asio::awaitable<void> command(std::string_view line);
  asio::awaitable<void> hello(std::string_view id);
  void start_tail(std::string_view offset);
  void stop_appending();
  asio::awaitable<void> append_gathered();
  asio::awaitable<void> stream_tail();
  asio::awaitable<void> linger();
  void gather(std::string_view line);
  bool make_room();
  std::string unfinished_line() const;
  std::string next_answers();
  std::string storage_error(const std::error_code& error) const;
  asio::awaitable<void> send(std::string_view text);
  void break_off(std::string_view unsent, bool within_line);
  void say(std::string_view line);
  void wake();

  server& server_;
  asio::ip::tcp::socket socket_;
  std::string name_;  // for the log
  asio::cancellation_signal stop_reading_;
  asio::cancellation_signal stop_writing_;
  event wake_;

  // What was read and is not used up: [begin_, end_) of buffer_, which grows to what the longest
  // line needs.
  std::vector<char> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t searched_ = 0;  // up to here there is no newline
  std::chrono::steady_clock::time_point last_read_;
  const std::size_t max_line_;
  bool carriage_returns_ = false;  // lines end with "\r\n"

  std::vector<input_record> gathered_;  // from lines in the buffer

  client_state* client_ = nullptr;
  bool appending_ = false;       // client_->appended is moved by this session
  std::uint64_t setbacks_ = 0;   // of the client, when this session began
  std::uint64_t greeted_ = 0;    // what HELLO answered
  std::uint64_t received_ = 0;   // highest sequence, from there on
  std::uint64_t answered_ = 0;   // highest acknowledged, from there on
  std::uint64_t duplicate_ = 0;  // highest that came again and is to be acknowledged again
  std::unique_ptr<log_tail> tail_;

  std::string outbox_;
  std::string last_words_;
  std::chrono::steady_clock::time_point last_write_;
  bool writing_ = false;  // a write is under way
  bool deaf_ = false;     // nothing can be sent any more, but for what fits at once
  bool said_last_words_ = false;
  bool reading_ = false;      // a read is under way
  bool finishing_ = false;    // reads nothing more
  bool refusing_ = false;     // and does not even look at the lines it has
  bool reader_done_ = false;  // and everything it took is settled
  bool peer_closed_ = false;
  bool broken_ = false;  // nothing can be sent
};

}  // namespace ingestd

#endif  // MAPIO_EXAMPLES_INGESTD_SESSION_HPP
