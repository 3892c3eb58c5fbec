// Element-wise copies between f32 and bf16. Legend: kernels/ops.h. Bound by memory: every element is read and
// written once, 8 elements a thread where addresses allow.
#include "kernels/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/vector.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kThreads = 256;

/// One thread for N neighbouring elements of a row.
template <int N, class From, class To>
__global__ void scale_copy_kernel(const From* x, int64_t x_stride, To* y, int64_t y_stride, int64_t rows,
                                  int64_t packs, float alpha, bool accumulate) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rows * packs) return;
  const int64_t row = i / packs, column = i % packs * N;
  float value[N];
  load<N>(value, x + row * x_stride + column);
#pragma unroll
  for (int j = 0; j < N; j++) value[j] *= alpha;
  To* const to = y + row * y_stride + column;
  if (accumulate) {
    float old[N];
    load<N>(old, to);
#pragma unroll
    for (int j = 0; j < N; j++) value[j] += old[j];
  }
  store<N>(to, value);
}

template <int N, class From, class To>
void start(const Context& ctx, const ScaleCopy& op) {
  const int64_t rows = op.x.rows(), packs = op.x.columns() / N;
  launch(ctx, "scale_copy", scale_copy_kernel<N, From, To>,
         {grid_of(div_up(rows * packs, kThreads)), kThreads}, op.x.ptr<From>(), op.x.row_stride,
         op.y.ptr<To>(), op.y.row_stride, rows, packs, op.alpha, op.accumulate);
}

template <class From, class To>
void start_rows(const Context& ctx, const ScaleCopy& op) {
  if (access_width(op.x.columns(), op.x, op.y) == 8)
    start<8, From, To>(ctx, op);
  else
    start<1, From, To>(ctx, op);
}

/// Packed tensors are one row, of which the last few elements are copied by themselves.
template <class From, class To>
void start(const Context& ctx, ScaleCopy op) {
  if (!op.x.packed() || !op.y.packed()) return start_rows<From, To>(ctx, op);
  const int64_t n = op.x.numel(), whole = n / 8 * 8;
  const Tensor x = make_tensor(op.x.data, op.x.dtype, {1, n}), y = make_tensor(op.y.data, op.y.dtype, {1, n});
  for (auto [begin, end] : {std::pair{int64_t(0), whole}, {whole, n}}) {
    op.x = x.slice_columns(begin, end), op.y = y.slice_columns(begin, end);
    start_rows<From, To>(ctx, op);
  }
}

/// One thread an element: sums of losses, a handful.
__global__ void scale_copy_f64_kernel(const double* x, int64_t x_stride, double* y, int64_t y_stride,
                                      int64_t rows, int64_t columns, double alpha, bool accumulate) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rows * columns) return;
  const int64_t row = i / columns, column = i % columns;
  double* const to = y + row * y_stride + column;
  *to = alpha * x[row * x_stride + column] + (accumulate ? *to : 0.0);
}

void start_f64(const Context& ctx, const ScaleCopy& op) {
  const int64_t rows = op.x.rows(), columns = op.x.columns();
  launch(ctx, "scale_copy_f64", scale_copy_f64_kernel, {grid_of(div_up(rows * columns, kThreads)), kThreads},
         op.x.ptr<double>(), op.x.row_stride, op.y.ptr<double>(), op.y.row_stride, rows, columns,
         double(op.alpha), op.accumulate);
}

}  // namespace

void CudaOps::scale_copy(Context& ctx, const ScaleCopy& op) {
  check_op(op);
  if (op.x.dtype == DType::f64) return start_f64(ctx, op);
  const bool from_bf16 = act_kind(op.x), to_bf16 = act_kind(op.y);
  if (from_bf16)
    to_bf16 ? start<bf16, bf16>(ctx, op) : start<bf16, float>(ctx, op);
  else
    to_bf16 ? start<float, bf16>(ctx, op) : start<float, float>(ctx, op);
}

}  // namespace jambalaya::cuda
