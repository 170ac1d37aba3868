#include "words.hpp"

#include "posix.hpp"

#include <array>
#include <climits>
#include <ctime>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

MAPIO_NAMESPACE_BEGIN
namespace detail::platform {
namespace {

constexpr timespec a_little{0, 1'000'000};

std::error_code futex(const void* word, int operation, std::uint32_t value,
                      const timespec* limit) noexcept {
  if (::syscall(SYS_futex, word, operation, value, limit, nullptr, 0) >= 0) return {};
  switch (errno) {
  case EAGAIN:
  case EINTR:
  case ETIMEDOUT:
    return {};
  case EFAULT:
    return errc::page_fault;
  default:
    return posix::last_error();
  }
}

}  // namespace

// None of these is private to the process but those for news: the key of a word is its place in the
// file.
std::error_code wait_for_word(seen_word word) noexcept {
  return futex(word.address, FUTEX_WAIT, word.value, nullptr);
}

std::error_code wait_for_word_a_little(seen_word word) noexcept {
  return futex(word.address, FUTEX_WAIT, word.value, &a_little);
}

std::error_code wake_word(const std::uint32_t* word, bool all) noexcept {
  return futex(word, FUTEX_WAKE, all ? INT_MAX : 1, nullptr);
}

void wait_for_any(const seen_word* words, std::size_t count, const std::atomic<std::uint32_t>& news,
                  std::uint32_t known_news) noexcept {
  static_assert(sizeof news == sizeof known_news);
  static std::atomic<bool> is_refused{false};
  if (!is_refused.load(std::memory_order_relaxed)) {
    std::array<futex_waitv, most_words + 1> all{};
    const auto entry = [](const void* word, std::uint32_t value, unsigned flags) {
      futex_waitv e{};
      e.val = value;
      e.uaddr = reinterpret_cast<std::uintptr_t>(word);
      e.flags = FUTEX_32 | flags;
      return e;
    };
    all[0] = entry(&news, known_news, FUTEX_PRIVATE_FLAG);
    for (std::size_t i = 0; i < count; ++i)
      all[i + 1] = entry(words[i].address, words[i].value, 0);
    if (::syscall(SYS_futex_waitv, all.data(), count + 1, 0, nullptr, CLOCK_MONOTONIC) >= 0 ||
        errno == EAGAIN || errno == EINTR)
      return;
    // Linux before 5.16, or a filter that does not know the call. Whatever else it is, a look at
    // the words after a pause does no harm.
    if (errno == ENOSYS || errno == EPERM || errno == EACCES)
      is_refused.store(true, std::memory_order_relaxed);
  }
  static_cast<void>(futex(&news, FUTEX_WAIT_PRIVATE, known_news, &a_little));
}

void tell(std::atomic<std::uint32_t>& news) noexcept {
  news.fetch_add(1);
  static_cast<void>(futex(&news, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr));
}

}  // namespace detail::platform
MAPIO_NAMESPACE_END
