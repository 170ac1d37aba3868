# Standalone Asio: target mapio::asio, MAPIO_ASIO_INCLUDE_DIR to point at other headers.
#
# Not called FindAsio: the name would collide with modules that consumers bring along.
find_path(MAPIO_ASIO_INCLUDE_DIR asio.hpp DOC "Folder that holds asio.hpp (standalone Asio)")
mark_as_advanced(MAPIO_ASIO_INCLUDE_DIR)

if(MAPIO_ASIO_INCLUDE_DIR AND EXISTS "${MAPIO_ASIO_INCLUDE_DIR}/asio/version.hpp")
  file(STRINGS "${MAPIO_ASIO_INCLUDE_DIR}/asio/version.hpp" _mapio_asio_line
    REGEX "#define ASIO_VERSION [0-9]+")
  string(REGEX REPLACE ".*ASIO_VERSION ([0-9]+).*" "\\1" _mapio_asio_number "${_mapio_asio_line}")
  math(EXPR _mapio_asio_major "${_mapio_asio_number} / 100000")
  math(EXPR _mapio_asio_minor "${_mapio_asio_number} / 100 % 1000")
  math(EXPR _mapio_asio_patch "${_mapio_asio_number} % 100")
  set(MapioAsio_VERSION "${_mapio_asio_major}.${_mapio_asio_minor}.${_mapio_asio_patch}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(MapioAsio
  REQUIRED_VARS MAPIO_ASIO_INCLUDE_DIR
  VERSION_VAR MapioAsio_VERSION
  NAME_MISMATCHED)

set(MapioAsio_DEFINITIONS ASIO_STANDALONE)
# Before 1.26 Asio saw the coroutines of Clang only in their experimental form, which is gone. mapio
# requires C++20 anyway, so it is true of every compiler, and those who mix two see the same Asio.
if(MapioAsio_VERSION VERSION_LESS 1.26)
  list(APPEND MapioAsio_DEFINITIONS ASIO_HAS_CO_AWAIT)
endif()

# Asio asks the standard library's configuration for aligned_alloc, and gets another answer where its
# header is the first of a source: memory of the one kind would then be freed as the other.
if(LINUX)
  list(APPEND MapioAsio_DEFINITIONS ASIO_HAS_STD_ALIGNED_ALLOC=1)
endif()

if(MapioAsio_FOUND AND NOT TARGET mapio::asio)
  # GLOBAL, because with add_subdirectory the parent links mapio from outside this directory.
  add_library(mapio::asio INTERFACE IMPORTED GLOBAL)
  set_target_properties(mapio::asio PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${MAPIO_ASIO_INCLUDE_DIR}"
    INTERFACE_COMPILE_DEFINITIONS "${MapioAsio_DEFINITIONS}")
endif()
