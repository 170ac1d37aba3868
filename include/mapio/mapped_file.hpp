#ifndef MAPIO_MAPPED_FILE_HPP
#define MAPIO_MAPPED_FILE_HPP

#include <mapio/atomic_cell.hpp>
#include <mapio/chunk_stream.hpp>
#include <mapio/detail/config.hpp>
#include <mapio/detail/default_token.hpp>
#include <mapio/detail/initiate.hpp>
#include <mapio/detail/operation.hpp>
#include <mapio/error.hpp>
#include <mapio/mapping.hpp>
#include <mapio/options.hpp>
#include <mapio/region.hpp>
#include <mapio/watcher.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/execution/context.hpp>
#include <asio/execution_context.hpp>
#include <asio/query.hpp>

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <system_error>
#include <type_traits>
#include <utility>

MAPIO_NAMESPACE_BEGIN

/// Maps a file and works on it with awaited calls; the thread that runs the coroutines never waits
/// for a disk.
///
/// A cheap copyable handle. It has state from its construction on, so that copies made before
/// open() see the file open; close() closes it for all of them. Destroying handles never flushes,
/// and outstanding verbs keep what they need: file, mapping and state live until they complete.
///
/// **Every verb**, in addition to what is written at it:
/// - takes a completion token last; without one it is the executor's default token, else `deferred`
///   (Asio 1.24 and newer), else `use_awaitable`;
/// - completes on the handler's associated executor, never inside the initiating call, and takes
///   memory from the handler's associated allocator;
/// - stores its arguments; the bytes behind a buffer stay the caller's until completion;
/// - reports bad arguments and closed files through completion, as errc::not_open,
///   errc::out_of_range, errc::read_only;
/// - is cancelled by its cancellation slot, by cancel() and by close(), with
///   asio::error::operation_aborted. One that still waits in a queue then did nothing; one that the
///   kernel is carrying out finishes and reports what it did, except that a waiter for a sync stops
///   waiting while the sync goes on for others. Total cancellation only ends what has had no effect
///   yet;
/// - completes with errc::unsupported in a forked child, whose parent's engine is left alone.
///
/// @tparam Executor  The executor type of the handle; verbs run on the engine of its execution
/// context.
/// @par Thread safety
///   Different objects: any thread, copies included. One object: every member but assignment and
///   destruction may be called from any thread at once. Overlapping updates are the caller's race.
/// @par Example
///   mapio::mapped_file file(co_await asio::this_coro::executor);
///   co_await file.open("data", {.mode = mapio::access::read_write});
template <class Executor = asio::any_io_executor>
class basic_mapped_file {
  using token_type = detail::default_token<Executor>;

 public:
  /// Names the executor that verbs use when a handler has none of its own.
  using executor_type = Executor;
  /// Names the type of what the OS calls an open file.
  using native_handle_type = mapping::native_handle_type;

  /// Names the same type on another executor.
  template <class Other>
  struct rebind_executor {
    /// Names it.
    using other = basic_mapped_file<Other>;
  };

  /// Makes a closed file whose verbs run on the engine of the executor's context.
  explicit basic_mapped_file(const executor_type& executor)
      : executor_(executor), home_(detail::engine_of(context_of(executor))),
        handle_(std::make_shared<detail::handle_state>()) {}
  /// Makes a closed file on the executor of an execution context.
  template <class Context>
  requires std::convertible_to<Context&, asio::execution_context&>
  explicit basic_mapped_file(Context& context)
      : basic_mapped_file(executor_type(context.get_executor())) {}
  /// Makes a handle to the file of `m`; both see it closed when either closes it.
  basic_mapped_file(const executor_type& executor, const mapping& m) : basic_mapped_file(executor) {
    handle_->file(detail::state_of(m));
  }
  /// Makes a handle to the same file on another executor.
  template <class Other>
  requires std::constructible_from<Executor, const Other&> &&
      (!std::same_as<Executor, Other>)basic_mapped_file(const basic_mapped_file<Other>& other)
      : executor_(other.executor_), home_(other.home_), handle_(other.handle_) {}
  /// Makes another handle to the same state, open or not.
  basic_mapped_file(const basic_mapped_file&) = default;
  /// Lets go of this handle's state and shares that of the other one.
  basic_mapped_file& operator=(const basic_mapped_file&) = default;
  /// Leaves `other` without state: its verbs complete with errc::not_open.
  basic_mapped_file(basic_mapped_file&& other) noexcept
      // NOLINTNEXTLINE(performance-move-constructor-init): where those verbs complete
      : executor_(other.executor_), home_(std::move(other.home_)),
        handle_(std::move(other.handle_)) {}
  /// Leaves `other` without state: its verbs complete with errc::not_open.
  basic_mapped_file& operator=(basic_mapped_file&& other) noexcept {
    executor_ = other.executor_;
    home_ = std::move(other.home_);
    handle_ = std::move(other.handle_);
    return *this;
  }
  /// Lets go of the file; never flushes, and outstanding verbs go on.
  ~basic_mapped_file() = default;

  /// Returns the executor that verbs use when a handler has none of its own.
  executor_type get_executor() const noexcept { return executor_; }
  /// Returns the blocking handle to the same open file; closed if this one is.
  mapping map() const noexcept { return detail::mapping_of(file()); }
  /// Returns the size in bytes as this library knows it; 0 when closed.
  std::uint64_t size() const noexcept { return map().size(); }
  /// Returns the bytes that the file can grow to without moving; 0 when closed.
  std::uint64_t capacity() const noexcept { return map().capacity(); }
  /// Tells whether the file is open.
  bool is_open() const noexcept { return map().is_open(); }
  /// Returns the access it was opened with; read_only when closed.
  access mode() const noexcept { return map().mode(); }
  /// Returns the path given to open; empty when closed or adopted. See mapping::path().
  std::filesystem::path path() const { return map().path(); }
  /// Returns the bytes of the pages that were written and not yet covered by a started sync.
  std::uint64_t pending_bytes() const noexcept { return map().pending_bytes(); }
  /// Returns the counters of this file, all zero when closed.
  file_stats stats() const noexcept { return map().stats(); }
  /// Returns the file itself, still owned by the mapping; -1 (an invalid handle on Windows) when
  /// closed.
  native_handle_type native_handle() const noexcept { return map().native_handle(); }

  /// Opens and maps a regular file, off the loop.
  ///
  /// At completion every copy of this handle sees it open. A file that was open before is let go
  /// of, as by destroying a handle. A close() meanwhile is about either of the two, whichever is
  /// open when it is initiated; of several opens under way at once, one stays open.
  ///
  /// @param path     Stored; a relative one counts from the working directory at the time of the
  /// call to the OS.
  /// @param options  As for mapping::open.
  /// @par Completion signature
  ///   void(std::error_code)
  /// @par Errors
  ///   As mapping::open.
  /// @par Cancellation
  ///   terminal, partial, total; queued only.
  /// @par Example
  ///   co_await file.open("data", {.mode = mapio::access::read_write});
  template <class Token = token_type>
  auto open(const std::filesystem::path& path, const open_options& options,
            Token&& token = Token()) {
    return initiate<detail::error_result>(std::forward<Token>(token),
                                          detail::open_arguments{path, options});
  }
  /// Opens an existing file for reading: open() with options that are all left alone.
  ///
  /// @param path  As above.
  /// @par Completion signature
  ///   void(std::error_code)
  /// @par Errors
  ///   As mapping::open.
  /// @par Cancellation
  ///   terminal, partial, total; queued only.
  /// @par Example
  ///   co_await file.open("data");
  template <class Token = token_type>
  requires(!std::same_as<std::decay_t<Token>, open_options>) auto open(
      const std::filesystem::path& path, Token&& token = Token()) {
    return initiate<detail::error_result>(std::forward<Token>(token),
                                          detail::open_arguments{path, {}});
  }

  /// Closes the file for every copy of this handle, off the loop.
  ///
  /// First flushes what a policy other than manual still owes. Outstanding verbs complete with
  /// asio::error::operation_aborted, but for those that the kernel is carrying out. Never waits for
  /// regions: the last one unmaps.
  ///
  /// @par Completion signature
  ///   void(std::error_code)
  /// @par Errors
  ///   errc::not_open. With a policy other than manual those of flush(): what it owed is not
  ///   durable; the file is closed all the same.
  /// @par Cancellation
  ///   None: it cannot be undone.
  /// @par Example
  ///   co_await file.flush(); co_await file.close();
  template <class Token = token_type>
  auto close(Token&& token = Token()) {
    return initiate<detail::error_result>(std::forward<Token>(token),
                                          detail::range_arguments{detail::verb::close});
  }

  /// Writes `buffers`, one after another, at `offset`.
  ///
  /// At completion the bytes are in the file for every reader, and not yet durable, unless the
  /// policy is flush_policy::always. What is known to be at hand is stored at once; the rest goes
  /// off the loop. Updates of disjoint ranges run concurrently. Short of errors the update is
  /// complete.
  ///
  /// @param offset   Bytes from the start of the file; any alignment.
  /// @param buffers  A ConstBufferSequence, stored; its bytes must stay until completion. A region
  ///   keeps them itself; where it is of this file and overlaps what is stored to, its bytes may be
  ///   new already when they are read.
  /// @par Completion signature
  ///   void(std::error_code, std::size_t) with the bytes written.
  /// @par Errors
  ///   errc::read_only, errc::out_of_range, errc::not_open and, with a policy other than manual on
  ///   a poisoned file, errc::flush_failed write nothing. errc::page_fault: the file was truncated
  ///   by somebody else, or cannot be written there. Else the OS code, e.g.
  ///   std::errc::no_space_on_device, and with write_path::file std::errc::file_too_large beyond
  ///   RLIMIT_FSIZE, which is no limit for stores. With flush_policy::always also those of
  ///   flush_range(): the bytes are written, and not durable.
  /// @par Cancellation
  ///   terminal, partial; total while queued. Reports the bytes done.
  /// @par Example
  ///   std::size_t n = co_await file.update_region(128, asio::buffer(record));
  template <class ConstBufferSequence, class Token = token_type>
  auto update_region(std::uint64_t offset, const ConstBufferSequence& buffers,
                     Token&& token = Token()) {
    return initiate<detail::size_result>(
        std::forward<Token>(token),
        detail::buffer_arguments<ConstBufferSequence>{detail::verb::update, offset, buffers});
  }

  /// Copies from `offset` on into `buffers`, one after another.
  ///
  /// Resident bytes are copied at once; the rest is read off the loop.
  ///
  /// @param offset   Bytes from the start of the file; any alignment.
  /// @param buffers  A MutableBufferSequence, stored; its bytes must stay until completion.
  /// @par Completion signature
  ///   void(std::error_code, std::size_t) with the bytes copied: all of them, or it is an error.
  /// @par Errors
  ///   errc::out_of_range, errc::not_open; errc::page_fault: the file was truncated by somebody
  ///   else. Else the OS code.
  /// @par Cancellation
  ///   terminal, partial; total while queued.
  /// @par Example
  ///   co_await file.read_into(0, asio::buffer(key));
  template <class MutableBufferSequence, class Token = token_type>
  auto read_into(std::uint64_t offset, const MutableBufferSequence& buffers,
                 Token&& token = Token()) {
    return initiate<detail::size_result>(
        std::forward<Token>(token),
        detail::buffer_arguments<MutableBufferSequence>{detail::verb::read, offset, buffers});
  }

  /// Makes everything written so far survive power loss; see flush_range().
  ///
  /// @par Completion signature
  ///   void(std::error_code)
  /// @par Errors
  ///   As flush_range(), but errc::out_of_range.
  /// @par Cancellation
  ///   As flush_range().
  /// @par Example
  ///   co_await file.flush();
  template <class Token = token_type>
  requires(!std::same_as<std::decay_t<Token>, durability>) auto flush(Token&& token = Token()) {
    return flush(durability::durable, std::forward<Token>(token));
  }
  /// Makes everything written so far survive power loss, or with durability::started begins to
  /// write it back.
  ///
  /// @param level  durability::durable is flush(). With durability::started nothing is promised:
  /// write-back of what was dirty has begun at completion, and all of it still counts as dirty.
  /// @par Completion signature
  ///   void(std::error_code)
  /// @par Errors
  ///   As flush(). With durability::started errc::not_open, else the OS code; it does not poison.
  /// @par Cancellation
  ///   As flush_range(). With durability::started terminal, partial, total; queued only.
  /// @par Example
  ///   co_await file.flush(mapio::durability::started);
  template <class Token = token_type>
  auto flush(durability level, Token&& token = Token()) {
    return initiate<detail::error_result>(
        std::forward<Token>(token),
        detail::range_arguments{detail::verb::flush, 0, 0, level == durability::started});
  }

  /// Makes every byte of [offset, offset + length) written so far survive power loss.
  ///
  /// Also makes the file's size and, if open may have created it, its name durable. Concurrent
  /// calls share one sync, which starts after the last of them was initiated. Neighbouring bytes of
  /// the same pages may be written too. A clean range costs no I/O. Does nothing on read-only and
  /// copy-on-write mappings.
  ///
  /// @param offset  Bytes from the start of the file; any alignment.
  /// @param length  Bytes; 0 completes at once with success.
  /// @par Completion signature
  ///   void(std::error_code)
  /// @par Errors
  ///   errc::out_of_range, errc::not_open, errc::flush_failed (an earlier sync failed), else the OS
  ///   code; after an OS error the file is poisoned and nothing in the range may be assumed
  ///   durable.
  /// @par Cancellation
  ///   terminal, partial, total. The caller stops waiting; a sync under way goes on for others.
  /// @par Example
  ///   co_await file.flush_range(0, 4096);
  template <class Token = token_type>
  requires(!std::same_as<std::decay_t<Token>, durability>) auto flush_range(
      std::uint64_t offset, std::uint64_t length, Token&& token = Token()) {
    return flush_range(offset, length, durability::durable, std::forward<Token>(token));
  }
  /// Makes a range survive power loss, or with durability::started begins to write it back.
  ///
  /// @param offset  Bytes from the start of the file; any alignment.
  /// @param length  Bytes; 0 completes at once with success.
  /// @param level   As for flush(durability).
  /// @par Completion signature
  ///   void(std::error_code)
  /// @par Errors
  ///   As flush_range() above. With durability::started errc::out_of_range, errc::not_open, else
  ///   the OS code; it does not poison.
  /// @par Cancellation
  ///   As flush(durability).
  /// @par Example
  ///   co_await file.flush_range(0, 4096, mapio::durability::started);
  template <class Token = token_type>
  auto flush_range(std::uint64_t offset, std::uint64_t length, durability level,
                   Token&& token = Token()) {
    return initiate<detail::error_result>(
        std::forward<Token>(token), detail::range_arguments{detail::verb::flush_range, offset,
                                                            length, level == durability::started});
  }

  /// Makes the file `new_size` bytes long, off the loop; new bytes read as zero.
  ///
  /// Growth inside capacity() does not move anything and disturbs nobody; beyond it the mapping
  /// moves once no region is left. Shrinking waits for the regions that reach into the part to be
  /// cut; new ones there are errc::out_of_range from the initiation on. Resizes of one file happen
  /// in the order of their initiation.
  ///
  /// @param new_size  Bytes.
  /// @par Completion signature
  ///   void(std::error_code)
  /// @par Errors
  ///   errc::read_only, errc::unsupported (copy-on-write), errc::not_open,
  ///   std::errc::file_too_large (also beyond RLIMIT_FSIZE; no SIGXFSZ is raised),
  ///   std::errc::no_space_on_device, std::errc::invalid_argument (hugetlbfs has whole pages only),
  ///   else the OS code. After an error the size is what it was.
  /// @par Cancellation
  ///   terminal, partial, total while it waits for its turn or for regions; the size is then what
  ///   it was.
  /// @par Example
  ///   co_await file.resize(file.size() + (1 << 20));
  template <class Token = token_type>
  auto resize(std::uint64_t new_size, Token&& token = Token()) {
    return initiate<detail::error_result>(
        std::forward<Token>(token), detail::range_arguments{detail::verb::resize, 0, new_size});
  }

  /// Adopts the size that the file has now, if somebody else changed it.
  ///
  /// What was cut is out of range at completion; regions that reach there stay mapped, and touching
  /// their bytes raises SIGBUS as before. A larger size that does not fit into capacity() moves the
  /// mapping, once no region is left. Takes its turn among the resizes of the file.
  ///
  /// @par Completion signature
  ///   void(std::error_code, std::uint64_t): the size in bytes; after an error, as it was known
  ///   before.
  /// @par Errors
  ///   errc::unsupported (copy-on-write), errc::not_open, else the OS code.
  /// @par Cancellation
  ///   terminal, partial, total while it waits for its turn or for regions; the size that is known
  ///   is then what it was.
  /// @par Example
  ///   std::uint64_t grown = co_await log.refresh();  // another process appends to it
  template <class Token = token_type>
  auto refresh(Token&& token = Token()) {
    return initiate<detail::length_result>(
        std::forward<Token>(token), detail::range_arguments{detail::verb::resize, 0, 0, true});
  }

  /// Brings the whole file into memory, off the loop; see prefetch(offset, length).
  ///
  /// The file counts as it is when the verb is initiated.
  ///
  /// @par Completion signature
  ///   void(std::error_code)
  /// @par Errors
  ///   errc::not_open; errc::page_fault: the file was truncated by somebody else. Else the OS code.
  /// @par Cancellation
  ///   terminal, partial, total; between pieces of a few MiB.
  /// @par Example
  ///   co_await file.prefetch();
  template <class Token = token_type>
  auto prefetch(Token&& token = Token()) {
    return initiate<detail::error_result>(
        std::forward<Token>(token), detail::range_arguments{detail::verb::prefetch, 0, 0, true});
  }

  /// Brings [offset, offset + length) into memory, off the loop; every page is resident and mapped
  /// at completion.
  ///
  /// @param offset  Bytes from the start of the file; any alignment.
  /// @param length  Bytes; 0 completes at once with success.
  /// @par Completion signature
  ///   void(std::error_code)
  /// @par Errors
  ///   errc::out_of_range, errc::not_open; errc::page_fault: the file was truncated by somebody
  ///   else. Else the OS code.
  /// @par Cancellation
  ///   terminal, partial, total; between pieces of a few MiB.
  /// @par Example
  ///   co_await file.prefetch(0, 1 << 20);
  template <class Token = token_type>
  auto prefetch(std::uint64_t offset, std::uint64_t length, Token&& token = Token()) {
    return initiate<detail::error_result>(
        std::forward<Token>(token),
        detail::range_arguments{detail::verb::prefetch, offset, length});
  }

  /// Keeps the whole file in memory, as it is when the verb is initiated, off the loop; see
  /// lock_pages(offset, length).
  ///
  /// @par Completion signature
  ///   void(std::error_code)
  /// @par Errors
  ///   errc::not_open, else as lock_pages(offset, length).
  /// @par Cancellation
  ///   As lock_pages(offset, length).
  /// @par Example
  ///   co_await file.lock_pages();
  template <class Token = token_type>
  auto lock_pages(Token&& token = Token()) {
    return initiate<detail::error_result>(
        std::forward<Token>(token), detail::range_arguments{detail::verb::lock_pages, 0, 0, true});
  }

  /// Brings the pages of [offset, offset + length) into memory, off the loop, and keeps them there,
  /// until unlock_pages(), a shrink that cuts them, or the end of the mapping.
  ///
  /// Whole pages are locked, and once: several calls are undone by one unlock_pages(). All or
  /// nothing: after an error what was locked before is, and nothing else. A lock follows a mapping
  /// that moves; until the move is over, the pages count twice for the limit. What is added by
  /// growth is not locked. A copy-on-write mapping gets pages of its own by it. Calls for one file
  /// take turns.
  ///
  /// @param offset  Bytes from the start of the file; any alignment.
  /// @param length  Bytes; 0 completes at once with success.
  /// @par Completion signature
  ///   void(std::error_code)
  /// @par Errors
  ///   errc::out_of_range, errc::not_open; errc::page_fault: the file was truncated by somebody
  ///   else, or cannot be read there; std::errc::not_enough_memory,
  ///   std::errc::operation_not_permitted: more than the process may lock (RLIMIT_MEMLOCK). Else
  ///   the OS code.
  /// @par Cancellation
  ///   terminal, partial, total; between pieces of a few MiB. Nothing is locked then.
  /// @par Example
  ///   co_await file.lock_pages(0, 4096);
  template <class Token = token_type>
  auto lock_pages(std::uint64_t offset, std::uint64_t length, Token&& token = Token()) {
    return initiate<detail::error_result>(
        std::forward<Token>(token),
        detail::range_arguments{detail::verb::lock_pages, offset, length});
  }

  /// Ends the locks of the whole file, off the loop; see unlock_pages(offset, length).
  ///
  /// @par Completion signature
  ///   void(std::error_code)
  /// @par Errors
  ///   errc::not_open, else the OS code.
  /// @par Cancellation
  ///   terminal, partial, total while it is queued.
  /// @par Example
  ///   co_await file.unlock_pages();
  template <class Token = token_type>
  auto unlock_pages(Token&& token = Token()) {
    return initiate<detail::error_result>(
        std::forward<Token>(token),
        detail::range_arguments{detail::verb::unlock_pages, 0, 0, true});
  }

  /// Lets the OS take the pages of [offset, offset + length) out of memory again, off the loop;
  /// those that are not locked may be among them.
  ///
  /// @param offset  Bytes from the start of the file; any alignment.
  /// @param length  Bytes; 0 completes at once with success.
  /// @par Completion signature
  ///   void(std::error_code)
  /// @par Errors
  ///   errc::out_of_range, errc::not_open, else the OS code.
  /// @par Cancellation
  ///   terminal, partial, total while it is queued.
  /// @par Example
  ///   co_await file.unlock_pages(0, 4096);
  template <class Token = token_type>
  auto unlock_pages(std::uint64_t offset, std::uint64_t length, Token&& token = Token()) {
    return initiate<detail::error_result>(
        std::forward<Token>(token),
        detail::range_arguments{detail::verb::unlock_pages, offset, length});
  }

  /// Shows [offset, offset + length) without copying; every page is resident and mapped at
  /// completion.
  ///
  /// @param offset  Bytes from the start of the file; any alignment.
  /// @param length  Bytes; 0 gives an empty region.
  /// @par Completion signature
  ///   void(std::error_code, mapio::region)
  /// @par Errors
  ///   errc::out_of_range, errc::not_open; errc::page_fault: the file was truncated by somebody
  ///   else. Else the OS code.
  /// @par Cancellation
  ///   terminal, partial, total.
  /// @par Example
  ///   mapio::region r = co_await file.view(0, 4096);
  template <class Token = token_type>
  auto view(std::uint64_t offset, std::uint64_t length, Token&& token = Token()) {
    return initiate<detail::region_result>(
        std::forward<Token>(token),
        detail::view_arguments{{detail::verb::view, offset, length, false}});
  }

  /// Makes a stream that hands out the file in chunks of `bytes` bytes, from the start.
  ///
  /// Nothing is read before its first next(). It is about the file that is open now.
  ///
  /// @param bytes      Of a chunk; the last one may be short.
  /// @param readahead  Chunks that are brought into memory ahead of the one that is asked for, at
  /// most 1024.
  /// @par Lifetime
  ///   The stream needs the file open, not this handle.
  /// @par Example
  ///   auto chunks = file.chunks(1 << 20);
  basic_chunk_stream<Executor> chunks(std::uint64_t bytes, std::size_t readahead = 4) const {
    return {executor_, home_, handle_, bytes, readahead};
  }

  /// Refers to the integer at `offset`, for atomic operations by threads and processes at once, and
  /// for awaiting its changes.
  ///
  /// See mapping::atomic(). It is about the file that is open now.
  ///
  /// @tparam T       An integer of 4 or 8 bytes.
  /// @param  offset  Bytes from the start of the file; a multiple of sizeof(T).
  /// @par Errors
  ///   errc::misaligned, errc::out_of_range, errc::not_open.
  /// @par Example
  ///   auto ready = file.atomic<std::uint32_t>(0); co_await ready.wait(0);
  template <atomic_word T>
  atomic_cell<T, Executor> atomic(std::uint64_t offset) const {
    return {map().template atomic<T>(offset), executor_, home_, handle_};
  }
  /// Refers without throwing; returns an empty cell on error.
  template <atomic_word T>
  atomic_cell<T, Executor> atomic(std::uint64_t offset, std::error_code& error) const {
    return {map().template atomic<T>(offset, error), executor_, home_, handle_};
  }

  /// Makes a watcher of this file, by its name: what others do to it, and what mapio stores.
  ///
  /// When it tells of another size, or of another file under the name, size_is_stale() holds. The
  /// mapping stays that of the file that was opened. Stores are told once per flush, if
  /// open_options::announce is set; resizes are told, too.
  ///
  /// @param options  As for basic_watcher::add().
  /// @par Errors
  ///   errc::not_open; errc::unsupported for a file that was adopted, which has no name; else as
  ///   basic_watcher::add().
  /// @par Example
  ///   auto changes = file.watch(); mapio::change_event event = co_await changes.next();
  basic_watcher<Executor> watch(const watch_options& options = {}) const {
    const std::shared_ptr<detail::file_state> watched = file();
    if (!watched || !is_open())
      throw std::system_error(errc::not_open, "mapio::mapped_file::watch");
    if (path().empty()) throw std::system_error(errc::unsupported, "mapio::mapped_file::watch");
    basic_watcher<Executor> result(executor_);
    detail::add_watch(result.stream_, path(), options, watched);
    return result;
  }
  /// Tells whether a watcher of this file saw another size than size(), or another file under the
  /// name, since the last refresh().
  ///
  /// @par Example
  ///   if (file.size_is_stale()) co_await file.refresh();
  bool size_is_stale() const noexcept {
    const std::shared_ptr<detail::file_state> watched = file();
    return watched && detail::is_size_stale(*watched);
  }

  /// Cancels the outstanding verbs of every copy of this handle; see above for what becomes of
  /// them.
  ///
  /// @par Example
  ///   file.cancel();
  void cancel() noexcept {
    if (handle_ && home_) detail::cancel_all(handle_, home_);
  }

 private:
  template <class>
  friend class basic_mapped_file;

  static asio::execution_context& context_of(const executor_type& executor) {
    return asio::query(executor, asio::execution::context);
  }

  std::shared_ptr<detail::file_state> file() const noexcept {
    return handle_ ? handle_->file() : nullptr;
  }

  template <class Result, class Token, class Arguments>
  auto initiate(Token&& token, Arguments&& arguments) {
    return asio::async_initiate<Token, typename Result::signature>(
        detail::initiate_verb<Executor, Result>(executor_, home_, handle_), token,
        std::forward<Arguments>(arguments));
  }

  Executor executor_;
  std::shared_ptr<detail::engine> home_;
  std::shared_ptr<detail::handle_state> handle_;
};

/// Maps a file on any executor.
using mapped_file = basic_mapped_file<>;

MAPIO_NAMESPACE_END

#endif  // MAPIO_MAPPED_FILE_HPP
