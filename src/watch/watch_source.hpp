#ifndef MAPIO_SRC_WATCH_WATCH_SOURCE_HPP
#define MAPIO_SRC_WATCH_WATCH_SOURCE_HPP

// What the watchers need of an operating system: to be told of changes, and to look for themselves.

#include <mapio/detail/config.hpp>
#include <mapio/mapping.hpp>

#include <asio/execution_context.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <system_error>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail::watching {

/// A name in a folder, as the OS has it.
using file_name = std::filesystem::path::string_type;

/// Finds names, also by others that the OS takes for the same.
struct name_hash {
  std::size_t operator()(const file_name& name) const noexcept;
};
struct same_name {
  bool operator()(const file_name& a, const file_name& b) const noexcept;
};

/// What is under a name.
struct file_look {
  bool exists = false;
  bool is_folder = false;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::int64_t generation = 0;  // tells them apart where they are used again, at once
  std::uint64_t size = 0;
  // Nanoseconds since the epoch.
  std::int64_t modified = 0;
  std::int64_t changed = 0;  // the metadata, or what stands for the metadata of the bytes
  std::int64_t born = 0;     // 0: nobody knows
  // The times of a folder do not tell of these.
  std::uint32_t mode = 0;
  std::uint64_t owners = 0;  // user and group
  // A change that comes after this look may leave the same times; only where notices do not say
  // what was changed.
  bool is_fresh = false;
  bool is_unseen = false;  // it is there, and could not be looked at

  bool has_same_access(const file_look& other) const noexcept {
    return mode == other.mode && owners == other.owners;
  }
  bool is_same_file(const file_look& other) const noexcept {
    return exists && other.exists && device == other.device && inode == other.inode &&
           is_folder == other.is_folder && generation == other.generation;
  }
};

inline file_look unseen_look() noexcept {
  file_look look;
  look.exists = look.is_unseen = true;
  return look;
}

/// Looks at an open file.
std::error_code look_at(native_handle_type file, file_look& look) noexcept;
/// Looks at a path, or with `follow` at what a link there leads to. Nothing there is no error. May
/// wait for a disk or a network.
std::error_code look_at(const std::filesystem::path& path, bool follow, file_look& look) noexcept;
/// The same, if all of it is in memory; false: it would have to wait, or cannot tell.
bool look_at_once(const std::filesystem::path& path, bool follow, file_look& look) noexcept;
/// Tells whether changes of this file are not all made where the OS can see them: by other hosts,
/// by a server in user space, by the kernel itself.
bool may_change_unseen(const std::filesystem::path& path) noexcept;
/// Returns a time that is not before any that a file has been given so far.
std::int64_t file_clock() noexcept;
/// Sleeps until what is done to files from here on gives them later times than this one.
void let_pass(std::int64_t time) noexcept;

/// Lists a folder, piece by piece. May wait.
class folder_reader {
 public:
  folder_reader() noexcept;
  folder_reader(const folder_reader&) = delete;
  folder_reader& operator=(const folder_reader&) = delete;
  ~folder_reader();

  /// Follows a link only if asked to.
  std::error_code open(const std::filesystem::path& folder, bool follow) noexcept;
  bool is_open() const noexcept;
  std::error_code look_at_itself(file_look& look) const noexcept;
  void close() noexcept;
  /// Finds the next name, and looks at it without following links; false at the end, or with an
  /// error.
  bool next(file_name& name, file_look& look, std::error_code& error);

 private:
  struct state;
  std::unique_ptr<state> state_;
};

using watch_id = int;
inline constexpr watch_id no_watch = -1;

/// What one is to be told of.
enum class interest : std::uint8_t {
  names,   // that come and go in a folder
  folder,  // these, and what happens to the files that they name
  file,    // what happens to a file, by whatever name
  itself   // that a folder is moved, deleted or unmounted
};

/// One notice of the OS. Several bits of `what` are possible.
struct notice {
  enum : std::uint32_t {
    modified = 1,
    metadata = 2,
    created = 4,
    deleted = 8,
    moved_from = 16,
    moved_to = 32,
    self_is_gone = 64,  // deleted, moved away, unmounted
    ended = 128,        // there will be no more for this id
    overflow = 256,     // some were dropped, of any id
    // The OS does not say whether it was written or got other metadata; with `deleted`: or whether
    // another one got the name. A look tells.
    touched = 512
  };

  watch_id id = no_watch;
  std::uint32_t what = 0;
  std::uint32_t cookie = 0;  // connects moved_from and moved_to
  file_name name;            // in the folder; empty: of what is watched itself
};

/// Tells of changes.
class watch_source {
 public:
  virtual ~watch_source() = default;

  /// Any thread; may wait. The same file twice gives the same id, and the union of the interests.
  /// errc::unsupported: never on this platform.
  virtual std::error_code add(const std::filesystem::path& path, interest what,
                              watch_id& id) noexcept = 0;
  /// Any thread; never waits.
  virtual void remove(watch_id id) noexcept = 0;
  /// Looks at a name in a folder without following links. Of one that is watched, under `id`, the
  /// path is not asked where notices come so late that it may have another one by now. May wait.
  virtual std::error_code look_in(watch_id, const std::filesystem::path& folder,
                                  const file_name& name, file_look& look) noexcept {
    return look_at(folder / name, false, look);
  }
  /// Appends what there is, up to a limit; never waits. False: there was nothing. One thread at a
  /// time.
  virtual bool read(std::vector<notice>& notices) = 0;
  /// Once read() has said that there is nothing: tells whether it has given all notices of what was
  /// done in a folder before ask_for_all(). If not, `ready` is called when that is to be asked
  /// again. The thread that reads.
  virtual void ask_for_all(watch_id id) noexcept = 0;
  virtual bool has_told_all(watch_id id) noexcept = 0;
  /// Calls `ready` once, on a thread of the context and without anything between, when there is
  /// something to read; counts as work meanwhile. False: it will not. This and what follows: not
  /// at the same time.
  virtual bool arm() noexcept = 0;
  /// Calls `ready` soon, if it is armed.
  virtual void disarm() noexcept = 0;
  virtual void shut_down() noexcept = 0;
};

/// Makes the best there is; where that is nothing, `reason` says why, and add() of what is made
/// fails with it.
std::unique_ptr<watch_source> make_watch_source(asio::execution_context& context,
                                                std::function<void()> ready);
/// Makes one that never tells anything.
std::unique_ptr<watch_source> make_silent_source(std::error_code reason);

}  // namespace detail::watching
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_WATCH_WATCH_SOURCE_HPP
