#include "publish_fixture.hpp"
#include "support.hpp"

#include <mapio/mapping.hpp>

#include <asio/buffer.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <limits>
#include <system_error>
#include <utility>
#include <vector>

namespace {

using mapio::errc;
using mapio::mapping;
using mapio::open_options;
using support::code_of;
using support::page;
using support::publish_test;

constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();

TEST_F(publish_test, makes_foreign_stores_count_for_the_next_flush) {
  mapping m = clean(8 * page());
  const support::foreign_mapping other(path_, 8 * page());
  other.data()[2 * page()] = 'x';
  EXPECT_EQ(syncs_of_flush(m), 0U) << "nobody has told";
  m.publish(2 * page() + 1, page());
  EXPECT_EQ(m.pending_bytes(), 2 * page());
  EXPECT_EQ(m.stats().bytes_dirtied, 2 * page());
  EXPECT_EQ(syncs_of_flush(m), 1U);
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_EQ(syncs_of_flush(m), 0U);
}

TEST_F(publish_test, covers_stores_through_a_pointer_of_a_region_that_is_gone) {
  mapping m = clean(page());
  const mapio::region keeps_it_mapped = m.view(0, page());
  std::byte* const raw = m.mutable_view(0, page()).data();
  m.flush();
  raw[7] = std::byte{1};
  m.publish(7, 1);
  EXPECT_EQ(syncs_of_flush(m), 1U);
}

TEST_F(publish_test, refuses_what_is_not_there_and_what_may_not_be_written) {
  mapping m = clean(4 * page());
  for (const auto& [offset, length] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
           {4 * page(), 1}, {4 * page() + 1, 0}, {0, 4 * page() + 1}, {1, most}, {most, most}}) {
    std::error_code ec;
    m.publish(offset, length, ec);
    EXPECT_EQ(ec, errc::out_of_range) << offset << ' ' << length;
    EXPECT_EQ(code_of([&] { m.publish(offset, length); }), errc::out_of_range);
  }
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_EQ(code_of([&] { mapping(path_).publish(0, 1); }), errc::read_only);
  std::error_code ec = make_error_code(errc::pinned);
  m.publish(0, 1, ec);
  EXPECT_FALSE(ec);
  m.close();
  EXPECT_EQ(code_of([&] { m.publish(0, 1); }), errc::not_open);
  EXPECT_EQ(code_of([] { mapping().publish(0, 0); }), errc::not_open);
}

TEST_F(publish_test, counts_for_the_interval_policy) {
  open_options options = support::read_write();
  options.policy = mapio::flush_policy::every(std::chrono::milliseconds(1));
  clean(4 * page());
  // Not flushed by itself: a flush by the policy could join that, be counted by now, and be the one
  // that makes what follows durable.
  mapping m(path_, options);
  const std::uint64_t before = m.stats().policy_flushes;
  m.publish(0, 1);
  EXPECT_TRUE(support::eventually(
      [&] { return m.stats().policy_flushes > before && m.pending_bytes() == 0; }));
}

}  // namespace
