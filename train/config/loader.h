// How load_config works inside: layers of given values over the defaults.
#pragma once
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "kernels/error.h"
#include "train/config.h"
#include "train/config/options.h"
#include "train/config/yaml.h"

namespace jambalaya {

class ConfigLoader {
 public:
  /// whole = false: a model section alone.
  explicit ConfigLoader(bool whole) : whole_(whole) {}

  /// `folder`: that of the config asked for; bases must lie in it.
  void read_file(const std::string& path, const std::string& folder);
  void read_overrides(const std::vector<std::string>& overrides);
  /// The text of a resolved config (to_yaml): no bases.
  void read_resolved(const std::string& yaml, const std::string& source);
  void read_model(const std::string& yaml, const std::string& source);
  /// Checks the rules between fields, then throws Error(usage) when anything at all was wrong.
  void check(const std::string& source);
  const Config& config() const { return config_; }

 private:
  struct Given {
    std::string key;
    YamlNode node;
    std::string place;
    bool override;  ///< by --set: the place spells the value already
  };
  /// What one file says, or all --set together.
  struct Layer {
    std::string source;
    std::vector<Given> values;
  };

  std::string read_text(const std::string& path);
  void read_base(const std::string& path, const std::string& folder, const YamlNode& value);
  void read_tree(const YamlNode& root, const std::string& source);
  void collect_section(const std::string& section, const YamlNode& node, Layer& layer);
  void apply(const Layer& layer);
  void apply_notation_value(const Given& given);
  void compare_with_notation(const Given& given);
  std::string place_of(const std::string& key, const std::string& text, const std::string& source) const;

  bool whole_;
  Config config_;
  ConfigProblems problems_;
  std::map<std::string, std::string> places_;  ///< of every key given
  std::set<std::string> wrong_;                ///< keys whose value could not be read
  std::vector<std::string> open_files_;
  std::optional<Notation> notation_;
  std::string notation_place_;
};

/// True when `name` occurs in `text` as a whole word.
bool mentions(const std::string& text, const std::string& name);

}  // namespace jambalaya
