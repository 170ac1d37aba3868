#ifndef MAPIO_TESTS_CRASH_FILE_WORKLOAD_HPP
#define MAPIO_TESTS_CRASH_FILE_WORKLOAD_HPP

// Work on mapped files that keeps a ledger of what was acknowledged.

#include "expectations.hpp"

#include <mapio/backend.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace crash {

/// What the workload does before it calls something durable.
enum class promise {
  flush,    ///< What it takes.
  started,  ///< Only begins to write back: a control that must lose.
  nothing,  ///< Another one.
};

struct file_workload {
  mapio::backend_kind engine = mapio::backend_kind::automatic;
  promise sync = promise::flush;
  std::uint64_t seed = 0;
  std::size_t rounds = 30;  ///< Of each actor.
  /// Only those who create and find files. The others commit the journal all the time, which makes
  /// names durable that nobody has synced.
  bool only_names = false;

  /// Runs it in an empty folder whose name is durable.
  ///
  /// Many coroutines update pages of one file and flush ranges or all of it, beside threads that
  /// do the same with blocking calls; others grow and shrink files of their own, and others create
  /// files, or find files whose names are not durable yet; some writes are never flushed.
  void run(const std::filesystem::path& folder, ledger& book) const;
};

}  // namespace crash

#endif  // MAPIO_TESTS_CRASH_FILE_WORKLOAD_HPP
