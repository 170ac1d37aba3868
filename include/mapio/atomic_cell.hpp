#ifndef MAPIO_ATOMIC_CELL_HPP
#define MAPIO_ATOMIC_CELL_HPP

#include <mapio/atomic.hpp>
#include <mapio/detail/config.hpp>
#include <mapio/detail/default_token.hpp>
#include <mapio/detail/initiate.hpp>
#include <mapio/detail/operation.hpp>

#include <asio/async_result.hpp>

#include <bit>
#include <cstdint>
#include <memory>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {

struct wait_arguments {
  using operation_type = operation;
  std::uint64_t offset;
  std::byte* word;
  std::uint32_t old;

  template <class Allocator>
  using memory = no_memory;

  void prepare(operation& op, no_memory&) const {
    op.kind = verb::wait_word;
    op.offset = offset;
    op.length = sizeof old;
    op.address = word;
    op.at = old;
  }
};

}  // namespace detail

template <class Executor>
class basic_mapped_file;

/// Refers to one integer in a mapped file, and lets coroutines wait for its changes, by whatever
/// process they are made.
///
/// Made by basic_mapped_file::atomic(). All that an atomic_view can do, but that wait() is awaited
/// here; the blocking one is that of the view it converts to. Copies are as good as the original;
/// moving one copies it.
///
/// @tparam T         As of atomic_reference.
/// @tparam Executor  As of the file.
/// @par Thread safety
///   Different objects, copies included: any thread. One object: every member but assignment and
///   destruction may be called from any thread at once.
/// @par Example
///   auto turn = file.atomic<std::uint32_t>(0);
///   for (std::uint32_t seen = turn.load(); ; seen = turn.load()) co_await turn.wait(seen);
template <class T, class Executor>
class atomic_cell : public atomic_view<T> {
  using token_type = detail::default_token<Executor>;

 public:
  /// Names the executor that wait() uses when a handler has none of its own.
  using executor_type = Executor;

  /// Pins the same integer once more.
  atomic_cell(const atomic_cell&) = default;
  /// Drops what this cell pinned, and pins the same integer as `other` does.
  atomic_cell& operator=(const atomic_cell&) = default;
  /// Drops the pin; waits go on.
  ~atomic_cell() = default;

  /// Returns the executor that wait() uses when a handler has none of its own.
  executor_type get_executor() const noexcept { return executor_; }

  /// Waits until the value is not `old` any more and somebody, in whatever process, has said so, or
  /// until that is found out otherwise.
  ///
  /// A value that differs already completes it at once. The value is looked at again after every
  /// wake-up, so that none is for nothing, and no notification that follows a change is missed; a
  /// change to and fro may be. What was written before the change is visible at completion. While
  /// it waits it pins the integer as a view does: a shrink that would cut it waits, or is
  /// errc::pinned (mapping::resize). The cell need not live as long.
  ///
  /// @param old  The value that is not worth completing for.
  /// @par Completion signature
  ///   void(std::error_code)
  /// @par Errors
  ///   errc::unsupported on a copy-on-write mapping; errc::not_open: the file is closed, or the
  ///   handle has another one open now; errc::out_of_range while a shrink is about to cut it;
  ///   errc::page_fault: the file was truncated by somebody else. Else the OS code.
  /// @par Cancellation
  ///   terminal, partial, total, at any time. basic_mapped_file::cancel() and close() end it too.
  /// @par Example
  ///   co_await flag.wait(0);
  template <class Token = token_type>
  auto wait(T old, Token&& token = Token()) const requires(sizeof(T) == 4) {
    return asio::async_initiate<Token, detail::error_result::signature>(
        detail::initiate_verb<Executor, detail::error_result>(executor_, home_, handle_), token,
        detail::wait_arguments{this->offset(), detail::atomic_access::address<T>(*this),
                               std::bit_cast<std::uint32_t>(old)});
  }

 private:
  template <class>
  friend class basic_mapped_file;

  atomic_cell(atomic_view<T>&& view, const executor_type& executor,
              std::shared_ptr<detail::engine> home, std::shared_ptr<detail::handle_state> handle)
      : atomic_view<T>(std::move(view)), executor_(executor), home_(std::move(home)),
        handle_(std::move(handle)) {}

  Executor executor_;
  std::shared_ptr<detail::engine> home_;
  std::shared_ptr<detail::handle_state> handle_;
};

MAPIO_NAMESPACE_END

#endif  // MAPIO_ATOMIC_CELL_HPP
