#ifndef MAPIO_TESTS_INGESTD_HARNESS_HPP
#define MAPIO_TESTS_INGESTD_HARNESS_HPP

// What the end-to-end tests of ingestd are made of: real processes, real sockets, strace.

#include "linux/linux_support.hpp"

#include "reader.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace harness {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using clock = std::chrono::steady_clock;
using words = std::vector<std::string>;
using support::child_end;
using support::patience;

/// Waits for something that another process is about to bring about; false if it never comes.
template <class Condition>
bool becomes_true(Condition condition, clock::duration limit = patience) {
  const auto end = clock::now() + limit;
  while (!condition()) {
    if (clock::now() > end) return false;
    std::this_thread::sleep_for(1ms);  // between two looks; the other process needs the processor
  }
  return true;
}

[[noreturn]] inline void fail_with_errno(const std::string& what) {
  throw std::system_error(errno, std::system_category(), what);
}

// --- processes
// ------------------------------------------------------------------------------------

/// A child process with its output in files. Killed, by its id, when the object goes.
class process {
 public:
  explicit process(words command, const std::map<std::string, std::string>& environment = {})
      : command_(std::move(command)) {
    std::vector<char*> arguments;
    for (auto& word : command_)
      arguments.push_back(word.data());
    arguments.push_back(nullptr);

    // Everything that allocates comes before the fork.
    words variables;
    for (char** v = environ; *v != nullptr; ++v) {
      const std::string_view text = *v;
      if (environment.count(std::string(text.substr(0, text.find('=')))) == 0)
        variables.emplace_back(text);
    }
    for (const auto& [name, value] : environment)
      variables.push_back(std::string(name).append("=").append(value));
    std::vector<char*> pointers;
    for (auto& variable : variables)
      pointers.push_back(variable.data());
    pointers.push_back(nullptr);

    const auto out = support::open_fd(out_path(), O_WRONLY | O_CREAT | O_TRUNC);
    const auto err = support::open_fd(err_path(), O_WRONLY | O_CREAT | O_TRUNC);
    const auto null = support::open_fd("/dev/null", O_RDONLY);
    const pid_t parent = ::getpid();

    pid_ = ::fork();
    if (pid_ < 0) fail_with_errno("fork");
    if (pid_ == 0) {
      // A test that is killed leaves no daemon behind.
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(127);
      ::dup2(null.get(), STDIN_FILENO);
      ::dup2(out.get(), STDOUT_FILENO);
      ::dup2(err.get(), STDERR_FILENO);
      ::execvpe(arguments[0], arguments.data(), pointers.data());
      ::_exit(127);
    }
  }
  process(const process&) = delete;
  process& operator=(const process&) = delete;
  ~process() {
    if (end_) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const noexcept { return pid_; }
  std::string out() const { return support::read_file(out_path()); }
  std::string err() const { return support::read_file(err_path()); }

  void signal(int number) const {
    if (!end_ && ::kill(pid_, number) != 0) fail_with_errno("kill");
  }

  bool running() {
    if (end_) return false;
    int status = 0;
    const pid_t got = ::waitpid(pid_, &status, WNOHANG);
    if (got < 0) fail_with_errno("waitpid");
    if (got == pid_) end_ = support::end_of(status);
    return !end_;
  }

  /// Waits for its end.
  child_end wait(clock::duration limit = patience) {
    if (!becomes_true([this] { return !running(); }, limit))
      throw std::runtime_error(command_[0] + " does not end\n" + out() + err());
    return *end_;
  }

  /// Kills it with SIGKILL and waits for its end.
  child_end kill() {
    signal(SIGKILL);
    return wait();
  }

 private:
  fs::path out_path() const { return files_ / "out"; }
  fs::path err_path() const { return files_ / "err"; }

  support::temp_dir files_;
  words command_;
  pid_t pid_ = -1;
  std::optional<child_end> end_;
};

/// Runs a program to its end.
struct finished {
  child_end end;
  std::string out;
  std::string err;

  explicit finished(words command, clock::duration limit = patience) {
    process p(std::move(command));
    end = p.wait(limit);
    out = p.out();
    err = p.err();
  }
};

inline words operator+(words left, const words& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

// --- the daemon
// -----------------------------------------------------------------------------------

/// Small segments: most tests store little, and every start prepares one.
inline words small_segments() {
  return {"--segment-size", "1M", "--max-record", "64K"};
}

inline words ingestd_command(const fs::path& directory, const words& arguments,
                             const std::string& listen) {
  return words{INGESTD_PATH, "--dir", directory.string(), "--listen", listen} + arguments;
}

/// A running ingestd; the constructor returns when it listens.
class ingestd_process {
 public:
  explicit ingestd_process(const fs::path& directory, const words& arguments = small_segments(),
                           const std::string& listen = "127.0.0.1:0")
      : process_(ingestd_command(directory, arguments, listen)) {
    const bool ready = becomes_true([this] { return port() != 0 || !process_.running(); });
    if (!ready || port() == 0)
      throw std::runtime_error("ingestd does not start\n" + process_.out() + process_.err());
  }

  /// A daemon on the port that one before had; clients that try to reconnect meanwhile find it.
  static std::string on_port(std::uint16_t port) { return "127.0.0.1:" + std::to_string(port); }

  std::uint16_t port() const {
    const std::string text = process_.out();
    constexpr std::string_view words_before = "listening on 127.0.0.1:";
    const std::size_t newline = text.find('\n');
    if (!text.starts_with(words_before) || newline == std::string::npos) return 0;
    return static_cast<std::uint16_t>(std::stoul(text.substr(words_before.size())));
  }
  std::string address() const { return on_port(port()); }
  pid_t pid() const noexcept { return process_.pid(); }
  std::string log() const { return process_.err(); }
  bool running() { return process_.running(); }
  void signal(int number) const { process_.signal(number); }
  child_end wait() { return process_.wait(); }
  void kill() { static_cast<void>(process_.kill()); }

  /// Ends it as an administrator would.
  child_end terminate() {
    process_.signal(SIGTERM);
    return process_.wait();
  }

  /// A number of /proc/<pid>/status, in bytes.
  std::uint64_t memory(const std::string& name) const {
    std::ifstream status("/proc/" + std::to_string(pid()) + "/status");
    for (std::string line; std::getline(status, line);)
      if (line.starts_with(name + ":")) return std::stoull(line.substr(name.size() + 1)) * 1024;
    throw std::runtime_error("no " + name);
  }

 private:
  process process_;
};

// --- sockets
// --------------------------------------------------------------------------------------

/// Plain TCP, with a limit on how long anything takes.
class wire {
 public:
  explicit wire(std::uint16_t port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (socket_.get() < 0) fail_with_errno("socket");
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      fail_with_errno("connect");
    const int on = 1;
    ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::fcntl(socket_.get(), F_SETFL, ::fcntl(socket_.get(), F_GETFL) | O_NONBLOCK);
  }
  explicit wire(const ingestd_process& d) : wire(d.port()) {}
  /// Connects and says HELLO; the answer is in highest().
  wire(const ingestd_process& d, const std::string& client) : wire(d) {
    send("HELLO " + client + "\n");
    highest_ = number_of("HELLO", line());
  }

  std::uint64_t highest() const noexcept { return highest_; }

  /// Sends as much as the other side takes within `limit` of silence; returns the bytes sent.
  std::size_t send_some(std::string_view bytes, clock::duration limit) {
    std::size_t sent = 0;
    while (sent < bytes.size()) {
      const ssize_t n =
          ::send(socket_.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (n >= 0) {
        sent += static_cast<std::size_t>(n);
      } else if (errno != EAGAIN) {
        fail_with_errno("send");
      } else if (!ready(POLLOUT, limit)) {
        break;
      }
    }
    return sent;
  }

  void send(std::string_view bytes) {
    if (send_some(bytes, patience) != bytes.size())
      throw std::runtime_error("the server does not read");
  }

  void record(std::uint64_t sequence, std::string_view payload) {
    send(std::to_string(sequence) + " " + std::string(payload) + "\n");
  }

  /// Returns the next line without its newline; nothing once the connection has ended.
  std::optional<std::string> next_line(clock::duration limit = patience) {
    for (;;) {
      const std::size_t newline = received_.find('\n', searched_);
      if (newline != std::string::npos) {
        std::string result = received_.substr(begin_, newline - begin_);
        begin_ = searched_ = newline + 1;
        return result;
      }
      received_.erase(0, begin_);
      begin_ = 0;
      searched_ = received_.size();
      if (!receive(limit)) return std::nullopt;
    }
  }

  /// Returns the next line; throws if the connection has ended.
  std::string line() {
    auto result = next_line();
    if (!result) throw std::runtime_error("the connection ended; the rest is '" + rest() + "'");
    return *result;
  }

  /// Tells whether nothing arrives within `time`.
  bool silent_for(clock::duration time) {
    if (begin_ != received_.size()) return false;
    return !ready(POLLIN, time);
  }

  /// What was received and is no whole line.
  std::string rest() const { return received_.substr(begin_); }

  /// Waits for the end of the connection; returns the lines that came before it.
  words lines_to_the_end() {
    words lines;
    while (auto l = next_line())
      lines.push_back(*l);
    return lines;
  }

  /// Reads acknowledgements until `sequence` is acknowledged; they must never go back, nor beyond
  /// it.
  void wait_for_ack(std::uint64_t sequence) {
    for (std::uint64_t acknowledged = 0; acknowledged != sequence;) {
      const std::string answer = line();
      const std::uint64_t next = number_of("ACK", answer);
      if (next < acknowledged || next > sequence)
        throw std::runtime_error(answer + " after " + std::to_string(acknowledged));
      acknowledged = next;
    }
  }

  void finish_sending() { ::shutdown(socket_.get(), SHUT_WR); }
  void close() { socket_.reset(); }
  /// Goes away without a goodbye, as a crashed client does.
  void reset() {
    const linger now{1, 0};
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    socket_.reset();
  }

  static std::uint64_t number_of(std::string_view word, std::string_view answer) {
    std::uint64_t value = 0;
    if (answer.starts_with(std::string(word) + " ")) {
      const char* end = answer.data() + answer.size();
      const auto [stop, error] = std::from_chars(answer.data() + word.size() + 1, end, value);
      if (error == std::errc() && stop == end) return value;
    }
    throw std::runtime_error("'" + std::string(answer) + "' instead of " + std::string(word));
  }

 private:
  bool ready(short what, clock::duration limit) const {
    pollfd p{socket_.get(), what, 0};
    const auto time = std::chrono::duration_cast<std::chrono::milliseconds>(limit).count();
    const int n = ::poll(&p, 1, static_cast<int>(time));
    if (n < 0 && errno != EINTR) fail_with_errno("poll");
    return n > 0;
  }

  bool receive(clock::duration limit) {
    const auto end = clock::now() + limit;
    for (;;) {
      char buffer[65536];
      const ssize_t n = ::recv(socket_.get(), buffer, sizeof buffer, 0);
      if (n > 0) {
        received_.append(buffer, static_cast<std::size_t>(n));
        return true;
      }
      if (n == 0 || errno == ECONNRESET) return false;
      if (errno != EAGAIN) fail_with_errno("recv");
      if (clock::now() > end) throw std::runtime_error("the server does not answer");
      ready(POLLIN, 100ms);
    }
  }

  support::unique_fd socket_;
  std::string received_;
  std::size_t begin_ = 0;
  std::size_t searched_ = 0;
  std::uint64_t highest_ = 0;
};

inline nlohmann::json stats_of(const ingestd_process& d) {
  wire w(d);
  w.send("STATS\n");
  return nlohmann::json::parse(w.line());
}

// --- what is stored
// -------------------------------------------------------------------------------

struct stored_record {
  std::string client;
  std::uint64_t sequence = 0;
  std::string payload;
  std::uint64_t log_offset = 0;
  std::uint32_t segment = 0;
};

inline std::vector<stored_record> stored_in(const fs::path& directory) {
  std::vector<stored_record> result;
  const auto summary = ingestd::for_each_record(directory, [&](const ingestd::record_view& r) {
    result.push_back(
        {std::string(r.client), r.sequence, std::string(r.payload), r.log_offset, r.segment});
  });
  if (summary.corrupt != 0) throw std::runtime_error(summary.messages.front());
  return result;
}

/// The payloads of one client in the order of the log; throws unless the sequences are 1, 2, 3 ...
inline words payloads_of(const fs::path& directory, const std::string& client) {
  words result;
  for (auto& r : stored_in(directory)) {
    if (r.client != client) continue;
    if (r.sequence != result.size() + 1)
      throw std::runtime_error(client + ": sequence " + std::to_string(r.sequence) +
                               " comes after " + std::to_string(result.size()));
    result.push_back(std::move(r.payload));
  }
  return result;
}

// --- strace
// ---------------------------------------------------------------------------------------

/// Says why no process can be traced here; empty if it can.
inline const std::string& no_tracing() {
  static const std::string reason = [] {
    try {
      const finished probe({"strace", "-f", "-o", "/dev/null", "true"});
      if (probe.end.ok()) return std::string();
      if (probe.end.exited_with(127)) return std::string("strace is not installed");
      return "strace does not work here: " + probe.err;
    } catch (const std::exception& e) {
      return std::string(e.what());
    }
  }();
  return reason;
}

/// Traces all threads of a running process, from the end of the constructor to detach().
class tracer {
 public:
  tracer(pid_t target, const words& arguments) : target_(target) {
    strace_.emplace(words{"strace", "-f", "-o", path().string()} + arguments +
                    words{"-p", std::to_string(target)});
    const bool attached =
        becomes_true([this] { return traces_every_thread() || !strace_->running(); });
    if (!attached || !strace_->running())
      throw std::runtime_error("strace does not attach\n" + strace_->err());
  }
  ~tracer() {
    try {
      detach();
    } catch (const std::exception&) {
      // Its destructor kills it; the kernel lets go of what it traced.
    }
  }

  std::string trace() const { return support::read_file(path()); }

  void detach() {
    strace_->signal(SIGTERM);
    static_cast<void>(strace_->wait());
  }

 private:
  fs::path path() const { return files_ / "trace"; }

  bool traces_every_thread() const {
    std::error_code error;
    for (const auto& task :
         fs::directory_iterator("/proc/" + std::to_string(target_) + "/task", error)) {
      std::ifstream status(task.path() / "status");
      for (std::string line; std::getline(status, line);)
        if (line.starts_with("TracerPid:") && std::stoi(line.substr(10)) == 0) return false;
    }
    return !error;
  }

  pid_t target_;
  support::temp_dir files_;
  std::optional<process> strace_;
};

}  // namespace harness

#endif  // MAPIO_TESTS_INGESTD_HARNESS_HPP
