// The parts of a tokenizer.json around the model: normalizer, pre-tokenizer, decoder, post-processor.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/pretokenize.h"
#include "data/tokenizer_json_checks.h"
#include "kernels/error.h"

namespace jambalaya {
namespace {

using nlohmann::json;

/// What byte-level models have: Split and ByteLevel, no normalizer.
class ByteLevelReader : TokenizerJsonChecks {
 public:
  ByteLevelReader(const std::string& origin, BpeModel& model) : TokenizerJsonChecks(origin), model_(model) {}

  void read(const json& root) {
    if (!absent(root, "normalizer"))
      refuse("normalizer " + type_of(root["normalizer"]) + " together with ByteLevel is not supported");
    read_split_steps(member(root, "pre_tokenizer", "tokenizer.json"));
    if (absent(root, "decoder") || type_of(root["decoder"]) != "\"ByteLevel\"")
      refuse("decoder " + type_of(absent(root, "decoder") ? json() : root["decoder"]) +
             " is not supported, only ByteLevel behind a pre-tokenizer ByteLevel");
  }

 private:
  void read_split_steps(const json& value) {
    std::vector<const json*> steps;
    if (type_of(value) == "\"Sequence\"") {
      for (const json& step : list(value, "pretokenizers", "pre_tokenizer")) steps.push_back(&step);
    } else {
      steps.push_back(&value);
    }
    bool byte_level = false;
    for (const json* item : steps) {
      const json& step = *item;
      std::string type = type_of(step);
      if (byte_level) refuse("pre_tokenizer: " + type + " after ByteLevel is not supported");
      if (type == "\"Split\"")
        read_split(step);
      else if (type == "\"ByteLevel\"")
        read_byte_level(step), byte_level = true;
      else
        refuse("pre_tokenizer " + type + " is not supported, only Split and ByteLevel");
    }
    if (!byte_level) refuse("pre_tokenizer has no ByteLevel: not a byte-level tokenizer");
    if (model_.split_regex.empty()) refuse("pre_tokenizer splits nothing: a Split with a Regex is needed");
  }

  void read_split(const json& step) {
    const std::string where = "pre_tokenizer Split";
    only(step, where, {"type", "pattern", "behavior", "invert"});
    if (!model_.split_regex.empty()) refuse("pre_tokenizer: more than one split is not supported");
    if (text(step, "behavior", where) != "Isolated")
      refuse(where + ": behavior " + step["behavior"].dump() + " is not supported, only Isolated");
    if (flag(step, "invert", false, where)) refuse(where + ": invert is not supported");
    const json& pattern = member(step, "pattern", where);
    if (!pattern.is_object() || !pattern.contains("Regex"))
      refuse(where + ": only a Regex pattern is supported");
    model_.split_regex = text(pattern, "Regex", where);
    if (model_.split_regex.empty()) refuse(where + ": the pattern is empty");
  }

  void read_byte_level(const json& step) {
    const std::string where = "pre_tokenizer ByteLevel";
    only(step, where, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
    if (flag(step, "add_prefix_space", true, where)) refuse(where + ": add_prefix_space is not supported");
    if (!flag(step, "use_regex", true, where)) return;
    if (!model_.split_regex.empty()) refuse("pre_tokenizer: more than one split is not supported");
    model_.split_regex = Pretokenizer::gpt2_regex();
  }

  BpeModel& model_;
};

/// What SentencePiece-shaped models have: Prepend and Replace, Metaspace, a chain of decoders.
class SentencePieceReader : TokenizerJsonChecks {
 public:
  SentencePieceReader(const std::string& origin, BpeModel& model)
      : TokenizerJsonChecks(origin), model_(*model.sentence_piece) {}

  void read(const json& root) {
    if (!absent(root, "normalizer")) read_normalizer(root["normalizer"]);
    if (!absent(root, "pre_tokenizer")) read_pre_tokenizer(root["pre_tokenizer"]);
    if (absent(root, "decoder")) refuse("decoder null is not supported: tokens would be joined by blanks");
    read_decoder(root["decoder"]);
    check_first();
    check_growth("normalizer", model_.normalizer);
    check_growth("decoder", model_.decoder);
  }

 private:
  void read_normalizer(const json& value) {
    const std::string type = type_of(value), where = "normalizer " + type;
    if (type == "\"Sequence\"") {
      only(value, where, {"type", "normalizers"});
      for (const json& step : list(value, "normalizers", where)) read_normalizer(step);
    } else if (type == "\"Prepend\"") {
      only(value, where, {"type", "prepend"});
      model_.normalizer.push_back({NormalizerStep::Kind::prepend, "", text(value, "prepend", where)});
    } else if (type == "\"Replace\"") {
      only(value, where, {"type", "pattern", "content"});
      model_.normalizer.push_back(
          {NormalizerStep::Kind::replace, pattern(value, where), text(value, "content", where)});
    } else {
      refuse(where + " is not supported, only Prepend, Replace and Sequence");
    }
  }

  /// The literal of a Replace.
  std::string pattern(const json& step, const std::string& where) const {
    const json& value = member(step, "pattern", where);
    if (!value.is_object() || !value.contains("String"))
      refuse(where + ": pattern " + value.dump() + " is not supported, only a String");
    std::string literal = text(value, "String", where + ".pattern");
    if (literal.empty()) refuse(where + ": the pattern is empty");
    return literal;
  }

  void read_pre_tokenizer(const json& value) {
    const std::string type = type_of(value), where = "pre_tokenizer " + type;
    if (type == "\"Sequence\"") {
      only(value, where, {"type", "pretokenizers"});
      for (const json& step : list(value, "pretokenizers", where)) read_pre_tokenizer(step);
    } else if (type == "\"Metaspace\"") {
      if (model_.metaspace) refuse("pre_tokenizer: two Metaspace are not supported");
      bool unused;
      model_.metaspace = metaspace(value, where, unused);
    } else {
      refuse(where +
             " is not supported, only Metaspace (and, in byte-level tokenizers, Split and ByteLevel)");
    }
  }

  /// `prepends`: any scheme but never, which is what the decoder asks.
  Metaspace metaspace(const json& value, const std::string& where, bool& prepends) const {
    only(value, where, {"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
    Metaspace out{.replacement = character(value, "replacement", where)};
    const std::string scheme =
        absent(value, "prepend_scheme") ? "always" : text(value, "prepend_scheme", where);
    if (scheme != "always" && scheme != "first" && scheme != "never")
      refuse(where + ": prepend_scheme \"" + scheme + "\" is none of always, first, never");
    out.prepend = scheme == "always"  ? Metaspace::Prepend::always
                  : scheme == "first" ? Metaspace::Prepend::first
                                      : Metaspace::Prepend::never;
    // The older form; Hugging Face refuses a contradiction of the two.
    if (!flag(value, "add_prefix_space", true, where)) {
      if (!absent(value, "prepend_scheme") && scheme != "never")
        refuse(where + ": add_prefix_space false contradicts prepend_scheme \"" + scheme + "\"");
      out.prepend = Metaspace::Prepend::never;
    }
    out.split = flag(value, "split", true, where);
    prepends = out.prepend != Metaspace::Prepend::never;
    return out;
  }

  std::string character(const json& step, const char* key, const std::string& where) const {
    std::string value = text(step, key, where);
    size_t characters = 0;
    for (char byte : value) characters += (uint8_t(byte) & 0xC0) != 0x80;
    if (characters != 1) refuse(cat(where, ".", key, " \"", value, "\" is not one character"));
    return value;
  }

  /// Where a stretch of text began before normalizing decides "first": only steps that keep places are taken.
  void check_first() const {
    if (!model_.metaspace || model_.metaspace->prepend != Metaspace::Prepend::first) return;
    auto length = [](const std::string& s) {
      return std::count_if(s.begin(), s.end(), [](char byte) { return (uint8_t(byte) & 0xC0) != 0x80; });
    };
    for (const NormalizerStep& step : model_.normalizer)
      if (step.kind == NormalizerStep::Kind::prepend || length(step.pattern) != 1 ||
          length(step.content) != 1)
        refuse(
            "pre_tokenizer Metaspace with prepend_scheme \"first\" behind a normalizer that moves characters "
            "is not supported");
  }

  /// A file is not to be trusted: forty steps that each double a text would fill any memory.
  template <class Step>
  void check_growth(const char* where, const std::vector<Step>& steps) const {
    constexpr double kMost = 64;
    double growth = 1;
    for (const Step& step : steps) {
      const double before = double(std::max<size_t>(1, step.pattern.size())),
                   after = double(step.content.size());
      growth *= std::max(1.0, after / before);
    }
    if (growth > kMost)
      refuse(cat(where, ": its steps may make a text more than ", kMost,
                 " times as long, which is not supported"));
  }

  void read_decoder(const json& value) {
    using Kind = DecoderStep::Kind;
    const std::string type = type_of(value), where = "decoder " + type;
    auto add = [&](DecoderStep step) { model_.decoder.push_back(std::move(step)); };
    if (type == "\"Sequence\"") {
      only(value, where, {"type", "decoders"});
      for (const json& step : list(value, "decoders", where)) read_decoder(step);
    } else if (type == "\"Replace\"") {
      only(value, where, {"type", "pattern", "content"});
      add({Kind::replace, pattern(value, where), text(value, "content", where)});
    } else if (type == "\"ByteFallback\"" || type == "\"Fuse\"") {
      only(value, where, {"type"});
      add({type == "\"Fuse\"" ? Kind::fuse : Kind::byte_fallback, "", ""});
    } else if (type == "\"Strip\"") {
      only(value, where, {"type", "content", "start", "stop"});
      if (count(value, "stop", where) != 0) refuse(where + ": stop above 0 is not supported");
      add({Kind::strip, "", character(value, "content", where), count(value, "start", where)});
    } else if (type == "\"Metaspace\"") {
      bool prepends;
      Metaspace read = metaspace(value, where, prepends);
      add({Kind::metaspace, read.replacement, "", prepends ? size_t(1) : 0});
    } else {
      refuse(where +
             " is not supported, only ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace, Sequence");
    }
  }

  size_t count(const json& step, const char* key, const std::string& where) const {
    const json& value = member(step, key, where);
    if (!value.is_number_unsigned())
      refuse(cat(where, ".", key, " ", value.dump(), " is not a number from 0"));
    return value.get<size_t>();
  }

  SentencePieceModel& model_;
};

class PostProcessorReader : TokenizerJsonChecks {
 public:
  PostProcessorReader(const std::string& origin, BpeModel& model)
      : TokenizerJsonChecks(origin), model_(model) {}

  void read(const json& value) {
    std::string type = type_of(value);
    if (type == "\"ByteLevel\"") return;  // touches offsets only
    if (type == "\"Sequence\"") {
      for (const json& step : list(value, "processors", "post_processor")) {
        if (type_of(step) == "\"Sequence\"")
          refuse("post_processor: a Sequence inside a Sequence is not supported");
        read(step);
      }
    } else if (type == "\"TemplateProcessing\"") {
      read_template(value);
    } else {
      refuse("post_processor " + type + " is not supported, only TemplateProcessing and ByteLevel");
    }
  }

 private:
  void read_template(const json& value) {
    const std::string where = "post_processor TemplateProcessing";
    const json& single = member(value, "single", where);
    auto is = [](const json& item, const char* kind) { return item.is_object() && item.contains(kind); };
    bool plain = single.is_array() && single.size() == 1 && is(single[0], "Sequence");
    bool bos =
        single.is_array() && single.size() == 2 && is(single[0], "SpecialToken") && is(single[1], "Sequence");
    if (!plain && !bos) refuse(where + ": only \"$A\" and \"BOS $A\" are supported");
    if (!bos) return;
    if (model_.bos >= 0) refuse("post_processor: two templates");
    std::string name = text(single[0]["SpecialToken"], "id", where);
    const json& ids =
        member(member(member(value, "special_tokens", where), name.c_str(), where), "ids", where);
    if (!ids.is_array() || ids.size() != 1) refuse(where + ": \"" + name + "\" does not stand for one id");
    uint32_t id = id_of(ids[0], where);
    if (id >= model_.tokens.size())
      refuse(cat(where, ": id ", id, " of \"", name, "\" is outside the vocabulary"));
    model_.bos = id;
  }

  BpeModel& model_;
};

}  // namespace

bool is_byte_level(const json& root) {
  auto type = [](const json& value) { return value.is_object() ? value.value("type", json()) : json(); };
  if (root.contains("decoder") && type(root["decoder"]) == "ByteLevel") return true;
  if (!root.contains("pre_tokenizer")) return false;
  const json& split = root["pre_tokenizer"];
  if (type(split) == "ByteLevel") return true;
  if (type(split) != "Sequence" || !split.contains("pretokenizers")) return false;
  const json& steps = split["pretokenizers"];
  return std::any_of(steps.begin(), steps.end(), [&](const json& s) { return type(s) == "ByteLevel"; });
}

void read_tokenizer_pipeline(const json& root, const std::string& origin, BpeModel& model) {
  if (model.sentence_piece)
    SentencePieceReader(origin, model).read(root);
  else
    ByteLevelReader(origin, model).read(root);
  if (root.contains("post_processor") && !root["post_processor"].is_null())
    PostProcessorReader(origin, model).read(root["post_processor"]);
}

}  // namespace jambalaya
