// Numbers as people write them in configs and on the command line. Each reader returns "" or what is wrong.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace jambalaya {

/// Plain decimal, or with a suffix: k, M, G (powers of 1000) or Ki, Mi, Gi (powers of 1024), e.g. 1.5M, 64Ki.
std::string read_integer(const std::string& text, int64_t& value);
std::string read_unsigned(const std::string& text, uint64_t& value);
/// Finite decimal, e.g. 3e-4.
std::string read_real(const std::string& text, double& value);
std::string read_boolean(const std::string& text, bool& value);

/// The word of `known` that is the same but for capitals or by another name (gpu: cuda), or the one with the
/// fewest edits from `word`, or "" when none is near (more than a third of it wrong).
std::string nearest_word(const std::string& word, const std::vector<std::string>& known);
/// "a, b or c"
std::string either(const std::vector<std::string>& words);

}  // namespace jambalaya
