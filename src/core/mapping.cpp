#include <mapio/mapping.hpp>

#include "file_state.hpp"
#include "platform/platform.hpp"

#include <utility>

MAPIO_NAMESPACE_BEGIN

namespace detail {
struct mapping_access {
  static mapping make(std::shared_ptr<file_state> state) noexcept {
    mapping m;
    if (state && state->is_open()) m.state_ = std::move(state);
    return m;
  }
  static const std::shared_ptr<file_state>& state(const mapping& m) noexcept { return m.state_; }
};

mapping mapping_of(const std::shared_ptr<file_state>& file) noexcept {
  return mapping_access::make(file);
}
std::shared_ptr<file_state> state_of(const mapping& m) noexcept {
  return mapping_access::state(m);
}
bool is_size_stale(const file_state& file) noexcept {
  return file.is_size_stale();
}
}  // namespace detail

namespace {
const std::error_code not_open = errc::not_open;
}  // namespace

mapping mapping::adopt(native_handle_type handle, const open_options& options,
                       std::error_code& error) {
  mapping m;
  error = detail::file_state::adopt(handle, options, m.state_);
  return m;
}

mapping::native_handle_type mapping::release(std::error_code& error) {
  error.clear();
  if (state_) return state_->release(error);
  error = not_open;
  return detail::platform::no_handle;
}

void mapping::open(const std::filesystem::path& path, const open_options& options,
                   std::error_code& error) {
  state_.reset();
  error = detail::file_state::open(path, options, state_);
}

void mapping::close(std::error_code& error) {
  error.clear();
  if (state_) error = state_->close();
}

bool mapping::is_open() const noexcept {
  return state_ && state_->is_open();
}
std::uint64_t mapping::size() const noexcept {
  return state_ ? state_->size() : 0;
}
std::uint64_t mapping::capacity() const noexcept {
  return state_ ? state_->capacity() : 0;
}
access mapping::mode() const noexcept {
  return is_open() ? state_->mode() : access::read_only;
}
std::filesystem::path mapping::path() const {
  return is_open() ? state_->path() : std::filesystem::path();
}
flush_policy mapping::policy() const noexcept {
  return is_open() ? state_->options().policy : flush_policy::manual();
}
std::uint64_t mapping::pending_bytes() const noexcept {
  return state_ ? state_->pending_bytes() : 0;
}

mapping::native_handle_type mapping::native_handle() const noexcept {
  return state_ ? state_->native_handle() : detail::platform::no_handle;
}

region mapping::show(std::uint64_t offset, std::uint64_t length,
                     detail::failure& why) const noexcept {
  if (!state_) {
    why = errc::not_open;
    return {};
  }
  detail::extent* where = nullptr;
  if (detail::pin_slot* const slot = state_->pin_fast(offset, length, where)) [[likely]]
    return detail::region_access::make(
        detail::pin(where, slot, offset << detail::pin_slot::shift | detail::pin_slot::occupied),
        static_cast<const std::byte*>(where->base()) + offset, static_cast<std::size_t>(length),
        offset);
  detail::pin pin = state_->pin_range(offset, length, 0, where, why);
  if (why != detail::no_failure || length == 0) return {};
  return detail::region_access::make(std::move(pin),
                                     static_cast<const std::byte*>(where->base()) + offset,
                                     static_cast<std::size_t>(length), offset);
}

namespace {

std::error_code check_writable(const std::shared_ptr<detail::file_state>& file) noexcept {
  if (!file || !file->is_open()) return not_open;
  return file->mode() == access::read_only ? std::error_code(errc::read_only) : std::error_code();
}

std::uint64_t flags_of_mutable(access mode) noexcept {
  // Private stores are nobody's dirty pages.
  return mode == access::read_write ? detail::pin_slot::writable : 0;
}

}  // namespace

mutable_region mapping::mutable_view(std::uint64_t offset, std::uint64_t length,
                                     std::error_code& error) {
  error = check_writable(state_);
  if (error) return {};
  detail::extent* where = nullptr;
  detail::failure why{};
  detail::pin pin = state_->pin_range(
      offset, length, length == 0 ? 0 : flags_of_mutable(state_->mode()), where, why);
  error = detail::error_of(why);
  if (error || length == 0) return {};
  return detail::region_access::make(std::move(pin), where->base() + offset,
                                     static_cast<std::size_t>(length), offset);
}

template <class Region>
basic_chunk_range<Region>
mapping::cut_into(bool whole_file, std::uint64_t offset, std::uint64_t length, std::size_t bytes,
                  std::uint64_t chunk_flags, std::error_code& error) const {
  if (bytes == 0) {
    error = make_error_code(std::errc::invalid_argument);
    return {};
  }
  detail::extent* where = nullptr;
  detail::failure why{};
  detail::pin pin;
  do {
    if (whole_file) length = state_->reach();
    why = detail::no_failure;
    pin = state_->pin_range(offset, length, 0, where, why);
  } while (whole_file && why == errc::out_of_range);  // it was cut in between
  error = detail::error_of(why);
  if (error || length == 0) return {};
  const decltype(Region().data()) first = where->base() + offset;
  return {
      detail::region_access::make(std::move(pin), first, static_cast<std::size_t>(length), offset),
      bytes, chunk_flags};
}

chunk_range mapping::cut(bool whole_file, std::uint64_t offset, std::uint64_t length,
                         std::size_t bytes, std::error_code& error) const {
  error = is_open() ? std::error_code() : not_open;
  if (error) return {};
  return cut_into<region>(whole_file, offset, length, bytes, 0, error);
}

chunk_range mapping::pages(std::error_code& error) const {
  return chunks(page_size(), error);
}

mutable_chunk_range mapping::mutable_cut(bool whole_file, std::uint64_t offset,
                                         std::uint64_t length, std::size_t bytes,
                                         std::error_code& error) {
  error = check_writable(state_);
  if (error) return {};
  return cut_into<mutable_region>(whole_file, offset, length, bytes,
                                  flags_of_mutable(state_->mode()), error);
}

std::size_t mapping::store(std::uint64_t offset, asio::const_buffer bytes,
                           detail::failure& why) const noexcept {
  if (state_) return state_->store(offset, bytes.data(), bytes.size(), why);
  why = errc::not_open;
  return 0;
}

std::size_t mapping::load(std::uint64_t offset, asio::mutable_buffer bytes,
                          detail::failure& why) const noexcept {
  if (state_) return state_->load(offset, bytes.data(), bytes.size(), why);
  why = errc::not_open;
  return 0;
}

std::error_code mapping::end_update(std::uint64_t offset, std::size_t stored,
                                    detail::failure why) const noexcept {
  return detail::is_failure(why) ? detail::error_of(why) : state_->follow_policy(offset, stored);
}

detail::failure mapping::check(std::uint64_t offset, std::uint64_t length) const noexcept {
  return state_ ? state_->check(offset, length) : errc::not_open;
}

void mapping::flush(durability level, std::error_code& error) {
  error = state_ ? state_->flush(true, 0, 0, level) : not_open;
}

void mapping::flush_range(std::uint64_t offset, std::uint64_t length, durability level,
                          std::error_code& error) {
  error = state_ ? state_->flush(false, offset, length, level) : not_open;
}

std::uint64_t mapping::refresh(std::error_code& error) {
  std::uint64_t size_now = 0;
  error = state_ ? state_->refresh(size_now) : not_open;
  return size_now;
}

void mapping::resize(std::uint64_t new_size, std::error_code& error) {
  error = state_ ? state_->resize(new_size) : not_open;
}

void mapping::prefetch(std::error_code& error) {
  error = state_ ? state_->prefetch(true, 0, 0) : not_open;
}

void mapping::prefetch(std::uint64_t offset, std::uint64_t length, std::error_code& error) {
  error = state_ ? state_->prefetch(false, offset, length) : not_open;
}

void mapping::lock_pages(std::error_code& error) {
  error = state_ ? state_->change_lock(detail::verb::lock_pages, true, 0, 0) : not_open;
}

void mapping::lock_pages(std::uint64_t offset, std::uint64_t length, std::error_code& error) {
  error = state_ ? state_->change_lock(detail::verb::lock_pages, false, offset, length) : not_open;
}

void mapping::unlock_pages(std::error_code& error) {
  error = state_ ? state_->change_lock(detail::verb::unlock_pages, true, 0, 0) : not_open;
}

void mapping::unlock_pages(std::uint64_t offset, std::uint64_t length, std::error_code& error) {
  error =
      state_ ? state_->change_lock(detail::verb::unlock_pages, false, offset, length) : not_open;
}

bool mapping::is_resident(std::uint64_t offset, std::uint64_t length,
                          std::error_code& error) const {
  bool all = false;
  error = state_ ? state_->is_resident(offset, length, all) : not_open;
  return all;
}

void mapping::advise(std::uint64_t offset, std::uint64_t length, advice what,
                     std::error_code& error) {
  error = state_ ? state_->advise(offset, length, what) : not_open;
}

void mapping::publish(std::uint64_t offset, std::uint64_t length, std::error_code& error) {
  error = state_ ? state_->publish(offset, length) : not_open;
}

std::error_code mapping::flush_error() const noexcept {
  return state_ ? state_->flush_error() : std::error_code();
}

void mapping::clear_flush_error() {
  if (state_) state_->clear_flush_error();
}

file_stats mapping::stats() const noexcept {
  return is_open() ? state_->stats() : file_stats();
}

std::size_t guarded_copy(void* destination, const void* source, std::size_t n) noexcept {
  if (n == 0) return 0;  // from or to nowhere, perhaps
  try {
    detail::platform::guard_faults();
  } catch (...) {
    return 0;
  }
  return detail::platform::guarded_copy(destination, source, n);
}

MAPIO_NAMESPACE_END
