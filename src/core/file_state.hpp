#ifndef MAPIO_SRC_CORE_FILE_STATE_HPP
#define MAPIO_SRC_CORE_FILE_STATE_HPP

#include "extent.hpp"
#include "flush_scheduler.hpp"
#include "operation_list.hpp"
#include "page_advice.hpp"
#include "page_locks.hpp"
#include "platform/platform.hpp"
#include "recent_pages.hpp"
#include "update_runs.hpp"

#include <mapio/detail/operation.hpp>
#include <mapio/mapping.hpp>

#include <array>
#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace watching {
struct file_look;
}

/// operation::step of a prefetch behind which the next one follows: it may read further than asked.
inline constexpr std::uint8_t reading_in_order = 1;

/// An open mapped file: what all its handles, on all contexts, and all its operations share.
///
/// The current extent is published through an atomic pointer; whoever uses it pins it or opens a
/// copy window on it, and then checks that it is still current. Null means closed, or for a moment
/// moving.
class file_state final : public std::enable_shared_from_this<file_state> {
 public:
  static std::error_code open(const std::filesystem::path& path, const open_options& options,
                              std::shared_ptr<file_state>& result) noexcept;
  static std::error_code adopt(native_handle_type handle, const open_options& options,
                               std::shared_ptr<file_state>& result) noexcept;
  file_state(const std::filesystem::path& path, const open_options& options,
             const platform::opened_file& file, extent& mapped);
  file_state(const file_state&) = delete;
  file_state& operator=(const file_state&) = delete;
  ~file_state();

  // --- what everybody may ask, any thread ---
  bool is_open() const noexcept { return !closed_.load(std::memory_order_acquire); }
  std::uint64_t size() const noexcept {
    return is_open() ? size_.load(std::memory_order_acquire) : 0;
  }
  /// Returns how far verbs may reach: the size, or less while a shrink waits.
  std::uint64_t reach() const noexcept {
    const extent* const e = current_.load(std::memory_order_acquire);
    return e != nullptr ? e->limit.load(std::memory_order_acquire) : size();
  }
  std::uint64_t capacity() const noexcept;
  access mode() const noexcept { return options_.mode; }
  const std::filesystem::path& path() const noexcept { return path_; }
  /// The same, and absolute.
  const std::filesystem::path& place() const noexcept { return place_; }
  const open_options& options() const noexcept { return options_; }
  std::uint64_t pending_bytes() const noexcept;
  native_handle_type native_handle() const noexcept {
    return is_open() ? file_->get() : platform::no_handle;
  }
  file_stats stats() const noexcept;
  std::error_code flush_error() const noexcept { return flushes_.error(); }
  void clear_flush_error() noexcept { flushes_.clear_error(); }
  /// A watcher saw the file with this size, at some time.
  void note_size(std::uint64_t seen) noexcept;
  /// A watcher found this under the name.
  void note_found(const watching::file_look& found) noexcept;
  /// A watcher saw another file under the name.
  void note_other_file() noexcept { is_other_file_.store(true, std::memory_order_release); }
  bool is_size_stale() const noexcept {
    if (!is_open()) return false;
    return has_foreign_size_.load(std::memory_order_acquire) ||
           is_other_file_.load(std::memory_order_acquire);
  }

  // --- blocking verbs; any thread ---
  failure check(std::uint64_t offset, std::uint64_t length) const noexcept;
  std::size_t store(std::uint64_t offset, const void* bytes, std::size_t n, failure& why) noexcept;
  std::size_t load(std::uint64_t offset, void* bytes, std::size_t n, failure& why) noexcept;
  /// Pins for a view where that takes no detour; null: pin_range() finds out why.
  pin_slot* pin_fast(std::uint64_t offset, std::uint64_t length, extent*& where) noexcept {
    extent* const e = current_.load(std::memory_order_acquire);
    if (e == nullptr || length == 0) return nullptr;
    where = e;
    pin_slot* const slot = e->acquire_fast(offset, offset + length);
    if (slot == nullptr) return nullptr;
    const std::uint64_t limit = e->limit.load(std::memory_order_seq_cst);
    if (current_.load(std::memory_order_seq_cst) == e && offset <= limit &&
        length <= limit - offset)
      return slot;
    const pin undone(e, slot, offset << pin_slot::shift | pin_slot::occupied);
    return nullptr;
  }
  /// Pins [offset, offset + length); on success `where` is the extent.
  pin pin_range(std::uint64_t offset, std::uint64_t length, std::uint64_t flags, extent*& where,
                failure& why) noexcept;
  std::error_code flush(bool whole_file, std::uint64_t offset, std::uint64_t length,
                        durability level) noexcept;
  std::error_code resize(std::uint64_t new_size) noexcept;
  /// Adopts the size that the file has.
  std::error_code refresh(std::uint64_t& size_now) noexcept;
  std::error_code prefetch(bool whole_file, std::uint64_t offset, std::uint64_t length) noexcept;
  /// verb::lock_pages or verb::unlock_pages.
  std::error_code change_lock(verb kind, bool whole_file, std::uint64_t offset,
                              std::uint64_t length) noexcept;
  std::error_code is_resident(std::uint64_t offset, std::uint64_t length, bool& all) noexcept;
  std::error_code advise(std::uint64_t offset, std::uint64_t length, advice what) noexcept;
  std::error_code publish(std::uint64_t offset, std::uint64_t length) noexcept;
  /// Closes; the verdict is on what the policy owed.
  std::error_code close() noexcept;
  /// Does what the policy asks for after [offset, offset + n) was stored; the verdict of
  /// flush_policy::always.
  std::error_code follow_policy(std::uint64_t offset, std::uint64_t n) noexcept;
  bool follows_policy() const noexcept {
    return options_.policy.kind() != flush_policy::trigger::manual &&
           options_.mode == access::read_write;
  }
  native_handle_type release(std::error_code& error) noexcept;

  // --- awaited verbs: true when done already ---
  bool start(operation& op) noexcept;
  /// As start(), for a view; the operation may be enrolled already.
  bool start_view(view_operation& op) noexcept;
  /// Takes an operation out of the file's own wait lists; true: the caller owns it.
  bool withdraw(operation& op, bool interrupt) noexcept;
  /// Remembers an engine, for closing off the loop and for cancelling at close.
  void used_by(const std::shared_ptr<engine>& home) noexcept;

  // --- for the parts of core ---
  extent* mapped() const noexcept { return current_.load(std::memory_order_acquire); }
  shared_handle* opened() const noexcept { return file_; }
  /// What syncs of the whole file go through: another open file description where there is one, so
  /// that two syncs at a time each hear of a failure.
  shared_handle* opened_for_whole() const noexcept {
    return second_file_ != nullptr ? second_file_ : file_;
  }
  shared_handle* directory() const noexcept { return directory_; }
  std::error_code directory_error() const noexcept { return directory_error_; }
  flush_scheduler& flushes() noexcept { return flushes_; }
  /// Of awaited updates.
  update_runs& runs() noexcept { return runs_; }
  /// What was counted for the policy so far is on its way. Not sooner: a flush may be cancelled.
  void whole_sync_begins() noexcept { counted_.store(0); }
  bool announces() const noexcept { return options_.announce; }
  /// Tells watchers that bytes were stored: off the loop where there is an engine.
  void announce(shared_handle& file, const std::shared_ptr<engine>& home) noexcept;
  /// Pushes on what this file has given to engines; false: there is none.
  bool help_engines() noexcept;
  /// A pin that somebody waited for is gone.
  void pins_dropped() noexcept;
  /// The policy's interval has passed.
  void policy_is_due(performer& clock) noexcept;
  /// Delivers a resize that withdraw() took back.
  void end_withdrawn_resize(operation& op) noexcept;

 private:
  /// Tells whether a read of the mapping takes no disk; for pinned ranges.
  std::error_code is_in_memory(const std::byte* address, std::uint64_t offset, std::uint64_t length,
                               bool& all) noexcept;
  bool map_if_in_memory(const view_operation& op) noexcept;
  bool fetch_for_viewing(view_operation& op) noexcept;
  bool start_update(operation& op) noexcept;
  bool fetch_for_writing(operation& op) noexcept;
  void write_awaited(operation& op) noexcept;
  void store_awaited(operation& op) noexcept;
  static bool is_refused(operation* op, std::uint64_t batch) noexcept;
  bool start_read(operation& op) noexcept;
  bool start_prefetch(operation& op) noexcept;
  bool start_lock_change(operation& op) noexcept;
  static void carry_out_lock_change(operation* op) noexcept;
  bool start_flush(operation& op, bool whole_file) noexcept;
  bool start_wait(operation& op) noexcept;
  bool look_at_word(operation& op) noexcept;
  void fetch_word(operation& op) noexcept;
  void wait_for_word(operation& op) noexcept;
  bool start_resize(operation& op) noexcept;
  bool start_close(operation& op) noexcept;
  bool shut_and_let_go(operation& op) noexcept;
  bool end_update(operation& op) noexcept;
  bool use_file(operation& op) noexcept;
  extent* pin_for(operation& op) noexcept;
  static void store_all(operation* op) noexcept;
  bool may_store_at_once(const operation& op) const noexcept;
  bool store_at_once(operation& op) noexcept;
  template <class Use>
  failure with_pinned(const operation& op, Use use) noexcept;
  failure store_buffers(extent& e, operation& op) noexcept;
  void update_off_loop(operation& op) noexcept;
  bool may_make_ready() const noexcept;
  bool lead(operation& op, unsigned run, std::uint64_t end, bool by_writing) noexcept;
  operation_list end_lead(operation& op) noexcept;
  bool follow(operation& op, const update_runs::place& place) noexcept;
  static void finish_update(operation& op) noexcept;
  static void give_up_update(operation& op) noexcept;
  static void write_instead(operation& op) noexcept;
  std::uint64_t ready_end(extent& e, const operation& op, std::uint64_t run) noexcept;
  void make_ready(operation& op) noexcept;
  void make_ready_ahead(operation& op, std::uint64_t end) noexcept;
  void go_off_loop(operation& op) noexcept;
  bool is_still_dirty(const extent& e, std::uint64_t offset, std::uint64_t length) noexcept;
  void know_dirty(std::uint64_t offset, std::uint64_t length) noexcept;
  bool worth_storing(extent& e, std::uint64_t offset, std::uint64_t length) noexcept;
  std::size_t store_or_write(std::uint64_t offset, const void* bytes, std::size_t n,
                             failure& why) noexcept;
  std::size_t write_through(std::uint64_t offset, const void* bytes, std::size_t n,
                            failure& why) noexcept;
  std::size_t store_mapped(std::uint64_t offset, const void* bytes, std::size_t n,
                           failure& why) noexcept;
  void populate_next(operation& op) noexcept;
  void populate_mapped(operation& op) noexcept;
  failure store_fault(extent& e, std::uint64_t offset, const void* bytes, std::size_t& done,
                      std::uint32_t failures_seen) noexcept;
  [[gnu::always_inline]] inline void mark_stored(extent& e, std::uint64_t begin, std::uint64_t end,
                                                 std::uint32_t failures_seen) noexcept;
  [[gnu::always_inline]] inline void mark_written(extent& e, std::uint64_t begin, std::uint64_t end,
                                                  std::uint32_t failures_seen) noexcept;
  [[gnu::always_inline]] inline void mark_dirty(extent& e, std::uint64_t begin, std::uint64_t end,
                                                std::uint32_t failures_seen) noexcept;

  /// Brings all pages in, where the options say so.
  std::error_code prefault_if_eager() noexcept;
  std::error_code start_policy() noexcept;
  void stop_policy() noexcept;
  void count_update(std::uint64_t n) noexcept;
  bool wants_policy_flush() noexcept;
  bool begin_policy_flush() noexcept;
  void end_policy_flush(std::error_code error) noexcept;
  void flush_by_policy(const std::shared_ptr<engine>& home, performer& runner) noexcept;

  std::error_code check_resize(std::uint64_t new_size) const noexcept;
  std::error_code check_refresh() const noexcept;
  void ask_for_size(operation& op) noexcept;
  void adopt_size(operation& op) noexcept;
  void publish_growth(operation& op) noexcept;
  void publish_cut(operation& op) noexcept;
  void publish_or_map(operation& op, extent& e) noexcept;
  void map_larger(operation& op) noexcept;
  void advance_resize(operation& op) noexcept;
  void resize_when_unpinned(operation& op) noexcept;
  void resize_call_done(operation& op) noexcept;
  void grow(operation& op) noexcept;
  void move_to_larger(operation& op) noexcept;
  void unlock_the_cut(operation& op, std::uint64_t old_end) noexcept;
  void resize_unmapped(operation& op) noexcept;
  bool map_anew(operation& op, std::uint64_t new_size) noexcept;
  void undo_growth(operation& op, std::error_code cause) noexcept;
  void take_growth_back(operation& op) noexcept;
  void look_at_size() noexcept;
  void continue_resizes() noexcept;
  void end_turn() noexcept;
  void deliver_and_continue(operation& op, std::error_code error) noexcept;
  void end_resize(operation& op, std::error_code error) noexcept;
  std::error_code shut(const operation* closing) noexcept;
  void let_go_of_mapping(bool here) noexcept;

  const std::filesystem::path path_;
  const std::filesystem::path place_;
  const open_options options_;
  const bool zeroes_tail_;
  const mapio::medium medium_;
  const bool hides_residency_;
  const std::uint64_t huge_page_;
  const bool may_write_through_;  // blocking updates, too
  std::error_code directory_error_;

  shared_handle* file_;
  shared_handle* second_file_ = nullptr;
  shared_handle* directory_ = nullptr;
  std::atomic<extent*> current_;
  std::atomic<bool> closed_{false};
  std::atomic<std::uint64_t> size_;
  std::atomic<bool> has_foreign_size_{false};
  std::atomic<bool> is_other_file_{false};

  mutable std::mutex mutex_;  // guards what follows, and flushes_
  std::vector<extent*> retired_;
  extent* shut_ = nullptr;  // what was current when the file was closed
  operation_list resizes_;  // waiting for their turn
  operation* resize_under_way_ = nullptr;
  std::uint64_t size_before_turn_ = 0;  // of the resize under way
  bool resize_waits_for_pins_ = false;
  bool resize_is_being_delivered_ = false;
  bool size_was_seen_ = false;  // by a watcher, since that began
  bool resizes_are_continued_ = false;
  std::error_code resize_error_;  // why the growth under way is being undone
  extent* larger_ = nullptr;      // mapped ahead by the growth under way
  page_locks locks_;
  page_advice advice_;
  std::atomic<std::uint64_t> last_engine_{0};
  std::vector<std::weak_ptr<engine>> engines_;
  /// An update that is off the loop on behalf of others, too.
  struct update_lead {
    const operation* by = nullptr;
    const engine* home = nullptr;  // of all of them
    bool by_writing = false;       // through the file
    std::uint64_t begin = 0;       // of what it makes ready
    std::uint64_t end = 0;
    operation_list followers;
  };
  std::array<update_lead, update_runs::most + 1> leads_;  // by runs; the last is of none
  std::atomic<unsigned> leading_{0};                      // how many there are, by the mutex
  flush_scheduler flushes_;

  std::atomic<std::uint64_t> counted_{0};  // bytes or writes, by the policy, since the last flush
  std::atomic<bool> policy_flush_under_way_{false};
  std::atomic<std::uint32_t> policy_clears_{0};

  update_runs runs_;
  recent_pages recent_;       // that need not be read before a part of them is written
  recent_pages known_dirty_;  // as the kernel told in this period
  std::atomic<std::int64_t> known_dirty_period_{0};
  std::atomic<bool> can_make_ready_{true};

  std::atomic<std::uint64_t> stores_{0};
  std::atomic<std::uint64_t> worker_stores_{0};
  std::mutex refusal_mutex_;
  std::uint64_t real_size_ = 0;      // as the OS told last,
  std::uint64_t largest_file_ = 0;   // as is how far a write may go,
  std::uint64_t refusal_batch_ = 0;  // for this batch of calls
  std::atomic<std::uint64_t> file_writes_{0};
  std::atomic<std::uint64_t> reads_at_once_{0};
  std::atomic<std::uint64_t> reads_off_loop_{0};
  std::atomic<std::uint64_t> moves_{0};
  std::atomic<std::uint64_t> page_faults_{0};
  std::atomic<std::uint64_t> policy_flushes_{0};
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_FILE_STATE_HPP
