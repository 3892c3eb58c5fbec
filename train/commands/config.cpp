// jambalaya config: the resolved config, or the reference of all options.
#include <cstdio>

#include "train/commands/commands.h"
#include "train/config/options.h"
#include "train/json.h"

namespace jambalaya {

namespace {

Json value_as_json(const Option& option, const std::string& text) {
  // What `get` writes is YAML; numbers, truth values and lists of them are JSON as they stand.
  if (option.type == "choice") return Json(text);
  if (option.type == "text") {
    ConfigProblems none;
    return Json(parse_yaml(text, option.key, none).text);
  }
  return parse_json(text, option.key, Exit::failed);
}

std::string config_as_json(const Config& config) {
  Json root = Json::make_object();
  for (const auto& section : config_sections()) {
    Json values = Json::make_object();
    for (const auto& option : config_options())
      if (option.section() == section.name && option.get)
        values.set(option.name(), value_as_json(option, option.get(config)));
    if (section.name == "model") values.set("notation", Json(notation_of(config.model)));
    root.set(section.name, std::move(values));
  }
  return root.text();
}

}  // namespace

int run_config(const ConfigOptions& options) {
  std::string text;
  if (options.reference) {
    text = configuration_reference();
  } else {
    const Config config = load_config(options.config, options.set);
    text = options.json ? config_as_json(config) + "\n" : to_yaml(config);
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

}  // namespace jambalaya
