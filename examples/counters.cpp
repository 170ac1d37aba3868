// Processes count in the integers of a file, without a lock, and may end whenever they like.
// Another one makes durable what they counted; its mapping knows of their stores once they are
// published.
//
//   counters FILE WORKERS      counts on from what the file has

#include <mapio/mapio.hpp>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr std::array names{"answered", "refused"};

mapio::mapping open_counters(const std::string& path) {
  constexpr std::size_t size = names.size() * sizeof(std::uint64_t);
  mapio::mapping map(path, {.mode = mapio::access::read_write,
                            .create = mapio::disposition::open_or_create,
                            .size = size});
  if (map.size() != size) throw std::runtime_error(path + " is no file of counters");
  return map;
}

int work(const std::string& path) try {
  const auto counters = open_counters(path).atomics<std::uint64_t>(0, names.size());
  for (int request = 0; request < 1000; ++request)
    counters[request % 10 == 0 ? 1 : 0].fetch_add(1);  // what would be served
  return 0;
} catch (const std::exception& e) {
  std::cerr << "counters: a worker: " << e.what() << '\n';
  return 1;
}

std::vector<pid_t> start(int workers, const std::string& path) {
  std::vector<pid_t> started;
  while (workers-- > 0) {
    const pid_t worker = ::fork();
    if (worker < 0) throw std::system_error(errno, std::system_category(), "fork");
    if (worker == 0) ::_exit(work(path));
    started.push_back(worker);
  }
  return started;
}

}  // namespace

int main(int argc, char* argv[]) try {
  const int workers = argc == 3 ? std::atoi(argv[2]) : 0;
  if (workers < 1) {
    std::cerr << "usage: counters FILE WORKERS, at least one of them\n";
    return 2;
  }
  mapio::mapping map = open_counters(argv[1]);
  bool failed = false;
  for (const pid_t worker : start(workers, argv[1])) {
    int status = 0;
    failed |= ::waitpid(worker, &status, 0) != worker || status != 0;
  }
  map.publish(0, map.size());
  std::cout << "to be made durable: " << map.pending_bytes() / mapio::page_size() << " page\n";
  map.flush();
  std::cout << "left: " << map.pending_bytes() << '\n';
  std::size_t i = 0;
  for (const auto counter : map.atomics<std::uint64_t>(0, names.size()))
    std::cout << names.at(i++) << ": " << counter.load() << '\n';
  return failed ? 1 : 0;
} catch (const std::exception& e) {
  std::cerr << "counters: " << e.what() << '\n';
  return 1;
}
