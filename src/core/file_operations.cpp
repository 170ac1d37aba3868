#include "file_operations.hpp"

#include "engine.hpp"
#include "platform/platform.hpp"

#include <asio/error.hpp>

#include <memory>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// A copy that has begun; what there is of it goes away with this, unless it was put in its place.
class file_copier {
 public:
  file_copier() = default;
  file_copier(const file_copier&) = delete;
  file_copier& operator=(const file_copier&) = delete;
  ~file_copier() { platform::abandon_copy(copy_); }

  std::error_code begin(const copy_operation& op) {
    return platform::begin_copy(op.from, op.to, op.options, copy_);
  }
  /// Copies what comes next; `copied` counts all of it.
  std::error_code copy_next(std::uint64_t& copied) noexcept {
    return platform::copy_next(copy_, copied);
  }
  bool has_all(std::uint64_t copied) const noexcept {
    return copy_.is_at_end || (copy_.size != 0 && copied >= copy_.size);
  }
  std::error_code end(std::uint64_t copied, const copy_file_options& options) {
    return platform::end_copy(copy_, copied, options);
  }

 private:
  platform::file_copy copy_;
};

namespace {

// What is copied before others get their turn.
constexpr std::uint64_t bytes_per_turn = std::uint64_t{8} << 20;

enum copy_step : std::uint8_t { in_queue, turn_is_over, copy_is_over };

void end_copying(copy_operation& op, std::error_code error) noexcept {
  op.copier.reset();
  op.error = error;
  op.step = copy_is_over;
}

std::error_code copy_for_a_turn(copy_operation& op) {
  if (!op.copier) {
    op.copier = std::make_shared<file_copier>();
    if (std::error_code error = op.copier->begin(op)) return error;
  }
  const std::uint64_t before = op.transferred;
  for (;;) {
    if (op.cancel_requested.load(std::memory_order_relaxed)) return asio::error::operation_aborted;
    if (op.copier->has_all(op.transferred)) break;
    if (op.transferred - before >= bytes_per_turn) return {};
    if (std::error_code error = op.copier->copy_next(op.transferred)) return error;
    if (op.options.progress != nullptr)
      op.options.progress->store(op.transferred, std::memory_order_relaxed);
  }
  if (std::error_code error = op.copier->end(op.transferred, op.options)) return error;
  op.step = copy_is_over;
  return {};
}

void take_turn(operation* self) noexcept {
  auto& op = static_cast<copy_operation&>(*self);
  op.step = turn_is_over;
  std::error_code error;
  try {
    error = copy_for_a_turn(op);
  } catch (const std::system_error& e) {
    error = e.code();
  } catch (...) {
    error = make_error_code(std::errc::not_enough_memory);
  }
  if (error || op.step == copy_is_over) end_copying(op, error);
}

void copy_done(operation* self) noexcept {
  auto& op = static_cast<copy_operation&>(*self);
  // One that was cancelled in the queue when a part of it was done goes on, to find that out: its
  // files are closed and removed off the loop as well, unless nothing carries out calls any more.
  if (op.step == in_queue && (op.dropped || !op.copier))
    end_copying(op, asio::error::operation_aborted);
  if (op.step == copy_is_over) return finish(op);
  op.step = in_queue;
  op.runner->submit(op);
}

}  // namespace

bool start_copy(copy_operation& op) noexcept {
  op.what = call::work;
  op.step = in_queue;
  op.work = take_turn;
  op.done = copy_done;
  return submit(op);
}

bool start_remove(remove_operation& op) noexcept {
  op.what = call::work;
  op.work = [](operation* self) noexcept {
    self->error = platform::remove(static_cast<remove_operation*>(self)->path);
  };
  op.done = [](operation* self) noexcept { finish(*self); };
  return submit(op);
}

}  // namespace detail
MAPIO_NAMESPACE_END
