#ifndef MAPIO_BACKEND_HPP
#define MAPIO_BACKEND_HPP

#include <mapio/detail/config.hpp>

#include <asio/execution_context.hpp>

#include <iosfwd>
#include <string>

MAPIO_NAMESPACE_BEGIN

/// Names an engine: what carries out the awaited verbs of an execution context.
enum class backend_kind {
  automatic,    ///< io_uring or an I/O completion port where there is one, else the thread pool.
  io_uring,     ///< A private ring whose completions arrive in the context's own reactor (Linux).
  iocp,         ///< Workers behind an I/O completion port (Windows).
  thread_pool,  ///< A few threads that make blocking calls (everywhere).
};

/// Says which engine serves a context, and why.
struct backend_info {
  backend_kind kind =
      backend_kind::automatic;  ///< Never `automatic` when it comes from backend_of().
  std::string reason;           ///< For people, e.g. "io_uring_setup: Operation not permitted".
};

/// Returns the engine that serves `context`, starting it if there is none yet.
///
/// @par Errors
///   Throws std::system_error if the engine that was asked for cannot be had, or if a resource ran
///   out while starting it.
/// @par Thread safety
///   Any thread, any time while the context exists.
/// @par Example
///   std::cout << mapio::backend_of(io) << '\n';
MAPIO_DECL backend_info backend_of(asio::execution_context& context);

/// Chooses the engine of `context`; must come before its first use.
///
/// The first awaited verb and backend_of() are uses. The choice made here wins over the environment
/// variable MAPIO_BACKEND (io_uring, thread_pool or iocp), which wins over backend_kind::automatic.
///
/// @par Errors
///   Throws std::system_error: std::errc::device_or_resource_busy after the first use,
///   errc::unsupported if this build or this machine does not have that engine (the message says
///   why). After an error the context is as it was.
/// @par Thread safety
///   Any thread, any time while the context exists.
/// @par Example
///   mapio::use_backend(io, mapio::backend_kind::thread_pool);
MAPIO_DECL void use_backend(asio::execution_context& context, backend_kind kind);

/// Prints the name as it is written in MAPIO_BACKEND.
MAPIO_DECL std::ostream& operator<<(std::ostream& out, backend_kind kind);

/// Prints the name and, in brackets, the reason.
MAPIO_DECL std::ostream& operator<<(std::ostream& out, const backend_info& info);

MAPIO_NAMESPACE_END

#endif  // MAPIO_BACKEND_HPP
