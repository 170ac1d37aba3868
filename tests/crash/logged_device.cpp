#include "logged_device.hpp"

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace crash {

namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::system_category(), what);
}

}  // namespace

// --- recording
// ------------------------------------------------------------------------------------

recording::recording(memory_file base, const memory_file& log) : base_(std::move(base)) {
  struct stat status {};
  if (::fstat(log.fd(), &status) != 0) fail("fstat");
  log_size_ = static_cast<std::size_t>(status.st_size);
  if (log_size_ == 0) return;
  void* const at = ::mmap(nullptr, log_size_, PROT_READ, MAP_SHARED, log.fd(), 0);
  if (at == MAP_FAILED) fail("mmap");
  log_ = static_cast<const std::byte*>(at);
  for (std::size_t position = 0; position < log_size_;) {
    entry_header header;
    std::memcpy(&header, log_ + position, sizeof header);
    position += sizeof header;
    if (header.length > log_size_ - position) throw std::runtime_error("the log is torn");
    entries_.push_back({header.kind, header.value, {log_ + position, header.length}});
    position += header.length;
  }
}

recording::~recording() {
  if (log_ != nullptr) ::munmap(const_cast<std::byte*>(log_), log_size_);
}

std::size_t recording::after_mark(std::uint64_t number) const {
  for (std::size_t i = 0; i < entries_.size(); ++i)
    if (entries_[i].kind == entry_kind::mark && entries_[i].value == number) return i + 1;
  throw std::runtime_error("no mark " + std::to_string(number) + " in the log");
}

// --- logged_device
// --------------------------------------------------------------------------------

logged_device::logged_device(const memory_file& image)
    : base_(memory_file::copy_of(image.fd())), content_(memory_file::copy_of(image.fd())), log_(0),
      folder_(new_folder("device")),
      server_(CRASH_DEVICE_PATH, folder_, {content_.fd(), log_.fd()}, outer_namespace()),
      control_(support::open_fd(folder_ / control_name, O_WRONLY)),
      disk_(support::open_fd(folder_ / disk_name, O_RDWR)) {}

void logged_device::send(command_kind kind, std::int64_t value) const {
  const command c{kind, 0, value};
  // Each command is one request, wherever in the file it goes.
  if (::pwrite(control_.get(), &c, sizeof c, 0) != static_cast<ssize_t>(sizeof c)) fail("pwrite");
}

recording logged_device::so_far() const {
  return {memory_file::copy_of(base_.fd()), log_};
}

}  // namespace crash
