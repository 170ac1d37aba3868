#ifndef MAPIO_FILE_OPERATIONS_HPP
#define MAPIO_FILE_OPERATIONS_HPP

/// @file
/// Awaitable calls about whole files that need not be open.
///
/// Each takes an executor or an execution context first, whose engine carries it out and whose
/// executor serves handlers that have none of their own, and a completion token last, with the
/// defaults of mapped_file. What is written there about every verb holds here as well: where and
/// when a handler is called, what it is allocated from, what a forked child gets.

#include <mapio/detail/config.hpp>
#include <mapio/detail/default_token.hpp>
#include <mapio/detail/initiate.hpp>
#include <mapio/detail/operation.hpp>
#include <mapio/options.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/execution/context.hpp>
#include <asio/execution/executor.hpp>
#include <asio/execution_context.hpp>
#include <asio/query.hpp>

#include <concepts>
#include <filesystem>
#include <memory>
#include <type_traits>
#include <utility>

MAPIO_NAMESPACE_BEGIN
namespace detail {

template <class T>
concept executor = asio::execution::is_executor<T>::value;

template <class T>
concept context_with_executor = std::convertible_to<T&, asio::execution_context&> &&
    requires(T& context) {
  { context.get_executor() } -> executor;
};

template <executor Executor>
Executor executor_of(const Executor& ex) {
  return ex;
}
template <context_with_executor Context>
auto executor_of(Context& context) {
  return context.get_executor();
}

/// What an awaitable free function may be given first.
template <class T>
concept place_to_run =
    executor<std::remove_cvref_t<T>> || context_with_executor<std::remove_reference_t<T>>;

template <place_to_run Place>
using executor_at = decltype(executor_of(std::declval<Place&>()));

// Whatever the executor, the coroutine is mostly one on any executor.
template <place_to_run Place>
using token_at = default_token<executor_at<Place>, asio::any_io_executor>;

template <class Result, class Token, class Executor, class Arguments>
auto initiate_without_file(const Executor& ex, Token&& token, Arguments&& arguments) {
  asio::execution_context& context = asio::query(ex, asio::execution::context);
  return asio::async_initiate<Token, typename Result::signature>(
      initiate_verb<Executor, Result>(ex, engine_of(context), nullptr), token,
      std::forward<Arguments>(arguments));
}

}  // namespace detail

/// Copies a file, off the loop: `to` is a complete copy of `from` at completion.
///
/// What is copied is a regular file of the size that it has at the beginning (if that is 0, as in
/// /proc, up to its end), as a reflink where the file system can do that, else inside the kernel,
/// else by reading and writing. Holes stay holes.
///
/// **The target** comes into being at the end, at once: the bytes go to a file in the same
/// directory that has no name (where the file system cannot do that, a name that begins with
/// ".mapio-copy-"), which then takes the target's place. A copy that fails, is cancelled or is
/// killed leaves what was there before as it was; only a kill or a power loss may leave a file of
/// such a name behind. The target that it replaces lives on for those who have it open or mapped,
/// and under its other names. A symbolic link stays, and what it names is replaced. A file that
/// cannot be written is not replaced.
///
/// **The copy** has the permissions of the source (read, write, execute; nobody but the owner may
/// touch it before it is complete) and belongs to the user of this process. No set-user-ID,
/// extended attribute, access list or time is copied.
///
/// **Not durable**, unless `options` ask for it: a power loss soon after may leave any part of the
/// copy, or an empty file, in the place of the target. With copy_file_options::durable the copy is
/// synced before it takes its place, and its directory afterwards: the old target or the complete
/// copy survives, and the latter from completion on.
///
/// Writes to the source meanwhile may be in the copy or not, in any part; what is appended is not.
///
/// @param place    An executor or an execution context.
/// @param from     Stored; a relative path counts from the working directory when the copy begins.
/// @param to       The name of the copy, not of a directory to put it in; stored, as above.
/// @param options  Whether to overwrite, to follow symbolic links, to be durable.
/// @par Completion signature
///   void(std::error_code, std::uint64_t) with the bytes copied, holes included: all of them, or it
///   is an error.
/// @par Errors
///   std::errc::is_a_directory: either path is one; std::errc::no_such_device: either is neither a
///   file nor a directory; std::errc::invalid_argument: both are the same file, or
///   either path has a NUL within;
///   std::errc::file_exists; errc::page_fault: the source was truncated meanwhile, or has fewer
///   bytes than its size says, as in /sys. Else the OS code, e.g. std::errc::no_space_on_device.
///   With durable, an error of the last sync comes when the copy is in its place already, and not
///   durable.
/// @par Cancellation
///   terminal, partial, total; between pieces of a few MiB, with the bytes copied until then. The
///   target is as it was. A reflink, a sync and the last step are carried out to their end.
/// @par Thread safety
///   Any thread. Of several copies to one target the last one wins, whole.
/// @par Example
///   std::uint64_t n = co_await mapio::copy_file(executor, "data", "data.old", {.durable = true});
template <detail::place_to_run Place, class Token = detail::token_at<Place>>
auto copy_file(Place&& place, const std::filesystem::path& from, const std::filesystem::path& to,
               const copy_file_options& options, Token&& token = Token()) {
  return detail::initiate_without_file<detail::length_result>(
      detail::executor_of(place), std::forward<Token>(token),
      detail::copy_arguments{from, to, options});
}
/// Copies a file with options that are all left alone; see above.
///
/// @param place  An executor or an execution context.
/// @param from   Stored, as above.
/// @param to     Stored, as above.
/// @par Completion signature
///   void(std::error_code, std::uint64_t)
/// @par Errors
///   As above.
/// @par Cancellation
///   As above.
/// @par Example
///   co_await mapio::copy_file(executor, "data", "data.old");
template <detail::place_to_run Place, class Token = detail::token_at<Place>>
requires(!std::same_as<std::decay_t<Token>, copy_file_options>) auto copy_file(
    Place&& place, const std::filesystem::path& from, const std::filesystem::path& to,
    Token&& token = Token()) {
  return copy_file(place, from, to, copy_file_options{}, std::forward<Token>(token));
}

/// Removes the name of a file, off the loop; with the last name and the last use of it, the file.
///
/// Of a symbolic link the link is removed. Whoever has the file open or mapped keeps it. Not
/// durable: after a power loss the name may be there again.
///
/// @param place  An executor or an execution context.
/// @param path   Stored; a relative one counts from the working directory at the time of the call
/// to the OS.
/// @par Completion signature
///   void(std::error_code)
/// @par Errors
///   std::errc::no_such_file_or_directory, std::errc::is_a_directory, std::errc::invalid_argument
///   for a path with a NUL within, else the OS code.
/// @par Cancellation
///   terminal, partial, total; queued only.
/// @par Thread safety
///   Any thread.
/// @par Example
///   co_await mapio::remove_file(executor, "data.old");
template <detail::place_to_run Place, class Token = detail::token_at<Place>>
auto remove_file(Place&& place, const std::filesystem::path& path, Token&& token = Token()) {
  return detail::initiate_without_file<detail::error_result>(
      detail::executor_of(place), std::forward<Token>(token), detail::remove_arguments{path});
}

MAPIO_NAMESPACE_END

#endif  // MAPIO_FILE_OPERATIONS_HPP
