// Short pieces of text as fixed-size keys: most words fit into one 16-byte register and need no memory of
// their own.
#pragma once
#include <cstdint>
#include <cstring>

namespace jambalaya {

/// Up to 8 * words - 1 bytes, zero-padded, with the length in the last byte: equal keys are equal pieces.
template <int words>
struct WordKey {
  static constexpr size_t kMaxLength = 8 * words - 1;
  uint64_t w[words];

  bool operator==(const WordKey& o) const {
    uint64_t difference = 0;
    for (int i = 0; i < words; i++) difference |= w[i] ^ o.w[i];
    return difference == 0;
  }
  bool empty() const { return w[words - 1] >> 56 == 0; }
  size_t length() const { return size_t(w[words - 1] >> 56); }
  uint64_t hash() const {
    uint64_t h = 0;
    for (int i = 0; i < words; i += 2) {
      // One 64 x 64 -> 128 bit product mixes both words; its halves are folded (as in wyhash).
      unsigned __int128 m =
          (unsigned __int128)(w[i] ^ 0xA0761D6478BD642Full ^ h) * (w[i + 1] ^ 0xE7037ED1A0B428DBull);
      h = uint64_t(m) ^ uint64_t(m >> 64);
    }
    return h;
  }
};
using ShortKey = WordKey<2>;
using LongKey = WordKey<4>;

/// The key of p[0, n), n <= kMaxLength. Bytes up to `readable_end` may be read (fast when there are enough).
template <int words>
WordKey<words> make_key(const uint8_t* p, size_t n, const uint8_t* readable_end) {
  WordKey<words> key;
  if (size_t(readable_end - p) >= sizeof key) {
    std::memcpy(&key, p, sizeof key);
    for (int i = 0; i < words; i++) {
      size_t from = size_t(8 * i);
      uint64_t keep = n >= from + 8 ? ~0ull : n <= from ? 0 : (1ull << 8 * (n - from)) - 1;
      key.w[i] &= keep;
    }
  } else {
    std::memset(&key, 0, sizeof key);
    std::memcpy(&key, p, n);
  }
  key.w[words - 1] |= uint64_t(n) << 56;
  return key;
}

/// 64-bit hash of any bytes.
inline uint64_t hash_bytes(const uint8_t* p, size_t n) {
  uint64_t h = n * 0x9E3779B97F4A7C15ull;
  for (; n; p += n < 8 ? n : 8, n -= n < 8 ? n : 8) {
    uint64_t v = 0;
    std::memcpy(&v, p, n < 8 ? n : 8);
    unsigned __int128 m = (unsigned __int128)(h ^ v ^ 0xA0761D6478BD642Full) * 0xE7037ED1A0B428DBull;
    h = uint64_t(m) ^ uint64_t(m >> 64);
  }
  return h;
}

}  // namespace jambalaya
