#ifndef MAPIO_SRC_CORE_FILE_OPERATIONS_HPP
#define MAPIO_SRC_CORE_FILE_OPERATIONS_HPP

#include <mapio/detail/operation.hpp>

MAPIO_NAMESPACE_BEGIN
namespace detail {

// As start(), for an operation that has its engine.
bool start_copy(copy_operation& op) noexcept;
bool start_remove(remove_operation& op) noexcept;

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_FILE_OPERATIONS_HPP
