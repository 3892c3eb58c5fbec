// The first symbols of a SentencePiece-shaped BPE model: one for each character, bytes or "unknown" for the
// rest.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "data/bpe_model.h"

namespace jambalaya {

/// Read-only once built; shared by all threads.
class CharacterSymbols {
 public:
  /// The model must have `sentence_piece`.
  explicit CharacterSymbols(const BpeModel& model);

  /// The ids that the merges of `text` (valid UTF-8) start from, appended to `ids`.
  void append(std::string_view text, std::vector<uint32_t>& ids) const;

  /// True when no merge can join a symbol that ends with the character `before` to one that begins with the
  /// blank's stand-in U+2581, so that the text may be cut between them without changing an id.
  bool border_before_blank(uint32_t before) const {
    return before < border_before_blank_.size() && border_before_blank_[before];
  }

 private:
  static constexpr uint32_t kNone = ~0u;
  std::vector<uint32_t> id_of_character_;  ///< [code point] or kNone
  std::vector<uint32_t> id_of_byte_;       ///< [256] of "<0x00>" to "<0xFF>", kNone where missing
  std::vector<bool> border_before_blank_;  ///< [code point]
  uint32_t unk_;
  bool fuse_unk_;
};

}  // namespace jambalaya
