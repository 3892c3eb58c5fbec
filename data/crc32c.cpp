#include "data/crc32c.h"

#include <array>
#include <cstring>
#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace jambalaya {

namespace {

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? 0x82F63B78u : 0u);  // reversed 0x1EDC6F41
    table[i] = crc;
  }
  return table;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t crc32c_by_instruction(const uint8_t* p, size_t bytes,
                                                                 uint32_t previous) {
  uint64_t crc = ~previous;
  for (; bytes >= 8; bytes -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    crc = _mm_crc32_u64(crc, word);
  }
  uint32_t rest = uint32_t(crc);
  for (; bytes > 0; bytes--, p++) rest = _mm_crc32_u8(rest, *p);
  return ~rest;
}
#endif

}  // namespace

uint32_t crc32c_by_table(const void* data, size_t bytes, uint32_t previous) {
  static constexpr std::array<uint32_t, 256> table = make_table();
  uint32_t crc = ~previous;
  const uint8_t* p = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < bytes; i++) crc = (crc >> 8) ^ table[(crc ^ p[i]) & 0xff];
  return ~crc;
}

uint32_t crc32c(const void* data, size_t bytes, uint32_t previous) {
#if defined(__x86_64__)
  static const bool has_instruction = __builtin_cpu_supports("sse4.2");
  if (has_instruction) return crc32c_by_instruction(static_cast<const uint8_t*>(data), bytes, previous);
#endif
  return crc32c_by_table(data, bytes, previous);
}

}  // namespace jambalaya
