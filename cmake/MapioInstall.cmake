include(CMakePackageConfigHelpers)

set(mapio_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/mapio")

install(TARGETS mapio EXPORT mapioTargets)
install(DIRECTORY include/mapio TYPE INCLUDE FILES_MATCHING PATTERN "*.hpp")
install(EXPORT mapioTargets NAMESPACE mapio:: DESTINATION "${mapio_package_dir}")

configure_package_config_file(cmake/mapioConfig.cmake.in "${PROJECT_BINARY_DIR}/mapioConfig.cmake"
  INSTALL_DESTINATION "${mapio_package_dir}"
  NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/mapioConfigVersion.cmake"
  # Before 1.0 a minor release may break the API.
  COMPATIBILITY SameMinorVersion)
install(
  FILES
    "${PROJECT_BINARY_DIR}/mapioConfig.cmake"
    "${PROJECT_BINARY_DIR}/mapioConfigVersion.cmake"
    cmake/FindMapioAsio.cmake
    cmake/FindMapioUring.cmake
  DESTINATION "${mapio_package_dir}")

# --- pkg-config -----------------------------------------------------------------------------------
# prefix is told relative to the .pc file: `cmake --install --prefix` may differ from what was configured.
cmake_path(IS_ABSOLUTE CMAKE_INSTALL_LIBDIR mapio_libdir_is_absolute)
if(mapio_libdir_is_absolute)
  set(mapio_pc_prefix "${CMAKE_INSTALL_PREFIX}")
  set(mapio_pc_libdir "${CMAKE_INSTALL_LIBDIR}")
else()
  file(RELATIVE_PATH mapio_pc_prefix "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
  string(REGEX REPLACE "/$" "" mapio_pc_prefix "${mapio_pc_prefix}")
  set(mapio_pc_prefix "\${pcfiledir}/${mapio_pc_prefix}")
  set(mapio_pc_libdir "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
endif()
cmake_path(IS_ABSOLUTE CMAKE_INSTALL_INCLUDEDIR mapio_includedir_is_absolute)
if(mapio_includedir_is_absolute)
  set(mapio_pc_includedir "${CMAKE_INSTALL_INCLUDEDIR}")
else()
  set(mapio_pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()

list(TRANSFORM MapioAsio_DEFINITIONS PREPEND "-D" OUTPUT_VARIABLE mapio_pc_cflags)
list(JOIN mapio_pc_cflags " " mapio_pc_cflags)
string(APPEND mapio_pc_cflags " -pthread")
if(NOT MAPIO_ASIO_INCLUDE_DIR IN_LIST CMAKE_CXX_IMPLICIT_INCLUDE_DIRECTORIES)
  string(PREPEND mapio_pc_cflags "-isystem ${MAPIO_ASIO_INCLUDE_DIR} ")
endif()

# A static archive needs liburing at every link, also for those who do not say --static; a shared
# library brings it along by itself.
set(mapio_pc_requires "")
set(mapio_pc_requires_private "")
if(MAPIO_HAS_IO_URING)
  if(mapio_type STREQUAL "SHARED_LIBRARY")
    set(mapio_pc_requires_private liburing)
  else()
    set(mapio_pc_requires liburing)
  endif()
endif()
if(mapio_type STREQUAL "SHARED_LIBRARY")
  string(APPEND mapio_pc_cflags " -DMAPIO_SHARED")
endif()

# Asio's libraries are everybody's who includes it, the others a static archive's.
set(mapio_pc_libs "")
foreach(library IN LISTS MapioAsio_LIBRARIES)
  string(APPEND mapio_pc_libs " -l${library}")
endforeach()
if(NOT mapio_type STREQUAL "SHARED_LIBRARY")
  foreach(library IN LISTS mapio_system_libraries)
    string(APPEND mapio_pc_libs " -l${library}")
  endforeach()
endif()

configure_file(cmake/mapio.pc.in "${PROJECT_BINARY_DIR}/mapio.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/mapio.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
