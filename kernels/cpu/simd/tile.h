// Small matrix products on packed operands, for attention. Included only by *.simd.cpp files (see vec.h).
//
// c[m, n] = a[m, k] b[k, n]. Both operands are read in units of 4 bytes along k: one float, or, where the CPU
// has VDPBF16PS, a pair of neighbouring bf16. a is row-major; b lies in panels of kLanes columns:
// b[panel][unit of k][lane]. So one loop serves both: broadcast a unit of a, multiply by a vector of units of
// b.
#pragma once
#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {
namespace {

/// The element type in which operands of an activation dtype are packed.
template <class Act>
struct OperandOf {
  using Type = float;
};
#if defined(__AVX512BF16__)
template <>
struct OperandOf<bf16> {
  using Type = bf16;
};
#endif
template <class Act>
using Operand = typename OperandOf<Act>::Type;

template <class E>
struct UnitOf;
template <>
struct UnitOf<float> {
  static constexpr int64_t elements = 1;
};
template <>
struct UnitOf<bf16> {
  static constexpr int64_t elements = 2;
};
/// Units that n elements along k fill.
template <class E>
JAMBALAYA_INLINE int64_t units(int64_t n) {
  return (n + UnitOf<E>::elements - 1) / UnitOf<E>::elements;
}
JAMBALAYA_INLINE int64_t vectors(int64_t n) { return (n + kLanes - 1) / kLanes; }

/// Says in which elements k is packed.
template <class E>
struct As {};

/// acc + a b in every lane, over one unit of k.
JAMBALAYA_INLINE Vec multiply_add(Vec a, Vec b, Vec acc, As<float>) { return fma(a, b, acc); }
#if defined(__AVX512BF16__)
JAMBALAYA_INLINE Vec multiply_add(Vec a, Vec b, Vec acc, As<bf16>) {
  return {_mm512_dpbf16_ps(acc.v, (__m512bh)a.v, (__m512bh)b.v)};
}
#endif

/// What a product does to c.
enum class Into {
  write,    ///< c = a b
  add,      ///< c += a b
  rescale,  ///< c[m] = factor[m] c[m] + (a b)[m]
};

template <class E, Into into, int kRows, int kVectors>
JAMBALAYA_INLINE void product_block(const float* a, int64_t a_stride, const float* b, int64_t k, float* c,
                                    int64_t c_stride, const float* factor) {
  Vec acc[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) acc[i][j] = zero();
  for (int64_t u = 0; u < k; u++) {
    Vec column[kVectors];
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) column[j] = load(b + (j * k + u) * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      Vec unit = set1(a[i * a_stride + u]);
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; j++) acc[i][j] = multiply_add(unit, column[j], acc[i][j], As<E>{});
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) {
      float* to = c + i * c_stride + j * kLanes;
      if constexpr (into == Into::write) store(to, acc[i][j]);
      if constexpr (into == Into::add) store(to, load(to) + acc[i][j]);
      if constexpr (into == Into::rescale) store(to, fma(set1(factor[i]), load(to), acc[i][j]));
    }
}

#if defined(__AVX512F__)
constexpr int kBlockRows = 12;  // 24 of 32 registers hold sums
#else
constexpr int kBlockRows = 6;  // 12 of 16
#endif

/// Blocks of kRows rows from row i on, while they fit; returns the first row left.
template <class E, Into into, int kRows, int kVectors>
JAMBALAYA_INLINE int64_t product_blocks(int64_t i, int64_t rows, const float* a, int64_t a_stride,
                                        const float* b, int64_t k, float* c, int64_t c_stride,
                                        const float* factor) {
  for (; i + kRows <= rows; i += kRows)
    product_block<E, into, kRows, kVectors>(a + i * a_stride, a_stride, b, k, c + i * c_stride, c_stride,
                                            into == Into::rescale ? factor + i : nullptr);
  return i;
}

template <class E, Into into, int kVectors>
JAMBALAYA_INLINE void product_panels(const float* a, int64_t a_stride, const float* b, int64_t k, float* c,
                                     int64_t c_stride, int64_t rows, const float* factor) {
  int64_t i = product_blocks<E, into, kBlockRows, kVectors>(0, rows, a, a_stride, b, k, c, c_stride, factor);
  i = product_blocks<E, into, 4, kVectors>(i, rows, a, a_stride, b, k, c, c_stride, factor);
  product_blocks<E, into, 1, kVectors>(i, rows, a, a_stride, b, k, c, c_stride, factor);
}

/// a [rows, k units] with rows a_stride units apart, b in `panels` panels of k units, c [rows, panels *
/// kLanes]. Each element of c is summed in the order of k whatever `rows` is.
template <class E, Into into>
[[gnu::noinline]] void product(const void* a_units, int64_t a_stride, const float* b, int64_t k, float* c,
                               int64_t c_stride, int64_t rows, int64_t panels,
                               const float* factor = nullptr) {
  const float* a = static_cast<const float*>(a_units);
  int64_t j = 0;
  for (; j + 2 <= panels; j += 2)
    product_panels<E, into, 2>(a, a_stride, b + j * k * kLanes, k, c + j * kLanes, c_stride, rows, factor);
  if (j < panels)
    product_panels<E, into, 1>(a, a_stride, b + j * k * kLanes, k, c + j * kLanes, c_stride, rows, factor);
}

// ---- packing -------------------------------------------------------------------------------------------

#if defined(__AVX512F__)
JAMBALAYA_INLINE void transpose(Vec r[16]) {
  __m512 t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_ps(r[2 * i].v, r[2 * i + 1].v);
    t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i].v, r[2 * i + 1].v);
  }
  __m512 s[16];
#pragma GCC unroll 16
  for (int i = 0; i < 4; i++)
#pragma GCC unroll 16
    for (int h = 0; h < 2; h++) {
      __m512d low = _mm512_castps_pd(t[4 * i + h]), high = _mm512_castps_pd(t[4 * i + 2 + h]);
      s[4 * i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      s[4 * i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
#pragma GCC unroll 16
  for (int i = 0; i < 4; i++) {
    __m512 a = _mm512_shuffle_f32x4(s[i], s[4 + i], 0x88), b = _mm512_shuffle_f32x4(s[i], s[4 + i], 0xdd);
    __m512 c = _mm512_shuffle_f32x4(s[8 + i], s[12 + i], 0x88),
           d = _mm512_shuffle_f32x4(s[8 + i], s[12 + i], 0xdd);
    r[i].v = _mm512_shuffle_f32x4(a, c, 0x88);
    r[8 + i].v = _mm512_shuffle_f32x4(a, c, 0xdd);
    r[4 + i].v = _mm512_shuffle_f32x4(b, d, 0x88);
    r[12 + i].v = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}
#else
JAMBALAYA_INLINE void transpose(Vec r[8]) {
  __m256 s[8];
#pragma GCC unroll 8
  for (int i = 0; i < 2; i++) {
    __m256 a = _mm256_unpacklo_ps(r[4 * i].v, r[4 * i + 1].v),
           b = _mm256_unpackhi_ps(r[4 * i].v, r[4 * i + 1].v);
    __m256 c = _mm256_unpacklo_ps(r[4 * i + 2].v, r[4 * i + 3].v),
           d = _mm256_unpackhi_ps(r[4 * i + 2].v, r[4 * i + 3].v);
    s[4 * i] = _mm256_shuffle_ps(a, c, 0x44);
    s[4 * i + 1] = _mm256_shuffle_ps(a, c, 0xee);
    s[4 * i + 2] = _mm256_shuffle_ps(b, d, 0x44);
    s[4 * i + 3] = _mm256_shuffle_ps(b, d, 0xee);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 4; i++) {
    r[i].v = _mm256_permute2f128_ps(s[i], s[4 + i], 0x20);
    r[4 + i].v = _mm256_permute2f128_ps(s[i], s[4 + i], 0x31);
  }
}
#endif

/// kLanes units from `n` elements (fewer are followed by zeros).
JAMBALAYA_INLINE Vec load_units(const float* p, int64_t n, As<float>) {
  return n >= kLanes ? load(p) : load(p, n);
}
JAMBALAYA_INLINE Vec load_units(const bf16* p, int64_t n, As<float>) {
  return n >= kLanes ? load(p) : load(p, n);
}
#if defined(__AVX512BF16__)
JAMBALAYA_INLINE Vec load_units(const bf16* p, int64_t n, As<bf16>) {
  if (n >= 32) return {_mm512_loadu_ps(p)};
  return {_mm512_castsi512_ps(_mm512_maskz_loadu_epi16(n <= 0 ? 0 : (uint32_t(1) << n) - 1, p))};
}
#endif
/// Where the rows of an operand lie in memory: row i of `inner` heads per token is token i / inner, head i %
/// inner.
template <class Act>
struct Rows {
  const Act* data;
  int64_t stride;     ///< elements from token to token
  int64_t inner;      ///< heads per token
  int64_t head_size;  ///< elements of a row
  const Act* row(int64_t i) const {
    return inner == 1 ? data + i * stride : data + i / inner * stride + i % inner * head_size;
  }
};

/// Rows as the operand a: row-major, `stride` elements apart.
template <class Act, class E>
[[gnu::noinline]] void pack_rows(const Rows<Act>& from, int64_t rows, E* to, int64_t stride) {
  constexpr int64_t width = kLanes * UnitOf<E>::elements;
  for (int64_t i = 0; i < rows; i++) {
    const Act* row = from.row(i);
    float* units_of_row = reinterpret_cast<float*>(to + i * stride);
    for (int64_t c = 0; c < from.head_size; c += width) {
      int64_t left = from.head_size - c;
      Vec x = load_units(row + c, left, As<E>{});
      if (left >= width)
        store(units_of_row, x);
      else
        store(units_of_row, x, units<E>(left));
      units_of_row += kLanes;
    }
  }
}

/// Rows as the columns of the operand b (k runs along a row): panels of kLanes rows, missing rows zero.
template <class E, class Act>
[[gnu::noinline]] void pack_transposed(const Rows<Act>& from, int64_t rows, float* to) {
  constexpr int64_t width = kLanes * UnitOf<E>::elements;
  int64_t k = units<E>(from.head_size);
  for (int64_t first_row = 0; first_row < rows; first_row += kLanes, to += k * kLanes) {
    int64_t here = min_i(kLanes, rows - first_row);
    const Act* row[kLanes];
    for (int64_t i = 0; i < here; i++) row[i] = from.row(first_row + i);
    for (int64_t c = 0; c < from.head_size; c += width) {
      int64_t left = from.head_size - c;
      Vec r[kLanes];
      if (here == kLanes && left >= width) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++) r[i] = load_units(row[i] + c, width, As<E>{});
      } else {
        for (int64_t i = 0; i < kLanes; i++) r[i] = i < here ? load_units(row[i] + c, left, As<E>{}) : zero();
      }
      transpose(r);
      float* out = to + c / UnitOf<E>::elements * kLanes;
      if (left >= width) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++) store(out + i * kLanes, r[i]);
      } else {
        for (int64_t i = 0; i < units<E>(left); i++) store(out + i * kLanes, r[i]);
      }
    }
  }
}

JAMBALAYA_INLINE Vec join_rows(const float* row, const float*, int64_t n) {
  return n >= kLanes ? load(row) : load(row, n);
}
JAMBALAYA_INLINE Vec join_rows(const bf16* row, const float*, int64_t n) {
  return n >= kLanes ? load(row) : load(row, n);
}
#if defined(__AVX512BF16__)
JAMBALAYA_INLINE Vec join_rows(const bf16* even, const bf16* odd, int64_t n) {
  __mmask16 m = first(n).m;
  __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, even));
  __m512i high = odd ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, odd)) : _mm512_setzero_si512();
  return {_mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)))};
}
#endif

/// Rows as the rows of the operand b (k runs over rows), columns in panels, missing columns zero.
template <class E, class Act>
[[gnu::noinline]] void pack_panels(const Rows<Act>& from, int64_t rows, float* to) {
  constexpr int64_t group = UnitOf<E>::elements;
  int64_t k = units<E>(rows), panels = vectors(from.head_size);
  for (int64_t u = 0; u < k; u++) {
    const Act* row = from.row(u * group);
    const E* next = nullptr;
    if constexpr (group == 2)
      if (u * 2 + 1 < rows) next = from.row(u * 2 + 1);
    for (int64_t p = 0; p < panels; p++)
      store(to + (p * k + u) * kLanes,
            join_rows(row + p * kLanes, next ? next + p * kLanes : nullptr, from.head_size - p * kLanes));
  }
}

}  // namespace
}  // namespace jambalaya::JAMBALAYA_NS
