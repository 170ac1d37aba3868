#ifndef MAPIO_EXAMPLES_INGESTD_VERIFY_HPP
#define MAPIO_EXAMPLES_INGESTD_VERIFY_HPP

// Compares what a daemon stored with what the clients of an input send.

#include "input.hpp"
#include "reader.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace ingest {

struct verification {
  std::uint64_t expected = 0;   ///< Records that the input makes.
  std::uint64_t found = 0;      ///< Records of its clients in the directory.
  std::uint64_t lost = 0;       ///< Expected, and not there.
  std::uint64_t corrupt = 0;    ///< Not what was sent, never sent, or unreadable.
  std::uint64_t duplicate = 0;  ///< There a second time.
  std::uint64_t foreign = 0;    ///< Records of clients that this input does not have.
  std::uint64_t foreign_clients = 0;
  std::uint64_t too_long = 0;         ///< Lines that make no record.
  std::vector<std::string> problems;  ///< What was found, in words; the first few.
};

/// Follows the records of one client through the log, beside the lines that it was to send.
class client_check {
 public:
  enum class verdict { good, different, duplicate, never_sent };

  explicit client_check(line_cursor lines) : lines_(lines) {}

  verdict see(std::uint64_t sequence, std::string_view payload) {
    if (sequence < next_) {
      // A sequence that was passed over is late, not lost; any other was here before.
      const auto late = missing_.find(sequence);
      if (late == missing_.end()) return sequence == 0 ? verdict::never_sent : verdict::duplicate;
      const bool same = late->second.text == payload;
      missing_.erase(late);
      return same ? verdict::good : verdict::different;
    }
    for (; next_ < sequence; ++next_) {
      const auto passed = take();
      if (!passed) return verdict::never_sent;
      missing_.emplace(next_, *passed);
    }
    const auto expected = take();
    if (!expected) return verdict::never_sent;
    ++next_;
    return expected->text == payload ? verdict::good : verdict::different;
  }

  /// Calls `visit(sequence, line)` for every line whose record did not come. To be called last,
  /// once.
  template <class Visit>
  void for_each_lost(Visit visit) {
    for (const auto& [sequence, l] : missing_)
      visit(sequence, l);
    for (auto l = take(); l; l = take())
      visit(next_++, *l);
  }

  std::uint64_t lines() const noexcept { return lines_taken_; }
  std::uint64_t too_long() const noexcept { return too_long_; }

 private:
  std::optional<line> take() {
    auto l = lines_.next_of_any_length();
    for (; l && lines_.too_long(*l); l = lines_.next_of_any_length())
      ++too_long_;
    if (l) ++lines_taken_;
    return l;
  }

  line_cursor lines_;
  std::uint64_t next_ = 1;  // the sequence of the line that the cursor comes to next
  std::uint64_t lines_taken_ = 0;
  std::uint64_t too_long_ = 0;
  std::map<std::uint64_t, line> missing_;
};

/// Reads the segments of `directory` and compares them with what the clients of `in` were to send.
inline verification verify_directory(const std::filesystem::path& directory, const input& in,
                                     const dealing& deal) {
  verification v;
  constexpr std::size_t most_problems = 20;
  std::size_t untold = 0;
  const auto tell = [&](std::string problem) {
    if (v.problems.size() < most_problems) {
      v.problems.push_back(std::move(problem));
    } else {
      ++untold;
    }
  };

  std::unordered_map<std::string, client_check> clients;
  const std::uint64_t fingerprint = in.fingerprint();
  for (std::uint32_t i = 0; i < deal.clients; ++i)
    clients.try_emplace(deal.client_id(fingerprint, i), line_cursor(in, deal, i));
  std::unordered_map<std::string, std::uint64_t> foreign;

  std::string name;
  const auto summary = ingestd::for_each_record(directory, [&](const ingestd::record_view& record) {
    name = record.client;
    const auto at = clients.find(name);
    if (at == clients.end()) {
      ++v.foreign;
      ++foreign[name];
      return;
    }
    ++v.found;
    const auto here = [&] {
      return fmt::format("client {} sequence {} at log offset {}", name, record.sequence,
                         record.log_offset);
    };
    switch (at->second.see(record.sequence, record.payload)) {
    case client_check::verdict::good:
      break;
    case client_check::verdict::different:
      ++v.corrupt;
      tell(here() + ": not the line that was sent");
      break;
    case client_check::verdict::never_sent:
      ++v.corrupt;
      tell(here() + ": no line of this input");
      break;
    case client_check::verdict::duplicate:
      ++v.duplicate;
      tell(here() + ": stored twice");
      break;
    }
  });

  v.corrupt += summary.corrupt;
  for (const auto& message : summary.messages)
    tell(message);
  for (auto& [id, check] : clients) {
    check.for_each_lost([&, &client_name = id](std::uint64_t sequence, const line& l) {
      ++v.lost;
      tell(fmt::format("client {} sequence {}: lost: {}, {} bytes", client_name, sequence,
                       in.where(l), l.text.size()));
    });
    v.expected += check.lines();
    v.too_long += check.too_long();
  }
  v.foreign_clients = foreign.size();
  if (untold != 0) v.problems.push_back(fmt::format("and {} more", untold));
  return v;
}

}  // namespace ingest

#endif  // MAPIO_EXAMPLES_INGESTD_VERIFY_HPP
