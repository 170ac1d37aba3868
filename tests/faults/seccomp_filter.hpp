#ifndef MAPIO_TESTS_FAULTS_SECCOMP_FILTER_HPP
#define MAPIO_TESTS_FAULTS_SECCOMP_FILTER_HPP

// Builds and installs seccomp filters for the calling thread and whatever it starts from then on.

#include <cerrno>
#include <cstddef>
#include <system_error>
#include <vector>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace faults {

#if defined(__x86_64__)
inline constexpr unsigned native_arch = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
inline constexpr unsigned native_arch = AUDIT_ARCH_AARCH64;
#else
#error "add the AUDIT_ARCH_* of this machine"
#endif

/// Calls of a listed number that are allowed all the same: those where the lower half of an
/// argument, masked, is `value`.
struct harmless_call {
  long number = 0;
  unsigned argument = 0;
  unsigned mask = ~0U;
  unsigned value = 0;
};

/// All madvise() but the MADV_POPULATE ones, in which the bits 4 and 16 are both set: what
/// allocators and sanitizers say of their own memory, maybe with a lock held.
inline std::vector<harmless_call> advice_that_populates_nothing() {
  return {{SYS_madvise, 2, 4, 0}, {SYS_madvise, 2, 16, 0}};
}

/// A filter that answers `action` to the listed system calls and allows all others.
inline std::vector<sock_filter> filter_for(const std::vector<long>& numbers, unsigned action,
                                           const std::vector<harmless_call>& but = {}) {
  const auto statement = [](unsigned code, unsigned k) {
    return sock_filter{static_cast<unsigned short>(code), 0, 0, k};
  };
  const auto jump_if_equal = [](unsigned k, unsigned char if_true, unsigned char if_false) {
    return sock_filter{BPF_JMP | BPF_JEQ | BPF_K, if_true, if_false, k};
  };
  std::vector<sock_filter> program{
      statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      jump_if_equal(native_arch, 1, 0),
      statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
  };
  for (const harmless_call& c : but) {
    // Both architectures are little-endian.
    const auto argument = static_cast<unsigned>(offsetof(seccomp_data, args)) + 8 * c.argument;
    program.push_back(jump_if_equal(static_cast<unsigned>(c.number), 0, 5));
    program.push_back(statement(BPF_LD | BPF_W | BPF_ABS, argument));
    program.push_back(statement(BPF_ALU | BPF_AND | BPF_K, c.mask));
    program.push_back(jump_if_equal(c.value, 0, 1));
    program.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    program.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
  }
  for (const long number : numbers) {
    program.push_back(jump_if_equal(static_cast<unsigned>(number), 0, 1));
    program.push_back(statement(BPF_RET | BPF_K, action));
  }
  program.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  return program;
}

/// Installs a filter for this thread; returns what seccomp(2) does. There is no way back but the
/// thread's end.
inline int install_filter(std::vector<sock_filter> program, unsigned flags = 0) {
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  // Without it only root could install a filter.
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
  return static_cast<int>(::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter));
}

/// Makes the listed system calls fail with `error` from now on.
inline void deny(const std::vector<long>& numbers, int error) {
  if (install_filter(filter_for(numbers, SECCOMP_RET_ERRNO | static_cast<unsigned>(error))) != 0)
    throw std::system_error(errno, std::system_category(), "seccomp");
}

}  // namespace faults

#endif  // MAPIO_TESTS_FAULTS_SECCOMP_FILTER_HPP
