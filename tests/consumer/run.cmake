# One WAY of using mapio: see CMakeLists.txt beside it for the variables.
cmake_minimum_required(VERSION 3.25)

set(project "${CMAKE_CURRENT_LIST_DIR}/project")
set(prefix "${WORK}/prefix")
set(build "${WORK}/${WAY}")

set(toolchain
  -G "${GENERATOR}"
  "-DCMAKE_MAKE_PROGRAM=${MAKE_PROGRAM}"
  "-DCMAKE_CXX_COMPILER=${CXX}"
  "-DCMAKE_CXX_FLAGS=${CXX_FLAGS}"
  "-DCMAKE_BUILD_TYPE=${BUILD_TYPE}"
  # As some consumers do it; and it builds the library in a third of the time.
  -DCMAKE_UNITY_BUILD=ON
  "-DMAPIO_ASIO_INCLUDE_DIR=${ASIO}"
  "-DMAPIO_WITH_IO_URING=${WITH_IO_URING}")

function(run)
  list(JOIN ARGN " " line)
  message(STATUS "${line}")
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

function(output_of variable)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY
    OUTPUT_VARIABLE output OUTPUT_STRIP_TRAILING_WHITESPACE)
  separate_arguments(output UNIX_COMMAND "${output}")
  set(${variable} "${output}" PARENT_SCOPE)
endfunction()

function(build_and_run way)
  run("${CMAKE_COMMAND}" -S "${project}" -B "${build}" ${toolchain} -DWAY=${way} ${ARGN})
  run("${CMAKE_COMMAND}" --build "${build}" --parallel 2)
  run("${build}/consumer" "${build}/consumer.map")
endfunction()

# Where the package went below a prefix depends on the distribution (lib, lib64, lib/<triplet>).
macro(use_prefix in)
  file(GLOB_RECURSE pc "${in}/*/mapio.pc")
  cmake_path(GET pc PARENT_PATH pkgconfig_dir)
  cmake_path(GET pkgconfig_dir PARENT_PATH library_dir)
  set(ENV{PKG_CONFIG_PATH} "${pkgconfig_dir}")
  # pkg-config gives no rpath; a shared mapio in a private prefix is found this way.
  set(ENV{LD_LIBRARY_PATH} "${library_dir}")
endmacro()

function(build_with_pkg_config name)
  output_of(flags pkg-config --cflags --libs ${ARGN} mapio)
  separate_arguments(more UNIX_COMMAND "${CXX_FLAGS}")
  file(MAKE_DIRECTORY "${build}")
  run("${CXX}" -std=c++20 ${more} "${project}/consumer.cpp" -o "${build}/${name}" ${flags})
  run("${build}/${name}" "${build}/${name}.map")
endfunction()

# A stale cache or an old file in the prefix would prove something about last week.
file(REMOVE_RECURSE "${build}")

if(WAY STREQUAL "install")
  file(REMOVE_RECURSE "${prefix}")
  run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${prefix}")
elseif(WAY STREQUAL "find_package")
  build_and_run(find_package "-DCMAKE_PREFIX_PATH=${prefix}")
elseif(WAY STREQUAL "pkg_config")
  use_prefix("${prefix}")
  build_with_pkg_config(plain)
  build_with_pkg_config(static --static)
elseif(WAY STREQUAL "shared")
  run("${CMAKE_COMMAND}" -S "${SOURCE}" -B "${build}/mapio" ${toolchain}
    -DBUILD_SHARED_LIBS=ON -DMAPIO_BUILD_TESTS=OFF -DMAPIO_BUILD_BENCH=OFF
    -DMAPIO_BUILD_EXAMPLES=OFF -DMAPIO_BUILD_DOCS=OFF)
  run("${CMAKE_COMMAND}" --build "${build}/mapio" --parallel 2)
  run("${CMAKE_COMMAND}" --install "${build}/mapio" --prefix "${build}/prefix")
  build_and_run(find_package "-DCMAKE_PREFIX_PATH=${build}/prefix")
  use_prefix("${build}/prefix")
  build_with_pkg_config(plain)
elseif(WAY STREQUAL "add_subdirectory")
  build_and_run(add_subdirectory "-DMAPIO_SOURCE=${SOURCE}")
elseif(WAY STREQUAL "fetch_content")
  build_and_run(fetch_content "-DFETCHCONTENT_SOURCE_DIR_MAPIO=${SOURCE}")
else()
  message(FATAL_ERROR "unknown WAY '${WAY}'")
endif()
