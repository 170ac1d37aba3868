// What is behind the public interface: dirty pages, pins, flush lanes with a performer that the
// test drives by hand, and the ring in situations that a program only gets into by bad luck.
#include "core_fixture.hpp"
#include "support.hpp"

#include "backend/io_uring.hpp"
#include "backend/thread_pool.hpp"
#include "core/copy_window.hpp"
#include "core/dirty_pages.hpp"
#include "core/engine.hpp"
#include "core/extent.hpp"
#include "core/file_state.hpp"
#include "core/flush_scheduler.hpp"
#include "core/page_locks.hpp"
#include "core/range_set.hpp"
#include "core/recent_pages.hpp"
#include "platform/scheduling.hpp"

#include <mapio/mapped_file.hpp>

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace {

using namespace mapio;          // NOLINT: the internals are all there
using namespace mapio::detail;  // NOLINT
using support::counted;
using support::open_state;
using support::page;
using support::transfer;

TEST(RangeSet, MergesNeighboursAndOverlaps) {
  range_set set;
  set.add(10, 20);
  set.add(30, 40);
  set.add(20, 30);
  EXPECT_EQ(set.count(), 1U);
  EXPECT_TRUE(set.overlaps(0, 11));
  EXPECT_FALSE(set.overlaps(0, 10));
  EXPECT_FALSE(set.overlaps(40, 50));
}

TEST(RangeSet, TakesExactlyWhatItIsAskedFor) {
  range_set set;
  set.add(0, 100);
  std::vector<range_set::range> cut;
  set.take(20, 30, cut);
  ASSERT_EQ(cut.size(), 1U);
  EXPECT_EQ(cut[0].begin, 20U);
  EXPECT_EQ(cut[0].end, 30U);
  EXPECT_TRUE(set.overlaps(0, 20));
  EXPECT_FALSE(set.overlaps(20, 30));
  EXPECT_TRUE(set.overlaps(30, 100));
}

TEST(RangeSet, AgreesWithASetOfBytes) {
  std::mt19937 random(1);
  range_set set;
  std::vector<bool> model(200);
  for (int i = 0; i < 20000; ++i) {
    std::uint64_t begin = random() % model.size();
    std::uint64_t end = random() % model.size();
    if (begin > end) std::swap(begin, end);
    switch (random() % 3) {
    case 0:
      set.add(begin, end);
      std::fill(model.begin() + static_cast<long>(begin), model.begin() + static_cast<long>(end),
                true);
      break;
    case 1: {
      std::vector<range_set::range> cut;
      set.take(begin, end, cut);
      std::vector<bool> taken(model.size());
      for (const auto& r : cut)
        std::fill(taken.begin() + static_cast<long>(r.begin),
                  taken.begin() + static_cast<long>(r.end), true);
      for (std::uint64_t at = 0; at < model.size(); ++at) {
        const bool inside = begin <= at && at < end;
        ASSERT_EQ(taken[at], inside && model[at]);
        if (inside) model[at] = false;
      }
      break;
    }
    default: {
      bool any = false;
      for (std::uint64_t at = begin; at < end; ++at)
        any = any || model[at];
      ASSERT_EQ(set.overlaps(begin, end), any);
    }
    }
  }
}

TEST(DirtyPages, AgreeWithASetOfPages) {
  constexpr std::size_t pages = 300;  // several words, the last one not full
  dirty_pages dirty;
  ASSERT_TRUE(dirty.reserve(pages * page()));
  std::vector<bool> model(pages);
  std::mt19937 random(2);
  for (int i = 0; i < 20000; ++i) {
    std::size_t first = random() % pages;
    std::size_t last = random() % pages;
    if (first > last) std::swap(first, last);
    // Any byte of the first page to any byte of the last one.
    const std::uint64_t begin = first * page() + random() % page();
    const std::uint64_t end = last * page() + 1 + random() % page();
    if (begin >= end) continue;
    if (random() % 2 == 0) {
      dirty.mark(begin, end);
      for (std::size_t p = first; p <= last; ++p)
        model[p] = true;
    } else {
      std::vector<dirty_pages::taken> cut;
      dirty.take(begin, end, cut);
      if (random() % 4 == 0)
        dirty.put_back(cut);
      else
        for (std::size_t p = first; p <= last; ++p)
          model[p] = false;
    }
    std::uint64_t count = 0;
    bool all = true;
    for (std::size_t p = first; p <= last; ++p) {
      count += model[p] ? 1 : 0;
      all = all && model[p];
    }
    ASSERT_EQ(dirty.count(begin, end), count);
    ASSERT_EQ(dirty.any(begin, end), count != 0);
    ASSERT_EQ(dirty.all(begin, end), all);
  }
}

// A store of which the flush side must not lose the mark: the writer looks at the bit, the flusher
// takes it.
TEST(DirtyPages, NoStoreIsLostBetweenALookAndATake) {
  dirty_pages dirty;
  ASSERT_TRUE(dirty.reserve(page()));
  std::atomic<std::uint64_t> stored{0};
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (std::uint64_t i = 1; !stop.load(std::memory_order_relaxed); ++i) {
      stored.store(i, std::memory_order_relaxed);
      dirty.mark(0, 1);
    }
  });
  std::uint64_t synced = 0;
  for (int i = 0; i < 20000; ++i) {
    std::vector<dirty_pages::taken> cut;
    dirty.take(0, 1, cut);
    platform::heavy_barrier();
    synced = stored.load(std::memory_order_relaxed);
  }
  stop = true;
  writer.join();
  // Clean must mean synced; what came after the last take has its mark.
  if (!dirty.any(0, 1)) {
    EXPECT_EQ(synced, stored.load());
  }
}

TEST(Extent, CountsPinsByWhatTheyReach) {
  const support::temp_dir dir;
  const auto state = open_state(dir / "f", 10 * page());
  extent& e = *state->mapped();
  const pin low = e.acquire(0, page(), 0);
  const pin high = e.acquire(8 * page(), 9 * page(), pin_slot::operation);
  EXPECT_EQ(e.count_pins(0, false).regions, 1U);
  EXPECT_EQ(e.count_pins(0, false).operations, 1U);
  EXPECT_EQ(e.count_pins(page(), false).regions, 0U);
  EXPECT_EQ(e.count_pins(9 * page() - 1, false).operations, 1U);
  EXPECT_EQ(e.count_pins(9 * page(), false).operations, 0U);
}

TEST(Extent, ManyPinsAndCopiesAreAllCounted) {
  const support::temp_dir dir;
  const auto state = open_state(dir / "f", page());
  extent& e = *state->mapped();
  std::vector<pin> pins;
  for (int i = 0; i < 5000; ++i)
    pins.push_back(e.acquire(0, 1, 0));
  const std::vector<pin> copies = pins;
  EXPECT_EQ(e.count_pins(0, false).regions, 10000U);
  pins.clear();
  EXPECT_EQ(e.count_pins(0, false).regions, 5000U);
}

TEST(Extent, TheLastPinUnmapsAfterTheFileIsGone) {
  const support::temp_dir dir;
  auto state = open_state(dir / "f", page());
  pin first = state->mapped()->acquire(0, 1, 0);
  state.reset();
  EXPECT_TRUE(support::is_mapped(dir / "f"));
  pin copy = first;  // made when there is no slot to be had any more
  first = pin();
  EXPECT_TRUE(support::is_mapped(dir / "f"));
  copy = pin();
  EXPECT_FALSE(support::is_mapped(dir / "f"));
}

TEST(Extent, PinsTakenAndDroppedByThreadsWhileTheFileGoes) {
  constexpr int rounds = support::is_emulated ? 20 : 200;
  const support::temp_dir dir;
  for (int round = 0; round < rounds; ++round) {
    auto state = open_state(dir / "f", page());
    mapping m = mapping_of(state);
    state.reset();
    std::atomic<bool> go{false};
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t)
      threads.emplace_back([m, &go] {
        while (!go)
          std::this_thread::yield();
        for (int i = 0; i < 200; ++i) {
          std::error_code error;
          const region r = m.view(0, 1, error);
          // NOLINTNEXTLINE(performance-unnecessary-copy-initialization): a second pin
          const region copy = r;
          if (!copy.empty()) {
            EXPECT_EQ(copy.data()[0], std::byte{0});
          }
        }
      });
    go = true;
    m.close();
    for (auto& t : threads)
      t.join();
    EXPECT_FALSE(support::is_mapped(dir / "f"));
  }
}

// Both sides of the bet that a pin is taken with a plain store: either the one who pins sees that
// the range is cut, or the one who cuts sees the pin.
TEST(Extent, APinAndACutDoNotMissEachOther) {
  constexpr int rounds = support::is_emulated ? 5'000 : 20'000;
  const support::temp_dir dir;
  const auto state = open_state(dir / "f", 2 * page());
  extent& e = *state->mapped();
  // No barrier of the library's: both have to start at once, and to be off at once.
  std::atomic<int> arrived{0};
  const auto meet = [&arrived](int times) {
    arrived.fetch_add(1);
    for (int spins = 0; arrived.load() < 2 * times;)
      if (++spins % 1000 == 0) std::this_thread::yield();
  };
  std::atomic<bool> pinned{false};
  std::atomic<const pin_slot*> used{nullptr};
  int both = 0;
  std::thread pinner([&] {
    {
      pin_slot* const slot = e.acquire_fast(0, 1);
      const pin drops(&e, slot, pin_slot::occupied);
      used = slot;
    }
    for (int round = 0, meetings = 0; round < rounds; ++round) {
      meet(++meetings);
      pin_slot* const slot = e.acquire_fast(page(), 2 * page());
      pinned = e.limit.load(std::memory_order_seq_cst) == 2 * page();
      meet(++meetings);
      const pin drops(&e, slot, page() << pin_slot::shift | pin_slot::occupied);
      meet(++meetings);
    }
  });
  for (int round = 0, meetings = 0; round < rounds; ++round) {
    e.limit = 2 * page();
    meet(++meetings);
    // Who of the two comes first, and by how much, depends on the machine: all of it is tried.
    for (std::atomic<int> wait{round % 64}; wait > 0;)
      --wait;
    e.limit.store(page(), std::memory_order_seq_cst);
    platform::heavy_barrier();
    // As count_pins() does, but without a mutex, which takes long enough to hide a mistake.
    const bool cut = used.load()->word.load(std::memory_order_seq_cst) == 0;
    meet(++meetings);
    both += pinned && cut ? 1 : 0;
    meet(++meetings);
  }
  pinner.join();
  EXPECT_EQ(both, 0);
  e.limit = 2 * page();
}

// At every moment there is a pin: a copy is made, and then the original goes.
TEST(Extent, ACountFindsAPinThatMovesFromCopyToCopy) {
  const support::temp_dir dir;
  const auto state = open_state(dir / "f", page());
  extent& e = *state->mapped();
  const mapping m = mapping_of(state);
  std::atomic<bool> stop{false};
  std::atomic<bool> started{false};
  std::thread copier([&] {
    region here = m.view(0, 1);
    for (started = true; !stop;) {
      region there = here;
      here = region();
      here = std::move(there);
      // The next copy has a slot that views take: another place in the order of the slots.
      const region view = m.view(0, 1);
      here = view;
    }
  });
  while (!started)
    std::this_thread::yield();
  int missed = 0;
  for (int i = 0; i < 300'000; ++i) {
    const extent::pin_count count = e.count_pins(0, i % 2 == 0);
    missed += count.regions == 0 ? 1 : 0;
  }
  stop = true;
  copier.join();
  EXPECT_EQ(missed, 0);
}

TEST(Extent, SlotsOfAThreadAreNobodyElsesWhileItLives) {
  const support::temp_dir dir;
  const auto state = open_state(dir / "f", page());
  extent& e = *state->mapped();
  std::set<const pin_slot*> taken;
  std::vector<pin> pins;
  const auto take_all = [&] {
    std::size_t count = 0;
    for (; pin_slot* const slot = e.acquire_fast(0, 1); ++count) {
      EXPECT_TRUE(taken.insert(slot).second) << "somebody else's";
      pins.emplace_back(&e, slot, pin_slot::occupied);
    }
    return count;
  };
  std::thread([&] {
    EXPECT_EQ(take_all(), 4U);
    std::thread([&] { EXPECT_EQ(take_all(), 4U); }).join();
    EXPECT_EQ(take_all(), 0U);
  }).join();
  // Who gets the slots of a thread that has ended finds them as that left them.
  std::thread([&] { take_all(); }).join();
  EXPECT_EQ(e.count_pins(0, false).regions, pins.size());
  pins.clear();
  EXPECT_EQ(e.count_pins(0, false).regions, 0U);
  taken.clear();
  std::thread([&] { EXPECT_EQ(take_all(), 4U); }).join();

  // There are others, for who has none of his own left.
  const mapping m = mapping_of(state);
  std::vector<region> views;
  for (int i = 0; i < 10; ++i)
    views.push_back(m.view(0, 1));
  EXPECT_EQ(e.count_pins(0, false).regions, pins.size() + 10);
}

TEST(PageLocks, OfACancelledCallAreTakenBackAndNoOthers) {
  const support::temp_dir dir;
  constexpr std::uint64_t size = 16 << 20;  // several pieces
  const auto state = open_state(dir / "f", size);
  const extent& e = *state->mapped();
  page_locks locks;
  const std::atomic<bool> cancelled{true};
  const std::atomic<bool> wanted{false};
  ASSERT_FALSE(locks.lock(e, page(), 3 * page(), wanted));
  EXPECT_EQ(locks.lock(e, 0, size, cancelled), asio::error::operation_aborted);
  support::expect_locked(2 * page());
  EXPECT_TRUE(locks.any(2 * page(), size));
  EXPECT_FALSE(locks.any(3 * page(), size));
  EXPECT_FALSE(locks.lock(e, 8 * page(), 9 * page(), cancelled)) << "it was over already";
  support::expect_locked(3 * page());
  ASSERT_FALSE(locks.unlock(e, 0, size));
  support::expect_locked(0);
}

TEST(RecentPages, AreKnownByAnyByteOfThem) {
  recent_pages recent;
  EXPECT_FALSE(recent.holds(3 * page()));
  recent.add(3 * page() + 17);
  EXPECT_TRUE(recent.holds(3 * page()));
  EXPECT_TRUE(recent.holds(4 * page() - 1));
  EXPECT_FALSE(recent.holds(4 * page()));
  EXPECT_FALSE(recent.holds(2 * page()));
}

TEST(RecentPages, AreTakenForOthersRarelyHoweverTheyAreSpread) {
  for (const std::uint64_t stride :
       {std::uint64_t{1}, std::uint64_t{256}, std::uint64_t{1} << 16, std::uint64_t{1} << 20}) {
    recent_pages recent;
    const auto at = [&](std::uint64_t i) { return i * stride * page(); };
    std::uint64_t mistaken = 0;
    for (std::uint64_t i = 0; i < 10'000; ++i) {
      if (recent.holds(at(i))) ++mistaken;
      recent.add(at(i));
      EXPECT_TRUE(recent.holds(at(i)));
    }
    // A write to one that is not there keeps all others waiting.
    EXPECT_LT(mistaken, 10U) << stride;
    std::uint64_t known = 0;
    for (std::uint64_t i = 9'000; i < 10'000; ++i)
      if (recent.holds(at(i))) ++known;
    EXPECT_GT(known, 800U) << stride;
  }
}

TEST(RecentPages, AreForgottenInTime) {
  recent_pages recent;
  recent.add(0);
  for (std::uint64_t i = 1; i <= 2 * recent_pages::most; ++i)
    recent.add(i * page());
  EXPECT_FALSE(recent.holds(0));
}

/// Keeps what it is given until the test says how it ended.
class manual_performer final : public performer {
 public:
  void submit(operation& op) noexcept override { calls.push_back(&op); }

  std::size_t waiting() const { return calls.size(); }
  void finish_next(std::error_code error = {}) { finish(0, error); }
  void finish(std::size_t index, std::error_code error = {}) {
    operation* op = calls.at(index);
    calls.erase(calls.begin() + static_cast<std::ptrdiff_t>(index));
    op->error = error;
    op->done(op);
  }

  std::vector<operation*> calls;
};

struct waiter : operation {
  explicit waiter(performer& p) {
    runner = &p;
    done = [](operation* op) noexcept { finish(*op); };
    complete = [](operation* op, delivery) { static_cast<waiter*>(op)->completed = true; };
    destroy = [](operation*) noexcept {};
  }
  bool completed = false;
};

class flush_lanes : public testing::Test {
 protected:
  void SetUp() override {
    options_.announce = false;
    state_ = open_state(dir_ / "f", 64 * page(), options_);
    // Size and name are due after creation: get them out of the way.
    ASSERT_FALSE(state_->flush(true, 0, 0, durability::durable));
  }

  void dirty(std::uint64_t offset) {
    failure why{};
    state_->store(offset, "x", 1, why);
    ASSERT_EQ(why, no_failure);
  }
  bool join(waiter& w, std::uint64_t offset, std::uint64_t length) {
    w.offset = offset;
    w.length = length;
    return flushes().join(w, false);
  }
  bool join_whole(waiter& w) { return flushes().join(w, true); }
  /// A sync of this page fails, and the error is cleared.
  void lose(std::uint64_t offset) {
    dirty(offset);
    waiter first(engine_);
    EXPECT_FALSE(join(first, offset, 1));
    engine_.finish_next(make_error_code(std::errc::io_error));
    state_->clear_flush_error();
  }
  /// The engine of the oldest sync is shut down before it came to it.
  void drop_next() {
    engine_.calls[0]->dropped = true;
    engine_.finish_next();
  }
  void open_again() {
    ASSERT_FALSE(state_->close());
    open_options existing = options_;
    existing.create = disposition::open_existing;
    state_ = open_state(dir_ / "f", 64 * page(), existing);
  }
  flush_scheduler& flushes() { return state_->flushes(); }

  support::temp_dir dir_;
  open_options options_ = support::creating(0);
  std::shared_ptr<file_state> state_;
  manual_performer engine_;
};

TEST_F(flush_lanes, ACleanRangeIsOverAtOnce) {
  waiter w(engine_);
  EXPECT_TRUE(join(w, 0, page()));
  EXPECT_FALSE(w.error);
  EXPECT_EQ(engine_.waiting(), 0U);
}

TEST_F(flush_lanes, WhatArrivesDuringASyncIsServedByTheNextOneTogether) {
  std::vector<std::unique_ptr<waiter>> waiters;
  for (int i = 0; i < 10; ++i) {
    dirty(static_cast<std::uint64_t>(i) * page());
    waiters.push_back(std::make_unique<waiter>(engine_));
    EXPECT_FALSE(join(*waiters.back(), static_cast<std::uint64_t>(i) * page(), 1));
  }
  ASSERT_EQ(engine_.waiting(), 1U);
  EXPECT_EQ(engine_.calls[0]->count, page());  // only the first had come
  engine_.finish_next();
  EXPECT_TRUE(waiters[0]->completed);
  EXPECT_FALSE(waiters[1]->completed);
  ASSERT_EQ(engine_.waiting(), 1U);
  EXPECT_EQ(engine_.calls[0]->at, page());
  EXPECT_EQ(engine_.calls[0]->count, 9 * page());
  engine_.finish_next();
  for (const auto& w : waiters)
    EXPECT_TRUE(w->completed && !w->error);
  EXPECT_EQ(engine_.waiting(), 0U);
}

TEST_F(flush_lanes, AStoreDuringASyncIsNotCoveredByIt) {
  dirty(0);
  waiter first(engine_);
  EXPECT_FALSE(join(first, 0, 1));
  dirty(0);
  waiter second(engine_);
  EXPECT_FALSE(join(second, 0, 1));
  engine_.finish_next();
  EXPECT_TRUE(first.completed);
  EXPECT_FALSE(second.completed);
  engine_.finish_next();
  EXPECT_TRUE(second.completed);
}

TEST_F(flush_lanes, WhoseBytesAreInASyncUnderWayWaitsForThatOne) {
  dirty(0);
  waiter first(engine_);
  EXPECT_FALSE(join(first, 0, 1));
  waiter second(engine_);  // nothing was stored since
  EXPECT_FALSE(join(second, 0, 1));
  EXPECT_EQ(engine_.waiting(), 1U);
  engine_.finish_next();
  EXPECT_TRUE(first.completed);
  EXPECT_TRUE(second.completed);
  EXPECT_EQ(engine_.waiting(), 0U);
}

TEST_F(flush_lanes, ARangeDoesNotQueueBehindTheWholeFile) {
  dirty(0);
  waiter whole(engine_);
  EXPECT_FALSE(join_whole(whole));
  dirty(5 * page());
  waiter range(engine_);
  EXPECT_FALSE(join(range, 5 * page(), 1));
  ASSERT_EQ(engine_.waiting(), 2U);
  engine_.finish(1);
  EXPECT_TRUE(range.completed);
  EXPECT_FALSE(whole.completed);
  engine_.finish_next();
  EXPECT_TRUE(whole.completed);
}

TEST_F(flush_lanes, ARangeWhosePagesTheWholeSyncTookWaitsForItToo) {
  dirty(0);
  dirty(page());
  waiter whole(engine_);
  EXPECT_FALSE(join_whole(whole));
  dirty(page());  // page 0 is the whole sync's, page 1 is dirty again
  waiter range(engine_);
  EXPECT_FALSE(join(range, 0, 2 * page()));
  ASSERT_EQ(engine_.waiting(), 2U);
  engine_.finish(1);
  EXPECT_FALSE(range.completed);
  engine_.finish_next();
  EXPECT_TRUE(range.completed);
  EXPECT_FALSE(range.error);
}

TEST_F(flush_lanes, ARewrittenPageDoesNotWaitForTheWholeSyncThatHadItBefore) {
  dirty(0);
  waiter whole(engine_);
  EXPECT_FALSE(join_whole(whole));
  dirty(0);
  waiter range(engine_);
  EXPECT_FALSE(join(range, 0, 1));
  ASSERT_EQ(engine_.waiting(), 2U);
  engine_.finish(1);
  EXPECT_TRUE(range.completed);
  EXPECT_FALSE(whole.completed);
  engine_.finish_next();
  EXPECT_TRUE(whole.completed);
}

TEST_F(flush_lanes, WhatTheWholeSyncTakesFromWhoGathersIsWaitedForInBoth) {
  dirty(5 * page());
  waiter first(engine_);
  EXPECT_FALSE(join(first, 5 * page(), 1));
  dirty(0);
  waiter gathered(engine_);
  EXPECT_FALSE(join(gathered, 0, 1));
  waiter whole(engine_);
  EXPECT_FALSE(join_whole(whole));  // takes page 0
  ASSERT_EQ(engine_.waiting(), 2U);
  engine_.finish_next();  // the first: now the one that has gathered has a sync
  ASSERT_EQ(engine_.waiting(), 2U);
  engine_.finish(1);
  EXPECT_FALSE(gathered.completed);
  engine_.finish_next();
  EXPECT_TRUE(gathered.completed && whole.completed);
}

TEST_F(flush_lanes, WhoRidesOnTheOlderOfTwoSyncsWaitsForTheYoungerToo) {
  dirty(0);
  waiter first(engine_);
  EXPECT_FALSE(join(first, 0, 1));
  dirty(0);
  waiter whole(engine_);
  EXPECT_FALSE(join_whole(whole));  // takes what was stored since
  waiter late(engine_);
  EXPECT_FALSE(join(late, 0, 1));
  ASSERT_EQ(engine_.waiting(), 2U);
  engine_.finish_next();
  EXPECT_TRUE(first.completed);
  EXPECT_FALSE(late.completed);
  engine_.finish_next();
  EXPECT_TRUE(late.completed && whole.completed);
}

// The cost of a look at a claim must not grow with what else was claimed.
TEST(DirtyPages, ACutIsSearchedByPage) {
  dirty_pages dirty;
  ASSERT_TRUE(dirty.reserve(1024 * page()));
  for (const std::uint64_t p : {3U, 63U, 64U, 200U, 700U})
    dirty.mark(p * page(), (p + 1) * page());
  std::vector<dirty_pages::taken> cut;
  dirty.take(0, 1024 * page(), cut);
  dirty.mark(64 * page(), 65 * page());
  const auto none = [](std::size_t) { return std::uint64_t{0}; };
  const auto dirty_since = [&](std::size_t word) { return dirty.bits_of(word); };
  const auto holds = [&](std::uint64_t from, std::uint64_t to, auto except) {
    return dirty_pages::holds_any(cut, from * page(), to * page(), except);
  };
  EXPECT_TRUE(holds(0, 1024, none));
  EXPECT_FALSE(holds(0, 3, none));
  EXPECT_TRUE(holds(3, 4, none));
  EXPECT_FALSE(holds(4, 63, none));
  EXPECT_TRUE(holds(4, 64, none));
  EXPECT_TRUE(holds(64, 65, none));
  EXPECT_FALSE(holds(64, 65, dirty_since));
  EXPECT_TRUE(holds(63, 65, dirty_since));
  EXPECT_FALSE(holds(65, 200, none));
  EXPECT_TRUE(holds(65, 1024, dirty_since));
  EXPECT_FALSE(holds(701, 1024, none));
  EXPECT_FALSE(holds(5, 5, none));
  EXPECT_EQ(dirty_pages::bits_in(cut, 1), 1U);
  EXPECT_EQ(dirty_pages::bits_in(cut, 2), 0U);
}

TEST_F(flush_lanes, OneFailureIsEverybodys) {
  const auto failed = make_error_code(std::errc::io_error);
  dirty(0);
  dirty(page());
  waiter rider1(engine_), rider2(engine_), gathered(engine_);
  EXPECT_FALSE(join(rider1, 0, 2 * page()));
  EXPECT_FALSE(join(rider2, page(), 1));
  dirty(2 * page());
  EXPECT_FALSE(join(gathered, 2 * page(), 1));
  engine_.finish_next(failed);
  EXPECT_EQ(rider1.error, failed);
  EXPECT_EQ(rider2.error, failed);
  EXPECT_TRUE(gathered.completed);
  EXPECT_EQ(gathered.error, errc::flush_failed);
  EXPECT_EQ(state_->flush_error(), failed);
  waiter later(engine_);
  EXPECT_TRUE(join(later, 40 * page(), 1));
  EXPECT_EQ(later.error, errc::flush_failed);
  EXPECT_EQ(engine_.waiting(), 0U);
}

TEST_F(flush_lanes, TheOtherLaneCannotSucceedPastAFailure) {
  dirty(0);
  waiter whole(engine_);
  EXPECT_FALSE(join_whole(whole));
  dirty(5 * page());
  waiter range(engine_);
  EXPECT_FALSE(join(range, 5 * page(), 1));
  engine_.finish_next(make_error_code(std::errc::io_error));
  engine_.finish_next();  // "ok", since the error was reported to the first
  EXPECT_EQ(range.error, errc::flush_failed);
}

TEST_F(flush_lanes, AClearedErrorMakesNothingDurable) {
  dirty(0);
  dirty(page());
  waiter first(engine_);
  EXPECT_FALSE(join(first, 0, 2 * page()));
  engine_.finish_next(make_error_code(std::errc::io_error));
  state_->clear_flush_error();
  waiter lost(engine_), elsewhere(engine_);
  EXPECT_TRUE(join(lost, 0, 1));
  EXPECT_EQ(lost.error, errc::flush_failed);
  EXPECT_TRUE(join(elsewhere, 10 * page(), 1));
  EXPECT_FALSE(elsewhere.error);
  dirty(0);  // written again: now it can be synced
  waiter again(engine_);
  EXPECT_FALSE(join(again, 0, 1));
  engine_.finish_next();
  EXPECT_TRUE(again.completed && !again.error);
  waiter other(engine_);  // page 1 was not
  EXPECT_TRUE(join(other, page(), 1));
  EXPECT_EQ(other.error, errc::flush_failed);
}

TEST_F(flush_lanes, AWaiterOfTwoSyncsWaitsForBothAlthoughAPageIsWrittenAgain) {
  dirty(0);
  waiter part(engine_), all(engine_), both(engine_);
  EXPECT_FALSE(join(part, 0, 1));
  dirty(page());
  EXPECT_FALSE(join_whole(all));
  EXPECT_FALSE(join(both, 0, 2 * page()));  // nothing is due: page 0 is in one sync, 1 in the other
  ASSERT_EQ(engine_.waiting(), 2U);
  dirty(page());
  engine_.finish_next();
  EXPECT_TRUE(part.completed && !part.error);
  EXPECT_FALSE(both.completed);
  engine_.finish_next();
  EXPECT_TRUE(both.completed && !both.error);
}

TEST_F(flush_lanes, AWriteDuringAJoinDoesNotHideTheSyncInFlight) {
  // Large, so that the look at the bits takes a while.
  constexpr std::uint64_t size = std::uint64_t{1} << 29;
  constexpr int rounds = 300;
  state_ = open_state(dir_ / "large", size, options_);
  ASSERT_FALSE(state_->flush(true, 0, 0, durability::durable));
  std::atomic<int> begun{0}, written{0};
  std::thread writer([&] {
    for (int i = 1; i <= rounds; ++i) {
      while (begun.load() < i) {
        // No yield: the write must come while the other thread looks.
      }
      for (int wait = 0; wait < i % 30 * 50; ++wait)
        std::atomic_signal_fence(std::memory_order_seq_cst);
      failure why{};
      state_->store(0, "y", 1, why);
      written.store(i);
    }
  });
  int early = 0;
  for (int i = 1; i <= rounds; ++i) {
    dirty(0);
    waiter first(engine_), second(engine_);
    EXPECT_FALSE(join_whole(first));  // has the page in hand until it is finished below
    begun.store(i);
    if (join(second, 0, size)) ++early;
    while (written.load() < i)
      std::this_thread::yield();
    while (engine_.waiting() != 0)
      engine_.finish_next();
  }
  writer.join();
  EXPECT_EQ(early, 0) << "flushes that were over before the sync that had their page";
}

TEST_F(flush_lanes, ABitOfBeforeAFailureIsNoRewrite) {
  dirty(0);
  waiter all(engine_);
  waiter again(engine_);
  waiter elsewhere(engine_);
  EXPECT_FALSE(join_whole(all));
  dirty(0);
  dirty(5 * page());
  engine_.finish_next(make_error_code(std::errc::io_error));
  state_->clear_flush_error();
  EXPECT_TRUE(join(again, 0, 1));
  EXPECT_EQ(again.error, errc::flush_failed);
  EXPECT_TRUE(join(elsewhere, 5 * page(), 1)) << "the error may have been about page 5";
  EXPECT_EQ(elsewhere.error, errc::flush_failed);
}

TEST_F(flush_lanes, ARegionOfBeforeAFailureIsNoRewrite) {
  mapping m = mapping_of(state_);
  dirty(0);
  {
    const mutable_region r = m.mutable_view(3 * page(), 1);
    waiter first(engine_);
    EXPECT_FALSE(join(first, 0, 1));
    engine_.finish_next(make_error_code(std::errc::io_error));
    state_->clear_flush_error();
    waiter pinned(engine_);
    EXPECT_TRUE(join(pinned, 3 * page(), 1));
    EXPECT_EQ(pinned.error, errc::flush_failed);
  }
  waiter dropped(engine_);
  EXPECT_TRUE(join(dropped, 3 * page(), 1));
  EXPECT_EQ(dropped.error, errc::flush_failed);
  dirty(3 * page());
  waiter rewritten(engine_);
  EXPECT_FALSE(join(rewritten, 3 * page(), 1));
  engine_.finish_next();
  EXPECT_TRUE(rewritten.completed && !rewritten.error);
}

TEST_F(flush_lanes, ASyncInFlightWhileAnErrorIsClearedIsNotTrusted) {
  dirty(0);
  waiter all(engine_);
  waiter part(engine_);
  EXPECT_FALSE(join_whole(all));
  dirty(page());
  EXPECT_FALSE(join(part, page(), 1));
  engine_.finish_next(make_error_code(std::errc::io_error));
  state_->clear_flush_error();
  engine_.finish_next();
  EXPECT_TRUE(part.completed);
  EXPECT_EQ(part.error, errc::flush_failed);
}

TEST_F(flush_lanes, ARefusedStoreStaysLostAfterAClear) {
  state_->mapped()->dirty.mark(0, page());
  flushes().store_refused(0, 1, errc::page_fault);
  state_->clear_flush_error();
  waiter w(engine_);
  EXPECT_TRUE(join(w, 0, 1));
  EXPECT_EQ(w.error, errc::flush_failed);
}

TEST_F(flush_lanes, APageThatIsSyncedAgainIsNotLost) {
  dirty(0);
  waiter failed(engine_);
  waiter again(engine_);
  waiter with_it(engine_);
  EXPECT_FALSE(join(failed, 0, 1));
  engine_.finish_next(make_error_code(std::errc::io_error));
  state_->clear_flush_error();
  dirty(0);
  EXPECT_FALSE(join(again, 0, 1));
  EXPECT_FALSE(join(with_it, 0, 1)) << with_it.error.message();
  engine_.finish_next(make_error_code(std::errc::io_error));
  EXPECT_TRUE(with_it.completed && with_it.error);
  state_->clear_flush_error();
  waiter after(engine_);
  EXPECT_TRUE(join(after, 0, 1));
  EXPECT_EQ(after.error, errc::flush_failed);
}

TEST_F(flush_lanes, TheTwoGoThroughDescriptionsOfTheirOwn) {
  // Each hears of a failed write-back, since none can take the other's error.
  dirty(0);
  waiter all(engine_);
  waiter part(engine_);
  EXPECT_FALSE(join_whole(all));
  dirty(page());
  EXPECT_FALSE(join(part, page(), 1));
  ASSERT_EQ(engine_.waiting(), 2U);
  EXPECT_NE(engine_.calls[0]->handle, engine_.calls[1]->handle);
  EXPECT_EQ(engine_.calls[1]->handle, state_->native_handle()) << "whose mapping an msync names";
  engine_.finish_next();
  engine_.finish_next();
}

TEST_F(flush_lanes, ANameWhoseSyncFailedIsNotSyncedAgain) {
  state_ = open_state(dir_ / "new", 4 * page(), options_);
  waiter first(engine_);
  EXPECT_FALSE(join_whole(first));
  engine_.finish_next();  // the data
  ASSERT_EQ(engine_.waiting(), 1U);
  EXPECT_EQ(engine_.calls[0]->what, call::sync_name);
  engine_.finish_next(make_error_code(std::errc::io_error));
  EXPECT_EQ(first.error, std::errc::io_error);
  state_->clear_flush_error();
  waiter again(engine_);
  EXPECT_TRUE(join_whole(again));
  EXPECT_EQ(again.error, errc::flush_failed);
  EXPECT_EQ(engine_.waiting(), 0U);
}

TEST_F(flush_lanes, TheFolderOfANameStaysOpenUntilItIsSynced) {
  state_ = open_state(dir_ / "new", 4 * page(), options_);
  waiter first(engine_);
  EXPECT_FALSE(join_whole(first));
  static_cast<void>(state_->close());
  engine_.finish_next();
  ASSERT_EQ(engine_.waiting(), 1U);
  EXPECT_EQ(engine_.calls[0]->what, call::sync_name);
  EXPECT_TRUE(support::is_open_descriptor(engine_.calls[0]->handle));
  const auto folder = engine_.calls[0]->handle;
  engine_.finish_next();
  EXPECT_TRUE(first.completed && !first.error) << first.error.message();
  EXPECT_FALSE(support::is_open_descriptor(folder));
}

TEST_F(flush_lanes, WhatAWaitingShrinkMaySpareIsFlushedWithTheWholeFile) {
  mapping m = mapping_of(state_);
  dirty(9 * page());
  const region pinned = m.view(9 * page(), 1);
  waiter shrink(engine_);
  shrink.kind = verb::resize;
  shrink.length = page();
  shrink.file = state_;
  // Awaited, as it seems: it waits for the region.
  asio::io_context io;
  shrink.home = engine_of(io);
  ASSERT_FALSE(state_->start(shrink));
  waiter all(engine_);
  EXPECT_FALSE(join_whole(all)) << "page 9 is dirty, and still there";
  engine_.finish_next();
  EXPECT_TRUE(all.completed && !all.error);
  EXPECT_TRUE(state_->withdraw(shrink, true));
  let_go(shrink);
  shrink.home->forget(shrink);
}

TEST_F(flush_lanes, WhatIsLockedBeforeAMoveIsOverGoesWithIt) {
  options_.reserve = 8 * page();
  state_ = open_state(dir_ / "small", 8 * page(), options_);
  const auto change = [&](verb kind, std::uint64_t offset, std::uint64_t length) {
    ASSERT_FALSE(state_->change_lock(kind, false, offset, length));
  };
  change(verb::lock_pages, 0, 2 * page());
  waiter grow(engine_);
  grow.kind = verb::resize;
  grow.length = 64 * page();
  grow.file = state_;
  asio::io_context io;
  grow.home = engine_of(io);
  ASSERT_FALSE(state_->start(grow));
  const auto perform = [&] { platform::perform(*engine_.calls.at(0)); };
  perform();
  engine_.finish_next();
  perform();  // maps the larger one
  change(verb::unlock_pages, 0, page());
  change(verb::lock_pages, 4 * page(), 3 * page());
  engine_.finish_next();
  EXPECT_EQ(state_->stats().moves, 0U);
  perform();
  engine_.finish_next();
  ASSERT_TRUE(grow.completed && !grow.error) << grow.error.message();
  EXPECT_EQ(state_->stats().moves, 1U);
  support::expect_locked(4 * page());
}

TEST_F(flush_lanes, ManyResizesInARowNeedNoStackForEach) {
  mapping m = mapping_of(state_);
  auto pinned = std::make_unique<region>(m.view(9 * page(), 1));
  asio::io_context io;
  mapped_file file(io.get_executor(), m);
  constexpr int count = 60'000;
  int done = 0;
  // The first waits for the region; once it is over, the others are over at once.
  for (int i = 0; i < count; ++i)
    file.resize(page(), [&](std::error_code error) { done += error ? 0 : 1; });
  pinned.reset();
  io.run();
  EXPECT_EQ(done, count);
}

TEST_F(flush_lanes, AWithdrawnWaiterFreesItselfAlone) {
  dirty(0);
  waiter first(engine_), second(engine_);
  EXPECT_FALSE(join(first, 0, 1));
  EXPECT_FALSE(join(second, 0, 1));
  EXPECT_TRUE(state_->withdraw(first, true));  // it leads, and may go all the same
  EXPECT_FALSE(state_->withdraw(first, true));
  engine_.finish_next();
  EXPECT_FALSE(first.completed);
  EXPECT_TRUE(second.completed && !second.error);
}

TEST_F(flush_lanes, ADroppedSyncIsDoneByTheNextWaiter) {
  dirty(0);
  waiter gone(engine_), left(engine_);
  manual_performer other;
  left.runner = &other;
  EXPECT_FALSE(join(gone, 0, 1));
  EXPECT_FALSE(join(left, 0, 1));
  EXPECT_TRUE(state_->withdraw(gone, true));
  drop_next();
  EXPECT_FALSE(left.completed);
  ASSERT_EQ(other.waiting(), 1U);
  other.finish_next();
  EXPECT_TRUE(left.completed && !left.error);
}

TEST_F(flush_lanes, APinnedPageIsSyncedEveryTime) {
  const mapping m = mapping_of(state_);
  mapping writable = m;
  const mutable_region r = writable.mutable_view(0, 1);
  for (int i = 0; i < 3; ++i) {
    waiter w(engine_);
    EXPECT_FALSE(join(w, 0, 1));
    engine_.finish_next();
    EXPECT_TRUE(w.completed);
  }
}

TEST_F(flush_lanes, TheDropOfARegionLeavesItsMark) {
  mapping m = mapping_of(state_);
  { const mutable_region r = m.mutable_view(0, 1); }
  waiter w(engine_);
  EXPECT_FALSE(join(w, 0, 1));
  engine_.finish_next();
  waiter clean(engine_);
  EXPECT_TRUE(join(clean, 0, 1));
}

TEST_F(flush_lanes, AResizeIsDueWithoutADirtyPage) {
  ASSERT_FALSE(state_->resize(65 * page()));
  waiter first(engine_), second(engine_);
  EXPECT_FALSE(join(first, 0, 1));
  EXPECT_FALSE(join(second, 5 * page(), 1));  // rides on the one that makes the size durable
  EXPECT_EQ(engine_.waiting(), 1U);
  engine_.finish_next();
  EXPECT_TRUE(first.completed && second.completed);
}

TEST_F(flush_lanes, ADroppedSyncBesideAFailureIsNotTrustedEither) {
  dirty(0);
  waiter all(engine_);
  waiter part(engine_);
  EXPECT_FALSE(join_whole(all));
  dirty(page());
  EXPECT_FALSE(join(part, page(), 1));
  ASSERT_EQ(engine_.waiting(), 2U);
  engine_.finish(1, make_error_code(std::errc::io_error));
  EXPECT_TRUE(state_->withdraw(all, true));
  drop_next();
  state_->clear_flush_error();
  waiter again(engine_);
  if (!join(again, 0, 1)) engine_.finish_next();
  EXPECT_EQ(again.error, errc::flush_failed) << "page 0 was in flight, and not written since";
}

TEST_F(flush_lanes, WhoWaitsForADroppedSyncHearsOfAFailureBesideIt) {
  dirty(0);
  waiter all(engine_);
  waiter part(engine_);
  waiter left(engine_);
  manual_performer other;
  left.runner = &other;
  EXPECT_FALSE(join_whole(all));
  EXPECT_FALSE(join_whole(left));
  dirty(page());
  EXPECT_FALSE(join(part, page(), 1));
  engine_.finish(1, make_error_code(std::errc::io_error));
  EXPECT_TRUE(part.completed);
  state_->withdraw(all, true);
  drop_next();
  state_->clear_flush_error();
  EXPECT_EQ(other.waiting(), 0U);
  EXPECT_TRUE(left.completed);
  EXPECT_EQ(left.error, errc::flush_failed);
}

TEST_F(flush_lanes, WhoWaitsForTwoSyncsFailsWithTheOneThatIsNotTrusted) {
  dirty(0);
  waiter all(engine_);
  waiter failed(engine_);
  EXPECT_FALSE(join_whole(all));
  dirty(5 * page());
  EXPECT_FALSE(join(failed, 5 * page(), 1));
  engine_.finish(1, make_error_code(std::errc::io_error));
  state_->clear_flush_error();
  dirty(2 * page());
  waiter one(engine_);
  waiter both(engine_);
  EXPECT_FALSE(join(one, 2 * page(), 1));
  dirty(page());
  EXPECT_FALSE(join(both, 0, 2 * page())) << "page 0 is in flight, page 1 dirty";
  engine_.finish(1);
  ASSERT_EQ(engine_.waiting(), 2U) << "the whole one of before the failure, and that of page 1";
  engine_.finish_next();
  EXPECT_EQ(all.error, errc::flush_failed);
  EXPECT_TRUE(both.completed);
  EXPECT_EQ(both.error, errc::flush_failed) << "whatever becomes of page 1";
  while (engine_.waiting() != 0)
    engine_.finish_next();
  EXPECT_TRUE(one.completed);
  EXPECT_FALSE(one.error);
}

TEST_F(flush_lanes, WhoWaitsForTwoSyncsGetsAnotherForTheOneThatIsDropped) {
  dirty(0);
  waiter all(engine_);
  EXPECT_FALSE(join_whole(all));
  dirty(2 * page());
  waiter both(engine_);
  EXPECT_FALSE(join(both, 0, 3 * page()));
  ASSERT_EQ(engine_.waiting(), 2U);
  EXPECT_TRUE(state_->withdraw(all, true));
  drop_next();
  ASSERT_EQ(engine_.waiting(), 2U) << "the range's, and one for page 0";
  engine_.finish_next();
  EXPECT_FALSE(both.completed) << "nobody has synced page 0";
  engine_.finish_next();
  EXPECT_TRUE(both.completed);
  EXPECT_FALSE(both.error);
  waiter after(engine_);
  EXPECT_TRUE(join_whole(after)) << "all is clean";
}

TEST_F(flush_lanes, WhatWasThereAtOpenIsLostWithTheRest) {
  open_again();
  // It may be about page 10, which somebody wrote before us; the OS tells it once.
  lose(0);
  waiter content(engine_);
  if (!join(content, 10 * page(), 1)) engine_.finish_next();
  EXPECT_EQ(content.error, errc::flush_failed);
  dirty(10 * page());
  waiter rewritten(engine_);
  EXPECT_FALSE(join(rewritten, 10 * page(), 1));
  engine_.finish_next();
  EXPECT_FALSE(rewritten.error);
}

TEST_F(flush_lanes, AMoveKeepsWhatIsDirty) {
  options_.reserve = 8 * page();
  state_ = open_state(dir_ / "moving", 8 * page(), options_);
  ASSERT_FALSE(state_->flush(true, 0, 0, durability::durable));
  dirty(3 * page());
  ASSERT_FALSE(state_->resize(64 * page()));
  EXPECT_EQ(state_->stats().moves, 1U);
  waiter size(engine_);
  EXPECT_FALSE(join(size, 0, 1)) << "the size is due";
  engine_.finish_next();
  waiter page_3(engine_);
  EXPECT_FALSE(join(page_3, 3 * page(), 1));
  engine_.finish_next();
}

TEST_F(flush_lanes, ADroppedSyncKeepsTheNameDue) {
  state_ = open_state(dir_ / "new", 4 * page(), options_);
  waiter first(engine_);
  EXPECT_FALSE(join_whole(first));
  state_->withdraw(first, true);
  drop_next();
  waiter again(engine_);
  EXPECT_FALSE(join_whole(again));
  engine_.finish_next();
  ASSERT_EQ(engine_.waiting(), 1U);
  EXPECT_EQ(engine_.calls[0]->what, call::sync_name);
  engine_.finish_next();
  EXPECT_FALSE(again.error);
}

TEST_F(flush_lanes, ADroppedSyncKeepsWhatWasThereAtOpenDue) {
  open_again();
  waiter first(engine_);
  EXPECT_FALSE(join(first, 10 * page(), 1));
  state_->withdraw(first, true);
  drop_next();
  waiter again(engine_);
  EXPECT_FALSE(join(again, 10 * page(), 1));
  engine_.finish_next();
}

// A write that began before the failure and is marked after it.
TEST_F(flush_lanes, ALateMarkOfBeforeAFailureIsNoRewrite) {
  const std::uint32_t before = state_->flushes().failures();
  lose(0);
  state_->mapped()->dirty.mark(0, 1);
  waiter between(engine_);
  if (!join(between, 0, 1)) engine_.finish_next();
  EXPECT_EQ(between.error, errc::flush_failed) << "marked, and not yet known to be old";
  EXPECT_TRUE(state_->flushes().must_hear_of_writes(before));
  state_->flushes().written(before, 0, 1);
  waiter after(engine_);
  if (!join(after, 0, 1)) engine_.finish_next();
  EXPECT_EQ(after.error, errc::flush_failed);
  dirty(0);
  waiter rewritten(engine_);
  EXPECT_FALSE(join(rewritten, 0, 1));
  engine_.finish_next();
  EXPECT_FALSE(rewritten.error);
  EXPECT_FALSE(state_->flushes().must_hear_of_writes(state_->flushes().failures()));
}

TEST_F(flush_lanes, ARegionOfAfterAFailureIsARewriteOnceItIsGone) {
  mapping m = mapping_of(state_);
  lose(3 * page());
  { const mutable_region again = m.mutable_view(3 * page(), 1); }
  waiter rewritten(engine_);
  ASSERT_FALSE(join(rewritten, 3 * page(), 1));
  engine_.finish_next();
  EXPECT_FALSE(rewritten.error);
}

TEST_F(flush_lanes, ACopyOfARegionOfBeforeAFailureIsNoRewriteEither) {
  mapping m = mapping_of(state_);
  const mutable_region region = m.mutable_view(3 * page(), 1);
  dirty(0);
  waiter first(engine_);
  EXPECT_FALSE(join(first, 0, 1));
  engine_.finish_next(make_error_code(std::errc::io_error));
  { const mutable_region copy = region; }
  state_->clear_flush_error();
  { const mutable_region copy = region; }
  waiter again(engine_);
  if (!join(again, 3 * page(), 1)) engine_.finish_next();
  EXPECT_EQ(again.error, errc::flush_failed);
}

TEST_F(flush_lanes, ASizeThatASyncOwesIsWaitedForAlthoughItChangesAgain) {
  dirty(0);
  waiter part(engine_);
  EXPECT_FALSE(join(part, 0, 1));
  // By so much, every system lets it grow while a verb is under way.
  ASSERT_FALSE(state_->resize(80 * page()));
  waiter all(engine_);
  EXPECT_FALSE(join_whole(all));
  ASSERT_EQ(engine_.waiting(), 2U);
  waiter both(engine_);
  EXPECT_FALSE(join(both, 0, 1)) << "its page is in the range's sync, the size in the other";
  ASSERT_EQ(engine_.waiting(), 2U);
  ASSERT_FALSE(state_->resize(96 * page()));
  engine_.finish_next();
  EXPECT_TRUE(part.completed);
  EXPECT_FALSE(both.completed) << "no sync of the size of before has ended";
  engine_.finish_next();
  EXPECT_TRUE(both.completed);
  EXPECT_FALSE(both.error);
}

TEST_F(flush_lanes, TheDropOfARegionOfBeforeAFailureIsNoRewriteAtAnyMoment) {
  mapping m = mapping_of(state_);
  std::optional<mutable_region> region;
  std::atomic<int> go{0};
  std::atomic<int> dropped{0};
  constexpr int rounds = 2'000;
  std::thread other([&] {
    for (int i = 1; i <= rounds; ++i) {
      while (go.load() < i)
        std::this_thread::yield();
      region.reset();
      dropped.store(i);
    }
  });
  int lies = 0;
  for (int i = 1; i <= rounds; ++i) {
    region.emplace(m.mutable_view(3 * page(), 1));
    lose(0);
    go.store(i);
    for (int wait = 0; wait < i % 60 * 5; ++wait)
      std::atomic_signal_fence(std::memory_order_seq_cst);
    waiter w(engine_);
    if (!join(w, 3 * page(), 1)) {
      engine_.finish_next();
      if (!w.error) ++lies;
    }
    while (dropped.load() < i)
      std::this_thread::yield();
    dirty(0);
    dirty(3 * page());
    waiter clean(engine_);
    EXPECT_FALSE(join_whole(clean));
    while (engine_.waiting() != 0)
      engine_.finish_next();
    EXPECT_FALSE(clean.error);
  }
  other.join();
  EXPECT_EQ(lies, 0) << "flushes of a page that succeeded, although what was stored was lost";
}

/// The wait of a sync for those whom the last one served, by a clock of the test's.
class flush_company : public flush_lanes {
 protected:
  void SetUp() override {
    flush_lanes::SetUp();
    now = 1000;
    flushes().use_clock([]() noexcept { return now; });
  }

  /// Has one sync serve so many, and take a millisecond.
  void serve(std::size_t count) {
    dirty(63 * page());
    waiter first(engine_);
    ASSERT_FALSE(join(first, 63 * page(), 1));
    std::deque<waiter> others;
    for (std::size_t i = 0; i < count; ++i) {
      dirty(i * page());
      ASSERT_FALSE(join(others.emplace_back(engine_), i * page(), 1));
    }
    engine_.finish_next();
    now += millisecond;
    engine_.finish_next();
    ASSERT_TRUE(first.completed);
    for (const waiter& w : others)
      ASSERT_TRUE(w.completed);
    ASSERT_EQ(engine_.waiting(), 0U);
  }
  void come_again(waiter& w, std::size_t at) {
    dirty(at * page());
    ASSERT_FALSE(join(w, at * page(), 1));
  }
  call waiting(std::size_t i = 0) const { return engine_.calls.at(i)->what; }

  static constexpr std::uint64_t millisecond = 1'000'000;
  inline static std::uint64_t now = 0;
};

TEST_F(flush_company, IsWaitedForUntilAllAreThere) {
  serve(3);
  waiter a(engine_), b(engine_), c(engine_), late(engine_);
  come_again(a, 0);
  ASSERT_EQ(engine_.waiting(), 1U);
  EXPECT_EQ(waiting(), call::pause);
  EXPECT_EQ(engine_.calls[0]->count, millisecond / 2);
  come_again(b, 1);
  EXPECT_EQ(engine_.waiting(), 1U);
  come_again(c, 2);
  ASSERT_EQ(engine_.waiting(), 2U) << "the sync goes ahead";
  EXPECT_EQ(waiting(1), call::sync);
  engine_.finish_next();  // the pause, too late
  ASSERT_EQ(engine_.waiting(), 1U);
  come_again(late, 3);
  now += millisecond;
  engine_.finish_next();
  EXPECT_TRUE(a.completed && b.completed && c.completed);
  EXPECT_FALSE(late.completed);
  EXPECT_EQ(waiting(), call::pause) << "one is there, of three more";
  engine_.finish_next();
  EXPECT_EQ(waiting(), call::sync);
  engine_.finish_next();
  EXPECT_TRUE(late.completed);
}

TEST_F(flush_company, IsNotWaitedForAnyLongerThanThat) {
  serve(3);
  waiter a(engine_), b(engine_);
  come_again(a, 0);
  come_again(b, 1);
  EXPECT_EQ(waiting(), call::pause);
  engine_.finish_next();
  ASSERT_EQ(waiting(), call::sync);
  engine_.finish_next();
  EXPECT_TRUE(a.completed && b.completed);
}

TEST_F(flush_company, IsNotWaitedForByWhoComesLater) {
  serve(3);
  now += millisecond / 2;
  waiter a(engine_);
  come_again(a, 0);
  EXPECT_EQ(waiting(), call::sync);
  engine_.finish_next();
  EXPECT_TRUE(a.completed);
}

TEST_F(flush_company, OfOneIsNone) {
  serve(1);
  waiter a(engine_);
  come_again(a, 0);
  EXPECT_EQ(waiting(), call::sync);
  engine_.finish_next();
}

TEST_F(flush_company, ThatDidNotComeIsNotWaitedForTheNextTime) {
  serve(4);
  waiter a(engine_), b(engine_), c(engine_);
  come_again(a, 0);
  engine_.finish_next();  // the pause: one of four
  engine_.finish_next();
  ASSERT_TRUE(a.completed);
  serve(4);
  come_again(b, 0);
  EXPECT_EQ(waiting(), call::sync);
  engine_.finish_next();
  serve(4);
  come_again(c, 0);
  EXPECT_EQ(waiting(), call::pause) << "once is enough";
  engine_.finish_next();
  engine_.finish_next();
}

// The thread of the first may be asleep in the pause.
TEST_F(flush_company, IsLedByWhoCompletesIt) {
  serve(2);
  manual_performer other;
  waiter a(engine_), b(other);
  come_again(a, 0);
  come_again(b, 1);
  ASSERT_EQ(other.waiting(), 1U);
  other.finish_next();
  EXPECT_TRUE(a.completed && b.completed);
  engine_.finish_next();
  EXPECT_EQ(engine_.waiting(), 0U);
}

TEST_F(flush_company, OfAClosedFileHearsOfIt) {
  serve(2);
  waiter a(engine_);
  come_again(a, 0);
  ASSERT_EQ(waiting(), call::pause);
  ASSERT_FALSE(state_->close());
  EXPECT_FALSE(a.completed);
  engine_.finish_next();
  EXPECT_TRUE(a.completed);
  EXPECT_EQ(a.error, errc::not_open);
  EXPECT_EQ(engine_.waiting(), 0U);
}

TEST_F(flush_company, GetsItsSyncAlthoughTheWaitIsDropped) {
  serve(2);
  waiter a(engine_);
  come_again(a, 0);
  drop_next();
  ASSERT_EQ(engine_.waiting(), 1U);
  EXPECT_EQ(waiting(), call::sync);
  engine_.finish_next();
  EXPECT_TRUE(a.completed);
  EXPECT_FALSE(a.error);
}

TEST_F(flush_company, HearsOfAFailureOfTheOtherLane) {
  serve(2);
  waiter a(engine_), whole(engine_);
  come_again(a, 0);
  ASSERT_EQ(waiting(), call::pause);
  ASSERT_FALSE(join_whole(whole));
  operation* const pause = engine_.calls[0];
  engine_.calls.erase(engine_.calls.begin());
  engine_.finish_next(std::make_error_code(std::errc::io_error));
  EXPECT_TRUE(a.completed && whole.completed);
  EXPECT_EQ(a.error, errc::flush_failed);
  pause->done(pause);
  EXPECT_EQ(engine_.waiting(), 0U);
}

TEST(FlushName, IsSyncedWithTheFirstFlushAfterACreation) {
  const support::temp_dir dir;
  const auto state = open_state(dir / "f", page());
  manual_performer engine;
  waiter w(engine);
  w.length = 1;
  EXPECT_FALSE(state->flushes().join(w, false));
  ASSERT_EQ(engine.waiting(), 1U);
  EXPECT_EQ(engine.calls[0]->what, call::sync);
  engine.finish_next();
  EXPECT_FALSE(w.completed);
  ASSERT_EQ(engine.waiting(), 1U);
  EXPECT_EQ(engine.calls[0]->what, call::sync_name);
  engine.finish_next();
  EXPECT_TRUE(w.completed && !w.error);
  waiter clean(engine);
  clean.length = 1;
  EXPECT_TRUE(state->flushes().join(clean, false));
}

TEST(FlushName, AFailureToSyncItIsAFailure) {
  const support::temp_dir dir;
  const auto state = open_state(dir / "f", page());
  manual_performer engine;
  waiter w(engine);
  w.length = 1;
  EXPECT_FALSE(state->flushes().join(w, false));
  engine.finish_next();
  engine.finish_next(make_error_code(std::errc::io_error));
  EXPECT_EQ(w.error, std::errc::io_error);
}

TEST(Pool, WhatIsPartlyDoneIsOnlyTakenOutOnInterrupt) {
  thread_pool pool(1);
  static std::atomic<bool> go;
  go = false;
  counted first;
  first.what = call::work;
  first.work = [](operation*) noexcept {
    static_cast<void>(support::eventually([] { return go.load(); }));
  };
  pool.submit(first);
  counted op;
  op.what = call::write_file;
  op.count = 2;
  op.transferred = 1;
  pool.submit(op);
  EXPECT_FALSE(pool.withdraw(op, false));
  EXPECT_TRUE(pool.withdraw(op, true));
  go = true;
  pool.shut_down();
  EXPECT_EQ(op.count_done, 0);
}

// The file system has them take turns, and would put a thread to sleep for each that waits.
TEST(Pool, WritesToOneFileTakeTurnsAndHoldUpNothingElse) {
  static std::atomic<bool> go;
  go = false;
  const support::temp_dir dir;
  support::write_file(dir / "one", "....");
  support::write_file(dir / "other", "....");
  const support::native_file one =
      support::open_native(dir / "one", support::opening::to_read_and_write);
  const support::native_file other =
      support::open_native(dir / "other", support::opening::to_read_and_write);
  thread_pool pool(4);
  transfer held(call::write_file, one);
  held.is_refused = [](operation*, std::uint64_t) noexcept {
    static_cast<void>(support::eventually([] { return go.load(); }));
    return false;
  };
  pool.submit(held);
  std::array<transfer, 6> behind;
  for (std::size_t i = 0; i < behind.size(); ++i) {
    behind[i].set(call::write_file, one, i % 4);
    pool.submit(behind[i]);
  }
  std::array<transfer, 6> beside;
  for (std::size_t i = 0; i < beside.size(); ++i) {
    beside[i].set(call::write_file, other, i % 4);
    pool.submit(beside[i]);
  }
  for (const counted& op : beside)
    EXPECT_TRUE(support::eventually([&] { return op.count_done == 1; }));
  for (const counted& op : behind)
    EXPECT_EQ(op.count_done, 0);
  EXPECT_TRUE(pool.withdraw(behind[4], true));
  EXPECT_FALSE(pool.withdraw(behind[4], true));
  go = true;
  for (std::size_t i = 0; i < behind.size(); ++i)
    EXPECT_TRUE(i == 4 || support::eventually([&] { return behind[i].count_done == 1; })) << i;
  pool.shut_down();
  EXPECT_EQ(behind[4].count_done, 0);
  EXPECT_EQ(support::read_file(dir / "one"), "xxxx");
  EXPECT_EQ(support::read_file(dir / "other"), "xxxx");
}

// A call of another kind that comes meanwhile is not starved by them, on a single thread either.
TEST(Pool, WritesThatTakeTurnsLetOthersGoFirst) {
  static std::atomic<bool> go;
  static std::atomic<int> writes_before;
  go = false;
  writes_before = 0;
  const support::temp_dir dir;
  support::write_file(dir / "f", ".");
  const support::native_file file =
      support::open_native(dir / "f", support::opening::to_read_and_write);
  thread_pool pool(1);
  std::array<transfer, 4> writes;
  for (transfer& op : writes) {
    op.set(call::write_file, file);
    op.is_refused = [](operation*, std::uint64_t) noexcept {
      static_cast<void>(support::eventually([] { return go.load(); }));
      ++writes_before;
      return false;
    };
    pool.submit(op);
    // So that the others wait for the turn of this one.
    if (&op == &writes.front()) {
      ASSERT_TRUE(support::eventually([&] { return op.place.load() == 0; }));
    }
  }
  counted other;
  other.what = call::work;
  other.work = [](operation* op) noexcept {
    op->transferred = static_cast<std::uint64_t>(writes_before.load());
  };
  pool.submit(other);
  go = true;
  for (const counted& op : writes)
    EXPECT_TRUE(support::eventually([&] { return op.count_done == 1; }));
  pool.shut_down();
  EXPECT_EQ(other.transferred, 1U);
}

TEST(EngineHelp, DoesNothingBeforeTheStart) {
  asio::io_context io;
  const auto home = engine_of(io);
  home->help();
  io.run();
}

TEST(EngineHelp, DeliversToTheLoop) {
  const support::temp_dir dir;
  asio::io_context io;
  mapped_file file(io.get_executor(), mapping::create(dir / "f", page()));
  file.map().update_region(0, asio::buffer("x", 1));
  std::atomic<bool> flushed = false;
  file.flush([&](std::error_code error) {
    EXPECT_FALSE(error) << error.message();
    flushed = true;
  });
  const auto home = engine_of(io);
  EXPECT_TRUE(support::eventually([&] {
    home->help();
    return file.stats().syncs == 1 && file.pending_bytes() == 0;
  }));
  EXPECT_FALSE(flushed);
  EXPECT_TRUE(support::run_to_end(io));
  EXPECT_TRUE(flushed);
}

TEST(EngineHelp, AnyThreadAtAnyTimeWhileTheContextGoesAway) {
  const support::temp_dir dir;
  const mapping m = mapping::create(dir / "f", 16 * page());
  constexpr int rounds = support::is_emulated ? 12 : 50;
  for (int round = 0; round < rounds; ++round) {
    auto io = std::make_unique<asio::io_context>();
    const auto home = engine_of(*io);
    std::atomic<bool> over = false;
    std::vector<std::thread> helpers;
    for (int i = 0; i < 3; ++i)
      helpers.emplace_back([home, &over] {
        while (!over)
          home->help();
      });
    {
      mapped_file file(io->get_executor(), m);
      for (std::size_t i = 0; i < 16; ++i) {
        file.update_region(i * page(), asio::buffer("abc", 3), [](std::error_code, std::size_t) {});
        file.flush_range(i * page(), 1, [](std::error_code) {});
      }
      if (round % 3 == 0) io->poll();
      if (round % 3 == 1) io->run_for(std::chrono::milliseconds(1));
    }
    io.reset();
    over = true;
    for (auto& helper : helpers)
      helper.join();
  }
}

using platform::scheduling;

}  // namespace
