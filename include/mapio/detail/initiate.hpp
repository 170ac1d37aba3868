#ifndef MAPIO_DETAIL_INITIATE_HPP
#define MAPIO_DETAIL_INITIATE_HPP

#include <mapio/detail/config.hpp>
#include <mapio/detail/operation.hpp>
#include <mapio/detail/total_bytes.hpp>

#include <asio/associated_allocator.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/dispatch.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/post.hpp>
#include <asio/recycling_allocator.hpp>
#if ASIO_VERSION >= 102800
#include <asio/associated_immediate_executor.hpp>
#endif

#include <array>
#include <memory>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// What a verb hands to its handler, taken out of the operation before its memory is given back.
struct error_result {
  using signature = void(std::error_code);
  static std::tuple<std::error_code> take(operation& op) { return {op.error}; }
};
struct size_result {
  using signature = void(std::error_code, std::size_t);
  static std::tuple<std::error_code, std::size_t> take(operation& op) {
    return {op.error, static_cast<std::size_t>(op.transferred)};
  }
};
struct length_result {
  using signature = void(std::error_code, std::uint64_t);
  static std::tuple<std::error_code, std::uint64_t> take(operation& op) {
    return {op.error, op.transferred};
  }
};
struct region_result {
  using signature = void(std::error_code, region);
  static std::tuple<std::error_code, region> take(operation& op) {
    return {op.error, std::move(static_cast<view_operation&>(op).result)};
  }
};

struct chunk_result {
  using signature = void(std::error_code, region);
  static std::tuple<std::error_code, region> take(operation& op) {
    auto& chunk = static_cast<chunk_operation&>(op);
    hand_over(chunk);
    return {chunk.error, std::move(chunk.result)};
  }
};

/// What the arguments of a verb need beyond themselves, from the handler's allocator: nothing.
struct no_memory {
  template <class Allocator>
  explicit no_memory(const Allocator&) noexcept {}
};

/// Arguments of a verb that fit into the operation itself.
struct range_arguments {
  using operation_type = operation;
  verb kind;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  bool flag = false;

  template <class Allocator>
  using memory = no_memory;

  void prepare(operation& op, no_memory&) {
    op.kind = kind;
    op.offset = offset;
    op.length = length;
    op.flag = flag;
  }
};

struct view_arguments : range_arguments {
  using operation_type = view_operation;
};

struct chunk_arguments {
  using operation_type = chunk_operation;
  std::shared_ptr<chunk_reader> reader;

  template <class Allocator>
  using memory = no_memory;

  void prepare(chunk_operation& op, no_memory&) {
    op.kind = verb::next_chunk;
    op.reader = std::move(reader);
  }
};

struct open_arguments {
  using operation_type = open_operation;
  std::filesystem::path path;
  open_options options;

  template <class Allocator>
  using memory = no_memory;

  void prepare(open_operation& op, no_memory&) {
    op.kind = verb::open;
    op.path = std::move(path);
    op.options = options;
  }
};

struct copy_arguments {
  using operation_type = copy_operation;
  std::filesystem::path from;
  std::filesystem::path to;
  copy_file_options options;

  template <class Allocator>
  using memory = no_memory;

  void prepare(copy_operation& op, no_memory&) {
    op.kind = verb::copy_file;
    op.from = std::move(from);
    op.to = std::move(to);
    op.options = options;
  }
};

struct remove_arguments {
  using operation_type = remove_operation;
  std::filesystem::path path;

  template <class Allocator>
  using memory = no_memory;

  void prepare(remove_operation& op, no_memory&) {
    op.kind = verb::remove_file;
    op.path = std::move(path);
  }
};

/// The flat array of buffers that compiled code can walk.
template <class Allocator>
struct flat_buffers {
  explicit flat_buffers(const Allocator& allocator) : many(allocator) {}

  std::array<asio::const_buffer, 4> few;
  // Only for sequences that do not fit above.
  std::vector<asio::const_buffer,
              typename std::allocator_traits<Allocator>::template rebind_alloc<asio::const_buffer>>
      many;
};

/// Keeps a buffer sequence.
template <class Sequence>
struct buffer_arguments {
  using operation_type = operation;
  verb kind;
  std::uint64_t offset;
  Sequence buffers;

  template <class Allocator>
  using memory = flat_buffers<Allocator>;

  template <class Allocator>
  void prepare(operation& op, flat_buffers<Allocator>& flat) {
    auto& [few, many] = flat;
    op.kind = kind;
    op.offset = offset;
    std::size_t count = 0;
    const auto begin = asio::buffer_sequence_begin(buffers);
    const auto end = asio::buffer_sequence_end(buffers);
    for (auto it = begin; it != end; ++it) {
      const asio::const_buffer buffer(*it);
      if (buffer.size() == 0) continue;
      op.length = add_bytes(op.length, buffer.size());
      if (count < few.size())
        few[count] = buffer;
      else {
        if (many.empty()) many.assign(few.begin(), few.end());
        many.push_back(buffer);
      }
      ++count;
    }
    op.buffers = many.empty() ? few.data() : many.data();
    op.buffer_count = count;
  }
};

/// The handler with its results, as it is given to an executor. The executor, unless the handler is
/// to find its own way.
template <class Handler, class Tuple>
struct bound_handler {
  using allocator_type = asio::associated_allocator_t<Handler>;
  allocator_type get_allocator() const noexcept { return asio::get_associated_allocator(handler); }

  void operator()() {
    std::apply([this](auto&... result) { std::move(handler)(std::move(result)...); }, results);
  }

  Handler handler;
  Tuple results;
};

template <class Handler, class Tuple, class Executor>
struct routed_handler : bound_handler<Handler, Tuple> {
  using executor_type = asio::associated_executor_t<Handler, Executor>;
  executor_type get_executor() const noexcept {
    return asio::get_associated_executor(this->handler, executor);
  }
  Executor executor;
};

/// What a cancellation slot holds: one end of the link to an operation. It is in the slot's own
/// memory: what a slot keeps may outlive the handler, and with it what its allocator allocates
/// from.
class slot_handler {
 public:
  slot_handler(operation& op, std::atomic<cancel_link*>& end) : link_(op, end) {}
  void operator()(asio::cancellation_type_t type) noexcept {
    if (type != asio::cancellation_type::none) cancel(link_, type);
  }

 private:
  cancel_link link_;
};

/// Where an operation and what it needs are allocated: where the handler says, else in memory that
/// Asio keeps for the thread's next operation.
template <class Handler>
using operation_allocator = asio::associated_allocator_t<Handler, asio::recycling_allocator<void>>;

template <class Handler>
operation_allocator<Handler> operation_allocator_of(const Handler& handler) noexcept {
  return asio::get_associated_allocator(handler, asio::recycling_allocator<void>());
}

/// An operation with the handler, the executors and the arguments that belong to it.
template <class Handler, class Executor, class Result, class Arguments>
class bound_operation final : public Arguments::operation_type {
 public:
  using allocator_type = typename std::allocator_traits<
      operation_allocator<Handler>>::template rebind_alloc<bound_operation>;

  static bound_operation* make(Handler&& handler, Executor&& executor, Arguments&& arguments) {
    allocator_type allocator(operation_allocator_of(handler));
    bound_operation* self = std::allocator_traits<allocator_type>::allocate(allocator, 1);
    try {
      ::new (static_cast<void*>(self))
          bound_operation(std::move(handler), std::move(executor), std::move(arguments));
    } catch (...) {
      std::allocator_traits<allocator_type>::deallocate(allocator, self, 1);
      throw;
    }
    try {
      auto slot = asio::get_associated_cancellation_slot(self->handler_);
      if (slot.is_connected()) slot.template emplace<slot_handler>(*self, self->link_);
    } catch (...) {
      do_destroy(self);
      throw;
    }
    return self;
  }

 private:
  using handler_executor = asio::associated_executor_t<Handler, Executor>;

  bound_operation(Handler&& handler, Executor&& executor, Arguments&& arguments)
      : handler_(std::move(handler)), executor_(std::move(executor)),
        arguments_(std::move(arguments)), memory_(operation_allocator_of(handler_)) {
    arguments_.prepare(*this, memory_);
    this->hold = &do_hold;
    this->complete = &do_complete;
    this->destroy = &do_destroy;
  }

  // Where the executors are type-erased this costs more than an update that is over at once.
  static bool do_hold(operation* base) noexcept {
    auto* self = static_cast<bound_operation*>(base);
    try {
      self->work_.emplace(self->executor_);
      self->handler_work_.emplace(asio::get_associated_executor(self->handler_, self->executor_));
    } catch (...) {
      return false;
    }
    return true;
  }

  static void release(bound_operation* self, const Handler& handler) noexcept {
    allocator_type allocator(operation_allocator_of(handler));
    self->~bound_operation();
    std::allocator_traits<allocator_type>::deallocate(allocator, self, 1);
  }

  static void do_complete(operation* base, operation::delivery how) {
    auto* self = static_cast<bound_operation*>(base);
    cancel_link::cut(*self, self->link_);
    // The guards outlive the hand-over to the executor; the memory does not: the handler may want
    // it again at once.
    const auto work = std::move(self->work_);
    const auto handler_work = std::move(self->handler_work_);
#if ASIO_VERSION >= 102800
    const Executor executor = self->executor_;
#endif
    const handler_executor to = asio::get_associated_executor(self->handler_, self->executor_);
    auto results = Result::take(*self);
    Handler handler(std::move(self->handler_));
    release(self, handler);
    using results_type = decltype(results);
#if ASIO_VERSION >= 102800
    if (how == operation::delivery::immediate) {
      auto immediate = asio::get_associated_immediate_executor(handler, executor);
      asio::dispatch(immediate, routed_handler<Handler, results_type, Executor>{
                                    {std::move(handler), std::move(results)}, executor});
      return;
    }
#endif
    bound_handler<Handler, results_type> bound{std::move(handler), std::move(results)};
    if (how == operation::delivery::dispatch)
      asio::dispatch(to, std::move(bound));
    else
      asio::post(to, std::move(bound));
  }

  static void do_destroy(operation* base) noexcept {
    auto* self = static_cast<bound_operation*>(base);
    cancel_link::cut(*self, self->link_);
    // The handler may own the last handle to what the operation refers to: it goes last.
    const auto work = std::move(self->work_);
    const auto handler_work = std::move(self->handler_work_);
    Handler handler(std::move(self->handler_));
    release(self, handler);
  }

  Handler handler_;
  Executor executor_;
  std::optional<asio::executor_work_guard<Executor>> work_;
  std::optional<asio::executor_work_guard<handler_executor>> handler_work_;
  Arguments arguments_;
  [[no_unique_address]] typename Arguments::template memory<operation_allocator<Handler>> memory_;
  std::atomic<cancel_link*> link_{nullptr};  // null once the slot holds something else
};

/// The initiation of every verb: binds the handler to an operation and starts it.
template <class Executor, class Result>
class initiate_verb {
 public:
  using executor_type = Executor;

  initiate_verb(const Executor& executor, std::shared_ptr<engine> home,
                std::shared_ptr<handle_state> handle)
      : executor_(executor), home_(std::move(home)), handle_(std::move(handle)) {}

  executor_type get_executor() const noexcept { return executor_; }

  template <class Handler, class Arguments>
  void operator()(Handler&& handler, Arguments arguments) const& {
    initiate_verb once(*this);
    std::move(once)(std::forward<Handler>(handler), std::move(arguments));
  }
  template <class Handler, class Arguments>
  void operator()(Handler&& handler, Arguments arguments) && {
    using operation_type = bound_operation<std::decay_t<Handler>, Executor, Result, Arguments>;
    std::decay_t<Handler> owned(std::forward<Handler>(handler));
    auto* op = operation_type::make(std::move(owned), std::move(executor_), std::move(arguments));
    op->home = std::move(home_);
    op->owner = std::move(handle_);
    if (start(*op)) op->complete(op, operation::delivery::immediate);
  }

 private:
  Executor executor_;
  std::shared_ptr<engine> home_;
  std::shared_ptr<handle_state> handle_;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_DETAIL_INITIATE_HPP
