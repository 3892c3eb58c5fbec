// Completion scripts and the manual page, held against what --help says.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "train/commands/command_tree.h"
#include "train/commands/commands.h"
#include "train/config/options.h"
#include "train/config/values.h"

namespace jambalaya {
namespace {

using Words = std::vector<std::string>;

std::string text_of(const Words& arguments) {
  return std::get<ShowText>(parse_command_line(arguments).command).text;
}

std::set<std::string> matches(const std::string& text, const std::string& pattern) {
  std::set<std::string> found;
  const std::regex regex(pattern);
  for (auto it = std::sregex_iterator(text.begin(), text.end(), regex); it != std::sregex_iterator(); ++it)
    found.insert((*it)[1]);
  return found;
}

/// The options that --help lists, by command ("tokenizer train").
std::map<std::string, std::set<std::string>> options_in_help(const Words& command = {}) {
  Words ask = command;
  ask.push_back("--help");
  std::string help = text_of(ask);
  help.resize(help.find("\nExample:"));
  std::string path;
  for (const auto& word : command) path += (path.empty() ? "" : " ") + word;
  std::map<std::string, std::set<std::string>> all;
  const size_t listed = help.find("\nSubcommands:");
  all[path] = matches(help.substr(0, listed), "\n  (?:-[a-z],)?(--[a-z-]+)");
  if (listed == std::string::npos) return all;
  for (const auto& name : matches(help.substr(listed), "\n  ([a-z-]+) ")) {
    Words below = command;
    below.push_back(name);
    all.merge(options_in_help(below));
  }
  return all;
}

/// The part of `text` from `begin` to the next `end`.
std::string part(const std::string& text, const std::string& begin, const std::string& end) {
  const size_t from = text.find(begin);
  if (from == std::string::npos) return "";
  return text.substr(from, text.find(end, from + begin.size()) - from);
}

bool has_word(const std::string& text, const std::string& word) {
  const auto inside = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '-'; };
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1))
    if ((at == 0 || !inside(text[at - 1])) && !inside(text[at + word.size()])) return true;
  return false;
}

/// troff without its escapes.
std::string plain(std::string text) {
  for (const auto& [from, to] : {std::pair{"\\-", "-"}, {"\\fB", ""}, {"\\fI", ""}, {"\\fR", ""}})
    for (size_t at; (at = text.find(from)) != std::string::npos;) text.replace(at, std::strlen(from), to);
  return text;
}

TEST(WrittenPages, help_lists_commands_and_options_to_compare_with) {
  const auto all = options_in_help();
  EXPECT_GE(all.size(), 20u);
  EXPECT_TRUE(all.at("tokenizer train").count("--vocab-size"));
  EXPECT_TRUE(all.at("").count("--quiet"));
}

TEST(WrittenPages, every_command_and_option_stands_in_the_scripts_and_the_manual) {
  const std::string bash = text_of({"completion", "bash"}), zsh = text_of({"completion", "zsh"}),
                    manual = plain(text_of({"man"}));
  const std::string bash_options = part(bash, "_jambalaya_options() {", "\n}");
  for (const auto& [path, options] : options_in_help()) {
    SCOPED_TRACE(path);
    const std::string row = part(bash_options, "'" + path + "') ", ";;");
    std::string function = "_jambalaya_" + path;
    std::replace_if(
        function.begin(), function.end(), [](char c) { return c == ' ' || c == '-'; }, '_');
    const std::string in_zsh = part(zsh, "\n" + function + "() {", "\n}");
    const std::string in_manual = path.empty() ? part(manual, ".SH OPTIONS", ".SH COMMANDS")
                                               : part(manual, ".SS \"jambalaya " + path + "\"", "\n.S");
    for (const auto& option : options) {
      EXPECT_TRUE(has_word(row, option)) << option << " in bash: " << row;
      EXPECT_TRUE(has_word(in_zsh, option)) << option << " in zsh: " << in_zsh;
      // Of all commands alike, it is explained once.
      if (option == "--help" && !path.empty()) continue;
      EXPECT_TRUE(has_word(in_manual, option)) << option << " in the manual: " << in_manual;
    }
  }
}

TEST(WrittenPages, every_config_key_can_be_completed_and_looked_up) {
  const std::string bash = text_of({"completion", "bash"}), zsh = text_of({"completion", "zsh"}),
                    manual = plain(text_of({"man"}));
  for (const auto& option : config_options()) {
    EXPECT_NE(bash.find("  echo " + option.key + "=\n"), std::string::npos) << option.key;
    EXPECT_NE(zsh.find(" " + option.key + "= "), std::string::npos) << option.key;
    EXPECT_NE(manual.find("\n.TP\n" + option.key + " ("), std::string::npos) << option.key;
  }
}

TEST(WrittenPages, words_of_turns_round_what_either_writes) {
  for (const Words& words : {Words{"f32", "bf16"}, Words{"auto", "cpu", "cuda"}, Words{"a", "b", "c", "d"}})
    EXPECT_EQ(words_of(either(words)), words);
  EXPECT_EQ(words_of("auto, none or FOLDER"), (Words{"auto", "none"}));
  for (const char* text : {"", "COUNT", "from 1 or so on", "SECTION.KEY=VALUE"})
    EXPECT_EQ(words_of(text), Words{}) << text;
}

TEST(WrittenPages, the_manual_has_the_exit_codes_of_the_documents) {
  std::ifstream file(JAMBALAYA_SOURCE_DIR "/docs/exit_codes.md");
  std::stringstream document;
  document << file.rdbuf();
  std::string own = document.str();
  own.resize(own.find("mpirun has codes of its own"));
  auto want = matches(own, "\n\\| ([0-9]+) \\|");
  const auto got =
      matches(part(plain(text_of({"man"})), ".SH EXIT STATUS", ".SH SEE"), "\n\\.TP\n([0-9]+)\n");
  EXPECT_GE(want.size(), 10u);
  EXPECT_EQ(got, want);
}

}  // namespace
}  // namespace jambalaya
