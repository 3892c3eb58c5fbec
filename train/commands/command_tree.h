// The commands and their options as plain data: what completion scripts and the man page are written from.
#pragma once
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace jambalaya {

struct OptionDoc {
  std::vector<std::string> names;  ///< "--quiet", "-q"; a positional argument has one without dashes
  std::string value;               ///< "COUNT", "f32 or bf16", "TEXT"; "" for a flag
  std::vector<std::string> words;  ///< the values, or some of them, where they are few words
  std::string fallback;            ///< the value where the option is not given; may be empty
  std::string doc;                 ///< one sentence
  bool positional = false, required = false, many = false;
};

struct CommandDoc {
  std::string path;  ///< "tokenizer train"; "" for the program itself
  std::string sentence;
  std::vector<OptionDoc> options;    ///< in the order of --help
  std::vector<CommandDoc> commands;  ///< below this one
};

/// The tree below `app`, whose place in the tree is `path`.
CommandDoc describe(const CLI::App& app, const std::string& path = "");

/// `command` and all below it, each before what lies below it.
std::vector<const CommandDoc*> all_commands(const CommandDoc& command);

/// "f32 or bf16" -> {f32, bf16}, the inverse of `either` (config/values.h); nothing where `text` is no
/// choice. "auto or FOLDER" -> {auto}: capitals stand for what the user has.
std::vector<std::string> words_of(const std::string& text);

}  // namespace jambalaya
