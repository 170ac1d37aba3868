#ifndef MAPIO_SRC_CORE_FLUSH_SCHEDULER_HPP
#define MAPIO_SRC_CORE_FLUSH_SCHEDULER_HPP

#include "dirty_pages.hpp"
#include "operation_list.hpp"
#include "range_set.hpp"

#include <mapio/detail/operation.hpp>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail {

class extent;
class shared_handle;

/// Merges the flushes of one file into as few syncs as possible, and knows what is not durable.
///
/// There are two lanes, one for flushes of the whole file and one for ranges, so that a small flush
/// never queues behind a large one. A lane has at most one sync in flight; what arrives meanwhile
/// gathers, and the next sync serves all of it. One of a batch leads: its engine, or its blocked
/// thread, carries the sync out for all.
///
/// Those whom a sync served tend to come again at once, each after a turn of its loop. A sync that
/// began with the first of them would leave the others to the next, and every second sync would
/// serve one flush. So after a sync that served several, the next waits a little for as many: at
/// most half as long as that sync took, and not again for a while after it waited in vain.
///
/// What must be synced is: pages with a dirty bit, pages under a live mutable region, everything
/// that was in the file when it was opened (somebody before us may not have synced), the size when
/// it changed, the name when open may have created it.
///
/// Why nothing is lost: a waiter joins after its stores are marked. Joining reads pins, then
/// claims, then bits. Pins come first, since the drop of a pin goes the other way (mark, then
/// unregister). Bits come last, since a claim does not count for a page that was written again:
/// whoever is told so must find that page's bit, which nobody takes meanwhile. A batch publishes
/// its claim before it takes the bits. So a waiter either finds its bits and waits for a sync that
/// starts later, or finds the claim of the sync that took them and waits for that, or that sync is
/// over: then its bytes are durable, or the file is poisoned.
class flush_scheduler {
 public:
  flush_scheduler(file_state& file, std::mutex& mutex, bool unsynced_content, bool unsynced_name,
                  std::uint64_t size);

  /// Waits for a sync on behalf of `op`. True: it is over at once, with op.error.
  bool join(operation& op, bool whole_file) noexcept;
  /// Takes a waiter out; true: it was waiting, and the caller owns it.
  bool withdraw(operation& op, bool interrupt) noexcept;  // under the file's mutex
  /// The file is being closed: takes the waiters that are not blocked threads out.
  operation_list withdraw_awaited() noexcept;  // under the file's mutex
  /// The size was changed: the next flush makes it durable.
  void size_changed() noexcept { ++size_generation_; }  // under the file's mutex
  /// Counts the failed syncs, for a write: asked before its store.
  std::uint32_t failures() const noexcept {
    return failures_.load(std::memory_order_acquire) & ~something_is_lost;
  }
  /// Tells, after the mark, whether the write must say so by written().
  bool must_hear_of_writes(std::uint32_t failures_before) const noexcept {
    return failures_.load(std::memory_order_acquire) != failures_before;
  }
  /// [begin, end) was written and marked. What a sync that failed since may have taken with it is
  /// lost; what was lost before is written again.
  void written(std::uint32_t failures_before, std::uint64_t begin, std::uint64_t end) noexcept;
  /// What was written to [begin, end) may have been lost with a sync that failed meanwhile.
  void lose(std::uint64_t begin, std::uint64_t end) noexcept;
  /// A store was refused by the OS although the file reaches that far: nothing may claim that it is
  /// durable.
  void store_refused(std::uint64_t begin, std::uint64_t end, std::error_code cause) noexcept;
  /// A flush that nobody waits for failed in a way that is no sync's; whoever comes next must hear
  /// of it.
  void policy_failed(std::error_code cause, std::uint32_t clears) noexcept;
  /// Counts the calls of clear_error().
  std::uint32_t clears() const noexcept { return clears_.load(std::memory_order_relaxed); }
  std::error_code error() const noexcept;
  bool is_poisoned() const noexcept { return is_poisoned_.load(std::memory_order_relaxed); }
  void clear_error() noexcept;
  /// Tells whether something was written, or resized, that no finished sync covers.
  bool owes_flush() const noexcept;
  /// Tells whether a sync is under way, or somebody waits for one. Under the file's mutex.
  bool is_busy() const noexcept {
    return whole_.busy || range_.busy || !whole_.gathering.empty() || !range_.gathering.empty();
  }
  /// Makes the wait for company go by another clock, in nanoseconds: for tests.
  void use_clock(std::uint64_t (*clock)() noexcept) noexcept { now_ = clock; }
  void add_to(file_stats& stats) const noexcept;  // under the file's mutex

 private:
  struct lane;
  /// A sync's wait for company.
  struct pause final : operation {
    lane* of = nullptr;
    bool is_under_way = false;
  };
  struct lane final : operation {
    bool busy = false;
    bool with_name = false;
    bool with_announcement = false;
    bool all_taken = false;           // what was taken could not be remembered
    extent* mapped = nullptr;         // what is synced stays mapped meanwhile,
    shared_handle* opened = nullptr;  // and open
    shared_handle* directory = nullptr;
    flush_scheduler* scheduler = nullptr;
    operation_list gathering;
    operation_list riding;
    // The wait for company. The counts are estimates: who is withdrawn is not taken off.
    pause wait;
    bool is_pausing = false;     // what gathers is held back; false with a wait that is cut short
    std::size_t gathered = 0;    // since the last sync began
    std::size_t expected = 0;    // are worth waiting for, those that have gathered included
    std::size_t served = 0;      // by the last sync
    std::uint64_t began = 0;     // the last sync, in nanoseconds of the steady clock
    std::uint64_t patience = 0;  // ends then
    unsigned vain = 0;           // syncs that do without, the next time that a wait is in vain
    unsigned without_pause = 0;  // syncs that still do
    bool has_returned = false;   // and waits for the sync beside it before it is believed
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    std::vector<dirty_pages::taken> cut;
    std::vector<range_set::range> content_cut;
    std::uint64_t size_generation = 0;
    std::uint32_t failures = 0;  // syncs of the file that had failed when it began
  };

  /// Returns what must be submitted to `leader`'s runner so that those who gather get their sync;
  /// null: it is on its way already.
  operation* proceed(lane& l, operation& leader) noexcept;
  /// The same once a sync or a pause is over.
  operation* serve_gathering(lane& l, operation_list& finished) noexcept;
  void begin_sync(lane& l, const operation& leader) noexcept;
  void expect_company(lane& l, const operation_list& finished) noexcept;
  void pause_done(lane& l) noexcept;
  void call_done(lane& l) noexcept;
  void end_sync(lane& l) noexcept;
  void settle(lane& l, const std::shared_ptr<engine>& home, operation_list& finished) noexcept;
  void fail_gathering(lane& l, std::error_code cause, operation_list& finished) noexcept;
  /// Tells whether the sync in flight has taken something of [begin, end). A page among
  /// except(word) does not count: it was written again since, and the later sync writes all of it.
  template <class Except>
  bool is_claimed(const lane& l, std::uint64_t begin, std::uint64_t end,
                  Except except) const noexcept;
  bool is_lost(std::uint64_t begin, std::uint64_t end) const noexcept;
  bool has_failed_since(std::uint32_t failures_before) const noexcept {
    return failures() != (failures_before & ~something_is_lost);
  }
  void poison(std::error_code cause) noexcept;
  void add_lost(std::uint64_t begin, std::uint64_t end) noexcept;
  void lose_all() noexcept;
  void lose_now(extent& e, std::uint64_t begin, std::uint64_t end) noexcept;
  void note_whether_something_is_lost() noexcept;
  void lose_what_was_taken(const lane& l) noexcept;
  void take_from_beside(const lane& l, operation_list& waiters) noexcept;
  void lose_all_that_is_dirty(extent& e) noexcept;
  lane& other(const lane& l) noexcept { return &l == &whole_ ? range_ : whole_; }

  static std::uint64_t steady_nanoseconds() noexcept;

  file_state& file_;
  std::mutex& mutex_;
  std::uint64_t (*now_)() noexcept = steady_nanoseconds;
  lane whole_;
  lane range_;
  range_set content_;      // was there at open, and was not synced by us yet
  range_set lost_;         // a sync of it failed; not durable until it is written again
  bool all_lost_ = false;  // the same of everything, for want of memory
  range_set rewritten_;    // of what is lost, by who began after the failure; has its dirty bits
  bool name_ = false;
  bool name_lost_ = false;  // a sync of it failed, and it cannot be written again
  std::uint64_t size_generation_ = 0;
  std::uint64_t durable_generation_ = 0;
  std::error_code poison_;
  // In steps of two, so that a write sees by one look also whether it may be of something lost.
  static constexpr std::uint32_t something_is_lost = 1;
  static constexpr std::uint32_t one_failure = 2;
  std::atomic<std::uint32_t> failures_{0};
  std::atomic<std::uint32_t> clears_{0};
  std::atomic<bool> is_poisoned_{false};  // as poison_, for a look without the mutex
  file_stats stats_;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_FLUSH_SCHEDULER_HPP
