#include "loop_turn.hpp"

#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace {

thread_local loop_turn* current = nullptr;

}  // namespace

loop_turn::loop_turn(asio::execution_context& context) noexcept
    : context_(context), around_(std::exchange(current, this)) {}

void loop_turn::close() noexcept {
  if (!std::exchange(is_open_, false)) return;
  current = around_;
}

bool loop_turn::takes(operation& op, const asio::execution_context& context) noexcept {
  if (current == nullptr || &current->context_ != &context || current->first_ != nullptr)
    return false;
  current->first_ = &op;
  return true;
}

void loop_turn::end() {
  // What the handler starts, and the loop that it may run, are no part of this.
  close();
  if (first_ != nullptr) {
    operation* const op = std::exchange(first_, nullptr);
    op->complete(op, operation::delivery::dispatch);
  }
}

}  // namespace detail
MAPIO_NAMESPACE_END
