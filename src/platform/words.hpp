#ifndef MAPIO_SRC_PLATFORM_WORDS_HPP
#define MAPIO_SRC_PLATFORM_WORDS_HPP

// Waiting for words of mappings, as far as possible between processes.

#include "platform.hpp"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <system_error>

MAPIO_NAMESPACE_BEGIN
namespace detail::platform {

/// A word of a mapping, and the value that it had when it was looked at.
struct seen_word {
  const std::uint32_t* address = nullptr;
  std::uint32_t value = 0;
};

/// Loads a word and survives a fault; false: there was one.
bool load_word(const std::uint32_t* word, std::uint32_t& value) noexcept;

/// Waits until the word is woken, unless its value is another one already; and may return for no
/// reason. errc::page_fault where there is no word.
std::error_code wait_for_word(seen_word word) noexcept;
/// The same, for about a millisecond at most.
std::error_code wait_for_word_a_little(seen_word word) noexcept;
/// Wakes one of those who wait for the word, or all.
std::error_code wake_word(const std::uint32_t* word, bool all) noexcept;

/// Words that wait_for_any() takes.
inline constexpr std::size_t most_words = 127;
/// Waits until one of the words is woken or `news` is told, unless one of them has another value
/// already; and may return for no reason, though not at once and again and again. Where the OS
/// cannot wait for several words, it returns after about a millisecond.
void wait_for_any(const seen_word* words, std::size_t count, const std::atomic<std::uint32_t>& news,
                  std::uint32_t known_news) noexcept;
/// Adds 1 to `news`, and wakes who waits for it in this process.
void tell(std::atomic<std::uint32_t>& news) noexcept;

}  // namespace detail::platform
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_PLATFORM_WORDS_HPP
