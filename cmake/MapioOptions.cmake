option(MAPIO_BUILD_TESTS "Build the tests" ${PROJECT_IS_TOP_LEVEL})
option(MAPIO_BUILD_CRASH_TESTS "Build the tests that cut the power of a disk, with the tests" ON)
option(MAPIO_WHOLE_TEST_PROGRAMS "ctest runs each test program once, instead of once for each test: where a process is slow to start" OFF)
option(MAPIO_MERGE_TESTS "Build the tests in less time: their headers precompiled, and each program of one translation unit" OFF)
option(MAPIO_BUILD_FUZZERS "Build the fuzz target: with Clang by libFuzzer, else a program that replays the corpus" OFF)
option(MAPIO_BUILD_BENCH "Build the benchmarks" ${PROJECT_IS_TOP_LEVEL})
option(MAPIO_BUILD_EXAMPLES "Build the examples" ${PROJECT_IS_TOP_LEVEL})
option(MAPIO_BUILD_DOCS "Add a target docs, if Doxygen is there" ${PROJECT_IS_TOP_LEVEL})
option(MAPIO_INSTALL "Add install rules" ${PROJECT_IS_TOP_LEVEL})
option(MAPIO_WARNINGS_AS_ERRORS "A warning in mapio's own code is an error" OFF)

option(MAPIO_POSIX_ONLY "On Linux: build what a Unix gets of which nothing is known but POSIX" OFF)

set(MAPIO_WITH_IO_URING AUTO CACHE STRING "io_uring engine: AUTO (when liburing is there), ON or OFF")
set_property(CACHE MAPIO_WITH_IO_URING PROPERTY STRINGS AUTO ON OFF)
string(TOUPPER "${MAPIO_WITH_IO_URING}" MAPIO_WITH_IO_URING)
if(NOT MAPIO_WITH_IO_URING MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "MAPIO_WITH_IO_URING must be AUTO, ON or OFF, not '${MAPIO_WITH_IO_URING}'")
endif()

# An unoptimised build by accident makes a library about speed look bad. Never decided for a parent.
if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Build type" FORCE)
endif()

# Settings for targets written here, private to them: a consumer's flags are the consumer's choice.
function(mapio_own_code target)
  target_compile_features(${target} PRIVATE cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
  target_compile_options(${target} PRIVATE
    $<$<CXX_COMPILER_ID:GNU,Clang,AppleClang>:-Wall;-Wextra;-Wpedantic;-Wconversion;-Wshadow>
    $<$<AND:$<BOOL:${MAPIO_WARNINGS_AS_ERRORS}>,$<CXX_COMPILER_ID:GNU,Clang,AppleClang>>:-Werror>)
  if(CMAKE_UNITY_BUILD)
    # GCC takes what is in no header for one that several units include, as soon as sources are merged.
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
  endif()
endfunction()
