#include <algorithm>
#include <numeric>

#include "data/bpe_model.h"
#include "data/utf8.h"

namespace jambalaya {

const ByteAlphabet& ByteAlphabet::get() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

ByteAlphabet::ByteAlphabet() {
  byte_of_.fill(-1);
  uint32_t next = 0x100;
  for (uint32_t b = 0; b < 256; b++) {
    bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    character[b] = printable ? b : next++;
    byte_of_[character[b]] = int16_t(b);
  }
  std::iota(by_order.begin(), by_order.end(), uint8_t(0));
  std::sort(by_order.begin(), by_order.end(),
            [this](uint8_t a, uint8_t b) { return character[a] < character[b]; });
}

std::string ByteAlphabet::spell(std::string_view bytes) const {
  std::string token;
  for (char b : bytes) append_utf8(token, character[uint8_t(b)]);
  return token;
}

std::string ByteAlphabet::bytes_of(std::string_view token, bool* spelled) const {
  std::string bytes;
  auto p = reinterpret_cast<const uint8_t*>(token.data()), end = p + token.size();
  if (spelled) *spelled = true;
  for (int n; p < end; p += n) {
    uint32_t c = decode_utf8(p, n);
    if (c >= byte_of_.size() || byte_of_[c] < 0) {
      if (spelled) *spelled = false;
      return std::string(token);
    }
    bytes += char(byte_of_[c]);
  }
  return bytes;
}

}  // namespace jambalaya
