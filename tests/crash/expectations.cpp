#include "expectations.hpp"

#include <algorithm>
#include <cstring>
#include <sstream>
#include <utility>

namespace crash {

namespace {

constexpr std::uint64_t mix(std::uint64_t x) noexcept {
  x ^= x >> 31;
  x *= 0x9e3779b97f4a7c15U;
  x ^= x >> 29;
  x *= 0xd6e8feb86659fd93U;
  return x ^ (x >> 32);
}

}  // namespace

std::uint64_t word_of(std::uint32_t file, std::uint64_t index, std::uint32_t version) noexcept {
  const std::uint64_t place = mix((std::uint64_t{file} << 40) + index + 1);
  const std::uint64_t check = mix(place + version) & 0xffffffffU;
  return (std::uint64_t{version} << 32) | check;
}

// --- ledger
// ---------------------------------------------------------------------------------------

std::uint32_t ledger::add_file(std::string name) {
  const std::lock_guard lock(mutex_);
  files_.push_back(std::move(name));
  return static_cast<std::uint32_t>(files_.size() - 1);
}

void ledger::record(event e) {
  std::uint64_t number = 0;
  {
    const std::lock_guard lock(mutex_);
    number = events_.size();
    events_.push_back(std::move(e));
  }
  device_.mark(number);
}

// --- expectations
// ---------------------------------------------------------------------------------

void expectations::apply(std::uint64_t n) {
  const event& e = book_.events().at(static_cast<std::size_t>(n));
  file& f = files_.at(e.file);
  if (e.kind == event::what::resizing) {
    f.smallest = std::min(f.smallest, *e.size);
    f.largest = std::max(f.largest, *e.size);
    const std::size_t kept = static_cast<std::size_t>(*e.size / word_size);
    for (std::size_t w = kept; w < f.at_least.size(); ++w)
      f.at_least[w] = f.above[w] = 0;
    return;
  }
  f.exists = true;
  std::size_t words = f.at_least.size();
  if (e.size) {
    f.smallest = f.largest = *e.size;
    words = std::max(words, static_cast<std::size_t>(*e.size / word_size));
  }
  for (const run& r : e.content)
    words = std::max(words, static_cast<std::size_t>(r.end));
  f.at_least.resize(words);
  f.above.resize(words);
  if (e.cut)
    for (std::size_t w = static_cast<std::size_t>(*e.cut / word_size); w < words; ++w)
      f.above[w] = e.cut_version;
  for (const run& r : e.content)
    for (auto w = static_cast<std::size_t>(r.begin); w < r.end; ++w)
      f.at_least[w] = std::max(f.at_least[w], r.version);
}

std::vector<std::string> expectations::compare(const std::filesystem::path& folder) const {
  std::vector<std::string> problems;
  for (std::uint32_t number = 0; number < files_.size(); ++number) {
    const file& f = files_[number];
    if (!f.exists) continue;
    const std::string& name = book_.files()[number];
    std::string bytes;
    try {
      bytes = support::read_file(folder / name);
    } catch (const std::exception& e) {
      problems.push_back(name + ": " + e.what());
      continue;
    }
    if (bytes.size() < f.smallest || bytes.size() > f.largest) {
      std::ostringstream problem;
      problem << name << ": its size is " << bytes.size() << ", not between " << f.smallest
              << " and " << f.largest;
      problems.push_back(problem.str());
    }
    compare_content(number, bytes, problems);
  }
  return problems;
}

void expectations::compare_content(std::uint32_t number, const std::string& bytes,
                                   std::vector<std::string>& problems) const {
  const file& f = files_[number];
  const std::size_t words = bytes.size() / word_size;
  std::size_t wrong = 0;
  std::string first;
  for (std::size_t w = 0; w < std::max(words, f.at_least.size()); ++w) {
    const std::uint32_t at_least = w < f.at_least.size() ? f.at_least[w] : 0;
    const std::uint32_t above = w < f.above.size() ? f.above[w] : 0;
    std::uint64_t word = 0;
    if (w < words) std::memcpy(&word, bytes.data() + w * word_size, word_size);
    const auto version = static_cast<std::uint32_t>(word >> 32);
    std::string problem;
    if (word == 0) {
      if (at_least == 0) continue;
      problem = w < words ? "nothing there" : "behind the end";
    } else if (word != word_of(number, w, version)) {
      problem = "garbage";
    } else if (version < at_least) {
      problem = "version " + std::to_string(version);
    } else if (version <= above) {
      problem = "version " + std::to_string(version) + ", cut away at " + std::to_string(above);
    } else {
      continue;
    }
    if (wrong++ == 0)
      first = problem + " instead of version " + std::to_string(at_least) + " in word " +
              std::to_string(w);
  }
  if (wrong != 0)
    problems.push_back(book_.files()[number] + ": " + first + ", and " + std::to_string(wrong - 1) +
                       " more wrong words");
}

}  // namespace crash
