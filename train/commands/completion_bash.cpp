#include <algorithm>

#include "kernels/error.h"
#include "train/commands/completion.h"
#include "train/commands/written_pages.h"

namespace jambalaya {

namespace {

std::string names_of_commands(const CommandDoc& command) {
  std::vector<std::string> names;
  for (const auto& sub : command.commands) names.push_back(sub.path.substr(sub.path.rfind(' ') + 1));
  return joined(names, " ");
}

/// What may be written where the option's value stands: words, and one of the signs @files and @keys.
std::string values_of(const OptionDoc& option) {
  std::vector<std::string> values = option.words;
  if (completes(option) == Completes::files) values.push_back("@files");
  if (completes(option) == Completes::config_keys) values.push_back("@keys");
  return joined(values, " ");
}

/// Flags of the program may stand behind every command.
std::vector<std::string> option_names(const CommandDoc& program, const CommandDoc& command) {
  std::vector<std::string> names;
  for (const auto* owner : {&command, &program})
    for (const auto& option : owner->options)
      for (const auto& name : option.names)
        if (!option.positional && std::find(names.begin(), names.end(), name) == names.end())
          names.push_back(name);
  return names;
}

std::string table(const std::string& name, const std::string& comment, const std::string& rows) {
  return cat("\n# ", comment, "\n", name, "() {\n  case $1 in\n", rows, "  esac\n}\n");
}

std::string row(const std::string& pattern, const std::string& words) {
  return words.empty() ? "" : cat("    ", quoted(pattern), ") echo ", quoted(words), " ;;\n");
}

constexpr const char* kFunction = R"(
_jambalaya() {
  local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command= i word offer
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    [[ $word == -* ]] && continue
    [[ " $(_jambalaya_commands "$command") " == *" $word "* ]] || break
    command=${command:+$command }$word
  done
  # To bash '=' is a word of its own: --device=cpu, --set key=value.
  if [[ $current == = ]]; then
    current=
  elif [[ $before == = && $COMP_CWORD -gt 1 ]]; then
    before=${COMP_WORDS[COMP_CWORD - 2]}
  elif [[ $before != -* ]]; then
    before=
  fi
  if [[ -n $before && $before != -* ]]; then
    offer=$(_jambalaya_key_values "$before")
  elif offer=$(_jambalaya_values "$command $before") && [[ -n $offer ]]; then
    [[ $offer == @none ]] && return
  elif [[ $current == -* ]]; then
    offer=$(_jambalaya_options "$command")
  else
    offer=$(_jambalaya_commands "$command")
    [[ -n $offer ]] || offer=$(_jambalaya_arguments "$command")
  fi
  if [[ " $offer " == *" @keys "* ]]; then
    offer=$(_jambalaya_keys)
    compopt -o nospace
  fi
  mapfile -t COMPREPLY < <(compgen -W "${offer//@files/}" -- "$current")
  if [[ " $offer " == *" @files "* ]]; then
    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- "$current")
    compopt -o filenames
  fi
}
complete -F _jambalaya jambalaya)";

}  // namespace

std::string bash_completion(const CommandDoc& program) {
  std::string commands, options, values, arguments, keys, key_values;
  for (const auto* command : all_commands(program)) {
    commands += row(command->path, names_of_commands(*command));
    options += row(command->path, joined(option_names(program, *command), " "));
    for (const auto& option : command->options) {
      if (option.positional) arguments += row(command->path, values_of(option));
      if (option.positional || option.value.empty()) continue;
      const std::string offer = values_of(option);
      for (const auto& name : option.names)
        values += row(cat(command->path, " ", name), offer.empty() ? "@none" : offer);
    }
  }
  for (const auto& key : set_keys()) {
    keys += cat("  echo ", key.key, "=\n");
    key_values += row(key.key, joined(key.words, " "));
  }
  return cat("# Completes jambalaya in bash. Written by: jambalaya completion bash\n",
             table("_jambalaya_commands", "The commands below one.", commands),
             table("_jambalaya_options", "The options of a command.", options),
             table("_jambalaya_arguments", "What stands behind a command without an option.", arguments),
             table("_jambalaya_values", "What follows an option; @none: what cannot be known.", values),
             table("_jambalaya_key_values", "The values of a config key.", key_values),
             "\n_jambalaya_keys() {\n", keys, "}\n", kFunction);
}

}  // namespace jambalaya
