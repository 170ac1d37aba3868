// What of backend_test.cpp is about Linux.

#include <mapio/backend.hpp>

#include "backend_fixture.hpp"
#include "faults/seccomp_filter.hpp"
#include "linux/linux_support.hpp"

#include <mapio/mapped_file.hpp>

#include <asio/buffer.hpp>
#include <asio/io_context.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <system_error>

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

using mapio::backend_info;
using mapio::backend_kind;
using mapio::backend_of;
using mapio::mapped_file;
using mapio::use_backend;
using support::backend_test;
using support::built_with_io_uring;
using support::code_of;
using support::contains;
using support::creating;
using support::failure;
using support::failure_of;
using support::io_uring_is_allowed;
using support::io_uring_is_available;
using support::page;
using support::scoped_environment;
using support::text_of;

using backend_of_context = backend_test;
using backend_chosen = backend_test;
using backend_forbidden = backend_test;

TEST_F(backend_of_context, is_a_ring_where_there_is_one) {
  if (!io_uring_is_available()) GTEST_SKIP() << "no io_uring here";
  const scoped_environment automatic("MAPIO_BACKEND", nullptr);
  asio::io_context io;
  EXPECT_EQ(backend_of(io).kind, backend_kind::io_uring);
  EXPECT_FALSE(backend_of(io).reason.empty());
}

TEST_F(backend_of_context, says_why_it_is_the_pool_where_a_ring_is_forbidden) {
  if (io_uring_is_allowed()) GTEST_SKIP() << "io_uring is allowed here";
  const scoped_environment automatic("MAPIO_BACKEND", nullptr);
  asio::io_context io;
  EXPECT_EQ(backend_of(io).kind, backend_kind::thread_pool);
  if (built_with_io_uring) {
    EXPECT_TRUE(contains(backend_of(io).reason, "io_uring_setup")) << backend_of(io).reason;
  }
  expect_to_work(io);
}

TEST_F(backend_of_context, needs_no_descriptor_more_than_there_are) {
  // A resource that ran out is an error, and no reason to fall back.
  asio::io_context io;
  const bool would_be_a_ring = [] {
    asio::io_context other;
    return backend_of(other).kind == backend_kind::io_uring;
  }();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  std::exception_ptr thrown;  // looked at later: a sanitizer needs descriptors to do that
  try {
    backend_of(io);
  } catch (...) {
    thrown = std::current_exception();
  }
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  const failure exhausted = failure_of([&] {
    if (thrown) std::rethrow_exception(thrown);
  });
  if (would_be_a_ring) {
    EXPECT_EQ(exhausted.code, std::errc::too_many_files_open) << text_of(exhausted.code);
    EXPECT_EQ(backend_of(io).kind, backend_kind::io_uring) << "it can be had by now";
  } else {
    EXPECT_EQ(backend_of(io).kind, backend_kind::thread_pool);
  }
  expect_to_work(io);
}

TEST_F(backend_chosen, iocp_is_not_for_this_system) {
  asio::io_context io;
  const failure f = failure_of([&] { use_backend(io, backend_kind::iocp); });
  EXPECT_EQ(f.code, mapio::errc::unsupported) << text_of(f.code);
  expect_to_work(io);
}

void expect_pool_because_of(const std::string& call, int error) {
  asio::io_context io;
  const backend_info info = backend_of(io);
  EXPECT_EQ(info.kind, backend_kind::thread_pool);
  EXPECT_TRUE(contains(info.reason, call)) << info.reason;
  EXPECT_TRUE(contains(info.reason, std::strerror(error))) << info.reason;
}

void expect_forcing_it_to_fail(const std::string& call, int error) {
  asio::io_context io;
  const failure f = failure_of([&] { use_backend(io, backend_kind::io_uring); });
  EXPECT_EQ(f.code, mapio::errc::unsupported) << text_of(f.code);
  EXPECT_TRUE(contains(f.text, call)) << f.text;
  EXPECT_TRUE(contains(f.text, std::strerror(error))) << f.text;
  // The context is as it was.
  EXPECT_EQ(backend_of(io).kind, backend_kind::thread_pool);

  const scoped_environment set("MAPIO_BACKEND", "io_uring");
  asio::io_context other;
  const failure g = failure_of([&] { backend_of(other); });
  EXPECT_EQ(g.code, mapio::errc::unsupported) << text_of(g.code);
  EXPECT_TRUE(contains(g.text, call)) << g.text;
}

TEST_F(backend_forbidden, setup_leaves_the_pool_and_a_reason) {
  if (!built_with_io_uring) GTEST_SKIP() << "built without io_uring";
  for (const int error : {EPERM, ENOSYS, EACCES}) {
    const auto end = support::in_child([&] {
      faults::deny({SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register}, error);
      const scoped_environment automatic("MAPIO_BACKEND", nullptr);
      if (io_uring_is_allowed()) throw std::runtime_error("the filter does not work");
      expect_pool_because_of("io_uring_setup", error);
      expect_forcing_it_to_fail("io_uring_setup", error);
      asio::io_context io;
      expect_to_work(io);
    });
    EXPECT_TRUE(end.ok()) << std::strerror(error) << ": " << end;
  }
}

TEST_F(backend_forbidden, setup_alone_leaves_the_pool_and_a_reason) {
  if (!built_with_io_uring) GTEST_SKIP() << "built without io_uring";
  const auto end = support::in_child([&] {
    faults::deny({SYS_io_uring_setup}, EPERM);
    const scoped_environment automatic("MAPIO_BACKEND", nullptr);
    expect_pool_because_of("io_uring_setup", EPERM);
  });
  EXPECT_TRUE(end.ok()) << end;
}

TEST_F(backend_forbidden, is_not_what_a_resource_is_that_ran_out) {
  if (!built_with_io_uring) GTEST_SKIP() << "built without io_uring";
  for (const int error : {EMFILE, ENFILE, ENOMEM}) {
    const auto end = support::in_child([&] {
      faults::deny({SYS_io_uring_setup}, error);
      const scoped_environment automatic("MAPIO_BACKEND", nullptr);
      asio::io_context io;
      const failure f = failure_of([&] { backend_of(io); });
      EXPECT_EQ(f.code, std::error_code(error, std::system_category())) << f.text;
      EXPECT_TRUE(f.text.ends_with("io_uring_setup: " + f.code.message())) << f.text;
      // Who asks for the pool does not need it.
      use_backend(io, backend_kind::thread_pool);
      expect_to_work(io);
    });
    EXPECT_TRUE(end.ok()) << std::strerror(error) << ": " << end;
  }
}

TEST_F(backend_forbidden, enter_leaves_the_pool_and_a_reason) {
  if (!io_uring_is_available()) GTEST_SKIP() << "no io_uring here";
  for (const int error : {EPERM, ENOSYS}) {
    const auto end = support::in_child([&] {
      faults::deny({SYS_io_uring_enter}, error);
      const scoped_environment automatic("MAPIO_BACKEND", nullptr);
      expect_pool_because_of("io_uring_enter", error);
      expect_forcing_it_to_fail("io_uring_enter", error);
      asio::io_context io;
      expect_to_work(io);
    });
    EXPECT_TRUE(end.ok()) << std::strerror(error) << ": " << end;
  }
}

TEST_F(backend_forbidden, register_leaves_the_pool_and_a_reason) {
  if (!io_uring_is_available()) GTEST_SKIP() << "no io_uring here";
  for (const int error : {EPERM, ENOSYS}) {
    const auto end = support::in_child([&] {
      faults::deny({SYS_io_uring_register}, error);
      const scoped_environment automatic("MAPIO_BACKEND", nullptr);
      expect_pool_because_of("io_uring_register", error);
      expect_forcing_it_to_fail("io_uring_register", error);
      asio::io_context io;
      expect_to_work(io);
    });
    EXPECT_TRUE(end.ok()) << std::strerror(error) << ": " << end;
  }
}

TEST_F(backend_forbidden, enter_and_register_leave_no_descriptor_behind) {
  if (!io_uring_is_available()) GTEST_SKIP() << "no io_uring here";
  const auto end = support::in_child([&] {
    faults::deny({SYS_io_uring_enter, SYS_io_uring_register}, EPERM);
    const scoped_environment automatic("MAPIO_BACKEND", nullptr);
    asio::io_context io;
    // The first brings the context's own reactor.
    EXPECT_TRUE(code_of([&] { use_backend(io, backend_kind::io_uring); }));
    const auto before = support::open_descriptors();
    for (int i = 0; i < 3; ++i)
      EXPECT_TRUE(code_of([&] { use_backend(io, backend_kind::io_uring); }));
    EXPECT_EQ(support::open_descriptors(), before);
  });
  EXPECT_TRUE(end.ok()) << end;
}

TEST_F(backend_forbidden, later_does_not_lose_or_hang_what_is_under_way) {
  // A program may lock itself in after its start: from then on every verb ends, by whatever means.
  if (!io_uring_is_available()) GTEST_SKIP() << "no io_uring here";
  const auto end = support::in_child([&] {
    asio::io_context io;
    use_backend(io, backend_kind::io_uring);
    expect_to_work(io);
    mapped_file file(io);
    support::run_coroutine(io, [&]() -> asio::awaitable<void> {
      co_await file.open(dir_ / "later", creating(4 * page()));
    });
    faults::deny({SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register}, EPERM);
    int calls = 0;
    std::string buffer(page(), '\0');
    for (int i = 0; i < 8; ++i) {
      file.update_region(0, asio::buffer(buffer), [&](std::error_code, std::size_t) { ++calls; });
      file.flush([&](std::error_code) { ++calls; });
      file.resize(8 * page(), [&](std::error_code) { ++calls; });
      file.prefetch([&](std::error_code) { ++calls; });
    }
    EXPECT_TRUE(support::run_to_end(io));
    EXPECT_EQ(calls, 32);
  });
  EXPECT_TRUE(end.ok()) << end;
}

}  // namespace
