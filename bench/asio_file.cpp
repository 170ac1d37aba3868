// See the build file: here `asio` is the name of another namespace, and has files.

#include "asio_file.hpp"

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/co_spawn.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/random_access_file.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>

#include <cerrno>
#include <exception>
#include <system_error>
#include <vector>

#include <unistd.h>

namespace bench {

class asio_file::implementation {
 public:
  implementation(const std::filesystem::path& path, std::size_t threads)
      : pool_(threads), file_(io_, path.string(), asio::random_access_file::read_write) {}

  void run(std::int64_t count, std::size_t in_flight, std::size_t size, std::size_t block) {
    content_.assign(size, std::byte{3});
    left_ = count;
    running_ = in_flight;
    io_.restart();
    const auto work = asio::make_work_guard(io_);
    for (std::size_t i = 0; i < in_flight; ++i)
      asio::co_spawn(io_, repeat(i * block), rethrow);
    io_.run();
  }

 private:
  static void rethrow(const std::exception_ptr& failure) {
    if (failure) std::rethrow_exception(failure);
  }

  asio::awaitable<void> sync() {
    if (::fdatasync(file_.native_handle()) != 0)
      throw std::system_error(errno, std::system_category(), "fdatasync");
    co_return;
  }

  asio::awaitable<void> repeat(std::uint64_t offset) {
    while (left_-- > 0) {
      co_await file_.async_write_some_at(offset, asio::buffer(content_), asio::use_awaitable);
      co_await asio::co_spawn(pool_, sync(), asio::use_awaitable);
    }
    if (--running_ == 0) io_.stop();
  }

  asio::io_context io_{1};
  asio::thread_pool pool_;
  asio::random_access_file file_;
  std::vector<std::byte> content_;
  std::int64_t left_ = 0;
  std::size_t running_ = 0;
};

asio_file::asio_file(const std::filesystem::path& path, std::size_t threads)
    : implementation_(std::make_unique<implementation>(path, threads)) {}

asio_file::~asio_file() = default;

void asio_file::run(std::int64_t count, std::size_t in_flight, std::size_t size,
                    std::size_t block) {
  implementation_->run(count, in_flight, size, block);
}

}  // namespace bench
