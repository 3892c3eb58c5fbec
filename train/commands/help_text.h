// What --help teaches: for each command a sentence, an example and what to do next.
#pragma once
#include <string>

namespace jambalaya {

struct HelpText {
  const char* command;  ///< "tokenizer train"; "" for the program itself
  const char* sentence;
  const char* example;
  const char* next;
  std::string footer() const;
};
const HelpText& help_of(const std::string& command);
/// "jambalaya 0.1.0"
std::string version_text();

}  // namespace jambalaya
