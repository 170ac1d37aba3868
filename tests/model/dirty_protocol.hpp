#ifndef MAPIO_TESTS_MODEL_DIRTY_PROTOCOL_HPP
#define MAPIO_TESTS_MODEL_DIRTY_PROTOCOL_HPP

#include "search.hpp"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace model {

/// The protocol of dirty_pages and flush_scheduler, and what it stands on, in steps that nothing
/// can come between. Two pages; a byte is a bit of `stored` and has a page.
///
/// What is modelled of the machine: a store goes to its thread's store buffer and reaches memory
/// later, in order (x86-TSO); locked instructions empty the buffer first; a heavy barrier empties
/// those of all threads, one after the other in any order.
///
/// What is modelled of the kernel: a page that is dirty is written as it is at that moment, by a
/// sync or by write-back at any time; it is clean then, also when the write failed. A failed write
/// is reported once per open file description, to the sync that comes to its end next, whatever
/// range that was asked for. What was written is durable when a sync has ended with success (which
/// flushes the device's cache).
///
/// What is required: whoever is told of success has on stable storage every byte whose write was
/// over when he began.

/// Pages are bits of a mask.
constexpr unsigned page_0 = 1;
constexpr unsigned page_1 = 2;
constexpr unsigned both_pages = 3;

/// The order of things, as it must be; the mutants are this with one field changed.
struct rules {
  bool has_barrier = true;    // writers may leave a set bit alone
  bool barrier = true;        // the flush side carries the barrier out
  bool store_first = true;    // then the bit
  bool mark_first = true;     // a pin: then unregister. A ring write: then deliver
  bool publish_claim = true;  // together with taking the bits
  bool keep_claim = true;     // until the sync is over
  bool success_at_end = true;
  bool join_next = true;         // a flush with bits of its own does not ride on the sync in flight
  bool poison = true;            // a failure is remembered
  bool pins_before_bits = true;  // when joining
  bool claims_before_bits =
      true;  // when joining, as a claim does not hold for a page written since
  bool hand_over_by_claim = true;    // whether a page was written since does not matter then
  bool own_description = true;       // per lane, so that no lane takes the other's error away
  bool settle_beside_first = false;  // instead: success waits for the sync that the other lane has
  bool clear_distrusts = true;       // clear_flush_error(): what is unsynced then is lost
};

/// What somebody does who writes.
enum class act : std::uint8_t {
  store,         // into the store buffer
  kernel_write,  // of a ring write
  look,          // at the bits; skips set_bits if they are set
  set_bits,      // fetch_or
  announce,      // the verb is over: others may know
  take_pin,
  drop_pin
};

struct instruction {
  act what;
  unsigned mask;  // pages, or the byte
};

struct flush_plan {
  bool whole = false;
  unsigned pages = both_pages;
};

struct scenario {
  std::vector<std::vector<unsigned>> writers{};       // the pages that each stores to, in turn
  std::vector<std::vector<unsigned>> ring_writers{};  // likewise, through the ring
  std::vector<unsigned> pin_stores{};                 // the pin's; empty: no pin
  unsigned pin_pages = both_pages;
  std::vector<flush_plan> flushes{};
  unsigned failures = 0;    // of writes and device flushes, at most
  bool write_back = false;  // the kernel also writes by itself
  bool clears = false;      // somebody calls clear_flush_error() once
};

class dirty_protocol {
 public:
  static constexpr std::size_t most_threads = 3;
  static constexpr std::size_t most_flushes = 3;
  static constexpr std::size_t most_bytes = 6;

  enum phase : unsigned { idle, starting, running, succeeded, failed };
  enum progress : unsigned { not_begun, waiting, over };
  enum section : unsigned { joining, taking_page_0, taking_page_1, at_barrier, submitting };

  struct lane {
    unsigned now = idle;
    unsigned cut = 0;      // pages: the claim
    unsigned range = 0;    // pages that the sync is asked for
    unsigned pending = 0;  // pages that it has not looked at yet
    unsigned gathering = 0;
    unsigned riding = 0;
    unsigned distrusted = 0;  // fails whatever the kernel says
    unsigned free = 0;        // the sync beside, of the time when this one ended, is settled
  };

  struct state {
    unsigned stored = 0;     // bytes that are in memory
    unsigned announced = 0;  // bytes whose write is over, visibly to others
    unsigned written = 0;    // bytes that are at least in the device's cache
    unsigned durable = 0;
    unsigned kernel_dirty = 0;  // pages
    unsigned unreported = 0;    // errors, per open file description
    unsigned failures = 0;      // so far
    unsigned bits = 0;
    unsigned lost = 0;
    unsigned poisoned = 0;
    unsigned cleared = 0;
    unsigned pinned = 0;
    unsigned pin_distrusted = 0;
    std::array<unsigned, most_threads> at{};       // next instruction
    std::array<unsigned, most_threads> drained{};  // entries of the store buffer, so far
    std::array<lane, 2> lanes{};                   // whole, range
    std::array<unsigned, most_flushes> flush{};
    std::array<unsigned, most_flushes> required{};
    unsigned steps = 0;  // flushes that also want the sync of the other lane
    // Under the mutex.
    unsigned holder = 0;  // 0: free, else a flush + 1, or a lane + 4
    unsigned inside = joining;
    unsigned step = 0;
    unsigned saw_pin = 0;
    unsigned saw_bits = 0;
    unsigned saw_claims = 0;  // by lane
    unsigned barriers = 0;    // threads that the barrier has not reached

    template <class State, class Field>
    static void each_field(State& s, Field& field) {
      field(s.stored, most_bytes);
      field(s.announced, most_bytes);
      field(s.written, most_bytes);
      field(s.durable, most_bytes);
      field(s.kernel_dirty, 2);
      field(s.unreported, 2);
      field(s.failures, 2);
      field(s.bits, 2);
      field(s.lost, 2);
      field(s.poisoned, 1);
      field(s.cleared, 1);
      field(s.pinned, 1);
      field(s.pin_distrusted, 1);
      for (std::size_t t = 0; t < most_threads; ++t) {
        field(s.at[t], 4);
        field(s.drained[t], 3);
      }
      for (auto& l : s.lanes) {
        field(l.now, 3);
        field(l.cut, 2);
        field(l.range, 2);
        field(l.pending, 2);
        field(l.gathering, 3);
        field(l.riding, 3);
        field(l.distrusted, 1);
        field(l.free, 1);
      }
      for (std::size_t f = 0; f < most_flushes; ++f) {
        field(s.flush[f], 2);
        field(s.required[f], most_bytes);
      }
      field(s.steps, 3);
      field(s.holder, 3);
      field(s.inside, 3);
      field(s.step, 2);
      field(s.saw_pin, 1);
      field(s.saw_bits, 1);
      field(s.saw_claims, 2);
      field(s.barriers, 3);
    }
  };

  dirty_protocol(const scenario& what, const rules& how) : scenario_(what), rules_(how) {
    for (const auto& pages : what.writers) {
      std::vector<instruction> program;
      for (const unsigned page : pages) {
        const unsigned byte = add_byte(page);
        if (how.store_first) program.push_back({act::store, byte});
        mark(program, page);
        if (!how.store_first) program.push_back({act::store, byte});
        program.push_back({act::announce, byte});
      }
      add_thread(program, "writer");
    }
    for (const auto& pages : what.ring_writers) {
      std::vector<instruction> program;
      for (const unsigned page : pages) {
        const unsigned byte = add_byte(page);
        program.push_back({act::kernel_write, byte});
        if (!how.mark_first) program.push_back({act::announce, byte});
        mark(program, page);
        if (how.mark_first) program.push_back({act::announce, byte});
      }
      add_thread(program, "ring writer");
    }
    if (!what.pin_stores.empty()) {
      std::vector<instruction> program{{act::take_pin, 0}};
      for (const unsigned page : what.pin_stores) {
        const unsigned byte = add_byte(page);
        program.push_back({act::store, byte});
        program.push_back({act::announce, byte});
      }
      if (!how.mark_first) program.push_back({act::drop_pin, 0});
      mark(program, what.pin_pages);
      if (how.mark_first) program.push_back({act::drop_pin, 0});
      add_thread(program, "pin");
    }
  }

  state initial() const { return {}; }

  bool is_done(const state& s) const noexcept {
    for (std::size_t f = 0; f < scenario_.flushes.size(); ++f)
      if (s.flush[f] != over) return false;
    return true;
  }

  template <class Emit>
  void each_step(const state& s, Emit emit_step) const {
    const auto emit = [&](state& next, std::uint16_t what, const char* violation) {
      advance_barrier(next);
      emit_step(next, what, violation);
    };
    for (unsigned t = 0; t < threads_.size(); ++t)
      thread_steps(s, t, emit);
    for (unsigned l = 0; l < 2; ++l)
      kernel_steps(s, l, emit);
    if (scenario_.write_back)
      for (const unsigned page : {page_0, page_1})
        if ((s.kernel_dirty & page) != 0)
          write_page(s, page, page == page_0 ? 0 : 1, write_back, write_back_fails, emit);
    if (s.holder != 0) {
      locked_steps(s, emit);
      return;
    }
    for (unsigned f = 0; f < scenario_.flushes.size(); ++f)
      if (s.flush[f] == not_begun) begin_join(s, f, emit);
    for (unsigned l = 0; l < 2; ++l)
      if (s.lanes[l].now == succeeded || s.lanes[l].now == failed) settle(s, l, emit);
    if (scenario_.clears && s.poisoned != 0 && s.cleared == 0) clear_error(s, emit);
  }

  std::string describe(std::uint16_t what) const;

 private:
  enum action : std::uint16_t {
    issues,
    drains,
    write_back,
    write_back_fails,
    sync_writes,
    sync_write_fails,
    sync_ends,
    sync_reports,
    device_flush_fails,
    joins,
    reads_pins,
    reads_claims,
    reads_bits,
    takes,
    submits,
    settles,
    clears
  };

  struct thread {
    std::vector<instruction> program;
    std::vector<instruction> buffered;  // what goes through the store buffer, in order
    std::vector<unsigned> issued;       // how much of it is in front of an instruction
    std::vector<bool> unmarked;         // a store is not followed by its bit yet
    std::string name;
  };

  static constexpr std::uint16_t label(action what, unsigned a, unsigned b = 0) noexcept {
    return static_cast<std::uint16_t>(unsigned{what} << 8 | a << 4 | b);
  }
  static constexpr unsigned bit(unsigned i) noexcept { return 1U << i; }

  unsigned add_byte(unsigned page) {
    pages_.push_back(page);
    return bit(static_cast<unsigned>(pages_.size() - 1));
  }
  static void mark(std::vector<instruction>& program, unsigned pages) {
    program.push_back({act::look, pages});
    program.push_back({act::set_bits, pages});
  }
  void add_thread(const std::vector<instruction>& program, const char* name) {
    thread t;
    t.program = program;
    t.name = name;
    if (t.name != "pin") t.name += threads_.empty() ? " A" : " B";
    bool unmarked = false;
    for (const instruction& i : program) {
      t.issued.push_back(static_cast<unsigned>(t.buffered.size()));
      t.unmarked.push_back(unmarked);
      if (i.what == act::store || i.what == act::announce) t.buffered.push_back(i);
      if (i.what == act::store || i.what == act::kernel_write) unmarked = t.name != "pin";
      if (i.what == act::set_bits) unmarked = false;
    }
    t.issued.push_back(static_cast<unsigned>(t.buffered.size()));
    t.unmarked.push_back(false);
    threads_.push_back(t);
  }

  // The pages that bytes are in, and the bytes that are in pages.
  unsigned page_of(unsigned bytes) const noexcept {
    unsigned pages = 0;
    for (unsigned i = 0; i < pages_.size(); ++i)
      if ((bytes & bit(i)) != 0) pages |= pages_[i];
    return pages;
  }
  unsigned bytes_in(unsigned pages) const noexcept {
    unsigned bytes = 0;
    for (unsigned i = 0; i < pages_.size(); ++i)
      if ((pages_[i] & pages) != 0) bytes |= bit(i);
    return bytes;
  }

  // --- those who write

  // That a verb is over is known to others as soon as it can be. That asks the most of a flush, and
  // changes nothing else, so what comes later need not be tried.
  void announce(state& s, unsigned t) const noexcept {
    const thread& self = threads_[t];
    while (s.drained[t] < self.issued[s.at[t]] && self.buffered[s.drained[t]].what == act::announce)
      s.announced |= self.buffered[s.drained[t]++].mask;
  }
  void drain_one(state& s, unsigned t) const noexcept {
    const instruction& i = threads_[t].buffered[s.drained[t]++];
    s.stored |= i.mask;
    s.kernel_dirty |= page_of(i.mask);
    announce(s, t);
  }
  void drain(state& s, unsigned t) const noexcept {
    while (s.drained[t] < threads_[t].issued[s.at[t]])
      drain_one(s, t);
  }

  template <class Emit>
  void thread_steps(const state& s, unsigned t, Emit emit) const {
    const thread& self = threads_[t];
    if (s.drained[t] < self.issued[s.at[t]]) {
      state next = s;
      drain_one(next, t);
      emit(next, label(drains, t, s.drained[t]), nullptr);
    }
    const unsigned at = s.at[t];
    if (at == self.program.size()) return;
    const instruction& i = self.program[at];
    // Marking what is distrusted takes the mutex.
    if (i.what == act::drop_pin && s.pin_distrusted != 0 && s.holder != 0) return;
    state next = s;
    ++next.at[t];
    switch (i.what) {
    case act::store:
    case act::announce:
      break;
    case act::kernel_write:
      drain(next, t);
      next.stored |= i.mask;
      next.kernel_dirty |= page_of(i.mask);
      break;
    case act::look:
      if (rules_.has_barrier && (s.bits & i.mask) == i.mask) ++next.at[t];
      break;
    case act::set_bits:
      drain(next, t);
      next.bits |= i.mask;
      break;
    case act::take_pin:
      drain(next, t);
      next.pinned = 1;
      break;
    case act::drop_pin:
      drain(next, t);
      next.pinned = 0;
      if (std::exchange(next.pin_distrusted, 0) != 0) {
        next.lost |= scenario_.pin_pages;
        next.bits &= ~scenario_.pin_pages;
      }
      break;
    }
    while (next.at[t] < self.program.size() && self.program[next.at[t]].what == act::announce)
      ++next.at[t];
    announce(next, t);
    emit(next, label(issues, t, at), nullptr);
  }

  // --- the kernel

  template <class Emit>
  void write_page(const state& s, unsigned page, unsigned who, action ok, action fails,
                  Emit emit) const {
    const unsigned arg = page == page_0 ? 0 : 1;
    state next = s;
    if (ok == sync_writes) next.lanes[who].pending &= ~page;
    if ((s.kernel_dirty & page) != 0) {
      next.kernel_dirty &= ~page;
      if (s.failures < scenario_.failures) {
        state bad = next;
        ++bad.failures;
        bad.unreported = rules_.own_description ? 3 : 1;
        emit(bad, label(fails, who, arg), nullptr);
      }
      next.written |= s.stored & bytes_in(page);
    }
    emit(next, label(ok, who, arg), nullptr);
  }

  template <class Emit>
  void kernel_steps(const state& s, unsigned l, Emit emit) const {
    if (s.lanes[l].now != running) return;
    for (const unsigned page : {page_0, page_1})
      if ((s.lanes[l].pending & page) != 0)
        write_page(s, page, l, sync_writes, sync_write_fails, emit);
    if (s.lanes[l].pending != 0) return;
    const unsigned description = rules_.own_description ? bit(l) : 1;
    state next = s;
    next.lanes[l].range = 0;
    if ((s.unreported & description) != 0) {
      next.unreported &= ~description;
      next.lanes[l].now = failed;
      emit(next, label(sync_reports, l), nullptr);
      return;
    }
    if (s.failures < scenario_.failures) {
      state bad = next;
      ++bad.failures;
      bad.lanes[l].now = failed;
      emit(bad, label(device_flush_fails, l), nullptr);
    }
    next.lanes[l].now = succeeded;
    next.durable |= s.written;
    emit(next, label(sync_ends, l), nullptr);
  }

  // --- the flush side, under the mutex

  unsigned lane_of(unsigned f) const noexcept { return scenario_.flushes[f].whole ? 0 : 1; }

  const char* finish(state& s, unsigned f, bool ok) const noexcept {
    const unsigned required = std::exchange(s.required[f], 0);
    s.flush[f] = over;
    s.steps &= ~bit(f);
    if (!ok) return nullptr;
    if ((required & ~s.durable) != 0)
      return "a flush succeeds although a byte written before it is not durable";
    if (s.poisoned != 0) return "a flush succeeds on a poisoned file";
    return nullptr;
  }

  // The barrier has reached a thread when its store buffer was empty once. Stores drain at any time
  // anyhow, so it only has to wait for that; and where a buffer is empty it gains nothing by coming
  // later.
  void advance_barrier(state& s) const noexcept {
    if (s.inside != at_barrier) return;
    for (unsigned t = 0; t < threads_.size(); ++t)
      if (s.drained[t] == threads_[t].issued[s.at[t]]) s.barriers &= ~bit(t);
    if (s.barriers == 0) s.inside = submitting;
  }

  static void unlock(state& s) noexcept {
    s.holder = s.inside = s.step = s.saw_pin = s.saw_bits = s.saw_claims = s.barriers = 0;
  }

  /// `since`: a page that was written since does not count.
  bool is_claimed(const state& s, unsigned l, unsigned pages, bool since) const noexcept {
    if (s.lanes[l].now == idle) return false;
    return (s.lanes[l].cut & pages & (since ? ~s.bits : both_pages)) != 0;
  }

  template <class Emit>
  void begin_join(const state& s, unsigned f, Emit emit) const {
    const unsigned pages = scenario_.flushes[f].pages;
    state next = s;
    next.required[f] = s.announced & bytes_in(pages);
    const char* violation = nullptr;
    // What was stored through a distrusted pin may have been lost, whatever was written since.
    const bool is_lost = (s.lost & pages & ~s.bits) != 0 ||
                         (s.pin_distrusted != 0 && (scenario_.pin_pages & pages) != 0);
    if (s.poisoned != 0 || is_lost) {
      violation = finish(next, f, false);
    } else {
      next.holder = f + 1;
      next.inside = joining;
    }
    emit(next, label(joins, f), violation);
  }

  template <class Emit>
  void locked_steps(const state& s, Emit emit) const {
    if (s.inside == joining) return join_step(s, s.holder - 1, emit);
    const unsigned l = s.holder >= 4 ? s.holder - 4 : lane_of(s.holder - 1);
    state next = s;
    switch (s.inside) {
    case taking_page_0:
    case taking_page_1: {
      const unsigned page = s.inside == taking_page_0 ? page_0 : page_1;
      const unsigned taken = s.bits & page & s.lanes[l].range;
      if (rules_.publish_claim) next.lanes[l].cut |= taken;
      next.bits &= ~taken;
      ++next.inside;
      if (next.inside == taking_page_1 && (s.lanes[l].range & page_1) == 0) ++next.inside;
      if (next.inside == at_barrier)
        next.barriers = rules_.has_barrier && rules_.barrier
                            ? bit(static_cast<unsigned>(threads_.size())) - 1
                            : 0;
      return emit(next, label(takes, l, page == page_0 ? 0 : 1), nullptr);
    }
    case at_barrier:
      return;  // goes on when the buffers have drained
    case submitting:
    default: {
      const char* violation = nullptr;
      lane& own = next.lanes[l];
      own.now = running;
      own.pending = own.range;
      if (!rules_.keep_claim) own.cut = 0;
      if (!rules_.success_at_end)
        for (unsigned f = 0; f < scenario_.flushes.size(); ++f)
          if ((own.riding & bit(f)) != 0) {
            own.riding &= ~bit(f);
            if (const char* v = finish(next, f, true)) violation = v;
          }
      unlock(next);
      return emit(next, label(submits, l), violation);
    }
    }
  }

  template <class Emit>
  void join_step(const state& s, unsigned f, Emit emit) const {
    enum look : unsigned { pins, whole_claim, range_claim, bits };
    using order = std::array<look, 4>;
    static constexpr order right{pins, whole_claim, range_claim, bits};
    static constexpr order claims_last{pins, bits, whole_claim, range_claim};
    static constexpr order pins_last{whole_claim, range_claim, bits, pins};
    const order& steps = !rules_.pins_before_bits     ? pins_last
                         : !rules_.claims_before_bits ? claims_last
                                                      : right;
    const unsigned pages = scenario_.flushes[f].pages;
    state next = s;
    std::uint16_t what = 0;
    switch (steps.at(s.step)) {
    case pins:
      next.saw_pin = s.pinned != 0 && (scenario_.pin_pages & pages) != 0 ? 1 : 0;
      what = label(reads_pins, f);
      break;
    case whole_claim:
    case range_claim: {
      const unsigned l = steps.at(s.step) == whole_claim ? 0 : 1;
      if (is_claimed(s, l, pages, true)) next.saw_claims |= bit(l);
      what = label(reads_claims, f, l);
      break;
    }
    case bits:
      next.saw_bits = (s.bits & pages) != 0 ? 1 : 0;
      what = label(reads_bits, f);
      break;
    }
    // What cannot change under the mutex needs no step of its own.
    do
      ++next.step;
    while (next.step < steps.size() &&
           ((steps.at(next.step) == whole_claim && s.lanes[0].cut == 0) ||
            (steps.at(next.step) == range_claim && s.lanes[1].cut == 0)));
    emit(next, what, next.step < steps.size() ? nullptr : decide(next, f));
  }

  const char* decide(state& s, unsigned f) const noexcept {
    const unsigned l = lane_of(f);
    const bool due = s.saw_pin != 0 || s.saw_bits != 0;
    const unsigned claims = s.saw_claims;
    s.flush[f] = waiting;
    if (due) {
      if ((claims & bit(1 - l)) != 0) s.steps |= bit(f);
      const bool busy = s.lanes[l].now != idle;
      if (busy && !rules_.join_next)
        s.lanes[l].riding |= bit(f);
      else
        s.lanes[l].gathering |= bit(f);
      if (!busy) {
        begin_sync(s, l);
        return nullptr;
      }
    } else if (claims != 0) {
      if (claims == 3) s.steps |= bit(f);
      s.lanes[(claims & bit(1)) != 0 ? 1 : 0].riding |= bit(f);
    } else {
      unlock(s);
      return finish(s, f, true);
    }
    unlock(s);
    return nullptr;
  }

  void begin_sync(state& s, unsigned l) const noexcept {
    lane& own = s.lanes[l];
    own.riding |= std::exchange(own.gathering, 0);
    own.now = starting;
    own.cut = 0;
    own.distrusted = 0;
    own.free = 0;
    own.range = 0;
    for (unsigned f = 0; f < scenario_.flushes.size(); ++f)
      if ((own.riding & bit(f)) != 0) own.range |= scenario_.flushes[f].pages;
    const unsigned holder = s.holder;
    unlock(s);
    s.holder = holder;
    s.inside = (own.range & page_0) != 0 ? taking_page_0 : taking_page_1;
  }

  template <class Emit>
  void settle(const state& s, unsigned l, Emit emit) const {
    // Until then the sync beside may have taken an error that concerns this one.
    if (rules_.settle_beside_first && s.lanes[l].now == succeeded && s.lanes[l].free == 0 &&
        (s.lanes[1 - l].now == running || s.lanes[1 - l].now == failed))
      return;
    state next = s;
    lane& own = next.lanes[l];
    lane& beside = next.lanes[1 - l];
    const char* violation = nullptr;
    const auto finish_all = [&](unsigned& waiters, bool ok) {
      for (unsigned f = 0; f < scenario_.flushes.size(); ++f)
        if ((waiters & bit(f)) != 0)
          if (const char* v = finish(next, f, ok)) violation = v;
      waiters = 0;
    };
    const bool ok = own.now == succeeded && own.distrusted == 0 && s.poisoned == 0;
    if (ok) {
      next.lost &= ~own.cut;
    } else if (rules_.poison) {
      next.poisoned = 1;
      next.lost |= own.cut;
      finish_all(own.gathering, false);
      finish_all(beside.gathering, false);
    }
    if (ok && beside.now != idle)
      for (unsigned f = 0; f < scenario_.flushes.size(); ++f)
        if ((own.riding & next.steps & bit(f)) != 0 &&
            is_claimed(next, 1 - l, scenario_.flushes[f].pages, !rules_.hand_over_by_claim)) {
          own.riding &= ~bit(f);
          next.steps &= ~bit(f);
          beside.riding |= bit(f);
        }
    if (rules_.settle_beside_first && beside.now == succeeded) beside.free = 1;
    finish_all(own.riding, ok);
    const unsigned gathering = own.gathering;
    own = lane{};
    own.gathering = gathering;
    if (gathering != 0) {
      next.holder = l + 4;
      begin_sync(next, l);
    }
    emit(next, label(settles, l), violation);
  }

  template <class Emit>
  void clear_error(const state& s, Emit emit) const {
    state next = s;
    next.poisoned = 0;
    next.cleared = 1;
    if (rules_.clear_distrusts) {
      // Waits until no write is between its store and its bit, else the bit would say that the page
      // was written after the failure.
      for (unsigned t = 0; t < threads_.size(); ++t) {
        if (threads_[t].unmarked[s.at[t]]) return;
        drain(next, t);
      }
      next.lost |= std::exchange(next.bits, 0);
      for (lane& l : next.lanes) {
        if (l.now == idle) continue;
        next.lost |= l.cut;
        l.distrusted = 1;
      }
      if (s.pinned != 0) {
        next.lost |= scenario_.pin_pages;
        next.pin_distrusted = 1;
      }
    }
    emit(next, label(clears, 0), nullptr);
  }

  scenario scenario_;
  rules rules_;
  std::vector<unsigned> pages_;  // of each byte
  std::vector<thread> threads_;
};

inline std::string dirty_protocol::describe(std::uint16_t what) const {
  const unsigned a = what >> 4 & 15U;
  const unsigned b = what & 15U;
  const auto pages = [](unsigned mask) {
    return mask == both_pages ? std::string("both pages")
                              : "page " + std::to_string(mask == page_0 ? 0 : 1);
  };
  const auto bytes = [&](unsigned mask) {
    unsigned i = 0;
    while (mask >> i != 1)
      ++i;
    return "byte " + std::to_string(i) + " (" + pages(pages_[i]) + ")";
  };
  const std::string sync = a == 0 ? "whole-file sync: " : "range sync: ";
  const std::string page = "page " + std::to_string(b);
  const auto flush = [&] {
    const flush_plan& plan = scenario_.flushes[a];
    return "flush " + std::to_string(a) + " (" + (plan.whole ? "whole file" : pages(plan.pages)) +
           "): ";
  };
  switch (static_cast<action>(what >> 8)) {
  case issues: {
    const instruction& i = threads_[a].program[b];
    std::string who = threads_[a].name + ": ";
    switch (i.what) {
    case act::store:
      return who + "stores " + bytes(i.mask) + ", into its store buffer";
    case act::kernel_write:
      return who + "the kernel writes " + bytes(i.mask);
    case act::look:
      return who + "looks at the bits of " + pages(i.mask);
    case act::set_bits:
      return who + "sets the bits of " + pages(i.mask);
    case act::announce:
      return who + "is done with " + bytes(i.mask);
    case act::take_pin:
      return who + "registers";
    case act::drop_pin:
      return who + "unregisters";
    }
    return who;
  }
  case drains: {
    return threads_[a].name + ": " + bytes(threads_[a].buffered[b].mask) + " reaches memory";
  }
  case write_back:
    return "write-back: writes " + page;
  case write_back_fails:
    return "write-back: fails to write " + page;
  case sync_writes:
    return sync + "writes " + page + " if it is dirty";
  case sync_write_fails:
    return sync + "fails to write " + page;
  case sync_ends:
    return sync + "returns success";
  case sync_reports:
    return sync + "returns the error of a failed write";
  case device_flush_fails:
    return sync + "returns an error of the device's flush";
  case joins:
    return flush() + "begins, locks the mutex";
  case reads_pins:
    return flush() + "reads the pins";
  case reads_claims:
    return flush() + "reads the claim of the " + (b == 0 ? "whole-file sync" : "range sync");
  case reads_bits:
    return flush() + "reads the bits";
  case takes:
    return sync + "takes the bit of " + page;
  case submits:
    return sync +
           (rules_.has_barrier && rules_.barrier ? "heavy barrier is through, starts" : "starts") +
           ", mutex unlocked";
  case settles:
    return sync + "is settled";
  case clears:
    return "clear_flush_error()";
  }
  return {};
}

}  // namespace model

#endif  // MAPIO_TESTS_MODEL_DIRTY_PROTOCOL_HPP
