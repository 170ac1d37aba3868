#ifndef MAPIO_TESTS_MODIFICATION_WATCH_HPP
#define MAPIO_TESTS_MODIFICATION_WATCH_HPP

#include "linux/linux_support.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>

#include <sys/inotify.h>
#include <unistd.h>

namespace support {

/// What a watcher in another program is told of a file.
class modification_watch {
 public:
  explicit modification_watch(const fs::path& path)
      : fd_(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
    EXPECT_GE(::inotify_add_watch(fd_.get(), path.c_str(), IN_MODIFY | IN_ATTRIB), 0);
  }

  /// How often the file was reported as modified since the last call.
  int modifications() {
    int count = 0;
    alignas(inotify_event) std::array<char, 4096> buffer{};
    for (;;) {
      const auto n = ::read(fd_.get(), buffer.data(), buffer.size());
      if (n <= 0) return count;
      for (std::size_t at = 0; at < static_cast<std::size_t>(n);) {
        const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
        if ((event->mask & IN_MODIFY) != 0) ++count;
        at += sizeof(inotify_event) + event->len;
      }
    }
  }

 private:
  unique_fd fd_;
};

}  // namespace support

#endif  // MAPIO_TESTS_MODIFICATION_WATCH_HPP
