#ifndef MAPIO_ERROR_HPP
#define MAPIO_ERROR_HPP

#include <mapio/detail/config.hpp>

#include <system_error>
#include <type_traits>

MAPIO_NAMESPACE_BEGIN

/// Names the failures that the operating system has no word for.
///
/// Everything the OS reports keeps its own code in std::system_category(), and a cancelled
/// operation completes with asio::error::operation_aborted. Each value maps to a std::errc
/// condition, so `ec == std::errc::bad_file_descriptor` works too.
///
/// @par Example
///   if (ec == mapio::errc::out_of_range) { ... }
enum class errc {
  not_open = 1,  ///< The handle is closed, moved-from or was never opened
                 ///< (std::errc::bad_file_descriptor).
  out_of_range,  ///< offset + length overflows or reaches beyond the file
                 ///< (std::errc::invalid_argument).
  read_only,     ///< The mapping does not allow stores (std::errc::permission_denied).
  misaligned,    ///< The offset is not a multiple of what the call needs
                 ///< (std::errc::invalid_argument).
  pinned,        ///< A live region keeps the pages in place (std::errc::device_or_resource_busy).
  page_fault,    ///< The file under the mapping is gone, short or unreadable (std::errc::io_error).
  flush_failed,  ///< An earlier sync failed and the file is poisoned (std::errc::io_error).
  unsupported,   ///< This platform, medium or access mode cannot do it
                 ///< (std::errc::operation_not_supported).
};

/// Returns the category of mapio::errc, named "mapio".
///
/// @par Thread safety
///   Any thread, any time.
/// @par Example
///   bool ours = ec.category() == mapio::error_category();
MAPIO_DECL const std::error_category& error_category() noexcept;

/// Makes an error_code of an errc; found by argument-dependent lookup.
///
/// @par Example
///   std::error_code ec = mapio::errc::pinned;
inline std::error_code make_error_code(errc e) noexcept {
  return {static_cast<int>(e), error_category()};
}

MAPIO_NAMESPACE_END

/// @cond  Doxygen does not find std.
template <>
struct std::is_error_code_enum<mapio::errc> : std::true_type {};
/// @endcond

#endif  // MAPIO_ERROR_HPP
