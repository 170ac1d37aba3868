# Toolchain: 64-bit Windows 10 and later, by Debian's MinGW-w64, with the tests run by Debian's Wine.
set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_VERSION 10.0)
set(CMAKE_SYSTEM_PROCESSOR x86_64)

# The one with the threads of POSIX: the other has no std::thread.
set(CMAKE_CXX_COMPILER x86_64-w64-mingw32-g++-posix)
set(CMAKE_C_COMPILER x86_64-w64-mingw32-gcc-posix)  # of googletest
set(CMAKE_RC_COMPILER x86_64-w64-mingw32-windres)

set(CMAKE_FIND_ROOT_PATH /usr/x86_64-w64-mingw32)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)

# Merged sources have more functions, each in sections of its own, than an object file can have else.
set(CMAKE_CXX_FLAGS_INIT -Wa,-mbig-obj)

# Programs that need no library of the compiler's beside them.
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)

# Not the script `wine`, which looks for a 32-bit one. What of the environment it takes is in the
# test preset.
set(CMAKE_CROSSCOMPILING_EMULATOR /usr/lib/wine/wine64)
