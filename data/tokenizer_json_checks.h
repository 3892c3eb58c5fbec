// What the readers of a tokenizer.json's parts share: strict access, and refusal by name.
#pragma once
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "data/bpe_encode.h"
#include "kernels/error.h"

namespace jambalaya {

class TokenizerJsonChecks {
 public:
  using json = nlohmann::json;
  explicit TokenizerJsonChecks(const std::string& origin) : origin_(origin) {}

 protected:
  /// Error(bad_input) "ORIGIN: why".
  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(Exit::bad_input, origin_ + ": " + why);
  }
  static bool absent(const json& object, const char* key) {
    return !object.contains(key) || object[key].is_null();
  }
  /// The value of "type" as JSON: with quotation marks.
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
  const json& list(const json& object, const char* key, const std::string& where) const {
    const json& value = member(object, key, where);
    if (!value.is_array()) refuse(cat(where, ".", key, " is not a list"));
    return value;
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

 private:
  const std::string& origin_;
};

/// Reads normalizer, pre_tokenizer and decoder into `model` (sentence_piece set or not says which kind is
/// expected), then post_processor, which needs the vocabulary. Error(bad_input) as parse_tokenizer_json.
void read_tokenizer_pipeline(const nlohmann::json& root, const std::string& origin, BpeModel& model);

/// Whether pre-tokenizer or decoder is ByteLevel.
bool is_byte_level(const nlohmann::json& root);

}  // namespace jambalaya
