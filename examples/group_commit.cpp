// Many coroutines append to one log, and each goes on once its own record survives power loss. They
// ask for a flush after every record, and share the syncs.
//
//   group_commit FILE

#include <mapio/mapio.hpp>

#include <asio.hpp>

#include <cstdint>
#include <exception>
#include <iostream>
#include <string>

namespace {

constexpr int writers = 32;
constexpr int records = 8;  // of each
constexpr std::uint64_t record_size = 64;

asio::awaitable<void> write_records(mapio::mapped_file log, std::uint64_t& end, int writer) {
  for (int i = 0; i < records; ++i) {
    std::string record = "writer " + std::to_string(writer) + " record " + std::to_string(i);
    record.resize(record_size - 1, ' ');
    record += '\n';
    const std::uint64_t place = end;
    end += record_size;  // the place is taken: the next writer goes behind it
    co_await log.update_region(place, asio::buffer(record));
    co_await log.flush_range(place, record_size);
  }
}

void rethrow(std::exception_ptr failure) {
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

int main(int argc, char* argv[]) try {
  if (argc != 2) {
    std::cerr << "usage: group_commit FILE\n";
    return 2;
  }
  const mapio::mapping map = mapio::mapping::create(argv[1], writers * records * record_size);
  asio::io_context io;
  const mapio::mapped_file log(io.get_executor(), map);
  std::uint64_t end = 0;
  for (int writer = 0; writer < writers; ++writer)
    asio::co_spawn(io, write_records(log, end, writer), rethrow);
  io.run();

  const mapio::file_stats stats = map.stats();
  std::cout << stats.flush_calls << " records are durable\n";
  std::cout << (stats.syncs < stats.flush_calls ? "they shared their syncs\n" : "one sync each\n");
  return 0;
} catch (const std::exception& e) {
  std::cerr << "group_commit: " << e.what() << '\n';
  return 1;
}
