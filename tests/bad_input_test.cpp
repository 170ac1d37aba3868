// What nobody should ask for, asked of both classes: each must answer, and answer the same.
#include <mapio/mapio.hpp>

#include "bad_input_fixture.hpp"
#include "mapped_file_fixture.hpp"
#include "support.hpp"

#include <asio/buffer.hpp>
#include <asio/io_context.hpp>

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using namespace std::string_literals;
using mapio::access;
using mapio::disposition;
using mapio::durability;
using mapio::errc;
using mapio::flush_policy;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;
using mapio::region;
using support::adopt_error;
using support::bad_input;
using support::code_of;
using support::copy_on_write;
using support::creating;
using support::creating_dispositions;
using support::eventually;
using support::most;
using support::open_error;
using support::outcome;
using support::page;
using support::pattern;
using support::read_all;
using support::read_file;
using support::read_only;
using support::read_write;
using support::same;
using support::write_file;

open_options with_policy(open_options options, flush_policy policy) {
  options.policy = policy;
  return options;
}

using bad_path = bad_input;
using bad_options = bad_input;
using bad_handle = bad_input;
using bad_range = bad_input;
using bad_size = bad_input;
using bad_buffers = bad_input;
using bad_moment = bad_input;

TEST_F(bad_path, with_a_nul_within_names_no_other_file) {
  write_file(path_, "kept");
  const auto name = path_.string();
  for (const std::string& path : {name + '\0', name + "\0x"s, "\0"s + name, "\0"s}) {
    EXPECT_EQ(open_error(path), std::errc::invalid_argument);
    EXPECT_EQ(open_error(path, read_write()), std::errc::invalid_argument);
    for (const auto how : creating_dispositions)
      EXPECT_EQ(open_error(path, creating(page(), how)), std::errc::invalid_argument);
    for (const auto& [from, to] : {std::pair<fs::path, fs::path>{path, dir_ / "copy"},
                                   std::pair<fs::path, fs::path>{path_, path}}) {
      outcome copied;
      mapio::copy_file(io_, from, to, copied.handler());
      finish(copied);
      EXPECT_EQ(copied.error, std::errc::invalid_argument);
    }
    outcome removed;
    mapio::remove_file(io_, path, removed.handler());
    finish(removed);
    EXPECT_EQ(removed.error, std::errc::invalid_argument);
  }
  EXPECT_EQ(read_file(path_), "kept");
  for (const auto how : creating_dispositions) {
    EXPECT_EQ(open_error((dir_ / "new").string() + "\0x"s, creating(page(), how)),
              std::errc::invalid_argument);
    EXPECT_FALSE(is_there(dir_ / "new"));
  }
}

TEST_F(bad_path, is_refused_by_every_disposition) {
  write_file(path_, "kept");
  using e = std::errc;
  const std::error_condition no_folder = support::error_below_a_file();
  const std::error_condition too_long = support::error_of_a_long_name();
  expect_refused({
      {"", e::no_such_file_or_directory, e::no_such_file_or_directory,
       e::no_such_file_or_directory},
      {dir_.path(), e::is_a_directory, e::is_a_directory, e::file_exists},
      {dir_.path() / ".", e::is_a_directory, e::is_a_directory, e::file_exists},
      {path_ / "below", no_folder, no_folder, no_folder},
      {dir_ / "missing" / "file", e::no_such_file_or_directory, e::no_such_file_or_directory,
       e::no_such_file_or_directory},
      {dir_ / std::string(300, 'n'), too_long, too_long, too_long},
  });
  EXPECT_EQ(read_file(path_), "kept");
}

TEST_F(bad_options, are_invalid_and_create_nothing) {
  open_options odd = creating(1);
  std::vector<open_options> refused;
  for (const auto permissions :
       {fs::perms::unknown, fs::perms::set_uid, fs::perms::set_gid | fs::perms::owner_read,
        fs::perms::sticky_bit, static_cast<fs::perms>(0100600), static_cast<fs::perms>(1U << 20)}) {
    odd.permissions = permissions;
    refused.push_back(odd);
  }
  odd = creating(1);
  odd.create = static_cast<disposition>(9);
  refused.push_back(odd);
  odd = read_only();
  odd.mode = static_cast<access>(9);
  refused.push_back(odd);
  odd = read_write();
  odd.touch = static_cast<mapio::prefault>(9);
  refused.push_back(odd);
  odd = read_write();
  odd.writes = static_cast<mapio::write_path>(9);
  refused.push_back(odd);
  for (const auto mode : {access::read_only, access::copy_on_write})
    for (const auto how : creating_dispositions) {
      odd = creating(page(), how);
      odd.mode = mode;
      refused.push_back(odd);
    }
  for (const auto policy :
       {flush_policy::every_bytes(0), flush_policy::every_writes(0), flush_policy::every(0ms),
        flush_policy::every(-1ms), flush_policy::every(std::chrono::milliseconds::min())})
    for (const open_options& options : {creating(1), read_only(), copy_on_write()})
      refused.push_back(with_policy(options, policy));
  for (const open_options& options : refused) {
    EXPECT_EQ(open_error(path_, options), std::errc::invalid_argument);
    EXPECT_FALSE(is_there(path_));
  }
  write_file(path_, "kept");
  for (const open_options& options : refused)
    EXPECT_EQ(open_error(path_, options), std::errc::invalid_argument);
  EXPECT_EQ(read_file(path_), "kept");
}

TEST_F(bad_options, that_ask_for_more_address_space_than_there_is) {
  write_file(path_, bytes_);
  for (const open_options& mode : {read_only(), read_write(), copy_on_write()})
    for (const std::uint64_t reserve : {most, most - page(), (std::uint64_t{1} << 47) + 1}) {
      open_options options = mode;
      options.reserve = reserve;
      EXPECT_EQ(open_error(path_, options), std::errc::file_too_large) << reserve;
    }
  // The thread sanitizer ends a program that takes as much of its address space as there is.
  if (support::under_tsan) return;
  // What cannot be had is reduced; it is a wish.
  open_options options = read_write();
  options.reserve = std::uint64_t{1} << 47;
  EXPECT_FALSE(open_error(path_, options));
  EXPECT_TRUE(same(read_file(path_), bytes_));
}

TEST_F(bad_options, that_reserve_less_than_the_size_reserve_the_size) {
  write_file(path_, bytes_);
  open_options options = read_write();
  options.reserve = 1;
  mapping m(path_, options);
  EXPECT_EQ(m.capacity(), 4 * page());
  options = creating(5 * page());
  options.reserve = page();
  EXPECT_EQ(mapping(dir_ / "new", options).capacity(), 5 * page());
}

TEST_F(bad_options, that_have_no_effect_are_no_error) {
  write_file(path_, bytes_);
  for (const open_options& mode : {read_only(), copy_on_write()}) {
    for (const auto policy :
         {flush_policy::always(), flush_policy::every_bytes(1), flush_policy::every(1h)}) {
      open_options options = with_policy(mode, policy);
      options.writes = mapio::write_path::file;
      options.size = 9 * page();
      options.reserve = 64 * page();
      options.permissions = fs::perms::none;
      EXPECT_FALSE(open_error(path_, options));
      mapped_file file = opened(options);
      EXPECT_EQ(file.size(), bytes_.size());
      if (file.mode() == access::copy_on_write) {
        outcome o;
        file.update_region(0, asio::buffer("private", 7), o.handler());
        finish(o);
        EXPECT_TRUE(o.ok()) << o.error.message();
        mapping m = file.map();
        EXPECT_EQ(m.update_region(7, asio::buffer("!", 1)), 1U);
        EXPECT_EQ(m.view(0, 8).text(), "private!");
      }
      EXPECT_EQ(file.stats().syncs, 0U);
    }
  }
  EXPECT_TRUE(same(read_file(path_), bytes_));
}

TEST_F(bad_handle, options_of_adopt_that_do_not_matter_do_not) {
  write_file(path_, bytes_);
  open_options options = read_only();
  options.create = disposition::create_or_truncate;
  options.size = most;
  options.permissions = fs::perms::unknown;
  options.follow_symlinks = false;
  const mapping m =
      mapping::adopt(support::open_native(path_, support::opening::to_read).release(), options);
  EXPECT_TRUE(same(read_all(m), bytes_));
  options.policy = flush_policy::every_bytes(0);
  EXPECT_EQ(adopt_error(support::open_native(path_, support::opening::to_read), options),
            std::errc::invalid_argument);
  options = read_only();
  options.reserve = most;
  EXPECT_EQ(adopt_error(support::open_native(path_, support::opening::to_read), options),
            std::errc::file_too_large);
}

TEST_F(bad_handle, is_released_once) {
  mapping m = mapping::create(path_, page());
  mapping copy = m;
  const support::native_file fd(m.release());
  for (mapping* each : {&m, &copy}) {
    std::error_code error;
    EXPECT_EQ(each->release(error), support::no_native_handle);
    EXPECT_EQ(error, errc::not_open);
    EXPECT_EQ(code_of([&] { each->release(); }), errc::not_open);
    each->close();
  }
  EXPECT_TRUE(support::is_open_descriptor(fd.get())) << "it was given back";
}

/// One of every member of mapping that can fail, and what it throws.
struct member {
  const char* name;
  std::function<void(mapping&)> throwing;
  std::function<void(mapping&, std::error_code&)> reporting;
};

std::vector<member> failing_members() {
  using code = std::error_code;
  static std::array<char, 4> memory{};
  static const auto buffer = asio::buffer(memory);
  return {
      {"release", [](mapping& m) { m.release(); }, [](mapping& m, code& ec) { m.release(ec); }},
      {"view", [](mapping& m) { m.view(most, 1); },
       [](mapping& m, code& ec) { m.view(most, 1, ec); }},
      {"view of nothing", [](mapping& m) { m.view(0, 0); },
       [](mapping& m, code& ec) { m.view(0, 0, ec); }},
      {"mutable_view", [](mapping& m) { m.mutable_view(0, 1); },
       [](mapping& m, code& ec) { m.mutable_view(0, 1, ec); }},
      {"chunks", [](mapping& m) { m.chunks(0); }, [](mapping& m, code& ec) { m.chunks(0, ec); }},
      {"pages", [](mapping& m) { m.pages(); }, [](mapping& m, code& ec) { m.pages(ec); }},
      {"mutable_chunks", [](mapping& m) { m.mutable_chunks(0); },
       [](mapping& m, code& ec) { m.mutable_chunks(0, ec); }},
      {"update_region", [](mapping& m) { m.update_region(0, buffer); },
       [](mapping& m, code& ec) { m.update_region(0, buffer, ec); }},
      {"update_region of several",
       [](mapping& m) {
         m.update_region(most, std::array{buffer, buffer});
       },
       [](mapping& m, code& ec) {
         m.update_region(most, std::array{buffer, buffer}, ec);
       }},
      {"update_region of nothing", [](mapping& m) { m.update_region(0, asio::const_buffer()); },
       [](mapping& m, code& ec) { m.update_region(0, asio::const_buffer(), ec); }},
      {"read_into", [](mapping& m) { m.read_into(0, buffer); },
       [](mapping& m, code& ec) { m.read_into(0, buffer, ec); }},
      {"read_into nothing", [](mapping& m) { m.read_into(0, asio::mutable_buffer()); },
       [](mapping& m, code& ec) { m.read_into(0, asio::mutable_buffer(), ec); }},
      {"flush", [](mapping& m) { m.flush(); }, [](mapping& m, code& ec) { m.flush(ec); }},
      {"flush started", [](mapping& m) { m.flush(durability::started); },
       [](mapping& m, code& ec) { m.flush(durability::started, ec); }},
      {"flush_range", [](mapping& m) { m.flush_range(0, 0); },
       [](mapping& m, code& ec) { m.flush_range(0, 0, ec); }},
      {"flush_range started", [](mapping& m) { m.flush_range(most, 1, durability::started); },
       [](mapping& m, code& ec) { m.flush_range(most, 1, durability::started, ec); }},
      {"resize", [](mapping& m) { m.resize(0); }, [](mapping& m, code& ec) { m.resize(0, ec); }},
      {"resize too large", [](mapping& m) { m.resize(most); },
       [](mapping& m, code& ec) { m.resize(most, ec); }},
      {"refresh", [](mapping& m) { m.refresh(); }, [](mapping& m, code& ec) { m.refresh(ec); }},
      {"prefetch", [](mapping& m) { m.prefetch(); }, [](mapping& m, code& ec) { m.prefetch(ec); }},
      {"prefetch range", [](mapping& m) { m.prefetch(0, 0); },
       [](mapping& m, code& ec) { m.prefetch(0, 0, ec); }},
      {"lock_pages", [](mapping& m) { m.lock_pages(); },
       [](mapping& m, code& ec) { m.lock_pages(ec); }},
      {"lock_pages range", [](mapping& m) { m.lock_pages(0, 0); },
       [](mapping& m, code& ec) { m.lock_pages(0, 0, ec); }},
      {"unlock_pages", [](mapping& m) { m.unlock_pages(); },
       [](mapping& m, code& ec) { m.unlock_pages(ec); }},
      {"unlock_pages range", [](mapping& m) { m.unlock_pages(0, 0); },
       [](mapping& m, code& ec) { m.unlock_pages(0, 0, ec); }},
      {"advise", [](mapping& m) { m.advise(0, 0, static_cast<mapio::advice>(99)); },
       [](mapping& m, code& ec) { m.advise(0, 0, static_cast<mapio::advice>(99), ec); }},
      {"is_resident", [](mapping& m) { m.is_resident(0, 0); },
       [](mapping& m, code& ec) { m.is_resident(0, 0, ec); }},
      {"slice", [](mapping& m) { m.slice(0, 0); }, [](mapping& m, code& ec) { m.slice(0, 0, ec); }},
      {"publish", [](mapping& m) { m.publish(0, 0); },
       [](mapping& m, code& ec) { m.publish(0, 0, ec); }},
      {"atomic", [](mapping& m) { m.atomic<std::uint32_t>(1); },
       [](mapping& m, code& ec) { m.atomic<std::uint32_t>(1, ec); }},
      {"atomics", [](mapping& m) { m.atomics<std::uint64_t>(0, most); },
       [](mapping& m, code& ec) { m.atomics<std::uint64_t>(0, most, ec); }},
  };
}

TEST_F(bad_handle, that_is_not_open_says_so_in_every_member_whatever_else_is_wrong) {
  mapping never;
  mapping closed = mapping::create(path_, page());
  closed.close();
  mapping moved_from = mapping::create(dir_ / "moved", page());
  const mapping target = std::move(moved_from);
  mapping released = mapping::create(dir_ / "released", page());
  const support::native_file fd(released.release());
  std::error_code error;
  mapping failed(dir_ / "missing", read_only(), error);
  for (mapping* m : {&never, &closed, &moved_from, &released, &failed}) {
    for (const member& each : failing_members()) {
      error = std::make_error_code(std::errc::protocol_error);
      each.reporting(*m, error);
      EXPECT_EQ(error, errc::not_open) << each.name;
      EXPECT_EQ(code_of([&] { each.throwing(*m); }), errc::not_open) << each.name;
    }
    EXPECT_FALSE(m->is_open());
    EXPECT_EQ(m->size(), 0U);
    EXPECT_EQ(m->capacity(), 0U);
    EXPECT_EQ(m->mode(), access::read_only);
    EXPECT_TRUE(m->path().empty());
    EXPECT_EQ(m->policy(), flush_policy::manual());
    EXPECT_EQ(m->pending_bytes(), 0U);
    EXPECT_EQ(m->native_handle(), support::no_native_handle);
    EXPECT_FALSE(m->flush_error());
    m->clear_flush_error();
    EXPECT_EQ(m->stats().syncs, 0U);
    m->close(error);
    EXPECT_FALSE(error) << "to close what is closed does nothing";

    mapped_file file(io_.get_executor(), *m);
    EXPECT_EQ(code_of([&] { file.atomic<std::uint32_t>(1); }), errc::not_open);
    auto chunks = file.chunks(0);
    outcome o;
    chunks.next(o.handler());
    finish(o);
    EXPECT_TRUE(o.error == errc::not_open) << o.error.message();
  }
  EXPECT_TRUE(target.is_open());
}

/// One of every verb that both classes have and that takes a range.
struct ranged_verb {
  const char* name;
  std::function<void(mapping&, std::uint64_t, std::uint64_t)> throwing;
  std::function<void(mapping&, std::uint64_t, std::uint64_t, std::error_code&)> reporting;
  std::function<void(mapped_file&, std::uint64_t, std::uint64_t, outcome&)> awaited;
  bool writes = false;
};

// Any number of bytes, none of which is looked at unless the range is in the file.
asio::const_buffer to_write(std::uint64_t n) {
  static const std::string some = pattern(4 * page());
  return {some.data(), static_cast<std::size_t>(n)};
}
asio::mutable_buffer to_read(std::uint64_t n) {
  static std::string some(4 * page(), '\0');
  return {some.data(), static_cast<std::size_t>(n)};
}

std::vector<ranged_verb> ranged_verbs() {
  using u = std::uint64_t;
  using code = std::error_code;
  return {
      {"view", [](mapping& m, u o, u n) { m.view(o, n); },
       [](mapping& m, u o, u n, code& ec) { m.view(o, n, ec); },
       [](mapped_file& f, u o, u n, outcome& r) { f.view(o, n, r.handler()); }},
      {"update_region", [](mapping& m, u o, u n) { m.update_region(o, to_write(n)); },
       [](mapping& m, u o, u n, code& ec) { m.update_region(o, to_write(n), ec); },
       [](mapped_file& f, u o, u n, outcome& r) { f.update_region(o, to_write(n), r.handler()); },
       true},
      {"update_region of several",
       [](mapping& m, u o, u n) {
         m.update_region(o, std::array{to_write(n / 2), to_write(n - n / 2)});
       },
       [](mapping& m, u o, u n, code& ec) {
         m.update_region(o, std::array{to_write(n / 2), to_write(n - n / 2)}, ec);
       },
       [](mapped_file& f, u o, u n, outcome& r) {
         f.update_region(o, std::array{to_write(n / 2), to_write(n - n / 2)}, r.handler());
       },
       true},
      {"read_into", [](mapping& m, u o, u n) { m.read_into(o, to_read(n)); },
       [](mapping& m, u o, u n, code& ec) { m.read_into(o, to_read(n), ec); },
       [](mapped_file& f, u o, u n, outcome& r) { f.read_into(o, to_read(n), r.handler()); }},
      {"flush_range", [](mapping& m, u o, u n) { m.flush_range(o, n); },
       [](mapping& m, u o, u n, code& ec) { m.flush_range(o, n, ec); },
       [](mapped_file& f, u o, u n, outcome& r) { f.flush_range(o, n, r.handler()); }},
      {"flush_range started",
       [](mapping& m, u o, u n) { m.flush_range(o, n, durability::started); },
       [](mapping& m, u o, u n, code& ec) { m.flush_range(o, n, durability::started, ec); },
       [](mapped_file& f, u o, u n, outcome& r) {
         f.flush_range(o, n, durability::started, r.handler());
       }},
      {"prefetch", [](mapping& m, u o, u n) { m.prefetch(o, n); },
       [](mapping& m, u o, u n, code& ec) { m.prefetch(o, n, ec); },
       [](mapped_file& f, u o, u n, outcome& r) { f.prefetch(o, n, r.handler()); }},
      {"lock_pages", [](mapping& m, u o, u n) { m.lock_pages(o, n); },
       [](mapping& m, u o, u n, code& ec) { m.lock_pages(o, n, ec); },
       [](mapped_file& f, u o, u n, outcome& r) { f.lock_pages(o, n, r.handler()); }},
      {"unlock_pages", [](mapping& m, u o, u n) { m.unlock_pages(o, n); },
       [](mapping& m, u o, u n, code& ec) { m.unlock_pages(o, n, ec); },
       [](mapped_file& f, u o, u n, outcome& r) { f.unlock_pages(o, n, r.handler()); }},
  };
}

TEST_F(bad_range, is_answered_alike_by_both_classes_in_every_mode) {
  write_file(path_, bytes_);
  const std::uint64_t size = bytes_.size();
  const std::vector<std::pair<std::uint64_t, std::uint64_t>> outside{{size, 1},
                                                                     {size + 1, 0},
                                                                     {0, size + 1},
                                                                     {1, size},
                                                                     {size - 1, 2},
                                                                     {4 * page(), 0},
                                                                     {1, most},
                                                                     {most, 1},
                                                                     {most, 0},
                                                                     {most, most},
                                                                     {0, most},
                                                                     {most - size, size},
                                                                     {1, most - 1},
                                                                     {size, most - size + 1},
                                                                     {most - size + 1, size + 1}};
  const std::vector<std::pair<std::uint64_t, std::uint64_t>> inside{
      {0, 0}, {size, 0}, {0, size}, {size - 1, 1}, {1, size - 1}};
  for (const open_options& mode : {read_only(), read_write(), copy_on_write()})
    for (const auto writes :
         {mapio::write_path::automatic, mapio::write_path::mapped, mapio::write_path::file}) {
      open_options options = mode;
      options.writes = writes;
      mapped_file file = opened(options);
      mapping m = file.map();
      for (const ranged_verb& verb : ranged_verbs()) {
        const auto answer = [&](std::uint64_t offset, std::uint64_t length) {
          std::error_code reported = std::make_error_code(std::errc::protocol_error);
          verb.reporting(m, offset, length, reported);
          EXPECT_EQ(code_of([&] { verb.throwing(m, offset, length); }), reported) << verb.name;
          outcome o;
          verb.awaited(file, offset, length, o);
          finish(o);
          EXPECT_EQ(o.error, reported) << verb.name << ' ' << offset << ' ' << length;
          return reported;
        };
        const bool refuses = verb.writes && mode.mode == access::read_only;
        for (const auto& [offset, length] : outside)
          EXPECT_EQ(answer(offset, length), refuses ? errc::read_only : errc::out_of_range)
              << verb.name << ' ' << offset << ' ' << length;
        for (const auto& [offset, length] : inside)
          EXPECT_EQ(answer(offset, length),
                    refuses ? std::error_code(errc::read_only) : std::error_code())
              << verb.name << ' ' << offset << ' ' << length;
      }
      EXPECT_EQ(fs::file_size(path_), size);
    }
  support::expect_locked(0);
}

TEST_F(bad_range, of_an_empty_file_is_all_but_nothing) {
  for (const open_options& mode : {read_only(), read_write(), copy_on_write()}) {
    mapped_file file = opened_with("", mode);
    mapping m = file.map();
    for (const ranged_verb& verb : ranged_verbs()) {
      if (verb.writes && mode.mode == access::read_only) continue;
      for (const std::uint64_t length : {0U, 1U}) {
        const std::error_code expected = length == 0 ? std::error_code() : errc::out_of_range;
        EXPECT_EQ(code_of([&] { verb.throwing(m, 0, length); }), expected) << verb.name;
        outcome o;
        verb.awaited(file, 0, length, o);
        finish(o);
        EXPECT_EQ(o.error, expected) << verb.name;
      }
    }
    EXPECT_EQ(code_of([&] { m.atomic<std::uint32_t>(0); }), errc::out_of_range);
    EXPECT_TRUE(m.atomics<std::uint32_t>(0, 0).empty());
    EXPECT_TRUE(m.chunks(1).empty());
    EXPECT_TRUE(m.pages().empty());
    EXPECT_TRUE(m.slice(0, 0).chunks(1).empty());
    EXPECT_TRUE(m.is_resident(0, 0));
    outcome o;
    auto chunks = file.chunks(1);
    chunks.next(o.handler());
    finish(o);
    EXPECT_TRUE(o.ok());
    EXPECT_TRUE(o.region.empty());
  }
}

TEST_F(bad_range, of_integers_is_answered_alike_by_both_classes) {
  mapped_file file = created(page());
  mapping m = file.map();
  const auto answer = [&](std::uint64_t offset) {
    std::error_code reported;
    const bool is_empty = file.atomic<std::uint64_t>(offset, reported).empty();
    EXPECT_EQ(is_empty, static_cast<bool>(reported));
    EXPECT_EQ(code_of([&] { file.atomic<std::uint64_t>(offset); }), reported);
    EXPECT_EQ(code_of([&] { m.atomic<std::uint64_t>(offset); }), reported);
    return reported;
  };
  EXPECT_FALSE(answer(page() - 8));
  EXPECT_EQ(answer(page()), errc::out_of_range);
  EXPECT_EQ(answer(most - 7), errc::out_of_range);
  EXPECT_EQ(answer(page() - 4), errc::misaligned);
  EXPECT_EQ(answer(1), errc::misaligned);
  EXPECT_EQ(answer(most), errc::misaligned);
}

TEST_F(bad_range, of_chunks_is_none_however_large_they_are) {
  mapped_file file = opened_with(bytes_);
  const mapping m = file.map();
  for (const std::size_t bytes : {bytes_.size(), bytes_.size() + 1, std::size_t{1} << 63,
                                  std::numeric_limits<std::size_t>::max()}) {
    const auto all = m.chunks(bytes);
    EXPECT_EQ(all.size(), 1U);
    EXPECT_TRUE(same((*all.begin()).text(), bytes_));
    for (const std::size_t ahead : {std::size_t{0}, std::numeric_limits<std::size_t>::max()}) {
      auto chunks = file.chunks(bytes, ahead);
      outcome first;
      chunks.next(first.handler());
      finish(first);
      EXPECT_TRUE(first.ok());
      EXPECT_TRUE(same(first.region.text(), bytes_));
      outcome second;
      chunks.next(second.handler());
      finish(second);
      EXPECT_TRUE(second.ok());
      EXPECT_TRUE(second.region.empty());
    }
  }
}

TEST_F(bad_size, is_answered_alike_by_both_classes) {
  write_file(path_, bytes_);
  const auto answer = [&](mapped_file& file, std::uint64_t size) {
    mapping m = file.map();
    std::error_code reported = std::make_error_code(std::errc::protocol_error);
    m.resize(size, reported);
    EXPECT_EQ(code_of([&] { m.resize(size); }), reported);
    outcome o;
    file.resize(size, o.handler());
    finish(o);
    EXPECT_EQ(o.error, reported) << size;
    EXPECT_EQ(m.size(), bytes_.size());
    EXPECT_TRUE(same(read_file(path_), bytes_));
    return reported;
  };
  for (const bool preallocate : {true, false}) {
    open_options options = read_write();
    options.preallocate = preallocate;
    mapped_file file = opened(options);
    for (const std::uint64_t size :
         {most, most - 1, most - page() + 1, std::uint64_t{1} << 63, (std::uint64_t{1} << 47) + 1})
      EXPECT_EQ(answer(file, size), std::errc::file_too_large) << size;
    // No file is as large, or nothing can be mapped as large: the file system says which.
    EXPECT_TRUE(answer(file, std::uint64_t{1} << 47));
  }
  mapped_file file = opened(read_only());
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{1}, most})
    EXPECT_EQ(answer(file, size), errc::read_only);
  file = opened(copy_on_write());
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{1}, most})
    EXPECT_EQ(answer(file, size), errc::unsupported);
}

TEST_F(bad_size, of_nothing_is_waited_for_and_refused_while_a_region_lives) {
  mapped_file file = opened_with(bytes_);
  auto held = std::make_unique<region>(file.map().view(0, 1));
  EXPECT_EQ(code_of([&] { file.map().resize(0); }), errc::pinned);
  outcome first;
  file.resize(0, first.handler());
  settle();
  EXPECT_EQ(first.calls, 0);
  file.cancel();
  file.cancel();
  finish(first);
  EXPECT_EQ(first.error, asio::error::operation_aborted);
  EXPECT_EQ(file.size(), bytes_.size());
  EXPECT_TRUE(same(held->text(), bytes_.substr(0, 1)));
  outcome second;
  file.resize(0, second.handler());
  held.reset();
  finish(second);
  EXPECT_TRUE(second.ok());
  EXPECT_EQ(fs::file_size(path_), 0U);
}

TEST_F(bad_buffers, that_are_empty_or_nowhere_count_for_nothing) {
  mapped_file file = opened_with(std::string(page(), '.'));
  mapping m = file.map();
  const auto text = asio::buffer("abcd", 4);
  const asio::const_buffer none;
  const asio::const_buffer nowhere(nullptr, 0);
  const asio::const_buffer empty(text.data(), 0);
  std::vector<asio::const_buffer> out{none, nowhere, text, empty, none, text, nowhere};
  EXPECT_EQ(m.update_region(0, out), 8U);
  EXPECT_EQ(m.update_region(page() - 8, out), 8U);
  outcome o;
  file.update_region(16, out, o.handler());
  finish(o);
  EXPECT_TRUE(o.ok());
  EXPECT_EQ(o.bytes, 8U);
  EXPECT_EQ(m.view(0, 24).text(), "abcdabcd........abcdabcd");
  EXPECT_EQ(m.slice(32, 8).update_region(0, out), 8U);

  std::array<char, 4> first{}, second{};
  std::vector<asio::mutable_buffer> in{
      {}, {nullptr, 0},         asio::buffer(first), asio::buffer(first, 0),
      {}, asio::buffer(second), {nullptr, 0}};
  EXPECT_EQ(m.read_into(16, in), 8U);
  EXPECT_EQ(std::string_view(second.data(), 4), "abcd");
  second = {};
  outcome read;
  file.read_into(page() - 8, in, read.handler());
  finish(read);
  EXPECT_TRUE(read.ok());
  EXPECT_EQ(read.bytes, 8U);
  EXPECT_EQ(std::string_view(second.data(), 4), "abcd");
  EXPECT_EQ(mapio::guarded_copy(nullptr, nullptr, 0), 0U);
}

TEST_F(bad_buffers, of_no_bytes_still_have_to_be_in_the_file) {
  mapped_file file = opened_with(bytes_);
  mapping m = file.map();
  const std::uint64_t size = bytes_.size();
  const std::vector<asio::const_buffer> no_buffers;
  const std::vector<asio::const_buffer> empty_ones(5);
  for (const auto& buffers : {no_buffers, empty_ones})
    for (const std::uint64_t offset : {std::uint64_t{0}, size, size + 1, most}) {
      const std::error_code expected = offset > size ? errc::out_of_range : std::error_code();
      EXPECT_EQ(code_of([&] { m.update_region(offset, buffers); }), expected) << offset;
      outcome o;
      file.update_region(offset, buffers, o.handler());
      finish(o);
      EXPECT_EQ(o.error, expected) << offset;
      const std::vector<asio::mutable_buffer> in(buffers.size());
      EXPECT_EQ(code_of([&] { m.read_into(offset, in); }), expected) << offset;
      outcome read;
      file.read_into(offset, in, read.handler());
      finish(read);
      EXPECT_EQ(read.error, expected) << offset;
    }
}

TEST_F(bad_buffers, whose_sum_overflows_touch_nothing) {
  mapped_file file = opened_with(bytes_);
  mapping m = file.map();
  // Their sum is 10, if one does not look.
  const std::size_t huge = std::numeric_limits<std::size_t>::max() - 5;
  std::string memory(16, '.');
  const std::array out{asio::const_buffer(memory.data(), 16),
                       asio::const_buffer(memory.data(), huge)};
  const std::array in{asio::mutable_buffer(memory.data(), 16),
                      asio::mutable_buffer(memory.data(), huge)};
  EXPECT_EQ(code_of([&] { m.update_region(0, out); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { m.read_into(0, in); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { m.slice(0, 100).update_region(0, out); }), errc::out_of_range);
  EXPECT_EQ(code_of([&] { m.slice(0, 100).read_into(0, in); }), errc::out_of_range);
  outcome written;
  file.update_region(0, out, written.handler());
  finish(written);
  EXPECT_EQ(written.error, errc::out_of_range);
  outcome read;
  file.read_into(0, in, read.handler());
  finish(read);
  EXPECT_EQ(read.error, errc::out_of_range);
  EXPECT_EQ(written.bytes + read.bytes, 0U);
  EXPECT_EQ(memory, std::string(16, '.'));
  EXPECT_TRUE(same(read_file(path_), bytes_));
}

TEST_F(bad_moment, to_close_and_cancel_is_after_the_end) {
  mapped_file file = opened_with(bytes_);
  mapped_file copy = file;
  file.cancel();
  file.cancel();
  outcome first, second, of_copy;
  file.close(first.handler());
  file.close(second.handler());
  copy.close(of_copy.handler());
  finish(first);
  finish(second);
  finish(of_copy);
  EXPECT_TRUE(first.ok());
  EXPECT_EQ(second.error, errc::not_open);
  EXPECT_EQ(of_copy.error, errc::not_open);
  file.cancel();
  copy.cancel();
  std::error_code error;
  mapping m = mapping::create(path_, page());
  m.close(error);
  EXPECT_FALSE(error);
  m.close(error);
  EXPECT_FALSE(error) << "of the blocking one it does nothing";
}

TEST_F(bad_moment, to_close_while_it_opens_closes_what_is_open_by_then) {
  write_file(path_, bytes_);
  write_file(dir_ / "other", "other");
  for (int round = 0; round < 20; ++round) {
    mapped_file file(io_);
    outcome opening, closing;
    file.open(path_, opening.handler());
    file.close(closing.handler());
    finish(opening);
    finish(closing);
    EXPECT_TRUE(opening.ok());
    EXPECT_TRUE(!closing.error || closing.error == errc::not_open) << closing.error.message();
    EXPECT_EQ(file.is_open(), closing.error == errc::not_open);

    // One of the two is there to be closed.
    file = opened(read_write());
    outcome opening_other, closing_one;
    file.open(dir_ / "other", opening_other.handler());
    file.close(closing_one.handler());
    finish(opening_other);
    finish(closing_one);
    EXPECT_TRUE(opening_other.ok());
    EXPECT_TRUE(closing_one.ok());
    if (file.is_open()) {
      EXPECT_EQ(read_all(file.map()), "other");
    }
  }
}

TEST_F(bad_moment, to_open_twice_at_once_leaves_one_of_them_open) {
  write_file(path_, "first");
  write_file(dir_ / "other", "other");
  mapped_file file(io_);
  outcome a, b;
  file.open(path_, a.handler());
  file.open(dir_ / "other", b.handler());
  finish(a);
  finish(b);
  EXPECT_TRUE(a.ok());
  EXPECT_TRUE(b.ok());
  EXPECT_TRUE(file.is_open());
  EXPECT_EQ(read_all(file.map()), file.path() == path_ ? "first" : "other");
  const fs::path let_go = file.path() == path_ ? dir_ / "other" : path_;
  EXPECT_TRUE(eventually([&] { return !support::is_mapped(let_go); }));
}

TEST_F(bad_moment, for_a_second_handle_to_the_same_file_is_none) {
  mapped_file first = opened_with(bytes_);
  mapped_file second = opened(read_write());
  EXPECT_FALSE(first.map() == second.map());
  outcome o;
  first.update_region(5, asio::buffer("seen", 4), o.handler());
  finish(o);
  EXPECT_EQ(second.map().view(5, 4).text(), "seen");
  first.map().resize(page());
  EXPECT_EQ(second.size(), bytes_.size()) << "it has its own idea of the size";
  EXPECT_EQ(second.map().refresh(), page());
  first.map().close();
  EXPECT_TRUE(second.is_open());
  EXPECT_EQ(second.map().update_region(0, asio::buffer("x", 1)), 1U);
}

TEST_F(bad_moment, for_a_file_that_is_replaced_keeps_the_old_one) {
  mapped_file file = opened_with("old bytes");
  write_file(dir_ / "new", "new");
  fs::rename(dir_ / "new", path_);
  EXPECT_EQ(file.path(), path_) << "as it was given";
  EXPECT_EQ(file.map().refresh(), 9U);
  EXPECT_EQ(read_all(file.map()), "old bytes");
  outcome written, flushed, resized;
  file.update_region(0, asio::buffer("OLD", 3), written.handler());
  finish(written);
  file.flush(flushed.handler());
  finish(flushed);
  file.resize(page(), resized.handler());
  finish(resized);
  EXPECT_TRUE(written.ok() && flushed.ok() && resized.ok());
  EXPECT_EQ(read_file(path_), "new") << "nothing of it went to the one that took its name";
  outcome again;
  mapped_file other(io_);
  other.open(file.path(), again.handler());
  finish(again);
  EXPECT_EQ(read_all(other.map()), "new");
}

}  // namespace
