#ifndef MAPIO_DETAIL_DEFAULT_TOKEN_HPP
#define MAPIO_DETAIL_DEFAULT_TOKEN_HPP

#include <mapio/detail/config.hpp>

#include <asio/async_result.hpp>
#include <asio/use_awaitable.hpp>
#if ASIO_VERSION >= 102400
#include <asio/deferred.hpp>
#endif

#include <type_traits>

MAPIO_NAMESPACE_BEGIN
namespace detail {

// An executor that names a default token gets it. Else deferred, which costs nothing until it is
// awaited, where an awaitable can await it (Asio 1.24), and use_awaitable before that.
#if ASIO_VERSION >= 102400
template <class Executor>
using fallback_token = asio::deferred_t;
#else
template <class Executor>
using fallback_token = asio::use_awaitable_t<Executor>;
#endif

// `Coroutine` is the executor of the coroutine that is to await it.
template <class Executor, class Coroutine = Executor>
using default_token =
    std::conditional_t<std::is_void_v<typename asio::default_completion_token<Executor>::type>,
                       fallback_token<Coroutine>,
                       typename asio::default_completion_token<Executor>::type>;

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_DETAIL_DEFAULT_TOKEN_HPP
