// no_io_uring PROGRAM [ARGUMENT...]
//
// Runs a program in which io_uring_setup, io_uring_enter and io_uring_register fail with EPERM, as
// the default seccomp profile of container runtimes does it. Children inherit the filter.

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <iterator>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
constexpr unsigned native_arch = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr unsigned native_arch = AUDIT_ARCH_AARCH64;
#else
#error "add the AUDIT_ARCH_* of this machine"
#endif

namespace {

// The three numbers are the same on every architecture, and consecutive: 425, 426, 427.
static_assert(SYS_io_uring_enter == SYS_io_uring_setup + 1);
static_assert(SYS_io_uring_register == SYS_io_uring_setup + 2);

constexpr unsigned load_word = BPF_LD | BPF_W | BPF_ABS;
constexpr unsigned jump_if_equal = BPF_JMP | BPF_JEQ | BPF_K;
constexpr unsigned jump_if_at_least = BPF_JMP | BPF_JGE | BPF_K;
constexpr unsigned give = BPF_RET | BPF_K;

constexpr sock_filter statement(unsigned code, unsigned k) {
  return {static_cast<unsigned short>(code), 0, 0, k};
}

constexpr sock_filter jump(unsigned code, unsigned k, unsigned char if_true,
                           unsigned char if_false) {
  return {static_cast<unsigned short>(code), if_true, if_false, k};
}

int fail(const char* what) {
  std::fprintf(stderr, "no_io_uring: %s: %s\n", what, std::strerror(errno));
  return 127;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: no_io_uring PROGRAM [ARGUMENT...]\n");
    return 2;
  }

  sock_filter program[] = {
      // A number means something else under a foreign architecture; those programs are let through.
      statement(load_word, offsetof(seccomp_data, arch)),
      jump(jump_if_equal, native_arch, 0, 3),
      statement(load_word, offsetof(seccomp_data, nr)),
      jump(jump_if_at_least, SYS_io_uring_setup, 0, 1),
      jump(jump_if_at_least, SYS_io_uring_register + 1, 0, 1),
      statement(give, SECCOMP_RET_ALLOW),
      statement(give, SECCOMP_RET_ERRNO | EPERM),
  };
  const sock_fprog filter{static_cast<unsigned short>(std::size(program)), program};

  // Without it only root could install a filter.
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail("PR_SET_NO_NEW_PRIVS");
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) return fail("PR_SET_SECCOMP");

  execvp(argv[1], argv + 1);
  return fail(argv[1]);
}
