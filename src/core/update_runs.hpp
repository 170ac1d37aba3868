#ifndef MAPIO_SRC_CORE_UPDATE_RUNS_HPP
#define MAPIO_SRC_CORE_UPDATE_RUNS_HPP

#include <mapio/detail/config.hpp>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// Updates that follow one another: a few places of a file where that goes on, such as the end of a
/// log, beside others, such as its header. Hints: threads that update at once may lose some.
class update_runs {
 public:
  static constexpr unsigned most = 4;

  void note(std::uint64_t offset, std::uint64_t length) noexcept {
    const std::uint32_t syncs = syncs_.load(std::memory_order_relaxed);
    const unsigned newest = newest_.load(std::memory_order_relaxed);
    if (runs_[newest].takes(offset)) return runs_[newest].go_on(offset, length, syncs);
    unsigned oldest = newest;
    for (unsigned i = 0; i < runs_.size(); ++i) {
      if (runs_[i].takes(offset)) {
        use(i);
        return runs_[i].go_on(offset, length, syncs);
      }
      if (is_older(i, oldest)) oldest = i;
    }
    use(oldest);
    runs_[oldest].begin(offset, length, syncs);
  }
  /// Where an update is that was noted.
  struct place {
    unsigned run = most;       // which one it goes on with; `most`: none
    std::uint64_t before = 0;  // bytes written right before it since the last sync began
  };
  place find(std::uint64_t offset) const noexcept {
    const std::uint32_t syncs = syncs_.load(std::memory_order_relaxed);
    for (unsigned i = 0; i < most; ++i) {
      const run& r = runs_[i];
      const std::uint64_t start = r.start.load(std::memory_order_relaxed);
      if (start <= offset && offset < r.end.load(std::memory_order_relaxed) &&
          r.syncs.load(std::memory_order_relaxed) == syncs)
        return {i, offset - start};
    }
    return {};
  }
  /// What was written so far is on the disk, or on its way: the run that ends at `end` begins
  /// there.
  void begin_anew(std::uint64_t offset, std::uint64_t length) noexcept {
    for (run& r : runs_)
      if (r.end.load(std::memory_order_relaxed) == offset + length)
        r.begin(offset, length, syncs_.load(std::memory_order_relaxed));
  }

  /// Counts the syncs that have begun; before their pages are taken.
  void sync_begins() noexcept { syncs_.fetch_add(1); }
  std::uint32_t syncs() const noexcept { return syncs_.load(); }

 private:
  // Records may be padded.
  static constexpr std::uint64_t longest_gap = 256;

  struct run {
    bool takes(std::uint64_t offset) const noexcept {
      const std::uint64_t last = end.load(std::memory_order_relaxed);
      return offset - last < longest_gap ||
             (offset < last && offset >= start.load(std::memory_order_relaxed));
    }
    void go_on(std::uint64_t offset, std::uint64_t length, std::uint32_t now) noexcept {
      // Written again, or since a sync: from here on.
      if (offset < end.load(std::memory_order_relaxed) ||
          start.load(std::memory_order_relaxed) > offset ||
          syncs.load(std::memory_order_relaxed) != now)
        return begin(offset, length, now);
      end.store(offset + length, std::memory_order_relaxed);
    }
    void begin(std::uint64_t offset, std::uint64_t length, std::uint32_t now) noexcept {
      start.store(offset, std::memory_order_relaxed);
      end.store(offset + length, std::memory_order_relaxed);
      syncs.store(now, std::memory_order_relaxed);
    }

    std::atomic<std::uint64_t> start{0};
    std::atomic<std::uint64_t> end{0};
    std::atomic<std::uint32_t> syncs{0};
    std::atomic<std::uint32_t> used{0};  // when
  };

  void use(unsigned i) noexcept {
    newest_.store(i, std::memory_order_relaxed);
    runs_[i].used.store(uses_.fetch_add(1, std::memory_order_relaxed) + 1,
                        std::memory_order_relaxed);
  }
  bool is_older(unsigned one, unsigned other) const noexcept {
    return static_cast<std::int32_t>(runs_[one].used.load(std::memory_order_relaxed) -
                                     runs_[other].used.load(std::memory_order_relaxed)) < 0;
  }

  std::array<run, most> runs_;
  std::atomic<unsigned> newest_{0};
  std::atomic<std::uint32_t> uses_{0};
  std::atomic<std::uint32_t> syncs_{0};
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_UPDATE_RUNS_HPP
