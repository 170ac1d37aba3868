#ifndef MAPIO_TESTS_LINUX_LINUX_SUPPORT_HPP
#define MAPIO_TESTS_LINUX_LINUX_SUPPORT_HPP

// What tests that are about Linux share: descriptors, forked children, and users.

#include "../support.hpp"

#include <mapio/region.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

namespace support {

using unique_fd = native_file;

inline unique_fd open_fd(const fs::path& path, int flags, mode_t mode = 0600) {
  unique_fd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (fd.get() < 0) throw std::system_error(errno, std::system_category(), path.string());
  return fd;
}

/// Counts the pages that are in this process's page table.
inline std::size_t mapped_pages(const mapio::region& r) {
  const unique_fd pagemap = open_fd("/proc/self/pagemap", O_RDONLY);
  std::size_t count = 0;
  const auto first = reinterpret_cast<std::uintptr_t>(r.data()) / page();
  for (std::size_t i = 0; i < r.size() / page(); ++i) {
    std::uint64_t entry = 0;
    EXPECT_EQ(::pread(pagemap.get(), &entry, sizeof entry,
                      static_cast<off_t>((first + i) * sizeof entry)),
              static_cast<ssize_t>(sizeof entry));
    count += entry >> 63;
  }
  return count;
}

/// What waitpid says of a process that ended.
inline child_end end_of(int status) {
  child_end end;
  if (WIFSIGNALED(status))
    end.signal = WTERMSIG(status);
  else
    end.code = WEXITSTATUS(status);
  return end;
}

inline child_end wait_for_child(pid_t pid) {
  int status = 0;
  pid_t got = -1;
  while ((got = ::waitpid(pid, &status, 0)) == -1 && errno == EINTR) {
  }
  if (got != pid) throw std::system_error(errno, std::system_category(), "waitpid");
  return end_of(status);
}

/// Runs `body` in a forked child, which never returns.
template <class Body>
pid_t start_child(Body body) {
  std::cout.flush();
  std::fflush(nullptr);
  const pid_t pid = ::fork();
  if (pid == -1) throw std::system_error(errno, std::system_category(), "fork");
  if (pid == 0) run_and_exit(std::move(body));
  return pid;
}

template <class Body>
child_end in_child(Body body) {
  return wait_for_child(start_child(std::move(body)));
}

/// Gives up all that distinguishes root from others; for children.
inline void become_nobody() {
  constexpr uid_t nobody = 65534;
  if (::setgroups(0, nullptr) != 0 || ::setresgid(nobody, nobody, nobody) != 0 ||
      ::setresuid(nobody, nobody, nobody) != 0)
    throw std::system_error(errno, std::system_category(), "setresuid");
}

/// Runs `body` where permissions count: in a child without privileges if this is root. The folder
/// must let it in.
template <class Body>
void as_ordinary_user(Body body) {
  if (::geteuid() != 0) {
    body();
    return;
  }
  const child_end end = in_child([&] {
    constexpr unsigned nobody = 65534;
    if (::setresgid(nobody, nobody, nobody) != 0 || ::setresuid(nobody, nobody, nobody) != 0)
      throw std::system_error(errno, std::system_category(), "setresuid");
    body();
  });
  EXPECT_TRUE(end.ok()) << end;
}

}  // namespace support

#endif  // MAPIO_TESTS_LINUX_LINUX_SUPPORT_HPP
