// What of publish_test.cpp is about Linux.

#include "faults/failing_syncs.hpp"
#include "linux/linux_support.hpp"
#include "modification_watch.hpp"
#include "publish_fixture.hpp"

#include <mapio/mapping.hpp>

#include <asio/buffer.hpp>

#include <gtest/gtest.h>

#include <system_error>

namespace {

using mapio::errc;
using mapio::mapping;
using mapio::open_options;
using support::code_of;
using support::page;
using support::publish_test;

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
