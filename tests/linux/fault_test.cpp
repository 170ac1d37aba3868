// What of fault_test.cpp is about Linux.
#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>

#include "fault_fixture.hpp"
#include "faults/counted_syncs.hpp"
#include "faults/loop_disk.hpp"
#include "faults/private_mount.hpp"
#include "faults/syscall_gate.hpp"
#include "linux/linux_support.hpp"

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using mapio::errc;
using mapio::mapping;
using mapio::open_options;
using support::both_kinds;
using support::creating;
using support::fault_aftermath;
using support::kind;
using support::most;
using support::page;
using support::pattern;
using support::read_write;
using support::same;
using support::untouched;
using support::verbs;
using support::write_file;

enum class installed { before, after };

std::atomic<std::uint64_t> application_faults{0};
std::atomic<const void*> stack_of_handler{nullptr};

// What the application does about its own faults: it puts memory there, and whoever touched it goes
// on with zeros.
void put_memory_there(const siginfo_t* info) {
  const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(info->si_addr) & ~(page() - 1);
  if (::mmap(reinterpret_cast<void*>(at), page(), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
    ::_exit(3);
  stack_of_handler = __builtin_frame_address(0);
  ++application_faults;
}

void on_fault(int, siginfo_t* info, void*) {
  put_memory_there(info);
}

void on_fault_after_mapio(int signal, siginfo_t* info, void* context) {
  if (!mapio::handle_fault(signal, info, context)) put_memory_there(info);
}

/// Pages that the application maps by itself, of a file that is gone.
class lost_pages {
 public:
  lost_pages(const fs::path& path, std::size_t count) : memory_(made(path), count * page()) {
    support::truncate_file(path, 0);
  }

  std::size_t count() const { return memory_.size() / page(); }
  char* at(std::size_t index) const { return memory_.data() + index * page(); }
  void touch(std::size_t index) const {
    static_cast<void>(*static_cast<const volatile char*>(at(index)));
  }

 private:
  static const fs::path& made(const fs::path& path) {
    write_file(path, "x");
    return path;
  }

  support::foreign_mapping memory_;
};

// The status of a process for which something could not be had.
constexpr int cannot_be_had = 77;

class fault_test : public testing::TestWithParam<installed> {
 protected:
  using handler = void (*)(int, siginfo_t*, void*);

  /// Runs `body(folder)` in a process of its own whose application handles SIGBUS; before that and
  /// after it, faults reach mapio and the application. False: what it needs cannot be had.
  static void in_application(const std::function<bool(const support::temp_dir&)>& body,
                             int flags = 0, handler before = on_fault,
                             handler after = on_fault_after_mapio) {
    const auto end = support::in_fresh_process([&] {
      bool could = false;
      {
        const support::temp_dir folder;
        if (GetParam() == installed::before) install(before, flags);
        survive_a_fault(folder);
        if (GetParam() == installed::after) install(after, flags);
        expect_both(folder);
        could = body(folder);
        expect_both(folder);
      }
      if (!could) ::_exit(cannot_be_had);
    });
    if (end.exited_with(cannot_be_had)) GTEST_SKIP() << "no such file system can be mounted here";
    EXPECT_TRUE(end.ok()) << end;
  }

  static void survive_a_fault(const support::temp_dir& folder) {
    const lost_pages gone(folder / "gone", 1);
    char byte = 0;
    EXPECT_EQ(mapio::guarded_copy(&byte, gone.at(0), 1), 0U);
  }

 private:
  static void install(handler handle, int flags) {
    struct sigaction action {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | flags;
    ASSERT_EQ(::sigaction(SIGBUS, &action, nullptr), 0);
  }

  static void expect_both(const support::temp_dir& folder) {
    const std::uint64_t before = application_faults;
    survive_a_fault(folder);
    EXPECT_EQ(application_faults, before) << "a fault of mapio's reached the application";
    lost_pages(folder / "lost", 1).touch(0);
    EXPECT_EQ(application_faults, before + 1);
  }
};

INSTANTIATE_TEST_SUITE_P(handler, fault_test, testing::Values(installed::before, installed::after),
                         [](const auto& of) {
                           return of.param == installed::before ? "before" : "after";
                         });

/// Updates that are stores, so that what faults is a copy of mapio's.
open_options storing(open_options options = read_write()) {
  options.writes = mapio::write_path::mapped;
  return options;
}

// The pages of the file. Readers have the first ones, of which some are never cut; then every
// writer has its own.
constexpr std::size_t kept_pages = 2;
constexpr std::size_t read_pages = 12;
constexpr std::size_t pages_of_writer = 10;  // more than one instruction copies
constexpr std::size_t threads_of_each = 4;
constexpr std::size_t all_pages = read_pages + threads_of_each * pages_of_writer;

/// What a writer puts at `at` and behind it the `round`th time; 0 for what the readers find. Never
/// zero, which is what the kernel puts there when the file grows again.
std::string_view values_at(std::uint64_t at, std::size_t n, std::uint64_t round) {
  static const std::string values = [] {
    std::string made(all_pages * page() + most, '\0');
    for (std::size_t i = 0; i < made.size(); ++i)
      made[i] = static_cast<char>(1 + i % most);
    return made;
  }();
  return std::string_view(values).substr((at + 7 * round) % most, n);
}

/// Another process that cuts the file anywhere but in the pages that are kept, and makes it as long
/// as it was.
class truncator {
 public:
  explicit truncator(const fs::path& path)
      : process_(support::start_child([&path, parent = ::getpid()] {
          ::prctl(PR_SET_PDEATHSIG, SIGKILL);
          const support::unique_fd file = support::open_fd(path, O_RDWR);
          const std::string_view bytes = values_at(0, read_pages * page(), 0);
          std::minstd_rand random(1);
          std::uniform_int_distribution<std::size_t> of_readers(kept_pages, read_pages);
          std::uniform_int_distribution<std::size_t> of_any(kept_pages, all_pages - 1);
          while (::getppid() == parent) {
            const std::size_t cut = (random() % 2 == 0 ? of_readers : of_any)(random)*page();
            bool done = ::ftruncate(file.get(), static_cast<off_t>(cut)) == 0;
            std::this_thread::sleep_for(200us);  // most of the time it is cut
            done = done && ::ftruncate(file.get(), static_cast<off_t>(all_pages * page())) == 0;
            if (done && cut < bytes.size())
              done = ::pwrite(file.get(), bytes.data() + cut, bytes.size() - cut,
                              static_cast<off_t>(cut)) == static_cast<ssize_t>(bytes.size() - cut);
            if (!done) throw std::system_error(errno, std::system_category(), "truncator");
            std::this_thread::sleep_for(50us);
          }
        })) {}
  truncator(const truncator&) = delete;
  truncator& operator=(const truncator&) = delete;
  ~truncator() {
    ::kill(process_, SIGKILL);
    EXPECT_TRUE(support::wait_for_child(process_).killed_by(SIGKILL)) << "it ended by itself";
  }

 private:
  pid_t process_;
};

/// One thread that reads or writes while the file is being cut, and looks at every byte that is
/// said to be done.
class client {
 public:
  client(mapping map, kind k, unsigned seed) : verbs_(std::move(map), k), random_(seed) {}

  std::uint64_t faults() const { return faults_; }
  std::uint64_t values_after_faults() const { return values_after_faults_; }

  void read() {
    const auto [offset, length] = any_range(0, read_pages);
    std::string bytes(length, untouched);
    std::error_code error;
    const std::size_t n = verbs_.read(offset, bytes, error);
    expect_true_count(offset, length, n, error);
    expect_values(std::string_view(bytes).substr(0, n), offset, 0);
    const std::size_t kept = kept_pages * page();
    if (offset < kept) {
      const std::size_t there = std::min(length, kept - offset);
      EXPECT_GE(n, there);
      EXPECT_TRUE(same(std::string_view(bytes).substr(0, there), values_at(offset, there, 0)));
    }
  }

  void write(std::size_t number) {
    const auto [offset, length] = any_range(read_pages + number * pages_of_writer, pages_of_writer);
    ++round_;
    std::error_code error;
    const std::size_t n = verbs_.update(offset, values_at(offset, length, round_), error);
    const bool faulted = static_cast<bool>(error);
    expect_true_count(offset, length, n, error);
    std::string bytes(n, untouched);
    const std::size_t readable = verbs_.read(offset, bytes, error);
    expect_true_count(offset, n, readable, error);
    const std::uint64_t values =
        expect_values(std::string_view(bytes).substr(0, readable), offset, round_);
    if (faulted) values_after_faults_ += values;
  }

 private:
  struct range {
    std::size_t offset;
    std::size_t length;
  };
  // Large and small, so that all kinds of copies are among them.
  range any_range(std::size_t first_page, std::size_t pages) {
    const std::size_t bytes = pages * page();
    const std::size_t begin = up_to(bytes - 1);
    const std::size_t longest = up_to(1) == 0 ? 256 : bytes;
    return {first_page * page() + begin, 1 + up_to(std::min(longest, bytes - begin) - 1)};
  }
  std::size_t up_to(std::size_t limit) {
    return std::uniform_int_distribution<std::size_t>(0, limit)(random_);
  }

  void expect_true_count(std::size_t offset, std::size_t length, std::size_t n,
                         const std::error_code& error) {
    if (!error) {
      EXPECT_EQ(n, length);
      return;
    }
    ++faults_;
    EXPECT_EQ(error, errc::page_fault) << error.message();
    EXPECT_LT(n, length);
    EXPECT_TRUE(n == 0 || (offset + n) % page() == 0) << offset << ' ' << length << ' ' << n;
  }

  // Returns how many are there; the others were cut meanwhile.
  static std::uint64_t expect_values(std::string_view bytes, std::uint64_t offset,
                                     std::uint64_t round) {
    const std::string_view values = values_at(offset, bytes.size(), round);
    if (bytes == values) return bytes.size();
    std::uint64_t there = 0;
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      there += bytes[i] == values[i];
      wrong += bytes[i] != values[i] && bytes[i] != '\0';
    }
    EXPECT_EQ(wrong, 0U) << "bytes of a copy of " << bytes.size() << " at " << offset;
    return there;
  }

  verbs verbs_;
  std::minstd_rand random_;
  std::uint64_t round_ = 0;
  std::atomic<std::uint64_t> faults_{0};
  std::atomic<std::uint64_t> values_after_faults_{0};
};

TEST_P(fault_test, by_another_process_that_truncates_is_survived_by_readers_and_writers) {
  in_application([](const support::temp_dir& folder) {
    constexpr std::uint64_t enough = support::as_often_as(100'000);
    const fs::path path = folder / "file";
    write_file(path, values_at(0, all_pages * page(), 0));
    const mapping map(path, storing());
    const truncator other(path);  // before there is any thread
    const lost_pages lost(folder / "lost", 1000);
    const std::uint64_t handled_before = application_faults;

    std::vector<std::unique_ptr<client>> clients;
    std::vector<std::thread> threads;
    std::atomic<bool> stop = false;
    for (std::size_t i = 0; i < 2 * threads_of_each; ++i) {
      client& c = *clients.emplace_back(
          std::make_unique<client>(map, both_kinds[i % 2], static_cast<unsigned>(i + 1)));
      threads.emplace_back([&stop, &c, i] {
        while (!stop && !HasFailure())
          i < threads_of_each ? c.read() : c.write(i - threads_of_each);
      });
    }
    // The application has faults of its own while copies of mapio's are guarded.
    std::atomic<std::size_t> touched = 0;
    threads.emplace_back([&] {
      for (; !stop && touched < lost.count(); ++touched) {
        lost.touch(touched);
        std::this_thread::sleep_for(1ms);
      }
    });

    const auto begin = std::chrono::steady_clock::now();
    const auto is_enough = [&] {
      return std::chrono::steady_clock::now() - begin >= 5s && map.stats().page_faults >= enough &&
             touched == lost.count() &&
             std::all_of(clients.begin(), clients.end(),
                         [](const auto& c) { return c->faults() > 0; }) &&
             std::all_of(clients.begin() + threads_of_each, clients.end(),
                         [](const auto& c) { return c->values_after_faults() > 0; });
    };
    while (!HasFailure() && !is_enough() &&
           std::chrono::steady_clock::now() - begin < 2 * support::patience)
      std::this_thread::sleep_for(10ms);
    stop = true;
    for (std::thread& t : threads)
      t.join();

    EXPECT_GE(map.stats().page_faults, enough);
    for (const auto& c : clients)
      EXPECT_GT(c->faults(), 0U);
    for (std::size_t i = threads_of_each; i < clients.size(); ++i)
      EXPECT_GT(clients[i]->values_after_faults(), 0U);
    EXPECT_EQ(application_faults - handled_before, touched.load());
    return true;
  });
}

constexpr std::size_t disk_size = 1 << 20;

/// Takes all that is left of the disk.
void fill_up(const fs::path& path) {
  const support::unique_fd file = support::open_fd(path, O_WRONLY | O_CREAT);
  const std::string bytes(page(), 'x');
  while (::write(file.get(), bytes.data(), bytes.size()) > 0) {
  }
  EXPECT_EQ(errno, ENOSPC);
}

TEST_P(fault_test, under_a_sparse_page_of_a_full_disk_is_survived) {
  in_application([](const support::temp_dir& folder) {
    return faults::on_small_disk(folder.path(), disk_size, [&] {
      const std::string bytes = pattern(4 * disk_size);
      // memcpy begins with the last bytes where both addresses lie at about the same place of a
      // page.
      std::string room(bytes.size() + page(), ' ');
      const std::uintptr_t place = reinterpret_cast<std::uintptr_t>(room.data()) % page();
      const std::size_t begin = (page() + page() / 2 - place) % page();
      bytes.copy(room.data() + begin, bytes.size() - 10, 10);
      const std::string_view apart(room.data() + begin, bytes.size() - 10);
      for (const kind k : both_kinds) {
        open_options options = storing(creating(bytes.size()));
        options.preallocate = false;
        const mapping map(folder / "file", options);
        verbs v(map, k);
        std::error_code error;
        const std::size_t n = v.update(10, apart, error);
        EXPECT_EQ(error, errc::page_fault) << error.message();
        // A sanitizer copies the last bytes first, and leaves no room for the others.
        if (!support::under_asan && !support::under_tsan) {
          EXPECT_GT(n, disk_size / 2);
        }
        EXPECT_LE(n, disk_size);
        EXPECT_TRUE(n == 0 || (10 + n) % page() == 0) << n;
        std::string stored(n, untouched);
        EXPECT_EQ(v.read(10, stored, error), n);
        EXPECT_FALSE(error) << error.message();
        EXPECT_TRUE(same(stored, bytes.substr(10, n)));
        EXPECT_EQ(v.update(10 + n, "x", error), 0U);
        EXPECT_EQ(error, errc::page_fault) << error.message();
      }
    });
  });
}

TEST_P(fault_test, in_a_hole_that_somebody_punched_is_survived_on_a_full_disk) {
  in_application([](const support::temp_dir& folder) {
    return faults::on_small_disk(folder.path(), disk_size, [&] {
      const std::string before = pattern(16 * page());
      for (const kind k : both_kinds) {
        write_file(folder / "file", before);
        const mapping map(folder / "file", storing());
        verbs v(map, k);
        std::error_code error;
        const std::string bytes = pattern(16 * page(), 2);
        EXPECT_EQ(v.update(0, bytes, error), bytes.size());
        const support::unique_fd other = support::open_fd(folder / "file", O_RDWR);
        ASSERT_EQ(::fallocate(other.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              static_cast<off_t>(4 * page()), static_cast<off_t>(page())),
                  0);
        fill_up(folder / "filler");

        // To be mapped it must be allocated; to be read through the file it need not.
        std::string read(bytes.size(), untouched);
        const std::size_t n = v.read(0, read, error);
        if (error) {
          EXPECT_EQ(error, errc::page_fault) << error.message();
          EXPECT_EQ(n, 4 * page());
        } else {
          EXPECT_EQ(n, bytes.size());
          EXPECT_TRUE(same(read.substr(4 * page(), page()), std::string(page(), '\0')));
          EXPECT_TRUE(same(read.substr(5 * page()), bytes.substr(5 * page())));
        }
        EXPECT_TRUE(same(read.substr(0, 4 * page()), bytes.substr(0, 4 * page())));

        EXPECT_EQ(v.update(page() + 1, before.substr(page() + 1), error), 3 * page() - 1);
        EXPECT_EQ(error, errc::page_fault) << error.message();
        EXPECT_TRUE(same(support::read_file(folder / "file").substr(0, 4 * page()),
                         bytes.substr(0, page() + 1) + before.substr(page() + 1, 3 * page() - 1)));

        fs::remove(folder / "filler");
        EXPECT_EQ(v.update(0, before, error), before.size());
        EXPECT_FALSE(error) << error.message();
        EXPECT_EQ(v.read(0, read, error), before.size());
        EXPECT_TRUE(same(read, before));
      }
    });
  });
}

TEST_P(fault_test, on_a_disk_that_cannot_be_read_is_survived) {
  in_application([](const support::temp_dir& folder) {
    const fs::path disk = folder / "disk";
    const fs::path path = disk / "file";
    fs::create_directory(disk);
    std::string bytes = pattern(64 * page());
    const std::size_t readable = 32 * page();
    bool is_cut = false;
    const bool mounted = faults::on_loop_disk(folder / "image", disk, 16 << 20, [&] {
      write_file(path, bytes);
      is_cut = faults::cut_disk_under(folder / "image", path, readable);
      if (!is_cut) return;
      const mapping map(path, storing());
      for (const kind k : both_kinds) {
        verbs v(map, k);
        std::error_code error;
        std::string read(bytes.size() - 100, untouched);
        std::size_t n = v.read(100, read, error);
        // Awaited, it is read through the file, and that is the kernel's own code.
        EXPECT_EQ(error, std::errc::io_error) << error.message();
        if (k == kind::blocking) {
          EXPECT_EQ(error, errc::page_fault) << error.message();
          EXPECT_EQ(n, readable - 100);
        }
        EXPECT_LE(n, readable - 100);
        EXPECT_TRUE(same(read.substr(0, n), bytes.substr(100, n)));

        v.prefetch(error);
        EXPECT_EQ(error, errc::page_fault) << error.message();

        const std::string stored = pattern(4 * page(), 2);
        const std::size_t offset = readable - 2 * page() + 1;
        n = v.update(offset, stored, error);
        EXPECT_EQ(error, errc::page_fault) << error.message();
        if (k == kind::blocking) {
          EXPECT_EQ(n, 2 * page() - 1);
        }
        EXPECT_LE(n, 2 * page() - 1);
        read.assign(n, untouched);
        EXPECT_EQ(v.read(offset, read, error), n);
        EXPECT_TRUE(same(read, stored.substr(0, n)));
        bytes.replace(offset, n, read);
        // Not even if all of the page is to be stored.
        EXPECT_EQ(v.update(readable + page(), stored.substr(0, page()), error), 0U);
        EXPECT_EQ(error, errc::page_fault) << error.message();
      }
    });
    return mounted && is_cut;
  });
}

// A fault while its signal is blocked ends the process.
constexpr const char* blocked_in_handlers = "the sanitizer blocks all signals in every handler";

/// Sends SIGUSR1 to the thread that calls it, so many times, each when the one before was taken.
std::thread interrupt_this_thread(std::size_t times, const std::atomic<std::size_t>& taken) {
  return std::thread([&taken, times, interrupted = ::pthread_self()] {
    for (std::size_t i = 0; i < times; ++i) {
      ::pthread_kill(interrupted, SIGUSR1);
      if (!support::eventually([&] { return taken > i; })) return;
    }
  });
}

// What the handler of a signal touches that comes in the middle of copies.
const lost_pages* lost_to_handler = nullptr;
std::atomic<std::size_t> lost_and_touched{0};

TEST_P(fault_test, of_a_signal_handler_that_interrupts_a_copy_is_the_applications) {
  if (support::under_tsan) GTEST_SKIP() << blocked_in_handlers;
  in_application([](const support::temp_dir& folder) {
    const lost_pages lost(folder / "lost", 500);
    lost_to_handler = &lost;
    const std::uint64_t handled_before = application_faults;
    struct sigaction action {};
    action.sa_handler = [](int) {
      lost_to_handler->touch(lost_and_touched);
      ++lost_and_touched;
    };
    EXPECT_EQ(::sigaction(SIGUSR1, &action, nullptr), 0);

    const std::string bytes = pattern(1 << 20);
    write_file(folder / "file", bytes);
    const mapping map(folder / "file");
    std::thread sender = interrupt_this_thread(lost.count(), lost_and_touched);
    std::string buffer;
    while (lost_and_touched < lost.count() && !HasFailure())
      for (const std::size_t n : {std::size_t{16} << 10, bytes.size()}) {
        buffer.assign(n, untouched);
        EXPECT_EQ(map.read_into(0, asio::buffer(buffer)), n);
        EXPECT_TRUE(buffer.compare(0, n, bytes, 0, n) == 0);
      }
    sender.join();
    EXPECT_EQ(application_faults - handled_before, lost.count());
    return true;
  });
}

// Such a handler, a reporter of crashes for one, looks at memory that may be lost too.
std::size_t copied_by_handler = most;

void copy_in_handler(const siginfo_t* info) {
  char byte = 0;
  copied_by_handler = mapio::guarded_copy(&byte, info->si_addr, 1);
  put_memory_there(info);
}

TEST_P(fault_test, of_a_guarded_copy_in_the_handler_itself_is_survived_if_it_can_be_delivered) {
  if (support::under_tsan) GTEST_SKIP() << blocked_in_handlers;
  in_application(
      [](const support::temp_dir& folder) {
        copied_by_handler = most;
        lost_pages(folder / "lost", 1).touch(0);
        EXPECT_EQ(copied_by_handler, 0U);
        return true;
      },
      SA_NODEFER, [](int, siginfo_t* info, void*) { copy_in_handler(info); },
      [](int signal, siginfo_t* info, void* context) {
        if (!mapio::handle_fault(signal, info, context)) copy_in_handler(info);
      });
}

TEST_P(fault_test, is_handled_on_an_alternate_stack) {
  in_application(
      [](const support::temp_dir& folder) {
        std::vector<char> memory(256 << 10);
        stack_t stack{};
        stack.ss_sp = memory.data();
        stack.ss_size = memory.size();
        stack_t before{};
        EXPECT_EQ(::sigaltstack(&stack, &before), 0);
        const std::string bytes = pattern(32 * page());
        write_file(folder / "file", bytes);
        const mapping map(folder / "file", storing());
        support::truncate_file(folder / "file", 16 * page());
        for (int i = 0; i < support::as_often_as(1000); ++i)
          for (const kind k : both_kinds) {
            verbs v(map, k);
            std::error_code error;
            std::string buffer(bytes.size(), untouched);
            EXPECT_EQ(v.read(0, buffer, error), 16 * page());
            EXPECT_EQ(error, errc::page_fault);
            EXPECT_EQ(v.update(16 * page(), "x", error), 0U);
            EXPECT_EQ(error, errc::page_fault);
          }
        lost_pages(folder / "lost", 1).touch(0);
        const char* const used = static_cast<const char*>(stack_of_handler.load());
        EXPECT_TRUE(memory.data() <= used && used < memory.data() + memory.size());
        EXPECT_EQ(::sigaltstack(&before, nullptr), 0);
        return true;
      },
      SA_ONSTACK);
}

// Signals that are sent look like faults to whoever does not look closely, and copy too.
std::atomic<std::size_t> signals_taken{0};

void take_signal(const siginfo_t* info) {
  if (info->si_code > 0) return put_memory_there(info);
  char byte = 0;
  EXPECT_EQ(mapio::guarded_copy(&byte, lost_to_handler->at(0), 1), 0U);
  ++signals_taken;
}

TEST_P(fault_test, after_a_handler_copied_in_the_middle_of_a_copy_is_survived) {
  if (support::under_tsan) GTEST_SKIP() << blocked_in_handlers;
  if (support::under_asan) GTEST_SKIP() << "the sanitizer takes a lock before each jump";
  in_application(
      [](const support::temp_dir& folder) {
        const lost_pages lost(folder / "lost", 1);
        lost_to_handler = &lost;
        const std::uint64_t handled_before = application_faults;
        const std::string bytes = pattern(2 << 20);
        write_file(folder / "file", bytes);
        const mapping map(folder / "file");
        support::truncate_file(folder / "file", bytes.size() / 2);
        constexpr std::size_t signals = 200;
        std::thread sender([copying = ::pthread_self()] {
          for (std::size_t taken = 0; taken < signals && !HasFailure(); taken = signals_taken) {
            ::pthread_kill(copying, SIGBUS);
            // One that meets a fault is one with it, and never comes.
            for (int i = 0; i < 200 && signals_taken == taken; ++i)
              std::this_thread::sleep_for(100us);
          }
        });
        std::string buffer(bytes.size(), untouched);
        while (signals_taken < signals && !HasFailure()) {
          std::error_code error;
          EXPECT_EQ(map.read_into(0, asio::buffer(buffer), error), bytes.size() / 2);
          EXPECT_EQ(error, errc::page_fault);
        }
        sender.join();
        EXPECT_EQ(application_faults, handled_before);
        return true;
      },
      SA_NODEFER, [](int, siginfo_t* info, void*) { take_signal(info); },
      [](int signal, siginfo_t* info, void* context) {
        if (!mapio::handle_fault(signal, info, context)) take_signal(info);
      });
}

// What the kernel tells of memory that fails somewhere, one day, is not about the copy that it
// comes in the middle of.
const char* warned_of = nullptr;
std::atomic<std::size_t> warnings{0};

void take_warning(siginfo_t* info) {
  if (info->si_code == BUS_MCEERR_AO)
    ++warnings;
  else
    put_memory_there(info);
}

TEST_P(fault_test, that_is_but_a_warning_is_the_applications) {
  if (support::under_tsan) GTEST_SKIP() << blocked_in_handlers;
  in_application(
      [](const support::temp_dir& folder) {
        const std::string bytes = pattern(1 << 20);
        write_file(folder / "file", bytes);
        const mapping map(folder / "file");
        std::string buffer(bytes.size(), untouched);
        warned_of = buffer.data();
        struct sigaction action {};
        action.sa_handler = [](int) {
          siginfo_t info{};
          info.si_signo = SIGBUS;
          info.si_code = BUS_MCEERR_AO;
          info.si_addr = const_cast<char*>(warned_of);
          ::syscall(SYS_rt_tgsigqueueinfo, ::getpid(), ::gettid(), SIGBUS, &info);
        };
        EXPECT_EQ(::sigaction(SIGUSR1, &action, nullptr), 0);
        constexpr std::size_t wanted = 200;
        std::thread sender = interrupt_this_thread(wanted, warnings);
        while (warnings < wanted && !HasFailure())
          EXPECT_EQ(map.read_into(0, asio::buffer(buffer)), bytes.size());
        sender.join();
        return true;
      },
      0, [](int, siginfo_t* info, void*) { take_warning(info); },
      [](int signal, siginfo_t* info, void* context) {
        if (!mapio::handle_fault(signal, info, context)) take_warning(info);
      });
}

TEST_P(fault_test, leaves_the_rounding_of_the_thread_as_it_was) {
  in_application([](const support::temp_dir& folder) {
    write_file(folder / "file", pattern(64 * page()));
    mapping map(folder / "file", storing());
    support::truncate_file(folder / "file", 0);
    EXPECT_EQ(std::fesetround(FE_UPWARD), 0);
    for (const std::size_t n : {std::size_t{64}, std::size_t{8} << 10, std::size_t{100} << 10}) {
      std::string buffer(n, untouched);
      std::error_code error;
      EXPECT_EQ(map.read_into(0, asio::buffer(buffer), error), 0U);
      EXPECT_EQ(error, errc::page_fault);
      EXPECT_EQ(std::fegetround(), FE_UPWARD) << n;
      EXPECT_EQ(map.update_region(0, asio::buffer(buffer), error), 0U);
      EXPECT_EQ(std::fegetround(), FE_UPWARD) << n;
    }
    EXPECT_EQ(std::fesetround(FE_TONEAREST), 0);
    return true;
  });
}

// The kernel lets it live through a signal for which it has no handler.
TEST_P(fault_test, of_the_first_process_of_a_container_are_survived_after_a_signal_was_sent_to_it) {
  if (support::under_asan || support::under_tsan)
    GTEST_SKIP() << "the sanitizer has a handler, which ends the process";
  const auto end = support::in_fresh_process([] {
    if (::unshare(CLONE_NEWPID) != 0) ::_exit(cannot_be_had);
    const auto first = support::in_child([] {
      const support::temp_dir folder;
      survive_a_fault(folder);
      ::kill(::getpid(), SIGBUS);
      survive_a_fault(folder);
    });
    EXPECT_TRUE(first.ok()) << first;
  });
  if (end.exited_with(cannot_be_had))
    GTEST_SKIP() << "there can be no namespaces for processes here";
  EXPECT_TRUE(end.ok()) << end;
}

constexpr const char* unseen = "the kernel does not let us see system calls";

TEST_F(fault_aftermath, of_a_file_that_is_long_enough_again_does_not_poison_it) {
  const std::string bytes = pattern(4 * page());
  for (const kind k : both_kinds) {
    write_file(path_, bytes);
    mapping map(path_, storing());
    verbs v(map, k);
    support::truncate_file(path_, page());
    // Between the fault and the look at the size.
    std::atomic<int> looks{0};
    faults::syscall_gate gate({SYS_statx}, [&](const faults::syscall_gate::call&) {
      if (looks++ == 0) support::truncate_file(path_, bytes.size());
      return faults::syscall_gate::pass;
    });
    const bool seen = gate.run([&] {
      std::error_code error;
      EXPECT_EQ(v.update(2 * page(), "x", error), 0U);
      EXPECT_EQ(error, errc::page_fault) << error.message();
    });
    if (!seen) GTEST_SKIP() << unseen;
    EXPECT_GE(looks.load(), 1);
    // Whether the file refuses it was found out by storing there.
    EXPECT_EQ(map.pending_bytes(), page());
    std::error_code error;
    EXPECT_EQ(v.update(2 * page(), "y", error), 1U);
    EXPECT_FALSE(error) << error.message();
    map.flush(error);
    EXPECT_FALSE(error) << error.message();
    EXPECT_FALSE(map.flush_error());
  }
}

TEST_F(fault_aftermath, leaves_what_was_stored_before_it_to_be_synced) {
  for (const std::size_t before : {std::size_t{0}, page()}) {
    write_file(path_, pattern(4 * page()));
    mapping map(path_, storing());
    map.flush();
    support::truncate_file(path_, before + page());
    std::error_code error;
    const std::string bytes(3 * page(), 'x');
    EXPECT_EQ(map.update_region(before, asio::buffer(bytes), error), page());
    EXPECT_EQ(error, errc::page_fault) << error.message();
    const auto syncs = faults::syncs_of_file_and_folder(folder_.path(), [&] {
      map.flush_range(before, page(), error);
      EXPECT_FALSE(error) << error.message();
    });
    if (!syncs) GTEST_SKIP() << unseen;
    EXPECT_EQ(syncs->first, 1);
  }
}

}  // namespace
