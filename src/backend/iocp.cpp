#include "iocp.hpp"

#include "core/operation_list.hpp"
#include "platform/windows.hpp"
#include "word_watch.hpp"

#include <algorithm>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace {

constexpr std::uint8_t queued = 1;

/// Workers that make blocking calls, of whom the port lets as many run as there are processors: one
/// that waits for a disk makes room for the next. They start as they are needed, and stay.
///
/// What was submitted is in a list here, from which it can be taken back, and the port has a packet
/// for each: for the turn, not for the operation.
class iocp final : public backend {
 public:
  /// Throws std::system_error if there is no port or no thread to be had.
  iocp();
  ~iocp() override { shut_down(); }

  void submit(operation& op) noexcept override;
  bool withdraw(operation& op, bool interrupt) noexcept override;
  void shut_down() noexcept override;

 private:
  static unsigned processors() noexcept {
    return std::max(1U, std::thread::hardware_concurrency());
  }

  void start_worker();
  void run() noexcept;
  void carry_out(operation& op, std::unique_lock<std::mutex>& lock) noexcept;
  bool post_turn() noexcept {
    return ::PostQueuedCompletionStatus(port_.get(), 0, 0, nullptr) != FALSE;
  }

  const platform::windows::unique_handle port_;
  const std::size_t most_workers_ = std::max(8U, 4 * processors());
  std::mutex mutex_;
  operation_list queue_;
  std::vector<std::thread> workers_;
  word_watch words_;  // who waits for them would keep the workers from everything else
  std::size_t idle_ = 0;
  std::size_t queued_ = 0;
  bool stopping_ = false;
};

iocp::iocp() : port_(::CreateIoCompletionPort(INVALID_HANDLE_VALUE, nullptr, 0, processors())) {
  if (!port_) throw std::system_error(platform::windows::last_error(), "CreateIoCompletionPort");
  workers_.reserve(most_workers_);
  const std::lock_guard lock(mutex_);
  start_worker();
}

// It counts as idle before it runs, so that what comes next does not start another one.
void iocp::start_worker() {
  workers_.emplace_back([this] { run(); });
  ++idle_;
}

void iocp::submit(operation& op) noexcept {
  // Where it cannot be watched, a worker looks at the word again and again.
  if (op.what == call::wait_word && words_.submit(op)) return;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) {
      op.dropped = true;
    } else if (!post_turn()) {
      op.error = platform::windows::last_error();
    } else {
      op.place.store(queued, std::memory_order_relaxed);
      queue_.push(op);
      ++queued_;
      if (idle_ < queued_ && workers_.size() < most_workers_) {
        try {
          start_worker();
        } catch (...) {
          // Those that are there do it, only later.
        }
      }
      return;
    }
  }
  op.done(&op);
}

bool iocp::withdraw(operation& op, bool interrupt) noexcept {
  words_.interrupt(op);
  const std::lock_guard lock(mutex_);
  if (op.place.load(std::memory_order_relaxed) != queued || (!interrupt && op.transferred != 0) ||
      !queue_.remove(op))
    return false;
  --queued_;
  op.place.store(0, std::memory_order_relaxed);
  return true;
}

void iocp::carry_out(operation& op, std::unique_lock<std::mutex>& lock) noexcept {
  op.place.store(0, std::memory_order_relaxed);
  if (stopping_) op.dropped = true;
  lock.unlock();
  detail::carry_out(op);
  lock.lock();
}

void iocp::run() noexcept {
  std::unique_lock lock(mutex_);
  for (;;) {
    lock.unlock();
    DWORD bytes = 0;
    ULONG_PTR key = 0;
    OVERLAPPED* overlapped = nullptr;
    const BOOL has_turn =
        ::GetQueuedCompletionStatus(port_.get(), &bytes, &key, &overlapped, INFINITE);
    lock.lock();
    // Without one, only what is left is of interest.
    if (has_turn == FALSE && !stopping_) continue;
    --idle_;
    // None: it was taken back.
    while (operation* const op = queue_.pop()) {
      --queued_;
      carry_out(*op, lock);
      if (!stopping_) break;
    }
    if (stopping_) return;
    ++idle_;
  }
}

void iocp::shut_down() noexcept {
  std::vector<std::thread> workers;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    workers.swap(workers_);
  }
  words_.shut_down();
  // What ran out may be there again in a moment.
  for (std::size_t i = 0; i < workers.size(); ++i)
    while (!post_turn())
      std::this_thread::yield();
  for (std::thread& worker : workers)
    worker.join();
}

}  // namespace

std::unique_ptr<backend> make_iocp(std::string& reason, std::error_code& error) try {
  return std::make_unique<iocp>();
} catch (const std::system_error& e) {
  reason = e.what();
  error = e.code();
  return nullptr;
}

}  // namespace detail
MAPIO_NAMESPACE_END
