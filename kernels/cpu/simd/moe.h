// Vector kernels of the room moe: one table of function pointers per instruction set.
// Tables of kernels over activations are indexed 0 for f32, 1 for bf16.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

/// Tokens [begin, end) of RouterForward; the statistics are of these tokens alone.
struct RouterForwardArgs {
  const float* logits;
  int64_t experts, k, begin, end;
  bool renormalize;
  float* probs;
  int32_t* expert;
  float *weight, *lse;
  float* keys;         ///< scratch [experts]
  int32_t* counts;     ///< [experts], written
  float* prob_sums;    ///< [experts], written
  double* lse_square;  ///< [1], written
};

/// Tokens [begin, end) of RouterBackward.
struct RouterBackwardArgs {
  const float* probs;
  const int32_t* expert;
  const float *weight, *lse, *dweight;
  const float* dprob;  ///< may be null
  int64_t experts, k, begin, end;
  bool renormalize;
  float z_scale;
  float* dlogits;
};

/// y[t] = (accumulate ? y[t] : 0) + sum over k of weight[t, k] x[row_of[t, k]] for t in [begin, end);
/// a null weight is 1.
struct SumRowsArgs {
  const void* x;
  int64_t x_stride;
  const int32_t* row_of;
  const float* weight;
  void* y;
  int64_t y_stride;
  int64_t width, k, begin, end;
  bool accumulate;
};

/// dx[row_of[t, k]] = weight[t, k] dy[t], dweight[t, k] = <dy[t], x[row_of[t, k]]> for t in [begin, end).
struct SpreadRowsArgs {
  const void* dy;
  int64_t dy_stride;
  const void* x;
  int64_t x_stride;
  const int32_t* row_of;
  const float* weight;
  void* dx;
  int64_t dx_stride;
  float* dweight;
  int64_t width, k, begin, end;
};

struct MoeKernels {
  void (*router_forward)(const RouterForwardArgs&);
  void (*router_backward)(const RouterBackwardArgs&);
  void (*sum_rows[2][2])(const SumRowsArgs&);        ///< [x][y]
  void (*spread_rows[2][2])(const SpreadRowsArgs&);  ///< [dy][x and dx]
};

}  // namespace jambalaya
