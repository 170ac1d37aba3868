// A disk as a file, by FUSE: what is written to it and when it is flushed goes into a log, and it
// fails when it is told to.
//
//   crash_device FOLDER DISK LOG READY OUTSIDE
//
// FOLDER is where the file appears. The others are inherited descriptors: the content, the log to
// append to, a pipe into which one byte goes once the file is there, and the namespace of mounts to
// stay in.
//
// One thread serves one request after the other. A write is in the log and in the content before it
// is answered, so whoever sees an answer finds everything in front of it in the log. This is what
// lets a mark prove that an acknowledgement came after what is logged in front of it.
//
// It leaves the namespace in which its file is mounted: the last process there unmounts what is
// left, and must not be the one that serves what is unmounted.
//
// A process of its own and not a thread of the test: a process that ends cannot wait for a file
// system that waits for one of its threads.

#include "device_protocol.hpp"

#include "../faults/fuse_session.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

// Not in every <sys/prctl.h>.
#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace {

using crash::command;
using crash::command_kind;
using crash::entry_header;
using crash::entry_kind;

constexpr fuse_ino_t disk_inode = 2;
constexpr fuse_ino_t control_inode = 3;
constexpr double forever = 1e6;

struct device {
  int disk = -1;
  int log = -1;
  off_t size = 0;
  std::int64_t failing_writes = 0;
  std::int64_t failing_flushes = 0;
};

device& device_of(fuse_req_t request) {
  return *static_cast<device*>(fuse_req_userdata(request));
}

// True if this request is to fail.
bool count_down(std::int64_t& failing) {
  if (failing > 0) {
    --failing;
    return true;
  }
  return failing < 0;
}

bool append(const device& d, entry_kind kind, std::uint64_t value, const char* bytes,
            std::size_t length) {
  entry_header header{kind, static_cast<std::uint32_t>(length), value};
  iovec parts[] = {{&header, sizeof header}, {const_cast<char*>(bytes), length}};
  return ::writev(d.log, parts, 2) == static_cast<ssize_t>(sizeof header + length);
}

struct stat attributes(const device& d, fuse_ino_t inode) {
  struct stat result {};
  result.st_ino = inode;
  result.st_nlink = 1;
  if (inode == FUSE_ROOT_ID) {
    result.st_mode = S_IFDIR | 0700;
    result.st_nlink = 2;
  } else {
    result.st_mode = S_IFREG | 0600;
    if (inode == disk_inode) result.st_size = d.size;
  }
  return result;
}

void on_init(void*, fuse_conn_info* connection) {
  // The kernel must neither keep writes back nor make requests of its own.
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_WRITEBACK_CACHE);
}

void on_lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  const std::string_view text = name;
  fuse_entry_param entry{};
  if (parent == FUSE_ROOT_ID && text == crash::disk_name) entry.ino = disk_inode;
  if (parent == FUSE_ROOT_ID && text == crash::control_name) entry.ino = control_inode;
  if (entry.ino == 0) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  entry.attr = attributes(device_of(request), entry.ino);
  entry.attr_timeout = forever;
  entry.entry_timeout = forever;
  fuse_reply_entry(request, &entry);
}

void on_getattr(fuse_req_t request, fuse_ino_t inode, fuse_file_info*) {
  const struct stat result = attributes(device_of(request), inode);
  fuse_reply_attr(request, &result, forever);
}

void on_setattr(fuse_req_t request, fuse_ino_t inode, struct stat*, int, fuse_file_info* file) {
  on_getattr(request, inode, file);
}

void on_open(fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
  file->direct_io = 1;  // past the page cache: every write arrives here before it completes
  fuse_reply_open(request, file);
}

void on_read(fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset,
             fuse_file_info*) {
  const device& d = device_of(request);
  if (inode != disk_inode || offset >= d.size) {
    fuse_reply_buf(request, nullptr, 0);
    return;
  }
  fuse_bufvec bytes{};
  bytes.count = 1;
  bytes.buf[0].size = std::min(size, static_cast<std::size_t>(d.size - offset));
  bytes.buf[0].flags = static_cast<fuse_buf_flags>(FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK);
  bytes.buf[0].fd = d.disk;
  bytes.buf[0].pos = offset;
  fuse_reply_data(request, &bytes, FUSE_BUF_NO_SPLICE);
}

void obey(fuse_req_t request, device& d, const char* bytes, std::size_t size) {
  command c;
  if (size != sizeof c) {
    fuse_reply_err(request, EINVAL);
    return;
  }
  std::memcpy(&c, bytes, sizeof c);
  bool done = true;
  switch (c.kind) {
  case command_kind::mark:
    done = append(d, entry_kind::mark, static_cast<std::uint64_t>(c.value), nullptr, 0);
    break;
  case command_kind::fail_writes:
    d.failing_writes = c.value;
    break;
  case command_kind::fail_flushes:
    d.failing_flushes = c.value;
    break;
  default:
    done = false;
  }
  if (done)
    fuse_reply_write(request, size);
  else
    fuse_reply_err(request, EINVAL);
}

void on_write(fuse_req_t request, fuse_ino_t inode, const char* bytes, std::size_t size,
              off_t offset, fuse_file_info*) {
  device& d = device_of(request);
  if (inode == control_inode) {
    obey(request, d, bytes, size);
    return;
  }
  if (offset < 0 || offset > d.size || static_cast<off_t>(size) > d.size - offset) {
    fuse_reply_err(request, ENOSPC);
    return;
  }
  if (count_down(d.failing_writes) ||
      !append(d, entry_kind::write, static_cast<std::uint64_t>(offset), bytes, size) ||
      ::pwrite(d.disk, bytes, size, offset) != static_cast<ssize_t>(size)) {
    fuse_reply_err(request, EIO);
    return;
  }
  fuse_reply_write(request, size);
}

void on_fsync(fuse_req_t request, fuse_ino_t inode, int, fuse_file_info*) {
  device& d = device_of(request);
  if (inode == disk_inode &&
      (count_down(d.failing_flushes) || !append(d, entry_kind::flush, 0, nullptr, 0))) {
    fuse_reply_err(request, EIO);
    return;
  }
  fuse_reply_err(request, 0);
}

void on_flush(fuse_req_t request, fuse_ino_t, fuse_file_info*) {
  fuse_reply_err(request, 0);  // somebody closes the file, which means nothing to a disk
}

int serve(const char* folder, device& d, int ready, int outside) {
  fuse_lowlevel_ops operations{};
  operations.init = on_init;
  operations.lookup = on_lookup;
  operations.getattr = on_getattr;
  operations.setattr = on_setattr;
  operations.open = on_open;
  operations.read = on_read;
  operations.write = on_write;
  operations.flush = on_flush;
  operations.fsync = on_fsync;
  // No fallocate: a discard would be a second kind of write, and mean the same.

  return faults::serve("crash_device", operations, &d, folder, ready, outside, fuse_session_loop);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fputs("usage: crash_device FOLDER DISK LOG READY OUTSIDE\n", stderr);
    return 2;
  }
  // Memory for a request must not be had by writing pages to this very disk.
  ::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);

  device d;
  d.disk = std::atoi(argv[2]);
  d.log = std::atoi(argv[3]);
  struct stat status {};
  if (::fstat(d.disk, &status) != 0) {
    std::perror("crash_device");
    return 1;
  }
  d.size = status.st_size;
  return serve(argv[1], d, std::atoi(argv[4]), std::atoi(argv[5]));
}
