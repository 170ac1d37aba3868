#ifndef MAPIO_TESTS_FAULTS_FAILING_SYNCS_HPP
#define MAPIO_TESTS_FAULTS_FAILING_SYNCS_HPP

#include "syscall_gate.hpp"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <functional>

namespace faults {

/// Fails the next `failures` syncs of files (not of folders) with EIO.
class failing_syncs {
 public:
  bool run(const std::function<void()>& body) { return gate_.run(body); }
  void fail_next(int failures) { failures_ = failures; }
  std::size_t count() const { return gate_.count(); }

 private:
  std::atomic<int> failures_ = 0;
  syscall_gate gate_{syscall_gate::syncs(), [this](const auto&) {
                       if (failures_ <= 0) return syscall_gate::pass;
                       --failures_;
                       return syscall_gate::fail(EIO);
                     }};
};

}  // namespace faults

#endif  // MAPIO_TESTS_FAULTS_FAILING_SYNCS_HPP
