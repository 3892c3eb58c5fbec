// Vector kernels of the room vocab: one table of function pointers per instruction set.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

/// y[i] = table[ids[i] - first_id] for `count` rows of `width` elements; 0 for ids that the table lacks.
struct LookUpRows {
  const void* table;
  int64_t table_stride, table_rows, first_id;
  const int32_t* ids;
  int64_t count, width;
  void* y;
  int64_t y_stride;
};

/// row += sum of dy[tokens[i]], in the order of i.
struct SumRows {
  const void* dy;
  int64_t dy_stride;
  const int32_t* tokens;
  int64_t count, width;
  float* row;
};

/// One token's logits, fp32 [vocabulary] (0: largest is -inf, sum 0).
struct SoftmaxRow {
  float* logits;
  int64_t vocabulary;
  int64_t target;     ///< -1: not among these; then target_logit is -inf and correct false
  bool exponentiate;  ///< logits become exp(logit - largest)
};
struct SoftmaxResult {
  float largest;
  float sum;  ///< of exp(logit - largest)
  float target_logit;
  bool correct;  ///< the target is the first of the largest
};

/// The gradient of one token's loss with respect to its logits, from what SoftmaxRow left in them:
/// factor * exp - at_target * [i == target], in the activation dtype at the start of the same memory.
struct LogitGradientRow {
  float* exponentials;
  int64_t vocabulary;
  int64_t target;   ///< -1: not among these
  float factor;     ///< (scale + 2 z_scale lse) / sum
  float at_target;  ///< scale
};

struct VocabKernels {
  void (*look_up_f32_to_f32)(const LookUpRows&);
  void (*look_up_f32_to_bf16)(const LookUpRows&);
  void (*look_up_bf16_to_f32)(const LookUpRows&);
  void (*look_up_bf16_to_bf16)(const LookUpRows&);
  void (*sum_rows_f32)(const SumRows&);
  void (*sum_rows_bf16)(const SumRows&);
  SoftmaxResult (*softmax_row)(const SoftmaxRow&);
  void (*logit_gradient_f32)(const LogitGradientRow&);
  void (*logit_gradient_bf16)(const LogitGradientRow&);
};

}  // namespace jambalaya
