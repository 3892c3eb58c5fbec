// Vector kernels of the room norm: one table of function pointers per instruction set. A row is one token.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

struct NormForwardArgs {
  const void *h, *branch;  // branch may be null
  const float* weight;
  void *h_out, *y;  // h_out is written with a branch only; may be h
  float* rstd;
  int64_t h_stride, branch_stride, h_out_stride, y_stride, rstd_stride;
  int64_t columns;
  float eps;
};

struct NormBackwardArgs {
  const void *dy, *h;
  const float *weight, *rstd;
  void* dh;
  int64_t dy_stride, h_stride, rstd_stride, dh_stride;
  int64_t columns;
  bool accumulate;  // dh += instead of dh =
};

/// Indices of dtypes: 0 f32, 1 bf16.
struct NormKernels {
  /// Rows [r0, r1). Index: [h][branch][y].
  void (*forward[2][2][2])(const NormForwardArgs&, int64_t r0, int64_t r1);
  /// Rows [r0, r1); dweight [columns]: their sum, written. Index: [dy][h][dh].
  void (*backward[2][2][2])(const NormBackwardArgs&, int64_t r0, int64_t r1, float* dweight);
  /// y = x, rows [r0, r1). Index: [x][y].
  void (*copy[2][2])(const void* x, int64_t x_stride, void* y, int64_t y_stride, int64_t columns, int64_t r0,
                     int64_t r1);
};

}  // namespace jambalaya
