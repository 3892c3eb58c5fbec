// What completion scripts of all shells share.
#pragma once
#include <string>
#include <vector>

#include "train/commands/command_tree.h"

namespace jambalaya {

/// What follows an option, or stands for a positional argument.
enum class Completes { nothing, files, config_keys };
Completes completes(const OptionDoc& option);

/// A key of --set and the values that it can have, where these are words.
struct SetKey {
  std::string key;
  std::vector<std::string> words;
};
std::vector<SetKey> set_keys();

std::string joined(const std::vector<std::string>& words, const std::string& between);
/// 'text' for a shell.
std::string quoted(const std::string& text);

}  // namespace jambalaya
