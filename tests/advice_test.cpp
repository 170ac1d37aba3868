#include "advice_fixture.hpp"
#include "smaps.hpp"
#include "support.hpp"

#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace {

using mapio::advice;
using mapio::errc;
using mapio::mapping;
using support::advice_test;
using support::all_advice;
using support::code_of;
using support::huge_page;
using support::huge_pages_test;
using support::most;
using support::page;
using support::pattern;

TEST_F(advice_test, never_takes_what_was_stored_privately) {
  mapping m = file_of(std::string(page(), 'a'), support::copy_on_write());
  m.update_region(0, asio::buffer("b", 1));
  EXPECT_EQ(code_of([&] { m.advise(0, page(), advice::dont_need); }), errc::unsupported);
  EXPECT_EQ(m.view(0, 1).text(), "b");
}

TEST_F(advice_test, about_nothing_or_what_is_not_there_changes_nothing) {
  mapping m = file_of(pattern(4 * page()));
  m.advise(0, 0, advice::random);
  m.advise(4 * page(), 0, advice::random);
  EXPECT_EQ(with("rr"), 0U);
  for (const auto& [offset, length] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
           {4 * page(), 1}, {4 * page() + 1, 0}, {0, 4 * page() + 1}, {1, most}, {most, most}}) {
    for (const advice what : all_advice) {
      std::error_code ec;
      m.advise(offset, length, what, ec);
      EXPECT_EQ(ec, errc::out_of_range) << offset << ' ' << length;
    }
    EXPECT_EQ(code_of([&] { m.advise(offset, length, advice::random); }), errc::out_of_range);
  }
  EXPECT_EQ(with("rr"), 0U);
  m.close();
  EXPECT_EQ(code_of([&] { m.advise(0, 1, advice::random); }), errc::not_open);
  EXPECT_EQ(code_of([] { mapping().advise(0, 0, advice::random); }), errc::not_open);
}

TEST_F(advice_test, that_is_none_is_refused) {
  mapping m = file_of(pattern(page()));
  EXPECT_EQ(code_of([&] { m.advise(0, 1, static_cast<advice>(99)); }), std::errc::invalid_argument);
}

TEST_F(huge_pages_test, are_not_asked_for_by_default) {
  mapping m = file_of(pattern(4 * huge_page));
  m.prefetch();
  EXPECT_EQ(with("hg"), 0U);
  EXPECT_EQ(m.stats().huge_page_bytes, 0U) << "looking costs";
}

}  // namespace
