#include "model/pass.h"

namespace jambalaya {

void linear(const Pass& pass, int row, const Tensor& x, const Tensor& y) {
  pass.ops().gemm(pass.ctx, {.a = x, .b = pass.parameters.compute(row), .c = y, .transpose_b = true});
}

void linear_input_gradient(const Pass& pass, int row, const Tensor& dy, const Tensor& dx, bool accumulate) {
  pass.ops().gemm(pass.ctx, {.a = dy, .b = pass.parameters.compute(row), .c = dx, .accumulate = accumulate});
}

void linear_weight_gradient(const Pass& pass, int row, const Tensor& dy, const Tensor& x) {
  pass.ops().gemm(
      pass.ctx,
      {.a = dy, .b = x, .c = pass.parameters.gradient(row), .transpose_a = true, .accumulate = true});
}

Tensor as_dtype(const Pass& pass, const Tensor& x, DType dtype, const char* tag) {
  if (x.dtype == dtype) return x;
  Tensor y = pass.scratch(dtype, {x.rows(), x.columns()}, tag);
  pass.ops().scale_copy(pass.ctx, {.x = x, .y = y});
  return y;
}

Tensor gradient_of(const Pass& pass, int row) { return row < 0 ? Tensor{} : pass.parameters.gradient(row); }
Tensor value_of(const Pass& pass, int row) { return row < 0 ? Tensor{} : pass.parameters.value(row); }

}  // namespace jambalaya
