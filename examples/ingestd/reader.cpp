#include "reader.hpp"

#include "os.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <system_error>
#include <utility>

#include <asio/buffer.hpp>

#include <fmt/format.h>

namespace ingestd {
namespace {

constexpr std::string_view segment_suffix = ".segment";
constexpr std::uint64_t no_limit = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t first_piece = std::uint64_t{128} << 10;
constexpr std::uint64_t largest_piece = std::uint64_t{8} << 20;

std::optional<std::uint32_t> number_of(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  if (!name.ends_with(segment_suffix)) return std::nullopt;
  std::uint32_t number = 0;
  const char* end = name.data() + name.size() - segment_suffix.size();
  const auto [stop, error] = std::from_chars(name.data(), end, number);
  // The comparison refuses other spellings of the same number.
  if (error != std::errc() || stop != end || number == 0 || name != segment_name(number))
    return std::nullopt;
  return number;
}

[[noreturn]] void was_cut(const std::filesystem::path& path, std::uint64_t size) {
  throw std::system_error(
      std::make_error_code(std::errc::io_error),
      fmt::format("{}: somebody cut it to {} bytes while it was read", path.string(), size));
}

/// Tells whether its header is whole; if so, finds out whether it is started.
bool look_at_head(segment_info& info, segment_bytes& file) {
  info.file_size = file.size();
  const decoded_segment_header header = decode_segment_header(file.read(0, segment_header_size));
  if (header.state != record_state::whole || header.content.number != info.number) return false;
  info.salt = header.content.salt;
  const decoded_record start = decode_record(file.record_at(segment_header_size),
                                             checksum_seed(info.salt, segment_header_size));
  if (start.state == record_state::whole && start.content.type == record_type::segment_start) {
    info.state = segment_state::started;
    info.base = start.content.sequence;
  }
  return true;
}

void sort_by_number(std::vector<segment_info>& segments) {
  std::sort(segments.begin(), segments.end(),
            [](const auto& a, const auto& b) { return a.number < b.number; });
}

void look_at(segment_info& info) {
  if (info.file_size == 0) return;
  segment_bytes file(info.path);
  const bool has_header = look_at_head(info, file);
  if (info.state != segment_state::started && !file.zero_from(segment_header_size)) {
    info.state = has_header ? segment_state::headless : segment_state::header_damaged;
  }
}

/// What whole records behind a bad place tell.
struct evidence {
  std::uint64_t whole_records = 0;
  std::uint64_t durable = 0;  // the highest that any of them claims
  std::string where;          // which one
};

/// Looks for whole records at every place where one could be; returns once one says that `offset`
/// was durable.
void survey(const segment_info& info, segment_bytes& file, std::uint64_t position,
            std::uint64_t offset, evidence& found) {
  position = (position + record_alignment - 1) / record_alignment * record_alignment;
  while (found.durable <= offset && position + record_header_size <= file.size()) {
    const decoded_record r =
        decode_record(file.record_at(position), checksum_seed(info.salt, position));
    if (r.state != record_state::whole) {
      position += record_alignment;
      continue;
    }
    if (r.content.type == record_type::record) ++found.whole_records;
    if (r.content.durable > found.durable) {
      found.durable = r.content.durable;
      found.where = fmt::format("segment {}, position {}", info.number, position);
    }
    position += r.size;
  }
}

}  // namespace

segment_bytes::segment_bytes(const std::filesystem::path& path, std::uint64_t least) : path_(path) {
  std::error_code error;
  file_.open(path, {}, error);
  if (error) throw std::system_error(error, path.string() + ": cannot open it");
  size_ = file_.size();
  if (size_ < least) was_cut(path, size_);
}

/// Makes the window hold [position, position + length), and some more of what follows.
void segment_bytes::load(std::uint64_t position, std::uint64_t length) {
  ahead_ = std::clamp(ahead_ * 2, first_piece, largest_piece);
  const std::uint64_t end = std::min(position + std::max(length, ahead_), size_);
  // What is there already is not read again.
  std::uint64_t kept = 0;
  if (position >= start_ && position < start_ + window_.size()) {
    kept = start_ + window_.size() - position;
    std::memmove(window_.data(), window_.data() + (position - start_), kept);
  }
  window_.resize(end - position);
  start_ = position;
  const std::uint64_t from = position + kept;
  std::error_code error;
  file_.prefetch(from, end - from, error);  // only faster; the next line tells what matters
  const std::size_t count =
      file_.read_into(from, asio::buffer(window_.data() + kept, end - from), error);
  // Of a page that the end of the file was moved into, the kernel makes zeros behind that end.
  // Not by its name, which it may have lost.
  const std::uint64_t size = os::size_of(file_.native_handle());
  if (!error && size >= size_) return;
  window_.clear();
  if (size < size_) was_cut(path_, size);
  throw std::system_error(
      error, fmt::format("{}: cannot be read behind position {}", path_.string(), from + count));
}

std::span<const std::byte> segment_bytes::read(std::uint64_t position, std::uint64_t length) {
  if (position >= size_) return {};
  length = std::min(length, size_ - position);
  if (position < start_ || position + length > start_ + window_.size()) load(position, length);
  return std::span<const std::byte>(window_).subspan(position - start_, length);
}

std::span<const std::byte> segment_bytes::record_at(std::uint64_t position) {
  const std::span<const std::byte> header = read(position, record_header_size);
  const std::size_t size = claimed_size(header);
  // One that would not fit into the file is none, and its header shows that.
  if (size <= header.size() || size > size_ - position) return header;
  return read(position, size);
}

bool segment_bytes::zero_from(std::uint64_t position) {
  for (; position < size_; position += first_piece)
    if (!all_zero(read(position, first_piece))) return false;
  return true;
}

void segment_bytes::forget() noexcept {
  window_.clear();
  ahead_ = 0;
}

void segment_bytes::sync() {
  os::sync(file_.native_handle(), path_);
}

std::string segment_name(std::uint32_t number) {
  return fmt::format("{:010}{}", number, segment_suffix);
}

std::vector<segment_info> list_segments(const std::filesystem::path& directory) {
  std::vector<segment_info> found;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const auto number = number_of(entry.path());
    if (!number || !entry.is_regular_file()) continue;
    segment_info info;
    info.number = *number;
    info.path = entry.path();
    info.file_size = entry.file_size();
    look_at(info);
    found.push_back(std::move(info));
  }
  sort_by_number(found);
  return found;
}

std::vector<segment_info> list_started_segments(const std::filesystem::path& directory,
                                                std::uint32_t first) {
  std::vector<segment_info> found;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const auto number = number_of(entry->path());
    if (!number || *number < first) continue;
    segment_info info;
    info.number = *number;
    info.path = entry->path();
    try {
      segment_bytes file(info.path);
      look_at_head(info, file);
    } catch (const std::system_error& e) {
      // A daemon that starts removes what was never used.
      if (e.code() != std::errc::no_such_file_or_directory) throw;
    }
    if (info.state == segment_state::started) found.push_back(std::move(info));
  }
  if (error && error != std::errc::no_such_file_or_directory)
    throw std::system_error(error, directory.string());
  sort_by_number(found);
  return found;
}

log_reader::log_reader(const std::filesystem::path& directory, on_corruption policy)
    : policy_(policy), segments_(list_segments(directory)), limits_(segments_.size(), no_limit) {
  // A segment whose sync failed is followed by one that starts where the durable part ended: what
  // lies behind that in the failed one is no part of the log any more, nor are segments in between.
  std::uint64_t limit = no_limit;
  for (std::size_t i = segments_.size(); i-- > 0;) {
    limits_[i] = limit;
    if (segments_[i].state == segment_state::started) limit = std::min(limit, segments_[i].base);
  }
  for (const segment_info& info : segments_) {
    if (info.state == segment_state::started) ++summary_.segments;
  }
}

/// Goes to the first segment from `segment` on that has a part of the log.
bool log_reader::enter(std::size_t segment) {
  while (segment < segments_.size() && (segments_[segment].state != segment_state::started ||
                                        segments_[segment].base >= limits_[segment])) {
    ++segment;
  }
  if (segment == segments_.size()) return false;
  const segment_info& info = segments_[segment];
  bytes_ = segment_bytes(info.path, info.file_size);
  current_ = segment;
  entered_ = true;
  position_ = first_record_position;
  return true;
}

/// Says what contradicts that the log ends here, where there is no record; empty if nothing does.
std::string log_reader::why_not_the_end() {
  if (entered_ && limits_[current_] != no_limit) {
    return fmt::format("records are missing up to log offset {}, where the next segment starts",
                       limits_[current_]);
  }
  if (entered_ && !bytes_.zero_from(position_)) return "no record, but data behind it";
  for (std::size_t i = entered_ ? current_ + 1 : 0; i < segments_.size(); ++i) {
    if (segments_[i].state != segment_state::unused) {
      return fmt::format("no record, but data in segment {}", segments_[i].number);
    }
  }
  return {};
}

/// Decides whether the place where the reader is, and where no whole record is, is a torn tail or
/// corrupt.
bad_place log_reader::examine(std::string reason) {
  bad_place place;
  place.segment = current_;
  place.position = position_;
  place.log_offset = offset_;
  const std::string where =
      entered_ ? fmt::format("segment {}, position {}, log offset {}: {}",
                             segments_[current_].number, position_, offset_, reason)
               : fmt::format("log offset {}: {}", offset_, reason);
  evidence found;
  if (entered_) survey(segments_[current_], bytes_, position_, offset_, found);
  for (std::size_t i = entered_ ? current_ + 1 : 0;
       i < segments_.size() && found.durable <= offset_; ++i) {
    const segment_info& info = segments_[i];
    if (info.state == segment_state::unused) continue;
    if (info.state == segment_state::header_damaged) {
      // Its header was synced before the first byte of data was written.
      place.corrupt = true;
      place.message = fmt::format("{}; the header of segment {} is damaged", where, info.number);
      return place;
    }
    segment_bytes file(info.path, info.file_size);
    survey(info, file, segment_header_size, offset_, found);
  }
  place.whole_records = found.whole_records;
  place.corrupt = found.durable > offset_;
  place.message = place.corrupt
                      ? fmt::format("{}; it was durable before the record at {} was written", where,
                                    found.where)
                      : fmt::format("{}; never acknowledged, with {} whole records behind it",
                                    where, found.whole_records);
  return place;
}

/// Goes to the next whole record behind a corrupt place.
bool log_reader::step_over(const bad_place& place) {
  if (entered_) {
    const segment_info& info = segments_[current_];
    const std::uint64_t limit = limits_[current_];
    std::uint64_t position = place.position + record_alignment;
    std::uint64_t offset = place.log_offset + record_alignment;
    while (position + record_header_size <= bytes_.size() && offset < limit) {
      const decoded_record r =
          decode_record(bytes_.record_at(position), checksum_seed(info.salt, position));
      if (r.state == record_state::whole) {
        position_ = position;
        offset_ = offset;
        return true;
      }
      position += record_alignment;
      offset += record_alignment;
    }
  }
  if (!enter(entered_ ? current_ + 1 : 0)) return false;
  offset_ = segments_[current_].base;
  return true;
}

const record_view* log_reader::next() {
  while (!at_end_) {
    std::string reason;
    if (!entered_ || offset_ >= limits_[current_]) {
      // From one segment to the next, or to the first. A log starts at offset 0.
      const bool first = !entered_;
      if (enter(first ? 0 : current_ + 1)) {
        if (offset_ == segments_[current_].base) continue;
        entered_ = !first;
        reason = fmt::format("segments are missing: number {} starts at log offset {}",
                             segments_[current_].number, segments_[current_].base);
      } else {
        reason = why_not_the_end();
      }
    } else {
      const segment_info& info = segments_[current_];
      const decoded_record r =
          decode_record(bytes_.record_at(position_), checksum_seed(info.salt, position_));
      if (r.state == record_state::whole && r.content.type == record_type::record &&
          r.size <= limits_[current_] - offset_) {
        view_ = {r.content.client, r.content.sequence, r.content.payload, offset_, info.number};
        position_ += r.size;
        offset_ += r.size;
        ++summary_.records;
        summary_.bytes += r.content.payload.size();
        summary_.end_offset = offset_;
        return &view_;
      }
      if (r.state == record_state::end)
        reason = why_not_the_end();
      else if (r.state == record_state::whole)
        reason = "a record that does not belong here";
      else
        reason = "no whole record";
    }
    if (reason.empty()) {
      at_end_ = true;
      break;
    }
    bad_place place = examine(std::move(reason));
    summary_.messages.push_back(place.message);
    if (place.corrupt)
      ++summary_.corrupt;
    else {
      summary_.torn_tail = true;
      summary_.torn_records = place.whole_records;
    }
    if (place.corrupt && policy_ == on_corruption::step_over && step_over(place)) continue;
    stopped_at_ = std::move(place);
    at_end_ = true;
  }
  return nullptr;
}

log_summary for_each_record(const std::filesystem::path& directory,
                            const std::function<void(const record_view&)>& visit) {
  log_reader reader(directory, log_reader::on_corruption::step_over);
  while (const record_view* r = reader.next())
    visit(*r);
  return reader.summary();
}

}  // namespace ingestd
