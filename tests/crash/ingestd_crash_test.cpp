// What ingestd acknowledges survives a loss of power at any moment, and its recovery finds it.

#include "crash_states.hpp"
#include "daemon_workload.hpp"
#include "expectations.hpp"
#include "file_systems.hpp"
#include "logged_device.hpp"
#include "test_disk.hpp"

#include <spdlog/spdlog.h>

#include <gtest/gtest.h>

#include <cstddef>
#include <iostream>
#include <memory>
#include <string>

namespace {

using namespace crash;

replay_result crash_daemon(fs_type type, const daemon_workload& work, std::size_t states,
                           const std::string& what) {
  const stopwatch recording_time;
  disk d(type);
  receipt_book book(d.device());
  d.device().mark(ledger::begin_mark);
  work.run(d.folder() / "log", book);
  d.device().mark(ledger::end_mark);
  const recording log = d.finish();
  const double recorded = recording_time.seconds();

  const stopwatch replay_time;
  replay_options options;
  options.type = type;
  options.mode = mounted::mode::read_write;  // a recovery repairs
  options.begin = log.after_mark(ledger::begin_mark);
  options.end = log.after_mark(ledger::end_mark) - 1;
  options.states = states;
  options.seed = work.seed;
  const auto make_check = [&]() -> state_check {
    auto expected = std::make_shared<daemon_expectations>();
    auto seen = std::make_shared<std::size_t>(options.begin);
    auto count = std::make_shared<std::size_t>(0);
    return [&, expected, seen, count](const fs::path& where, std::size_t n) {
      for (; *seen < n; ++*seen)
        if (log.entries()[*seen].kind == entry_kind::mark)
          expected->apply(book.at(log.entries()[*seen].value));
      return expected->compare(where / "work" / "log", !work.hasty && ++*count % 8 == 0);
    };
  };
  replay_result result = replay(log, options, make_check);
  report(what, log, result, recorded, replay_time.seconds());
  return result;
}

class ingestd_crash : public testing::TestWithParam<fs_type> {
 protected:
  void SetUp() override {
    const std::string missing = why_impossible(GetParam());
    if (!missing.empty()) GTEST_SKIP() << "needs root, FUSE and loop devices: " << missing;
    std::cout << "MAPIO_CRASH_SEED=" << seed() << "\n";
    // Where the harness puts the output of processes; goes with the workspace.
    temporary_ = std::make_unique<support::scoped_environment>("TMPDIR", workspace().c_str());
    spdlog::set_level(spdlog::level::off);  // of recoveries, hundreds of them
  }

 private:
  std::unique_ptr<support::scoped_environment> temporary_;
};

TEST_P(ingestd_crash, nothing_acknowledged_is_lost) {
  const std::size_t states = setting("MAPIO_CRASH_STATES", 160);
  replay_result all;
  for (const std::string engine : {"automatic", "thread_pool"}) {
    daemon_workload work;
    work.engine = engine;
    work.seed = seed() + all.states;
    all += crash_daemon(GetParam(), work, states / 2, engine);
  }
  EXPECT_EQ(all.lost, 0U);
  EXPECT_GE(all.states, states / 2 * 2);
}

// Clients that believe that what is sent is stored.
TEST_P(ingestd_crash, hasty_control_loses) {
  daemon_workload work;
  work.hasty = true;
  work.seed = seed();
  const replay_result result = crash_daemon(GetParam(), work, 40, "hasty");
  EXPECT_GE(result.lost * 2, result.states);
  EXPECT_EQ(result.unmountable, 0U);
}

INSTANTIATE_TEST_SUITE_P(on, ingestd_crash, testing::Values(fs_type::ext4, fs_type::xfs),
                         testing::PrintToStringParamName());

}  // namespace
