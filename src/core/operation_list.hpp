#ifndef MAPIO_SRC_CORE_OPERATION_LIST_HPP
#define MAPIO_SRC_CORE_OPERATION_LIST_HPP

#include <mapio/detail/operation.hpp>

#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// A first-in-first-out list of operations through operation::next.
class operation_list {
 public:
  operation_list() = default;
  operation_list(operation_list&& other) noexcept
      : first_(std::exchange(other.first_, nullptr)), last_(std::exchange(other.last_, nullptr)) {}
  operation_list& operator=(operation_list&& other) noexcept {
    first_ = std::exchange(other.first_, nullptr);
    last_ = std::exchange(other.last_, nullptr);
    return *this;
  }

  bool empty() const noexcept { return first_ == nullptr; }
  operation* front() const noexcept { return first_; }

  void push(operation& op) noexcept {
    op.next = nullptr;
    (first_ == nullptr ? first_ : last_->next) = &op;
    last_ = &op;
  }
  void push_front(operation& op) noexcept {
    op.next = first_;
    if (first_ == nullptr) last_ = &op;
    first_ = &op;
  }
  operation* pop() noexcept {
    operation* op = first_;
    if (op == nullptr) return nullptr;
    first_ = op->next;
    if (first_ == nullptr) last_ = nullptr;
    op->next = nullptr;
    return op;
  }
  void append(operation_list other) noexcept {
    if (other.empty()) return;
    (first_ == nullptr ? first_ : last_->next) = other.first_;
    last_ = other.last_;
  }
  bool remove(const operation& op) noexcept {
    operation* before = nullptr;
    for (operation* it = first_; it != nullptr; before = it, it = it->next) {
      if (it != &op) continue;
      (before == nullptr ? first_ : before->next) = it->next;
      if (last_ == it) last_ = before;
      it->next = nullptr;
      return true;
    }
    return false;
  }

 private:
  operation* first_ = nullptr;
  operation* last_ = nullptr;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_OPERATION_LIST_HPP
