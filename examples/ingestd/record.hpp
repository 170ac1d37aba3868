#ifndef MAPIO_EXAMPLES_INGESTD_RECORD_HPP
#define MAPIO_EXAMPLES_INGESTD_RECORD_HPP

// What is in a segment file of ingestd.
//
//   position 0    segment header, 64 bytes: magic, version, segment number, size, salt. Written,
//   with zeros behind
//                 it, and synced before the segment is used.
//   position 64   start record, 32 bytes: the log offset of the first record. Written when the
//   segment is used. position 96   records, one after another, each padded to a multiple of 8 bytes
//   then          zeros, to the end of the file
//
// A record is a header of 32 bytes, the client's id, the payload, and zeros up to a multiple of 8.
// Numbers are little endian:
//
//   0   u64  checksum: XXH3-64 of everything behind it, padding included
//   8   u32  payload length in bytes
//   12  u16  client id length in bytes (1 to 255; 0 in a start record)
//   14  u16  type: 1 a record, 2 a start record
//   16  u64  sequence (start record: log offset of the segment's first record)
//   24  u64  durable: when this record was written, every byte of the log before this log offset
//   was durable
//
// A *log offset* counts the bytes of records, over all segments, headers and start records left
// out. The checksum is seeded with the segment's random salt and the record's position in the file:
// bytes that were a record elsewhere, or that a client made up, are no record here. The field
// `durable` lets recovery tell what a crash left from what decayed later, see reader.hpp.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace ingestd {

inline constexpr std::size_t record_alignment = 8;
inline constexpr std::size_t record_header_size = 32;
inline constexpr std::size_t segment_header_size = 64;
inline constexpr std::size_t start_record_size = record_header_size;
/// Position of a segment's first record.
inline constexpr std::size_t first_record_position = segment_header_size + start_record_size;
inline constexpr std::size_t max_client_length = 255;
/// No record is longer; the length field could say more.
inline constexpr std::size_t max_payload_length = std::size_t{1} << 30;

enum class record_type : std::uint16_t { record = 1, segment_start = 2 };

/// What the bytes at some place turned out to be.
enum class record_state {
  whole,   ///< A record whose checksum is right.
  end,     ///< Zeros where a header would be: nothing was written here.
  broken,  ///< Neither: torn, damaged, or it would reach beyond the bytes given.
};

/// The fields of a record; client and payload point into somebody else's bytes.
struct record {
  record_type type = record_type::record;
  std::string_view client;
  std::uint64_t sequence = 0;
  std::uint64_t durable = 0;
  std::string_view payload;
};

struct decoded_record {
  record_state state = record_state::end;
  std::size_t size = 0;  ///< With padding; 0 unless whole.
  record content;        ///< Points into the bytes given; empty unless whole.
};

/// Returns the bytes that a record takes up in a segment.
constexpr std::size_t encoded_size(std::size_t client_length, std::size_t payload_length) noexcept {
  return (record_header_size + client_length + payload_length + record_alignment - 1) /
         record_alignment * record_alignment;
}

/// Returns the seed for a record's checksum.
constexpr std::uint64_t checksum_seed(std::uint64_t salt, std::uint64_t position) noexcept {
  return salt + position;
}

/// Writes `r` to the start of `out`, which must have room for encoded_size(); returns that size.
std::size_t encode_record(std::span<std::byte> out, const record& r, std::uint64_t seed) noexcept;

/// Returns the size of the record that starts with this header, if its checksum is right; 0 if it
/// cannot be the header of a record.
std::size_t claimed_size(std::span<const std::byte> header) noexcept;

/// Looks at the record at the start of `bytes`, which may go on behind it.
decoded_record decode_record(std::span<const std::byte> bytes, std::uint64_t seed) noexcept;

struct segment_header {
  std::uint64_t number = 0;  ///< Counts from 1.
  std::uint64_t size = 0;    ///< Bytes of the whole file.
  std::uint64_t salt = 0;
};

struct decoded_segment_header {
  record_state state = record_state::end;
  segment_header content;
};

/// Writes `h` to `out`.
void encode_segment_header(std::span<std::byte, segment_header_size> out,
                           const segment_header& h) noexcept;

/// Looks at a segment's first bytes; fewer than a header that are all zero are `end`.
decoded_segment_header decode_segment_header(std::span<const std::byte> bytes) noexcept;

/// Tells whether there is no byte but zero.
bool all_zero(std::span<const std::byte> bytes) noexcept;

}  // namespace ingestd

#endif  // MAPIO_EXAMPLES_INGESTD_RECORD_HPP
