#ifndef MAPIO_TESTS_CRASH_CRASH_STATES_HPP
#define MAPIO_TESTS_CRASH_CRASH_STATES_HPP

// From the log of a disk to what a loss of power can leave on it.

#include "logged_device.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace crash {

/// Power goes after the first `cut` entries of a log.
struct crash_point {
  std::size_t number = 0;
  std::size_t cut = 0;
  std::uint64_t seed = 0;  ///< For what was on its way.
};

/// Picks moments between two entries of a log, in the order of the log.
std::vector<crash_point> pick_points(const recording& log, std::size_t begin, std::size_t end,
                                     std::size_t count, std::uint64_t seed);

/// Builds states of a disk, at moments that only go forward.
///
/// What was written before the last flush that was answered is there. Of what was written since,
/// each write is there, or not, or in pieces of a sector or a block, each of which is there or not.
class state_builder {
 public:
  explicit state_builder(const recording& log);
  state_builder(const state_builder&) = delete;
  state_builder& operator=(const state_builder&) = delete;
  ~state_builder();

  memory_file build(const crash_point& point);
  /// Without anything that was on its way.
  memory_file build_durable(std::size_t cut);
  /// Writes that were on their way, in all states so far.
  std::uint64_t writes_at_stake() const noexcept { return writes_at_stake_; }

 private:
  void settle(std::size_t end);

  const recording& log_;
  std::byte* durable_;            // the disk as of the last flush
  std::vector<bool> is_written_;  // its blocks
  std::size_t settled_ = 0;       // entries that are in it
  std::size_t scanned_ = 0;
  std::size_t flushed_ = 0;  // entries up to the last flush of those scanned
  std::uint64_t writes_at_stake_ = 0;
};

/// Says what is wrong with a mounted state; `n` is the number of entries before the crash.
using state_check = std::function<std::vector<std::string>(const fs::path& where, std::size_t n)>;

struct replay_options {
  fs_type type = fs_type::ext4;
  mounted::mode mode = mounted::mode::read_only;
  std::size_t begin = 0;  ///< Entries of the log between which power goes.
  std::size_t end = 0;
  std::size_t states = 0;
  std::uint64_t seed = 0;
};

struct replay_result {
  std::size_t states = 0;
  std::size_t lost = 0;  ///< States with a problem, those included that cannot be mounted.
  std::size_t unmountable = 0;
  std::uint64_t writes_at_stake = 0;
  std::vector<std::string> problems;  ///< The first few.

  replay_result& operator+=(const replay_result& other);
};

/// Builds states, mounts and checks each. On two threads; each gets a check of its own, which sees
/// states in the order of the log.
replay_result replay(const recording& log, const replay_options& options,
                     const std::function<state_check()>& make_check);

/// Returns a number of the environment.
std::uint64_t setting(const char* name, std::uint64_t otherwise);

}  // namespace crash

#endif  // MAPIO_TESTS_CRASH_CRASH_STATES_HPP
