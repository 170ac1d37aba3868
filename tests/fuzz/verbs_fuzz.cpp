// Random sequences of verbs, blocking and awaited, on a few files and handles, against a model.
//
// Everything that is drawn comes from the input; where the library may answer in several ways (a
// verb that is cancelled, a file that somebody else has cut), the model takes the answer that was
// given, and holds the library to it. MAPIO_FUZZ_FOLDER chooses the file system,
// MAPIO_FUZZ_TRACE=1 prints the verbs.

#include "../sanitizers.hpp"
#include "file_model.hpp"

#include <mapio/mapio.hpp>

#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>

#include <array>
#include <bitset>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <variant>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

namespace fuzz {
namespace {

namespace fs = std::filesystem;
using mapio::access;
using mapio::advice;
using mapio::disposition;
using mapio::durability;
using mapio::errc;
using mapio::mapped_file;
using mapio::mapping;
using mapio::open_options;
using mapio::segment;

constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t largest_file = std::uint64_t{256} << 10;
constexpr std::uint64_t too_large = (std::uint64_t{1} << 47) + 1;
// Sanitizers make it a no-op.
constexpr bool mlock_works = !support::under_asan && !support::under_tsan;

const bool tracing = std::getenv("MAPIO_FUZZ_TRACE") != nullptr;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "fuzz: %s\n", what.c_str());
  std::abort();
}

// --- what is drawn
// ---------------------------------------------------------------------------------------------------------

class input {
 public:
  input(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}

  bool empty() const { return at_ == end_; }
  std::uint64_t byte() { return empty() ? 0 : *at_++; }
  std::uint64_t word() {
    const std::uint64_t high = byte();
    return high << 8 | byte();
  }
  std::uint64_t below(std::uint64_t n) { return n > 256 ? word() % n : byte() % n; }
  bool one_in(std::uint64_t n) { return byte() % n == n - 1; }
  bool flip() { return (byte() & 1) != 0; }

  /// A place in a file of this size, at its edges, or far outside.
  std::uint64_t offset(std::uint64_t size) {
    switch (byte() % 16) {
    case 0:
      return 0;
    case 1:
      return size;
    case 2:
      return size + byte();
    case 3:
      return size - std::min(size, byte());
    case 4:
      return page * (byte() % 65);
    case 5:
      return page * (1 + byte() % 64) - 1;
    case 6:
      return most - byte();
    case 7:
      return too_large - byte();
    case 8:
      return 4 * (word() % (size / 4 + 1));
    default:
      return (word() * 4 + byte()) % (size + 1);
    }
  }
  std::uint64_t length(std::uint64_t size, std::uint64_t offset) {
    switch (byte() % 16) {
    case 0:
      return 0;
    case 1:
      return size - offset;
    case 2:
      return size - offset + 1;
    case 3:
      return most - offset + byte() % 4;
    case 4:
      return most - byte();
    case 5:
      return page * (byte() % 17);
    case 6:
      return std::uint64_t{1} << (byte() % 64);
    case 7:
      return word() % 9000;
    case 8:
    case 9:
    case 10:
      return offset < size ? std::min(word() % 9000, size - offset) : 0;
    default:
      return offset < size ? std::min(byte(), size - offset) : byte();
    }
  }
  /// A size that a file may be given: small, or beyond what any file may have.
  std::uint64_t size(std::uint64_t now) {
    switch (byte() % 12) {
    case 0:
      return 0;
    case 1:
      return too_large + byte();
    case 2:
      return most - byte();
    case 3:
      return page * (byte() % 65);
    case 4:
      return std::min(now + byte(), largest_file);
    case 5:
      return now - std::min(now, byte());
    case 6:
      return now;
    default:
      return word() * 4 % (largest_file + 1);
    }
  }

 private:
  const std::uint8_t* at_;
  const std::uint8_t* end_;
};

// --- what is answered
// ------------------------------------------------------------------------------------------------------

struct answer {
  std::error_code error;
  std::uint64_t count = 0;
  mapio::region region;
};

/// The failures that apply; without any, nothing but success is right.
class expectation {
 public:
  expectation& fails(std::error_code why, bool applies = true) {
    if (applies) codes_.push_back(why);
    succeeds_ = succeeds_ && !applies;
    return *this;
  }
  expectation& fails(std::errc why, bool applies = true) {
    return fails(std::make_error_code(why), applies);
  }
  template <class Code>
  expectation& may_fail(Code why, bool applies = true) {
    const bool before = succeeds_;
    fails(why, applies);
    succeeds_ = before;
    return *this;
  }

  bool succeeds() const { return succeeds_; }
  bool is_certain() const { return codes_.empty(); }
  bool allows(std::error_code error) const {
    if (!error) return succeeds_;
    return std::any_of(codes_.begin(), codes_.end(), [&](std::error_code known) {
      // The library's own codes are conditions too; those of the OS may come in either category.
      return error == known || (known.category() == std::generic_category() &&
                                error.category() != mapio::error_category() &&
                                error == known.default_error_condition());
    });
  }

 private:
  bool succeeds_ = true;
  std::vector<std::error_code> codes_;
};

const std::error_code aborted = asio::error::operation_aborted;

/// An awaited verb, from its initiation on. Kept to the end, so that a second completion shows.
struct outstanding {
  asio::cancellation_signal cancel;
  bytes buffer;
  std::optional<answer> result;
};

struct completion {
  using cancellation_slot_type = asio::cancellation_slot;

  asio::cancellation_slot get_cancellation_slot() const noexcept { return of->cancel.slot(); }
  void operator()(std::error_code error) { over({error, 0, {}}); }
  void operator()(std::error_code error, std::uint64_t count) { over({error, count, {}}); }
  void operator()(std::error_code error, mapio::region shown) {
    over({error, 0, std::move(shown)});
  }

  outstanding* of;

 private:
  void over(answer result) {
    if (of->result) fail("a verb completes twice");
    of->result = std::move(result);
  }
};

// --- where it happens
// ------------------------------------------------------------------------------------------------------

/// What all inputs share: a folder, and an event loop per engine.
class surroundings {
 public:
  static surroundings& get() {
    static surroundings the;
    return the;
  }
  surroundings(const surroundings&) = delete;
  surroundings& operator=(const surroundings&) = delete;

  fs::path name(std::size_t i) const {
    return folder_ / std::string(1, static_cast<char>('a' + i));
  }
  const fs::path& folder() const { return folder_; }
  asio::io_context& loop(bool ring) { return ring ? ring_ : pool_; }

  /// Runs both loops until `done`, and what has become ready with it.
  template <class Done>
  void run_until(Done done) {
    constexpr std::chrono::seconds patience{20};
    const auto end = std::chrono::steady_clock::now() + patience;
    while (!done()) {
      std::size_t ran = poll();
      if (ran == 0 && !done()) {
        // Each may wait for a sync that the other one carries out.
        ran = ring_.run_one_for(std::chrono::microseconds(50)) +
              (done() ? 0 : pool_.run_one_for(std::chrono::microseconds(50)));
        if (ran == 0 && std::chrono::steady_clock::now() > end) fail("a verb hangs");
      }
    }
  }
  std::size_t poll() {
    std::size_t ran = 0;
    for (asio::io_context* loop : {&ring_, &pool_}) {
      loop->restart();
      ran += loop->poll();
    }
    ring_.restart();
    pool_.restart();
    return ran;
  }

 private:
  surroundings() {
    const char* const chosen = std::getenv("MAPIO_FUZZ_FOLDER");
    const fs::path in_memory = "/dev/shm";
    const fs::path parent = chosen != nullptr                        ? fs::path(chosen)
                            : ::access(in_memory.c_str(), W_OK) == 0 ? in_memory
                                                                     : fs::temp_directory_path();
    std::string made = (parent / "mapio-fuzz-XXXXXX").string();
    if (::mkdtemp(made.data()) == nullptr) fail("no folder in " + parent.string());
    folder_ = made;
    mapio::use_backend(pool_, mapio::backend_kind::thread_pool);
    try {
      mapio::use_backend(ring_, mapio::backend_kind::io_uring);
    } catch (const std::system_error&) {
      mapio::use_backend(ring_, mapio::backend_kind::thread_pool);
    }
  }
  ~surroundings() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }

  fs::path folder_;
  asio::io_context pool_;
  asio::io_context ring_;
};

/// A file descriptor of somebody else.
class descriptor {
 public:
  descriptor(const fs::path& path, int flags) : number_(::open(path.c_str(), flags | O_CLOEXEC)) {}
  explicit descriptor(int number) : number_(number) {}
  descriptor(const descriptor&) = delete;
  descriptor& operator=(const descriptor&) = delete;
  ~descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int get() const { return number_; }
  int release() { return std::exchange(number_, -1); }

 private:
  int number_;
};

bytes content_of(int file) {
  struct stat status {};
  if (::fstat(file, &status) != 0) fail("fstat");
  bytes content(static_cast<std::size_t>(status.st_size));
  if (::pread(file, content.data(), content.size(), 0) != static_cast<ssize_t>(content.size()))
    fail("pread");
  return content;
}

// --- handles, and what is taken from them
// ----------------------------------------------------------------------------------

using opened = std::shared_ptr<open_model>;

struct map_slot {
  mapping handle;
  opened of;  // null: shares nothing with anybody
};

struct file_slot {
  mapped_file handle;
  std::shared_ptr<opened> of;  // shared by copies; null: moved from
};

struct segment_slot {
  segment handle;
  opened of;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};

/// Holds something that pins a range.
struct holder {
  using thing =
      std::variant<std::monostate, mapio::region, mapio::mutable_region, mapio::chunk_range,
                   mapio::mutable_chunk_range, mapio::atomic_view<std::uint32_t>,
                   mapio::atomic_view<std::uint64_t>, mapio::atomic_span<std::uint32_t>>;
  thing held;
  opened of;
  std::uint64_t offset = 0;  // of what it shows
  std::uint64_t length = 0;
  std::uint64_t pinned_until = 0;
  std::uint64_t pinned_from = 0;
  bool marks = false;  // its end makes the pinned range dirty
  std::uint64_t chunk = 0;

  bool is_empty() const { return held.index() == 0; }
};

struct stream_slot {
  std::optional<mapio::chunk_stream> stream;
  std::shared_ptr<opened> handle;
  opened of;
  std::uint64_t chunk = 0;
  std::uint64_t position = 0;
};

/// What a verb is called on: one of the three. `of` is null or closed where there is no file.
struct subject {
  mapping* map = nullptr;
  segment_slot* part = nullptr;
  file_slot* file = nullptr;
  opened of;

  bool is_open() const { return of && of->is_open; }
  std::uint64_t size() const { return part ? part->length : is_open() ? of->size : 0; }
  std::uint64_t base() const { return part ? part->offset : 0; }
  bool holds(std::uint64_t offset, std::uint64_t length) const {
    if (part && (offset > part->length || length > part->length - offset)) return false;
    return is_open() && of->holds(base() + offset, length);
  }
};

/// One input.
class session {
 public:
  session(const std::uint8_t* data, std::size_t size)
      : in_(data, size), world_(surroundings::get()),
        files_{file_slot{mapped_file(world_.loop(false)), std::make_shared<opened>()},
               file_slot{mapped_file(world_.loop(true)), std::make_shared<opened>()},
               file_slot{mapped_file(world_.loop(false)), std::make_shared<opened>()},
               file_slot{mapped_file(world_.loop(true)), std::make_shared<opened>()}} {
    for (std::size_t i = 0; i < names_.size(); ++i)
      ::unlink(world_.name(i).c_str());
  }

  void run() {
    begin();
    constexpr int most_verbs = 200;
    for (int i = 0; i < most_verbs && !in_.empty(); ++i) {
      step();
      world_.poll();
      for (const map_slot& m : maps_)
        check_dirty(m.handle, m.of);
    }
    doing_ = " the end";
    for (holder& h : held_)
      look_at(h);
    for (const map_slot& m : maps_)
      check_questions(m.handle, m.of);
    for (const file_slot& f : files_)
      check_questions(f.handle.map(), f.of ? *f.of : nullptr);
    check_names();
    for (stream_slot& s : streams_)
      s = {};
    for (holder& h : held_)
      drop(h);
    for (file_slot& f : files_)
      f = {mapped_file(world_.loop(false)), nullptr};
    for (map_slot& m : maps_)
      m = {};
    for (segment_slot& s : segments_)
      s = {};
    for (const outstanding& verb : verbs_)
      if (!verb.result) fail("a verb never completes");
    // What is let go of in the background; a file that is never closed hangs here.
    world_.run_until([&] { return (open_descriptors() & ~open_before_).none(); });
  }

 private:
  /// One file that most handles have open, some of them together, so that most verbs have something
  /// to do.
  void begin() {
    open_options options = any_options();
    options.mode = access::read_write;
    options.create = disposition::create_new;
    options.size = in_.word() * 4 % (largest_file + 1);
    if (options.reserve >= too_large) options.reserve = 0;
    if (has_bad_policy(options)) options.policy = {};
    say("begin with", options.size, "reserve", options.reserve);
    const auto open_more = [&](map_slot& slot, access mode) {
      options.mode = mode;
      slot.handle.open(world_.name(0), options);
      slot.of = make_model(names_[0], options);
      options.create = disposition::open_existing;
    };
    names_[0] = std::make_shared<disk_file>();
    names_[0]->resize(options.size);
    open_more(maps_[0], access::read_write);
    open_more(maps_[1], access::copy_on_write);
    open_more(maps_[2], in_.flip() ? access::read_only : access::read_write);
    for (const std::size_t i : {0U, 1U, 2U, 3U}) {
      const map_slot& from = maps_[std::array{0U, 0U, 1U, 2U}[i]];
      files_[i] = {mapped_file(world_.loop(i % 2 != 0).get_executor(), from.handle),
                   std::make_shared<opened>(from.of)};
    }
  }

  // --- telling ---

  template <class... Parts>
  void say(const Parts&... parts) {
    std::ostringstream line;
    ((line << ' ' << parts), ...);
    doing_ = line.str();
    if (tracing) std::fprintf(stderr, "%s\n", doing_.c_str());
  }
  void require(bool holds, const std::string& what) const {
    if (!holds) fail(what + " in" + doing_);
  }
  void judge(const answer& got, const expectation& wanted) const {
    if (tracing)
      std::fprintf(stderr, "    %s, %llu\n", got.error.message().c_str(),
                   static_cast<unsigned long long>(got.count));
    if (!wanted.allows(got.error))
      fail(std::string("answered '") + got.error.category().name() + ": " + got.error.message() +
           "' in" + doing_);
  }
  /// Tells which of the first file descriptors are open.
  static std::bitset<128> open_descriptors() {
    std::bitset<128> open;
    for (std::size_t i = 0; i < open.size(); ++i)
      open[i] = ::fcntl(static_cast<int>(i), F_GETFD) != -1;
    return open;
  }
  static std::string place(const subject& s) {
    return (s.part   ? "segment"
            : s.file ? "file"
                     : "mapping") +
           std::string(!s.of              ? " (none)"
                       : !s.of->is_open   ? " (closed)"
                       : s.of->is_stale() ? " (stale)"
                                          : "");
  }

  // --- choosing ---

  subject any_subject() {
    const std::uint64_t which = in_.below(12);
    subject s;
    if (which < 4) {
      s.map = &maps_[which].handle;
      s.of = maps_[which].of;
    } else if (which < 10) {
      s.file = &files_[which % 4];
      s.of = s.file->of ? *s.file->of : nullptr;
    } else {
      s.part = &segments_[which - 10];
      s.of = s.part->of;
    }
    return s;
  }
  /// One that blocks; a mapped file gives its mapping.
  subject any_blocking(mapping& of_file) {
    subject s = any_subject();
    if (s.file) {
      of_file = s.file->handle.map();
      s.map = &of_file;
      s.file = nullptr;
    }
    return s;
  }
  holder& any_holder() { return held_[in_.below(held_.size())]; }
  holder& free_holder() {
    for (holder& h : held_)
      if (h.is_empty()) return h;
    drop(held_[next_drop_ = (next_drop_ + 1) % held_.size()]);
    return held_[next_drop_];
  }
  const unsigned char* new_bytes(std::size_t n) {
    // They differ from those before, and from place to place.
    fresh_ += 37;
    if (scratch_.size() < n) scratch_.resize(n);
    for (std::size_t i = 0; i < n; ++i)
      scratch_[i] = static_cast<unsigned char>(fresh_ + i * 7 + (i >> 8) * 31);
    return scratch_.data();
  }

  // --- calling ---

  /// Calls, with or without an error_code, a verb that answers nothing else or a number.
  template <class Target, class Verb>
  answer blocking(Target& target, Verb verb) {
    answer got;
    const auto keep = [&](auto call) {
      if constexpr (std::is_void_v<decltype(call())>)
        call();
      else
        got.count = static_cast<std::uint64_t>(call());
    };
    if (!throws_) {
      got.error = std::make_error_code(std::errc::owner_dead);  // to be cleared
      keep([&] { return verb(target, got.error); });
      return got;
    }
    try {
      keep([&] { return verb(target); });
    } catch (const std::system_error& e) {
      got.error = e.code();
    }
    return got;
  }

  enum class interruption { none, handle, terminal, partial, total, close };

  interruption draw_interruption() {
    const std::uint64_t how = in_.byte();
    return how < 200 ? interruption::none : static_cast<interruption>(1 + how % 5);
  }

  template <class Initiate>
  outstanding& initiate(Initiate begin) {
    outstanding& verb = verbs_.emplace_back();
    begin(completion{&verb});
    require(!verb.result, "completes inside the initiation");
    return verb;
  }

  void interrupt(file_slot& slot, outstanding& verb, interruption how, expectation& wanted) {
    using type = asio::cancellation_type;
    switch (how) {
    case interruption::none:
      return;
    case interruption::handle:
      slot.handle.cancel();
      break;
    case interruption::terminal:
      verb.cancel.emit(type::terminal);
      break;
    case interruption::partial:
      verb.cancel.emit(type::partial);
      break;
    case interruption::total:
      verb.cancel.emit(type::total);
      break;
    case interruption::close:
      slot.handle.map().close();
      if (slot.of && *slot.of) (*slot.of)->is_open = false;
      break;
    }
    wanted.may_fail(aborted);
  }

  template <class Initiate>
  answer awaited(file_slot& slot, expectation& wanted, Initiate begin, bool may_close = true) {
    outstanding& verb = initiate(begin);
    const interruption how = draw_interruption();
    interrupt(slot, verb, how == interruption::close && !may_close ? interruption::handle : how,
              wanted);
    return finish(verb);
  }
  answer finish(outstanding& verb) {
    world_.run_until([&] { return verb.result.has_value(); });
    last_region_ = std::move(verb.result->region);
    return *verb.result;
  }

  /// Calls a verb on whatever the subject is.
  template <class Verb, class Initiate>
  answer call(const subject& s, expectation& wanted, Verb verb, Initiate begin) {
    throws_ = in_.flip();
    if (s.file)
      return awaited(*s.file, wanted, [&](completion done) { begin(s.file->handle, done); });
    return s.part ? blocking(s.part->handle, verb) : blocking(*s.map, verb);
  }

  // --- pins ---

  bool is_pinned(const open_model& of, std::uint64_t from) const {
    return std::any_of(held_.begin(), held_.end(), [&](const holder& h) {
      return !h.is_empty() && h.of.get() == &of && h.pinned_until > from;
    });
  }
  void drop_pins(const open_model& of) {
    for (holder& h : held_)
      if (h.of.get() == &of) drop(h);
  }
  void drop(holder& h) {
    if (h.marks && h.pinned_until != 0)
      h.of->mark_dirty(h.pinned_from, h.pinned_until - h.pinned_from);
    h = {};
  }
  void hold(holder::thing what, const opened& of, std::uint64_t offset, std::uint64_t length,
            bool marks = false, std::uint64_t chunk = 0) {
    holder& h = free_holder();
    h.held = std::move(what);
    h.of = of;
    h.offset = h.pinned_from = offset;
    h.length = length;
    h.pinned_until = length == 0 ? 0 : offset + length;
    h.marks = marks && of->is(access::read_write);
    h.chunk = chunk;
  }

  void compare(const open_model& of, std::uint64_t offset, const unsigned char* read,
               std::uint64_t n) const {
    const std::size_t at = of.difference(offset, read, n);
    require(at == n, "byte " + std::to_string(offset + at) + " is wrong");
  }
  void look(const open_model& of, const std::byte* first, std::uint64_t offset,
            std::uint64_t length) {
    if (seen_.size() < length) seen_.resize(length);
    const std::uint64_t n = mapio::guarded_copy(seen_.data(), first, length);
    require(n == of.accessible(offset, length), "guarded_copy stops at the wrong place");
    compare(of, offset, seen_.data(), n);
  }
  template <class Region>
  void look_at_region(const open_model& of, const Region& r, std::uint64_t offset,
                      std::uint64_t length) {
    require(r.offset() == offset && r.size() == length, "the region is another one");
    look(of, r.data(), offset, length);
  }
  template <class Range>
  void look_at_chunks(const holder& h, const Range& range) {
    std::uint64_t at = h.offset;
    const std::uint64_t end = h.offset + h.length;
    std::uint64_t count = 0;
    // Each one is looked at for its bounds, a few for their bytes.
    for (const auto& chunk : range) {
      const std::uint64_t n = std::min(h.chunk, end - at);
      require(chunk.offset() == at && chunk.size() == n, "the chunk is another one");
      if (count++ % 16 == 0) look(*h.of, chunk.data(), at, n);
      if (h.of->is(access::read_write) && std::is_same_v<Range, mapio::mutable_chunk_range>)
        h.of->mark_dirty(at, n);
      at += n;
      if (count == 64) break;
    }
    require(count == 64 || at == end, "there are too few chunks");
    require(range.size() == h.length / h.chunk + (h.length % h.chunk != 0 ? 1 : 0),
            "the number of chunks is wrong");
  }
  void look_at(const holder& h) {
    if (const auto* r = std::get_if<mapio::region>(&h.held))
      look_at_region(*h.of, *r, h.offset, h.length);
    else if (const auto* m = std::get_if<mapio::mutable_region>(&h.held))
      look_at_region(*h.of, *m, h.offset, h.length);
    else if (const auto* chunks = std::get_if<mapio::chunk_range>(&h.held))
      look_at_chunks(h, *chunks);
    else if (const auto* mutable_chunks = std::get_if<mapio::mutable_chunk_range>(&h.held))
      look_at_chunks(h, *mutable_chunks);
  }

  // --- what others see ---

  void check_names() {
    for (std::size_t i = 0; i < names_.size(); ++i) {
      const descriptor file(world_.name(i), O_RDONLY);
      require((file.get() >= 0) == (names_[i] != nullptr),
              "a name is there, or is not, at the end");
      if (names_[i]) require(content_of(file.get()) == names_[i]->content, "a file is wrong");
    }
  }
  /// Takes over what is in the file: somebody wrote behind the back of somebody.
  static void take_over(disk_file& on, int file) {
    bytes content = content_of(file);
    on.resize(content.size());
    on.content = std::move(content);
  }

  void check_dirty(const mapping& m, const opened& of) const {
    if (of && of->is_open && of->dirty_is_known &&
        of->options.policy.kind() == mapio::flush_policy::trigger::manual)
      require(m.pending_bytes() == of->dirty_bytes(), "pending_bytes");
  }
  void check_questions(const mapping& m, const opened& of) {
    const bool open = of && of->is_open;
    require(m.is_open() == open, "is_open");
    require(m.size() == (open ? of->size : 0), "size");
    require(m.empty() == (m.size() == 0), "empty");
    require(m.mode() == (open ? of->options.mode : access::read_only), "mode");
    require((m.native_handle() >= 0) == open, "native_handle");
    require(!m.flush_error(), "flush_error");
    require(m.policy() == (open ? of->options.policy : mapio::flush_policy()), "policy");
    if (!open) {
      require(m.capacity() == 0 && m.path().empty() && m.pending_bytes() == 0, "of a closed one");
      return;
    }
    require(m.path().empty() == of->is_adopted, "path");
    require(m.capacity() >= page_ceil(of->size), "capacity");
    require(!of->is(access::copy_on_write) || m.pending_bytes() == 0, "pending_bytes, private");
    check_dirty(m, of);
    const mapio::file_stats stats = m.stats();
    require(stats.sync_failures == 0, "stats");
    struct stat status {};
    require(::fstat(m.native_handle(), &status) == 0 &&
                static_cast<std::uint64_t>(status.st_size) == of->on->content.size(),
            "the size of the file");
    std::ostringstream text;
    text << m;
    require(!text.str().empty(), "operator<<");
  }

  // --- verbs ---

  void step() {
    switch (in_.below(30)) {
    case 0:
    case 1:
      return open();
    case 2:
      return close();
    case 3:
    case 4:
      return update();
    case 5:
    case 6:
      return read();
    case 7:
      return view();
    case 8:
      return mutable_view();
    case 9:
      return store_through_region();
    case 10:
      return flush();
    case 11:
      return flush_range();
    case 12:
    case 13:
      return resize();
    case 14:
      return refresh();
    case 15:
      return prefetch();
    case 16:
      return change_lock();
    case 17:
      return advise();
    case 18:
      return publish();
    case 19:
      return cut_into_chunks();
    case 20:
      return slice();
    case 21:
      return refer_to_words();
    case 22:
      return use_words();
    case 23:
      return wait_for_word();
    case 24:
      return stream();
    case 25:
      return in_.flip() ? adopt() : release();
    case 26:
      return shuffle_handles();
    case 27:
      return in_.flip() ? shuffle_regions() : ask();
    case 28:
      return act_as_somebody_else();
    case 29:
      return in_.below(4) != 0 ? many_at_once() : use_names();
    }
  }

  open_options any_options() {
    open_options o;
    o.mode = std::array{access::read_write, access::read_only, access::read_write,
                        access::copy_on_write}[in_.below(4)];
    o.create = o.mode == access::read_write || in_.one_in(16)
                   ? static_cast<disposition>(in_.below(4))
                   : disposition::open_existing;
    o.size = in_.size(0);
    if (o.size > largest_file && !in_.one_in(4)) o.size = 0;
    const std::uint64_t more = in_.byte();
    o.reserve = std::array<std::uint64_t, 4>{0, 1, page * (more % 80), 0}[more % 4];
    if (more == 255) o.reserve = too_large;
    const std::uint64_t policy = in_.byte();
    if (policy >= 192)
      o.policy = std::array{
          mapio::flush_policy::always(), mapio::flush_policy::every_bytes(policy % 16 * 512),
          mapio::flush_policy::every_writes(policy % 16),
          mapio::flush_policy::every(std::chrono::milliseconds(policy % 16))}[policy % 4];
    const std::uint64_t flags = in_.byte();
    o.touch = (flags & 1) != 0 ? mapio::prefault::eager : mapio::prefault::never;
    o.writes = static_cast<mapio::write_path>(flags / 2 % 3);
    o.preallocate = (flags & 16) == 0;
    o.announce = (flags & 32) == 0;
    o.huge_pages = (flags & 0xC0) == 0xC0;
    o.follow_symlinks = (flags & 8) == 0;
    return o;
  }
  static bool has_bad_policy(const open_options& o) {
    using trigger = mapio::flush_policy::trigger;
    return o.policy.kind() != trigger::manual && o.policy.kind() != trigger::always &&
           o.policy.threshold() == 0;
  }
  static opened make_model(const std::shared_ptr<disk_file>& on, const open_options& options) {
    auto of = std::make_shared<open_model>();
    of->on = on;
    of->options = options;
    of->size = on->content.size();
    of->is_busy = options.policy.kind() != mapio::flush_policy::trigger::manual;
    if (of->is(access::copy_on_write)) on->private_users.push_back(of);
    return of;
  }
  void check_capacity(const mapping& m, const open_model& of) const {
    const bool fits = !of.is(access::read_write) || of.options.reserve != 0;
    const std::uint64_t asked = of.is(access::read_write) ? of.options.reserve : 0;
    require(fits ? m.capacity() == page_ceil(std::max(of.size, asked))
                 : m.capacity() >= page_ceil(of.size),
            "capacity after open");
    // Less would mean that mappings are left behind, of which a process may have so many.
    require(fits || support::under_tsan || m.capacity() >= std::uint64_t{1} << 30,
            "automatic capacity");
  }

  void open() {
    const std::size_t name = in_.below(names_.size());
    const open_options options = any_options();
    const bool on_file = in_.flip();
    const std::uint64_t slot = in_.below(4);
    const bool exists = names_[name] != nullptr;
    say("open", on_file ? "file" : "mapping", slot, "name", name, "mode",
        static_cast<int>(options.mode), "create", static_cast<int>(options.create), "size",
        options.size, "reserve", options.reserve, "policy", static_cast<int>(options.policy.kind()),
        options.policy.threshold(), "writes", static_cast<int>(options.writes));

    expectation wanted;
    wanted
        .fails(std::errc::invalid_argument,
               options.mode != access::read_write && options.create != disposition::open_existing)
        .fails(std::errc::invalid_argument, has_bad_policy(options))
        .fails(std::errc::file_too_large, options.size > largest_file)
        .fails(std::errc::file_too_large, options.reserve >= too_large)
        .fails(std::errc::no_such_file_or_directory,
               !exists && options.create == disposition::open_existing)
        .fails(std::errc::file_exists, exists && options.create == disposition::create_new);

    answer got;
    if (on_file) {
      if (!files_[slot].of) return;  // moved from: not_open, and nothing to tell
      got = awaited(
          files_[slot], wanted,
          [&](completion done) { files_[slot].handle.open(world_.name(name), options, done); },
          false);  // a close may meet the file of before or this one
    } else {
      throws_ = in_.flip();
      got = blocking(maps_[slot].handle, [&](mapping& m, auto&... error) {
        m.open(world_.name(name), options, error...);
      });
    }
    judge(got, wanted);
    opened of;
    if (!got.error) {
      if (!exists) names_[name] = std::make_shared<disk_file>();
      disk_file& on = *names_[name];
      if (exists && options.create == disposition::create_or_truncate) on.resize(0);
      if (!exists || options.create == disposition::create_or_truncate) on.resize(options.size);
      of = make_model(names_[name], options);
    }
    if (on_file) {
      // Nothing was tried: what was open before still is.
      if (got.error != aborted) *files_[slot].of = of;
    } else {
      maps_[slot].of = of;
    }
    if (of) check_capacity(on_file ? files_[slot].handle.map() : maps_[slot].handle, *of);
  }

  void close() {
    subject s = any_subject();
    say("close", place(s));
    if (s.part) {
      *s.part = {};
      return;
    }
    expectation wanted;
    answer got;
    if (s.file) {
      wanted.fails(errc::not_open, !s.is_open());
      outstanding& verb = initiate([&](completion done) { s.file->handle.close(done); });
      if (in_.one_in(4)) verb.cancel.emit(asio::cancellation_type::terminal);
      // What the policy owes may be waited for no longer; the file is closed all the same.
      wanted.may_fail(aborted, s.is_open() && s.of->is_busy);
      got = finish(verb);
    } else {
      throws_ = in_.flip();
      got = blocking(*s.map, [](mapping& m, auto&... error) { m.close(error...); });
    }
    judge(got, wanted);
    if (s.of) s.of->is_open = false;
  }

  /// Up to three buffers over the same bytes.
  template <class Buffer, class Pointer>
  std::array<Buffer, 3> in_pieces(Pointer first, std::uint64_t n, bool whole) {
    const std::uint64_t a = whole ? n : in_.word() % (n + 1);
    const std::uint64_t b = whole ? 0 : in_.word() % (n - a + 1);
    if (whole) return {Buffer(first, n), Buffer(first, 0), Buffer(first, 0)};
    return {Buffer(first, a), Buffer(first + a, b), Buffer(first + a + b, n - a - b)};
  }

  void update() {
    const subject s = any_subject();
    const std::uint64_t offset = in_.offset(s.size());
    const std::uint64_t n = in_.length(s.size(), offset);
    const bool held = s.holds(offset, n);
    // Of what does not fit nothing may be touched, so that there need not be any memory.
    const unsigned char* const from = new_bytes(held ? n : 1);
    const auto buffers = in_pieces<asio::const_buffer>(from, n, !held || in_.flip());
    say("update", place(s), offset, n);

    expectation wanted;
    wanted.fails(errc::not_open, !s.is_open());
    std::uint64_t reach = 0;
    bool through_file = false;
    if (s.is_open()) {
      wanted.fails(errc::read_only, s.of->is(access::read_only)).fails(errc::out_of_range, !held);
      reach = held ? s.of->accessible(s.base() + offset, n) : 0;
      through_file = s.of->is(access::read_write) &&
                     (s.file || s.of->options.writes == mapio::write_path::file);
      const bool cut = held && s.base() + offset + n > s.of->on->content.size();
      wanted.fails(errc::page_fault, wanted.succeeds() && reach < n)
          .may_fail(errc::page_fault, wanted.succeeds() && cut && through_file && n != 0);
    }
    const answer got = call(
        s, wanted,
        [&](auto& target, auto&... error) {
          return target.update_region(offset, buffers, error...);
        },
        [&](mapped_file& f, completion done) { f.update_region(offset, buffers, done); });
    judge(got, wanted);
    if (!s.of) return;
    std::uint64_t stored = got.count;
    if (got.error == errc::page_fault) {
      s.of->dirty_is_known = false;
      // A call that throws does not say.
      if (throws_ && !s.file) stored = through_file ? 0 : reach;
      require(stored <= reach && (through_file || s.file || stored == reach), "count of a fault");
      if (throws_ && through_file && !s.file && s.of->on) return learn(*s.of);
    } else if (got.error == aborted) {
      require(stored <= n, "count");
      s.of->dirty_is_known = false;
    } else {
      require(stored == (got.error ? 0 : n), "count");
    }
    if (stored == 0) return;
    s.of->store(s.base() + offset, from, stored);
    s.of->mark_dirty(s.base() + offset, stored);
  }

  void read() {
    const subject s = any_subject();
    const std::uint64_t offset = in_.offset(s.size());
    const std::uint64_t n = in_.length(s.size(), offset);
    const bool held = s.holds(offset, n);
    seen_.assign(held ? n : 1, 0xA5);
    const auto buffers = in_pieces<asio::mutable_buffer>(seen_.data(), n, !held || in_.flip());
    say("read", place(s), offset, n);

    expectation wanted;
    wanted.fails(errc::not_open, !s.is_open());
    std::uint64_t reach = 0;
    if (s.is_open()) {
      wanted.fails(errc::out_of_range, !held);
      reach = held ? s.of->accessible(s.base() + offset, n) : 0;
      const bool cut = held && s.base() + offset + n > s.of->on->content.size();
      wanted.fails(errc::page_fault, held && reach < n)
          .may_fail(errc::page_fault, s.file && cut && n != 0);
    }
    const answer got = call(
        s, wanted,
        [&](auto& target, auto&... error) { return target.read_into(offset, buffers, error...); },
        [&](mapped_file& f, completion done) { f.read_into(offset, buffers, done); });
    judge(got, wanted);
    if (!got.error) require(got.count == n, "count");
    if (got.error == errc::page_fault && !s.file && !throws_)
      require(got.count == reach, "count of a fault");
    require(got.count <= n, "count");
    require(!got.error || held || got.count == 0, "count of nothing");
    if (s.of && got.count != 0) compare(*s.of, s.base() + offset, seen_.data(), got.count);
  }

  void view() {
    const subject s = any_subject();
    const std::uint64_t offset = in_.offset(s.size());
    const std::uint64_t n = in_.length(s.size(), offset);
    const bool held = s.holds(offset, n);
    say("view", place(s), offset, n);
    expectation wanted;
    wanted.fails(errc::not_open, !s.is_open()).fails(errc::out_of_range, s.is_open() && !held);
    if (s.file && held) wanted.fails(errc::page_fault, s.of->accessible(s.base() + offset, n) < n);
    mapio::region shown;
    answer got = call(
        s, wanted, [&](auto& target, auto&... error) { shown = target.view(offset, n, error...); },
        [&](mapped_file& f, completion done) { f.view(offset, n, done); });
    judge(got, wanted);
    if (s.file) shown = std::exchange(last_region_, {});
    if (got.error || n == 0) {
      require(shown.empty() && shown.data() == nullptr, "the region is not empty");
      return;
    }
    look_at_region(*s.of, shown, s.base() + offset, n);
    if (s.file && s.is_open()) require_residency(s.file->handle.map(), offset, n);
    hold(std::move(shown), s.of, s.base() + offset, n);
  }
  void require_residency(const mapping& m, std::uint64_t offset, std::uint64_t n) const {
    require(m.is_resident(offset, n), "is_resident after it was brought in");
  }

  void mutable_view() {
    mapping of_file;
    const subject s = any_blocking(of_file);
    const std::uint64_t offset = in_.offset(s.size());
    const std::uint64_t n = in_.length(s.size(), offset);
    const bool held = s.holds(offset, n);
    say("mutable_view", place(s), offset, n);
    expectation wanted;
    wanted.fails(errc::not_open, !s.is_open());
    if (s.is_open())
      wanted.fails(errc::read_only, s.of->is(access::read_only)).fails(errc::out_of_range, !held);
    mapio::mutable_region shown;
    const answer got = call(
        s, wanted,
        [&](auto& target, auto&... error) { shown = target.mutable_view(offset, n, error...); },
        [](mapped_file&, completion) {});
    judge(got, wanted);
    if (got.error || n == 0) {
      require(shown.empty() && shown.data() == nullptr, "the region is not empty");
      return;
    }
    look_at_region(*s.of, shown, s.base() + offset, n);
    hold(std::move(shown), s.of, s.base() + offset, n, true);
  }

  void store_through_region() {
    holder& h = any_holder();
    auto* const r = std::get_if<mapio::mutable_region>(&h.held);
    if (r == nullptr) return look_at(h);
    const std::uint64_t first = in_.word() % (h.length + 1);
    const std::uint64_t n = h.of->accessible(h.offset + first, in_.word() % (h.length - first + 1));
    say("store through a region at", h.offset + first, n);
    const unsigned char* const from = new_bytes(n);
    if (n == 0) return;
    std::memcpy(r->data() + first, from, n);
    h.of->store(h.offset + first, from, n);
  }

  void flush() {
    const subject s = any_subject();
    const durability level = in_.one_in(4) ? durability::started : durability::durable;
    say("flush", place(s), static_cast<int>(level));
    expectation wanted;
    wanted.fails(errc::not_open, !s.is_open())
        .fails(errc::out_of_range, s.part && s.is_open() && !s.holds(0, s.part->length));
    const answer got = call(
        s, wanted, [&](auto& target, auto&... error) { target.flush(level, error...); },
        [&](mapped_file& f, completion done) { f.flush(level, done); });
    judge(got, wanted);
    if (!s.of) return;
    if (got.error == aborted) s.of->dirty_is_known = false;
    if (got.error || level == durability::started) return;
    s.of->mark_clean(s.base(), s.part ? s.part->length : s.of->size);
    if (!s.part && s.is_open()) s.of->dirty_is_known = true;
  }

  void flush_range() {
    const subject s = any_subject();
    const std::uint64_t offset = in_.offset(s.size());
    const std::uint64_t n = in_.length(s.size(), offset);
    const durability level = in_.one_in(4) ? durability::started : durability::durable;
    const bool held = s.holds(offset, n);
    say("flush_range", place(s), offset, n, static_cast<int>(level));
    expectation wanted;
    wanted.fails(errc::not_open, !s.is_open()).fails(errc::out_of_range, s.is_open() && !held);
    const answer got = call(
        s, wanted,
        [&](auto& target, auto&... error) { target.flush_range(offset, n, level, error...); },
        [&](mapped_file& f, completion done) { f.flush_range(offset, n, level, done); });
    judge(got, wanted);
    if (!s.of) return;
    if (got.error == aborted) s.of->dirty_is_known = false;
    if (!got.error && level == durability::durable) s.of->mark_clean(s.base() + offset, n);
  }

  /// What the model cannot know: a library that knew another size has changed the file.
  void learn(const open_model& of) {
    for (std::size_t i = 0; i < names_.size(); ++i)
      if (names_[i] == of.on) return take_over(*of.on, descriptor(world_.name(i), O_RDONLY).get());
    for (const map_slot& m : maps_)
      if (m.of && m.of->on == of.on && m.of->is_open)
        return take_over(*of.on, m.handle.native_handle());
    for (const file_slot& f : files_)
      if (f.of && *f.of && (*f.of)->on == of.on && (*f.of)->is_open)
        return take_over(*of.on, f.handle.native_handle());
  }

  /// A limit that the process has for the sizes of files.
  class size_limit {
   public:
    explicit size_limit(std::uint64_t size) {
      ::getrlimit(RLIMIT_FSIZE, &before_);
      rlimit now = before_;
      now.rlim_cur = size;
      if (size != most) ::setrlimit(RLIMIT_FSIZE, &now);
    }
    size_limit(const size_limit&) = delete;
    size_limit& operator=(const size_limit&) = delete;
    ~size_limit() { ::setrlimit(RLIMIT_FSIZE, &before_); }

   private:
    rlimit before_{};
  };

  void resize() {
    subject s = any_subject();
    mapping of_part;
    if (s.part) {
      of_part = s.part->handle.map();
      s.map = &of_part;
      s.part = nullptr;
    }
    const std::uint64_t size = in_.size(s.size());
    const bool stale = s.is_open() && s.of->is_stale();
    const std::uint64_t limit = !stale && in_.one_in(8) ? page * in_.below(64) : most;
    say("resize", place(s), size, "from", s.size(), "limit", limit);
    expectation wanted = about_resize(s.of, size);
    const bool possible = wanted.succeeds();
    wanted.fails(std::errc::file_too_large, size > limit && size > s.size());
    if (possible &&
        is_blocked(*s.of, s.file ? s.file->handle.capacity() : s.map->capacity(), size)) {
      if (!s.file)
        wanted.fails(errc::pinned);
      else if (wanted.succeeds())
        return wait_for_pins(s, size);
      else
        return;
    }
    const size_limit limited(limit);
    const answer got = call(
        s, wanted, [&](auto& target, auto&... error) { resize_of(target, size, error...); },
        [&](mapped_file& f, completion done) { f.resize(size, done); });
    judge(got, wanted);
    end_resize(s, size, got.error, stale);
  }
  template <class Target, class... Error>
  static void resize_of(Target& target, std::uint64_t size, Error&... error) {
    if constexpr (std::is_same_v<Target, mapping>) target.resize(size, error...);
  }
  static expectation about_resize(const opened& of, std::uint64_t size) {
    expectation wanted;
    wanted.fails(errc::not_open, !of || !of->is_open);
    if (of && of->is_open)
      wanted.fails(errc::read_only, of->is(access::read_only))
          .fails(errc::unsupported, of->is(access::copy_on_write))
          .fails(std::errc::file_too_large, size > largest_file);
    return wanted;
  }
  bool is_blocked(const open_model& of, std::uint64_t capacity, std::uint64_t size) const {
    if (size < of.size) return is_pinned(of, size);
    return size > capacity && is_pinned(of, 0);
  }
  void end_resize(const subject& s, std::uint64_t size, std::error_code error, bool stale) {
    if (!s.of) return;
    if (!error) {
      if (!stale) s.of->on->resize(size);
      s.of->know_size(size);
    }
    if (stale) learn(*s.of);
    // Its counters went with the close.
    if (s.of->is_open) check_questions(s.file ? s.file->handle.map() : *s.map, s.of);
  }

  /// An awaited resize that regions are in the way of.
  void wait_for_pins(const subject& s, std::uint64_t size) {
    const mapping m = s.file->handle.map();
    const bool stale = s.of->is_stale();
    const std::uint64_t before = s.of->size;
    outstanding& verb = initiate([&](completion done) { s.file->handle.resize(size, done); });
    for (int i = 0; i < 3; ++i)
      world_.poll();
    require(!verb.result, "resize does not wait for regions");
    require(m.size() == before, "size while a resize waits");
    std::error_code error;
    if (size < before) {
      static_cast<void>(m.view(size, 1, error));
      require(error == errc::out_of_range, "a view of what is about to be cut");
    }
    static_cast<void>(m.view(0, std::min(size, before), error));
    require(!error, "a view of what stays");
    expectation wanted;
    const interruption how = draw_interruption();
    if (how == interruption::none)
      drop_pins(*s.of);
    else
      interrupt(*s.file, verb, how, wanted);
    const answer got = finish(verb);
    require((how == interruption::none) == !got.error, "a resize that waited");
    judge(got, wanted);
    end_resize(s, size, got.error, stale);
  }

  void refresh() {
    subject s = any_subject();
    mapping of_part;
    if (s.part) {
      of_part = s.part->handle.map();
      s.map = &of_part;
      s.part = nullptr;
    }
    say("refresh", place(s));
    expectation wanted;
    wanted.fails(errc::not_open, !s.is_open());
    std::uint64_t size = 0;
    const std::uint64_t before = s.is_open() ? s.of->size : 0;
    if (s.is_open()) {
      wanted.fails(errc::unsupported, s.of->is(access::copy_on_write));
      size = s.of->on->content.size();
      const std::uint64_t capacity = s.file ? s.file->handle.capacity() : s.map->capacity();
      if (wanted.succeeds() && size > capacity && is_pinned(*s.of, 0)) {
        if (s.file)
          drop_pins(*s.of);
        else
          wanted.fails(errc::pinned);
      }
    }
    const answer got = call(
        s, wanted, [&](auto& target, auto&... error) { return refresh_of(target, error...); },
        [&](mapped_file& f, completion done) { f.refresh(done); });
    judge(got, wanted);
    if (got.error) {
      require(got.count == before || (throws_ && !s.file), "size after a refresh that failed");
      return;
    }
    require(got.count == size, "size of a refresh");
    s.of->know_size(size);
  }
  template <class Target, class... Error>
  static std::uint64_t refresh_of(Target& target, Error&... error) {
    if constexpr (std::is_same_v<Target, mapping>) return target.refresh(error...);
    return 0;
  }

  void prefetch() {
    const subject s = any_subject();
    const bool whole = in_.one_in(3);
    const std::uint64_t offset = whole ? 0 : in_.offset(s.size());
    const std::uint64_t n = whole ? s.size() : in_.length(s.size(), offset);
    const bool held = s.holds(offset, n);
    say("prefetch", place(s), whole, offset, n);
    expectation wanted;
    wanted.fails(errc::not_open, !s.is_open()).fails(errc::out_of_range, s.is_open() && !held);
    if (held) wanted.fails(errc::page_fault, s.of->accessible(s.base() + offset, n) < n);
    const answer got = call(
        s, wanted,
        [&](auto& target, auto&... error) {
          return whole ? target.prefetch(error...) : target.prefetch(offset, n, error...);
        },
        [&](mapped_file& f, completion done) {
          return whole ? f.prefetch(done) : f.prefetch(offset, n, done);
        });
    judge(got, wanted);
    if (got.error || !s.is_open()) return;
    require_residency(s.file   ? s.file->handle.map()
                      : s.part ? s.part->handle.map()
                               : *s.map,
                      s.base() + offset, n);
  }

  void change_lock() {
    const subject s = any_subject();
    const bool locks = in_.flip();
    const bool whole = in_.one_in(3);
    const std::uint64_t offset = whole ? 0 : in_.offset(s.size());
    const std::uint64_t n = whole ? s.size() : in_.length(s.size(), offset);
    const bool held = s.holds(offset, n);
    // It would give the mapping pages of its own, which the model does not follow.
    if (mlock_works && s.of && s.of->is(access::copy_on_write)) return;
    say(locks ? "lock" : "unlock", place(s), whole, offset, n);
    expectation wanted;
    wanted.fails(errc::not_open, !s.is_open()).fails(errc::out_of_range, s.is_open() && !held);
    if (locks && held)
      wanted.fails(errc::page_fault, s.of->accessible(s.base() + offset, n) < n)
          .may_fail(std::errc::not_enough_memory, mlock_works)
          .may_fail(std::errc::operation_not_permitted, mlock_works);
    const answer got = call(
        s, wanted,
        [&](auto& target, auto&... error) {
          if (whole) return locks ? target.lock_pages(error...) : target.unlock_pages(error...);
          return locks ? target.lock_pages(offset, n, error...)
                       : target.unlock_pages(offset, n, error...);
        },
        [&](mapped_file& f, completion done) {
          if (whole) return locks ? f.lock_pages(done) : f.unlock_pages(done);
          return locks ? f.lock_pages(offset, n, done) : f.unlock_pages(offset, n, done);
        });
    judge(got, wanted);
    if (!s.of || n == 0) return;
    // Who gave up may have unlocked all the same.
    if (got.error && (locks || got.error != aborted)) return;
    const std::uint64_t first = (s.base() + offset) / page;
    const std::uint64_t last = (s.base() + offset + n - 1) / page;
    for (std::uint64_t p = first; p <= last; ++p) {
      if (locks)
        s.of->locked_pages.insert(p);
      else if (!got.error)
        s.of->locked_pages.erase(p);
    }
  }

  void advise() {
    mapping of_file;
    const subject s = any_blocking(of_file);
    const std::uint64_t offset = in_.offset(s.size());
    const std::uint64_t n = in_.length(s.size(), offset);
    const auto what = static_cast<advice>(in_.below(9));
    const bool held = s.holds(offset, n);
    const bool is_known = what <= advice::huge_pages;
    say("advise", place(s), offset, n, static_cast<int>(what));
    expectation wanted;
    wanted.fails(errc::not_open, !s.is_open()).fails(errc::out_of_range, s.is_open() && !held);
    if (s.is_open()) {
      wanted.fails(errc::unsupported, what == advice::dont_need && s.of->is(access::copy_on_write))
          .may_fail(errc::unsupported, what == advice::huge_pages && n != 0);
      if (n != 0)
        wanted.fails(std::errc::invalid_argument, !is_known)
            .may_fail(std::errc::invalid_argument,
                      mlock_works && (what == advice::dont_need || what == advice::cold) &&
                          !s.of->locked_pages.empty());
    }
    const answer got = call(
        s, wanted, [&](auto& target, auto&... error) { target.advise(offset, n, what, error...); },
        [](mapped_file&, completion) {});
    judge(got, wanted);
  }

  void publish() {
    mapping of_file;
    const subject s = any_blocking(of_file);
    const std::uint64_t offset = in_.offset(s.size());
    const std::uint64_t n = in_.length(s.size(), offset);
    const bool held = s.holds(offset, n);
    say("publish", place(s), offset, n);
    expectation wanted;
    wanted.fails(errc::not_open, !s.is_open()).fails(errc::out_of_range, s.is_open() && !held);
    wanted.fails(errc::read_only, s.is_open() && s.of->is(access::read_only));
    const answer got = call(
        s, wanted, [&](auto& target, auto&... error) { target.publish(offset, n, error...); },
        [](mapped_file&, completion) {});
    judge(got, wanted);
    if (!got.error) s.of->mark_dirty(s.base() + offset, n);
  }

  void cut_into_chunks() {
    mapping of_file;
    const subject s = any_blocking(of_file);
    const std::uint64_t size =
        std::array<std::uint64_t, 8>{0, 1, 7, 512, page, 5000, 70'000, most}[in_.below(8)];
    const bool to_write = in_.flip();
    say(to_write ? "mutable_chunks" : "chunks", place(s), size);
    expectation wanted;
    wanted.fails(errc::not_open, !s.is_open());
    if (s.is_open())
      wanted.fails(std::errc::invalid_argument, size == 0)
          .fails(errc::out_of_range, !s.holds(0, s.size()))
          .fails(errc::read_only, to_write && s.of->is(access::read_only));
    holder::thing range;
    const answer got = call(
        s, wanted,
        [&](auto& target, auto&... error) {
          if (to_write)
            range = target.mutable_chunks(size, error...);
          else
            range = target.chunks(size, error...);
        },
        [](mapped_file&, completion) {});
    judge(got, wanted);
    if (got.error) return;
    // The range pins; only its chunks make anything dirty.
    hold(std::move(range), s.of, s.base(), s.size(), false, size);
  }

  void slice() {
    mapping of_file;
    const subject s = any_blocking(of_file);
    const std::uint64_t offset = in_.offset(s.size());
    const std::uint64_t n = in_.length(s.size(), offset);
    const bool held = s.holds(offset, n);
    segment_slot& to = segments_[in_.below(segments_.size())];
    say("slice", place(s), offset, n);
    expectation wanted;
    wanted.fails(errc::not_open, !s.is_open()).fails(errc::out_of_range, s.is_open() && !held);
    const std::uint64_t base = s.base();
    const opened of = s.of;
    segment made;
    const answer got = call(
        s, wanted, [&](auto& target, auto&... error) { made = target.slice(offset, n, error...); },
        [](mapped_file&, completion) {});
    judge(got, wanted);
    to = {};
    to.handle = std::move(made);
    if (!got.error) {
      to.of = of;
      to.offset = base + offset;
      to.length = n;
    }
    require(to.handle.size() == to.length && to.handle.offset() == to.offset, "segment");
  }

  // --- integers ---

  template <class T>
  void refer_to(mapping& m, const opened& of, std::uint64_t offset) {
    expectation wanted = about_words(of, offset, sizeof(T), 1);
    mapio::atomic_view<T> view;
    const answer got = blocking(
        m, [&](mapping& target, auto&... error) { view = target.atomic<T>(offset, error...); });
    judge(got, wanted);
    require(view.empty() == static_cast<bool>(got.error), "empty view");
    if (!got.error) hold(std::move(view), of, offset, sizeof(T), true);
  }
  static expectation about_words(const opened& of, std::uint64_t offset, std::uint64_t size,
                                 std::uint64_t count) {
    expectation wanted;
    const bool open = of && of->is_open;
    wanted.fails(errc::not_open, !open)
        .fails(errc::misaligned, open && offset % size != 0)
        .fails(errc::out_of_range,
               open && (count > most / size || !of->holds(offset, count * size)));
    return wanted;
  }
  void refer_to_words() {
    mapping of_file;
    subject s = any_blocking(of_file);
    if (s.part) return;
    std::uint64_t offset = in_.offset(s.size());
    if (!in_.one_in(4)) offset &= ~std::uint64_t{7};
    throws_ = in_.flip();
    say("atomic", place(s), offset);
    const std::uint64_t kind = in_.below(3);
    if (kind == 0) return refer_to<std::uint32_t>(*s.map, s.of, offset);
    if (kind == 1) return refer_to<std::uint64_t>(*s.map, s.of, offset);
    const std::uint64_t count = in_.length(s.size() / 4, offset / 4);
    expectation wanted = about_words(s.of, offset, 4, count);
    mapio::atomic_span<std::uint32_t> span;
    const answer got = blocking(*s.map, [&](mapping& target, auto&... error) {
      span = target.atomics<std::uint32_t>(offset, count, error...);
    });
    judge(got, wanted);
    require(span.size() == (got.error ? 0 : count), "size of a span");
    if (!got.error) hold(std::move(span), s.of, offset, count * 4, true);
  }

  void use_words() {
    holder& h = any_holder();
    say("use words at", h.offset);
    if (const auto* a = std::get_if<mapio::atomic_view<std::uint32_t>>(&h.held))
      use_word<std::uint32_t>(*h.of, h.offset, *a);
    else if (const auto* b = std::get_if<mapio::atomic_view<std::uint64_t>>(&h.held))
      use_word<std::uint64_t>(*h.of, h.offset, *b);
    else if (const auto* c = std::get_if<mapio::atomic_span<std::uint32_t>>(&h.held);
             c != nullptr && !c->empty()) {
      const std::uint64_t i = in_.word() % c->size();
      use_word<std::uint32_t>(*h.of, h.offset + 4 * i, (*c)[i]);
    } else {
      drop(h);
    }
  }
  template <class T>
  void use_word(open_model& of, std::uint64_t offset, const mapio::atomic_reference<T>& word) {
    if (of.accessible(offset, sizeof(T)) < sizeof(T)) {
      if constexpr (sizeof(T) == 4) {
        std::error_code error;
        word.notify_all(error);
        require(error == (of.is(access::read_only)       ? errc::read_only
                          : of.is(access::copy_on_write) ? errc::unsupported
                                                         : errc::page_fault),
                "notify where there is no file");
      }
      return;
    }
    T value = word.load();
    compare(of, offset, reinterpret_cast<const unsigned char*>(&value), sizeof value);
    const auto n = static_cast<T>(in_.word() * 0x01010101U);
    std::error_code error;
    T wanted = value;
    try {
      switch (in_.below(5)) {
      case 0:
        word.store(n);
        wanted = n;
        break;
      case 1:
        require(word.fetch_add(n) == value, "fetch_add");
        wanted = static_cast<T>(value + n);
        break;
      case 2:
        require(word.exchange(n) == value, "exchange");
        wanted = n;
        break;
      case 3: {
        T expected = value;
        require(word.compare_exchange_strong(expected, n), "compare_exchange");
        wanted = n;
        break;
      }
      default:
        require(word.fetch_xor(n) == value, "fetch_xor");
        wanted = static_cast<T>(value ^ n);
      }
    } catch (const std::system_error& e) {
      error = e.code();
    }
    require(error ==
                (of.is(access::read_only) ? make_error_code(errc::read_only) : std::error_code()),
            "a change of an integer");
    require(word.load() == wanted, "an integer");
    if (!error) of.store(offset, reinterpret_cast<const unsigned char*>(&wanted), sizeof wanted);
  }

  void wait_for_word() {
    file_slot& slot = files_[in_.below(files_.size())];
    const opened of = slot.of ? *slot.of : nullptr;
    const std::uint64_t offset = in_.offset(of ? of->size : 0) & ~std::uint64_t{3};
    say("wait for a word at", offset);
    std::error_code error;
    std::optional<mapio::atomic_cell<std::uint32_t>> cell(
        slot.handle.atomic<std::uint32_t>(offset, error));
    judge({error, 0, {}}, about_words(of, offset, 4, 1));
    if (error) return;
    const bool accessible = of->accessible(offset, 4) == 4;
    const std::uint32_t value = accessible ? cell->load() : 0;
    const bool differs = in_.one_in(4);
    outstanding& verb =
        initiate([&](completion done) { cell->wait(differs ? value + 1 : value, done); });
    expectation wanted;
    wanted.fails(errc::unsupported, of->is(access::copy_on_write));
    wanted.fails(errc::page_fault, wanted.succeeds() && !accessible);
    if (differs || !wanted.succeeds()) {
      judge(finish(verb), wanted);
    } else {
      for (int i = 0; i < 3; ++i)
        world_.poll();
      require(!verb.result, "a wait ends for nothing");
      if (in_.flip()) cell.reset();
      if (of->is(access::read_write)) {
        slot.handle.map().resize(offset, error);
        require(error == errc::pinned, "a shrink goes past a wait");
      }
      interruption how = draw_interruption();
      if (how == interruption::none && !of->is(access::read_write)) how = interruption::handle;
      if (how == interruption::none) {
        const auto word = slot.handle.map().atomic<std::uint32_t>(offset);
        const std::uint32_t changed = value + 1;
        word.store(changed);
        word.notify_one();
        of->store(offset, reinterpret_cast<const unsigned char*>(&changed), 4);
      } else {
        interrupt(slot, verb, how, wanted);
        wanted.fails(aborted);
      }
      judge(finish(verb), wanted);
    }
    of->mark_dirty(offset, 4);
  }

  // --- streams ---

  void stream() {
    stream_slot& s = streams_[in_.below(streams_.size())];
    if (!s.stream || in_.one_in(4)) {
      file_slot& from = files_[in_.below(files_.size())];
      s = {};
      s.chunk = std::array<std::uint64_t, 8>{
          page, 0, 7, 5000, 10'000, 70'000, most, 2 * page}[in_.below(8)];
      const std::size_t ahead = in_.below(4) * in_.below(3);
      say("chunk stream of", s.chunk, "ahead", ahead);
      s.stream.emplace(from.handle.chunks(s.chunk, ahead));
      s.handle = from.of;
      s.of = from.of ? *from.of : nullptr;
      if (s.of) s.of->is_busy = true;
      return;
    }
    say("next chunk of", s.chunk, "at", s.position);
    const bool open = s.of && s.of->is_open && *s.handle == s.of;
    expectation wanted;
    wanted.fails(errc::not_open, !open)
        .may_fail(std::errc::invalid_argument, s.chunk == 0)
        .fails(std::errc::invalid_argument, open && s.chunk == 0);
    std::uint64_t n = 0;
    if (open && s.chunk != 0 && s.position < s.of->size) {
      n = std::min(s.chunk, s.of->size - s.position);
      wanted.fails(errc::page_fault, s.of->accessible(s.position, n) < n);
    }
    outstanding& verb = initiate([&](completion done) { s.stream->next(done); });
    if (in_.one_in(4)) {
      verb.cancel.emit(in_.flip() ? asio::cancellation_type::terminal
                                  : asio::cancellation_type::total);
      wanted.may_fail(aborted);
    }
    const answer got = finish(verb);
    judge(got, wanted);
    mapio::region shown = std::exchange(last_region_, {});
    if (got.error || n == 0) {
      require(shown.empty(), "the chunk is not empty");
      return;
    }
    look_at_region(*s.of, shown, s.position, n);
    s.position += n;
    hold(std::move(shown), s.of, shown_offset(s.position, n), n);
  }
  static std::uint64_t shown_offset(std::uint64_t position, std::uint64_t n) {
    return position - n;
  }

  // --- handles ---

  void release() {
    map_slot& slot = maps_[in_.below(maps_.size())];
    const bool open = slot.of && slot.of->is_open;
    say("release");
    expectation wanted;
    wanted.fails(errc::not_open, !open);
    if (open)
      wanted.fails(errc::pinned, is_pinned(*slot.of, 0)).may_fail(errc::pinned, slot.of->is_busy);
    throws_ = in_.flip();
    int file = -1;
    const answer got = blocking(slot.handle, [&](mapping& m, auto&... error) {
      file = m.release(error...);
      return 0;
    });
    judge(got, wanted);
    require((file >= 0) == !got.error, "what release gives");
    if (got.error) return;
    const descriptor owned(file);
    slot.of->is_open = false;
    require(content_of(file) == slot.of->on->content, "a file that was released");
  }

  void adopt() {
    const std::size_t name = in_.below(names_.size());
    const std::uint64_t kind = in_.below(8);
    const open_options options = any_options();
    const std::uint64_t slot = in_.below(4);
    constexpr std::array<int, 8> flags{
        O_RDWR, O_RDWR, O_RDONLY, O_RDONLY, O_WRONLY, O_RDWR | O_APPEND, 0, O_RDWR};
    if (!names_[name] && kind < 6) return;
    say("adopt name", name, "kind", kind, "mode", static_cast<int>(options.mode), "size",
        options.size, "create", static_cast<int>(options.create));
    const bool is_folder = kind == 6;
    const bool is_none = kind == 7;
    descriptor file(is_folder ? world_.folder() : world_.name(name),
                    is_folder ? O_RDONLY | O_DIRECTORY : flags[kind]);
    const bool writes = options.mode == access::read_write;
    expectation wanted;
    wanted.fails(std::errc::invalid_argument, has_bad_policy(options))
        .fails(std::errc::file_too_large, options.reserve >= too_large)
        .fails(std::errc::bad_file_descriptor, is_none)
        .fails(std::errc::is_a_directory, is_folder)
        .fails(std::errc::permission_denied, kind == 4 || (writes && (kind == 2 || kind == 3)))
        .fails(errc::unsupported, kind == 5 && writes);
    mapping made;
    std::error_code error;
    made = mapping::adopt(is_none ? -1 : file.get(), options, error);
    judge({error, 0, {}}, wanted);
    require(made.is_open() == !error, "adopt");
    if (error) return;
    file.release();
    const opened of = make_model(names_[name], options);
    of->is_adopted = true;
    check_capacity(made, *of);
    if (in_.flip())
      files_[slot] = {mapped_file(world_.loop(in_.flip()).get_executor(), made),
                      std::make_shared<opened>(of)};
    else
      maps_[slot] = {made, of};
  }

  void shuffle_handles() {
    const std::uint64_t from = in_.below(4);
    const std::uint64_t to = in_.below(4);
    const std::uint64_t how = in_.below(8);
    say("handles", how, from, to);
    switch (how) {
    case 0:
      maps_[to] = maps_[from];
      require(maps_[to].handle == maps_[from].handle, "==");
      return;
    case 1:
      if (from == to) return;
      maps_[to] = std::move(maps_[from]);
      maps_[from].of = nullptr;
      require(!maps_[from].handle.is_open(), "moved from");
      return;
    case 2:
      files_[to] = files_[from];
      return;
    case 3:
      if (from == to) return;
      files_[to] = std::move(files_[from]);
      require(!files_[from].handle.is_open() && files_[from].handle.size() == 0, "moved from");
      return;
    case 4:
      maps_[to] = {files_[from].handle.map(), files_[from].of ? *files_[from].of : nullptr};
      if (maps_[to].of && !maps_[to].of->is_open) maps_[to].of = nullptr;
      return;
    case 5:
      files_[to] = {mapped_file(world_.loop(in_.flip()).get_executor(), maps_[from].handle),
                    std::make_shared<opened>(maps_[from].of)};
      return;
    case 6:
      maps_[to] = {};
      return;
    case 7:
      files_[to] = {mapped_file(world_.loop(in_.flip())), std::make_shared<opened>()};
      return;
    }
  }

  void shuffle_regions() {
    holder& h = any_holder();
    const std::uint64_t how = in_.below(4);
    say("regions", how);
    if (how == 0 || h.is_empty()) return drop(h);
    holder copy = h;
    copy.marks = h.marks;
    const std::uint64_t first = in_.word() % (h.length + 2);
    if (auto* const r = std::get_if<mapio::region>(&copy.held)) {
      const std::uint64_t n = in_.word() % (h.length + 2);
      const std::uint64_t moved = std::min(first, h.length);
      copy.offset += moved;
      copy.length -= moved;
      if (how == 1) {
        *r = r->subregion(first, n);
        copy.length = std::min(copy.length, n);
      } else {
        *r += first;
      }
      look_at_region(*copy.of, *r, copy.offset, copy.length);
    } else if (auto* const m = std::get_if<mapio::mutable_region>(&copy.held)) {
      *m += first;
      copy.offset += std::min(first, h.length);
      copy.length -= std::min(first, h.length);
      look_at_region(*copy.of, *m, copy.offset, copy.length);
    }
    if (how == 3) drop(h);
    holder& to = free_holder();
    to = std::move(copy);
  }

  void ask() {
    const std::uint64_t slot = in_.below(4);
    say("ask", slot);
    check_questions(maps_[slot].handle, maps_[slot].of);
    const file_slot& f = files_[slot];
    const opened of = f.of ? *f.of : nullptr;
    check_questions(f.handle.map(), of);
    require(f.handle.size() == f.handle.map().size() &&
                f.handle.capacity() == f.handle.map().capacity(),
            "a file and its mapping");
  }

  // --- others ---

  void act_as_somebody_else() {
    const std::size_t name = in_.below(names_.size());
    const std::uint64_t how = in_.below(6);
    if (!names_[name]) return;
    disk_file& on = *names_[name];
    say("somebody else", how, name);
    const descriptor file(world_.name(name), O_RDWR);
    const std::uint64_t at = in_.word() * 4 % largest_file;
    const std::uint64_t n = 1 + in_.word() % 8000;
    switch (how) {
    case 0:
    case 1: {
      const bool grows = at > on.content.size();
      require(::ftruncate(file.get(), static_cast<off_t>(at)) == 0, "ftruncate");
      on.resize(at);
      if (grows) take_over(on, file.get());  // on some file systems the last page has old bytes
      return;
    }
    case 2:
    case 3: {
      const std::uint64_t before = on.content.size();
      const unsigned char* const from = new_bytes(n);
      require(::pwrite(file.get(), from, n, static_cast<off_t>(at)) == static_cast<ssize_t>(n),
              "pwrite");
      if (at + n > before) on.resize(at + n);
      std::copy_n(from, n, on.content.begin() + static_cast<std::ptrdiff_t>(at));
      if (at > before) take_over(on, file.get());
      return;
    }
    case 4: {
      // Behind the end, in the last page: what grows there later must not show it.
      const std::uint64_t end = on.content.size();
      if (end % page == 0) return;
      void* const last = ::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(),
                                static_cast<off_t>(page_floor(end)));
      require(last != MAP_FAILED, "mmap");
      std::memset(static_cast<char*>(last) + end % page, 0x5A, page - end % page);
      ::munmap(last, page);
      return;
    }
    default:
      if (in_.one_in(4)) {
        require(::unlink(world_.name(name).c_str()) == 0, "unlink");
        names_[name] = nullptr;
        return;
      }
      if (::fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      static_cast<off_t>(at), static_cast<off_t>(n)) == 0)
        for (std::uint64_t i = at; i < std::min<std::uint64_t>(at + n, on.content.size()); ++i)
          on.content[i] = 0;
    }
  }

  void use_names() {
    const std::size_t from = in_.below(names_.size());
    const std::size_t to = in_.below(names_.size());
    asio::io_context& loop = world_.loop(in_.flip());
    const bool removes = in_.one_in(3);
    mapio::copy_file_options options;
    options.overwrite = in_.flip();
    options.durable = in_.one_in(4);
    say(removes ? "remove_file" : "copy_file", from, to, options.overwrite);
    expectation wanted;
    wanted.fails(std::errc::no_such_file_or_directory, !names_[from]);
    if (!removes && names_[from])
      wanted.fails(std::errc::invalid_argument, from == to)
          .fails(std::errc::file_exists, names_[to] && !options.overwrite);
    outstanding& verb = initiate([&](completion done) {
      if (removes)
        mapio::remove_file(loop, world_.name(from), done);
      else
        mapio::copy_file(loop, world_.name(from), world_.name(to), options, done);
    });
    if (in_.one_in(4)) {
      verb.cancel.emit(asio::cancellation_type::terminal);
      wanted.may_fail(aborted);
    }
    const answer got = finish(verb);
    judge(got, wanted);
    if (got.error) return;
    if (removes) {
      names_[from] = nullptr;
      return;
    }
    require(got.count == names_[from]->content.size(), "bytes of a copy");
    auto copy = std::make_shared<disk_file>();
    copy->content = names_[from]->content;
    names_[to] = std::move(copy);
  }

  // --- many verbs at once ---

  /// One of several that are under way at the same time. Each has a part of the file of its own.
  struct one_of_many {
    std::uint64_t kind = 0;
    file_slot* on = nullptr;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    std::uint64_t size = 0;  // of a resize
    bytes buffer;
    outstanding* verb = nullptr;
    answer got;
    expectation wanted;
  };

  void many_at_once() {
    file_slot& first = files_[in_.below(files_.size())];
    const opened of = first.of ? *first.of : nullptr;
    if (!of || !of->is_open || of->is_stale()) return;
    say("many at once, size", of->size);
    std::vector<file_slot*> handles;
    for (file_slot& f : files_)
      if (f.of && *f.of == of) handles.push_back(&f);

    std::vector<one_of_many> many(2 + in_.below(7));
    const std::uint64_t capacity = first.handle.capacity();
    std::uint64_t least = of->size;
    for (one_of_many& one : many) {
      one.kind = in_.below(12);
      one.on = handles[in_.below(handles.size())];
      if (one.kind < 2) {
        one.size = in_.word() * 4 % (largest_file + 1);
        // Those that nothing is in the way of, whatever comes before.
        if (is_pinned(*of, one.size) || (one.size > capacity && is_pinned(*of, 0)))
          one.size = of->size;
        if (is_pinned(*of, std::min(one.size, of->size))) one.kind = 2;
        if (one.kind < 2) least = std::min(least, one.size);
      }
    }
    // A mapping that moves would wait for the region that one of the others got.
    if (std::any_of(many.begin(), many.end(), [](const one_of_many& one) { return one.kind == 8; }))
      for (one_of_many& one : many)
        one.size = std::min(one.size, capacity);
    const std::uint64_t lane = least / many.size();
    for (std::size_t i = 0; i < many.size(); ++i) {
      many[i].offset = lane * i + in_.byte() % (lane + 1);
      many[i].length = in_.word() % (lane * (i + 1) - many[i].offset + 1);
      begin(many[i], *of);
    }
    if (in_.one_in(4)) {
      // All of it, or the file with it.
      const bool closes = in_.flip();
      if (closes)
        first.handle.map().close();
      else
        first.handle.cancel();
      for (one_of_many& one : many)
        one.wanted.may_fail(aborted);
      if (closes) of->is_open = false;
    }
    for (one_of_many& one : many)
      if (one.verb) one.got = finish_many(one);
    for (one_of_many& one : many)
      end(one, *of);
    of->dirty_is_known = false;
    of->is_busy = true;
    if (of->is_open) check_questions(first.handle.map(), of);
  }
  answer finish_many(one_of_many& one) {
    answer got = finish(*one.verb);
    got.region = std::exchange(last_region_, {});
    return got;
  }

  void begin(one_of_many& one, const open_model& of) {
    mapped_file& f = one.on->handle;
    const bool writes = of.is(access::read_write);
    mapping m = f.map();
    if (tracing)
      std::fprintf(
          stderr, "    %llu at %llu, %llu; %llu\n", static_cast<unsigned long long>(one.kind),
          static_cast<unsigned long long>(one.offset), static_cast<unsigned long long>(one.length),
          static_cast<unsigned long long>(one.size));
    switch (one.kind) {
    case 0:
    case 1:
      one.wanted = about_resize(*one.on->of, one.size);
      one.verb = &initiate([&](completion done) { f.resize(one.size, done); });
      break;
    case 2:
    case 3: {
      one.wanted.fails(errc::read_only, of.is(access::read_only));
      const unsigned char* const from = new_bytes(one.length);
      one.buffer.assign(from, from + one.length);
      one.verb = &initiate(
          [&](completion done) { f.update_region(one.offset, asio::buffer(one.buffer), done); });
      break;
    }
    case 4:
      one.buffer.resize(one.length);
      one.verb = &initiate(
          [&](completion done) { f.read_into(one.offset, asio::buffer(one.buffer), done); });
      break;
    case 5:
      one.verb = &initiate([&](completion done) { f.flush(done); });
      break;
    case 6:
      one.verb = &initiate([&](completion done) { f.flush_range(one.offset, one.length, done); });
      break;
    case 7:
      one.verb = &initiate([&](completion done) { f.prefetch(one.offset, one.length, done); });
      break;
    case 8:
      one.verb = &initiate([&](completion done) { f.view(one.offset, one.length, done); });
      break;
    case 9:
      if (!mlock_works)
        one.verb = &initiate([&](completion done) { f.lock_pages(one.offset, one.length, done); });
      break;
    case 10:
      m.flush_range(one.offset, one.length, one.got.error);
      break;
    default: {
      // Blocking ones in between.
      const unsigned char* const from = new_bytes(one.length);
      one.buffer.assign(from, from + one.length);
      if (writes)
        one.got.count = m.update_region(one.offset, asio::buffer(one.buffer), one.got.error);
      else
        one.buffer.clear();
    }
    }
    if (one.verb && in_.one_in(6)) {
      one.verb->cancel.emit(in_.flip() ? asio::cancellation_type::terminal
                                       : asio::cancellation_type::total);
      one.wanted.may_fail(aborted);
    }
  }

  void end(one_of_many& one, open_model& of) {
    judge(one.got, one.wanted);
    switch (one.kind) {
    case 0:
    case 1:
      if (one.got.error) return;
      of.on->resize(one.size);
      of.know_size(one.size);
      return;
    case 2:
    case 3:
    case 11:
      require(one.got.count <= one.length &&
                  (one.got.error || one.kind == 11 || one.got.count == one.length),
              "count of one of many");
      if (one.got.count != 0) of.store(one.offset, one.buffer.data(), one.got.count);
      return;
    case 4:
      if (!one.got.error) compare(of, one.offset, one.buffer.data(), one.length);
      return;
    case 8:
      if (!one.got.error && one.length != 0) {
        look_at_region(of, one.got.region, one.offset, one.length);
        hold(std::move(one.got.region), *one.on->of, one.offset, one.length);
      }
      return;
    case 9:
      for (std::uint64_t p = one.offset / page; p * page < one.offset + one.length; ++p)
        of.locked_pages.insert(p);
      return;
    default:
      return;
    }
  }

  input in_;
  surroundings& world_;
  const std::bitset<128> open_before_ = open_descriptors();
  std::array<std::shared_ptr<disk_file>, 3> names_;
  std::array<map_slot, 4> maps_;
  std::array<file_slot, 4> files_;
  std::array<segment_slot, 2> segments_;
  std::array<holder, 8> held_;
  std::array<stream_slot, 2> streams_;
  std::deque<outstanding> verbs_;
  bytes scratch_;
  bytes seen_;
  std::uint64_t fresh_ = 0;
  std::size_t next_drop_ = 0;
  mapio::region last_region_;  // of the last awaited verb
  bool throws_ = false;
  std::string doing_;
};

}  // namespace
}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::session(data, size).run();
  return 0;
}
