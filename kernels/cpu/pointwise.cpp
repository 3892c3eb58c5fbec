// The room pointwise: SwiGLU, copies between dtypes, biases.
#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/ops_cpu.h"
#include "kernels/op_checks.h"

namespace jambalaya {
namespace {

constexpr int64_t kBlockElements = 1 << 15;
constexpr int64_t kBiasRows = 256;  // rows per partial sum of a bias gradient

/// Cuts [rows, columns] into blocks of about kBlockElements, by shape alone: f(row, rows, column, columns).
template <class F>
void run_blocks(ThreadPool& pool, int64_t rows, int64_t columns, F&& f) {
  if (rows == 0 || columns == 0) return;
  const int64_t wide = std::min(columns, kBlockElements), tall = std::max<int64_t>(1, kBlockElements / wide);
  const int64_t across = (columns + wide - 1) / wide, down = (rows + tall - 1) / tall;
  pool.run(across * down, [&](int64_t c) {
    const int64_t row = c / across * tall, column = c % across * wide;
    f(row, std::min(tall, rows - row), column, std::min(wide, columns - column));
  });
}

/// A handful of sums: never the bulk of a model.
void scale_copy_f64(const ScaleCopy& op) {
  const double alpha = double(op.alpha);
  for (int64_t row = 0; row < op.x.rows(); row++) {
    const double* x = op.x.ptr<double>() + row * op.x.row_stride;
    double* y = op.y.ptr<double>() + row * op.y.row_stride;
    for (int64_t i = 0; i < op.x.columns(); i++) y[i] = alpha * x[i] + (op.accumulate ? y[i] : 0);
  }
}

}  // namespace

void CpuOps::swiglu_forward(Context& ctx, const SwigluForward& op) {
  check_op(op);
  const int64_t rows = op.h.rows(), width = op.h.columns();
  auto kernel = simd_.pointwise.swiglu_forward[act_kind(op.h)];
  const int64_t grain = std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, 2 * width));
  ctx.pool->run_range(rows, grain, [&](int64_t begin, int64_t end) {
    SwigluArgs a{};
    a.gate_up = op.gate_up.address(begin * op.gate_up.row_stride);
    a.gate_up_stride = op.gate_up.row_stride;
    a.h = op.h.address(begin * op.h.row_stride);
    a.h_stride = op.h.row_stride;
    a.width = width;
    a.rows = end - begin;
    kernel(a);
  });
}

void CpuOps::swiglu_backward(Context& ctx, const SwigluBackward& op) {
  check_op(op);
  const int64_t rows = op.dh.rows(), width = op.dh.columns();
  auto kernel = simd_.pointwise.swiglu_backward[act_kind(op.dh)];
  const int64_t grain = std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, 2 * width));
  ctx.pool->run_range(rows, grain, [&](int64_t begin, int64_t end) {
    SwigluArgs a{};
    a.gate_up = op.gate_up.address(begin * op.gate_up.row_stride);
    a.gate_up_stride = op.gate_up.row_stride;
    a.dh = op.dh.address(begin * op.dh.row_stride);
    a.dh_stride = op.dh.row_stride;
    a.dgate_up = op.dgate_up.address(begin * op.dgate_up.row_stride);
    a.dgate_up_stride = op.dgate_up.row_stride;
    a.width = width;
    a.rows = end - begin;
    kernel(a);
  });
}

void CpuOps::scale_copy(Context& ctx, const ScaleCopy& op) {
  check_op(op);
  if (op.x.dtype == DType::f64) return scale_copy_f64(op);
  auto kernel = simd_.pointwise.scale_copy[act_kind(op.x)][act_kind(op.y)];
  int64_t rows = op.x.rows(), columns = op.x.columns();
  if (op.x.packed() && op.y.packed()) columns *= rows, rows = 1;
  run_blocks(*ctx.pool, rows, columns, [&](int64_t row, int64_t down, int64_t column, int64_t across) {
    kernel({op.x.address(row * op.x.row_stride + column), op.x.row_stride,
            op.y.address(row * op.y.row_stride + column), op.y.row_stride, down, across, op.alpha,
            op.accumulate});
  });
}

void CpuOps::multiply_add(Context& ctx, const MultiplyAdd& op) {
  check_op(op);
  const int64_t n = op.y.numel();
  const float *a = op.a.ptr<float>(), *x = op.x.ptr<float>(), *b = op.b.ptr<float>();
  float* y = op.y.ptr<float>();
  ctx.pool->run_range(n, kBlockElements, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) y[i] = a[i] * x[i] + b[i];
  });
}

void CpuOps::add_bias(Context& ctx, const AddBias& op) {
  check_op(op);
  const int64_t rows = op.x.rows(), columns = op.x.columns();
  auto kernel = simd_.pointwise.add_bias[act_kind(op.x)][act_kind(op.bias)];
  run_blocks(*ctx.pool, rows, columns, [&](int64_t row, int64_t down, int64_t column, int64_t across) {
    kernel({op.x.address(row * op.x.row_stride + column), op.x.row_stride, op.bias.address(column), down,
            across});
  });
}

void CpuOps::bias_backward(Context& ctx, const BiasBackward& op) {
  check_op(op);
  const int64_t rows = op.dy.rows(), columns = op.dy.columns();
  auto kernel = simd_.pointwise.sum_over_rows[act_kind(op.dy)];
  ArenaScope scope(*ctx.scratch);
  const int64_t chunks = (rows + kBiasRows - 1) / kBiasRows;
  float* partial = ctx.scratch->array<float>(chunks * columns, "bias gradient");
  ctx.pool->run_range(rows, kBiasRows, [&](int64_t begin, int64_t end) {
    kernel({op.dy.address(begin * op.dy.row_stride), op.dy.row_stride, partial + begin / kBiasRows * columns,
            end - begin, columns});
  });
  float* dbias = op.dbias.ptr<float>();
  for (int64_t i = 0; i < columns; i++) {
    double total = 0;
    for (int64_t c = 0; c < chunks; c++) total += double(partial[c * columns + i]);
    dbias[i] += float(total);
  }
}

}  // namespace jambalaya
