#include <mapio/atomic.hpp>

#include "engine.hpp"
#include "file_state.hpp"
#include "platform/words.hpp"

#include <mapio/mapping.hpp>

#include <asio/error.hpp>

#include <limits>
#include <utility>

MAPIO_NAMESPACE_BEGIN

detail::pinned_words mapping::pin_words(std::uint64_t offset, std::size_t size, std::size_t count,
                                        detail::failure& why) const noexcept {
  if (!is_open()) {
    why = errc::not_open;
    return {};
  }
  if (offset % size != 0) {
    why = errc::misaligned;
    return {};
  }
  if (count > std::numeric_limits<std::uint64_t>::max() / size) {
    why = errc::out_of_range;
    return {};
  }
  detail::pinned_words words;
  words.offset = offset;
  words.mode = state_->mode();
  // As for a mutable region: private stores are nobody's dirty pages.
  const bool is_dirty = words.mode == access::read_write && count != 0;
  detail::extent* where = nullptr;
  words.holder = state_->pin_range(offset, count * size, is_dirty ? detail::pin_slot::writable : 0,
                                   where, why);
  if (why != detail::no_failure || count == 0) return {};
  words.first = where->base() + offset;
  return words;
}

namespace detail {

// --- blocking
// --------------------------------------------------------------------------------------------------------------

void refuse_use(const char* what) {
  throw_failure(errc::not_open, what);
}

void refuse_change(const void* word, const char* what) {
  throw_failure(word == nullptr ? errc::not_open : errc::read_only, what);
}

void throw_if(const std::error_code& error, const char* what) {
  if (error) throw_error(error, what);
}

std::error_code wait_while(const void* word, std::uint32_t value, access mode) noexcept {
  if (word == nullptr) return errc::not_open;
  if (mode == access::copy_on_write) return errc::unsupported;
  const platform::seen_word seen{static_cast<const std::uint32_t*>(word), value};
  for (;;) {
    std::uint32_t now = 0;
    if (!platform::load_word(seen.address, now)) return errc::page_fault;
    if (now != value) return {};
    if (std::error_code error = platform::wait_for_word(seen)) return error;
  }
}

std::error_code notify(const void* word, bool all, access mode) noexcept {
  if (word == nullptr) return errc::not_open;
  if (mode == access::read_only) return errc::read_only;
  if (mode == access::copy_on_write) return errc::unsupported;
  return platform::wake_word(static_cast<const std::uint32_t*>(word), all);
}

// --- awaited
// ---------------------------------------------------------------------------------------------------------------

// True: the wait is over, since the value is another one or there is none any more.
bool file_state::look_at_word(operation& op) noexcept {
  std::uint32_t now = 0;
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): aligned, and bytes of a file
  const auto* word = reinterpret_cast<const std::uint32_t*>(op.range.owner()->base() + op.offset);
  if (platform::load_word(word, now)) return now != op.at;
  page_faults_.fetch_add(1, std::memory_order_relaxed);
  op.error = errc::page_fault;
  return true;
}

bool file_state::start_wait(operation& op) noexcept {
  if (options_.mode == access::copy_on_write) {
    op.error = errc::unsupported;
    return true;
  }
  const bool is_writable = options_.mode == access::read_write;
  extent* e = nullptr;
  failure why{};
  // Not as an operation's: those end by themselves. Dirty, since to the kernel it is.
  op.range = pin_range(op.offset, op.length, is_writable ? pin_slot::writable : 0, e, why);
  if (why != no_failure) {
    op.error = error_of(why);
    return true;
  }
  if (e->base() + op.offset != op.address) {
    op.error = errc::not_open;  // the cell is of the file that was open before
    return true;
  }
  bool at_hand = false;
  if (is_writable)
    at_hand = e->stored.all(op.offset, op.offset + op.length);
  else if (is_in_memory(op.address, op.offset, op.length, at_hand))
    at_hand = false;
  if (at_hand && look_at_word(op)) return true;
  if (!op.home->enroll(op)) return true;
  // A close that came before did not see this one, which would never end by itself.
  if (!is_open()) {
    op.home->forget(op);
    op.error = asio::error::operation_aborted;
    return true;
  }
  // Nor would it if it was asked to end while it was in nobody's hands.
  op.is_refused = [](operation* self, std::uint64_t) noexcept {
    if (!self->cancel_requested.load(std::memory_order_relaxed)) return false;
    self->error = asio::error::operation_aborted;
    return true;
  };
  if (at_hand)
    wait_for_word(op);
  else
    fetch_word(op);
  op.runner->submit(op);
  return false;
}

// The kernel knows a word by its page, and looks that up where the wait begins, as if to store
// there: on the loop, which must not wait for the page.
void file_state::fetch_word(operation& op) noexcept {
  const bool is_writable = options_.mode == access::read_write;
  op.what = is_writable ? call::populate_write : call::populate;
  op.done = [](operation* self) noexcept {
    if (self->dropped || self->error == asio::error::operation_aborted) return finish(*self);
    extent& e = *self->range.owner();
    if (!self->error && self->what == call::populate_write)
      e.stored.mark(self->offset, self->offset + self->length);
    // What is wrong with the page is for the look to find out.
    self->error = {};
    if (self->file->look_at_word(*self)) return finish(*self);
    self->file->wait_for_word(*self);
    self->runner->submit(*self);
  };
  op.count = page_size();
  op.address = op.range.owner()->base() + (op.offset - op.offset % page_size());
}

void file_state::wait_for_word(operation& op) noexcept {
  op.what = call::wait_word;
  op.address = op.range.owner()->base() + op.offset;
  op.done = [](operation* self) noexcept {
    if (self->dropped || self->error || self->file->look_at_word(*self)) return finish(*self);
    self->runner->submit(*self);
  };
}

}  // namespace detail
MAPIO_NAMESPACE_END
