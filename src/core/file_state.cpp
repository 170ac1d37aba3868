#include "file_state.hpp"

#include "chunk_reader.hpp"
#include "copy_window.hpp"
#include "engine.hpp"
#include "platform/guarded.hpp"
#include "platform/page_bounds.hpp"
#include "policy_clock.hpp"
#include "watch/watch_source.hpp"

#include <asio/error.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <new>
#include <thread>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace {

constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;
constexpr std::uint64_t gibibyte = std::uint64_t{1} << 30;

// What is copied on the loop at most; more goes off it even if it is at hand, since the copy itself
// takes its time.
constexpr std::uint64_t most_at_once = std::uint64_t{64} << 10;

// What is made ready at most for updates that follow one another.
constexpr std::uint64_t most_ahead = std::uint64_t{256} << 10;

// How long a page counts as dirty once the kernel has said so.
constexpr auto dirty_period = std::chrono::milliseconds(50);
// What one populate call brings in: small enough to be cancelled in between, large enough not to
// cost more for it.
constexpr std::uint64_t populate_piece = 4 * mebibyte;
// Smaller files are read before a second mapping of them is made.
constexpr std::uint64_t least_read_in_large_pieces = 8 * mebibyte;
// Beyond any address space; keeps sums of offsets from overflowing.
constexpr std::uint64_t largest_size = std::uint64_t{1} << 47;

constexpr std::uint64_t no_end = std::numeric_limits<std::uint64_t>::max();

enum resize_step : std::uint8_t {
  asking_for_size,
  waiting_for_copies,
  cutting,
  growing,
  unlocking_the_cut,
  undoing,
  mapping_larger,
  mapping_more,
  waiting_to_move,
  waiting_to_map_anew,
  mapped_anew,
  withdrawn_from_its_turn
};

// Of those that say how the file is opened.
std::error_code check_opening(const open_options& options) noexcept {
  constexpr auto known = std::filesystem::perms::all;
  if (options.create > disposition::create_or_truncate ||
      (options.mode != access::read_write && options.create != disposition::open_existing) ||
      (options.permissions | known) != known)
    return make_error_code(std::errc::invalid_argument);
  return options.size > largest_size ? make_error_code(std::errc::file_too_large)
                                     : std::error_code();
}

// Of those that say what becomes of it then.
std::error_code check_mapping(const open_options& options) noexcept {
  if (options.mode > access::copy_on_write || options.touch > prefault::eager ||
      options.writes > write_path::file)
    return make_error_code(std::errc::invalid_argument);
  if (options.reserve > largest_size) return make_error_code(std::errc::file_too_large);
  using trigger = flush_policy::trigger;
  const trigger kind = options.policy.kind();
  if (kind != trigger::manual && kind != trigger::always && options.policy.threshold() == 0)
    return make_error_code(std::errc::invalid_argument);
  return {};
}

std::uint64_t automatic_capacity(std::uint64_t size) noexcept {
  const std::uint64_t generous = size > gibibyte ? 64 * gibibyte : 64 * size + gibibyte;
  return std::max(page_ceil(size),
                  page_floor(std::min({generous, 64 * gibibyte, platform::largest_reservation()})));
}

std::uint64_t wanted_capacity(const open_options& options, std::uint64_t size,
                              std::uint64_t huge_page) noexcept {
  if (huge_page != 0) return (size + huge_page - 1) / huge_page * huge_page;
  if (options.mode != access::read_write) return page_ceil(size);
  if (options.reserve != 0) return page_ceil(std::max(size, options.reserve));
  return automatic_capacity(size);
}

// Such a file gets them whole, whatever size is asked for.
std::error_code check_size(std::uint64_t size, std::uint64_t huge_page) noexcept {
  return huge_page != 0 && size % huge_page != 0 ? make_error_code(std::errc::invalid_argument)
                                                 : std::error_code();
}

// Takes less where the address space is limited, down to the size itself.
std::error_code map_at_most(native_handle_type file, const open_options& options,
                            std::uint64_t size, std::uint64_t capacity, extent*& result) noexcept {
  if (size > largest_size) return make_error_code(std::errc::file_too_large);
  for (;;) {
    const std::error_code error = extent::make(file, options.mode, size, capacity, result);
    if (!error) break;
    if (capacity <= page_ceil(size) || !platform::is_out_of_address_space(error)) return error;
    capacity = std::max(page_ceil(size), page_floor(capacity / 2));
  }
  // A wish: who is refused has the pages that everybody has, and file_stats says so.
  if (options.huge_pages && capacity != 0)
    static_cast<void>(platform::advise(result->base(), capacity, advice::huge_pages));
  return {};
}

// Of one that has another call to make: nobody carries that out, or nobody wants it.
bool is_given_up(const operation& op) noexcept {
  return op.dropped || op.error == asio::error::operation_aborted ||
         op.cancel_requested.load(std::memory_order_relaxed);
}

// Of one that a close comes before. Who awaits it is told as of a cancellation.
std::error_code overtaken_by_close(const operation& op) noexcept {
  return op.home ? make_error_code(asio::error::operation_aborted) : errc::not_open;
}

// Of a copy that was made on its behalf, maybe after a close.
std::error_code verdict_on_copy(const operation& op, failure why) noexcept {
  return why == errc::not_open ? overtaken_by_close(op) : error_of(why);
}

void wait_a_little() {
  std::this_thread::sleep_for(std::chrono::microseconds(50));
}

/// A relative path counts from the working directory of now.
std::filesystem::path place_of(const std::filesystem::path& path) {
  if (path.empty()) return path;
  std::error_code error;
  std::filesystem::path place = std::filesystem::absolute(path, error);
  return error ? path : place;
}

}  // namespace

// --- opening and closing
// ---------------------------------------------------------------------------------------------------

file_state::file_state(const std::filesystem::path& path, const open_options& options,
                       const platform::opened_file& file, extent& mapped)
    : path_(path), place_(place_of(path)), options_(options), zeroes_tail_(file.zeroes_tail),
      medium_(file.medium), hides_residency_(file.hides_residency), huge_page_(file.huge_page),
      may_write_through_(
          options.mode == access::read_write &&
          (options.writes == write_path::file ||
           (options.writes == write_path::automatic && file.medium == mapio::medium::local))),
      directory_error_(file.directory_error), file_(nullptr), current_(&mapped), size_(file.size),
      flushes_(*this, mutex_, file.created.empty(),
               file.directory != platform::no_handle || file.directory_error, file.size) {
  file_ = new shared_handle(file.file);
  if (options.mode == access::read_write) {
    const native_handle_type second = platform::open_again(file.file, path);
    if (second != platform::no_handle) {
      second_file_ = new (std::nothrow) shared_handle(second);
      if (second_file_ == nullptr) platform::close(second);
    }
  }
  if (file.directory != platform::no_handle) {
    directory_ = new (std::nothrow) shared_handle(file.directory);
    if (directory_ == nullptr) {
      platform::close(file.directory);
      directory_error_ = make_error_code(std::errc::not_enough_memory);
    }
  }
}

file_state::~file_state() {
  if (!closed_.load(std::memory_order_relaxed)) {
    stop_policy();
    shut_ = current_.exchange(nullptr);
    let_go_of_mapping(false);
  }
  for (extent* e : retired_)
    e->drop();
  shut_->drop();
  file_->drop();
  for (shared_handle* also : {second_file_, directory_})
    if (also != nullptr) also->drop();
}

std::error_code file_state::open(const std::filesystem::path& path, const open_options& options,
                                 std::shared_ptr<file_state>& result) noexcept try {
  if (std::error_code error = check_opening(options)) return error;
  if (std::error_code error = check_mapping(options)) return error;
  platform::guard_faults();
  platform::opened_file file;
  if (std::error_code error = platform::open(path, options, file)) return error;
  const bool starts_over =
      options.create == disposition::create_or_truncate && file.created.empty();
  const std::uint64_t old_size = file.size;
  if (starts_over) file.size = options.size;
  extent* mapped = nullptr;
  std::error_code error;
  if (starts_over || !file.created.empty()) error = check_size(file.size, file.huge_page);
  const bool starts_before_mapping = starts_over && !platform::mappings_are_free;
  if (!error && starts_before_mapping) error = platform::start_over(file.file, old_size, options);
  if (!error)
    error = map_at_most(file.file, options, file.size,
                        wanted_capacity(options, file.size, file.huge_page), mapped);
  if (!error) {
    try {
      result = std::make_shared<file_state>(path, options, file, *mapped);
    } catch (const std::bad_alloc&) {
      mapped->release(true);
      mapped->drop();
      error = make_error_code(std::errc::not_enough_memory);
    }
  }
  if (error) {
    if (!file.created.empty()) platform::remove_created(file.file, file.created);
    platform::close(file.file);
    if (file.directory != platform::no_handle) platform::close(file.directory);
    return error;
  }
  mapped->notify_on_drop(result);
  error = result->start_policy();
  // When everything else is certain that can fail, but for what needs the bytes themselves.
  if (!error && starts_over && !starts_before_mapping)
    error = platform::start_over(file.file, old_size, options);
  if (!error) error = result->prefault_if_eager();
  if (error) {
    if (!file.created.empty()) platform::remove_created(file.file, file.created);
    result.reset();
  }
  return error;
} catch (const std::system_error& e) {
  return e.code();
} catch (...) {
  return make_error_code(std::errc::not_enough_memory);
}

std::error_code file_state::adopt(native_handle_type handle, const open_options& options,
                                  std::shared_ptr<file_state>& result) noexcept try {
  if (std::error_code error = check_mapping(options)) return error;
  platform::guard_faults();
  platform::opened_file file;
  if (std::error_code error = platform::inspect(handle, options, file)) return error;
  extent* mapped = nullptr;
  if (std::error_code error =
          map_at_most(file.file, options, file.size,
                      wanted_capacity(options, file.size, file.huge_page), mapped))
    return error;
  try {
    result = std::make_shared<file_state>(std::filesystem::path(), options, file, *mapped);
  } catch (...) {
    mapped->release(true);
    mapped->drop();
    throw;
  }
  mapped->notify_on_drop(result);
  // A policy's flush under way would be in the way of the release.
  std::error_code late = result->prefault_if_eager();
  if (!late) late = result->start_policy();
  if (late) {
    std::error_code ignored;                      // nobody else knows of the file
    static_cast<void>(result->release(ignored));  // still the caller's
    result.reset();
    return late;
  }
  return {};
} catch (const std::system_error& e) {
  return e.code();
} catch (...) {
  return make_error_code(std::errc::not_enough_memory);
}

std::error_code file_state::prefault_if_eager() noexcept {
  return options_.touch == prefault::eager ? prefetch(true, 0, 0) : std::error_code();
}

std::error_code file_state::shut(const operation* closing) noexcept {
  operation_list withdrawn;
  operation_list refused;
  operation* undone = nullptr;
  std::vector<std::weak_ptr<engine>> engines;
  {
    std::lock_guard lock(mutex_);
    if (closed_.load(std::memory_order_relaxed)) return errc::not_open;
    shut_ = current_.load(std::memory_order_relaxed);
    closed_.store(true, std::memory_order_release);
    current_.store(nullptr, std::memory_order_seq_cst);
    withdrawn = flushes_.withdraw_awaited();
    // The resize under way goes on unless it only waits; those behind it have not begun.
    if (std::exchange(resize_waits_for_pins_, false)) {
      if (larger_ != nullptr)
        undone = resize_under_way_;
      else
        resizes_.push_front(*std::exchange(resize_under_way_, nullptr));
    }
    while (operation* op = resizes_.pop())
      (op->home ? withdrawn : refused).push(*op);
    // Those who are blocked in a verb still have them helped.
    try {
      engines = engines_;
    } catch (const std::bad_alloc&) {
      // Nothing is cancelled there; it finishes by itself.
    }
  }
  stop_policy();
  if (undone != nullptr) undo_growth(*undone, overtaken_by_close(*undone));
  while (operation* op = withdrawn.pop()) {
    op->error = asio::error::operation_aborted;
    engine::end_withdrawn(*op, engine::withdrawal::from_file);
  }
  while (operation* op = refused.pop())
    finish(*op, errc::not_open);
  struct mark {
    const file_state* file;
    const operation* closing;
  } const mine{this, closing};
  for (const auto& weak : engines)
    if (auto home = weak.lock())
      home->cancel_if(
          [](const operation& op, const void* what) {
            const auto& m = *static_cast<const mark*>(what);
            return op.file.get() == m.file && &op != m.closing;
          },
          &mine);
  return {};
}

void file_state::let_go_of_mapping(bool here) noexcept {
  platform::heavy_barrier();
  while (is_being_copied(*shut_, 0, no_end))
    wait_a_little();
  shut_->orphan(here);
  file_->release(here);
  for (shared_handle* also : {second_file_, directory_})
    if (also != nullptr) also->release(here);
}

std::error_code file_state::close() noexcept {
  std::error_code verdict;
  if (follows_policy() && flushes_.owes_flush()) verdict = flush(true, 0, 0, durability::durable);
  if (!shut(nullptr)) let_go_of_mapping(false);
  return verdict == errc::not_open ? std::error_code() : verdict;
}

native_handle_type file_state::release(std::error_code& error) noexcept {
  extent* e = nullptr;
  native_handle_type handle = platform::no_handle;
  {
    std::lock_guard lock(mutex_);
    if (closed_.load(std::memory_order_relaxed)) {
      error = errc::not_open;
      return handle;
    }
    // First, since to these no current extent means that the file is closed.
    if (resize_under_way_ != nullptr || flushes_.is_busy()) {
      error = errc::pinned;
      return handle;
    }
    // Nobody can start anything while there is no current extent; who looks meanwhile tries again.
    e = current_.exchange(nullptr, std::memory_order_seq_cst);
    platform::heavy_barrier();
    const extent::pin_count pins = e->count_pins(0, false);
    if (pins.regions + pins.operations != 0 || is_being_copied(*e, 0, no_end) ||
        !file_->end_if_sole()) {
      current_.store(e, std::memory_order_seq_cst);
      error = errc::pinned;
      return handle;
    }
    shut_ = e;
    closed_.store(true, std::memory_order_release);
    handle = file_->detach();
  }
  stop_policy();
  e->orphan(false);
  for (shared_handle* also : {second_file_, directory_})
    if (also != nullptr) also->release();
  return handle;
}

bool file_state::start_close(operation& op) noexcept {
  op.is_final = true;
  if (follows_policy() && flushes_.owes_flush()) {
    if (!op.home->enroll(op)) return true;
    op.done = [](operation* self) noexcept {
      if (self->file->shut_and_let_go(*self)) finish(*self);
    };
    if (!flushes_.join(op, true)) return false;
    op.home->forget(op);
  }
  return shut_and_let_go(op);
}

// op.error is the verdict on what the policy owed. True: over at once.
bool file_state::shut_and_let_go(operation& op) noexcept {
  if (std::error_code error = shut(&op)) {
    if (!op.error || op.error == asio::error::operation_aborted) op.error = error;
    return true;
  }
  op.what = call::work;
  op.work = [](operation* self) noexcept { self->file->let_go_of_mapping(true); };
  op.done = [](operation* self) noexcept {
    if (self->dropped) self->file->let_go_of_mapping(true);
    finish(*self);
  };
  const std::error_code verdict = op.error;
  if (op.enrolled || op.home->enroll(op)) {
    op.runner->submit(op);
    return false;
  }
  let_go_of_mapping(true);
  op.error = verdict;
  return true;
}

void file_state::used_by(const std::shared_ptr<engine>& home) noexcept {
  if (last_engine_.load(std::memory_order_relaxed) == home->id()) return;
  std::lock_guard lock(mutex_);
  last_engine_.store(home->id(), std::memory_order_relaxed);
  file_->dispose_on(home);
  for (shared_handle* also : {second_file_, directory_})
    if (also != nullptr) also->dispose_on(home);
  if (extent* e = mapped()) e->dispose_on(home);
  std::erase_if(engines_, [](const auto& known) { return known.expired(); });
  for (const auto& known : engines_)
    if (known.lock() == home) return;
  try {
    engines_.push_back(home);
  } catch (const std::bad_alloc&) {
    // A close will then not cancel what runs there; it finishes by itself.
  }
}

bool file_state::help_engines() noexcept {
  // One at a time, by index: help() runs handlers' work and must not be called under the mutex. One
  // that moves up meanwhile is missed, and met the next time: where there was any, there is a next.
  bool any = false;
  for (std::size_t i = 0;; ++i) {
    std::shared_ptr<engine> known;
    {
      std::lock_guard lock(mutex_);
      if (i >= engines_.size()) return any;
      known = engines_[i].lock();
    }
    any = true;
    if (known) known->help();
  }
}

// --- questions
// -------------------------------------------------------------------------------------------------------------

std::uint64_t file_state::capacity() const noexcept {
  std::lock_guard lock(mutex_);
  const extent* e = mapped();
  return e != nullptr ? e->capacity() : 0;
}

std::uint64_t file_state::pending_bytes() const noexcept {
  std::lock_guard lock(mutex_);
  const extent* e = mapped();
  return e != nullptr ? e->dirty.count(0, size_.load(std::memory_order_relaxed)) * page_size() : 0;
}

file_stats file_state::stats() const noexcept {
  file_stats s;
  std::unique_lock lock(mutex_);
  flushes_.add_to(s);
  if (const extent* e = mapped() != nullptr ? mapped() : shut_)
    s.bytes_dirtied = e->dirty.marked() * page_size();
  s.stores = stores_.load(std::memory_order_relaxed);
  s.worker_stores = worker_stores_.load(std::memory_order_relaxed);
  s.file_writes = file_writes_.load(std::memory_order_relaxed);
  s.reads_at_once = reads_at_once_.load(std::memory_order_relaxed);
  s.reads_off_loop = reads_off_loop_.load(std::memory_order_relaxed);
  s.moves = moves_.load(std::memory_order_relaxed);
  s.page_faults = page_faults_.load(std::memory_order_relaxed);
  s.policy_flushes = policy_flushes_.load(std::memory_order_relaxed);
  s.medium = medium_;
  extent* const e = mapped();
  if (e == nullptr || !(options_.huge_pages || advice_.wants_huge_pages())) return s;
  // Takes long enough for nobody to wait for it.
  const std::uint64_t size = page_ceil(size_.load(std::memory_order_relaxed));
  e->retain();
  lock.unlock();
  s.huge_page_bytes = platform::count_huge(e->base(), size);
  e->release();
  return s;
}

failure file_state::check(std::uint64_t offset, std::uint64_t length) const noexcept {
  std::lock_guard lock(mutex_);
  const extent* e = mapped();
  if (e == nullptr) return errc::not_open;
  const std::uint64_t limit = e->limit.load(std::memory_order_relaxed);
  return offset > limit || length > limit - offset ? errc::out_of_range : no_failure;
}

// --- copies and pins
// -------------------------------------------------------------------------------------------------------

namespace {

// What of the bytes before a fault is of whole pages of the file: the copy also stops where a page
// of the memory on the other side ends.
std::size_t whole_pages(std::uint64_t offset, std::size_t done) noexcept {
  return done - std::min<std::size_t>(done, (offset + done) % page_size());
}

// After a fault of a read or write through the file. The kernel has another name for one on the
// other side, in another mapping say.
void count_like_a_copy(operation& op) noexcept {
  if (op.error == std::errc::bad_address) op.error = errc::page_fault;
  if (op.error == errc::page_fault)
    op.transferred = whole_pages(op.offset, static_cast<std::size_t>(op.transferred));
}

// Runs use(extent) with a copy window open over [offset, offset + n) of the current extent.
template <class Use>
failure with_window(const std::atomic<extent*>& current, const std::atomic<bool>& closed,
                    std::uint64_t offset, std::uint64_t n, Use use) noexcept {
  copy_window* const window = this_thread_window();
  if (window == nullptr) return out_of_memory;
  for (;;) {
    extent* const e = current.load(std::memory_order_acquire);
    if (e == nullptr) {
      if (closed.load(std::memory_order_acquire)) return errc::not_open;
      std::this_thread::yield();  // the mapping is moving
      continue;
    }
    const open_window open(*window, e, offset, offset + n);
    if (current.load(std::memory_order_seq_cst) != e) continue;
    const std::uint64_t limit = e->limit.load(std::memory_order_seq_cst);
    if (offset > limit || n > limit - offset) return errc::out_of_range;
    return use(*e);
  }
}

}  // namespace

void file_state::mark_stored(extent& e, std::uint64_t begin, std::uint64_t end,
                             std::uint32_t failures_seen) noexcept {
  e.stored.mark(begin, end);
  mark_dirty(e, begin, end, failures_seen);
}

void file_state::mark_dirty(extent& e, std::uint64_t begin, std::uint64_t end,
                            std::uint32_t failures_seen) noexcept {
  if (options_.mode != access::read_write) [[unlikely]]
    return;
  mark_written(e, begin, end, failures_seen);
  if (!e.unannounced.load(std::memory_order_relaxed)) [[unlikely]]
    e.unannounced.store(true, std::memory_order_relaxed);
}

// For a write through the file, of which the kernel tells watchers itself.
void file_state::mark_written(extent& e, std::uint64_t begin, std::uint64_t end,
                              std::uint32_t failures_seen) noexcept {
  e.dirty.mark(begin, end);
  if (flushes_.must_hear_of_writes(failures_seen)) [[unlikely]]
    flushes_.written(failures_seen, begin, end);
}

// Of the `done` bytes that were stored before the fault it leaves those of whole pages.
failure file_state::store_fault(extent& e, std::uint64_t offset, const void* bytes,
                                std::size_t& done, std::uint32_t failures_seen) noexcept {
  page_faults_.fetch_add(1, std::memory_order_relaxed);
  const std::uint64_t at = offset + done;
  const std::byte* const source = static_cast<const std::byte*>(bytes) + done;
  if (done != 0) mark_stored(e, offset, at, failures_seen);
  done = whole_pages(offset, done);
  if (options_.mode != access::read_write) return errc::page_fault;
  // The page may have been dirtied all the same.
  e.dirty.mark(page_floor(at), page_floor(at) + page_size());
  // What cannot be read was not refused by this file.
  std::byte unread;
  if (platform::guarded_copy(&unread, source, 1) != 1) return errc::page_fault;
  // Somebody may have cut the file and extended it again since: only what is refused again and
  // again is refused by a file that is long enough.
  constexpr int attempts = 12;
  for (int i = 0; i < attempts; ++i) {
    std::uint64_t real_size = 0;
    if (platform::file_size(file_->get(), real_size) || real_size <= at) return errc::page_fault;
    if (platform::guarded_copy(e.base() + at, source, 1) == 1) return errc::page_fault;
  }
  flushes_.store_refused(at, at + 1, errc::page_fault);
  return errc::page_fault;
}

constexpr std::uint64_t largest_folio = 512;  // pages

// Tells whether a store costs no more than a write through the file: the range is dirty, and what a
// write fault would dirty besides is little, or earned by the writes before. docs/performance.md
// has the measurements.
bool file_state::worth_storing(extent& e, std::uint64_t offset, std::uint64_t length) noexcept {
  constexpr std::uint64_t little = 3;  // pages
  if (medium_ == medium::volatile_memory) return true;
  const std::uint64_t page = page_size();
  std::uint64_t more = 0;
  // Folios are aligned to their size, and dirty or not as a whole. The page itself first: where the
  // kernel has written it since, nothing is known of its folio.
  constexpr std::array<std::uint64_t, 5> windows{1, 8, 32, 128, 512};
  for (const std::uint64_t window_pages : windows) {
    const std::uint64_t window = window_pages * page;
    const std::uint64_t begin = offset / window * window;
    const std::uint64_t end = (offset + length + window - 1) / window * window;
    const std::uint64_t pages = (end - begin) / page;
    platform::dirty_count count;
    const bool known = platform::count_dirty(file_->get(), begin, end - begin, count);
    const std::uint64_t dirty = count.dirty + count.in_writeback;
    if (!known || (window_pages == 1 && dirty < pages)) {
      more = largest_folio;
      break;
    }
    if (dirty < pages) break;
    more = pages - std::min(pages, e.dirty.count(begin, end));
  }
  if (more <= little) return true;
  std::uint64_t credit = e.credit.load(std::memory_order_relaxed);
  if (credit < more) {
    e.credit.fetch_add(1 + length / page, std::memory_order_relaxed);
    return false;
  }
  while (credit >= more &&
         !e.credit.compare_exchange_weak(credit, credit - more, std::memory_order_relaxed)) {
  }
  return true;
}

// Writes through the file; less than `n` without a failure: the mapping knows what is wrong.
std::size_t file_state::write_through(std::uint64_t offset, const void* bytes, std::size_t n,
                                      failure& why) noexcept {
  extent* e = nullptr;
  const asio::const_buffer buffer(bytes, n);
  blocking_operation op;
  op.range = pin_range(offset, n, pin_slot::operation, e, why);
  if (why != no_failure) return 0;
  if (!use_file(op)) {
    why = errc::not_open;
    return 0;
  }
  std::uint64_t real_size = 0;
  // A write would silently extend a file that somebody cut meanwhile.
  if (!platform::file_size(op.handle, real_size) && real_size >= offset + n) {
    file_writes_.fetch_add(1, std::memory_order_relaxed);
    op.failures_seen = flushes_.failures();
    op.what = call::write_file;
    op.at = offset;
    op.count = n;
    op.buffers = &buffer;
    op.buffer_count = 1;
    platform::perform(op);
    if (op.transferred != 0) mark_written(*e, offset, offset + op.transferred, op.failures_seen);
  }
  let_go(op);
  return static_cast<std::size_t>(op.transferred);
}

std::size_t file_state::store(std::uint64_t offset, const void* bytes, std::size_t n,
                              failure& why) noexcept {
  if (options_.mode == access::read_only) {
    why = is_open() ? errc::read_only : errc::not_open;
    return 0;
  }
  if (follows_policy() && flushes_.is_poisoned()) [[unlikely]] {
    why = is_open() ? errc::flush_failed : errc::not_open;
    return 0;
  }
  const std::size_t done = may_write_through_ && n != 0 ? store_or_write(offset, bytes, n, why)
                                                        : store_mapped(offset, bytes, n, why);
  if (why == no_failure && follows_policy()) [[unlikely]]
    why = policy_due;
  return done;
}

std::size_t file_state::store_or_write(std::uint64_t offset, const void* bytes, std::size_t n,
                                       failure& why) noexcept {
  bool stored = false;
  std::size_t done = 0;
  why = with_window(current_, closed_, offset, n, [&](extent& e) {
    const bool was_stored = e.stored.all(offset, offset + n) && options_.writes != write_path::file;
    if (!was_stored) [[unlikely]] {
      if (options_.writes == write_path::file || !e.dirty.all(offset, offset + n) ||
          !worth_storing(e, offset, n))
        return no_failure;
    }
    stored = true;
    const std::uint32_t failures = flushes_.failures();
    done = platform::guarded_copy(e.base() + offset, bytes, n);
    if (done == n) [[likely]] {
      // The hint needs no second look: should a sync take it meanwhile, the next update goes
      // through the file.
      if (!was_stored) e.stored.mark(offset, offset + n);
      mark_dirty(e, offset, offset + n, failures);
      return no_failure;
    }
    return store_fault(e, offset, bytes, done, failures);
  });
  if (stored || why != no_failure) return done;
  done = write_through(offset, bytes, n, why);
  if (done == n || why != no_failure) return done;
  if (options_.writes == write_path::file) {
    why = errc::page_fault;
    return done;
  }
  // A store finds out what is wrong.
  return done +
         store_mapped(offset + done, static_cast<const std::byte*>(bytes) + done, n - done, why);
}

std::size_t file_state::store_mapped(std::uint64_t offset, const void* bytes, std::size_t n,
                                     failure& why) noexcept {
  std::size_t done = 0;
  why = with_window(current_, closed_, offset, n, [&](extent& e) {
    if (n == 0) return no_failure;
    const std::uint32_t failures = flushes_.failures();
    done = platform::guarded_copy(e.base() + offset, bytes, n);
    if (done == n) [[likely]] {
      mark_stored(e, offset, offset + n, failures);
      return no_failure;
    }
    return store_fault(e, offset, bytes, done, failures);
  });
  return done;
}

std::size_t file_state::load(std::uint64_t offset, void* bytes, std::size_t n,
                             failure& why) noexcept {
  std::size_t done = 0;
  why = with_window(current_, closed_, offset, n, [&](extent& e) {
    if (n == 0) return no_failure;
    done = platform::guarded_copy(bytes, e.base() + offset, n);
    if (done == n) return no_failure;
    done = whole_pages(offset, done);
    page_faults_.fetch_add(1, std::memory_order_relaxed);
    return errc::page_fault;
  });
  return done;
}

pin file_state::pin_range(std::uint64_t offset, std::uint64_t length, std::uint64_t flags,
                          extent*& where, failure& why) noexcept {
  for (;;) {
    extent* const e = current_.load(std::memory_order_acquire);
    if (e == nullptr) {
      if (!is_open()) {
        why = errc::not_open;
        return {};
      }
      std::this_thread::yield();  // the mapping is moving
      continue;
    }
    // Before there is a pin: the end of a writable one makes its pages dirty.
    std::uint64_t limit = e->limit.load(std::memory_order_relaxed);
    if (offset > limit || length > limit - offset) {
      why = errc::out_of_range;
      return {};
    }
    pin p = e->acquire(offset, offset + length, flags);
    if (!p && !e->is_orphaned()) {
      why = out_of_memory;
      return {};
    }
    if (!p || current_.load(std::memory_order_seq_cst) != e) continue;
    limit = e->limit.load(std::memory_order_seq_cst);
    if (offset > limit || length > limit - offset) {
      why = errc::out_of_range;
      return {};
    }
    where = e;
    return p;
  }
}

// --- policies
// ---------------------------------------------------------------------------------------------------------------

std::error_code file_state::start_policy() noexcept {
  if (!follows_policy() || options_.policy.kind() != flush_policy::trigger::interval) return {};
  const auto interval = std::min(options_.policy.threshold(), std::uint64_t{1} << 40);
  return policy_clock::add(weak_from_this(), std::chrono::milliseconds(interval));
}

void file_state::stop_policy() noexcept {
  if (follows_policy() && options_.policy.kind() == flush_policy::trigger::interval)
    policy_clock::remove(*this);
}

void file_state::count_update(std::uint64_t n) noexcept {
  counted_.fetch_add(options_.policy.kind() == flush_policy::trigger::bytes ? n : 1);
}

// Tells whether the policy wants a flush now; the caller then owes it one, and end_policy_flush().
bool file_state::wants_policy_flush() noexcept {
  const flush_policy::trigger kind = options_.policy.kind();
  if (kind != flush_policy::trigger::bytes && kind != flush_policy::trigger::writes) return false;
  return counted_.load() >= options_.policy.threshold() && begin_policy_flush();
}

// One at a time; what is written meanwhile counts for the next. In one total order with the
// counting: either this flush's end sees what was counted, or who counted sees that it has ended.
bool file_state::begin_policy_flush() noexcept {
  if (policy_flush_under_way_.exchange(true)) return false;
  counted_.store(0);
  policy_clears_.store(flushes_.clears(), std::memory_order_relaxed);
  policy_flushes_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void file_state::end_policy_flush(std::error_code error) noexcept {
  const std::uint32_t clears = policy_clears_.load(std::memory_order_relaxed);
  policy_flush_under_way_.exchange(false);
  // A close or a shutdown ends it without a verdict.
  if (error && error != errc::not_open && error != asio::error::operation_aborted)
    flushes_.policy_failed(error, clears);
}

std::error_code file_state::follow_policy(std::uint64_t offset, std::uint64_t n) noexcept {
  if (n == 0) return {};
  if (options_.policy.kind() == flush_policy::trigger::always)
    return flush(false, offset, n, durability::durable);
  count_update(n);
  while (wants_policy_flush())
    end_policy_flush(flush(true, 0, 0, durability::durable));
  return {};
}

void file_state::flush_by_policy(const std::shared_ptr<engine>& home, performer& runner) noexcept {
  struct policy_flush final : operation {};
  auto* op = new (std::nothrow) policy_flush;
  if (op == nullptr) return end_policy_flush({});  // the next update, or the clock, tries again
  op->kind = verb::flush;
  op->home = home;
  op->runner = &runner;
  op->file = shared_from_this();
  op->done = [](operation* self) noexcept { finish(*self); };
  op->complete = [](operation* self, operation::delivery) {
    const std::shared_ptr<file_state> file = std::move(self->file);
    const std::shared_ptr<engine> same_home = std::move(self->home);
    performer& same_runner = *self->runner;
    file->end_policy_flush(self->error);
    delete static_cast<policy_flush*>(self);
    if (file->wants_policy_flush()) file->flush_by_policy(same_home, same_runner);
  };
  op->destroy = [](operation* self) noexcept {
    self->file->end_policy_flush({});
    delete static_cast<policy_flush*>(self);
  };
  if (home && !home->enroll(*op)) return op->destroy(op);
  if (flushes_.join(*op, true)) finish(*op);
}

void file_state::policy_is_due(performer& clock) noexcept {
  if (!flushes_.is_poisoned() && flushes_.owes_flush() && begin_policy_flush())
    flush_by_policy(nullptr, clock);
}

// True: the update is over, else it waits for its sync.
bool file_state::end_update(operation& op) noexcept {
  if (op.error || !follows_policy()) return true;
  if (options_.policy.kind() != flush_policy::trigger::always) {
    count_update(op.length);
    if (wants_policy_flush()) flush_by_policy(op.home, *op.home);
    return true;
  }
  let_go(op);  // a shrink need not wait for the sync
  const bool enrolled_here = !op.enrolled;
  if (enrolled_here && !op.home->enroll(op)) return true;
  op.done = [](operation* self) noexcept { finish(*self); };
  if (!flushes_.join(op, false)) return false;
  if (op.error == errc::not_open) op.error = overtaken_by_close(op);
  if (enrolled_here) op.home->forget(op);
  return true;
}

// --- blocking verbs
// --------------------------------------------------------------------------------------------------------

std::error_code file_state::flush(bool whole_file, std::uint64_t offset, std::uint64_t length,
                                  durability level) noexcept {
  blocking_operation op;
  op.kind = whole_file ? verb::flush : verb::flush_range;
  op.done = [](operation* self) noexcept { finish(*self); };
  op.offset = offset;
  op.length = length;
  if (level == durability::durable) {
    if (!flushes_.join(op, whole_file)) op.wait(*this);
    return op.error;
  }
  if (!whole_file)
    if (const failure why = check(offset, length); why != no_failure) return why;
  if (!is_open()) return errc::not_open;
  if (mode() != access::read_write || (!whole_file && length == 0)) return {};
  op.what = call::start_writeback;
  op.at = offset;
  op.count = length;
  if (!use_file(op)) return errc::not_open;
  platform::perform(op);
  let_go(op);
  return op.error;
}

std::error_code file_state::resize(std::uint64_t new_size) noexcept {
  if (std::error_code error = check_resize(new_size)) return error;
  blocking_operation op;
  op.kind = verb::resize;
  op.length = new_size;
  op.file = shared_from_this();
  if (!start_resize(op)) op.wait(*this);
  return op.error;
}

std::error_code file_state::refresh(std::uint64_t& size_now) noexcept {
  blocking_operation op;
  op.kind = verb::resize;
  op.flag = true;
  op.file = shared_from_this();
  if (!start_resize(op)) op.wait(*this);
  size_now = op.transferred;
  return op.error;
}

std::error_code file_state::prefetch(bool whole_file, std::uint64_t offset,
                                     std::uint64_t length) noexcept {
  if (!is_open()) return errc::not_open;
  blocking_operation op;
  op.flag = whole_file;
  op.offset = offset;
  op.length = length;
  const extent* const e = pin_for(op);
  if (e == nullptr || op.length == 0) return op.error;
  op.what = call::populate;
  op.at = page_floor(offset);
  op.count = offset + op.length - op.at;
  op.address = e->base() + op.at;
  platform::perform(op);
  let_go(op);
  return op.error;
}

std::error_code file_state::change_lock(verb kind, bool whole_file, std::uint64_t offset,
                                        std::uint64_t length) noexcept {
  if (!is_open()) return errc::not_open;
  blocking_operation op;
  op.kind = kind;
  op.file = shared_from_this();
  op.flag = whole_file;
  op.offset = offset;
  op.length = length;
  if (pin_for(op) == nullptr || op.length == 0 || !use_file(op)) return op.error;
  carry_out_lock_change(&op);
  let_go(op);
  return op.error;
}

std::error_code file_state::is_resident(std::uint64_t offset, std::uint64_t length,
                                        bool& all) noexcept {
  all = false;
  extent* e = nullptr;
  failure why{};
  const pin p = pin_range(offset, length, pin_slot::operation, e, why);
  if (why != no_failure) return error_of(why);
  if (length == 0) {
    all = true;
    return {};
  }
  return is_in_memory(e->base() + offset, offset, length, all);
}

std::error_code file_state::is_in_memory(const std::byte* address, std::uint64_t offset,
                                         std::uint64_t length, bool& all) noexcept {
  if (!hides_residency_) return platform::resident(address, length, all);
  if (!file_->try_retain()) return errc::not_open;
  all = platform::is_cached(file_->get(), offset, length);
  file_->release();
  return {};
}

std::error_code file_state::advise(std::uint64_t offset, std::uint64_t length,
                                   advice what) noexcept {
  if (!is_open()) return errc::not_open;
  // It would take what was stored privately.
  if (what == advice::dont_need && mode() == access::copy_on_write) return errc::unsupported;
  extent* e = nullptr;
  failure why{};
  const pin held = pin_range(offset, length, pin_slot::operation, e, why);
  if (why != no_failure || length == 0) return error_of(why);
  const std::uint64_t begin = page_floor(offset);
  const std::uint64_t end = page_ceil(offset + length);
  const std::error_code error = advice_.advise(*e, begin, end, what);
  // A store into these pages costs a fault again.
  if (what == advice::dont_need || what == advice::cold) e->stored.clear(begin, end);
  return error;
}

std::error_code file_state::publish(std::uint64_t offset, std::uint64_t length) noexcept {
  if (!is_open()) return errc::not_open;
  if (mode() == access::read_only) return errc::read_only;
  // First: a sync that fails after this look is noticed when the pages are marked.
  const std::uint32_t failures = flushes_.failures();
  const bool counts = mode() == access::read_write && length != 0;
  const failure why = with_window(current_, closed_, offset, length, [&](extent& e) {
    if (!counts) return no_failure;
    if (flushes_.is_poisoned()) {
      // They may have been stored before the sync that failed, and gone with it.
      flushes_.lose(offset, offset + length);
      return errc::flush_failed;
    }
    mark_written(e, offset, offset + length, failures);
    return no_failure;
  });
  if (why == no_failure && counts && announces() && file_->try_retain()) {
    announce(*file_, nullptr);
    file_->release();
  }
  return error_of(why);
}

// --- awaited verbs
// ---------------------------------------------------------------------------------------------------------

bool file_state::start(operation& op) noexcept {
  switch (op.kind) {
  case verb::update:
    return start_update(op);
  case verb::read:
    return start_read(op);
  case verb::view:
    return start_view(static_cast<view_operation&>(op));
  case verb::next_chunk: {
    auto& chunk = static_cast<chunk_operation&>(op);
    return chunk.reader->start(chunk);
  }
  case verb::prefetch:
    return start_prefetch(op);
  case verb::lock_pages:
  case verb::unlock_pages:
    return start_lock_change(op);
  case verb::flush:
    return start_flush(op, true);
  case verb::flush_range:
    return start_flush(op, false);
  case verb::wait_word:
    return start_wait(op);
  case verb::resize:
    return start_resize(op);
  case verb::close:
    return start_close(op);
  // These are about no open file.
  case verb::open:
  case verb::copy_file:
  case verb::remove_file:
  case verb::next_change:
    break;
  }
  op.error = errc::unsupported;
  return true;
}

bool file_state::use_file(operation& op) noexcept {
  if (!file_->try_retain()) {
    op.error = errc::not_open;
    return false;
  }
  op.use = file_;
  op.handle = file_->get();
  // FUSE asks its server for attributes before it reads, whatever it is told.
  op.may_wait = medium_ == medium::unknown || medium_ == medium::network;
  return true;
}

// Pins what the verb is about; null: op.error says why not.
extent* file_state::pin_for(operation& op) noexcept {
  extent* e = nullptr;
  failure why{};
  do {
    if (op.flag) op.length = reach();
    why = no_failure;
    op.range = pin_range(op.offset, op.length, pin_slot::operation, e, why);
  } while (op.flag && why == errc::out_of_range);  // it was cut in between
  if (why != no_failure) op.error = error_of(why);
  return e;
}

// The kernel may have written a page since it was stored into, of its own accord, and taken it out
// of memory: the next store would wait for the disk. Nothing tells of that, and asking costs more
// than the store, so an answer holds for a while.
bool file_state::is_still_dirty(const extent& e, std::uint64_t offset,
                                std::uint64_t length) noexcept {
  const std::int64_t period = platform::coarse_time() / dirty_period;
  if (known_dirty_period_.load(std::memory_order_relaxed) != period) {
    known_dirty_.forget();
    known_dirty_period_.store(period, std::memory_order_relaxed);
  }
  const std::uint64_t end = offset + length;
  bool all = true;
  for (std::uint64_t at = offset; at < end && all; at = page_floor(at) + page_size())
    all = known_dirty_.holds(at);
  if (all) return true;
  const std::uint64_t begin = page_floor(offset);
  const std::uint64_t pages = (page_ceil(end) - begin) / page_size();
  platform::dirty_count count;
  if (medium_ == medium::volatile_memory ||
      !platform::count_dirty(file_->get(), begin, page_ceil(end) - begin, count)) {
    bool resident = false;
    if (!is_in_memory(e.base() + offset, offset, length, resident) && !resident) return false;
  } else if (count.dirty < pages) {
    return false;
  }
  know_dirty(offset, length);
  return true;
}

void file_state::know_dirty(std::uint64_t offset, std::uint64_t length) noexcept {
  for (std::uint64_t at = offset; at < offset + length; at = page_floor(at) + page_size())
    known_dirty_.add(at);
}

bool file_state::may_store_at_once(const operation& op) const noexcept {
  return options_.mode == access::read_write && options_.writes != write_path::file &&
         op.length <= most_at_once;
}

// Where the range is pinned, or a window is open on it.
failure file_state::store_buffers(extent& e, operation& op) noexcept {
  const std::uint32_t failures = flushes_.failures();
  for (std::size_t i = 0; i < op.buffer_count; ++i) {
    const asio::const_buffer& b = op.buffers[i];
    const std::uint64_t at = op.offset + op.transferred;
    std::size_t done = platform::guarded_copy(e.base() + at, b.data(), b.size());
    if (done != b.size()) {
      if (op.transferred != 0) mark_stored(e, op.offset, at, failures);
      const failure fault = store_fault(e, at, b.data(), done, failures);
      op.transferred += done;
      return fault;
    }
    op.transferred += done;
  }
  mark_stored(e, op.offset, op.offset + op.length, failures);
  return no_failure;
}

// True: it is over.
bool file_state::store_at_once(operation& op) noexcept {
  bool stored = false;
  const auto store = [&](extent& e) {
    if (!e.stored.all(op.offset, op.offset + op.length)) return no_failure;
    if (!is_still_dirty(e, op.offset, op.length)) {
      e.stored.clear(page_floor(op.offset), page_ceil(op.offset + op.length));
      runs_.begin_anew(op.offset, op.length);
      return no_failure;
    }
    stored = true;
    stores_.fetch_add(1, std::memory_order_relaxed);
    return store_buffers(e, op);
  };
  const failure why = op.range ? with_pinned(op, store)
                               : with_window(current_, closed_, op.offset, op.length, store);
  if (why != no_failure) op.error = error_of(why);
  return stored || why != no_failure;
}

// A cut waits for pins, and what came before it happens.
template <class Use>
failure file_state::with_pinned(const operation& op, Use use) noexcept {
  if (closed_.load(std::memory_order_acquire)) return errc::not_open;
  return use(*op.range.owner());
}

void file_state::store_all(operation* op) noexcept {
  file_state& file = *op->file;
  file.worker_stores_.fetch_add(1, std::memory_order_relaxed);
  const failure why = file.with_pinned(*op, [&](extent& e) { return file.store_buffers(e, *op); });
  op->error = verdict_on_copy(*op, why);
  if (!op->error && op->length <= most_at_once) file.know_dirty(op->offset, op->length);
}

bool file_state::start_update(operation& op) noexcept {
  if (options_.mode == access::read_only) {
    op.error = errc::read_only;
    return true;
  }
  if (follows_policy() && flushes_.is_poisoned()) {
    op.error = errc::flush_failed;
    return true;
  }
  if (op.length == 0) {
    op.error = error_of(check(op.offset, 0));
    return true;
  }
  if (may_store_at_once(op)) {
    runs_.note(op.offset, op.length);
    if (store_at_once(op)) return end_update(op);
  }
  if (pin_for(op) == nullptr || !use_file(op)) return true;
  if (!op.home->enroll(op)) return true;
  update_off_loop(op);
  return false;
}

// For an operation that is pinned and enrolled.
void file_state::update_off_loop(operation& op) noexcept {
  extent& e = *op.range.owner();
  const std::uint64_t end = op.offset + op.length;
  const bool may_store = may_store_at_once(op);
  const update_runs::place place = may_store ? runs_.find(op.offset) : update_runs::place();
  const bool has_company = may_store && !op.is_alone && may_make_ready();
  if (has_company && follow(op, place)) return;
  const std::uint64_t ready = has_company ? ready_end(e, op, place.before) : 0;
  if (ready != 0 && lead(op, place.run, ready, false)) {
    make_ready_ahead(op, ready);
  } else if (ready != 0 && follow(op, place)) {
    return;  // Another thread's came first.
  } else if (may_store && options_.writes != write_path::mapped && e.dirty.all(op.offset, end) &&
             worth_storing(e, op.offset, op.length)) {
    if (has_company) lead(op, place.run, page_ceil(end), false);
    make_ready(op);
  } else {
    const bool may_lead = has_company && place.before != 0 && !op.has_waited;
    if (may_lead && !lead(op, place.run, page_ceil(end), true) && follow(op, place)) return;
    go_off_loop(op);
  }
  op.runner->submit(op);
}

// Of updates of one context that go on from one another, and are under way at the same time, one
// goes off the loop. The others follow it: they wait, and are stored when it is over. Those further
// away than this would wait for too many of them.
constexpr std::uint64_t most_followed = 16 * most_ahead;

bool file_state::may_make_ready() const noexcept {
  // A page that is dirty is written as a whole: over what somebody wrote on another machine.
  return (medium_ == medium::local || medium_ == medium::volatile_memory) &&
         can_make_ready_.load(std::memory_order_relaxed);
}

// True: others follow until end_lead().
bool file_state::lead(operation& op, unsigned run, std::uint64_t end, bool by_writing) noexcept {
  std::lock_guard lock(mutex_);
  update_lead& l = leads_[run];
  if (l.by != nullptr) return false;
  op.leads = true;
  l.by = &op;
  l.home = op.home.get();
  l.begin = page_floor(op.offset);
  l.end = end;
  l.by_writing = by_writing;
  leading_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

operation_list file_state::end_lead(operation& op) noexcept {
  if (!std::exchange(op.leads, false)) return {};
  std::lock_guard lock(mutex_);
  update_lead& l = *std::find_if(leads_.begin(), leads_.end(),
                                 [&op](const update_lead& it) { return it.by == &op; });
  l.by = nullptr;
  leading_.fetch_sub(1, std::memory_order_relaxed);
  return std::move(l.followers);
}

// Waits for an update that leads, where that makes its pages ready, or will as it goes on. One that
// writes through the file makes nothing ready itself: who has waited for it does not wait for the
// next such. Nor does one wait for another context, whose loop may not run.
bool file_state::follow(operation& op, const update_runs::place& place) noexcept {
  if (leading_.load(std::memory_order_relaxed) == 0) return false;
  const std::uint64_t end = op.offset + op.length;
  std::lock_guard lock(mutex_);
  const auto covers = [&](const update_lead& l) {
    return l.by != nullptr && l.home == op.home.get() && !l.by_writing && op.offset >= l.begin &&
           end <= l.end;
  };
  update_lead* l = std::find_if(leads_.begin(), leads_.end(), covers);
  if (l == leads_.end()) {
    l = &leads_[place.run];
    const bool is_near = op.offset < l->end + most_followed && end + most_followed > l->begin;
    if (place.before == 0 || l->by == nullptr || l->home != op.home.get() || !is_near ||
        (l->by_writing && op.has_waited))
      return false;
  }
  op.has_waited = l->by_writing;
  op.done = [](operation* self) noexcept {
    if (is_given_up(*self)) return finish(*self, asio::error::operation_aborted);
    if (!self->file->store_at_once(*self)) return self->file->update_off_loop(*self);
    if (self->error == errc::not_open) self->error = overtaken_by_close(*self);
    finish_update(*self);
  };
  l->followers.push(op);
  return true;
}

namespace {

// What failed for the one that they followed may fail for each: not one after the other.
operation_list each_alone(operation_list followers) noexcept {
  for (operation* it = followers.front(); it != nullptr; it = it->next)
    it->is_alone = true;
  return followers;
}

}  // namespace

// Of one that was not over at once. What the policy asks for is still to be done.
void file_state::finish_update(operation& op) noexcept {
  const std::shared_ptr<file_state> file = op.file;
  operation_list followers = file->end_lead(op);
  if (op.error && op.error != asio::error::operation_aborted)
    followers = each_alone(std::move(followers));
  if (op.dropped || file->end_update(op)) finish(op);
  continue_all(std::move(followers));
}

void file_state::give_up_update(operation& op) noexcept {
  op.error = asio::error::operation_aborted;
  finish_update(op);
}

// Has one update written where its pages are not ready for stores.
void file_state::go_off_loop(operation& op) noexcept {
  if (options_.mode == access::copy_on_write || options_.writes == write_path::mapped)
    return store_awaited(op);
  file_writes_.fetch_add(1, std::memory_order_relaxed);
  if (!fetch_for_writing(op)) write_awaited(op);
}

// Returns up to where to make pages ready for the updates that are to be expected behind this one,
// or 0: for as many bytes as the run has written and the disk does not have, so that the next sync
// writes at most twice what was updated.
std::uint64_t file_state::ready_end(extent& e, const operation& op, std::uint64_t run) noexcept {
  const std::uint64_t page = page_size();
  const std::uint64_t end = op.offset + op.length;
  std::uint64_t ahead = std::min(run, most_ahead);
  std::uint64_t most_end = page_ceil(e.limit.load(std::memory_order_relaxed));
  if (run < page) return 0;
  if (medium_ == medium::local && options_.writes != write_path::mapped) {
    // Where folios are large the pages behind tell of it: not beyond where one may begin.
    const std::uint64_t window = largest_folio * page;
    const std::uint64_t begin = (op.offset - 1) / window * window;
    most_end = std::min(most_end, begin + window);
    platform::dirty_count count;
    if (platform::count_dirty(file_->get(), begin, window, count)) {
      const std::uint64_t ours = e.dirty.count(begin, begin + window);
      const std::uint64_t more = count.dirty - std::min(count.dirty, ours);
      if (more > run / page) return 0;
      // The kernel may have written the rest by itself.
      ahead = std::min(ahead, count.dirty * page);
    } else if (largest_folio > run / page) {
      return 0;
    }
  }
  const std::uint64_t ready = std::min(page_ceil(end + ahead), most_end);
  return ahead >= page && ready > page_ceil(end) ? ready : 0;
}

namespace {

// The pages of an update, and those behind them up to `end`.
void populate_for_storing(operation& op, std::uint64_t end) noexcept {
  op.what = call::populate_write;
  op.at = page_floor(op.offset);
  op.count = end - op.at;
  op.address = op.range.owner()->base() + op.at;
}

}  // namespace

// Brings the pages of an update in, writable; then stores.
void file_state::make_ready(operation& op) noexcept {
  populate_for_storing(op, op.offset + op.length);
  op.is_refused = is_refused;
  op.work = store_all;
  op.done = [](operation* self) noexcept {
    if (self->what == call::populate_write && !self->dropped) {
      if (self->error == std::errc::invalid_argument) {
        // Before Linux 5.14 a worker stores, and takes the fault.
        self->error = {};
        self->what = call::work;
        self->runner->submit(*self);
        return;
      }
      if (self->error && !is_given_up(*self)) return write_instead(*self);
      if (!self->error) store_all(self);
    }
    finish_update(*self);
  };
}

// Pages cannot be made ready: a write through the file tells what is wrong, if it is about the
// update's own pages at all.
void file_state::write_instead(operation& op) noexcept {
  operation_list followers = each_alone(op.file->end_lead(op));
  op.error = {};
  op.file->go_off_loop(op);
  op.runner->submit(op);
  continue_all(std::move(followers));
}

// The same for an update that others are expected behind, and for pages up to `end`.
void file_state::make_ready_ahead(operation& op, std::uint64_t end) noexcept {
  populate_for_storing(op, end);
  op.syncs_seen = runs_.syncs();
  op.done = [](operation* self) noexcept {
    file_state& file = *self->file;
    if (is_given_up(*self)) return give_up_update(*self);
    if (self->error) {
      // Linux before 5.14, and Windows, make nothing ready that is not stored into.
      if (self->error == std::errc::invalid_argument)
        file.can_make_ready_.store(false, std::memory_order_relaxed);
      return write_instead(*self);
    }
    store_all(self);
    if (!self->error && file.runs_.syncs() == self->syncs_seen) {
      extent& ext = *self->range.owner();
      ext.stored.mark(self->at, self->at + self->count);
      file.know_dirty(self->at, self->count);
      // One that has begun since makes the pages clean, and may have cleared the marks before.
      std::atomic_thread_fence(std::memory_order_seq_cst);
      if (file.runs_.syncs() != self->syncs_seen)
        ext.stored.clear(self->at, self->at + self->count);
    }
    finish_update(*self);
  };
}

// A worker stores, and takes the faults.
void file_state::store_awaited(operation& op) noexcept {
  op.is_refused = nullptr;
  op.what = call::work;
  op.work = store_all;
  op.done = [](operation* self) noexcept { finish_update(*self); };
}

// A write to a part of a page that is not in memory reads the page, and keeps every other write to
// the file waiting meanwhile. Reading it before that can be done for many at a time.
bool file_state::fetch_for_writing(operation& op) noexcept {
  if (medium_ != medium::local) return false;
  const std::uint64_t end = op.offset + op.length;
  const std::uint64_t first = page_floor(op.offset);
  const std::uint64_t last = page_floor(end);
  while (op.step < 2) {
    const bool at_front = op.step++ == 0;
    const bool in_part =
        at_front ? op.offset != first || end - first < page_size() : end != last && last != first;
    const std::uint64_t at = at_front ? first : last;
    if (!in_part || recent_.holds(at) || op.range.owner()->dirty.any(at, at + 1)) continue;
    op.what = call::fetch;
    op.at = at;
    op.count = 1;
    op.done = [](operation* self) noexcept {
      if (is_given_up(*self)) return give_up_update(*self);
      // What is wrong with the page is for the write to find out.
      self->error = {};
      self->file->recent_.add(self->at);
      if (!self->file->fetch_for_writing(*self)) self->file->write_awaited(*self);
      self->runner->submit(*self);
    };
    return true;
  }
  return false;
}

void file_state::write_awaited(operation& op) noexcept {
  op.is_refused = is_refused;
  op.failures_seen = flushes_.failures();
  op.what = call::write_file;
  op.at = op.offset;
  op.count = op.length;
  op.done = [](operation* self) noexcept {
    file_state& file = *self->file;
    if (self->error == std::errc::file_too_large && self->transferred == 0 &&
        file.options_.writes != write_path::file &&
        !self->cancel_requested.load(std::memory_order_relaxed)) {
      // The limit for the size of files is below that of this one. It is none for stores.
      self->error = {};
      file.store_awaited(*self);
      return self->runner->submit(*self);
    }
    if (self->transferred != 0) {
      const std::uint64_t end = self->offset + self->transferred;
      file.mark_written(*self->range.owner(), self->offset, end, self->failures_seen);
      file.recent_.add(self->offset);
      file.recent_.add(end - 1);
    }
    count_like_a_copy(*self);
    finish_update(*self);
  };
}

// A write would silently extend a file that somebody cut meanwhile; a store there is a fault. One
// beyond the process's limit would end the process. The looks cost as much as half the update
// around them, so one of each does for all that is submitted at once.
bool file_state::is_refused(operation* op, std::uint64_t batch) noexcept {
  file_state& file = *op->file;
  const std::uint64_t end = op->offset + op->length;
  {
    // Another ring's looks must not come between this one's and their use.
    std::lock_guard lock(file.refusal_mutex_);
    if (batch == 0 || file.refusal_batch_ != batch) {
      // What the server of a network has is not known here.
      if (file.medium_ == medium::network || platform::file_size(op->handle, file.real_size_))
        file.real_size_ = no_end;
      file.largest_file_ = platform::largest_file();
      file.refusal_batch_ = batch;
    }
    if (op->what == call::write_file && end > file.largest_file_) {
      op->error = make_error_code(std::errc::file_too_large);
      return true;
    }
    if (end <= file.real_size_) return false;
  }
  file.page_faults_.fetch_add(1, std::memory_order_relaxed);
  op->error = errc::page_fault;
  return true;
}

bool file_state::start_read(operation& op) noexcept {
  if (op.length == 0) {
    op.error = error_of(check(op.offset, 0));
    return true;
  }
  const extent* const e = pin_for(op);
  if (e == nullptr || !use_file(op)) return true;
  const auto copy = [](operation* self) noexcept {
    failure why{};
    for (std::size_t i = 0; i < self->buffer_count && why == no_failure; ++i)
      self->transferred += self->file->load(self->offset + self->transferred,
                                            const_cast<void*>(self->buffers[i].data()),
                                            self->buffers[i].size(), why);
    self->error = verdict_on_copy(*self, why);
  };
  bool resident = false;
  if (op.length <= most_at_once &&
      !is_in_memory(e->base() + op.offset, op.offset, op.length, resident) && resident) {
    reads_at_once_.fetch_add(1, std::memory_order_relaxed);
    copy(&op);
    return true;
  }
  reads_off_loop_.fetch_add(1, std::memory_order_relaxed);
  if (options_.mode == access::copy_on_write) {
    op.what = call::work;
    op.work = copy;
    op.done = [](operation* self) noexcept { finish(*self); };
    return submit(op);
  }
  op.what = call::read_file;
  op.at = op.offset;
  op.count = op.length;
  op.done = [](operation* self) noexcept {
    if (!self->error && self->transferred < self->length) self->error = errc::page_fault;
    count_like_a_copy(*self);
    finish(*self);
  };
  return submit(op);
}

// Brings the next piece of [offset, offset + length) in; op.transferred counts what is there
// already.
void file_state::populate_next(operation& op) noexcept {
  op.what = call::populate;
  op.at = page_floor(op.offset + op.transferred);
  op.count = std::min(populate_piece, op.offset + op.length - op.at);
  std::byte* const reading =
      op.step == reading_in_order ? op.range.owner()->reading_address(op.at, op.count) : nullptr;
  if (reading == nullptr) return populate_mapped(op);
  // The disk is read by way of the other mapping, after which this one costs no reading. What goes
  // wrong with it shows here.
  op.address = reading;
  op.done = [](operation* self) noexcept {
    if (is_given_up(*self)) return finish(*self, asio::error::operation_aborted);
    self->error = {};
    self->file->populate_mapped(*self);
    self->runner->submit(*self);
  };
}

void file_state::populate_mapped(operation& op) noexcept {
  op.address = op.range ? op.range.owner()->base() + op.at
                        : const_cast<std::byte*>(static_cast<view_operation&>(op).result.data()) +
                              op.at - op.offset;
  op.done = [](operation* self) noexcept {
    if (!self->error) {
      self->transferred = self->at + self->count - self->offset;
      if (self->transferred < self->length) {
        if (!self->cancel_requested.load(std::memory_order_relaxed) && !self->dropped) {
          self->file->populate_next(*self);
          self->runner->submit(*self);
          return;
        }
        self->error = asio::error::operation_aborted;
      }
    }
    if (self->error && self->kind != verb::prefetch)
      static_cast<view_operation*>(self)->result = region();
    finish(*self);
  };
}

bool file_state::start_prefetch(operation& op) noexcept {
  if (pin_for(op) == nullptr || op.length == 0) return true;
  const std::uint64_t size = page_ceil(size_.load(std::memory_order_relaxed));
  if (op.step == reading_in_order && medium_ == medium::local &&
      size >= least_read_in_large_pieces && op.range.owner()->wants_to_be_mapped_for_reading()) {
    if (!use_file(op)) return true;
    op.what = call::work;
    op.count = size;
    op.work = [](operation* self) noexcept {
      self->range.owner()->map_for_reading(self->handle, self->count);
    };
    op.done = [](operation* self) noexcept {
      if (is_given_up(*self)) return finish(*self, asio::error::operation_aborted);
      self->file->populate_next(*self);
      self->runner->submit(*self);
    };
    return submit(op);
  }
  populate_next(op);
  return submit(op);
}

bool file_state::start_lock_change(operation& op) noexcept {
  if (pin_for(op) == nullptr || op.length == 0) return true;
  op.what = call::work;
  op.work = carry_out_lock_change;
  op.done = [](operation* self) noexcept { finish(*self); };
  return submit(op);
}

void file_state::carry_out_lock_change(operation* op) noexcept {
  file_state& file = *op->file;
  const extent& e = *op->range.owner();
  const std::uint64_t begin = page_floor(op->offset);
  const std::uint64_t end = page_ceil(op->offset + op->length);
  if (op->kind == verb::unlock_pages) {
    op->error = file.locks_.unlock(e, begin, end);
    return;
  }
  op->error = file.locks_.lock(e, begin, end, op->cancel_requested);
}

bool file_state::start_view(view_operation& op) noexcept {
  extent* e = nullptr;
  failure why{};
  pin p = pin_range(op.offset, op.length, 0, e, why);
  op.error = error_of(why);
  if (op.error || op.length == 0) return true;
  const std::byte* const first = e->base() + op.offset;
  op.result =
      region_access::make(std::move(p), first, static_cast<std::size_t>(op.length), op.offset);
  // The look at a chunk is worth it also if it is large: its pages have just been brought in.
  const std::uint64_t most =
      op.kind == verb::next_chunk && !hides_residency_ ? populate_piece : most_at_once;
  if (op.length <= most && map_if_in_memory(op)) {
    reads_at_once_.fetch_add(1, std::memory_order_relaxed);
    return true;
  }
  reads_off_loop_.fetch_add(1, std::memory_order_relaxed);
  if (!fetch_for_viewing(op)) populate_next(op);
  if (!submit(op)) return false;
  op.result = region();
  return true;
}

// In memory is not yet in the page table; that takes no disk, so it may be done on the loop.
bool file_state::map_if_in_memory(const view_operation& op) noexcept {
  const std::byte* const first = op.result.data();
  bool resident = false;
  if (is_in_memory(first, op.offset, op.length, resident) || !resident) return false;
  std::byte touched;
  for (std::uint64_t at = op.offset; at < op.offset + op.length; at = page_floor(at + page_size()))
    if (platform::guarded_copy(&touched, first + (at - op.offset), 1) != 1) return false;
  return true;
}

// A fault reads all around its page, as far as the device's read-ahead goes. A read brings in what
// it is asked for, and more only where one follows the other.
bool file_state::fetch_for_viewing(view_operation& op) noexcept {
  if (op.kind != verb::view || op.length > platform::most_fetched || medium_ != medium::local ||
      !use_file(op))
    return false;
  op.what = call::fetch;
  op.at = op.offset;
  op.count = op.length;
  op.done = [](operation* self) noexcept {
    auto& view = static_cast<view_operation&>(*self);
    if (is_given_up(*self)) {
      view.result = region();
      return finish(*self, asio::error::operation_aborted);
    }
    // What is wrong with the pages is for the mapping of them to find out.
    self->error = {};
    if (self->file->map_if_in_memory(view)) return finish(*self);
    self->file->populate_next(*self);
    self->runner->submit(*self);
  };
  return true;
}

bool file_state::start_flush(operation& op, bool whole_file) noexcept {
  if (!op.flag) {
    if (!op.home->enroll(op)) return true;
    op.done = [](operation* self) noexcept { finish(*self); };
    if (!flushes_.join(op, whole_file)) return false;
    op.home->forget(op);
    return true;
  }
  if (!whole_file) op.error = error_of(check(op.offset, op.length));
  if (op.error || mode() != access::read_write || (!whole_file && op.length == 0) || !use_file(op))
    return true;
  op.what = call::start_writeback;
  op.at = op.offset;
  op.count = op.length;
  op.done = [](operation* self) noexcept { finish(*self); };
  return submit(op);
}

bool file_state::withdraw(operation& op, bool interrupt) noexcept {
  if (op.kind == verb::next_chunk) return static_cast<chunk_operation&>(op).reader->withdraw(op);
  std::unique_lock lock(mutex_);
  if (flushes_.withdraw(op, interrupt)) return true;
  for (update_lead& l : leads_)
    if (l.by != nullptr && l.home == op.home.get() && l.followers.remove(op)) return true;
  if (op.kind != verb::resize) return false;
  if (resize_under_way_ == &op) {
    if (!std::exchange(resize_waits_for_pins_, false)) return false;
    if (larger_ != nullptr) {
      // The file has grown already: it ends when that is undone.
      lock.unlock();
      undo_growth(op, asio::error::operation_aborted);
      return false;
    }
    op.step = withdrawn_from_its_turn;
    end_turn();
    return true;
  }
  return resizes_.remove(op);
}

void file_state::announce(shared_handle& file, const std::shared_ptr<engine>& home) noexcept {
  struct announcement final : operation {};
  const auto perform_here = [&file] {
    announcement op;
    op.what = call::announce;
    op.handle = file.get();
    platform::perform(op);
  };
  if (!home) return perform_here();
  auto* op = new (std::nothrow) announcement;
  if (op == nullptr) return;  // watchers miss one hint
  op->what = call::announce;
  op->handle = file.get();
  file.retain();
  op->use = &file;
  op->done = [](operation* self) noexcept {
    let_go(*self);
    delete static_cast<announcement*>(self);
  };
  if (!home->run_in_background(*op)) op->done(op);
}

// --- resize
// ----------------------------------------------------------------------------------------------------------------
//
// One at a time: only the one under way changes size_, limit and current_. It goes from call to
// call through resize_call_done(), on whatever thread the engine uses for that.

std::error_code file_state::check_resize(std::uint64_t new_size) const noexcept {
  if (!is_open()) return errc::not_open;
  if (options_.mode == access::read_only) return errc::read_only;
  if (options_.mode == access::copy_on_write) return errc::unsupported;
  if (new_size > largest_size) return make_error_code(std::errc::file_too_large);
  return check_size(new_size, huge_page_);
}

std::error_code file_state::check_refresh() const noexcept {
  if (!is_open()) return errc::not_open;
  // What was stored privately cannot move with the mapping.
  if (options_.mode == access::copy_on_write) return errc::unsupported;
  return {};
}

bool file_state::start_resize(operation& op) noexcept {
  if (op.flag) op.transferred = size();
  op.error = op.flag ? check_refresh() : check_resize(op.length);
  if (op.error) return true;
  op.done = [](operation* self) noexcept { self->file->resize_call_done(*self); };
  if (op.home && !op.home->enroll(op)) return true;
  {
    std::lock_guard lock(mutex_);
    resizes_.push(op);
  }
  continue_resizes();
  return false;
}

// One that is over at once comes back here before the call that began it has returned: the loop
// that is under way takes the next, or many would need much stack.
void file_state::continue_resizes() noexcept {
  const std::shared_ptr<file_state> keep = shared_from_this();
  std::unique_lock lock(mutex_);
  if (std::exchange(resizes_are_continued_, true)) return;
  while (resize_under_way_ == nullptr && !resize_is_being_delivered_ && !resizes_.empty()) {
    operation* const op = resize_under_way_ = resizes_.pop();
    size_before_turn_ = size_.load(std::memory_order_relaxed);
    lock.unlock();
    advance_resize(*op);
    lock.lock();
  }
  resizes_are_continued_ = false;
}

// Of the resize under way, with mutex_ held. The turn is not the next one's yet: on another thread
// that could end, and its handler be posted, before the handler of this one.
void file_state::end_turn() noexcept {
  resize_under_way_ = nullptr;
  resize_is_being_delivered_ = true;
  if (std::exchange(size_was_seen_, false) || has_foreign_size_.load(std::memory_order_relaxed))
    look_at_size();
  if (extent* e = mapped())
    e->limit.store(size_.load(std::memory_order_relaxed), std::memory_order_seq_cst);
}

void file_state::note_found(const watching::file_look& found) noexcept {
  watching::file_look mine;
  if (!file_->try_retain()) return;
  const std::error_code error = watching::look_at(file_->get(), mine);
  file_->release();
  if (!error && !found.is_same_file(mine)) return note_other_file();
  note_size(found.size);
}

// What a watcher saw may be of before a resize of ours, or what one under way leads to: the file
// tells, and once more when that is over.
void file_state::note_size(std::uint64_t seen) noexcept {
  std::lock_guard lock(mutex_);
  size_was_seen_ = resize_under_way_ != nullptr;
  if (size_was_seen_ || seen != size() || has_foreign_size_.load(std::memory_order_relaxed))
    look_at_size();
}

// With mutex_ held, without which nobody closes the file.
void file_state::look_at_size() noexcept {
  const operation* const under_way = resize_under_way_;
  std::uint64_t now = 0;
  // A refresh takes what there is.
  if (closed_.load(std::memory_order_relaxed) || (under_way != nullptr && under_way->flag) ||
      platform::file_size(file_->get(), now))
    return;
  // The file and what we know of it change one after the other; and what grows may first grow to
  // the end of its last page.
  const bool is_ours = under_way != nullptr
                           ? now == size_before_turn_ || now == under_way->length ||
                                 (now == page_ceil(size_before_turn_) && now < under_way->length)
                           : now == size_.load(std::memory_order_relaxed);
  has_foreign_size_.store(!is_ours, std::memory_order_release);
}

void file_state::deliver_and_continue(operation& op, std::error_code error) noexcept {
  const std::shared_ptr<file_state> keep = shared_from_this();
  finish(op, error);
  {
    std::lock_guard lock(mutex_);
    resize_is_being_delivered_ = false;
  }
  continue_resizes();
}

void file_state::end_resize(operation& op, std::error_code error) noexcept {
  if (op.flag && is_open()) op.transferred = size();
  {
    std::lock_guard lock(mutex_);
    end_turn();
  }
  deliver_and_continue(op, error);
}

void file_state::end_withdrawn_resize(operation& op) noexcept {
  if (op.step == withdrawn_from_its_turn)
    deliver_and_continue(op, asio::error::operation_aborted);
  else
    finish(op, asio::error::operation_aborted);
}

void file_state::advance_resize(operation& op) noexcept {
  extent* const e = mapped();
  if (e == nullptr || !use_file(op)) return end_resize(op, overtaken_by_close(op));
  if (op.flag) return ask_for_size(op);
  const std::uint64_t size = size_.load(std::memory_order_relaxed);
  if (op.length == size) return end_resize(op, {});
  if (op.length > size) {
    if (op.length <= e->capacity()) return grow(op);
    return resize_when_unpinned(op);
  }
  // From here on nobody can begin anything beyond the new end.
  e->limit.store(op.length, std::memory_order_seq_cst);
  platform::heavy_barrier();
  if (!is_being_copied(*e, op.length, no_end)) return resize_when_unpinned(op);
  op.step = waiting_for_copies;
  op.what = call::work;
  op.work = [](operation* self) noexcept {
    while (const extent* current = self->file->mapped()) {
      if (!is_being_copied(*current, self->length, no_end)) return;
      wait_a_little();
    }
  };
  op.runner->submit(op);
}

void file_state::ask_for_size(operation& op) noexcept {
  op.step = asking_for_size;
  // Whoever sees a change from here on says so again.
  has_foreign_size_.store(false, std::memory_order_release);
  is_other_file_.store(false, std::memory_order_release);
  op.what = call::work;
  op.work = [](operation* self) noexcept {
    self->error = platform::current_size(self->handle, self->length);
  };
  op.runner->submit(op);
}

// Nothing is waited for that reaches beyond a smaller size: its bytes are gone as it is.
void file_state::adopt_size(operation& op) noexcept {
  extent* const e = mapped();
  if (e == nullptr) return end_resize(op, overtaken_by_close(op));
  if (op.length > largest_size) return end_resize(op, make_error_code(std::errc::file_too_large));
  const std::uint64_t size = size_.load(std::memory_order_relaxed);
  if (op.length == size) return end_resize(op, {});
  if (op.length > size) return publish_or_map(op, *e);
  e->limit.store(op.length, std::memory_order_seq_cst);
  publish_cut(op);
}

// A shrink waits for pins of what it cuts, a move for all of them, and so does a shrink where
// mappings are not free. Somebody blocked does not wait for regions, since it may well hold them
// itself; verbs under way end by themselves.
void file_state::resize_when_unpinned(operation& op) noexcept {
  std::error_code why;
  bool moves = false;
  bool is_mapped_anew = false;
  {
    std::lock_guard lock(mutex_);
    extent* const e = mapped();
    if (e == nullptr) {
      why = overtaken_by_close(op);
    } else {
      moves = op.length > e->capacity();
      is_mapped_anew = !platform::mappings_are_free && op.length <= e->largest_mapped_again();
      const std::uint64_t from = moves || !platform::mappings_are_free ? 0 : op.length;
      if (!op.home && e->count_pins(from, false).regions != 0) {
        why = errc::pinned;
      } else {
        const extent::pin_count pins = e->count_pins(from, true);
        if (pins.regions + pins.operations != 0) {
          // Whoever cancels from here on finds it waiting; before, it was under way.
          if (!op.cancel_requested.load(std::memory_order_relaxed)) {
            resize_waits_for_pins_ = true;
            return;
          }
          why = asio::error::operation_aborted;
        }
      }
    }
  }
  if (why) return larger_ != nullptr ? undo_growth(op, why) : end_resize(op, why);
  if (larger_ != nullptr) return move_to_larger(op);
  if (is_mapped_anew) return resize_unmapped(op);
  if (moves) return grow(op);
  op.step = cutting;
  op.what = call::truncate;
  op.at = op.length;
  op.runner->submit(op);
}

void file_state::pins_dropped() noexcept {
  operation* op = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (!resize_waits_for_pins_) return;
    resize_waits_for_pins_ = false;
    op = resize_under_way_;
  }
  resize_when_unpinned(*op);
}

void file_state::grow(operation& op) noexcept {
  const std::uint64_t size = size_.load(std::memory_order_relaxed);
  extent* const e = mapped();
  if (e == nullptr) return end_resize(op, overtaken_by_close(op));
  if (op.length > platform::largest_file())
    return end_resize(op, make_error_code(std::errc::file_too_large));
  op.step = growing;
  // A file that others have made larger would be cut by the latter, which it cannot be everywhere
  // while it is mapped.
  const bool allocates = options_.preallocate || !platform::mappings_are_free;
  op.what = allocates ? call::allocate : call::truncate;
  op.at = allocates ? size : op.length;
  op.count = op.length - size;
  // What somebody stored behind the old end, in its last page, must not show up in the new bytes.
  op.address = nullptr;
  if (!zeroes_tail_ && size != page_ceil(size)) {
    op.range = e->acquire(
        0, 0, pin_slot::operation);  // an empty pin keeps it mapped and is in nobody's way
    if (!op.range)
      return end_resize(op, e->is_orphaned() ? overtaken_by_close(op) : error_of(out_of_memory));
    op.address = e->base() + size;
  }
  op.runner->submit(op);
}

// The mapping that was to be larger stays until that is done: whoever cancels holds a lock of the
// engine, which may be the one to unmap it.
void file_state::undo_growth(operation& op, std::error_code cause) noexcept {
  resize_error_ = cause;
  op.is_final = true;
  op.cancel_requested = false;
  op.step = undoing;
  if (!platform::mappings_are_free && !op.flag) {
    op.what = call::work;
    op.work = [](operation* self) noexcept {
      file_state& file = *self->file;
      if (file.larger_ != nullptr) {
        file.larger_->release(true);
        std::exchange(file.larger_, nullptr)->drop();
      }
      self->range = {};
      // Where somebody has begun to use it since, the file stays longer than it is known to be.
      static_cast<void>(file.map_anew(*self, file.size_.load(std::memory_order_relaxed)));
    };
    op.runner->submit(op);
    return;
  }
  // Whose growth it was not takes nothing back.
  op.what = op.flag ? call::work : call::truncate;
  op.work = [](operation*) noexcept {};
  op.at = size_.load(std::memory_order_relaxed);
  op.address = nullptr;
  op.runner->submit(op);
}

// Of a resize that nobody carries on, since its context is going: the file is as large as it was
// before that is gone. In a forked child it is the parent's.
void file_state::take_growth_back(operation& op) noexcept {
  const std::uint64_t size = size_.load(std::memory_order_relaxed);
  std::uint64_t real_size = 0;
  if (op.flag || op.length <= size || op.home->is_foreign() ||
      platform::file_size(op.handle, real_size) || real_size <= size)
    return;
  op.what = call::truncate;
  op.at = size;
  op.address = nullptr;
  platform::perform(op);
}

// The OS leaves a lock where there is no file any more: what grows there later would be locked.
void file_state::unlock_the_cut(operation& op, std::uint64_t old_end) noexcept {
  extent* const e = mapped();
  const std::uint64_t new_end = page_ceil(op.length);
  if (e == nullptr || !locks_.any(new_end, old_end)) return end_resize(op, {});
  op.range = e->acquire(0, 0, pin_slot::operation);
  if (!op.range) return end_resize(op, {});
  op.is_final = true;
  op.cancel_requested = false;
  op.step = unlocking_the_cut;
  op.what = call::work;
  op.at = new_end;
  op.count = old_end - new_end;
  op.work = [](operation* self) noexcept {
    static_cast<void>(
        self->file->locks_.unlock(*self->range.owner(), self->at, self->at + self->count));
  };
  op.runner->submit(op);
}

void file_state::publish_growth(operation& op) noexcept {
  {
    std::lock_guard lock(mutex_);
    // In this order, so that who sees the new size may use it.
    if (extent* grown = mapped()) grown->limit.store(op.length, std::memory_order_seq_cst);
    size_.store(op.length, std::memory_order_release);
    flushes_.size_changed();
  }
  end_resize(op, {});
}

void file_state::publish_cut(operation& op) noexcept {
  const std::uint64_t old_end = page_ceil(size_.load(std::memory_order_relaxed));
  {
    std::lock_guard lock(mutex_);
    size_.store(op.length, std::memory_order_release);
    if (extent* e = mapped()) {
      e->stored.clear(page_ceil(op.length), old_end);
      e->dirty.clear(page_ceil(op.length), old_end);
    }
    flushes_.size_changed();
  }
  unlock_the_cut(op, old_end);
}

// Of a file that has grown.
void file_state::publish_or_map(operation& op, extent& e) noexcept {
  if (op.length > e.capacity()) return map_larger(op);
  if (op.length <= e.mapped_end()) return publish_growth(op);
  op.range = e.acquire(0, 0, pin_slot::operation);  // keeps it mapped, and is in nobody's way
  if (!op.range) return map_larger(op);
  op.step = mapping_more;
  op.what = call::work;
  op.work = [](operation* self) noexcept {
    self->error = self->range.owner()->map_more(self->handle, self->length);
  };
  op.runner->submit(op);
}

void file_state::map_larger(operation& op) noexcept {
  op.step = mapping_larger;
  op.what = call::work;
  op.work = [](operation* self) noexcept {
    file_state& file = *self->file;
    extent* const current = file.mapped();
    if (current == nullptr) {
      self->error = overtaken_by_close(*self);
      return;
    }
    std::uint64_t capacity = wanted_capacity(file.options_, self->length, file.huge_page_);
    if (file.mode() == access::read_write && file.huge_page_ == 0 && file.options_.reserve != 0)
      capacity = std::max(capacity, 2 * current->capacity());
    self->error = map_at_most(self->handle, file.options_, self->length, capacity, file.larger_);
    if (self->error) return;
    // It may be given up before it takes its place, by a loop.
    file.larger_->dispose_like(*current);
    file.advice_.repeat_in(*file.larger_);  // first: locking brings pages in
    self->error = file.locks_.repeat_in(*file.larger_);
  };
  op.runner->submit(op);
}

void file_state::resize_call_done(operation& op) noexcept {
  const std::error_code error = std::exchange(op.error, {});
  if (larger_ != nullptr && (op.dropped || op.step == undoing)) {
    larger_->release();
    std::exchange(larger_, nullptr)->drop();
  }
  if (op.dropped) {
    take_growth_back(op);
    return end_resize(op, asio::error::operation_aborted);
  }
  if (op.is_final && error == asio::error::operation_aborted) {
    // Who cancelled did not see yet that there is no way back.
    op.cancel_requested = false;
    return op.runner->submit(op);
  }
  switch (op.step) {
  case asking_for_size:
    return error ? end_resize(op, error) : adopt_size(op);
  case waiting_for_copies:
    return error ? end_resize(op, error) : resize_when_unpinned(op);
  case cutting:
    return error ? end_resize(op, error) : publish_cut(op);
  case unlocking_the_cut:
    return end_resize(op, {});
  case growing: {
    if (error && op.what == call::allocate && platform::is_not_supported(error)) {
      op.what = call::truncate;
      op.at = op.length;
      return op.runner->submit(op);
    }
    if (error) return undo_growth(op, error);
    extent* const e = mapped();
    if (e == nullptr) return undo_growth(op, overtaken_by_close(op));
    return publish_or_map(op, *e);
  }
  case mapping_more:
    if (is_given_up(op)) return undo_growth(op, asio::error::operation_aborted);
    return error ? map_larger(op) : publish_growth(op);
  case mapping_larger:
    if (error) return undo_growth(op, error);
    return move_to_larger(op);
  case waiting_to_map_anew:
    if (error) return end_resize(op, error);
    if (is_given_up(op)) return end_resize(op, asio::error::operation_aborted);
    return resize_when_unpinned(op);
  case mapped_anew:
    return end_resize(op, error);
  case waiting_to_move:
    return error ? undo_growth(op, error) : resize_when_unpinned(op);
  case undoing:
  default:
    return end_resize(op, resize_error_);
  }
}

// Where mappings are not free, on a worker or the blocked thread: others wait for it meanwhile, as
// they do for a move.
void file_state::resize_unmapped(operation& op) noexcept {
  op.step = waiting_to_map_anew;
  op.what = call::work;
  op.work = [](operation* self) noexcept {
    file_state& file = *self->file;
    const std::uint64_t old_end = page_ceil(file.size_.load(std::memory_order_relaxed));
    if (!file.map_anew(*self, self->length)) {
      if (!self->error) wait_a_little();
      return;
    }
    self->step = mapped_anew;
    if (self->error) return;
    extent* const e = file.mapped();
    const pin held = e != nullptr ? e->acquire(0, 0, pin_slot::operation) : pin();
    if (!held) return;
    const std::uint64_t new_end = page_ceil(self->length);
    if (new_end < old_end && file.locks_.any(new_end, old_end))
      self->error = file.locks_.forget(new_end, old_end);
    file.advice_.repeat_in(*e);  // first: locking brings pages in
    if (!self->error) self->error = file.locks_.repeat_in(*e);
  };
  op.runner->submit(op);
}

// Unmaps the file, gives it the size, and maps it again. False: somebody uses the mapping, or it is
// closed, with op.error; nothing has happened. True: op.error says whether it has that size now.
bool file_state::map_anew(operation& op, std::uint64_t new_size) noexcept {
  // The lock is held all the time: to others no current extent means that the file is closed.
  std::lock_guard lock(mutex_);
  extent* const e = current_.exchange(nullptr, std::memory_order_seq_cst);
  if (e == nullptr) {
    op.error = overtaken_by_close(op);
    return false;
  }
  platform::heavy_barrier();
  const extent::pin_count pins = e->count_pins(0, false);
  // One that was moved from may still serve a sync.
  const bool is_unused = pins.regions + pins.operations == 0 && !is_being_copied(*e, 0, no_end) &&
                         std::all_of(retired_.begin(), retired_.end(),
                                     [](const extent* old) { return old->is_unmapped(); });
  const std::uint64_t old_size = size_.load(std::memory_order_relaxed);
  if (is_unused && new_size > old_size && !zeroes_tail_ && old_size % page_size() != 0)
    platform::zero_to_page_end(e->base() + old_size);
  if (!is_unused || !e->unmap_if_unused()) {
    current_.store(e, std::memory_order_seq_cst);
    return false;
  }
  const bool allocates = options_.preallocate && new_size > old_size;
  op.what = allocates ? call::allocate : call::truncate;
  op.at = allocates ? old_size : new_size;
  op.count = new_size - op.at;
  op.address = nullptr;
  platform::perform(op);
  std::uint64_t size = op.error ? old_size : new_size;
  std::error_code error;
  for (int tries = 0; tries < 100; ++tries) {
    error =
        e->map_again(op.handle, options_.mode, size, wanted_capacity(options_, size, huge_page_));
    std::uint64_t real_size = 0;
    if (!error || op.error || platform::file_size(op.handle, real_size) || real_size >= size) break;
    // Others have cut it meanwhile, and no more than it has can be mapped: so that came before. It
    // is mapped by now, and so not cut should they have made it larger again.
    op.what = call::allocate;
    op.at = 0;
    op.count = size;
    platform::perform(op);
  }
  op.what = call::work;
  // Should there be no place for it any more: the file is there, and can be refreshed.
  if (error) {
    op.error = error;
    size = 0;
  }
  e->stored.clear(0, page_ceil(old_size));
  if (size < old_size) e->dirty.clear(page_ceil(size), page_ceil(old_size));
  if (size != old_size) {
    size_.store(size, std::memory_order_release);
    flushes_.size_changed();
  }
  moves_.fetch_add(1, std::memory_order_relaxed);
  current_.store(e, std::memory_order_seq_cst);
  return true;
}

void file_state::move_to_larger(operation& op) noexcept {
  extent* old = nullptr;
  bool closed = false;
  {
    std::lock_guard lock(mutex_);
    old = current_.exchange(nullptr, std::memory_order_seq_cst);
    closed = closed_.load(std::memory_order_relaxed);
    if (!closed) {
      platform::heavy_barrier();
      const extent::pin_count pins = old->count_pins(0, false);
      if (pins.regions + pins.operations != 0 || is_being_copied(*old, 0, no_end) ||
          !locks_.are_repeated() || !advice_.is_repeated()) {
        // Somebody came in between: let them, and try again.
        current_.store(old, std::memory_order_seq_cst);
        old = nullptr;
      } else {
        larger_->dirty.copy(old->dirty);
        larger_->unannounced.store(old->unannounced.load(std::memory_order_relaxed),
                                   std::memory_order_relaxed);
        larger_->tells_of_drops.store(old->tells_of_drops.load(std::memory_order_relaxed),
                                      std::memory_order_relaxed);
        larger_->notify_on_drop(weak_from_this());
        larger_->dispose_like(*old);
        try {
          retired_.push_back(old);
        } catch (const std::bad_alloc&) {
          // The object is leaked then, not its mapping.
        }
        size_.store(op.length, std::memory_order_release);
        flushes_.size_changed();
        moves_.fetch_add(1, std::memory_order_relaxed);
        current_.store(std::exchange(larger_, nullptr), std::memory_order_seq_cst);
      }
    }
  }
  if (closed) return undo_growth(op, overtaken_by_close(op));
  if (old != nullptr) {
    old->orphan(false);
    return end_resize(op, {});
  }
  op.step = waiting_to_move;
  op.what = call::work;
  op.work = [](operation* self) noexcept {
    file_state& file = *self->file;
    wait_a_little();
    if (!file.advice_.is_repeated()) file.advice_.repeat_in(*file.larger_);
    if (!file.locks_.are_repeated()) self->error = file.locks_.repeat_in(*file.larger_);
  };
  op.runner->submit(op);
}

}  // namespace detail
MAPIO_NAMESPACE_END
