// RMSNorm. Legend: kernels/ops.h. Bound by memory: a row is read once into registers, 16 bytes an access, and
// is there for both the reduction and the result. Rows that are not aligned or wider than that are read
// twice, the second time from a cache.
#include "kernels/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/partials.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vector.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

/// At most this many partial sums of a weight's gradient, of at least this many rows each: shapes alone
/// decide.
constexpr int64_t kMaxPartials = 512, kMinRows = 16;

/// Elements of a pack where rows are aligned.
constexpr int kPack = 8;

struct ForwardArgs {
  const void* h;
  int64_t h_stride;
  const void* branch;  ///< null: none
  int64_t branch_stride;
  bool branch_is_bf16;
  void* h_out;
  int64_t h_out_stride;
  const float* weight;
  void* y;
  int64_t y_stride;
  float* rstd;
  int64_t columns;
  float eps;
};

/// What is normed: h, or its sum with the branch, rounded as it is stored: the backward reads it.
template <int N, class H>
__device__ __forceinline__ void load_sum(float (&x)[N], const ForwardArgs& a, int64_t row, int64_t column) {
  load<N>(x, static_cast<const H*>(a.h) + row * a.h_stride + column);
  if (!a.branch) return;
  float add[N];
  const int64_t at = row * a.branch_stride + column;
  if (a.branch_is_bf16)
    load<N>(add, static_cast<const bf16*>(a.branch) + at);
  else
    load<N>(add, static_cast<const float*>(a.branch) + at);
#pragma unroll
  for (int j = 0; j < N; j++) x[j] = as_float(from_float<H>(x[j] + add[j]));
  store<N>(static_cast<H*>(a.h_out) + row * a.h_out_stride + column, x);
}

template <int N>
__device__ __forceinline__ float sum_of_squares(const float (&x)[N]) {
  float sum = 0;
#pragma unroll
  for (int j = 0; j < N; j++) sum = fmaf(x[j], x[j], sum);
  return sum;
}

template <int N, class Y>
__device__ __forceinline__ void store_normed(const float (&x)[N], float rstd, const ForwardArgs& a,
                                             int64_t row, int64_t column) {
  float weight[N];
  load<N>(weight, a.weight + column);
#pragma unroll
  for (int j = 0; j < N; j++) weight[j] *= x[j] * rstd;
  store<N>(static_cast<Y*>(a.y) + row * a.y_stride + column, weight);
}

/// One block a row of at most P packs a thread.
template <int P, int Warps, class H, class Y>
__global__ void __launch_bounds__(32 * Warps, 1) forward_kernel(ForwardArgs a) {
  __shared__ float shared[Warps];
  const int64_t row = blockIdx.x;
  float x[P][kPack] = {};
  float sum = 0;
#pragma unroll
  for (int p = 0; p < P; p++) {
    const int64_t column = (p * 32 * Warps + int(threadIdx.x)) * kPack;
    if (column < a.columns) load_sum<kPack, H>(x[p], a, row, column);
  }
#pragma unroll
  for (int p = 0; p < P; p++) sum += sum_of_squares<kPack>(x[p]);
  const float rstd = rsqrtf(block_reduce<Warps>(sum, shared) / float(a.columns) + a.eps);
  if (threadIdx.x == 0) a.rstd[row] = rstd;
#pragma unroll
  for (int p = 0; p < P; p++) {
    const int64_t column = (p * 32 * Warps + int(threadIdx.x)) * kPack;
    if (column < a.columns) store_normed<kPack, Y>(x[p], rstd, a, row, column);
  }
}

/// One block a row of any width. Every thread reads the second time what it read, or wrote, the first.
template <int N, int Warps, class H, class Y>
__global__ void __launch_bounds__(32 * Warps, 1) forward_twice_kernel(ForwardArgs a) {
  __shared__ float shared[Warps];
  const int64_t row = blockIdx.x;
  float x[N], sum = 0;
  for (int64_t column = threadIdx.x * N; column < a.columns; column += 32 * Warps * N) {
    load_sum<N, H>(x, a, row, column);
    sum += sum_of_squares<N>(x);
  }
  const float rstd = rsqrtf(block_reduce<Warps>(sum, shared) / float(a.columns) + a.eps);
  if (threadIdx.x == 0) a.rstd[row] = rstd;
  const H* const from = a.branch ? static_cast<const H*>(a.h_out) + row * a.h_out_stride
                                 : static_cast<const H*>(a.h) + row * a.h_stride;
  for (int64_t column = threadIdx.x * N; column < a.columns; column += 32 * Warps * N) {
    load<N>(x, from + column);
    store_normed<N, Y>(x, rstd, a, row, column);
  }
}

struct BackwardArgs {
  const void* dy;
  int64_t dy_stride;
  const void* h;
  int64_t h_stride;
  const float *weight, *rstd;
  void* dh;
  int64_t dh_stride;
  float* partial;  ///< [blocks, columns] of the weight's gradient
  int64_t rows, columns;
};

/// With q = weight dy and x^ = h rstd: dh += rstd (q - x^ mean(q x^)), dweight = sum over rows of dy x^.
/// Block b takes rows b, b + blocks, ... and keeps its columns of dweight in registers: at most 64 a thread
/// for one pack, so that 32 warps fit in a multiprocessor to hide what the reduction waits for.
template <int P, int Warps, class DY, class H, class DH>
__global__ void __launch_bounds__(32 * Warps, P == 1 ? 32 / Warps : 1) backward_kernel(BackwardArgs a) {
  __shared__ float shared[Warps];
  float dweight[P][kPack] = {};
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const float rstd = a.rstd[row];
    float dy[P][kPack] = {}, normed[P][kPack] = {}, weight[P][kPack] = {}, old[P][kPack], dot = 0;
#pragma unroll
    for (int p = 0; p < P; p++) {
      const int64_t column = (p * 32 * Warps + int(threadIdx.x)) * kPack;
      if (column >= a.columns) continue;
      load<kPack>(dy[p], static_cast<const DY*>(a.dy) + row * a.dy_stride + column);
      load<kPack>(normed[p], static_cast<const H*>(a.h) + row * a.h_stride + column);
      load<kPack>(old[p], static_cast<const DH*>(a.dh) + row * a.dh_stride + column);
      load<kPack>(weight[p], a.weight + column);
    }
#pragma unroll
    for (int p = 0; p < P; p++)
#pragma unroll
      for (int j = 0; j < kPack; j++) {
        normed[p][j] *= rstd;
        const float part = dy[p][j] * normed[p][j];
        dweight[p][j] += part;
        dot = fmaf(weight[p][j], part, dot);
      }
    const float mean = block_reduce<Warps>(dot, shared) / float(a.columns);
#pragma unroll
    for (int p = 0; p < P; p++) {
      const int64_t column = (p * 32 * Warps + int(threadIdx.x)) * kPack;
      if (column >= a.columns) continue;
#pragma unroll
      for (int j = 0; j < kPack; j++) old[p][j] += rstd * fmaf(-normed[p][j], mean, weight[p][j] * dy[p][j]);
      store<kPack>(static_cast<DH*>(a.dh) + row * a.dh_stride + column, old[p]);
    }
  }
#pragma unroll
  for (int p = 0; p < P; p++) {
    const int64_t column = (p * 32 * Warps + int(threadIdx.x)) * kPack;
    if (column < a.columns) store<kPack>(a.partial + blockIdx.x * a.columns + column, dweight[p]);
  }
}

/// Rows of any width; a block adds to its partial sums in memory, every thread to its own columns.
template <int N, int Warps, class DY, class H, class DH>
__global__ void __launch_bounds__(32 * Warps, 32 / Warps) backward_twice_kernel(BackwardArgs a) {
  __shared__ float shared[Warps];
  float* const dweight = a.partial + blockIdx.x * a.columns;
  const int64_t first = threadIdx.x * N, step = 32 * Warps * N;
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const float rstd = a.rstd[row];
    const DY* const dy_row = static_cast<const DY*>(a.dy) + row * a.dy_stride;
    const H* const h_row = static_cast<const H*>(a.h) + row * a.h_stride;
    float dot = 0;
    for (int64_t column = first; column < a.columns; column += step) {
      float dy[N], h[N], weight[N], sum[N] = {};
      load<N>(dy, dy_row + column), load<N>(h, h_row + column), load<N>(weight, a.weight + column);
      if (row != blockIdx.x) load<N>(sum, dweight + column);
#pragma unroll
      for (int j = 0; j < N; j++) {
        const float part = dy[j] * (h[j] * rstd);
        sum[j] += part;
        dot = fmaf(weight[j], part, dot);
      }
      store<N>(dweight + column, sum);
    }
    const float mean = block_reduce<Warps>(dot, shared) / float(a.columns);
    DH* const dh_row = static_cast<DH*>(a.dh) + row * a.dh_stride;
    for (int64_t column = first; column < a.columns; column += step) {
      float dy[N], h[N], weight[N], old[N];
      load<N>(dy, dy_row + column), load<N>(h, h_row + column), load<N>(weight, a.weight + column);
      load<N>(old, dh_row + column);
#pragma unroll
      for (int j = 0; j < N; j++) old[j] += rstd * fmaf(-(h[j] * rstd), mean, weight[j] * dy[j]);
      store<N>(dh_row + column, old);
    }
  }
}

/// f<P, Warps>() with the smallest block that keeps an aligned row in registers, else f<0, N>(): rows read
/// twice, N elements an access.
template <class F>
void choose(bool aligned, int64_t columns, F&& f) {
  if (!aligned)
    f.template operator()<0, 1>();
  else if (columns <= 32 * kPack)
    f.template operator()<1, 1>();
  else if (columns <= 4 * 32 * kPack)
    f.template operator()<1, 4>();
  else if (columns <= 8 * 32 * kPack)
    f.template operator()<1, 8>();
  else if (columns <= 16 * 32 * kPack)
    f.template operator()<1, 16>();
  else if (columns <= 2 * 16 * 32 * kPack)
    f.template operator()<2, 16>();
  else
    f.template operator()<0, kPack>();
}
/// Warps of a block whose rows are read twice.
constexpr int warps_of_twice(int n) { return n == kPack ? 16 : 4; }

template <class H, class Y>
void start_forward(const Context& ctx, const ForwardArgs& a, bool aligned, int64_t rows) {
  choose(aligned, a.columns, [&]<int P, int W>() {
    if constexpr (P == 0)
      launch(ctx, "rms_norm_forward_twice", forward_twice_kernel<W, warps_of_twice(W), H, Y>,
             {grid_of(rows), 32 * warps_of_twice(W)}, a);
    else
      launch(ctx, "rms_norm_forward", forward_kernel<P, W, H, Y>, {grid_of(rows), 32 * W}, a);
  });
}

template <class DY, class H, class DH>
void start_backward(const Context& ctx, const BackwardArgs& a, bool aligned, int64_t blocks) {
  choose(aligned, a.columns, [&]<int P, int W>() {
    if constexpr (P == 0)
      launch(ctx, "rms_norm_backward_twice", backward_twice_kernel<W, warps_of_twice(W), DY, H, DH>,
             {grid_of(blocks), 32 * warps_of_twice(W)}, a);
    else
      launch(ctx, "rms_norm_backward", backward_kernel<P, W, DY, H, DH>, {grid_of(blocks), 32 * W}, a);
  });
}
template <class DY, class H>
void start_backward(const Context& ctx, const BackwardArgs& a, bool dh_is_bf16, bool aligned,
                    int64_t blocks) {
  dh_is_bf16 ? start_backward<DY, H, bf16>(ctx, a, aligned, blocks)
             : start_backward<DY, H, float>(ctx, a, aligned, blocks);
}

/// A weight as one row of a matrix, for access_width().
Tensor as_row(const Tensor& weight) { return make_tensor(weight.data, weight.dtype, {1, weight.numel()}); }

}  // namespace

void CudaOps::rms_norm_forward(Context& ctx, const RmsNormForward& op) {
  check_op(op);
  const int64_t T = op.h.rows(), D = op.h.columns();
  ForwardArgs a{op.h.data,
                op.h.row_stride,
                nullptr,
                0,
                false,
                nullptr,
                0,
                op.weight.ptr<float>(),
                op.y.data,
                op.y.row_stride,
                op.rstd.ptr<float>(),
                D,
                op.eps};
  if (op.branch) {
    a.branch = op.branch.data, a.branch_stride = op.branch.row_stride;
    a.branch_is_bf16 = act_kind(op.branch);
    a.h_out = op.h_out.data, a.h_out_stride = op.h_out.row_stride;
  }
  const bool aligned =
      access_width(D, op.h, op.y, op.branch, op.branch ? op.h_out : Tensor{}, as_row(op.weight)) == kPack;
  if (act_kind(op.h))
    act_kind(op.y) ? start_forward<bf16, bf16>(ctx, a, aligned, T)
                   : start_forward<bf16, float>(ctx, a, aligned, T);
  else
    act_kind(op.y) ? start_forward<float, bf16>(ctx, a, aligned, T)
                   : start_forward<float, float>(ctx, a, aligned, T);
}

void CudaOps::rms_norm_backward(Context& ctx, const RmsNormBackward& op) {
  check_op(op);
  const int64_t T = op.h.rows(), D = op.h.columns();
  if (T == 0) return;
  const int64_t blocks = std::min(kMaxPartials, div_up(T, kMinRows));
  ArenaScope scope(*ctx.scratch);
  const Tensor partial = ctx.scratch->tensor(DType::f32, {blocks, D}, "norm");
  const BackwardArgs a{op.dy.data,
                       op.dy.row_stride,
                       op.h.data,
                       op.h.row_stride,
                       op.weight.ptr<float>(),
                       op.rstd.ptr<float>(),
                       op.dh.data,
                       op.dh.row_stride,
                       partial.ptr<float>(),
                       T,
                       D};
  const bool aligned = access_width(D, op.dy, op.h, op.dh, as_row(op.weight), partial) == kPack,
             dh = act_kind(op.dh);
  if (act_kind(op.dy))
    act_kind(op.h) ? start_backward<bf16, bf16>(ctx, a, dh, aligned, blocks)
                   : start_backward<bf16, float>(ctx, a, dh, aligned, blocks);
  else
    act_kind(op.h) ? start_backward<float, bf16>(ctx, a, dh, aligned, blocks)
                   : start_backward<float, float>(ctx, a, dh, aligned, blocks);
  add_partials(ctx, "rms_norm_sum_partials", partial.ptr<float>(), blocks, D, op.dweight.ptr<float>(), D);
}

}  // namespace jambalaya::cuda
