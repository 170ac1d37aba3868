#ifndef MAPIO_EXAMPLES_INGESTD_READER_HPP
#define MAPIO_EXAMPLES_INGESTD_READER_HPP

// Reading a directory of segments from the first record to the last, with blocking calls, as
// recovery and `ingest --verify` do. Works on a directory whose daemon is running, too: what is
// appended meanwhile may or may not be seen.
//
//   auto summary = ingestd::for_each_record("dir", [](const ingestd::record_view& r) { ... });
//   if (summary.corrupt > 0) ...
//
// Everything here throws std::system_error, with the file's path in its message, when a file cannot
// be read: because of an I/O error, or because somebody cuts it short meanwhile. Neither is ever
// taken for the end of the log. Nothing touches mapped bytes directly, so that neither is a signal.
//
// Where the log ends. A record is acknowledged only when every byte of the log before its end is
// durable. After a crash the log therefore has a prefix of whole records that contains every
// acknowledged one, and behind it anything at all: pages reach the disk in any order, so a torn
// record may be followed by whole ones. The first place that is not a whole record is where the log
// ends, and what follows was never acknowledged: a *torn tail*.
//
// Unless it was: a byte of an old record may have decayed. Each record says which part of the log
// was durable when it was written (`durable`). If any record behind a bad place says that the bad
// place was durable, the record there is *corrupt*: acknowledged data is gone, and nothing is cut.
// What cannot be told apart from a torn tail is decay in the last records that were acknowledged
// together, when nothing was written afterwards.

#include "record.hpp"

#include <mapio/mapping.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ingestd {

/// Shows one record; its bytes stay until the reader moves on.
struct record_view {
  std::string_view client;
  std::uint64_t sequence = 0;
  std::string_view payload;
  std::uint64_t log_offset = 0;
  std::uint32_t segment = 0;  ///< Number of the segment, from 1.
};

/// Adds up what was read.
struct log_summary {
  std::uint64_t records = 0;   ///< Whole records that were shown.
  std::uint64_t bytes = 0;     ///< Bytes of their payloads.
  std::uint64_t segments = 0;  ///< Segments in use.
  std::uint64_t corrupt = 0;   ///< Places where acknowledged data is not readable.
  bool torn_tail = false;      ///< Something follows the end of the log; it was never acknowledged.
  std::uint64_t torn_records = 0;     ///< Whole records in the torn tail, not shown.
  std::uint64_t end_offset = 0;       ///< Log offset behind the last record that was shown.
  std::vector<std::string> messages;  ///< One line for each corrupt place and for a torn tail.
};

/// Calls `visit` for every whole record of `directory`, in the order of the log; steps over what is
/// corrupt.
///
/// Stops at the end of the log: records in a torn tail are counted, not shown.
log_summary for_each_record(const std::filesystem::path& directory,
                            const std::function<void(const record_view&)>& visit);

enum class segment_state {
  unused,    ///< Prepared, or half prepared, and never used: nothing but zeros behind the header.
  started,   ///< Has its start record.
  headless,  ///< Holds data, but its start record is not whole.
  header_damaged  ///< Holds data behind a header that is not whole.
};

/// Says what is known of one segment file.
struct segment_info {
  std::uint32_t number = 0;
  std::filesystem::path path;
  std::uint64_t file_size = 0;
  segment_state state = segment_state::unused;
  std::uint64_t salt = 0;
  std::uint64_t base = 0;  ///< Log offset of its first record, if started.
};

/// Returns the file name of a segment.
std::string segment_name(std::uint32_t number);

/// Lists the segment files of a directory by number, and looks at the head of each.
std::vector<segment_info> list_segments(const std::filesystem::path& directory);

/// Lists those in use from a number on: looks at no more than their heads. No directory has none.
std::vector<segment_info> list_started_segments(const std::filesystem::path& directory,
                                                std::uint32_t first);

/// Reads a segment file, a piece at a time, into memory of its own.
class segment_bytes {
 public:
  segment_bytes() = default;
  /// Opens a file that must have at least `least` bytes.
  explicit segment_bytes(const std::filesystem::path& path, std::uint64_t least = 0);

  std::uint64_t size() const noexcept { return size_; }

  /// Returns `length` bytes from `position` on, fewer at the end of the file; they stay until the
  /// next call.
  std::span<const std::byte> read(std::uint64_t position, std::uint64_t length);
  /// Returns what decode_record needs in order to judge what starts at `position`.
  std::span<const std::byte> record_at(std::uint64_t position);
  /// Tells whether nothing but zeros follows from `position` on.
  bool zero_from(std::uint64_t position);
  /// Makes what is read from here on be what the file has by then.
  void forget() noexcept;
  /// Makes the content durable that the file has now, whoever wrote it.
  void sync();

 private:
  void load(std::uint64_t position, std::uint64_t length);

  std::filesystem::path path_;
  mapio::mapping file_;
  std::uint64_t size_ = 0;
  std::vector<std::byte> window_;  // what the file has from start_ on
  std::uint64_t start_ = 0;
  std::uint64_t ahead_ = 0;  // how much was read the last time
};

/// Names a place where a whole record should have been.
struct bad_place {
  std::size_t segment = 0;     ///< Index into log_reader::segments().
  std::uint64_t position = 0;  ///< In that file.
  std::uint64_t log_offset = 0;
  bool corrupt = false;             ///< false: a torn tail.
  std::uint64_t whole_records = 0;  ///< Whole records found behind it, in all segments.
  std::string message;
};

/// Reads forward, record by record.
class log_reader {
 public:
  enum class on_corruption { stop, step_over };

  explicit log_reader(const std::filesystem::path& directory,
                      on_corruption policy = on_corruption::stop);

  /// Moves to the next record; null at the end. What it shows stays until the next call.
  const record_view* next();

  const std::vector<segment_info>& segments() const noexcept { return segments_; }
  const log_summary& summary() const noexcept { return summary_; }
  /// After the end: the torn tail, or the corrupt place that stopped the reader; nothing if the log
  /// ends with zeros.
  const std::optional<bad_place>& stopped_at() const noexcept { return stopped_at_; }
  /// After the end: the index of the last segment that is part of the log, if there is one, and the
  /// position in it and the log offset where the next record would be.
  std::optional<std::size_t> end_segment() const noexcept {
    return entered_ ? std::optional(current_) : std::nullopt;
  }
  std::uint64_t end_position() const noexcept { return position_; }
  std::uint64_t end_offset() const noexcept { return offset_; }

 private:
  bool enter(std::size_t segment);
  std::string why_not_the_end();
  bad_place examine(std::string reason);
  bool step_over(const bad_place& place);

  on_corruption policy_;
  std::vector<segment_info> segments_;
  std::vector<std::uint64_t> limits_;  // where each segment's part of the log ends
  log_summary summary_;
  std::optional<bad_place> stopped_at_;
  bool at_end_ = false;
  bool entered_ = false;  // any segment

  std::size_t current_ = 0;
  segment_bytes bytes_;
  std::uint64_t position_ = 0;
  std::uint64_t offset_ = 0;  // log offset of position_
  record_view view_;
};

}  // namespace ingestd

#endif  // MAPIO_EXAMPLES_INGESTD_READER_HPP
