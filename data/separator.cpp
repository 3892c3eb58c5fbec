#include "data/separator.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "kernels/error.h"

namespace jambalaya {

struct Separator::Pattern {
  pcre2_code* code = nullptr;
  pcre2_match_data* match = nullptr;
  ~Pattern() {
    pcre2_match_data_free(match);
    pcre2_code_free(code);
  }
};

namespace {

std::string pcre2_message(int code) {
  char text[256];
  pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof text);
  return text;
}

}  // namespace

Separator::Separator(const std::string& rule) : rule_(rule), pattern_(std::make_unique<Pattern>()) {
  // A line end and the lines without text after it. It is possessive: shorter matches are never wanted.
  const std::string expression = rule == "blank-lines" ? "\\r?\\n(?:[ \\t\\r]*+\\n)++" : rule;
  int error;
  PCRE2_SIZE at;
  const uint32_t options = PCRE2_UTF | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  pattern_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(), options,
                                 &error, &at, nullptr);
  if (pattern_->code == nullptr)
    throw Error(Exit::usage, cat("split-on: '", rule, "' is neither 'blank-lines' nor a regular expression: ",
                                 pcre2_message(error), " at character ", at));
  pcre2_jit_compile(pattern_->code, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);  // without it only slower
  pattern_->match = pcre2_match_data_create_from_pattern(pattern_->code, nullptr);
  JAMBALAYA_CHECK(pattern_->match != nullptr);
}

Separator::~Separator() = default;

Separator::Match Separator::find(std::string_view text, size_t from, bool at_end) {
  // The text was checked when it was read, and begins and ends at characters.
  const uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY | (at_end ? 0 : PCRE2_PARTIAL_HARD);
  const int code = pcre2_match(pattern_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                               options, pattern_->match, nullptr);
  const PCRE2_SIZE* span = pcre2_get_ovector_pointer(pattern_->match);
  if (code >= 0) {
    // \K can put the begin anywhere.
    if (span[0] < from || span[1] <= span[0])
      throw Error(Exit::usage,
                  cat("split-on: '", rule_, "': \\K must not move a match's begin out of the match"));
    return {true, span[0], span[1]};
  }
  if (code == PCRE2_ERROR_PARTIAL) return {false, span[0] < from ? from : span[0], 0};
  if (code == PCRE2_ERROR_NOMATCH) return {false, text.size(), 0};
  throw Error(Exit::usage,
              cat("split-on: '", rule_, "': ", pcre2_message(code), "; write a simpler expression"));
}

}  // namespace jambalaya
