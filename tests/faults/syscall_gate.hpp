#ifndef MAPIO_TESTS_FAULTS_SYSCALL_GATE_HPP
#define MAPIO_TESTS_FAULTS_SYSCALL_GATE_HPP

// Lets a test see system calls before they happen, and pass, fail or hold each of them.
//
// Works by seccomp user notification: the body runs in a thread of its own under a filter that
// sends the listed calls to a supervisor thread of the same process. The filter covers the threads
// that the body starts (the workers of an engine, say) and goes with them. Nothing else is
// disturbed, and no privilege is needed. Work that a kernel does on behalf of a ring makes no
// system call and is not seen.

#include "../sanitizers.hpp"
#include "seccomp_filter.hpp"

#include <array>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#if MAPIO_TEST_UNDER_TSAN
// Of ThreadSanitizer's run time, which has no header for them.
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
#endif

namespace faults {

/// What is read meanwhile is not taken for a race: another thread is kept from changing it by means
/// that ThreadSanitizer does not see. To suppress the report is not enough: the names for it would
/// be looked up by calls that a gate may hold.
class ordered_by_the_kernel {
 public:
#if MAPIO_TEST_UNDER_TSAN
  ordered_by_the_kernel() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  }
  ~ordered_by_the_kernel() {
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  ordered_by_the_kernel() = default;
#endif
  ordered_by_the_kernel(const ordered_by_the_kernel&) = delete;
  ordered_by_the_kernel& operator=(const ordered_by_the_kernel&) = delete;
};

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
  ~syscall_gate() { release(); }

  /// Runs `body` under the filter and returns true, or false where the kernel does not let us;
  /// throws what it throws. What threads that outlive it call goes on and is not shown.
  bool run(const std::function<void()>& body) {
    // Of a run before this one.
    release();
    filter_ = std::make_shared<installed_filter>();
    std::exception_ptr failure;
    std::thread runner([&, filter = filter_] {
      try {
        // Started before the filter is there, so that it is not caught itself.
        std::thread([this, filter] { supervise(*filter); }).detach();
        filter->install(filter_for(numbers_, SECCOMP_RET_USER_NOTIF, but_));
        if (filter->listener >= 0) body();
      } catch (...) {
        failure = std::current_exception();
      }
    });
    runner.join();
    {
      const std::lock_guard lock(filter_->being_shown);
      filter_->is_shown = false;
    }
    if (failure) std::rethrow_exception(failure);
    return filter_->listener >= 0;
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
      answer(*filter_, id, what);
  }
  /// The calls seen so far, held ones included.
  std::vector<call> seen() const {
    const std::lock_guard lock(mutex_);
    return seen_;
  }
  std::size_t count() const { return seen().size(); }

 private:
  // Lives as long as a thread is under it, which may be longer than the gate: a detached one, say,
  // that ends. Nothing would let its calls go on, and glibc aborts if it cannot unmap a stack.
  struct installed_filter {
    installed_filter() = default;
    installed_filter(const installed_filter&) = delete;
    installed_filter& operator=(const installed_filter&) = delete;
    ~installed_filter() {
      if (listener >= 0) ::close(listener);
    }

    void install(const std::vector<sock_filter>& program) {
      const int fd = install_filter(program, SECCOMP_FILTER_FLAG_NEW_LISTENER);
      const std::lock_guard lock(mutex);
      listener = fd;
      is_installed = true;
      changed.notify_all();
    }
    bool wait_until_installed() {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return is_installed; });
      return listener >= 0;
    }

    std::mutex mutex;
    std::condition_variable changed;
    bool is_installed = false;
    int listener = -1;
    // Held while the gate looks at a call.
    std::mutex being_shown;
    bool is_shown = true;
  };

  // Touches the gate only while that is shown calls.
  void supervise(installed_filter& filter) {
    if (!filter.wait_until_installed()) return;
    for (;;) {
      pollfd listener{filter.listener, POLLIN, 0};
      if (::poll(&listener, 1, -1) < 0) continue;
      if ((listener.revents & POLLIN) != 0) receive(filter);
      // Nobody is under the filter any more.
      else if (listener.revents != 0)
        return;
    }
  }

  void receive(installed_filter& filter) {
    // Larger than the kernel's structure may ever become; it insists on zeros.
    alignas(seccomp_notif) std::array<unsigned char, 1024> raw{};
    auto* note = reinterpret_cast<seccomp_notif*>(raw.data());
    if (::ioctl(filter.listener, SECCOMP_IOCTL_NOTIF_RECV, note) != 0) return;
    const std::lock_guard lock(filter.being_shown);
    const verdict what = filter.is_shown ? show(*note) : pass;
    if (what.what != verdict::kind::hold) answer(filter, note->id, what);
  }

  verdict show(const seccomp_notif& note) {
    call c;
    c.number = note.data.nr;
    c.thread = static_cast<pid_t>(note.pid);
    for (std::size_t i = 0; i < c.arguments.size(); ++i)
      c.arguments[i] = note.data.args[i];
    const verdict what = [&] {
      // A descriptor, say, of the thread that is held in its call.
      [[maybe_unused]] const ordered_by_the_kernel ordered;
      return decide_(c);
    }();
    const std::lock_guard lock(mutex_);
    seen_.push_back(c);
    if (what.what == verdict::kind::hold) {
      held_.push_back(note.id);
      changed_.notify_all();
    }
    return what;
  }

  static void answer(const installed_filter& filter, std::uint64_t id, verdict what) {
    alignas(seccomp_notif_resp) std::array<unsigned char, 1024> raw{};
    auto* response = reinterpret_cast<seccomp_notif_resp*>(raw.data());
    response->id = id;
    if (what.what == verdict::kind::fail)
      response->error = -what.error;
    else
      response->flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    static_cast<void>(::ioctl(filter.listener, SECCOMP_IOCTL_NOTIF_SEND, response));
  }

  std::vector<long> numbers_;
  std::vector<harmless_call> but_;
  judge decide_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::uint64_t> held_;
  std::vector<call> seen_;
  std::shared_ptr<installed_filter> filter_;
};

}  // namespace faults

#endif  // MAPIO_TESTS_FAULTS_SYSCALL_GATE_HPP
