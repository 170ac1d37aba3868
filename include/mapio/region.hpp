#ifndef MAPIO_REGION_HPP
#define MAPIO_REGION_HPP

#include <mapio/detail/config.hpp>
#include <mapio/detail/pin.hpp>

#include <asio/buffer.hpp>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string_view>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {
struct region_access;
}
class mapping;

/// Shows a range of a mapped file and keeps it mapped, at this address, for as long as any copy
/// lives.
///
/// Neither resize nor close nor the end of every other handle unmaps the bytes: the last copy does.
/// It is an asio::const_buffer, so that sockets take it as it is and the write keeps the pin. The
/// bytes are shared with everybody who stores to the file. If somebody outside truncates the file,
/// touching the bytes beyond its end raises SIGBUS (docs/guarantees.md).
///
/// @par Thread safety
///   Different objects, copies included: any thread. One object: like an int.
/// @par Example
///   mapio::region head = file.view(0, 4096); co_await asio::async_write(socket, head);
class region : public asio::const_buffer {
 public:
  /// Names the type of what it is a range of.
  using value_type = std::byte;
  /// Names the type of what begin() and end() return.
  using const_iterator = const std::byte*;

  /// Makes an empty region that pins nothing.
  region() noexcept = default;
  /// Pins the same bytes once more.
  region(const region&) = default;
  /// Drops what this region pinned, and pins the same bytes as `other` does.
  region& operator=(const region& other) = default;
  /// Leaves `other` empty.
  region(region&& other) noexcept
      : const_buffer(std::exchange(other.buffer(), {})), pin_(std::move(other.pin_)),
        offset_(std::exchange(other.offset_, 0)) {}
  /// Drops what this region pinned and leaves `other` empty.
  region& operator=(region&& other) noexcept {
    buffer() = std::exchange(other.buffer(), {});
    offset_ = std::exchange(other.offset_, 0);
    pin_ = std::move(other.pin_);
    return *this;
  }
  /// Drops the pin.
  ~region() = default;

  /// Returns the address of the first byte; null when empty.
  const std::byte* data() const noexcept {
    return static_cast<const std::byte*>(const_buffer::data());
  }
  /// Returns the position of the first byte in the file, in bytes.
  std::uint64_t offset() const noexcept { return offset_; }
  /// Tells whether there is not a single byte.
  bool empty() const noexcept { return size() == 0; }
  /// Returns the address of the first byte; null when empty.
  const std::byte* begin() const noexcept { return data(); }
  /// Returns the address behind the last byte; null when empty.
  const std::byte* end() const noexcept { return data() + size(); }
  /// Returns the bytes; valid while a copy of this region lives.
  std::span<const std::byte> bytes() const noexcept { return {data(), size()}; }
  /// Shows the bytes to what takes a span; valid while a copy of this region lives.
  operator std::span<const std::byte>() const noexcept { return bytes(); }
  /// Returns the bytes as text; valid while a copy of this region lives.
  std::string_view text() const noexcept {
    return {static_cast<const char*>(const_buffer::data()), size()};
  }
  /// Returns the part from `first` on, at most `count` bytes, with a pin of its own; clamps to what
  /// is there.
  region subregion(std::size_t first, std::size_t count = static_cast<std::size_t>(-1)) const {
    region part = *this;
    part += first;
    part.buffer() = const_buffer(part.data(), count < part.size() ? count : part.size());
    return part;
  }
  /// Moves the start forward by at most size() bytes; the pin stays as it is.
  region& operator+=(std::size_t n) noexcept {
    offset_ += n < size() ? n : size();
    const_buffer::operator+=(n);
    return *this;
  }

 private:
  friend struct detail::region_access;
  region(detail::pin pin, const std::byte* data, std::size_t size, std::uint64_t offset) noexcept
      : const_buffer(data, size), pin_(std::move(pin)), offset_(offset) {}

  const_buffer& buffer() noexcept { return *this; }

  detail::pin pin_;
  std::uint64_t offset_ = 0;
};

/// Shows a range of a mapped file for writing, and keeps it mapped, at this address, for as long as
/// any copy lives.
///
/// Its pages count as dirty until the last copy is gone: every flush of them writes what is there,
/// and a flush after the last copy is gone covers every store made through it. Stores raise SIGBUS
/// where the file was truncated by somebody outside, or where a full disk cannot back a hole.
///
/// @par Thread safety
///   Different objects, copies included: any thread. One object: like an int. Stores to the same
///   bytes are the caller's race.
/// @par Example
///   auto header = file.mutable_view(0, 64); std::memcpy(header.data(), &h, sizeof h);
class mutable_region : public asio::mutable_buffer {
 public:
  /// Names the type of what it is a range of.
  using value_type = std::byte;
  /// Names the type of what begin() and end() return.
  using iterator = std::byte*;

  /// Makes an empty region that pins nothing.
  mutable_region() noexcept = default;
  /// Pins the same bytes once more.
  mutable_region(const mutable_region&) = default;
  /// Drops what this region pinned, and pins the same bytes as `other` does.
  mutable_region& operator=(const mutable_region& other) = default;
  /// Leaves `other` empty.
  mutable_region(mutable_region&& other) noexcept
      : mutable_buffer(std::exchange(other.buffer(), {})), pin_(std::move(other.pin_)),
        offset_(std::exchange(other.offset_, 0)) {}
  /// Drops what this region pinned and leaves `other` empty.
  mutable_region& operator=(mutable_region&& other) noexcept {
    buffer() = std::exchange(other.buffer(), {});
    offset_ = std::exchange(other.offset_, 0);
    pin_ = std::move(other.pin_);
    return *this;
  }
  /// Drops the pin.
  ~mutable_region() = default;

  /// Returns the address of the first byte; null when empty.
  std::byte* data() const noexcept { return static_cast<std::byte*>(mutable_buffer::data()); }
  /// Returns the position of the first byte in the file, in bytes.
  std::uint64_t offset() const noexcept { return offset_; }
  /// Tells whether there is not a single byte.
  bool empty() const noexcept { return size() == 0; }
  /// Returns the address of the first byte; null when empty.
  std::byte* begin() const noexcept { return data(); }
  /// Returns the address behind the last byte; null when empty.
  std::byte* end() const noexcept { return data() + size(); }
  /// Returns the bytes; valid while a copy of this region lives.
  std::span<std::byte> bytes() const noexcept { return {data(), size()}; }
  /// Shows the bytes to what takes a span; valid while a copy of this region lives.
  operator std::span<std::byte>() const noexcept { return bytes(); }
  /// Shows the bytes to what takes a span; valid while a copy of this region lives.
  operator std::span<const std::byte>() const noexcept { return bytes(); }
  /// Moves the start forward by at most size() bytes; the pin stays as it is.
  mutable_region& operator+=(std::size_t n) noexcept {
    offset_ += n < size() ? n : size();
    mutable_buffer::operator+=(n);
    return *this;
  }

 private:
  friend struct detail::region_access;
  mutable_region(detail::pin pin, std::byte* data, std::size_t size, std::uint64_t offset) noexcept
      : mutable_buffer(data, size), pin_(std::move(pin)), offset_(offset) {}

  mutable_buffer& buffer() noexcept { return *this; }

  detail::pin pin_;
  std::uint64_t offset_ = 0;
};

namespace detail {
/// Lets the library make regions without giving everybody the constructor.
struct region_access {
  static region make(pin p, const std::byte* data, std::size_t size,
                     std::uint64_t offset) noexcept {
    return {std::move(p), data, size, offset};
  }
  static mutable_region make(pin p, std::byte* data, std::size_t size,
                             std::uint64_t offset) noexcept {
    return {std::move(p), data, size, offset};
  }
  /// Makes a region of `count` bytes from `first` on that pins nothing else.
  template <class Region>
  static Region part(const Region& whole, std::size_t first, std::size_t count,
                     std::uint64_t flags) {
    const std::uint64_t offset = whole.offset_ + first;
    return {whole.pin_.part(offset, offset + count, flags), whole.data() + first, count, offset};
  }
};
}  // namespace detail

/// Cuts what there is of a file, or of a segment, into chunks of the same size: a forward range of
/// regions, of which the last may be short.
///
/// Made by mapping::chunks(), mapping::pages() and mapping::mutable_chunks(). Each time that an
/// iterator is dereferenced it makes a region, which pins its own bytes only; those stay valid
/// after the range is gone. A chunk of a mutable_chunk_range counts as dirty from then on, until
/// its last copy is gone; chunks that are passed over do not.
///
/// **A file that changes meanwhile.** The range is about what there was when it was made, and keeps
/// all of that mapped: bytes that are appended are not among the chunks, and for a resize that
/// would cut or move the file it is in the way like any region.
///
/// Iterators are valid while the range that they are of lives, and stays where it is.
///
/// @tparam Region  region or mutable_region.
/// @par Errors
///   Dereferencing throws std::system_error (std::errc::not_enough_memory) when there is no memory
///   for a pin. Nothing else here throws but copying, for the same reason.
/// @par Thread safety
///   As region; any number of threads may go over one range at once.
/// @par Example
///   for (const mapio::region& chunk : file.chunks(64 << 10)) sum += checksum(chunk.bytes());
template <class Region>
class basic_chunk_range {
 public:
  /// Goes over the chunks from the first to the last.
  class iterator {
   public:
    /// Says that several passes give the same chunks,
    using iterator_concept = std::forward_iterator_tag;
    /// though they are no references, as algorithms from before C++20 would want.
    using iterator_category = std::input_iterator_tag;
    /// Names the type of a chunk.
    using value_type = Region;
    /// Names the type of what dereferencing gives.
    using reference = Region;
    /// There is no way to point at a chunk.
    using pointer = void;
    /// Counts chunks.
    using difference_type = std::ptrdiff_t;

    /// Makes an iterator of no range.
    iterator() noexcept = default;
    /// Makes a region of this chunk.
    Region operator*() const { return range_->chunk_at(at_); }
    /// Goes to the next chunk.
    iterator& operator++() noexcept {
      at_ += range_->length_of(at_);
      return *this;
    }
    /// Goes to the next chunk; returns where it was.
    iterator operator++(int) noexcept {
      iterator before = *this;
      ++*this;
      return before;
    }
    /// Tells whether two iterators of one range are at the same chunk.
    friend bool operator==(const iterator&, const iterator&) noexcept = default;

   private:
    friend class basic_chunk_range;
    iterator(const basic_chunk_range& range, std::size_t at) noexcept : range_(&range), at_(at) {}

    const basic_chunk_range* range_ = nullptr;
    std::size_t at_ = 0;
  };
  /// Names the type of what begin() and end() return.
  using const_iterator = iterator;
  /// Names the type of a chunk.
  using value_type = Region;

  /// Makes a range without chunks that pins nothing.
  basic_chunk_range() noexcept = default;

  /// Returns an iterator at the first chunk.
  iterator begin() const noexcept { return {*this, 0}; }
  /// Returns an iterator behind the last chunk.
  iterator end() const noexcept { return {*this, whole_.size()}; }
  /// Returns the number of chunks.
  std::size_t size() const noexcept {
    return whole_.size() / chunk_size_ + (whole_.size() % chunk_size_ != 0 ? 1 : 0);
  }
  /// Tells whether there is not a single chunk.
  bool empty() const noexcept { return whole_.empty(); }

 private:
  friend class mapping;
  basic_chunk_range(Region whole, std::size_t chunk_size, std::uint64_t chunk_flags) noexcept
      : whole_(std::move(whole)), chunk_size_(chunk_size), chunk_flags_(chunk_flags) {}

  std::size_t length_of(std::size_t at) const noexcept {
    return chunk_size_ < whole_.size() - at ? chunk_size_ : whole_.size() - at;
  }
  Region chunk_at(std::size_t at) const {
    return detail::region_access::part(whole_, at, length_of(at), chunk_flags_);
  }

  Region whole_;  // pinned, but not for writing: it makes nothing dirty
  std::size_t chunk_size_ = 1;
  std::uint64_t chunk_flags_ = 0;  // of the pins of chunks
};

/// Hands out what there is of a file in chunks, for reading.
using chunk_range = basic_chunk_range<region>;
/// Hands out what there is of a file in chunks, for writing.
using mutable_chunk_range = basic_chunk_range<mutable_region>;

MAPIO_NAMESPACE_END

#endif  // MAPIO_REGION_HPP
