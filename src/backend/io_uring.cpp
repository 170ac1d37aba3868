#include "io_uring.hpp"

#include "core/inline_executor.hpp"
#include "core/loop_turn.hpp"
#include "core/operation_list.hpp"
#include "platform/platform.hpp"
#include "platform/words.hpp"
#include "ring_arrivals.hpp"
#include "thread_pool.hpp"

#include <mapio/error.hpp>

#include <asio/basic_waitable_timer.hpp>
#include <asio/detail/scheduler.hpp>
#include <asio/detail/scheduler_operation.hpp>
#include <asio/error.hpp>
#include <asio/execution_context.hpp>
#include <asio/posix/basic_stream_descriptor.hpp>

#include <liburing.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include <sys/uio.h>

MAPIO_NAMESPACE_BEGIN
namespace detail {
namespace {

// Not in the headers of Debian 12.
constexpr std::uint8_t opcode_futex_wait = 51;
constexpr std::uint8_t opcode_ftruncate = 55;
constexpr int futex_of_four_bytes = 2;  // and not private to the process
constexpr std::uint64_t futex_any_bit = 0xFFFFFFFF;
constexpr int madvise_populate_read = 22;
constexpr int madvise_populate_write = 23;

constexpr unsigned default_entries = 256;
constexpr unsigned completions_per_entry = 16;
// The kernel's own limit, four per processor, would let a few slow syncs hold up everything else.
constexpr unsigned kernel_workers = 64;
// What one read or write moves at most: its length is 32 bits wide.
constexpr std::size_t most_bytes = std::size_t{1} << 30;
constexpr std::uint64_t nanoseconds_per_second = 1'000'000'000;

// Of operation::place. A ring asks its pool first whether it has an operation, and either only
// believes what it wrote itself, under its own mutex.
constexpr std::uint8_t place_queued = 2;
constexpr std::uint8_t place_running = 3;

// What call::fetch reads into: nobody looks at it, so all may at once.
std::array<std::byte, platform::most_fetched> unwanted;

// What is submitted carries its operation; a cancellation nothing, or the word that is waited for
// in what it is to end: should it never reach the kernel, waking is another way.
std::uint64_t cancellation_of(const std::byte* word) noexcept {
  return reinterpret_cast<std::uintptr_t>(word) | 1;
}
bool is_cancellation(std::uint64_t data) noexcept {
  return data == 0 || (data & 1) != 0;
}
const std::uint32_t* word_of(std::uint64_t data) noexcept {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): see cancellation_of().
  return reinterpret_cast<const std::uint32_t*>(data & ~std::uint64_t{1});
}

/// For operation::is_refused. Never the same twice, in whatever ring.
std::uint64_t next_batch() noexcept {
  static std::atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

class ring final : public backend {
 public:
  explicit ring(asio::execution_context& context)
      : scheduler_(asio::use_service<asio::detail::scheduler>(context)), executor_(context),
        hook_(*this), arrivals_(context, ring_, [this] { on_loop(wake::readable); }) {}
  ~ring() override {
    if (!is_set_up_ || is_foreign()) return;
    arrivals_.end();
    io_uring_queue_exit(&ring_);
  }

  std::error_code set_up(unsigned entries, std::string& reason);

  void submit(operation& op) noexcept override;
  bool withdraw(operation& op, bool interrupt) noexcept override;
  void help() noexcept override { turn(wake::asked); }
  void shut_down() noexcept override;

 private:
  using timer =
      asio::basic_waitable_timer<std::chrono::steady_clock,
                                 asio::wait_traits<std::chrono::steady_clock>, inline_executor>;

  // Runs once per turn of the loop: whatever the handlers before it have started is submitted with
  // one system call. Asio has no public way to post to a context without an executor of the user's,
  // which may be gone long before the context.
  struct submit_hook final : asio::detail::scheduler_operation {
    explicit submit_hook(ring& r) : scheduler_operation(&run), self(r) {}
    static void run(void* owner, scheduler_operation* base, const asio::error_code&, std::size_t) {
      auto& r = static_cast<submit_hook*>(base)->self;
      if (owner != nullptr) r.on_loop(wake::posted);
    }
    ring& self;
  };
  enum class wake { posted, readable, timer, asked };

  // A forked child shares the ring's memory with its parent, and would take its completions. It
  // must not even lock the mutex, which another thread of the parent's may have held.
  bool is_foreign() const noexcept { return generation_ != platform::fork_generation(); }

  void on_loop(wake why);
  void turn(wake why) noexcept;
  bool submit_at_once(operation& op) noexcept;
  void post_hook() noexcept;
  void fill_and_submit(operation_list& refused) noexcept;
  bool submit_filled() noexcept;
  void take_back() noexcept;
  void reap(operation_list& done) noexcept;
  void hand_over(operation_list to_pool) noexcept;
  void arm() noexcept;
  void retry_later() noexcept;
  bool has_opcode(const operation& op) const noexcept;
  void prepare(io_uring_sqe& sqe, operation& op);
  void prepare_transfer(io_uring_sqe& sqe, operation& op, std::uint8_t opcode,
                        std::uint8_t vector_opcode);
  bool complete(operation& op, int result) noexcept;
  void no_longer_waits(operation& op) noexcept;
  bool request_cancel(operation& op) noexcept;
  void request_cancels() noexcept;

  const unsigned generation_ = platform::fork_generation();
  asio::detail::scheduler& scheduler_;
  inline_executor executor_;
  std::optional<thread_pool> pool_;  // what has no opcode
  io_uring ring_{};
  bool is_set_up_ = false;
  std::array<bool, 256> opcodes_{};

  std::mutex mutex_;  // guards what follows, and the ring
  submit_hook hook_;
  bool hook_posted_ = false;
  bool submitted_at_once_ = false;  // one, in this turn of the loop
  bool armed_ = false;
  bool retrying_ = false;
  bool stopping_ = false;
  unsigned in_flight_ = 0;
  // Of these, those that may stay for ever: they must not take the room of others. Should all of
  // them end at once, the kernel keeps what does not fit.
  unsigned waits_ = 0;
  operation_list queued_;
  operation_list to_cancel_;  // waits in flight, once there is room for the request
  operation_list to_pool_;    // collected under the mutex, handed over without it
  std::deque<std::array<iovec, 16>> vectors_;  // the kernel reads them until the submission,
  std::deque<__kernel_timespec> times_;        // and these
  ring_arrivals arrivals_;
  std::optional<timer> retry_;
};

// --- setting up
// ------------------------------------------------------------------------------------------------------------

bool is_unavailable(int error) noexcept {
  return error == ENOSYS || error == EPERM || error == EACCES;
}

std::error_code refuse(const char* call, int error, std::string& reason) {
  const std::error_code code(error, std::system_category());
  reason = call;
  if (!is_unavailable(error)) return code;
  reason += ": " + code.message();
  return errc::unsupported;
}

std::error_code ring::set_up(unsigned entries, std::string& reason) {
  if (entries == 0) entries = default_entries;
  io_uring_params parameters{};
  parameters.flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE;
  parameters.cq_entries = entries * completions_per_entry;
  if (const int r = io_uring_queue_init_params(entries, &ring_, &parameters); r < 0)
    return refuse("io_uring_setup", -r, reason);
  is_set_up_ = true;
  constexpr unsigned needed =
      IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_RW_CUR_POS;
  if ((parameters.features & needed) != needed) {
    reason = "io_uring_setup: the kernel is too old";
    return errc::unsupported;
  }

  // A filter may let io_uring_setup pass and stop the others.
  constexpr unsigned operations = 256;
  std::vector<char> memory(sizeof(io_uring_probe) + operations * sizeof(io_uring_probe_op));
  auto* probe = reinterpret_cast<io_uring_probe*>(memory.data());
  if (const int r = io_uring_register_probe(&ring_, probe, operations); r < 0)
    return r == -EINVAL ? refuse("io_uring_register", ENOSYS, reason)
                        : refuse("io_uring_register", -r, reason);
  for (unsigned i = 0; i < probe->ops_len; ++i)
    opcodes_[probe->ops[i].op] = (probe->ops[i].flags & IO_URING_OP_SUPPORTED) != 0;
  io_uring_prep_nop(io_uring_get_sqe(&ring_));
  if (const int r = io_uring_submit_and_wait(&ring_, 1); r < 0)
    return refuse("io_uring_enter", -r, reason);
  io_uring_cqe* cqe = nullptr;
  if (const int r = io_uring_wait_cqe(&ring_, &cqe); r < 0)
    return refuse("io_uring_enter", -r, reason);
  io_uring_cqe_seen(&ring_, cqe);

  // What touches the ring in a child all the same is then the child's problem, not the parent's.
  static_cast<void>(io_uring_ring_dontfork(&ring_));
  unsigned workers[2] = {kernel_workers, 0};
  io_uring_register_iowq_max_workers(&ring_, workers);  // before Linux 5.15 the default stays

  if (const std::error_code error = arrivals_.begin()) {
    reason = "epoll: " + error.message();
    return error;
  }
  retry_.emplace(executor_);
  pool_.emplace();
  return {};
}

// --- submitting
// ------------------------------------------------------------------------------------------------------------

bool ring::has_opcode(const operation& op) const noexcept {
  switch (op.what) {
  case call::write_file:
    return opcodes_[IORING_OP_WRITE] && opcodes_[IORING_OP_WRITEV];
  case call::read_file:
    return opcodes_[IORING_OP_READ] && opcodes_[IORING_OP_READV];
  case call::fetch:
    return opcodes_[IORING_OP_READ];
  case call::sync:
  case call::sync_name:
    return opcodes_[IORING_OP_FSYNC];
  case call::start_writeback:
    return opcodes_[IORING_OP_SYNC_FILE_RANGE] && op.count <= 0xFFFFFFFF;
  case call::populate:
  case call::populate_write:
    return opcodes_[IORING_OP_MADVISE] && op.count <= 0xFFFFFFFF;
  // With an address there is a page to be zeroed first.
  case call::allocate:
    return opcodes_[IORING_OP_FALLOCATE] && op.address == nullptr;
  case call::truncate:
    return opcodes_[opcode_ftruncate] && op.address == nullptr;
  case call::pause:
    return opcodes_[IORING_OP_TIMEOUT];
  case call::wait_word:
    return opcodes_[opcode_futex_wait];
  case call::work:
  case call::announce:
    return false;
  }
  return false;
}

void ring::submit(operation& op) noexcept {
  if (!is_foreign()) {
    if (!has_opcode(op)) return pool_->submit(op);
    std::lock_guard lock(mutex_);
    if (!stopping_) {
      op.place.store(place_queued, std::memory_order_relaxed);
      queued_.push(op);
      if (!submit_at_once(op)) post_hook();
      return;
    }
  }
  op.dropped = true;
  op.done(&op);
}

// Who waits for a word mostly has nothing else to do, and somebody else waits for him: the first of
// a turn does without the way through the loop's queue, which costs a look for what is ready.
bool ring::submit_at_once(operation& op) noexcept {
  if (op.what != call::wait_word || hook_posted_ || queued_.front() != &op ||
      std::exchange(submitted_at_once_, true) || !scheduler_.can_dispatch())
    return false;
  operation_list refused;
  fill_and_submit(refused);
  arm();
  if (refused.empty() && to_pool_.empty() && queued_.empty()) return true;
  // That is not to be told from inside of this call.
  while (operation* const refused_op = refused.pop()) {
    refused_op->place.store(place_queued, std::memory_order_relaxed);
    queued_.push(*refused_op);
  }
  return false;
}

void ring::post_hook() noexcept {
  if (hook_posted_) return;
  hook_posted_ = true;
  scheduler_.post_immediate_completion(&hook_, false);
}

void ring::prepare_transfer(io_uring_sqe& sqe, operation& op, std::uint8_t opcode,
                            std::uint8_t vector_opcode) {
  std::uint64_t skip = op.transferred;
  std::size_t first = 0;
  while (skip >= op.buffers[first].size())
    skip -= op.buffers[first++].size();
  const auto* address = static_cast<const char*>(op.buffers[first].data()) + skip;
  const std::size_t length =
      std::min(op.buffers[first].size() - static_cast<std::size_t>(skip), most_bytes);
  const std::uint64_t offset = op.at + op.transferred;
  if (first + 1 == op.buffer_count || length == most_bytes) {
    io_uring_prep_rw(opcode, &sqe, op.handle, address, static_cast<unsigned>(length), offset);
    return;
  }
  auto& vector = vectors_.emplace_back();
  vector[0] = {const_cast<char*>(address), length};
  std::size_t used = 1;
  for (std::size_t total = length; first + used < op.buffer_count && used < vector.size(); ++used) {
    const asio::const_buffer& b = op.buffers[first + used];
    total += b.size();
    if (total > most_bytes) break;
    vector[used] = {const_cast<void*>(b.data()), b.size()};
  }
  io_uring_prep_rw(vector_opcode, &sqe, op.handle, vector.data(), static_cast<unsigned>(used),
                   offset);
}

void ring::prepare(io_uring_sqe& sqe, operation& op) {
  switch (op.what) {
  case call::write_file:
    prepare_transfer(sqe, op, IORING_OP_WRITE, IORING_OP_WRITEV);
    break;
  case call::read_file:
    prepare_transfer(sqe, op, IORING_OP_READ, IORING_OP_READV);
    break;
  case call::fetch:
    io_uring_prep_read(&sqe, op.handle, unwanted.data(), static_cast<unsigned>(op.count), op.at);
    break;
  case call::sync:
    // liburing's helper leaves the range at 0, which is the whole file.
    io_uring_prep_rw(IORING_OP_FSYNC, &sqe, op.handle, nullptr, static_cast<unsigned>(op.count),
                     op.count == 0 ? 0 : op.at);
    sqe.fsync_flags = IORING_FSYNC_DATASYNC;
    break;
  case call::sync_name:
    io_uring_prep_fsync(&sqe, op.handle, 0);
    break;
  case call::start_writeback:
    io_uring_prep_rw(IORING_OP_SYNC_FILE_RANGE, &sqe, op.handle, nullptr,
                     static_cast<unsigned>(op.count), op.at);
    sqe.sync_range_flags = SYNC_FILE_RANGE_WRITE;
    break;
  case call::populate:
    io_uring_prep_rw(IORING_OP_MADVISE, &sqe, -1, op.address, static_cast<unsigned>(op.count), 0);
    sqe.fadvise_advice = madvise_populate_read;
    break;
  case call::populate_write:
    io_uring_prep_rw(IORING_OP_MADVISE, &sqe, -1, op.address, static_cast<unsigned>(op.count), 0);
    sqe.fadvise_advice = madvise_populate_write;
    break;
  case call::allocate:
    // The length travels in the address, the mode in the length.
    io_uring_prep_rw(IORING_OP_FALLOCATE, &sqe, op.handle, nullptr, 0, op.at);
    sqe.addr = op.count;
    break;
  case call::truncate:
    io_uring_prep_rw(opcode_ftruncate, &sqe, op.handle, nullptr, 0, op.at);
    break;
  case call::pause: {
    __kernel_timespec& time = times_.emplace_back(
        __kernel_timespec{static_cast<std::int64_t>(op.count / nanoseconds_per_second),
                          static_cast<long long>(op.count % nanoseconds_per_second)});
    io_uring_prep_timeout(&sqe, &time, 0, 0);
    break;
  }
  case call::wait_word:
    io_uring_prep_rw(opcode_futex_wait, &sqe, futex_of_four_bytes, op.address, 0, op.at);
    sqe.addr3 = futex_any_bit;
    break;
  case call::work:
  case call::announce:
    break;
  }
  // Else the kernel first tries it on this thread.
  if (op.may_wait) sqe.flags |= IOSQE_ASYNC;
  io_uring_sqe_set_data(&sqe, &op);
}

// Submits what is filled in; false: the kernel cannot take it now.
bool ring::submit_filled() noexcept {
  while (io_uring_sq_ready(&ring_) != 0) {
    const int r = io_uring_submit(&ring_);
    if (r > 0 || r == -EINTR) continue;
    if (r < 0 && r != -EAGAIN && r != -EBUSY)
      take_back();
    else if (r <= 0)
      return false;
  }
  vectors_.clear();
  times_.clear();
  return true;
}

// The kernel refuses for good (a filter installed later, say): the pool does what was filled in.
void ring::take_back() noexcept {
  io_uring_sq& sq = ring_.sq;
  unsigned head = *sq.khead;
  const unsigned tail = *sq.ktail;
  for (; head != tail; ++head) {
    const std::uint64_t data = sq.sqes[head & *sq.kring_mask].user_data;
    --in_flight_;
    if (is_cancellation(data)) {
      // Who is woken without a reason is asked whether he is to wait on.
      if (const std::uint32_t* const word = word_of(data))
        static_cast<void>(platform::wake_word(word, true));
      continue;
    }
    // NOLINTNEXTLINE(performance-no-int-to-ptr): we put the pointer there, and only that.
    auto* op = reinterpret_cast<operation*>(data);
    no_longer_waits(*op);
    op->place.store(0, std::memory_order_relaxed);
    to_pool_.push(*op);
  }
  *sq.ktail = *sq.khead;
  sq.sqe_head = sq.sqe_tail = *sq.khead;
}

void ring::fill_and_submit(operation_list& refused) noexcept {
  const unsigned most = ring_.cq.ring_entries;
  const std::uint64_t batch = next_batch();
  while (operation* const op = queued_.front()) {
    if (in_flight_ - waits_ >= most) break;
    if (op->is_refused != nullptr && op->is_refused(op, batch)) {
      queued_.pop();
      op->place.store(0, std::memory_order_relaxed);
      refused.push(*op);
      continue;
    }
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    if (sqe == nullptr) {
      if (!submit_filled()) break;
      continue;
    }
    queued_.pop();
    op->place.store(place_running, std::memory_order_relaxed);
    op->handover.store(1, std::memory_order_release);
    prepare(*sqe, *op);
    ++in_flight_;
    if (op->what == call::wait_word) ++waits_;
  }
  if (!submit_filled()) retry_later();
}

// Nothing spins. A completion of what is in flight is an occasion, too, and may be long in coming.
void ring::retry_later() noexcept {
  if (retrying_) return;
  retrying_ = true;
  retry_->expires_after(std::chrono::milliseconds(1));
  retry_->async_wait([this](const asio::error_code& error) {
    if (!error) on_loop(wake::timer);
  });
}

// --- reaping
// ---------------------------------------------------------------------------------------------------------------

void ring::no_longer_waits(operation& op) noexcept {
  if (op.what != call::wait_word) return;
  --waits_;
  to_cancel_.remove(op);
}

// True: `op` is done. False: it is on its way again.
bool ring::complete(operation& op, int result) noexcept {
  if (result >= 0) {
    if (op.what != call::write_file && op.what != call::read_file) return true;
    op.transferred += static_cast<std::uint64_t>(result);
    if (result == 0 || op.transferred >= op.count) return true;
    if (op.cancel_requested.load(std::memory_order_relaxed)) {
      op.error = asio::error::operation_aborted;
      return true;
    }
    op.place.store(place_queued, std::memory_order_relaxed);
    queued_.push(op);
    return false;
  }
  // However it ends, it is over.
  if (op.what == call::pause) return true;
  // A failure to write back is told once, whatever its number: the same sync, made again, would
  // know nothing of it. Only one that was cancelled before it began can be.
  if ((op.what == call::sync || op.what == call::sync_name) && result != -ECANCELED) {
    op.error = {-result, std::system_category()};
    return true;
  }
  // The word has another value already.
  if (op.what == call::wait_word && result == -EAGAIN) return true;
  switch (-result) {
  case ECANCELED:
  case EINTR:
    if (op.cancel_requested.load(std::memory_order_relaxed)) {
      op.error = asio::error::operation_aborted;
      return true;
    }
    // The thread that submitted it has ended, and the kernel cancelled what it left behind. Nobody
    // asked for that.
    op.place.store(place_queued, std::memory_order_relaxed);
    queued_.push(op);
    return false;
  case EAGAIN:
  case EINVAL:
  case EOPNOTSUPP:
    // This kernel has the opcode and not this use of it; if the system call fails too, that is the
    // answer.
  case EFAULT:
    // The kernel's workers belong to the thread that submitted. When it ends, they cannot bring in
    // a page of the buffer any more, and say so with this. The pool finds out whether it is true.
    to_pool_.push(op);
    return false;
  default:
    break;
  }
  op.error = {-result, std::system_category()};
  return true;
}

void ring::reap(operation_list& done) noexcept {
  for (;;) {
    std::array<io_uring_cqe*, 64> cqes;
    const unsigned n =
        io_uring_peek_batch_cqe(&ring_, cqes.data(), static_cast<unsigned>(cqes.size()));
    if (n == 0) break;
    for (unsigned i = 0; i < n; ++i) {
      --in_flight_;
      if (is_cancellation(cqes[i]->user_data)) continue;
      auto* op = static_cast<operation*>(io_uring_cqe_get_data(cqes[i]));
      // ThreadSanitizer does not see that the kernel handed the operation from the submitting
      // thread to this one.
      static_cast<void>(op->handover.load(std::memory_order_acquire));
      no_longer_waits(*op);
      op->place.store(0, std::memory_order_relaxed);
      if (complete(*op, cqes[i]->res)) done.push(*op);
    }
    io_uring_cq_advance(&ring_, n);
  }
}

// Not under the mutex: a pool that is shut down ends an operation at once, and whatever that leads
// to may come back here.
void ring::hand_over(operation_list to_pool) noexcept {
  while (operation* op = to_pool.pop())
    pool_->submit(*op);
}

// The wait is there only while something is in flight: it counts as work, and would keep run() from
// returning.
void ring::arm() noexcept {
  if (in_flight_ == 0) {
    if (armed_) arrivals_.cancel();
    return;
  }
  if (armed_) return;
  armed_ = true;
  arrivals_.wait();
}

// By the loop itself: it runs a handler.
void ring::on_loop(wake why) {
  loop_turn here(executor_.context());
  turn(why);
  here.end();
}

void ring::turn(wake why) noexcept {
  operation_list done;
  operation_list to_pool;
  if (is_foreign()) return;
  {
    std::lock_guard lock(mutex_);
    switch (why) {
    case wake::posted:
      hook_posted_ = false;
      break;
    case wake::readable:
      armed_ = false;
      break;
    case wake::timer:
      retrying_ = false;
      break;
    case wake::asked:
      break;
    }
    if (stopping_) return;
    submitted_at_once_ = false;
    reap(done);
    request_cancels();
    fill_and_submit(done);
    // What the kernel could answer at once is there already.
    reap(done);
    // The rest of what was answered in part must not wait for something else to complete. Where the
    // kernel takes nothing now, the timer is the next occasion.
    if (!queued_.empty() && in_flight_ - waits_ < ring_.cq.ring_entries && !retrying_) post_hook();
    arm();
    to_pool = std::exchange(to_pool_, {});
  }
  hand_over(std::move(to_pool));
  while (operation* op = done.pop())
    op->done(op);
}

// --- ending
// ----------------------------------------------------------------------------------------------------------------

bool ring::withdraw(operation& op, bool interrupt) noexcept {
  if (is_foreign()) return false;
  if (pool_->withdraw(op, interrupt)) return true;
  std::unique_lock lock(mutex_);
  if (op.place.load(std::memory_order_relaxed) == place_queued &&
      (interrupt || op.transferred == 0) && queued_.remove(op)) {
    op.place.store(0, std::memory_order_relaxed);
    return true;
  }
  if (op.place.load(std::memory_order_relaxed) != place_running || !interrupt) return false;
  // What does not wait for a word ends by itself.
  if (!request_cancel(op) && op.what == call::wait_word) {
    to_cancel_.remove(op);
    to_cancel_.push(op);
  }
  operation_list to_pool = std::exchange(to_pool_, {});
  if (!stopping_) post_hook();
  lock.unlock();
  hand_over(std::move(to_pool));
  return false;
}

bool ring::request_cancel(operation& op) noexcept {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr && submit_filled()) sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) return false;
  // Should the operation end before this is read, its address may belong to a later one: whose own
  // entry comes later too.
  io_uring_prep_cancel(sqe, &op, 0);
  sqe->user_data = op.what == call::wait_word ? cancellation_of(op.address) : 0;
  ++in_flight_;
  return true;
}

void ring::request_cancels() noexcept {
  while (operation* const op = to_cancel_.pop())
    if (!request_cancel(*op)) {
      to_cancel_.push_front(*op);
      return;
    }
}

void ring::shut_down() noexcept {
  operation_list done;
  operation_list to_pool;
  if (is_foreign()) return;
  {
    std::unique_lock lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    while (in_flight_ != 0) {
      // The kernel may still write to memory of ours: nothing is let go of before every answer is
      // here.
      request_cancels();
      const int r = io_uring_submit_and_wait(&ring_, 1);
      if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY) take_back();
      reap(done);
    }
    while (operation* op = queued_.pop()) {
      op->place.store(0, std::memory_order_relaxed);
      op->dropped = true;
      done.push(*op);
    }
    to_pool = std::exchange(to_pool_, {});
    arrivals_.end();
    retry_.reset();
  }
  hand_over(std::move(to_pool));
  while (operation* op = done.pop())
    op->done(op);
  pool_->shut_down();
}

}  // namespace

void create_services_for_io_uring(asio::execution_context& context) noexcept {
  try {
    const asio::posix::basic_stream_descriptor<inline_executor> any{inline_executor(context)};
  } catch (...) {
    // What is not to be had is said when the ring is set up.
  }
}

std::unique_ptr<backend> make_io_uring(asio::execution_context& context, std::string& reason,
                                       std::error_code& error, unsigned entries) {
  auto result = std::make_unique<ring>(context);
  error = result->set_up(entries, reason);
  if (error) return nullptr;
  return result;
}

}  // namespace detail
MAPIO_NAMESPACE_END
