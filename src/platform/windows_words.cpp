// Whoever waits for a word hears of what is notified in this process, and of nothing else.

#include "words.hpp"

#include "windows.hpp"

#include <algorithm>
#include <array>

#include <synchapi.h>

MAPIO_NAMESPACE_BEGIN
namespace detail::platform {
namespace {

/// Counts notifications. What waits, waits for one of these and never for the word itself: the OS
/// would look at that, and its page may be gone.
using counter = std::atomic<std::uint32_t>;

// By where in a piece of 64 KiB the word lies: that is the same in all views of a file.
std::array<counter, 64> notified{};
counter anything{0};

counter& counter_of(const std::uint32_t* word) noexcept {
  const auto in_piece = reinterpret_cast<std::uintptr_t>(word) & 0xFFFF;
  return notified[in_piece / sizeof *word % notified.size()];
}

void wait_for(counter& c, std::uint32_t known, DWORD milliseconds) noexcept {
  ::WaitOnAddress(&c, &known, sizeof known, milliseconds);
}

void count(counter& c) noexcept {
  c.fetch_add(1);
  ::WakeByAddressAll(&c);
}

/// Tells whether there is nothing to wait for: a change, or a word that is gone.
bool is_over(const seen_word& word) noexcept {
  std::uint32_t now = 0;
  return !load_word(word.address, now) || now != word.value;
}

std::error_code wait_once(const seen_word& word, DWORD milliseconds) noexcept {
  counter& c = counter_of(word.address);
  const std::uint32_t known = c.load();
  std::uint32_t now = 0;
  if (!load_word(word.address, now)) return errc::page_fault;
  if (now == word.value) wait_for(c, known, milliseconds);
  return {};
}

}  // namespace

std::error_code wait_for_word(seen_word word) noexcept {
  return wait_once(word, INFINITE);
}

std::error_code wait_for_word_a_little(seen_word word) noexcept {
  return wait_once(word, 1);
}

std::error_code wake_word(const std::uint32_t* word, bool) noexcept {
  std::uint32_t value = 0;
  if (!load_word(word, value)) return errc::page_fault;
  count(counter_of(word));
  count(anything);
  return {};
}

void wait_for_any(const seen_word* words, std::size_t many, const std::atomic<std::uint32_t>& news,
                  std::uint32_t known_news) noexcept {
  for (;;) {
    const std::uint32_t known = anything.load();
    if (news.load() != known_news || std::any_of(words, words + many, is_over)) return;
    wait_for(anything, known, INFINITE);
  }
}

void tell(std::atomic<std::uint32_t>& news) noexcept {
  news.fetch_add(1);
  count(anything);
}

}  // namespace detail::platform
MAPIO_NAMESPACE_END
