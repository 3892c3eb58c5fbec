#include "data/tokenizer_normalizer.h"

namespace jambalaya {

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string out;
  out.reserve(text.size());
  for (size_t from = 0;;) {
    size_t at = text.find(pattern, from);
    if (at == std::string_view::npos) return out.append(text.substr(from));
    out.append(text.substr(from, at - from)).append(content);
    from = at + pattern.size();
  }
}

std::string normalize(std::string_view text, const std::vector<NormalizerStep>& steps) {
  std::string out(text);
  for (const NormalizerStep& step : steps) {
    if (step.kind == NormalizerStep::Kind::replace)
      out = replace_all(out, step.pattern, step.content);
    else if (!out.empty())
      out.insert(0, step.content);
  }
  return out;
}

}  // namespace jambalaya
