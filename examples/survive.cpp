// Reads a file that is cut while it is mapped, as a log may be that another program rotates. That
// is an error like others, with as many bytes as there are, and no SIGBUS.
//
//   survive FILE (which it makes)

#include <mapio/mapio.hpp>

#include <asio/buffer.hpp>

#include <cstddef>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <system_error>

int main(int argc, char* argv[]) try {
  if (argc != 2) {
    std::cerr << "usage: survive FILE\n";
    return 2;
  }
  const std::size_t page = mapio::page_size();
  mapio::mapping::create(argv[1], 8 * page);
  mapio::mapping map(argv[1], {.mode = mapio::access::read_write});
  const mapio::region view = map.view(0, map.size());
  std::filesystem::resize_file(argv[1], 2 * page);  // somebody else, behind our back

  std::error_code error;
  std::string bytes(8 * page, '\0');
  const std::size_t read = map.read_into(0, asio::buffer(bytes), error);
  std::cout << "reading: " << read / page << " pages, then: " << error.message() << '\n';
  map.update_region(page, asio::buffer(bytes.data(), 4 * page), error);
  std::cout << "storing: " << error.message() << '\n';
  // The bytes of a view are plain memory: this is how to copy them with care.
  const std::size_t copied = mapio::guarded_copy(bytes.data(), view.data(), view.size());
  std::cout << "copying: " << copied / page << " pages of the view\n";

  std::cout << "refresh: " << map.refresh() / page << " pages are left\n";
  return error == mapio::errc::page_fault ? 0 : 1;
} catch (const std::exception& e) {
  std::cerr << "survive: " << e.what() << '\n';
  return 1;
}
