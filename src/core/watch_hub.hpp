#ifndef MAPIO_SRC_CORE_WATCH_HUB_HPP
#define MAPIO_SRC_CORE_WATCH_HUB_HPP

#include "change_finder.hpp"
#include "engine.hpp"
#include "inline_executor.hpp"

#include <asio/basic_waitable_timer.hpp>
#include <asio/execution_context.hpp>

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// What the watchers of an execution context share: the source of notices, and the finder of
/// changes, which one thread at a time has.
///
/// The thread of the loop that finds the source readable has it as long as nothing needs to wait;
/// then it goes on to a worker of the engine, and is free again when all is done. What others want
/// of it meanwhile they leave as a request.
///
/// The loop is asked to look only while a next() waits: a context whose handlers wait for nothing
/// comes to its end.
class watch_hub final : public std::enable_shared_from_this<watch_hub> {
 public:
  watch_hub(asio::execution_context& context, std::shared_ptr<engine> home);
  watch_hub(const watch_hub&) = delete;
  watch_hub& operator=(const watch_hub&) = delete;
  ~watch_hub() = default;

  // Any thread.
  void add(const std::shared_ptr<watch_stream>& stream, const std::filesystem::path& path,
           const watch_options& options, const std::shared_ptr<file_state>& file);
  void forget(const std::shared_ptr<watch_stream>& stream) noexcept;
  bool is_foreign() const noexcept { return home_->is_foreign(); }
  /// There is something to do that may wait.
  void kick() noexcept;
  /// Of watch_stream, under its mutex; kick() follows, without it. False: the end has come.
  bool request_removal(const std::shared_ptr<watch_stream>& stream,
                       const std::filesystem::path& path);
  /// Of watch_stream, under its mutex.
  void next_waits() noexcept;
  void next_is_over() noexcept;

  void shut_down() noexcept;

 private:
  using timer =
      asio::basic_waitable_timer<watch_clock, asio::wait_traits<watch_clock>, inline_executor>;
  struct work_operation final : operation {
    std::shared_ptr<watch_hub> hub;  // while it is under way
    bool goes_on = false;
  };

  void request(std::function<void(change_finder&)> what);
  enum class wake_up { news, time };
  void on_loop(wake_up why);
  void wake(bool may_wait) noexcept;
  bool run(bool may_wait) noexcept;
  void go_on_or_rest(bool goes_on) noexcept;
  change_finder::outcome turn(bool may_wait) noexcept;
  void take_requests();
  void go_on_elsewhere() noexcept;
  void arm() noexcept;
  void rest() noexcept;

  asio::execution_context& context_;
  const std::shared_ptr<engine> home_;
  std::unique_ptr<watching::watch_source> source_;
  change_finder finder_;  // whoever set is_taken_
  work_operation work_;   // the same

  std::mutex mutex_;  // guards what follows, and arming the source
  std::vector<std::function<void(change_finder&)>> requests_;
  std::unique_ptr<timer> timer_;
  watch_clock::time_point deadline_ = watch_clock::time_point::max();
  watch_clock::time_point timed_for_ = watch_clock::time_point::max();
  int waiting_ = 0;  // next()
  bool is_taken_ = false;
  bool again_ = false;
  bool is_armed_ = false;
  bool stopping_ = false;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_WATCH_HUB_HPP
