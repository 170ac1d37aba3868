#ifndef MAPIO_SRC_CORE_WATCH_STREAM_HPP
#define MAPIO_SRC_CORE_WATCH_STREAM_HPP

#include <mapio/watcher.hpp>

#include <atomic>
#include <cstddef>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_set>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail {

class watch_hub;
class watched_root;

struct path_hash {
  std::size_t operator()(const std::filesystem::path& path) const noexcept {
    return std::filesystem::hash_value(path);
  }
};

/// The side of a watcher that its user sees: events that wait for next(), or a next() that waits
/// for an event.
///
/// Lock order: engine, this, hub.
class watch_stream final : public std::enable_shared_from_this<watch_stream> {
 public:
  watch_stream(std::shared_ptr<watch_hub> hub, std::size_t capacity);
  watch_stream(const watch_stream&) = delete;
  watch_stream& operator=(const watch_stream&) = delete;
  ~watch_stream() = default;

  // --- the user's; any thread ---
  /// As detail::start(), for verb::next_change.
  bool start(change_operation& op) noexcept;
  /// True: it was waiting, and the caller owns it.
  bool withdraw(const operation& op) noexcept;
  void cancel() noexcept;
  void close() noexcept;
  bool is_closed() const noexcept { return closed_.load(std::memory_order_acquire); }
  const std::shared_ptr<watch_hub>& hub() const noexcept { return hub_; }
  /// Ends the watch of a path: whoever asks from here on is told nothing of it.
  void remove(const std::filesystem::path& path);
  void note_fallback(const std::filesystem::path& path, std::error_code reason);
  std::vector<watch_fallback> fallbacks() const;

  // --- for whoever finds events; one thread at a time ---
  /// Tells whether there is room; if not, the hub is told when half of the capacity is free again.
  bool has_room() noexcept;
  /// Hands an event over, whether there is room or not. An operation that it ends is added to
  /// `over`. `root` is what the path was found by, and `previous_root` the same of the one before;
  /// null: it only follows from the other.
  void push(change_event&& event, const watched_root* root, const watched_root* previous_root,
            std::vector<operation*>& over);
  /// Makes a removal and a creation of each rename of a folder within a root that is still to be
  /// told. Returns the new names, and if asked to those of the folders that are to be told as
  /// created or replaced.
  std::vector<std::filesystem::path> tell_renames_apart(const std::filesystem::path& root,
                                                        bool with_new_ones);
  /// Returns the folders whose renames were cut to what is left of them when remove() ended the
  /// watch of the old name: they came with their content, of which nobody has told in the new
  /// place.
  std::vector<std::filesystem::path> take_those_who_came();
  /// What remove() asked for is done.
  void has_removed(const std::filesystem::path& path) noexcept;

  // The state of that search: whoever owns the hub at the moment.
  std::map<std::filesystem::path, std::unique_ptr<watched_root>>
      roots;  // what is in one: behind it
  bool is_recovering = false;

 private:
  /// An event, and how much of each path its root was given.
  struct found_event {
    change_event event;
    std::size_t given = 0;  // 0: see push()
    std::size_t given_before = 0;
  };

  static bool is_of(const std::filesystem::path& root, const std::filesystem::path& path,
                    std::size_t given);
  static bool outlives(found_event& found, const std::filesystem::path& removed);
  void note_who_came(const found_event& found, const std::filesystem::path& removed);
  void forget_events(const std::filesystem::path& removed) noexcept;
  bool answer(change_operation& op, bool& room_is_wanted) noexcept;
  change_operation* take_waiting() noexcept;

  const std::shared_ptr<watch_hub> hub_;
  const std::size_t capacity_;
  std::atomic<bool> closed_{false};

  mutable std::mutex mutex_;  // guards what follows
  std::deque<found_event> queue_;
  std::vector<std::filesystem::path> removals_;  // that are still to be carried out
  std::vector<std::filesystem::path> came_;      // see take_those_who_came()
  change_operation* waiting_ = nullptr;
  bool wants_room_ = false;
  std::vector<watch_fallback> fallbacks_;
  std::unordered_set<std::filesystem::path, path_hash> fallen_back_;  // the paths of these
};

/// Takes a next() back, if it waits.
bool withdraw_next(const operation& op) noexcept;
/// Starts a next(); as detail::start().
bool start_next(change_operation& op) noexcept;

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_WATCH_STREAM_HPP
