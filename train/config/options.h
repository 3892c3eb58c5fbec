// One table of options: loading, the resolved YAML and docs/configuration.md are all made from it.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "train/config.h"
#include "train/config/yaml.h"

namespace jambalaya {

struct Option {
  std::string key;    ///< "section.name"
  std::string type;   ///< integer, number, true/false, text, choice, list
  std::string range;  ///< for people: "1 to 64", "f32 or bf16"; may be empty
  std::string doc;    ///< one sentence
  /// Sets the field; returns "" or what is wrong with the value.
  std::function<std::string(Config&, const YamlNode&)> set;
  /// The field as YAML that `set` reads back to the same value.
  std::function<std::string(const Config&)> get;
  std::string name() const { return key.substr(key.find('.') + 1); }
  std::string section() const { return key.substr(0, key.find('.')); }
};

/// In the order in which they are written out. "model.notation" stands in it without set and get: it has no
/// field of its own (see config.cpp).
const std::vector<Option>& config_options();

struct SectionDoc {
  std::string name, doc;
};
const std::vector<SectionDoc>& config_sections();

/// Rules that span fields; `key` is "section.name" and names the value to change.
std::vector<Problem> config_problems(const Config& config);

}  // namespace jambalaya
