#ifndef MAPIO_TESTS_OS_HPP
#define MAPIO_TESTS_OS_HPP

// What tests need of an operating system. os_linux.cpp has it, or os_windows.cpp: CMake chooses.
// What only Linux has is in linux/linux_support.hpp.

#include <mapio/backend.hpp>
#include <mapio/mapping.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <ostream>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace support {

namespace fs = std::filesystem;

// --- files
// ----------------------------------------------------------------------------------------

using native_handle = mapio::mapping::native_handle_type;
inline const native_handle no_native_handle = native_handle(-1);

void close_native(native_handle file) noexcept;

/// A file of the OS that is closed at the end.
class native_file {
 public:
  native_file() noexcept = default;
  explicit native_file(native_handle file) noexcept : file_(file) {}
  native_file(native_file&& other) noexcept : file_(other.release()) {}
  native_file& operator=(native_file&& other) noexcept {
    reset(other.release());
    return *this;
  }
  ~native_file() { reset(); }

  native_handle get() const noexcept { return file_; }
  native_handle release() noexcept { return std::exchange(file_, no_native_handle); }
  void reset(native_handle file = no_native_handle) noexcept {
    if (file_ != no_native_handle) close_native(file_);
    file_ = file;
  }

 private:
  native_handle file_ = no_native_handle;
};

enum class opening {
  to_read,
  to_write,
  to_read_and_write,
  to_append,  // and to read
  to_create   // unless it is there; to read and write
};

/// Opens a file as another program would; throws std::system_error.
native_file open_native(const fs::path& path, opening how);
/// Opens a folder, as far as that is possible; throws std::system_error.
native_file open_native_folder(const fs::path& path);
/// Opens something that takes every byte, and is no file.
native_file open_null_device();
/// Opens the end of a pipe, to read from it.
native_file open_pipe();

/// Reads as many bytes as there are, `count` at most; throws std::system_error.
std::string read_at(native_handle file, std::uint64_t offset, std::size_t count);
/// Returns how many bytes were written; throws std::system_error.
std::size_t write_at(native_handle file, std::uint64_t offset, std::string_view bytes);

/// Tells whether a number means an open file or anything else of the OS.
bool is_open_descriptor(native_handle file) noexcept;
/// Tells whether programs that are started get it.
bool is_inherited(native_handle file) noexcept;
/// All that are open in this process.
std::set<native_handle> open_descriptors();

/// Makes a folder of a new name, and returns its path; throws std::system_error.
fs::path make_unique_folder(const fs::path& parent);
/// Removes a folder and what is in it, as far as that is possible.
void remove_tree(const fs::path& folder) noexcept;

/// Cuts or extends a file behind the library's back; throws std::system_error where the OS refuses
/// that because it is mapped.
void truncate_file(const fs::path& path, std::uint64_t size);

/// What the OS says of a path that goes on behind a file, and of a name that is longer than any.
std::error_condition error_below_a_file();
std::error_condition error_of_a_long_name();

/// Counts the bytes that the file system keeps for a file, which is fewer than its size if it has
/// holes.
std::uint64_t allocated_bytes(const fs::path& path);
/// Tells one file from another, and one file by several names from several files.
std::pair<std::uint64_t, std::uint64_t> identity(const fs::path& path);
std::pair<std::uint64_t, std::uint64_t> identity(native_handle file);

// --- memory
// ---------------------------------------------------------------------------------------

/// Writes a file out and throws its pages out of memory; false where that cannot be done.
bool evict(const fs::path& path);

/// Takes out of memory what a mapping of a whole file has there and the file has too, where that
/// can be done.
void forget_pages(const std::byte* data, std::size_t length, native_handle file) noexcept;

/// Tells whether reading without waiting works, and so whether residency can be found out otherwise
/// than of a mapping.
bool tells_cached_pages(const fs::path& path);

/// How many pages of a file the disk does not have yet; 0 where nobody knows.
std::uint64_t unwritten_pages(const fs::path& path);
/// Tells whether the dirty pages of a file that has some can be seen.
inline bool tells_dirty_pages(const fs::path& path) {
  return unwritten_pages(path) != 0;
}

/// A second, independent mapping of a file that shares it: what another program would have.
class foreign_mapping {
 public:
  enum class access { read_and_write, read };

  foreign_mapping(const fs::path& path, std::size_t length, access how = access::read_and_write);
  foreign_mapping(const foreign_mapping&) = delete;
  foreign_mapping& operator=(const foreign_mapping&) = delete;
  ~foreign_mapping();

  char* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return length_; }

 private:
  char* data_ = nullptr;
  std::size_t length_;
};

/// Counts the mappings of this file in this process.
int count_mappings(const fs::path& path);
inline bool is_mapped(const fs::path& path) {
  return count_mappings(path) != 0;
}

/// How much of this process is locked into memory; nothing where the OS does not say.
std::optional<std::uint64_t> locked_bytes();

/// The size of a page as the OS says it.
std::size_t system_page_size();
/// At what multiples a mapping can begin, and so another one end that it is to follow.
std::size_t mapping_granule();

// --- processes
// ------------------------------------------------------------------------------------

/// Sets a variable of the environment, or removes it (null).
void set_environment(const std::string& name, const char* value);

/// Ends the program, with a message, unless it is disarmed or armed again in time.
void arm_watchdog(unsigned seconds);
void disarm_watchdog();

/// How a child process ended.
struct child_end {
  int code = 0;    // that it exited with
  int signal = 0;  // that killed it, where there are signals

  bool exited_with(int expected) const { return signal == 0 && code == expected; }
  bool ok() const { return exited_with(0); }
  bool killed_by(int expected) const { return signal != 0 && signal == expected; }

  friend bool operator==(const child_end&, const child_end&) = default;
  friend std::ostream& operator<<(std::ostream& out, const child_end& end) {
    if (end.signal != 0) return out << "killed by signal " << end.signal;
    return out << "exit status " << end.code;
  }
};

/// The engine that only this OS has.
extern const mapio::backend_kind engine_of_this_os;

/// Whether this machine lets this process have a ring of io_uring at all.
bool io_uring_is_allowed();

/// The file of the program that runs.
fs::path this_program();

/// A program that runs beside this one, and is ended hard with this object.
class child_process {
 public:
  /// Starts it with this process's output, or with its own going to a file. Arguments come after
  /// its name. Throws std::system_error.
  child_process(const fs::path& program, const std::vector<std::string>& arguments,
                const fs::path& output = {});
  child_process(const child_process&) = delete;
  child_process& operator=(const child_process&) = delete;
  ~child_process();

  /// Ends it as nothing can that it could prepare for: what it did not hand to the OS is gone.
  void kill();
  /// Waits for its end.
  child_end wait();

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace support

#endif  // MAPIO_TESTS_OS_HPP
