#ifndef MAPIO_TESTS_FAULTS_SYSCALL_GATE_HPP
#define MAPIO_TESTS_FAULTS_SYSCALL_GATE_HPP

// Lets a test see system calls before they happen, and pass, fail or hold each of them.
//
// Works by seccomp user notification: the body runs in a thread of its own under a filter that
// sends the listed calls to a supervisor thread of the same process. The filter covers the threads
// that the body starts (the workers of an engine, say) and goes with them. Nothing else is
// disturbed, and no privilege is needed. Work that a kernel does on behalf of a ring makes no
// system call and is not seen.

#include "seccomp_filter.hpp"

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

namespace faults {

class syscall_gate {
 public:
  struct call {
    int number = 0;
    pid_t thread = 0;
    std::array<std::uint64_t, 6> arguments{};

    /// The first argument, for calls that take a file descriptor there.
    int fd() const { return static_cast<int>(arguments[0]); }
    bool takes_fd() const { return number != SYS_msync; }
  };

  /// What becomes of a call.
  struct verdict {
    enum class kind { pass, fail, hold } what = kind::pass;
    int error = 0;
  };
  static constexpr verdict pass{verdict::kind::pass, 0};
  static constexpr verdict hold{verdict::kind::hold, 0};
  static constexpr verdict fail(int error) { return {verdict::kind::fail, error}; }

  using judge = std::function<verdict(const call&)>;

  /// The system calls that make bytes durable.
  static std::vector<long> syncs() { return {SYS_fsync, SYS_fdatasync, SYS_msync}; }

  /// Shows the `numbers` to `decide`, which is called on the supervisor's thread, one call at a
  /// time. It must not wait for what the caller may hold, a lock of malloc's say: `but` keeps those
  /// calls away from it.
  syscall_gate(std::vector<long> numbers, judge decide, std::vector<harmless_call> but = {})
      : numbers_(std::move(numbers)), but_(std::move(but)), decide_(std::move(decide)) {}
  syscall_gate(const syscall_gate&) = delete;
  syscall_gate& operator=(const syscall_gate&) = delete;
  ~syscall_gate() { close(); }

  /// Runs `body` under the filter and returns true, or false where the kernel does not let us;
  /// throws what it throws.
  bool run(const std::function<void()>& body) {
    // Of a run before this one.
    close();
    listener_ = -1;
    installed_ = false;
    stop_ = ::eventfd(0, EFD_CLOEXEC);
    std::exception_ptr failure;
    std::thread supervisor;
    std::thread runner([&] {
      try {
        // Started before the filter is there, so that it is not caught itself.
        supervisor = std::thread([this] { supervise(); });
        const int listener = install_filter(filter_for(numbers_, SECCOMP_RET_USER_NOTIF, but_),
                                            SECCOMP_FILTER_FLAG_NEW_LISTENER);
        {
          const std::lock_guard lock(mutex_);
          listener_ = listener;
          installed_ = true;
        }
        changed_.notify_all();
        if (listener >= 0) body();
      } catch (...) {
        failure = std::current_exception();
      }
    });
    runner.join();
    const std::uint64_t one = 1;
    static_cast<void>(!::write(stop_, &one, sizeof one));
    supervisor.join();
    if (failure) std::rethrow_exception(failure);
    return listener_ >= 0;
  }

  /// Waits until `count` calls are held.
  void wait_until_held(std::size_t count = 1) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return held_.size() >= count; });
  }
  std::size_t held() const {
    const std::lock_guard lock(mutex_);
    return held_.size();
  }
  /// Lets every held call go on, or fail.
  void release(verdict what = pass) {
    std::vector<std::uint64_t> ids;
    {
      const std::lock_guard lock(mutex_);
      ids = std::exchange(held_, {});
    }
    for (const std::uint64_t id : ids)
      answer(id, what);
  }
  /// The calls seen so far, held ones included.
  std::vector<call> seen() const {
    const std::lock_guard lock(mutex_);
    return seen_;
  }
  std::size_t count() const { return seen().size(); }

 private:
  void close() const {
    if (listener_ >= 0) ::close(listener_);
    if (stop_ >= 0) ::close(stop_);
  }

  void supervise() {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return installed_; });
      if (listener_ < 0) return;
    }
    for (;;) {
      std::array<pollfd, 2> fds{{{listener_, POLLIN, 0}, {stop_, POLLIN, 0}}};
      if (::poll(fds.data(), fds.size(), -1) < 0) continue;
      if (fds[1].revents != 0) return;
      if ((fds[0].revents & POLLIN) != 0) receive();
    }
  }

  void receive() {
    // Larger than the kernel's structure may ever become; it insists on zeros.
    alignas(seccomp_notif) std::array<unsigned char, 1024> raw{};
    auto* note = reinterpret_cast<seccomp_notif*>(raw.data());
    if (::ioctl(listener_, SECCOMP_IOCTL_NOTIF_RECV, note) != 0) return;
    call c;
    c.number = note->data.nr;
    c.thread = static_cast<pid_t>(note->pid);
    for (std::size_t i = 0; i < c.arguments.size(); ++i)
      c.arguments[i] = note->data.args[i];
    const verdict what = decide_(c);
    {
      const std::lock_guard lock(mutex_);
      seen_.push_back(c);
      if (what.what == verdict::kind::hold) held_.push_back(note->id);
    }
    if (what.what == verdict::kind::hold)
      changed_.notify_all();
    else
      answer(note->id, what);
  }

  void answer(std::uint64_t id, verdict what) const {
    alignas(seccomp_notif_resp) std::array<unsigned char, 1024> raw{};
    auto* response = reinterpret_cast<seccomp_notif_resp*>(raw.data());
    response->id = id;
    if (what.what == verdict::kind::fail)
      response->error = -what.error;
    else
      response->flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    static_cast<void>(::ioctl(listener_, SECCOMP_IOCTL_NOTIF_SEND, response));
  }

  std::vector<long> numbers_;
  std::vector<harmless_call> but_;
  judge decide_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::uint64_t> held_;
  std::vector<call> seen_;
  int listener_ = -1;
  int stop_ = -1;
  bool installed_ = false;
};

}  // namespace faults

#endif  // MAPIO_TESTS_FAULTS_SYSCALL_GATE_HPP
