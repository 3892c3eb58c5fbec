#include "kernels/error.h"
#include "train/commands/completion.h"
#include "train/commands/written_pages.h"

namespace jambalaya {

namespace {

/// Text inside a specification of _arguments, where colons and brackets have a meaning.
std::string plain(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == ':' || c == '[' || c == ']' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string function_of(const CommandDoc& command) {
  std::string name = "_jambalaya_" + command.path;
  for (char& c : name)
    if (c == ' ' || c == '-') c = '_';
  return name;
}

/// ":CONFIG:_files", "" for a flag.
std::string action(const OptionDoc& option) {
  if (option.value.empty()) return "";
  std::string does = " ";
  if (completes(option) == Completes::config_keys) does = "_jambalaya_keys";
  if (completes(option) == Completes::files) does = "_files";
  const std::string words = cat("(", joined(option.words, " "), ")");
  if (!option.words.empty())
    does = does == "_files" ? cat("{compadd -- ", joined(option.words, " "), "; _files}") : words;
  return cat(":", plain(option.positional ? option.names.front() : option.value), ":", does);
}

std::string argument(const OptionDoc& option) {
  if (option.positional)
    return cat("    ", quoted(cat(option.many ? "*" : option.required ? "" : ":", action(option))));
  const std::string rest = cat("[", plain(option.doc), "]", action(option));
  const bool repeats = completes(option) == Completes::config_keys;
  std::string lines;
  for (const auto& name : option.names)
    lines += cat(lines.empty() ? "" : " \\\n", "    ",
                 quoted(cat(repeats ? "*" : cat("(", joined(option.names, " "), ")"), name, rest)));
  return lines;
}

/// `_arguments` with the options of the command and, behind every command, those of the program.
std::string arguments(const CommandDoc& program, const CommandDoc& command) {
  std::string lines;
  for (const auto& option : command.options) lines += cat(" \\\n", argument(option));
  for (const auto& option : program.options)
    if (command.path != program.path && option.names.back() != "-h") lines += cat(" \\\n", argument(option));
  return lines;
}

std::string leaf(const CommandDoc& program, const CommandDoc& command) {
  return cat("\n", function_of(command), "() {\n  _arguments -s", arguments(program, command), "\n}\n");
}

/// A command that only has commands below it.
std::string group(const CommandDoc& program, const CommandDoc& command) {
  std::string names, calls;
  for (const auto& sub : command.commands) {
    const std::string name = sub.path.substr(sub.path.rfind(' ') + 1);
    names += cat("    ", quoted(cat(name, ":", plain(sub.sentence))), "\n");
    calls += cat("        ", name, ") ", function_of(sub), " ;;\n");
  }
  return cat("\n", function_of(command),
             "() {\n  local curcontext=$curcontext state line\n  typeset -A opt_args\n"
             "  local -a commands=(\n",
             names, "  )\n  _arguments -C -s", arguments(program, command),
             " \\\n    '1:command:->command' \\\n    '*::argument:->rest'\n"
             "  case $state in\n    command) _describe command commands ;;\n    rest)\n"
             "      case $words[1] in\n",
             calls, "      esac ;;\n  esac\n}\n");
}

std::string keys_function() {
  std::string keys, values;
  for (const auto& key : set_keys()) {
    keys += cat(" ", key.key, "=");
    if (!key.words.empty())
      values += cat("    ", key.key, "=*) compset -P '*='; compadd -- ", joined(key.words, " "), " ;;\n");
  }
  return cat("\n_jambalaya_keys() {\n  case $PREFIX in\n", values, "    *=*) ;;\n    *) compadd -S '' --",
             keys, " ;;\n  esac\n}\n");
}

}  // namespace

std::string zsh_completion(const CommandDoc& program) {
  std::string text =
      "#compdef jambalaya\n# Completes jambalaya in zsh. Written by: jambalaya completion zsh\n";
  text += keys_function();
  for (const auto* command : all_commands(program))
    text += command->commands.empty() ? leaf(program, *command) : group(program, *command);
  // Read from the fpath this file is the function itself; by `source` it announces it.
  return text +
         "\nif [[ $funcstack[1] == _jambalaya ]]; then\n  _jambalaya_ \"$@\"\nelse\n"
         "  compdef _jambalaya_ jambalaya\nfi";
}

}  // namespace jambalaya
