#ifndef MAPIO_TESTS_MODEL_SEARCH_HPP
#define MAPIO_TESTS_MODEL_SEARCH_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace model {

/// A state, packed: what the visited set holds and compares. Whole states, not hashes of them, so
/// that no state is missed.
using packed = std::array<std::uint64_t, 3>;

/// Writes fields into a packed state, or reads them back.
class packer {
 public:
  void operator()(const unsigned& value, unsigned width) noexcept {
    if (used_ + width > 64) {
      ++word_;
      used_ = 0;
    }
    bits.at(word_) |= std::uint64_t{value} << used_;
    used_ += width;
  }
  packed bits{};

 private:
  std::size_t word_ = 0;
  unsigned used_ = 0;
};

class unpacker {
 public:
  explicit unpacker(const packed& from) noexcept : bits_(from) {}
  void operator()(unsigned& value, unsigned width) noexcept {
    if (used_ + width > 64) {
      ++word_;
      used_ = 0;
    }
    value = static_cast<unsigned>(bits_.at(word_) >> used_ & ((std::uint64_t{1} << width) - 1));
    used_ += width;
  }

 private:
  const packed& bits_;
  std::size_t word_ = 0;
  unsigned used_ = 0;
};

template <class State>
packed pack(const State& s) {
  packer p;
  State::each_field(s, p);
  return p.bits;
}

template <class State>
State unpack(const packed& bits) {
  State s;
  unpacker u(bits);
  State::each_field(s, u);
  return s;
}

struct outcome {
  std::size_t states = 0;
  std::size_t transitions = 0;
  std::size_t endings = 0;  // states in which everybody is done
  bool complete = false;    // every reachable state was seen
  std::string violation;    // empty: none
  std::vector<std::string> trace;
};

/// Visits every state that `m` can reach, nearest first, so that the trace of a violation is as
/// short as one can be.
///
/// A model has a `state`, `initial()`, `is_done(state)`, `describe(label)`, and
/// `each_step(state, emit)`, which calls emit(next state, label, violation or null) for everything
/// that may happen next. A state that is not done and has no step is a violation: somebody waits
/// for ever.
template <class Model>
class search {
 public:
  explicit search(const Model& m) : model_(m), table_(std::size_t{1} << 16, none) {}

  outcome run(std::size_t most_states) {
    outcome result;
    insert(pack(model_.initial()), none, 0);
    for (std::uint32_t at = 0; at < states_.size(); ++at) {
      if (states_.size() > most_states) return finish(std::move(result));
      const auto s = unpack<typename Model::state>(states_[at]);
      if (model_.is_done(s)) {
        ++result.endings;
        continue;
      }
      bool moves = false;
      model_.each_step(
          s, [&](const typename Model::state& next, std::uint16_t label, const char* violation) {
            moves = true;
            ++result.transitions;
            if (violation != nullptr && result.violation.empty()) {
              result.violation = violation;
              result.trace = trace_to(at);
              result.trace.push_back(model_.describe(label));
            }
            insert(pack(next), at, label);
          });
      if (!moves && result.violation.empty()) {
        result.violation = "nobody can go on, and a flush still waits";
        result.trace = trace_to(at);
      }
      if (!result.violation.empty()) return finish(std::move(result));
    }
    result.complete = true;
    return finish(std::move(result));
  }

 private:
  static constexpr std::uint32_t none = ~std::uint32_t{0};

  outcome finish(outcome result) const {
    result.states = states_.size();
    return result;
  }

  static std::size_t hash(const packed& p) noexcept {
    std::uint64_t h = 0;
    for (const std::uint64_t word : p) {
      h = (h ^ word) * 0x9e3779b97f4a7c15U;
      h ^= h >> 32;
    }
    return static_cast<std::size_t>(h);
  }

  // Where `p` is in the table, or would be.
  std::size_t slot_of(const packed& p) const noexcept {
    std::size_t i = hash(p) & (table_.size() - 1);
    while (table_[i] != none && states_[table_[i]] != p)
      i = (i + 1) & (table_.size() - 1);
    return i;
  }

  void insert(const packed& p, std::uint32_t parent, std::uint16_t label) {
    const std::size_t slot = slot_of(p);
    if (table_[slot] != none) return;
    table_[slot] = static_cast<std::uint32_t>(states_.size());
    states_.push_back(p);
    parents_.push_back(parent);
    labels_.push_back(label);
    if (states_.size() * 2 > table_.size()) {
      table_.assign(table_.size() * 2, none);
      for (std::uint32_t i = 0; i < states_.size(); ++i)
        table_[slot_of(states_[i])] = i;
    }
  }

  std::vector<std::string> trace_to(std::uint32_t at) const {
    std::vector<std::string> steps;
    for (; parents_[at] != none; at = parents_[at])
      steps.push_back(model_.describe(labels_[at]));
    std::reverse(steps.begin(), steps.end());
    return steps;
  }

  const Model& model_;
  std::vector<packed> states_;  // also the queue
  std::vector<std::uint32_t> parents_;
  std::vector<std::uint16_t> labels_;
  std::vector<std::uint32_t> table_;
};

}  // namespace model

#endif  // MAPIO_TESTS_MODEL_SEARCH_HPP
