#ifndef MAPIO_SRC_CORE_CHANGE_FINDER_HPP
#define MAPIO_SRC_CORE_CHANGE_FINDER_HPP

#include "watch/watch_source.hpp"
#include "watch_stream.hpp"

#include <mapio/watcher.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail {

using watch_clock = std::chrono::steady_clock;

class watched_root;
struct watched_folder;

/// A name in a watched folder, and the last that was told, or found before anything was told.
struct watched_entry {
  watching::file_look seen;
  bool is_told = false;       // as created, or by any event
  std::uint32_t listing = 0;  // the last one that found it
  std::uint32_t batch = 0;    // of notices, in which it was looked at last
  std::unique_ptr<watched_folder> below;
};

/// A folder of which the content is watched.
struct watched_folder {
  watched_folder(watched_root& r, watched_folder* p, watching::file_name n)
      : root(r), parent(p), name(std::move(n)) {}

  /// For the OS, and for the user.
  std::filesystem::path place() const;
  std::filesystem::path told_path() const;
  /// Tells whether there may be names in it that are known to the user, but not to us.
  bool has_unseen_names() const noexcept { return !is_seen && !is_new; }

  watched_root& root;
  watched_folder* parent;  // null: this is what the user gave
  watching::file_name name;
  watching::watch_id id = watching::no_watch;
  bool is_new = false;       // whatever is found in it has to be told
  bool is_unlisted = true;   // what it contains is not yet known
  bool is_seen = false;      // it was listed, and no notice from before that is still to be read
  bool is_in_doubt = false;  // there may be no notice of what happened in it
  bool is_polled = false;
  bool is_misplaced = false;    // another one had its place when it was to be listed
  std::uint32_t looked_in = 0;  // the period in which a name in it was looked at by its path last
  std::uint32_t listing = 0;    // counts them
  watching::folder_reader reader;  // of the one under way
  std::unordered_map<watching::file_name, watched_entry> entries;
  std::map<watching::file_name, std::uint32_t>
      hints;  // names to look at, and what is to be told at least
  std::map<watching::file_name, std::uint32_t> doubts;  // the same, once all notices were read
};

/// A path that a user gave.
class watched_root {
 public:
  /// Where something with an effect on the path may come and go, or a folder that may.
  struct step {
    watching::file_name name;  // in that folder; or empty
    watching::watch_id id = watching::no_watch;
    bool is_leaf = false;  // it is the last name of the path, and not of what leads there
  };

  /// Of a mapped file, if any, the place where it was opened counts.
  watched_root(watch_stream& s, const std::filesystem::path& path, const watch_options& o,
               const std::shared_ptr<file_state>& f);

  watch_stream& stream;
  std::filesystem::path given;
  std::filesystem::path place;  // the same, and absolute
  watch_options options;
  std::weak_ptr<file_state> file;
  std::int64_t begin = 0;         // file_clock() before it was watched
  std::int64_t begin_again = -1;  // the same, when it was added again

  std::vector<step> steps;
  watching::watch_id own = watching::no_watch;  // of a file
  watching::file_look seen;
  watching::file_look last;  // that had the name, though nothing may have it now
  std::uint32_t batch = 0;
  std::unique_ptr<watched_folder> tree;  // of a folder

  // What is to be done: at once, or when it is due.
  bool must_look = false;
  std::uint32_t hint = 0;
  watch_clock::time_point due = watch_clock::time_point::max();
  std::unordered_set<watched_folder*> to_list;
  std::unordered_set<watched_folder*> hinted;

  std::chrono::milliseconds poll{0};
  bool polls_all = false;
  watch_clock::time_point next_poll;
};

/// Finds out what happened to watched paths, from what the OS tells and by looking, and tells it to
/// the streams. One thread at a time.
///
/// Each root and each entry has a last known state. In the usual case a notice is an event, and the
/// state follows. While a stream recovers from a gap, or gathers (watch_options::coalesce), a
/// notice is only a hint where to look; what is told then is the difference from the known state. A
/// gap makes a hint of everything, and polling does so again and again.
///
/// Notices tell of the past, by the folder, and looks of the present, by the path: where names were
/// changed in between, a look finds something else. Whatever does not fit is a doubt, and looked at
/// again when no notice is left; so is a folder that was looked into by a path from before it was
/// moved. A folder is listed, and watched, only where it is the one that is known by its name.
class change_finder {
 public:
  /// The watches that a root rests on, once they are placed, and what was seen then.
  struct placed_watches {
    std::vector<watched_root::step> steps;
    watching::watch_id own = watching::no_watch;
    watching::watch_id folder = watching::no_watch;
    std::vector<watching::watch_id> unused;
    watching::file_look look;
    std::error_code limit;  // why some are missing
    std::error_code error;  // of the look, or for good
  };
  enum class outcome { done, more, has_to_wait };

  explicit change_finder(watching::watch_source& source) : source_(source) {}

  /// While a copy of the result lives no watch is ended: who places one may be given one that is
  /// there already. Any thread: before place(), and kept until what was placed is added or
  /// released.
  std::shared_ptr<const void> begin_placing();
  /// Any thread; may wait.
  placed_watches place(const std::filesystem::path& path) const;
  /// Counts the notices of watches that nobody knew; place() before, add() after the same number:
  /// nothing about what was placed was missed.
  std::uint64_t misses() const noexcept { return misses_.load(); }

  void add(std::shared_ptr<watch_stream> stream, std::unique_ptr<watched_root> root,
           placed_watches placed, std::uint64_t misses_before);
  void release(const placed_watches& placed);
  void remove(const watch_stream& stream, const std::filesystem::path& path);
  void remove(const watch_stream& stream);

  /// Asks the OS; what it said is for work().
  void read();
  /// Goes on with what there is to do, if `may_wait` is not needed for it.
  outcome work(bool may_wait);
  /// Forgets what could not be carried out: all there is has to be looked at.
  void lose_everything() noexcept;
  /// Lets go of all watches, and of the streams.
  void clear() noexcept;
  /// Gives out the operations that have got their event.
  std::vector<operation*> take_over() noexcept { return std::exchange(over_, {}); }
  /// When there will be something to do if nothing is told.
  watch_clock::time_point next_deadline() const noexcept;

 private:
  struct subscribers {
    std::vector<watched_folder*> folders;
    std::unordered_multimap<watching::file_name, watched_root*, watching::name_hash,
                            watching::same_name>
        names;
    std::unordered_multiset<watched_root*> passing;  // roots that have it on the way
    std::vector<watched_root*> files;

    bool empty() const noexcept {
      return folders.empty() && names.empty() && passing.empty() && files.empty();
    }
  };
  struct pending_move {
    watching::notice from;
    watch_clock::time_point until;
    std::vector<std::pair<watched_folder*, watched_entry>> entries;
    std::vector<watched_root*> roots;
  };

  struct name_told_over {
    watched_root* root;
    std::filesystem::path path;
    bool is_told_below;  // what is below it is told by who told of it
  };

  bool look_at_urgent(bool may_wait);
  bool handle(const watching::notice& n, bool may_wait);
  bool look_for(const watching::notice& n, const subscribers& who, bool may_wait,
                watching::file_look& look);
  std::vector<watched_root*> roots_by_name(const watching::notice& n) const;
  void ended(watching::watch_id id);
  void changed_itself(const watching::notice& n, const watching::file_look& look);
  void changed_in(watched_folder& folder, const watching::notice& n,
                  const watching::file_look& look);
  void changed_on_the_way(watched_root& root, const watching::notice& n);
  void begin_move(const watching::notice& n);
  std::vector<pending_move>::iterator first_half_of(const watching::notice& n);
  static bool has_root_in(const watch_stream& stream, const std::filesystem::path& folder);
  void end_move(const watching::notice& n, const watching::file_look& look);
  void take(std::vector<pending_move>::iterator move);
  void expire();
  bool expire(watched_folder& folder, const watching::file_name& name);
  void touched(watched_folder& folder, const watching::notice& n, const watching::file_look& look);
  void came(watched_folder& folder, const watching::file_name& name,
            const watching::file_look& look);
  void tell_new_bytes(watched_folder& folder, const watching::file_name& name,
                      const watching::file_look& before, const watching::file_look& now);
  void left(watched_folder& folder, const watching::file_name& name);
  void left(watched_folder& folder, const watching::file_name& name, watched_entry entry);
  void left(watched_root& root);
  void written(watched_folder& folder, const watching::notice& n, const watching::file_look& look);

  bool takes_hints(watched_root& root);
  bool takes_hints_or_lacks_room(watched_root& root);
  void hint(watched_folder& folder, const watching::file_name& name, std::uint32_t what);
  void hint(watched_root& root, std::uint32_t what);
  void hint_at_once(watched_root& root);
  void hint_at_once(watched_folder& folder, const watching::file_name& name);
  void doubt(watched_folder& folder, const watching::file_name& name, std::uint32_t what);
  void look_into_doubts();
  void look_again(watched_folder& folder);
  void list(watched_folder& folder);
  void list_all(watched_folder& folder);
  void lose(watch_stream& stream);
  void lose_notices();

  bool work_on(watched_root& root, int& budget);
  void list_some(watched_folder& folder, int& budget);
  static bool has_changed_unlisted(const watched_folder& folder, const watching::file_look& itself);
  bool begin_listing(watched_folder& folder, watching::file_look& itself);
  bool watch(watched_folder& folder, const watching::file_look& itself);
  bool is_known_by_its_name(const watched_folder& folder, const watching::file_look& itself) const;
  void found(watched_folder& folder, const watching::file_name& name,
             const watching::file_look& look);
  void compare(watched_folder& folder, const watching::file_name& name,
               const watching::file_look& look, std::uint32_t at_least);
  void look_at_root(watched_root& root);
  void compare_root(watched_root& root, placed_watches placed, std::uint32_t at_least);
  std::optional<change_kind> difference(const watching::file_look& before,
                                        const watching::file_look& now, std::uint32_t at_least);
  void go_on_as(watched_root& root, const watched_root& wanted, placed_watches placed);
  void settle(watched_root& root, placed_watches&& placed);
  void adopt(watched_folder& folder, watched_entry& entry, const watching::file_name& name,
             bool is_new);
  bool begin_anew(watched_folder& folder);
  void begin_those_anew(watched_folder& folder, bool (*is_one)(const watched_folder&));
  std::unique_ptr<watched_folder> in_another_root(watched_folder& old, watched_folder& parent,
                                                  const watching::file_name& name);
  static void forget_what_was_seen(watched_folder& folder);
  void tell_folders_anew(watched_root& root, bool was_recursive);
  void tell_content_of(watch_stream& stream, const std::filesystem::path& came);
  watched_folder* begin_anew_at(watched_root& root, const std::filesystem::path& path);
  watched_folder* folder_in(watched_root& root, const std::filesystem::path& path, bool watches_it);
  void drop(watched_entry& entry);
  void drop(watched_folder& folder);
  void drop_content(watched_folder& folder);
  void drop_tree(watched_root& root);
  void forget(watched_root& root);
  void drop(watched_root& root);
  void begin_polling(watched_root& root);
  void poll_due(watch_clock::time_point now);
  void fall_back(watched_root& root, const std::filesystem::path& path, std::error_code reason);
  void fall_back(watched_folder& folder, std::error_code reason);
  void look_again_later(watched_folder& folder);
  void note_told_over(const watched_root& by, const std::filesystem::path& path);
  /// Tells whether tell_over_anew() has something to tell: before anybody tells of what came
  /// instead.
  bool has_told_over() const noexcept { return !told_over_.empty() || !names_told_over_.empty(); }
  void tell_over_anew();
  void end_recoveries();

  void tell(watched_root& root, change_kind kind, std::filesystem::path path,
            const watching::file_look& look);
  void tell(watched_folder& folder, change_kind kind, const watching::file_name& name,
            const watching::file_look& look);
  void tell_of_rename(watched_root& old_root, std::filesystem::path old_path,
                      watched_folder& folder, const watching::file_name& name,
                      const watching::file_look& look);

  void subscribe(watched_root& root, const watched_root::step& step);
  void unsubscribe(watched_root& root, const watched_root::step& step);
  void subscribe(watched_folder& folder, watching::watch_id id);
  void unsubscribe(watched_folder& folder);
  void unsubscribe_own(watched_root& root);
  void unsubscribe_steps(watched_root& root);
  void end_if_unused(watching::watch_id id);
  bool is_anybody_placing() const noexcept { return placings_.use_count() > 1; }
  void end_those_given_up();

  watching::watch_source& source_;
  std::atomic<std::uint64_t> misses_{0};
  std::mutex placing_mutex_;  // between a placing that begins and a watch that ends
  const std::shared_ptr<const void> placings_ = std::make_shared<int>();  // its copies count them
  std::vector<watching::watch_id> given_up_;                              // while there were some
  std::vector<std::shared_ptr<watch_stream>> streams_;
  std::unordered_map<watching::watch_id, subscribers> ids_;
  std::vector<watched_root*> urgent_;
  std::unordered_set<watched_root*> told_over_;  // another root told that what they are in went
  std::vector<name_told_over> names_told_over_;  // and that of a name
  bool tells_over_anew_ = false;
  std::unordered_set<watched_root*> active_;  // with something to do
  std::unordered_set<watched_root*> polled_;
  std::unordered_set<watched_folder*> just_listed_;
  std::unordered_set<watched_folder*> not_all_told_;  // listed, with notices from before to come
  std::unordered_set<watched_folder*> doubted_;
  std::vector<watching::notice> notices_;
  std::size_t position_ = 0;
  bool is_drained_ = false;
  std::uint32_t batch_ = 0;
  std::uint32_t period_ = 1;                // counts the times that no notice was left
  std::vector<watched_folder*> concerned_;  // by the notice that is being handled; null: dropped
  std::vector<pending_move> moves_;
  pending_move ending_;  // the one that is being told
  std::vector<operation*> over_;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_CHANGE_FINDER_HPP
