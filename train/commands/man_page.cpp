// The manual page, from the same tree as --help and the same table as docs/configuration.md.
#include <cctype>

#include "kernels/error.h"
#include "train/commands/completion.h"
#include "train/commands/help_text.h"
#include "train/commands/written_pages.h"
#include "train/config/options.h"

namespace jambalaya {

namespace {

/// Text as troff reads it: a line that begins with a dot or an apostrophe would be a request.
std::string troff(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool starts = out.empty() || out.back() == '\n';
    if (starts && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else if (c == '`')
      out += "\\(ga";
    else if (c == '\'')
      out += "\\(aq";
    else if (c == '~')
      out += "\\(ti";
    else if (c == '^')
      out += "\\(ha";
    else
      out += c;
  }
  return out;
}

/// A line of arguments to a macro.
std::string argument(const std::string& text) {
  std::string out;
  for (const char c : troff(text)) out += c == '"' ? "\\(dq" : std::string(1, c);
  return cat("\"", out, "\"");
}

std::string bold(const std::string& text) { return cat("\\fB", troff(text), "\\fR"); }
std::string italic(const std::string& text) { return cat("\\fI", troff(text), "\\fR"); }

std::string entry(const std::string& term, const std::string& text) {
  return cat(".TP\n", term, "\n", troff(text), "\n");
}

/// Lines that keep their breaks.
std::string example(const std::string& text) { return cat(".PP\n.EX\n", troff(text), "\n.EE\n"); }

std::string option_entry(const OptionDoc& option) {
  std::vector<std::string> names;
  for (const auto& name : option.names) names.push_back(option.positional ? italic(name) : bold(name));
  std::string term = joined(names, ", ");
  if (!option.value.empty() && (!option.positional || !option.words.empty()))
    term += option.words.empty() ? cat(" ", italic(option.value)) : cat(" ", troff(option.value));
  std::string text = option.doc;
  if (!text.empty() && text.back() != '.') text += ".";
  if (option.required) text += " Required.";
  if (!option.fallback.empty()) text += cat(" Default: ", option.fallback, ".");
  return entry(term, text);
}

std::string synopsis(const CommandDoc& command) {
  std::string line = bold(cat("jambalaya", command.path.empty() ? "" : " ", command.path));
  if (!command.commands.empty()) line += cat(" ", italic("COMMAND"));
  line += cat(" [", italic("OPTIONS"), "]");
  for (const auto& option : command.options) {
    if (!option.positional) continue;
    const std::string name = cat(italic(option.names.front()), option.many ? " .\\|.\\|." : "");
    line += option.required ? cat(" ", name) : cat(" [", name, "]");
  }
  return cat(line, "\n");
}

std::string command_section(const CommandDoc& command) {
  const HelpText& help = help_of(command.path);
  std::string text = cat(".SS ", argument(cat("jambalaya ", command.path)), "\n", troff(command.sentence),
                         "\n.PP\n", synopsis(command));
  for (const auto& option : command.options)
    if (option.names.back() != "-h") text += option_entry(option);
  return cat(text, ".PP\nExample:\n", example(help.example), ".PP\nNext: ", troff(help.next), "\n");
}

std::string configuration() {
  std::string text =
      cat(".SH CONFIGURATION\nA config is a YAML file of sections; what is not given has its default, and\n",
          bold("--set"), " ", italic("section.key=value"),
          " overrides one value. The same, with the rules that span keys: docs/configuration.md.\n");
  const Config defaults;
  for (const auto& section : config_sections()) {
    text += cat(".SS ", argument(cat("Section ", section.name)), "\n", troff(section.doc), "\n");
    for (const auto& option : config_options()) {
      if (option.section() != section.name) continue;
      std::string about = option.doc;
      if (!option.range.empty()) about += cat(" Values: ", option.range, ".");
      const std::string value = option.get ? option.get(defaults) : "";
      if (!value.empty()) about += cat(" Default: ", value, ".");
      text += entry(cat(bold(option.key), " (", troff(option.type), ")"), about);
    }
  }
  return text;
}

std::string exit_status() {
  const std::vector<std::pair<int, const char*>> codes = {
      {0, "done"},
      {1, "a bug, or memory ran out"},
      {2, "wrong command line or config"},
      {3, "corrupt or unusable data"},
      {4, "a parallel layout that the ranks or the model do not admit"},
      {5, "a NaN, an Inf or a spike, and the policy is to stop"},
      {6, "a checkpoint is missing, incomplete or damaged"},
      {7, "a rank or a link was lost"},
      {17, "compare or compare-runs found a difference"},
      {74, "a read or write failed, or the disk is full"},
      {75, "a signal stopped the run after a checkpoint was saved: start again with --resume auto"}};
  std::string text = ".SH EXIT STATUS\n";
  for (const auto& [code, meaning] : codes) text += entry(bold(cat(code)), meaning);
  return text;
}

}  // namespace

std::string man_page(const CommandDoc& program) {
  std::string name = program.sentence;
  while (!name.empty() && name.back() == '.') name.pop_back();
  name[0] = char(std::tolower(name[0]));
  std::string text = cat(".\\\" Written by: jambalaya man\n.TH JAMBALAYA 1 \"\" ", argument(version_text()),
                         "\n.SH NAME\njambalaya \\- ", troff(name), "\n.SH SYNOPSIS\n");
  for (const auto* command : all_commands(program))
    if (command->commands.empty()) text += cat(synopsis(*command), ".br\n");
  text.resize(text.size() - 4);
  text += cat(".SH DESCRIPTION\n", troff(program.sentence), "\n.PP\nFrom text to a model that writes:\n",
              example(help_of("").example));
  text += ".SH OPTIONS\nThese may stand behind every command.\n";
  for (const auto& option : program.options) text += option_entry(option);
  text += ".SH COMMANDS\n";
  for (const auto* command : all_commands(program))
    if (!command->path.empty()) text += command_section(*command);
  return cat(text, configuration(), exit_status(), ".SH SEE ALSO\n.BR mpirun (1)");
}

}  // namespace jambalaya
