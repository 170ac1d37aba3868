#ifndef MAPIO_SRC_CORE_POLICY_CLOCK_HPP
#define MAPIO_SRC_CORE_POLICY_CLOCK_HPP

#include "engine.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail {

class file_state;

/// Keeps the time for flush_policy::every, for all files of the process, and carries out the syncs
/// that follow from it.
///
/// Its threads belong to no execution context: a timer is nobody's outstanding work, run() returns
/// as if there were none, and what was written becomes durable also while no loop is running. There
/// is one thread as long as nothing is being synced, and none once the last file is closed.
class policy_clock final : public performer {
 public:
  /// Tells `file` at every `interval`, for as long as it is open.
  static std::error_code add(const std::weak_ptr<file_state>& file,
                             std::chrono::milliseconds interval) noexcept;

  /// Forgets a file that was closed.
  static void remove(const file_state& file) noexcept;

  void submit(operation& op) noexcept override;

 private:
  using clock = std::chrono::steady_clock;
  struct entry {
    clock::time_point due;
    std::chrono::milliseconds interval;
    std::weak_ptr<file_state> file;
    const file_state* which;  // also when it is gone
  };

  policy_clock();
  static policy_clock& of_this_process();
  static std::atomic<policy_clock*> current;
  void insert(entry added);
  bool add_thread() noexcept;
  void run() noexcept;
  void carry_out(operation& op, std::unique_lock<std::mutex>& lock) noexcept;
  void tell_the_first(std::unique_lock<std::mutex>& lock) noexcept;

  const unsigned generation_;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<entry> entries_;  // a heap, the first due on top
  std::size_t away_ = 0;        // entries that a thread has taken out, and puts back
  operation_list calls_;
  unsigned threads_ = 0;
  unsigned syncing_ = 0;
  bool time_is_kept_ = false;  // one idle thread waits for the time, the others for work
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_POLICY_CLOCK_HPP
