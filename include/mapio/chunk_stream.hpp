#ifndef MAPIO_CHUNK_STREAM_HPP
#define MAPIO_CHUNK_STREAM_HPP

#include <mapio/detail/config.hpp>
#include <mapio/detail/default_token.hpp>
#include <mapio/detail/initiate.hpp>
#include <mapio/detail/operation.hpp>
#include <mapio/region.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/async_result.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

MAPIO_NAMESPACE_BEGIN

template <class Executor>
class basic_mapped_file;

/// Hands out a file from its start to its end, chunk by chunk, while the next ones are being read.
///
/// Made by basic_mapped_file::chunks(). Each chunk begins where the last one that was handed out
/// ended. Only what was handed out stays pinned: what is read ahead holds up a shrink no longer
/// than it takes to read.
///
/// **A file that changes meanwhile.** A chunk ends at the end of the file as it is when its view
/// begins, so the last one may be short; while a shrink waits, the new end counts. After the end,
/// next() gives an empty region as often as it is asked, and what was appended once the file has
/// grown. When the file was cut before the place that the stream has come to, that is its end too.
///
/// Destroying the stream stops the reading; a next() that waits for it completes with
/// asio::error::operation_aborted, one whose own chunk is being read completes as ever. Regions
/// that were handed out stay valid.
///
/// @tparam Executor  As of the file.
/// @par Thread safety
///   Different objects: any thread. One object: one call at a time.
/// @par Example
///   for (auto chunks = file.chunks(1 << 20);;) {
///     mapio::region chunk = co_await chunks.next();
///     if (chunk.empty()) break;
///   }
template <class Executor = asio::any_io_executor>
class basic_chunk_stream {
  using token_type = detail::default_token<Executor>;

 public:
  /// Names the executor that next() uses when a handler has none of its own.
  using executor_type = Executor;

  /// Takes over the place in the file and what was read ahead; next() of `other` completes with
  /// errc::not_open.
  basic_chunk_stream(basic_chunk_stream&& other) noexcept
      // NOLINTNEXTLINE(performance-move-constructor-init): where its next() completes
      : executor_(other.executor_), home_(std::move(other.home_)),
        handle_(std::move(other.handle_)), reader_(std::move(other.reader_)) {}
  /// Stops this stream and takes over that of `other`, as above.
  basic_chunk_stream& operator=(basic_chunk_stream&& other) noexcept {
    basic_chunk_stream old(std::move(*this));
    executor_ = other.executor_;
    home_ = std::move(other.home_);
    handle_ = std::move(other.handle_);
    reader_ = std::move(other.reader_);
    return *this;
  }
  /// Stops the reading.
  ~basic_chunk_stream() {
    if (reader_) detail::stop(*reader_);
  }

  /// Returns the executor that next() uses when a handler has none of its own.
  executor_type get_executor() const noexcept { return executor_; }

  /// Shows the next chunk; every page of it is resident and mapped at completion.
  ///
  /// An empty region is the end of the file. After an error the next call is about the same chunk.
  ///
  /// @par Completion signature
  ///   void(std::error_code, mapio::region)
  /// @par Errors
  ///   errc::not_open: the file is closed, or was not open when the stream was made, or the stream
  ///   was moved from. errc::page_fault: the file was truncated by somebody else.
  ///   std::errc::operation_in_progress: another next() is outstanding; it is left alone.
  ///   std::errc::invalid_argument: the chunks have 0 bytes. Else the OS code.
  /// @par Cancellation
  ///   terminal, partial, total. No chunk is lost: the next call is about the same one.
  /// @par Example
  ///   mapio::region chunk = co_await chunks.next();
  template <class Token = token_type>
  auto next(Token&& token = Token()) {
    return asio::async_initiate<Token, detail::chunk_result::signature>(
        detail::initiate_verb<Executor, detail::chunk_result>(executor_, home_, handle_), token,
        detail::chunk_arguments{reader_});
  }

 private:
  template <class>
  friend class basic_mapped_file;

  basic_chunk_stream(const executor_type& executor, std::shared_ptr<detail::engine> home,
                     std::shared_ptr<detail::handle_state> handle, std::uint64_t bytes,
                     std::size_t readahead)
      : executor_(executor), home_(std::move(home)), handle_(std::move(handle)),
        reader_(detail::read_chunks(handle_, home_, bytes, readahead)) {}

  Executor executor_;
  std::shared_ptr<detail::engine> home_;
  std::shared_ptr<detail::handle_state> handle_;
  std::shared_ptr<detail::chunk_reader> reader_;
};

/// Hands out a file chunk by chunk on any executor.
using chunk_stream = basic_chunk_stream<>;

MAPIO_NAMESPACE_END

#endif  // MAPIO_CHUNK_STREAM_HPP
