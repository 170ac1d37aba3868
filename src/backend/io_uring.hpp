#ifndef MAPIO_SRC_BACKEND_IO_URING_HPP
#define MAPIO_SRC_BACKEND_IO_URING_HPP

#include "core/engine.hpp"

#include <memory>
#include <string>
#include <system_error>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// Creates what of Asio the ring engine rests on, so that it is older than the engine's service,
/// and shut down later.
void create_services_for_io_uring(asio::execution_context& context) noexcept;

/// Makes the ring engine of a context. Null: not to be had, for `reason`; `error` is
/// errc::unsupported where that is the kernel's or the administrator's doing, so that another
/// engine is in order, else the code of what ran out.
std::unique_ptr<backend> make_io_uring(asio::execution_context& context, std::string& reason,
                                       std::error_code& error, unsigned entries = 0);

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_BACKEND_IO_URING_HPP
