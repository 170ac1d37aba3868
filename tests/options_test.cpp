#include <mapio/options.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <vector>

namespace {

using namespace std::chrono_literals;
using mapio::flush_policy;
using trigger = mapio::flush_policy::trigger;

TEST(open_options, open_an_existing_file_for_reading_by_default) {
  const mapio::open_options options;
  EXPECT_EQ(options.mode, mapio::access::read_only);
  EXPECT_EQ(options.create, mapio::disposition::open_existing);
  EXPECT_EQ(options.size, 0U);
  EXPECT_EQ(options.reserve, 0U);
  EXPECT_EQ(options.policy, flush_policy::manual());
  EXPECT_EQ(options.touch, mapio::prefault::never);
  EXPECT_EQ(options.writes, mapio::write_path::automatic);
  EXPECT_TRUE(options.preallocate);
  EXPECT_TRUE(options.announce);
  EXPECT_FALSE(options.huge_pages);
  EXPECT_TRUE(options.follow_symlinks);
  using std::filesystem::perms;
  EXPECT_EQ(options.permissions, perms::owner_read | perms::owner_write);
}

TEST(open_options, can_be_named_in_the_documented_order) {
  const mapio::open_options options{.mode = mapio::access::read_write,
                                    .create = mapio::disposition::open_or_create,
                                    .size = 1,
                                    .reserve = 2,
                                    .policy = flush_policy::always(),
                                    .touch = mapio::prefault::eager,
                                    .writes = mapio::write_path::file,
                                    .preallocate = false,
                                    .announce = false,
                                    .huge_pages = true,
                                    .follow_symlinks = false,
                                    .permissions = std::filesystem::perms::all};
  EXPECT_EQ(options.create, mapio::disposition::open_or_create);
  EXPECT_EQ(options.reserve, 2U);
  EXPECT_EQ(options.policy.kind(), trigger::always);
  EXPECT_EQ(options.permissions, std::filesystem::perms::all);
}

TEST(flush_policy, is_manual_by_default) {
  static_assert(flush_policy() == flush_policy::manual());
  EXPECT_EQ(flush_policy().kind(), trigger::manual);
  EXPECT_EQ(flush_policy().threshold(), 0U);
}

TEST(flush_policy, keeps_its_kind_and_threshold) {
  EXPECT_EQ(flush_policy::always().kind(), trigger::always);
  EXPECT_EQ(flush_policy::always().threshold(), 0U);
  EXPECT_EQ(flush_policy::every_bytes(1 << 20).kind(), trigger::bytes);
  EXPECT_EQ(flush_policy::every_bytes(1 << 20).threshold(), 1U << 20);
  EXPECT_EQ(flush_policy::every_writes(100).kind(), trigger::writes);
  EXPECT_EQ(flush_policy::every_writes(100).threshold(), 100U);
  EXPECT_EQ(flush_policy::every(250ms).kind(), trigger::interval);
  EXPECT_EQ(flush_policy::every(250ms).threshold(), 250U);
}

TEST(flush_policy, counts_an_interval_in_milliseconds_whatever_its_unit) {
  EXPECT_EQ(flush_policy::every(2s), flush_policy::every(2000ms));
}

TEST(flush_policy, keeps_thresholds_beyond_32_bits) {
  constexpr auto most = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(flush_policy::every_bytes(most).threshold(), most);
  EXPECT_EQ(flush_policy::every_writes(1ULL << 40).threshold(), 1ULL << 40);
}

TEST(flush_policy, equals_only_the_same_kind_with_the_same_threshold) {
  const std::vector<flush_policy> different{
      flush_policy::manual(),       flush_policy::always(),        flush_policy::every_bytes(1),
      flush_policy::every_bytes(2), flush_policy::every_writes(1), flush_policy::every_writes(2),
      flush_policy::every(1ms),     flush_policy::every(2ms)};
  for (std::size_t i = 0; i < different.size(); ++i)
    for (std::size_t j = 0; j < different.size(); ++j)
      EXPECT_EQ(different[i] == different[j], i == j) << i << ' ' << j;
}

TEST(file_stats, start_at_zero_and_know_nothing_of_the_medium) {
  constexpr mapio::file_stats stats;
  EXPECT_EQ(stats.flush_calls + stats.syncs + stats.sync_waiters + stats.clean_flushes +
                stats.sync_failures,
            0U);
  EXPECT_EQ(stats.bytes_dirtied + stats.stores + stats.worker_stores + stats.file_writes, 0U);
  EXPECT_EQ(stats.reads_at_once + stats.reads_off_loop + stats.moves + stats.page_faults, 0U);
  EXPECT_EQ(stats.medium, mapio::medium::unknown);
}

}  // namespace
