#include "record.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

#include <xxhash.h>

namespace ingestd {
namespace {

constexpr std::size_t checksum_size = 8;

constexpr char magic[] = {'i', 'n', 'g', 'e', 's', 't', 'd', '\n'};
constexpr std::uint32_t version = 1;

template <class Integer>
Integer little_endian(Integer value) noexcept {
  if constexpr (std::endian::native == std::endian::little) return value;
  Integer swapped = 0;
  for (std::size_t i = 0; i < sizeof value; ++i) {
    swapped = static_cast<Integer>(swapped << 8 | (value >> (8 * i) & 0xff));
  }
  return swapped;
}

template <class Integer>
void put(std::byte* out, Integer value) noexcept {
  value = little_endian(value);
  std::memcpy(out, &value, sizeof value);
}

template <class Integer>
Integer get(const std::byte* in) noexcept {
  Integer value;
  std::memcpy(&value, in, sizeof value);
  return little_endian(value);
}

std::uint64_t checksum(const std::byte* start, std::size_t size, std::uint64_t seed) noexcept {
  return XXH3_64bits_withSeed(start + checksum_size, size - checksum_size, seed);
}

const char* text(const std::byte* bytes) noexcept {
  return reinterpret_cast<const char*>(bytes);
}

}  // namespace

std::size_t encode_record(std::span<std::byte> out, const record& r, std::uint64_t seed) noexcept {
  const std::size_t size = encoded_size(r.client.size(), r.payload.size());
  assert(out.size() >= size && r.client.size() <= max_client_length &&
         r.payload.size() <= max_payload_length);
  std::byte* p = out.data();
  // The padding first: what follows overwrites the part of these 8 bytes that is not padding.
  std::memset(p + size - record_alignment, 0, record_alignment);
  put(p + 8, static_cast<std::uint32_t>(r.payload.size()));
  put(p + 12, static_cast<std::uint16_t>(r.client.size()));
  put(p + 14, static_cast<std::uint16_t>(r.type));
  put(p + 16, r.sequence);
  put(p + 24, r.durable);
  if (!r.client.empty()) std::memcpy(p + record_header_size, r.client.data(), r.client.size());
  if (!r.payload.empty()) {
    std::memcpy(p + record_header_size + r.client.size(), r.payload.data(), r.payload.size());
  }
  put(p, checksum(p, size, seed));
  return size;
}

std::size_t claimed_size(std::span<const std::byte> header) noexcept {
  if (header.size() < record_header_size) return 0;
  const std::byte* p = header.data();
  const std::size_t payload_length = get<std::uint32_t>(p + 8);
  const std::size_t client_length = get<std::uint16_t>(p + 12);
  const auto type = static_cast<record_type>(get<std::uint16_t>(p + 14));
  const bool plausible =
      (type == record_type::record && client_length > 0) ||
      (type == record_type::segment_start && client_length == 0 && payload_length == 0);
  if (!plausible || client_length > max_client_length || payload_length > max_payload_length)
    return 0;
  return encoded_size(client_length, payload_length);
}

decoded_record decode_record(std::span<const std::byte> bytes, std::uint64_t seed) noexcept {
  decoded_record result;
  const std::byte* p = bytes.data();
  if (bytes.size() < record_header_size) {
    result.state = all_zero(bytes) ? record_state::end : record_state::broken;
    return result;
  }
  const std::size_t payload_length = get<std::uint32_t>(p + 8);
  const std::size_t client_length = get<std::uint16_t>(p + 12);
  const auto type = static_cast<record_type>(get<std::uint16_t>(p + 14));
  const std::size_t size = claimed_size(bytes);
  if (size == 0 || size > bytes.size() || get<std::uint64_t>(p) != checksum(p, size, seed)) {
    result.state =
        all_zero(bytes.first(record_header_size)) ? record_state::end : record_state::broken;
    return result;
  }
  result.state = record_state::whole;
  result.size = size;
  result.content = {type,
                    {text(p + record_header_size), client_length},
                    get<std::uint64_t>(p + 16),
                    get<std::uint64_t>(p + 24),
                    {text(p + record_header_size + client_length), payload_length}};
  return result;
}

void encode_segment_header(std::span<std::byte, segment_header_size> out,
                           const segment_header& h) noexcept {
  std::byte* p = out.data();
  std::memset(p, 0, segment_header_size);
  std::memcpy(p + 8, magic, sizeof magic);
  put(p + 16, version);
  put(p + 24, h.number);
  put(p + 32, h.size);
  put(p + 40, h.salt);
  put(p, checksum(p, segment_header_size, 0));
}

decoded_segment_header decode_segment_header(std::span<const std::byte> bytes) noexcept {
  decoded_segment_header result;
  const std::span<const std::byte> head = bytes.first(std::min(bytes.size(), segment_header_size));
  if (all_zero(head)) return result;
  const std::byte* p = head.data();
  if (head.size() < segment_header_size || std::memcmp(p + 8, magic, sizeof magic) != 0 ||
      get<std::uint32_t>(p + 16) != version ||
      get<std::uint64_t>(p) != checksum(p, segment_header_size, 0)) {
    result.state = record_state::broken;
    return result;
  }
  result.state = record_state::whole;
  result.content = {get<std::uint64_t>(p + 24), get<std::uint64_t>(p + 32),
                    get<std::uint64_t>(p + 40)};
  return result;
}

bool all_zero(std::span<const std::byte> bytes) noexcept {
  // A range is zero if its first byte is and each byte equals the next: memcmp does that at full
  // speed.
  return bytes.empty() || (bytes[0] == std::byte{0} &&
                           std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

}  // namespace ingestd
