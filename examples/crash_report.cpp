// An application that reports its crashes by a SIGBUS handler of its own. It was installed after
// mapio's, so it lets mapio have the faults that are its business: a read of a file that was cut is
// an error then, and only a real crash is reported.
//
//   crash_report FILE (which it makes)

#include <mapio/mapio.hpp>

#include <asio/buffer.hpp>

#include <cerrno>
#include <csignal>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <string_view>
#include <system_error>

#include <unistd.h>

namespace {

void report_crash(int signal, siginfo_t* info, void* context) {
  if (mapio::handle_fault(signal, info, context)) return;
  constexpr std::string_view report = "crash report: a bus error\n";  // and where, and a backtrace
  const bool written = ::write(STDOUT_FILENO, report.data(), report.size()) > 0;
  ::_exit(written ? 3 : 4);
}

void install_reporter() {
  struct sigaction action {};
  action.sa_sigaction = report_crash;
  action.sa_flags = SA_SIGINFO;  // the information and the context are what mapio needs
  if (::sigaction(SIGBUS, &action, nullptr) != 0)
    throw std::system_error(errno, std::system_category(), "sigaction");
}

}  // namespace

int main(int argc, char* argv[]) try {
  if (argc != 2) {
    std::cerr << "usage: crash_report FILE\n";
    return 2;
  }
  const std::size_t page = mapio::page_size();
  const mapio::mapping map = mapio::mapping::create(argv[1], 2 * page);  // installs mapio's handler
  install_reporter();
  const mapio::region view = map.view(0, map.size());
  std::filesystem::resize_file(argv[1], page);  // somebody else, behind our back

  std::error_code error;
  std::string bytes(2 * page, '\0');
  const std::size_t read = map.read_into(0, asio::buffer(bytes), error);
  std::cout << "reading: " << read / page << " page, then: " << error.message() << std::endl;
  // A bug: the bytes of a view are plain memory, and may be gone.
  return static_cast<int>(*static_cast<const volatile std::byte*>(view.data() + page));
} catch (const std::exception& e) {
  std::cerr << "crash_report: " << e.what() << '\n';
  return 1;
}
