#ifndef MAPIO_TESTS_FILE_OPERATIONS_FIXTURE_HPP
#define MAPIO_TESTS_FILE_OPERATIONS_FIXTURE_HPP

#include <mapio/file_operations.hpp>

#include "mapped_file_fixture.hpp"

#include <asio/any_io_executor.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/bind_executor.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/io_context.hpp>
#include <asio/strand.hpp>
#include <asio/this_coro.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>

#include <cstdint>
#include <set>
#include <string>
#include <system_error>

namespace support {

using mapio::copy_file_options;
using mapio::errc;

inline constexpr std::uint64_t turn = 8 * mebibyte;
// What goes through this process at once, where the kernel does not copy.
inline constexpr std::uint64_t by_hand = std::uint64_t{256} << 10;
inline constexpr std::size_t pool_threads = 4;

inline constexpr copy_file_options keeping{
    .overwrite = false, .follow_symlinks = true, .durable = false};
inline constexpr copy_file_options not_following{
    .overwrite = true, .follow_symlinks = false, .durable = false};
inline constexpr copy_file_options durably{
    .overwrite = true, .follow_symlinks = true, .durable = true};

class file_operations : public support::mapped_file_test {
 protected:
  outcome copy(const fs::path& from, const fs::path& to, const copy_file_options& options = {}) {
    outcome o;
    mapio::copy_file(io_, from, to, options, o.handler());
    finish(o);
    return o;
  }
  outcome remove(const fs::path& path) {
    outcome o;
    mapio::remove_file(io_, path, o.handler());
    finish(o);
    return o;
  }

  std::set<std::string> names() const {
    std::set<std::string> all;
    for (const auto& entry : fs::directory_iterator(dir_.path()))
      all.insert(entry.path().filename().string());
    return all;
  }
  /// The copy was not made, or nobody could tell.
  void expect_untouched() const {
    EXPECT_EQ(names(), (std::set<std::string>{"from", "to"}));
    EXPECT_EQ(read_file(to_), "old");
  }
  void expect_complete(const outcome& o) const {
    EXPECT_TRUE(o.ok()) << o.error.message();
    EXPECT_EQ(o.bytes, fs::file_size(from_));
    EXPECT_TRUE(same(read_file(to_), read_file(from_)));
    EXPECT_EQ(names(), (std::set<std::string>{"from", "to"}));
  }
  void expect_refused(const fs::path& from, const fs::path& to, std::error_condition why,
                      const copy_file_options& options = {}) {
    const auto before = names();
    const outcome o = copy(from, to, options);
    EXPECT_EQ(o.calls, 1);
    EXPECT_EQ(o.error, why) << from << " to " << to << ": " << o.error.message();
    EXPECT_EQ(o.bytes, 0U);
    EXPECT_EQ(names(), before);
  }

  const fs::path from_ = dir_ / "from";
  const fs::path to_ = dir_ / "to";
};
using file_operations_copy = file_operations;
using file_operations_remove = file_operations;

}  // namespace support

#endif  // MAPIO_TESTS_FILE_OPERATIONS_FIXTURE_HPP
