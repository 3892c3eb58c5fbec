// What is written from the tree of commands and the table of config options: completion scripts, manual page.
#pragma once
#include <string>

#include "train/commands/command_tree.h"

namespace jambalaya {

/// A script for bash (also without the package bash-completion): commands, options, their values, files, and
/// after --set the keys of a config and the values of those that are choices.
std::string bash_completion(const CommandDoc& program);
/// The same for zsh, with explanations: a file _jambalaya for a folder of its fpath.
std::string zsh_completion(const CommandDoc& program);
/// jambalaya(1), as troff with the macros of man(7).
std::string man_page(const CommandDoc& program);

}  // namespace jambalaya
