#include <mapio/segment.hpp>

#include "support.hpp"

#include <asio/buffer.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using mapio::durability;
using mapio::errc;
using mapio::mapping;
using mapio::open_options;
using mapio::region;
using mapio::segment;
using support::code_of;
using support::page;
using support::pattern;
using support::same;

static_assert(std::is_nothrow_copy_constructible_v<segment>);
static_assert(std::is_nothrow_move_constructible_v<segment>);

constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();

/// One of every verb that takes a range, and what it throws.
struct ranged_verb {
  const char* name;
  std::function<void(segment&, std::uint64_t, std::uint64_t)> throwing;
  std::function<void(segment&, std::uint64_t, std::uint64_t, std::error_code&)> reporting;
  bool writes = false;
};

// Any number of bytes, none of which is looked at.
asio::const_buffer bytes_to_write(std::uint64_t n) {
  static const std::string some = pattern(64 * page());
  return {some.data(), static_cast<std::size_t>(n)};
}
asio::mutable_buffer bytes_to_read(std::uint64_t n) {
  static std::string some(64 * page(), '\0');
  return {some.data(), static_cast<std::size_t>(n)};
}

std::vector<ranged_verb> ranged_verbs() {
  using offset = std::uint64_t;
  using length = std::uint64_t;
  using code = std::error_code;
  std::vector<ranged_verb> verbs{
      {"view", [](segment& s, offset o, length n) { s.view(o, n); },
       [](segment& s, offset o, length n, code& ec) { s.view(o, n, ec); }},
      {"mutable_view", [](segment& s, offset o, length n) { s.mutable_view(o, n); },
       [](segment& s, offset o, length n, code& ec) { s.mutable_view(o, n, ec); }, true},
      {"slice", [](segment& s, offset o, length n) { s.slice(o, n); },
       [](segment& s, offset o, length n, code& ec) { s.slice(o, n, ec); }},
      {"update_region",
       [](segment& s, offset o, length n) { s.update_region(o, bytes_to_write(n)); },
       [](segment& s, offset o, length n, code& ec) { s.update_region(o, bytes_to_write(n), ec); },
       true},
      {"update_region of several",
       [](segment& s, offset o, length n) {
         s.update_region(o, std::array{bytes_to_write(n / 2), bytes_to_write(n - n / 2)});
       },
       [](segment& s, offset o, length n, code& ec) {
         s.update_region(o, std::array{bytes_to_write(n / 2), bytes_to_write(n - n / 2)}, ec);
       },
       true},
      {"read_into", [](segment& s, offset o, length n) { s.read_into(o, bytes_to_read(n)); },
       [](segment& s, offset o, length n, code& ec) { s.read_into(o, bytes_to_read(n), ec); }},
      {"flush_range", [](segment& s, offset o, length n) { s.flush_range(o, n); },
       [](segment& s, offset o, length n, code& ec) { s.flush_range(o, n, ec); }},
      {"flush_range started",
       [](segment& s, offset o, length n) { s.flush_range(o, n, durability::started); },
       [](segment& s, offset o, length n, code& ec) {
         s.flush_range(o, n, durability::started, ec);
       }},
      {"prefetch", [](segment& s, offset o, length n) { s.prefetch(o, n); },
       [](segment& s, offset o, length n, code& ec) { s.prefetch(o, n, ec); }},
      {"is_resident", [](segment& s, offset o, length n) { s.is_resident(o, n); },
       [](segment& s, offset o, length n, code& ec) { s.is_resident(o, n, ec); }},
      {"advise", [](segment& s, offset o, length n) { s.advise(o, n, mapio::advice::normal); },
       [](segment& s, offset o, length n, code& ec) { s.advise(o, n, mapio::advice::normal, ec); }},
      {"lock_pages", [](segment& s, offset o, length n) { s.lock_pages(o, n); },
       [](segment& s, offset o, length n, code& ec) { s.lock_pages(o, n, ec); }},
      {"unlock_pages", [](segment& s, offset o, length n) { s.unlock_pages(o, n); },
       [](segment& s, offset o, length n, code& ec) { s.unlock_pages(o, n, ec); }},
      {"publish", [](segment& s, offset o, length n) { s.publish(o, n); },
       [](segment& s, offset o, length n, code& ec) { s.publish(o, n, ec); }, true},
  };
  if (!support::tells_residency())
    std::erase_if(verbs, [](const ranged_verb& verb) {
      return verb.name == std::string_view("is_resident");
    });
  return verbs;
}

/// The same of the verbs that are about all of it.
struct whole_verb {
  const char* name;
  std::function<void(segment&)> throwing;
  std::function<void(segment&, std::error_code&)> reporting;
  bool writes = false;
};

std::vector<whole_verb> whole_verbs() {
  using code = std::error_code;
  return {
      {"chunks", [](segment& s) { s.chunks(1000); },
       [](segment& s, code& ec) { s.chunks(1000, ec); }},
      {"pages", [](segment& s) { s.pages(); }, [](segment& s, code& ec) { s.pages(ec); }},
      {"mutable_chunks", [](segment& s) { s.mutable_chunks(1000); },
       [](segment& s, code& ec) { s.mutable_chunks(1000, ec); }, true},
      {"flush", [](segment& s) { s.flush(); }, [](segment& s, code& ec) { s.flush(ec); }},
      {"flush started", [](segment& s) { s.flush(durability::started); },
       [](segment& s, code& ec) { s.flush(durability::started, ec); }},
      {"prefetch", [](segment& s) { s.prefetch(); }, [](segment& s, code& ec) { s.prefetch(ec); }},
      {"lock_pages", [](segment& s) { s.lock_pages(); },
       [](segment& s, code& ec) { s.lock_pages(ec); }},
      {"unlock_pages", [](segment& s) { s.unlock_pages(); },
       [](segment& s, code& ec) { s.unlock_pages(ec); }},
  };
}

/// What a verb throws, which must be what its other overload reports.
std::error_code error_of(const ranged_verb& verb, segment& s, std::uint64_t offset,
                         std::uint64_t length) {
  std::error_code reported = std::make_error_code(std::errc::protocol_error);
  verb.reporting(s, offset, length, reported);
  EXPECT_EQ(code_of([&] { verb.throwing(s, offset, length); }), reported) << verb.name;
  return reported;
}
std::error_code error_of(const whole_verb& verb, segment& s) {
  std::error_code reported = std::make_error_code(std::errc::protocol_error);
  verb.reporting(s, reported);
  EXPECT_EQ(code_of([&] { verb.throwing(s); }), reported) << verb.name;
  return reported;
}

void expect_error_of_every_verb(segment& s, std::uint64_t offset, std::uint64_t length,
                                const std::error_code& expected) {
  for (const ranged_verb& verb : ranged_verbs())
    EXPECT_EQ(error_of(verb, s, offset, length), expected)
        << verb.name << ' ' << offset << ' ' << length;
}

class segment_test : public testing::Test {
 protected:
  mapping file_of(const std::string& bytes, const open_options& options = support::read_write()) {
    support::write_file(path_, bytes);
    return mapping(path_, options);
  }

  support::temp_dir dir_;
  const fs::path path_ = dir_ / "file";
};

// --- a window -----------------------------------------------------------------------------------

TEST_F(segment_test, knows_where_it_is) {
  const std::string bytes = pattern(4 * page());
  mapping m = file_of(bytes);
  const segment s = m.slice(1000, 3000);
  EXPECT_EQ(s.offset(), 1000U);
  EXPECT_EQ(s.size(), 3000U);
  EXPECT_FALSE(s.empty());
  EXPECT_TRUE(s.is_open());
  EXPECT_EQ(s.mode(), mapio::access::read_write);
  EXPECT_EQ(s.map(), m);
  EXPECT_TRUE(m.slice(4 * page(), 0).empty());
}

TEST_F(segment_test, works_at_offsets_from_its_own_start) {
  std::string bytes = pattern(4 * page());
  mapping m = file_of(bytes);
  segment s = m.slice(page() + 10, 2 * page());
  EXPECT_TRUE(same(s.view(5, 100).text(), bytes.substr(page() + 15, 100)));
  EXPECT_EQ(s.view(5, 100).offset(), page() + 15);
  EXPECT_EQ(s.update_region(7, asio::buffer("hello", 5)), 5U);
  EXPECT_EQ(s.update_region(20, std::array{asio::buffer("wor", 3), asio::buffer("ld", 2)}), 5U);
  std::memcpy(s.mutable_view(40, 3).data(), "abc", 3);
  bytes.replace(page() + 17, 5, "hello").replace(page() + 30, 5, "world");
  bytes.replace(page() + 50, 3, "abc");
  EXPECT_TRUE(same(support::read_file(path_), bytes));
  std::string read(100, '\0');
  EXPECT_EQ(s.read_into(0, asio::buffer(read)), 100U);
  EXPECT_TRUE(same(read, bytes.substr(page() + 10, 100)));
  const segment inner = s.slice(10, 100);
  EXPECT_EQ(inner.offset(), page() + 20);
  EXPECT_TRUE(same(inner.view(0, 100).text(), bytes.substr(page() + 20, 100)));
}

TEST_F(segment_test, flushes_only_its_own_pages) {
  mapping m = file_of(pattern(8 * page()));
  m.flush();
  segment s = m.slice(2 * page(), 2 * page());
  m.update_region(0, asio::buffer("x", 1));
  s.update_region(0, asio::buffer("x", 1));
  s.update_region(page(), asio::buffer("x", 1));
  s.flush_range(page(), page());
  EXPECT_EQ(m.pending_bytes(), 2 * page());
  s.flush();
  EXPECT_EQ(m.pending_bytes(), page());
  s.publish(2 * page() - 1, 1);
  EXPECT_EQ(m.pending_bytes(), 2 * page());
  s.flush(durability::durable);
  EXPECT_EQ(m.pending_bytes(), page());
}

TEST_F(segment_test, locks_and_prefetches_only_its_own_pages) {
  mapping m = file_of(pattern(8 * page()));
  segment s = m.slice(2 * page(), 4 * page());
  s.lock_pages();
  support::expect_locked(4 * page());
  s.unlock_pages(page(), 1);
  support::expect_locked(3 * page());
  s.unlock_pages();
  support::expect_locked(0);
  s.lock_pages(0, 1);
  support::expect_locked(page());
  s.prefetch(0, 1);
  s.prefetch();
  EXPECT_TRUE(!support::tells_residency() || s.is_resident(0, s.size()));
}

TEST_F(segment_test, is_handed_out_in_chunks) {
  const std::string bytes = pattern(4 * page());
  mapping m = file_of(bytes);
  m.flush();
  segment s = m.slice(100, 2500);
  std::string joined;
  for (const region& chunk : s.chunks(1000))
    joined += chunk.text();
  EXPECT_EQ(s.chunks(1000).size(), 3U);
  EXPECT_TRUE(same(joined, bytes.substr(100, 2500)));
  for (const mapio::mutable_region& chunk : s.mutable_chunks(1000))
    std::memset(chunk.data(), 'x', chunk.size());
  EXPECT_TRUE(same(s.view(0, 2500).text(), std::string(2500, 'x')));
  EXPECT_TRUE(same(m.view(2600, 100).text(), bytes.substr(2600, 100)));
  EXPECT_EQ(code_of([&] { s.chunks(0); }), std::errc::invalid_argument);
  EXPECT_EQ(code_of([&] { s.mutable_chunks(0); }), std::errc::invalid_argument);
}

TEST_F(segment_test, has_pages_that_are_counted_from_its_own_start) {
  const std::string bytes = pattern(4 * page());
  mapping m = file_of(bytes);
  const segment s = m.slice(page() + 10, 2 * page() + 1);
  std::string joined;
  std::vector<std::uint64_t> offsets;
  for (const region& each : s.pages()) {
    joined += each.text();
    offsets.push_back(each.offset());
  }
  EXPECT_TRUE(same(joined, bytes.substr(page() + 10, 2 * page() + 1)));
  EXPECT_EQ(offsets, (std::vector<std::uint64_t>{page() + 10, 2 * page() + 10, 3 * page() + 10}));
  EXPECT_TRUE(m.slice(0, 0).pages().empty());
}

TEST_F(segment_test, refers_to_integers_at_offsets_from_its_own_start) {
  mapping m = file_of(std::string(4 * page(), '\0'));
  segment s = m.slice(page() + 8, page());
  auto id = s.atomic<std::uint64_t>(16);
  EXPECT_EQ(id.offset(), page() + 24);
  id.store(7);
  EXPECT_EQ(m.atomic<std::uint64_t>(page() + 24).load(), 7U);
  auto slots = s.atomics<std::uint32_t>(page() - 8, 2);
  EXPECT_EQ(slots.offset(), 2 * page());
  slots[1].store(9);
  EXPECT_EQ(m.atomic<std::uint32_t>(2 * page() + 4).load(), 9U);
  EXPECT_EQ(s.slice(8, 16).atomic<std::uint64_t>(8).load(), 7U);
}

// --- bounds -------------------------------------------------------------------------------------

TEST_F(segment_test, of_what_is_not_there_is_refused) {
  mapping m = file_of(pattern(page()));
  for (const auto& [offset, length] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
           {page(), 1}, {page() + 1, 0}, {0, page() + 1}, {1, most}, {most, 1}, {most, most}}) {
    std::error_code ec;
    EXPECT_FALSE(m.slice(offset, length, ec).is_open());
    EXPECT_EQ(ec, errc::out_of_range) << offset << ' ' << length;
    EXPECT_EQ(code_of([&] { m.slice(offset, length); }), errc::out_of_range);
  }
  EXPECT_EQ(code_of([] { mapping().slice(0, 0); }), errc::not_open);
}

TEST_F(segment_test, keeps_every_verb_within_its_bounds) {
  const std::string bytes = pattern(8 * page());
  mapping m = file_of(bytes);
  segment s = m.slice(2 * page(), page());
  for (const auto& [offset, length] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
           {page(), 1}, {page() + 1, 0}, {0, page() + 1}, {1, page()}, {page() + 1, page()}})
    expect_error_of_every_verb(s, offset, length, errc::out_of_range);
  for (const auto& [offset, length] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
           {most, 1}, {most - 2 * page() + 1, 10}, {most, 0}})
    expect_error_of_every_verb(s, offset, length, errc::out_of_range);
  EXPECT_TRUE(same(support::read_file(path_), bytes));
  support::expect_locked(0);
  EXPECT_EQ(code_of([&] { s.view(1, most); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { s.flush_range(1, most); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { s.publish(1, most); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { s.slice(1, most); }), errc::out_of_range);
}

TEST_F(segment_test, keeps_integers_within_its_bounds) {
  mapping m = file_of(pattern(8 * page()));
  segment s = m.slice(2 * page(), page());
  const auto expect_error = [&](std::uint64_t offset, std::size_t count, std::error_code expected) {
    std::error_code ec;
    EXPECT_EQ(s.atomics<std::uint64_t>(offset, count, ec).size(), expected ? 0 : count);
    EXPECT_EQ(ec, expected) << offset << ' ' << count;
    EXPECT_EQ(code_of([&] { s.atomics<std::uint64_t>(offset, count); }), expected);
    if (count != 1) return;
    EXPECT_EQ(s.atomic<std::uint64_t>(offset, ec).empty(), static_cast<bool>(expected));
    EXPECT_EQ(ec, expected) << offset;
    EXPECT_EQ(code_of([&] { s.atomic<std::uint64_t>(offset); }), expected);
  };
  expect_error(0, page() / 8, {});
  expect_error(page() - 8, 1, {});
  expect_error(page(), 0, {});
  expect_error(page(), 1, errc::out_of_range);
  expect_error(page() - 8, 2, errc::out_of_range);
  expect_error(page() + 8, 0, errc::out_of_range);
  expect_error(0, page() / 8 + 1, errc::out_of_range);
  expect_error(most - 7, 1, errc::out_of_range);
  expect_error(most - 2 * page() + 1, 1, errc::out_of_range);
  expect_error(0, most / 8, errc::out_of_range);
  expect_error(0, most / 8 + 1, errc::out_of_range);  // whose bytes overflow to none
  expect_error(0, most / 8 + 2, errc::out_of_range);
  expect_error(4, 1, errc::misaligned);
  expect_error(4, 0, errc::misaligned);
  expect_error(page() + 4, 1, errc::misaligned);  // as of the whole file
  expect_error(most, 1, errc::misaligned);
}

TEST_F(segment_test, refers_to_integers_that_are_aligned_in_the_file) {
  mapping m = file_of(pattern(4 * page()));
  segment s = m.slice(page() + 4, page());
  EXPECT_EQ(code_of([&] { s.atomic<std::uint64_t>(0); }), errc::misaligned);
  EXPECT_EQ(s.atomic<std::uint64_t>(4).offset(), page() + 8);
  EXPECT_EQ(s.atomic<std::uint32_t>(0).offset(), page() + 4);
  // The last one that the file has there is not all within the segment.
  EXPECT_EQ(code_of([&] { s.atomic<std::uint64_t>(page() - 4); }), errc::out_of_range);
}

TEST_F(segment_test, takes_what_lies_just_within_its_bounds) {
  mapping m = file_of(pattern(8 * page()));
  segment s = m.slice(2 * page(), page());
  for (const auto& [offset, length] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
           {0, page()}, {page() - 1, 1}, {page(), 0}, {0, 0}})
    expect_error_of_every_verb(s, offset, length, {});
  for (const whole_verb& verb : whole_verbs())
    EXPECT_EQ(error_of(verb, s), std::error_code()) << verb.name;
}

TEST_F(segment_test, on_a_file_for_reading_refuses_to_write) {
  mapping m = file_of(pattern(4 * page()), support::read_only());
  segment s = m.slice(page(), page());
  for (const ranged_verb& verb : ranged_verbs())
    EXPECT_EQ(error_of(verb, s, 0, page()),
              verb.writes ? std::error_code(errc::read_only) : std::error_code())
        << verb.name;
  for (const whole_verb& verb : whole_verbs())
    EXPECT_EQ(error_of(verb, s), verb.writes ? std::error_code(errc::read_only) : std::error_code())
        << verb.name;
}

// --- files that change --------------------------------------------------------------------------

TEST_F(segment_test, pins_nothing) {
  mapping m = file_of(pattern(4 * page()));
  const segment s = m.slice(0, 4 * page());
  m.resize(0);
  m.resize(page());
}

TEST_F(segment_test, is_out_of_range_where_the_file_was_cut) {
  mapping m = file_of(pattern(8 * page()));
  segment s = m.slice(4 * page(), 2 * page());
  m.resize(5 * page());
  expect_error_of_every_verb(s, 0, page() + 1, errc::out_of_range);
  expect_error_of_every_verb(s, page(), 1, errc::out_of_range);
  expect_error_of_every_verb(s, 0, page(), {});
  for (const whole_verb& verb : whole_verbs())
    EXPECT_EQ(error_of(verb, s), errc::out_of_range) << verb.name;
  EXPECT_EQ(code_of([&] { s.atomic<std::uint64_t>(page()); }), errc::out_of_range);
  EXPECT_FALSE(code_of([&] { s.atomics<std::uint64_t>(0, page() / 8); }));
  m.resize(3 * page());
  expect_error_of_every_verb(s, 0, 1, errc::out_of_range);
  expect_error_of_every_verb(s, 0, 0, errc::out_of_range);
  EXPECT_EQ(s.size(), 2 * page());
}

TEST_F(segment_test, works_again_when_the_file_has_grown_again) {
  mapping m = file_of(pattern(8 * page()));
  segment s = m.slice(4 * page(), page());
  m.resize(page());
  m.resize(8 * page());
  expect_error_of_every_verb(s, 0, page(), {});
  expect_error_of_every_verb(s, 0, page() + 1, errc::out_of_range);
  for (const whole_verb& verb : whole_verbs())
    EXPECT_EQ(error_of(verb, s), std::error_code()) << verb.name;
  EXPECT_EQ(s.atomic<std::uint64_t>(0).offset(), 4 * page());
  s.update_region(0, asio::buffer("x", 1));
  EXPECT_EQ(s.view(0, 1).text(), "x");
  EXPECT_EQ(m.view(4 * page(), 1).text(), "x");
}

TEST_F(segment_test, sees_what_somebody_else_cut_once_the_file_knows_of_it) {
  mapping m = file_of(pattern(8 * page()));
  segment s = m.slice(4 * page(), 2 * page());
  support::truncate_file(path_, 5 * page());
  EXPECT_EQ(m.refresh(), 5 * page());
  expect_error_of_every_verb(s, 0, page() + 1, errc::out_of_range);
  expect_error_of_every_verb(s, 0, page(), {});
  support::truncate_file(path_, 6 * page());
  EXPECT_EQ(m.refresh(), 6 * page());
  expect_error_of_every_verb(s, 0, 2 * page(), {});
}

TEST_F(segment_test, follows_a_file_that_moves) {
  open_options options = support::creating(4 * page());
  options.reserve = 4 * page();
  mapping m(path_, options);
  segment s = m.slice(page(), page());
  s.update_region(0, asio::buffer("before", 6));
  m.resize(64 * page());
  ASSERT_EQ(m.stats().moves, 1U);
  EXPECT_EQ(s.view(0, 6).text(), "before");
  EXPECT_EQ(code_of([&] { s.view(0, page() + 1); }), errc::out_of_range);
}

TEST_F(segment_test, of_a_file_that_is_closed_is_not_open) {
  mapping m = file_of(pattern(4 * page()));
  segment s = m.slice(page(), page());
  m.close();
  EXPECT_FALSE(s.is_open());
  expect_error_of_every_verb(s, 0, page(), errc::not_open);
  expect_error_of_every_verb(s, 0, page() + 1, errc::not_open);
  expect_error_of_every_verb(s, most, 1, errc::not_open);
  for (const whole_verb& verb : whole_verbs())
    EXPECT_EQ(error_of(verb, s), errc::not_open) << verb.name;
}

TEST_F(segment_test, without_a_file_is_not_open) {
  mapping m = file_of(pattern(4 * page()));
  segment none;
  segment s = m.slice(page(), page());
  const segment taken = std::move(s);
  segment assigned = m.slice(0, page());
  s = std::move(assigned);
  s = segment();
  for (segment* each : {&none, &s, &assigned}) {  // NOLINT(bugprone-use-after-move)
    EXPECT_FALSE(each->is_open());
    EXPECT_TRUE(each->empty());
    EXPECT_EQ(each->offset(), 0U);
    expect_error_of_every_verb(*each, 0, 0, errc::not_open);
    expect_error_of_every_verb(*each, 0, 1, errc::not_open);
    EXPECT_EQ(code_of([&] { each->atomic<std::uint64_t>(0); }), errc::not_open);
    EXPECT_EQ(code_of([&] { each->atomics<std::uint64_t>(1, 0); }), errc::not_open);
    for (const whole_verb& verb : whole_verbs())
      EXPECT_EQ(error_of(verb, *each), errc::not_open) << verb.name;
  }
  EXPECT_EQ(taken.size(), page());
}

TEST_F(segment_test, keeps_the_file_open_as_any_copy_of_the_mapping_does) {
  segment s;
  {
    mapping m = file_of(std::string("0123456789"));
    s = m.slice(2, 5);
  }
  EXPECT_TRUE(s.is_open());
  EXPECT_EQ(s.view(0, 5).text(), "23456");
}

TEST_F(segment_test, refers_to_integers_of_a_file_for_reading_to_read_them) {
  mapping m = file_of(std::string(page(), '\0'), support::read_only());
  segment s = m.slice(8, 8);
  const auto word = s.atomic<std::uint64_t>(0);
  EXPECT_EQ(word.load(), 0U);
  EXPECT_EQ(code_of([&] { word.store(1); }), errc::read_only);
}

TEST_F(segment_test, of_a_private_mapping_stays_private) {
  mapping m = file_of(std::string(page(), 'a'), support::copy_on_write());
  segment s = m.slice(10, 10);
  s.update_region(0, asio::buffer("bbb", 3));
  s.flush();
  EXPECT_EQ(m.view(10, 4).text(), "bbba");
  EXPECT_EQ(support::read_file(path_), std::string(page(), 'a'));
}

}  // namespace
