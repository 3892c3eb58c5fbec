#include "data/tokenizer_metaspace.h"

#include <algorithm>

#include "data/tokenizer_normalizer.h"
#include "data/utf8.h"

namespace jambalaya {
namespace {

constexpr std::string_view kBlank = "\xE2\x96\x81";  // U+2581

uint32_t character_before(std::string_view text, size_t at) {
  size_t begin = at - 1;
  while (begin > 0 && (uint8_t(text[begin]) & 0xC0) == 0x80) begin--;
  int length;
  return decode_utf8(reinterpret_cast<const uint8_t*>(text.data()) + begin, length);
}

}  // namespace

MetaspaceSplit::MetaspaceSplit(const BpeModel& model, const CharacterSymbols& characters)
    : metaspace_(model.sentence_piece->metaspace ? &*model.sentence_piece->metaspace : nullptr),
      characters_(characters),
      whole_only_(model.ignore_merges) {}

std::string MetaspaceSplit::prepare(std::string_view text, bool document_start) const {
  if (!metaspace_) return std::string(text);
  std::string out = replace_all(text, " ", metaspace_->replacement);
  const bool wanted = metaspace_->prepend == Metaspace::Prepend::always ||
                      (metaspace_->prepend == Metaspace::Prepend::first && document_start);
  if (wanted && !out.starts_with(metaspace_->replacement)) out.insert(0, metaspace_->replacement);
  return out;
}

size_t MetaspaceSplit::next_border(std::string_view text, size_t from) const {
  if (metaspace_ && metaspace_->split) return std::min(text.find(metaspace_->replacement, from), text.size());
  if (whole_only_) return text.size();
  for (size_t at = from; (at = text.find(kBlank, at)) != std::string_view::npos; at += kBlank.size())
    if (characters_.border_before_blank(character_before(text, at))) return at;
  return text.size();
}

size_t MetaspaceSplit::split(std::string_view text, size_t from, std::span<uint32_t> lengths) const {
  size_t count = 0;
  while (from < text.size() && count < lengths.size()) {
    size_t end = next_border(text, from + 1);
    lengths[count++] = uint32_t(end - from);
    from = end;
  }
  return count;
}

}  // namespace jambalaya
