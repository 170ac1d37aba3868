// What Asio asks of an asynchronous operation beyond its result: tokens, allocators, cancellation
// slots, forks.

#include "support.hpp"

#include <mapio/backend.hpp>
#include <mapio/mapped_file.hpp>

#include <asio/bind_allocator.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/execution_context.hpp>
#include <asio/use_future.hpp>

#include <array>
#include <cstdlib>
#include <future>
#include <list>
#include <new>
#include <vector>

namespace {

using mapio::mapped_file;
using support::page;

class AsioEdge : public testing::Test {
 protected:
  mapped_file open_file(std::uint64_t size) {
    return {io.get_executor(), mapio::mapping::create(dir / "f", size)};
  }

  support::temp_dir dir;
  asio::io_context io;
};

// --- tokens
// -------------------------------------------------------------------------------------------------

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

TEST_F(AsioEdge, AnLvalueTokenIsCopied) {
  mapped_file file(io);
  counting_handler handler{std::make_shared<int>(0)};
  const int verbs = start_each_verb(file, dir / "missing", handler);
  ASSERT_TRUE(handler.state);
  EXPECT_TRUE(support::run_to_end(io));
  EXPECT_EQ(*handler.state, verbs);
}

TEST_F(AsioEdge, AConstLvalueTokenIsCopied) {
  mapped_file file(io);
  const counting_handler handler{std::make_shared<int>(0)};
  const int verbs = start_each_verb(file, dir / "missing", handler);
  EXPECT_TRUE(support::run_to_end(io));
  EXPECT_EQ(*handler.state, verbs);
}

TEST_F(AsioEdge, AnRvalueTokenIsMovedFrom) {
  mapped_file file(io);
  counting_handler handler{std::make_shared<int>(0)};
  const auto state = handler.state;
  file.flush(std::move(handler));
  EXPECT_FALSE(handler.state);  // NOLINT(bugprone-use-after-move)
  auto only_moves = [owned = std::make_unique<int>(1), state](std::error_code) {
    *state += *owned;
  };
  file.flush(std::move(only_moves));
  EXPECT_TRUE(support::run_to_end(io));
  EXPECT_EQ(*state, 2);
}

TEST_F(AsioEdge, TokensThatAreNoHandlersServeAsLvalues) {
  mapped_file file = open_file(page());
  support::run_coroutine(io, [&]() -> asio::awaitable<void> {
    // The default token, and one that is used twice.
    co_await file.update_region(0, asio::buffer("abc", 3));
    co_await file.flush();
    std::error_code error;
    const auto token = support::into(error);
    auto changeable = token;
    EXPECT_EQ(co_await file.update_region(0, asio::buffer("abc", 3), token), 3U);
    co_await file.flush_range(0, 3, changeable);
    co_await file.flush(changeable);
    EXPECT_FALSE(error) << error.message();
  });
  const asio::use_future_t<> future_token;
  std::future<void> done = file.flush(future_token);
  EXPECT_TRUE(support::run_to_end(io));
  done.get();
}

}  // namespace
