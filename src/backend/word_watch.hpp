#ifndef MAPIO_SRC_BACKEND_WORD_WATCH_HPP
#define MAPIO_SRC_BACKEND_WORD_WATCH_HPP

#include "core/operation_list.hpp"

#include <memory>
#include <mutex>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// Carries call::wait_word out where the kernel does not do it by itself: on a thread that waits
/// for many words at once, and on more of them only where that is not enough. The first one starts
/// with the first word; they stay.
class word_watch {
 public:
  word_watch();
  ~word_watch();
  word_watch(const word_watch&) = delete;
  word_watch& operator=(const word_watch&) = delete;

  /// False: shut down, or there is no thread to be had.
  bool submit(operation& op) noexcept;
  /// Ends an operation soon whose end was asked for (operation::cancel_requested), if it is here.
  void interrupt(operation& op) noexcept;
  /// Drops what is here. Every operation has been `done` at return.
  void shut_down() noexcept;

 private:
  class watcher;

  std::mutex mutex_;
  std::vector<std::unique_ptr<watcher>> watchers_;
  bool stopping_ = false;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_BACKEND_WORD_WATCH_HPP
