#include "change_finder.hpp"

#include "file_state.hpp"

#include <mapio/error.hpp>

#include <algorithm>
#include <deque>
#include <iterator>
#include <limits>

MAPIO_NAMESPACE_BEGIN
namespace detail {

using watching::file_look;
using watching::file_name;
using watching::interest;
using watching::no_watch;
using watching::notice;
using watching::watch_id;

namespace {

// Where the OS does not tell and the user did not say how often to look.
constexpr std::chrono::milliseconds usual_poll{1000};
// What one turn looks at: others wait for the worker.
constexpr int looks_per_turn = 512;
// Beyond this it is better to list the whole folder.
constexpr std::size_t most_hints = 4096;
// The two halves of a rename are two notices, and the OS makes the second one right after the
// first.
constexpr std::chrono::milliseconds longest_move{10};
constexpr std::size_t most_moves = 64;
constexpr int most_links = 40;
// So that no sum with the present overflows.
constexpr std::chrono::milliseconds longest_interval = std::chrono::hours(24 * 365);
// Of bytes that are not told of yet.
constexpr std::int64_t no_time = std::numeric_limits<std::int64_t>::min();

constexpr std::uint32_t went = notice::deleted | notice::moved_from;
constexpr std::uint32_t came_there = notice::created | notice::moved_to;
constexpr std::uint32_t written_there = notice::modified | notice::metadata | notice::touched;

bool is_limit(const std::error_code& error) noexcept {
  return error == std::errc::no_space_on_device || error == std::errc::too_many_files_open ||
         error == std::errc::too_many_files_open_in_system ||
         error == std::errc::not_enough_memory || error == errc::unsupported ||
         error == std::errc::function_not_supported || error == std::errc::operation_not_permitted;
}

bool is_missing(const std::error_code& error) noexcept {
  return error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory;
}

std::optional<std::uint64_t> size_of(const file_look& look) {
  if (!look.exists || look.is_folder || look.is_unseen) return std::nullopt;
  return look.size;
}

/// Tells whether notices about a root only say where to look.
bool has_only_hints(const watched_root& root) noexcept {
  return root.stream.is_recovering || root.options.coalesce.count() > 0;
}

/// Takes in what a look has found, with an event of this kind: of new bytes only what it tells. The
/// rest has its own notice, which needs another look, or is found by comparing where that gets
/// lost. `batch` is that of the notice.
template <class Known>
void take_in(Known& known, const file_look& look, change_kind kind, std::uint32_t batch) noexcept {
  const file_look before = std::exchange(known.seen, look);
  if (kind != change_kind::metadata || look.is_folder || known.batch == batch) {
    known.batch = batch;
    return;
  }
  if (before.exists) known.seen.size = before.size;
  if (before.exists || before.modified == no_time) known.seen.modified = before.modified;
}

/// Tells whether the user may know of something else that had a name: what has it now was found by
/// a listing, and told to nobody.
bool may_hide_another(const watched_folder& folder, const watched_entry& entry) noexcept {
  return folder.has_unseen_names() && !entry.is_told;
}

/// Tells whether a notice about a known file is told without a look at it.
bool needs_no_look(const watched_root& root, const notice& n) noexcept {
  return n.what == notice::modified && !root.options.sizes && root.file.expired();
}

/// Tells whether a notice is about what the path leads to in the end.
bool is_leaf_of(const watched_root& root, const notice& n) {
  return !root.steps.empty() && root.steps.back().is_leaf && root.steps.back().id == n.id &&
         root.steps.back().name == n.name;
}

/// Tells whether no link is on the way.
bool has_one_name(const watched_root& root) noexcept {
  return std::count_if(root.steps.begin(), root.steps.end(),
                       [](const auto& step) { return !step.name.empty(); }) == 1;
}

/// What the user gave, without the slashes behind it.
std::filesystem::path without_slash(const std::filesystem::path& given) {
  return given.has_filename() ? given : given.parent_path();
}

/// Tells whether a root has no link on the way, and was given by this name.
bool is_named(const watched_root& root, const file_name& name) {
  return has_one_name(root) && without_slash(root.given).filename() == name;
}

/// Tells whether the user may know of something in what is under a name.
bool may_have_content(const watched_folder& folder, const watched_entry& entry) noexcept {
  if (!folder.root.options.recursive) return false;
  if (!entry.seen.is_folder) return entry.seen.exists && folder.has_unseen_names();
  return !entry.below || entry.below->has_unseen_names() || !entry.below->entries.empty();
}

bool is_in(const std::filesystem::path& inner, const std::filesystem::path& outer) {
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

bool is_in(const watched_folder& inner, const watched_folder& outer) noexcept {
  const watched_folder* at = &inner;
  while (at != nullptr && at != &outer)
    at = at->parent;
  return at != nullptr;
}

template <class T>
void erase_one(std::vector<T*>& from, const T* what) {
  from.erase(std::remove(from.begin(), from.end(), what), from.end());
}

}  // namespace

// --- folders and roots
// ------------------------------------------------------------------------------------------------

std::filesystem::path watched_folder::place() const {
  return parent == nullptr ? root.place : parent->place() / name;
}

std::filesystem::path watched_folder::told_path() const {
  return parent == nullptr ? root.given : parent->told_path() / name;
}

watched_root::watched_root(watch_stream& s, const std::filesystem::path& path,
                           const watch_options& o, const std::shared_ptr<file_state>& f)
    : stream(s), given(path), place(f ? f->place() : std::filesystem::absolute(path)), options(o),
      file(f), poll(std::min(o.poll, longest_interval)), polls_all(o.poll.count() > 0) {
  options.coalesce = std::min(o.coalesce, longest_interval);
}

// --- placing watches
// ------------------------------------------------------------------------------------------------

namespace {

struct folder_on_the_way {
  std::filesystem::path path;
  watched_root::step step;
};

/// Finds every name that decides what `path` is: the last one, and those of the links on the way.
/// Where one is missing, or no folder, it is the last. The folders above them are steps without a
/// name.
std::vector<folder_on_the_way> way_to(const std::filesystem::path& path) {
  std::vector<folder_on_the_way> way;
  std::filesystem::path at = path.root_path();
  std::deque<std::filesystem::path> ahead;
  const auto go_through = [&](const std::filesystem::path& part) {
    const auto relative = part.relative_path();
    std::copy_if(relative.begin(), relative.end(), std::inserter(ahead, ahead.begin()),
                 [](const auto& name) { return !name.empty() && name != "."; });
  };
  const auto add = [&](const std::filesystem::path& name) {
    // Who is told of its names is told of the folder too.
    if (!way.empty() && way.back().step.name.empty() && way.back().path == at) way.pop_back();
    way.push_back({at, {name.native()}});
  };
  go_through(path);
  for (int links = 0; !ahead.empty();) {
    const std::filesystem::path name = std::move(ahead.front());
    ahead.pop_front();
    if (name == "..") {
      at = at.parent_path();
      continue;
    }
    const std::filesystem::path next = at / name;
    std::error_code error;
    const auto status = std::filesystem::symlink_status(next, error);
    const bool is_last = ahead.empty();
    if (std::filesystem::is_symlink(status)) {
      add(name);
      const auto target = std::filesystem::read_symlink(next, error);
      if (error || ++links > most_links) break;
      if (target.is_absolute()) at = target.root_path();
      go_through(target);
      continue;
    }
    if (is_last || !std::filesystem::is_directory(status)) {
      add(name);
      way.back().step.is_leaf = is_last;
      break;
    }
    at = next;
    way.push_back({at, {}});
  }
  return way;
}

bool are_same(const std::vector<folder_on_the_way>& a, const std::vector<folder_on_the_way>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.path == y.path && x.step.name == y.step.name;
  });
}

}  // namespace

change_finder::placed_watches change_finder::place(const std::filesystem::path& path) const {
  placed_watches placed;
  std::vector<folder_on_the_way> way;
  bool went_meanwhile = false;
  const auto add = [&](const std::filesystem::path& what, interest how, watch_id& id) {
    const std::error_code error = source_.add(what, how, id);
    went_meanwhile = went_meanwhile || is_missing(error);
    if (is_limit(error))
      placed.limit = error;
    else if (error && !is_missing(error))
      placed.error = error;
  };
  // Until nothing on the way changed between the look and the watch. A folder that was not there to
  // be watched may be there again, and look the same.
  constexpr int attempts = 64;
  for (int i = 0; i < attempts; ++i) {
    auto now = way_to(path);
    if (i > 0 && !std::exchange(went_meanwhile, false) && are_same(now, way)) break;
    placed.error = {};
    for (const auto& before : way)
      placed.unused.push_back(before.step.id);
    way = std::move(now);
    for (auto& [folder, step] : way) {
      if (!step.name.empty())
        add(folder, interest::names, step.id);
      else if (source_.add(folder, interest::itself, step.id))
        // It may be passed through, but not read: then nobody tells when it is renamed.
        step.id = no_watch;
    }
  }
  placed.steps.reserve(way.size());
  for (auto& folder : way)
    placed.steps.push_back(std::move(folder.step));
  // A folder that may not be read can hold a file that may.
  if (placed.error == std::errc::permission_denied) {
    placed.limit = placed.error;
    placed.error = {};
  }
  if (const auto error = watching::look_at(path, true, placed.look)) {
    placed.error = error;
    return placed;
  }
  if (!placed.look.exists) return placed;
  if (placed.look.is_folder)
    add(path, interest::folder, placed.folder);
  else
    add(path, interest::file, placed.own);
  if (!placed.error && watching::may_change_unseen(path)) placed.limit = errc::unsupported;
  // What changes from here on is told.
  if (const auto error = watching::look_at(path, true, placed.look)) placed.error = error;
  return placed;
}

void change_finder::add(std::shared_ptr<watch_stream> stream, std::unique_ptr<watched_root> root,
                        placed_watches placed, std::uint64_t misses_before) {
  if (std::find(streams_.begin(), streams_.end(), stream) == streams_.end())
    streams_.push_back(stream);
  std::unique_ptr<watched_root>& known = stream->roots[root->given];
  if (known) return go_on_as(*known, *root, std::move(placed));
  known = std::move(root);
  watched_root& added = *known;
  const bool is_unnoticed = static_cast<bool>(placed.limit);
  if (is_unnoticed) fall_back(added, added.given, placed.limit);
  begin_polling(added);
  added.seen = placed.look;
  added.last = placed.look;
  settle(added, std::move(placed));
  if (added.tree) list(*added.tree);
  const bool is_missed = misses() != misses_before;
  // Not at once, where a burst is to be one event.
  if (is_missed) hint(added, 0);
  if (added.tree && (is_missed || is_unnoticed)) added.tree->is_in_doubt = true;
}

/// Watches a path as it was asked for when it was added again. What is known of it stays: what was
/// told is told still, and the rest follows from the difference.
void change_finder::go_on_as(watched_root& root, const watched_root& wanted,
                             placed_watches placed) {
  // A tree is of the time at which it was asked for.
  const bool is_all_seen =
      !root.tree || (!root.tree->is_unlisted && !root.tree->has_unseen_names());
  if (!root.options.recursive && is_all_seen) root.begin = wanted.begin;
  const bool was_recursive = root.options.recursive;
  root.given = wanted.given;
  root.place = wanted.place;
  root.options = wanted.options;
  if (!wanted.file.expired()) root.file = wanted.file;
  root.poll = wanted.poll;
  root.polls_all = wanted.polls_all;
  if (root.due != watch_clock::time_point::max())
    root.due = std::min(root.due, watch_clock::now() + root.options.coalesce);
  polled_.erase(&root);
  begin_polling(root);
  // Who added it may have looked at it since, as at one that was not watched before. It has to be
  // told of what differs from that, too; not at once, where a burst is to be one event.
  compare_root(root, std::move(placed), 0);
  hint(root, 0);
  if (!root.tree) return;
  root.begin_again = wanted.begin;
  forget_what_was_seen(*root.tree);
  // Who added it may know what is in those of which nothing was told yet.
  begin_those_anew(*root.tree, [](const watched_folder& folder) { return folder.is_new; });
  if (was_recursive || root.options.recursive) tell_folders_anew(root, was_recursive);
  if (!root.options.recursive) {
    for (auto& [name, entry] : root.tree->entries)
      drop(entry);
    for (pending_move& move : moves_)
      for (auto& [folder, entry] : move.entries)
        if (folder == root.tree.get()) drop(entry);
  }
  list_all(*root.tree);
}

/// From here on somebody may know names in a tree that are not known here, until it is listed.
void change_finder::forget_what_was_seen(watched_folder& folder) {
  folder.is_seen = false;
  // Without a notice only its own times tell of names that go until then.
  if (folder.is_polled) folder.is_in_doubt = true;
  for (auto& [name, entry] : folder.entries)
    if (entry.below) forget_what_was_seen(*entry.below);
}

/// Who added a tree again knows what is in its folders, and forgets that by events from before: a
/// folder that came may have had another one's name, and of its content nothing was to be told; one
/// that was renamed may have been found under the new name already, and another one under the old.
void change_finder::tell_folders_anew(watched_root& root, bool was_recursive) {
  for (const std::filesystem::path& came :
       root.stream.tell_renames_apart(root.given, !was_recursive))
    begin_anew_at(root, came);
}

/// Tells anew of a folder in a tree; if it is not there any more, that is told too. Null: nothing
/// of it is told here.
watched_folder* change_finder::begin_anew_at(watched_root& root,
                                             const std::filesystem::path& path) {
  watched_folder* const folder = folder_in(root, path.lexically_relative(root.given), true);
  const bool is_below = folder != nullptr && folder != root.tree.get();
  return is_below && begin_anew(*folder) ? folder : nullptr;
}

/// Returns a folder of a tree, or null; one that is not watched yet is from here on, or is none.
watched_folder* change_finder::folder_in(watched_root& root, const std::filesystem::path& path,
                                         bool watches_it) {
  watched_folder* folder = root.tree.get();
  for (const auto& name : path) {
    const auto it = folder->entries.find(name.native());
    if (it == folder->entries.end() || !it->second.seen.is_folder) return nullptr;
    if (!it->second.below && !watches_it) return nullptr;
    if (!it->second.below) adopt(*folder, it->second, it->first, false);
    folder = it->second.below.get();
  }
  return folder;
}

void change_finder::begin_polling(watched_root& root) {
  if (root.poll.count() <= 0) return;
  root.next_poll = watch_clock::now() + root.poll;
  polled_.insert(&root);
}

void change_finder::subscribe(watched_root& root, const watched_root::step& step) {
  if (step.id == no_watch) return;
  if (step.name.empty())
    ids_[step.id].passing.insert(&root);
  else
    ids_[step.id].names.emplace(step.name, &root);
}

void change_finder::unsubscribe(watched_root& root, const watched_root::step& step) {
  const auto it = ids_.find(step.id);
  if (it == ids_.end()) return;
  if (step.name.empty()) {
    const auto mine = it->second.passing.find(&root);
    if (mine != it->second.passing.end()) it->second.passing.erase(mine);
  } else {
    const auto [begin, end] = it->second.names.equal_range(step.name);
    const auto mine = std::find_if(begin, end, [&](const auto& n) { return n.second == &root; });
    if (mine != end) it->second.names.erase(mine);
  }
  end_if_unused(step.id);
}

/// Takes over watches that were placed, in the place of those from before.
void change_finder::settle(watched_root& root, placed_watches&& placed) {
  std::vector<watched_root::step> old_steps = std::exchange(root.steps, placed.steps);
  for (const auto& step : root.steps)
    subscribe(root, step);
  const watch_id old_own = root.own;
  if (placed.own != old_own) {
    if (placed.own != no_watch) ids_[placed.own].files.push_back(&root);
    unsubscribe_own(root);
    root.own = placed.own;
  }
  if (placed.look.exists && placed.look.is_folder) {
    if (!root.tree) root.tree = std::make_unique<watched_folder>(root, nullptr, file_name());
    if (placed.folder != no_watch)
      subscribe(*root.tree, placed.folder);
    else
      unsubscribe(*root.tree);  // It is that of another folder.
  }
  for (const auto& step : old_steps)
    unsubscribe(root, step);
  release(placed);
}

void change_finder::release(const placed_watches& placed) {
  for (const auto& step : placed.steps)
    end_if_unused(step.id);
  for (const watch_id id : placed.unused)
    end_if_unused(id);
  end_if_unused(placed.own);
  end_if_unused(placed.folder);
}

void change_finder::fall_back(watched_root& root, const std::filesystem::path& path,
                              std::error_code reason) {
  root.stream.note_fallback(path, reason);
  if (path == root.given) root.polls_all = true;
  if (root.poll.count() > 0) return;
  root.poll = usual_poll;
  begin_polling(root);
}

void change_finder::fall_back(watched_folder& folder, std::error_code reason) {
  folder.is_polled = true;
  fall_back(folder.root, folder.told_path(), reason);
}

/// Of one in which something could not be looked at.
void change_finder::look_again_later(watched_folder& folder) {
  fall_back(folder, std::make_error_code(std::errc::permission_denied));
}

void change_finder::remove(const watch_stream& stream, const std::filesystem::path& path) {
  for (const auto& s : streams_) {
    if (s.get() != &stream) continue;
    auto& roots = s->roots;
    const auto it = roots.find(path);
    if (it == roots.end()) return;
    drop(*it->second);
    roots.erase(it);
    for (const std::filesystem::path& came : s->take_those_who_came())
      tell_content_of(*s, came);
    return;
  }
}

/// Tells anew of a folder that is known to have come along with its content, and did not.
void change_finder::tell_content_of(watch_stream& stream, const std::filesystem::path& came) {
  for (const auto& [given, root] : stream.roots) {
    if (!root->options.recursive || !root->tree || !is_in(came, given)) continue;
    if (watched_folder* const folder = begin_anew_at(*root, came)) list(*folder);
  }
}

void change_finder::remove(const watch_stream& stream) {
  const auto it = std::find_if(streams_.begin(), streams_.end(),
                               [&](const auto& s) { return s.get() == &stream; });
  if (it == streams_.end()) return;
  for (const auto& [path, root] : (*it)->roots)
    drop(*root);
  (*it)->roots.clear();
  streams_.erase(it);
}

void change_finder::clear() noexcept {
  moves_.clear();
  ending_ = {};
  concerned_.clear();
  urgent_.clear();
  told_over_.clear();
  names_told_over_.clear();
  active_.clear();
  polled_.clear();
  just_listed_.clear();
  not_all_told_.clear();
  doubted_.clear();
  ids_.clear();
  for (const auto& stream : streams_)
    stream->roots.clear();
  streams_.clear();
}

void change_finder::subscribe(watched_folder& folder, watch_id id) {
  if (folder.id == id) return;
  ids_[id].folders.push_back(&folder);
  unsubscribe(folder);
  folder.id = id;
}

void change_finder::unsubscribe(watched_folder& folder) {
  const watch_id id = std::exchange(folder.id, no_watch);
  const auto it = ids_.find(id);
  if (it == ids_.end()) return;
  erase_one(it->second.folders, &folder);
  end_if_unused(id);
}

void change_finder::unsubscribe_own(watched_root& root) {
  const watch_id id = std::exchange(root.own, no_watch);
  const auto it = ids_.find(id);
  if (it == ids_.end()) return;
  erase_one(it->second.files, &root);
  end_if_unused(id);
}

void change_finder::unsubscribe_steps(watched_root& root) {
  for (const auto& step : std::exchange(root.steps, {}))
    unsubscribe(root, step);
}

void change_finder::end_if_unused(watch_id id) {
  if (id == no_watch) return;
  const auto it = ids_.find(id);
  if (it != ids_.end()) {
    if (!it->second.empty()) return;
    ids_.erase(it);
  }
  std::lock_guard lock(placing_mutex_);
  if (is_anybody_placing())
    given_up_.push_back(id);
  else
    source_.remove(id);
}

void change_finder::end_those_given_up() {
  if (given_up_.empty() || is_anybody_placing()) return;
  for (const watch_id id : std::exchange(given_up_, {}))
    end_if_unused(id);
}

std::shared_ptr<const void> change_finder::begin_placing() {
  std::lock_guard lock(placing_mutex_);
  return placings_;
}

// --- telling
// ------------------------------------------------------------------------------------------------

void change_finder::tell(watched_root& root, change_kind kind, std::filesystem::path path,
                         const file_look& look) {
  const bool is_size = kind != change_kind::removed && kind != change_kind::metadata;
  const std::optional<std::uint64_t> size = is_size ? size_of(look) : std::nullopt;
  if (size)
    if (const auto file = root.file.lock()) file->note_size(*size);
  if (kind == change_kind::removed && !tells_over_anew_ && root.stream.roots.size() > 1)
    note_told_over(root, path);
  root.stream.push({kind, std::move(path), {}, size}, &root, nullptr, over_);
}

/// With what is told to be gone goes all that other roots told of in it, and of the name itself,
/// though they may see something there.
void change_finder::note_told_over(const watched_root& by, const std::filesystem::path& path) {
  const auto& roots = by.stream.roots;
  for (auto it = roots.lower_bound(path); it != roots.end() && is_in(it->first, path); ++it)
    if (it->second.get() != &by) told_over_.insert(it->second.get());
  for (std::filesystem::path above = path; above.has_relative_path();) {
    above = above.parent_path();
    const auto it = roots.find(above);
    if (it != roots.end() && it->second.get() != &by)
      names_told_over_.push_back({it->second.get(), path, by.options.recursive});
  }
}

void change_finder::tell_over_anew() {
  // All that is told to be gone by this is in what was, and was noted then.
  tells_over_anew_ = true;
  for (watched_root* root : std::exchange(told_over_, {})) {
    if (!root->seen.exists) continue;
    // By itself: what the other one told is dropped if that is removed before it is taken.
    left(*root);
    hint(*root, 0);
  }
  for (const auto& [root, path, is_told_below] : std::exchange(names_told_over_, {})) {
    const std::filesystem::path name = path.lexically_relative(root->given);
    watched_folder* const folder =
        root->tree ? folder_in(*root, name.parent_path(), false) : nullptr;
    if (folder == nullptr) continue;
    const auto it = folder->entries.find(name.filename().native());
    if (it == folder->entries.end() || !it->second.seen.exists) continue;
    watched_entry& entry = it->second;
    if (entry.seen.is_folder) {
      if (root->options.recursive && !is_told_below && entry.below && begin_anew(*entry.below))
        list(*entry.below);
    } else {
      entry.is_told = false;
      hint_at_once(*folder, it->first);
      folder->hints[it->first] |= notice::created;
    }
  }
  tells_over_anew_ = false;
}

void change_finder::tell(watched_folder& folder, change_kind kind, const file_name& name,
                         const file_look& look) {
  // Not with `/`, which copies once more.
  std::filesystem::path path = folder.told_path();
  path /= name;
  // Who added the tree again may have seen what was in a folder of which he hears but now.
  watched_root& root = folder.root;
  if (kind == change_kind::created && look.is_folder && root.options.recursive &&
      folder.has_unseen_names() && look.born <= root.begin_again)
    tell(root, change_kind::removed, path, {});
  tell(root, kind, std::move(path), look);
}

void change_finder::tell_of_rename(watched_root& old_root, std::filesystem::path old_path,
                                   watched_folder& folder, const file_name& name,
                                   const file_look& look) {
  folder.root.stream.push(
      {change_kind::renamed, folder.told_path() / name, std::move(old_path), size_of(look)},
      &folder.root, &old_root, over_);
}

void change_finder::lose(watch_stream& stream) {
  if (!stream.is_recovering)
    stream.push({change_kind::overflow, {}, {}, std::nullopt}, nullptr, nullptr, over_);
  stream.is_recovering = true;
  for (pending_move& move : moves_) {
    for (auto& [folder, entry] : move.entries) {
      if (&folder->root.stream != &stream) continue;
      if (entry.seen.exists || entry.is_told) {
        folder->entries.try_emplace(move.from.name, std::move(entry));
      } else if (!folder->is_new) {
        hint_at_once(*folder, move.from.name);
        folder->hints[move.from.name] |= notice::deleted;
      }
    }
    std::erase_if(move.entries, [&](const auto& e) { return &e.first->root.stream == &stream; });
    std::erase_if(move.roots, [&](const watched_root* r) { return &r->stream == &stream; });
  }
  for (const auto& [path, root] : stream.roots) {
    hint_at_once(*root);
    if (root->tree) list_all(*root->tree);
  }
}

/// The same for all streams, where there are no notices that could be hints.
void change_finder::lose_notices() {
  for (const auto& stream : streams_) {
    lose(*stream);
    for (const auto& [path, root] : stream->roots)
      for (watched_folder* folder : root->to_list) {
        folder->is_in_doubt = true;
        // What a listing before this did not find may have gone with the notices.
        just_listed_.erase(folder);
        not_all_told_.erase(folder);
      }
  }
}

void change_finder::lose_everything() noexcept {
  try {
    position_ = notices_.size();
    ending_ = {};
    tells_over_anew_ = false;
    lose_notices();
  } catch (...) {
    // The next turn tries again: what is not told is still not known.
  }
}

void change_finder::end_recoveries() {
  for (const auto& stream : streams_)
    if (stream->is_recovering &&
        std::none_of(stream->roots.begin(), stream->roots.end(),
                     [&](const auto& root) { return active_.contains(root.second.get()); }))
      stream->is_recovering = false;
}

// --- hints
// ------------------------------------------------------------------------------------------------

/// Tells whether notices about a root are hints now. A stream that has no room has a gap from here.
bool change_finder::takes_hints(watched_root& root) {
  if (!has_only_hints(root) && !root.stream.has_room()) lose(root.stream);
  return has_only_hints(root);
}

/// The same for what is told to those who gather, too, and so must have room.
bool change_finder::takes_hints_or_lacks_room(watched_root& root) {
  if (!root.stream.is_recovering && !root.stream.has_room()) lose(root.stream);
  return has_only_hints(root);
}

void change_finder::hint_at_once(watched_root& root) {
  root.must_look = true;
  root.due = watch_clock::time_point::min();
  active_.insert(&root);
}

void change_finder::hint(watched_root& root, std::uint32_t what) {
  if (root.stream.is_recovering) return hint_at_once(root);
  root.must_look = true;
  root.hint |= what;
  if (root.options.coalesce.count() <= 0) {
    urgent_.push_back(&root);
    return;
  }
  if (root.due == watch_clock::time_point::max())
    root.due = watch_clock::now() + root.options.coalesce;
  active_.insert(&root);
}

void change_finder::hint_at_once(watched_folder& folder, const file_name& name) {
  folder.hints.try_emplace(name, 0);
  folder.root.hinted.insert(&folder);
  folder.root.due = watch_clock::time_point::min();
  active_.insert(&folder.root);
}

void change_finder::hint(watched_folder& folder, const file_name& name, std::uint32_t what) {
  watched_root& root = folder.root;
  const bool is_recovering = root.stream.is_recovering;
  const auto known = folder.entries.find(name);
  // Where it was away for a while, looks into it found nothing, or another folder.
  if ((what & (went | came_there)) != 0 && known != folder.entries.end() && known->second.below)
    list_all(*known->second.below);
  if (root.to_list.contains(&folder) && !folder.reader.is_open()) {
    // All of it is about to be looked at, and compared with what is known.
    if (is_recovering && !folder.has_unseen_names()) return;
  }
  if (folder.hints.size() >= most_hints) {
    folder.hints.clear();
    root.hinted.erase(&folder);
    folder.is_in_doubt = true;
    return list(folder);
  }
  std::uint32_t& all = folder.hints[name];
  // Looking does not tell which of the bytes that a listing found came after the user had a look.
  const bool is_untold = known != folder.entries.end() ? may_hide_another(folder, known->second)
                                                       : folder.has_unseen_names();
  if (is_untold || !is_recovering) all |= what & written_there;
  // Nor whether there was something else under such a name; whoever added the folder may have
  // looked at it before it went.
  if (is_untold && (what & went) != 0) all |= notice::deleted;
  if (is_untold && (all & notice::deleted) == 0) all |= what & came_there;
  if (is_recovering) return hint_at_once(folder, name);
  root.hinted.insert(&folder);
  if (root.due == watch_clock::time_point::max())
    root.due = watch_clock::now() + root.options.coalesce;
  active_.insert(&root);
}

/// Something does not fit: looks at a name when all that happened to it was told.
void change_finder::doubt(watched_folder& folder, const file_name& name, std::uint32_t what) {
  if (folder.doubts.size() >= most_hints) {
    folder.doubts.clear();
    return list(folder);
  }
  folder.doubts[name] |= what;
  doubted_.insert(&folder);
}

void change_finder::look_into_doubts() {
  for (watched_folder* folder : std::exchange(doubted_, {}))
    for (const auto& [name, what] : std::exchange(folder->doubts, {}))
      hint(*folder, name, what);
}

/// Looks at a folder that was moved, and at those in it, where their old paths may have misled.
void change_finder::look_again(watched_folder& folder) {
  if (folder.looked_in == period_ || folder.is_misplaced) list(folder);
  for (auto& [name, entry] : folder.entries)
    if (entry.below) look_again(*entry.below);
}

void change_finder::list(watched_folder& folder) {
  folder.reader.close();
  folder.root.to_list.insert(&folder);
  active_.insert(&folder.root);
}

void change_finder::list_all(watched_folder& folder) {
  list(folder);
  for (auto& [name, entry] : folder.entries)
    if (entry.below) list_all(*entry.below);
}

// --- notices
// ------------------------------------------------------------------------------------------------

void change_finder::read() {
  if (position_ < notices_.size()) return;
  notices_.clear();
  position_ = 0;
  ++batch_;
  is_drained_ = !source_.read(notices_);
  if (!is_drained_) return;
  ++period_;
  for (watched_folder* folder : std::exchange(just_listed_, {})) {
    source_.ask_for_all(folder->id);
    not_all_told_.insert(folder);
  }
  std::erase_if(not_all_told_, [&](watched_folder* folder) {
    folder->is_seen = source_.has_told_all(folder->id);
    return folder->is_seen;
  });
}

change_finder::outcome change_finder::work(bool may_wait) {
  end_those_given_up();
  for (; position_ < notices_.size(); ++position_)
    if (!look_at_urgent(may_wait) || !handle(notices_[position_], may_wait))
      return outcome::has_to_wait;
  const auto now = watch_clock::now();
  while (is_drained_ && !moves_.empty() && moves_.front().until <= now) {
    take(moves_.begin());
    expire();
  }
  if (!look_at_urgent(may_wait)) return outcome::has_to_wait;
  if (!doubted_.empty() && !may_wait) return outcome::has_to_wait;
  if (is_drained_) look_into_doubts();
  poll_due(now);
  int budget = looks_per_turn;
  for (auto it = active_.begin(); it != active_.end();) {
    watched_root& root = **it;
    ++it;
    const bool is_due = root.due <= now && (root.must_look || !root.hinted.empty());
    if (!is_due && root.to_list.empty()) {
      if (!root.must_look && root.hinted.empty()) active_.erase(&root);
      continue;
    }
    if (!root.stream.has_room()) continue;
    if (!may_wait) return outcome::has_to_wait;
    if (!work_on(root, budget)) return outcome::more;
    if (!root.must_look && root.hinted.empty() && root.to_list.empty()) active_.erase(&root);
  }
  // Doubts that arose by looking too: no notice may follow that would be their turn.
  if (!is_drained_ || !just_listed_.empty() || !doubted_.empty() || has_told_over())
    return outcome::more;
  end_recoveries();
  return outcome::done;
}

/// Looks at the roots of which something may be told before what was noticed later. False: that
/// would wait.
bool change_finder::look_at_urgent(bool may_wait) {
  tell_over_anew();
  if (!urgent_.empty() && !may_wait) return false;
  for (watched_root* root : std::exchange(urgent_, {})) {
    if (!root->must_look) continue;
    if (takes_hints(*root))
      hint(*root, 0);
    else
      look_at_root(*root);
  }
  return true;
}

watch_clock::time_point change_finder::next_deadline() const noexcept {
  auto deadline = watch_clock::time_point::max();
  // A stream that has no room says so when it has.
  for (const watched_root* root : active_)
    if ((root->must_look || !root->hinted.empty()) && root->stream.has_room())
      deadline = std::min(deadline, root->due);
  for (const watched_root* root : polled_)
    deadline = std::min(deadline, root->next_poll);
  for (const pending_move& move : moves_)
    deadline = std::min(deadline, move.until);
  return deadline;
}

/// Finds what a notice calls for a look at, once for all that it concerns. False: that would wait.
bool change_finder::look_for(const notice& n, const subscribers& who, bool may_wait,
                             file_look& look) {
  constexpr std::uint32_t looked_at =
      notice::modified | notice::metadata | notice::created | notice::moved_to | notice::touched;
  if ((n.what & looked_at) == 0) return true;
  const auto at = [&](const std::filesystem::path& path, bool follow) {
    if (!may_wait) return watching::look_at_once(path, follow, look);
    // Then there is doubt.
    if (watching::look_at(path, follow, look)) look = {};
    return true;
  };
  // Whoever looked since the notices were read has seen what they are about.
  const bool may_know = (n.what & (notice::created | notice::moved_to)) == 0;
  if (n.name.empty()) {
    for (watched_root* root : who.files) {
      if (has_only_hints(*root) || needs_no_look(*root, n)) continue;
      if (root->batch == batch_) {
        look = root->seen;
        return true;
      }
      return at(root->place, true);
    }
    return true;
  }
  for (watched_folder* folder : who.folders)
    folder->looked_in = period_;
  for (watched_folder* folder : who.folders) {
    if (has_only_hints(folder->root)) continue;
    const auto known = folder->entries.find(n.name);
    if (may_know && known != folder->entries.end() && known->second.batch == batch_) {
      look = known->second.seen;
      return true;
    }
    if (known != folder->entries.end() && needs_no_look(folder->root, n)) continue;
    if (!may_wait) return watching::look_at_once(folder->place() / n.name, false, look);
    if (source_.look_in(n.id, folder->place(), n.name, look)) look = {};
    return true;
  }
  // Whether it is what the root was told to be.
  if ((n.what & notice::moved_to) != 0)
    if (const auto move = first_half_of(n);
        move != moves_.end() && move->from.id == n.id && !move->roots.empty())
      return at(without_slash(move->roots.front()->place).parent_path() / n.name, false);
  return true;
}

bool change_finder::handle(const notice& n, bool may_wait) {
  if ((n.what & notice::overflow) != 0) {
    lose_notices();
    return true;
  }
  const auto it = ids_.find(n.id);
  if (it == ids_.end()) {
    // Perhaps of a watch that is being placed.
    misses_.fetch_add(1);
    return true;
  }
  if ((n.what & notice::ended) != 0) {
    ended(n.id);
    return true;
  }
  file_look look;
  if (!look_for(n, it->second, may_wait, look)) return false;
  if (n.name.empty()) {
    changed_itself(n, look);
    return true;
  }
  // What happens to a name after it went away is not to be told before that.
  const auto same_name = std::find_if(moves_.begin(), moves_.end(), [&](const pending_move& m) {
    return m.from.id == n.id && m.from.name == n.name &&
           ((n.what & notice::moved_to) == 0 || m.from.cookie != n.cookie);
  });
  if (same_name != moves_.end()) {
    take(same_name);
    expire();
    if (!ids_.contains(n.id)) return true;
  }
  if ((n.what & notice::moved_from) != 0) {
    begin_move(n);
    return true;
  }
  if ((n.what & notice::moved_to) != 0) {
    const auto from = first_half_of(n);
    if (from != moves_.end()) take(from);
    end_move(n, look);
    expire();
    return true;
  }
  // Copies: to tell may change who is concerned.
  concerned_ = ids_.at(n.id).folders;
  for (watched_root* root : roots_by_name(n))
    changed_on_the_way(*root, n);
  for (watched_folder*& folder : concerned_)
    if (folder != nullptr) changed_in(*folder, n, look);
  return true;
}

std::vector<watched_root*> change_finder::roots_by_name(const notice& n) const {
  std::vector<watched_root*> roots;
  const auto [begin, end] = ids_.at(n.id).names.equal_range(n.name);
  std::transform(begin, end, std::back_inserter(roots), [](const auto& r) { return r.second; });
  return roots;
}

void change_finder::ended(watch_id id) {
  const auto it = ids_.find(id);
  subscribers who = std::move(it->second);
  ids_.erase(it);
  for (watched_folder* folder : who.folders) {
    folder->id = no_watch;
    // Unmounted, unless its parent tells, or has told, of something else.
    if (folder->parent != nullptr)
      doubt(*folder->parent, folder->name, 0);
    else
      hint(folder->root, 0);
  }
  for (watched_root* root : who.files) {
    root->own = no_watch;
    hint(*root, 0);
  }
  const auto lose_steps = [&](watched_root& root) {
    for (auto& step : root.steps)
      if (step.id == id) step.id = no_watch;
    hint(root, 0);
  };
  for (const auto& [name, root] : who.names)
    lose_steps(*root);
  for (watched_root* root : who.passing)
    lose_steps(*root);
}

void change_finder::changed_itself(const notice& n, const file_look& look) {
  const auto it = ids_.find(n.id);
  const auto folders = it->second.folders;
  const auto files = it->second.files;
  const bool is_gone = (n.what & notice::self_is_gone) != 0;
  if (is_gone) {
    std::vector<watched_root*> on_the_way(it->second.passing.begin(), it->second.passing.end());
    for (const auto& [name, root] : it->second.names)
      on_the_way.push_back(root);
    for (watched_root* root : on_the_way)
      hint(*root, 0);
  }
  for (watched_folder* folder : folders) {
    // Of others their parent tells.
    if (folder->parent != nullptr) continue;
    watched_root& root = folder->root;
    if (is_gone || takes_hints(root)) {
      hint(root, n.what & notice::metadata);
    } else if ((n.what & notice::metadata) != 0) {
      if (look.is_same_file(root.seen)) root.seen = look;
      tell(root, change_kind::metadata, root.given, look);
    }
  }
  for (watched_root* root : files) {
    if (is_gone || takes_hints(*root)) {
      hint(*root, n.what & written_there);
    } else if (!look.exists && needs_no_look(*root, n)) {
      tell(*root, change_kind::modified, root->given, {});
    } else if (!look.is_same_file(root->seen)) {
      // It has lost the name, of which there is other notice; if not, looking tells.
      if ((n.what & notice::modified) != 0) tell(*root, change_kind::modified, root->given, {});
      hint_at_once(*root);
    } else if ((n.what & notice::touched) != 0) {
      // What was seen after this was noticed is told.
      if (std::exchange(root->batch, batch_) == batch_) continue;
      const file_look before = std::exchange(root->seen, look);
      if (const auto kind = difference(before, look, n.what)) tell(*root, *kind, root->given, look);
    } else {
      const bool is_shorter = look.size < root->seen.size;
      const auto kind = is_shorter                         ? change_kind::truncated
                        : (n.what & notice::modified) != 0 ? change_kind::modified
                                                           : change_kind::metadata;
      take_in(*root, look, kind, batch_);
      tell(*root, kind, root->given, look);
    }
  }
}

void change_finder::changed_on_the_way(watched_root& root, const notice& n) {
  if ((n.what & (notice::created | notice::deleted)) == 0) return;
  if (takes_hints(root) || (n.what & (notice::created | notice::touched)) != 0 ||
      !has_one_name(root))
    return hint(root, is_leaf_of(root, n) ? n.what & came_there : 0);
  left(root);
}

void change_finder::left(watched_root& root) {
  if (!root.seen.exists) return;
  forget(root);
  tell(root, change_kind::removed, root.given, {});
}

void change_finder::changed_in(watched_folder& folder, const notice& n, const file_look& look) {
  if (takes_hints(folder.root)) return hint(folder, n.name, n.what);
  if ((n.what & notice::touched) != 0) return touched(folder, n, look);
  if ((n.what & notice::created) != 0) came(folder, n.name, look);
  if ((n.what & notice::deleted) != 0) left(folder, n.name);
  if ((n.what & (notice::modified | notice::metadata)) != 0) written(folder, n, look);
}

/// Of a notice that leaves open what happened.
void change_finder::touched(watched_folder& folder, const notice& n, const file_look& look) {
  const auto known = folder.entries.find(n.name);
  const bool is_known = known != folder.entries.end();
  const bool may_hide_one = is_known && may_hide_another(folder, known->second);
  if ((n.what & notice::deleted) != 0 && (!is_known || !look.exists || may_hide_one)) {
    left(folder, n.name);
    if (may_hide_one && look.exists) came(folder, n.name, look);
    return;
  }
  // Something else has the name by now, or nothing, of which there is other notice.
  if (!look.exists || (is_known && !look.is_same_file(known->second.seen)))
    return doubt(folder, n.name, 0);
  // What was seen after this was noticed is told.
  if (is_known && std::exchange(known->second.batch, batch_) == batch_) return;
  compare(folder, n.name, look, n.what & notice::touched);
}

void change_finder::came(watched_folder& folder, const file_name& name, const file_look& look) {
  const auto [it, is_unknown] = folder.entries.try_emplace(name);
  watched_entry& entry = it->second;
  const file_look before = entry.seen;
  const bool was_told = std::exchange(entry.is_told, true);
  const bool is_another = before.exists && look.exists && !before.is_same_file(look);
  const bool had_content =
      folder.root.options.recursive && (before.is_folder || folder.has_unseen_names());
  if (is_another) drop(entry);
  if (!look.exists) doubt(folder, name, 0);
  if (look.exists) entry.seen = look;
  entry.listing = folder.listing;
  if (is_unknown || (!was_told && !is_another)) {
    tell(folder, change_kind::created, name, look);
  } else if (is_another && had_content) {
    // What was told of in it is gone with it.
    tell(folder, change_kind::removed, name, {});
    tell(folder, change_kind::created, name, look);
  } else if (is_another) {
    tell(folder, change_kind::replaced, name, look);
  } else {
    tell_new_bytes(folder, name, before, look);
  }
  if (!look.is_folder || !folder.root.options.recursive) return;
  if (!entry.below) return adopt(folder, entry, name, true);
  // Found by listing, though it came after that was begun: so did all that is in it.
  if (!was_told) {
    entry.below->is_new = true;
    list(*entry.below);
  }
}

/// Tells of bytes that are known from here on, and of which no notice may follow.
void change_finder::tell_new_bytes(watched_folder& folder, const file_name& name,
                                   const file_look& before, const file_look& now) {
  if (!now.exists || now.is_folder) return;
  if (!before.exists)
    tell(folder, change_kind::modified, name, now);
  else if (now.size != before.size || now.modified != before.modified)
    tell(folder, now.size < before.size ? change_kind::truncated : change_kind::modified, name,
         now);
}

void change_finder::left(watched_folder& folder, const file_name& name) {
  const auto it = folder.entries.find(name);
  if (it == folder.entries.end()) {
    // Of before it was listed; or of before it was watched, and then nobody has heard of it.
    if (!folder.is_new) tell(folder, change_kind::removed, name, {});
    return;
  }
  drop(it->second);
  folder.entries.erase(it);
  tell(folder, change_kind::removed, name, {});
}

void change_finder::written(watched_folder& folder, const notice& n, const file_look& look) {
  const auto [it, is_unknown] = folder.entries.try_emplace(n.name);
  watched_entry& entry = it->second;
  // Of what was found by looking there may be no other notice.
  const bool is_all = (n.what & notice::touched) != 0 || (n.what & written_there) == 0;
  const bool has_new_bytes = is_all && !look.is_folder && look.modified > folder.root.begin;
  auto kind = has_new_bytes || (n.what & notice::modified) != 0 ? change_kind::modified
                                                                : change_kind::metadata;
  if (is_unknown) {
    const bool is_first = folder.is_new || !folder.is_unlisted;
    if (!look.exists) {
      folder.entries.erase(it);
      doubt(folder, n.name, 0);
      if (is_first) return;
    } else {
      entry.is_told = true;
      entry.listing = folder.listing;
      if (is_first) kind = change_kind::created;
      // What was written since it was asked for has its own notice.
      if (kind == change_kind::metadata && look.modified > folder.root.begin)
        entry.seen.modified = no_time;
      take_in(entry, look, kind, batch_);
      if (look.is_folder && folder.root.options.recursive) adopt(folder, entry, n.name, is_first);
    }
    return tell(folder, kind, n.name, look);
  }
  if (!look.exists && needs_no_look(folder.root, n)) return tell(folder, kind, n.name, {});
  if (look.exists && (!entry.seen.exists || look.is_same_file(entry.seen))) {
    // What came was gone from where the look was made: this is the first to see its bytes.
    const bool is_first_look = !entry.seen.exists;
    if (!look.is_folder && look.size < entry.seen.size) kind = change_kind::truncated;
    take_in(entry, look, kind, batch_);
    tell(folder, kind, n.name, look);
    if (is_first_look && kind == change_kind::metadata) tell_new_bytes(folder, n.name, {}, look);
    return;
  }
  // Something else has the name by now, of which there is other notice.
  doubt(folder, n.name, 0);
  tell(folder, kind, n.name, {});
}

// --- renames
// ------------------------------------------------------------------------------------------------

void change_finder::begin_move(const notice& n) {
  pending_move move;
  move.from = n;
  move.until = watch_clock::now() + longest_move;
  const auto folders = ids_.at(n.id).folders;
  for (watched_root* root : roots_by_name(n)) {
    if (takes_hints(*root) || !is_named(*root, n.name))
      hint(*root, 0);
    else
      move.roots.push_back(root);
  }
  for (watched_folder* folder : folders) {
    const bool is_hint = takes_hints_or_lacks_room(folder->root);
    const auto it = folder->entries.find(n.name);
    const bool is_known = it != folder->entries.end();
    // Who gathers may still be told of a rename, if the old name was told before.
    if (folder->root.stream.is_recovering || (is_hint && !is_known)) {
      hint(*folder, n.name, n.what);
      continue;
    }
    move.entries.emplace_back(folder, is_known ? std::move(it->second) : watched_entry());
    if (is_known) folder->entries.erase(it);
  }
  if (move.roots.empty() && move.entries.empty()) return;
  moves_.push_back(std::move(move));
  // Where there is no end of notices, time does not tell.
  if (moves_.size() <= most_moves) return;
  take(moves_.begin());
  expire();
}

/// Returns the move of which a notice is the second half, or the end.
std::vector<change_finder::pending_move>::iterator change_finder::first_half_of(const notice& n) {
  return std::find_if(moves_.begin(), moves_.end(),
                      [&](const pending_move& move) { return move.from.cookie == n.cookie; });
}

/// Makes it the one that is being told.
void change_finder::take(std::vector<pending_move>::iterator move) {
  ending_ = std::move(*move);
  moves_.erase(move);
}

/// Tells whether something in a folder was added by itself.
bool change_finder::has_root_in(const watch_stream& stream, const std::filesystem::path& folder) {
  return std::any_of(stream.roots.begin(), stream.roots.end(),
                     [&](const auto& root) { return is_in(root.second->place, folder); });
}

/// Tells of a name that was moved to; what of `ending_` went there is taken out of it.
void change_finder::end_move(const notice& n, const file_look& look) {
  concerned_ = ids_.at(n.id).folders;
  // Who tells of a rename before those who tell that something is gone, and with it what is in it.
  std::partition(concerned_.begin(), concerned_.end(), [&](const watched_folder* folder) {
    return std::any_of(ending_.entries.begin(), ending_.entries.end(),
                       [&](const auto& e) { return &e.first->root == &folder->root; });
  });
  const file_name& old_name = ending_.from.name;

  const std::vector<watched_root*> roots_there = roots_by_name(n);
  std::vector<watched_root*> gone;
  for (watched_root* root : std::vector<watched_root*>(ending_.roots)) {
    const auto parent =
        std::find_if(concerned_.begin(), concerned_.end(), [&](watched_folder* folder) {
          return folder != nullptr && &folder->root.stream == &root->stream;
        });
    std::filesystem::path now;
    if (ending_.from.id == n.id)
      now = without_slash(root->given).parent_path() / n.name;
    else if (parent != concerned_.end())
      now = (*parent)->told_path() / n.name;
    else
      continue;
    erase_one(ending_.roots, root);
    if (!root->seen.exists) continue;
    // Two were exchanged, and the other one has been told of already.
    const bool is_same = look.is_same_file(root->seen);
    if (!is_same) hint(*root, 0);
    if (!is_same && look.exists) continue;
    // What was in it is looked for there, if anything is, as if it were new.
    const auto is_other = [&](const watched_root& other) {
      return &other != root && &other.stream == &root->stream;
    };
    const bool is_watched_there =
        std::any_of(roots_there.begin(), roots_there.end(),
                    [&](auto* other) { return is_other(*other); }) ||
        std::any_of(concerned_.begin(), concerned_.end(),
                    [&](auto* folder) { return folder != nullptr && is_other(folder->root); });
    if (root->seen.is_folder && is_watched_there) {
      gone.push_back(root);
      continue;
    }
    forget(*root);
    root->stream.push({change_kind::renamed, now, root->given, std::nullopt}, nullptr, root, over_);
  }
  for (watched_root* root : roots_there)
    hint(*root, is_leaf_of(*root, n) ? n.what & came_there : 0);

  for (watched_folder*& folder : concerned_) {
    if (folder == nullptr) continue;
    const auto same_root = [&](const auto& e) { return &e.first->root == &folder->root; };
    const auto same_stream = [&](const auto& e) {
      return &e.first->root.stream == &folder->root.stream;
    };
    auto source = std::find_if(ending_.entries.begin(), ending_.entries.end(), same_root);
    if (source == ending_.entries.end())
      source = std::find_if(ending_.entries.begin(), ending_.entries.end(), same_stream);
    const bool is_hint = takes_hints_or_lacks_room(folder->root);
    if (source == ending_.entries.end() || folder->root.stream.is_recovering) {
      if (is_hint)
        hint(*folder, n.name, n.what);
      else
        came(*folder, n.name, look);
      continue;
    }
    watched_folder& old_folder = *source->first;
    watched_entry moved = std::move(source->second);
    ending_.entries.erase(source);
    if (!moved.seen.exists && !moved.is_told && !old_folder.has_unseen_names()) {
      // Nobody was told of the old name.
      came(*folder, n.name, look);
      continue;
    }
    // The hint may be of what the other one was exchanged with, which came by an earlier notice.
    if (old_folder.hints.erase(old_name) != 0) doubt(old_folder, old_name, notice::moved_to);
    if (moved.below && is_in(*folder, *moved.below)) {
      // It is not what was moved: looks have shown other folders than notices tell of by now.
      tell(old_folder, change_kind::removed, old_name, {});
      doubt(old_folder, old_name, notice::moved_to);
      drop(moved);
      continue;
    }
    // Something else may have the name by now, of which there is other notice; or the two were
    // exchanged, and there is none.
    const bool is_same = !moved.seen.exists || look.is_same_file(moved.seen);
    if (!is_same) doubt(old_folder, old_name, notice::moved_to);
    // The look may have been at another folder, that had the path meanwhile.
    if (!is_same || !look.exists) doubt(*folder, n.name, 0);
    watched_root& old_root = old_folder.root;
    const bool is_any_unseen = old_folder.has_unseen_names() || folder->has_unseen_names();
    const bool stays_in_root = &old_root == &folder->root;
    std::filesystem::path old_path = old_folder.told_path() / old_name;
    // What is let go of from here on may be a folder that this is about.
    const auto [it, is_free] = folder->entries.try_emplace(n.name);
    watched_entry& entry = it->second;
    const bool had_content = may_have_content(*folder, entry);
    if (!is_free) drop(entry);
    if (folder == nullptr) continue;
    if (had_content) tell(*folder, change_kind::removed, n.name, {});
    entry.seen = is_same && look.exists ? look : moved.seen;
    entry.is_told = true;
    entry.listing = folder->listing;
    const bool is_recursive = folder->root.options.recursive;
    // Who has looked at names that are not known yet may have found it under the new one only, or
    // another one under the old; and what nobody watches from here on must not be known any more.
    // Of what another root tells here nothing comes along.
    const bool is_told_anew =
        entry.seen.is_folder &&
        ((is_recursive ? is_any_unseen : old_root.options.recursive) ||
         (!moved.below && has_root_in(folder->root.stream, old_folder.place() / old_name)));
    if (is_told_anew) {
      tell(old_root, change_kind::removed, std::move(old_path), {});
      tell(*folder, is_free || had_content ? change_kind::created : change_kind::replaced, n.name,
           entry.seen);
    } else {
      tell_of_rename(old_root, std::move(old_path), *folder, n.name, entry.seen);
      if (!is_free && !had_content)
        tell(*folder, change_kind::replaced, n.name, entry.seen);
      else if (moved.seen.exists)
        tell_new_bytes(*folder, n.name, moved.seen, entry.seen);
    }
    if (is_hint) hint(*folder, n.name, 0);
    if (moved.below && is_recursive && !is_told_anew) {
      if (stays_in_root) {
        entry.below = std::move(moved.below);
        entry.below->parent = folder;
        entry.below->name = n.name;
        look_again(*entry.below);
        continue;
      }
      entry.below = in_another_root(*moved.below, *folder, n.name);
      // There may be names that only the user knows.
      begin_those_anew(*entry.below,
                       [](const watched_folder& below) { return below.has_unseen_names(); });
      drop(moved);
      continue;
    }
    drop(moved);
    if (folder != nullptr && entry.seen.is_folder && is_recursive)
      adopt(*folder, entry, n.name, true);
  }
  // Last: a tree that has it too takes along what was told.
  for (watched_root* root : gone)
    left(*root);
}

/// Returns what is known of a folder as that of one in another root. It is watched once it is
/// listed, which finds what happens until then.
std::unique_ptr<watched_folder>
change_finder::in_another_root(watched_folder& old, watched_folder& parent, const file_name& name) {
  auto now = std::make_unique<watched_folder>(parent.root, &parent, name);
  now->is_new = old.is_new;
  now->is_unlisted = old.is_unlisted;
  now->is_seen = old.is_seen;
  // What is being moved on is looked for here, and not found.
  for (pending_move& move : moves_) {
    for (auto& [from, entry] : move.entries)
      if (from == &old) old.entries.try_emplace(move.from.name, std::move(entry));
    std::erase_if(move.entries, [&](const auto& e) { return e.first == &old; });
  }
  for (auto& [child, entry] : old.entries) {
    watched_entry& known = now->entries[child];
    known.seen = entry.seen;
    known.is_told = entry.is_told;
    if (entry.below) known.below = in_another_root(*entry.below, *now, child);
  }
  for (const auto& [child, what] : old.hints)
    hint(*now, child, what);
  list(*now);
  return now;
}

/// Tells anew of those folders in a tree, and of all that is in them.
void change_finder::begin_those_anew(watched_folder& folder,
                                     bool (*is_one)(const watched_folder&)) {
  if (is_one(folder)) {
    begin_anew(folder);
    return;
  }
  for (auto& [name, entry] : folder.entries)
    if (entry.below) begin_those_anew(*entry.below, is_one);
}

/// Ends what of `ending_` has no second half: it left.
void change_finder::expire() {
  // What was exchanged with something elsewhere has it for its own by now.
  for (watched_root* root : ending_.roots)
    hint(*root, 0);
  while (!ending_.entries.empty()) {
    auto [folder, entry] = std::move(ending_.entries.back());
    ending_.entries.pop_back();
    // It may have been exchanged with something elsewhere, which nobody tells.
    doubt(*folder, ending_.from.name, notice::moved_to);
    left(*folder, ending_.from.name, std::move(entry));
  }
  ending_ = {};
}

/// Ends what was moved away under a name that something else has by now. False: nothing was.
bool change_finder::expire(watched_folder& folder, const file_name& name) {
  for (pending_move& move : moves_) {
    if (move.from.name != name) continue;
    const auto it = std::find_if(move.entries.begin(), move.entries.end(),
                                 [&](const auto& e) { return e.first == &folder; });
    if (it == move.entries.end()) continue;
    watched_entry entry = std::move(it->second);
    move.entries.erase(it);
    left(folder, name, std::move(entry));
    return true;
  }
  return false;
}

/// Of one that was taken out of its folder already.
void change_finder::left(watched_folder& folder, const file_name& name, watched_entry entry) {
  if (entry.seen.exists || !folder.is_new) tell(folder, change_kind::removed, name, {});
  drop(entry);
}

// --- looking
// ------------------------------------------------------------------------------------------------

void change_finder::poll_due(watch_clock::time_point now) {
  for (watched_root* root : polled_) {
    if (root->next_poll > now) continue;
    root->next_poll = now + root->poll;
    hint_at_once(*root);
    if (!root->tree || !root->to_list.empty()) continue;
    if (root->polls_all) {
      list_all(*root->tree);
      continue;
    }
    std::vector<watched_folder*> below{root->tree.get()};
    while (!below.empty()) {
      watched_folder* const folder = below.back();
      below.pop_back();
      if (folder->is_polled) list(*folder);
      for (auto& [name, entry] : folder->entries)
        if (entry.below) below.push_back(entry.below.get());
    }
  }
}

/// False: there is more to do.
bool change_finder::work_on(watched_root& root, int& budget) {
  if (root.due <= watch_clock::now()) {
    if (root.must_look) look_at_root(root);
    while (!root.hinted.empty()) {
      watched_folder& folder = **root.hinted.begin();
      while (!folder.hints.empty()) {
        if (has_told_over()) return false;
        if (!root.stream.has_room()) return true;
        if (--budget < 0) return false;
        auto hint = folder.hints.extract(folder.hints.begin());
        folder.looked_in = period_;
        file_look look;
        if (source_.look_in(folder.id, folder.place(), hint.key(), look))
          look = watching::unseen_look();
        compare(folder, hint.key(), look, hint.mapped());
      }
      root.hinted.erase(&folder);
    }
    root.due = watch_clock::time_point::max();
  }
  while (!root.to_list.empty()) {
    if (has_told_over()) return false;
    if (!root.stream.has_room()) return true;
    if (budget <= 0) return false;
    list_some(**root.to_list.begin(), budget);
  }
  // Listing hints at what it does not find any more.
  return root.hinted.empty() || root.due > watch_clock::now();
}

void change_finder::list_some(watched_folder& folder, int& budget) {
  watched_root& root = folder.root;
  const auto is_over = [&] {
    folder.reader.close();
    root.to_list.erase(&folder);
  };
  if (!folder.reader.is_open()) {
    --budget;
    file_look itself;
    if (!begin_listing(folder, itself)) return is_over();
    if (has_changed_unlisted(folder, itself)) {
      if (!begin_anew(folder)) return folder.reader.close();
      if (has_told_over() && !folder.is_polled) {
        // First.
        folder.is_in_doubt = false;
        return folder.reader.close();
      }
    }
  }
  file_name name;
  file_look look;
  std::error_code error;
  while (--budget >= 0) {
    if (!root.stream.has_room()) return;
    if (folder.reader.next(name, look, error)) {
      found(folder, name, look);
      continue;
    }
    // No notice tells what came and went meanwhile, where there is none.
    file_look itself;
    if (folder.is_polled && !error && !folder.reader.look_at_itself(itself) &&
        has_changed_unlisted(folder, itself)) {
      folder.reader.close();
      begin_anew(folder);
      return;
    }
    is_over();
    if (error) return;
    if (folder.has_unseen_names())
      just_listed_.insert(&folder);
    else
      folder.is_seen = true;
    folder.is_unlisted = false;
    folder.is_new = false;
    folder.is_in_doubt = false;
    for (const auto& [known, entry] : folder.entries)
      if (entry.listing != folder.listing) hint_at_once(folder, known);
    return;
  }
}

/// Tells whether names may have come or gone before there was a list of them. Its own times tell
/// that, but not which.
bool change_finder::has_changed_unlisted(const watched_folder& folder, const file_look& itself) {
  return folder.is_in_doubt && folder.has_unseen_names() && itself.changed > folder.root.begin;
}

/// Opens a folder, and watches it. False: there is nothing to be listed, or it is looked for again.
bool change_finder::begin_listing(watched_folder& folder, file_look& itself) {
  const bool is_top = folder.parent == nullptr;
  // The user's own path may be a link.
  std::error_code error = folder.reader.open(folder.place(), is_top);
  if (!error) error = folder.reader.look_at_itself(itself);
  if (error && !is_missing(error)) {
    fall_back(folder, error);
    return false;
  }
  folder.is_misplaced = error || !is_known_by_its_name(folder, itself) || !watch(folder, itself);
  if (!folder.is_misplaced) {
    ++folder.listing;
    return true;
  }
  if (is_top)
    hint_at_once(folder.root);
  else
    doubt(*folder.parent, folder.name, 0);
  return false;
}

/// False: another one is in its place by now.
bool change_finder::watch(watched_folder& folder, const file_look& itself) {
  const std::filesystem::path place = folder.place();
  watch_id id = no_watch;
  // Before it is listed: what happens meanwhile is noticed.
  const std::error_code error = source_.add(place, interest::folder, id);
  file_look now;
  if (watching::look_at(place, folder.parent == nullptr, now) || !now.is_same_file(itself)) {
    end_if_unused(id);
    return false;
  }
  if (error) {
    unsubscribe(folder);
    fall_back(folder, error);
    return true;
  }
  subscribe(folder, id);
  folder.is_polled = false;
  // Of the file system of the top somebody has asked.
  if (itself.device == folder.root.seen.device || !watching::may_change_unseen(place)) return true;
  if (folder.parent->is_polled)
    folder.is_polled = true;
  else
    fall_back(folder, errc::unsupported);
  return true;
}

bool change_finder::is_known_by_its_name(const watched_folder& folder,
                                         const file_look& itself) const {
  if (folder.parent == nullptr) return itself.is_same_file(folder.root.seen);
  const auto known = folder.parent->entries.find(folder.name);
  return known != folder.parent->entries.end() && known->second.below.get() == &folder &&
         itself.is_same_file(known->second.seen);
}

/// Compares what a listing found with what was known.
void change_finder::found(watched_folder& folder, const file_name& name, const file_look& look) {
  watched_root& root = folder.root;
  const auto known = folder.entries.find(name);
  if (known != folder.entries.end()) {
    watched_entry& entry = known->second;
    if (!entry.is_told && folder.is_new) {
      entry.is_told = true;
      tell(folder, change_kind::created, name, look);
      if (entry.below) {
        entry.below->is_new = true;
        list(*entry.below);
      }
    }
    if (entry.seen.modified == no_time && !root.stream.is_recovering)
      entry.seen.modified = look.modified;
    return compare(folder, name, look, 0);
  }
  // Exchanged with what the user may have seen here.
  if (expire(folder, name)) return came(folder, name, look);
  if (folder.is_new || !folder.is_unlisted) return compare(folder, name, look, 0);

  if (look.is_unseen) look_again_later(folder);
  watched_entry& entry = folder.entries[name];
  entry.seen = look;
  entry.listing = folder.listing;
  // It was there before, unless its times tell otherwise where no notice does.
  const bool is_new = look.born > root.begin;
  std::optional<change_kind> kind;
  if (folder.is_in_doubt) {
    if (is_new)
      kind = change_kind::created;
    else if (look.modified > root.begin && !look.is_folder)
      kind = change_kind::modified;
    else if (look.changed > root.begin && !look.is_folder)
      kind = change_kind::metadata;
  }
  if (kind) {
    entry.is_told = true;
    tell(folder, *kind, name, look);
  }
  if (look.is_folder && root.options.recursive) adopt(folder, entry, name, kind && is_new);
}

std::optional<change_kind> change_finder::difference(const file_look& before, const file_look& now,
                                                     std::uint32_t at_least) {
  if (!now.is_folder) {
    if (now.size < before.size) return change_kind::truncated;
    if (now.size != before.size || now.modified != before.modified) return change_kind::modified;
    if ((at_least & notice::modified) != 0) return change_kind::modified;
    if (now.changed != before.changed) return change_kind::metadata;
    if ((at_least & notice::touched) != 0 && before.is_fresh) return change_kind::modified;
  }
  if ((at_least & notice::metadata) != 0 || !now.has_same_access(before))
    return change_kind::metadata;
  return std::nullopt;
}

/// Tells the difference between what is known of a name and what is there.
void change_finder::compare(watched_folder& folder, const file_name& name, const file_look& look,
                            std::uint32_t at_least) {
  // What had the name before anybody looked; what has it now came later.
  if ((at_least & notice::deleted) != 0) left(folder, name);
  const auto known = folder.entries.find(name);
  const bool is_known = known != folder.entries.end();
  if (!look.exists) {
    if (is_known) left(folder, name);
    return;
  }
  if (look.is_unseen) look_again_later(folder);
  if (look.is_unseen && is_known) {
    // What is known stays until a look succeeds.
    known->second.listing = folder.listing;
    return;
  }
  if (!is_known) expire(folder, name);
  if (!is_known && folder.has_unseen_names() && (at_least & (came_there | notice::deleted)) == 0)
    return written(folder, {no_watch, at_least, 0, name}, look);
  if (!is_known || !look.is_same_file(known->second.seen) ||
      ((at_least & came_there) != 0 && !known->second.is_told))
    return came(folder, name, look);
  watched_entry& entry = known->second;
  entry.listing = folder.listing;
  // What a listing found may be what this tells of, and was told to nobody.
  const bool is_news = !entry.is_told && (at_least & notice::touched) != 0 && !look.is_folder &&
                       look.modified > folder.root.begin;
  const auto kind = difference(entry.seen, look, is_news ? at_least | notice::modified : at_least);
  entry.seen = look;
  if (kind) {
    entry.is_told = true;
    tell(folder, *kind, name, look);
  }
  if (!look.is_folder || !folder.root.options.recursive) return;
  if (!entry.below) return adopt(folder, entry, name, false);
  const watched_folder& below = *entry.below;
  if (below.is_misplaced || (below.id == no_watch && !below.is_polled)) list(*entry.below);
}

void change_finder::look_at_root(watched_root& root) {
  placed_watches placed = place(root.place);
  root.must_look = false;
  compare_root(root, std::move(placed), std::exchange(root.hint, 0));
}

/// Takes over watches that were placed, and tells what differs from the look that went with it.
void change_finder::compare_root(watched_root& root, placed_watches placed,
                                 std::uint32_t at_least) {
  if (placed.limit) fall_back(root, root.given, placed.limit);
  if (placed.error == std::errc::too_many_symbolic_link_levels) {
    placed.look = {};
  } else if (placed.error) {
    // What is known stays until a look succeeds.
    fall_back(root, root.given, placed.error);
    placed.look = root.seen;
    return settle(root, std::move(placed));
  }
  const file_look look = placed.look;
  settle(root, std::move(placed));
  if (!look.exists) {
    // It was there for a moment, in which the user may have seen it.
    if (!root.seen.exists && (at_least & came_there) != 0) {
      if (root.options.coalesce.count() <= 0) tell(root, change_kind::created, root.given, {});
      tell(root, change_kind::removed, root.given, {});
    }
    return left(root);
  }
  // What was moved away a moment ago is not this one any more: that it left is told by this.
  for (pending_move& move : moves_)
    erase_one(move.roots, &root);
  erase_one(ending_.roots, &root);
  const file_look before = std::exchange(root.seen, look);
  if (!look.is_folder) drop_tree(root);
  const bool is_same = look.is_same_file(before);
  if (!look.is_same_file(std::exchange(root.last, look)))
    if (const auto file = root.file.lock()) file->note_other_file();
  const bool is_other_folder = look.is_folder && before.is_folder && !is_same;
  if (is_other_folder && root.tree->has_unseen_names()) {
    // What was in the one that is gone is not known, and cannot be found out any more.
    begin_anew(*root.tree);
    return list(*root.tree);
  }
  // One that came and was not listed yet is still to be told.
  if (look.is_folder && !is_same)
    root.tree->is_new = root.tree->is_new || !before.exists || !before.is_folder;
  if (look.is_folder && (!is_same || root.tree->is_misplaced)) list(*root.tree);
  std::optional<change_kind> kind;
  if (!before.exists)
    kind = change_kind::created;
  else if (!is_same)
    kind = change_kind::replaced;
  else
    kind = difference(before, look, at_least);
  if (kind == change_kind::replaced && before.is_folder && !look.is_folder) {
    // What was told of in it is gone with it.
    tell(root, change_kind::removed, root.given, {});
    kind = change_kind::created;
  }
  if (kind) tell(root, *kind, root.given, look);
}

void change_finder::adopt(watched_folder& folder, watched_entry& entry, const file_name& name,
                          bool is_new) {
  drop(entry);
  entry.below = std::make_unique<watched_folder>(folder.root, &folder, name);
  entry.below->is_new = is_new;
  entry.below->is_in_doubt = true;  // It is not watched yet.
  list(*entry.below);
}

/// Tells of a folder, of which nobody knows what went, as if all of it were gone and another one
/// there. False: not while it is being renamed.
bool change_finder::begin_anew(watched_folder& folder) {
  watched_root& root = folder.root;
  if (folder.parent != nullptr) {
    const auto it = folder.parent->entries.find(folder.name);
    if (it == folder.parent->entries.end() || it->second.below.get() != &folder) return false;
    it->second.is_told = true;
  }
  drop_content(folder);
  folder.hints.clear();
  root.hinted.erase(&folder);
  folder.is_new = true;
  const std::filesystem::path path = folder.told_path();
  tell(root, change_kind::removed, path, {});
  tell(root, change_kind::created, path, {});
  return true;
}

// --- letting go
// ------------------------------------------------------------------------------------------------

void change_finder::drop(watched_entry& entry) {
  if (!entry.below) return;
  drop(*entry.below);
  entry.below.reset();
}

/// Lets go of what was in it.
void change_finder::drop_content(watched_folder& folder) {
  for (auto& [name, entry] : folder.entries)
    drop(entry);
  folder.entries.clear();
  const auto drop_those_of = [&](pending_move& move) {
    for (auto& [from, entry] : move.entries)
      if (from == &folder) drop(entry);
    std::erase_if(move.entries, [&](const auto& e) { return e.first == &folder; });
  };
  std::for_each(moves_.begin(), moves_.end(), drop_those_of);
  drop_those_of(ending_);
}

void change_finder::drop(watched_folder& folder) {
  drop_content(folder);
  unsubscribe(folder);
  folder.root.to_list.erase(&folder);
  folder.root.hinted.erase(&folder);
  just_listed_.erase(&folder);
  not_all_told_.erase(&folder);
  doubted_.erase(&folder);
  std::replace(concerned_.begin(), concerned_.end(), &folder,
               static_cast<watched_folder*>(nullptr));
}

void change_finder::drop_tree(watched_root& root) {
  if (!root.tree) return;
  drop(*root.tree);
  root.tree.reset();
}

/// Lets go of what has lost the name.
void change_finder::forget(watched_root& root) {
  root.seen = {};
  unsubscribe_own(root);
  drop_tree(root);
}

void change_finder::drop(watched_root& root) {
  for (pending_move& move : moves_)
    erase_one(move.roots, &root);
  erase_one(ending_.roots, &root);
  drop_tree(root);
  unsubscribe_own(root);
  unsubscribe_steps(root);
  erase_one(urgent_, &root);
  told_over_.erase(&root);
  std::erase_if(names_told_over_, [&](const auto& n) { return n.root == &root; });
  active_.erase(&root);
  polled_.erase(&root);
}

}  // namespace detail
MAPIO_NAMESPACE_END
