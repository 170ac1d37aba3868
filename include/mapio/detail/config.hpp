#ifndef MAPIO_DETAIL_CONFIG_HPP
#define MAPIO_DETAIL_CONFIG_HPP

#include <cstddef>  // before Asio, whose configuration looks at what the standard library defines

#include <asio/version.hpp>

#if defined(MAPIO_SHARED) && defined(__GNUC__) && !defined(_WIN32)
#define MAPIO_DECL __attribute__((visibility("default")))
#elif defined(MAPIO_SHARED) && defined(_WIN32)
#if defined(MAPIO_BUILDING)
#define MAPIO_DECL __declspec(dllexport)
#else
#define MAPIO_DECL __declspec(dllimport)
#endif
#else
#define MAPIO_DECL
#endif

#define MAPIO_CONCAT_IMPL(a, b) a##b
#define MAPIO_CONCAT(a, b) MAPIO_CONCAT_IMPL(a, b)

// Asio is header-only and mapio is compiled: a program built with another Asio than the library
// would share services whose layouts differ. The version is therefore part of every symbol, and a
// mismatch is a link error.
#define MAPIO_NAMESPACE_BEGIN                                                                      \
  namespace mapio {                                                                                \
  inline namespace MAPIO_CONCAT(asio_, ASIO_VERSION) {
#define MAPIO_NAMESPACE_END                                                                        \
  }                                                                                                \
  }

#endif  // MAPIO_DETAIL_CONFIG_HPP
