#ifndef MAPIO_SRC_BACKEND_RING_ARRIVALS_HPP
#define MAPIO_SRC_BACKEND_RING_ARRIVALS_HPP

#include "core/inline_executor.hpp"
#include "platform/platform.hpp"

#include <asio/detail/reactor.hpp>
#include <asio/detail/reactor_op.hpp>
#include <asio/error.hpp>
#include <asio/execution_context.hpp>
#include <asio/posix/basic_stream_descriptor.hpp>

#include <liburing.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <functional>
#include <optional>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

MAPIO_NAMESPACE_BEGIN
namespace detail {

#if !defined(ASIO_HAS_IO_URING_AS_DEFAULT)

/// Lets the loop call when a ring has completions, once for each wait().
///
/// An asynchronous wait for the descriptor would do that, but Asio tells the kernel of each that
/// begins: a system call. It does not where an operation can be tried first, and whether there are
/// completions is told by the ring's memory. A wait is work of the loop, as any other.
class ring_arrivals {
 public:
  /// Calls on the loop; what that throws comes out of there.
  ring_arrivals(asio::execution_context& context, const io_uring& ring, std::function<void()> call)
      : context_(context), ring_(ring), wait_(*this), call_(std::move(call)) {}
  ring_arrivals(const ring_arrivals&) = delete;
  ring_arrivals& operator=(const ring_arrivals&) = delete;

  std::error_code begin() {
    // The ring's own is closed by liburing, where ThreadSanitizer does not see it.
    file_ = ::fcntl(ring_.ring_fd, F_DUPFD_CLOEXEC, 0);
    if (file_ < 0) return {errno, std::system_category()};
    int error = 0;
    try {
      reactor_ = &asio::use_service<asio::detail::reactor>(context_);
      reactor_->init_task();
      error = reactor_->register_descriptor(file_, state_);
    } catch (const std::system_error& e) {
      error = e.code().value();  // in a category of Asio's
    }
    is_begun_ = error == 0;
    if (!is_begun_) ::close(file_);
    return {error, std::system_category()};
  }
  /// One at a time. Calls soon if there are completions now.
  void wait() {
    reactor_->start_op(asio::detail::reactor::read_op, file_, state_, &wait_, false, true);
  }
  /// Calls soon.
  void cancel() { reactor_->cancel_ops(file_, state_); }
  /// Calls no more, unless a call is due already; this must live until the loop has dropped that.
  void end() noexcept {
    if (!std::exchange(is_begun_, false)) return;
    reactor_->deregister_descriptor(file_, state_, false);
    reactor_->cleanup_descriptor_data(state_);
    ::close(file_);
  }

 private:
  struct wait_operation final : asio::detail::reactor_op {
    explicit wait_operation(ring_arrivals& a) : reactor_op({}, &perform, &run), self(a) {}
    static status perform(reactor_op* base) {
      return static_cast<wait_operation*>(base)->self.is_over() ? done : not_done;
    }
    static void run(void* owner, asio::detail::operation* base, const asio::error_code&,
                    std::size_t) {
      if (owner != nullptr) static_cast<wait_operation*>(base)->self.call_();
    }
    ring_arrivals& self;
  };

  // Somebody else may be taking them meanwhile. A forked child has no such memory.
  bool is_over() const noexcept {
    if (generation_ != platform::fork_generation()) return true;
    return std::atomic_ref<unsigned>(*ring_.cq.ktail).load(std::memory_order_acquire) !=
           std::atomic_ref<unsigned>(*ring_.cq.khead).load(std::memory_order_relaxed);
  }

  asio::execution_context& context_;
  const io_uring& ring_;
  const unsigned generation_ = platform::fork_generation();
  int file_ = -1;
  asio::detail::reactor* reactor_ = nullptr;
  asio::detail::reactor::per_descriptor_data state_{};
  bool is_begun_ = false;
  wait_operation wait_;
  const std::function<void()> call_;
};

#else

/// Lets the loop call when a ring has completions, once for each wait(): the loop is a ring itself,
/// and all that can be asked of it is to wait for a descriptor.
class ring_arrivals {
 public:
  ring_arrivals(asio::execution_context& context, const io_uring& ring, std::function<void()> call)
      : readable_(std::in_place, inline_executor(context)), ring_(ring), call_(std::move(call)) {}

  std::error_code begin() {
    // It closes what it is given; the ring keeps its own.
    const int copy = ::fcntl(ring_.ring_fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return {errno, std::system_category()};
    asio::error_code error;
    static_cast<void>(readable_->assign(copy, error));
    if (error) ::close(copy);
    return error;
  }
  void wait() {
    readable_->async_wait(asio::posix::descriptor_base::wait_read,
                          [this](const asio::error_code&) { call_(); });
  }
  void cancel() {
    asio::error_code ignored;
    static_cast<void>(readable_->cancel(ignored));
  }
  void end() noexcept { readable_.reset(); }

 private:
  std::optional<asio::posix::basic_stream_descriptor<inline_executor>> readable_;
  const io_uring& ring_;
  const std::function<void()> call_;
};

#endif

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_BACKEND_RING_ARRIVALS_HPP
