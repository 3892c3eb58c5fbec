#include "train/commands/completion.h"

#include "train/config/options.h"

namespace jambalaya {

Completes completes(const OptionDoc& option) {
  if (option.value == "SECTION.KEY=VALUE") return Completes::config_keys;
  // Words alone, and numbers: those of command_options.cpp, and CLI11's names of types.
  if (!option.words.empty() && option.value.find("FOLDER") == std::string::npos) return Completes::nothing;
  for (const char* number : {"", "COUNT", "NUMBER", "N", "INT", "UINT", "FLOAT"})
    if (option.value == number) return Completes::nothing;
  return Completes::files;
}

std::vector<SetKey> set_keys() {
  std::vector<SetKey> keys;
  for (const auto& option : config_options()) {
    std::vector<std::string> words;
    if (option.type == "choice") words = words_of(option.range);
    if (option.type == "true/false") words = {"true", "false"};
    keys.push_back({option.key, std::move(words)});
  }
  return keys;
}

std::string joined(const std::vector<std::string>& words, const std::string& between) {
  std::string text;
  for (size_t i = 0; i < words.size(); i++) text += (i == 0 ? "" : between) + words[i];
  return text;
}

std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

}  // namespace jambalaya
