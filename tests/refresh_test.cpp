// refresh(): the size that somebody else gave the file.

#include <mapio/mapped_file.hpp>

#include "mapped_file_fixture.hpp"
#include "support.hpp"

#include <asio/bind_cancellation_slot.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/error.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>

namespace {

using mapio::errc;
using mapio::mapped_file;
using mapio::mapping;
using support::code_of;
using support::outcome;
using support::page;
using support::pattern;
using support::read_all;
using support::read_only;
using support::read_write;
using support::same;
using support::truncate_file;
using support::write_file;

class refresh_test : public support::mapped_file_test {
 protected:
  outcome refreshed(mapped_file& file) {
    outcome a;
    file.refresh(a.handler());
    finish(a);
    return a;
  }

  const std::string bytes_ = pattern(4 * page());
  const std::string longer_ = pattern(9 * page() + 10);
};

TEST_F(refresh_test, changes_nothing_where_nothing_was_changed) {
  mapped_file file = opened_with(bytes_);
  const mapio::region held = file.map().view(0, 4 * page());
  const outcome a = refreshed(file);
  EXPECT_FALSE(a.error);
  EXPECT_EQ(a.bytes, 4 * page());
  EXPECT_EQ(file.stats().moves, 0U);
}

TEST_F(refresh_test, adopts_growth_in_place) {
  const std::size_t granule = support::mapping_granule();
  mapped_file file = opened_with(pattern(granule));
  const mapio::region held = file.map().view(0, granule);
  const std::string longer = pattern(9 * granule + 10);
  write_file(path_, longer);
  EXPECT_EQ(file.size(), granule);
  const outcome a = refreshed(file);
  EXPECT_FALSE(a.error);
  EXPECT_EQ(a.bytes, longer.size());
  EXPECT_EQ(file.size(), longer.size());
  EXPECT_EQ(file.stats().moves, 0U);
  EXPECT_TRUE(same(read_all(file.map()), longer));
  run([&]() -> work {
    co_await file.update_region(longer.size() - 3, asio::buffer("end", 3));
    co_await file.flush();
  });
  EXPECT_TRUE(same(support::read_file(path_), longer.substr(0, longer.size() - 3) + "end"));
}

TEST_F(refresh_test, adopts_growth_that_moves_the_mapping_once_no_region_is_left) {
  mapped_file file = opened_with(bytes_, read_only());
  ASSERT_EQ(file.capacity(), 4 * page());
  std::optional<mapio::region> held = file.map().view(0, page());
  write_file(path_, longer_);
  outcome a;
  file.refresh(a.handler());
  settle();
  std::error_code blocked;
  EXPECT_EQ(file.map().view(4 * page(), 1, blocked).size(), 0U);
  EXPECT_EQ(blocked, errc::out_of_range);
  held.reset();
  finish(a);
  EXPECT_FALSE(a.error);
  EXPECT_EQ(a.bytes, longer_.size());
  EXPECT_TRUE(same(read_all(file.map()), longer_));
}

TEST_F(refresh_test, adopts_growth_of_an_empty_file) {
  mapped_file file = opened_with("", read_only());
  write_file(path_, longer_);
  EXPECT_EQ(refreshed(file).bytes, longer_.size());
  EXPECT_TRUE(same(read_all(file.map()), longer_));
}

TEST_F(refresh_test, adopts_a_cut_whatever_is_pinned) {
  mapped_file file = opened_with(bytes_);
  mapio::region held = file.map().view(0, 4 * page());
  run([&]() -> work {
    co_await file.flush();
    co_await file.update_region(3 * page(), asio::buffer("lost", 4));
  });
  EXPECT_EQ(file.pending_bytes(), page());
  truncate_file(path_, page() + 1);
  const outcome a = refreshed(file);
  EXPECT_FALSE(a.error);
  EXPECT_EQ(a.bytes, page() + 1);
  EXPECT_EQ(file.size(), page() + 1);
  EXPECT_EQ(file.pending_bytes(), 0U);
  EXPECT_EQ(code_of([&] { file.map().view(page(), 2); }), errc::out_of_range);
  EXPECT_TRUE(same(held.text().substr(0, page()), bytes_.substr(0, page())));
  run([&]() -> work {
    co_await file.flush();
    co_await file.resize(3 * page());
  });
  EXPECT_TRUE(
      same(read_all(file.map()), bytes_.substr(0, page() + 1) + std::string(2 * page() - 1, '\0')));
}

TEST_F(refresh_test, takes_its_turn_among_the_resizes) {
  mapped_file file = opened_with(bytes_);
  std::string order;
  truncate_file(path_, 2 * page());
  file.resize(5 * page(), [&](std::error_code ec) {
    EXPECT_FALSE(ec);
    order += 'a';
  });
  file.refresh([&](std::error_code ec, std::uint64_t size) {
    EXPECT_FALSE(ec);
    EXPECT_EQ(size, 5 * page());
    order += 'b';
  });
  file.resize(page(), [&](std::error_code ec) {
    EXPECT_FALSE(ec);
    order += 'c';
  });
  ASSERT_TRUE(support::run_to_end(io_));
  EXPECT_EQ(order, "abc");
  EXPECT_EQ(file.size(), page());
}

TEST_F(refresh_test, that_is_cancelled_takes_nothing_back_from_the_file) {
  mapped_file file = opened_with(bytes_, read_only());
  const mapio::region held = file.map().view(0, page());
  write_file(path_, longer_);
  outcome a;
  asio::cancellation_signal signal;
  file.refresh(asio::bind_cancellation_slot(signal.slot(), a.handler()));
  // Until it waits for the region.
  EXPECT_TRUE(support::eventually([&] {
    settle();
    return support::count_mappings(path_) == 2;
  }));
  signal.emit(asio::cancellation_type::terminal);
  finish(a);
  EXPECT_EQ(a.error, asio::error::operation_aborted);
  EXPECT_EQ(a.bytes, 4 * page());
  EXPECT_EQ(std::filesystem::file_size(path_), longer_.size());
  EXPECT_TRUE(same(read_all(file.map()), longer_.substr(0, 4 * page())));
}

TEST_F(refresh_test, refuses_what_it_cannot_do) {
  mapped_file closed(io_);
  EXPECT_EQ(refreshed(closed).error, errc::not_open);
  mapped_file copy = opened_with(bytes_, support::copy_on_write());
  truncate_file(path_, page());
  const outcome a = refreshed(copy);
  EXPECT_EQ(a.error, errc::unsupported);
  EXPECT_EQ(a.bytes, 4 * page());
  EXPECT_EQ(copy.size(), 4 * page());
}

TEST_F(refresh_test, also_blocks) {
  EXPECT_EQ(code_of([] { mapping().refresh(); }), errc::not_open);
  write_file(path_, bytes_);
  mapping m(path_, read_only());
  EXPECT_EQ(m.refresh(), 4 * page());
  {
    const mapio::region held = m.view(0, 1);
    write_file(path_, longer_);
    std::error_code error;
    EXPECT_EQ(m.refresh(error), 4 * page());
    EXPECT_EQ(error, errc::pinned);
    truncate_file(path_, page());
    EXPECT_EQ(m.refresh(), page()) << "nothing moves";
  }
  write_file(path_, longer_);
  EXPECT_EQ(m.refresh(), longer_.size());
  EXPECT_TRUE(same(read_all(m), longer_));
}

}  // namespace
