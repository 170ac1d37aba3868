#include <mapio/mapped_file.hpp>

#include "mapped_file_fixture.hpp"
#include "mapped_file_flush_fixture.hpp"
#include "support.hpp"

#include <mapio/backend.hpp>

#include <asio/awaitable.hpp>
#include <asio/bind_allocator.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using namespace asio::experimental::awaitable_operators;
using mapio::durability;
using mapio::errc;
using mapio::mapped_file;
using mapio::open_options;
using support::aborted;
using support::code_of;
using support::creating;
using support::eventually;
using support::into;
using support::largest;
using support::mapped_file_resize;
using support::mapped_file_test;
using support::outcome;
using support::page;
using support::pattern;
using support::read_all;
using support::read_file;
using support::read_write;
using support::run_to_end;
using support::same;
using support::to_string;

using mapped_file_flush = mapped_file_test;

TEST_F(mapped_file_flush, costs_nothing_where_nothing_was_written) {
  mapped_file file = created(4 * page());
  run([&]() -> work {
    EXPECT_EQ(file.stats().syncs, 0U);
    co_await file.flush();
    EXPECT_GE(file.stats().syncs, 1U) << "the first one after a create";
    const auto before = file.stats();
    co_await file.flush();
    co_await file.flush_range(0, 4 * page());
    co_await file.flush_range(0, 0);
    EXPECT_EQ(file.stats().syncs, before.syncs);
    EXPECT_GE(file.stats().clean_flushes, before.clean_flushes + 2);
  });
}

TEST_F(mapped_file_flush, holds_to_the_bounds_of_the_file) {
  mapped_file file = created(2 * page());
  run([&]() -> work {
    std::error_code ec;
    co_await file.flush_range(2 * page(), 0, into(ec));
    EXPECT_FALSE(ec);
    for (const auto& [offset, length] :
         std::vector<std::pair<std::uint64_t, std::uint64_t>>{{2 * page(), 1},
                                                              {0, largest},
                                                              {largest, 1},
                                                              {largest, largest},
                                                              {2 * page() + 1, 0}}) {
      co_await file.flush_range(offset, length, into(ec));
      EXPECT_EQ(ec, errc::out_of_range) << offset << " + " << length;
      co_await file.flush_range(offset, length, durability::started, into(ec));
      EXPECT_EQ(ec, errc::out_of_range) << offset << " + " << length;
    }
  });
}

TEST_F(mapped_file_flush, that_only_starts_writing_makes_nothing_durable) {
  mapped_file file = created(4 * page());
  run([&]() -> work {
    co_await file.flush();
    co_await file.update_region(0, asio::buffer("x", 1));
    co_await file.flush(durability::started);
    co_await file.flush_range(0, page(), durability::started);
    const auto syncs = file.stats().syncs;
    co_await file.flush();
    EXPECT_GT(file.stats().syncs, syncs);
  });
}

TEST_F(mapped_file_flush, by_a_thousand_at_once_shares_few_syncs) {
  constexpr std::uint64_t count = 1000;
  mapped_file file = created(count * 64);
  run([&]() -> work { co_await file.flush(); });
  const auto before = file.stats();
  std::uint64_t done = 0;
  for (std::uint64_t i = 0; i < count; ++i)
    asio::co_spawn(
        io_,
        [](mapped_file f, std::uint64_t at) -> work {
          co_await f.update_region(at, asio::buffer("x", 1));
          co_await f.flush();
        }(file, i * 64),
        [&](std::exception_ptr e) {
          EXPECT_FALSE(e);
          ++done;
        });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(done, count);
  const auto after = file.stats();
  EXPECT_EQ(after.flush_calls - before.flush_calls, count);
  // By Wine a worker stores, and the flushes come one by one as it does.
  EXPECT_LE((after.syncs - before.syncs) * (support::is_emulated ? 2 : 20), count);
  EXPECT_GE(after.syncs - before.syncs, 1U);
  EXPECT_EQ(file.pending_bytes(), 0U);
}

TEST_F(mapped_file_flush, of_ranges_by_many_at_once_leaves_nothing_dirty) {
  constexpr std::uint64_t count = 200;
  mapped_file file = created(count * page());
  run([&]() -> work { co_await file.flush(); });
  std::uint64_t done = 0;
  for (std::uint64_t i = 0; i < count; ++i)
    asio::co_spawn(
        io_,
        [](mapped_file f, std::uint64_t at) -> work {
          co_await f.update_region(at, asio::buffer("x", 1));
          co_await f.flush_range(at, 1);
        }(file, i * page()),
        [&](std::exception_ptr e) {
          EXPECT_FALSE(e);
          ++done;
        });
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(done, count);
  EXPECT_EQ(file.pending_bytes(), 0U);
}

TEST_F(mapped_file_resize, grows_by_zeros_and_shrinks) {
  mapped_file file = opened_with(bytes_);
  run([&]() -> work {
    for (const std::size_t size : {4 * page() + 1, 5 * page(), 100 * page(), 1000 * page() + 7}) {
      co_await file.resize(size);
      EXPECT_EQ(file.size(), size);
      EXPECT_EQ(fs::file_size(path_), size);
      EXPECT_TRUE(same(read_all(file.map()), bytes_ + std::string(size - bytes_.size(), '\0')))
          << size;
    }
    co_await file.resize(page() + 5);
    EXPECT_EQ(fs::file_size(path_), page() + 5);
    co_await file.resize(4 * page());
    EXPECT_TRUE(same(read_all(file.map()),
                     bytes_.substr(0, page() + 5) + std::string(3 * page() - 5, '\0')));
    co_await file.resize(0);
    EXPECT_EQ(file.size(), 0U);
    co_await file.resize(10);
    EXPECT_TRUE(same(read_all(file.map()), std::string(10, '\0')));
  });
}

TEST_F(mapped_file_resize, refuses_sizes_that_no_file_can_have) {
  mapped_file file = opened_with(bytes_);
  run([&]() -> work {
    std::error_code ec;
    for (const std::uint64_t size : {largest, largest - page() + 1, std::uint64_t{1} << 63}) {
      co_await file.resize(size, into(ec));
      EXPECT_EQ(ec, std::errc::file_too_large) << ec.message();
      EXPECT_EQ(file.size(), 4 * page());
    }
    co_await file.resize(std::uint64_t{1} << 62, into(ec));
    EXPECT_TRUE(ec);
    EXPECT_EQ(file.size(), 4 * page());
    EXPECT_EQ(fs::file_size(path_), 4 * page());
    co_await file.resize(5 * page());
  });
  EXPECT_TRUE(same(read_all(file.map()), bytes_ + std::string(page(), '\0')));
}

TEST_F(mapped_file_resize, happens_in_the_order_of_initiation) {
  mapped_file file = opened_with(bytes_);
  for (int round = 0; round < 20; ++round) {
    std::vector<int> order;
    for (int i = 0; i < 10; ++i)
      file.resize((i % 2 == 0 ? 1U : 20U + static_cast<unsigned>(i)) * page(),
                  [&order, i](std::error_code ec) {
                    EXPECT_FALSE(ec) << ec.message();
                    order.push_back(i);
                  });
    ASSERT_TRUE(run_to_end(io_));
    EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
    EXPECT_EQ(file.size(), 29 * page());
    EXPECT_EQ(fs::file_size(path_), 29 * page());
  }
  EXPECT_TRUE(same(to_string(file.map().view(0, page())), bytes_.substr(0, page())));
}

/// Calls `before` when it frees something.
template <class T>
struct observed_allocator {
  using value_type = T;
  explicit observed_allocator(std::function<void()>& b) noexcept : before(&b) {}
  template <class U>
  observed_allocator(const observed_allocator<U>& other) noexcept : before(other.before) {}
  T* allocate(std::size_t n) { return std::allocator<T>().allocate(n); }
  void deallocate(T* p, std::size_t n) noexcept {
    (*before)();
    std::allocator<T>().deallocate(p, n);
  }
  friend bool operator==(const observed_allocator&, const observed_allocator&) noexcept = default;

  std::function<void()>* before;
};

TEST_F(mapped_file_resize, begins_once_the_handler_of_the_one_before_is_posted) {
  mapped_file file = opened_with(bytes_);
  std::atomic<bool> held = false;
  std::atomic<bool> go_on = false;
  // The memory of a verb is freed right before its handler is posted.
  std::function<void()> hold_once = [&] {
    if (held.exchange(true)) return;
    EXPECT_TRUE(eventually([&] { return go_on.load(); }));
  };
  std::vector<int> order;
  file.resize(2 * page(),
              asio::bind_allocator(observed_allocator<char>(hold_once), [&](std::error_code ec) {
                EXPECT_FALSE(ec) << ec.message();
                order.push_back(0);
              }));
  std::thread loop([&] { EXPECT_TRUE(run_to_end(io_)); });
  EXPECT_TRUE(eventually([&] { return held.load(); }));
  file.resize(3 * page(), [&](std::error_code ec) {
    EXPECT_FALSE(ec) << ec.message();
    order.push_back(1);
  });
  // Long enough for the second one, were it not waiting; no less right if it is not.
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(file.size(), 2 * page());
  go_on = true;
  loop.join();
  EXPECT_EQ(order, (std::vector<int>{0, 1}));
  EXPECT_EQ(file.size(), 3 * page());
}

TEST_F(mapped_file_resize, shrinks_when_the_last_region_in_the_way_is_gone) {
  mapped_file file = opened_with(bytes_);
  auto in_the_way = std::make_unique<mapio::region>(file.map().view(3 * page(), 10));
  auto copy = std::make_unique<mapio::region>(*in_the_way);
  const mapio::region harmless = file.map().view(0, 2 * page());
  outcome o;
  file.resize(2 * page(), o.handler());
  settle();
  EXPECT_EQ(o.calls, 0);
  EXPECT_FALSE(io_.stopped()) << "a verb that waits keeps run() going";
  EXPECT_TRUE(same(in_the_way->text(), bytes_.substr(3 * page(), 10)));
  in_the_way.reset();
  settle();
  EXPECT_EQ(o.calls, 0);
  EXPECT_EQ(fs::file_size(path_), 4 * page());
  copy.reset();
  finish(o);
  EXPECT_TRUE(o.ok()) << o.error.message();
  EXPECT_EQ(file.size(), 2 * page());
  EXPECT_EQ(fs::file_size(path_), 2 * page());
  EXPECT_TRUE(same(harmless.text(), bytes_.substr(0, 2 * page())));
}

TEST_F(mapped_file_resize, waits_for_mutable_regions_too) {
  mapped_file file = opened_with(bytes_);
  auto in_the_way =
      std::make_unique<mapio::mutable_region>(file.map().mutable_view(page(), 2 * page()));
  outcome o;
  file.resize(2 * page(), o.handler());
  settle();
  EXPECT_EQ(o.calls, 0);
  in_the_way.reset();
  finish(o);
  EXPECT_TRUE(o.ok());
}

TEST_F(mapped_file_resize, is_woken_by_a_region_that_another_thread_drops) {
  mapped_file file = opened_with(bytes_);
  for (int round = 0; round < 50; ++round) {
    mapio::region in_the_way = file.map().view(3 * page(), 1);
    outcome o;
    file.resize(page(), o.handler());
    std::thread dropper([r = std::move(in_the_way)]() mutable { r = mapio::region(); });
    finish(o);
    dropper.join();
    ASSERT_TRUE(o.ok());
    run([&]() -> work { co_await file.resize(4 * page()); });
  }
}

TEST_F(mapped_file_resize, to_a_smaller_size_refuses_new_views_there_from_its_initiation_on) {
  mapped_file file = opened_with(bytes_);
  auto in_the_way = std::make_unique<mapio::region>(file.map().view(3 * page(), 1));
  outcome o;
  file.resize(2 * page(), o.handler());
  EXPECT_EQ(code_of([&] { file.map().view(2 * page(), 1); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { file.map().mutable_view(3 * page(), 1); }), errc::out_of_range);
  outcome view;
  file.view(3 * page(), 1, view.handler());
  finish(view);
  EXPECT_EQ(view.error, errc::out_of_range);
  EXPECT_EQ(file.map().view(0, 2 * page()).size(), 2 * page());
  outcome kept;
  file.view(page(), page(), kept.handler());
  finish(kept);
  EXPECT_TRUE(kept.ok());
  EXPECT_EQ(o.calls, 0);
  kept.region = {};  // it is in the way where a cut waits for all of them
  in_the_way.reset();
  finish(o);
  EXPECT_TRUE(o.ok());
}

TEST_F(mapped_file_resize, gives_the_views_back_when_it_is_cancelled) {
  mapped_file file = opened_with(bytes_);
  const mapio::region in_the_way = file.map().view(3 * page(), 1);
  outcome o;
  file.resize(2 * page(), o.handler());
  settle();
  file.cancel();
  finish(o);
  EXPECT_EQ(o.error, aborted);
  EXPECT_EQ(file.size(), 4 * page());
  EXPECT_EQ(file.map().view(2 * page(), 2 * page()).text().size(), 2 * page());
  EXPECT_TRUE(same(read_file(path_), bytes_));
}

TEST_F(mapped_file_resize, beyond_the_capacity_waits_for_every_region) {
  open_options options = read_write();
  options.reserve = 1 << 20;
  options.preallocate = false;
  mapped_file file = opened_with(bytes_, options);
  const std::uint64_t beyond = file.capacity() + 1;
  auto low = std::make_unique<mapio::region>(file.map().view(0, 1));
  outcome o;
  file.resize(beyond, o.handler());
  settle();
  EXPECT_EQ(o.calls, 0);
  EXPECT_TRUE(same(low->text(), bytes_.substr(0, 1)));
  low.reset();
  finish(o);
  EXPECT_TRUE(o.ok()) << o.error.message();
  EXPECT_EQ(file.size(), beyond);
  EXPECT_GE(file.capacity(), beyond);
  EXPECT_EQ(file.stats().moves, 1U);
  EXPECT_TRUE(same(to_string(file.map().view(0, bytes_.size())), bytes_));
}

TEST_F(mapped_file_resize, that_has_made_the_file_larger_takes_it_back_when_it_is_cancelled) {
  open_options options = creating(8 * page());
  options.reserve = 8 * page();
  int caught = 0;
  const bool is_enough = support::eventually([&] {
    mapped_file file = opened(options);
    outcome resized;
    file.resize(64 * page(), resized.handler());
    const mapio::region in_the_way = file.map().view(0, 1);
    EXPECT_TRUE(support::eventually([&] {
      settle();
      return fs::file_size(path_) == 64 * page();
    }));
    // Its mapping may be made or not, and it may wait for the region or not.
    if (caught % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    settle();
    file.cancel();
    finish(resized);
    if (!resized.error) return false;  // it was over before there was a region
    EXPECT_EQ(resized.error, asio::error::operation_aborted);
    EXPECT_EQ(file.size(), 8 * page());
    EXPECT_EQ(fs::file_size(path_), 8 * page());
    return ++caught == 20 || HasFailure();
  });
  EXPECT_TRUE(is_enough);
}

TEST_F(mapped_file_resize, beyond_the_capacity_can_be_cancelled_while_it_waits) {
  open_options options = read_write();
  options.reserve = 1 << 20;
  options.preallocate = false;
  mapped_file file = opened_with(bytes_, options);
  const std::uint64_t capacity = file.capacity();
  auto in_the_way = std::make_unique<mapio::region>(file.map().view(0, 1));
  asio::cancellation_signal signal;
  outcome o;
  file.resize(capacity + 1, asio::bind_cancellation_slot(signal.slot(), o.handler()));
  settle();
  EXPECT_EQ(o.calls, 0);
  signal.emit(asio::cancellation_type::total);
  finish(o);
  EXPECT_EQ(o.error, aborted);
  EXPECT_EQ(file.size(), bytes_.size());
  EXPECT_EQ(file.capacity(), capacity);
  EXPECT_EQ(file.stats().moves, 0U);
  EXPECT_TRUE(same(read_file(path_), bytes_));
  in_the_way.reset();
  run([&]() -> work { co_await file.resize(capacity + 1); });
  EXPECT_EQ(file.stats().moves, 1U);
  EXPECT_TRUE(same(to_string(file.map().view(0, bytes_.size())), bytes_));
}

TEST_F(mapped_file_resize, beyond_the_capacity_runs_beside_other_verbs) {
  open_options options = read_write();
  options.reserve = 1 << 20;
  options.preallocate = false;
  mapped_file file = opened_with(bytes_, options);
  int done = 0;
  std::string slots(64, '\0');
  for (int round = 0; round < 3; ++round) {
    const std::uint64_t beyond = file.capacity() + 1;
    for (std::size_t i = 0; i < 64; ++i) {
      file.read_into(i, asio::buffer(&slots[i], 1), [&](std::error_code ec, std::size_t) {
        EXPECT_FALSE(ec) << ec.message();
        ++done;
      });
      file.update_region(page() + i, asio::buffer("x", 1), [&](std::error_code ec, std::size_t) {
        EXPECT_FALSE(ec) << ec.message();
        ++done;
      });
      if (i == 10) {
        file.flush([&](std::error_code ec) {
          EXPECT_FALSE(ec) << ec.message();
          ++done;
        });
      }
      if (i == 32) {
        file.resize(beyond, [&](std::error_code ec) {
          EXPECT_FALSE(ec) << ec.message();
          ++done;
        });
      }
    }
    ASSERT_TRUE(run_to_end(io_));
    EXPECT_EQ(file.size(), beyond);
  }
  EXPECT_EQ(done, 3 * 130);
  EXPECT_TRUE(same(slots, bytes_.substr(0, 64)));
  EXPECT_TRUE(same(to_string(file.map().view(page(), 64)), std::string(64, 'x')));
}

TEST_F(mapped_file_resize, waits_for_its_turn_behind_one_that_waits_for_a_region) {
  mapped_file file = opened_with(bytes_);
  auto in_the_way = std::make_unique<mapio::region>(file.map().view(3 * page(), 1));
  outcome shrink;
  outcome grow;
  file.resize(page(), shrink.handler());
  file.resize(8 * page(), grow.handler());
  settle();
  EXPECT_EQ(shrink.calls + grow.calls, 0);
  in_the_way.reset();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(shrink.ok() && grow.ok());
  EXPECT_EQ(file.size(), 8 * page());
  EXPECT_TRUE(same(read_all(file.map()), bytes_.substr(0, page()) + std::string(7 * page(), '\0')));
}

TEST_F(mapped_file_resize, goes_on_with_the_next_one_when_one_is_cancelled) {
  const std::size_t granule = support::mapping_granule();  // so that it grows where it is
  const std::string bytes = pattern(4 * granule);
  mapped_file file = opened_with(bytes);
  const mapio::region in_the_way = file.map().view(3 * granule, 1);
  asio::cancellation_signal signal;
  outcome shrink;
  outcome grow;
  file.resize(granule, asio::bind_cancellation_slot(signal.slot(), shrink.handler()));
  file.resize(8 * granule, grow.handler());
  settle();
  signal.emit(asio::cancellation_type::terminal);
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_EQ(shrink.error, aborted);
  EXPECT_TRUE(grow.ok());
  EXPECT_TRUE(same(read_all(file.map()), bytes + std::string(4 * granule, '\0')));
}

TEST_F(mapped_file_resize, that_waits_for_its_turn_can_be_cancelled) {
  mapped_file file = opened_with(bytes_);
  auto in_the_way = std::make_unique<mapio::region>(file.map().view(3 * page(), 1));
  asio::cancellation_signal signal;
  outcome shrink;
  outcome grow;
  file.resize(page(), shrink.handler());
  file.resize(8 * page(), asio::bind_cancellation_slot(signal.slot(), grow.handler()));
  settle();
  signal.emit(asio::cancellation_type::total);
  finish(grow);
  EXPECT_EQ(grow.error, aborted);
  EXPECT_EQ(shrink.calls, 0);
  in_the_way.reset();
  ASSERT_TRUE(run_to_end(io_));
  EXPECT_TRUE(shrink.ok());
  EXPECT_EQ(file.size(), page());
}

TEST_F(mapped_file_resize, by_the_mapping_does_not_wait) {
  mapped_file file = opened_with(bytes_);
  const mapio::region in_the_way = file.map().view(3 * page(), 1);
  EXPECT_EQ(code_of([&] { file.map().resize(page()); }), errc::pinned);
}

}  // namespace
