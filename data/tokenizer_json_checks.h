// What the readers of a tokenizer.json's parts share: strict access, and refusal by name.
#pragma once
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "data/bpe_model.h"

namespace jambalaya {

/// Every refusal is Error(bad_input) "ORIGIN: ...". `where` names the object in it.
class TokenizerJsonChecks {
 public:
  using json = nlohmann::json;
  explicit TokenizerJsonChecks(const std::string& origin) : origin_(origin) {}

 protected:
  [[noreturn]] void refuse(const std::string& why) const;
  static bool absent(const json& object, const char* key);  ///< or null
  /// The value of "type" as JSON: with quotation marks.
  static std::string type_of(const json& object);
  /// Refuses keys that are not known.
  void only(const json& object, const std::string& where, std::initializer_list<const char*> known) const;
  const json& member(const json& object, const char* key, const std::string& where) const;
  const json& list(const json& object, const char* key, const std::string& where) const;
  std::string text(const json& object, const char* key, const std::string& where) const;
  bool flag(const json& object, const char* key, bool missing, const std::string& where) const;
  uint32_t id_of(const json& value, const std::string& where) const;

  const std::string& origin_;
};

/// Reads normalizer, pre_tokenizer and decoder into `model` (sentence_piece set or not says which kind is
/// expected), then post_processor, which needs the vocabulary. Error(bad_input) as parse_tokenizer_json.
void read_tokenizer_pipeline(const nlohmann::json& root, const std::string& origin, BpeModel& model);

/// Whether pre-tokenizer or decoder is ByteLevel.
bool is_byte_level(const nlohmann::json& root);

}  // namespace jambalaya
