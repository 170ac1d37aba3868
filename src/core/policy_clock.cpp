#include "policy_clock.hpp"

#include "file_state.hpp"
#include "platform/platform.hpp"

#include <algorithm>
#include <new>
#include <thread>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace {

// A device that hangs must not stop the time for files on others.
constexpr unsigned most_threads = 4;

constexpr auto later = [](const auto& a, const auto& b) { return a.due > b.due; };

}  // namespace

policy_clock::policy_clock() : generation_(platform::fork_generation()) {}

// Never destroyed: its threads may be at work when the process ends. A forked child has none of its
// parent's threads, and cannot know who held the mutex: it gets a clock of its own.
constinit std::atomic<policy_clock*> policy_clock::current{nullptr};

policy_clock& policy_clock::of_this_process() {
  policy_clock* known = current.load(std::memory_order_acquire);
  while (known == nullptr || known->generation_ != platform::fork_generation()) {
    auto* fresh = new policy_clock;
    if (current.compare_exchange_strong(known, fresh, std::memory_order_acq_rel)) return *fresh;
    delete fresh;
  }
  return *known;
}

std::error_code policy_clock::add(const std::weak_ptr<file_state>& file,
                                  std::chrono::milliseconds interval) noexcept try {
  policy_clock& self = of_this_process();
  std::lock_guard lock(self.mutex_);
  if (self.threads_ == 0 && !self.add_thread())
    return make_error_code(std::errc::resource_unavailable_try_again);
  // The sum must not wrap for an interval that means never.
  const auto soon = std::min<std::chrono::milliseconds>(interval, std::chrono::hours(24 * 365));
  self.insert({clock::now() + soon, soon, file, file.lock().get()});
  self.wake_.notify_all();
  return {};
} catch (...) {
  return make_error_code(std::errc::not_enough_memory);
}

void policy_clock::remove(const file_state& file) noexcept {
  policy_clock* const self = current.load(std::memory_order_acquire);
  if (self == nullptr || self->generation_ != platform::fork_generation()) return;
  std::lock_guard lock(self->mutex_);
  std::erase_if(self->entries_, [&](const entry& e) { return e.which == &file; });
  std::make_heap(self->entries_.begin(), self->entries_.end(), later);
  if (self->entries_.empty()) self->wake_.notify_all();
}

void policy_clock::insert(entry added) {
  entries_.push_back(std::move(added));
  std::push_heap(entries_.begin(), entries_.end(), later);
}

bool policy_clock::add_thread() noexcept {
  try {
    std::thread([this] { run(); }).detach();
  } catch (...) {
    return false;
  }
  ++threads_;
  return true;
}

void policy_clock::submit(operation& op) noexcept {
  std::lock_guard lock(mutex_);
  calls_.push(op);
  const bool added = syncing_ == threads_ && threads_ < most_threads && add_thread();
  if (threads_ == 0 && !added) {
    // A sync that outlived the last file, and no thread to be had: here, then.
    std::unique_lock<std::mutex> held(mutex_, std::adopt_lock);
    carry_out(*calls_.pop(), held);
    held.release();
    return;
  }
  wake_.notify_one();
}

void policy_clock::carry_out(operation& op, std::unique_lock<std::mutex>& lock) noexcept {
  ++syncing_;
  // Somebody must go on keeping the time.
  if (syncing_ == threads_ && threads_ < most_threads && !entries_.empty())
    static_cast<void>(add_thread());
  lock.unlock();
  platform::perform(op);
  op.done(&op);
  lock.lock();
  --syncing_;
}

void policy_clock::tell_the_first(std::unique_lock<std::mutex>& lock) noexcept {
  std::pop_heap(entries_.begin(), entries_.end(), later);
  entry first = std::move(entries_.back());
  entries_.pop_back();
  ++away_;
  lock.unlock();
  bool is_open = false;
  if (const auto file = first.file.lock()) {
    is_open = file->is_open();
    if (is_open) file->policy_is_due(*this);
  }
  lock.lock();
  --away_;
  if (!is_open) return;
  first.due = clock::now() + first.interval;
  insert(std::move(first));  // into the room that it left
}

void policy_clock::run() noexcept {
  platform::block_signals();
  std::unique_lock lock(mutex_);
  for (;;) {
    if (operation* op = calls_.pop()) {
      carry_out(*op, lock);
    } else if (entries_.empty()) {
      if (away_ != 0) {
        wake_.wait(lock);
        continue;
      }
      --threads_;
      wake_.notify_all();
      return;
    } else if (entries_.front().due <= clock::now()) {
      tell_the_first(lock);
      wake_.notify_all();
    } else if (time_is_kept_) {
      wake_.wait(lock);
    } else {
      time_is_kept_ = true;
      const clock::time_point due = entries_.front().due;  // the entry may move meanwhile
      wake_.wait_until(lock, due);
      time_is_kept_ = false;
      // Whoever has work leaves the time to somebody else.
      if (!calls_.empty()) wake_.notify_one();
    }
  }
}

}  // namespace detail
MAPIO_NAMESPACE_END
