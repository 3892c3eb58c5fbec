// The three norms inside Jamba's Mamba: one warp a token, all three in one launch. Legend: kernels/ops.h.
// Rows are short (288 numbers in Jamba): they are read twice, the second time from the L1 cache.
#include "kernels/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/partials.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vector.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kWarps = 8;

/// Of the weights' gradients: at most this many partial sums, of at least this many tokens a warp.
constexpr int64_t kMaxPartials = 264, kMinTokens = 8;
/// Sums of a warp are kept in shared memory up to this many bytes a block, else in memory.
constexpr int64_t kSharedBytes = 96 << 10;

/// One part of x_proj's output, width columns from `column` of p on.
struct ForwardPart {
  int64_t column, width;
  const float* weight;  ///< null: copied
  void* y;
  int64_t y_stride;
};
struct ForwardArgs {
  const float* p;
  int64_t p_stride;
  ForwardPart dt, b, c;
  float* rstd;
  int64_t tokens;
  float eps;
};

template <class Y>
__device__ __forceinline__ void forward_part(const ForwardArgs& a, const ForwardPart& part, int64_t token,
                                             int lane, float* rstd_out) {
  const float* const x = a.p + token * a.p_stride + part.column;
  Y* const y = static_cast<Y*>(part.y) + token * part.y_stride;
  float rstd = 1;
  if (part.weight) {
    float sum = 0;
#pragma unroll 4
    for (int64_t i = lane; i < part.width; i += 32) sum = fmaf(x[i], x[i], sum);
    rstd = rsqrtf(warp_reduce(sum) / float(part.width) + a.eps);
  }
#pragma unroll 4
  for (int64_t i = lane; i < part.width; i += 32)
    y[i] = from_float<Y>(part.weight ? part.weight[i] * (x[i] * rstd) : x[i]);
  if (lane == 0) *rstd_out = rstd;
}

template <class Dt>
__global__ void forward_kernel(ForwardArgs a) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t token = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (token >= a.tokens) return;
  forward_part<Dt>(a, a.dt, token, lane, a.rstd + 3 * token);
  forward_part<float>(a, a.b, token, lane, a.rstd + 3 * token + 1);
  forward_part<float>(a, a.c, token, lane, a.rstd + 3 * token + 2);
}

struct BackwardPart {
  int64_t column, width;
  const float* weight;  ///< null: copied
  const void* dy;
  int64_t dy_stride;
};
struct BackwardArgs {
  const float* p;
  int64_t p_stride;
  float* dp;
  int64_t dp_stride;
  BackwardPart dt, b, c;
  const float* rstd;
  float* partial;  ///< [blocks, columns], of the weights' gradients; [warps, columns] if not `shared`
  int64_t tokens, columns;
  bool shared;
};

/// With q = weight dy and x^ = p rstd: dp = rstd (q - x^ mean(q x^)), the weight's gradient += dy x^.
template <class DY>
__device__ __forceinline__ void backward_part(const BackwardArgs& a, const BackwardPart& part, int64_t token,
                                              int lane, float rstd, float* dweight) {
  const float* const x = a.p + token * a.p_stride + part.column;
  const DY* const dy = static_cast<const DY*>(part.dy) + token * part.dy_stride;
  float* const dp = a.dp + token * a.dp_stride + part.column;
  if (!part.weight) {
    for (int64_t i = lane; i < part.width; i += 32) dp[i] = as_float(dy[i]);
    return;
  }
  float dot = 0;
#pragma unroll 4
  for (int64_t i = lane; i < part.width; i += 32) {
    const float product = as_float(dy[i]) * (x[i] * rstd);
    dweight[part.column + i] += product;
    dot = fmaf(part.weight[i], product, dot);
  }
  const float mean = warp_reduce(dot) / float(part.width);
#pragma unroll 4
  for (int64_t i = lane; i < part.width; i += 32)
    dp[i] = rstd * fmaf(-(x[i] * rstd), mean, part.weight[i] * as_float(dy[i]));
}

/// Warp w of all takes tokens w, w + warps, ... and sums the weights' gradients over them; the sums of a
/// block are added in the order of its warps. No other lane touches a lane's sums before the barrier.
template <class DDt>
__global__ void backward_kernel(BackwardArgs a) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int64_t first = int64_t(blockIdx.x) * kWarps + warp, step = int64_t(gridDim.x) * kWarps;
  float* const all = dynamic_shared<float>();
  float* const dweight = a.shared ? all + warp * a.columns : a.partial + first * a.columns;
  for (int64_t i = lane; i < a.columns; i += 32) dweight[i] = 0;
  __syncwarp();  // a part's columns fall to other lanes than the whole row's
  for (int64_t token = first; token < a.tokens; token += step) {
    const float* const rstd = a.rstd + 3 * token;
    backward_part<DDt>(a, a.dt, token, lane, rstd[0], dweight);
    backward_part<float>(a, a.b, token, lane, rstd[1], dweight);
    backward_part<float>(a, a.c, token, lane, rstd[2], dweight);
  }
  if (!a.shared) return;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < a.columns; i += 32 * kWarps) {
    float sum = 0;
    for (int w = 0; w < kWarps; w++) sum += all[w * a.columns + i];
    a.partial[blockIdx.x * a.columns + i] = sum;
  }
}

const float* pointer(const Tensor& weight) { return weight ? weight.ptr<float>() : nullptr; }

}  // namespace

void CudaOps::ssm_norms_forward(Context& ctx, const SsmNormsForward& op) {
  check_op(op);
  const int64_t T = op.p.rows(), R = op.dt.columns(), N = op.b.columns();
  const ForwardArgs a{op.p.ptr<float>(),
                      op.p.row_stride,
                      {0, R, pointer(op.w_dt), op.dt.data, op.dt.row_stride},
                      {R, N, pointer(op.w_b), op.b.ptr<float>(), op.b.row_stride},
                      {R + N, N, pointer(op.w_c), op.c.ptr<float>(), op.c.row_stride},
                      op.rstd.ptr<float>(),
                      T,
                      op.eps};
  launch(ctx, "ssm_norms_forward", act_kind(op.dt) ? forward_kernel<bf16> : forward_kernel<float>,
         {grid_of(div_up(T, kWarps)), 32 * kWarps}, a);
}

void CudaOps::ssm_norms_backward(Context& ctx, const SsmNormsBackward& op) {
  check_op(op);
  const int64_t T = op.p.rows(), R = op.ddt.columns(), N = op.db.columns(), P = R + 2 * N;
  if (T == 0) return;
  const bool shared = kWarps * P * 4 <= kSharedBytes;
  const int64_t blocks = std::min(kMaxPartials, div_up(T, kWarps * kMinTokens)),
                count = shared ? blocks : blocks * kWarps;
  ArenaScope scope(*ctx.scratch);
  float* const partial = ctx.scratch->array<float>(count * P, "norm");
  const BackwardArgs a{op.p.ptr<float>(),
                       op.p.row_stride,
                       op.dp.ptr<float>(),
                       op.dp.row_stride,
                       {0, R, pointer(op.w_dt), op.ddt.data, op.ddt.row_stride},
                       {R, N, pointer(op.w_b), op.db.ptr<float>(), op.db.row_stride},
                       {R + N, N, pointer(op.w_c), op.dc.ptr<float>(), op.dc.row_stride},
                       op.rstd.ptr<float>(),
                       partial,
                       T,
                       P,
                       shared};
  launch(ctx, "ssm_norms_backward", act_kind(op.ddt) ? backward_kernel<bf16> : backward_kernel<float>,
         {grid_of(blocks), 32 * kWarps, shared ? size_t(kWarps * P * 4) : 0}, a);
  auto add = [&](const Tensor& weight, const Tensor& dweight, int64_t column, int64_t width) {
    if (!weight) return;
    add_partials(ctx, "ssm_norms_sum_partials", partial + column, count, P, dweight.ptr<float>(), width);
  };
  add(op.w_dt, op.dw_dt, 0, R);
  add(op.w_b, op.dw_b, R, N);
  add(op.w_c, op.dw_c, R + N, N);
}

}  // namespace jambalaya::cuda
