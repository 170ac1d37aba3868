#ifndef MAPIO_BENCH_ASIO_FILE_HPP
#define MAPIO_BENCH_ASIO_FILE_HPP

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

namespace bench {

/// Durable updates with what Asio has for files: random_access_file, which cannot sync, and an
/// fdatasync on a pool of threads.
///
/// Asio has this class only in programs that give the whole of Asio to io_uring. So that one
/// program can hold both, the source behind this header compiles an Asio of its own, in a namespace
/// of another name.
class asio_file {
 public:
  asio_file(const std::filesystem::path& path, std::size_t threads);
  asio_file(const asio_file&) = delete;
  asio_file& operator=(const asio_file&) = delete;
  ~asio_file();

  /// Makes `count` durable updates of `size` bytes, `in_flight` at a time, each coroutine at the
  /// start of a block of its own.
  void run(std::int64_t count, std::size_t in_flight, std::size_t size, std::size_t block);

 private:
  class implementation;
  std::unique_ptr<implementation> implementation_;
};

}  // namespace bench

#endif  // MAPIO_BENCH_ASIO_FILE_HPP
