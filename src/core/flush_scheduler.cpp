#include "flush_scheduler.hpp"

#include "engine.hpp"
#include "extent.hpp"
#include "file_state.hpp"
#include "platform/page_bounds.hpp"
#include "platform/platform.hpp"

#include <asio/error.hpp>

#include <algorithm>
#include <bit>
#include <chrono>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {

namespace {

// Calls each(begin, end) in bytes for every page of a cut.
template <class Each>
void each_page(const std::vector<dirty_pages::taken>& cut, Each each) {
  for (const dirty_pages::taken& t : cut)
    for (std::uint64_t bits = t.bits; bits != 0; bits &= bits - 1) {
      const std::uint64_t page = t.word * 64 + static_cast<std::uint64_t>(std::countr_zero(bits));
      each(page * page_size(), (page + 1) * page_size());
    }
}

// How many pieces of what was there at open may have been synced singly before the rest is synced
// with the next of them: a bound on memory.
constexpr std::size_t most_content_ranges = 1024;

// Bounds of the wait for company: a slow disk is not made slower, and a loop whose coroutines do
// something else in between is asked now and then only.
constexpr std::uint64_t longest_pause = 2'000'000;
constexpr unsigned longest_vain = 7;

}  // namespace

std::uint64_t flush_scheduler::steady_nanoseconds() noexcept {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

flush_scheduler::flush_scheduler(file_state& file, std::mutex& mutex, bool unsynced_content,
                                 bool unsynced_name, std::uint64_t size)
    : file_(file), mutex_(mutex), name_(unsynced_name), size_generation_(1) {
  if (unsynced_content) content_.add(0, page_ceil(size));
  for (lane* l : {&whole_, &range_}) {
    l->scheduler = this;
    l->done = [](operation* op) noexcept {
      auto& done = *static_cast<lane*>(op);
      done.scheduler->call_done(done);
    };
    l->wait.of = l;
    l->wait.what = call::pause;
    l->wait.done = [](operation* op) noexcept {
      lane& of = *static_cast<pause*>(op)->of;
      of.scheduler->pause_done(of);
    };
  }
}

template <class Except>
bool flush_scheduler::is_claimed(const lane& l, std::uint64_t begin, std::uint64_t end,
                                 Except except) const noexcept {
  if (!l.busy) return false;
  if (durable_generation_ < l.size_generation) return true;
  if (l.with_name) return true;
  if (l.end <= begin || end <= l.begin) return false;
  if (l.all_taken) return true;
  for (const range_set::range& r : l.content_cut)
    if (r.begin < end && begin < r.end) return true;
  return dirty_pages::holds_any(l.cut, begin, end, except);
}

bool flush_scheduler::is_lost(std::uint64_t begin, std::uint64_t end) const noexcept {
  bool lost = all_lost_ || name_lost_;
  if (lost) return true;
  // Dirty bits alone say nothing: who stored before the failure may mark only now.
  lost_.each_overlapping(begin, end, [&](std::uint64_t from, std::uint64_t to) {
    lost = !rewritten_.covers(from, to);
    return !lost;
  });
  return lost;
}

bool flush_scheduler::join(operation& op, bool whole_file) noexcept {
  lane& own = whole_file ? whole_ : range_;
  operation* next = nullptr;
  {
    std::lock_guard lock(mutex_);
    ++stats_.flush_calls;
    extent* const e = file_.mapped();
    if (e == nullptr) {
      op.error = errc::not_open;
      return true;
    }
    const std::uint64_t limit = e->limit.load(std::memory_order_relaxed);
    if (!whole_file && (op.offset > limit || op.length > limit - op.offset)) {
      op.error = errc::out_of_range;
      return true;
    }
    if (file_.mode() != access::read_write || (!whole_file && op.length == 0)) return true;
    const std::uint64_t begin = whole_file ? 0 : page_floor(op.offset);
    // The limit is lower than the size while a shrink waits, which may yet be given up.
    const std::uint64_t end =
        page_ceil(whole_file ? std::max(limit, file_.size()) : op.offset + op.length);
    if (poison_ || is_lost(begin, end)) {
      op.error = errc::flush_failed;
      return true;
    }
    op.at = begin;
    op.count = end - begin;
    op.step = 0;
    const bool pinned = e->has_writable_pin(begin, end);
    const bool size_due = durable_generation_ != size_generation_ &&
                          !(whole_.busy && whole_.size_generation == size_generation_) &&
                          !(range_.busy && range_.size_generation == size_generation_);
    const auto is_dirty = [e](std::size_t word) { return e->dirty.bits_of(word); };
    const bool in_whole = is_claimed(whole_, begin, end, is_dirty);
    const bool in_range = is_claimed(range_, begin, end, is_dirty);
    // After the claims: a page that was written again meanwhile is in none, but has its bit then.
    const bool due =
        e->dirty.any(begin, end) || pinned || size_due || name_ || content_.overlaps(begin, end);
    if (due) {
      op.step = (&own == &whole_ ? in_range : in_whole) ? 1 : 0;
      own.gathering.push(op);
      ++own.gathered;
      next = proceed(own, op);
    } else if (in_whole || in_range) {
      op.step = in_whole && in_range ? 1 : 0;
      (in_range ? range_ : whole_).riding.push(op);
    } else {
      ++stats_.clean_flushes;
      if (whole_file) file_.whole_sync_begins();
      return true;
    }
  }
  if (next != nullptr) next->runner->submit(*next);
  return false;
}

operation* flush_scheduler::serve_gathering(lane& l, operation_list& finished) noexcept {
  if (l.gathering.empty()) return nullptr;
  if (file_.mapped() != nullptr) return proceed(l, *l.gathering.front());
  fail_gathering(l, errc::not_open, finished);
  return nullptr;
}

operation* flush_scheduler::proceed(lane& l, operation& leader) noexcept {
  if (l.busy) return nullptr;
  const bool complete = l.gathered >= l.expected;
  if (l.is_pausing) {
    if (!complete) return nullptr;
    l.vain = 0;
  } else if (!complete && !l.wait.is_under_way) {
    const std::uint64_t now = now_();
    if (now < l.patience) {
      l.is_pausing = true;
      l.wait.is_under_way = true;
      l.wait.dropped = false;
      l.wait.file = file_.shared_from_this();
      l.wait.home = leader.home;
      l.wait.runner = leader.runner;
      l.wait.count = l.patience - now;
      if (leader.home) return &l.wait;
      // A blocked thread may be gone before long: somebody else can complete the company, or fail
      // it.
      leader.runner->submit(l.wait);
      return nullptr;
    }
  }
  begin_sync(l, leader);
  return &l;
}

void flush_scheduler::begin_sync(lane& l, const operation& leader) noexcept {
  extent* const e = file_.mapped();
  l.riding.append(std::move(l.gathering));
  l.busy = true;
  l.is_pausing = false;
  l.gathered = 0;
  l.began = now_();
  if (&l == &whole_) file_.whole_sync_begins();
  // Not simply the first: its thread may be asleep, waiting for company.
  l.home = leader.home;
  l.runner = leader.runner;
  l.file = file_.shared_from_this();
  l.begin = ~std::uint64_t{0};
  l.end = 0;
  for (const operation* it = l.riding.front(); it != nullptr; it = it->next) {
    l.begin = std::min(l.begin, it->at);
    l.end = std::max(l.end, it->at + it->count);
  }
  if (content_.count() > most_content_ranges) {
    l.begin = 0;
    l.end = ~std::uint64_t{0};
  }
  // What a huge batch has left behind is not kept.
  l.cut = std::vector<dirty_pages::taken>();
  l.content_cut.clear();
  l.all_taken = false;
  l.error = {};
  l.dropped = false;
  l.size_generation = size_generation_;
  l.failures = failures();
  l.with_name = std::exchange(name_, false);
  if (l.with_name && file_.directory() != nullptr) {
    l.directory = file_.directory();
    l.directory->retain();
  }
  l.with_announcement =
      file_.announces() && e->unannounced.exchange(false, std::memory_order_relaxed);
  try {
    content_.take(l.begin, l.end, l.content_cut);
    file_.runs().sync_begins();
    e->stored.clear(l.begin, l.end);
    e->credit.store(0, std::memory_order_relaxed);
    e->dirty.take(l.begin, l.end, l.cut);
    // Written again since they were lost: from here on they stand or fall with this sync.
    std::vector<range_set::range> rewritten;
    if (!rewritten_.empty())
      each_page(l.cut, [&](std::uint64_t from, std::uint64_t to) {
        rewritten_.take(from, to, rewritten);
      });
    std::vector<range_set::range> ignored;
    for (const range_set::range& r : rewritten)
      lost_.take(r.begin, r.end, ignored);
    note_whether_something_is_lost();
  } catch (...) {
    // Too little memory to remember what was taken: as if it had been all there is.
    l.all_taken = true;
    // Nobody knows any more which of the lost ones this sync takes.
    rewritten_.clear();
    if (all_lost_ || (failures_.load(std::memory_order_relaxed) & something_is_lost) != 0)
      lose_all();
    e->dirty.clear(l.begin, l.end);
    l.begin = 0;
    l.end = ~std::uint64_t{0};
  }
  // Since they joined, the other lane may have taken what they wait for, and this one did not.
  const auto is_taken = [&l](std::size_t word) { return dirty_pages::bits_in(l.cut, word); };
  for (operation* it = l.riding.front(); it != nullptr; it = it->next)
    if (is_claimed(other(l), it->at, it->at + it->count, is_taken)) it->step = 1;
  // Every store whose mark found its bit set, and left it at that, is now visible to the sync.
  platform::heavy_barrier();
  l.mapped = e;
  e->retain();
  l.opened = &l == &whole_ ? file_.opened_for_whole() : file_.opened();
  l.opened->retain();
  l.what = call::sync;
  l.handle = l.opened->get();
  // A sync of a range counts in 32 bits on some engines; a range of gigabytes is as well served by
  // a whole one.
  const bool ranged = &l == &range_ && l.end - l.begin < (std::uint64_t{1} << 31);
  l.at = ranged ? l.begin : 0;
  l.count = ranged ? l.end - l.begin : 0;
  if (ranged && l.count == 0) l.count = page_size();  // only the size is due
  l.length = std::min(file_.size(), e->capacity());
  l.address = e->base() + l.at;
  ++stats_.syncs;
}

void flush_scheduler::expect_company(lane& l, const operation_list& finished) noexcept {
  l.served = 0;
  for (const operation* it = finished.front(); it != nullptr; it = it->next)
    l.served += it->error ? 0 : 1;
  l.expected = 0;
  if (l.served < 2) return;
  if (l.without_pause != 0) {
    --l.without_pause;
    return;
  }
  l.expected = l.gathered + l.served;
  const std::uint64_t now = now_();
  l.patience = now + std::min((now - l.began) / 2, longest_pause);
}

void flush_scheduler::pause_done(lane& l) noexcept {
  const std::shared_ptr<file_state> keep = std::move(l.wait.file);
  const std::shared_ptr<engine> home = std::move(l.wait.home);
  operation* next = nullptr;
  operation_list finished;
  {
    std::lock_guard lock(mutex_);
    l.wait.is_under_way = false;
    if (!std::exchange(l.is_pausing, false)) return;
    // Most of those expected are as good as all of them.
    if (2 * (l.expected - std::min(l.gathered, l.expected)) > l.served) {
      l.vain = std::min(2 * l.vain + 1, longest_vain);
      l.without_pause = l.vain;
    }
    l.expected = 0;
    next = serve_gathering(l, finished);
  }
  if (next != nullptr) next->runner->submit(*next);
  continue_all(std::move(finished));
}

void flush_scheduler::call_done(lane& l) noexcept {
  const std::shared_ptr<file_state> keep = l.file;
  if (!l.dropped && !l.error && l.what == call::sync && l.with_name) {
    if (l.directory != nullptr) {
      l.what = call::sync_name;
      l.handle = l.directory->get();
      l.runner->submit(l);
      return;
    }
  }
  {
    // An error is told once per open file: the sync beside this one, if it goes through the same,
    // may have it and be on its way with it. Then it must be heard first.
    std::lock_guard lock(mutex_);
    const lane& beside = other(l);
    l.has_returned = !l.error && !l.dropped && beside.busy && !beside.has_returned &&
                     file_.opened_for_whole() == file_.opened();
    if (l.has_returned) return;
  }
  end_sync(l);
  {
    std::lock_guard lock(mutex_);
    if (!std::exchange(other(l).has_returned, false)) return;
  }
  end_sync(other(l));
}

void flush_scheduler::fail_gathering(lane& l, std::error_code cause,
                                     operation_list& finished) noexcept {
  while (operation* op = l.gathering.pop()) {
    op->error = cause;
    finished.push(*op);
  }
}

void flush_scheduler::settle(lane& l, const std::shared_ptr<engine>& home,
                             operation_list& finished) noexcept {
  extent* const e = file_.mapped() != nullptr ? file_.mapped() : l.mapped;
  // The other lane's failure may have been about these pages as well, also if it is cleared by now.
  const bool distrusted = poison_ || has_failed_since(l.failures);
  if (l.dropped) {
    // The engine was shut down before it came to this sync. Its own waiters go with it; the others
    // want one still.
    name_ = name_ || l.with_name;
    operation_list again = std::move(l.riding);
    again.append(std::move(l.gathering));
    take_from_beside(l, again);
    if (distrusted) {
      lose_what_was_taken(l);
    } else {
      e->dirty.put_back(l.cut);
      for (const range_set::range& r : l.content_cut)
        content_.add(r.begin, r.end);
      if (l.all_taken) content_.add(0, page_ceil(file_.size()));
    }
    while (operation* op = again.pop()) {
      if (home && op->home == home)
        op->error = asio::error::operation_aborted;
      else if (distrusted)
        op->error = errc::flush_failed;
      else {
        l.gathering.push(*op);
        continue;
      }
      finished.push(*op);
    }
    return;
  }
  std::error_code verdict = l.error;
  if (!verdict && !distrusted && l.with_name && l.what == call::sync) {
    // The data is durable, the name cannot be made so: an error for these waiters, and due still.
    name_ = true;
    verdict = file_.directory_error();
    durable_generation_ = std::max(durable_generation_, l.size_generation);
  } else if (verdict || distrusted) {
    // A name cannot be written again, and the next sync of the directory would say that all is
    // well.
    if (verdict && l.what == call::sync_name)
      name_lost_ = true;
    else
      name_ = name_ || l.with_name;
    if (verdict) {
      ++stats_.sync_failures;
      poison(verdict);
      lose_all_that_is_dirty(*e);
    } else {
      verdict = errc::flush_failed;
    }
    lose_what_was_taken(l);
    operation_list beside_too;
    take_from_beside(l, beside_too);
    while (operation* op = beside_too.pop()) {
      op->error = errc::flush_failed;
      finished.push(*op);
    }
    fail_gathering(whole_, errc::flush_failed, finished);
    fail_gathering(range_, errc::flush_failed, finished);
  } else {
    durable_generation_ = std::max(durable_generation_, l.size_generation);
  }
  lane& beside = other(l);
  // No page is left out here: who came while both were under way may ride on the older of the two.
  const auto none = [](std::size_t) { return std::uint64_t{0}; };
  while (operation* op = l.riding.pop()) {
    if (!verdict && op->step != 0 && beside.busy &&
        is_claimed(beside, op->at, op->at + op->count, none)) {
      op->step = 0;
      beside.riding.push(*op);
      continue;
    }
    if (!verdict && name_) {
      // The sync that was to take care of the name was dropped.
      l.gathering.push(*op);
      continue;
    }
    ++stats_.sync_waiters;
    op->error = verdict;
    finished.push(*op);
  }
}

void flush_scheduler::lose_what_was_taken(const lane& l) noexcept {
  if (l.all_taken) lose_all();
  each_page(l.cut, [&](std::uint64_t from, std::uint64_t to) { add_lost(from, to); });
  for (const range_set::range& r : l.content_cut)
    add_lost(r.begin, r.end);
}

// Those whom the sync beside serves in part only, since this one has taken the rest.
void flush_scheduler::take_from_beside(const lane& l, operation_list& waiters) noexcept {
  lane& beside = other(l);
  const auto none = [](std::size_t) { return std::uint64_t{0}; };
  operation_list kept;
  while (operation* op = beside.riding.pop())
    (op->step != 0 && is_claimed(l, op->at, op->at + op->count, none) ? waiters : kept).push(*op);
  beside.riding = std::move(kept);
}

void flush_scheduler::end_sync(lane& l) noexcept {
  const std::shared_ptr<file_state> keep = std::move(l.file);
  const std::shared_ptr<engine> home = std::move(l.home);
  extent* mapped = nullptr;
  shared_handle* opened = nullptr;
  shared_handle* directory = nullptr;
  operation* next = nullptr;
  bool announce = false;
  operation_list finished;
  {
    std::lock_guard lock(mutex_);
    settle(l, home, finished);
    mapped = std::exchange(l.mapped, nullptr);
    opened = std::exchange(l.opened, nullptr);
    directory = std::exchange(l.directory, nullptr);
    l.busy = false;
    announce = l.with_announcement;
    expect_company(l, finished);
    next = serve_gathering(l, finished);
  }
  if (announce) file_.announce(*opened, home);
  if (next != nullptr) next->runner->submit(*next);
  mapped->release();
  opened->release();
  if (directory != nullptr) directory->release();
  continue_all(std::move(finished));
}

bool flush_scheduler::withdraw(operation& op, bool interrupt) noexcept {
  // What it wrote is written; only who asks for an end in the middle gets one.
  if (op.kind == verb::update && !interrupt) return false;
  for (lane* l : {&whole_, &range_})
    if (l->gathering.remove(op) || l->riding.remove(op)) return true;
  return false;
}

operation_list flush_scheduler::withdraw_awaited() noexcept {
  operation_list awaited;
  for (lane* l : {&whole_, &range_})
    for (operation_list* list : {&l->gathering, &l->riding}) {
      operation_list kept;
      while (operation* op = list->pop())
        (op->home ? awaited : kept).push(*op);
      *list = std::move(kept);
    }
  return awaited;
}

void flush_scheduler::store_refused(std::uint64_t begin, std::uint64_t end,
                                    std::error_code cause) noexcept {
  std::lock_guard lock(mutex_);
  poison(cause);
  if (extent* const e = file_.mapped()) lose_now(*e, begin, end);
}

// The kernel tells of a failed write-back once, to whoever syncs next, and not what it was about: a
// page that was written back by itself long ago, or shares a folio with one that was asked for, may
// be the one. From then on it takes that page for clean. So nothing that is dirty now can be made
// durable by a sync any more.
void flush_scheduler::lose_all_that_is_dirty(extent& e) noexcept {
  // Before the bits are taken: a region that is dropped meanwhile marks its pages, and is gone
  // then.
  e.suspect_writable_pins(
      [&](std::uint64_t from, std::uint64_t to) { add_lost(page_floor(from), page_ceil(to)); });
  // Not sooner: who drops a region that was not met above has asked before this. Not later: who
  // marks a page once its bit is taken sees it.
  failures_.fetch_add(one_failure, std::memory_order_acq_rel);
  std::vector<dirty_pages::taken> dirty;
  std::vector<range_set::range> content;
  try {
    e.dirty.take(0, e.capacity(), dirty);
    each_page(dirty, [&](std::uint64_t from, std::uint64_t to) { add_lost(from, to); });
    content_.take(0, ~std::uint64_t{0}, content);
    for (const range_set::range& r : content)
      add_lost(r.begin, r.end);
  } catch (...) {
    e.dirty.clear(0, e.capacity());
    lose_all();
  }
}

void flush_scheduler::add_lost(std::uint64_t begin, std::uint64_t end) noexcept {
  try {
    std::vector<range_set::range> ignored;
    rewritten_.take(begin, end, ignored);
    lost_.add(begin, end);
    note_whether_something_is_lost();
  } catch (...) {
    lose_all();
  }
}

void flush_scheduler::lose_all() noexcept {
  all_lost_ = true;
  note_whether_something_is_lost();
}

void flush_scheduler::note_whether_something_is_lost() noexcept {
  const bool lost = all_lost_ || !lost_.empty();
  if (lost)
    failures_.fetch_or(something_is_lost, std::memory_order_acq_rel);
  else
    failures_.fetch_and(~something_is_lost, std::memory_order_acq_rel);
  if (extent* const e = file_.mapped()) e->tells_of_drops.store(lost, std::memory_order_release);
}

void flush_scheduler::lose_now(extent& e, std::uint64_t begin, std::uint64_t end) noexcept {
  e.dirty.clear(page_floor(begin), page_ceil(end));
  add_lost(page_floor(begin), page_ceil(end));
}

void flush_scheduler::lose(std::uint64_t begin, std::uint64_t end) noexcept {
  std::lock_guard lock(mutex_);
  if (extent* const e = file_.mapped()) lose_now(*e, begin, end);
}

void flush_scheduler::written(std::uint32_t failures_before, std::uint64_t begin,
                              std::uint64_t end) noexcept {
  std::lock_guard lock(mutex_);
  extent* const e = file_.mapped();
  if (e == nullptr) return;
  if (has_failed_since(failures_before)) return lose_now(*e, begin, end);
  try {
    lost_.each_overlapping(page_floor(begin), page_ceil(end),
                           [&](std::uint64_t from, std::uint64_t to) {
                             rewritten_.add(from, to);
                             // A sync may have taken the bit meanwhile, without knowing what for.
                             e->dirty.mark(from, to);
                             return true;
                           });
  } catch (...) {
    // Lost still.
  }
}

void flush_scheduler::policy_failed(std::error_code cause, std::uint32_t clears) noexcept {
  std::lock_guard lock(mutex_);
  if (clears == clears_.load(std::memory_order_relaxed)) poison(cause);
}

void flush_scheduler::poison(std::error_code cause) noexcept {
  if (!poison_) poison_ = cause;
  is_poisoned_.store(true, std::memory_order_relaxed);
}

bool flush_scheduler::owes_flush() const noexcept {
  std::lock_guard lock(mutex_);
  const extent* const e = file_.mapped();
  return e != nullptr &&
         (is_busy() || poison_ || name_ || durable_generation_ != size_generation_ ||
          e->has_writable_pin(0, e->capacity()) || e->dirty.any(0, e->capacity()));
}

std::error_code flush_scheduler::error() const noexcept {
  std::lock_guard lock(mutex_);
  return poison_;
}

void flush_scheduler::clear_error() noexcept {
  std::lock_guard lock(mutex_);
  poison_ = {};
  clears_.fetch_add(1, std::memory_order_relaxed);
  is_poisoned_.store(false, std::memory_order_relaxed);
}

void flush_scheduler::add_to(file_stats& stats) const noexcept {
  stats.flush_calls = stats_.flush_calls;
  stats.syncs = stats_.syncs;
  stats.sync_waiters = stats_.sync_waiters;
  stats.clean_flushes = stats_.clean_flushes;
  stats.sync_failures = stats_.sync_failures;
}

}  // namespace detail
MAPIO_NAMESPACE_END
