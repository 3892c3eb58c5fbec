#include "data/pretokenize.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "data/regex_split.h"
#include "data/unicode_tables.h"
#include "data/utf8.h"
#include "kernels/error.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace jambalaya {
namespace {

using Byte = uint8_t;
using Family = SplitRule::Family;

bool is_space(CharClass c) { return c >= CharClass::space; }

/// Reads the pieces of one document. Text is valid UTF-8, so that sequences need no checks.
template <Family family>
class Scanner {
 public:
  Scanner(const SplitRule& rule, const Byte* end) : rule_(rule), end_(end), table_(CharTable::get()) {}

  /// End of the piece that starts at p < end. The order of the tests is the order of the pattern's
  /// alternatives.
  const Byte* next(const Byte* p) const {
    int n;
    if (*p == '\'')
      if (int length = contraction(p)) return p + length;
    CharClass c = at(p, n);
    if (c == CharClass::letter) return letters(p + n);
    if constexpr (family == Family::gpt2) {
      if (c == CharClass::number || c == CharClass::other) return run(p + n, c);
      if (*p == ' ' && p + 1 < end_) {
        CharClass d = at(p + 1, n);
        if (d == CharClass::letter) return letters(p + 1 + n);
        if (!is_space(d)) return run(p + 1 + n, d);
      }
      return blanks(p);
    }
    if (c == CharClass::number) return digits(p + n);
    if (c != CharClass::newline && p + n < end_) {
      int m;
      if (at(p + n, m) == CharClass::letter) return letters(p + n + m);
    }
    if (c == CharClass::other) return line_ends(run(p + n, c));
    if (*p == ' ' && p + 1 < end_ && at(p + 1, n) == CharClass::other)
      return line_ends(run(p + 1 + n, CharClass::other));
    return blanks(p);
  }

 private:
  CharClass at(const Byte* p, int& n) const { return table_.of(decode_utf8(p, n)); }

  const Byte* run(const Byte* p, CharClass wanted) const {
    for (int n; p < end_ && at(p, n) == wanted;) p += n;
    return p;
  }

  /// run() for letters: 16 ASCII letters at a time, because the loop's end is what the branch predictor
  /// misses.
  const Byte* letters(const Byte* p) const {
#if defined(__SSE2__)
    while (end_ - p >= 16) {
      __m128i x = _mm_or_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), _mm_set1_epi8(0x20));
      // Signed compare: bytes of other scripts are negative, hence not letters here.
      __m128i inside =
          _mm_and_si128(_mm_cmpgt_epi8(x, _mm_set1_epi8('a' - 1)), _mm_cmplt_epi8(x, _mm_set1_epi8('z' + 1)));
      unsigned letter = unsigned(_mm_movemask_epi8(inside));
      int n = std::countr_one(letter);
      p += n;
      if (n == 16) continue;
      if (*p < 0x80) return p;
      break;
    }
#endif
    return run(p, CharClass::letter);
  }

  const Byte* digits(const Byte* p) const {
    int n;
    for (int i = 1; i < rule_.max_digits && p < end_ && at(p, n) == CharClass::number; i++) p += n;
    return p;
  }

  const Byte* line_ends(const Byte* p) const {
    while (p < end_ && (*p == '\n' || *p == '\r')) p++;
    return p;
  }

  /// White space at p: up to the last line end of the run (cl100k); else all of a run that ends the text,
  /// else all but its last character, which goes with the next word; a single character is taken whole.
  const Byte* blanks(const Byte* p) const {
    const Byte *q = p, *last = p, *after_line_end = nullptr;
    for (int n; q < end_;) {
      CharClass c = at(q, n);
      if (!is_space(c)) break;
      last = q;
      q += n;
      if (c == CharClass::newline) after_line_end = q;
    }
    if (family == Family::cl100k && after_line_end) return after_line_end;
    return q == end_ || last == p ? q : last;
  }

  /// Length of 's 't 'm 'd 're 've 'll at the apostrophe p, or 0.
  int contraction(const Byte* p) const {
    if (end_ - p < 2) return 0;
    bool fold = rule_.contractions_ignore_case;
    auto lower = [fold](Byte b) { return fold && b >= 'A' && b <= 'Z' ? Byte(b | 0x20) : b; };
    Byte c = lower(p[1]);
    if (c == 's' || c == 't' || c == 'm' || c == 'd') return 2;
    if (end_ - p < 3) return 0;
    if (fold && p[1] == 0xC5 && p[2] == 0xBF) return 3;  // U+017F, long s, folds to s
    Byte d = lower(p[2]);
    return (c == 'r' && d == 'e') || (c == 'v' && d == 'e') || (c == 'l' && d == 'l') ? 3 : 0;
  }

  SplitRule rule_;
  const Byte* end_;
  const CharTable& table_;
};

template <Family family>
size_t scan(const SplitRule& rule, std::string_view text, size_t from, std::span<uint32_t> lengths) {
  auto begin = reinterpret_cast<const Byte*>(text.data()), end = begin + text.size();
  Scanner<family> scanner(rule, end);
  size_t count = 0;
  for (const Byte* p = begin + from; p < end && count < lengths.size();) {
    const Byte* q = scanner.next(p);
    lengths[count++] = uint32_t(q - p);
    p = q;
  }
  return count;
}

/// The alternatives of a pattern, cut at '|' outside groups and classes, without possessive marks: in these
/// patterns no part can give back what the next one could use, so `x++` matches what `x+` matches.
std::vector<std::string> alternatives(std::string_view regex) {
  std::vector<std::string> parts(1);
  int depth = 0;
  bool in_class = false;
  char before = 0;  // the previous character when it was a quantifier
  for (size_t i = 0; i < regex.size(); i++) {
    char c = regex[i];
    bool quantifier = !in_class && (c == '+' || c == '*' || c == '?');
    if (c == '\\' && i + 1 < regex.size()) {
      parts.back().append(regex.substr(i++, 2));
    } else if (c == '|' && depth == 0 && !in_class) {
      parts.emplace_back();
    } else if (!(quantifier && c == '+' && before)) {
      if (c == '[') in_class = true;
      if (c == ']') in_class = false;
      if (!in_class) depth += (c == '(') - (c == ')');
      parts.back() += c;
    }
    before = quantifier && !(before && c == '+') ? c : 0;
  }
  return parts;
}

bool is_contractions(std::vector<std::string> parts, bool& ignore_case) {
  ignore_case = false;
  if (parts.size() == 1) {
    std::string one = parts[0];
    ignore_case = one.find("(?i:") != std::string::npos;
    if (one == "'(?i:[sdmt]|ll|ve|re)" || one == "'(?:[sdmt]|ll|ve|re)") return true;
    if (!one.starts_with("(?i:") || !one.ends_with(")")) return false;
    parts = alternatives(std::string_view(one).substr(4, one.size() - 5));
  }
  std::sort(parts.begin(), parts.end());  // none is a prefix of another: their order does not matter
  return parts == std::vector<std::string>{"'d", "'ll", "'m", "'re", "'s", "'t", "'ve"};
}

}  // namespace

bool parse_split_rule(std::string_view regex, SplitRule& rule) {
  using Parts = std::vector<std::string>;
  Parts contractions = alternatives(regex), rest;
  while (!contractions.empty() && !contractions.back().starts_with("'") &&
         !contractions.back().starts_with("(?i:'")) {
    rest.insert(rest.begin(), contractions.back());
    contractions.pop_back();
  }
  if (!is_contractions(contractions, rule.contractions_ignore_case)) return false;
  if (rest.size() >= 5 && rest.back() == "\\s")
    rest.back() = "\\s+";  // one character is left there either way
  if (rest == Parts{" ?\\p{L}+", " ?\\p{N}+", " ?[^\\s\\p{L}\\p{N}]+", "\\s+(?!\\S)", "\\s+"}) {
    rule.family = Family::gpt2;
    return true;
  }
  if (rest.size() != 6) return false;
  const std::string digits = rest[1], lines = rest[3];
  rule.max_digits = digits == "\\p{N}"                                            ? 1
                    : digits.size() == 10 && digits[8] >= '1' && digits[8] <= '9' ? digits[8] - '0'
                                                                                  : 0;
  if (rule.max_digits != 1 && digits != cat("\\p{N}{1,", rule.max_digits, "}")) return false;
  if (lines != "\\s*[\\r\\n]+" && lines != "\\s*[\\r\\n]")
    return false;  // both end at the last line end of the run
  rule.family = Family::cl100k;
  return rest == Parts{"[^\\r\\n\\p{L}\\p{N}]?\\p{L}+",
                       digits,
                       " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*",
                       lines,
                       "\\s+(?!\\S)",
                       "\\s+"};
}

Pretokenizer::Pretokenizer(const std::string& regex) {
  if (!parse_split_rule(regex, rule_)) fallback_ = std::make_shared<RegexSplit>(regex);
}

const std::string& Pretokenizer::default_regex() {
  static const std::string regex =
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
      "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
      "\\s+(?!\\S)|\\s+";
  return regex;
}

const std::string& Pretokenizer::gpt2_regex() {
  static const std::string regex =
      "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
  return regex;
}

size_t Pretokenizer::split(std::string_view text, size_t from, std::span<uint32_t> lengths) const {
  JAMBALAYA_CHECK(text.size() <= UINT32_MAX, "a document of ", text.size(), " bytes");
  if (fallback_) return fallback_->split(text, from, lengths);
  return rule_.family == Family::gpt2 ? scan<Family::gpt2>(rule_, text, from, lengths)
                                      : scan<Family::cl100k>(rule_, text, from, lengths);
}

}  // namespace jambalaya
