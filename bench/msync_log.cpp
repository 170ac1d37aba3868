#include "msync_log.hpp"

#include "record.hpp"

#include <asio/post.hpp>

#include <algorithm>
#include <cerrno>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace bench {
namespace {

constexpr std::size_t page = 4096;

std::error_code last_error() {
  return {errno, std::system_category()};
}

/// Maps a new file of zeros that are on the disk.
std::byte* make_file(const std::filesystem::path& path, std::size_t size) {
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) throw std::system_error(last_error(), path.string());
  const std::vector<char> zeros(std::size_t{1} << 20);
  std::error_code error;
  for (std::size_t at = 0; at < size && !error; at += zeros.size())
    if (::write(file, zeros.data(), std::min(zeros.size(), size - at)) < 0) error = last_error();
  void* memory = MAP_FAILED;
  if (!error && ::fsync(file) != 0) error = last_error();
  if (!error) memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (!error && memory == MAP_FAILED) error = last_error();
  ::close(file);
  if (error) throw std::system_error(error, path.string());
  return static_cast<std::byte*>(memory);
}

}  // namespace

msync_log::msync_log(const asio::any_io_executor& executor, const std::filesystem::path& path,
                     std::size_t size, sync_unit unit, std::size_t threads)
    : record_log(executor), unit_(unit), memory_(make_file(path, size)), size_(size),
      pool_(threads) {}

msync_log::~msync_log() {
  pool_.join();
  ::munmap(memory_, size_);
}

asio::awaitable<std::error_code> msync_log::append(ingestd::client_state& client,
                                                   std::span<const ingestd::input_record> records) {
  const std::size_t together = unit_ == sync_unit::record ? 1 : records.size();
  for (; !records.empty(); records = records.subspan(together)) {
    const auto now = records.first(together);
    std::size_t size = 0;
    for (const ingestd::input_record& r : now)
      size += ingestd::encoded_size(client.id.size(), r.payload.size());
    if (size > size_) co_return std::make_error_code(std::errc::message_size);
    if (size > size_ - position_) position_ = 0;
    place(client, now, size);
  }
  co_return std::error_code();
}

void msync_log::place(ingestd::client_state& client, std::span<const ingestd::input_record> records,
                      std::size_t size) {
  auto w = std::make_shared<write>();
  const std::size_t begin = position_;
  for (const ingestd::input_record& r : records) {
    const std::span<std::byte> out(memory_ + position_, size_ - position_);
    position_ += ingestd::encode_record(
        out, {ingestd::record_type::record, client.id, r.sequence, durable_offset_, r.payload},
        ingestd::checksum_seed(0, position_));
    w->payload_bytes += r.payload.size();
  }
  w->size = size;
  w->client = &client;
  w->last_sequence = records.back().sequence;
  w->records = records.size();
  client.appended = w->last_sequence;
  client.pending_bytes += w->payload_bytes;
  in_flight_.push_back(w);

  const std::size_t first_page = begin / page * page;
  asio::post(pool_, [this, w, address = memory_ + first_page, length = begin + size - first_page] {
    const std::error_code error =
        ::msync(address, length, MS_SYNC) == 0 ? std::error_code() : last_error();
    asio::post(get_executor(), [this, w, error] {
      w->error = error;
      w->done = true;
      acknowledge();
    });
  });
}

/// Acknowledges what is durable together with everything before it.
void msync_log::acknowledge() {
  bool moved = false;
  ++totals_.syncs;
  while (!in_flight_.empty() && in_flight_.front()->done) {
    const std::shared_ptr<write> w = in_flight_.front();
    if (w->error) throw std::system_error(w->error, "msync");  // no benchmark then
    in_flight_.pop_front();
    durable_offset_ += w->size;
    totals_.records += w->records;
    totals_.bytes += w->payload_bytes;
    w->client->durable = w->last_sequence;
    w->client->pending_bytes -= w->payload_bytes;
    w->client->changed.notify_all();
    moved = true;
  }
  if (moved) progress_.notify_all();
}

asio::awaitable<void> msync_log::settled() {
  while (!in_flight_.empty())
    co_await progress_.wait();
}

}  // namespace bench
