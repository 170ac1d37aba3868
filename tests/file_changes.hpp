#ifndef MAPIO_TESTS_FILE_CHANGES_HPP
#define MAPIO_TESTS_FILE_CHANGES_HPP

// What other programs do to files, for those who watch: file_changes_linux.cpp has it, or
// file_changes_windows.cpp.

#include <cstdint>
#include <filesystem>
#include <string>

namespace support {

/// Does what a shell would do in a folder, one command after another; `commands` are separated by
/// semicolons, and have no more than the shells of all systems here understand:
///
///     echo WORDS > FILE      : > FILE         cp FILE FILE     rm FILES    mkdir FOLDERS
///     echo WORDS >> FILE     truncate -s N FILE     mv NAME NAME     rm -r NAMES    mkdir -p
///     FOLDERS rmdir FOLDERS
void run_commands(const std::filesystem::path& folder, const std::string& commands);

/// Changes the metadata of a file, and nothing else.
void change_metadata(const std::filesystem::path& file);
/// Exchanges two names; false where that cannot be done.
bool exchange(const std::filesystem::path& a, const std::filesystem::path& b);
/// Does so much to two files, or beside them, that the OS drops notices until some are read. The
/// files may grow.
void overflow_notices(const std::filesystem::path& first, const std::filesystem::path& second);
/// Whether what was done in one folder is told before what was done in another one later.
extern const bool notices_of_all_folders_come_in_order;
/// Whether it is told of each file that it was written, and not only that something was done to it,
/// of which the look at its creation may have seen all.
extern const bool notices_say_what_was_done;
/// Whether it is told that what left a folder is what came into another one.
extern const bool notices_connect_folders;
/// Whether a folder that is removed loses its name though a watcher has it open.
extern const bool watched_folders_can_be_removed;
/// The memory that this process has; 0 where nobody knows.
std::uint64_t resident_memory();

}  // namespace support

#endif  // MAPIO_TESTS_FILE_CHANGES_HPP
