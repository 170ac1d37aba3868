#include "engine.hpp"

#include "file_state.hpp"
#include "loop_turn.hpp"
#include "platform/platform.hpp"
#include "watch_stream.hpp"

#include <asio/error.hpp>

#include <algorithm>
#include <chrono>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {

namespace {
std::uint64_t next_engine_id() noexcept {
  static std::atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}
}  // namespace

engine::engine(asio::execution_context& context)
    : context_(context), generation_(platform::fork_generation()), id_(next_engine_id()) {}

engine::~engine() = default;

void engine::use(backend_kind kind) {
  std::lock_guard lock(start_mutex_);
  if (started_.load(std::memory_order_relaxed) != nullptr)
    throw std::system_error(make_error_code(std::errc::device_or_resource_busy),
                            "mapio::use_backend: the context has an engine already");
  std::unique_ptr<backend> chosen;
  // Made here, so that what cannot be had is reported here.
  if (kind != backend_kind::automatic) chosen = make_backend(kind);
  if (backend_) backend_->shut_down();
  backend_ = std::move(chosen);
}

void engine::start() {
  if (started_.load(std::memory_order_relaxed) != nullptr) return;
  if (!backend_) backend_ = make_backend(backend_kind::automatic);
  started_.store(backend_.get(), std::memory_order_release);
}

std::error_code engine::ensure_started() noexcept {
  if (started_.load(std::memory_order_acquire) != nullptr) return {};
  try {
    std::lock_guard lock(start_mutex_);
    start();
  } catch (const std::system_error& e) {
    return e.code();
  } catch (...) {
    return make_error_code(std::errc::not_enough_memory);
  }
  return {};
}

backend_info engine::info() {
  std::lock_guard lock(start_mutex_);
  start();
  return info_;
}

bool engine::is_foreign() const noexcept {
  return generation_ != platform::fork_generation();
}

void engine::submit(operation& op) noexcept {
  if (is_foreign()) {
    op.dropped = true;
    op.done(&op);
    return;
  }
  started_.load(std::memory_order_acquire)->submit(op);
}

bool engine::enroll(operation& op) noexcept {
  if (op.hold != nullptr && !op.hold(&op)) {
    op.error = make_error_code(std::errc::not_enough_memory);
    return false;
  }
  std::lock_guard lock(mutex_);
  if (stopping_) {
    op.error = asio::error::operation_aborted;
    return false;
  }
  op.enrolled = true;
  op.previous_enrolled = last_enrolled_;
  op.next_enrolled = nullptr;
  (last_enrolled_ != nullptr ? last_enrolled_->next_enrolled : enrolled_) = &op;
  last_enrolled_ = &op;
  return true;
}

void engine::forget(operation& op) noexcept {
  std::lock_guard lock(mutex_);
  retire(op);
}

void engine::retire(operation& op) noexcept {
  if (!op.enrolled) return;
  op.enrolled = false;
  (op.previous_enrolled != nullptr ? op.previous_enrolled->next_enrolled : enrolled_) =
      op.next_enrolled;
  (op.next_enrolled != nullptr ? op.next_enrolled->previous_enrolled : last_enrolled_) =
      op.previous_enrolled;
}

void engine::deliver(operation& op) noexcept {
  // Another context's thread may deliver here while this context is being destroyed: shut_down()
  // waits for it.
  const std::shared_ptr<engine> keep = shared_from_this();
  bool stopping = false;
  {
    std::lock_guard lock(mutex_);
    retire(op);
    stopping = stopping_;
    ++delivering_;
  }
  if (stopping)
    op.destroy(&op);
  else if (!loop_turn::takes(op, context_))
    op.complete(&op, operation::delivery::post);
  std::lock_guard lock(mutex_);
  --delivering_;
  if (stopping_) idle_.notify_all();
}

struct engine::withdrawn_lists {
  void add(operation& op, withdrawal from) noexcept {
    if (from == withdrawal::from_file) from_file.push(op);
    if (from == withdrawal::from_queue) from_queue.push(op);
  }
  operation_list from_file;
  operation_list from_queue;
};

engine::withdrawal engine::withdraw(operation& op, bool interrupt) noexcept {
  const bool is_final = op.is_final.load(std::memory_order_relaxed);
  if (is_final && !stopping_) return withdrawal::none;
  if (interrupt && !is_final) op.cancel_requested.store(true, std::memory_order_relaxed);
  if (op.kind == verb::next_change && withdraw_next(op)) return withdrawal::from_queue;
  if (op.file && op.file->withdraw(op, interrupt)) return withdrawal::from_file;
  // The file may have begun only now to take something back.
  if (op.is_final.load(std::memory_order_relaxed)) return withdrawal::none;
  backend* const started = started_.load(std::memory_order_acquire);
  return started != nullptr && started->withdraw(op, interrupt) ? withdrawal::from_queue
                                                                : withdrawal::none;
}

engine::withdrawal engine::cancel(operation& op, bool only_waiting) noexcept {
  if (is_foreign()) return withdrawal::none;
  std::lock_guard lock(mutex_);
  return op.enrolled ? withdraw(op, !only_waiting) : withdrawal::none;
}

void engine::end_withdrawn(operation& op, withdrawal from) noexcept {
  op.error = asio::error::operation_aborted;
  // Whatever else waits in a file waits for a sync.
  if (from == withdrawal::from_file && op.kind == verb::resize)
    return op.file->end_withdrawn_resize(op);
  if (from != withdrawal::none) op.done(&op);
}

void engine::end_all(withdrawn_lists& lists) noexcept {
  while (operation* op = lists.from_file.pop())
    end_withdrawn(*op, withdrawal::from_file);
  while (operation* op = lists.from_queue.pop())
    end_withdrawn(*op, withdrawal::from_queue);
}

void engine::cancel_if(bool (*match)(const operation&, const void*), const void* what) noexcept {
  if (is_foreign()) return;
  withdrawn_lists withdrawn;
  {
    std::lock_guard lock(mutex_);
    for (operation* it = enrolled_; it != nullptr; it = it->next_enrolled)
      if (match(*it, what)) withdrawn.add(*it, withdraw(*it, true));
  }
  end_all(withdrawn);
}

bool engine::run_in_background(operation& op) noexcept {
  if (is_foreign() || ensure_started()) return false;
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return false;
    ++background_;
  }
  submit(op);
  std::lock_guard lock(mutex_);
  --background_;
  if (stopping_) idle_.notify_all();
  return true;
}

void engine::help() noexcept {
  if (is_foreign()) return;
  backend* const started = started_.load(std::memory_order_acquire);
  if (started == nullptr) return;
  const std::shared_ptr<engine> keep = shared_from_this();
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    ++background_;
  }
  started->help();
  std::lock_guard lock(mutex_);
  --background_;
  if (stopping_) idle_.notify_all();
}

void engine::shut_down() noexcept {
  if (is_foreign()) {
    // Neither threads nor ring are ours, and a lock may have been held at the fork: all of it goes
    // with the child.
    static_cast<void>(backend_.release());
    return;
  }
  withdrawn_lists withdrawn;
  {
    std::unique_lock lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    for (operation* it = enrolled_; it != nullptr; it = it->next_enrolled)
      withdrawn.add(*it, withdraw(*it, true));
    idle_.wait(lock, [this] { return background_ == 0; });
  }
  end_all(withdrawn);
  if (backend_) backend_->shut_down();
  std::unique_lock lock(mutex_);
  // What is still enrolled was just taken from its place by another thread, which is about to
  // deliver it.
  idle_.wait(lock, [this] { return enrolled_ == nullptr && delivering_ == 0; });
}

void blocking_performer::run(file_state* file) noexcept {
  // Short at first, for what the kernel is about to answer; then rare, for a long sync.
  constexpr std::chrono::microseconds first_pause{20};
  constexpr std::chrono::microseconds longest_pause{2000};
  auto pause = first_pause;
  std::unique_lock lock(mutex_);
  for (;;) {
    while (!finished_ && calls_.empty()) {
      lock.unlock();
      const bool helped = file->help_engines();
      lock.lock();
      const auto has_news = [this] { return finished_ || !calls_.empty(); };
      if (!helped)
        wake_.wait(lock, has_news);
      else if (!wake_.wait_for(lock, pause, has_news))
        pause = std::min(2 * pause, longest_pause);
    }
    operation* op = calls_.pop();
    if (op == nullptr) return;
    pause = first_pause;
    lock.unlock();
    platform::perform(*op);
    op->done(op);
    lock.lock();
  }
}

bool submit(operation& op) noexcept {
  if (!op.enrolled && !op.home->enroll(op)) return true;
  op.runner->submit(op);
  return false;
}

void carry_out(operation& op) noexcept {
  const bool refused = !op.dropped && op.is_refused != nullptr && op.is_refused(&op, 0);
  if (!op.dropped && !refused) platform::perform(op);
  op.done(&op);
}

void let_go(operation& op) noexcept {
  op.range = pin();
  if (op.use != nullptr) std::exchange(op.use, nullptr)->release();
}

void finish(operation& op) noexcept {
  let_go(op);
  if (op.home)
    op.home->deliver(op);
  else
    op.complete(&op, operation::delivery::post);
}

void continue_all(operation_list list) noexcept {
  while (operation* op = list.pop())
    op->done(op);
}

}  // namespace detail
MAPIO_NAMESPACE_END
