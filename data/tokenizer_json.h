// The file format tokenizer.json of Hugging Face tokenizers, version "1.0": byte-level BPE, and
// BPE over characters with byte fallback as converted from SentencePiece.
#pragma once
#include <string>
#include <string_view>

#include "data/bpe_model.h"

namespace jambalaya {

/// Reads a tokenizer.json. Error(bad_input) "ORIGIN: ..." names whatever is malformed or not supported:
/// nothing that would change ids is ignored. Limits: 64 MiB, 32 levels of nesting, 2,097,151 ids.
BpeModel parse_tokenizer_json(std::string_view text, const std::string& origin);

/// The text that Hugging Face tokenizers itself would save, byte for byte. Byte-level models only.
std::string write_tokenizer_json(const BpeModel& model);

}  // namespace jambalaya
