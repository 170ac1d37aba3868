#include "prefault_fixture.hpp"
#include "support.hpp"

#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include <asio/awaitable.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

namespace {

using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;
using support::creating;
using support::eager;
using support::every_mode;
using support::page;
using support::pages;
using support::prefault_test;

TEST_F(prefault_test, opens_when_everything_is_in_memory) {
  for (const open_options& options : every_mode()) {
    if (!make_cold()) GTEST_SKIP() << "the pages stay in memory";
    const mapping m(path_, eager(options));
    EXPECT_TRUE(m.is_resident(0, m.size()));
    EXPECT_EQ(m.pending_bytes(), 0U);
  }
}

TEST_F(prefault_test, adopts_when_everything_is_in_memory) {
  for (const open_options& options : every_mode()) {
    if (!make_cold()) GTEST_SKIP() << "the pages stay in memory";
    const mapping m = mapping::adopt(
        support::open_native(path_, support::opening::to_read_and_write).release(), eager(options));
    EXPECT_TRUE(m.is_resident(0, m.size()));
  }
}

TEST_F(prefault_test, opens_an_awaited_file_when_everything_is_in_memory) {
  for (const open_options& options : every_mode()) {
    if (!make_cold()) GTEST_SKIP() << "the pages stay in memory";
    mapped_file file(io_);
    EXPECT_FALSE(await_open(file, eager(options)));
    EXPECT_TRUE(file.map().is_resident(0, file.size()));
  }
}

TEST_F(prefault_test, brings_in_a_file_that_is_created) {
  mapping m(path_, eager(creating(pages * page())));
  EXPECT_TRUE(m.is_resident(0, m.size()));
  m.close();
  mapped_file file(io_);
  EXPECT_FALSE(await_open(file, eager(creating(pages * page()))));
  EXPECT_TRUE(file.map().is_resident(0, file.size()));
}

}  // namespace
