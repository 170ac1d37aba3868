# Standalone Asio: target mapio::asio, MAPIO_ASIO_INCLUDE_DIR to point at other headers.
#
# Not called FindAsio: the name would collide with modules that consumers bring along.
#
# When building for another system, Asio may be there only among the headers of the system that
# builds, which must not be seen beside it: a folder that leads to Asio alone is made then.
if(CMAKE_CROSSCOMPILING AND NOT MAPIO_ASIO_INCLUDE_DIR)
  find_path(MAPIO_HOST_ASIO_INCLUDE_DIR asio.hpp
    PATHS /usr/include /usr/local/include
    NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
  mark_as_advanced(MAPIO_HOST_ASIO_INCLUDE_DIR)
  if(MAPIO_HOST_ASIO_INCLUDE_DIR)
    set(_mapio_asio_alone "${CMAKE_BINARY_DIR}/asio_headers")
    file(MAKE_DIRECTORY "${_mapio_asio_alone}")
    foreach(_mapio_asio_part IN ITEMS asio asio.hpp)
      file(CREATE_LINK "${MAPIO_HOST_ASIO_INCLUDE_DIR}/${_mapio_asio_part}"
        "${_mapio_asio_alone}/${_mapio_asio_part}" SYMBOLIC)
    endforeach()
    set(MAPIO_ASIO_INCLUDE_DIR "${_mapio_asio_alone}" CACHE PATH "Folder that holds asio.hpp (standalone Asio)")
  endif()
endif()
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

# MinGW's headers say that there are POSIX threads only once some of the standard library's are read:
# where Asio's came first, one source would start a thread of the one kind that another source joins
# as if it were of the other, or does not join at all.
if(MINGW)
  list(APPEND MapioAsio_DEFINITIONS ASIO_HAS_THREADS=1 ASIO_HAS_PTHREADS=1)
endif()

# Asio's sockets, and what Windows its headers may rely on.
set(MapioAsio_LIBRARIES "")
if(WIN32)
  list(APPEND MapioAsio_DEFINITIONS _WIN32_WINNT=0x0A00 NOMINMAX WIN32_LEAN_AND_MEAN)
  set(MapioAsio_LIBRARIES ws2_32 mswsock)
endif()

if(MapioAsio_FOUND AND NOT TARGET mapio::asio)
  # GLOBAL, because with add_subdirectory the parent links mapio from outside this directory.
  add_library(mapio::asio INTERFACE IMPORTED GLOBAL)
  set_target_properties(mapio::asio PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${MAPIO_ASIO_INCLUDE_DIR}"
    INTERFACE_COMPILE_DEFINITIONS "${MapioAsio_DEFINITIONS}"
    INTERFACE_LINK_LIBRARIES "${MapioAsio_LIBRARIES}")
endif()
