#ifndef MAPIO_TESTS_CORE_FIXTURE_HPP
#define MAPIO_TESTS_CORE_FIXTURE_HPP

#include "support.hpp"

#include "backend/io_uring.hpp"
#include "backend/thread_pool.hpp"
#include "core/copy_window.hpp"
#include "core/dirty_pages.hpp"
#include "core/engine.hpp"
#include "core/extent.hpp"
#include "core/file_state.hpp"
#include "core/flush_scheduler.hpp"
#include "core/page_locks.hpp"
#include "core/range_set.hpp"
#include "core/recent_pages.hpp"
#include "platform/scheduling.hpp"

#include <mapio/mapped_file.hpp>

#include <atomic>
#include <memory>

namespace support {

using namespace mapio;          // NOLINT: the internals are all there
using namespace mapio::detail;  // NOLINT

inline std::shared_ptr<file_state> open_state(const std::filesystem::path& path, std::uint64_t size,
                                              open_options options = support::creating(0)) {
  options.size = size;
  std::shared_ptr<file_state> state;
  const std::error_code error = file_state::open(path, options, state);
  if (error) throw std::system_error(error);
  return state;
}

struct counted : operation {
  counted() {
    done = [](operation* op) noexcept { ++static_cast<counted*>(op)->count_done; };
  }
  std::atomic<int> count_done{0};
};

/// Reads or writes one byte.
struct transfer final : counted {
  transfer() = default;
  transfer(call which, const support::native_file& fd, std::uint64_t where = 0) {
    set(which, fd, where);
  }
  void set(call which, const support::native_file& fd, std::uint64_t where = 0) {
    what = which;
    handle = fd.get();
    at = where;
    count = 1;
    buffers = &buffer;
    buffer_count = 1;
  }
  char byte = 'x';
  asio::const_buffer buffer{&byte, 1};
};

}  // namespace support

#endif  // MAPIO_TESTS_CORE_FIXTURE_HPP
