// flush_policy at work, on both classes. What mapped_file does is run on each engine; failures are
// injected on the thread pool, whose system calls a test can see.
#include "flush_policy_fixture.hpp"
#include "support.hpp"

#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace std::chrono_literals;
using mapio::errc;
using mapio::flush_policy;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;
using support::clean;
using support::flush_policy_test;
using support::following;
using support::mapped_file_policy;
using support::outcome;
using support::page;
using support::read_write;
using support::store;

using mapping_policy = flush_policy_test;

TEST_F(mapping_policy, always_makes_every_update_durable) {
  mapping m = clean(path_, flush_policy::always());
  const std::uint64_t syncs = m.stats().syncs;
  store(m, 3);
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_EQ(m.stats().syncs, syncs + 1);
  // Several buffers are one update.
  const std::array<asio::const_buffer, 3> parts{asio::buffer("a", 1), asio::buffer("b", 1),
                                                asio::buffer("c", 1)};
  m.update_region(9 * page() - 1, parts);
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_EQ(m.stats().syncs, syncs + 2);
  m.update_region(0, asio::const_buffer());
  EXPECT_EQ(m.stats().syncs, syncs + 2);
}

TEST_F(mapping_policy, every_bytes_flushes_the_whole_file_with_the_byte_that_is_one_too_many) {
  mapping m = clean(path_, flush_policy::every_bytes(100));
  const auto before = m.stats();
  store(m, 0, 60);
  store(m, 5, 39);
  EXPECT_EQ(m.stats().syncs, before.syncs);
  EXPECT_EQ(m.pending_bytes(), 2 * page());
  store(m, 9, 1);
  EXPECT_EQ(m.stats().syncs, before.syncs + 1);
  EXPECT_EQ(m.stats().policy_flushes, before.policy_flushes + 1);
  EXPECT_EQ(m.pending_bytes(), 0U);
  // It counts anew, also after a flush that somebody asked for.
  store(m, 0, 99);
  m.flush();
  store(m, 0, 99);
  EXPECT_EQ(m.pending_bytes(), page());
  store(m, 0, 1);
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_EQ(m.stats().policy_flushes, before.policy_flushes + 2);
}

TEST_F(mapping_policy, every_writes_counts_updates_and_not_their_buffers) {
  mapping m = clean(path_, flush_policy::every_writes(3));
  const std::uint64_t syncs = m.stats().syncs;
  store(m, 0, 1000);
  const std::array<asio::const_buffer, 3> parts{asio::buffer("a", 1), asio::buffer("b", 1),
                                                asio::buffer("c", 1)};
  m.update_region(page(), parts);
  EXPECT_EQ(m.stats().syncs, syncs);
  store(m, 2);
  EXPECT_EQ(m.stats().syncs, syncs + 1);
  EXPECT_EQ(m.pending_bytes(), 0U);
}

TEST_F(mapping_policy, every_flushes_in_the_background) {
  mapping m = clean(path_, flush_policy::every(5ms));
  store(m, 1);
  EXPECT_TRUE(support::eventually([&] { return m.pending_bytes() == 0; }));
  { m.mutable_view(7 * page(), 1).data()[0] = std::byte{7}; }
  EXPECT_TRUE(support::eventually([&] { return m.pending_bytes() == 0; }));
  EXPECT_TRUE(support::eventually([&] { return m.stats().policy_flushes >= 2; }));
  // Nothing to do is nothing done.
  const std::uint64_t syncs = m.stats().syncs;
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(m.stats().syncs, syncs);
}

TEST_F(mapping_policy, every_lasts_as_long_as_the_file) {
  std::vector<mapping> files;
  for (int i = 0; i < 20; ++i)
    files.push_back(clean(dir_ / std::to_string(i), flush_policy::every(1ms)));
  for (int round = 0; round < 5; ++round) {
    for (mapping& m : files)
      store(m, 1);
    EXPECT_TRUE(support::eventually([&] {
      return std::all_of(files.begin(), files.end(),
                         [](const mapping& m) { return m.pending_bytes() == 0; });
    }));
  }
  files.clear();
  mapping again = clean(path_, flush_policy::every(1ms));
  store(again, 1);
  EXPECT_TRUE(support::eventually([&] { return again.pending_bytes() == 0; }));
}

TEST_F(mapping_policy, holds_for_a_file_that_was_there_and_for_an_adopted_one) {
  support::write_file(path_, support::pattern(8 * page()));
  mapping opened(path_, following(flush_policy::always(), read_write()));
  store(opened, 1);
  EXPECT_EQ(opened.pending_bytes(), 0U);
  EXPECT_GE(opened.stats().syncs, 1U);
  opened.close();
  mapping adopted =
      mapping::adopt(support::open_native(path_, support::opening::to_read_and_write).release(),
                     following(flush_policy::every_writes(1), read_write()));
  store(adopted, 1);
  EXPECT_EQ(adopted.pending_bytes(), 0U);
  EXPECT_EQ(adopted.policy(), flush_policy::every_writes(1));
}

TEST_F(mapping_policy, has_no_effect_where_nothing_can_become_durable) {
  support::write_file(path_, support::pattern(8 * page()));
  for (open_options options : {support::read_only(), support::copy_on_write()}) {
    mapping m(path_, following(flush_policy::always(), options));
    if (options.mode == mapio::access::copy_on_write) store(m, 1);
    m.close();
    EXPECT_EQ(m.stats().syncs, 0U);
  }
}

TEST_F(mapping_policy, that_would_never_or_always_be_due_is_refused) {
  for (const flush_policy policy : {flush_policy::every_bytes(0), flush_policy::every_writes(0),
                                    flush_policy::every(0ms), flush_policy::every(-5ms)}) {
    std::error_code error;
    const mapping m(path_, following(policy), error);
    EXPECT_EQ(error, std::errc::invalid_argument);
    EXPECT_FALSE(m.is_open());
    EXPECT_FALSE(std::filesystem::exists(path_));
  }
}

TEST_F(mapped_file_policy, always_completes_updates_once_they_are_durable) {
  mapped_file file = opened(flush_policy::always());
  support::run_coroutine(io_, [&]() -> work {
    const std::uint64_t syncs = file.stats().syncs;
    EXPECT_EQ(co_await file.update_region(5 * page(), asio::buffer("abc", 3)), 3U);
    EXPECT_EQ(file.pending_bytes(), 0U);
    EXPECT_EQ(file.stats().syncs, syncs + 1);
    EXPECT_EQ(co_await file.update_region(5 * page(), asio::buffer("", 0)), 0U);
    EXPECT_EQ(file.stats().syncs, syncs + 1);
  });
}

TEST_F(mapped_file_policy, always_shares_the_syncs_of_updates_at_the_same_time) {
  constexpr std::uint64_t count = 64;
  mapped_file file = opened(flush_policy::always());
  const std::uint64_t syncs = file.stats().syncs;
  std::deque<outcome> outcomes(count);
  for (std::uint64_t i = 0; i < count; ++i)
    file.update_region(i * page(), asio::buffer("x", 1), outcomes[i].handler());
  ASSERT_TRUE(support::run_to_end(io_));
  for (const outcome& o : outcomes) {
    EXPECT_EQ(o.calls, 1);
    EXPECT_FALSE(o.error) << o.error.message();
    EXPECT_EQ(o.bytes, 1U);
  }
  EXPECT_EQ(file.pending_bytes(), 0U);
  EXPECT_LT(file.stats().syncs - syncs, count / 2);
}

TEST_F(mapped_file_policy, every_bytes_and_every_writes_flush_in_the_background) {
  const std::string nine = support::pattern(9);
  for (const flush_policy policy : {flush_policy::every_bytes(10), flush_policy::every_writes(2)}) {
    mapped_file file = opened(policy);
    const auto before = file.stats();
    outcome first;
    outcome second;
    file.update_region(0, asio::buffer(nine), first.handler());
    ASSERT_TRUE(support::run_to_end(io_));
    EXPECT_EQ(file.stats().syncs, before.syncs);
    file.update_region(7 * page(), asio::buffer("x", 1), second.handler());
    ASSERT_TRUE(support::run_to_end(io_)) << "run() must return";
    EXPECT_EQ(second.calls, 1);
    EXPECT_TRUE(support::eventually([&] { return file.pending_bytes() == 0; }));
    EXPECT_EQ(file.stats().policy_flushes, before.policy_flushes + 1);
  }
}

TEST_F(mapped_file_policy, that_is_overrun_while_it_flushes_flushes_once_more) {
  mapped_file file = opened(flush_policy::every_writes(1));
  std::deque<outcome> outcomes(50);
  for (std::uint64_t i = 0; i < outcomes.size(); ++i)
    file.update_region(i * page(), asio::buffer("x", 1), outcomes[i].handler());
  ASSERT_TRUE(support::run_to_end(io_));
  EXPECT_TRUE(support::eventually([&] { return file.pending_bytes() == 0; }));
}

TEST_F(mapped_file_policy, every_counts_as_no_work_and_works_without_a_loop) {
  mapped_file file = opened(flush_policy::every(5ms));
  outcome stored;
  file.update_region(3 * page(), asio::buffer("x", 1), stored.handler());
  ASSERT_TRUE(support::run_to_end(io_)) << "the timer keeps run() from returning";
  EXPECT_EQ(stored.calls, 1);
  EXPECT_TRUE(support::eventually([&] { return file.pending_bytes() == 0; }));
}

TEST_F(mapped_file_policy, that_has_flushes_under_way_does_not_outlive_its_context) {
  for (int round = 0; round < 20; ++round) {
    auto io = std::make_unique<asio::io_context>();
    mapped_file file = opened_on(*io, path_, flush_policy::every_writes(1));
    mapped_file always = opened_on(*io, dir_ / "always", flush_policy::always());
    for (std::uint64_t i = 0; i < 8; ++i) {
      file.update_region(i * page(), asio::buffer("x", 1), [](std::error_code, std::size_t) {});
      always.update_region(i * page(), asio::buffer("x", 1), [](std::error_code, std::size_t) {});
    }
    always.close([](std::error_code) {});
    io->restart();
    for (int turn = 0; turn < round; ++turn)
      io->poll_one();
    io.reset();
  }
}

TEST_F(mapped_file_policy, lets_close_flush_what_it_owes) {
  for (const flush_policy policy : {flush_policy::every_bytes(1 << 20), flush_policy::every(1h)}) {
    mapped_file file = opened(policy);
    outcome stored;
    outcome closed;
    file.update_region(0, asio::buffer("x", 1), stored.handler());
    ASSERT_TRUE(support::run_to_end(io_));
    // A view keeps the counters' mapping in sight after the close.
    const std::uint64_t pending = file.pending_bytes();
    EXPECT_EQ(pending, page());
    file.close(closed.handler());
    ASSERT_TRUE(support::run_to_end(io_));
    EXPECT_EQ(closed.calls, 1);
    EXPECT_FALSE(closed.error) << closed.error.message();
    EXPECT_FALSE(file.is_open());
    EXPECT_FALSE(support::is_mapped(path_));
  }
}

}  // namespace
