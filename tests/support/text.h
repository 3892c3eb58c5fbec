// Texts for tests of the tokenizer.
#pragma once
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "data/utf8.h"

namespace jambalaya::testing {

inline std::string golden_path(const std::string& name) {
  return std::string(JAMBALAYA_SOURCE_DIR) + "/tests/goldens/tokenizer/" + name;
}

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// `length` code points: runs of one kind (letters, digits, blanks, marks, other scripts, anything at all).
inline std::string random_text(std::mt19937& random, int length) {
  static constexpr uint32_t kFirst[] = {'a',   'A',   '0',   ' ',    '\t',   '!',     0xC0,
                                        0x300, 0x410, 0x900, 0x2000, 0x4E00, 0x1F600, 1};
  static constexpr uint32_t kCount[] = {26,   26,   10,   1,    5,     15,   0x100,
                                        0x60, 0x60, 0x80, 0x10, 0x100, 0x50, 0x10FFFE};
  std::string text;
  while (length > 0) {
    size_t kind = random() % std::size(kFirst);
    for (int run = 1 + int(random() % 6); run-- > 0 && length-- > 0;) {
      uint32_t c = kFirst[kind] + random() % kCount[kind];
      append_utf8(text, c >= 0xD800 && c < 0xE000 ? '\n' : c);
    }
  }
  return text;
}

}  // namespace jambalaya::testing
