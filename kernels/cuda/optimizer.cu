// Gradient norm and AdamW, each one pass over memory, which binds both. Legend: kernels/ops.h.
#include <cmath>

#include "kernels/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vector.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

/// Elements of a thread's access, 16 or 32 bytes.
constexpr int kPack = 8;

// ---- sum of squares ----

/// Partial sums: at most this many of a row (packed tensors are one row), of at least this many elements
/// each. Shapes alone decide.
constexpr int64_t kMaxPartials = 4096, kMinElements = 1 << 14;

/// The square of an fp32 number is exact in fp64 and cannot overflow. The largest drops NaN, the sum does
/// not.
struct Sums {
  double squares = 0;
  float largest = 0;
  __device__ __forceinline__ void add(float x) {
    squares = fma(double(x), double(x), squares);
    largest = fmaxf(largest, fabsf(x));
  }
};

/// `across` blocks a row, of `each` elements. `vector`: rows are aligned for packs.
template <class T>
__global__ void sum_squares_kernel(const T* x, int64_t x_stride, int64_t columns, int64_t across,
                                   int64_t each, bool vector, double* squares, double* largest) {
  __shared__ double shared[kWarps];
  const T* const row = x + blockIdx.x / across * x_stride;
  const int64_t begin = blockIdx.x % across * each, end = min(columns, begin + each);
  Sums sums;
  int64_t i = begin + int64_t(threadIdx.x) * kPack;
  if (vector) {
#pragma unroll 4
    for (; i + kPack <= end; i += kThreads * kPack) {
      float v[kPack];
      load<kPack>(v, row + i);
#pragma unroll
      for (int j = 0; j < kPack; j++) sums.add(v[j]);
    }
  }
  for (; i < end; i += kThreads * kPack)
    for (int64_t j = i; j < min(end, i + kPack); j++) sums.add(as_float(row[j]));
  const double total = block_reduce<kWarps>(sums.squares, shared),
               top = block_reduce<kWarps>(double(sums.largest), shared, Max{});
  if (threadIdx.x != 0) return;
  squares[blockIdx.x] = total;
  largest[blockIdx.x] = top;
}

__global__ void finish_squares_kernel(const double* squares, const double* largest, int64_t count,
                                      double weight, double* out) {
  __shared__ double shared[kWarps];
  double sum = 0, top = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += squares[i], top = fmax(top, largest[i]);
  sum = block_reduce<kWarps>(sum, shared);
  top = block_reduce<kWarps>(top, shared, Max{});
  if (threadIdx.x != 0) return;
  out[0] += weight * sum;
  if (isnan(sum) || isnan(out[0]) || isnan(out[1]))
    out[0] = out[1] = __longlong_as_double(0x7ff8000000000000ll);
  else
    out[1] = fmax(out[1], top);
}

template <class T>
void start(const Context& ctx, const SumSquares& op) {
  int64_t rows = op.x.rows(), columns = op.x.columns(), stride = op.x.row_stride;
  if (op.x.packed()) columns *= rows, rows = 1, stride = columns;
  if (rows == 0 || columns == 0) return;
  const int64_t each = (std::max(kMinElements, div_up(columns, kMaxPartials)) + kPack - 1) / kPack * kPack,
                across = div_up(columns, each), count = rows * across;
  ArenaScope scope(*ctx.scratch);
  double* const squares = ctx.scratch->array<double>(count, "sum of squares");
  double* const largest = ctx.scratch->array<double>(count, "sum of squares");
  const bool vector = reinterpret_cast<uintptr_t>(op.x.data) % 16 == 0 &&
                      (rows == 1 || stride * int64_t(sizeof(T)) % 16 == 0);
  launch(ctx, "sum_squares", sum_squares_kernel<T>, {grid_of(count), kThreads}, op.x.ptr<T>(), stride,
         columns, across, each, vector, squares, largest);
  launch(ctx, "finish_squares", finish_squares_kernel, {1, kThreads}, squares, largest, count, op.weight,
         op.out.ptr<double>());
}

// ---- AdamW ----

struct AdamWArgs {
  float *param, *m, *v;
  const float* grad;
  bf16* compute;  ///< null: none
  const float* grad_scale;
  int64_t n;
  float lr, beta1, one_minus_beta1, beta2, one_minus_beta2, correction1, correction2, eps, decay;
  bool vector;  ///< all addresses are multiples of 16
};

/// One parameter, in the CPU's order of roundings.
__device__ __forceinline__ void step(const AdamWArgs& a, float scale, float grad, float& p, float& m,
                                     float& v) {
  const float g = __fmul_rn(grad, scale);
  m = __fmaf_rn(a.one_minus_beta1, g, __fmul_rn(a.beta1, m));
  v = __fmaf_rn(__fmul_rn(a.one_minus_beta2, g), g, __fmul_rn(a.beta2, v));
  const float root = __fadd_rn(__fsqrt_rn(__fmul_rn(v, a.correction2)), a.eps);
  const float ratio = __fdiv_rn(__fmul_rn(m, a.correction1), root);
  // The decay is added to the step, not multiplied into p: 1 - lr decay would round away most of lr decay's
  // bits.
  p = __fmaf_rn(-a.lr, __fmaf_rn(a.decay, p, ratio), p);
}

/// N parameters from i on, of which there are that many.
template <int N>
__device__ __forceinline__ void update(const AdamWArgs& a, int64_t i, float scale, bool skip) {
  float p[N];
  load<N>(p, a.param + i);
  if (!skip) {
    float grad[N], m[N], v[N];
    load<N>(grad, a.grad + i), load<N>(m, a.m + i), load<N>(v, a.v + i);
#pragma unroll
    for (int j = 0; j < N; j++) step(a, scale, grad[j], p[j], m[j], v[j]);
    store<N>(a.m + i, m), store<N>(a.v + i, v), store<N>(a.param + i, p);
  }
  if (a.compute) store<N>(a.compute + i, p);
}

__global__ void adamw_kernel(AdamWArgs a) {
  const float scale = a.grad_scale[0];
  const bool skip = a.grad_scale[1] != 0;
  const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kPack;
  if (skip && !a.compute) return;
  if (a.vector && i + kPack <= a.n)
    update<kPack>(a, i, scale, skip);
  else
    for (int64_t j = i; j < min(a.n, i + kPack); j++) update<1>(a, j, scale, skip);
}

}  // namespace

void CudaOps::sum_squares(Context& ctx, const SumSquares& op) {
  check_op(op);
  act_kind(op.x) ? start<bf16>(ctx, op) : start<float>(ctx, op);
}

void CudaOps::adamw(Context& ctx, const AdamW& op) {
  check_op(op);
  const int64_t n = op.param.numel();
  bool vector = true;
  for (const Tensor& t : {op.param, op.m, op.v, op.grad, op.compute})
    vector = vector && reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
  const double beta1 = double(op.beta1), beta2 = double(op.beta2), steps = double(op.step);
  launch(
      ctx, "adamw", adamw_kernel, {grid_of(div_up(n, kThreads * kPack)), kThreads},
      AdamWArgs{op.param.ptr<float>(), op.m.ptr<float>(), op.v.ptr<float>(), op.grad.ptr<float>(),
                op.compute ? op.compute.ptr<bf16>() : nullptr, op.grad_scale.ptr<float>(), n, op.lr, op.beta1,
                float(1 - beta1), op.beta2, float(1 - beta2), float(1 / (1 - std::pow(beta1, steps))),
                float(1 / (1 - std::pow(beta2, steps))), op.eps, op.decay, vector});
}

}  // namespace jambalaya::cuda
