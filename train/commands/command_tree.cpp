#include "train/commands/command_tree.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>

namespace jambalaya {

namespace {

OptionDoc describe(const CLI::Option& option) {
  OptionDoc doc;
  for (const auto& name : option.get_lnames()) doc.names.push_back("--" + name);
  for (const auto& name : option.get_snames()) doc.names.push_back("-" + name);
  doc.positional = doc.names.empty();
  if (doc.positional) doc.names.push_back(option.get_name());
  if (option.get_items_expected_max() > 0) doc.value = option.get_type_name();
  doc.words = words_of(doc.value);
  doc.fallback = option.get_default_str();
  doc.doc = option.get_description();
  doc.required = option.get_required();
  doc.many = doc.positional && option.get_items_expected_max() > 1;
  return doc;
}

bool is_placeholder(const std::string& word) {
  return std::all_of(word.begin(), word.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
}

}  // namespace

std::vector<std::string> words_of(const std::string& text) {
  const std::string last = " or ";
  const size_t split = text.rfind(last);
  if (split == std::string::npos) return {};
  std::vector<std::string> words;
  size_t begin = 0;
  for (size_t comma; (comma = text.find(", ", begin)) != std::string::npos && comma < split;
       begin = comma + 2)
    words.push_back(text.substr(begin, comma - begin));
  words.push_back(text.substr(begin, split - begin));
  words.push_back(text.substr(split + last.size()));
  for (const auto& word : words)
    if (word.empty() || word.find(' ') != std::string::npos) return {};
  std::erase_if(words, is_placeholder);
  return words;
}

CommandDoc describe(const CLI::App& app, const std::string& path) {
  CommandDoc doc{path, app.get_description(), {}, {}};
  for (const auto* option : app.get_options()) doc.options.push_back(describe(*option));
  for (const auto* sub : app.get_subcommands([](const CLI::App*) { return true; }))
    doc.commands.push_back(describe(*sub, path.empty() ? sub->get_name() : path + " " + sub->get_name()));
  return doc;
}

std::vector<const CommandDoc*> all_commands(const CommandDoc& command) {
  std::vector<const CommandDoc*> all{&command};
  for (const auto& sub : command.commands) {
    const auto below = all_commands(sub);
    all.insert(all.end(), below.begin(), below.end());
  }
  return all;
}

}  // namespace jambalaya
