#ifndef MAPIO_EXAMPLES_INGESTD_INPUT_HPP
#define MAPIO_EXAMPLES_INGESTD_INPUT_HPP

// The input of `ingest`: lines of mapped files, dealt out over clients.
//
// Nothing is copied and no index is kept: a line is a view into a mapping, and which client it
// belongs to follows from where it starts. Files are cut into blocks of one page, the blocks are
// numbered through all files, and block b with every line that starts in it goes to client b mod n.
// A client that comes back, in this process or the next, finds its lines again by walking its
// blocks; each byte of the input is looked at by one client only, however long the lines are.

#include <mapio/mapping.hpp>
#include <mapio/region.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <fmt/format.h>
#include <xxhash.h>

namespace ingest {

inline constexpr std::uint64_t block_size = 4096;

/// Shows one line of the input, without its newline; valid while the input lives.
struct line {
  std::string_view text;
  std::size_t file = 0;      ///< Which of the input's files.
  std::uint64_t offset = 0;  ///< Where in the file it starts.
};

/// Maps files and keeps them mapped.
class input {
 public:
  /// Maps `paths`, in this order. Throws std::system_error with the path in its message.
  explicit input(const std::vector<std::filesystem::path>& paths) {
    for (const auto& path : paths) {
      std::error_code error;
      const mapio::mapping map(path, {}, error);
      if (error) throw std::system_error(error, path.string());
      // The region keeps the file mapped; the handle, and with it the descriptor, can go.
      files_.push_back({path, map.view(0, map.size())});
      bytes_ += map.size();
    }
  }

  std::size_t files() const noexcept { return files_.size(); }
  std::uint64_t bytes() const noexcept { return bytes_; }
  std::string_view text(std::size_t file) const noexcept { return files_[file].content.text(); }

  /// Says where a line is, for people.
  std::string where(const line& l) const {
    return fmt::format("{}: byte {}", files_[l.file].path.string(), l.offset);
  }

  /// Identifies the content: the same bytes in the same order, wherever they are stored.
  std::uint64_t fingerprint() const {
    std::uint64_t hash = 0;
    for (const auto& file : files_)
      hash = XXH3_64bits_withSeed(file.content.data(), file.content.size(), hash);
    return hash;
  }

 private:
  struct mapped {
    std::filesystem::path path;
    mapio::region content;
  };
  std::vector<mapped> files_;
  std::uint64_t bytes_ = 0;
};

/// Says how the lines are dealt out. Everything that changes which line gets which sequence is in
/// here, and in the names of the clients: two runs that deal differently are different clients to
/// the server.
struct dealing {
  std::string prefix = "ingest";
  std::uint32_t clients = 64;
  std::uint64_t max_record = 1 << 20;  ///< Longer lines are left out, and take no sequence.

  /// Returns the name of client `index` for an input with this fingerprint.
  std::string client_id(std::uint64_t fingerprint, std::uint32_t index) const {
    const std::uint64_t parts[] = {fingerprint, clients, max_record, block_size};
    return fmt::format("{}-{:016x}-{}", prefix, XXH3_64bits(parts, sizeof parts), index);
  }
};

/// Walks the lines of one client, in the order of their sequences.
class line_cursor {
 public:
  line_cursor(const input& in, const dealing& deal, std::uint32_t index)
      : input_(&in), clients_(deal.clients), max_record_(deal.max_record), next_block_(index) {
    enter_file();
  }

  /// Returns the next line, nothing at the end. Lines that are too long come too; the caller asks
  /// too_long().
  std::optional<line> next_of_any_length() {
    while (file_ < input_->files()) {
      const std::string_view text = input_->text(file_);
      if (start_ < block_end_) {
        const std::uint64_t begin = start_;
        const std::size_t newline = text.find('\n', begin);
        const std::uint64_t end = newline == std::string_view::npos ? text.size() : newline;
        start_ = end + 1;
        return line{text.substr(begin, end - begin), file_, begin};
      }
      if (!enter_block()) {
        ++file_;
        enter_file();
      }
    }
    return std::nullopt;
  }

  /// Returns the next line that makes a record, nothing at the end.
  std::optional<line> next() {
    auto l = next_of_any_length();
    while (l && too_long(*l))
      l = next_of_any_length();
    return l;
  }

  /// Tells whether a line is left out because no record can hold it.
  bool too_long(const line& l) const noexcept { return l.text.size() > max_record_; }

 private:
  // next_block_ counts from the start of the file: what is left over from the files before it
  // carries on.
  void enter_file() {
    start_ = block_end_ = 0;
    if (file_ < input_->files())
      blocks_ = (input_->text(file_).size() + block_size - 1) / block_size;
  }

  // Goes to the first line that starts in the client's next block; false if the file has no more
  // blocks.
  bool enter_block() {
    if (next_block_ >= blocks_) {
      next_block_ -= blocks_;
      return false;
    }
    const std::string_view text = input_->text(file_);
    const std::uint64_t begin = next_block_ * block_size;
    block_end_ = std::min<std::uint64_t>(begin + block_size, text.size());
    next_block_ += clients_;
    start_ = begin;
    if (begin != 0 && text[begin - 1] != '\n') {
      // Not beyond this block: a line that starts later is somebody else's.
      const std::size_t newline = text.substr(begin, block_end_ - begin).find('\n');
      start_ = newline == std::string_view::npos ? block_end_ : begin + newline + 1;
    }
    return true;
  }

  const input* input_;
  std::uint64_t clients_;
  std::uint64_t max_record_;
  std::size_t file_ = 0;
  std::uint64_t blocks_ = 0;
  std::uint64_t next_block_;
  std::uint64_t start_ = 0;
  std::uint64_t block_end_ = 0;
};

}  // namespace ingest

#endif  // MAPIO_EXAMPLES_INGESTD_INPUT_HPP
