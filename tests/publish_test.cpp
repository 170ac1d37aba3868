#include "faults/failing_syncs.hpp"
#include "modification_watch.hpp"
#include "support.hpp"

#include <mapio/mapping.hpp>

#include <asio/buffer.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using mapio::errc;
using mapio::mapping;
using mapio::open_options;
using support::code_of;
using support::page;
using support::pattern;

constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();

class publish_test : public testing::Test {
 protected:
  /// A file of which nothing is dirty.
  mapping clean(std::uint64_t size, const open_options& options = support::read_write()) {
    support::write_file(path_, pattern(size));
    mapping m(path_, options);
    m.flush();
    return m;
  }
  std::uint64_t syncs_of_flush(mapping& m) {
    const std::uint64_t before = m.stats().syncs;
    m.flush();
    return m.stats().syncs - before;
  }

  support::temp_dir dir_;
  const fs::path path_ = dir_ / "file";
};

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

TEST_F(publish_test, tells_watchers_at_once_and_only_once) {
  mapping m = clean(4 * page());
  support::modification_watch watch(path_);
  m.publish(0, 1);
  EXPECT_EQ(watch.modifications(), 1);
  m.flush();
  EXPECT_EQ(watch.modifications(), 0);
}

TEST_F(publish_test, leaves_it_to_the_flush_to_tell_of_what_mapio_stored) {
  open_options options = support::read_write();
  options.writes = mapio::write_path::mapped;
  mapping m = clean(4 * page(), options);
  support::modification_watch watch(path_);
  m.update_region(0, asio::buffer("x", 1));
  m.publish(page(), 1);
  EXPECT_EQ(watch.modifications(), 1);
  m.flush();
  EXPECT_EQ(watch.modifications(), 1);
}

TEST_F(publish_test, tells_nobody_where_announcing_is_off) {
  open_options options = support::read_write();
  options.announce = false;
  mapping m = clean(4 * page(), options);
  support::modification_watch watch(path_);
  m.publish(0, m.size());
  m.flush();
  EXPECT_EQ(watch.modifications(), 0);
}

TEST_F(publish_test, of_nothing_does_nothing) {
  mapping m = clean(4 * page());
  support::modification_watch watch(path_);
  m.publish(0, 0);
  m.publish(4 * page(), 0);
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_EQ(watch.modifications(), 0);
}

TEST_F(publish_test, of_a_private_mapping_does_nothing) {
  mapping m = clean(4 * page(), support::copy_on_write());
  support::modification_watch watch(path_);
  m.publish(0, m.size());
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_EQ(watch.modifications(), 0);
  EXPECT_EQ(code_of([&] { m.publish(4 * page(), 1); }), errc::out_of_range);
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

TEST_F(publish_test, of_what_a_failed_sync_may_have_lost_promises_nothing) {
  faults::failing_syncs syncs;
  const bool possible = syncs.run([&] {
    mapping m = clean(8 * page());
    const support::foreign_mapping other(path_, 8 * page());
    other.data()[3 * page()] = 'x';  // gone, for all that is known, when it is published
    m.update_region(0, asio::buffer("x", 1));
    syncs.fail_next(1);
    std::error_code ec;
    m.flush(ec);
    ASSERT_TRUE(ec);
    m.publish(3 * page(), 1, ec);
    EXPECT_EQ(ec, errc::flush_failed);
    m.clear_flush_error();
    m.flush_range(3 * page(), 1, ec);
    EXPECT_EQ(ec, errc::flush_failed);

    m.clear_flush_error();
    other.data()[3 * page()] = 'y';
    m.publish(3 * page(), 1);
    m.flush_range(3 * page(), 1, ec);
    EXPECT_FALSE(ec) << ec.message();
    m.flush_range(0, 1, ec);
    EXPECT_EQ(ec, errc::flush_failed) << "that was not stored again";
  });
  if (!possible) GTEST_SKIP() << "seccomp does not let us fail system calls";
}

}  // namespace
