#include <mapio/backend.hpp>

#include "core/engine.hpp"
#include "io_uring.hpp"
#include "iocp.hpp"
#include "thread_pool.hpp"

#include <mapio/error.hpp>

#include <asio/execution_context.hpp>
#include <asio/io_context.hpp>
#include <asio/strand.hpp>

#include <cstdlib>
#include <string>
#include <string_view>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace {

/// Ties the engine's life to its context.
class engine_service final : public asio::execution_context::service {
 public:
  static asio::execution_context::id id;

  explicit engine_service(asio::execution_context& context)
      : service(context), engine_(std::make_shared<engine>(context)) {
    // Services are shut down newest first: what our threads post to must be older than we are,
    // which is the scheduler and any strand, and the reactor that other threads may still reach
    // through us.
    asio::use_service<asio::detail::io_context_impl>(context);
    asio::use_service<asio::detail::strand_executor_service>(context);
    create_services_for_io_uring(context);
  }

  const std::shared_ptr<engine>& get() const noexcept { return engine_; }

 private:
  void shutdown() noexcept override { engine_->shut_down(); }

  std::shared_ptr<engine> engine_;
};

asio::execution_context::id engine_service::id;

backend_kind parse(std::string_view name) {
  if (name == "io_uring") return backend_kind::io_uring;
  if (name == "thread_pool") return backend_kind::thread_pool;
  if (name == "iocp") return backend_kind::iocp;
  if (name == "automatic" || name.empty()) return backend_kind::automatic;
  throw std::system_error(make_error_code(std::errc::invalid_argument),
                          "mapio: MAPIO_BACKEND=" + std::string(name) +
                              " is not io_uring, thread_pool or iocp");
}

}  // namespace

std::shared_ptr<engine> engine_of(asio::execution_context& context) {
  return asio::use_service<engine_service>(context).get();
}

std::unique_ptr<backend> engine::make_backend(backend_kind kind) {
  std::string why = "asked for";
  if (kind == backend_kind::automatic) {
    if (const char* name = std::getenv("MAPIO_BACKEND")) {
      kind = parse(name);
      why = "MAPIO_BACKEND";
    }
  }
  std::string reason;
  if (kind == backend_kind::automatic || kind == backend_kind::io_uring) {
    std::error_code error;
    if (auto ring = make_io_uring(context_, reason, error)) {
      info_ = {backend_kind::io_uring, kind == backend_kind::automatic ? "available" : why};
      return ring;
    }
    // What ran out may be there again in a moment; another engine would be there for good.
    if (kind == backend_kind::io_uring || error != errc::unsupported)
      throw std::system_error(error, "mapio: no io_uring: " + reason);
    why = reason;
  }
  if (kind == backend_kind::automatic || kind == backend_kind::iocp) {
    std::error_code error;
    std::string port_reason;
    if (auto port = make_iocp(port_reason, error)) {
      info_ = {backend_kind::iocp, kind == backend_kind::automatic ? "available" : why};
      return port;
    }
    if (kind == backend_kind::iocp || error != errc::unsupported)
      throw std::system_error(error, "mapio: no iocp: " + port_reason);
  }
  info_ = {backend_kind::thread_pool, why};
  return std::make_unique<thread_pool>();
}

}  // namespace detail

backend_info backend_of(asio::execution_context& context) {
  return detail::engine_of(context)->info();
}

void use_backend(asio::execution_context& context, backend_kind kind) {
  detail::engine_of(context)->use(kind);
}

MAPIO_NAMESPACE_END
