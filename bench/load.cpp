#include "load.hpp"

#include <asio/buffer.hpp>
#include <asio/co_spawn.hpp>
#include <asio/read_until.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>

#include <charconv>
#include <chrono>
#include <deque>
#include <iterator>
#include <stdexcept>
#include <string_view>

#include <fmt/format.h>

namespace bench {
namespace {

using clock = std::chrono::steady_clock;

/// Records that were handed to the socket together.
struct sent {
  std::uint64_t last_sequence;
  clock::time_point when;
};

/// Reads "ACK 17"; anything else ends the benchmark.
std::uint64_t number_after(std::string_view word, std::string_view line) {
  std::uint64_t number = 0;
  if (line.starts_with(word)) {
    const auto [end, error] =
        std::from_chars(line.data() + word.size(), line.data() + line.size(), number);
    if (error == std::errc() && end == line.data() + line.size()) return number;
  }
  throw std::runtime_error("the server says: " + std::string(line));
}

}  // namespace

load::load(const load_options& options) : options_(options), payload_(options.payload, 'x') {
  for (std::size_t i = 0; i < options_.connections; ++i) {
    asio::co_spawn(io_, run_client(i), [this](const std::exception_ptr& failure) {
      if (!failure) return;
      {
        const std::lock_guard lock(mutex_);
        if (!failure_) failure_ = failure;
      }
      io_.stop();
    });
  }
  thread_ = std::thread([this] { io_.run(); });
}

load::~load() {
  io_.stop();
  if (thread_.joinable()) thread_.join();
}

void load::restart_latency() {
  const std::lock_guard lock(mutex_);
  latency_ = {};
}

ingest::latency_histogram load::latency() const {
  const std::lock_guard lock(mutex_);
  return latency_;
}

void load::stop() {
  stopping_ = true;
  thread_.join();
  if (failure_) std::rethrow_exception(failure_);
}

asio::awaitable<void> load::run_client(std::size_t index) {
  asio::ip::tcp::socket socket(io_);
  co_await socket.async_connect(options_.server, asio::use_awaitable);
  socket.set_option(asio::ip::tcp::no_delay(true));
  std::string text = fmt::format("HELLO client-{}\n", index);
  co_await asio::async_write(socket, asio::buffer(text), asio::use_awaitable);

  std::string received;
  const auto read_answers = [&]() {
    return asio::async_read_until(socket, asio::dynamic_buffer(received), '\n',
                                  asio::use_awaitable);
  };
  co_await read_answers();
  std::uint64_t durable =
      number_after("HELLO ", std::string_view(received).substr(0, received.find('\n')));
  received.clear();

  std::uint64_t written = durable;
  std::deque<sent> batches;
  for (;;) {
    if (!stopping_ && written < durable + options_.window) {
      text.clear();
      while (written < durable + options_.window)
        fmt::format_to(std::back_inserter(text), "{} {}\n", ++written, payload_);
      batches.push_back({written, clock::now()});
      co_await asio::async_write(socket, asio::buffer(text), asio::use_awaitable);
    }
    if (durable == written) break;
    co_await read_answers();
    // They are cumulative: the last one says it all.
    const std::size_t end = received.rfind('\n');
    const std::size_t before = end == 0 ? std::string::npos : received.rfind('\n', end - 1);
    const std::size_t begin = before == std::string::npos ? 0 : before + 1;
    const std::uint64_t acknowledged =
        number_after("ACK ", std::string_view(received).substr(begin, end - begin));
    received.erase(0, end + 1);
    acknowledged_.fetch_add(acknowledged - durable, std::memory_order_relaxed);
    const auto now = clock::now();
    const std::lock_guard lock(mutex_);
    for (; durable < acknowledged; ++durable) {
      while (batches.front().last_sequence <= durable)
        batches.pop_front();
      latency_.add(now - batches.front().when);
    }
  }
}

}  // namespace bench
