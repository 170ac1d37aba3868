#ifndef MAPIO_SRC_CORE_INLINE_EXECUTOR_HPP
#define MAPIO_SRC_CORE_INLINE_EXECUTOR_HPP

#include <mapio/detail/config.hpp>

#include <asio/detail/operation.hpp>
#include <asio/error.hpp>
#include <asio/execution.hpp>
#include <asio/execution_context.hpp>
#include <asio/io_context.hpp>

#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// Runs the reactor's completion where it is, on the thread of the context that found the ring
/// readable. It only ever carries our own work, which calls one handler at most, and that at its
/// very end (loop_turn). Where Asio insists on a completion that does not run inside the initiating
/// call (an error at once), it goes through the context's queue.
class inline_executor {
 public:
  explicit inline_executor(asio::execution_context& context) noexcept : context_(&context) {}

  asio::execution_context& context() const noexcept { return *context_; }
  asio::execution_context& query(asio::execution::context_t) const noexcept { return *context_; }
  asio::execution::blocking_t query(asio::execution::blocking_t) const noexcept {
    return never_blocks_ ? asio::execution::blocking_t(asio::execution::blocking.never)
                         : asio::execution::blocking_t(asio::execution::blocking.possibly);
  }
  inline_executor require(asio::execution::blocking_t::never_t) const noexcept {
    inline_executor other(*this);
    other.never_blocks_ = true;
    return other;
  }
  template <class Function>
  void execute(Function&& function) const {
    if (!never_blocks_) return std::forward<Function>(function)();
    using queued = queued_function<std::decay_t<Function>>;
    asio::use_service<asio::detail::io_context_impl>(*context_).post_immediate_completion(
        new queued(std::forward<Function>(function)), false);
  }

  bool operator==(const inline_executor& other) const noexcept {
    return context_ == other.context_ && never_blocks_ == other.never_blocks_;
  }
  bool operator!=(const inline_executor& other) const noexcept { return !(*this == other); }

 private:
  using queue_entry = asio::detail::operation;

  template <class Function>
  struct queued_function final : queue_entry {
    explicit queued_function(Function f) : queue_entry(&run), function(std::move(f)) {}
    static void run(void* owner, queue_entry* base, const asio::error_code&, std::size_t) {
      const std::unique_ptr<queued_function> self(static_cast<queued_function*>(base));
      if (owner != nullptr) std::move(self->function)();
    }
    Function function;
  };

  asio::execution_context* context_;
  bool never_blocks_ = false;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_INLINE_EXECUTOR_HPP
