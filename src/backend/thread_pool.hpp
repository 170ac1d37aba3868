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

/// A few threads that make blocking calls. They start when there is work, and stay.
class thread_pool final : public backend {
 public:
  explicit thread_pool(unsigned threads = default_threads);
  ~thread_pool() override;

  void submit(operation& op) noexcept override;
  bool withdraw(operation& op, bool interrupt) noexcept override;
  void shut_down() noexcept override;

  static constexpr unsigned default_threads = 4;

 private:
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
