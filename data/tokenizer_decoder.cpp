#include "data/tokenizer_decoder.h"

#include <charconv>
#include <optional>
#include <string_view>
#include <unordered_set>

#include "data/tokenizer_normalizer.h"
#include "data/utf8.h"

namespace jambalaya {
namespace {

using Tokens = std::vector<std::string>;

/// The byte that a token such as "<0x0A>" stands for. Hugging Face's parser takes either case and a sign.
std::optional<char> byte_of(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  unsigned value = 0;
  const char *first = token.data() + 3 + (token[3] == '+'), *last = token.data() + 5;
  auto [end, error] = std::from_chars(first, last, value, 16);
  if (error != std::errc() || end != last) return std::nullopt;
  return char(value);
}

Tokens fall_back_to_bytes(const Tokens& tokens) {
  Tokens out;
  std::string bytes;
  auto flush = [&] {
    if (bytes.empty()) return;
    if (find_invalid_utf8(bytes) == std::string::npos)
      out.push_back(bytes);
    else
      out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
    bytes.clear();
  };
  for (const std::string& token : tokens) {
    if (auto byte = byte_of(token)) {
      bytes += *byte;
    } else {
      flush();
      out.push_back(token);
    }
  }
  flush();
  return out;
}

std::string stripped(const std::string& token, const DecoderStep& step) {
  size_t at = 0;
  for (size_t i = 0; i < step.count && token.compare(at, step.content.size(), step.content) == 0; i++)
    at += step.content.size();
  return token.substr(at);
}

Tokens apply(const DecoderStep& step, Tokens tokens) {
  using Kind = DecoderStep::Kind;
  if (step.kind == Kind::byte_fallback) return fall_back_to_bytes(tokens);
  if (step.kind == Kind::fuse) {
    std::string all;
    for (const std::string& token : tokens) all += token;
    return {all};
  }
  for (size_t i = 0; i < tokens.size(); i++) {
    if (step.kind == Kind::strip) tokens[i] = stripped(tokens[i], step);
    if (step.kind == Kind::replace) tokens[i] = replace_all(tokens[i], step.pattern, step.content);
    if (step.kind == Kind::metaspace)
      tokens[i] = replace_all(tokens[i], step.pattern, i == 0 && step.count == 1 ? "" : " ");
  }
  return tokens;
}

/// The token inside a text: what puts it at a text's start plays no part.
std::string bytes_inside(const std::string& token, const std::vector<DecoderStep>& steps) {
  if (auto byte = byte_of(token)) return std::string(1, *byte);
  std::string out = token;
  for (const DecoderStep& step : steps) {
    if (step.kind == DecoderStep::Kind::replace) out = replace_all(out, step.pattern, step.content);
    if (step.kind == DecoderStep::Kind::metaspace) out = replace_all(out, step.pattern, " ");
  }
  return out;
}

}  // namespace

TokenDecoder::TokenDecoder(const BpeModel& model)
    : model_(model), tokens_(model.tokens), skipped_(model.tokens.size()) {
  std::unordered_set<std::string_view> special;
  for (const AddedToken& token : model.added)
    if (token.special) special.insert(token.content);
  for (const AddedToken& token : model.added) {
    if (token.normalized && model.sentence_piece)
      tokens_[token.id] = normalize(token.content, model.sentence_piece->normalizer);
    skipped_[token.id] = special.contains(tokens_[token.id]);
  }
  for (const std::string& token : tokens_)
    bytes_.push_back(model.sentence_piece ? bytes_inside(token, model.sentence_piece->decoder)
                                          : ByteAlphabet::get().bytes_of(token));
}

std::string TokenDecoder::decode(std::span<const uint32_t> ids, bool skip_special) const {
  Tokens tokens;
  std::string out;
  for (uint32_t id : ids) {
    if (skip_special && skipped_[id]) continue;
    if (model_.sentence_piece)
      tokens.push_back(tokens_[id]);
    else
      out += bytes_[id];
  }
  if (!model_.sentence_piece) return replace_invalid_utf8(out);
  for (const DecoderStep& step : model_.sentence_piece->decoder) tokens = apply(step, std::move(tokens));
  for (const std::string& token : tokens) out += token;
  return out;
}

}  // namespace jambalaya
