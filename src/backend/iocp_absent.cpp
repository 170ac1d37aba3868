#include "iocp.hpp"

#include <mapio/error.hpp>

MAPIO_NAMESPACE_BEGIN
namespace detail {

std::unique_ptr<backend> make_iocp(std::string& reason, std::error_code& error) {
  reason = "no completion ports on this platform";
  error = errc::unsupported;
  return nullptr;
}

}  // namespace detail
MAPIO_NAMESPACE_END
