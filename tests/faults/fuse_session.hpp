#ifndef MAPIO_TESTS_FAULTS_FUSE_SESSION_HPP
#define MAPIO_TESTS_FAULTS_FUSE_SESSION_HPP

// What the programs that a fuse_server runs have in common. It stands for libfuse's header, and
// says which version of that is meant.

#define FUSE_USE_VERSION 31  // NOLINT(readability-identifier-naming): the name is theirs

#include <fuse_lowlevel.h>

#include <csignal>
#include <string>

#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

namespace faults {

/// Mounts a file system on `folder` and serves it until it is unmounted; returns the exit status.
///
/// @param data     What fuse_req_userdata() is to give.
/// @param ready    Gets one byte once it is mounted.
/// @param outside  The namespace of mounts to serve from: the last process in that of the mount
/// unmounts what is left there, and must not be the one that serves it.
/// @param loop     Answers the requests of a session; 0: all went well.
template <class Loop>
int serve(std::string name, const fuse_lowlevel_ops& operations, void* data, const char* folder,
          int ready, int outside, Loop loop) {
  // When the test is killed, whoever waits for a file here must not wait forever: with this process
  // the connection goes, and every request on it fails.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // Ctrl-C goes to the whole group, but this must outlast whoever uses it.
  std::signal(SIGINT, SIG_IGN);

  char* arguments[] = {name.data(), nullptr};
  fuse_args args = FUSE_ARGS_INIT(1, arguments);
  fuse_session* const session = fuse_session_new(&args, &operations, sizeof operations, data);
  fuse_opt_free_args(&args);
  if (session == nullptr) return 1;
  int status = 1;
  if (fuse_session_mount(session, folder) == 0) {
    const bool left = ::setns(outside, CLONE_NEWNS) == 0;
    ::close(outside);
    if (left && ::write(ready, "r", 1) == 1 && loop(session) == 0) status = 0;
    fuse_session_unmount(session);
  }
  fuse_session_destroy(session);
  return status;
}

}  // namespace faults

#endif  // MAPIO_TESTS_FAULTS_FUSE_SESSION_HPP
