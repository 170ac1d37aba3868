#ifndef MAPIO_SRC_CORE_CHUNK_READER_HPP
#define MAPIO_SRC_CORE_CHUNK_READER_HPP

#include <mapio/detail/operation.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

MAPIO_NAMESPACE_BEGIN
namespace detail {

/// Reads a file from its start to its end: a view of the chunk that is asked for, and prefetches of
/// the ones behind it.
///
/// The prefetches are verbs like any other, whose handler is this; they pin nothing once they are
/// over. The view waits for the one that is about its chunk, so that nothing is read twice.
///
/// Lock order: engine, file, this.
class chunk_reader final : public std::enable_shared_from_this<chunk_reader> {
 public:
  chunk_reader(std::shared_ptr<handle_state> handle, std::shared_ptr<engine> home,
               std::uint64_t bytes, std::size_t readahead);
  chunk_reader(const chunk_reader&) = delete;
  chunk_reader& operator=(const chunk_reader&) = delete;
  ~chunk_reader() = default;

  /// As file_state::start(), for verb::next_chunk.
  bool start(chunk_operation& op) noexcept;
  /// As file_state::withdraw().
  bool withdraw(const operation& op) noexcept;
  void hand_over(const chunk_operation& op) noexcept;
  void stop() noexcept;

 private:
  struct prefetch final : operation {
    std::shared_ptr<chunk_reader> reader;  // while under way
    bool is_under_way = false;
  };

  bool wait_or_view(chunk_operation& op) noexcept;
  bool view(chunk_operation& op) noexcept;
  prefetch* prefetch_of(std::uint64_t at) noexcept;
  void read_ahead() noexcept;
  void cancel_prefetches() noexcept;
  void prefetch_over(prefetch& p) noexcept;

  const std::shared_ptr<handle_state> handle_;
  const std::shared_ptr<engine> home_;
  const std::weak_ptr<file_state> file_;
  const std::uint64_t bytes_;
  const std::uint64_t ahead_;  // in bytes, behind the chunk that is asked for

  std::mutex mutex_;
  std::vector<prefetch> prefetches_;
  std::uint64_t position_ = 0;  // where the next chunk begins
  std::uint64_t prefetched_until_ = 0;
  const operation* current_ = nullptr;  // the next() that is outstanding
  chunk_operation* waiting_ = nullptr;  // the same, while it waits
  const prefetch* waited_for_ = nullptr;
  bool stopped_ = false;
};

}  // namespace detail
MAPIO_NAMESPACE_END

#endif  // MAPIO_SRC_CORE_CHUNK_READER_HPP
