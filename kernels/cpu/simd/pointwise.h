// Vector kernels of the room pointwise: one table of function pointers per instruction set.
// Tables are indexed 0 for f32, 1 for bf16. Every kernel works on a block of rows; strides are in elements.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

/// Backward when dh is given: reads gate_up and dh, writes dgate_up. Otherwise writes h.
struct SwigluArgs {
  const void* gate_up;
  int64_t gate_up_stride;
  void* h;
  int64_t h_stride;
  const void* dh;
  int64_t dh_stride;
  void* dgate_up;
  int64_t dgate_up_stride;
  int64_t width, rows;
};

/// y = alpha x + (accumulate ? y : 0).
struct ScaleCopyArgs {
  const void* x;
  int64_t x_stride;
  void* y;
  int64_t y_stride;
  int64_t rows, columns;
  float alpha;
  bool accumulate;
};

/// x[r] += bias, or (bias_backward) bias = sum over rows of x[r], bias then f32.
struct BiasArgs {
  void* x;
  int64_t x_stride;
  void* bias;
  int64_t rows, columns;
};

struct PointwiseKernels {
  void (*swiglu_forward[2])(const SwigluArgs&);
  void (*swiglu_backward[2])(const SwigluArgs&);
  void (*scale_copy[2][2])(const ScaleCopyArgs&);  ///< [x][y]
  void (*add_bias[2][2])(const BiasArgs&);         ///< [x][bias]
  void (*sum_over_rows[2])(const BiasArgs&);       ///< [x]
};

}  // namespace jambalaya
