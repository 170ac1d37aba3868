#ifndef MAPIO_TESTS_CRASH_DEVICE_PROTOCOL_HPP
#define MAPIO_TESTS_CRASH_DEVICE_PROTOCOL_HPP

// What crash_device and the tests say to each other. Both come from the same build, so structures
// travel as they are.

#include <cstdint>

namespace crash {

/// What is in the log, one after another: a header, and behind that of a write its bytes. An entry
/// is there before the request that it is about is answered.
enum class entry_kind : std::uint32_t { write = 1, flush = 2, mark = 3 };

struct entry_header {
  entry_kind kind{};
  std::uint32_t length = 0;  ///< Bytes that follow.
  std::uint64_t value = 0;   ///< Where a write went; the number of a mark.
};

/// What may be written into the control file, one at a time.
enum class command_kind : std::uint32_t {
  mark = 1,          ///< Puts a mark with this number into the log.
  fail_writes = 2,   ///< Answers the next `value` writes with EIO; forever if it is negative.
  fail_flushes = 3,  ///< The same for flushes.
};

struct command {
  command_kind kind{};
  std::uint32_t unused = 0;
  std::int64_t value = 0;
};

inline constexpr const char* disk_name = "disk";
inline constexpr const char* control_name = "control";

}  // namespace crash

#endif  // MAPIO_TESTS_CRASH_DEVICE_PROTOCOL_HPP
