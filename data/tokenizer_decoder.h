// Ids back to text: the decoder of a tokenizer.json.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/bpe_model.h"

namespace jambalaya {

class TokenDecoder {
 public:
  /// `model` must outlive the decoder.
  explicit TokenDecoder(const BpeModel& model);

  /// Text of the ids, which must be below the vocabulary's size. `skip_special` leaves out special tokens; as
  /// in Hugging Face's library, not one that the normalizer spells in another way.
  std::string decode(std::span<const uint32_t> ids, bool skip_special) const;

  /// What one id stands for inside a text: its bytes, with blanks for their stand-in. A cut character, or the
  /// blank that SentencePiece puts first, is there; decode() has the text's point of view.
  const std::vector<std::string>& bytes() const { return bytes_; }

 private:
  const BpeModel& model_;
  std::vector<std::string>
      tokens_;  ///< of a SentencePiece-shaped model: added tokens as they are in normalized text
  std::vector<bool> skipped_;
  std::vector<std::string> bytes_;
};

}  // namespace jambalaya
