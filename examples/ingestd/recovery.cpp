#include "recovery.hpp"

#include "os.hpp"

#include <mapio/mapping.hpp>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <system_error>
#include <utility>
#include <vector>

#include <asio/buffer.hpp>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

namespace ingestd {
namespace {

constexpr std::uint64_t piece_size = std::uint64_t{1} << 20;

void drop_clean_pages(const std::filesystem::path& directory) {
  // By name and not through list_segments: a mapping keeps its pages in the cache.
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (!entry.is_regular_file() || entry.path().extension() != ".segment") continue;
    if (const std::error_code error = os::drop_clean_pages(entry.path())) {
      spdlog::warn("{}: cannot drop it from the page cache: {}", entry.path().string(),
                   error.message());
    }
  }
}

std::filesystem::path unused_name(const std::filesystem::path& directory, const std::string& name) {
  std::filesystem::path path = directory / name;
  for (int n = 2; std::filesystem::exists(path); ++n)
    path = directory / fmt::format("{}.{}", name, n);
  return path;
}

/// Saves [position, end of the last byte that is not zero) of a segment in a file of its own.
void save_cut(const std::filesystem::path& directory, const segment_info& segment,
              std::uint64_t position, std::uint64_t log_offset) {
  segment_bytes file(segment.path, segment.file_size);
  std::uint64_t end = position;
  for (std::uint64_t p = position; p < file.size(); p += piece_size) {
    const auto part = file.read(p, piece_size);
    for (std::size_t i = part.size(); i-- > 0;) {
      if (part[i] == std::byte{0}) continue;
      end = p + i + 1;
      break;
    }
  }
  if (end == position) return;
  const auto path =
      unused_name(directory, fmt::format("lost+cut-{}.{}", log_offset, segment.number));
  auto copy = mapio::mapping(path, {.mode = mapio::access::read_write,
                                    .create = mapio::disposition::create_new,
                                    .size = end - position});
  for (std::uint64_t p = position; p < end; p += piece_size) {
    const auto part = file.read(p, std::min(piece_size, end - p));
    copy.update_region(p - position, asio::buffer(part.data(), part.size()));
  }
  copy.flush();
  spdlog::warn("saved {} bytes of {} that are cut in {}", end - position, segment.path.string(),
               path.string());
}

void remove_segment(const std::filesystem::path& path) {
  if (!std::filesystem::remove(path)) spdlog::warn("{}: already gone", path.string());
}

/// Stores zeros from `position` to the end of the file, where they are not there already; returns
/// the bytes it overwrote.
std::uint64_t zero_rest(mapio::mapping& file, std::uint64_t position) {
  const std::size_t page = mapio::page_size();
  const std::vector<std::byte> zeros(page);
  segment_bytes bytes(file.path(), file.size());
  std::uint64_t overwritten = 0;
  for (std::uint64_t p = position; p < file.size();) {
    const std::uint64_t length = std::min<std::uint64_t>(page - p % page, file.size() - p);
    if (!all_zero(bytes.read(p, length))) {
      file.update_region(p, asio::buffer(zeros.data(), length));
      overwritten += length;
    }
    p += length;
  }
  return overwritten;
}

}  // namespace

directory_lock::directory_lock(const std::filesystem::path& directory) {
  if (std::filesystem::create_directories(directory)) {
    os::sync_directory(std::filesystem::canonical(directory).parent_path());
  }
  const std::filesystem::path path = directory / "lock";
  const auto locked = os::open_locked(path);
  if (!locked) {
    std::string owner;
    std::ifstream(path) >> owner;
    throw directory_in_use(fmt::format("{} is in use by another ingestd{}{}", directory.string(),
                                       owner.empty() ? "" : ", process ", owner));
  }
  file_ = *locked;
  // For the message above only; a full disk does not matter.
  if (!os::replace_content(file_, std::to_string(os::process_id())))
    spdlog::debug("{}: the process id is not written", path.string());
}

directory_lock::~directory_lock() {
  os::close(file_);
}

recovered_log recover(const std::filesystem::path& directory) {
  const auto start = std::chrono::steady_clock::now();
  drop_clean_pages(directory);

  recovered_log result;
  std::vector<segment_info> segments;
  std::optional<std::size_t> last;
  std::uint64_t cut_position = 0;
  std::optional<bad_place> torn;
  {
    log_reader reader(directory);
    while (const record_view* r = reader.next()) {
      auto known = result.highest.find(r->client);
      if (known == result.highest.end()) known = result.highest.emplace(r->client, 0).first;
      std::uint64_t& highest = known->second;
      if (r->sequence != highest + 1) {
        // Not written by this daemon, which takes consecutive sequences only.
        spdlog::warn("log offset {}: sequence {} of client {} follows {}", r->log_offset,
                     r->sequence, r->client, highest);
      }
      highest = std::max(highest, r->sequence);
      result.longest_record =
          std::max(result.longest_record, encoded_size(r->client.size(), r->payload.size()));
    }
    torn = reader.stopped_at();
    if (torn && torn->corrupt) {
      throw log_corrupt(fmt::format("{} holds corrupt data: {}. Nothing was changed.",
                                    directory.string(), torn->message));
    }
    segments = reader.segments();
    last = reader.end_segment();
    cut_position = last ? reader.end_position() : 0;
    result.records = reader.summary().records;
    result.bytes = reader.summary().bytes;
    result.end_offset = reader.end_offset();
  }

  // What was never used goes first: a full disk may need the space to save what is cut.
  const std::size_t behind = last ? *last + 1 : 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    if (segments[i].state == segment_state::unused) {
      remove_segment(segments[i].path);
      spdlog::debug("removed {}, which was prepared and never used", segments[i].path.string());
    }
  }
  if (torn) {
    spdlog::warn("cutting a torn tail: {}", torn->message);
    const auto removable = [&](std::size_t i) {
      return segments[i].state != segment_state::unused;
    };
    if (torn->whole_records > 0) {
      if (last) save_cut(directory, segments[*last], cut_position, result.end_offset);
      for (std::size_t i = behind; i < segments.size(); ++i) {
        if (removable(i)) save_cut(directory, segments[i], 0, result.end_offset);
      }
    }
    // From the back, each durable before the next: a crash in between leaves a torn tail that is
    // shorter.
    for (std::size_t i = segments.size(); i-- > behind;) {
      if (!removable(i)) continue;
      remove_segment(segments[i].path);
      os::sync_directory(directory);
    }
  }

  std::uint64_t limit = result.end_offset;
  for (std::size_t i = behind; i-- > 0;) {
    const segment_info& info = segments[i];
    if (info.state == segment_state::unused) continue;
    mapio::mapping file(info.path, {.mode = mapio::access::read_write, .announce = false});
    if (torn && last == i) {
      const std::uint64_t overwritten = zero_rest(file, cut_position);
      spdlog::warn("wrote zeros over {} bytes of {}, from position {} on", overwritten,
                   info.path.string(), cut_position);
    }
    std::error_code error;
    file.flush(error);
    if (error) {
      // What was read may have been in memory only, and is gone now.
      throw std::system_error(error,
                              fmt::format("cannot sync {}; the next start reads what the disk has",
                                          info.path.string()));
    }
    if (info.state == segment_state::started && info.base <= limit) {
      result.parts.push_back({info.number, info.path, info.salt, info.base, limit});
      limit = info.base;
    }
  }
  std::reverse(result.parts.begin(), result.parts.end());
  os::sync_directory(directory);
  if (!segments.empty()) result.last_number = last ? segments[*last].number : 0;

  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  spdlog::info(
      "recovered {} records of {} clients, {} bytes, in {} segments; the log ends at {}; {:.3f} s",
      result.records, result.highest.size(), result.bytes, result.parts.size(), result.end_offset,
      took.count());
  return result;
}

}  // namespace ingestd
