// A folder of files in memory, by FUSE, each of whose requests takes its time: 200 ms to read or to
// write, 50 ms whatever else a client waits for but a lookup.
//
//   slow_files FOLDER READY OUTSIDE
//
// The first sync of a file that is created as fails_once_with_NUMBER fails with that errno.
//
// FOLDER is where it is mounted. READY and OUTSIDE are inherited descriptors: a pipe into which one
// byte goes once it is there, and the namespace of mounts to serve from (see fuse_server.hpp).
//
// Attributes are good for nothing: each look at them is a request. Pages are kept by the kernel,
// past a close as well, so that what was read is at hand. Requests are answered by as many threads
// as it takes: each waits for itself.

#include "fuse_session.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

constexpr double forever = 1e6;

void take_time(std::chrono::milliseconds time = std::chrono::milliseconds(50)) {
  std::this_thread::sleep_for(time);
}

void move_bytes() {
  take_time(std::chrono::milliseconds(200));
}

struct folder {
  std::mutex mutex;
  std::vector<int> files;  // the content of inode 2, 3, ...
  std::map<std::string, fuse_ino_t> names;
  std::map<fuse_ino_t, int> failures;  // of the next sync

  int file(fuse_ino_t inode) {
    const std::lock_guard lock(mutex);
    return files.at(inode - FUSE_ROOT_ID - 1);
  }
};

folder& folder_of(fuse_req_t request) {
  return *static_cast<folder*>(fuse_req_userdata(request));
}

struct stat attributes(folder& f, fuse_ino_t inode) {
  struct stat result {};
  result.st_ino = inode;
  result.st_nlink = 1;
  if (inode == FUSE_ROOT_ID) {
    result.st_mode = S_IFDIR | 0700;
    result.st_nlink = 2;
    return result;
  }
  struct stat status {};
  ::fstat(f.file(inode), &status);
  result.st_mode = S_IFREG | 0600;
  result.st_size = status.st_size;
  result.st_blocks = status.st_blocks;
  return result;
}

fuse_entry_param entry_of(folder& f, fuse_ino_t inode) {
  fuse_entry_param entry{};
  entry.ino = inode;
  entry.attr = attributes(f, inode);
  entry.entry_timeout = forever;
  return entry;
}

void on_lookup(fuse_req_t request, fuse_ino_t, const char* name) {
  folder& f = folder_of(request);
  fuse_ino_t inode = 0;
  {
    const std::lock_guard lock(f.mutex);
    if (const auto found = f.names.find(name); found != f.names.end()) inode = found->second;
  }
  if (inode == 0) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  const fuse_entry_param entry = entry_of(f, inode);
  fuse_reply_entry(request, &entry);
}

void on_create(fuse_req_t request, fuse_ino_t, const char* name, mode_t, fuse_file_info* file) {
  folder& f = folder_of(request);
  take_time();
  const int content = ::memfd_create("slow_file", MFD_CLOEXEC);
  fuse_ino_t inode = 0;
  {
    const std::lock_guard lock(f.mutex);
    f.files.push_back(content);
    inode = FUSE_ROOT_ID + f.files.size();
    f.names[name] = inode;
    int error = 0;
    if (std::sscanf(name, "fails_once_with_%d", &error) == 1) f.failures[inode] = error;
  }
  file->keep_cache = 1;
  const fuse_entry_param entry = entry_of(f, inode);
  fuse_reply_create(request, &entry, file);
}

void on_getattr(fuse_req_t request, fuse_ino_t inode, fuse_file_info*) {
  folder& f = folder_of(request);
  take_time();
  const struct stat result = attributes(f, inode);
  fuse_reply_attr(request, &result, 0);
}

void on_setattr(fuse_req_t request, fuse_ino_t inode, struct stat* wanted, int which,
                fuse_file_info*) {
  folder& f = folder_of(request);
  take_time();
  if ((which & FUSE_SET_ATTR_SIZE) != 0 && ::ftruncate(f.file(inode), wanted->st_size) != 0) {
    fuse_reply_err(request, errno);
    return;
  }
  const struct stat result = attributes(f, inode);
  fuse_reply_attr(request, &result, 0);
}

void on_open(fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
  take_time();
  file->keep_cache = 1;
  fuse_reply_open(request, file);
}

void on_read(fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset,
             fuse_file_info*) {
  folder& f = folder_of(request);
  move_bytes();
  std::vector<char> bytes(size);
  const ssize_t n = ::pread(f.file(inode), bytes.data(), size, offset);
  if (n < 0)
    fuse_reply_err(request, errno);
  else
    fuse_reply_buf(request, bytes.data(), static_cast<std::size_t>(n));
}

void on_write(fuse_req_t request, fuse_ino_t inode, const char* bytes, std::size_t size,
              off_t offset, fuse_file_info*) {
  folder& f = folder_of(request);
  move_bytes();
  const ssize_t n = ::pwrite(f.file(inode), bytes, size, offset);
  if (n < 0)
    fuse_reply_err(request, errno);
  else
    fuse_reply_write(request, static_cast<std::size_t>(n));
}

void on_fallocate(fuse_req_t request, fuse_ino_t inode, int, off_t offset, off_t length,
                  fuse_file_info*) {
  folder& f = folder_of(request);
  take_time();
  fuse_reply_err(request, ::posix_fallocate(f.file(inode), offset, length));
}

void on_fsync(fuse_req_t request, fuse_ino_t inode, int, fuse_file_info*) {
  folder& f = folder_of(request);
  take_time();
  int error = 0;
  {
    const std::lock_guard lock(f.mutex);
    if (const auto failure = f.failures.extract(inode)) error = failure.mapped();
  }
  fuse_reply_err(request, error);
}

// Somebody closes a descriptor of it, and somebody the last one.
void on_flush(fuse_req_t request, fuse_ino_t, fuse_file_info*) {
  take_time();
  fuse_reply_err(request, 0);
}

int serve(const char* where, folder& f, int ready, int outside) {
  fuse_lowlevel_ops operations{};
  operations.lookup = on_lookup;
  operations.create = on_create;
  operations.getattr = on_getattr;
  operations.setattr = on_setattr;
  operations.open = on_open;
  operations.read = on_read;
  operations.write = on_write;
  operations.fallocate = on_fallocate;
  operations.fsync = on_fsync;
  operations.fsyncdir = on_fsync;
  operations.flush = on_flush;
  operations.release = on_flush;

  return faults::serve("slow_files", operations, &f, where, ready, outside,
                       [](fuse_session* session) { return fuse_session_loop_mt(session, 0); });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fputs("usage: slow_files FOLDER READY OUTSIDE\n", stderr);
    return 2;
  }
  folder f;
  // What libfuse leaves behind is of no interest to a sanitizer.
  ::_exit(serve(argv[1], f, std::atoi(argv[2]), std::atoi(argv[3])));
}
