// What is acknowledged survives a loss of power at any moment: work on a file system on a disk that
// logs its writes and flushes, then hundreds of states that the disk can be left in, each mounted
// and compared with what had been acknowledged by then. See tests/crash/README.md.

#include "crash_states.hpp"
#include "expectations.hpp"
#include "file_systems.hpp"
#include "file_workload.hpp"
#include "logged_device.hpp"
#include "test_disk.hpp"

#include <mapio/backend.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace crash;

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

// Records as many workloads as asked for with each engine; where there is one engine, it takes the
// other's part too.
void crash_often(fs_type type, file_workload work, std::size_t recordings, std::size_t states) {
  std::vector<mapio::backend_kind> engines;
  for (const auto engine : {mapio::backend_kind::io_uring, mapio::backend_kind::thread_pool})
    if (is_available(engine)) engines.push_back(engine);
  replay_result all;
  for (std::size_t i = 0; i < 2 * recordings; ++i) {
    work.engine = engines[i % engines.size()];
    work.seed = seed() + i;
    const bool ring = work.engine == mapio::backend_kind::io_uring;
    all += crash_files(type, work, states, ring ? "io_uring" : "thread_pool");
  }
  std::cout << name_of(type) << ": " << all.states << " states, " << all.lost << " lost\n";
  EXPECT_EQ(all.lost, 0U);
  EXPECT_GE(all.states, 2 * recordings * states);
}

TEST_P(crash_consistency, nothing_acknowledged_is_lost) {
  crash_often(GetParam(), {}, 2, setting("MAPIO_CRASH_STATES", 100));
}

TEST_P(crash_consistency, no_name_is_lost) {
  file_workload work;
  work.only_names = true;
  crash_often(GetParam(), work, 1, setting("MAPIO_CRASH_STATES", 60));
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
                         testing::PrintToStringParamName());

}  // namespace
