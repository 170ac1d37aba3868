#ifndef MAPIO_SRC_BACKEND_THREAD_POOL_HPP
#define MAPIO_SRC_BACKEND_THREAD_POOL_HPP

#include "core/engine.hpp"
#include "core/operation_list.hpp"
#include "word_watch.hpp"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// A few threads that make blocking calls. The first one starts with the pool, and the others when
/// there is work; they stay. So there is always one: what was submitted is carried out even where
/// no more threads are to be had, and `done` is never called inside of submit(), but after a
/// shutdown.
class thread_pool final : public backend {
 public:
  /// Throws std::system_error if there is no thread to be had.
  explicit thread_pool(unsigned threads = default_threads);
  ~thread_pool() override;

  void submit(operation& op) noexcept override;
  bool withdraw(operation& op, bool interrupt) noexcept override;
  void shut_down() noexcept override;

  static constexpr unsigned default_threads = 4;

 private:
  /// A thread that writes to a file, and the writes to that file which wait for their turn. The
  /// file system would make them wait as well, and put a thread to sleep for each.
  struct writer {
    native_handle_type handle;
    operation_list waiting;
  };

  void start_thread();
  void run() noexcept;
  void write(operation& first, std::unique_lock<std::mutex>& lock) noexcept;
  void carry_out(operation& op, std::unique_lock<std::mutex>& lock) noexcept;
  /// Lets a write wait behind one that is under way; false: there is none.
  bool wait_for_turn(operation& op) noexcept;

  const unsigned most_threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  operation_list queue_;
  std::vector<writer*> writers_;
  std::vector<std::thread> threads_;
  word_watch words_;  // who waits for them would keep the threads from everything else
  std::size_t idle_ = 0;
  std::size_t queued_ = 0;
  bool stopping_ = false;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_BACKEND_THREAD_POOL_HPP
