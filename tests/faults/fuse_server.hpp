#ifndef MAPIO_TESTS_FAULTS_FUSE_SERVER_HPP
#define MAPIO_TESTS_FAULTS_FUSE_SERVER_HPP

// A file system by FUSE, served by a program of its own: a process that ends cannot wait for a file
// system that waits for one of its threads.

#include "../linux/linux_support.hpp"

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

namespace faults {

class fuse_server {
 public:
  /// Runs `program FOLDER DESCRIPTOR... READY OUTSIDE` and waits for the byte that it writes to
  /// READY once the folder is mounted; throws if none comes.
  ///
  /// The thread must live as long as the server does: with it, the server is killed, and who waits
  /// for it gets errors.
  ///
  /// @param inherited  Descriptors that the program gets, as numbers.
  /// @param outside    The namespace of mounts that it is to serve from. The last process in a
  /// namespace unmounts what is left there, and must not be the one that serves it.
  fuse_server(const char* program, std::filesystem::path folder, std::vector<int> inherited,
              int outside)
      : folder_(std::move(folder)) {
    int ready[2];
    if (::pipe2(ready, O_CLOEXEC) != 0)
      throw std::system_error(errno, std::system_category(), "pipe2");
    const support::unique_fd ready_end(ready[0]);
    support::unique_fd ready_begin(ready[1]);

    // Everything that allocates comes before the fork.
    inherited.insert(inherited.end(), {ready_begin.get(), outside});
    std::vector<std::string> words{program, folder_.string()};
    for (const int fd : inherited)
      words.push_back(std::to_string(fd));
    std::vector<char*> arguments;
    for (std::string& word : words)
      arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const pid_t parent = ::getpid();
    process_ = ::fork();
    if (process_ < 0) throw std::system_error(errno, std::system_category(), "fork");
    if (process_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(127);
      for (const int fd : inherited)
        ::fcntl(fd, F_SETFD, 0);
      ::execv(program, arguments.data());
      ::_exit(127);
    }
    ready_begin.reset();
    char byte = 0;
    if (::read(ready_end.get(), &byte, 1) != 1) {
      stop();
      throw std::runtime_error(std::string(program) + " does not start");
    }
  }
  fuse_server(const fuse_server&) = delete;
  fuse_server& operator=(const fuse_server&) = delete;
  ~fuse_server() { stop(); }

 private:
  void stop() const noexcept {
    // Unmounted, it ends by itself. If something still holds on to it, it is ended, and what waits
    // for it gets errors.
    if (::umount2(folder_.c_str(), 0) != 0) {
      ::kill(process_, SIGKILL);
      ::umount2(folder_.c_str(), MNT_DETACH);
    }
    int status = 0;
    while (::waitpid(process_, &status, 0) < 0 && errno == EINTR) {
    }
  }

  std::filesystem::path folder_;
  pid_t process_ = -1;
};

}  // namespace faults

#endif  // MAPIO_TESTS_FAULTS_FUSE_SERVER_HPP
