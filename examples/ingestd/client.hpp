#ifndef MAPIO_EXAMPLES_INGESTD_CLIENT_HPP
#define MAPIO_EXAMPLES_INGESTD_CLIENT_HPP

// The sending side of `ingest`: many connections to one ingestd, coroutines on one io_context, one
// thread.

#include "input.hpp"
#include "latency.hpp"
#include "progress.hpp"

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/co_spawn.hpp>
#include <asio/connect.hpp>
#include <asio/error.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/read_until.hpp>
#include <asio/redirect_error.hpp>
#include <asio/signal_set.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <iterator>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace ingest {

using asio::ip::tcp;

struct client_options {
  std::string host;
  std::string port;
  std::size_t window = 256;            ///< Unacknowledged records per connection.
  std::chrono::seconds retry_for{60};  ///< How long nothing may become durable before giving up.
};

/// Counts what one run did.
struct client_report {
  std::uint64_t records = 0;          ///< Made durable by this run.
  std::uint64_t bytes = 0;            ///< Of those, as in the input: payload and newline.
  std::uint64_t already_durable = 0;  ///< Records that an earlier run had sent.
  std::uint64_t already_durable_bytes = 0;
  std::uint64_t reconnects = 0;
  std::uint64_t server_errors = 0;  ///< ERR answers.
  latency_histogram ack_latency;    ///< From handing a record to the socket to its ACK.
  std::chrono::nanoseconds elapsed{0};
  std::string failure;  ///< Empty if every record is durable.
};

/// Parses "<word> <number>", and nothing else.
inline std::optional<std::uint64_t> number_after(std::string_view word, std::string_view text) {
  if (!text.starts_with(word)) return std::nullopt;
  text.remove_prefix(word.size());
  if (!text.starts_with(' ')) return std::nullopt;
  text.remove_prefix(1);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

class client;

/// One client id: its lines, how far they are durable, and the connection of the moment.
class channel {
 public:
  channel(client& owner, std::string id, line_cursor lines, std::uint64_t count, double jitter);

  asio::awaitable<void> run();

 private:
  using clock = std::chrono::steady_clock;

  struct unacknowledged {
    line content;
    clock::time_point handed_over;
  };

  asio::awaitable<void> session();
  asio::awaitable<void> send(tcp::socket& socket);
  asio::awaitable<void> receive(tcp::socket& socket);
  bool resume_after(std::uint64_t sequence);
  bool acknowledge(std::uint64_t sequence);
  void understand(std::string_view answer);
  bool fill_batch();
  bool finished() const noexcept { return durable_ == count_; }

  client& owner_;
  const std::string id_;
  line_cursor lines_;
  const std::uint64_t count_;
  const double jitter_;
  bool connected_before_ = false;

  std::uint64_t durable_ = 0;  // the highest sequence that the server has said to be durable
  std::deque<unacknowledged> window_;  // the records after it, oldest first
  std::size_t written_ = 0;            // of those, how many went out on this connection

  asio::steady_timer wake_;  // wakes send() when there is room in the window
  bool closing_ = false;
  std::string trouble_;  // why the connection ended
  std::string received_;
  std::string text_;  // short lines and sequence numbers of the batch
  std::vector<asio::const_buffer> batch_;
};

/// Runs all channels to the end.
class client {
 public:
  client(const input& in, const dealing& deal, client_options options, bool terminal);

  /// Returns when every record is durable, or when it gave up.
  const client_report& run();

  std::uint64_t records() const noexcept { return records_; }
  std::uint64_t too_long() const noexcept { return too_long_; }
  std::size_t channels() const noexcept { return channels_.size(); }

 private:
  friend class channel;
  using clock = std::chrono::steady_clock;

  asio::awaitable<void> resolve_and_start();
  asio::awaitable<void> run_channel(channel& c);
  asio::awaitable<void> watch();
  std::uint64_t done() const noexcept { return report_.bytes + report_.already_durable_bytes; }

  /// What channels tell: something became durable; a connection is lost; this cannot be mended.
  void progressed() { last_progress_ = clock::now(); }
  void lost_connection(const std::string& why, bool said_by_server);
  void fail(std::string why) {
    if (report_.failure.empty()) report_.failure = std::move(why);
    io_.stop();
  }

  const client_options options_;
  asio::io_context io_{1};
  asio::signal_set signals_{io_, SIGINT, SIGTERM};
  tcp::resolver resolver_{io_};
  tcp::resolver::results_type endpoints_;
  client_report report_;
  progress_display display_;
  std::uint64_t records_ = 0;
  std::uint64_t bytes_ = 0;
  std::uint64_t too_long_ = 0;
  std::size_t running_ = 0;
  clock::time_point last_progress_;
  std::string last_trouble_;
  std::set<std::string> noted_;
  clock::time_point last_note_;
  std::vector<std::unique_ptr<channel>> channels_;
};

// --- channel
// --------------------------------------------------------------------------------------

inline channel::channel(client& owner, std::string id, line_cursor lines, std::uint64_t count,
                        double jitter)
    : owner_(owner), id_(std::move(id)), lines_(lines), count_(count), jitter_(jitter),
      wake_(owner.io_) {}

inline asio::awaitable<void> channel::run() {
  constexpr std::chrono::milliseconds shortest{50};
  constexpr std::chrono::milliseconds longest{1000};
  auto pause = shortest;
  asio::steady_timer timer(owner_.io_);
  for (;;) {
    const std::uint64_t before = durable_;
    co_await session();
    if (finished()) co_return;
    owner_.lost_connection(trouble_, trouble_.starts_with("the server says"));
    pause = durable_ > before ? shortest : std::min(pause * 2, longest);
    // Not all at once: the server has just come back.
    timer.expires_after(std::chrono::duration_cast<clock::duration>(pause * jitter_));
    co_await timer.async_wait(asio::use_awaitable);
  }
}

/// Connects, asks where to go on, and sends from there until everything is acknowledged or the
/// connection ends.
inline asio::awaitable<void> channel::session() {
  using namespace asio::experimental::awaitable_operators;
  std::error_code error;
  tcp::socket socket(owner_.io_);
  trouble_.clear();
  received_.clear();
  written_ = 0;
  closing_ = false;

  co_await asio::async_connect(socket, owner_.endpoints_,
                               asio::redirect_error(asio::use_awaitable, error));
  // To a port from which the kernel also makes outgoing connections, one can connect to oneself
  // while nobody listens.
  if (!error && socket.local_endpoint(error) == socket.remote_endpoint(error) && !error)
    error = asio::error::connection_refused;
  if (error) {
    trouble_ = fmt::format("connect: {}", error.message());
    co_return;
  }
  // Batches are made here; waiting for more in the kernel would only delay the last one.
  static_cast<void>(socket.set_option(tcp::no_delay(true), error));

  const std::string hello = fmt::format("HELLO {}\n", id_);
  co_await asio::async_write(socket, asio::buffer(hello),
                             asio::redirect_error(asio::use_awaitable, error));
  std::size_t length = 0;
  if (!error) {
    length = co_await asio::async_read_until(socket, asio::dynamic_buffer(received_, 65536), '\n',
                                             asio::redirect_error(asio::use_awaitable, error));
  }
  if (error) {
    trouble_ = fmt::format("HELLO: {}", error.message());
    co_return;
  }
  const std::string answer = received_.substr(0, length - 1);
  received_.erase(0, length);
  const auto highest = number_after("HELLO", answer);
  if (!highest) {
    understand(answer);
    co_return;
  }
  if (!resume_after(*highest)) co_return;
  if (connected_before_) ++owner_.report_.reconnects;
  connected_before_ = true;
  if (finished()) co_return;

  co_await (send(socket) && receive(socket));
}

/// Moves to where the server is. False if that cannot be.
inline bool channel::resume_after(std::uint64_t sequence) {
  if (sequence < durable_) {
    owner_.fail(
        fmt::format("client {}: the server acknowledged sequence {}, and now it has only {}", id_,
                    durable_, sequence));
    return false;
  }
  if (sequence > count_) {
    owner_.fail(fmt::format("client {}: the server has sequence {}, but this input only goes to {}",
                            id_, sequence, count_));
    return false;
  }
  if (sequence == durable_) return true;
  while (durable_ < sequence) {
    std::uint64_t length = 0;
    if (window_.empty()) {
      length = lines_.next()->text.size();
    } else {
      length = window_.front().content.text.size();
      window_.pop_front();
    }
    ++durable_;
    auto& r = owner_.report_;
    ++(connected_before_ ? r.records : r.already_durable);
    (connected_before_ ? r.bytes : r.already_durable_bytes) += length + 1;
  }
  owner_.progressed();
  return true;
}

inline asio::awaitable<void> channel::send(tcp::socket& socket) {
  std::error_code error;
  while (!closing_) {
    if (!fill_batch()) {
      wake_.expires_at(clock::time_point::max());
      co_await wake_.async_wait(asio::redirect_error(asio::use_awaitable, error));
      continue;
    }
    co_await asio::async_write(socket, batch_, asio::redirect_error(asio::use_awaitable, error));
    if (!error || closing_) continue;
    if (error == std::errc::bad_address) {
      owner_.fail("an input file was cut short while it was being sent");
      co_return;
    }
    // What the server said before it hung up can still be read: receive() ends the session.
    if (trouble_.empty()) trouble_ = fmt::format("write: {}", error.message());
    static_cast<void>(socket.shutdown(tcp::socket::shutdown_send, error));
    co_return;
  }
}

/// Makes a batch of what the window allows and counts it as written. False if there is nothing to
/// send.
inline bool channel::fill_batch() {
  // Short lines are copied together, which is cheaper than a buffer of its own for each; long ones
  // go out from where they are mapped. The string never grows beyond its reservation, so that
  // buffers into it stay valid.
  constexpr std::size_t text_capacity = 65536;
  constexpr std::size_t short_line = 4096;
  constexpr std::size_t most_in_place = 1 << 20;
  constexpr std::size_t room_for_number = 24;

  text_.clear();
  text_.reserve(text_capacity);
  batch_.clear();
  std::size_t text_begin = 0;
  std::size_t in_place = 0;
  const auto close_text = [&] {
    if (text_.size() == text_begin) return;
    batch_.emplace_back(text_.data() + text_begin, text_.size() - text_begin);
    text_begin = text_.size();
  };

  const auto now = clock::now();
  while (in_place < most_in_place) {
    if (written_ == window_.size()) {
      if (window_.size() == owner_.options_.window) break;
      const auto next = lines_.next();
      if (!next) break;
      window_.push_back({*next, now});
    }
    auto& record = window_[written_];
    const std::string_view payload = record.content.text;
    const std::size_t copied = payload.size() <= short_line ? payload.size() : 0;
    if (text_.size() + copied + room_for_number > text_capacity) break;

    fmt::format_to(std::back_inserter(text_), "{} ", durable_ + written_ + 1);
    if (copied == payload.size()) {
      text_ += payload;
    } else {
      close_text();
      batch_.emplace_back(payload.data(), payload.size());
      in_place += payload.size();
    }
    // HELLO ended without a carriage return, so that one at the end of a line is part of the
    // payload.
    text_ += '\n';
    record.handed_over = now;
    ++written_;
  }
  close_text();
  return !batch_.empty();
}

inline asio::awaitable<void> channel::receive(tcp::socket& socket) {
  std::error_code error;
  while (!closing_) {
    co_await asio::async_read_until(socket, asio::dynamic_buffer(received_, 65536), '\n',
                                    asio::redirect_error(asio::use_awaitable, error));
    if (error) {
      if (trouble_.empty()) trouble_ = fmt::format("read: {}", error.message());
      break;
    }
    std::size_t begin = 0;
    for (std::size_t end; !closing_ && (end = received_.find('\n', begin)) != std::string::npos;
         begin = end + 1) {
      understand(std::string_view(received_).substr(begin, end - begin));
    }
    received_.erase(0, begin);
    if (closing_) break;
    wake_.cancel();
  }
  closing_ = true;
  wake_.cancel();
  static_cast<void>(socket.close(error));
}

/// Takes one line from the server; ends the session if it is no acknowledgement.
inline void channel::understand(std::string_view answer) {
  if (answer.ends_with('\r')) answer.remove_suffix(1);
  if (const auto sequence = number_after("ACK", answer)) {
    if (acknowledge(*sequence)) {
      closing_ = finished();
      return;
    }
    trouble_ = fmt::format("the server acknowledged {}, sent were {} to {}", *sequence,
                           durable_ + 1, durable_ + written_);
  } else if (answer.starts_with("ERR")) {
    ++owner_.report_.server_errors;
    trouble_ = fmt::format("the server says: {}", answer);
  } else {
    trouble_ = fmt::format("not understood: {}", answer.substr(0, 200));
  }
  closing_ = true;
}

inline bool channel::acknowledge(std::uint64_t sequence) {
  if (sequence < durable_ || sequence > durable_ + written_) return false;
  if (sequence == durable_) return true;
  const auto now = clock::now();
  auto& r = owner_.report_;
  while (durable_ < sequence) {
    r.ack_latency.add(now - window_.front().handed_over);
    ++r.records;
    r.bytes += window_.front().content.text.size() + 1;
    window_.pop_front();
    --written_;
    ++durable_;
  }
  owner_.progressed();
  return true;
}

// --- client
// ---------------------------------------------------------------------------------------

inline client::client(const input& in, const dealing& deal, client_options options, bool terminal)
    : options_(std::move(options)), display_(in.bytes(), terminal) {
  const std::uint64_t fingerprint = in.fingerprint();
  for (std::uint32_t i = 0; i < deal.clients; ++i) {
    const line_cursor start(in, deal, i);
    std::uint64_t count = 0;
    line_cursor all = start;
    while (const auto l = all.next_of_any_length()) {
      if (all.too_long(*l)) {
        if (++too_long_ <= 10)
          display_.note(fmt::format("{}: left out: {} bytes, a record has at most {}", in.where(*l),
                                    grouped(l->text.size()), grouped(deal.max_record)));
        continue;
      }
      ++count;
      bytes_ += l->text.size() + 1;
    }
    if (count == 0) continue;
    records_ += count;
    channels_.push_back(std::make_unique<channel>(*this, deal.client_id(fingerprint, i), start,
                                                  count, 0.75 + 0.5 * i / deal.clients));
  }
  if (too_long_ > 10)
    display_.note(fmt::format("{} lines in all are too long", grouped(too_long_)));
  display_ = progress_display(bytes_, terminal);
}

inline const client_report& client::run() {
  const auto begin = clock::now();
  last_progress_ = begin;
  running_ = channels_.size();
  if (running_ == 0) return report_;

  signals_.async_wait([this](const std::error_code& error, int) {
    if (!error) fail("interrupted");
  });
  const auto rethrow = [](const std::exception_ptr& e) {
    if (e) std::rethrow_exception(e);
  };
  asio::co_spawn(io_, resolve_and_start(), rethrow);
  asio::co_spawn(io_, watch(), rethrow);
  io_.run();
  report_.elapsed = clock::now() - begin;
  display_.finish(done());
  return report_;
}

inline asio::awaitable<void> client::resolve_and_start() {
  asio::steady_timer timer(io_);
  for (;;) {
    std::error_code error;
    endpoints_ = co_await resolver_.async_resolve(options_.host, options_.port,
                                                  asio::redirect_error(asio::use_awaitable, error));
    if (!error) break;
    lost_connection(fmt::format("{}: {}", options_.host, error.message()), false);
    timer.expires_after(std::chrono::seconds(1));
    co_await timer.async_wait(asio::use_awaitable);
  }
  for (const auto& c : channels_) {
    asio::co_spawn(io_, run_channel(*c), [](const std::exception_ptr& e) {
      if (e) std::rethrow_exception(e);
    });
  }
}

inline asio::awaitable<void> client::run_channel(channel& c) {
  co_await c.run();
  if (--running_ == 0) io_.stop();
}

/// Shows the progress, and ends everything when there has been none for too long.
inline asio::awaitable<void> client::watch() {
  asio::steady_timer timer(io_);
  for (;;) {
    if (const auto idle = clock::now() - last_progress_; idle >= options_.retry_for) {
      fail(fmt::format("gave up after {} s without progress{}{}", options_.retry_for.count(),
                       last_trouble_.empty() ? "" : "; last: ", last_trouble_));
      co_return;
    }
    display_.update(done());
    timer.expires_after(std::chrono::milliseconds(100));
    co_await timer.async_wait(asio::use_awaitable);
  }
}

// Sixty-four connections have the same trouble at the same time: one line says so.
inline void client::lost_connection(const std::string& why, bool said_by_server) {
  last_trouble_ = why;
  if (said_by_server) {
    if (noted_.size() < 10 && noted_.insert(why).second) display_.note(why + "; will try again");
  } else if (const auto now = clock::now(); now - last_note_ > std::chrono::seconds(2)) {
    last_note_ = now;
    display_.note(why + "; will try again");
  }
}

}  // namespace ingest

#endif  // MAPIO_EXAMPLES_INGESTD_CLIENT_HPP
