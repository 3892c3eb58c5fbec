#include "data/added_tokens.h"

#include <cstring>

#include "data/unicode_tables.h"
#include "data/utf8.h"

namespace jambalaya {
namespace {

bool is_blank(uint32_t c) {
  CharClass kind = CharTable::get().of(c);
  return kind == CharClass::space || kind == CharClass::newline;
}

uint32_t character_at(std::string_view text, size_t at, int& length) {
  return decode_utf8(reinterpret_cast<const uint8_t*>(text.data()) + at, length);
}

}  // namespace

void AddedTokenFinder::add(const AddedToken& token, std::string pattern) {
  auto& list = by_first_byte_[uint8_t(pattern[0])];
  first_byte_ = uint8_t(pattern[0]);
  first_bytes_ += list.empty();
  list.push_back({std::move(pattern), &token});
  std::stable_sort(list.begin(), list.end(),
                   [](auto& a, auto& b) { return a.pattern.size() > b.pattern.size(); });
}

const AddedTokenFinder::Entry* AddedTokenFinder::find(std::string_view text, size_t from, size_t& at) const {
  for (at = from; first_bytes_ && at < text.size(); at++) {
    if (first_bytes_ == 1) {  // the usual case: all begin with '<'
      const void* p = std::memchr(text.data() + at, first_byte_, text.size() - at);
      if (!p) break;
      at = size_t(static_cast<const char*>(p) - text.data());
    }
    for (const Entry& entry : by_first_byte_[uint8_t(text[at])])
      if (text.substr(at).starts_with(entry.pattern)) return &entry;
  }
  return nullptr;
}

size_t AddedTokenFinder::blanks_at_start(std::string_view text) {
  size_t end = 0;
  for (int length; end < text.size() && is_blank(character_at(text, end, length));) end += size_t(length);
  return end;
}

size_t AddedTokenFinder::blanks_at_end(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0) {
    size_t last = begin - 1;
    while (last > 0 && (uint8_t(text[last]) & 0xC0) == 0x80) last--;
    int length;
    if (!is_blank(character_at(text, last, length))) break;
    begin = last;
  }
  return text.size() - begin;
}

}  // namespace jambalaya
