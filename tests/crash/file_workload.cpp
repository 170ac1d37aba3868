#include "file_workload.hpp"

#include <mapio/mapio.hpp>

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

namespace crash {

namespace {

using asio::use_awaitable;

constexpr std::size_t page = 4096;
constexpr std::size_t words_per_page = page / word_size;
constexpr std::size_t shared_pages = 160;
constexpr std::size_t sharers = 28;  // coroutines
constexpr std::size_t blockers = 3;  // threads
constexpr std::size_t resizers = 4;  // coroutines
constexpr std::size_t creators = 3;  // coroutines
constexpr std::size_t finders = 1;   // coroutines
constexpr std::size_t loafers = 1;   // coroutines that never flush

/// Knows what was written to a file, so as to say what a flush makes durable.
class tracked_file {
 public:
  tracked_file(ledger& book, const std::string& name)
      : book_(book), number_(book.add_file(name)), name_(name) {}

  const std::string& name() const noexcept { return name_; }

  /// The bytes of [begin, end) in words, in a version that is newer than any before.
  std::vector<std::uint64_t> next_content(std::uint64_t begin, std::uint64_t end,
                                          std::uint32_t& version) {
    version = ++last_version_;
    std::vector<std::uint64_t> words;
    for (std::uint64_t w = begin; w < end; ++w)
      words.push_back(word_of(number_, w, version));
    return words;
  }

  /// The write of a content is complete.
  void written(std::uint64_t begin, std::uint64_t end, std::uint32_t version) {
    const std::lock_guard lock(mutex_);
    if (words_.size() < end) words_.resize(static_cast<std::size_t>(end));
    std::fill(words_.begin() + static_cast<std::ptrdiff_t>(begin),
              words_.begin() + static_cast<std::ptrdiff_t>(end), version);
  }

  /// What a flush of [begin, end) in words that begins now will make durable.
  event promise_of(std::uint64_t begin = 0, std::uint64_t end = ~std::uint64_t{0}) const {
    const std::lock_guard lock(mutex_);
    event e;
    e.file = number_;
    e.size = size_;
    e.cut = cut_;
    e.cut_version = cut_version_;
    end = std::min<std::uint64_t>(end, words_.size());
    while (begin < end) {
      run r{begin, begin, words_[static_cast<std::size_t>(begin)]};
      while (r.end < end && words_[static_cast<std::size_t>(r.end)] == r.version)
        ++r.end;
      if (r.version != 0) e.content.push_back(r);
      begin = r.end;
    }
    return e;
  }

  void keep(event e) {
    {
      const std::lock_guard lock(mutex_);
      cut_.reset();
    }
    book_.record(std::move(e));
  }

  /// Before a resize.
  void resizing(std::uint64_t size) {
    {
      const std::lock_guard lock(mutex_);
      const auto kept = static_cast<std::size_t>(size / word_size);
      if (size_ && size < *size_) {
        if (words_.size() > kept) words_.resize(kept);
        cut_ = std::min(size, cut_.value_or(size));
        cut_version_ = last_version_;
      }
    }
    event e;
    e.kind = event::what::resizing;
    e.file = number_;
    e.size = size;
    book_.record(std::move(e));
  }
  /// After it, or after the file was created.
  void has_size(std::uint64_t size) {
    const std::lock_guard lock(mutex_);
    size_ = size;
  }

 private:
  ledger& book_;
  std::uint32_t number_;
  std::string name_;
  std::atomic<std::uint32_t> last_version_{0};
  mutable std::mutex mutex_;
  std::vector<std::uint32_t> words_;
  std::optional<std::uint64_t> size_;
  std::optional<std::uint64_t> cut_;
  std::uint32_t cut_version_ = 0;
};

/// Everything that the actors share.
class stage {
 public:
  stage(const file_workload& what, const std::filesystem::path& folder, ledger& book)
      : what_(what), folder_(folder), book_(book), shared_(book, "shared") {}

  void run();

 private:
  using random_engine = std::mt19937_64;

  random_engine random_of(std::uint64_t actor) const {
    return random_engine(what_.seed * 1000 + actor);
  }
  mapio::open_options creating(std::uint64_t size, random_engine& random) const;

  asio::awaitable<void> flush(mapio::mapped_file& file, tracked_file& t);
  asio::awaitable<void> make_durable_for_control(mapio::mapped_file& file);
  asio::awaitable<void> flush_range(mapio::mapped_file& file, tracked_file& t, std::uint64_t begin,
                                    std::uint64_t end);
  asio::awaitable<void> update(mapio::mapped_file& file, tracked_file& t, std::uint64_t begin,
                               std::uint64_t end);
  asio::awaitable<void> update_some(mapio::mapped_file& file, tracked_file& t, std::uint64_t pages,
                                    random_engine& random);

  asio::awaitable<void> start(asio::io_context& io);
  asio::awaitable<void> share(mapio::mapped_file file, std::size_t actor);
  asio::awaitable<void> loaf(mapio::mapped_file file, std::size_t actor);
  asio::awaitable<void> resize(std::size_t actor);
  asio::awaitable<void> create(std::size_t actor);
  asio::awaitable<void> find(std::size_t actor);
  void block(mapio::mapping m, std::size_t actor);

  // Pages of the shared file belong to one actor each: overlapping updates would be a race.
  std::size_t own_page(std::size_t actor, random_engine& random) const {
    constexpr std::size_t actors = sharers + loafers + blockers;
    const std::size_t count = (shared_pages - actor + actors - 1) / actors;
    return actor + actors * (random() % count);
  }

  file_workload what_;
  std::filesystem::path folder_;
  ledger& book_;
  tracked_file shared_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::exception_ptr failure_;
};

mapio::open_options stage::creating(std::uint64_t size, random_engine& random) const {
  mapio::open_options options;
  options.mode = mapio::access::read_write;
  options.create = mapio::disposition::create_new;
  options.size = size;
  options.preallocate = random() % 4 != 0;
  options.writes = std::array{mapio::write_path::automatic, mapio::write_path::mapped,
                              mapio::write_path::file}[random() % 3];
  return options;
}

asio::awaitable<void> stage::flush(mapio::mapped_file& file, tracked_file& t) {
  event e = t.promise_of();
  if (what_.sync == promise::flush)
    co_await file.flush(use_awaitable);
  else if (what_.sync == promise::started)
    co_await file.flush(mapio::durability::started, use_awaitable);
  t.keep(std::move(e));
}

// A control is to lose content and sizes, which is harder than to lose a name.
asio::awaitable<void> stage::make_durable_for_control(mapio::mapped_file& file) {
  if (what_.sync != promise::flush) co_await file.flush(use_awaitable);
}

asio::awaitable<void> stage::flush_range(mapio::mapped_file& file, tracked_file& t,
                                         std::uint64_t begin, std::uint64_t end) {
  event e = t.promise_of(begin, end);
  const std::uint64_t at = begin * word_size;
  const std::uint64_t length = (end - begin) * word_size;
  if (what_.sync == promise::flush)
    co_await file.flush_range(at, length, use_awaitable);
  else if (what_.sync == promise::started)
    co_await file.flush_range(at, length, mapio::durability::started, use_awaitable);
  t.keep(std::move(e));
}

asio::awaitable<void> stage::update(mapio::mapped_file& file, tracked_file& t, std::uint64_t begin,
                                    std::uint64_t end) {
  std::uint32_t version = 0;
  const auto words = t.next_content(begin, end, version);
  co_await file.update_region(begin * word_size, asio::buffer(words), use_awaitable);
  t.written(begin, end, version);
}

asio::awaitable<void> stage::update_some(mapio::mapped_file& file, tracked_file& t,
                                         std::uint64_t pages, random_engine& random) {
  for (auto n = random() % 3 + 1; n != 0; --n) {
    const std::uint64_t at = (random() % pages) * words_per_page;
    const std::uint64_t begin = at + random() % (words_per_page / 2);
    co_await update(file, t, begin, at + words_per_page - random() % (words_per_page / 2));
  }
}

// --- actors
// ---------------------------------------------------------------------------------------

asio::awaitable<void> stage::share(mapio::mapped_file file, std::size_t actor) {
  random_engine random = random_of(actor);
  for (std::size_t round = 0; round < what_.rounds; ++round) {
    std::uint64_t at = 0;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    for (auto n = random() % 3 + 1; n != 0; --n) {
      at = own_page(actor, random) * words_per_page;
      begin = at + random() % words_per_page;
      end = begin + 1 + random() % (at + words_per_page - begin);
      co_await update(file, shared_, begin, end);
    }
    switch (random() % 8) {
    case 0:
      co_await flush(file, shared_);
      break;
    case 1: {
      // More than what is one's own: what others have written there is flushed with it.
      const std::uint64_t all = shared_pages * words_per_page;
      co_await flush_range(file, shared_, at, std::min(all, at + 8 * words_per_page));
      break;
    }
    case 2:
      co_await flush_range(file, shared_, begin, end);  // no whole pages
      break;
    default:
      co_await flush_range(file, shared_, at, at + words_per_page);
    }
  }
}

asio::awaitable<void> stage::loaf(mapio::mapped_file file, std::size_t actor) {
  random_engine random = random_of(actor);
  for (std::size_t round = 0; round < what_.rounds; ++round) {
    const std::uint64_t at = own_page(actor, random) * words_per_page;
    co_await update(file, shared_, at, at + words_per_page);
    if (round % 4 == 0)
      co_await file.flush_range(at * word_size, page, mapio::durability::started, use_awaitable);
    asio::steady_timer pause(co_await asio::this_coro::executor, std::chrono::milliseconds(2));
    co_await pause.async_wait(use_awaitable);
  }
}

asio::awaitable<void> stage::resize(std::size_t actor) {
  random_engine random = random_of(actor);
  tracked_file t(book_, "resized-" + std::to_string(actor));
  mapio::mapped_file file(co_await asio::this_coro::executor);
  const std::uint64_t first = page * (random() % 8);
  co_await file.open(folder_ / t.name(), creating(first, random), use_awaitable);
  co_await make_durable_for_control(file);
  t.has_size(first);
  for (std::size_t round = 0; round < what_.rounds; ++round) {
    for (auto n = random() % 2 + 1; n != 0; --n) {
      std::uint64_t size = page * (random() % 24);
      if (random() % 2 == 0) size += word_size * (random() % words_per_page);
      t.resizing(size);
      co_await file.resize(size, use_awaitable);
      t.has_size(size);
    }
    const std::uint64_t pages = file.size() / page;
    if (pages != 0) co_await update_some(file, t, pages, random);
    // Sometimes nothing but the size is due.
    if (pages == 0 || random() % 3 == 0) {
      co_await flush(file, t);
    } else {
      const std::uint64_t at = (random() % pages) * words_per_page;
      co_await flush_range(file, t, at, at + words_per_page);
    }
  }
  co_await file.close(use_awaitable);
}

asio::awaitable<void> stage::create(std::size_t actor) {
  random_engine random = random_of(actor);
  for (std::size_t round = 0; round < what_.rounds / 2; ++round) {
    tracked_file t(book_, "created-" + std::to_string(actor) + "-" + std::to_string(round));
    const std::uint64_t pages = random() % 6 + 1;
    mapio::mapped_file file(co_await asio::this_coro::executor);
    co_await file.open(folder_ / t.name(), creating(pages * page, random), use_awaitable);
    co_await make_durable_for_control(file);
    t.has_size(pages * page);
    for (auto n = random() % 3; n != 0; --n) {
      if (random() % 4 != 0) co_await update_some(file, t, pages, random);
      if (random() % 2 == 0) {
        co_await flush(file, t);
      } else {
        const std::uint64_t at = (random() % pages) * words_per_page;
        co_await flush_range(file, t, at, at + words_per_page);
      }
    }
    co_await file.close(use_awaitable);
  }
}

// A file that somebody else wrote, synced and renamed is as durable as can be, under its old name.
asio::awaitable<void> stage::find(std::size_t actor) {
  random_engine random = random_of(actor);
  for (std::size_t round = 0; round < what_.rounds / 2; ++round) {
    tracked_file t(book_, "found-" + std::to_string(actor) + "-" + std::to_string(round));
    const std::uint64_t words = words_per_page * (random() % 3 + 1);
    std::uint32_t version = 0;
    const auto content = t.next_content(0, words, version);
    const std::filesystem::path before = folder_ / "not-found";
    {
      const auto fd = support::open_fd(before, O_WRONLY | O_CREAT | O_TRUNC);
      const std::size_t bytes = content.size() * word_size;
      if (::pwrite(fd.get(), content.data(), bytes, 0) != static_cast<ssize_t>(bytes) ||
          ::fsync(fd.get()) != 0)
        throw std::system_error(errno, std::system_category(), before.string());
    }
    std::filesystem::rename(before, folder_ / t.name());

    mapio::open_options options;
    options.mode = mapio::access::read_write;
    options.create = mapio::disposition::open_or_create;
    mapio::mapped_file file(co_await asio::this_coro::executor);
    co_await file.open(folder_ / t.name(), options, use_awaitable);
    t.has_size(words * word_size);
    t.written(0, words, version);
    if (random() % 2 == 0)
      co_await flush(file, t);
    else
      co_await flush_range(file, t, 0, words_per_page);
    co_await file.close(use_awaitable);
  }
}

void stage::block(mapio::mapping m, std::size_t actor) {
  random_engine random = random_of(actor);
  for (std::size_t round = 0; round < what_.rounds; ++round) {
    const std::uint64_t at = own_page(actor, random) * words_per_page;
    std::optional<mapio::mutable_region> r = m.mutable_view(at * word_size, page);
    std::uint32_t version = 0;
    const auto words = shared_.next_content(at, at + words_per_page, version);
    std::memcpy(r->data(), words.data(), page);
    shared_.written(at, at + words_per_page, version);
    // What is stored counts, whether the region lives on or not.
    if (random() % 2 == 0) r.reset();
    const auto level =
        what_.sync == promise::started ? mapio::durability::started : mapio::durability::durable;
    const bool whole = random() % 4 == 0;
    event e = whole ? shared_.promise_of() : shared_.promise_of(at, at + words_per_page);
    if (what_.sync != promise::nothing) {
      if (whole)
        m.flush(level);
      else
        m.flush_range(at * word_size, page, level);
    }
    shared_.keep(std::move(e));
  }
}

// --- all together
// ---------------------------------------------------------------------------------

asio::awaitable<void> stage::start(asio::io_context& io) {
  random_engine random = random_of(999);
  mapio::open_options options = creating(shared_pages * page, random);
  options.preallocate = what_.seed % 2 == 0;
  options.writes = mapio::write_path::automatic;
  mapio::mapped_file file(io);
  co_await file.open(folder_ / shared_.name(), options, use_awaitable);
  co_await make_durable_for_control(file);
  shared_.has_size(shared_pages * page);

  const auto begin = [&](asio::awaitable<void> actor) {
    asio::co_spawn(io, std::move(actor), [&](std::exception_ptr e) {
      if (!e) return;
      const std::lock_guard lock(mutex_);
      failure_ = std::move(e);
      io.stop();
    });
  };
  std::size_t actor = 0;
  if (what_.only_names) {
    begin(create(actor++));
    begin(find(actor++));
    co_return;
  }
  for (std::size_t i = 0; i < sharers; ++i)
    begin(share(file, actor++));
  for (std::size_t i = 0; i < loafers; ++i)
    begin(loaf(file, actor++));
  for (std::size_t i = 0; i < blockers; ++i)
    threads_.emplace_back([this, m = file.map(), n = actor++] {
      try {
        block(m, n);
      } catch (...) {
        const std::lock_guard lock(mutex_);
        failure_ = std::current_exception();
      }
    });
  for (std::size_t i = 0; i < resizers; ++i)
    begin(resize(actor++));
  // These sync for real, whatever the promise, and a flush of the disk is for everybody: a control
  // with them would keep what it is to lose.
  if (what_.sync != promise::flush) co_return;
  for (std::size_t i = 0; i < creators; ++i)
    begin(create(actor++));
  for (std::size_t i = 0; i < finders; ++i)
    begin(find(actor++));
}

void stage::run() {
  {
    asio::io_context io;
    if (what_.engine != mapio::backend_kind::automatic) mapio::use_backend(io, what_.engine);
    asio::co_spawn(io, start(io), [](std::exception_ptr e) {
      if (e) std::rethrow_exception(e);
    });
    std::exception_ptr failure;
    try {
      io.run();
    } catch (...) {
      failure = std::current_exception();
    }
    for (std::thread& t : threads_)
      t.join();
    if (failure) std::rethrow_exception(failure);
  }
  if (failure_) std::rethrow_exception(failure_);
}

}  // namespace

void file_workload::run(const std::filesystem::path& folder, ledger& book) const {
  stage(*this, folder, book).run();
}

}  // namespace crash
