// UTF-8: finding and replacing what is not, and reading what is.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace jambalaya {

/// What to do with bytes that are not UTF-8.
enum class InvalidUtf8 {
  reject,   ///< Error(Exit::bad_input) with the place
  replace,  ///< U+FFFD for each maximal ill-formed part (Unicode 16, section 3.9; as Rust's from_utf8_lossy)
};

/// Offset of the first byte that does not belong to well-formed UTF-8, or npos.
size_t find_invalid_utf8(std::string_view text);
std::string replace_invalid_utf8(std::string_view text);

/// `text` as it is when it is valid; else as `policy` says. The copy, if one is needed, lives in `storage`.
/// The error reads "ORIGIN:OFFSET: ..." with the offset counted from `base`.
std::string_view checked_utf8(std::string_view text, InvalidUtf8 policy, const std::string& origin,
                              uint64_t base, std::string& storage);

void append_utf8(std::string& out, uint32_t code_point);

/// The code point at p, which must start a valid sequence; `length` is its bytes.
inline uint32_t decode_utf8(const uint8_t* p, int& length) {
  uint32_t c = *p;
  if (c < 0x80) return length = 1, c;
  if (c < 0xE0) return length = 2, (c & 31) << 6 | (p[1] & 63u);
  if (c < 0xF0) return length = 3, (c & 15) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u);
  return length = 4, (c & 7) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u);
}

}  // namespace jambalaya
