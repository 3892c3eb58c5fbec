// Builders of option rows and the rows of the model section.
#pragma once
#include <cstdint>
#include <limits>

#include "kernels/error.h"
#include "train/config/options.h"
#include "train/config/values.h"

namespace jambalaya::options {

/// "" or why the node cannot be a number: it is a list, a map, empty, or a quoted number.
std::string scalar_problem(const YamlNode& node);

/// A row for a whole number of any width; `access` takes Config& (or const Config&) to the field.
template <class Access>
Option integer(const std::string& key, Access access, int64_t min, int64_t max, const std::string& doc) {
  const std::string range =
      max == std::numeric_limits<int64_t>::max() ? cat("from ", min) : cat(min, " to ", max);
  const auto set = [=](Config& config, const YamlNode& node) -> std::string {
    int64_t value = 0;
    std::string why = scalar_problem(node);
    if (why.empty()) why = read_integer(node.text, value);
    if (!why.empty()) return cat(why, " (expected a whole number ", range, ")");
    if (value < min || value > max)
      return cat("outside ", min, " to ", max, "; nearest: ", value < min ? min : max);
    using Field = std::remove_reference_t<decltype(access(config))>;
    access(config) = static_cast<Field>(value);
    return "";
  };
  return {key, "integer", range, doc, set, [=](const Config& config) { return cat(access(config)); }};
}

template <class Access>
Option real(const std::string& key, Access access, double min, double max, bool open_min,
            const std::string& doc) {
  const std::string range = cat(open_min ? "above " : "", min, open_min ? ", at most " : " to ", max);
  const auto set = [=](Config& config, const YamlNode& node) -> std::string {
    double value = 0;
    std::string why = scalar_problem(node);
    if (why.empty()) why = read_real(node.text, value);
    if (!why.empty()) return cat(why, " (expected a number ", range, ")");
    if (value < min || value > max || (open_min && value == min))
      return cat("out of range (expected ", range, ")");
    access(config) = value;
    return "";
  };
  return {key, "number", range, doc, set, [=](const Config& config) { return cat(access(config)); }};
}

template <class Access>
Option boolean(const std::string& key, Access access, const std::string& doc) {
  const auto set = [=](Config& config, const YamlNode& node) -> std::string {
    const std::string why = scalar_problem(node);
    return why.empty() ? read_boolean(node.text, access(config)) : why;
  };
  return {key, "true/false", "", doc, set, [=](const Config& config) { return cat(access(config)); }};
}

template <class Access>
Option text(const std::string& key, Access access, const std::string& doc) {
  const auto set = [=](Config& config, const YamlNode& node) -> std::string {
    if (node.kind != YamlNode::Kind::scalar) return "must be text; write \"\" for none";
    if (node.text.find('\0') != std::string::npos) return "must not hold a NUL character";
    access(config) = node.text;
    return "";
  };
  return {key, "text", "", doc, set, [=](const Config& config) { return quote_yaml(access(config)); }};
}

/// A list of texts.
template <class Access>
Option texts(const std::string& key, Access access, const std::string& doc) {
  const auto set = [=](Config& config, const YamlNode& node) -> std::string {
    if (node.kind != YamlNode::Kind::list) return "must be a list of texts, e.g. [\"one\", \"two\"]";
    std::vector<std::string> all;
    for (const YamlNode& item : node.items) {
      if (item.kind != YamlNode::Kind::scalar || item.text.empty() ||
          item.text.find('\0') != std::string::npos)
        return "must be a list of texts, none of them empty or with a NUL character";
      all.push_back(item.text);
    }
    access(config) = std::move(all);
    return "";
  };
  const auto get = [=](const Config& config) {
    std::string out = "[";
    for (const std::string& item : access(config)) out += cat(out.size() > 1 ? ", " : "", quote_yaml(item));
    return out + "]";
  };
  return {key, "list", "[text, ...]", doc, set, get};
}

/// `words` in the order of the enumeration's values.
template <class Access>
Option choice(const std::string& key, Access access, const std::vector<std::string>& words,
              const std::string& doc) {
  const auto set = [=](Config& config, const YamlNode& node) -> std::string {
    using Field = std::remove_reference_t<decltype(access(config))>;
    for (size_t i = 0; node.kind == YamlNode::Kind::scalar && i < words.size(); i++) {
      if (words[i] != node.text) continue;
      if constexpr (std::is_enum_v<Field>)
        access(config) = static_cast<Field>(i);
      else
        access(config) = words[i];
      return "";
    }
    const std::string near = node.kind == YamlNode::Kind::scalar ? nearest_word(node.text, words) : "";
    return cat("not one of ", either(words), near.empty() ? "" : cat(" (did you mean ", near, "?)"));
  };
  const auto get = [=](const Config& config) -> std::string {
    if constexpr (std::is_enum_v<std::remove_cvref_t<decltype(access(config))>>)
      return words[size_t(access(config))];
    else
      return access(config);
  };
  return {key, "choice", either(words), doc, set, get};
}

void add_model_options(std::vector<Option>& table);

}  // namespace jambalaya::options
