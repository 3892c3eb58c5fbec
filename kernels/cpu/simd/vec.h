// One vector type over AVX2 (8 floats) and AVX-512 (16 floats). Included only by *.simd.cpp files, which
// CMake compiles once per instruction set into a namespace of its own (JAMBALAYA_NS).
//
// Rule: a *.simd.cpp includes nothing but intrinsics, <cstdint> and headers without inline functions of
// external linkage (no <vector>, <algorithm>, <cmath>): the linker keeps one copy of such a function, and it
// might keep the one compiled for an instruction set that this machine lacks. That is why everything here has
// internal linkage.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace jambalaya {
struct bf16 {  // as in kernels/tensor.h, which this file must not include; pointer arithmetic needs its size
  uint16_t bits;
};
namespace JAMBALAYA_NS {
namespace {

#define JAMBALAYA_INLINE [[maybe_unused]] static inline __attribute__((always_inline))

JAMBALAYA_INLINE int64_t min_i(int64_t a, int64_t b) { return a < b ? a : b; }
JAMBALAYA_INLINE int64_t max_i(int64_t a, int64_t b) { return a > b ? a : b; }

#if defined(__AVX512F__)
// ---- AVX-512 -------------------------------------------------------------------------------------------
constexpr int kLanes = 16;
struct Vec {
  __m512 v;
};
struct Mask {
  __mmask16 m;
};
JAMBALAYA_INLINE Vec wrap(__m512 v) { return Vec{v}; }
JAMBALAYA_INLINE Mask first(int64_t n) { return {__mmask16(n >= 16 ? 0xffff : (1u << n) - 1)}; }
JAMBALAYA_INLINE Vec zero() { return {_mm512_setzero_ps()}; }
JAMBALAYA_INLINE Vec set1(float x) { return {_mm512_set1_ps(x)}; }
JAMBALAYA_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
JAMBALAYA_INLINE Vec load(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first(n).m, p)}; }
JAMBALAYA_INLINE void store(float* p, Vec x) { _mm512_storeu_ps(p, x.v); }
JAMBALAYA_INLINE void store(float* p, Vec x, int64_t n) { _mm512_mask_storeu_ps(p, first(n).m, x.v); }
JAMBALAYA_INLINE Vec widen(__m256i bits) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
JAMBALAYA_INLINE __m256i narrow(Vec x) {
#if defined(__AVX512BF16__)
  return (__m256i)_mm512_cvtneps_pbh(x.v);
#else
  __m512i u = _mm512_castps_si512(x.v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(
      _mm512_mask_or_epi32(r, nan, _mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40)));
#endif
}
JAMBALAYA_INLINE Vec load(const bf16* p) { return widen(_mm256_loadu_si256((const __m256i*)p)); }
JAMBALAYA_INLINE Vec load(const bf16* p, int64_t n) { return widen(_mm256_maskz_loadu_epi16(first(n).m, p)); }
JAMBALAYA_INLINE void store(bf16* p, Vec x) { _mm256_storeu_si256((__m256i*)p, narrow(x)); }
JAMBALAYA_INLINE void store(bf16* p, Vec x, int64_t n) { _mm256_mask_storeu_epi16(p, first(n).m, narrow(x)); }
JAMBALAYA_INLINE Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
JAMBALAYA_INLINE Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
JAMBALAYA_INLINE Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
JAMBALAYA_INLINE Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
JAMBALAYA_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }    // a b + c
JAMBALAYA_INLINE Vec fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a b
JAMBALAYA_INLINE Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
JAMBALAYA_INLINE Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
JAMBALAYA_INLINE Vec abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
JAMBALAYA_INLINE Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
JAMBALAYA_INLINE Mask less(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
JAMBALAYA_INLINE Mask is_nan(Vec a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
JAMBALAYA_INLINE bool any(Mask m) { return m.m != 0; }
JAMBALAYA_INLINE Vec select(Mask m, Vec yes, Vec no) { return {_mm512_mask_blend_ps(m.m, no.v, yes.v)}; }
JAMBALAYA_INLINE Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, 0)}; }
/// p 2^n for whole n, also where the result is subnormal or zero.
JAMBALAYA_INLINE Vec scale2(Vec p, Vec n) { return {_mm512_scalef_ps(p.v, n.v)}; }
/// Exponent e of positive normal x = m 2^e with m in [sqrt(1/2), sqrt(2)).
JAMBALAYA_INLINE Vec exponent(Vec x) {
  return {_mm512_getexp_ps(_mm512_mul_ps(x.v, _mm512_set1_ps(1.41421356f)))};
}
JAMBALAYA_INLINE float sum(Vec a) {  // fixed tree order
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
JAMBALAYA_INLINE float maximum(Vec a) { return _mm512_reduce_max_ps(a.v); }

#elif defined(__AVX2__)
// ---- AVX2 + FMA ----------------------------------------------------------------------------------------
constexpr int kLanes = 8;
struct Vec {
  __m256 v;
};
struct Mask {
  __m256 m;
};
JAMBALAYA_INLINE Vec wrap(__m256 v) { return Vec{v}; }
JAMBALAYA_INLINE __m256i first_bits(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(n > 8 ? 8 : n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
JAMBALAYA_INLINE Mask first(int64_t n) { return {_mm256_castsi256_ps(first_bits(n))}; }
JAMBALAYA_INLINE Vec zero() { return {_mm256_setzero_ps()}; }
JAMBALAYA_INLINE Vec set1(float x) { return {_mm256_set1_ps(x)}; }
JAMBALAYA_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
JAMBALAYA_INLINE Vec load(const float* p, int64_t n) { return {_mm256_maskload_ps(p, first_bits(n))}; }
JAMBALAYA_INLINE void store(float* p, Vec x) { _mm256_storeu_ps(p, x.v); }
JAMBALAYA_INLINE void store(float* p, Vec x, int64_t n) { _mm256_maskstore_ps(p, first_bits(n), x.v); }
JAMBALAYA_INLINE Vec widen(__m128i bits) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
}
JAMBALAYA_INLINE __m128i narrow(Vec x) {
  __m256i u = _mm256_castps_si256(x.v);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
  r = _mm256_blendv_epi8(r, _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40)), nan);
  __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
  return _mm256_castsi256_si128(packed);
}
JAMBALAYA_INLINE Vec load(const bf16* p) { return widen(_mm_loadu_si128((const __m128i*)p)); }
JAMBALAYA_INLINE Vec load(const bf16* p, int64_t n) {
  if (n >= 8) return load(p);
  alignas(16) uint16_t t[8] = {};
  __builtin_memcpy(t, p, size_t(n) * 2);
  return widen(_mm_load_si128((const __m128i*)t));
}
JAMBALAYA_INLINE void store(bf16* p, Vec x) { _mm_storeu_si128((__m128i*)p, narrow(x)); }
JAMBALAYA_INLINE void store(bf16* p, Vec x, int64_t n) {
  if (n >= 8) return store(p, x);
  alignas(16) uint16_t t[8];
  _mm_store_si128((__m128i*)t, narrow(x));
  __builtin_memcpy(p, t, size_t(n) * 2);
}
JAMBALAYA_INLINE Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
JAMBALAYA_INLINE Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
JAMBALAYA_INLINE Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
JAMBALAYA_INLINE Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
JAMBALAYA_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
JAMBALAYA_INLINE Vec fnma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
JAMBALAYA_INLINE Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
JAMBALAYA_INLINE Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
JAMBALAYA_INLINE Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
JAMBALAYA_INLINE Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
JAMBALAYA_INLINE Mask less(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
JAMBALAYA_INLINE Mask is_nan(Vec a) { return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)}; }
JAMBALAYA_INLINE bool any(Mask m) { return _mm256_movemask_ps(m.m) != 0; }
JAMBALAYA_INLINE Vec select(Mask m, Vec yes, Vec no) { return {_mm256_blendv_ps(no.v, yes.v, m.m)}; }
JAMBALAYA_INLINE Vec round(Vec a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
JAMBALAYA_INLINE Vec pow2(Vec n) {  // n whole, in [-126, 127]
  return {_mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23))};
}
JAMBALAYA_INLINE Vec scale2(Vec p, Vec n) {  // in two factors, so that n down to -252 underflows as it should
  n = min(max(n, set1(-252)), set1(254));
  Vec half = round(n * set1(0.5f));
  return p * pow2(half) * pow2(n - half);
}
JAMBALAYA_INLINE Vec exponent(Vec x) {
  __m256i u = _mm256_castps_si256(_mm256_mul_ps(x.v, _mm256_set1_ps(1.41421356f)));
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(u, 23), _mm256_set1_epi32(127)))};
}
JAMBALAYA_INLINE float sum(Vec a) {
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
JAMBALAYA_INLINE float maximum(Vec a) {
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
#else
#error "a *.simd.cpp needs at least -mavx2 -mfma"
#endif

// ---- the same text for both ----------------------------------------------------------------------------
/// 2^r for r in [-1/2, 1/2]: minimax of degree 5 with value 1 at 0, relative error 1e-7.
JAMBALAYA_INLINE Vec exp2_reduced(Vec r) {
  Vec p = set1(1.326472630e-3f);
  p = fma(p, r, set1(9.671513010e-3f));
  p = fma(p, r, set1(5.550733749e-2f));
  p = fma(p, r, set1(2.402224208e-1f));
  p = fma(p, r, set1(6.931469776e-1f));
  return fma(p, r, set1(1.0f));
}
/// 2^x, relative error about 2e-7: the scan's decay. x below -150 gives 0.
JAMBALAYA_INLINE Vec exp2_fast(Vec x) {
  x = max(set1(-200), x);  // in this order NaN stays NaN
  Vec n = round(x);
  return scale2(exp2_reduced(x - n), n);
}
/// e^x, relative error about 1e-7 (degree 6, two-part reduction). Overflows to inf, underflows to 0; NaN
/// stays NaN.
JAMBALAYA_INLINE Vec exp(Vec x) {
  Vec bounded = select(is_nan(x), x, min(max(x, set1(-110)), set1(90)));
  Vec n = round(bounded * set1(1.44269504f));
  Vec r = fnma(n, set1(0.693359375f), bounded);
  r = fnma(n, set1(-2.12194440e-4f), r);
  Vec p = set1(1.3981999507e-3f);
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r) + set1(1.0f);
  return scale2(p, n);
}
/// Natural logarithm of positive normal x, relative error about 1e-7 away from 1, absolute near it.
JAMBALAYA_INLINE Vec log(Vec x) {
  Vec e = exponent(x),
      m = scale2(x, zero() - e) - set1(1.0f);  // m in [-0.293, 0.415): where the polynomial holds
  Vec p = set1(7.0376836292e-2f);
  p = fma(p, m, set1(-1.1514610310e-1f));
  p = fma(p, m, set1(1.1676998740e-1f));
  p = fma(p, m, set1(-1.2420140846e-1f));
  p = fma(p, m, set1(1.4249322787e-1f));
  p = fma(p, m, set1(-1.6668057665e-1f));
  p = fma(p, m, set1(2.0000714765e-1f));
  p = fma(p, m, set1(-2.4999993993e-1f));
  p = fma(p, m, set1(3.3333331174e-1f));
  Vec m2 = m * m;
  Vec y = fma(p, m * m2, fma(e, set1(-2.12194440e-4f), set1(-0.5f) * m2));
  return fma(e, set1(0.693359375f), m + y);
}
JAMBALAYA_INLINE Vec sigmoid(Vec x) { return set1(1.0f) / (set1(1.0f) + exp(zero() - x)); }
/// log(1 + e^x), x itself above 20 (the reference's threshold); relatively accurate for very negative x too.
JAMBALAYA_INLINE Vec softplus(Vec x) {
  Vec e = exp(min(set1(20.0f), x));              // in this order NaN stays NaN
  Vec u = e + set1(1.0f), low = u - set1(1.0f);  // Kahan: log1p(e) = log(u) e / (u - 1)
  Vec tiny = set1(1e-30f);
  Vec y = select(less(low, tiny), e, log(u) * (e / max(low, tiny)));
  return select(less(set1(20.0f), x), x, y);
}

}  // namespace
}  // namespace JAMBALAYA_NS
}  // namespace jambalaya
