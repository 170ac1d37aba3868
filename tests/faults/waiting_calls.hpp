#ifndef MAPIO_TESTS_FAULTS_WAITING_CALLS_HPP
#define MAPIO_TESTS_FAULTS_WAITING_CALLS_HPP

// Finds the system calls of one thread that may wait for a file system.
//
// They are seen, noted down and let pass, so that everything goes on as it would without. Those of
// other threads, workers of an engine among them, count for nothing.
//
// Allowed, because they look at what the kernel has in memory and at nothing else: mincore,
// cachestat, statx with AT_STATX_DONT_SYNC, preadv2 with RWF_NOWAIT; io_uring_enter unless it is to
// wait for completions. Likewise memory without a file behind it: malloc maps, trims and unmaps as
// it likes. read and write are allowed on what is not a file, an eventfd of Asio's say, and on the
// standard output and error.

#include "syscall_gate.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <fstream>
#include <functional>
#include <limits>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

namespace faults {

class waiting_calls {
 public:
  /// Runs `body` in a thread of its own and watches that; as syscall_gate::run.
  bool run(const std::function<void()>& body) {
    // glibc reads a file, once, to count the processors when a thread makes one arena more than
    // there are for certain, and another before it gives memory back.
    ::mallopt(M_ARENA_MAX, 4);
    ::mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
    return gate_.run([&] {
      watched_ = static_cast<pid_t>(::syscall(SYS_gettid));
      body();
    });
  }
  /// What was found since the last time it was asked: names, one after another.
  std::string found() {
    const std::lock_guard lock(mutex_);
    return std::exchange(found_, {});
  }

 private:
  struct named_call {
    long number;
    const char* name;
  };
#define MAPIO_NAMED_CALL(name)                                                                     \
  named_call {                                                                                     \
    SYS_##name, #name                                                                              \
  }
  static const std::vector<named_call>& names() {
    static const std::vector<named_call> all {
      MAPIO_NAMED_CALL(openat), MAPIO_NAMED_CALL(openat2), MAPIO_NAMED_CALL(close),
          // By name a file system looks into folders; by descriptor it may ask a server.
          MAPIO_NAMED_CALL(statx), MAPIO_NAMED_CALL(newfstatat), MAPIO_NAMED_CALL(fstat),
          MAPIO_NAMED_CALL(statfs), MAPIO_NAMED_CALL(fstatfs), MAPIO_NAMED_CALL(readlinkat),
          MAPIO_NAMED_CALL(unlinkat), MAPIO_NAMED_CALL(linkat), MAPIO_NAMED_CALL(renameat),
          MAPIO_NAMED_CALL(renameat2), MAPIO_NAMED_CALL(faccessat), MAPIO_NAMED_CALL(fchmod),
          MAPIO_NAMED_CALL(lseek), MAPIO_NAMED_CALL(utimensat), MAPIO_NAMED_CALL(fsync),
          MAPIO_NAMED_CALL(fdatasync), MAPIO_NAMED_CALL(sync_file_range), MAPIO_NAMED_CALL(syncfs),
          MAPIO_NAMED_CALL(sync), MAPIO_NAMED_CALL(msync), MAPIO_NAMED_CALL(mmap),
          MAPIO_NAMED_CALL(munmap), MAPIO_NAMED_CALL(mremap), MAPIO_NAMED_CALL(madvise),
          MAPIO_NAMED_CALL(mlock), MAPIO_NAMED_CALL(mlock2), MAPIO_NAMED_CALL(munlock),
          MAPIO_NAMED_CALL(truncate), MAPIO_NAMED_CALL(ftruncate), MAPIO_NAMED_CALL(fallocate),
          MAPIO_NAMED_CALL(fadvise64), MAPIO_NAMED_CALL(readahead), MAPIO_NAMED_CALL(read),
          MAPIO_NAMED_CALL(readv), MAPIO_NAMED_CALL(pread64), MAPIO_NAMED_CALL(preadv),
          MAPIO_NAMED_CALL(preadv2), MAPIO_NAMED_CALL(write), MAPIO_NAMED_CALL(writev),
          MAPIO_NAMED_CALL(pwrite64), MAPIO_NAMED_CALL(pwritev), MAPIO_NAMED_CALL(pwritev2),
          MAPIO_NAMED_CALL(copy_file_range), MAPIO_NAMED_CALL(sendfile),
          MAPIO_NAMED_CALL(io_uring_enter),
          // Looking again and again is waiting as well.
          MAPIO_NAMED_CALL(nanosleep), MAPIO_NAMED_CALL(clock_nanosleep),
#if defined(__x86_64__)
          MAPIO_NAMED_CALL(open), MAPIO_NAMED_CALL(creat), MAPIO_NAMED_CALL(stat),
          MAPIO_NAMED_CALL(lstat), MAPIO_NAMED_CALL(readlink), MAPIO_NAMED_CALL(unlink),
          MAPIO_NAMED_CALL(link), MAPIO_NAMED_CALL(rename), MAPIO_NAMED_CALL(access),
#endif
    };
    return all;
  }
#undef MAPIO_NAMED_CALL
  static std::vector<long> numbers() {
    std::vector<long> all;
    for (const named_call& c : names())
      all.push_back(c.number);
    return all;
  }
  static std::string name_of(const syscall_gate::call& c) {
    const auto named = std::find_if(names().begin(), names().end(),
                                    [&](const named_call& n) { return n.number == c.number; });
    return named == names().end() ? std::to_string(c.number) : named->name;
  }
  // What malloc calls under its locks is among them.
  static std::vector<harmless_call> harmless() {
    return {{SYS_mmap, 3, MAP_ANONYMOUS, MAP_ANONYMOUS},
            {SYS_madvise, 2, ~0U, MADV_DONTNEED},
            {SYS_madvise, 2, ~0U, MADV_FREE},
            {SYS_statx, 2, AT_STATX_DONT_SYNC, AT_STATX_DONT_SYNC},
            {SYS_preadv2, 5, RWF_NOWAIT, RWF_NOWAIT},
            {SYS_io_uring_enter, 2, ~0U, 0}};
  }

  static bool takes_memory(long number) {
    return number == SYS_munmap || number == SYS_mremap || number == SYS_madvise ||
           number == SYS_mlock || number == SYS_mlock2 || number == SYS_munlock;
  }
  static bool moves_bytes(long number) {
    return number == SYS_read || number == SYS_readv || number == SYS_write || number == SYS_writev;
  }

  // Tells whether a file is mapped somewhere in [begin, begin + length).
  static bool is_of_a_file(std::uint64_t begin, std::uint64_t length) {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      std::istringstream fields(line);
      std::uint64_t from = 0;
      std::uint64_t to = 0;
      std::uint64_t inode = 0;
      char dash = 0;
      std::string permissions;
      std::string offset;
      std::string device;
      fields >> std::hex >> from >> dash >> to >> permissions >> offset >> device >> std::dec >>
          inode;
      if (inode != 0 && from < begin + length && begin < to) return true;
    }
    return false;
  }

  static bool may_wait(const syscall_gate::call& c) {
    if (takes_memory(c.number)) return is_of_a_file(c.arguments[0], c.arguments[1]);
    if (moves_bytes(c.number)) {
      struct stat status {};
      return c.fd() != STDOUT_FILENO && c.fd() != STDERR_FILENO && ::fstat(c.fd(), &status) == 0 &&
             S_ISREG(status.st_mode);
    }
    return true;
  }

  void look_at(const syscall_gate::call& c) {
    if (c.thread != watched_ || !may_wait(c)) return;
    const std::lock_guard lock(mutex_);
    if (!found_.empty()) found_ += ' ';
    found_ += name_of(c);
  }

  std::atomic<pid_t> watched_{0};
  std::mutex mutex_;
  std::string found_;
  syscall_gate gate_{numbers(),
                     [this](const syscall_gate::call& c) {
                       look_at(c);
                       return syscall_gate::pass;
                     },
                     harmless()};
};

}  // namespace faults

#endif  // MAPIO_TESTS_FAULTS_WAITING_CALLS_HPP
