#include <mapio/region.hpp>

#include "socket_pair.hpp"
#include "starting_line.hpp"
#include "support.hpp"

#include <mapio/mapping.hpp>

#include <asio/buffer.hpp>
#include <asio/io_context.hpp>
#include <asio/read.hpp>
#include <asio/write.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using mapio::errc;
using mapio::mapping;
using mapio::mutable_region;
using mapio::region;
using support::page;
using support::same;
using support::to_string;

static_assert(asio::is_const_buffer_sequence<region>::value);
static_assert(!asio::is_mutable_buffer_sequence<region>::value);
static_assert(asio::is_const_buffer_sequence<mutable_region>::value);
static_assert(asio::is_mutable_buffer_sequence<mutable_region>::value);
static_assert(asio::is_const_buffer_sequence<std::vector<region>>::value);
static_assert(asio::is_mutable_buffer_sequence<std::array<mutable_region, 2>>::value);
static_assert(std::is_base_of_v<asio::const_buffer, region>);
static_assert(std::is_base_of_v<asio::mutable_buffer, mutable_region>);
static_assert(std::is_same_v<decltype(std::declval<const region&>().data()), const std::byte*>);
static_assert(std::is_same_v<decltype(std::declval<const mutable_region&>().data()), std::byte*>);
static_assert(std::is_convertible_v<region, std::span<const std::byte>>);
static_assert(!std::is_convertible_v<region, std::span<std::byte>>);
static_assert(std::is_convertible_v<mutable_region, std::span<std::byte>>);
static_assert(std::is_convertible_v<mutable_region, std::span<const std::byte>>);
static_assert(std::is_nothrow_default_constructible_v<region> &&
              std::is_nothrow_move_constructible_v<region>);
static_assert(std::is_nothrow_move_assignable_v<region> && std::is_copy_assignable_v<region>);
static_assert(std::is_nothrow_move_constructible_v<mutable_region> &&
              std::is_copy_constructible_v<mutable_region>);

class region_test : public testing::Test {
 protected:
  region_test() : m_(mapping::create(path_, content_.size())) {
    m_.update_region(0, asio::buffer(content_));
  }

  /// Whether anything keeps [offset, end of file) from being cut off; cuts it if not.
  bool pinned_from(std::uint64_t offset) {
    std::error_code ec;
    m_.resize(offset, ec);
    if (ec) {
      EXPECT_EQ(ec, errc::pinned) << ec.message();
    }
    return ec == errc::pinned;
  }

  std::string part(std::size_t offset, std::size_t length) const {
    return content_.substr(offset, length);
  }

  support::temp_dir dir_;
  std::filesystem::path path_ = dir_ / "file";
  std::string content_ = support::pattern(16 * page());
  mapping m_;
};

// --- empty ones
// ------------------------------------------------------------------------------------

TEST(default_region, is_empty) {
  const region r;
  EXPECT_EQ(r.size(), 0U);
  EXPECT_TRUE(r.empty());
  EXPECT_EQ(r.data(), nullptr);
  EXPECT_EQ(r.begin(), r.end());
  EXPECT_EQ(r.offset(), 0U);
  EXPECT_TRUE(r.bytes().empty());
  EXPECT_TRUE(r.text().empty());
  EXPECT_EQ(asio::buffer_size(r), 0U);
}

TEST(default_region, can_be_copied_moved_and_cut) {
  region a;
  const region b = a;
  const region c = std::move(a);
  region d;
  d = c;
  d += 5;
  EXPECT_TRUE(b.empty() && c.empty() && d.empty());
  EXPECT_TRUE(d.subregion(3, 7).empty());
}

TEST(default_mutable_region, is_empty) {
  const mutable_region r;
  EXPECT_EQ(r.size(), 0U);
  EXPECT_TRUE(r.empty());
  EXPECT_EQ(r.data(), nullptr);
  EXPECT_EQ(r.begin(), r.end());
  EXPECT_EQ(r.offset(), 0U);
  EXPECT_TRUE(r.bytes().empty());
}

TEST_F(region_test, of_length_zero_is_empty) {
  EXPECT_TRUE(m_.view(0, 0).empty());
  EXPECT_TRUE(m_.view(m_.size(), 0).empty());
  EXPECT_TRUE(m_.mutable_view(m_.size(), 0).empty());
}

// --- what it shows
// ---------------------------------------------------------------------------------

TEST_F(region_test, shows_the_bytes_at_its_offset) {
  const std::size_t offset = page() + 13;
  const region r = m_.view(offset, 3 * page());
  EXPECT_EQ(r.size(), 3 * page());
  EXPECT_FALSE(r.empty());
  EXPECT_EQ(r.offset(), offset);
  EXPECT_TRUE(same(r.text(), part(offset, 3 * page())));
}

TEST_F(region_test, gives_the_same_bytes_by_every_accessor) {
  const region r = m_.view(7, 100);
  EXPECT_EQ(static_cast<std::size_t>(std::distance(r.begin(), r.end())), r.size());
  EXPECT_EQ(r.begin(), r.data());
  EXPECT_EQ(r.bytes().data(), r.data());
  EXPECT_EQ(r.bytes().size(), r.size());
  const std::span<const std::byte> span = r;
  EXPECT_EQ(span.data(), r.data());
  EXPECT_EQ(static_cast<const void*>(r.text().data()), static_cast<const void*>(r.data()));
  const asio::const_buffer& buffer = r;
  EXPECT_EQ(buffer.data(), static_cast<const void*>(r.data()));
  std::string copy;
  for (const std::byte b : r)
    copy += static_cast<char>(b);
  EXPECT_TRUE(same(copy, part(7, 100)));
}

TEST_F(region_test, shows_later_stores) {
  const region r = m_.view(100, 5);
  m_.update_region(100, asio::buffer("hello", 5));
  EXPECT_EQ(r.text(), "hello");
}

TEST_F(region_test, is_a_buffer_for_asio) {
  const region r = m_.view(50, 60);
  std::string copy(60, '\0');
  EXPECT_EQ(asio::buffer_copy(asio::buffer(copy), r), 60U);
  EXPECT_TRUE(same(copy, part(50, 60)));
  EXPECT_EQ(asio::buffer_size(r), 60U);
}

TEST_F(region_test, works_in_a_sequence_of_buffers) {
  const std::vector<region> regions{m_.view(0, 10), region(), m_.view(page() * 5, 20)};
  std::string copy(30, '\0');
  EXPECT_EQ(asio::buffer_size(regions), 30U);
  EXPECT_EQ(asio::buffer_copy(asio::buffer(copy), regions), 30U);
  EXPECT_TRUE(same(copy, part(0, 10) + part(page() * 5, 20)));
}

TEST_F(region_test, moves_its_start_forward) {
  region r = m_.view(100, 50);
  const std::byte* const start = r.data();
  r += 20;
  EXPECT_EQ(r.offset(), 120U);
  EXPECT_EQ(r.size(), 30U);
  EXPECT_EQ(r.data(), start + 20);
  r += 1000;
  EXPECT_EQ(r.offset(), 150U);
  EXPECT_EQ(r.size(), 0U);
}

TEST_F(region_test, gives_parts_that_are_clamped) {
  const region r = m_.view(100, 50);
  EXPECT_TRUE(same(r.subregion(10, 5).text(), part(110, 5)));
  EXPECT_EQ(r.subregion(10, 5).offset(), 110U);
  EXPECT_TRUE(same(r.subregion(10).text(), part(110, 40)));
  EXPECT_TRUE(same(r.subregion(10, 4000).text(), part(110, 40)));
  EXPECT_TRUE(r.subregion(50).empty());
  EXPECT_TRUE(r.subregion(4000, 1).empty());
  EXPECT_TRUE(r.subregion(0, 0).empty());
}

// --- copies and moves
// ------------------------------------------------------------------------------

TEST_F(region_test, is_copied_with_a_pin_of_its_own) {
  auto original = std::make_unique<region>(m_.view(8 * page(), page()));
  region copy = *original;
  EXPECT_EQ(copy.data(), original->data());
  EXPECT_EQ(copy.offset(), original->offset());
  original.reset();
  EXPECT_TRUE(pinned_from(8 * page()));
  EXPECT_TRUE(same(copy.text(), part(8 * page(), page())));
  copy = region();
  EXPECT_FALSE(pinned_from(8 * page()));
}

TEST_F(region_test, leaves_nothing_behind_when_moved) {
  region a = m_.view(8 * page(), 10);
  const std::byte* const data = a.data();
  region b = std::move(a);
  EXPECT_EQ(a.data(), nullptr);
  EXPECT_EQ(a.size(), 0U);
  EXPECT_EQ(a.offset(), 0U);
  EXPECT_EQ(b.data(), data);
  EXPECT_TRUE(pinned_from(8 * page()));
  region c;
  c = std::move(b);
  EXPECT_TRUE(b.empty());
  EXPECT_EQ(c.offset(), 8 * page());
  EXPECT_TRUE(pinned_from(8 * page()));
  c = region();
  EXPECT_FALSE(pinned_from(8 * page()));
}

TEST_F(region_test, drops_what_it_pinned_when_assigned_to) {
  region r = m_.view(12 * page(), page());
  const region low = m_.view(0, page());
  r = low;
  EXPECT_FALSE(pinned_from(12 * page()));
  r = m_.view(8 * page(), page());
  r = m_.view(page(), page());
  EXPECT_FALSE(pinned_from(8 * page()));
  EXPECT_TRUE(same(r.text(), part(page(), page())));
}

TEST_F(region_test, stays_what_it_is_when_assigned_to_itself) {
  region r = m_.view(8 * page(), 10);
  const region& itself = r;
  r = itself;
  EXPECT_TRUE(same(r.text(), part(8 * page(), 10)));
  EXPECT_TRUE(pinned_from(8 * page()));
}

TEST_F(region_test, part_pins_after_the_whole_is_gone) {
  region whole = m_.view(0, m_.size());
  region sub = whole.subregion(8 * page(), 100);
  whole = region();
  EXPECT_TRUE(pinned_from(8 * page()));
  EXPECT_TRUE(same(sub.text(), part(8 * page(), 100)));
  sub = region();
  EXPECT_FALSE(pinned_from(8 * page()));
}

// --- what the pin holds off
// -------------------------------------------------------------------------

TEST_F(region_test, keeps_its_bytes_from_being_cut_and_no_others) {
  const region r = m_.view(4 * page(), page() + 1);
  EXPECT_TRUE(pinned_from(0));
  EXPECT_TRUE(pinned_from(4 * page()));
  EXPECT_TRUE(pinned_from(5 * page()));
  EXPECT_EQ(m_.size(), 16 * page());
  EXPECT_FALSE(pinned_from(5 * page() + 1));  // exactly where the region ends
  EXPECT_EQ(m_.size(), 5 * page() + 1);
  EXPECT_TRUE(same(r.text(), part(4 * page(), page() + 1)));
}

TEST_F(region_test, stays_where_it_is_when_the_file_grows_within_its_capacity) {
  const region r = m_.view(0, m_.size());
  const std::byte* const data = r.data();
  ASSERT_GE(m_.capacity(), 2 * m_.size());
  m_.resize(2 * m_.size());
  EXPECT_EQ(m_.view(0, 1).data(), data);
  EXPECT_EQ(r.data(), data);
  EXPECT_TRUE(same(r.text(), content_));
}

TEST_F(region_test, outlives_close_and_every_handle) {
  region r = m_.view(3 * page(), 2 * page());
  const std::byte* const data = r.data();
  m_.close();
  EXPECT_TRUE(same(r.text(), part(3 * page(), 2 * page())));
  m_ = mapping();
  std::filesystem::remove(path_);
  EXPECT_EQ(r.data(), data);
  EXPECT_TRUE(same(r.text(), part(3 * page(), 2 * page())));
}

TEST_F(region_test, unmaps_the_file_with_its_last_copy) {
  region r = m_.view(0, page());
  region copy = r;
  m_.close();
  m_ = mapping();
  EXPECT_TRUE(support::is_mapped(path_));
  r = region();
  EXPECT_TRUE(support::is_mapped(path_));
  copy = region();
  EXPECT_FALSE(support::is_mapped(path_));
}

TEST_F(region_test, does_not_keep_the_file_mapped_when_it_is_empty) {
  const region nothing = m_.view(page(), 0);
  const mutable_region nothing_either = m_.mutable_view(0, 0);
  m_.close();
  m_ = mapping();
  EXPECT_FALSE(support::is_mapped(path_));
}

TEST_F(region_test, can_be_copied_after_the_file_was_closed) {
  auto first = std::make_unique<region>(m_.view(5 * page(), 100));
  m_.close();
  std::vector<region> copies(1000, *first);
  const region part_of_it = first->subregion(10, 20);
  first.reset();
  m_ = mapping();
  region last = copies.back();
  copies.clear();
  EXPECT_TRUE(same(last.text(), part(5 * page(), 100)));
  EXPECT_TRUE(same(part_of_it.text(), part(5 * page() + 10, 20)));
  last = region();
  EXPECT_TRUE(support::is_mapped(path_));
  EXPECT_TRUE(same(part_of_it.text(), part(5 * page() + 10, 20)));
}

TEST_F(region_test, lives_ten_thousand_times_at_once) {
  constexpr std::size_t count = 10'000;
  const auto offset_of = [](std::size_t i) { return (i * 37) % (15 * page()); };
  const auto length_of = [](std::size_t i) { return 1 + i % 64; };
  std::vector<region> regions;
  for (std::size_t i = 0; i < count; ++i)
    regions.push_back(m_.view(offset_of(i), length_of(i)));
  const auto expect_all_right = [&] {
    for (std::size_t i = 0; i < count; ++i)
      ASSERT_TRUE(
          same(regions[i].text(), std::string_view(content_).substr(offset_of(i), length_of(i))))
          << i;
  };
  expect_all_right();
  EXPECT_TRUE(pinned_from(0));
  const std::vector<region> copies = regions;
  regions.erase(regions.begin(), regions.begin() + count / 2);
  regions.insert(regions.begin(), copies.begin(), copies.begin() + count / 2);
  m_.close();
  m_ = mapping();
  expect_all_right();
}

TEST_F(region_test, pins_until_the_last_of_ten_thousand_is_gone) {
  constexpr std::size_t count = 10'000;
  std::vector<region> regions;
  for (std::size_t i = 0; i < count; ++i)
    regions.push_back(m_.view(8 * page() + i % page(), 1));
  const region last = regions[count / 2];
  EXPECT_TRUE(pinned_from(8 * page()));
  regions.clear();
  EXPECT_TRUE(pinned_from(8 * page()));
  EXPECT_FALSE(pinned_from(9 * page()));
}

// --- threads
// ---------------------------------------------------------------------------------------

TEST_F(region_test, is_copied_and_dropped_by_many_threads_while_the_file_is_closed) {
  for (int round = 0; round < 20; ++round) {
    mapping m(path_, support::read_only());
    region shared = m.view(4 * page(), 64);
    support::starting_line start(4);
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t)
      threads.emplace_back([&, mine = shared] {
        start.arrive_and_wait();
        for (int i = 0; i < 300; ++i) {
          region copy = mine;
          const region again = copy;
          copy = region();
          if (again.text() != std::string_view(content_).substr(4 * page(), 64)) ++wrong;
        }
      });
    start.arrive_and_wait();
    m.close();
    m = mapping();
    shared = region();
    for (auto& t : threads)
      t.join();
    EXPECT_EQ(wrong, 0);
  }
  m_.close();
  EXPECT_FALSE(support::is_mapped(path_));
}

TEST_F(region_test, never_dangles_while_another_thread_shrinks_the_file) {
  const std::uint64_t large = 16 * page();
  const std::uint64_t small = 8 * page();
  std::atomic<bool> stop = false;
  std::atomic<std::uint64_t> seen = 0;
  std::vector<std::thread> readers;
  for (int t = 0; t < 3; ++t)
    readers.emplace_back([&, t] {
      for (std::uint64_t i = 0; !stop; ++i) {
        // Or the file would hardly ever be without a region in the way.
        if (i % 64 == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
        const std::uint64_t offset =
            small + (i * 4097 + static_cast<std::uint64_t>(t)) % (large - small - 8);
        std::error_code ec;
        const region r = m_.view(offset, 8, ec);
        if (ec) {
          EXPECT_EQ(ec, errc::out_of_range) << ec.message();
          continue;
        }
        // A byte of a page that is gone would kill the program here.
        for (const std::byte b : r)
          seen += static_cast<unsigned>(b != std::byte{0xFF});
      }
    });
  int shrunk = 0;
  ASSERT_TRUE(support::eventually([&] {
    std::error_code ec;
    m_.resize(small, ec);
    if (!ec) {
      ++shrunk;
      m_.resize(large);
    } else {
      EXPECT_EQ(ec, errc::pinned) << ec.message();
    }
    return shrunk >= 50;
  }));
  stop = true;
  for (auto& t : readers)
    t.join();
  EXPECT_GT(seen, 0U);
}

// --- sockets
// ---------------------------------------------------------------------------------------

TEST_F(region_test, is_kept_by_a_write_to_a_socket) {
  const std::string large = support::pattern(8 << 20, 3);  // more than a socket takes at once
  const auto path = dir_ / "large";
  support::write_file(path, large);
  mapping m(path, support::read_write());

  asio::io_context io;
  support::socket_pair sockets(io);

  bool written = false;
  asio::async_write(sockets.here, m.view(0, m.size()), [&](std::error_code ec, std::size_t n) {
    EXPECT_FALSE(ec) << ec.message();
    EXPECT_EQ(n, large.size());
    written = true;
  });
  while (io.poll() > 0) {
  }
  ASSERT_FALSE(written);
  std::error_code ec;
  m.resize(page(), ec);
  EXPECT_EQ(ec, errc::pinned);

  m.close();
  m = mapping();
  std::string received(large.size(), '\0');
  asio::async_read(sockets.there, asio::buffer(received), [](std::error_code error, std::size_t) {
    EXPECT_FALSE(error) << error.message();
  });
  ASSERT_TRUE(support::run_to_end(io));
  EXPECT_TRUE(written);
  EXPECT_TRUE(received == large);
  EXPECT_FALSE(support::is_mapped(path));
}

TEST_F(region_test, is_kept_by_a_write_of_several) {
  asio::io_context io;
  support::socket_pair sockets(io);
  bool written = false;
  asio::async_write(sockets.here,
                    std::vector<region>{m_.view(0, page()), m_.view(8 * page(), page())},
                    [&](std::error_code ec, std::size_t) { written = !ec; });
  m_.close();
  m_ = mapping();
  std::string received(2 * page(), '\0');
  asio::async_read(sockets.there, asio::buffer(received), [](std::error_code, std::size_t) {});
  ASSERT_TRUE(support::run_to_end(io));
  EXPECT_TRUE(written);
  EXPECT_TRUE(same(received, part(0, page()) + part(8 * page(), page())));
}

// --- mutable regions
// -------------------------------------------------------------------------------

TEST_F(region_test, mutable_one_stores_into_the_file) {
  {
    const mutable_region r = m_.mutable_view(100, 5);
    EXPECT_EQ(r.offset(), 100U);
    EXPECT_EQ(r.size(), 5U);
    std::memcpy(r.data(), "hello", 5);
  }
  EXPECT_EQ(to_string(m_.view(100, 5)), "hello");
  EXPECT_EQ(support::read_file(path_).substr(100, 5), "hello");
}

TEST_F(region_test, mutable_one_gives_the_same_bytes_by_every_accessor) {
  const mutable_region r = m_.mutable_view(10, 20);
  EXPECT_EQ(r.begin(), r.data());
  EXPECT_EQ(r.end(), r.data() + 20);
  EXPECT_EQ(r.bytes().data(), r.data());
  const std::span<std::byte> span = r;
  EXPECT_EQ(span.size(), 20U);
  const std::span<const std::byte> const_span = r;
  EXPECT_EQ(const_span.data(), r.data());
  const asio::const_buffer as_const = r;
  EXPECT_EQ(as_const.size(), 20U);
  std::fill(r.begin(), r.end(), std::byte{'x'});
  EXPECT_TRUE(same(to_string(m_.view(10, 20)), std::string(20, 'x')));
}

TEST_F(region_test, mutable_one_moves_its_start_forward) {
  mutable_region r = m_.mutable_view(100, 50);
  r += 20;
  EXPECT_EQ(r.offset(), 120U);
  EXPECT_EQ(r.size(), 30U);
  r += 1000;
  EXPECT_EQ(r.offset(), 150U);
  EXPECT_TRUE(r.empty());
}

TEST_F(region_test, mutable_one_pins_like_any_other) {
  auto original = std::make_unique<mutable_region>(m_.mutable_view(8 * page(), 10));
  mutable_region copy = *original;
  mutable_region moved = std::move(*original);
  EXPECT_TRUE(original->empty());
  original.reset();
  EXPECT_TRUE(pinned_from(8 * page()));
  copy = mutable_region();
  EXPECT_TRUE(pinned_from(8 * page()));
  moved = mutable_region();
  EXPECT_FALSE(pinned_from(8 * page()));
}

TEST_F(region_test, mutable_one_outlives_close_and_stores_still_reach_the_file) {
  mutable_region r = m_.mutable_view(0, 5);
  m_.close();
  m_ = mapping();
  mutable_region copy = r;
  std::memcpy(r.data(), "after", 5);
  EXPECT_EQ(support::read_file(path_).substr(0, 5), "after");
  r = mutable_region();
  std::memcpy(copy.data(), "later", 5);
  EXPECT_EQ(support::read_file(path_).substr(0, 5), "later");
  copy = mutable_region();
  EXPECT_FALSE(support::is_mapped(path_));
}

TEST_F(region_test, mutable_one_keeps_its_pages_dirty_while_it_lives) {
  m_.flush();
  auto r = std::make_unique<mutable_region>(m_.mutable_view(2 * page(), page()));
  std::uint64_t syncs = m_.stats().syncs;
  m_.flush();  // covers what may have been stored so far
  EXPECT_GT(m_.stats().syncs, syncs);
  syncs = m_.stats().syncs;
  m_.flush_range(2 * page() + 10, 1);
  EXPECT_GT(m_.stats().syncs, syncs);
  syncs = m_.stats().syncs;
  r.reset();
  m_.flush();  // covers what was stored since
  EXPECT_GT(m_.stats().syncs, syncs);
  syncs = m_.stats().syncs;
  m_.flush();
  EXPECT_EQ(m_.stats().syncs, syncs);
}

TEST_F(region_test, mutable_copy_keeps_its_pages_dirty_after_the_original) {
  m_.flush();
  auto original = std::make_unique<mutable_region>(m_.mutable_view(0, 1));
  auto copy = std::make_unique<mutable_region>(*original);
  original.reset();
  m_.flush();
  std::uint64_t syncs = m_.stats().syncs;
  m_.flush();
  EXPECT_GT(m_.stats().syncs, syncs);
  copy.reset();
  m_.flush();
  syncs = m_.stats().syncs;
  m_.flush();
  EXPECT_EQ(m_.stats().syncs, syncs);
}

TEST_F(region_test, mutable_one_makes_no_other_page_dirty) {
  m_.flush();
  const mutable_region r = m_.mutable_view(2 * page(), page());
  const std::uint64_t syncs = m_.stats().syncs;
  m_.flush_range(0, 2 * page());
  m_.flush_range(3 * page(), 4 * page());
  EXPECT_EQ(m_.stats().syncs, syncs);
}

TEST_F(region_test, mutable_one_takes_what_a_socket_reads) {
  asio::io_context io;
  support::socket_pair sockets(io);
  const std::string text = support::pattern(page(), 9);
  bool done = false;
  asio::async_read(sockets.here, m_.mutable_view(4 * page(), page()),
                   [&](std::error_code ec, std::size_t n) {
                     EXPECT_FALSE(ec) << ec.message();
                     EXPECT_EQ(n, page());
                     done = true;
                   });
  EXPECT_TRUE(pinned_from(4 * page()));
  asio::write(sockets.there, asio::buffer(text));
  ASSERT_TRUE(support::run_to_end(io));
  EXPECT_TRUE(done);
  EXPECT_EQ(to_string(m_.view(4 * page(), page())), text);
}

TEST_F(region_test, mutable_ones_of_many_threads_store_side_by_side) {
  constexpr std::size_t threads = 4;
  std::vector<std::thread> running;
  for (std::size_t t = 0; t < threads; ++t)
    running.emplace_back([&, t] {
      for (std::size_t i = 0; i < 4 * page(); i += 16) {
        const mutable_region r = m_.mutable_view(t * 4 * page() + i, 16);
        std::memset(r.data(), 'a' + static_cast<int>(t), 16);
      }
    });
  for (auto& t : running)
    t.join();
  for (std::size_t t = 0; t < threads; ++t)
    EXPECT_TRUE(same(to_string(m_.view(t * 4 * page(), 4 * page())),
                     std::string(4 * page(), static_cast<char>('a' + static_cast<int>(t)))));
}

}  // namespace
