#ifndef MAPIO_SRC_BACKEND_THREAD_POOL_HPP
#define MAPIO_SRC_BACKEND_THREAD_POOL_HPP

#include "core/engine.hpp"
#include "core/operation_list.hpp"

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
  void start_thread();
  void run() noexcept;

  const unsigned most_threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  operation_list queue_;
  std::vector<std::thread> threads_;
  std::size_t idle_ = 0;
  std::size_t queued_ = 0;
  bool stopping_ = false;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_BACKEND_THREAD_POOL_HPP
