#include "watch_hub.hpp"

#include "file_state.hpp"
#include "loop_turn.hpp"

#include <mapio/error.hpp>

#include <cstdint>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace {

// Of the clock by which files get their times, in nanoseconds.
constexpr std::int64_t longest_tick = 10'000'000;
constexpr std::int64_t coarsest_tick = 2'000'000'000;

}  // namespace

watch_hub::watch_hub(asio::execution_context& context, std::shared_ptr<engine> home)
    : context_(context), home_(std::move(home)),
      source_(watching::make_watch_source(context, [this] { on_loop(wake_up::news); })),
      finder_(*source_) {
  timer_ = std::make_unique<timer>(inline_executor(context));
  work_.what = call::work;
  work_.work = [](operation* op) noexcept {
    auto& work = static_cast<work_operation&>(*op);
    work.goes_on = work.hub->run(true);
  };
  work_.done = [](operation* op) noexcept {
    auto& work = static_cast<work_operation&>(*op);
    const std::shared_ptr<watch_hub> hub = std::move(work.hub);
    if (work.dropped)
      hub->rest();
    else
      hub->go_on_or_rest(work.goes_on);
  };
}

// --- what users ask for
// ------------------------------------------------------------------------------------------------

void watch_hub::request(std::function<void(change_finder&)> what) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    requests_.push_back(std::move(what));
  }
  kick();
}

void watch_hub::add(const std::shared_ptr<watch_stream>& stream, const std::filesystem::path& path,
                    const watch_options& options, const std::shared_ptr<file_state>& file) {
  auto root = std::make_shared<std::unique_ptr<watched_root>>(
      std::make_unique<watched_root>(*stream, path, options, file));
  (*root)->begin = watching::file_clock();
  const std::shared_ptr<const void> placing = finder_.begin_placing();
  const std::uint64_t misses = finder_.misses();
  change_finder::placed_watches placed = finder_.place((*root)->place);
  std::error_code error = placed.error;
  if (!error && !placed.look.exists && !options.allow_missing)
    error = make_error_code(std::errc::no_such_file_or_directory);
  if (error) {
    request([placing, placed](change_finder& finder) { finder.release(placed); });
    throw std::system_error(error, "mapio::watcher::add: " + path.string());
  }
  // It may have changed since it was opened.
  if (file && placed.look.exists) file->note_found(placed.look);
  if (placed.limit) stream->note_fallback(path, placed.limit);
  // Its content is told apart by the times of files then.
  if (placed.look.is_folder && (options.recursive || placed.limit))
    watching::let_pass((*root)->begin);
  else
    (*root)->begin -= longest_tick;
  // A file system that knows no fractions: all of that time is after it, too.
  if (placed.look.exists && placed.look.changed % 1'000'000'000 == 0)
    (*root)->begin -= (*root)->begin % coarsest_tick + 1;
  request([=, placing = placing](change_finder& finder) {
    if (!stream->is_closed()) return finder.add(stream, std::move(*root), placed, misses);
    finder.release(placed);
  });
}

bool watch_hub::request_removal(const std::shared_ptr<watch_stream>& stream,
                                const std::filesystem::path& path) {
  std::lock_guard lock(mutex_);
  if (stopping_) return false;
  requests_.push_back([=](change_finder& finder) {
    finder.remove(*stream, path);
    stream->has_removed(path);
  });
  return true;
}

void watch_hub::forget(const std::shared_ptr<watch_stream>& stream) noexcept {
  try {
    request([=](change_finder& finder) { finder.remove(*stream); });
  } catch (...) {
    // It stays until the context goes.
  }
}

// --- who has the finder
// ------------------------------------------------------------------------------------------------

// By the loop itself: it runs a handler.
void watch_hub::on_loop(wake_up why) {
  loop_turn here(context_);
  {
    std::lock_guard lock(mutex_);
    if (why == wake_up::news)
      is_armed_ = false;
    else
      timed_for_ = watch_clock::time_point::max();
  }
  wake(false);
  here.end();
}

void watch_hub::kick() noexcept {
  wake(true);
}

void watch_hub::wake(bool may_wait) noexcept {
  if (is_foreign()) return;
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    again_ = true;
    if (is_taken_) return;
    is_taken_ = true;
  }
  if (may_wait) return go_on_elsewhere();
  go_on_or_rest(run(false));
}

void watch_hub::go_on_elsewhere() noexcept {
  work_.hub = shared_from_this();
  work_.dropped = false;
  if (home_->run_in_background(work_)) return;
  work_.hub.reset();
  rest();
}

void watch_hub::take_requests() {
  std::vector<std::function<void(change_finder&)>> requests;
  {
    std::lock_guard lock(mutex_);
    requests.swap(requests_);
  }
  for (const auto& request : requests)
    request(finder_);
}

change_finder::outcome watch_hub::turn(bool may_wait) noexcept {
  auto outcome = change_finder::outcome::more;
  try {
    finder_.read();
    // Whoever asked before the OS saw what was just read must not miss it.
    take_requests();
    outcome = finder_.work(may_wait);
  } catch (...) {
    // What was about to be told is found again by looking.
    finder_.lose_everything();
  }
  for (operation* op : finder_.take_over())
    finish(*op);
  return outcome;
}

/// True: there is more to do, on a worker.
bool watch_hub::run(bool may_wait) noexcept {
  // A worker is shared with others.
  constexpr int most_turns = 16;
  for (int turns = 1;; ++turns) {
    {
      std::lock_guard lock(mutex_);
      if (stopping_) return false;
      again_ = false;
    }
    const auto outcome = turn(may_wait);
    if (outcome == change_finder::outcome::has_to_wait) return true;
    // On the loop, others first: what is left in the source makes it readable again.
    if (outcome == change_finder::outcome::done || !may_wait) return false;
    if (turns == most_turns) return true;
  }
}

void watch_hub::go_on_or_rest(bool goes_on) noexcept {
  bool is_over = false;
  // It asks the streams, and a stream that is waited for comes here with its lock held.
  const auto deadline = goes_on ? watch_clock::time_point::max() : finder_.next_deadline();
  {
    std::lock_guard lock(mutex_);
    if (!stopping_ && !goes_on && !again_) {
      is_taken_ = false;
      deadline_ = deadline;
      return arm();
    }
    is_over = stopping_;
  }
  is_over ? rest() : go_on_elsewhere();
}

// --- waiting for news
// ------------------------------------------------------------------------------------------------

void watch_hub::next_waits() noexcept {
  std::lock_guard lock(mutex_);
  ++waiting_;
  if (!is_taken_) arm();
}

void watch_hub::next_is_over() noexcept {
  std::lock_guard lock(mutex_);
  --waiting_;
  // Whoever has the finder does that when it is done; the next one is likely to come by then.
  if (!is_taken_) arm();
}

void watch_hub::arm() noexcept {
  if (stopping_) return;
  const bool is_wanted = waiting_ > 0;
  if (is_wanted && !is_armed_) is_armed_ = source_->arm();
  if (!is_wanted && is_armed_) source_->disarm();
  const auto deadline = is_wanted ? deadline_ : watch_clock::time_point::max();
  if (deadline == timed_for_) return;
  timed_for_ = watch_clock::time_point::max();
  try {
    timer_->cancel();
    if (deadline == watch_clock::time_point::max()) return;
    timer_->expires_at(deadline);
    timer_->async_wait([this](const asio::error_code& error) {
      if (!error) on_loop(wake_up::time);
    });
    timed_for_ = deadline;
  } catch (...) {
    // Whoever arms it next has more memory.
  }
}

// --- the end
// ------------------------------------------------------------------------------------------------

void watch_hub::rest() noexcept {
  {
    std::lock_guard lock(mutex_);
    is_taken_ = false;
    if (!stopping_) return;
  }
  finder_.clear();
}

void watch_hub::shut_down() noexcept {
  if (is_foreign()) {
    // A lock may have been held at the fork, and the reactor is shared with the parent: all of it
    // goes with the child.
    static_cast<void>(source_.release());
    static_cast<void>(timer_.release());
    return;
  }
  std::vector<std::function<void(change_finder&)>> requests;
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    source_->shut_down();
    timer_.reset();
    requests.swap(requests_);
    if (is_taken_) return;
  }
  finder_.clear();
}

// --- one for each context
// ------------------------------------------------------------------------------------------------

namespace {

class watch_service final : public asio::execution_context::service {
 public:
  static asio::execution_context::id id;

  explicit watch_service(asio::execution_context& context)
      // The engine is made first, and so shut down after this.
      : service(context), hub_(std::make_shared<watch_hub>(context, engine_of(context))) {}

  const std::shared_ptr<watch_hub>& hub() const noexcept { return hub_; }

 private:
  void shutdown() noexcept override { hub_->shut_down(); }

  const std::shared_ptr<watch_hub> hub_;
};

asio::execution_context::id watch_service::id;

void expect_usable(const std::shared_ptr<watch_stream>& stream) {
  if (!stream || stream->is_closed()) throw std::system_error(errc::not_open, "mapio::watcher");
  if (stream->hub()->is_foreign()) throw std::system_error(errc::unsupported, "mapio::watcher");
}

}  // namespace

std::shared_ptr<watch_stream> make_watch_stream(asio::execution_context& context,
                                                std::size_t capacity) {
  return std::make_shared<watch_stream>(asio::use_service<watch_service>(context).hub(), capacity);
}

void add_watch(const std::shared_ptr<watch_stream>& stream, const std::filesystem::path& path,
               const watch_options& options, const std::shared_ptr<file_state>& file) {
  expect_usable(stream);
  stream->hub()->add(stream, path, options, file);
}

void remove_watch(const std::shared_ptr<watch_stream>& stream, const std::filesystem::path& path) {
  expect_usable(stream);
  stream->remove(path);
}

void cancel_next(const std::shared_ptr<watch_stream>& stream) noexcept {
  if (stream && !stream->hub()->is_foreign()) stream->cancel();
}

void close_watch(const std::shared_ptr<watch_stream>& stream) noexcept {
  if (!stream || stream->is_closed() || stream->hub()->is_foreign()) return;
  stream->close();
  stream->hub()->forget(stream);
}

std::vector<watch_fallback> fallbacks_of(const std::shared_ptr<watch_stream>& stream) {
  return stream ? stream->fallbacks() : std::vector<watch_fallback>();
}

}  // namespace detail
MAPIO_NAMESPACE_END
