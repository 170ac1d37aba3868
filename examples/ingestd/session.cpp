#include "session.hpp"

#include "server.hpp"

#include <asio/bind_cancellation_slot.hpp>
#include <asio/buffer.hpp>
#include <asio/co_spawn.hpp>
#include <asio/error.hpp>
#include <asio/socket_base.hpp>
#include <asio/steady_timer.hpp>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <exception>
#include <iterator>
#include <limits>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

namespace ingestd {
namespace {

constexpr std::size_t first_buffer_size = std::size_t{64} << 10;
constexpr std::size_t sequence_digits = std::numeric_limits<std::uint64_t>::digits10 + 1;
constexpr std::size_t longest_command = 512;
constexpr std::size_t most_answers = std::size_t{64} << 10;
constexpr std::chrono::seconds linger_time{1};
// What the kernel keeps for a client that does not read; more, when the connection is broken off,
// for what is to be said then.
constexpr int send_buffer_size = 64 << 10;
constexpr int last_send_buffer_size = 1 << 20;

/// Takes the digits at the start of `text` off it.
std::optional<std::uint64_t> take_number(std::string_view& text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return number;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_client_id(std::string_view id) {
  return !id.empty() && id.size() <= max_client_length &&
         std::all_of(id.begin(), id.end(),
                     [](char c) { return static_cast<unsigned char>(c) > ' ' && c != 0x7f; });
}

/// For calls whose failure changes nothing: a socket that is broken fails its next read as well.
void ignore(const std::error_code&) {}

/// Shows a line of unknown content in a message.
std::string quoted(std::string_view line) {
  std::string result = "\"";
  for (const char c : line.substr(0, 40))
    result += c >= ' ' && c < 0x7f ? c : '?';
  return result + (line.size() > 40 ? "...\"" : "\"");
}

}  // namespace

session::session(server& owner, asio::ip::tcp::socket socket)
    : server_(owner), socket_(std::move(socket)), wake_(socket_.get_executor()),
      buffer_(first_buffer_size), last_read_(std::chrono::steady_clock::now()),
      max_line_(std::max(owner.options().max_record + sequence_digits + std::strlen(" \r"),
                         longest_command)) {
  std::error_code error;
  const auto peer = socket_.remote_endpoint(error);
  name_ = error ? "?" : fmt::format("{}:{}", peer.address().to_string(), peer.port());
  ignore(socket_.set_option(asio::ip::tcp::no_delay(true), error));
  // A client that lost its power says nothing; this finds out.
  ignore(socket_.set_option(asio::socket_base::keep_alive(true), error));
  ignore(socket_.set_option(asio::socket_base::send_buffer_size(send_buffer_size), error));
}

asio::awaitable<void> session::run() {
  const auto self = shared_from_this();
  asio::co_spawn(socket_.get_executor(), read_lines(), [self](const std::exception_ptr& failure) {
    if (failure) {
      spdlog::error("{}: reading ended by an exception", self->name_);
      self->stop_appending();
      self->abort();
    }
    self->reader_done_ = true;
    self->wake();
  });
  co_await write_answers();
  while (!reader_done_)
    co_await wake_.wait();
  if (client_) {
    --client_->sessions;
    server_.log().forget_if_blank(*std::exchange(client_, nullptr));
  }
  if (!broken_ && !peer_closed_) co_await linger();
  std::error_code error;
  ignore(socket_.close(error));
  spdlog::debug("{}: closed", name_);
}

void session::finish(std::string last_words) {
  if (!last_words.empty() && last_words_.empty()) {
    spdlog::warn("{}: {}", name_, last_words);
    last_words_ = std::move(last_words);
    refusing_ = true;
  }
  finishing_ = true;
  if (reading_) stop_reading_.emit(asio::cancellation_type::terminal);
  if (tail_) {
    tail_->cancel();
    // A tail has no end at which it would be complete: it does not wait for its client.
    if (writing_) stop_writing_.emit(asio::cancellation_type::terminal);
  }
  wake();
}

void session::abort() {
  broken_ = true;
  refusing_ = true;
  finish();
  std::error_code error;
  ignore(socket_.close(error));
}

void session::end_if_stalled(std::chrono::steady_clock::time_point before) {
  if (reading_ && !finishing_ && begin_ != end_ && last_read_ < before) {
    finish("ERR a line was begun and not finished");
  }
}

void session::end_if_deaf(std::chrono::steady_clock::time_point before) {
  if (!writing_ || deaf_ || last_write_ >= before) return;
  deaf_ = true;
  constexpr std::string_view words = "ERR what was sent is not read";
  if (!last_words_.empty()) spdlog::warn("{}: {}", name_, words);
  finish(std::string(words));
  stop_writing_.emit(asio::cancellation_type::terminal);
}

void session::wake() {
  wake_.notify_all();
  if (client_) client_->changed.notify_all();
}

void session::say(std::string_view line) {
  outbox_ += line;
  outbox_ += '\n';
  wake();
}

std::string session::storage_error(const std::error_code& error) const {
  return fmt::format("ERR {} not stored: {}", client_->appended + 1, error.message());
}

// --- reading ---

asio::awaitable<void> session::read_lines() {
  while (!finishing_) {
    if (!make_room()) {
      std::string_view line(buffer_.data() + begin_, end_ - begin_);
      const auto sequence = take_number(line);
      finish(fmt::format("ERR {}{}longer than {} bytes",
                         sequence ? std::to_string(*sequence) : "line", sequence ? " record " : " ",
                         server_.options().max_record));
      break;
    }
    reading_ = true;
    auto [error, count] = co_await socket_.async_read_some(
        asio::buffer(buffer_.data() + end_, buffer_.size() - end_),
        asio::bind_cancellation_slot(stop_reading_.slot(), as_result));
    reading_ = false;
    end_ += count;
    if (error) {
      if (finishing_) break;
      peer_closed_ = true;
      if (error != asio::error::eof) {
        broken_ = true;
        spdlog::warn("{}: vanished: {}{}", name_, error.message(),
                     begin_ != end_ ? " in the middle of a line" : "");
      } else if (begin_ != end_) {
        // It may have closed its side only, and read what there is to say.
        finish(unfinished_line());
      }
      finishing_ = true;
      break;
    }
    last_read_ = std::chrono::steady_clock::now();
    co_await consume();
    // Back-pressure: the client's unread lines stay in its socket, and in the end with the client.
    while (client_ && client_->pending_bytes > server_.options().max_pending && !finishing_) {
      co_await client_->changed.wait();
    }
  }
  if (client_) {
    while (!client_->settled() && client_->setbacks == setbacks_)
      co_await client_->changed.wait();
  }
  stop_appending();
}

/// Says that the client closed in the middle of a line.
std::string session::unfinished_line() const {
  std::string_view line(buffer_.data() + begin_, end_ - begin_);
  const auto sequence = take_number(line);
  // Digits at the end may not be all of them.
  const bool known = sequence && line.starts_with(' ');
  return fmt::format("ERR {}closed in the middle of a line, which is not stored",
                     known ? std::to_string(*sequence) + " " : "");
}

/// Lets the next connection of the client go on.
void session::stop_appending() {
  appending_ = false;
  if (!client_) return;
  server_.disown(*client_, *this);
  client_->changed.notify_all();
}

/// Makes room to read into; false if the line that is there is too long already.
bool session::make_room() {
  if (begin_ == end_) begin_ = end_ = searched_ = 0;
  if (end_ - begin_ > max_line_) return false;
  if (end_ < buffer_.size()) return true;
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    searched_ -= begin_;
    begin_ = 0;
    return true;
  }
  buffer_.resize(std::min(buffer_.size() * 2, std::max(first_buffer_size, max_line_ + 1)));
  return true;
}

/// Uses up the whole lines in the buffer. Records that follow one another become one batch.
asio::awaitable<void> session::consume() {
  while (!refusing_) {
    const char* const start = buffer_.data() + searched_;
    const auto* newline = static_cast<const char*>(std::memchr(start, '\n', end_ - searched_));
    if (newline == nullptr) {
      searched_ = end_;
      break;
    }
    std::string_view line(buffer_.data() + begin_,
                          static_cast<std::size_t>(newline - buffer_.data()) - begin_);
    begin_ = searched_ = static_cast<std::size_t>(newline - buffer_.data()) + 1;
    if (!line.empty() && is_digit(line.front())) {
      if (carriage_returns_ && line.ends_with('\r')) line.remove_suffix(1);
      gather(line);
    } else {
      co_await append_gathered();
      co_await command(line);
    }
  }
  co_await append_gathered();
  if (duplicate_ > 0) wake();
}

void session::gather(std::string_view line) {
  std::string_view rest = line;
  const auto sequence = take_number(rest);
  if (!sequence || *sequence == 0 || !rest.starts_with(' ')) {
    return finish(fmt::format("ERR not a line of the form <sequence> <payload>: {}", quoted(line)));
  }
  rest.remove_prefix(1);
  if (tail_) return finish("ERR this connection is a TAIL");
  if (!client_) return finish("ERR HELLO first");
  if (rest.size() > server_.options().max_record) {
    return finish(
        fmt::format("ERR {} record longer than {} bytes", *sequence, server_.options().max_record));
  }
  if (client_->setbacks != setbacks_) return finish(storage_error(client_->setback));
  const std::uint64_t highest = client_->appended + gathered_.size();
  if (*sequence > highest + 1) {
    return finish(fmt::format("ERR {} gap: {} comes next", *sequence, highest + 1));
  }
  received_ = std::max(received_, *sequence);
  if (*sequence <= highest)
    duplicate_ = std::max(duplicate_, *sequence);  // stored already
  else
    gathered_.push_back({*sequence, rest});
}

asio::awaitable<void> session::append_gathered() {
  if (!gathered_.empty() && client_->setbacks == setbacks_) {
    const std::error_code error = co_await server_.log().append(*client_, gathered_);
    if (error) finish(storage_error(error));
  }
  gathered_.clear();
}

asio::awaitable<void> session::command(std::string_view line) {
  const bool carriage_return = line.ends_with('\r');
  if (carriage_return) line.remove_suffix(1);
  if (tail_) {
    finish("ERR this connection is a TAIL");
  } else if (line == "STATS") {
    // A client that asks and does not read the answers must not fill the memory with them.
    while (outbox_.size() > most_answers && !finishing_)
      co_await wake_.wait();
    say(server_.stats_line());
  } else if (line.starts_with("HELLO ")) {
    carriage_returns_ = carriage_return;
    co_await hello(line.substr(std::strlen("HELLO ")));
  } else if (line.starts_with("TAIL ")) {
    start_tail(line.substr(std::strlen("TAIL ")));
  } else {
    finish(fmt::format("ERR unknown command {}; there are HELLO <client-id>, <sequence> <payload>, "
                       "TAIL <offset>, STATS",
                       quoted(line)));
  }
}

asio::awaitable<void> session::hello(std::string_view id) {
  if (client_) co_return finish("ERR HELLO was said already");
  if (!is_client_id(id)) {
    co_return finish(
        fmt::format("ERR a client id is 1 to {} bytes without spaces or control characters",
                    max_client_length));
  }
  client_state& client = server_.log().client(id);
  ++client.sessions;
  name_ = fmt::format("{} ({})", id, name_);
  // The newest connection of a client wins: the other one is most likely dead and does not know it
  // yet. Its records must have their fate before the answer is known.
  appending_ = true;
  const auto previous = server_.claim(client, shared_from_this());
  if (previous) previous->finish("ERR the client connected again elsewhere");
  while ((previous && previous->appending_) || !client.settled())
    co_await client.changed.wait();

  setbacks_ = client.setbacks;
  greeted_ = received_ = answered_ = client.durable;
  client_ = &client;
  if (finishing_) co_return;
  spdlog::info("{}: HELLO, stored up to {}", name_, client.durable);
  say(fmt::format("HELLO {}", client.durable));
}

void session::start_tail(std::string_view offset) {
  const auto number = take_number(offset);
  if (!number || !offset.empty()) return finish("ERR TAIL needs a log offset");
  if (client_) return finish("ERR TAIL needs a connection of its own");
  tail_ = server_.log().tail(*number);
  if (!tail_) return finish("ERR TAIL is not supported here");
  spdlog::info("{}: TAIL from {}", name_, *number);
  wake();
}

// --- writing ---

asio::awaitable<void> session::write_answers() {
  while (!broken_ && !deaf_) {
    if (client_ && client_->setbacks != setbacks_ && !refusing_)
      finish(storage_error(client_->setback));
    if (tail_ && !finishing_) co_await stream_tail();
    const std::string answers = next_answers();
    if (!answers.empty()) {
      co_await send(answers);
    } else if (reader_done_) {
      break;
    } else {
      event& changed = client_ ? client_->changed : wake_;
      co_await changed.wait();
    }
  }
  if (!broken_ && !deaf_ && !last_words_.empty()) {
    said_last_words_ = true;
    co_await send(last_words_ + '\n');
  }
}

/// Takes what there is to say: answers to commands, and one acknowledgement for everything that
/// became durable.
std::string session::next_answers() {
  std::string text = std::exchange(outbox_, {});
  if (text.size() > most_answers) wake_.notify_all();
  if (client_) {
    // A client is told only about what it sent on this connection.
    const std::uint64_t target = std::min(client_->durable, received_);
    std::uint64_t answer = 0;
    if (target > answered_) {
      answer = answered_ = target;
    } else if (duplicate_ > 0 && duplicate_ <= client_->durable) {
      answer = answered_ > greeted_ ? std::max(answered_, duplicate_) : duplicate_;
    }
    duplicate_ = 0;
    if (answer > 0) fmt::format_to(std::back_inserter(text), "ACK {}\n", answer);
  }
  return text;
}

asio::awaitable<void> session::send(std::string_view text) {
  std::size_t sent = 0;
  std::error_code error;
  writing_ = true;
  last_write_ = std::chrono::steady_clock::now();
  while (sent < text.size() && !error && !broken_ && !deaf_) {
    auto [write_error, count] = co_await socket_.async_write_some(
        asio::buffer(text.data() + sent, text.size() - sent),
        asio::bind_cancellation_slot(stop_writing_.slot(), as_result));
    error = write_error;
    sent += count;
    if (count > 0) last_write_ = std::chrono::steady_clock::now();
    if (tail_ && finishing_) deaf_ = true;
  }
  writing_ = false;
  if (broken_ || sent == text.size()) co_return;
  if (deaf_) co_return break_off(text.substr(sent), sent > 0 && text[sent - 1] != '\n');
  spdlog::warn("{}: vanished: {}", name_, error.message());
  abort();
}

/// Says what can be said without waiting to a client that does not read.
void session::break_off(std::string_view unsent, bool within_line) {
  // The rest of the line, or the part of it that was sent would look like all of it.
  std::string words(unsent.substr(0, within_line ? unsent.find('\n') + 1 : 0));
  if (!last_words_.empty() && !said_last_words_) words += last_words_ + '\n';
  std::error_code error;
  ignore(socket_.set_option(asio::socket_base::send_buffer_size(last_send_buffer_size), error));
  if (!socket_.non_blocking(true, error)) socket_.write_some(asio::buffer(words), error);
}

asio::awaitable<void> session::stream_tail() {
  std::vector<record_view> records;
  std::string text;
  while (!finishing_) {
    const std::error_code error = co_await tail_->next(records);
    if (error == asio::error::operation_aborted) break;
    if (error == std::errc::invalid_seek)
      finish("ERR the log does not reach to this offset");
    else if (error == std::errc::illegal_byte_sequence)
      finish("ERR no record starts at this offset");
    else if (error)
      finish(fmt::format("ERR cannot read the log: {}", error.message()));
    if (error) break;
    text.clear();
    for (const record_view& r : records) {
      fmt::format_to(std::back_inserter(text), "{} {} {} ", r.log_offset, r.client, r.sequence);
      text += r.payload;
      text += '\n';
    }
    co_await send(text);
  }
}

/// Closes the connection so that the client reads the last words: closing a socket with unread data
/// discards them.
asio::awaitable<void> session::linger() {
  std::error_code error;
  ignore(socket_.shutdown(asio::ip::tcp::socket::shutdown_send, error));
  asio::steady_timer timer(socket_.get_executor(), linger_time);
  timer.async_wait([self = shared_from_this()](std::error_code cancelled) {
    if (!cancelled) self->abort();
  });
  while (!error) {
    auto [read_error, count] = co_await socket_.async_read_some(asio::buffer(buffer_), as_result);
    error = read_error;
  }
}

}  // namespace ingestd
