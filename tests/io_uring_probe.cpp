// Succeeds when all three io_uring system calls are refused with EPERM: checks no_io_uring.

#include <cerrno>
#include <cstdio>
#include <cstring>

#include <sys/syscall.h>
#include <unistd.h>

namespace {

bool refused(const char* name, long number) {
  // Bad arguments everywhere: where the call is allowed, it fails in another way and does nothing.
  const bool ok = syscall(number, -1, nullptr, 0, 0, nullptr, 0) == -1 && errno == EPERM;
  std::printf("%s: %s\n", name, std::strerror(errno));
  return ok;
}

}  // namespace

int main() {
  const bool setup = refused("io_uring_setup", SYS_io_uring_setup);
  const bool enter = refused("io_uring_enter", SYS_io_uring_enter);
  const bool change = refused("io_uring_register", SYS_io_uring_register);
  // The neighbours must still work: 424 before, and something as plain as getpid.
  const bool others = syscall(SYS_pidfd_send_signal, -1, 0, nullptr, 0) == -1 && errno != EPERM &&
                      syscall(SYS_getpid) == getpid();
  return setup && enter && change && others ? 0 : 1;
}
