#ifndef MAPIO_EXAMPLES_INGESTD_SIZES_HPP
#define MAPIO_EXAMPLES_INGESTD_SIZES_HPP

#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace ingestd {

/// Reads "65536", "64K", "64KB" or "64KiB", which are all the same; also M, G and T. Nothing if it
/// is anything else, or too much for 64 bits.
inline std::optional<std::uint64_t> parse_size(std::string_view text) {
  std::uint64_t number = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return std::nullopt;  // a sign is none of its digits
  std::string suffix;
  for (const char c : text.substr(static_cast<std::size_t>(stop - text.data())))
    suffix += c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  if (suffix.ends_with('B')) suffix.pop_back();
  if (suffix.size() == 2 && suffix[1] == 'I') suffix.pop_back();
  constexpr std::string_view units = "KMGT";
  const std::size_t unit = suffix.size() == 1 ? units.find(suffix[0]) : std::string_view::npos;
  if (!suffix.empty() && unit == std::string_view::npos) return std::nullopt;
  const unsigned shift = suffix.empty() ? 0U : 10U * (static_cast<unsigned>(unit) + 1U);
  if (number > std::numeric_limits<std::uint64_t>::max() >> shift) return std::nullopt;
  return number << shift;
}

/// Makes an option take a size from `least` to `most`. CLI::AsSizeValue takes -5 for 2^64 - 5.
class size_option : public CLI::Validator {
 public:
  explicit size_option(std::uint64_t least, std::uint64_t most) : CLI::Validator("SIZE") {
    func_ = [least, most](std::string& text) {
      const auto size = parse_size(text);
      if (!size) return fmt::format("{} is not a number of bytes such as 65536, 64K or 1M", text);
      if (*size < least || *size > most)
        return fmt::format("{} is not between {} and {} bytes", text, least, most);
      text = std::to_string(*size);
      return std::string();
    };
  }
};

}  // namespace ingestd

#endif  // MAPIO_EXAMPLES_INGESTD_SIZES_HPP
