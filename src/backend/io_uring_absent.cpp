#include "io_uring.hpp"

#include <mapio/error.hpp>

MAPIO_NAMESPACE_BEGIN
namespace detail {

void create_services_for_io_uring(asio::execution_context&) noexcept {}

std::unique_ptr<backend> make_io_uring(asio::execution_context&, std::string& reason,
                                       std::error_code& error, unsigned) {
  reason = "built without io_uring";
  error = errc::unsupported;
  return nullptr;
}

}  // namespace detail
MAPIO_NAMESPACE_END
