#ifndef MAPIO_TESTS_FUZZ_FILE_MODEL_HPP
#define MAPIO_TESTS_FUZZ_FILE_MODEL_HPP

// What a file and those who have it open must look like, in memory. Knows nothing of mapio but its
// options: what is right is written here a second time.

#include <mapio/options.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <vector>

namespace fuzz {

using bytes = std::vector<unsigned char>;

inline constexpr std::uint64_t page = 4096;

inline std::uint64_t page_floor(std::uint64_t offset) {
  return offset / page * page;
}
inline std::uint64_t page_ceil(std::uint64_t offset) {
  return page_floor(offset + page - 1);
}

struct open_model;

/// A file on disk, whoever has it open, and whatever its names are.
struct disk_file {
  bytes content;
  std::vector<std::weak_ptr<open_model>> private_users;

  /// Where touching a mapping begins to fault.
  std::uint64_t end_of_pages() const { return page_ceil(content.size()); }
  void resize(std::uint64_t size);
};

/// A page of a copy-on-write mapping since its first store. What was in the file's last page behind
/// the end is not known.
struct private_page {
  bytes content = bytes(page);
  std::vector<bool> known = std::vector<bool>(page);

  bool differs(std::uint64_t at, unsigned char read) const {
    return known[at] && content[at] != read;
  }
  void store(std::uint64_t at, const unsigned char* from, std::size_t n) {
    std::copy_n(from, n, content.data() + at);
    std::fill_n(known.begin() + static_cast<std::ptrdiff_t>(at), n, true);
  }
};

/// What all handles to one open file share.
struct open_model {
  std::shared_ptr<disk_file> on;
  mapio::open_options options;
  std::uint64_t size = 0;  // as the library knows it; others may have changed the file
  bool is_open = true;
  bool is_adopted = false;
  bool is_busy = false;  // may have something under way that nobody awaits
  std::map<std::uint64_t, private_page> own_pages;
  std::set<std::uint64_t> dirty_pages;
  bool dirty_is_known = true;
  std::set<std::uint64_t> locked_pages;

  bool is(mapio::access mode) const { return options.mode == mode; }
  bool is_stale() const { return size != on->content.size(); }
  bool holds(std::uint64_t offset, std::uint64_t length) const {
    return offset <= size && length <= size - offset;
  }

  /// How many of these bytes can be touched.
  std::uint64_t accessible(std::uint64_t offset, std::uint64_t length) const {
    const std::uint64_t end = on->end_of_pages();
    return offset >= end ? 0 : std::min(length, end - offset);
  }

  /// Returns where what was read differs from what must be there; `n` if nowhere. Bytes behind the
  /// file's real end are anybody's.
  std::size_t difference(std::uint64_t offset, const unsigned char* read, std::size_t n) const {
    std::size_t same = n;
    each_page(offset, n, [&](std::uint64_t number, std::uint64_t at, std::size_t count) {
      const unsigned char* const got = read + (at - offset);
      const auto own = own_pages.find(number);
      for (std::size_t i = 0; i < count && same == n; ++i)
        if (own != own_pages.end() ? own->second.differs(at % page + i, got[i])
                                   : at + i < on->content.size() && on->content[at + i] != got[i])
          same = at + i - offset;
    });
    return same;
  }

  /// Stores where it is accessible.
  void store(std::uint64_t offset, const unsigned char* from, std::size_t n) {
    each_page(offset, n, [&](std::uint64_t number, std::uint64_t at, std::size_t count) {
      const unsigned char* const what = from + (at - offset);
      if (is(mapio::access::copy_on_write))
        own_page(number).store(at % page, what, count);
      else if (at < on->content.size())
        std::copy_n(what, std::min<std::size_t>(count, on->content.size() - at),
                    on->content.data() + at);
    });
  }

  void mark_dirty(std::uint64_t offset, std::uint64_t length) {
    if (!is(mapio::access::read_write) || length == 0) return;
    for (std::uint64_t p = offset / page; p <= (offset + length - 1) / page; ++p)
      dirty_pages.insert(p);
  }
  void mark_clean(std::uint64_t offset, std::uint64_t length) {
    if (length == 0) return;
    dirty_pages.erase(dirty_pages.lower_bound(offset / page),
                      dirty_pages.upper_bound((offset + length - 1) / page));
  }
  std::uint64_t dirty_bytes() const {
    const auto end = dirty_pages.lower_bound(page_ceil(size) / page);
    return static_cast<std::uint64_t>(std::distance(dirty_pages.begin(), end)) * page;
  }

  /// The library has another size now.
  void know_size(std::uint64_t new_size) {
    if (new_size < size) {
      dirty_pages.erase(dirty_pages.lower_bound(page_ceil(new_size) / page), dirty_pages.end());
      locked_pages.erase(locked_pages.lower_bound(page_ceil(new_size) / page), locked_pages.end());
    }
    size = new_size;
  }

 private:
  template <class Use>
  static void each_page(std::uint64_t offset, std::size_t n, Use use) {
    for (std::uint64_t at = offset; at < offset + n;) {
      const std::uint64_t count = std::min(page - at % page, offset + n - at);
      use(at / page, at, count);
      at += count;
    }
  }

  private_page& own_page(std::uint64_t number) {
    const auto [at, is_new] = own_pages.try_emplace(number);
    const std::uint64_t begin = number * page;
    if (is_new && begin < on->content.size())
      at->second.store(0, on->content.data() + begin,
                       std::min<std::size_t>(page, on->content.size() - begin));
    return at->second;
  }
};

// A page that is cut takes the private copies of it along.
inline void disk_file::resize(std::uint64_t size) {
  if (size < content.size())
    for (const auto& weak : private_users)
      if (const auto user = weak.lock())
        user->own_pages.erase(user->own_pages.lower_bound(page_ceil(size) / page),
                              user->own_pages.end());
  content.resize(size);
}

}  // namespace fuzz

#endif  // MAPIO_TESTS_FUZZ_FILE_MODEL_HPP
