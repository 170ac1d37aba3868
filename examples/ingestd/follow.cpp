#include "follow.hpp"

#include "event.hpp"

#include <mapio/watcher.hpp>

#include <asio/error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace ingest {
namespace {

using namespace ingestd;

constexpr std::uint64_t no_limit = std::numeric_limits<std::uint64_t>::max();
// One look for all that a daemon writes meanwhile.
constexpr std::chrono::milliseconds interval{5};
// While a daemon is busy, its next records tell that these are durable.
constexpr std::chrono::milliseconds patience{20};
constexpr std::size_t most_at_once = std::size_t{64} << 10;

}  // namespace

bool log_follower::catch_up() {
  for (;;) {
    // As in log_reader: a segment's part ends where the first one behind it starts.
    std::uint64_t limit = no_limit;
    bool is_there = false;
    std::vector<segment_info> segments =
        list_started_segments(directory_, here_ ? here_->number : 1);
    for (const segment_info& info : segments) {
      if (here_ && info.number == here_->number)
        is_there = info.salt == here_->salt;
      else
        limit = std::min(limit, info.base);
    }
    if (here_ && !is_there)
      throw std::runtime_error(fmt::format("{} is gone, or another one", here_->path.string()));
    if (here_) {
      if (limit < offset_) give_up_from(limit);
      read_segment(limit);
    }
    if (here_ ? offset_ < limit : limit == no_limit) break;
    if (!go_on(std::move(segments))) break;
  }
  hand_over();
  return !unsure_.empty();
}

void log_follower::read_segment(std::uint64_t limit) {
  // What was read ahead the last time may have been written since.
  bytes_.forget();
  while (offset_ < limit) {
    const decoded_record r =
        decode_record(bytes_.record_at(position_), checksum_seed(here_->salt, position_));
    // Not yet written, or not wholly: there will be notice of it.
    if (r.state != record_state::whole || r.content.type != record_type::record ||
        r.size > limit - offset_)
      return;
    std::string line = fmt::format("{} {} {} ", offset_, r.content.client, r.content.sequence);
    line += r.content.payload;
    line += '\n';
    position_ += r.size;
    offset_ += r.size;
    unsure_.push_back({offset_, std::move(line)});
    show_before(r.content.durable);
  }
}

/// Goes to the first one of the segments, behind where it is, that has a part of the log; false if
/// there is none.
bool log_follower::go_on(std::vector<segment_info> segments) {
  std::optional<segment_info> next;
  std::uint64_t limit = no_limit;
  const std::uint32_t number = here_ ? here_->number : 0;
  for (; !segments.empty() && segments.back().number > number; segments.pop_back()) {
    if (segments.back().base < limit) next = segments.back();
    limit = std::min(limit, segments.back().base);
  }
  if (!next) return false;
  if (next->base != offset_)
    throw std::runtime_error(fmt::format("segments are missing: number {} starts at log offset {}",
                                         next->number, next->base));
  // One sync is enough at a time: what is unsure is in one segment.
  if (here_) make_durable();
  bytes_ = segment_bytes(next->path, next->file_size);
  position_ = first_record_position;
  here_ = std::move(next);
  return true;
}

/// Forgets what a daemon could not make durable: it goes on from there in another segment.
void log_follower::give_up_from(std::uint64_t offset) {
  while (!unsure_.empty() && unsure_.back().end > offset)
    unsure_.pop_back();
  if (shown_ > offset)
    throw std::runtime_error(fmt::format(
        "the daemon has given up records from log offset {} on, and some were shown", offset));
  position_ -= offset_ - offset;
  offset_ = offset;
}

void log_follower::show_before(std::uint64_t durable) {
  for (; !unsure_.empty() && unsure_.front().end <= durable; unsure_.pop_front()) {
    lines_ += unsure_.front().line;
    shown_ = unsure_.front().end;
    if (lines_.size() >= most_at_once) hand_over();
  }
}

void log_follower::hand_over() {
  if (!lines_.empty()) show_(std::exchange(lines_, {}));
}

void log_follower::make_durable() {
  if (unsure_.empty()) return;
  bytes_.sync();
  show_before(offset_);
  hand_over();
}

asio::awaitable<void> follow(std::filesystem::path directory, log_follower::sink show) {
  const auto executor = co_await asio::this_coro::executor;
  mapio::watcher changes(executor);
  changes.add(directory, {.allow_missing = true, .coalesce = interval});
  log_follower log(std::move(directory), std::move(show));
  asio::steady_timer timer(executor);
  for (;;) {
    if (log.catch_up()) {
      timer.expires_after(patience);
      timer.async_wait([&](const asio::error_code& error) {
        if (!error) changes.cancel();
      });
    }
    const auto [error, event] = co_await changes.next(as_result);
    timer.cancel();
    if (error == asio::error::operation_aborted)
      log.make_durable();
    else if (error)
      throw std::system_error(error, "watcher");
  }
}

}  // namespace ingest
