#ifndef MAPIO_SRC_CORE_COPY_WINDOW_HPP
#define MAPIO_SRC_CORE_COPY_WINDOW_HPP

#include "platform/platform.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>

MAPIO_NAMESPACE_BEGIN
namespace detail {

class extent;

/// What a thread is copying from or to right now. One per thread, found by whoever wants to cut,
/// move or unmap the range.
///
/// A pin would do as well, at two compare-and-swaps per copy. A copy is short and never leaves its
/// thread, so a plain store is enough where the other side can make up for the missing barrier
/// (platform::heavy_barrier). Alone on its cache line, since every copy writes it.
struct alignas(64) copy_window : platform::thread_end {
  std::atomic<const extent*> where{nullptr};
  std::atomic<std::uint64_t> begin{0};
  std::atomic<std::uint64_t> end{0};
  std::atomic<bool> taken{true};
  copy_window* next = nullptr;
  /// Small, and no other thread's that lives; an extent has pins of its own for the first few.
  std::size_t number = 0;
};

extern constinit thread_local copy_window* current_window;
copy_window* open_first_window() noexcept;
/// Returns this thread's window; it is given back when the thread ends. Null: no memory.
inline copy_window* this_thread_window() noexcept {
  return current_window != nullptr ? current_window : open_first_window();
}

/// Tells whether some thread copies within [begin, end) of `e`; call heavy_barrier() first.
bool is_being_copied(const extent& e, std::uint64_t begin, std::uint64_t end) noexcept;

/// Holds the window open. Whether the range may be used must be checked after construction.
class open_window {
 public:
  open_window(copy_window& window, const extent* where, std::uint64_t begin,
              std::uint64_t end) noexcept
      : window_(window) {
    // Release: it may be by these alone that somebody learns of the end of the copy before.
    window.begin.store(begin, std::memory_order_release);
    window.end.store(end, std::memory_order_release);
    if (platform::has_heavy_barrier()) {
      // Release, so that whoever sees `where` sees its range; the store-load order comes from the
      // other side.
      window.where.store(where, std::memory_order_release);
      std::atomic_signal_fence(std::memory_order_seq_cst);
    } else {
      window.where.exchange(where, std::memory_order_seq_cst);
    }
  }
  open_window(const open_window&) = delete;
  open_window& operator=(const open_window&) = delete;
  ~open_window() { window_.where.store(nullptr, std::memory_order_release); }

 private:
  copy_window& window_;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_COPY_WINDOW_HPP
