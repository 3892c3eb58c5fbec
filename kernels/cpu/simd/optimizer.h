// Vector kernels of the room optimizer: one table of function pointers per instruction set.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

/// Sum of squares (in f64) and largest magnitude of a block of rows; both NaN if any element is.
struct SumSquaresArgs {
  const void* x;
  int64_t x_stride, rows, columns;
  double* sum;
  double* largest;
};

/// One block of AdamW. `compute` may be null. The bias corrections are 1 / (1 - beta^step).
struct AdamWArgs {
  float *param, *m, *v;
  const float* grad;
  bf16* compute;
  int64_t n;
  float grad_scale, lr, beta1, one_minus_beta1, beta2, one_minus_beta2, correction1, correction2, eps, decay;
};

/// compute = param, rounded.
struct RefreshArgs {
  const float* param;
  bf16* compute;
  int64_t n;
};

struct OptimizerKernels {
  void (*sum_squares[2])(const SumSquaresArgs&);  ///< [x], 0 for f32, 1 for bf16
  void (*adamw)(const AdamWArgs&);
  void (*refresh)(const RefreshArgs&);
};

}  // namespace jambalaya
