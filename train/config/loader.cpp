// Reading a config: files with their bases and --set overrides are layers over the defaults, each key
// remembers where it was given, and everything that is wrong is reported at once.
#include "train/config.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "train/config/loader.h"
#include "train/config/values.h"

namespace jambalaya {

namespace {

namespace fs = std::filesystem;

constexpr int kMaxBases = 8;

std::vector<std::string> names_of_section(const std::string& section) {
  std::vector<std::string> names;
  for (const auto& option : config_options())
    if (option.section() == section) names.push_back(option.name());
  return names;
}

const Option* find_option(const std::string& key) {
  const auto& table = config_options();
  const auto at = std::find_if(table.begin(), table.end(), [&](const Option& o) { return o.key == key; });
  return at == table.end() ? nullptr : &*at;
}

std::string unknown_key(const std::string& section, const std::string& name) {
  const std::string key = cat(section, ".", name);
  const auto names = names_of_section(section);
  std::string hint = nearest_word(name, names);
  if (hint.empty())
    for (const auto& option : config_options())
      if (option.name() == name) hint = option.key;
  if (!hint.empty()) return cat("unknown key '", key, "' (did you mean '", hint, "'?)");
  return cat("unknown key '", key, "'; the keys of ", section, " are ", either(names));
}

std::string unknown_section(const std::string& name) {
  std::vector<std::string> names = {"schema_version", "extends"};
  for (const auto& section : config_sections()) names.push_back(section.name);
  for (const auto& option : config_options())
    if (option.name() == name) return cat("unknown key '", name, "' (did you mean '", option.key, "'?)");
  const std::string hint = nearest_word(name, names);
  return hint.empty() ? cat("unknown section '", name, "'; the sections are ", either(names))
                      : cat("unknown section '", name, "' (did you mean '", hint, "'?)");
}

}  // namespace

std::string ConfigLoader::read_text(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error))
    problems_.push_back(cat(path, ": no such config file"));
  else if (!fs::is_regular_file(path, error))
    problems_.push_back(cat(path, ": not a file"));
  else if (fs::file_size(path, error) > kMaxConfigBytes)
    problems_.push_back(cat(path, ": larger than ", kMaxConfigBytes, " bytes, which no config is"));
  else {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    if (in) return text.str();
    problems_.push_back(cat(path, ": cannot be read"));
  }
  return "";
}

void ConfigLoader::read_file(const std::string& path, const std::string& folder) {
  if (std::find(open_files_.begin(), open_files_.end(), path) != open_files_.end() ||
      open_files_.size() > kMaxBases) {
    const bool cycle = open_files_.size() <= kMaxBases;
    problems_.push_back(cat(open_files_.back(), ": extends ", path,
                            cycle ? ", which extends it in turn" : ": more than 8 bases deep"));
    return;
  }
  open_files_.push_back(path);
  const YamlNode root = parse_yaml(read_text(path), path, problems_);
  // The base lies below whatever this file says, wherever the line stands.
  for (const auto& entry : root.entries)
    if (entry.key == "extends") read_base(path, folder, entry.value);
  read_tree(root, path);
  open_files_.pop_back();
}

void ConfigLoader::read_base(const std::string& path, const std::string& folder, const YamlNode& value) {
  const auto refuse = [&](const std::string& why) {
    problems_.push_back(cat(value.place, ": extends: ", why));
  };
  if (value.kind != YamlNode::Kind::scalar || value.text.empty())
    return refuse("the path of one YAML file is needed");
  const fs::path base = value.text;
  if (base.is_absolute()) return refuse(cat(value.text, " must be relative to this file"));
  std::error_code error;
  const fs::path full = (fs::path(path).parent_path() / base).lexically_normal();
  const fs::path real = fs::weakly_canonical(full, error), root = fs::weakly_canonical(folder, error);
  // A config from elsewhere must not read files around it.
  if (const fs::path inside = real.lexically_relative(root); inside.empty() || *inside.begin() == "..")
    return refuse(cat(value.text, " lies outside the folder of the config, ", root.string()));
  if (!fs::exists(full, error)) return refuse(cat("no such file ", full.string()));
  read_file(full.string(), folder);
}

void ConfigLoader::read_tree(const YamlNode& root, const std::string& source) {
  if (root.kind == YamlNode::Kind::null) return;
  if (root.kind != YamlNode::Kind::map) {
    problems_.push_back(
        cat(root.place, ": a config is a map of sections, such as  model: {hidden_size: 256}"));
    return;
  }
  Layer layer{source, {}};
  for (const auto& [name, place, value] : root.entries) {
    const auto& sections = config_sections();
    if (name == "extends") continue;
    if (name == "schema_version") {
      if (value.text != "1")
        problems_.push_back(cat(value.place, ": schema_version = ", value.text, ": this program reads 1"));
    } else if (std::none_of(sections.begin(), sections.end(),
                            [&](const auto& s) { return s.name == name; })) {
      problems_.push_back(cat(place, ": ", unknown_section(name)));
    } else {
      collect_section(name, value, layer);
    }
  }
  apply(layer);
}

void ConfigLoader::collect_section(const std::string& section, const YamlNode& node, Layer& layer) {
  if (node.kind == YamlNode::Kind::null) return;
  if (node.kind != YamlNode::Kind::map) {
    problems_.push_back(
        cat(node.place, ": ", section, " is a section; its keys are ", either(names_of_section(section))));
    return;
  }
  for (const auto& [name, place, value] : node.entries) {
    if (find_option(cat(section, ".", name)))
      layer.values.push_back({cat(section, ".", name), value, value.place, false});
    else
      problems_.push_back(cat(place, ": ", unknown_key(section, name)));
  }
}

void ConfigLoader::read_overrides(const std::vector<std::string>& overrides) {
  Layer layer{"--set", {}};
  for (const auto& text : overrides) {
    const std::string place = cat("--set ", text);
    const size_t equals = text.find('=');
    const std::string key = text.substr(0, equals);
    if (equals == std::string::npos || key.empty()) {
      problems_.push_back(cat(place, ": expected section.key=value, such as train.steps=100"));
      continue;
    }
    if (!find_option(key)) {
      const size_t dot = key.find('.');
      const auto& sections = config_sections();
      const bool known = std::any_of(sections.begin(), sections.end(),
                                     [&](const auto& s) { return s.name == key.substr(0, dot); });
      problems_.push_back(cat(place, ": ",
                              known && dot != std::string::npos
                                  ? unknown_key(key.substr(0, dot), key.substr(dot + 1))
                                  : unknown_section(key.substr(0, dot))));
      continue;
    }
    YamlNode node;
    node.kind = YamlNode::Kind::scalar;
    node.text = text.substr(equals + 1);
    node.place = place;
    // Lists and quoted text are YAML; anything else is taken as it stands, so that a path needs no quoting.
    if (!node.text.empty() && std::string("[{\"'").find(node.text[0]) != std::string::npos)
      node = parse_yaml(node.text, place, problems_);
    std::erase_if(layer.values, [&](const Given& g) { return g.key == key; });
    layer.values.push_back({key, node, place, true});
  }
  apply(layer);
}

void ConfigLoader::apply(const Layer& layer) {
  for (const auto& given : layer.values)
    if (given.key == "model.notation") apply_notation_value(given);
  for (const auto& given : layer.values) {
    places_[given.key] = given.place;
    if (given.key == "model.notation") continue;
    const std::string why = find_option(given.key)->set(config_, given.node);
    if (why.empty()) {
      wrong_.erase(given.key);
      continue;
    }
    const bool show = !given.override && given.node.kind == YamlNode::Kind::scalar;
    problems_.push_back(cat(given.place, ": ", given.override ? "" : given.key,
                            show ? cat(" = ", given.node.text) : "", given.override ? "" : ": ", why));
    wrong_.insert(given.key);
  }
  for (const auto& given : layer.values) compare_with_notation(given);
}

std::string ConfigLoader::place_of(const std::string& key, const std::string& text,
                                   const std::string& source) const {
  if (const auto at = places_.find(key); at != places_.end()) return at->second;
  // The key itself has its default: the one that clashes with it was given.
  for (const auto& [given, place] : places_)
    if (mentions(text, given.substr(given.find('.') + 1))) return place;
  if (const auto at = places_.find("model.notation"); at != places_.end() && key.starts_with("model."))
    return at->second;
  return source;
}

void ConfigLoader::check(const std::string& source) {
  std::vector<Problem> found = problems(config_.model);
  for (auto& problem : found) {
    problem.key = cat("model.", problem.key);
    problem.text = cat("model.", problem.text);
  }
  if (whole_) {
    const auto more = config_problems(config_);
    found.insert(found.end(), more.begin(), more.end());
  }
  for (const auto& problem : found) {
    // What follows from a value that could not be read is not a problem of its own.
    const bool follows = std::any_of(wrong_.begin(), wrong_.end(), [&](const std::string& key) {
      return mentions(problem.text, key.substr(key.find('.') + 1));
    });
    if (!follows) problems_.push_back(cat(place_of(problem.key, problem.text, source), ": ", problem.text));
  }
  if (problems_.empty()) return;
  std::string message;
  for (const auto& problem : problems_) message += cat(message.empty() ? "" : "\n", problem);
  throw Error(Exit::usage, message);
}

bool mentions(const std::string& text, const std::string& name) {
  const auto part_of_name = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
  };
  for (size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    const size_t end = at + name.size();
    if ((at == 0 || !part_of_name(text[at - 1])) && (end == text.size() || !part_of_name(text[end])))
      return true;
  }
  return false;
}

Config load_config(const std::string& path, const std::vector<std::string>& overrides) {
  ConfigLoader loader(true);
  if (!path.empty()) {
    const std::string folder = fs::path(path).parent_path().string();
    loader.read_file(path, folder.empty() ? "." : folder);
  }
  loader.read_overrides(overrides);
  loader.check(path.empty() ? "defaults" : path);
  return loader.config();
}

Config parse_config(const std::string& yaml, const std::string& source_name,
                    const std::vector<std::string>& overrides) {
  ConfigLoader loader(true);
  loader.read_resolved(yaml, source_name);
  loader.read_overrides(overrides);
  loader.check(source_name);
  return loader.config();
}

ModelConfig parse_model_config(const std::string& yaml, const std::string& source_name) {
  ConfigLoader loader(false);
  loader.read_model(yaml, source_name);
  loader.check(source_name);
  return loader.config().model;
}

void ConfigLoader::read_model(const std::string& yaml, const std::string& source) {
  const YamlNode root = parse_yaml(yaml, source, problems_);
  Layer layer{source, {}};
  collect_section("model", root, layer);
  apply(layer);
}

void ConfigLoader::read_resolved(const std::string& yaml, const std::string& source) {
  read_tree(parse_yaml(yaml, source, problems_), source);
}

}  // namespace jambalaya
