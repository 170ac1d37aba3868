#ifndef MAPIO_EXAMPLES_INGESTD_FOLLOW_HPP
#define MAPIO_EXAMPLES_INGESTD_FOLLOW_HPP

// Shows the records of a directory as a daemon writes them, from another process and without the
// daemon: `ingest --follow`.

#include "reader.hpp"

#include <asio/awaitable.hpp>

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ingest {

/// Reads on where it was, each time that there may be more, and shows what is durable.
///
/// A record that the daemon wrote is not durable yet, and a sync that fails may take it back. That
/// it is durable is said by records behind it, or made so by a sync of this process.
class log_follower {
 public:
  /// Takes some lines, like those of TAIL: log offset, client, sequence, payload.
  using sink = std::function<void(std::string_view)>;

  log_follower(std::filesystem::path directory, sink show)
      : directory_(std::move(directory)), show_(std::move(show)) {}

  /// Shows what is known to be durable. True: there is more, of which that is not known.
  ///
  /// @throws std::system_error; std::runtime_error when the log is not the one that it was.
  bool catch_up();
  /// Makes durable what was read so far, and shows it.
  void make_durable();

 private:
  struct unsure_record {
    std::uint64_t end = 0;
    std::string line;
  };

  void read_segment(std::uint64_t limit);
  bool go_on(std::vector<ingestd::segment_info> segments);
  void give_up_from(std::uint64_t offset);
  void show_before(std::uint64_t durable);
  void hand_over();

  const std::filesystem::path directory_;
  const sink show_;
  std::optional<ingestd::segment_info> here_;
  ingestd::segment_bytes bytes_;
  std::uint64_t position_ = 0;
  std::uint64_t offset_ = 0;  // log offset of position_
  std::uint64_t shown_ = 0;   // the same, of what was shown
  std::deque<unsure_record> unsure_;
  std::string lines_;  // to be shown together
};

/// Follows the log in `directory`, which may not exist yet, for ever.
asio::awaitable<void> follow(std::filesystem::path directory, log_follower::sink show);

}  // namespace ingest

#endif  // MAPIO_EXAMPLES_INGESTD_FOLLOW_HPP
