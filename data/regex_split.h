// Splitting by a pattern that has no hand-written scanner: PCRE2 with just-in-time compilation.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace jambalaya {

class RegexSplit {
 public:
  /// Error(bad_input) with PCRE2's own message when the pattern does not compile.
  explicit RegexSplit(const std::string& regex);
  ~RegexSplit();

  /// As Pretokenizer::split: matches and the text between them are pieces alike ("Isolated").
  size_t split(std::string_view text, size_t from, std::span<uint32_t> lengths) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
  std::string regex_;
};

}  // namespace jambalaya
