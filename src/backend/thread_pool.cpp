#include "thread_pool.hpp"

#include "platform/platform.hpp"

#include <algorithm>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace {

constexpr std::uint8_t queued = 1;

}  // namespace

thread_pool::thread_pool(unsigned threads) : most_threads_(threads) {
  threads_.reserve(threads);
  writers_.reserve(threads);
  std::lock_guard lock(mutex_);
  start_thread();
}

thread_pool::~thread_pool() {
  shut_down();
}

// It counts as idle before it runs, so that what comes next does not start another one.
void thread_pool::start_thread() {
  threads_.emplace_back([this] { run(); });
  ++idle_;
}

void thread_pool::submit(operation& op) noexcept {
  // Where it cannot be watched, a thread looks at the word again and again.
  if (op.what == call::wait_word && words_.submit(op)) return;
  {
    std::lock_guard lock(mutex_);
    if (!stopping_) {
      op.place.store(queued, std::memory_order_relaxed);
      if (wait_for_turn(op)) return;
      queue_.push(op);
      ++queued_;
      if (idle_ >= queued_) {
        wake_.notify_one();
      } else if (threads_.size() < most_threads_) {
        try {
          start_thread();
        } catch (...) {
          // Those that are there do it, only later.
        }
      }
      return;
    }
  }
  op.dropped = true;
  op.done(&op);
}

bool thread_pool::withdraw(operation& op, bool interrupt) noexcept {
  words_.interrupt(op);
  std::lock_guard lock(mutex_);
  if (op.place.load(std::memory_order_relaxed) != queued || (!interrupt && op.transferred != 0))
    return false;
  if (queue_.remove(op))
    --queued_;
  else if (std::none_of(writers_.begin(), writers_.end(),
                        [&](writer* w) { return w->waiting.remove(op); }))
    return false;
  op.place.store(0, std::memory_order_relaxed);
  return true;
}

bool thread_pool::wait_for_turn(operation& op) noexcept {
  if (op.what != call::write_file) return false;
  for (writer* w : writers_)
    if (w->handle == op.handle) {
      w->waiting.push(op);
      return true;
    }
  return false;
}

void thread_pool::carry_out(operation& op, std::unique_lock<std::mutex>& lock) noexcept {
  op.place.store(0, std::memory_order_relaxed);
  if (stopping_) op.dropped = true;
  lock.unlock();
  detail::carry_out(op);
  lock.lock();
}

void thread_pool::write(operation& first, std::unique_lock<std::mutex>& lock) noexcept {
  writer self{first.handle, {}};
  writers_.push_back(&self);
  operation* op = &first;
  do
    carry_out(*op, lock);
  while (queue_.empty() && (op = self.waiting.pop()) != nullptr);
  std::erase(writers_, &self);
  if (self.waiting.empty()) return;
  // Something else is due as well, and was there first.
  while ((op = self.waiting.pop()) != nullptr) {
    queue_.push(*op);
    ++queued_;
  }
  wake_.notify_one();
}

void thread_pool::run() noexcept {
  platform::block_signals();
  platform::let_others_preempt();
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    --idle_;
    operation* op = queue_.pop();
    if (op == nullptr) return;
    --queued_;
    if (op->what != call::write_file)
      carry_out(*op, lock);
    else if (!wait_for_turn(*op))
      write(*op, lock);
    ++idle_;
  }
}

void thread_pool::shut_down() noexcept {
  std::vector<std::thread> threads;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
    threads.swap(threads_);
  }
  words_.shut_down();
  for (std::thread& thread : threads)
    thread.join();
}

}  // namespace detail
MAPIO_NAMESPACE_END
