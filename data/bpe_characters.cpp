#include "data/bpe_characters.h"

#include <algorithm>
#include <unordered_set>

#include "data/utf8.h"
#include "kernels/error.h"

namespace jambalaya {
namespace {

constexpr std::string_view kBlank = "\xE2\x96\x81";  // U+2581, which stands for a blank

/// "<0x41>" as a byte; -1 for any other token.
int byte_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  constexpr std::string_view digits = "0123456789ABCDEF";
  size_t high = digits.find(token[3]), low = digits.find(token[4]);
  return high == std::string_view::npos || low == std::string_view::npos ? -1 : int(high << 4 | low);
}

/// The last character of a token that is not empty.
uint32_t last_character(std::string_view token) {
  size_t at = token.size() - 1;
  while (at > 0 && (uint8_t(token[at]) & 0xC0) == 0x80) at--;
  int length;
  return decode_utf8(reinterpret_cast<const uint8_t*>(token.data()) + at, length);
}

}  // namespace

CharacterSymbols::CharacterSymbols(const BpeModel& model) : id_of_byte_(256, kNone) {
  JAMBALAYA_CHECK(model.sentence_piece, "a byte-level model has no characters");
  unk_ = model.sentence_piece->unk < 0 ? kNone : uint32_t(model.sentence_piece->unk);
  fuse_unk_ = model.sentence_piece->fuse_unk;
  for (uint32_t id = 0; id < model.tokens.size(); id++) {
    const std::string& token = model.tokens[id];
    if (!model.in_vocabulary[id] || token.empty()) continue;
    if (int byte = byte_token(token); byte >= 0 && model.sentence_piece->byte_fallback)
      id_of_byte_[size_t(byte)] = id;
    int length;
    uint32_t c = decode_utf8(reinterpret_cast<const uint8_t*>(token.data()), length);
    if (size_t(length) != token.size()) continue;
    if (c >= id_of_character_.size()) id_of_character_.resize(c + 1, kNone);
    id_of_character_[c] = id;
  }
  // A merge across a border before a blank has a left side that ends with the character before it, because
  // that character has a symbol of its own, and a right side that begins with the blank's. No such merge: a
  // border. The blank must have a symbol too, or "unknown" could reach over it.
  std::unordered_set<uint32_t> joined;
  for (const Merge& merge : model.merges)
    if (model.tokens[merge.right].starts_with(kBlank) && !model.tokens[merge.left].empty())
      joined.insert(last_character(model.tokens[merge.left]));
  const bool blank_is_known = id_of_character_.size() > 0x2581 && id_of_character_[0x2581] != kNone;
  border_before_blank_.resize(id_of_character_.size());
  for (uint32_t c = 0; c < id_of_character_.size(); c++)
    border_before_blank_[c] = blank_is_known && id_of_character_[c] != kNone && !joined.contains(c);
}

void CharacterSymbols::append(std::string_view text, std::vector<uint32_t>& ids) const {
  bool unknown = false;  // an `unk` waits to be written: characters may still be fused into it
  for (size_t at = 0, end; at < text.size(); at = end) {
    int length;
    uint32_t c = decode_utf8(reinterpret_cast<const uint8_t*>(text.data()) + at, length);
    end = at + size_t(length);
    if (c < id_of_character_.size() && id_of_character_[c] != kNone) {
      if (unknown) ids.push_back(unk_);
      unknown = false;
      ids.push_back(id_of_character_[c]);
      continue;
    }
    std::string_view bytes = text.substr(at, end - at);
    auto missing = [&](char byte) { return id_of_byte_[uint8_t(byte)] == kNone; };
    if (std::none_of(bytes.begin(), bytes.end(), missing)) {
      // Bytes overtake an `unk` that waits, as they do in Hugging Face's implementation.
      for (char byte : bytes) ids.push_back(id_of_byte_[uint8_t(byte)]);
    } else if (unk_ != kNone) {
      if (unknown && !fuse_unk_) ids.push_back(unk_);
      unknown = true;
    }
  }
  if (unknown) ids.push_back(unk_);
}

}  // namespace jambalaya
