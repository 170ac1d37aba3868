#ifndef MAPIO_TESTS_CRASH_EXPECTATIONS_HPP
#define MAPIO_TESTS_CRASH_EXPECTATIONS_HPP

// What a crash must not take away: the ledger keeps what was acknowledged and when, expectations
// say what follows from it for the files.
//
// Every 8 bytes of a workload's file describe themselves: a version, and a checksum over the
// version, the file and the place. So content can be judged word by word, whatever pieces of it a
// crash left. Aligned words are not torn: neither by a copy into the mapping while the kernel
// writes the page out, nor by a disk, which writes sectors.

#include "logged_device.hpp"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace crash {

inline constexpr std::size_t word_size = 8;

/// Returns the word that stands at a place since that version; never 0.
std::uint64_t word_of(std::uint32_t file, std::uint64_t index, std::uint32_t version) noexcept;

/// Words [begin, end) of a file are of this version at least.
struct run {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint32_t version = 0;
};

/// Something that a mark in the log stands for.
struct event {
  enum class what {
    acknowledged,  ///< A flush was: the file exists, and all that is said here is durable.
    resizing,      ///< A resize begins: from now on the file may have that size, too.
  };
  what kind = what::acknowledged;
  std::uint32_t file = 0;
  std::optional<std::uint64_t> size;
  std::vector<run> content;
  /// The file was cut here since the last acknowledgement; what was stored behind it up to this
  /// version must not come back.
  std::optional<std::uint64_t> cut;
  std::uint32_t cut_version = 0;
};

/// Gives numbers to files and events, and marks the events in the log of a device. Any thread.
class ledger {
 public:
  /// The workload is between these two.
  static constexpr std::uint64_t begin_mark = std::uint64_t{1} << 62;
  static constexpr std::uint64_t end_mark = begin_mark + 1;

  explicit ledger(const logged_device& device) : device_(device) {}

  std::uint32_t add_file(std::string name);
  void record(event e);

  // Once the workload is over:
  const std::vector<std::string>& files() const noexcept { return files_; }
  const std::deque<event>& events() const noexcept { return events_; }

 private:
  const logged_device& device_;
  std::mutex mutex_;
  std::vector<std::string> files_;
  std::deque<event> events_;
};

/// Follows the events, and compares files with what is expected of them.
class expectations {
 public:
  explicit expectations(const ledger& book) : book_(book), files_(book.files().size()) {}

  /// What event number `n` says holds from now on.
  void apply(std::uint64_t n);
  /// Returns what is wrong with the files in a folder; empty if all is well.
  std::vector<std::string> compare(const std::filesystem::path& folder) const;

 private:
  struct file {
    bool exists = false;
    // The size that was acknowledged, and what resizes since may make of it. A file system may go
    // from one to the other in steps: xfs writes the last page out before it logs the new size, and
    // logs the end of that page then.
    std::uint64_t smallest = 0;
    std::uint64_t largest = ~std::uint64_t{0};
    std::vector<std::uint32_t> at_least;  // version of a word; 0: it may never have been written
    std::vector<std::uint32_t> above;     // version that a word must not have any more, if not zero
  };

  void compare_content(std::uint32_t number, const std::string& bytes,
                       std::vector<std::string>& problems) const;

  const ledger& book_;
  std::vector<file> files_;
};

}  // namespace crash

#endif  // MAPIO_TESTS_CRASH_EXPECTATIONS_HPP
