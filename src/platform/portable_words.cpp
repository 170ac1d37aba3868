// For systems that do not wait for words across processes: whoever waits hears of what is notified
// in this process, and of nothing else.

#include "words.hpp"

#include <algorithm>
#include <condition_variable>
#include <mutex>

MAPIO_NAMESPACE_BEGIN
namespace detail::platform {
namespace {

// One for all words: where that is too crowded, the system should have something better.
std::mutex mutex;
std::condition_variable woken;

/// Tells whether there is nothing to wait for: a change, or a word that is gone.
bool is_over(const seen_word& word) noexcept {
  std::uint32_t now = 0;
  return !load_word(word.address, now) || now != word.value;
}

void wake_everybody() noexcept {
  {
    // Who has looked at the words and does not sleep yet holds it.
    std::lock_guard lock(mutex);
  }
  woken.notify_all();
}

}  // namespace

std::error_code wait_for_word(seen_word word) noexcept {
  std::unique_lock lock(mutex);
  woken.wait(lock, [&] { return is_over(word); });
  return {};
}

std::error_code wait_for_word_a_little(seen_word word) noexcept {
  std::unique_lock lock(mutex);
  woken.wait_for(lock, std::chrono::milliseconds(1), [&] { return is_over(word); });
  return {};
}

std::error_code wake_word(const std::uint32_t* word, bool) noexcept {
  std::uint32_t value = 0;
  if (!load_word(word, value)) return errc::page_fault;
  wake_everybody();
  return {};
}

void wait_for_any(const seen_word* words, std::size_t count, const std::atomic<std::uint32_t>& news,
                  std::uint32_t known_news) noexcept {
  std::unique_lock lock(mutex);
  woken.wait(lock, [&] {
    return news.load() != known_news || std::any_of(words, words + count, is_over);
  });
}

void tell(std::atomic<std::uint32_t>& news) noexcept {
  news.fetch_add(1);
  wake_everybody();
}

}  // namespace detail::platform
MAPIO_NAMESPACE_END
