#include "word_watch.hpp"

#include "platform/words.hpp"

#include <asio/error.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <thread>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace {

// Of operation::place; the pool and the ring have theirs.
constexpr std::uint8_t place_watched = 4;

const std::uint32_t* word_of(const operation& op) noexcept {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): aligned, and bytes of a file
  return reinterpret_cast<const std::uint32_t*>(op.address);
}

}  // namespace

/// A thread with its words. All but run() with the mutex held.
class word_watch::watcher {
 public:
  explicit watcher(word_watch& owner) : owner_(owner) {
    words_.reserve(platform::most_words);
    thread_ = std::thread([this] { run(); });
  }

  bool watches(const std::uint32_t* address) const noexcept { return find(address) != nullptr; }
  bool is_full() const noexcept { return words_.size() == platform::most_words; }

  void add(operation& op) noexcept {
    word* known = find(word_of(op));
    if (known == nullptr) known = &words_.emplace_back(word{{word_of(op), 0}, true, {}});
    known->must_look = true;
    known->waiting.push(op);
    platform::tell(news_);
  }
  void look_at(const std::uint32_t* address) noexcept {
    if (word* const known = find(address)) known->must_look = true;
    platform::tell(news_);
  }
  void wake() noexcept { platform::tell(news_); }
  void join() { thread_.join(); }

 private:
  struct word {
    platform::seen_word seen;
    bool must_look;  // at each of those who wait, even if the value is what it was
    operation_list waiting;
  };

  const word* find(const std::uint32_t* address) const noexcept {
    const auto it = std::find_if(words_.begin(), words_.end(),
                                 [address](const word& w) { return w.seen.address == address; });
    return it == words_.end() ? nullptr : &*it;
  }
  word* find(const std::uint32_t* address) noexcept {
    return const_cast<word*>(std::as_const(*this).find(address));
  }

  void run() noexcept;
  /// Takes out who has not to wait any more, now that the word was seen so.
  void sort_out(word& w, std::uint32_t value, bool is_gone, operation_list& over) noexcept;

  word_watch& owner_;
  std::atomic<std::uint32_t> news_{0};
  std::vector<word> words_;  // only run() takes any out
  std::thread thread_;
};

void word_watch::watcher::sort_out(word& w, std::uint32_t value, bool is_gone,
                                   operation_list& over) noexcept {
  // Whoever stays waits for the value to change.
  if (!std::exchange(w.must_look, false) && value == w.seen.value && !is_gone && !owner_.stopping_)
    return;
  w.seen.value = value;
  operation_list all = std::move(w.waiting);
  while (operation* op = all.pop()) {
    if (owner_.stopping_)
      op->dropped = true;
    else if (op->at == value && !is_gone) {
      // Only while there is no change: the wake-up for one may have come here, and not to another.
      if (!op->cancel_requested.load(std::memory_order_relaxed)) {
        w.waiting.push(*op);
        continue;
      }
      op->error = asio::error::operation_aborted;
    }
    op->place.store(0, std::memory_order_relaxed);
    over.push(*op);
  }
}

void word_watch::watcher::run() noexcept {
  platform::block_signals();
  std::array<platform::seen_word, platform::most_words> seen;
  std::array<bool, platform::most_words> is_gone{};
  std::unique_lock lock(owner_.mutex_);
  for (;;) {
    const std::uint32_t known_news = news_.load();
    const std::size_t count = words_.size();
    for (std::size_t i = 0; i < count; ++i)
      seen[i].address = words_[i].seen.address;
    lock.unlock();
    // A page that has to be read for it must not keep those waiting who bring news.
    for (std::size_t i = 0; i < count; ++i)
      is_gone[i] = !platform::load_word(seen[i].address, seen[i].value);
    lock.lock();
    operation_list over;
    for (std::size_t i = 0; i < count; ++i)
      sort_out(words_[i], seen[i].value, is_gone[i], over);
    const bool is_last = owner_.stopping_ && words_.size() == count;
    if (!over.empty()) std::erase_if(words_, [](const word& w) { return w.waiting.empty(); });
    const bool waits = over.empty() && !is_last;
    lock.unlock();
    while (operation* op = over.pop())
      op->done(op);
    if (is_last) return;
    if (waits) platform::wait_for_any(seen.data(), count, news_, known_news);
    lock.lock();
  }
}

word_watch::word_watch() = default;

word_watch::~word_watch() {
  shut_down();
}

bool word_watch::submit(operation& op) noexcept {
  std::lock_guard lock(mutex_);
  if (stopping_) return false;
  const std::uint32_t* const word = word_of(op);
  auto at = std::find_if(watchers_.begin(), watchers_.end(),
                         [word](const auto& w) { return w->watches(word); });
  if (at == watchers_.end())
    at = std::find_if(watchers_.begin(), watchers_.end(),
                      [](const auto& w) { return !w->is_full(); });
  if (at == watchers_.end()) {
    try {
      watchers_.reserve(watchers_.size() + 1);
      watchers_.push_back(std::make_unique<watcher>(*this));
      at = std::prev(watchers_.end());
    } catch (...) {
      return false;
    }
  }
  op.place.store(place_watched, std::memory_order_relaxed);
  (*at)->add(op);
  return true;
}

void word_watch::interrupt(operation& op) noexcept {
  // Who is on the way here sees the request after this, or is here already.
  std::lock_guard lock(mutex_);
  if (op.place.load(std::memory_order_relaxed) != place_watched) return;
  for (const auto& w : watchers_)
    if (w->watches(word_of(op))) return w->look_at(word_of(op));
}

void word_watch::shut_down() noexcept {
  std::vector<std::unique_ptr<watcher>> watchers;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    watchers.swap(watchers_);
    for (const auto& w : watchers)
      w->wake();
  }
  for (const auto& w : watchers)
    w->join();
}

}  // namespace detail
MAPIO_NAMESPACE_END
