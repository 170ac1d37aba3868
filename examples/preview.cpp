// Shows what a file would look like with a word replaced by another one of the same length. The
// edit is made in place, in a copy-on-write mapping: only the pages that it touches are copied, and
// the file stays as it is, even if it may only be read.
//
//   preview FILE WORD REPLACEMENT

#include <mapio/mapping.hpp>

#include <asio/buffer.hpp>

#include <cstddef>
#include <exception>
#include <iostream>
#include <string_view>

int main(int argc, char* argv[]) try {
  if (argc != 4 || std::string_view(argv[2]).empty() ||
      std::string_view(argv[2]).size() != std::string_view(argv[3]).size()) {
    std::cerr << "usage: preview FILE WORD REPLACEMENT, both of the same length\n";
    return 2;
  }
  const std::string_view word = argv[2];
  const std::string_view replacement = argv[3];

  mapio::mapping draft(argv[1], {.mode = mapio::access::copy_on_write});
  const mapio::region all = draft.view(0, draft.size());
  int count = 0;
  for (std::size_t at = 0; (at = all.text().find(word, at)) != std::string_view::npos;
       at += word.size()) {
    draft.update_region(at, asio::buffer(replacement));
    ++count;
  }
  std::cout << all.text();  // a view of the draft
  std::cerr << count << " replaced, and the file is as it was\n";
  return 0;
} catch (const std::exception& e) {
  std::cerr << "preview: " << e.what() << '\n';
  return 1;
}
