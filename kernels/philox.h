// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11): value = f(key,
// counter). Same bits on every device and under every layout: a rank asks only for the indices that it owns.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace jambalaya {

using PhiloxBlock = std::array<uint32_t, 4>;

inline PhiloxBlock philox(uint64_t key, uint64_t counter_low, uint64_t counter_high = 0) {
  PhiloxBlock c{uint32_t(counter_low), uint32_t(counter_low >> 32), uint32_t(counter_high),
                uint32_t(counter_high >> 32)};
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = uint64_t(0xD2511F53u) * c[0], p1 = uint64_t(0xCD9E8D57u) * c[2];
    c = {uint32_t(p1 >> 32) ^ c[1] ^ k0, uint32_t(p1), uint32_t(p0 >> 32) ^ c[3] ^ k1, uint32_t(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

/// FNV-1a of a name followed by a finaliser (splitmix64): keys for named streams of numbers.
inline uint64_t hash_name(uint64_t seed, std::string_view name) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (char c : name) h = (h ^ uint8_t(c)) * 0x100000001b3ull;
  h += seed * 0x9E3779B97F4A7C15ull + 0x9E3779B97F4A7C15ull;
  h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9ull;
  h = (h ^ (h >> 27)) * 0x94D049BB133111EBull;
  return h ^ (h >> 31);
}

/// Uniform in (0, 1): 24 bits, never 0 nor 1.
inline float uniform_open(uint32_t bits) { return (float(bits >> 8) + 0.5f) * 0x1p-24f; }

/// Uniform number of element `index` of the stream `key`.
inline float uniform_at(uint64_t key, uint64_t index) {
  return uniform_open(philox(key, index / 4)[index % 4]);
}

}  // namespace jambalaya
