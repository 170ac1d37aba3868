#ifndef MAPIO_SEGMENT_HPP
#define MAPIO_SEGMENT_HPP

#include <mapio/atomic.hpp>
#include <mapio/detail/config.hpp>
#include <mapio/detail/total_bytes.hpp>
#include <mapio/mapping.hpp>
#include <mapio/options.hpp>
#include <mapio/region.hpp>

#include <cstddef>
#include <cstdint>
#include <system_error>
#include <utility>

MAPIO_NAMESPACE_BEGIN

/// Works on a part of a mapped file with the verbs of mapping, at offsets from its own start.
///
/// Made by mapping::slice(). A handle to the file like any other copy of the mapping; it pins
/// nothing. Its bounds hold: what is outside of them is errc::out_of_range, whatever the file has
/// there. It is checked against the file with every call: after the file was cut, what is left of
/// the segment works as before, and what reaches beyond the end of the file is errc::out_of_range,
/// until the file has grown again. The verbs that take no range are about the whole segment.
///
/// A window has no size to change: resize() and refresh() are the file's, as are its counters and
/// its flush error; map() has them.
///
/// Every call has the errors of the verb of mapping that it is named after, errc::not_open for one
/// that was made without a file, was moved from, or whose file is closed.
///
/// @par Thread safety
///   As mapping.
/// @par Example
///   mapio::segment records = m.slice(4096, 1 << 20); records.update_region(0, asio::buffer(r));
class segment {
 public:
  /// Makes a segment of no file, without a single byte.
  segment() noexcept = default;
  /// Copies the window; both are about the same bytes.
  segment(const segment&) noexcept = default;
  /// Copies the window; both are about the same bytes.
  segment& operator=(const segment&) noexcept = default;
  /// Leaves `other` without a file.
  segment(segment&& other) noexcept
      : map_(std::move(other.map_)), offset_(std::exchange(other.offset_, 0)),
        length_(std::exchange(other.length_, 0)) {}
  /// Leaves `other` without a file.
  segment& operator=(segment&& other) noexcept {
    map_ = std::move(other.map_);
    offset_ = std::exchange(other.offset_, 0);
    length_ = std::exchange(other.length_, 0);
    return *this;
  }
  /// Lets go of the file; never flushes.
  ~segment() = default;

  /// Returns its length in bytes, whatever became of the file.
  std::uint64_t size() const noexcept { return length_; }
  /// Tells whether size() is 0.
  bool empty() const noexcept { return length_ == 0; }
  /// Returns the position of its first byte in the file, in bytes.
  std::uint64_t offset() const noexcept { return offset_; }
  /// Tells whether its file is open.
  bool is_open() const noexcept { return map_.is_open(); }
  /// Returns the access that the file was opened with; read_only when closed.
  access mode() const noexcept { return map_.mode(); }
  /// Returns the file that it is a part of.
  const mapping& map() const noexcept { return map_; }

  /// Shows [offset, offset + length) without copying; see mapping::view(). The region's own offset
  /// is that in the file.
  ///
  /// @par Example
  ///   mapio::region header = s.view(0, 64);
  region view(std::uint64_t offset, std::uint64_t length) const {
    return map_.view(in_file(offset, length), length);
  }
  /// Views without throwing; returns an empty region on error.
  region view(std::uint64_t offset, std::uint64_t length, std::error_code& error) const {
    return map_.view(in_file(offset, length), length, error);
  }

  /// Shows [offset, offset + length) for writing; see mapping::mutable_view().
  ///
  /// @par Example
  ///   std::memset(s.mutable_view(0, 16).data(), 0, 16);
  mutable_region mutable_view(std::uint64_t offset, std::uint64_t length) {
    return map_.mutable_view(in_file(offset, length), length);
  }
  /// Views without throwing; returns an empty region on error.
  mutable_region mutable_view(std::uint64_t offset, std::uint64_t length, std::error_code& error) {
    return map_.mutable_view(in_file(offset, length), length, error);
  }

  /// Cuts the segment into chunks of `bytes` bytes; see mapping::chunks().
  ///
  /// @par Example
  ///   for (const mapio::region& chunk : s.chunks(64 << 10)) digest.update(chunk.bytes());
  chunk_range chunks(std::size_t bytes) const {
    std::error_code error;
    chunk_range result = chunks(bytes, error);
    if (error) detail::throw_error(error, "chunks");
    return result;
  }
  /// Makes the range without throwing; it is empty on error.
  chunk_range chunks(std::size_t bytes, std::error_code& error) const {
    return map_.cut(false, offset_, length_, bytes, error);
  }
  /// Cuts the segment into chunks for writing; see mapping::mutable_chunks().
  ///
  /// @par Example
  ///   for (const mapio::mutable_region& chunk : s.mutable_chunks(4096)) encrypt(chunk.bytes());
  mutable_chunk_range mutable_chunks(std::size_t bytes) {
    std::error_code error;
    mutable_chunk_range result = mutable_chunks(bytes, error);
    if (error) detail::throw_error(error, "mutable_chunks");
    return result;
  }
  /// Makes the range without throwing; it is empty on error.
  mutable_chunk_range mutable_chunks(std::size_t bytes, std::error_code& error) {
    return map_.mutable_cut(false, offset_, length_, bytes, error);
  }

  /// Cuts the segment into chunks of page_size() bytes, from its own start on; see chunks(). They
  /// are pages of the file where that start is a multiple of page_size().
  ///
  /// @par Example
  ///   for (const mapio::region& page : s.pages()) index(page.offset(), page.bytes());
  chunk_range pages() const { return chunks(page_size()); }
  /// Makes the range without throwing; it is empty on error.
  chunk_range pages(std::error_code& error) const { return chunks(page_size(), error); }

  /// Makes a segment of a part of this one; it has the bounds that it is given, within these.
  ///
  /// @par Errors
  ///   errc::out_of_range, errc::not_open.
  /// @par Example
  ///   mapio::segment second = s.slice(64, 64);
  segment slice(std::uint64_t offset, std::uint64_t length) {
    return map_.slice(in_file(offset, length), length);
  }
  /// Slices without throwing; returns a segment without a file on error.
  segment slice(std::uint64_t offset, std::uint64_t length, std::error_code& error) {
    return map_.slice(in_file(offset, length), length, error);
  }

  /// Stores `buffers`, one after another, at `offset`; see mapping::update_region().
  ///
  /// @par Example
  ///   s.update_region(0, asio::buffer(record));
  template <class ConstBufferSequence>
  std::size_t update_region(std::uint64_t offset, const ConstBufferSequence& buffers) {
    return map_.update_region(in_file(offset, detail::total_bytes(buffers)), buffers);
  }
  /// Updates without throwing.
  template <class ConstBufferSequence>
  std::size_t update_region(std::uint64_t offset, const ConstBufferSequence& buffers,
                            std::error_code& error) {
    return map_.update_region(in_file(offset, detail::total_bytes(buffers)), buffers, error);
  }

  /// Copies from `offset` on into `buffers`; see mapping::read_into().
  ///
  /// @par Example
  ///   s.read_into(0, asio::buffer(record));
  template <class MutableBufferSequence>
  std::size_t read_into(std::uint64_t offset, const MutableBufferSequence& buffers) const {
    return map_.read_into(in_file(offset, detail::total_bytes(buffers)), buffers);
  }
  /// Reads without throwing.
  template <class MutableBufferSequence>
  std::size_t read_into(std::uint64_t offset, const MutableBufferSequence& buffers,
                        std::error_code& error) const {
    return map_.read_into(in_file(offset, detail::total_bytes(buffers)), buffers, error);
  }

  /// Makes everything written to the segment so far survive power loss; see flush_range().
  ///
  /// @par Example
  ///   s.flush();
  void flush(durability level = durability::durable) { flush_range(0, length_, level); }
  /// Flushes without throwing.
  void flush(std::error_code& error) { flush_range(0, length_, error); }
  /// Flushes without throwing.
  void flush(durability level, std::error_code& error) { flush_range(0, length_, level, error); }

  /// Makes every byte of [offset, offset + length) written so far survive power loss; see
  /// mapping::flush_range().
  ///
  /// @par Example
  ///   s.flush_range(0, 64);
  void flush_range(std::uint64_t offset, std::uint64_t length,
                   durability level = durability::durable) {
    map_.flush_range(in_file(offset, length), length, level);
  }
  /// Flushes without throwing.
  void flush_range(std::uint64_t offset, std::uint64_t length, std::error_code& error) {
    map_.flush_range(in_file(offset, length), length, error);
  }
  /// Flushes without throwing.
  void flush_range(std::uint64_t offset, std::uint64_t length, durability level,
                   std::error_code& error) {
    map_.flush_range(in_file(offset, length), length, level, error);
  }

  /// Brings the segment into memory; see prefetch(offset, length).
  ///
  /// @par Example
  ///   s.prefetch();
  void prefetch() { prefetch(0, length_); }
  /// Prefetches without throwing.
  void prefetch(std::error_code& error) { prefetch(0, length_, error); }
  /// Brings [offset, offset + length) into memory; see mapping::prefetch().
  ///
  /// @par Example
  ///   s.prefetch(0, 4096);
  void prefetch(std::uint64_t offset, std::uint64_t length) {
    map_.prefetch(in_file(offset, length), length);
  }
  /// Prefetches without throwing.
  void prefetch(std::uint64_t offset, std::uint64_t length, std::error_code& error) {
    map_.prefetch(in_file(offset, length), length, error);
  }

  /// Tells whether every page of [offset, offset + length) is in memory now; see
  /// mapping::is_resident().
  ///
  /// @par Example
  ///   if (!s.is_resident(0, s.size())) s.prefetch();
  bool is_resident(std::uint64_t offset, std::uint64_t length) const {
    return map_.is_resident(in_file(offset, length), length);
  }
  /// Asks without throwing; false on error.
  bool is_resident(std::uint64_t offset, std::uint64_t length, std::error_code& error) const {
    return map_.is_resident(in_file(offset, length), length, error);
  }

  /// Tells the OS how [offset, offset + length) will be used; see mapping::advise(). Pages that it
  /// shares with its neighbours are advised on as a whole.
  ///
  /// @par Example
  ///   s.advise(0, s.size(), mapio::advice::random);
  void advise(std::uint64_t offset, std::uint64_t length, advice what) {
    map_.advise(in_file(offset, length), length, what);
  }
  /// Advises without throwing.
  void advise(std::uint64_t offset, std::uint64_t length, advice what, std::error_code& error) {
    map_.advise(in_file(offset, length), length, what, error);
  }

  /// Keeps the pages of the segment in memory; see lock_pages(offset, length).
  ///
  /// @par Example
  ///   s.lock_pages();
  void lock_pages() { lock_pages(0, length_); }
  /// Locks without throwing.
  void lock_pages(std::error_code& error) { lock_pages(0, length_, error); }
  /// Keeps the pages of [offset, offset + length) in memory; see mapping::lock_pages(). Pages that
  /// it shares with its neighbours are locked, and unlocked, as a whole.
  ///
  /// @par Example
  ///   s.lock_pages(0, 4096);
  void lock_pages(std::uint64_t offset, std::uint64_t length) {
    map_.lock_pages(in_file(offset, length), length);
  }
  /// Locks without throwing.
  void lock_pages(std::uint64_t offset, std::uint64_t length, std::error_code& error) {
    map_.lock_pages(in_file(offset, length), length, error);
  }

  /// Ends the locks of the segment's pages; see unlock_pages(offset, length).
  ///
  /// @par Example
  ///   s.unlock_pages();
  void unlock_pages() { unlock_pages(0, length_); }
  /// Unlocks without throwing.
  void unlock_pages(std::error_code& error) { unlock_pages(0, length_, error); }
  /// Ends the locks of the pages of [offset, offset + length); see mapping::unlock_pages().
  ///
  /// @par Example
  ///   s.unlock_pages(0, 4096);
  void unlock_pages(std::uint64_t offset, std::uint64_t length) {
    map_.unlock_pages(in_file(offset, length), length);
  }
  /// Unlocks without throwing.
  void unlock_pages(std::uint64_t offset, std::uint64_t length, std::error_code& error) {
    map_.unlock_pages(in_file(offset, length), length, error);
  }

  /// Counts stores to [offset, offset + length) that mapio has not seen; see mapping::publish().
  ///
  /// @par Example
  ///   s.publish(0, s.size());
  void publish(std::uint64_t offset, std::uint64_t length) {
    map_.publish(in_file(offset, length), length);
  }
  /// Publishes without throwing.
  void publish(std::uint64_t offset, std::uint64_t length, std::error_code& error) {
    map_.publish(in_file(offset, length), length, error);
  }

  /// Refers to the integer at `offset`, for atomic operations by threads and processes at once; see
  /// mapping::atomic(). The view's own offset is that in the file, and what has to be a multiple of
  /// sizeof(T).
  ///
  /// @tparam T  An integer of 4 or 8 bytes.
  /// @par Example
  ///   std::uint64_t id = s.atomic<std::uint64_t>(0).fetch_add(1);
  template <atomic_word T>
  atomic_view<T> atomic(std::uint64_t offset) {
    return map_.atomic<T>(in_file(offset, sizeof(T)));
  }
  /// Refers without throwing; returns an empty view on error.
  template <atomic_word T>
  atomic_view<T> atomic(std::uint64_t offset, std::error_code& error) {
    return map_.atomic<T>(in_file(offset, sizeof(T)), error);
  }

  /// Refers to `count` integers from `offset` on, side by side; see mapping::atomics(), and
  /// atomic() for what has to be aligned.
  ///
  /// @tparam T  An integer of 4 or 8 bytes.
  /// @par Example
  ///   auto slots = s.atomics<std::uint32_t>(0, 1024);
  template <atomic_word T>
  atomic_span<T> atomics(std::uint64_t offset, std::size_t count) {
    // Where the product overflows, the count is too many for any file.
    return map_.atomics<T>(in_file(offset, count * sizeof(T)), count);
  }
  /// Refers without throwing; returns an empty span on error.
  template <atomic_word T>
  atomic_span<T> atomics(std::uint64_t offset, std::size_t count, std::error_code& error) {
    return map_.atomics<T>(in_file(offset, count * sizeof(T)), count, error);
  }

 private:
  friend class mapping;
  segment(const mapping& map, std::uint64_t offset, std::uint64_t length) noexcept
      : map_(map), offset_(offset), length_(length) {}

  // Where the file has what is at `offset` here; nowhere, but as aligned, if that is not all within
  // the segment. The verb then finds out what is wrong, in its own order.
  std::uint64_t in_file(std::uint64_t offset, std::uint64_t length) const noexcept {
    constexpr std::uint64_t nowhere = ~std::uint64_t{7};
    const bool is_within = offset <= length_ && length <= length_ - offset;
    return is_within ? offset_ + offset : nowhere | (offset_ + offset);
  }

  mapping map_;
  std::uint64_t offset_ = 0;
  std::uint64_t length_ = 0;
};

inline segment mapping::slice(std::uint64_t offset, std::uint64_t length) {
  std::error_code error;
  segment result = slice(offset, length, error);
  if (error) detail::throw_error(error, "slice");
  return result;
}

inline segment mapping::slice(std::uint64_t offset, std::uint64_t length, std::error_code& error) {
  error = detail::error_of(check(offset, length));
  return error ? segment() : segment(*this, offset, length);
}

MAPIO_NAMESPACE_END

#endif  // MAPIO_SEGMENT_HPP
