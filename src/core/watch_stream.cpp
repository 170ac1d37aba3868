#include "watch_stream.hpp"

#include "change_finder.hpp"
#include "engine.hpp"
#include "watch_hub.hpp"

#include <asio/error.hpp>

#include <algorithm>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {

watch_stream::watch_stream(std::shared_ptr<watch_hub> hub, std::size_t capacity)
    : hub_(std::move(hub)), capacity_(std::max<std::size_t>(capacity, 1)) {}

/// Ends an operation that need not wait; under the mutex.
bool watch_stream::answer(change_operation& op, bool& room_is_wanted) noexcept {
  if (closed_.load(std::memory_order_relaxed)) {
    op.error = errc::not_open;
  } else if (op.cancel_requested.load(std::memory_order_relaxed)) {
    op.error = asio::error::operation_aborted;
  } else if (waiting_ != nullptr) {
    op.error = make_error_code(std::errc::operation_in_progress);
  } else if (!queue_.empty()) {
    op.event = std::move(queue_.front().event);
    queue_.pop_front();
    room_is_wanted = wants_room_ && queue_.size() <= capacity_ / 2;
    if (room_is_wanted) wants_room_ = false;
  } else {
    return false;
  }
  return true;
}

bool watch_stream::start(change_operation& op) noexcept {
  op.done = [](operation* self) noexcept { finish(*self); };
  bool room_is_wanted = false;
  bool is_over = false;
  {
    std::lock_guard lock(mutex_);
    is_over = answer(op, room_is_wanted);
  }
  if (!is_over) {
    // Known to the engine before it can be found waiting.
    if (!op.home->enroll(op)) return true;
    {
      std::lock_guard lock(mutex_);
      if (!answer(op, room_is_wanted)) {
        waiting_ = &op;
        hub_->next_waits();
        return false;
      }
    }
    op.home->forget(op);
  }
  if (room_is_wanted) hub_->kick();
  return true;
}

change_operation* watch_stream::take_waiting() noexcept {
  change_operation* const op = std::exchange(waiting_, nullptr);
  if (op != nullptr) hub_->next_is_over();
  return op;
}

bool watch_stream::withdraw(const operation& op) noexcept {
  std::lock_guard lock(mutex_);
  return waiting_ == &op && take_waiting() != nullptr;
}

void watch_stream::cancel() noexcept {
  change_operation* op = nullptr;
  {
    std::lock_guard lock(mutex_);
    op = take_waiting();
  }
  if (op != nullptr) finish(*op, asio::error::operation_aborted);
}

void watch_stream::close() noexcept {
  change_operation* op = nullptr;
  std::deque<found_event> unread;
  {
    std::lock_guard lock(mutex_);
    if (closed_.exchange(true)) return;
    unread.swap(queue_);
    op = take_waiting();
  }
  if (op != nullptr) finish(*op, asio::error::operation_aborted);
}

void watch_stream::note_fallback(const std::filesystem::path& path, std::error_code reason) {
  std::lock_guard lock(mutex_);
  if (fallen_back_.insert(path).second) fallbacks_.push_back({path, reason});
}

std::vector<watch_fallback> watch_stream::fallbacks() const {
  std::lock_guard lock(mutex_);
  return fallbacks_;
}

bool watch_stream::has_room() noexcept {
  std::lock_guard lock(mutex_);
  if (queue_.size() < capacity_) return true;
  wants_room_ = true;
  return false;
}

void watch_stream::push(change_event&& event, const watched_root* root,
                        const watched_root* previous_root, std::vector<operation*>& over) {
  const auto length_of = [](const watched_root* r) {
    return r != nullptr ? r->given.native().size() : 0;
  };
  found_event found{std::move(event), length_of(root), length_of(previous_root)};
  std::lock_guard lock(mutex_);
  if (closed_.load(std::memory_order_relaxed)) return;
  for (const std::filesystem::path& removed : removals_)
    note_who_came(found, removed);
  if (std::any_of(removals_.begin(), removals_.end(),
                  [&](const auto& removed) { return !outlives(found, removed); }))
    return;
  if (waiting_ != nullptr) {
    over.reserve(over.size() + 1);
    waiting_->event = std::move(found.event);
    over.push_back(take_waiting());
    return;
  }
  // Nothing lies between two gaps: they are one.
  const bool is_overflow = found.event.kind == change_kind::overflow;
  if (is_overflow && !queue_.empty() && queue_.back().event.kind == change_kind::overflow) return;
  queue_.push_back(std::move(found));
}

std::vector<std::filesystem::path>
watch_stream::tell_renames_apart(const std::filesystem::path& root, bool with_new_ones) {
  std::vector<std::filesystem::path> came;
  std::unordered_set<std::filesystem::path, path_hash> known;
  std::deque<found_event> apart;
  std::lock_guard lock(mutex_);
  for (const found_event& found : queue_) {
    const change_event& event = found.event;
    const bool is_folder = !event.size && is_of(root, event.path, found.given);
    const bool is_renamed = is_folder && event.kind == change_kind::renamed;
    const bool is_new =
        is_folder && (event.kind == change_kind::created || event.kind == change_kind::replaced);
    // Once: telling of each anew makes one more.
    if ((is_renamed || (is_new && with_new_ones)) && known.insert(event.path).second)
      came.push_back(event.path);
    if (!is_renamed || !is_of(root, event.previous_path, found.given_before)) {
      apart.push_back(found);
      continue;
    }
    apart.push_back(
        {{change_kind::removed, event.previous_path, {}, std::nullopt}, found.given_before, 0});
    apart.push_back({{change_kind::created, event.path, {}, std::nullopt}, found.given, 0});
  }
  queue_.swap(apart);
  return came;
}

// --- what is not watched any more
// ------------------------------------------------------------------------------------------------
//
// The path may be added again before the removal is carried out, by who looks at it first: what
// happened before is not to be told after that.

void watch_stream::remove(const std::filesystem::path& path) {
  {
    std::lock_guard lock(mutex_);
    for (const found_event& found : queue_)
      note_who_came(found, path);
    removals_.push_back(path);
    if (!hub_->request_removal(shared_from_this(), path)) {
      removals_.pop_back();
      return;
    }
    forget_events(path);
  }
  hub_->kick();
}

std::vector<std::filesystem::path> watch_stream::take_those_who_came() {
  std::lock_guard lock(mutex_);
  return std::exchange(came_, {});
}

void watch_stream::has_removed(const std::filesystem::path& path) noexcept {
  std::lock_guard lock(mutex_);
  removals_.erase(std::find(removals_.begin(), removals_.end(), path));
}

/// Under the mutex.
void watch_stream::forget_events(const std::filesystem::path& removed) noexcept {
  auto end = queue_.begin();
  for (auto it = queue_.begin(); it != queue_.end(); ++it) {
    if (!outlives(*it, removed)) continue;
    if (end != it) *end = std::move(*it);
    ++end;
  }
  queue_.erase(end, queue_.end());
}

bool watch_stream::is_of(const std::filesystem::path& root, const std::filesystem::path& path,
                         std::size_t given) {
  return given != 0 && std::filesystem::path(path.native().substr(0, given)) == root;
}

/// Of a folder that outlives() says to be created, though it is known in its new place already.
void watch_stream::note_who_came(const found_event& found, const std::filesystem::path& removed) {
  const change_event& event = found.event;
  if (event.kind == change_kind::renamed && !event.size && found.given != 0 &&
      is_of(removed, event.previous_path, found.given_before) &&
      !is_of(removed, event.path, found.given))
    came_.push_back(event.path);
}

/// Tells whether an event says something about other roots than one that is removed, and leaves
/// only that.
bool watch_stream::outlives(found_event& found, const std::filesystem::path& removed) {
  change_event& event = found.event;
  const bool now = is_of(removed, event.path, found.given);
  const bool before = is_of(removed, event.previous_path, found.given_before);
  if (!now && !before) return true;
  const bool is_all = event.kind != change_kind::renamed || (now && before) || found.given == 0;
  if (is_all) return false;
  if (now) {
    event.path = std::move(event.previous_path);
    found.given = found.given_before;
    event.size.reset();
  }
  event.kind = now ? change_kind::removed : change_kind::created;
  event.previous_path.clear();
  found.given_before = 0;
  return true;
}

bool withdraw_next(const operation& op) noexcept {
  const auto& next = static_cast<const change_operation&>(op);
  return next.stream && next.stream->withdraw(next);
}

bool start_next(change_operation& op) noexcept {
  if (!op.stream) {
    op.error = errc::not_open;
    return true;
  }
  const std::shared_ptr<watch_stream> stream = op.stream;  // the operation may be gone at once
  return stream->start(op);
}

}  // namespace detail
MAPIO_NAMESPACE_END
