// The moves of rows to the experts and back. No scatter adds: sums over the K choices are gathered in the
// order of k. Legend: kernels/ops.h; T tokens, K choices, D width, rows = T * K. Bound by memory; a warp
// takes a row, so that its 32 lanes read 512 bytes at once.
#include "kernels/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vector.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kRows = 8;  // of a block: one a warp
constexpr int kThreads = 32 * kRows;

__device__ __forceinline__ int64_t row_of_warp() { return int64_t(blockIdx.x) * kRows + threadIdx.x / 32; }

/// A warp for each row: the bits as they are, one Unit an access. Strides and width in Units.
template <class Unit>
__global__ void gather_rows_kernel(const Unit* x, int64_t x_stride, const int32_t* token_of, Unit* y,
                                   int64_t y_stride, int64_t rows, int64_t width) {
  const int64_t r = row_of_warp();
  if (r >= rows) return;
  const Unit* const from = x + token_of[r] * x_stride;
  Unit* const to = y + r * y_stride;
#pragma unroll 4
  for (int64_t i = threadIdx.x % 32; i < width; i += 32) to[i] = from[i];
}

template <class Unit>
void start_gather(const Context& ctx, const GatherRows& op) {
  const int64_t units = int64_t(sizeof(Unit)) / size_of(op.x.dtype);  // elements of one
  launch(ctx, "gather_rows", gather_rows_kernel<Unit>, {grid_of(div_up(op.y.rows(), kRows)), kThreads},
         static_cast<const Unit*>(op.x.data), op.x.row_stride / units, op.token_of.ptr<int32_t>(),
         static_cast<Unit*>(op.y.data), op.y.row_stride / units, op.y.rows(), op.x.columns() / units);
}

struct SumRowsArgs {
  const void* x;
  int64_t x_stride;
  const int32_t* row_of;
  const float* weight;  ///< null: 1
  void* y;
  int64_t y_stride, tokens, packs;
  int k;
  bool accumulate;
};

/// y[t] = (accumulate ? y[t] : 0) + sum over k of weight[t, k] x[row_of[t, k]]; a warp for each token, N
/// elements a lane and step.
template <int N, class X, class Y>
__global__ void sum_rows_kernel(SumRowsArgs a) {
  const int64_t t = row_of_warp();
  if (t >= a.tokens) return;
  const int32_t* const rows = a.row_of + t * a.k;
  const X* const x = static_cast<const X*>(a.x);
  for (int64_t i = threadIdx.x % 32; i < a.packs; i += 32) {
    Y* const y = static_cast<Y*>(a.y) + t * a.y_stride + i * N;
    float total[N] = {}, row[N];
#pragma unroll 2
    for (int j = 0; j < a.k; j++) {
      load<N>(row, x + rows[j] * a.x_stride + i * N);
      const float w = a.weight ? a.weight[t * a.k + j] : 1.f;
#pragma unroll
      for (int e = 0; e < N; e++) total[e] = fmaf(w, row[e], total[e]);
    }
    if (a.accumulate) {
      load<N>(row, y);
#pragma unroll
      for (int e = 0; e < N; e++) total[e] += row[e];
    }
    store<N>(y, total);
  }
}

template <class X, class Y>
void start_sum(const Context& ctx, const Tensor& x, const Tensor& row_of, const float* weight,
               const Tensor& y, bool accumulate) {
  const int width = access_width(x.columns(), x, y) == 8 ? 8 : 1;
  const SumRowsArgs args{
      x.data,        x.row_stride,        row_of.ptr<int32_t>(), weight,    y.data, y.row_stride,
      row_of.rows(), x.columns() / width, int(row_of.columns()), accumulate};
  launch(ctx, "sum_rows", width == 8 ? sum_rows_kernel<8, X, Y> : sum_rows_kernel<1, X, Y>,
         {grid_of(div_up(args.tokens, kRows)), kThreads}, args);
}

void sum_rows(const Context& ctx, const Tensor& x, const Tensor& row_of, const float* weight, const Tensor& y,
              bool accumulate) {
  if (act_kind(x))
    (act_kind(y) ? start_sum<bf16, bf16> : start_sum<bf16, float>)(ctx, x, row_of, weight, y, accumulate);
  else
    (act_kind(y) ? start_sum<float, bf16> : start_sum<float, float>)(ctx, x, row_of, weight, y, accumulate);
}

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
  int64_t choices, packs;
  int k;
};

/// dx[row_of[t, k]] = weight[t, k] dy[t], dweight[t, k] = <dy[t], x[row_of[t, k]]>; a warp for each choice.
/// Choices of one token are neighbours and find dy in the L1 cache.
template <int N, class G, class X>
__global__ void spread_rows_kernel(SpreadRowsArgs a) {
  const int64_t choice = row_of_warp();
  if (choice >= a.choices) return;
  const int64_t row = a.row_of[choice];
  const float w = a.weight[choice];
  const G* const dy = static_cast<const G*>(a.dy) + choice / a.k * a.dy_stride;
  const X* const x = static_cast<const X*>(a.x) + row * a.x_stride;
  X* const dx = static_cast<X*>(a.dx) + row * a.dx_stride;
  float sums[N] = {};
  for (int64_t i = threadIdx.x % 32; i < a.packs; i += 32) {
    float g[N], value[N];
    load<N>(g, dy + i * N);
    load<N>(value, x + i * N);
#pragma unroll
    for (int e = 0; e < N; e++) {
      sums[e] = fmaf(g[e], value[e], sums[e]);
      g[e] *= w;
    }
    store<N>(dx + i * N, g);
  }
  float sum = 0;
#pragma unroll
  for (int e = 0; e < N; e++) sum += sums[e];
  sum = warp_reduce(sum);
  if (threadIdx.x % 32 == 0) a.dweight[choice] = sum;
}

template <class G, class X>
void start_spread(const Context& ctx, const CombineBackward& op) {
  const int width = access_width(op.x.columns(), op.dy, op.x, op.dx) == 8 ? 8 : 1;
  const SpreadRowsArgs args{op.dy.data,        op.dy.row_stride,         op.x.data,
                            op.x.row_stride,   op.row_of.ptr<int32_t>(), op.weight.ptr<float>(),
                            op.dx.data,        op.dx.row_stride,         op.dweight.ptr<float>(),
                            op.row_of.numel(), op.x.columns() / width,   int(op.row_of.columns())};
  launch(ctx, "spread_rows", width == 8 ? spread_rows_kernel<8, G, X> : spread_rows_kernel<1, G, X>,
         {grid_of(div_up(args.choices, kRows)), kThreads}, args);
}

}  // namespace

void CudaOps::gather_rows(Context& ctx, const GatherRows& op) {
  check_op(op);
  const int64_t width = op.x.columns();
  const int64_t bytes = size_of(op.x.dtype);
  if (access_width(width, op.x, op.y) * bytes >= 16)
    start_gather<uint4>(ctx, op);
  else if (bytes == 4)
    start_gather<uint32_t>(ctx, op);
  else
    start_gather<uint16_t>(ctx, op);
}

void CudaOps::gather_rows_backward(Context& ctx, const GatherRowsBackward& op) {
  check_op(op);
  sum_rows(ctx, op.dy, op.row_of, nullptr, op.dx, op.accumulate);
}

void CudaOps::combine_forward(Context& ctx, const CombineForward& op) {
  check_op(op);
  sum_rows(ctx, op.x, op.row_of, op.weight.ptr<float>(), op.y, false);
}

void CudaOps::combine_backward(Context& ctx, const CombineBackward& op) {
  check_op(op);
  if (act_kind(op.dy))
    (act_kind(op.x) ? start_spread<bf16, bf16> : start_spread<bf16, float>)(ctx, op);
  else
    (act_kind(op.x) ? start_spread<float, bf16> : start_spread<float, float>)(ctx, op);
}

}  // namespace jambalaya::cuda
