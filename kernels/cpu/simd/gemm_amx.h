// The AMX tile product of bf16 matrices: 32 x 32 of C in four tile registers. Included by gemm.simd.cpp only.
#pragma once
#include "kernels/cpu/simd/gemm_tile.h"

namespace jambalaya::JAMBALAYA_NS {
namespace {

constexpr int kAmxRows = 32, kAmxColumns = 32, kAmxLanes = 16;  // 16 lanes of K (32 bf16) per step
static_assert(kAmxColumns == kTileColumns,
              "B is packed as for the dot-product tile; a tile register reads half a panel");

/// [panel of 32 rows][16 lanes][32 rows][16 lanes]: each half of a step is one 1 KiB tile register, row by
/// row.
[[maybe_unused]] void pack_a_tiled(const PackBlock& p) {
  const auto* source = static_cast<const bf16*>(p.source);
  const int64_t panel = packed_a_panel(p.lanes, kAmxRows);
  for (int64_t row = 0; row < (p.rows + kAmxRows - 1) / kAmxRows * kAmxRows; row += 16)
    for (int64_t lane = 0; lane < p.lanes; lane += kAmxLanes) {
      float* to = p.packed + row / kAmxRows * panel + lane * kAmxRows + row % kAmxRows * kAmxLanes;
      const int64_t have = p.rows - row, left = p.k - 2 * lane;
      Vec v[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        if (p.k_contiguous)
          v[i] = i < have ? PairLane::along_k(source + (row + i) * p.stride + 2 * lane, left) : zero();
        else
          v[i] =
              PairLane::across_rows(source + (2 * (lane + i)) * p.stride + row, p.stride, have, left - 2 * i);
      }
      if (!p.k_contiguous) transpose(v);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) store(to + i * kAmxLanes, v[i]);
    }
}

#if defined(__AMX_BF16__)
/// 64-byte configuration of the tile registers: all eight hold 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

/// c (32 x 32, rows `stride` floats apart) = or += the product of one panel of A and one of B.
JAMBALAYA_INLINE void amx_tile(const float* a, const float* b, int64_t lanes, float* c, int64_t stride,
                               bool add) {
  const int64_t c_bytes = stride * 4, b_bytes = kAmxColumns * 4;
  if (add) {
    _tile_loadd(0, c, c_bytes);
    _tile_loadd(1, c + 16, c_bytes);
    _tile_loadd(2, c + 16 * stride, c_bytes);
    _tile_loadd(3, c + 16 * stride + 16, c_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t lane = 0; lane < lanes;
       lane += kAmxLanes, a += kAmxLanes * kAmxRows, b += kAmxLanes * kAmxColumns) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, b_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + 16, b_bytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + 16 * kAmxLanes, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, c_bytes);
  _tile_stored(1, c + 16, c_bytes);
  _tile_stored(2, c + 16 * stride, c_bytes);
  _tile_stored(3, c + 16 * stride + 16, c_bytes);
}

void block_amx(const GemmBlock& g) {
  const TileConfig config;  // a thread's tile registers are its own, and other code may have released them
  _tile_loadconfig(&config);
  const int64_t a_panel = packed_a_panel(g.lanes, kAmxRows);
  alignas(64) float edge[kAmxRows * kAmxColumns];
  for (int64_t column = 0; column < g.columns; column += kAmxColumns)
    for (int64_t row = 0; row < g.rows; row += kAmxRows) {
      const float *a = g.a + row / kAmxRows * a_panel, *b = g.b + column * g.lanes;
      const int64_t rows = min_i(kAmxRows, g.rows - row), columns = min_i(kAmxColumns, g.columns - column);
      if (!g.out && rows == kAmxRows && columns == kAmxColumns) {
        amx_tile(a, b, g.lanes, g.c + row * g.c_stride + column, g.c_stride, g.add);
        continue;
      }
      // Through a whole tile of our own. The sum starts from c here too, so that an element's bits do not
      // depend on whether its tile is whole.
      for (int64_t i = 0; i < rows && g.add; i++)
        for (int64_t j = 0; j < columns; j += kLanes)
          store(edge + i * kAmxColumns + j,
                load(g.c + (row + i) * g.c_stride + column + j, min_i(kLanes, columns - j)));
      amx_tile(a, b, g.lanes, edge, kAmxColumns, g.add);
      GemmBlock rest = g;
      rest.add = false;
      for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j += kLanes)
          finish(rest, load(edge + i * kAmxColumns + j), row + i, column + j, columns - j);
    }
  _tile_release();
}
#endif

}  // namespace
}  // namespace jambalaya::JAMBALAYA_NS
