// What a tokenizer.json of the byte-level kind says, as plain data.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace jambalaya {

/// `left` followed by `right` becomes `result`; the position in the list is the rank.
struct Merge {
  uint32_t left, right, result;
  bool operator==(const Merge&) const = default;
};

/// A token that is looked for in the raw text, before it is split.
struct AddedToken {
  uint32_t id;
  std::string content;
  bool special;     ///< skipped by decode(skip_special), not recognised unless parse_special is asked for
  bool normalized;  ///< looked for after those that are not
};

struct BpeModel {
  /// Text of every id. Tokens of the model are spelled with the 256 stand-in characters of byte-level BPE.
  std::vector<std::string> tokens;
  std::vector<Merge> merges;
  std::vector<AddedToken> added;
  std::vector<bool> in_vocabulary;  ///< per id: in model.vocab, not only an added token
  std::string split_regex;
  bool ignore_merges = false;  ///< a piece that is a token is taken whole, whatever the merges give
  int64_t bos = -1;            ///< id that the post-processor puts first, or -1
};

/// Byte-level BPE writes each byte as one printable character: itself where it is printable Latin-1, else
/// U+0100 onwards. Trained ids follow the order of these characters, not of the bytes.
struct ByteAlphabet {
  std::array<uint32_t, 256> character;  ///< code point that stands for each byte
  std::array<uint8_t, 256> by_order;    ///< bytes in the order of their characters
  static const ByteAlphabet& get();
  std::string spell(std::string_view bytes) const;
  /// The bytes that `token` stands for; the token's own bytes if any character is no stand-in (as the
  /// ByteLevel decoder does), with `spelled` = false.
  std::string bytes_of(std::string_view token, bool* spelled = nullptr) const;

 private:
  std::array<int16_t, 0x144> byte_of_;
  ByteAlphabet();
};

}  // namespace jambalaya
