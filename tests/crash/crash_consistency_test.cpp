// What is acknowledged survives a loss of power at any moment: work on a file system on a disk that
// logs its writes and flushes, then hundreds of states that the disk can be left in, each mounted
// and compared with what had been acknowledged by then. See tests/crash/README.md.

#include "crash_states.hpp"
#include "expectations.hpp"
#include "file_systems.hpp"
#include "file_workload.hpp"
#include "logged_device.hpp"

#include <mapio/backend.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

namespace {

using namespace crash;

std::uint64_t seed() {
  return setting("MAPIO_CRASH_SEED", 20240611);
}

// A test file system with a folder whose name is durable.
class disk {
 public:
  explicit disk(fs_type type)
      : type_(type), device_(make_file_system(type)),
        mount_(std::in_place, device_.file(), type, new_folder("disk")) {
    folder_ = mount_->path() / "work";
    fs::create_directory(folder_);
    const auto root = support::open_fd(mount_->path(), O_RDONLY | O_DIRECTORY);
    if (::syncfs(root.get()) != 0) throw std::system_error(errno, std::system_category(), "syncfs");
  }

  const logged_device& device() const noexcept { return device_; }
  const fs::path& folder() const noexcept { return folder_; }
  recording finish() {
    mount_.reset();
    return device_.so_far();
  }

 private:
  fs_type type_;
  logged_device device_;
  std::optional<mounted> mount_;
  fs::path folder_;
};

class stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

void report(const std::string& what, const recording& log, const replay_result& r, double recorded,
            double replayed) {
  std::size_t counts[4] = {};
  for (const recording::entry& e : log.entries())
    ++counts[static_cast<std::size_t>(e.kind)];
  std::cout << what << ": " << r.states << " states, " << r.lost << " lost";
  if (r.unmountable != 0) std::cout << " (" << r.unmountable << " cannot be mounted)";
  std::cout << "; log: " << counts[1] << " writes, " << counts[2] << " flushes, " << counts[3]
            << " marks; " << r.writes_at_stake << " writes were on their way; recorded in "
            << recorded << " s, replayed in " << replayed << " s\n";
  for (const std::string& p : r.problems)
    std::cout << "  " << p << "\n";
}

// Records a workload on files, and replays it.
replay_result crash_files(fs_type type, const file_workload& work, std::size_t states,
                          const std::string& what) {
  const stopwatch recording_time;
  disk d(type);
  ledger book(d.device());
  d.device().mark(ledger::begin_mark);
  work.run(d.folder(), book);
  d.device().mark(ledger::end_mark);
  const recording log = d.finish();
  const double recorded = recording_time.seconds();

  const stopwatch replay_time;
  replay_options options;
  options.type = type;
  options.begin = log.after_mark(ledger::begin_mark);
  options.end = log.after_mark(ledger::end_mark) - 1;
  options.states = states;
  options.seed = work.seed;
  const auto make_check = [&]() -> state_check {
    auto expected = std::make_shared<expectations>(book);
    auto seen = std::make_shared<std::size_t>(options.begin);
    return [&, expected, seen](const fs::path& where, std::size_t n) {
      for (; *seen < n; ++*seen)
        if (log.entries()[*seen].kind == entry_kind::mark)
          expected->apply(log.entries()[*seen].value);
      return expected->compare(where / "work");
    };
  };
  replay_result result = replay(log, options, make_check);
  report(what, log, result, recorded, replay_time.seconds());
  return result;
}

class crash_consistency : public testing::TestWithParam<fs_type> {
 protected:
  void SetUp() override {
    const std::string missing = why_impossible(GetParam());
    if (!missing.empty()) GTEST_SKIP() << "needs root, FUSE and loop devices: " << missing;
    std::cout << "MAPIO_CRASH_SEED=" << seed() << "\n";
  }
};

TEST_P(crash_consistency, nothing_acknowledged_is_lost) {
  const std::size_t states = setting("MAPIO_CRASH_STATES", 400);
  replay_result all;
  for (const auto engine : {mapio::backend_kind::io_uring, mapio::backend_kind::thread_pool}) {
    file_workload work;
    work.engine = engine;
    work.seed = seed() + (engine == mapio::backend_kind::io_uring ? 0 : 1);
    all += crash_files(GetParam(), work, states / 2,
                       engine == mapio::backend_kind::io_uring ? "io_uring" : "thread_pool");
  }
  EXPECT_EQ(all.lost, 0U);
  EXPECT_GE(all.states, states / 2 * 2);
}

// If these lost nothing, the test above would prove nothing.
TEST_P(crash_consistency, controls_without_a_sync_lose) {
  for (const promise sync : {promise::nothing, promise::started}) {
    file_workload work;
    work.sync = sync;
    work.seed = seed();
    const replay_result result =
        crash_files(GetParam(), work, 40, sync == promise::nothing ? "no sync" : "only started");
    EXPECT_GE(result.lost * 2, result.states);
    EXPECT_EQ(result.unmountable, 0U);
  }
}

INSTANTIATE_TEST_SUITE_P(on, crash_consistency, testing::Values(fs_type::ext4, fs_type::xfs),
                         [](const auto& test) { return std::string(name_of(test.param)); });

}  // namespace
