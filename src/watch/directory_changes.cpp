// Notices by ReadDirectoryChangesW.

#include "platform/windows.hpp"
#include "watch_source.hpp"
#include "windows_looks.hpp"

#include <mapio/error.hpp>

#include <asio/detail/win_iocp_io_context.hpp>
#include <asio/detail/win_iocp_operation.hpp>
#include <asio/error.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <unordered_map>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail::watching {
namespace {

using platform::windows::error_of;
using platform::windows::last_error;
using platform::windows::unique_handle;
using port = asio::detail::win_iocp_io_context;
using port_operation = asio::detail::win_iocp_operation;

// Of a folder's notices, here and once more in the kernel, as long as nobody takes them.
constexpr std::size_t buffer_bytes = std::size_t{16} << 10;
// Those that wait for read(): beyond this the kernel keeps them, as long as it can.
constexpr std::size_t most_notices = 16384;

/// What is told of by the handle of a folder: an idle watcher is to stay idle while files are
/// written beside the folders that lead to what it watches.
enum class breadth : std::uint8_t { folders, everything };

DWORD filter_of(breadth b) noexcept {
  constexpr DWORD everything = FILE_NOTIFY_CHANGE_DIR_NAME | FILE_NOTIFY_CHANGE_FILE_NAME |
                               FILE_NOTIFY_CHANGE_ATTRIBUTES | FILE_NOTIFY_CHANGE_SIZE |
                               FILE_NOTIFY_CHANGE_LAST_WRITE | FILE_NOTIFY_CHANGE_SECURITY;
  return b == breadth::folders ? FILE_NOTIFY_CHANGE_DIR_NAME : everything;
}

std::uint32_t translate(DWORD action) noexcept {
  switch (action) {
  case FILE_ACTION_ADDED:
    return notice::created;
  case FILE_ACTION_REMOVED:
    // Also told of a name that is about to be that of another file.
    return notice::deleted | notice::touched;
  case FILE_ACTION_RENAMED_OLD_NAME:
    return notice::moved_from;
  case FILE_ACTION_RENAMED_NEW_NAME:
    return notice::moved_to;
  default:
    return notice::touched;
  }
}

std::error_code why_not_watched(DWORD error) noexcept {
  switch (error) {
  case ERROR_FILE_NOT_FOUND:
  case ERROR_PATH_NOT_FOUND:
  case ERROR_INVALID_NAME:
  case ERROR_BAD_PATHNAME:
  case ERROR_DELETE_PENDING:
    return std::make_error_code(std::errc::no_such_file_or_directory);
  case ERROR_DIRECTORY:
    return std::make_error_code(std::errc::not_a_directory);
  // File systems without notices; on a network, of so many.
  case ERROR_INVALID_FUNCTION:
  case ERROR_INVALID_PARAMETER:
  case ERROR_NOT_SUPPORTED:
    return errc::unsupported;
  // Of a server, or of this machine.
  case ERROR_TOO_MANY_CMDS:
  case ERROR_NO_SYSTEM_RESOURCES:
  case ERROR_WORKING_SET_QUOTA:
  case ERROR_NONPAGED_SYSTEM_RESOURCES:
  case ERROR_PAGED_SYSTEM_RESOURCES:
    return std::make_error_code(std::errc::not_enough_memory);
  default:
    return error_of(error);
  }
}

/// Opens a folder to be told of what happens in it.
struct opened_folder {
  unique_handle file;
  file_look look;
};

std::error_code open_folder(const std::filesystem::path& path, opened_folder& opened) {
  opened.file = platform::windows::open_by_name(path, FILE_LIST_DIRECTORY | FILE_READ_ATTRIBUTES,
                                                OPEN_EXISTING,
                                                FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OVERLAPPED);
  if (!opened.file) return why_not_watched(::GetLastError());
  if (const auto error = look_at(opened.file.get(), opened.look)) return error;
  // By Wine, of one that was moved meanwhile.
  if (opened.look.device == 0) return std::make_error_code(std::errc::no_such_file_or_directory);
  return opened.look.is_folder ? std::error_code()
                               : std::make_error_code(std::errc::not_a_directory);
}

/// Returns another handle of what is open, or none.
unique_handle duplicate(HANDLE file) noexcept {
  HANDLE copy = INVALID_HANDLE_VALUE;
  const HANDLE process = ::GetCurrentProcess();
  ::DuplicateHandle(process, file, process, &copy, 0, FALSE, DUPLICATE_SAME_ACCESS);
  return unique_handle(copy);
}

/// Finds the name of a file that all links to it end at.
std::error_code resolve(const std::filesystem::path& path, std::filesystem::path& real) {
  const unique_handle file = platform::windows::open_by_name(
      path, FILE_READ_ATTRIBUTES, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS);
  if (!file) return why_not_watched(::GetLastError());
  constexpr DWORD longest_path = 1 << 15;
  std::wstring name(longest_path, L'\0');
  for (const DWORD form : {VOLUME_NAME_DOS, VOLUME_NAME_GUID}) {
    const DWORD length = ::GetFinalPathNameByHandleW(file.get(), name.data(), longest_path, form);
    if (length == 0 || length >= longest_path) continue;
    name.resize(length);
    real = name;
    return {};
  }
  return last_error();
}

/// Who is told of one name in a folder.
struct named {
  watch_id id;
  interest what;  // file: that it was written; itself: that it went
};

class directory_source;

/// A folder that is watched, by a read that is outstanding all the time.
struct directory final : port_operation {
  using key = std::tuple<std::uint64_t, std::uint64_t, breadth>;

  directory(directory_source& s, unique_handle f, const key& k)
      : port_operation(&directory::completed), source(s), file(std::move(f)), identity(k) {}

  static void completed(void* owner, port_operation* self, const asio::error_code& error,
                        std::size_t bytes);

  directory_source& source;
  unique_handle file;  // none: it is closed
  const key identity;
  bool is_read = false;
  bool is_asked_for_all = false;
  watch_id id = no_watch;                 // of all that happens in it
  std::multimap<file_name, named> names;  // folded
  std::uint32_t cookie = 0;               // of the rename under way
  alignas(DWORD) std::array<std::byte, buffer_bytes> buffer;
};

/// Has a handle of its own for each folder, and reads from all of them through the completion port
/// of the context.
///
/// A read that waits for a change is no work of the context, which would never come to its end: it
/// is not counted before it ends, as those of Asio's own handles are; nor is it before shutdown,
/// which must wait for it.
///
/// A handle in a folder keeps NTFS from renaming the folders above. Those are watched all the same,
/// for file systems that are less strict.
class directory_source final : public watch_source {
 public:
  directory_source(asio::execution_context& context, std::function<void()> ready)
      : port_(asio::use_service<port>(context)), ready_(std::move(ready)), wake_up_(*this) {}

  std::error_code add(const std::filesystem::path& path, interest what,
                      watch_id& id) noexcept override;
  void remove(watch_id id) noexcept override;
  std::error_code look_in(watch_id id, const std::filesystem::path& folder, const file_name& name,
                          file_look& look) noexcept override;
  bool read(std::vector<notice>& notices) override;
  void ask_for_all(watch_id id) noexcept override;
  bool has_told_all(watch_id id) noexcept override;
  bool arm() noexcept override;
  void disarm() noexcept override;
  void shut_down() noexcept override;

  void completed(directory& d, const asio::error_code& error, std::size_t bytes) noexcept;

 private:
  /// Calls `ready` for what there was before it was armed, and when it is disarmed.
  struct wake_up final : port_operation {
    explicit wake_up(directory_source& s) : port_operation(&wake_up::completed), source(s) {}
    static void completed(void* owner, port_operation* self, const asio::error_code&, std::size_t) {
      if (owner != nullptr) static_cast<wake_up*>(self)->source.woken();
    }
    directory_source& source;
  };
  enum class waiting : std::uint8_t { no, for_a_notice, for_the_wake_up };

  /// Where an id is.
  struct place {
    directory* folder = nullptr;  // of which the content is watched
    directory* above = nullptr;   // that has the name of what is watched
    file_name name;               // folded
  };

  std::error_code add_content(const std::filesystem::path& path, interest what, watch_id& id);
  std::error_code add_name(const std::filesystem::path& path, interest what, watch_id& id);
  directory* open(opened_folder& opened, breadth b, std::error_code& error);
  bool start(directory& d, DWORD& error) noexcept;
  void go_on(directory& d) noexcept;
  bool has_news() const noexcept { return !notices_.empty() || has_overflow_ || has_answer_; }
  void close(directory& d) noexcept;
  void close_if_unused(directory& d) noexcept;
  void unlink(std::unordered_map<watch_id, place>::iterator id) noexcept;
  void take_in(directory& d, std::size_t bytes);
  void tell(directory& d, DWORD action, const file_name& name);
  void tell_end(directory& d) noexcept;
  void wake() noexcept;
  void woken() noexcept;

  port& port_;
  const std::function<void()> ready_;
  wake_up wake_up_;

  std::mutex mutex_;  // guards what follows
  std::map<directory::key, directory*> open_;
  std::unordered_map<const directory*, std::unique_ptr<directory>> all_;  // that are read, too
  std::unordered_map<watch_id, place> ids_;
  std::vector<directory*> paused_;  // that are not read, because nobody takes the notices
  std::vector<notice> notices_;
  bool has_overflow_ = false;
  bool has_answer_ = false;  // to who asked for all
  watch_id last_id_ = 0;
  std::uint32_t last_cookie_ = 0;
  waiting waiting_ = waiting::no;
  bool is_shut_down_ = false;
};

void directory::completed(void* owner, port_operation* self, const asio::error_code& error,
                          std::size_t bytes) {
  // Without an owner the port is shut down, and the source frees all of them.
  auto& d = *static_cast<directory*>(self);
  if (owner != nullptr) d.source.completed(d, error, bytes);
}

// --- watches
// ------------------------------------------------------------------------------------------------

std::error_code directory_source::add(const std::filesystem::path& path, interest what,
                                      watch_id& id) noexcept try {
  id = no_watch;
  switch (what) {
  case interest::names:
  case interest::folder:
    return add_content(path, what, id);
  case interest::itself:
    return path.has_relative_path() ? add_name(path, what, id) : std::error_code();
  case interest::file:
    break;
  }
  std::filesystem::path real;
  if (const auto error = resolve(path, real)) return error;
  return add_name(real, what, id);
} catch (...) {
  return std::make_error_code(std::errc::not_enough_memory);
}

std::error_code directory_source::add_content(const std::filesystem::path& path, interest what,
                                              watch_id& id) {
  opened_folder content;
  if (const auto error = open_folder(path, content)) return error;
  // Who is told of its names is told of the folder too.
  opened_folder parent;
  const bool has_parent = what == interest::names && path.has_relative_path() &&
                          !open_folder(path.parent_path(), parent);
  std::lock_guard lock(mutex_);
  std::error_code error;
  directory* const folder = open(content, breadth::everything, error);
  if (folder == nullptr) return error;
  if (folder->id == no_watch) {
    folder->id = ++last_id_;
    ids_[folder->id].folder = folder;
  }
  id = folder->id;
  place& at = ids_[id];
  if (!has_parent || at.above != nullptr) return {};
  directory* const above = open(parent, breadth::folders, error);
  if (above == nullptr) return {};
  at.name = folded(path.filename().native());
  above->names.emplace(at.name, named{id, interest::itself});
  at.above = above;
  return {};
}

std::error_code directory_source::add_name(const std::filesystem::path& path, interest what,
                                           watch_id& id) {
  opened_folder parent;
  if (const auto error = open_folder(path.parent_path(), parent)) return error;
  const file_name name = folded(path.filename().native());
  std::lock_guard lock(mutex_);
  std::error_code error;
  directory* const above =
      open(parent, what == interest::file ? breadth::everything : breadth::folders, error);
  if (above == nullptr) return error;
  const auto [begin, end] = above->names.equal_range(name);
  const auto same = std::find_if(begin, end, [&](const auto& entry) {
    return entry.second.what == what && ids_[entry.second.id].folder == nullptr;
  });
  if (same != end) {
    id = same->second.id;
    return {};
  }
  id = ++last_id_;
  place& at = ids_[id];
  at.name = name;
  above->names.emplace(name, named{id, what});
  at.above = above;
  return {};
}

/// Watches a folder, unless that is done already. What throws from here on leaves it watched for
/// nobody, until somebody watches it or the context goes.
directory* directory_source::open(opened_folder& opened, breadth b, std::error_code& error) {
  if (is_shut_down_) {
    error = asio::error::operation_aborted;
    return nullptr;
  }
  const directory::key key(opened.look.device, opened.look.inode, b);
  const auto known = open_.find(key);
  if (known != open_.end()) return known->second;
  auto added = std::make_unique<directory>(*this, std::move(opened.file), key);
  directory& d = *added;
  all_.emplace(&d, std::move(added));
  open_.emplace(key, &d);
  DWORD failure = ERROR_SUCCESS;
  asio::error_code refused;
  static_cast<void>(port_.register_handle(d.file.get(), refused));
  if (!refused && start(d, failure)) return &d;
  error = refused ? std::error_code(refused) : why_not_watched(failure);
  close(d);
  return nullptr;
}

void directory_source::remove(watch_id id) noexcept {
  std::lock_guard lock(mutex_);
  const auto it = ids_.find(id);
  if (it != ids_.end()) unlink(it);
}

/// By the handle, which goes where the folder goes.
std::error_code directory_source::look_in(watch_id id, const std::filesystem::path& folder,
                                          const file_name& name, file_look& look) noexcept try {
  unique_handle content;
  std::uint64_t device = 0;
  {
    std::lock_guard lock(mutex_);
    const auto it = ids_.find(id);
    if (it != ids_.end() && it->second.folder != nullptr) {
      content = duplicate(it->second.folder->file.get());
      device = std::get<0>(it->second.folder->identity);
    }
  }
  return content ? look_at(content.get(), device, name, look) : look_at(folder / name, false, look);
} catch (...) {
  return std::make_error_code(std::errc::not_enough_memory);
}

void directory_source::unlink(std::unordered_map<watch_id, place>::iterator id) noexcept {
  const auto [number, at] = *id;
  ids_.erase(id);
  if (at.above != nullptr) {
    const auto [begin, end] = at.above->names.equal_range(at.name);
    const auto mine =
        std::find_if(begin, end, [n = number](const auto& entry) { return entry.second.id == n; });
    if (mine != end) at.above->names.erase(mine);
    close_if_unused(*at.above);
  }
  if (at.folder != nullptr) {
    at.folder->id = no_watch;
    close_if_unused(*at.folder);
  }
}

void directory_source::close_if_unused(directory& d) noexcept {
  if (d.id == no_watch && d.names.empty() && d.file) close(d);
}

/// What is read stays until the port has said that it is over.
void directory_source::close(directory& d) noexcept {
  const auto it = open_.find(d.identity);
  if (it != open_.end() && it->second == &d) open_.erase(it);
  if (d.is_read) ::CancelIoEx(d.file.get(), &d);
  d.file = unique_handle();
  if (d.is_read || is_shut_down_) return;
  std::erase(paused_, &d);
  all_.erase(&d);
}

// --- reading
// ------------------------------------------------------------------------------------------------

/// The kernel keeps what happens between two reads.
bool directory_source::start(directory& d, DWORD& error) noexcept {
  d.reset();
  d.is_read = ::ReadDirectoryChangesW(
                  d.file.get(), d.buffer.data(), static_cast<DWORD>(d.buffer.size()), FALSE,
                  filter_of(std::get<breadth>(d.identity)), nullptr, &d, nullptr) != FALSE;
  if (!d.is_read) {
    error = ::GetLastError();
    return false;
  }
  // What was asked while another read was about to end.
  if (d.is_asked_for_all) ::CancelIoEx(d.file.get(), &d);
  port_.on_pending(&d);
  return true;
}

/// Reads on; where that is not possible, it is the end of the folder.
void directory_source::go_on(directory& d) noexcept {
  DWORD error = ERROR_SUCCESS;
  if (start(d, error)) return;
  if (error == ERROR_NOTIFY_ENUM_DIR) {
    has_overflow_ = true;
    if (start(d, error)) return;
  }
  tell_end(d);
}

void directory_source::completed(directory& d, const asio::error_code& error,
                                 std::size_t bytes) noexcept {
  {
    std::lock_guard lock(mutex_);
    d.is_read = false;
    if (is_shut_down_) return;  // by which it is counted
    if (!d.file) {
      all_.erase(&d);
    } else if (!error || error.value() == ERROR_NOTIFY_ENUM_DIR ||
               error.value() == ERROR_OPERATION_ABORTED) {
      // There was not enough room for them, if it is none that was ended with its thread.
      const bool is_cancelled = error.value() == ERROR_OPERATION_ABORTED;
      if (bytes == 0 && !is_cancelled) has_overflow_ = true;
      // There was nothing to be read.
      if (is_cancelled && std::exchange(d.is_asked_for_all, false)) has_answer_ = true;
      try {
        take_in(d, bytes);
      } catch (...) {
        has_overflow_ = true;
      }
      if (notices_.size() < most_notices) {
        go_on(d);
      } else {
        try {
          paused_.push_back(&d);
        } catch (...) {
          go_on(d);
        }
      }
    } else {
      // It is gone, and its name as soon as it is closed.
      tell_end(d);
    }
    if (waiting_ != waiting::for_a_notice || !has_news()) {
      // One less is counted when this returns.
      port_.work_started();
      return;
    }
    waiting_ = waiting::no;
  }
  ready_();
}

void directory_source::take_in(directory& d, std::size_t bytes) {
  FILE_NOTIFY_INFORMATION entry{};
  constexpr std::size_t before_name = offsetof(FILE_NOTIFY_INFORMATION, FileName);
  for (std::size_t at = 0; at + before_name <= bytes; at += entry.NextEntryOffset) {
    std::memcpy(&entry, d.buffer.data() + at, before_name);
    file_name name(entry.FileNameLength / sizeof(wchar_t), L'\0');
    std::memcpy(name.data(), d.buffer.data() + at + before_name, entry.FileNameLength);
    tell(d, entry.Action, name);
    if (entry.NextEntryOffset == 0) break;
  }
}

void directory_source::tell(directory& d, DWORD action, const file_name& name) {
  const std::uint32_t what = translate(action);
  if (action == FILE_ACTION_RENAMED_OLD_NAME) d.cookie = ++last_cookie_;
  const bool is_rename = (what & (notice::moved_from | notice::moved_to)) != 0;
  if (d.id != no_watch) notices_.push_back({d.id, what, is_rename ? d.cookie : 0, name});
  if (d.names.empty()) return;
  const auto [begin, end] = d.names.equal_range(folded(name));
  for (auto it = begin; it != end; ++it) {
    const named& n = it->second;
    if (n.what == interest::file && what == notice::touched)
      notices_.push_back({n.id, what, 0, {}});
    if (n.what == interest::itself && (what & (notice::deleted | notice::moved_from)) != 0)
      notices_.push_back({n.id, notice::self_is_gone, 0, {}});
  }
}

/// Tells that there is nothing more to be told of what a folder was watched for.
void directory_source::tell_end(directory& d) noexcept {
  const auto tell = [&](watch_id id, std::uint32_t what) {
    try {
      notices_.push_back({id, what, 0, {}});
    } catch (...) {
      has_overflow_ = true;
    }
  };
  while (!d.names.empty()) {
    const watch_id id = d.names.begin()->second.id;
    d.names.erase(d.names.begin());
    const auto it = ids_.find(id);
    it->second.above = nullptr;
    const bool is_over = it->second.folder == nullptr;
    tell(id, is_over ? notice::self_is_gone | notice::ended : +notice::self_is_gone);
    if (is_over) ids_.erase(it);
  }
  if (d.id == no_watch) return close_if_unused(d);
  tell(d.id, notice::self_is_gone | notice::ended);
  unlink(ids_.find(d.id));
}

bool directory_source::read(std::vector<notice>& notices) {
  std::lock_guard lock(mutex_);
  for (directory* d : std::exchange(paused_, {}))
    go_on(*d);
  has_answer_ = false;
  if (notices_.empty() && !has_overflow_) return false;
  if (std::exchange(has_overflow_, false)) notices_.push_back({no_watch, notice::overflow, 0, {}});
  if (notices.empty()) {
    notices.swap(notices_);
  } else {
    notices.insert(notices.end(), std::make_move_iterator(notices_.begin()),
                   std::make_move_iterator(notices_.end()));
    notices_.clear();
  }
  return true;
}

void directory_source::ask_for_all(watch_id id) noexcept {
  std::lock_guard lock(mutex_);
  const auto it = ids_.find(id);
  if (it == ids_.end() || it->second.folder == nullptr) return;
  directory& d = *it->second.folder;
  d.is_asked_for_all = true;
  if (d.is_read) ::CancelIoEx(d.file.get(), &d);
}

bool directory_source::has_told_all(watch_id id) noexcept {
  std::lock_guard lock(mutex_);
  const auto it = ids_.find(id);
  if (it == ids_.end() || it->second.folder == nullptr) return true;
  return !it->second.folder->is_asked_for_all && notices_.empty() && !has_overflow_;
}

// --- waiting
// ------------------------------------------------------------------------------------------------

bool directory_source::arm() noexcept {
  std::lock_guard lock(mutex_);
  if (is_shut_down_) return false;
  port_.work_started();
  waiting_ = waiting::for_a_notice;
  if (has_news()) wake();
  return true;
}

void directory_source::disarm() noexcept {
  std::lock_guard lock(mutex_);
  if (waiting_ == waiting::for_a_notice) wake();
}

void directory_source::wake() noexcept {
  waiting_ = waiting::for_the_wake_up;
  wake_up_.reset();
  port_.post_deferred_completion(&wake_up_);
}

void directory_source::woken() noexcept {
  {
    std::lock_guard lock(mutex_);
    waiting_ = waiting::no;
    if (is_shut_down_) return;
  }
  ready_();
}

void directory_source::shut_down() noexcept {
  std::lock_guard lock(mutex_);
  is_shut_down_ = true;
  if (waiting_ == waiting::for_a_notice) port_.work_finished();
  waiting_ = waiting::no;
  for (const auto& [pointer, d] : all_) {
    if (d->is_read) port_.work_started();
    if (d->file) close(*d);
  }
}

}  // namespace

std::unique_ptr<watch_source> make_watch_source(asio::execution_context& context,
                                                std::function<void()> ready) {
  return std::make_unique<directory_source>(context, std::move(ready));
}

}  // namespace detail::watching
MAPIO_NAMESPACE_END
