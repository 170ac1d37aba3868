// What Asio asks of an asynchronous operation beyond its result: tokens, allocators, cancellation
// slots, forks.
#include "asio_edge_fixture.hpp"
#include "support.hpp"

#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>

#include <asio/bind_allocator.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/execution_context.hpp>
#include <asio/use_future.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <future>
#include <limits>
#include <memory>
#include <thread>

namespace {

using mapio::mapped_file;
using support::asio_edge;
using support::page;

// Counts the handlers that still have what they were given.
struct counting_handler {
  std::shared_ptr<int> state;
  template <class... Results>
  void operator()(const Results&...) const {
    if (state) ++*state;
  }
};

// Every verb that has a token, with this one.
template <class Token>
int start_each_verb(mapped_file& file, const std::filesystem::path& path, Token&& token) {
  static char bytes[4];
  file.open(path, mapio::open_options{}, std::forward<Token>(token));
  file.open(path, std::forward<Token>(token));
  file.update_region(0, asio::buffer("abc", 3), std::forward<Token>(token));
  file.read_into(0, asio::buffer(bytes), std::forward<Token>(token));
  file.flush(std::forward<Token>(token));
  file.flush(mapio::durability::started, std::forward<Token>(token));
  file.flush_range(0, 1, std::forward<Token>(token));
  file.flush_range(0, 1, mapio::durability::started, std::forward<Token>(token));
  file.resize(1, std::forward<Token>(token));
  file.prefetch(std::forward<Token>(token));
  file.prefetch(0, 1, std::forward<Token>(token));
  file.view(0, 1, std::forward<Token>(token));
  file.close(std::forward<Token>(token));
  return 13;
}

TEST_F(asio_edge, AnLvalueTokenIsCopied) {
  mapped_file file(io_);
  counting_handler handler{std::make_shared<int>(0)};
  const int verbs = start_each_verb(file, dir_ / "missing", handler);
  ASSERT_TRUE(handler.state);
  EXPECT_TRUE(support::run_to_end(io_));
  EXPECT_EQ(*handler.state, verbs);
}

TEST_F(asio_edge, AConstLvalueTokenIsCopied) {
  mapped_file file(io_);
  const counting_handler handler{std::make_shared<int>(0)};
  const int verbs = start_each_verb(file, dir_ / "missing", handler);
  EXPECT_TRUE(support::run_to_end(io_));
  EXPECT_EQ(*handler.state, verbs);
}

TEST_F(asio_edge, AnRvalueTokenIsMovedFrom) {
  mapped_file file(io_);
  counting_handler handler{std::make_shared<int>(0)};
  const auto state = handler.state;
  file.flush(std::move(handler));
  EXPECT_FALSE(handler.state);  // NOLINT(bugprone-use-after-move)
  auto only_moves = [owned = std::make_unique<int>(1), state](std::error_code) {
    *state += *owned;
  };
  file.flush(std::move(only_moves));
  EXPECT_TRUE(support::run_to_end(io_));
  EXPECT_EQ(*state, 2);
}

TEST_F(asio_edge, TokensThatAreNoHandlersServeAsLvalues) {
  mapped_file file = open_file(page());
  support::run_coroutine(io_, [&]() -> asio::awaitable<void> {
    // The default token, and one that is used twice.
    co_await file.update_region(0, asio::buffer("abc", 3));
    co_await file.flush();
    std::error_code error;
    auto token = support::into(error);  // Asio 1.22 takes no constant one for its own verbs either
    EXPECT_EQ(co_await file.update_region(0, asio::buffer("abc", 3), token), 3U);
    co_await file.flush_range(0, 3, token);
    co_await file.flush(token);
    EXPECT_FALSE(error) << error.message();
  });
  const asio::use_future_t<> future_token;
  std::future<void> done = file.flush(future_token);
  EXPECT_TRUE(support::run_to_end(io_));
  done.get();
}

// Takes from an arena that knows what is outstanding, and must not be used once it has gone.
struct arena {
  ~arena() { EXPECT_EQ(outstanding, 0); }
  int allocations = 0;
  std::atomic<int> outstanding{0};
};

template <class T>
struct arena_allocator {
  using value_type = T;
  explicit arena_allocator(arena& a) noexcept : from(&a) {}
  template <class U>
  arena_allocator(const arena_allocator<U>& other) noexcept : from(other.from) {}
  T* allocate(std::size_t n) {
    ++from->allocations;
    ++from->outstanding;
    return static_cast<T*>(std::malloc(n * sizeof(T)));
  }
  void deallocate(T* p, std::size_t) {
    --from->outstanding;
    std::free(p);
  }
  friend bool operator==(const arena_allocator&, const arena_allocator&) = default;
  arena* from;
};

thread_local int counted_news = -1;  // negative: not counting

struct count_news {
  count_news() { counted_news = 0; }
  ~count_news() { counted_news = -1; }
};

TEST_F(asio_edge, EveryByteOfAVerbComesFromTheAssociatedAllocator) {
  mapped_file file = open_file(page());
  std::array<char, 64> bytes{};
  std::array<asio::const_buffer, 20> buffers;
  buffers.fill(asio::buffer(bytes));
  asio::cancellation_signal signal;
  // A round may fill caches of Asio's, or be the one for which a pool starts one more thread. What
  // is the verb's own would be taken in each of them.
  int least_taken = std::numeric_limits<int>::max();
  for (int round = 0; round < 20; ++round) {
    arena memory;
    int calls = 0;
    const auto handler = asio::bind_allocator(arena_allocator<void>(memory),
                                              [&](std::error_code error, std::size_t n) {
                                                EXPECT_FALSE(error) << error.message();
                                                EXPECT_EQ(n, 20 * bytes.size());
                                                ++calls;
                                              });
    {
      const count_news counting;
      file.update_region(0, buffers, asio::bind_cancellation_slot(signal.slot(), handler));
      least_taken = std::min(least_taken, counted_news);
    }
    EXPECT_GE(memory.allocations, 2) << "the operation and its buffers";
    EXPECT_TRUE(support::run_to_end(io_));
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(memory.outstanding, 0) << "also of what the slot still refers to";
  }
  EXPECT_EQ(least_taken, 0);
}

TEST_F(asio_edge, ASlotMayOutliveTheOperationAndItsMemory) {
  mapped_file file = open_file(page());
  asio::cancellation_signal signal;
  {
    arena memory;
    bool called = false;
    file.flush(asio::bind_cancellation_slot(
        signal.slot(), asio::bind_allocator(arena_allocator<void>(memory),
                                            [&](std::error_code) { called = true; })));
    EXPECT_TRUE(support::run_to_end(io_));
    EXPECT_TRUE(called);
  }
  signal.emit(asio::cancellation_type::terminal);
}

TEST_F(asio_edge, AnOperationMayOutliveItsSlot) {
  mapped_file file = open_file(page());
  bool called = false;
  {
    asio::cancellation_signal signal;
    file.flush(asio::bind_cancellation_slot(signal.slot(), [&](std::error_code error) {
      EXPECT_FALSE(error) << error.message();
      called = true;
    }));
  }
  EXPECT_TRUE(support::run_to_end(io_));
  EXPECT_TRUE(called);
}

// The operation ends on one thread while the slot takes another one on, or goes, or emits on the
// second.
TEST_F(asio_edge, SlotsAndOperationsGoAtTheSameMoment) {
  mapped_file file = open_file(page());
  auto work = asio::make_work_guard(io_);
  std::thread loop([&] { io_.run(); });
  std::atomic<int> completed{0};
  constexpr int rounds = 2000;
  int started = 0;
  for (int round = 0; round < rounds; ++round) {
    asio::cancellation_signal signal;
    for (int i = 0; i < 2; ++i, ++started) {
      // Bytes of their own: overlapping updates would be a race of this test.
      file.update_region(static_cast<std::uint64_t>(started) % page(), asio::buffer("x", 1),
                         [](std::error_code, std::size_t) {});
      file.flush(
          asio::bind_cancellation_slot(signal.slot(), [&](std::error_code) { ++completed; }));
    }
    if (round % 4 == 0) std::this_thread::yield();
    if (round % 2 == 0) signal.emit(asio::cancellation_type::terminal);
    while (started - completed > 32)
      std::this_thread::yield();
  }
  EXPECT_TRUE(support::eventually([&] { return completed == started; }));
  work.reset();
  loop.join();
}

}  // namespace

// A sanitizer has its own, which must not be replaced. Then nothing is counted.
#if !MAPIO_TEST_UNDER_ASAN && !MAPIO_TEST_UNDER_TSAN
// Only counts; what is allocated and freed is the ordinary memory.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (counted_news >= 0) ++counted_news;
  if (void* const p = std::malloc(size != 0 ? size : 1)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept {
  std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept {
  std::free(p);
}
#endif
