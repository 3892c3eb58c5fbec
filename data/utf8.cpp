#include "data/utf8.h"

#include <cstring>

#include "kernels/error.h"

namespace jambalaya {
namespace {

struct Sequence {
  int length;  ///< bytes of the character, or of the maximal ill-formed part
  bool valid;
};

/// What starts at p. The second byte's range depends on the first (no overlong forms, surrogates, or >
/// U+10FFFF).
Sequence sequence_at(const uint8_t* p, const uint8_t* end) {
  uint8_t lead = *p, low = 0x80, high = 0xBF;
  if (lead < 0x80) return {1, true};
  if (lead < 0xC2 || lead > 0xF4) return {1, false};
  int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (int k = 1; k < length; k++) {
    if (p + k == end || p[k] < low || p[k] > high) return {k, false};
    low = 0x80, high = 0xBF;
  }
  return {length, true};
}

/// First non-ASCII byte at or after p, looking at 32 bytes at a time.
const uint8_t* skip_ascii(const uint8_t* p, const uint8_t* end) {
  for (; end - p >= 32; p += 32) {
    uint64_t w[4];
    std::memcpy(w, p, 32);
    if ((w[0] | w[1] | w[2] | w[3]) & 0x8080808080808080u) break;
  }
  while (p < end && *p < 0x80) p++;
  return p;
}

}  // namespace

size_t find_invalid_utf8(std::string_view text) {
  auto begin = reinterpret_cast<const uint8_t*>(text.data()), end = begin + text.size();
  for (const uint8_t* p = skip_ascii(begin, end); p < end;) {
    Sequence s = sequence_at(p, end);
    if (!s.valid) return size_t(p - begin);
    p += s.length;
    if (p < end && *p < 0x80) p = skip_ascii(p, end);
  }
  return std::string_view::npos;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  auto p = reinterpret_cast<const uint8_t*>(text.data()), end = p + text.size();
  while (p < end) {
    Sequence s = sequence_at(p, end);
    if (s.valid)
      out.append(reinterpret_cast<const char*>(p), size_t(s.length));
    else
      out += "\xEF\xBF\xBD";
    p += s.length;
  }
  return out;
}

std::string_view checked_utf8(std::string_view text, InvalidUtf8 policy, const std::string& origin,
                              uint64_t base, std::string& storage) {
  size_t bad = find_invalid_utf8(text);
  if (bad == std::string_view::npos) return text;
  if (policy == InvalidUtf8::reject)
    throw Error(Exit::bad_input,
                cat(origin, ":", base + bad, ": byte ", int(uint8_t(text[bad])),
                    " at this offset is not valid UTF-8; repair the text (iconv -c -t utf8) or ask for "
                    "invalid bytes to be replaced by U+FFFD"));
  storage = replace_invalid_utf8(text);
  return storage;
}

void append_utf8(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += char(c);
  } else if (c < 0x800) {
    out += {char(0xC0 | c >> 6), char(0x80 | (c & 63))};
  } else if (c < 0x10000) {
    out += {char(0xE0 | c >> 12), char(0x80 | (c >> 6 & 63)), char(0x80 | (c & 63))};
  } else {
    out += {char(0xF0 | c >> 18), char(0x80 | (c >> 12 & 63)), char(0x80 | (c >> 6 & 63)),
            char(0x80 | (c & 63))};
  }
}

}  // namespace jambalaya
