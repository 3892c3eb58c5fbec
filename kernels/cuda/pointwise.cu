// SwiGLU, biases and the affine map, element by element. Legend: kernels/ops.h. All are bound by memory:
// every element is read and written once, 8 elements a thread where addresses allow.
#include "kernels/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/partials.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vector.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kThreads = 256;

/// 1 / (1 + e^-x): to fp32's last bits for f32, by two approximate instructions for bf16. Infinities
/// saturate, NaN stays.
__device__ __forceinline__ float sigmoid(float x, const float*) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float sigmoid(float x, const bf16*) { return rcp(1.0f + ex2(-1.44269504f * x)); }

/// One thread for N neighbouring columns of gate and up.
template <int N, class Act>
__global__ void swiglu_forward_kernel(const Act* gate_up, int64_t gate_up_stride, Act* h, int64_t h_stride,
                                      int64_t rows, int64_t packs) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rows * packs) return;
  const int64_t row = i / packs, column = i % packs * N;
  const Act* const from = gate_up + row * gate_up_stride + column;
  float gate[N], up[N];
  load<N>(gate, from);
  load<N>(up, from + packs * N);
#pragma unroll
  for (int j = 0; j < N; j++) up[j] *= gate[j] * sigmoid(gate[j], gate_up);
  store<N>(h + row * h_stride + column, up);
}

/// d/dg (g s(g)) = s (1 + g (1 - s)) = s + (g s) (1 - s).
template <int N, class Act>
__global__ void swiglu_backward_kernel(const Act* dh, int64_t dh_stride, const Act* gate_up,
                                       int64_t gate_up_stride, Act* dgate_up, int64_t dgate_up_stride,
                                       int64_t rows, int64_t packs) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rows * packs) return;
  const int64_t row = i / packs, column = i % packs * N;
  const Act* const from = gate_up + row * gate_up_stride + column;
  float gate[N], up[N], d[N];
  load<N>(gate, from);
  load<N>(up, from + packs * N);
  load<N>(d, dh + row * dh_stride + column);
#pragma unroll
  for (int j = 0; j < N; j++) {
    const float s = sigmoid(gate[j], gate_up), silu = gate[j] * s;
    gate[j] = d[j] * up[j] * (s + silu * (1.0f - s));
    up[j] = d[j] * silu;
  }
  Act* const to = dgate_up + row * dgate_up_stride + column;
  store<N>(to, gate);
  store<N>(to + packs * N, up);
}

template <class Act>
void start(const Context& ctx, const SwigluForward& op) {
  auto go = [&]<int N>() {
    const int64_t rows = op.h.rows(), packs = op.h.columns() / N;
    launch(ctx, "swiglu_forward", swiglu_forward_kernel<N, Act>,
           {grid_of(div_up(rows * packs, kThreads)), kThreads}, op.gate_up.ptr<Act>(), op.gate_up.row_stride,
           op.h.ptr<Act>(), op.h.row_stride, rows, packs);
  };
  // F, not 2F, decides: up begins at column F.
  access_width(op.h.columns(), op.h, op.gate_up) == 8 ? go.template operator()<8>()
                                                      : go.template operator()<1>();
}

template <class Act>
void start(const Context& ctx, const SwigluBackward& op) {
  auto go = [&]<int N>() {
    const int64_t rows = op.dh.rows(), packs = op.dh.columns() / N;
    launch(ctx, "swiglu_backward", swiglu_backward_kernel<N, Act>,
           {grid_of(div_up(rows * packs, kThreads)), kThreads}, op.dh.ptr<Act>(), op.dh.row_stride,
           op.gate_up.ptr<Act>(), op.gate_up.row_stride, op.dgate_up.ptr<Act>(), op.dgate_up.row_stride, rows,
           packs);
  };
  access_width(op.dh.columns(), op.dh, op.gate_up, op.dgate_up) == 8 ? go.template operator()<8>()
                                                                     : go.template operator()<1>();
}

/// One thread for four elements; the last one's may be fewer. `vector`: all addresses are multiples of 16.
__global__ void multiply_add_kernel(const float* a, const float* x, const float* b, float* y, int64_t n,
                                    bool vector) {
  constexpr int N = 4;
  const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (vector && i + N <= n) {
    float va[N], vx[N], vb[N];
    load<N>(va, a + i), load<N>(vx, x + i), load<N>(vb, b + i);
#pragma unroll
    for (int j = 0; j < N; j++) vb[j] = fmaf(va[j], vx[j], vb[j]);
    store<N>(y + i, vb);
  } else {
    for (int64_t j = i; j < min(n, i + N); j++) y[j] = fmaf(a[j], x[j], b[j]);
  }
}

template <int N, class Act, class Bias>
__global__ void add_bias_kernel(Act* x, int64_t x_stride, const Bias* bias, int64_t rows, int64_t packs) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rows * packs) return;
  const int64_t row = i / packs, column = i % packs * N;
  Act* const at = x + row * x_stride + column;
  float value[N], add[N];
  load<N>(value, at);
  load<N>(add, bias + column);
#pragma unroll
  for (int j = 0; j < N; j++) value[j] += add[j];
  store<N>(at, value);
}

template <class Act, class Bias>
void start(const Context& ctx, const AddBias& op) {
  auto go = [&]<int N>() {
    const int64_t rows = op.x.rows(), packs = op.x.columns() / N;
    launch(ctx, "add_bias", add_bias_kernel<N, Act, Bias>,
           {grid_of(div_up(rows * packs, kThreads)), kThreads}, op.x.ptr<Act>(), op.x.row_stride,
           op.bias.ptr<Bias>(), rows, packs);
  };
  // A bias is one row to the kernel.
  Tensor bias = make_tensor(op.bias.data, op.bias.dtype, {1, op.bias.rows()});
  access_width(op.x.columns(), op.x, bias) == 8 ? go.template operator()<8>() : go.template operator()<1>();
}

// ---- gradient of a bias ----

/// At most this many partial sums, of at least this many rows each: shapes alone decide.
constexpr int64_t kMaxPartials = 256, kMinRows = 64;

/// Block (x, y): columns [32 N x, 32 N (x + 1)), rows [rows_each y, rows_each (y + 1)). A warp walks every
/// eighth row of them; the eight sums are added in the order of the warps.
template <int N, class Act>
__global__ void sum_over_rows_kernel(const Act* dy, int64_t dy_stride, int64_t rows, int64_t columns,
                                     int64_t rows_each, float* partial) {
  constexpr int kWarps = kThreads / 32;
  __shared__ float sums[kWarps][32 * N];
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int64_t column = (int64_t(blockIdx.x) * 32 + lane) * N, begin = blockIdx.y * rows_each,
                end = min(rows, begin + rows_each);
  float sum[N] = {};
  if (column < columns) {
#pragma unroll 4
    for (int64_t r = begin + warp; r < end; r += kWarps) {
      float d[N];
      load<N>(d, dy + r * dy_stride + column);
#pragma unroll
      for (int j = 0; j < N; j++) sum[j] += d[j];
    }
  }
#pragma unroll
  for (int j = 0; j < N; j++) sums[warp][32 * j + lane] = sum[j];
  __syncthreads();
  if (warp != 0 || column >= columns) return;
  for (int w = 1; w < kWarps; w++)
#pragma unroll
    for (int j = 0; j < N; j++) sum[j] += sums[w][32 * j + lane];
  store<N>(partial + blockIdx.y * columns + column, sum);
}

template <class Act>
void start(const Context& ctx, const BiasBackward& op) {
  const int64_t rows = op.dy.rows(), columns = op.dy.columns();
  const int64_t rows_each = std::max(kMinRows, div_up(rows, kMaxPartials)), count = div_up(rows, rows_each);
  ArenaScope scope(*ctx.scratch);
  const Tensor partial = ctx.scratch->tensor(DType::f32, {count, columns}, "bias gradient");
  auto go = [&]<int N>() {
    dim3 grid = grid_of(div_up(columns, 32 * N));
    grid.y = unsigned(count);
    launch(ctx, "bias_backward", sum_over_rows_kernel<N, Act>, {grid, kThreads}, op.dy.ptr<Act>(),
           op.dy.row_stride, rows, columns, rows_each, partial.ptr<float>());
  };
  access_width(columns, op.dy, partial) == 8 ? go.template operator()<8>() : go.template operator()<1>();
  add_partials(ctx, "bias_sum_partials", partial.ptr<float>(), count, columns, op.dbias.ptr<float>(),
               columns);
}

}  // namespace

void CudaOps::swiglu_forward(Context& ctx, const SwigluForward& op) {
  check_op(op);
  act_kind(op.h) ? start<bf16>(ctx, op) : start<float>(ctx, op);
}

void CudaOps::swiglu_backward(Context& ctx, const SwigluBackward& op) {
  check_op(op);
  act_kind(op.dh) ? start<bf16>(ctx, op) : start<float>(ctx, op);
}

void CudaOps::multiply_add(Context& ctx, const MultiplyAdd& op) {
  check_op(op);
  const int64_t n = op.y.numel();
  bool vector = true;
  for (const Tensor& t : {op.a, op.x, op.b, op.y})
    vector = vector && reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
  launch(ctx, "multiply_add", multiply_add_kernel, {grid_of(div_up(n, 4 * kThreads)), kThreads},
         op.a.ptr<float>(), op.x.ptr<float>(), op.b.ptr<float>(), op.y.ptr<float>(), n, vector);
}

void CudaOps::add_bias(Context& ctx, const AddBias& op) {
  check_op(op);
  if (act_kind(op.x))
    act_kind(op.bias) ? start<bf16, bf16>(ctx, op) : start<bf16, float>(ctx, op);
  else
    act_kind(op.bias) ? start<float, bf16>(ctx, op) : start<float, float>(ctx, op);
}

void CudaOps::bias_backward(Context& ctx, const BiasBackward& op) {
  check_op(op);
  act_kind(op.dy) ? start<bf16>(ctx, op) : start<float>(ctx, op);
}

}  // namespace jambalaya::cuda
