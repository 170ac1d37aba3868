#ifndef MAPIO_WATCHER_HPP
#define MAPIO_WATCHER_HPP

#include <mapio/detail/config.hpp>
#include <mapio/detail/default_token.hpp>
#include <mapio/detail/initiate.hpp>
#include <mapio/detail/operation.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/execution/context.hpp>
#include <asio/execution_context.hpp>
#include <asio/query.hpp>

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <memory>
#include <optional>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

MAPIO_NAMESPACE_BEGIN

/// Names what happened to a path; docs/watching.md says what raises each of them.
enum class change_kind {
  modified,   ///< Bytes were written, or mapio or its owner announced stores through a mapping.
  metadata,   ///< Permissions, owner, times or the number of names.
  created,    ///< There is something where nothing was; a folder's content is announced as well.
  removed,    ///< There is nothing any more; of a folder, it speaks for all that was in it.
  renamed,    ///< change_event::previous_path is now called path, with all that is in it.
  replaced,   ///< Another file has the name.
  truncated,  ///< It is shorter than it was; change_event::size says how long.
  overflow,   ///< Something was missed; what follows makes up for it.
};

/// Tells one change of one path.
struct change_event {
  /// What happened.
  change_kind kind = change_kind::modified;
  /// As it was given to basic_watcher::add(), with what leads on from there; empty for overflow.
  std::filesystem::path path;
  /// The name before; only of change_kind::renamed.
  std::filesystem::path previous_path;
  /// The size in bytes when the event was made, of a file, where it is known: always of
  /// change_kind::truncated. See watch_options::sizes.
  std::optional<std::uint64_t> size;
};

/// Writes the name of a kind, e.g. "modified".
MAPIO_DECL std::ostream& operator<<(std::ostream& out, change_kind kind);
/// Writes an event in one line, e.g. "renamed a/old -> a/new".
MAPIO_DECL std::ostream& operator<<(std::ostream& out, const change_event& event);

/// Says how a path is watched.
struct watch_options {
  /// All that is below a folder as well, whenever it gets there.
  bool recursive = false;
  /// A path that does not exist yet: it is `created` once it does.
  bool allow_missing = false;
  /// > 0: what happens to one path within such a time is one event, about the outcome.
  std::chrono::milliseconds coalesce{0};
  /// > 0: also compares sizes, times and inodes at this interval, for what the OS does not tell.
  std::chrono::milliseconds poll{0};
  /// false: who does not care how large files are hears of `modified` sooner, since no look at the
  /// file is made for it. It mostly comes without a size then, and `truncated` as `modified`. Does
  /// nothing for mapped_file::watch().
  bool sizes = true;
};

/// Names a path that is looked at again and again, because the OS does not tell of its changes.
struct watch_fallback {
  /// The file or folder.
  std::filesystem::path path;
  /// Why: the limit that was reached, or errc::unsupported by the file system or the platform.
  std::error_code reason;
};

namespace detail {

class watch_stream;

struct change_operation : operation {
  change_event event;
  std::shared_ptr<watch_stream> stream;
};

struct change_result {
  using signature = void(std::error_code, change_event);
  static std::tuple<std::error_code, change_event> take(operation& op) {
    return {op.error, std::move(static_cast<change_operation&>(op).event)};
  }
};

struct change_arguments {
  using operation_type = change_operation;
  std::shared_ptr<watch_stream> stream;

  template <class Allocator>
  using memory = no_memory;

  void prepare(change_operation& op, no_memory&) {
    op.kind = verb::next_change;
    op.stream = std::move(stream);
  }
};

/// Makes what stands behind a watcher.
MAPIO_DECL std::shared_ptr<watch_stream> make_watch_stream(asio::execution_context& context,
                                                           std::size_t capacity);
/// Watches a path; `file` is the mapped file that is to hear of it, if any.
MAPIO_DECL void add_watch(const std::shared_ptr<watch_stream>& stream,
                          const std::filesystem::path& path, const watch_options& options,
                          const std::shared_ptr<file_state>& file);
MAPIO_DECL void remove_watch(const std::shared_ptr<watch_stream>& stream,
                             const std::filesystem::path& path);
MAPIO_DECL void cancel_next(const std::shared_ptr<watch_stream>& stream) noexcept;
MAPIO_DECL void close_watch(const std::shared_ptr<watch_stream>& stream) noexcept;
MAPIO_DECL std::vector<watch_fallback> fallbacks_of(const std::shared_ptr<watch_stream>& stream);

}  // namespace detail

template <class Executor>
class basic_mapped_file;

/// Tells of changes to any number of files and folders, one event after another, and never misses
/// one silently.
///
/// All watchers of an execution context share one descriptor of the OS. Nothing is done while
/// nobody waits in next(), so that `run()` of a context returns: the OS collects what happens
/// meanwhile, and so does the watcher, up to its capacity.
///
/// **When something is missed** (the OS collected too much, or this watcher did), next() gives one
/// change_kind::overflow, and after it what differs from the last state that was told: whoever
/// applies all events has the right state. docs/watching.md says what the OS itself does not see.
///
/// Destroying a watcher closes it.
///
/// @tparam Executor  The executor type; events are found by the engine of its execution context.
/// @par Thread safety
///   Different objects: any thread. One object: every member but assignment and destruction may be
///   called from any thread at once.
/// @par Example
///   mapio::watcher changes(co_await asio::this_coro::executor);
///   changes.add("inbox");
///   for (;;) std::cout << co_await changes.next() << '\n';
template <class Executor = asio::any_io_executor>
class basic_watcher {
  using token_type = detail::default_token<Executor>;

 public:
  /// Names the executor that next() uses when a handler has none of its own.
  using executor_type = Executor;

  /// Names the same type on another executor.
  template <class Other>
  struct rebind_executor {
    /// Names it.
    using other = basic_watcher<Other>;
  };

  /// Watches nothing yet.
  ///
  /// @param capacity  Events that wait for next() before something is missed; at least 1.
  explicit basic_watcher(const executor_type& executor, std::size_t capacity = 4096)
      : executor_(executor), home_(detail::engine_of(context_of(executor))),
        stream_(detail::make_watch_stream(context_of(executor), capacity)) {}
  /// Watches nothing yet, on the executor of an execution context.
  template <class Context>
  requires std::convertible_to<Context&, asio::execution_context&>
  explicit basic_watcher(Context& context, std::size_t capacity = 4096)
      : basic_watcher(executor_type(context.get_executor()), capacity) {}
  /// Takes over what `other` watches; its calls fail with errc::not_open.
  basic_watcher(basic_watcher&& other) noexcept
      // NOLINTNEXTLINE(performance-move-constructor-init): where its next() completes
      : executor_(other.executor_), home_(other.home_), stream_(std::move(other.stream_)) {}
  /// Closes this one, and takes over what `other` watches, as above.
  basic_watcher& operator=(basic_watcher&& other) noexcept {
    basic_watcher old(std::move(*this));
    executor_ = other.executor_;
    home_ = other.home_;
    stream_ = std::move(other.stream_);
    return *this;
  }
  /// Closes it.
  ~basic_watcher() { close(); }

  /// Returns the executor that next() uses when a handler has none of its own.
  executor_type get_executor() const noexcept { return executor_; }

  /// Watches a file or a folder from now on; every change that begins after the return is told.
  ///
  /// A file is watched by its name and by itself: when it is renamed over, removed and created
  /// again, or moved away, the name stays watched. Links are followed, and watched too. Of a folder
  /// what is directly in it is watched, and with watch_options::recursive all below. This call
  /// looks at the path and waits for that; the rest of a tree is looked at off the loop, and what
  /// changes there meanwhile is told; a folder from which something may have gone meanwhile is
  /// `removed` and `created`, with all that is in it. With `recursive` it also lets the tick of the
  /// file system's clock pass (up to 10 ms), to tell new files from old ones.
  ///
  /// Where the OS cannot tell, the path is looked at every second or as watch_options::poll says,
  /// see fallbacks().
  ///
  /// @param path     A relative one counts from the working directory of now.
  /// @param options  How; a path that is watched already is watched as they say from here on, and
  ///   what is still to be told of it is told.
  /// @par Errors
  ///   Throws std::system_error: errc::not_open (closed), errc::unsupported in a forked child,
  ///   std::errc::no_such_file_or_directory unless watch_options::allow_missing; else the OS code.
  /// @par Example
  ///   changes.add("/var/log/app.log");
  void add(const std::filesystem::path& path, const watch_options& options = {}) {
    detail::add_watch(stream_, path, options, nullptr);
  }
  /// Ends the watch of a path that was added, written the same way; does nothing where there is
  /// none. A next() that begins from here on tells nothing of it, unless it is added again. Of what
  /// was moved to or from another path that is watched, it tells what is said of that one.
  ///
  /// @par Example
  ///   changes.remove("/var/log/app.log");
  void remove(const std::filesystem::path& path) { detail::remove_watch(stream_, path); }

  /// Waits for the next event.
  ///
  /// @par Completion signature
  ///   void(std::error_code, mapio::change_event)
  /// @par Errors
  ///   errc::not_open: closed before. asio::error::operation_aborted: closed meanwhile, or
  ///   cancelled. std::errc::operation_in_progress: another next() is outstanding; it is left
  ///   alone. errc::unsupported in a forked child.
  /// @par Cancellation
  ///   terminal, partial, total, at any time; no event is lost by it.
  /// @par Example
  ///   mapio::change_event event = co_await changes.next();
  template <class Token = token_type>
  auto next(Token&& token = Token()) {
    return asio::async_initiate<Token, detail::change_result::signature>(
        detail::initiate_verb<Executor, detail::change_result>(executor_, home_, nullptr), token,
        detail::change_arguments{stream_});
  }

  /// Returns what is polled though nobody asked for it, and why; each path once.
  ///
  /// @par Example
  ///   for (auto& f : changes.fallbacks()) std::cerr << f.path << ": " << f.reason.message();
  std::vector<watch_fallback> fallbacks() const { return detail::fallbacks_of(stream_); }

  /// Ends the outstanding next(), if any, with asio::error::operation_aborted.
  ///
  /// @par Example
  ///   changes.cancel();
  void cancel() noexcept { detail::cancel_next(stream_); }
  /// Watches nothing any more; the outstanding next() ends with asio::error::operation_aborted, and
  /// events that nobody has taken are gone.
  ///
  /// @par Example
  ///   changes.close();
  void close() noexcept { detail::close_watch(stream_); }

 private:
  template <class>
  friend class basic_mapped_file;

  static asio::execution_context& context_of(const executor_type& executor) {
    return asio::query(executor, asio::execution::context);
  }

  Executor executor_;
  std::shared_ptr<detail::engine> home_;
  std::shared_ptr<detail::watch_stream> stream_;
};

/// Watches on any executor.
using watcher = basic_watcher<>;

MAPIO_NAMESPACE_END

#endif  // MAPIO_WATCHER_HPP
