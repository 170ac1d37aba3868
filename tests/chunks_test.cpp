#include "support.hpp"

#include <mapio/mapping.hpp>

#include <asio/buffer.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <ranges>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using mapio::chunk_range;
using mapio::errc;
using mapio::mapping;
using mapio::mutable_chunk_range;
using mapio::mutable_region;
using mapio::open_options;
using mapio::region;
using support::code_of;
using support::page;
using support::pattern;
using support::same;

static_assert(std::ranges::forward_range<chunk_range>);
static_assert(std::ranges::forward_range<mutable_chunk_range>);
static_assert(std::ranges::sized_range<const chunk_range>);
static_assert(std::ranges::common_range<chunk_range>);
static_assert(!std::ranges::borrowed_range<chunk_range>);
static_assert(std::same_as<std::ranges::range_value_t<chunk_range>, region>);
static_assert(std::same_as<std::ranges::range_value_t<mutable_chunk_range>, mutable_region>);
static_assert(std::is_nothrow_move_constructible_v<chunk_range>);
static_assert(std::copyable<chunk_range>);

constexpr std::size_t most = std::numeric_limits<std::size_t>::max();

class chunks_test : public testing::Test {
 protected:
  mapping file_of(const std::string& bytes, const open_options& options = support::read_write()) {
    support::write_file(path_, bytes);
    return mapping(path_, options);
  }
  static std::string joined(const chunk_range& chunks) {
    std::string bytes;
    for (const region& chunk : chunks)
      bytes += chunk.text();
    return bytes;
  }
  static std::vector<std::size_t> sizes(const chunk_range& chunks) {
    std::vector<std::size_t> result;
    for (const region& chunk : chunks)
      result.push_back(chunk.size());
    return result;
  }

  support::temp_dir dir_;
  const fs::path path_ = dir_ / "file";
};

TEST_F(chunks_test, hands_out_the_file_from_its_start_to_its_end) {
  const std::string bytes = pattern(10 * page() + 123);
  const mapping m = file_of(bytes);
  for (const std::size_t size : {std::size_t{1000}, page(), 3 * page() + 1, bytes.size() - 1,
                                 bytes.size(), bytes.size() + 1, most}) {
    const chunk_range chunks = m.chunks(size);
    EXPECT_TRUE(same(joined(chunks), bytes)) << size;
    EXPECT_EQ(chunks.size(), (bytes.size() - 1) / size + 1);
    EXPECT_FALSE(chunks.empty());
    std::uint64_t at = 0;
    for (const region& chunk : chunks) {
      EXPECT_EQ(chunk.offset(), at);
      at += chunk.size();
    }
  }
}

TEST_F(chunks_test, has_a_last_one_that_may_be_short) {
  const mapping m = file_of("0123456789");
  EXPECT_EQ(sizes(m.chunks(4)), (std::vector<std::size_t>{4, 4, 2}));
  EXPECT_EQ(sizes(m.chunks(5)), (std::vector<std::size_t>{5, 5}));
  EXPECT_EQ(sizes(m.chunks(1)).size(), 10U);
}

TEST_F(chunks_test, can_be_gone_over_again_and_from_anywhere) {
  const mapping m = file_of("0123456789");
  const chunk_range chunks = m.chunks(3);
  auto it = std::ranges::next(chunks.begin(), 2);
  const auto here = it++;
  EXPECT_EQ((*here).text(), "678");
  EXPECT_EQ((*it).text(), "9");
  EXPECT_NE(here, it);
  EXPECT_EQ(++it, chunks.end());
  EXPECT_EQ(joined(chunks), joined(chunks));
  EXPECT_EQ(chunk_range::iterator(), chunk_range::iterator());
}

TEST_F(chunks_test, works_with_algorithms_and_views) {
  const mapping m = file_of("0123456789");
  EXPECT_EQ(std::ranges::count_if(m.chunks(4), [](const region& r) { return r.size() == 4; }), 2);
  std::string bytes;
  for (const region& chunk : m.chunks(4) | std::views::drop(1))
    bytes += chunk.text();
  EXPECT_EQ(bytes, "456789");
}

TEST_F(chunks_test, by_pages_is_by_the_pages_of_memory) {
  const mapping m = file_of(pattern(2 * page() + 1));
  EXPECT_EQ(sizes(m.pages()), (std::vector<std::size_t>{page(), page(), 1}));
  std::error_code ec = make_error_code(errc::pinned);
  EXPECT_EQ(m.pages(ec).size(), 3U);
  EXPECT_FALSE(ec);
}

TEST_F(chunks_test, of_an_empty_file_are_none) {
  mapping m = file_of("");
  EXPECT_TRUE(m.chunks(4096).empty());
  EXPECT_EQ(m.chunks(4096).size(), 0U);
  const chunk_range none = m.chunks(4096);
  EXPECT_EQ(none.begin(), none.end());
  EXPECT_TRUE(m.pages().empty());
  EXPECT_TRUE(m.mutable_chunks(4096).empty());
}

TEST_F(chunks_test, of_nothing_or_of_a_closed_file_are_refused) {
  mapping m = file_of(pattern(page()));
  std::error_code ec;
  EXPECT_TRUE(m.chunks(0, ec).empty());
  EXPECT_EQ(ec, std::errc::invalid_argument);
  EXPECT_TRUE(m.mutable_chunks(0, ec).empty());
  EXPECT_EQ(ec, std::errc::invalid_argument);
  EXPECT_EQ(code_of([&] { m.chunks(0); }), std::errc::invalid_argument);
  EXPECT_EQ(code_of([&] { m.mutable_chunks(0); }), std::errc::invalid_argument);
  EXPECT_EQ(m.chunks(1000, ec).size(), (page() - 1) / 1000 + 1);
  EXPECT_FALSE(ec);
  m.close();
  EXPECT_TRUE(m.chunks(1, ec).empty());
  EXPECT_EQ(ec, errc::not_open);
  EXPECT_EQ(code_of([&] { m.chunks(1); }), errc::not_open);
  EXPECT_EQ(code_of([&] { m.pages(); }), errc::not_open);
  EXPECT_EQ(code_of([&] { m.mutable_chunks(1); }), errc::not_open);
  EXPECT_EQ(code_of([] { mapping().chunks(0); }), errc::not_open);
}

TEST_F(chunks_test, for_writing_need_a_file_that_may_be_written) {
  mapping m = file_of(pattern(page()), support::read_only());
  std::error_code ec;
  EXPECT_TRUE(m.mutable_chunks(4, ec).empty());
  EXPECT_EQ(ec, errc::read_only);
  EXPECT_EQ(code_of([&] { m.mutable_chunks(4); }), errc::read_only);
}

// --- pins and resizes
// ----------------------------------------------------------------------------------------------

TEST_F(chunks_test, are_of_what_was_there_when_they_were_asked_for) {
  // After so much, every system can map more behind it.
  mapping m = file_of(pattern(16 * page()));
  const chunk_range chunks = m.chunks(4 * page());
  m.resize(24 * page());
  EXPECT_EQ(chunks.size(), 4U);
  EXPECT_EQ(joined(chunks).size(), 16 * page());
  EXPECT_EQ(m.chunks(4 * page()).size(), 6U);
}

TEST_F(chunks_test, are_in_the_way_of_a_cut_until_the_range_is_gone) {
  mapping m = file_of(pattern(4 * page()));
  std::optional<chunk_range> chunks = m.chunks(page());
  EXPECT_EQ(code_of([&] { m.resize(3 * page()); }), errc::pinned);
  std::optional<chunk_range> copy = chunks;
  chunks.reset();
  EXPECT_EQ(code_of([&] { m.resize(3 * page()); }), errc::pinned);
  const chunk_range moved = *std::exchange(copy, std::nullopt);
  EXPECT_EQ(code_of([&] { m.resize(3 * page()); }), errc::pinned);
  EXPECT_EQ(moved.size(), 4U);
}

TEST_F(chunks_test, pin_their_own_bytes_and_no_others) {
  mapping m = file_of(pattern(4 * page()));
  region second;
  {
    const chunk_range chunks = m.chunks(page());
    second = *std::ranges::next(chunks.begin());
  }
  m.resize(2 * page());
  EXPECT_EQ(code_of([&] { m.resize(page()); }), errc::pinned);
  EXPECT_TRUE(same(second.text(), pattern(2 * page()).substr(page())));
  second = {};
  m.resize(page());
}

TEST_F(chunks_test, outlive_close_and_every_handle) {
  const std::string bytes = pattern(4 * page());
  std::optional<mapping> m = file_of(bytes);
  std::optional<chunk_range> chunks = m->chunks(1000);
  m->close();
  m.reset();
  EXPECT_TRUE(same(joined(*chunks), bytes));
  const region first = *chunks->begin();
  chunks.reset();
  EXPECT_TRUE(same(first.text(), bytes.substr(0, 1000)));
  EXPECT_TRUE(support::is_mapped(path_));
}

TEST_F(chunks_test, leave_nothing_behind_when_moved_from) {
  mapping m = file_of(pattern(4 * page()));
  chunk_range chunks = m.chunks(page());
  {
    const chunk_range taken = std::move(chunks);
    EXPECT_EQ(taken.size(), 4U);
    EXPECT_TRUE(chunks.empty());  // NOLINT(bugprone-use-after-move): what is left is the point
    EXPECT_EQ(chunks.begin(), chunks.end());
  }
  m.resize(0);
}

TEST_F(chunks_test, can_be_gone_over_by_many_threads_at_once) {
  const std::string bytes = pattern(64 * page());
  const mapping m = file_of(bytes);
  const chunk_range chunks = m.chunks(1000);
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      if (joined(chunks) == bytes) ++right;
    });
  for (std::thread& t : threads)
    t.join();
  EXPECT_EQ(right, 4);
}

// --- for writing
// ---------------------------------------------------------------------------------------------------

TEST_F(chunks_test, for_writing_reach_the_file) {
  mapping m = file_of(std::string(10, 'a'));
  char letter = 'a';
  for (const mutable_region& chunk : m.mutable_chunks(4)) {
    std::memset(chunk.data(), letter, chunk.size());
    ++letter;
  }
  EXPECT_EQ(support::read_file(path_), "aaaabbbbcc");
}

TEST_F(chunks_test, for_writing_make_no_page_dirty_that_was_passed_over) {
  mapping m = file_of(pattern(8 * page()));
  m.flush();
  {
    const mutable_chunk_range chunks = m.mutable_chunks(page());
    auto it = chunks.begin();
    std::ranges::advance(it, 5);
    EXPECT_EQ(m.pending_bytes(), 0U);
    mutable_region sixth = *it;
    m.flush();
    EXPECT_EQ(m.stats().syncs, 2U) << "it may be stored into, as long as it lives";
    sixth = {};
    EXPECT_EQ(m.pending_bytes(), page());
  }
  EXPECT_EQ(m.pending_bytes(), page());
  m.flush();
  EXPECT_EQ(m.pending_bytes(), 0U);
}

TEST_F(chunks_test, for_writing_stay_private_on_a_private_mapping) {
  mapping m = file_of(std::string(2 * page(), 'a'), support::copy_on_write());
  for (const mutable_region& chunk : m.mutable_chunks(page()))
    chunk.data()[0] = std::byte{'b'};
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_EQ(m.view(page(), 1).text(), "b");
  EXPECT_EQ(support::read_file(path_), std::string(2 * page(), 'a'));
}

}  // namespace
