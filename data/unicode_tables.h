// Which code points are letters, numbers and white space: the tables of Unicode 16, which Hugging Face
// tokenizers uses. Never taken from the system: Debian's ICU and PCRE2 have older ones, and ids would differ.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <vector>

namespace jambalaya {

inline constexpr const char* kUnicodeVersion = "16.0";

/// \p{L}, \p{N}, \s without line ends, \r and \n, and all the rest (marks, punctuation, symbols, unassigned).
enum class CharClass : uint8_t { other, letter, number, space, newline };

/// Class of every code point, in two levels: 256-code-point blocks, equal blocks stored once.
class CharTable {
 public:
  static const CharTable& get() {
    static const CharTable table;
    return table;
  }
  /// `c` must be below 0x110000.
  CharClass of(uint32_t c) const { return blocks_[size_t(index_[c >> 8]) << 8 | (c & 255)]; }

 private:
  static constexpr size_t kCodePoints = 0x110000;
  CharTable();
  void pack(const std::vector<CharClass>& flat) {
    std::map<std::vector<CharClass>, uint16_t> known;
    for (size_t b = 0; b < index_.size(); b++) {
      std::vector<CharClass> block(flat.begin() + long(b * 256), flat.begin() + long(b * 256 + 256));
      auto [place, is_new] = known.try_emplace(block, uint16_t(known.size()));
      if (is_new) blocks_.insert(blocks_.end(), block.begin(), block.end());
      index_[b] = place->second;
    }
  }

  std::array<uint16_t, kCodePoints / 256> index_{};
  std::vector<CharClass> blocks_;
};

}  // namespace jambalaya
