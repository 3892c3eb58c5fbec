// Normalizers of a tokenizer.json, and the literal replacement that decoders share with them.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "data/bpe_model.h"

namespace jambalaya {

/// Every `pattern` (not empty) in `text`, from left to right and without overlap, by `content`.
std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content);

/// `text` after all steps.
std::string normalize(std::string_view text, const std::vector<NormalizerStep>& steps);

}  // namespace jambalaya
