// Packing for matrix products (layouts: gemm.h). Included by gemm.simd.cpp only.
#pragma once
#include "kernels/cpu/simd/gemm.h"
#include "kernels/cpu/simd/vec.h"

namespace jambalaya::JAMBALAYA_NS {
namespace {

// ---- what a lane holds ---------------------------------------------------------------------------------
/// A float, read from T = float or widened from T = bf16.
template <class T>
struct FloatLane {
  using Element = T;
  static constexpr int kElements = 1;
  JAMBALAYA_INLINE Vec dot(Vec acc, Vec a, Vec b) { return fma(a, b, acc); }
  /// Lanes l .. l + kLanes - 1 of one row that has `left` more elements.
  JAMBALAYA_INLINE Vec along_k(const T* p, int64_t left) {
    return left >= kLanes ? load(p) : load(p, max_i(left, 0));
  }
  /// One lane of `have` neighbouring rows; `left` elements of K remain.
  JAMBALAYA_INLINE Vec across_rows(const T* p, int64_t, int64_t have, int64_t left) {
    return left <= 0 ? zero() : have >= kLanes ? load(p) : load(p, max_i(have, 0));
  }
};

#if defined(__AVX512BF16__)
/// Two neighbouring bf16 of K, the earlier one in the lower half (VDPBF16PS, TDPBF16PS).
struct PairLane {
  using Element = bf16;
  static constexpr int kElements = 2;
  JAMBALAYA_INLINE Vec dot(Vec acc, Vec a, Vec b) {
    return wrap(_mm512_dpbf16_ps(acc.v, (__m512bh)a.v, (__m512bh)b.v));
  }
  JAMBALAYA_INLINE Vec along_k(const bf16* p, int64_t left) {
    if (left >= 32) return wrap(_mm512_loadu_ps(p));
    __mmask32 some = left <= 0 ? 0 : (1u << left) - 1;
    return wrap(_mm512_castsi512_ps(_mm512_maskz_loadu_epi16(some, p)));
  }
  JAMBALAYA_INLINE Vec across_rows(const bf16* p, int64_t stride, int64_t have, int64_t left) {
    __mmask16 some = have >= 16 ? 0xffff : have <= 0 ? 0 : __mmask16((1u << have) - 1);
    if (left <= 0) return zero();
    const auto* low = reinterpret_cast<const uint16_t*>(p);
    __m512i v = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, low));
    if (left > 1) {
      __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, low + stride));
      v = _mm512_or_si512(v, _mm512_slli_epi32(high, 16));
    }
    return wrap(_mm512_castsi512_ps(v));
  }
};
#endif

// ---- kLanes x kLanes transposition of 32-bit lanes -------------------------------------------------------
#if defined(__AVX512F__)
JAMBALAYA_INLINE void transpose(Vec* rows) {
  __m512i r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = _mm512_castps_si512(rows[i].v);
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // 4 x 4 blocks inside each 128-bit quarter
    __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]), b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]), d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
    t[i] = _mm512_unpacklo_epi64(a, c), t[i + 1] = _mm512_unpackhi_epi64(a, c);
    t[i + 2] = _mm512_unpacklo_epi64(b, d), t[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {  // then the quarters themselves
    __m512i a = _mm512_shuffle_i32x4(t[i], t[4 + i], 0x88), b = _mm512_shuffle_i32x4(t[i], t[4 + i], 0xdd);
    __m512i c = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0x88),
            d = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0xdd);
    rows[i].v = _mm512_castsi512_ps(_mm512_shuffle_i32x4(a, c, 0x88));
    rows[4 + i].v = _mm512_castsi512_ps(_mm512_shuffle_i32x4(b, d, 0x88));
    rows[8 + i].v = _mm512_castsi512_ps(_mm512_shuffle_i32x4(a, c, 0xdd));
    rows[12 + i].v = _mm512_castsi512_ps(_mm512_shuffle_i32x4(b, d, 0xdd));
  }
}
#else
JAMBALAYA_INLINE void transpose(Vec* rows) {
  __m256 t[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {  // 4 x 4 blocks inside each half
    __m256 a = _mm256_unpacklo_ps(rows[i].v, rows[i + 1].v), b = _mm256_unpackhi_ps(rows[i].v, rows[i + 1].v);
    __m256 c = _mm256_unpacklo_ps(rows[i + 2].v, rows[i + 3].v),
           d = _mm256_unpackhi_ps(rows[i + 2].v, rows[i + 3].v);
    t[i] = _mm256_shuffle_ps(a, c, 0x44), t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
    t[i + 2] = _mm256_shuffle_ps(b, d, 0x44), t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    rows[i].v = _mm256_permute2f128_ps(t[i], t[4 + i], 0x20);
    rows[4 + i].v = _mm256_permute2f128_ps(t[i], t[4 + i], 0x31);
  }
}
#endif

// ---- packing -------------------------------------------------------------------------------------------
/// Panels of R rows, [lane][R], `panel` floats apart.
template <class Lane, int R>
void pack_k_contiguous(const PackBlock p, int64_t panel) {  // by value: no store can alias it
  const auto* source = static_cast<const typename Lane::Element*>(p.source);
  for (int64_t row = 0; row < p.rows; row += R)
    for (int64_t lane = 0; lane < p.lanes; lane += kLanes) {
      const int64_t at = lane * Lane::kElements, wide = min_i(kLanes, p.lanes - lane);
      for (int q = 0; q < R; q += kLanes) {
        const int64_t have = min_i(p.rows - row - q, min_i(kLanes, R - q));
        const auto* from = source + (row + q) * p.stride + at;
        float* to = p.packed + row / R * panel + lane * R + q;
        Vec v[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++)
          v[i] = i < have ? Lane::along_k(from + i * p.stride, p.k - at) : zero();
        transpose(v);
        // Whole vectors, lane after lane: what one writes past its R rows the next overwrites, the last
        // leaves in the slack.
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++)
          if (i < wide) store(to + i * R, v[i]);
      }
    }
}

template <class Lane, int R>
void pack_row_contiguous(const PackBlock p, int64_t panel) {
  const auto* source = static_cast<const typename Lane::Element*>(p.source);
  constexpr int64_t kGroup =
      8;  // a few panels at a time: whole cache lines of the source, few output streams
  const int64_t whole = p.rows / R, panels = (p.rows + R - 1) / R;
  for (int64_t group = 0; group < panels; group += kGroup) {
    const int64_t end = min_i(panels, group + kGroup), whole_end = min_i(whole, end);
    for (int64_t lane = 0; lane < p.lanes; lane++) {
      const int64_t left = p.k - lane * Lane::kElements;
      const auto* from = source + lane * Lane::kElements * p.stride + group * R;
      float* to = p.packed + group * panel + lane * R;
      for (int64_t i = group; i < whole_end; i++, from += R, to += panel)
#pragma GCC unroll 4
        for (int q = 0; q < R; q += kLanes)
          store(to + q, Lane::across_rows(from + q, p.stride, R - q < kLanes ? R - q : kLanes, left));
      if (whole_end == end) continue;
      for (int q = 0; q < R; q += kLanes)
        store(to + q, Lane::across_rows(from + q, p.stride,
                                        min_i(p.rows - whole * R - q, min_i(kLanes, R - q)), left));
    }
  }
}

template <class Lane, int R>
void pack_panels(const PackBlock& p, int64_t panel) {
  if (p.k_contiguous)
    pack_k_contiguous<Lane, R>(p, panel);
  else
    pack_row_contiguous<Lane, R>(p, panel);
}
template <class Lane, int R>
void pack_a(const PackBlock& p) {
  pack_panels<Lane, R>(p, packed_a_panel(p.lanes, R));
}
template <class Lane, int R>
void pack_b(const PackBlock& p) {
  static_assert(R % kLanes == 0, "B's panels have no slack");
  pack_panels<Lane, R>(p, p.lanes * R);
}

}  // namespace
}  // namespace jambalaya::JAMBALAYA_NS
