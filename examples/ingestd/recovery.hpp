#ifndef MAPIO_EXAMPLES_INGESTD_RECOVERY_HPP
#define MAPIO_EXAMPLES_INGESTD_RECOVERY_HPP

// What happens before the daemon answers anybody.

#include "reader.hpp"

#include <mapio/mapping.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace ingestd {

/// Holds a directory of segments for this process.
class directory_lock {
 public:
  /// Creates the directory if there is none.
  ///
  /// @throws std::system_error; directory_in_use if another process holds it.
  explicit directory_lock(const std::filesystem::path& directory);
  directory_lock(const directory_lock&) = delete;
  directory_lock& operator=(const directory_lock&) = delete;
  ~directory_lock();

 private:
  mapio::mapping::native_handle_type file_;
};

class directory_in_use : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Acknowledged data is not readable; nothing was changed.
class log_corrupt : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Says which part of the log a segment holds, and where.
struct segment_part {
  std::uint32_t number = 0;
  std::filesystem::path path;
  std::uint64_t salt = 0;
  std::uint64_t base = 0;  ///< Log offset at first_record_position.
  std::uint64_t end = 0;
};

struct recovered_log {
  /// In the order of the log; ends with the segment to append to.
  std::vector<segment_part> parts;
  /// The highest sequence of each client.
  std::map<std::string, std::uint64_t, std::less<>> highest;
  std::uint64_t records = 0;
  std::uint64_t bytes = 0;  ///< Of payloads.
  std::uint64_t end_offset = 0;
  std::size_t longest_record = 0;  ///< Encoded.
  std::uint32_t last_number = 0;   ///< The highest number in use.
};

/// Makes what is in `directory` durable and whole, and reads it.
///
/// First the segments' clean pages are dropped from the page cache: a page whose write failed looks
/// clean there and is not what is on the disk. Dirty pages stay, and are synced below. Then every
/// record is read. Corruption (see reader.hpp) ends it: log_corrupt. Prepared segments that were
/// never used are removed. A torn tail is cut: zeros are written up to the end of its segment, and
/// the segments behind are removed. If there are whole records in it, its bytes are first saved in
/// `lost+cut-<log offset>.<segment>`. Last, every segment and the directory are synced; a failure
/// ends it, and another start reads what the disk has then.
///
/// Why zeros, and not truncation: a segment whose blocks were written before syncs faster, and
/// behind the cut there must be nothing that a later, shorter record could end in front of. The
/// zeros are durable before anything is appended.
recovered_log recover(const std::filesystem::path& directory);

}  // namespace ingestd

#endif  // MAPIO_EXAMPLES_INGESTD_RECOVERY_HPP
