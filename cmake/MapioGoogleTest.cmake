# Makes GTest::gtest_main known. Where there is none built for the target, as when building for
# another system, it is built from Debian's sources, or those in MAPIO_GOOGLETEST_SOURCE_DIR.
find_package(GTest QUIET)
if(GTest_FOUND)
  return()
endif()

find_path(MAPIO_GOOGLETEST_SOURCE_DIR googletest/CMakeLists.txt
  PATHS /usr/src/googletest
  NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH
  DOC "Sources of googletest")
mark_as_advanced(MAPIO_GOOGLETEST_SOURCE_DIR)
if(NOT MAPIO_GOOGLETEST_SOURCE_DIR)
  message(FATAL_ERROR "googletest was not found, neither built nor its sources (Debian: libgtest-dev, googletest)")
endif()

set(BUILD_GMOCK OFF)
set(INSTALL_GTEST OFF)
add_subdirectory("${MAPIO_GOOGLETEST_SOURCE_DIR}" "${PROJECT_BINARY_DIR}/googletest" EXCLUDE_FROM_ALL SYSTEM)
foreach(name IN ITEMS gtest gtest_main)
  if(NOT TARGET GTest::${name})
    add_library(GTest::${name} ALIAS ${name})
  endif()
endforeach()
