#ifndef MAPIO_SRC_CORE_ENGINE_HPP
#define MAPIO_SRC_CORE_ENGINE_HPP

#include "operation_list.hpp"

#include <mapio/backend.hpp>
#include <mapio/detail/operation.hpp>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>

MAPIO_NAMESPACE_BEGIN
namespace detail {

class file_state;

/// Carries out the calls of operations. Takes ownership at submit(), gives it back through
/// operation::done.
class performer {
 public:
  virtual void submit(operation& op) noexcept = 0;

 protected:
  ~performer() = default;
};

/// What differs between io_uring, completion port and thread pool.
class backend {
 public:
  virtual ~backend() = default;
  virtual void submit(operation& op) noexcept = 0;
  /// True: taken out before it was started, and the caller owns it. False: it is elsewhere, or
  /// under way; with `interrupt` the OS was then asked to end it early. Without it, one of which a
  /// part is done counts as under way wherever it is.
  virtual bool withdraw(operation& op, bool interrupt) noexcept = 0;
  /// Does on the calling thread what waits for a turn of the loop, and never waits. Any thread, at
  /// any time before the backend is destroyed.
  virtual void help() noexcept {}
  /// Ends everything: what runs is waited for, what is queued is dropped. Every operation has been
  /// `done` at return.
  virtual void shut_down() noexcept = 0;
};

/// The engine of one execution context: its backend, once chosen, and the operations that are
/// outstanding on it.
///
/// Lock order: cancel_link, engine, file, extent, backend. No handler is delivered under any of
/// them.
class engine final : public performer, public std::enable_shared_from_this<engine> {
 public:
  explicit engine(asio::execution_context& context);
  ~engine();

  /// Chooses; see mapio::use_backend.
  void use(backend_kind kind);
  /// Starts the backend if there is none yet; an error when there is none to be had.
  std::error_code ensure_started() noexcept;
  backend_info info();
  /// Tells whether this is a forked child, which must leave the engine alone.
  bool is_foreign() const noexcept;
  /// Never used twice in a process.
  std::uint64_t id() const noexcept { return id_; }

  /// In a forked child drops it.
  void submit(operation& op) noexcept override;
  /// Makes an operation known as outstanding, so that cancel and shutdown find it. False: it is
  /// over, and its error says why.
  bool enroll(operation& op) noexcept;
  /// Forgets an operation that turned out to be over at once.
  void forget(operation& op) noexcept;
  /// Delivers a finished operation to its handler; after a shutdown frees it instead.
  void deliver(operation& op) noexcept;
  /// Asks for an early end of one operation; what was withdrawn is the caller's, who passes it to
  /// end_withdrawn().
  enum class withdrawal { none, from_file, from_queue };
  withdrawal cancel(operation& op, bool only_waiting) noexcept;
  /// Ends an operation as cancelled. One that was in a backend's queue or waited for a sync goes
  /// the way of a call that failed, since its verb may have more to do than to tell the handler.
  static void end_withdrawn(operation& op, withdrawal from) noexcept;
  /// Cancels all operations that `match` picks.
  void cancel_if(bool (*match)(const operation&, const void*), const void* what) noexcept;
  /// Runs a piece of work off the loop for nobody's account; false: shut down, and the caller runs
  /// it.
  bool run_in_background(operation& op) noexcept;
  /// Pushes on what the backend has been given, on the calling thread and without waiting: for a
  /// thread that is blocked behind an awaited operation, and may itself be the one that should run
  /// the loop. Once is not enough: what this submits completes later, and whoever waits for it
  /// helps again. Any thread that holds the engine, at any time, also while the context goes away;
  /// never under a lock, since it delivers.
  void help() noexcept;
  void shut_down() noexcept;

 private:
  withdrawal withdraw(operation& op, bool interrupt) noexcept;
  struct withdrawn_lists;
  void end_all(withdrawn_lists& lists) noexcept;
  void retire(operation& op) noexcept;
  std::unique_ptr<backend> make_backend(backend_kind kind);
  void start();

  asio::execution_context& context_;
  const unsigned generation_;
  const std::uint64_t id_;

  std::mutex start_mutex_;
  std::atomic<backend*> started_{nullptr};
  std::unique_ptr<backend> backend_;
  backend_info info_;

  std::mutex mutex_;
  std::condition_variable idle_;
  // The oldest first, as in the wait lists of files: to cancel all is not quadratic then.
  operation* enrolled_ = nullptr;
  operation* last_enrolled_ = nullptr;
  std::size_t delivering_ = 0;
  std::size_t background_ = 0;  // threads that are about to use the backend unasked
  bool stopping_ = false;
};

/// Lets a blocked thread carry out calls: its own, and those of a sync that it leads for others.
class blocking_performer final : public performer {
 public:
  void submit(operation& op) noexcept override {
    std::lock_guard lock(mutex_);
    calls_.push(op);
    wake_.notify_one();
  }
  void finish() noexcept {
    std::lock_guard lock(mutex_);
    finished_ = true;
    wake_.notify_one();
  }
  /// Carries out calls until finish(). What this waits behind may be an awaited verb of `file` that
  /// makes no progress while its loop does not run, and it is this thread that should run it.
  void run(file_state* file) noexcept;

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  operation_list calls_;
  bool finished_ = false;
};

/// A verb that a thread is blocked in.
struct blocking_operation final : operation {
  blocking_operation() {
    runner = &performer_;
    complete = [](operation* op, delivery) {
      static_cast<blocking_operation*>(op)->performer_.finish();
    };
    destroy = [](operation*) noexcept {};
  }
  /// `waited_for` is the file that it is about.
  void wait(file_state& waited_for) noexcept { performer_.run(&waited_for); }

 private:
  blocking_performer performer_;
};

/// Hands an awaited operation to whoever carries it out. True: its engine takes nothing any more,
/// and it is over, as cancelled.
bool submit(operation& op) noexcept;
/// Makes the call of an operation, unless that was dropped or is refused, and hands it back; for
/// workers.
void carry_out(operation& op) noexcept;
/// Ends the pins and uses of an operation that is over.
void let_go(operation& op) noexcept;
/// Lets go of what an operation held and delivers it.
void finish(operation& op) noexcept;
inline void finish(operation& op, std::error_code error) noexcept {
  op.error = error;
  finish(op);
}
/// Lets what waited for a sync go on with its verdict.
void continue_all(operation_list list) noexcept;

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_ENGINE_HPP
