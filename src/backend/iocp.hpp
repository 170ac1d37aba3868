#ifndef MAPIO_SRC_BACKEND_IOCP_HPP
#define MAPIO_SRC_BACKEND_IOCP_HPP

#include "core/engine.hpp"

#include <memory>
#include <string>
#include <system_error>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// Makes workers behind a completion port. Null: not to be had, for `reason`; `error` is
/// errc::unsupported where there are no such ports, else the code of what ran out.
std::unique_ptr<backend> make_iocp(std::string& reason, std::error_code& error);

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_BACKEND_IOCP_HPP
