// Register tiles of matrix products, and products of a few rows. Included by gemm.simd.cpp only.
#pragma once
#include "kernels/cpu/simd/gemm_pack.h"

namespace jambalaya::JAMBALAYA_NS {
namespace {

#if defined(__AVX512F__)
constexpr int kTileRows = 14;  // 28 accumulators, 2 vectors of B and one broadcast of A: 31 of 32 registers
#else
constexpr int kTileRows = 6;  // 12 + 2 + 1 of 16 registers
#endif
constexpr int kTileVectors = 2, kTileColumns = kTileVectors * kLanes;

JAMBALAYA_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

/// x = sum (+ c) to c, or (+ out) rounded to out; n columns of row i starting at column j are there.
JAMBALAYA_INLINE void finish(const GemmBlock& g, Vec x, int64_t i, int64_t j, int64_t n) {
  float* c = g.c ? g.c + i * g.c_stride + j : nullptr;
  if (g.add) x = x + (n >= kLanes ? load(c) : load(c, n));
  if (!g.out) return n >= kLanes ? store(c, x) : store(c, x, n);
  bf16* out = g.out + i * g.out_stride + j;
  if (g.add_out) x = x + (n >= kLanes ? load(out) : load(out, n));
  n >= kLanes ? store(out, x) : store(out, x, n);
}

/// The tile at (row, column) of the block: M rows, NV vectors of columns. Each element is one chain of
/// additions in the order of K, whichever M and NV it is computed with.
template <class Lane, int M, int NV>
void tile(const GemmBlock& block, const float* a, const float* b, int64_t row, int64_t column) {
  const GemmBlock g = block;  // a copy that no store can alias
  Vec acc[M][NV];
#pragma GCC unroll 16
  for (int i = 0; i < M; i++) {
    for (int j = 0; j < NV; j++) acc[i][j] = zero();
    for (int j = 0; j < NV; j++)
      if (g.c) prefetch(g.c + (row + i) * g.c_stride + column + j * kLanes);
    if (g.out) prefetch(g.out + (row + i) * g.out_stride + column);
  }
  for (int64_t p = 0; p < g.lanes; p++, a += kTileRows, b += kTileColumns) {
    Vec bv[NV];
    for (int j = 0; j < NV; j++) bv[j] = load(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < M; i++) {
      Vec av = set1(a[i]);
      for (int j = 0; j < NV; j++) acc[i][j] = Lane::dot(acc[i][j], av, bv[j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
    for (int j = 0; j < NV; j++)
      finish(g, acc[i][j], row + i, column + j * kLanes, g.columns - column - j * kLanes);
}

template <class Lane, int M = kTileRows>
JAMBALAYA_INLINE void tile_of(const GemmBlock& g, const float* a, const float* b, int64_t row,
                              int64_t column) {
  if (g.rows - row >= M) {
    g.columns - column > kLanes ? tile<Lane, M, 2>(g, a, b, row, column)
                                : tile<Lane, M, 1>(g, a, b, row, column);
  } else if constexpr (M > 1) {
    tile_of<Lane, M - 1>(g, a, b, row, column);
  }
}

template <class Lane>
void block(const GemmBlock& g) {
  const int64_t a_panel = packed_a_panel(g.lanes, kTileRows);
  for (int64_t column = 0; column < g.columns; column += kTileColumns)
    for (int64_t row = 0; row < g.rows; row += kTileRows)
      tile_of<Lane>(g, g.a + row / kTileRows * a_panel, g.b + column * g.lanes, row, column);
}

// ---- a few rows: B is read once, at the speed of memory
// ----------------------------------------------------
JAMBALAYA_INLINE float widen_one(float x) { return x; }
JAMBALAYA_INLINE float widen_one(bf16 x) { return __builtin_bit_cast(float, uint32_t(x.bits) << 16); }
JAMBALAYA_INLINE bf16 round_one(float x) {
  bf16 y;
  store(&y, set1(x), 1);
  return y;
}

/// C's columns [column, column + J): dot products of rows of A and rows of B.
template <class Lane, int M, int J>
JAMBALAYA_INLINE void dot_columns(const DirectProduct& d, int64_t column) {
  using T = typename Lane::Element;
  constexpr int64_t kStep = kLanes * Lane::kElements;
  const T *a = static_cast<const T*>(d.a), *b = static_cast<const T*>(d.b) + column * d.b_stride;
  Vec acc[M][J];
  for (int i = 0; i < M; i++)
    for (int j = 0; j < J; j++) acc[i][j] = zero();
  for (int64_t p = 0; p < d.k; p += kStep) {
    Vec bv[J];
    for (int j = 0; j < J; j++) bv[j] = Lane::along_k(b + j * d.b_stride + p, d.k - p);
    for (int i = 0; i < M; i++) {
      Vec av = Lane::along_k(a + i * d.a_stride + p, d.k - p);
      for (int j = 0; j < J; j++) acc[i][j] = Lane::dot(acc[i][j], av, bv[j]);
    }
  }
  for (int i = 0; i < M; i++)
    for (int j = 0; j < J; j++) {
      const int64_t at = i * d.c_stride + column + j;
      float x = sum(acc[i][j]);
      if (d.c_bf16) {
        bf16* c = static_cast<bf16*>(d.c) + at;
        *c = round_one(d.accumulate ? x + widen_one(*c) : x);
      } else {
        float* c = static_cast<float*>(d.c) + at;
        *c = d.accumulate ? x + *c : x;
      }
    }
}
template <class Lane, int M>
void dot_all(const DirectProduct& d) {
  constexpr int J = kLanes == 8 ? (M <= 2   ? 4
                                   : M <= 4 ? 2
                                            : 1)
                                : (M <= 4 ? 4 : 3);  // enough chains, no spills
  int64_t column = 0;
  for (; column + J <= d.n; column += J) dot_columns<Lane, M, J>(d, column);
  for (; column < d.n; column++) dot_columns<Lane, M, 1>(d, column);
}

/// sums[M, n] += M rows of A times G rows of B: a few whole rows at a time, because walking down a column of
/// B would touch a page per element.
template <class T, int M, int G>
JAMBALAYA_INLINE void add_group(const DirectProduct& d, int64_t p) {
  const T *a = static_cast<const T*>(d.a) + p, *b = static_cast<const T*>(d.b) + p * d.b_stride;
  for (int64_t column = 0; column < d.n; column += kLanes) {
    Vec bv[G];
#pragma GCC unroll 8
    for (int q = 0; q < G; q++)
      bv[q] = FloatLane<T>::across_rows(b + q * d.b_stride + column, 0, d.n - column, 1);
#pragma GCC unroll 8
    for (int i = 0; i < M; i++) {
      float* to = d.sums + i * d.sums_stride + column;
      Vec x = load(to);
      for (int q = 0; q < G; q++) x = fma(set1(widen_one(a[i * d.a_stride + q])), bv[q], x);
      store(to, x);
    }
  }
}
template <class T, int M>
void add_all(const DirectProduct& given) {
  const DirectProduct d = given;
  constexpr int kGroup = kLanes == 8 ? 4 : 8;
  for (int64_t i = 0; i < M * d.sums_stride; i += kLanes) store(d.sums + i, zero());
  int64_t p = 0;
  for (; p + kGroup <= d.k; p += kGroup) add_group<T, M, kGroup>(d, p);
  for (; p < d.k; p++) add_group<T, M, 1>(d, p);
  GemmBlock g{};
  g.c = d.c_bf16 ? nullptr : static_cast<float*>(d.c);
  g.out = d.c_bf16 ? static_cast<bf16*>(d.c) : nullptr;
  g.c_stride = g.out_stride = d.c_stride;
  g.add = d.accumulate && !d.c_bf16;
  g.add_out = d.accumulate && d.c_bf16;
  for (int i = 0; i < M; i++)
    for (int64_t column = 0; column < d.n; column += kLanes)
      finish(g, load(d.sums + i * d.sums_stride + column), i, column, d.n - column);
}

template <class Lane, int M = GemmFormat::kDirectRows>
void dot_rows(const DirectProduct& d) {
  if (d.m == M) return dot_all<Lane, M>(d);
  if constexpr (M > 1) dot_rows<Lane, M - 1>(d);
}
template <class T, int M = GemmFormat::kDirectRows>
void add_rows(const DirectProduct& d) {
  if (d.m == M) return add_all<T, M>(d);
  if constexpr (M > 1) add_rows<T, M - 1>(d);
}

}  // namespace
}  // namespace jambalaya::JAMBALAYA_NS
