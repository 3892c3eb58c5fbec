// What the scan's forward and backward kernels share: the functions of delta and of the gate, and how states,
// decay rates and rows of B and C are laid out in scratch. Included only by scan*.simd.cpp.
#pragma once
#include "kernels/cpu/simd/logistic.h"
#include "kernels/cpu/simd/scan.h"

namespace jambalaya::JAMBALAYA_NS {
namespace {

/// States are padded to a multiple of this; padded ones decay by 1 and are never driven, so they stay 0.
constexpr int64_t kStateBlock = kLanes / 2;
constexpr float kLn2 = 0.693147181f;

JAMBALAYA_INLINE int64_t padded_states(int64_t n) {
  return (n + kStateBlock - 1) / kStateBlock * kStateBlock;
}
JAMBALAYA_INLINE int64_t blocks_of(int64_t channels) { return (channels + L - 1) / L; }

/// 2^x for x <= 0. On AVX-512 2^(k/16) comes from a table, which leaves a cubic (error 2e-9 before rounding,
/// exact at 0, so that slow decays keep their rates); on AVX2 the exponent's bits are added to, down to
/// 2^-126, which is as good as 0 for a decay.
JAMBALAYA_INLINE Vec decay(Vec x) {
#if defined(__AVX512F__)
  const __m512 sixteenths = _mm512_setr_ps(
      1.0f, 1.04427378f, 1.09050773f, 1.13878863f, 1.18920712f, 1.24185781f, 1.29683955f, 1.35425555f,
      1.41421356f, 1.47682615f, 1.54221083f, 1.61049033f, 1.68179283f, 1.75625216f, 1.83400809f, 1.91520656f);
  const Vec shift = set1(786432.0f);  // 1.5 2^19: the last bit of a sum with it is worth 1/16
  Vec sum = x + shift, n = sum - shift, r = x - n;
  Vec fraction{_mm512_permutexvar_ps(_mm512_castps_si512(sum.v), sixteenths)};
  Vec p = fma(fma(set1(5.55059501e-2f), r, set1(2.40234288e-1f)), r, set1(6.93147180e-1f));
  return scale2(fma(p, r, set1(1.0f)) * fraction, n);  // scales by 2^floor(n)
#else
  x = max(set1(-126.0f), x);
  Vec n = round(x), p = exp2_reduced(x - n);
  __m256i bits = _mm256_slli_epi32(_mm256_cvtps_epi32(n.v), 23);
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p.v), bits))};
#endif
}

/// softplus(x) = max(x, 0) + log1p(w), w = e^-|x|, log1p(w) = 2 artanh(w / (2 + w)). Relatively accurate on
/// both sides; from x = 17 on the sum rounds to x, so the reference's threshold at 20 needs no branch.
JAMBALAYA_INLINE Vec softplus_of(Vec x, Vec w) {
  Vec t = w / (w + set1(2.0f)), q = t * t;
  Vec p = set1(1.400599991e-1f);
  p = fma(p, q, set1(1.400090135e-1f));
  p = fma(p, q, set1(2.001076370e-1f));
  p = fma(p, q, set1(3.333320814e-1f));
  Vec twice = t + t;
  return max(zero(), x) + fma(p * q, twice, twice);
}

/// A log2(e) of a block of channels, [padded N][L], from a_log [E, N]; lanes and states beyond the ends hold
/// 0.
JAMBALAYA_INLINE void load_decay_rates(const ScanInputs& in, int64_t e, int64_t lanes, float* rates) {
  int64_t padded = padded_states(in.states);
  for (int64_t n = 0; n < padded; n++)
    for (int64_t i = 0; i < L; i++)
      rates[n * L + i] =
          n < in.states && i < lanes ? in.a_log[(e + i) * in.states + n] : -200.0f;  // e^-200 = 0
  for (int64_t n = 0; n < padded; n++) store(rates + n * L, exp(load(rates + n * L)) * set1(-kLog2e));
}

/// A block's states between scratch [padded N][L] and a tensor [N, E]; a null source is zero.
JAMBALAYA_INLINE void load_states(const float* from, const ScanInputs& in, int64_t e, int64_t lanes,
                                  float* h) {
  int64_t padded = padded_states(in.states);
  for (int64_t n = 0; n < padded; n++)
    store(h + n * L, from && n < in.states ? load(from + n * in.channels + e, lanes) : zero());
}
JAMBALAYA_INLINE void store_states(float* to, const ScanInputs& in, int64_t e, int64_t lanes,
                                   const float* h) {
  for (int64_t n = 0; n < in.states; n++) store(to + n * in.channels + e, load(h + n * L), lanes);
}

/// Where segment s has its start state (its end state) among `states`; null: none given, or none of its own.
template <class P>
JAMBALAYA_INLINE P* start_state(const ScanInputs& in, P* states, int64_t s) {
  if (!states || (in.ends_only && s > 0)) return nullptr;
  return states + s * in.states * in.channels;
}
template <class P>
JAMBALAYA_INLINE P* end_state(const ScanInputs& in, P* states, int64_t s) {
  if (!states || (in.ends_only && s + 1 < in.segments)) return nullptr;
  return states + (in.ends_only ? 0 : s) * in.states * in.channels;
}

/// Rows [t, t + count) of B or C into [count][padded N], zeros behind.
JAMBALAYA_INLINE void stage_rows(const float* from, int64_t stride, int64_t t, int64_t count, int64_t states,
                                 float* to) {
  int64_t padded = padded_states(states);
  for (int64_t i = 0; i < count; i++)
    for (int64_t n = 0; n < padded; n += kStateBlock) {
      int64_t have = min_i(kStateBlock, states - n);
      const float* row = from + (t + i) * stride + n;
      for (int64_t j = 0; j < kStateBlock; j++) to[i * padded + n + j] = j < have ? row[j] : 0.0f;
    }
}

}  // namespace
}  // namespace jambalaya::JAMBALAYA_NS
