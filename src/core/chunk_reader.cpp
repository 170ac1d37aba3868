#include "chunk_reader.hpp"

#include "engine.hpp"
#include "file_state.hpp"

#include <asio/error.hpp>

#include <algorithm>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace {

// Beyond any file; keeps sums and products from overflowing.
constexpr std::uint64_t largest_chunk = std::uint64_t{1} << 48;
constexpr std::size_t most_ahead = 1024;

}  // namespace

chunk_reader::chunk_reader(std::shared_ptr<handle_state> handle, std::shared_ptr<engine> home,
                           std::uint64_t bytes, std::size_t readahead)
    : handle_(std::move(handle)), home_(std::move(home)),
      file_(handle_ ? handle_->file() : std::shared_ptr<file_state>()),
      bytes_(std::min(bytes, largest_chunk)), ahead_(bytes_ * std::min(readahead, most_ahead)),
      // One more for the chunk that somebody waits for.
      prefetches_(readahead == 0 || !home_ ? 0 : std::min(readahead, most_ahead) + 1) {
  for (prefetch& p : prefetches_) {
    p.kind = verb::prefetch;
    p.step = reading_in_order;
    p.complete = [](operation* op, operation::delivery) { op->destroy(op); };
    p.destroy = [](operation* op) noexcept {
      auto& over = *static_cast<prefetch*>(op);
      over.reader->prefetch_over(over);
    };
  }
}

bool chunk_reader::start(chunk_operation& op) noexcept {
  if (bytes_ == 0) {
    op.error = make_error_code(std::errc::invalid_argument);
    return true;
  }
  if (file_.lock() != op.file) {
    op.error = errc::not_open;
    return true;
  }
  {
    std::lock_guard lock(mutex_);
    if (current_ != nullptr) {
      op.error = make_error_code(std::errc::operation_in_progress);
      return true;
    }
    current_ = &op;
  }
  // Known to the engine from here on, and not only while it is being carried out.
  op.done = [](operation* self) noexcept { finish(*self); };
  if (!home_->enroll(op)) return true;
  // The handler may run, and drop the stream, before this returns.
  const std::shared_ptr<chunk_reader> keep = shared_from_this();
  const bool is_done = wait_or_view(op);
  if (is_done) home_->forget(op);
  read_ahead();
  return is_done;
}

bool chunk_reader::wait_or_view(chunk_operation& op) noexcept {
  {
    std::lock_guard lock(mutex_);
    if (op.cancel_requested.load(std::memory_order_relaxed)) {
      op.error = asio::error::operation_aborted;
      return true;
    }
    if (const prefetch* const p = prefetch_of(position_)) {
      waited_for_ = p;
      waiting_ = &op;
      return false;
    }
  }
  return view(op);
}

bool chunk_reader::view(chunk_operation& op) noexcept {
  do {
    const std::uint64_t end = op.file->reach();
    {
      std::lock_guard lock(mutex_);
      op.offset = position_;
    }
    op.error = {};
    op.length = op.offset < end ? std::min(bytes_, end - op.offset) : 0;
    if (op.length == 0) {
      // A closed file has no end that anybody could have come to.
      if (!op.file->is_open()) op.error = errc::not_open;
      return true;
    }
    if (!op.file->start_view(op)) return false;
  } while (op.error == errc::out_of_range);  // it was cut in between
  return true;
}

chunk_reader::prefetch* chunk_reader::prefetch_of(std::uint64_t at) noexcept {
  for (prefetch& p : prefetches_)
    if (p.is_under_way && p.offset <= at && at - p.offset < p.length) return &p;
  return nullptr;
}

void chunk_reader::read_ahead() noexcept {
  const std::shared_ptr<file_state> file = file_.lock();
  if (!file || prefetches_.empty()) return;
  for (;;) {
    prefetch* next = nullptr;
    {
      std::unique_lock lock(mutex_);
      if (stopped_) {
        // The handler did that meanwhile, and could not see what was about to be started here.
        lock.unlock();
        cancel_prefetches();
        return;
      }
      const std::uint64_t begin = std::max(prefetched_until_, position_ + bytes_);
      const std::uint64_t end =
          std::min({begin + bytes_, position_ + bytes_ + ahead_, file->reach()});
      if (begin >= end) return;
      for (prefetch& p : prefetches_)
        if (!p.is_under_way) next = &p;
      if (next == nullptr) return;
      next->is_under_way = true;
      next->offset = begin;
      next->length = end - begin;
      prefetched_until_ = end;
    }
    next->reader = shared_from_this();
    next->home = home_;
    next->owner = handle_;
    next->transferred = 0;
    next->dropped = false;
    next->cancel_requested.store(false, std::memory_order_relaxed);
    if (detail::start(*next)) prefetch_over(*next);
  }
}

void chunk_reader::prefetch_over(prefetch& p) noexcept {
  const std::shared_ptr<chunk_reader> keep = std::move(p.reader);
  p.file.reset();
  p.owner.reset();
  p.home.reset();
  chunk_operation* op = nullptr;
  {
    std::lock_guard lock(mutex_);
    p.is_under_way = false;
    if (waiting_ != nullptr && waited_for_ == &p) op = std::exchange(waiting_, nullptr);
  }
  // What became of the prefetch does not matter: the view will see.
  if (op != nullptr && view(*op)) finish(*op);
}

bool chunk_reader::withdraw(const operation& op) noexcept {
  std::lock_guard lock(mutex_);
  if (waiting_ != &op) return false;
  waiting_ = nullptr;
  return true;
}

void chunk_reader::hand_over(const chunk_operation& op) noexcept {
  std::lock_guard lock(mutex_);
  if (current_ != &op) return;
  current_ = nullptr;
  if (!op.error) position_ += op.length;
}

void chunk_reader::stop() noexcept {
  if (home_ && home_->is_foreign()) return;  // who held a lock at the fork is not there to let go
  const std::shared_ptr<chunk_reader> keep = shared_from_this();
  chunk_operation* op = nullptr;
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    op = std::exchange(waiting_, nullptr);
  }
  if (op != nullptr) finish(*op, asio::error::operation_aborted);
  cancel_prefetches();
}

void chunk_reader::cancel_prefetches() noexcept {
  for (prefetch& p : prefetches_) {
    const auto from = home_->cancel(p, false);
    if (from != engine::withdrawal::none) engine::end_withdrawn(p, from);
  }
}

std::shared_ptr<chunk_reader> read_chunks(const std::shared_ptr<handle_state>& handle,
                                          const std::shared_ptr<engine>& home, std::uint64_t bytes,
                                          std::size_t readahead) {
  return std::make_shared<chunk_reader>(handle, home, bytes, readahead);
}

void hand_over(chunk_operation& op) noexcept {
  if (op.reader) op.reader->hand_over(op);
}

void stop(chunk_reader& reader) noexcept {
  reader.stop();
}

}  // namespace detail
MAPIO_NAMESPACE_END
