#ifndef MAPIO_DETAIL_OPERATION_HPP
#define MAPIO_DETAIL_OPERATION_HPP

#include <mapio/detail/config.hpp>
#include <mapio/detail/pin.hpp>
#include <mapio/mapping.hpp>
#include <mapio/options.hpp>
#include <mapio/region.hpp>

#include <asio/buffer.hpp>
#include <asio/cancellation_type.hpp>
#include <asio/execution_context.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <system_error>

MAPIO_NAMESPACE_BEGIN
namespace detail {

class chunk_reader;
class engine;
class file_copier;
class performer;
class shared_resource;

/// What all copies of a mapped_file share, open or not.
struct handle_state {
  std::shared_ptr<file_state> file() const {
    std::lock_guard lock(mutex_);
    return file_;
  }
  void file(std::shared_ptr<file_state> f) {
    std::lock_guard lock(mutex_);
    file_.swap(f);
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<file_state> file_;
};

/// What the caller asked for.
enum class verb : std::uint8_t {
  open,
  close,
  update,
  read,
  flush,
  flush_range,
  resize,
  prefetch,
  lock_pages,
  unlock_pages,
  view,
  next_chunk,
  copy_file,
  remove_file,
  wait_word,
  next_change
};

/// One call to the operating system: what an engine carries out.
enum class call : std::uint8_t {
  work,             // operation::work: a piece of core that may block
  write_file,       // pwrite until done
  read_file,        // pread until done
  fetch,            // have the pages of a short range read, into the cache alone
  sync,             // data, and the metadata needed to read it back; count 0 = the whole file,
                    // of which `length` bytes are mapped
  sync_name,        // a directory
  start_writeback,  // begin writing dirty pages
  announce,         // touch mtime, so that watchers see stores
  populate,         // fault pages in
  populate_write,   // fault pages in for storing
  allocate,         // extend by allocated blocks
  truncate,         // set the size
  pause,            // let `count` nanoseconds pass
  wait_word,        // until the word at `address` is woken or is not `at`, or for no reason
};

/// An awaited verb, or a call that serves several of them, on its way through core and engine.
///
/// Exactly one place owns it at any time: the initiating function, a wait list of the file, or an
/// engine. An engine hands it back through `done`; core delivers it to the handler through
/// `complete`, or frees it unheard through `destroy`.
struct operation {
  enum class delivery : std::uint8_t { post, dispatch, immediate };

  operation() = default;
  operation(const operation&) = delete;
  operation& operator=(const operation&) = delete;

  void (*work)(operation*) noexcept = nullptr;  // call::work
  // Asked right before the call is made; true: there is none, and `error` says why. Calls of one
  // batch, if that is not 0, are made at the same time.
  bool (*is_refused)(operation*, std::uint64_t batch) noexcept = nullptr;
  void (*done)(operation*) noexcept =
      nullptr;  // `what` was carried out; see `error`, `transferred`, `dropped`
  // Before it is outstanding: keeps the handler's context at work until it is delivered. False:
  // there is no memory for that.
  bool (*hold)(operation*) noexcept = nullptr;
  void (*complete)(operation*, delivery) = nullptr;  // delivers and frees
  void (*destroy)(operation*) noexcept = nullptr;    // frees without delivering

  verb kind{};
  call what = call::work;
  bool dropped = false;     // the engine shut down before carrying it out
  bool enrolled = false;    // the engine knows it as outstanding
  bool may_wait = false;    // even where the OS is told that it must not
  bool leads = false;       // an update: others wait to be stored behind it,
  bool has_waited = false;  // or it waited so for one that made nothing ready,
  bool is_alone = false;    // or must not wait any more
  bool flag =
      false;  // flush: durability::started; resize: to the size that it has; else: the whole file
  std::atomic<std::uint8_t> place{0};  // the backend's own: queued, running
  std::uint8_t step = 0;               // core's own: how far a verb of several calls has come
  std::atomic<bool> cancel_requested{false};
  std::atomic<bool> is_final{
      false};  // what it is doing must be done to the end: a close, taking a change back

  std::uint64_t offset = 0;  // what the caller asked for
  std::uint64_t length = 0;
  std::uint64_t at = 0;  // what the call is about
  std::uint64_t count = 0;
  native_handle_type handle{};
  std::byte* address = nullptr;                 // in the mapping, for calls that need it
  const asio::const_buffer* buffers = nullptr;  // of a read they are mutable underneath
  std::size_t buffer_count = 0;

  std::error_code error;
  std::uint64_t transferred = 0;
  std::uint32_t failures_seen = 0;  // syncs of the file that had failed when it began to write
  std::uint32_t syncs_seen = 0;     // those that had begun when it began to make pages ready

  std::shared_ptr<file_state> file;
  std::shared_ptr<engine>
      home;  // the engine of the initiating executor's context; null for a blocking call
  performer* runner =
      nullptr;  // who carries out its calls: the engine, or the blocked thread itself
  std::shared_ptr<handle_state> owner;  // whose cancel() ends it; null if it is about no open file
  pin range;                            // what must stay in place meanwhile
  shared_resource* use = nullptr;       // what must stay open or mapped meanwhile

  operation* next = nullptr;  // in the list of its place
  operation* previous_enrolled = nullptr;
  operation* next_enrolled = nullptr;
  std::atomic<std::uint32_t> handover{
      0};  // makes the kernel's hand-over visible to ThreadSanitizer

 protected:
  ~operation() = default;
};

struct open_operation : operation {
  std::filesystem::path path;
  open_options options;
  std::shared_ptr<file_state> opened;
};

struct copy_operation : operation {
  std::filesystem::path from;
  std::filesystem::path to;
  copy_file_options options;
  std::shared_ptr<file_copier> copier;  // once it has begun
};

struct remove_operation : operation {
  std::filesystem::path path;
};

struct view_operation : operation {
  region result;
};

struct chunk_operation : view_operation {
  std::shared_ptr<chunk_reader> reader;
};

/// Connects a cancellation slot, in which it lies, to an operation that may complete on another
/// thread at the same moment. Either may go first: the other is then told.
class cancel_link {
 public:
  /// `end` is the operation's pointer to this.
  MAPIO_DECL cancel_link(operation& op, std::atomic<cancel_link*>& end) noexcept;
  MAPIO_DECL ~cancel_link();
  cancel_link(const cancel_link&) = delete;
  cancel_link& operator=(const cancel_link&) = delete;

  /// Ends the link from the side of the operation, which may be freed then.
  static void cut(operation& op, std::atomic<cancel_link*>& end) noexcept {
    // Null: never connected, or the slot has moved on.
    if (end.load(std::memory_order_acquire) != nullptr) cut_connected(op, end);
  }

 private:
  friend MAPIO_DECL void cancel(cancel_link& link, asio::cancellation_type_t type) noexcept;
  MAPIO_DECL static void cut_connected(operation& op, std::atomic<cancel_link*>& end) noexcept;

  // Guarded by a mutex that belongs to neither side, see mapped_file.cpp.
  operation* const key_;
  std::atomic<cancel_link*>* end_;
};

/// Makes what stands behind a chunk_stream.
MAPIO_DECL std::shared_ptr<chunk_reader> read_chunks(const std::shared_ptr<handle_state>& handle,
                                                     const std::shared_ptr<engine>& home,
                                                     std::uint64_t bytes, std::size_t readahead);
/// The result goes to its handler: the next chunk is the one behind it.
MAPIO_DECL void hand_over(chunk_operation& op) noexcept;
/// Ends the reading ahead, and a wait for it.
MAPIO_DECL void stop(chunk_reader& reader) noexcept;

/// Starts the verb. True: it is done already, and the caller delivers it. False: it will be
/// delivered.
MAPIO_DECL bool start(operation& op) noexcept;
/// Asks for an early end; does nothing where that is not possible any more.
MAPIO_DECL void cancel(cancel_link& link, asio::cancellation_type_t type) noexcept;
/// Cancels every outstanding operation of the handle.
MAPIO_DECL void cancel_all(const std::shared_ptr<handle_state>& handle,
                           const std::shared_ptr<engine>& home) noexcept;
/// Returns the engine service's engine of a context.
MAPIO_DECL std::shared_ptr<engine> engine_of(asio::execution_context& context);
MAPIO_DECL mapping mapping_of(const std::shared_ptr<file_state>& file) noexcept;
MAPIO_DECL std::shared_ptr<file_state> state_of(const mapping& m) noexcept;
MAPIO_DECL bool is_size_stale(const file_state& file) noexcept;

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_DETAIL_OPERATION_HPP
