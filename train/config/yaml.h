// YAML as a small tree with places. The reader is strict: one document of maps, lists and scalars, without
// anchors, aliases, merge keys, tags or duplicate keys. yaml-cpp stands behind it (yaml.cpp).
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace jambalaya {

struct YamlNode {
  enum class Kind { null, scalar, list, map };
  Kind kind = Kind::null;
  std::string text;     ///< of a scalar
  bool quoted = false;  ///< "64" is text, 64 is a number
  std::string place;    ///< "file:line:column", 1-based, or the --set that it stands in
  std::vector<YamlNode> items;
  struct Entry;
  std::vector<Entry> entries;  ///< of a map, in order, keys unique
};
struct YamlNode::Entry {
  std::string key, place;
  YamlNode value;
};

/// What is wrong with a config, each with its place; all of them are shown at once.
using ConfigProblems = std::vector<std::string>;

constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr int kMaxConfigNodes = 10000, kMaxConfigDepth = 32;

/// Problems that leave the tree usable (a duplicate key: the first stays) are added to `problems`; after one
/// that does not (syntax, invalid UTF-8, too large) the tree is null.
YamlNode parse_yaml(const std::string& text, const std::string& source, ConfigProblems& problems);
/// `text` as a YAML scalar that reads back as the same string, double-quoted.
std::string quote_yaml(const std::string& text);

}  // namespace jambalaya
