#ifndef MAPIO_EXAMPLES_INGESTD_OS_HPP
#define MAPIO_EXAMPLES_INGESTD_OS_HPP

// What the daemon and its client need of an operating system beside mapio. os_posix.cpp has it, or
// os_windows.cpp.

#include <mapio/mapping.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace ingestd::os {

using native_handle = mapio::mapping::native_handle_type;

/// Opens a file, creating it if there is none, and locks it against other processes until it is
/// closed; nothing if another one has it locked. Others can read what the lock holder writes there.
///
/// @throws std::system_error
std::optional<native_handle> open_locked(const std::filesystem::path& path);
void close(native_handle file) noexcept;

/// Makes `text` all that a file has; false if that is not possible.
bool replace_content(native_handle file, const std::string& text) noexcept;

/// Looks at the size that a file has now, by whatever name.
///
/// @throws std::system_error
std::uint64_t size_of(native_handle file);

/// Makes the content durable that a file has which is open to be read, and has this name.
///
/// @throws std::system_error
void sync(native_handle file, const std::filesystem::path& path);

/// Makes the names in a directory durable.
///
/// @throws std::system_error
void sync_directory(const std::filesystem::path& directory);

/// Has a file read from the disk, and not from memory, next time; returns why that cannot be had.
std::error_code drop_clean_pages(const std::filesystem::path& path) noexcept;

unsigned process_id() noexcept;
bool is_terminal_output() noexcept;

/// From now on, a page of a mapped file that cannot be read ends the process with status 1, after
/// it printed `message`, unless mapio handles that. The message must stay.
void end_when_unreadable(const char* message);

}  // namespace ingestd::os

#endif  // MAPIO_EXAMPLES_INGESTD_OS_HPP
