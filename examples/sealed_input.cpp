// Starts a program on a copy of its standard input, in memory, that nobody can change any more:
// it is complete, and can be mapped or be read twice. The memory is a descriptor that mapio adopts
// to fill it, and gives back, since there can be no seal while it is mapped for writing.
//
//   sealed_input PROGRAM [ARGUMENT...]

#include <mapio/mapio.hpp>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <iostream>
#include <system_error>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

int checked(int result, const char* what) {
  if (result < 0) throw std::system_error(errno, std::system_category(), what);
  return result;
}

// Reads straight into the mapping, whose size goes ahead of what there is.
void fill(mapio::mapping& memory, std::FILE* input) {
  constexpr std::uint64_t piece = 64 << 10;
  std::uint64_t filled = 0;
  while (std::feof(input) == 0) {
    memory.resize(filled + piece);
    const mapio::mutable_region space = memory.mutable_view(filled, piece);
    filled += std::fread(space.data(), 1, space.size(), input);
    if (std::ferror(input) != 0) checked(-1, "standard input");
  }
  memory.resize(filled);
}

}  // namespace

int main(int argc, char* argv[]) try {
  if (argc < 2) {
    std::cerr << "usage: sealed_input PROGRAM [ARGUMENT...]\n";
    return 2;
  }
  const int empty = checked(::memfd_create("input", MFD_ALLOW_SEALING), "memfd_create");
  mapio::mapping memory = mapio::mapping::adopt(empty, {.mode = mapio::access::read_write});
  fill(memory, stdin);
  const int full = memory.release();
  checked(::fcntl(full, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL),
          "seal");
  checked(::dup2(full, STDIN_FILENO), "dup2");
  ::close(full);
  return checked(::execvp(argv[1], argv + 1), argv[1]);
} catch (const std::exception& e) {
  std::cerr << "sealed_input: " << e.what() << '\n';
  return 1;
}
