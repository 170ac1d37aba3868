#include "file_changes.hpp"

#include "sanitizers.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include <windows.h>

namespace support {

namespace fs = std::filesystem;

// A read is outstanding for each of them.
const bool notices_of_all_folders_come_in_order = false;
const bool notices_say_what_was_done = false;
const bool notices_connect_folders = false;
// Wine keeps the name until nobody has it open, and does not say that it is to go.
const bool watched_folders_can_be_removed = !is_emulated;

namespace {

void expect_success(bool has_succeeded, const std::string& what) {
  if (!has_succeeded)
    throw std::system_error(static_cast<int>(::GetLastError()), std::system_category(), what);
}

/// One command of a shell.
class command {
 public:
  command(const fs::path& folder, const std::string& line) : folder_(folder) {
    std::istringstream text(line);
    words_.assign(std::istream_iterator<std::string>(text), {});
    const auto arrow = std::find_if(words_.begin(), words_.end(), [](const std::string& word) {
      return word == ">" || word == ">>";
    });
    if (arrow == words_.end()) return;
    appends_ = *arrow == ">>";
    output_ = folder_ / *std::next(arrow);
    words_.erase(arrow, words_.end());
  }

  void run() const {
    const std::string verb = words_.at(0);
    const bool has_option = words_.size() > 1 && words_[1].starts_with('-');
    std::vector<fs::path> names;
    for (std::size_t i = has_option ? 2 : 1; i < words_.size(); ++i)
      names.push_back(folder_ / words_[i]);
    if (verb == "echo") return write(text() + '\n');
    if (verb == ":") return write("");
    if (verb == "mv") return fs::rename(names.at(0), names.at(1));
    if (verb == "cp") return copy(names.at(0), names.at(1));
    if (verb == "truncate") return fs::resize_file(names.at(1), std::stoull(words_.at(2)));
    for (const fs::path& name : names)
      run(verb, has_option, name);
  }

 private:
  static void run(const std::string& verb, bool has_option, const fs::path& name) {
    if (verb == "mkdir" && has_option)
      fs::create_directories(name);
    else if (verb == "mkdir")
      expect_success(::CreateDirectoryW(name.c_str(), nullptr) != FALSE, "mkdir");
    else if (verb == "rmdir")
      expect_success(::RemoveDirectoryW(name.c_str()) != FALSE, "rmdir");
    else if (verb == "rm" && has_option)
      fs::remove_all(name);
    else if (verb == "rm")
      expect_success(::DeleteFileW(name.c_str()) != FALSE, "rm");
    else
      throw std::invalid_argument(verb);
  }
  std::string text() const {
    std::string all;
    for (std::size_t i = 1; i < words_.size(); ++i)
      all += (i == 1 ? "" : " ") + words_[i];
    return all;
  }
  static void copy(const fs::path& from, const fs::path& to) {
    std::ifstream in(from, std::ios::binary);
    std::ofstream(to, std::ios::binary) << in.rdbuf();
  }
  void write(const std::string& text) const {
    std::ofstream out(output_, std::ios::binary | (appends_ ? std::ios::app : std::ios::trunc));
    out << text << std::flush;
    if (!out) throw std::runtime_error("nothing can be written");
  }

  const fs::path folder_;
  std::vector<std::string> words_;
  fs::path output_;
  bool appends_ = false;
};

}  // namespace

void run_commands(const fs::path& folder, const std::string& commands) {
  std::istringstream lines(commands);
  for (std::string line; std::getline(lines, line, ';');) {
    try {
      command(folder, line).run();
    } catch (const std::exception& error) {
      ADD_FAILURE() << line << ": " << error.what();
    }
  }
}

void change_metadata(const fs::path& file) {
  // Not by SetFileAttributes, for which Wine must not have it mapped.
  const HANDLE handle = ::CreateFileW(file.c_str(), FILE_READ_ATTRIBUTES | FILE_WRITE_ATTRIBUTES,
                                      FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                                      nullptr, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, nullptr);
  FILE_BASIC_INFO info{};
  EXPECT_NE(::GetFileInformationByHandleEx(handle, FileBasicInfo, &info, sizeof info), FALSE);
  FILE_BASIC_INFO changed{};  // zeros are left as they are
  // Nobody could write to it with an attribute that makes a difference.
  for (const DWORD attributes :
       {info.FileAttributes | FILE_ATTRIBUTE_READONLY, info.FileAttributes}) {
    changed.FileAttributes = attributes;
    EXPECT_NE(::SetFileInformationByHandle(handle, FileBasicInfo, &changed, sizeof changed), FALSE);
  }
  ::CloseHandle(handle);
}

bool exchange(const fs::path&, const fs::path&) {
  return false;
}

void overflow_notices(const fs::path& first, const fs::path& second) {
  // More than the buffers of a folder's handle hold, here and in the kernel: each has some 450
  // notices.
  constexpr int enough = 800;
  for (const fs::path& file : {first, second})
    std::ofstream(file, std::ios::app) << 'x';
  for (const fs::path& folder : {first.parent_path(), second.parent_path()})
    for (int i = 0; i < enough; ++i) {
      const fs::path name = folder / ("passing-" + std::to_string(i));
      std::ofstream(name) << "text";
      fs::remove(name);
    }
}

std::uint64_t resident_memory() {
  return 0;
}

}  // namespace support
