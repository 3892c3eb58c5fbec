// Cuts text into the pieces within which BPE merges: the Split pre-tokenizer of a tokenizer.json.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace jambalaya {

class RegexSplit;

/// The two families of split patterns that have a hand-written scanner. Both are sums of the same parts:
/// contractions | words | numbers | other characters | blanks, and leave no character unmatched.
struct SplitRule {
  enum class Family {
    gpt2,    ///< " ?\p{L}+", " ?\p{N}+", " ?[^\s\p{L}\p{N}]+", "\s+(?!\S)", "\s+"
    cl100k,  ///< "[^\r\n\p{L}\p{N}]?\p{L}+", "\p{N}{1,k}", " ?[^\s\p{L}\p{N}]+[\r\n]*", "\s*[\r\n]+", then as
             ///< above
  };
  Family family = Family::cl100k;
  bool contractions_ignore_case = true;  ///< (?i:'s|...): also 'S and, by case folding, ' + U+017F (long s)
  int max_digits = 1;                    ///< k; Jambalaya and Qwen2: 1, Llama 3: 3
};

/// Reads a pattern by its parts, so that spellings of the same rule (possessive quantifiers,
/// '(?i:[sdmt]|ll|ve|re), \s for a last \s+) are recognised. Returns false for any other pattern.
bool parse_split_rule(std::string_view regex, SplitRule& rule);

class Pretokenizer {
 public:
  /// A scanner where the pattern is known, PCRE2 otherwise. Error(bad_input) when PCRE2 cannot compile it.
  explicit Pretokenizer(const std::string& regex);

  /// The pattern of tokenizers trained here: single digits, no dummy space.
  static const std::string& default_regex();
  /// What ByteLevel(use_regex = true) splits by.
  static const std::string& gpt2_regex();

  /// Lengths in bytes of the pieces of `text` (one whole document, valid UTF-8, below 4 GiB) from offset
  /// `from`, which must be a piece border, until `lengths` is full or the text ends. Returns their number.
  size_t split(std::string_view text, size_t from, std::span<uint32_t> lengths) const;

  /// True when the split is that of Hugging Face tokenizers for certain; false for a pattern that only PCRE2
  /// reads, whose Unicode tables are older.
  bool exact() const { return !fallback_; }

 private:
  SplitRule rule_;
  std::shared_ptr<const RegexSplit> fallback_;
};

}  // namespace jambalaya
