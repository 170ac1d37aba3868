// Files that another process cuts, disks that are full or cannot be read: each with a handler of
// SIGBUS of the application's own, which was there before mapio's or came after it.
#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include "fault_fixture.hpp"
#include "support.hpp"

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>

namespace {

using namespace std::chrono_literals;
using mapio::errc;
using mapio::mapping;
using mapio::open_options;
using support::both_kinds;
using support::fault_aftermath;
using support::kind;
using support::page;
using support::pattern;
using support::read_write;
using support::same;
using support::untouched;
using support::verbs;
using support::write_file;

// As many as a read makes off the loop, whatever is resident.
constexpr std::size_t many_pages = 32;

TEST_F(fault_aftermath, is_a_count_of_whole_pages_for_awaited_reads_too) {
  const std::string bytes = pattern(many_pages * page());
  write_file(path_, bytes);
  verbs v(mapping(path_, support::read_only()), kind::awaited);
  support::truncate_file(path_, 3 * page() + 100);
  std::error_code error;
  std::string read(bytes.size() - 10, untouched);
  EXPECT_EQ(v.read(10, read, error), 3 * page() - 10);
  EXPECT_EQ(error, errc::page_fault) << error.message();
  EXPECT_TRUE(same(std::string_view(read).substr(0, 3 * page() - 10),
                   std::string_view(bytes).substr(10, 3 * page() - 10)));
}

// The pages of the memory on the other side end elsewhere than those of the file.
TEST_F(fault_aftermath, is_a_count_of_whole_pages_where_the_bytes_have_no_place_too) {
  write_file(path_, pattern(8 * page()));
  write_file(folder_ / "destination", std::string(8 * page(), '.'));
  mapping destination(folder_ / "destination", read_write());
  const mapio::mutable_region gone = destination.mutable_view(0, 8 * page());
  support::truncate_file(folder_ / "destination", 3 * page());
  const mapping map(path_, support::read_only());
  std::error_code error;
  const std::size_t n = map.read_into(10, asio::buffer(gone.data(), 7 * page()), error);
  EXPECT_EQ(error, errc::page_fault) << error.message();
  EXPECT_EQ(n, 3 * page() - 10);
}

// It goes to the kernel where the update is a write, which finds the fault and calls it otherwise.
TEST_F(fault_aftermath, of_bytes_that_are_gone_is_the_same_for_every_path_of_an_update) {
  write_file(path_, std::string(many_pages * page(), '.'));
  for (const auto writes : {mapio::write_path::mapped, mapio::write_path::file})
    for (const kind k : both_kinds) {
      write_file(folder_ / "source", pattern(8 * page()));
      const mapping source(folder_ / "source", support::read_only());
      const mapio::region gone = source.view(0, 8 * page());
      support::truncate_file(folder_ / "source", 3 * page());
      open_options options = read_write();
      options.writes = writes;
      verbs v(mapping(path_, options), k);
      std::error_code error;
      const std::size_t n = v.update(
          page(), std::string_view(reinterpret_cast<const char*>(gone.data()), gone.size()), error);
      EXPECT_EQ(error, errc::page_fault) << error.message();
      EXPECT_LE(n, 3 * page());
      EXPECT_EQ(n % page(), 0U);
    }
}

}  // namespace
