#include "data/tokenizer_json.h"

#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>

#include "data/bpe_encode.h"
#include "data/pretokenize.h"
#include "kernels/error.h"

namespace jambalaya {
namespace {

using nlohmann::json;

constexpr size_t kMaxBytes = 64u << 20;
constexpr int kMaxDepth = 32;

class Reader {
 public:
  explicit Reader(const std::string& origin) : origin_(origin) {}

  BpeModel read(std::string_view text) {
    json root = parse(text);
    if (!root.is_object()) refuse("the file is not a JSON object");
    only(root, "tokenizer.json",
         {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
          "decoder", "model"});
    if (root.value("version", json()) != "1.0") refuse("version is not \"1.0\"");
    for (const char* key : {"truncation", "padding"})
      if (!absent(root, key)) refuse(cat(key, " is set; it would change ids. Save the tokenizer without it"));
    if (!absent(root, "normalizer"))
      refuse("normalizer " + type_of(root["normalizer"]) + " is not supported, only null");
    read_model(member(root, "model", "tokenizer.json"));
    if (!absent(root, "added_tokens")) read_added(root["added_tokens"]);
    check_dense();
    read_pre_tokenizer(member(root, "pre_tokenizer", "tokenizer.json"));
    if (absent(root, "decoder") || type_of(root["decoder"]) != "\"ByteLevel\"")
      refuse("decoder " + type_of(absent(root, "decoder") ? json() : root["decoder"]) +
             " is not supported, only ByteLevel");
    if (!absent(root, "post_processor")) read_post_processor(root["post_processor"]);
    return std::move(model_);
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(Exit::bad_input, origin_ + ": " + why);
  }

  json parse(std::string_view text) const {
    if (text.size() > kMaxBytes)
      refuse(cat(text.size(), " bytes; a tokenizer.json may have up to ", kMaxBytes));
    std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
    auto watch = [&](int depth, json::parse_event_t event, json& value) {
      if (depth > kMaxDepth) refuse(cat("more than ", kMaxDepth, " levels of nesting"));
      if (event == json::parse_event_t::object_start) keys.emplace_back();
      if (event == json::parse_event_t::object_end) keys.pop_back();
      if (event == json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
        refuse("key " + value.dump() + " appears twice in one object");
      return true;
    };
    try {
      return json::parse(text, watch);
    } catch (const json::exception& e) {
      refuse(cat("not JSON: ", e.what()));
    }
  }

  static bool absent(const json& object, const char* key) {
    return !object.contains(key) || object[key].is_null();
  }
  static std::string type_of(const json& object) {
    return object.is_object() && object.contains("type") ? object["type"].dump()
           : object.is_null()                            ? "null"
                                                         : "(no type)";
  }
  void only(const json& object, const std::string& where, std::initializer_list<const char*> known) const {
    for (const auto& [key, value] : object.items())
      if (std::find(known.begin(), known.end(), key) == known.end())
        refuse(where + ": unknown key \"" + key + "\"");
  }
  const json& member(const json& object, const char* key, const std::string& where) const {
    if (!object.is_object() || !object.contains(key)) refuse(where + ": \"" + key + "\" is missing");
    return object[key];
  }
  std::string text(const json& object, const char* key, const std::string& where) const {
    const json& value = member(object, key, where);
    if (!value.is_string()) refuse(where + ": \"" + key + "\" is not a string");
    return value.get<std::string>();
  }
  bool flag(const json& object, const char* key, bool missing, const std::string& where) const {
    if (absent(object, key)) return missing;
    if (!object[key].is_boolean()) refuse(where + ": \"" + key + "\" is not true or false");
    return object[key].get<bool>();
  }
  uint32_t id_of(const json& value, const std::string& where) const {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= MergeTable::kMaxIds - 1)
      refuse(cat(where, ": ", value.dump(), " is not an id (0 to ", MergeTable::kMaxIds - 2, ")"));
    return value.get<uint32_t>();
  }

  void read_model(const json& model) {
    if (!model.is_object()) refuse("model is not an object");
    only(model, "model",
         {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
          "byte_fallback", "ignore_merges", "vocab", "merges"});
    if (!absent(model, "type") && model["type"] != "BPE")
      refuse("model type " + type_of(model) + " is not supported, only BPE");
    if (!absent(model, "dropout") && model["dropout"] != 0.0)
      refuse("model.dropout is set: ids would be random");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!absent(model, key) && model[key] != "") refuse(cat("model.", key, " is not supported"));
    if (flag(model, "byte_fallback", false, "model"))
      refuse("model.byte_fallback (SentencePiece-shaped tokenizers) is not supported, only byte-level BPE");
    model_.ignore_merges = flag(model, "ignore_merges", false, "model");
    read_vocabulary(member(model, "vocab", "model"));
    read_merges(member(model, "merges", "model"));
  }

  void put(uint32_t id, const std::string& token, const std::string& where) {
    if (id >= model_.tokens.size()) {
      model_.tokens.resize(id + 1);
      model_.in_vocabulary.resize(id + 1);
      used_.resize(id + 1);
    }
    if (used_[id])
      refuse(cat(where, ": id ", id, " belongs to \"", model_.tokens[id], "\" and to \"", token, "\""));
    model_.tokens[id] = token;
    used_[id] = true;
    ids_[token] = id;
  }

  void read_vocabulary(const json& vocabulary) {
    if (!vocabulary.is_object()) refuse("model.vocab is not an object");
    for (const auto& [token, id] : vocabulary.items())
      put(id_of(id, "model.vocab[\"" + token + "\"]"), token, "model.vocab");
    model_.in_vocabulary.assign(model_.tokens.size(), true);
    for (int b = 0; b < 256; b++) {
      std::string character = ByteAlphabet::get().spell(std::string(1, char(b)));
      if (!ids_.contains(character))
        refuse(cat("model.vocab has no token for byte ", b, " (\"", character,
                   "\"): not a complete byte-level vocabulary"));
    }
  }

  void read_merges(const json& merges) {
    if (!merges.is_array()) refuse("model.merges is not a list");
    if (merges.size() >= MergeTable::kMaxMerges)
      refuse(cat("model.merges has ", merges.size(), " entries: too many"));
    for (size_t i = 0; i < merges.size(); i++) {
      const json& entry = merges[i];
      auto where = [&] { return cat("model.merges[", i, "]"); };
      std::string left, right;
      if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
        left = entry[0].get<std::string>(), right = entry[1].get<std::string>();
      } else if (entry.is_string()) {  // the older form "left right"
        const std::string& both = entry.get_ref<const std::string&>();
        size_t space = both.find(' ');
        if (space == std::string::npos || both.find(' ', space + 1) != std::string::npos)
          refuse(where() + ": " + entry.dump() + " is not \"left right\"");
        left = both.substr(0, space), right = both.substr(space + 1);
      } else {
        refuse(where() + ": neither a pair of strings nor \"left right\"");
      }
      auto find = [&](const std::string& token) {
        auto found = ids_.find(token);
        if (found == ids_.end()) refuse(where() + ": token \"" + token + "\" is not in model.vocab");
        return found->second;
      };
      model_.merges.push_back({find(left), find(right), find(left + right)});
    }
  }

  void read_added(const json& list) {
    if (!list.is_array()) refuse("added_tokens is not a list");
    std::unordered_set<std::string> seen;
    for (size_t i = 0; i < list.size(); i++) {
      const json& entry = list[i];
      std::string where = cat("added_tokens[", i, "]");
      if (!entry.is_object()) refuse(where + " is not an object");
      only(entry, where, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
      AddedToken token{id_of(member(entry, "id", where), where + ".id"), text(entry, "content", where),
                       flag(entry, "special", false, where), flag(entry, "normalized", true, where)};
      if (token.content.empty()) refuse(where + ".content is empty");
      for (const char* key : {"single_word", "lstrip", "rstrip"})
        if (flag(entry, key, false, where))
          refuse(cat(where, " (\"", token.content, "\"): ", key, " is not supported"));
      if (!seen.insert(token.content).second) refuse(where + ": \"" + token.content + "\" is listed twice");
      // Hugging Face derives the ids of added tokens anew; a file that says otherwise would load differently
      // there.
      auto known = ids_.find(token.content);
      uint32_t derived = known != ids_.end() ? known->second : uint32_t(model_.tokens.size());
      if (token.id != derived)
        refuse(cat(where, " (\"", token.content, "\"): id ", token.id, " but it must be ", derived,
                   known != ids_.end() ? ", as in model.vocab" : ", the next free one: ids must be dense"));
      if (known == ids_.end()) put(token.id, token.content, where);
      model_.added.push_back(std::move(token));
    }
  }

  void check_dense() const {
    for (size_t id = 0; id < used_.size(); id++)
      if (!used_[id]) refuse(cat("no token has id ", id, ": ids must be dense from 0 to ", used_.size() - 1));
  }

  void read_pre_tokenizer(const json& value) {
    std::vector<const json*> steps;
    if (type_of(value) == "\"Sequence\"") {
      const json& list = member(value, "pretokenizers", "pre_tokenizer");
      if (!list.is_array()) refuse("pre_tokenizer.pretokenizers is not a list");
      for (const json& step : list) steps.push_back(&step);
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

  void read_post_processor(const json& value) {
    std::string type = type_of(value);
    if (type == "\"ByteLevel\"") return;  // touches offsets only
    if (type == "\"Sequence\"") {
      const json& list = member(value, "processors", "post_processor");
      if (!list.is_array()) refuse("post_processor.processors is not a list");
      for (const json& step : list) {
        if (type_of(step) == "\"Sequence\"")
          refuse("post_processor: a Sequence inside a Sequence is not supported");
        read_post_processor(step);
      }
    } else if (type == "\"TemplateProcessing\"") {
      read_template(value);
    } else {
      refuse("post_processor " + type + " is not supported, only TemplateProcessing and ByteLevel");
    }
  }

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

  const std::string& origin_;
  BpeModel model_;
  std::vector<bool> used_;
  std::unordered_map<std::string, uint32_t> ids_;
};

}  // namespace

BpeModel parse_tokenizer_json(std::string_view text, const std::string& origin) {
  return Reader(origin).read(text);
}

}  // namespace jambalaya
