#ifndef MAPIO_DETAIL_TOTAL_BYTES_HPP
#define MAPIO_DETAIL_TOTAL_BYTES_HPP

#include <mapio/detail/config.hpp>

#include <asio/buffer.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// Adds bytes to a sum. What would overflow is more than any file has, and stays that.
constexpr std::uint64_t add_bytes(std::uint64_t sum, std::size_t more) noexcept {
  constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
  return more > most - sum ? most : sum + more;
}

/// Adds up the bytes of a buffer sequence. As asio::buffer_size(), which overflows.
template <class Sequence>
std::uint64_t total_bytes(const Sequence& buffers) noexcept {
  std::uint64_t sum = 0;
  const auto end = asio::buffer_sequence_end(buffers);
  for (auto it = asio::buffer_sequence_begin(buffers); it != end; ++it)
    sum = add_bytes(sum, asio::const_buffer(*it).size());
  return sum;
}

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_DETAIL_TOTAL_BYTES_HPP
