#ifndef MAPIO_SRC_CORE_LOOP_TURN_HPP
#define MAPIO_SRC_CORE_LOOP_TURN_HPP

#include <mapio/detail/operation.hpp>

#include <asio/execution_context.hpp>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// One call by which a loop tells of completions. The first that is delivered during it is
/// dispatched at its end, as Asio does with its own; a posted one would wait until the loop has
/// asked all of its descriptors once more, which is a system call. The others are posted, and so
/// come after it.
class loop_turn {
 public:
  /// The calling thread runs `context`.
  explicit loop_turn(asio::execution_context& context) noexcept;
  loop_turn(const loop_turn&) = delete;
  loop_turn& operator=(const loop_turn&) = delete;
  ~loop_turn() { close(); }

  /// Tells whether an operation of `context` is dispatched at the end of this thread's turn, if it
  /// is in one; it must not be touched any more then.
  static bool takes(operation& op, const asio::execution_context& context) noexcept;
  /// Ends the turn; nothing of whoever began it is touched after the handler has run. Throws what
  /// that throws.
  void end();

 private:
  void close() noexcept;

  asio::execution_context& context_;
  loop_turn* const around_;  // a handler may run the loop, from within
  operation* first_ = nullptr;
  bool is_open_ = true;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_LOOP_TURN_HPP
