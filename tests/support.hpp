#ifndef MAPIO_TESTS_SUPPORT_HPP
#define MAPIO_TESTS_SUPPORT_HPP

// What several test programs share: scratch folders, files with known bytes, processes that have
// done nothing before, a watchdog for tests that hang, and running a coroutine to its end.

#include "os.hpp"
#include "sanitizers.hpp"

#include <mapio/mapio.hpp>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

namespace support {

using namespace std::chrono_literals;

/// How long anything may take before a test gives up on it; never the time that a test waits on
/// purpose.
inline constexpr std::chrono::seconds patience{60};

inline std::size_t page() {
  return mapio::page_size();
}

/// Ends the program when a single test hangs: a blocked thread cannot be given up on in any other
/// way.
class watchdog : public testing::EmptyTestEventListener {
 public:
  // Below what ctest allows, with and without a sanitizer.
  static constexpr unsigned seconds = under_tsan || under_asan ? 500 : 200;

  static void arm() { arm_watchdog(seconds); }

 private:
  void OnTestStart(const testing::TestInfo&) override {
    arm();
  }  // NOLINT(readability-identifier-naming)
  void OnTestEnd(const testing::TestInfo&) override {
    disarm_watchdog();
  }  // NOLINT(readability-identifier-naming)
};

inline const bool watchdog_installed = [] {
  testing::UnitTest::GetInstance()->listeners().Append(new watchdog);
  return true;
}();

/// A folder that goes away with its content.
class temp_dir {
 public:
  explicit temp_dir(const fs::path& parent = fs::temp_directory_path())
      : path_(make_unique_folder(parent)) {}
  temp_dir(const temp_dir&) = delete;
  temp_dir& operator=(const temp_dir&) = delete;
  ~temp_dir() { remove_tree(path_); }

  const fs::path& path() const noexcept { return path_; }
  fs::path operator/(std::string_view name) const { return path_ / name; }

 private:
  fs::path path_;
};

/// Bytes that are never zero and differ from place to place, so that shifted or missing data shows.
inline std::string pattern(std::size_t size, std::uint64_t seed = 1) {
  std::string bytes(size, '\0');
  for (std::size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<char>(1 + (i * 7 + (i >> 8) * 31 + seed * 101) % 255);
  return bytes;
}

inline void write_file(const fs::path& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  const bool may_not_be_emptied = !out && fs::exists(path);  // Windows: as long as it is mapped
  if (may_not_be_emptied) out.open(path, std::ios::binary | std::ios::in | std::ios::out);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out) throw std::runtime_error("cannot write " + path.string());
  if (may_not_be_emptied && fs::file_size(path) > bytes.size()) truncate_file(path, bytes.size());
}

inline std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  // Not byte by byte, for which a sanitizer takes its time; and some files do not say their size.
  std::string bytes;
  std::string piece(std::size_t{64} << 10, '\0');
  do {
    in.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    bytes.append(piece, 0, static_cast<std::size_t>(in.gcount()));
  } while (in);
  return bytes;
}

/// Compares bytes; says where they differ instead of printing all of them.
inline testing::AssertionResult same(std::string_view actual, std::string_view expected) {
  if (actual == expected) return testing::AssertionSuccess();
  const auto common = std::min(actual.size(), expected.size());
  const auto at = static_cast<std::size_t>(
      std::mismatch(actual.begin(), actual.begin() + static_cast<std::ptrdiff_t>(common),
                    expected.begin())
          .first -
      actual.begin());
  const auto byte = [at](std::string_view bytes) {
    return at < bytes.size() ? std::to_string(static_cast<unsigned char>(bytes[at]))
                             : std::string("the end");
  };
  return testing::AssertionFailure()
         << "byte " << at << " is " << byte(actual) << " instead of " << byte(expected) << "; "
         << actual.size() << " bytes instead of " << expected.size();
}

/// Waits for something that another thread is about to bring about; false if it never comes.
template <class Condition>
bool eventually(Condition condition, std::chrono::seconds limit = patience) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

/// Sanitizers make mlock do nothing.
inline constexpr bool locks_work = !under_asan && !under_tsan;

/// Expects that so much of this process is locked into memory, as soon as what is unmapped
/// elsewhere is gone.
inline void expect_locked(std::uint64_t bytes) {
  if (!locks_work) return;
  std::optional<std::uint64_t> locked = locked_bytes();
  if (!locked) return;
  const bool is_so = eventually([&] {
    locked = locked_bytes();
    return locked == bytes;
  });
  EXPECT_TRUE(is_so) << *locked << " bytes are locked, not " << bytes;
}

/// The code of the std::system_error that `body` throws; no error if it throws nothing.
template <class Body>
std::error_code code_of(Body&& body) {
  try {
    std::forward<Body>(body)();
  } catch (const std::system_error& e) {
    return e.code();
  }
  return {};
}

/// Runs `body` and ends the process; its status is 1 if an expectation failed.
template <class Body>
[[noreturn]] void run_and_exit(Body body) {
  int code = 0;
  try {
    watchdog::arm();
    body();
    code = testing::Test::HasFailure() ? 1 : 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "child: %s\n", e.what());
    code = 2;
  }
  std::cout.flush();
  std::fflush(nullptr);
  std::_Exit(code);
}

/// Sets or unsets a variable of the environment until the end of the scope.
class scoped_environment {
 public:
  scoped_environment(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) {
      had_ = true;
      before_ = before;
    }
    set(value);
  }
  scoped_environment(const scoped_environment&) = delete;
  scoped_environment& operator=(const scoped_environment&) = delete;
  ~scoped_environment() { set(had_ ? before_.c_str() : nullptr); }

 private:
  void set(const char* value) { set_environment(name_, value); }

  std::string name_;
  bool had_ = false;
  std::string before_;
};

/// Runs `body` in a new process that has done nothing before: this program once more, with only the
/// current test, which comes here again and goes no further. Once per test.
template <class Body>
child_end in_fresh_process(Body body) {
  static constexpr const char* marker = "MAPIO_TEST_FRESH_PROCESS";
  if (std::getenv(marker) != nullptr) run_and_exit(std::move(body));
  const auto* const info = testing::UnitTest::GetInstance()->current_test_info();
  const std::string filter =
      std::string("--gtest_filter=") + info->test_suite_name() + "." + info->name();
  std::cout.flush();
  std::fflush(nullptr);
  const scoped_environment marked(marker, "1");
  return child_process(this_program(), {filter, "--gtest_brief=1"}).wait();
}

// --- options that tests use again and again
// ---------------------------------------------------------

inline mapio::open_options read_only() {
  return {};
}

inline mapio::open_options read_write() {
  mapio::open_options options;
  options.mode = mapio::access::read_write;
  return options;
}

inline mapio::open_options copy_on_write() {
  mapio::open_options options;
  options.mode = mapio::access::copy_on_write;
  return options;
}

inline mapio::open_options
creating(std::uint64_t size, mapio::disposition how = mapio::disposition::create_or_truncate) {
  mapio::open_options options = read_write();
  options.create = how;
  options.size = size;
  return options;
}

inline std::string read_all(const mapio::mapping& m) {
  std::string bytes(static_cast<std::size_t>(m.size()), '\0');
  m.read_into(0, asio::buffer(bytes));
  return bytes;
}

/// The bytes as text, also of a temporary region, which lives to the end of the full expression.
inline std::string to_string(const mapio::region& r) {
  return std::string(r.text());
}

/// Tells whether this platform knows at all what is in memory.
inline bool tells_residency() {
  static const bool tells = [] {
    const temp_dir dir;
    write_file(dir / "file", "text");
    std::error_code error;
    static_cast<void>(mapio::mapping(dir / "file").is_resident(0, 1, error));
    return error != mapio::errc::unsupported;
  }();
  return tells;
}

// --- coroutines
// ---------------------------------------------------------------------------------------

/// The token that puts the error of an awaited verb into `error` instead of throwing it.
inline auto into(std::error_code& error) {
  return asio::redirect_error(asio::use_awaitable, error);
}

/// Runs handlers until `condition` holds; false if that takes too long.
///
/// A thread that lets go of the last work of a turn before may stop the context only now: to be
/// stopped is not to be at the end.
template <class Condition>
bool run_until(asio::io_context& io, Condition condition) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    io.restart();
    if (io.run_one_until(end) == 0) std::this_thread::sleep_for(1ms);
  }
  return true;
}

/// Runs everything that is outstanding; false if something is still outstanding when patience is
/// over.
inline bool run_to_end(asio::io_context& io) {
  // Twice, for the reason above.
  for (int idle = 0; idle < 2;) {
    io.restart();
    idle = io.run_for(patience) == 0 ? idle + 1 : 0;
    if (!io.stopped()) return false;
  }
  return true;
}

/// Runs one coroutine to its end, and throws what it throws. `body` is a function object without
/// arguments that stays alive meanwhile: a lambda with captures is fine here.
template <class Body>
void run_coroutine(asio::io_context& io, Body body) {
  std::exception_ptr failure;
  bool finished = false;
  asio::co_spawn(io, body(), [&](std::exception_ptr e) {
    failure = std::move(e);
    finished = true;
  });
  if (!run_until(io, [&] { return finished; })) {
    std::fprintf(stderr, "run_coroutine: the coroutine never ends\n");
    std::abort();  // it refers to what is about to go
  }
  if (failure) std::rethrow_exception(failure);
}

/// An engine that was asked for by the environment.
inline bool engine_is_forced() {
  return std::getenv("MAPIO_BACKEND") != nullptr;
}

}  // namespace support

#endif  // MAPIO_TESTS_SUPPORT_HPP
