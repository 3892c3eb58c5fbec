#include "data/regex_split.h"

#include "kernels/error.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace jambalaya {
namespace {
std::string pcre2_message(int error) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

struct FreeMatch {
  void operator()(pcre2_match_data* m) const { pcre2_match_data_free(m); }
};
}  // namespace

struct RegexSplit::Code {
  pcre2_code* compiled = nullptr;
  ~Code() { pcre2_code_free(compiled); }
};

RegexSplit::RegexSplit(const std::string& regex) : code_(std::make_unique<Code>()), regex_(regex) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_->compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(regex.data()), regex.size(),
                                  PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  if (!code_->compiled)
    throw Error(Exit::bad_input,
                cat("split pattern \"", regex, "\": ", pcre2_message(error), " at offset ", offset));
  pcre2_jit_compile(code_->compiled,
                    PCRE2_JIT_COMPLETE);  // a machine without JIT interprets: slower, same matches
}

RegexSplit::~RegexSplit() = default;

size_t RegexSplit::split(std::string_view text, size_t from, std::span<uint32_t> lengths) const {
  std::unique_ptr<pcre2_match_data, FreeMatch> match(pcre2_match_data_create(1, nullptr));
  auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t count = 0, search = from;
  while (count < lengths.size() && from < text.size()) {
    int found =
        pcre2_match(code_->compiled, subject, text.size(), search, PCRE2_NO_UTF_CHECK, match.get(), nullptr);
    if (found < 0 && found != PCRE2_ERROR_NOMATCH)
      throw Error(Exit::bad_input,
                  cat("split pattern \"", regex_, "\" fails on the text: ", pcre2_message(found)));
    PCRE2_SIZE* place = pcre2_get_ovector_pointer(match.get());
    size_t begin = found < 0 ? text.size() : place[0], end = found < 0 ? text.size() : place[1];
    if (begin == from && end == from) {  // an empty match: no piece, look on from the next character
      search = from + 1;
      while (search < text.size() && (uint8_t(text[search]) & 0xC0) == 0x80) search++;
      if (search < text.size()) continue;
      begin = text.size();
    }
    size_t border =
        begin > from ? begin : end;  // the unmatched text first; the match is found again from there
    lengths[count++] = uint32_t(border - from);
    search = from = border;
  }
  return count;
}

}  // namespace jambalaya
