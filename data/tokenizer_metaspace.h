// Cuts normalized text into the pieces within which a SentencePiece-shaped model merges.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "data/bpe_characters.h"
#include "data/bpe_model.h"

namespace jambalaya {

/// The pre-tokenizer: Metaspace or none. Without a splitting Metaspace a whole document is one piece; it is
/// then cut where no merge can reach across, which changes no id but keeps the work near linear.
class MetaspaceSplit {
 public:
  /// `model` must have `sentence_piece` and, with `characters`, outlive the object.
  MetaspaceSplit(const BpeModel& model, const CharacterSymbols& characters);

  /// What Metaspace makes of a stretch of text between added tokens. `document_start`: it is the first.
  std::string prepare(std::string_view text, bool document_start) const;

  /// Lengths in bytes of the pieces of `prepared` from offset `from`, a border, until `lengths` is full or
  /// the text ends. Returns their number.
  size_t split(std::string_view prepared, size_t from, std::span<uint32_t> lengths) const;

 private:
  size_t next_border(std::string_view text, size_t from) const;

  const Metaspace* metaspace_;
  const CharacterSymbols& characters_;
  bool whole_only_;  ///< ignore_merges looks the piece up as a whole: it must not be cut further
};

}  // namespace jambalaya
