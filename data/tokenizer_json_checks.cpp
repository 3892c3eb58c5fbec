#include "data/tokenizer_json_checks.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/bpe_encode.h"
#include "kernels/error.h"

namespace jambalaya {

void TokenizerJsonChecks::refuse(const std::string& why) const {
  throw Error(Exit::bad_input, origin_ + ": " + why);
}

bool TokenizerJsonChecks::absent(const json& object, const char* key) {
  return !object.contains(key) || object[key].is_null();
}

std::string TokenizerJsonChecks::type_of(const json& object) {
  return object.is_object() && object.contains("type") ? object["type"].dump()
         : object.is_null()                            ? "null"
                                                       : "(no type)";
}

void TokenizerJsonChecks::only(const json& object, const std::string& where,
                               std::initializer_list<const char*> known) const {
  for (const auto& [key, value] : object.items())
    if (std::find(known.begin(), known.end(), key) == known.end())
      refuse(where + ": unknown key \"" + key + "\"");
}

const nlohmann::json& TokenizerJsonChecks::member(const json& object, const char* key,
                                                  const std::string& where) const {
  if (!object.is_object() || !object.contains(key)) refuse(where + ": \"" + key + "\" is missing");
  return object[key];
}

const nlohmann::json& TokenizerJsonChecks::list(const json& object, const char* key,
                                                const std::string& where) const {
  const json& value = member(object, key, where);
  if (!value.is_array()) refuse(cat(where, ".", key, " is not a list"));
  return value;
}

std::string TokenizerJsonChecks::text(const json& object, const char* key, const std::string& where) const {
  const json& value = member(object, key, where);
  if (!value.is_string()) refuse(where + ": \"" + key + "\" is not a string");
  return value.get<std::string>();
}

bool TokenizerJsonChecks::flag(const json& object, const char* key, bool missing,
                               const std::string& where) const {
  if (absent(object, key)) return missing;
  if (!object[key].is_boolean()) refuse(where + ": \"" + key + "\" is not true or false");
  return object[key].get<bool>();
}

uint32_t TokenizerJsonChecks::id_of(const json& value, const std::string& where) const {
  if (!value.is_number_unsigned() || value.get<uint64_t>() >= MergeTable::kMaxIds - 1)
    refuse(cat(where, ": ", value.dump(), " is not an id (0 to ", MergeTable::kMaxIds - 2, ")"));
  return value.get<uint32_t>();
}

}  // namespace jambalaya
