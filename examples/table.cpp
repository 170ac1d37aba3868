// Keeps short texts in the numbered slots of a file. The slots are a segment behind a header, with
// offsets and bounds of its own, and they are changed where they are.
//
//   table FILE                prints what there is
//   table FILE SLOT TEXT      puts a text into a slot
//   table FILE clear          empties all slots

#include <mapio/mapio.hpp>

#include <asio.hpp>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr std::size_t header_bytes = 64;
constexpr std::size_t slot_bytes = 64;
constexpr std::size_t slot_count = 16;

void print(const mapio::segment& slots) {
  std::size_t number = 0;
  for (const mapio::region& slot : slots.chunks(slot_bytes)) {
    const std::string_view text = slot.text().substr(0, slot.text().find('\0'));
    if (!text.empty()) std::cout << number << ": " << text << '\n';
    ++number;
  }
}

void put(mapio::segment slots, std::string_view number, std::string_view text) {
  std::size_t slot = slot_count;
  const auto parsed = std::from_chars(number.data(), number.data() + number.size(), slot);
  if (parsed.ptr != number.data() + number.size() || slot >= slot_count)
    throw std::runtime_error("the slots are 0 to " + std::to_string(slot_count - 1));
  if (text.size() > slot_bytes) throw std::runtime_error("the text is too long for a slot");
  const mapio::mutable_region bytes = slots.mutable_view(slot * slot_bytes, slot_bytes);
  std::ranges::fill(bytes, std::byte{0});
  std::memcpy(bytes.data(), text.data(), text.size());
}

asio::awaitable<void> run(std::string path, std::vector<std::string> command) {
  constexpr std::string_view magic = "a table of texts";
  mapio::mapped_file file(co_await asio::this_coro::executor);
  co_await file.open(path, {.mode = mapio::access::read_write,
                            .create = mapio::disposition::open_or_create,
                            .size = header_bytes + slot_count * slot_bytes});
  if (file.size() != header_bytes + slot_count * slot_bytes)
    throw std::runtime_error(path + " is no table");
  // A new one is all zeros.
  const mapio::region header = co_await file.view(0, magic.size());
  if (header.text().front() == '\0') co_await file.update_region(0, asio::buffer(magic));
  if (header.text() != magic) throw std::runtime_error(path + " is no table");

  mapio::segment slots = file.map().slice(header_bytes, slot_count * slot_bytes);
  if (command.empty())
    print(slots);
  else if (command.size() == 1)
    for (const mapio::mutable_region& slot : slots.mutable_chunks(slot_bytes))
      std::ranges::fill(slot, std::byte{0});
  else
    put(slots, command[0], command[1]);
  co_await file.flush();  // what was stored through the views, too
}

}  // namespace

int main(int argc, char* argv[]) try {
  const std::vector<std::string> command(argv + std::min(argc, 2), argv + argc);
  if (argc < 2 || command.size() > 2 || (command.size() == 1 && command[0] != "clear")) {
    std::cerr << "usage: table FILE [SLOT TEXT | clear]\n";
    return 2;
  }
  asio::io_context io;
  asio::co_spawn(io, run(argv[1], command), [](std::exception_ptr failure) {
    if (failure) std::rethrow_exception(failure);
  });
  io.run();
  return 0;
} catch (const std::exception& e) {
  std::cerr << "table: " << e.what() << '\n';
  return 1;
}
