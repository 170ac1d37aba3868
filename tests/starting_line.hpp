#ifndef MAPIO_TESTS_STARTING_LINE_HPP
#define MAPIO_TESTS_STARTING_LINE_HPP

#include <condition_variable>
#include <mutex>

namespace support {

/// Holds threads up until all are there.
///
/// Not std::barrier: where there is no futex, libstdc++ loses notices of what waits for an atomic
/// (GCC 12 looks at it before it takes the lock).
class starting_line {
 public:
  explicit starting_line(int threads) : missing_(threads) {}

  void arrive_and_wait() {
    std::unique_lock lock(mutex_);
    if (--missing_ == 0) return all_are_there_.notify_all();
    all_are_there_.wait(lock, [this] { return missing_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_are_there_;
  int missing_;
};

}  // namespace support

#endif  // MAPIO_TESTS_STARTING_LINE_HPP
