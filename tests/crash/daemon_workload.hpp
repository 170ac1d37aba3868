#ifndef MAPIO_TESTS_CRASH_DAEMON_WORKLOAD_HPP
#define MAPIO_TESTS_CRASH_DAEMON_WORKLOAD_HPP

// ingestd under clients that keep book of what was acknowledged to them.

#include "logged_device.hpp"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace crash {

/// A client was told that its records up to a sequence are durable.
struct receipt {
  std::size_t client = 0;
  std::uint64_t sequence = 0;
};

/// Numbers receipts, and marks them in the log of a device. Any thread.
class receipt_book {
 public:
  explicit receipt_book(const logged_device& device) : device_(device) {}

  void add(receipt r);
  // Once the workload is over.
  const receipt& at(std::uint64_t number) const {
    return receipts_.at(static_cast<std::size_t>(number));
  }

 private:
  const logged_device& device_;
  std::mutex mutex_;
  std::deque<receipt> receipts_;
};

struct daemon_workload {
  static constexpr std::size_t clients = 6;

  std::string engine = "automatic";
  std::uint64_t seed = 0;
  std::size_t rounds = 40;  ///< Batches of each client.
  /// Calls records durable when they are sent: a control that must lose.
  bool hasty = false;

  /// Runs daemon and clients; the daemon is killed and started again in the middle.
  void run(const std::filesystem::path& directory, receipt_book& book) const;
};

/// Follows the receipts, and compares directories of ingestd with them.
class daemon_expectations {
 public:
  void apply(const receipt& r);
  /// Lets ingestd's recovery repair a directory, and reads it; returns what is wrong. `answers`:
  /// also starts the daemon, and compares what it answers to HELLO.
  std::vector<std::string> compare(const std::filesystem::path& directory, bool answers) const;

 private:
  std::map<std::size_t, std::uint64_t> acknowledged_;
};

}  // namespace crash

#endif  // MAPIO_TESTS_CRASH_DAEMON_WORKLOAD_HPP
