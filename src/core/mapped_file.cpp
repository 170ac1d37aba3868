#include <mapio/mapped_file.hpp>

#include "engine.hpp"
#include "file_operations.hpp"
#include "file_state.hpp"
#include "watch_stream.hpp"

#include <asio/error.hpp>

#include <array>
#include <cstddef>
#include <functional>
#include <mutex>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace {

bool start_open(operation& op) noexcept {
  op.what = call::work;
  op.work = [](operation* self) noexcept {
    auto& open = static_cast<open_operation&>(*self);
    open.error = file_state::open(open.path, open.options, open.opened);
  };
  op.done = [](operation* self) noexcept {
    auto& open = static_cast<open_operation&>(*self);
    if (open.opened) open.opened->used_by(open.home);
    // As with mapping::open, what was open before is let go of either way, unless nothing was
    // tried.
    if (!open.dropped && open.error != asio::error::operation_aborted)
      open.owner->file(std::move(open.opened));
    finish(open);
  };
  return submit(op);
}

bool start_any(operation& op) noexcept {
  const bool needs_handle =
      op.kind != verb::copy_file && op.kind != verb::remove_file && op.kind != verb::next_change;
  if ((needs_handle && !op.owner) || !op.home) {
    op.error = errc::not_open;
    return true;
  }
  if (op.home->is_foreign()) {
    op.error = errc::unsupported;
    return true;
  }
  op.error = op.home->ensure_started();
  if (op.error) return true;
  op.runner = op.home.get();
  if (op.kind == verb::copy_file) return start_copy(static_cast<copy_operation&>(op));
  if (op.kind == verb::remove_file) return start_remove(static_cast<remove_operation&>(op));
  if (op.kind == verb::next_change) return start_next(static_cast<change_operation&>(op));
  if (op.kind == verb::open) return start_open(op);
  op.file = op.owner->file();
  if (!op.file || !op.file->is_open()) {
    op.error = errc::not_open;
    return true;
  }
  op.file->used_by(op.home);
  return op.file->start(op);
}

}  // namespace

bool start(operation& op) noexcept {
  if (!start_any(op)) return false;
  let_go(op);
  return true;
}

namespace {

// A slot and its operation can both go at any moment, so that what protects their link must be in
// neither. Many links share a mutex; it is held for as long as it takes to take an operation out of
// a queue.
std::mutex& link_mutex(const operation* op) noexcept {
  struct alignas(64) stripe {
    std::mutex mutex;
  };
  static std::array<stripe, 64> stripes;
  return stripes[std::hash<const operation*>()(op) / alignof(std::max_align_t) % stripes.size()]
      .mutex;
}

}  // namespace

cancel_link::cancel_link(operation& op, std::atomic<cancel_link*>& end) noexcept
    : key_(&op), end_(&end) {
  end.store(this, std::memory_order_release);
}

cancel_link::~cancel_link() {
  std::lock_guard lock(link_mutex(key_));
  if (end_ != nullptr) end_->store(nullptr, std::memory_order_release);
}

void cancel_link::cut_connected(operation& op, std::atomic<cancel_link*>& end) noexcept {
  std::lock_guard lock(link_mutex(&op));
  if (cancel_link* const link = end.load(std::memory_order_relaxed)) link->end_ = nullptr;
}

void cancel(cancel_link& link, asio::cancellation_type_t type) noexcept {
  operation* withdrawn = nullptr;
  auto from = engine::withdrawal::none;
  {
    std::lock_guard lock(link_mutex(link.key_));
    if (link.end_ == nullptr) return;
    operation* const op = link.key_;
    if (!op->home) return;
    // Total cancellation promises that nothing happened: always true of what only brings pages in
    // or takes back what it did, and of the rest while they are queued. A read has changed the
    // caller's buffers.
    const bool may_interrupt =
        (type & (asio::cancellation_type::terminal | asio::cancellation_type::partial)) !=
            asio::cancellation_type::none ||
        op->kind == verb::view || op->kind == verb::prefetch || op->kind == verb::next_chunk ||
        op->kind == verb::lock_pages || op->kind == verb::copy_file || op->kind == verb::resize ||
        op->kind == verb::wait_word || op->kind == verb::next_change;
    from = op->home->cancel(*op, !may_interrupt);
    withdrawn = op;
  }
  if (from != engine::withdrawal::none) engine::end_withdrawn(*withdrawn, from);
}

void cancel_all(const std::shared_ptr<handle_state>& handle,
                const std::shared_ptr<engine>& home) noexcept {
  const auto same_handle = [](const operation& op, const void* what) {
    return op.owner.get() == what;
  };
  home->cancel_if(same_handle, handle.get());
}

}  // namespace detail
MAPIO_NAMESPACE_END
