#include "store.hpp"

#include <mapio/options.hpp>

#include <asio/buffer.hpp>
#include <asio/co_spawn.hpp>
#include <asio/error.hpp>

#include <algorithm>
#include <array>
#include <exception>
#include <limits>
#include <random>
#include <utility>

#include <spdlog/spdlog.h>

namespace ingestd {
namespace {

constexpr std::uint64_t open_end = std::numeric_limits<std::uint64_t>::max();
constexpr std::size_t zero_piece = std::size_t{1} << 20;
// One writes while the other's sync is under way. More would take the disk from the clients.
constexpr std::size_t zero_writers = 2;
constexpr std::uint64_t tail_piece = std::uint64_t{256} << 10;

std::uint64_t random_salt() {
  std::random_device source;
  return std::uint64_t{source()} << 32 | source();
}

}  // namespace

struct store::segment {
  explicit segment(const asio::any_io_executor& executor) : file(executor) {}

  /// Tells whether a record of this size has room.
  bool fits(std::size_t size) const noexcept { return size <= capacity - position; }

  mapio::mapped_file file;
  std::uint32_t number = 0;
  std::filesystem::path path;
  std::uint64_t salt = 0;
  std::uint64_t capacity = 0;
  std::uint64_t position = first_record_position;  // of the next record
  std::uint64_t earlier_syncs = 0;                 // before it was used
  std::size_t batches = 0;                         // in flight
  bool left = false;                               // nothing will be appended
  bool start_written = true;
};

/// What the writers of one segment's zeros share.
struct store::zeroing {
  std::uint64_t position = 0;  // of the next piece
  std::size_t writers = 0;     // at work
  std::error_code error;
};

struct store::batch {
  std::shared_ptr<segment> where;
  std::uint64_t position = 0;
  std::vector<std::byte> bytes;
  std::uint64_t end_offset = 0;

  client_state* client = nullptr;
  std::uint64_t last_sequence = 0;
  std::uint64_t records = 0;
  std::size_t payload_bytes = 0;

  bool done = false;
  bool given_up = false;
  std::error_code error;
};

/// Reads through a mapping of its own, so that a reader of old records does not touch the segment
/// that is written.
class store::tail_reader final : public log_tail {
 public:
  tail_reader(store& log, std::uint64_t offset)
      : log_(log), offset_(offset), file_(log.get_executor()) {}

  asio::awaitable<std::error_code> next(std::vector<record_view>& records) override {
    records.clear();
    while (offset_ >= log_.durable_offset_ && !cancelled_) {
      if (offset_ > log_.durable_offset_) co_return std::make_error_code(std::errc::invalid_seek);
      co_await log_.progress_.wait();
    }
    if (cancelled_) co_return asio::error::operation_aborted;

    const auto part = std::find_if(log_.parts_.rbegin(), log_.parts_.rend(),
                                   [this](const segment_part& p) { return p.base <= offset_; });
    if (part == log_.parts_.rend()) co_return std::make_error_code(std::errc::invalid_seek);
    // NOLINTNEXTLINE(performance-unnecessary-copy-initialization): the vector may grow meanwhile
    const segment_part here = *part;
    if (here.number != number_) {
      number_ = 0;
      auto [error] = co_await file_.open(here.path, as_result);
      if (error) co_return error;
      number_ = here.number;
    }
    const std::uint64_t available = std::min(here.end, log_.durable_offset_) - offset_;
    const std::uint64_t position = first_record_position + (offset_ - here.base);
    std::uint64_t length = std::min(tail_piece, available);
    for (;;) {
      // A copy, and not a view: a page that cannot be read, now or when it is needed again, is an
      // error then and never a signal.
      bytes_.resize(length);
      auto [error, count] = co_await file_.read_into(position, asio::buffer(bytes_), as_result);
      if (error) co_return error;
      take(here, position, records);
      if (!records.empty()) co_return std::error_code();
      // The first record is longer than the piece, or there is none: what stands there may be
      // anything, and no reason to read more than a record can have.
      const std::uint64_t claimed = claimed_size(bytes_);
      if (claimed <= length || claimed > std::min<std::uint64_t>(available, log_.longest_record_))
        co_return std::make_error_code(std::errc::illegal_byte_sequence);
      length = claimed;
    }
  }

  void cancel() override {
    cancelled_ = true;
    file_.cancel();
    log_.progress_.notify_all();
  }

 private:
  void take(const segment_part& part, std::uint64_t position, std::vector<record_view>& records) {
    std::span<const std::byte> rest(bytes_);
    while (!rest.empty()) {
      const decoded_record r = decode_record(rest, checksum_seed(part.salt, position));
      if (r.state != record_state::whole || r.content.type != record_type::record) break;
      records.push_back(
          {r.content.client, r.content.sequence, r.content.payload, offset_, part.number});
      offset_ += r.size;
      position += r.size;
      rest = rest.subspan(r.size);
    }
  }

  store& log_;
  std::uint64_t offset_;
  mapio::mapped_file file_;
  std::uint32_t number_ = 0;  // of the segment that is open
  std::vector<std::byte> bytes_;
  bool cancelled_ = false;
};

store::store(const asio::any_io_executor& executor, store_options options,
             const recovered_log& recovered)
    : record_log(executor), options_(std::move(options)), changed_(executor), pause_(executor),
      longest_record_(recovered.longest_record), last_number_(recovered.last_number),
      end_offset_(recovered.end_offset), parts_(recovered.parts) {
  durable_offset_ = recovered.end_offset;
  totals_.records = totals_.recovered_records = recovered.records;
  totals_.bytes = recovered.bytes;
  for (const auto& [id, highest] : recovered.highest) {
    client_state& state = client(id);
    state.appended = state.durable = highest;
  }
}

template <class Coroutine>
void store::spawn(Coroutine coroutine, const char* what) {
  ++running_;
  asio::co_spawn(get_executor(), std::move(coroutine),
                 [this, what](const std::exception_ptr& failure) {
                   --running_;
                   changed_.notify_all();
                   if (!failure) return;
                   // Nothing that is spawned throws but for want of memory, and there is no way to
                   // go on after that.
                   spdlog::critical("{} ended by an exception", what);
                   std::rethrow_exception(failure);
                 });
}

asio::awaitable<void> store::start() {
  if (!parts_.empty()) {
    segment_part& last = parts_.back();
    auto opened = std::make_shared<segment>(get_executor());
    // A follower in another process is told of what is durable.
    const mapio::open_options how{.mode = mapio::access::read_write};
    co_await opened->file.open(last.path, how, asio::use_awaitable);
    opened->number = last.number;
    opened->path = last.path;
    opened->salt = last.salt;
    opened->capacity = opened->file.size();
    opened->position = first_record_position + (last.end - last.base);
    last.end = open_end;
    current_ = std::move(opened);
  }
  spawn(prepare_ahead(), "preparing segments");
  // In a new directory the first clients would wait for it, and measure that.
  while (!current_ && !next_ && !problem_)
    co_await changed_.wait();
}

asio::awaitable<void> store::stop() {
  stopping_ = true;
  pause_.cancel();
  changed_.notify_all();
  while (running_ > 0)
    co_await changed_.wait();
  if (current_) {
    co_await current_->file.close(as_result);
    current_ = nullptr;
  }
}

// --- segments ---

/// Keeps one segment prepared.
asio::awaitable<void> store::prepare_ahead() {
  while (!stopping_) {
    if (next_) {
      co_await changed_.wait();
      continue;
    }
    auto made = std::make_shared<segment>(get_executor());
    made->number = last_number_ + 1;
    made->path = options_.directory / segment_name(made->number);
    const std::error_code error = co_await prepare(*made);
    if (stopping_) break;
    if (!error) {
      if (problem_) spdlog::info("records are taken again");
      problem_ = {};
      last_number_ = made->number;
      next_ = std::move(made);
      changed_.notify_all();
      continue;
    }
    if (error != problem_)
      spdlog::error("cannot prepare {}: {}", made->path.string(), error.message());
    problem_ = error;
    changed_.notify_all();
    co_await made->file.close(as_result);
    pause_.expires_after(options_.retry);
    co_await pause_.async_wait(as_result);
  }
}

/// Makes a segment of zeros that is on the disk, name and all.
asio::awaitable<std::error_code> store::prepare(segment& made) {
  // A file of this number is what is left of an attempt that failed: create_or_truncate.
  const mapio::open_options how{.mode = mapio::access::read_write,
                                .create = mapio::disposition::create_or_truncate,
                                .size = options_.segment_size};
  auto [error] = co_await made.file.open(made.path, how, as_result);
  if (error) co_return error;
  made.capacity = made.file.size();
  made.salt = random_salt();
  made.start_written = false;

  zeroing work;
  for (std::size_t i = 0; i < zero_writers; ++i) {
    ++work.writers;
    spawn(write_zeros(made, work), "writing zeros");
  }
  while (work.writers > 0)
    co_await changed_.wait();
  if (work.error) co_return work.error;

  std::array<std::byte, segment_header_size> header{};
  encode_segment_header(header, {made.number, made.capacity, made.salt});
  auto [update_error, stored] =
      co_await made.file.update_region(0, asio::buffer(header), as_result);
  if (update_error) co_return update_error;
  auto [flush_error] = co_await made.file.flush(as_result);
  made.earlier_syncs = made.file.stats().syncs;
  co_return flush_error;
}

/// Writes pieces of zeros, each synced before the next: one long sync at the end would hold up
/// those of the clients.
asio::awaitable<void> store::write_zeros(segment& made, zeroing& work) {
  static const std::array<std::byte, zero_piece> zeros{};
  while (!work.error && work.position < made.capacity) {
    const std::uint64_t position = work.position;
    const std::size_t length = std::min<std::uint64_t>(zero_piece, made.capacity - position);
    work.position += length;
    auto [error, stored] =
        co_await made.file.update_region(position, asio::buffer(zeros.data(), length), as_result);
    if (!error) {
      auto [flush_error] = co_await made.file.flush_range(position, length, as_result);
      error = flush_error;
    }
    if (stopping_) error = asio::error::operation_aborted;
    if (error) work.error = error;
  }
  --work.writers;
}

/// Goes on in the prepared segment.
void store::use_next() {
  if (current_) leave(std::move(current_));
  if (!parts_.empty()) parts_.back().end = end_offset_;
  current_ = std::move(next_);
  parts_.push_back({current_->number, current_->path, current_->salt, end_offset_, open_end});
  spdlog::debug("segment {} starts at log offset {}", current_->number, end_offset_);
  changed_.notify_all();
}

void store::leave(std::shared_ptr<segment> s) {
  s->left = true;
  left_.push_back(s);
  if (s->batches == 0) spawn(retire(std::move(s)), "closing a segment");
}

/// Closes a segment that nobody writes to any more.
asio::awaitable<void> store::retire(std::shared_ptr<segment> done) {
  std::erase(left_, done);
  const mapio::file_stats counted = done->file.stats();
  totals_.syncs += counted.syncs - done->earlier_syncs;
  totals_.sync_failures += counted.sync_failures;
  auto [error] = co_await done->file.close(as_result);
  if (error) spdlog::warn("{}: close: {}", done->path.string(), error.message());
}

// --- appending ---

asio::awaitable<std::error_code> store::append(client_state& client,
                                               std::span<const input_record> records) {
  const std::uint64_t setbacks = client.setbacks;
  bool waited = false;
  while (!records.empty()) {
    if (current_ && !replacing_) records = records.subspan(place(client, records));
    if (records.empty()) break;
    if (next_ && !replacing_) {
      const std::size_t size = encoded_size(client.id.size(), records.front().payload.size());
      if (!next_->fits(size)) co_return std::make_error_code(std::errc::message_size);
      use_next();
      continue;
    }
    if (problem_) co_return problem_;
    if (!std::exchange(waited, true)) ++totals_.segment_waits;
    co_await changed_.wait();
    // The records that these follow may have been given up meanwhile.
    if (client.setbacks != setbacks) co_return client.setback;
  }
  co_return std::error_code();
}

/// Gives as many records as fit into the current segment their places; returns their number.
std::size_t store::place(client_state& client, std::span<const input_record> records) {
  segment& here = *current_;
  const std::size_t start_size = here.start_written ? 0 : start_record_size;
  std::size_t size = 0;
  std::size_t count = 0;
  for (const input_record& r : records) {
    const std::size_t more = encoded_size(client.id.size(), r.payload.size());
    if (!here.fits(size + more)) break;
    longest_record_ = std::max(longest_record_, more);
    size += more;
    ++count;
  }
  if (count == 0) return 0;

  auto b = std::make_shared<batch>();
  b->where = current_;
  b->position = here.position - start_size;
  b->bytes.resize(start_size + size);
  b->end_offset = end_offset_ + size;
  b->client = &client;
  b->last_sequence = records[count - 1].sequence;
  b->records = count;

  std::span<std::byte> out(b->bytes);
  std::uint64_t position = b->position;
  const auto put = [&](const record& r) {
    const std::size_t used = encode_record(out, r, checksum_seed(here.salt, position));
    out = out.subspan(used);
    position += used;
  };
  if (!here.start_written) put({record_type::segment_start, {}, end_offset_, durable_offset_, {}});
  here.start_written = true;
  for (const input_record& r : records.first(count)) {
    put({record_type::record, client.id, r.sequence, durable_offset_, r.payload});
    b->payload_bytes += r.payload.size();
  }

  here.position = position;
  ++here.batches;
  end_offset_ += size;
  client.appended = b->last_sequence;
  client.pending_bytes += b->payload_bytes;
  in_flight_.push_back(b);
  spawn(commit(std::move(b)), "committing a batch");
  return count;
}

/// Makes one batch durable. The library merges this flush with those of the other batches.
asio::awaitable<void> store::commit(std::shared_ptr<batch> b) {
  mapio::mapped_file& file = b->where->file;
  const std::size_t size = b->bytes.size();
  auto [error, stored] =
      co_await file.update_region(b->position, asio::buffer(b->bytes), as_result);
  b->error = error;
  if (!error) {
    auto [flush_error] = co_await file.flush_range(b->position, size, as_result);
    b->error = flush_error;
  }
  b->bytes = {};
  b->done = true;
  if (!b->given_up) settle();
  if (--b->where->batches == 0 && b->where->left) spawn(retire(b->where), "closing a segment");
}

/// Acknowledges what is durable together with everything before it.
void store::settle() {
  bool moved = false;
  while (!in_flight_.empty() && in_flight_.front()->done) {
    const std::shared_ptr<batch> b = in_flight_.front();
    if (b->error) {
      give_up(b->error);
      break;
    }
    in_flight_.pop_front();
    durable_offset_ = b->end_offset;
    totals_.records += b->records;
    totals_.bytes += b->payload_bytes;
    b->client->durable = b->last_sequence;
    b->client->pending_bytes -= b->payload_bytes;
    b->client->changed.notify_all();
    moved = true;
  }
  if (moved) progress_.notify_all();
}

/// Takes back every batch that is not durable, and the current segment.
void store::give_up(std::error_code error) {
  spdlog::error("{}: not durable: {}; {} batches behind log offset {} are given up",
                in_flight_.front()->where->path.string(), error.message(), in_flight_.size(),
                durable_offset_);
  for (const std::shared_ptr<batch>& b : in_flight_) {
    b->given_up = true;
    client_state& client = *b->client;
    client.appended = client.durable;
    client.pending_bytes = 0;
    client.setback = error;
    ++client.setbacks;
    client.changed.notify_all();
  }
  in_flight_.clear();
  end_offset_ = durable_offset_;
  while (!parts_.empty() && parts_.back().base > durable_offset_)
    parts_.pop_back();
  if (!parts_.empty()) parts_.back().end = durable_offset_;
  if (current_) leave(std::move(current_));
  if (!replacing_) {
    replacing_ = true;
    spawn(replace_failed(), "replacing a failed segment");
  }
  changed_.notify_all();
}

/// Goes on behind what is durable, in a segment whose start record is synced before it is used.
asio::awaitable<void> store::replace_failed() {
  while (!stopping_) {
    if (!next_) {
      co_await changed_.wait();
      continue;
    }
    use_next();
    segment& here = *current_;
    std::array<std::byte, start_record_size> start{};
    encode_record(start, {record_type::segment_start, {}, end_offset_, durable_offset_, {}},
                  checksum_seed(here.salt, segment_header_size));
    auto [error, stored] =
        co_await here.file.update_region(segment_header_size, asio::buffer(start), as_result);
    if (!error) {
      auto [flush_error] =
          co_await here.file.flush_range(segment_header_size, start.size(), as_result);
      error = flush_error;
    }
    if (!error) {
      here.start_written = true;
      break;
    }
    spdlog::error("{}: the start record is not durable: {}", here.path.string(), error.message());
    problem_ = error;
    parts_.pop_back();
    leave(std::move(current_));
    pause_.expires_after(options_.retry);
    co_await pause_.async_wait(as_result);
  }
  replacing_ = false;
  changed_.notify_all();
}

// --- reading ---

std::unique_ptr<log_tail> store::tail(std::uint64_t offset) {
  return std::make_unique<tail_reader>(*this, offset);
}

log_stats store::stats() const {
  log_stats result = totals_;
  const auto add = [&result](const segment& s) {
    const mapio::file_stats counted = s.file.stats();
    result.syncs += counted.syncs - s.earlier_syncs;
    result.sync_failures += counted.sync_failures;
  };
  if (current_) add(*current_);
  for (const auto& s : left_)
    add(*s);
  result.segments = parts_.size();
  if (problem_) result.problem = problem_.message();
  return result;
}

}  // namespace ingestd
