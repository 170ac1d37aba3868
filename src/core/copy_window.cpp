#include "copy_window.hpp"

#include <new>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace {

// Windows are never freed: somebody may be reading one. A thread that ends leaves its window to the
// next one that starts.
std::atomic<copy_window*> all_windows{nullptr};

void give_back(platform::thread_end& window) noexcept {
  current_window = nullptr;
  static_cast<copy_window&>(window).taken.store(false, std::memory_order_release);
}

copy_window* claim_window() noexcept {
  for (copy_window* it = all_windows.load(std::memory_order_acquire); it != nullptr;
       it = it->next) {
    bool expected = false;
    if (it->taken.compare_exchange_strong(expected, true, std::memory_order_acquire)) return it;
  }
  auto* fresh = new (std::nothrow) copy_window;
  if (fresh == nullptr) return nullptr;
  fresh->call = give_back;
  static std::atomic<std::size_t> windows{0};
  fresh->number = windows.fetch_add(1, std::memory_order_relaxed);
  fresh->next = all_windows.load(std::memory_order_relaxed);
  while (!all_windows.compare_exchange_weak(fresh->next, fresh, std::memory_order_release,
                                            std::memory_order_relaxed)) {
  }
  return fresh;
}

}  // namespace

// A plain pointer, readable after the window was given back: a destructor that copies then takes
// one for good.
constinit thread_local copy_window* current_window = nullptr;

copy_window* open_first_window() noexcept {
  copy_window* const window = claim_window();
  if (window != nullptr) platform::call_at_thread_end(*window);
  current_window = window;
  return window;
}

bool is_being_copied(const extent& e, std::uint64_t begin, std::uint64_t end) noexcept {
  for (copy_window* it = all_windows.load(std::memory_order_acquire); it != nullptr;
       it = it->next) {
    if (it->where.load(std::memory_order_seq_cst) != &e) continue;
    if (it->begin.load(std::memory_order_acquire) < end &&
        begin < it->end.load(std::memory_order_acquire))
      return true;
  }
  return false;
}

}  // namespace detail
MAPIO_NAMESPACE_END
