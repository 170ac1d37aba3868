#include <mapio/atomic.hpp>

#include "atomic_fixture.hpp"
#include "support.hpp"

#include <mapio/mapping.hpp>

#include <asio/buffer.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <limits>
#include <ranges>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

using mapio::atomic_reference;
using mapio::atomic_span;
using mapio::atomic_view;
using mapio::errc;
using mapio::mapping;
using support::atomic_fixture;
using support::code_of;
using support::copy_on_write;
using support::page;
using support::read_only;
using support::read_write;

template <class T>
concept waitable = requires(const atomic_view<T>& v, T old, std::error_code& error) {
  v.wait(old);
  v.wait(old, error);
  v.notify_one();
  v.notify_one(error);
  v.notify_all();
  v.notify_all(error);
};
template <class T>
concept notifiable = requires(const atomic_view<T>& v) {
  v.notify_all();
};

static_assert(mapio::atomic_word<std::int32_t> && mapio::atomic_word<std::uint64_t>);
static_assert(!mapio::atomic_word<bool> && !mapio::atomic_word<short> &&
              !mapio::atomic_word<float>);
static_assert(!mapio::atomic_word<const int>);
static_assert(waitable<std::int32_t> && waitable<std::uint32_t>);
static_assert(!waitable<std::int64_t> && !notifiable<std::uint64_t>);
static_assert(std::ranges::forward_range<atomic_span<std::uint32_t>>);

template <class T>
class atomic_operations : public atomic_fixture {};
using words =
    testing::Types<std::int32_t, std::uint32_t, std::int64_t, std::uint64_t, long, char32_t>;
TYPED_TEST_SUITE(atomic_operations, words);

TYPED_TEST(atomic_operations, are_those_of_the_standard) {
  using word = TypeParam;
  mapping m = this->created(page());
  const atomic_view<word> a = m.atomic<word>(sizeof(word));
  EXPECT_EQ(a.offset(), sizeof(word));
  EXPECT_EQ(a.load(), word(0));
  a.store(word(5));
  EXPECT_EQ(a.load(std::memory_order_acquire), word(5));
  EXPECT_EQ(a.exchange(word(12)), word(5));
  EXPECT_EQ(a.fetch_add(word(3)), word(12));
  EXPECT_EQ(a.fetch_sub(word(1)), word(15));
  EXPECT_EQ(a.fetch_and(word(7)), word(14));
  EXPECT_EQ(a.fetch_or(word(9)), word(6));
  EXPECT_EQ(a.fetch_xor(word(3)), word(15));
  EXPECT_EQ(a.load(), word(12));

  word expected(1);
  EXPECT_FALSE(a.compare_exchange_strong(expected, word(2)));
  EXPECT_EQ(expected, word(12));
  EXPECT_TRUE(a.compare_exchange_strong(expected, word(2), std::memory_order_acq_rel,
                                        std::memory_order_acquire));
  expected = word(3);
  EXPECT_FALSE(a.compare_exchange_weak(expected, word(4)));
  EXPECT_EQ(expected, word(2));
  while (!a.compare_exchange_weak(expected, word(4), std::memory_order_release,
                                  std::memory_order_relaxed)) {
  }
  EXPECT_EQ(a.ref().fetch_add(word(1)), word(4));
  std::error_code error = errc::pinned;
  a.store(word(6), error);
  EXPECT_FALSE(error);

  word in_file(0);
  m.read_into(sizeof(word), asio::buffer(&in_file, sizeof in_file));
  EXPECT_EQ(in_file, word(6));
}

TYPED_TEST(atomic_operations, take_every_order) {
  using word = TypeParam;
  mapping m = this->created(page());
  const auto a = m.atomic<word>(0);
  a.store(word(1), std::memory_order_relaxed);
  a.store(word(1), std::memory_order_release);
  EXPECT_EQ(a.exchange(word(2), std::memory_order_acq_rel), word(1));
  EXPECT_EQ(a.fetch_add(word(1), std::memory_order_relaxed), word(2));
  EXPECT_EQ(a.fetch_sub(word(1), std::memory_order_release), word(3));
  EXPECT_EQ(a.fetch_and(word(3), std::memory_order_acquire), word(2));
  EXPECT_EQ(a.fetch_or(word(1), std::memory_order_seq_cst), word(2));
  EXPECT_EQ(a.fetch_xor(word(1), std::memory_order_acq_rel), word(3));
  EXPECT_EQ(a.load(std::memory_order_relaxed), word(2));
}

/// Calls everything that changes a word, or wakes who waits for it.
template <class Expect>
void each_change(const atomic_reference<std::uint32_t>& a, Expect expect) {
  std::uint32_t value = 0;
  expect("store", [&] { a.store(1); });
  expect("exchange", [&] { a.exchange(1); });
  expect("fetch_add", [&] { a.fetch_add(1); });
  expect("fetch_sub", [&] { a.fetch_sub(1); });
  expect("fetch_and", [&] { a.fetch_and(1); });
  expect("fetch_or", [&] { a.fetch_or(1); });
  expect("fetch_xor", [&] { a.fetch_xor(1); });
  expect("weak", [&] { a.compare_exchange_weak(value, 1); });
  expect("weak", [&] {
    a.compare_exchange_weak(value, 1, std::memory_order_relaxed, std::memory_order_relaxed);
  });
  expect("strong", [&] { a.compare_exchange_strong(value, 1); });
  expect("strong", [&] {
    a.compare_exchange_strong(value, 1, std::memory_order_relaxed, std::memory_order_relaxed);
  });
  expect("ref", [&] { a.ref(); });
  expect("notify_one", [&] { a.notify_one(); });
  expect("notify_all", [&] { a.notify_all(); });
}

using atomic_errors = atomic_fixture;

TEST_F(atomic_errors, of_an_offset_that_is_not_aligned) {
  mapping m = created(page());
  for (const std::uint64_t offset : {1U, 2U, 3U, 5U, 4094U}) {
    EXPECT_EQ(code_of([&] { m.atomic<std::uint32_t>(offset); }), errc::misaligned) << offset;
    EXPECT_EQ(code_of([&] { m.atomics<std::uint32_t>(offset, 0); }), errc::misaligned) << offset;
  }
  EXPECT_EQ(code_of([&] { m.atomic<std::uint64_t>(4); }), errc::misaligned);
  std::error_code error;
  EXPECT_TRUE(m.atomic<std::int64_t>(4, error).empty());
  EXPECT_EQ(error, errc::misaligned);
  EXPECT_TRUE(m.atomics<std::int64_t>(12, 2, error).empty());
  EXPECT_EQ(error, errc::misaligned);
}

TEST_F(atomic_errors, of_a_range_that_is_not_in_the_file) {
  mapping m = created(page());
  constexpr auto most = std::numeric_limits<std::uint64_t>::max();
  EXPECT_NO_THROW(m.atomic<std::uint64_t>(page() - 8));
  EXPECT_NO_THROW(m.atomics<std::uint64_t>(0, page() / 8));
  EXPECT_NO_THROW(m.atomics<std::uint64_t>(page(), 0));
  EXPECT_EQ(code_of([&] { m.atomic<std::uint64_t>(page()); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { m.atomic<std::uint32_t>(most - 3); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { m.atomics<std::uint64_t>(page() + 8, 0); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { m.atomics<std::uint64_t>(8, page() / 8); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { m.atomics<std::uint64_t>(0, most / 8 + 1); }), errc::out_of_range)
      << "the bytes overflow";
  EXPECT_EQ(code_of([&] { m.atomics<std::uint64_t>(8, most / 8); }), errc::out_of_range);
  std::error_code error;
  EXPECT_EQ(m.atomics<std::uint32_t>(0, most / 4 + 1, error).size(), 0U);
  EXPECT_EQ(error, errc::out_of_range);
  EXPECT_FALSE(m.atomic<std::uint32_t>(0, error).empty());
  EXPECT_FALSE(error);
}

TEST_F(atomic_errors, of_the_last_bytes_of_a_file_that_is_no_multiple) {
  support::write_file(path_, std::string(10, 'x'));
  mapping m = opened(read_write());
  EXPECT_NO_THROW(m.atomic<std::uint32_t>(4));
  EXPECT_EQ(code_of([&] { m.atomic<std::uint32_t>(8); }), errc::out_of_range);
}

TEST_F(atomic_errors, of_a_file_that_is_not_open) {
  mapping m;
  EXPECT_EQ(code_of([&] { m.atomic<std::uint32_t>(0); }), errc::not_open);
  m = created(page());
  m.close();
  std::error_code error;
  EXPECT_TRUE(m.atomic<std::uint32_t>(0, error).empty());
  EXPECT_EQ(error, errc::not_open);
  EXPECT_TRUE(m.atomics<std::uint32_t>(1, 2, error).empty());
  EXPECT_EQ(error, errc::not_open);
}

TEST_F(atomic_errors, of_an_empty_view) {
  mapping m = created(page());
  auto from = m.atomic<std::uint32_t>(4);
  const auto to = std::move(from);
  EXPECT_FALSE(to.empty());
  EXPECT_TRUE(from.empty());  // NOLINT(bugprone-use-after-move): that is the question
  EXPECT_EQ(from.offset(), 0U);
  for (const auto& a : {atomic_view<std::uint32_t>(), from}) {
    each_change(a, [](const char* what, const std::function<void()>& change) {
      EXPECT_EQ(code_of(change), errc::not_open) << what;
    });
    EXPECT_EQ(code_of([&] { a.load(); }), errc::not_open);
    EXPECT_EQ(code_of([&] { a.wait(0); }), errc::not_open);
    std::error_code error;
    a.store(1, error);
    EXPECT_EQ(error, errc::not_open);
  }
}

TEST_F(atomic_errors, on_a_read_only_mapping) {
  created(page()).atomic<std::uint32_t>(0).store(7);
  mapping m = opened(read_only());
  const auto a = m.atomic<std::uint32_t>(0);
  EXPECT_TRUE(a.is_read_only());
  EXPECT_EQ(a.load(), 7U);
  a.wait(0);
  each_change(a, [](const char* what, const std::function<void()>& change) {
    EXPECT_EQ(code_of(change), errc::read_only) << what;
  });
  each_change(m.atomics<std::uint32_t>(0, 2)[0],
              [](const char* what, const std::function<void()>& change) {
                EXPECT_EQ(code_of(change), errc::read_only) << what;
              });
  std::error_code error;
  a.store(1, error);
  EXPECT_EQ(error, errc::read_only);
  a.notify_one(error);
  EXPECT_EQ(error, errc::read_only);
  a.notify_all(error);
  EXPECT_EQ(error, errc::read_only);
  EXPECT_EQ(m.atomic<std::uint64_t>(0).load(), 7U);
}

TEST_F(atomic_errors, on_a_copy_on_write_mapping_are_those_of_waiting_alone) {
  created(page()).atomic<std::uint32_t>(0).store(7);
  mapping m = opened(copy_on_write());
  const auto a = m.atomic<std::uint32_t>(0);
  EXPECT_EQ(a.fetch_add(1), 7U);
  EXPECT_EQ(a.load(), 8U);
  EXPECT_EQ(opened(read_only()).atomic<std::uint32_t>(0).load(), 7U) << "private";
  EXPECT_EQ(m.pending_bytes(), 0U);
  EXPECT_EQ(code_of([&] { a.wait(0); }), errc::unsupported);
  EXPECT_EQ(code_of([&] { a.notify_one(); }), errc::unsupported);
  EXPECT_EQ(code_of([&] { a.notify_all(); }), errc::unsupported);
}

TEST_F(atomic_errors, of_waiting_on_a_file_that_somebody_cut) {
  mapping m = created(2 * page());
  const auto a = m.atomic<std::uint32_t>(page());
  support::truncate_file(path_, page());
  EXPECT_EQ(code_of([&] { a.wait(0); }), errc::page_fault);
  EXPECT_EQ(code_of([&] { a.notify_one(); }), errc::page_fault);
  EXPECT_EQ(code_of([&] { a.notify_all(); }), errc::page_fault);
}

using atomic_pins = atomic_fixture;

TEST_F(atomic_pins, keep_the_word_in_place) {
  mapping m = created(2 * page());
  auto a = m.atomic<std::uint32_t>(page());
  EXPECT_EQ(code_of([&] { m.resize(page()); }), errc::pinned);
  EXPECT_EQ(code_of([&] { m.release(); }), errc::pinned);
  auto copy = a;
  a = {};
  EXPECT_EQ(code_of([&] { m.resize(page()); }), errc::pinned);
  m.close();
  copy.store(3);
  EXPECT_EQ(copy.load(), 3U);
  EXPECT_TRUE(support::is_mapped(path_));
  copy = {};
  EXPECT_FALSE(support::is_mapped(path_));
}

TEST_F(atomic_pins, of_a_span_are_one_for_all) {
  mapping m = created(2 * page());
  auto span = m.atomics<std::uint64_t>(0, page() / 4);
  EXPECT_EQ(code_of([&] { m.resize(page()); }), errc::pinned);
  auto moved = std::move(span);
  EXPECT_TRUE(span.empty());  // NOLINT(bugprone-use-after-move): that is the question
  EXPECT_EQ(span.begin(), span.end());
  EXPECT_EQ(code_of([&] { m.resize(page()); }), errc::pinned);
  moved = {};
  m.resize(page());
  EXPECT_NO_THROW(m.atomics<std::uint64_t>(page(), 0)) << "an empty span is in nobody's way";
}

TEST_F(atomic_pins, count_as_dirty_while_they_live) {
  mapping m = created(4 * page());
  m.flush();
  ASSERT_EQ(m.pending_bytes(), 0U);
  {
    const auto a = m.atomic<std::uint64_t>(page());
    a.store(1);
    const auto before = m.stats();
    m.flush_range(page(), 8);
    a.store(2);
    m.flush_range(page(), 8);
    EXPECT_EQ(m.stats().syncs, before.syncs + 2) << "nobody knows what was stored meanwhile";
    m.flush_range(2 * page(), 8);
    EXPECT_EQ(m.stats().syncs, before.syncs + 2) << "and nothing else is dirty";
  }
  EXPECT_EQ(m.pending_bytes(), page());
  m.flush();
  EXPECT_EQ(m.pending_bytes(), 0U);
  {
    const auto span = m.atomics<std::uint32_t>(0, 2 * page() / 4);
    span[page() / 4].store(1);
  }
  EXPECT_EQ(m.pending_bytes(), 2 * page());
}

using atomic_spans = atomic_fixture;

TEST_F(atomic_spans, show_each_word) {
  mapping m = created(page());
  const auto span = m.atomics<std::uint32_t>(8, 5);
  EXPECT_EQ(span.size(), 5U);
  EXPECT_EQ(span.offset(), 8U);
  std::uint32_t next = 1;
  for (const auto word : span)
    word.store(next++);
  EXPECT_EQ(std::ranges::distance(span), 5);
  for (std::size_t i = 0; i < span.size(); ++i)
    EXPECT_EQ(span[i].fetch_add(1), i + 1);
  EXPECT_EQ(m.atomic<std::uint32_t>(4).load(), 0U);
  EXPECT_EQ(m.atomic<std::uint32_t>(8).load(), 2U);
  EXPECT_EQ(m.atomic<std::uint32_t>(24).load(), 6U);
  EXPECT_EQ(m.atomic<std::uint32_t>(28).load(), 0U);
  const auto sixth = [](const auto& word) { return word.load() == 6; };
  EXPECT_EQ(std::ranges::distance(span.begin(), std::ranges::find_if(span, sixth)), 4);
}

/// A thread that waits for a word, and what it has come to.
class waiting_threads {
 public:
  template <class View>
  void add(const View& view, std::uint32_t old) {
    threads_.emplace_back([this, view, old] {
      ++begun_;
      view.wait(old);
      ++over_;
    });
  }
  void join() {
    for (std::thread& t : threads_)
      t.join();
  }
  int begun() const { return begun_; }
  int over() const { return over_; }

 private:
  std::atomic<int> begun_{0};
  std::atomic<int> over_{0};
  std::vector<std::thread> threads_;
};

using atomic_wait = atomic_fixture;

TEST_F(atomic_wait, is_over_at_once_for_another_value) {
  mapping m = created(page());
  const auto a = m.atomic<std::int32_t>(0);
  a.store(-1);
  a.wait(0);
  std::error_code error = errc::pinned;
  a.wait(1, error);
  EXPECT_FALSE(error);
}

TEST_F(atomic_wait, ends_with_a_change_and_not_with_a_mere_notification) {
  mapping m = created(page());
  const auto a = m.atomic<std::int32_t>(8);
  a.store(-5);
  std::atomic<bool> over{false};
  std::thread waiting([&] {
    a.wait(-5);
    over = true;
  });
  for (int i = 0; i < 1000; ++i)
    a.notify_all();
  EXPECT_FALSE(over);
  a.store(5);
  a.notify_one();
  waiting.join();
}

TEST_F(atomic_wait, notify_one_wakes_at_least_one_and_notify_all_the_rest) {
  mapping m = created(page());
  mapping other = opened(read_write());
  const auto a = m.atomic<std::uint32_t>(0);
  waiting_threads threads;
  for (int i = 0; i < 4; ++i) {
    threads.add(a, 0);
    threads.add(other.atomic<std::uint32_t>(0), 0);
  }
  ASSERT_TRUE(support::eventually([&] { return threads.begun() == 8; }));
  a.store(1);
  a.notify_one();
  EXPECT_TRUE(support::eventually([&] { return threads.over() >= 1; }));
  a.notify_all();
  threads.join();
  EXPECT_EQ(threads.over(), 8);
}

TEST_F(atomic_wait, on_a_read_only_mapping_hears_of_others) {
  mapping m = created(page());
  mapping reader = opened(read_only());
  waiting_threads threads;
  threads.add(reader.atomic<std::uint32_t>(16), 0);
  ASSERT_TRUE(support::eventually([&] { return threads.begun() == 1; }));
  m.atomic<std::uint32_t>(16).store(1);
  m.atomic<std::uint32_t>(16).notify_all();
  threads.join();
}

}  // namespace
