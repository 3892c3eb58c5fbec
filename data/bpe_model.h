// What a tokenizer.json says, as plain data: a BPE model, and how text becomes its symbols.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace jambalaya {

/// `left` followed by `right` becomes `result`; the position in the list is the rank.
struct Merge {
  uint32_t left, right, result;
  bool operator==(const Merge&) const = default;
};

/// A token that is looked for in the text, before it is split.
struct AddedToken {
  uint32_t id;
  std::string content;
  bool special;         ///< skipped by decode(skip_special), not recognised unless parse_special is asked for
  bool normalized;      ///< looked for after those that are not, in the normalized text
  bool lstrip = false;  ///< takes the blanks in front of it
  bool rstrip = false;  ///< takes the blanks behind it
};

/// One step of a normalizer.
struct NormalizerStep {
  enum class Kind {
    prepend,  ///< `content` before a text that is not empty
    replace,  ///< every `pattern` by `content`
  };
  Kind kind;
  std::string pattern, content;
};

/// The pre-tokenizer Metaspace: blanks become `replacement`.
struct Metaspace {
  enum class Prepend { always, first, never };
  std::string replacement;            ///< one character
  Prepend prepend = Prepend::always;  ///< before a text that does not begin with it; first: of a document
  bool split = true;                  ///< a new piece at each `replacement`
};

/// One step of a decoder. Each works on the list of tokens that the one before has left.
struct DecoderStep {
  enum class Kind {
    replace,        ///< every `pattern` by `content`, token by token
    byte_fallback,  ///< a run of "<0x41>" tokens becomes its bytes, or one U+FFFD for each when not UTF-8
    fuse,           ///< all tokens become one
    strip,          ///< up to `count` times the character `content` off the start of each token
    metaspace,      ///< `pattern` becomes a blank; dropped from the first token when `count` is 1
  };
  Kind kind;
  std::string pattern, content;
  size_t count = 0;
};

/// What tokenizers converted from SentencePiece have instead of the byte alphabet and the split pattern:
/// symbols are characters, and bytes only where the vocabulary lacks a character.
struct SentencePieceModel {
  std::vector<NormalizerStep> normalizer;
  std::optional<Metaspace> metaspace;
  std::vector<DecoderStep> decoder;
  bool byte_fallback = false;  ///< an unknown character becomes its "<0x..>" tokens, if all of them exist
  bool fuse_unk = false;       ///< unknown characters in a row are one `unk`
  int64_t unk = -1;            ///< id that stands for an unknown character; -1: it is left out
};

struct BpeModel {
  /// Text of every id. Tokens of a byte-level model are spelled with the 256 stand-in characters.
  std::vector<std::string> tokens;
  std::vector<Merge> merges;
  std::vector<AddedToken> added;
  std::vector<bool> in_vocabulary;  ///< per id: in model.vocab, not only an added token
  std::string split_regex;          ///< byte-level models
  bool ignore_merges = false;       ///< a piece that is a token is taken whole, whatever the merges give
  int64_t bos = -1;                 ///< id that the post-processor puts first, or -1
  std::optional<SentencePieceModel> sentence_piece;  ///< absent: byte-level
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
