# liburing: target mapio::uring. pkg-config gives hints only, so that a prefix without it works too.
find_package(PkgConfig QUIET)
if(PkgConfig_FOUND)
  pkg_check_modules(_mapio_uring QUIET liburing)
endif()

find_path(MAPIO_URING_INCLUDE_DIR liburing.h HINTS ${_mapio_uring_INCLUDE_DIRS})
find_library(MAPIO_URING_LIBRARY uring HINTS ${_mapio_uring_LIBRARY_DIRS})
mark_as_advanced(MAPIO_URING_INCLUDE_DIR MAPIO_URING_LIBRARY)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(MapioUring
  REQUIRED_VARS MAPIO_URING_LIBRARY MAPIO_URING_INCLUDE_DIR
  VERSION_VAR _mapio_uring_VERSION
  NAME_MISMATCHED)

if(MapioUring_FOUND AND NOT TARGET mapio::uring)
  add_library(mapio::uring UNKNOWN IMPORTED GLOBAL)
  set_target_properties(mapio::uring PROPERTIES
    IMPORTED_LOCATION "${MAPIO_URING_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${MAPIO_URING_INCLUDE_DIR}")
endif()
