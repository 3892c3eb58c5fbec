#include "data/tokenizer_json.h"

#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>

#include "data/bpe_encode.h"
#include "data/tokenizer_json_checks.h"
#include "kernels/error.h"

namespace jambalaya {
namespace {

constexpr size_t kMaxBytes = 64u << 20;
constexpr int kMaxDepth = 32;

class Reader : TokenizerJsonChecks {
 public:
  explicit Reader(const std::string& origin) : TokenizerJsonChecks(origin) {}

  BpeModel read(std::string_view text) {
    json root = parse(text);
    if (!root.is_object()) refuse("the file is not a JSON object");
    only(root, "tokenizer.json",
         {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
          "decoder", "model"});
    if (root.value("version", json()) != "1.0") refuse("version is not \"1.0\"");
    for (const char* key : {"truncation", "padding"})
      if (!absent(root, key)) refuse(cat(key, " is set; it would change ids. Save the tokenizer without it"));
    if (!is_byte_level(root)) model_.sentence_piece.emplace();
    read_model(member(root, "model", "tokenizer.json"));
    if (!absent(root, "added_tokens")) read_added(root["added_tokens"]);
    check_dense();
    read_tokenizer_pipeline(root, origin_, model_);
    return std::move(model_);
  }

 private:
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
    model_.ignore_merges = flag(model, "ignore_merges", false, "model");
    read_vocabulary(member(model, "vocab", "model"));
    read_fallback(model);
    read_merges(member(model, "merges", "model"));
  }

  /// What becomes of characters that the vocabulary lacks.
  void read_fallback(const json& model) {
    const bool bytes = flag(model, "byte_fallback", false, "model");
    const bool fuse = flag(model, "fuse_unk", false, "model");
    if (!model_.sentence_piece) {
      if (bytes) refuse("model.byte_fallback together with ByteLevel is not supported");
      return check_byte_alphabet();  // nothing is unknown
    }
    model_.sentence_piece->byte_fallback = bytes;
    model_.sentence_piece->fuse_unk = fuse;
    if (absent(model, "unk_token")) return;
    const std::string name = text(model, "unk_token", "model");
    if (!ids_.contains(name)) refuse("model.unk_token \"" + name + "\" is not in model.vocab");
    model_.sentence_piece->unk = ids_[name];
  }

  void check_byte_alphabet() const {
    for (int b = 0; b < 256; b++) {
      std::string character = ByteAlphabet::get().spell(std::string(1, char(b)));
      if (!ids_.contains(character))
        refuse(cat("model.vocab has no token for byte ", b, " (\"", character,
                   "\"): not a complete byte-level vocabulary"));
    }
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

  void read_added(const json& tokens) {
    if (!tokens.is_array()) refuse("added_tokens is not a list");
    std::unordered_set<std::string> seen;
    for (size_t i = 0; i < tokens.size(); i++) {
      const json& entry = tokens[i];
      std::string where = cat("added_tokens[", i, "]");
      if (!entry.is_object()) refuse(where + " is not an object");
      only(entry, where, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
      AddedToken token{id_of(member(entry, "id", where), where + ".id"),
                       text(entry, "content", where),
                       flag(entry, "special", false, where),
                       flag(entry, "normalized", true, where),
                       flag(entry, "lstrip", false, where),
                       flag(entry, "rstrip", false, where)};
      if (token.content.empty()) refuse(where + ".content is empty");
      if (flag(entry, "single_word", false, where))
        refuse(cat(where, " (\"", token.content, "\"): single_word is not supported"));
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

  BpeModel model_;
  std::vector<bool> used_;
  std::unordered_map<std::string, uint32_t> ids_;
};

}  // namespace

BpeModel parse_tokenizer_json(std::string_view text, const std::string& origin) {
  return Reader(origin).read(text);
}

}  // namespace jambalaya
