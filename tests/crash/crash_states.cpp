#include "crash_states.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include <sys/mman.h>
#include <unistd.h>

namespace crash {

namespace {

constexpr std::size_t block = 4096;
constexpr std::size_t sector = 512;

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::system_category(), what);
}

void write_at(int file, const std::byte* bytes, std::size_t length, std::uint64_t offset) {
  if (::pwrite(file, bytes, length, static_cast<off_t>(offset)) != static_cast<ssize_t>(length))
    fail("pwrite");
}

}  // namespace

std::vector<crash_point> pick_points(const recording& log, std::size_t begin, std::size_t end,
                                     std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::size_t> marks;
  std::vector<std::size_t> flushes;
  for (std::size_t i = begin; i < end; ++i) {
    if (log.entries()[i].kind == entry_kind::mark) marks.push_back(i);
    if (log.entries()[i].kind == entry_kind::flush) flushes.push_back(i);
  }
  std::vector<crash_point> points(count);
  for (crash_point& p : points) {
    p.seed = random();
    p.cut = begin + 1 + random() % std::max<std::size_t>(1, end - begin);
    // Right after an acknowledgement it must hold already; right before a flush the most writes are
    // on their way. Any other moment may be the bad one, too.
    const auto kind = random() % 3;
    if (kind == 0 && !marks.empty()) p.cut = marks[random() % marks.size()] + 1;
    if (kind == 1 && !flushes.empty()) p.cut = flushes[random() % flushes.size()];
  }
  std::sort(points.begin(), points.end(),
            [](const crash_point& a, const crash_point& b) { return a.cut < b.cut; });
  for (std::size_t i = 0; i < count; ++i)
    points[i].number = i;
  return points;
}

// --- state_builder
// --------------------------------------------------------------------------------

state_builder::state_builder(const recording& log)
    : log_(log), is_written_((log.base().size() + block - 1) / block) {
  const std::size_t size = is_written_.size() * block;
  void* const at =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) fail("mmap");
  durable_ = static_cast<std::byte*>(at);
  std::array<std::byte, block> bytes;
  for (std::size_t b = 0; b < is_written_.size(); ++b) {
    const ssize_t n = ::pread(log.base().fd(), bytes.data(), block, static_cast<off_t>(b * block));
    if (n < 0) fail("pread");
    if (std::all_of(bytes.begin(), bytes.begin() + n,
                    [](std::byte byte) { return byte == std::byte{}; }))
      continue;
    std::memcpy(durable_ + b * block, bytes.data(), static_cast<std::size_t>(n));
    is_written_[b] = true;
  }
}

state_builder::~state_builder() {
  ::munmap(durable_, is_written_.size() * block);
}

void state_builder::settle(std::size_t end) {
  for (; settled_ < end; ++settled_) {
    const recording::entry& e = log_.entries()[settled_];
    if (e.kind != entry_kind::write || e.bytes.empty()) continue;
    std::memcpy(durable_ + e.value, e.bytes.data(), e.bytes.size());
    for (std::size_t b = e.value / block; b <= (e.value + e.bytes.size() - 1) / block; ++b)
      is_written_[b] = true;
  }
}

memory_file state_builder::build_durable(std::size_t cut) {
  for (; scanned_ < cut; ++scanned_)
    if (log_.entries()[scanned_].kind == entry_kind::flush) flushed_ = scanned_ + 1;
  settle(flushed_);

  memory_file state(log_.base().size());
  for (std::size_t b = 0; b < is_written_.size();) {
    std::size_t end = b;
    while (end < is_written_.size() && is_written_[end])
      ++end;
    if (end == b) {
      ++b;
      continue;
    }
    const std::size_t length =
        std::min(end * block, static_cast<std::size_t>(state.size())) - b * block;
    write_at(state.fd(), durable_ + b * block, length, b * block);
    b = end;
  }
  return state;
}

memory_file state_builder::build(const crash_point& point) {
  memory_file state = build_durable(point.cut);
  std::mt19937_64 random(point.seed);
  for (std::size_t i = flushed_; i < point.cut; ++i) {
    const recording::entry& e = log_.entries()[i];
    if (e.kind != entry_kind::write) continue;
    ++writes_at_stake_;
    const auto fate = random() % 4;
    if (fate == 0) continue;
    std::size_t piece = fate == 1 ? e.bytes.size() : fate == 2 ? block : sector;
    for (std::size_t at = 0; at < e.bytes.size(); at += piece)
      if (fate == 1 || random() % 2 == 0)
        write_at(state.fd(), e.bytes.data() + at, std::min(piece, e.bytes.size() - at),
                 e.value + at);
  }
  return state;
}

// --- replay
// ---------------------------------------------------------------------------------------

replay_result& replay_result::operator+=(const replay_result& other) {
  states += other.states;
  lost += other.lost;
  unmountable += other.unmountable;
  writes_at_stake += other.writes_at_stake;
  for (const std::string& p : other.problems)
    if (problems.size() < 20) problems.push_back(p);
  return *this;
}

namespace {

std::vector<std::string> check_state(const memory_file& state, const fs::path& where,
                                     const replay_options& options, const crash_point& point,
                                     const state_check& check, bool& is_mountable) {
  std::unique_ptr<mounted> m;
  try {
    m = std::make_unique<mounted>(state.fd(), options.type, where, options.mode);
  } catch (const std::exception& e) {
    is_mountable = false;
    return {e.what()};
  }
  try {
    return check(where, point.cut);
  } catch (const std::exception& e) {
    return {e.what()};
  }
}

}  // namespace

replay_result replay(const recording& log, const replay_options& options,
                     const std::function<state_check()>& make_check) {
  const auto points = pick_points(log, options.begin, options.end, options.states, options.seed);
  constexpr std::size_t threads = 2;
  replay_result result;
  std::mutex mutex;
  std::exception_ptr failure;
  const auto work = [&](std::size_t first) {
    const fs::path where = new_folder("state");
    state_builder builder(log);
    const state_check check = make_check();
    for (std::size_t i = first; i < points.size(); i += threads) {
      const memory_file state = builder.build(points[i]);
      bool is_mountable = true;
      const auto problems = check_state(state, where, options, points[i], check, is_mountable);
      replay_result one{1, problems.empty() ? 0U : 1U, is_mountable ? 0U : 1U, 0, {}};
      for (const std::string& p : problems)
        one.problems.push_back("state " + std::to_string(points[i].number) + ", cut after entry " +
                               std::to_string(points[i].cut) + ": " + p);
      const std::lock_guard lock(mutex);
      result += one;
    }
    const std::lock_guard lock(mutex);
    result.writes_at_stake += builder.writes_at_stake();
  };
  std::vector<std::thread> workers;
  for (std::size_t t = 0; t < threads; ++t)
    workers.emplace_back([&, t] {
      try {
        work(t);
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
      }
    });
  for (std::thread& worker : workers)
    worker.join();
  if (failure) std::rethrow_exception(failure);
  return result;
}

std::uint64_t setting(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 0);
}

}  // namespace crash
