// The router of the experts: softmax, the choice of the K largest, the statistics of the balance loss, and
// the gradient. Legend: kernels/ops.h; T tokens, X experts, K chosen. The logits are read once and everything
// stays in registers: a group of lanes holds one token's experts, expert x = i * Lanes + lane. Memory is not
// what binds (X is small); the shuffles of the K maxima are.
#include <cfloat>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/reduce.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int64_t kRouterTokens = 128;  // of one block: tokens per partial sum of the statistics

/// Order of choice: falling logit, then rising index. The logits themselves decide, not their probabilities,
/// which may round to a tie. NaN and -inf count as the lowest finite number, so that the choice stays well
/// defined while probs and lse show them.
__device__ __forceinline__ uint32_t choice_key(float logit) {
  const float key = fmaxf(logit, -FLT_MAX) + 0.f;  // fmaxf(NaN, y) = y; -0 becomes 0: they are equal
  const uint32_t bits = __float_as_uint(key);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
constexpr uint32_t kTaken = 0;  // below the key of any expert

struct RouterArgs {
  const float* logits;
  int64_t tokens;
  int experts, k;
  bool renormalize;
  float* probs;
  int32_t* expert;
  float *weight, *lse;
  float* sums;          ///< [2X, blocks] counts, then sums of probabilities, of each block's tokens
  double* lse_squares;  ///< [blocks]
};

/// What a group of lanes has seen of its tokens.
template <int PerLane>
struct RouterSums {
  float counts[PerLane] = {}, probs[PerLane] = {};
  double lse_square = 0;
};

/// One token by a group of `Lanes` lanes. Groups beyond the last token go along (`valid` false), because
/// their shuffles are shared with the warp's others.
template <int Lanes, int PerLane>
__device__ __forceinline__ void route(const RouterArgs& a, int64_t t, bool valid, RouterSums<PerLane>& sums) {
  const int lane = threadIdx.x % Lanes;
  float p[PerLane];
  uint32_t keys[PerLane];
  float top = -FLT_MAX;
#pragma unroll
  for (int i = 0; i < PerLane; i++) {
    const int x = i * Lanes + lane;
    const bool there = valid && x < a.experts;
    p[i] = there ? a.logits[t * a.experts + x] : -FLT_MAX;
    keys[i] = there ? choice_key(p[i]) : kTaken;
    if (there) top = fmaxf(top, p[i]);
  }
  top = warp_reduce<Lanes>(top, Max());
  float total = 0;
#pragma unroll
  for (int i = 0; i < PerLane; i++) {
    p[i] = i * Lanes + lane < a.experts ? expf(p[i] - top) : 0.f;
    total += p[i];
  }
  total = warp_reduce<Lanes>(total);
  const float lse = top + logf(total);
  if (valid && lane == 0) {
    a.lse[t] = lse;
    sums.lse_square += double(lse) * double(lse);
  }
#pragma unroll
  for (int i = 0; i < PerLane; i++) {
    const int x = i * Lanes + lane;
    p[i] /= total;
    if (!valid || x >= a.experts) continue;
    a.probs[t * a.experts + x] = p[i];
    sums.probs[i] += p[i];
  }
  const unsigned group_mask = Lanes == 32 ? kAllLanes : 0xffffu << (threadIdx.x & 16);
  float chosen = 0;
  for (int j = 0; j < a.k; j++) {
    uint32_t largest = kTaken, x = 0;  // of this lane, then of the group
#pragma unroll
    for (int i = 0; i < PerLane; i++)
      if (keys[i] > largest) largest = keys[i], x = i * Lanes + lane;
    const uint32_t own_largest = largest;
    largest = __reduce_max_sync(group_mask, largest);
    x = __reduce_min_sync(group_mask, own_largest == largest ? x : ~0u);
    float own = 0;
#pragma unroll
    for (int i = 0; i < PerLane; i++) {
      if (!valid || uint32_t(i * Lanes + lane) != x) continue;
      keys[i] = kTaken;
      own = p[i];
      sums.counts[i] += 1;
      a.expert[t * a.k + j] = int32_t(x);
      a.weight[t * a.k + j] = own;
    }
    if (a.renormalize) chosen += __shfl_sync(kAllLanes, own, int(x % Lanes), Lanes);
  }
  if (!a.renormalize) return;
  __syncwarp();  // other lanes' weights
  for (int j = lane; valid && j < a.k; j += Lanes) a.weight[t * a.k + j] /= chosen;
}

/// A block for kRouterTokens tokens.
template <int Lanes, int PerLane>
__global__ void __launch_bounds__(kThreads) router_forward_kernel(RouterArgs a) {
  constexpr int kGroups = kThreads / Lanes;
  const int group = threadIdx.x / Lanes, lane = threadIdx.x % Lanes;
  RouterSums<PerLane> sums;
  for (int64_t i = group; i < kRouterTokens; i += kGroups) {
    const int64_t t = int64_t(blockIdx.x) * kRouterTokens + i;
    if (t - threadIdx.x % 32 / Lanes >= a.tokens) break;  // nothing left for the whole warp
    route<Lanes, PerLane>(a, t, t < a.tokens, sums);
  }
  // The block's statistics: groups one after another.
  float* const shared = dynamic_shared<float>();  // [group][expert]
  __shared__ double lse_squares[kWarps];
  for (int which = 0; which < 2; which++) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < PerLane; i++)
      if (i * Lanes + lane < a.experts)
        shared[group * a.experts + i * Lanes + lane] = which ? sums.probs[i] : sums.counts[i];
    __syncthreads();
    for (int x = threadIdx.x; x < a.experts; x += kThreads) {
      float sum = 0;
      for (int g = 0; g < kGroups; g++) sum += shared[g * a.experts + x];
      a.sums[(int64_t(which) * a.experts + x) * gridDim.x + blockIdx.x] = sum;
    }
  }
  const double lse_square = block_reduce<kWarps>(sums.lse_square, lse_squares);
  if (threadIdx.x == 0) a.lse_squares[blockIdx.x] = lse_square;
}

/// One block for each of the 2X + 1 statistics: the blocks' sums in a fixed order.
__global__ void router_stats_kernel(const float* sums, const double* lse_squares, int64_t blocks,
                                    float* stats) {
  __shared__ double shared[kWarps];
  const int which = blockIdx.x;
  const bool is_lse = which + 1 == int(gridDim.x);
  double sum = 0;
  for (int64_t b = threadIdx.x; b < blocks; b += kThreads)
    sum += is_lse ? lse_squares[b] : double(sums[which * blocks + b]);
  sum = block_reduce<kWarps>(sum, shared);
  if (threadIdx.x == 0) stats[which] = float(sum);
}

struct RouterBackwardKernelArgs {
  const float* probs;
  const int32_t* expert;
  const float *weight, *lse, *dweight, *dprob;
  int64_t tokens;
  int experts, k;
  bool renormalize;
  float z_scale;
  float* dlogits;
};

/// A group of lanes for each token. w = p / s with s the sum of the chosen p, so dp = (dw - <dw, w>) / s for
/// the chosen (not renormalised: dp = dw), and dprob for all; dlogits = p (dp - <p, dp> + 2 z lse).
template <int Lanes, int PerLane>
__global__ void __launch_bounds__(kThreads) router_backward_kernel(RouterBackwardKernelArgs a) {
  const int64_t t = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / Lanes;
  const int lane = threadIdx.x % Lanes;
  const bool valid = t < a.tokens;
  const float* const p_of = a.probs + t * a.experts;
  const int64_t first = t * a.k;
  float mean = 0, chosen = 1;
  if (a.renormalize) {
    chosen = 0;
    for (int j = lane; valid && j < a.k; j += Lanes) {
      mean += a.dweight[first + j] * a.weight[first + j];
      chosen += p_of[a.expert[first + j]];
    }
    mean = warp_reduce<Lanes>(mean);
    chosen = warp_reduce<Lanes>(chosen);
  }
  float p[PerLane], dp[PerLane];
#pragma unroll
  for (int i = 0; i < PerLane; i++) {
    const int x = i * Lanes + lane;
    const bool there = valid && x < a.experts;
    p[i] = there ? p_of[x] : 0.f;
    dp[i] = there && a.dprob ? a.dprob[x] : 0.f;
  }
  for (int j = 0; valid && j < a.k; j++) {
    const int x = a.expert[first + j];
    const float d = (a.dweight[first + j] - mean) / chosen;
#pragma unroll
    for (int i = 0; i < PerLane; i++) dp[i] += i * Lanes + lane == x ? d : 0.f;
  }
  float inner = 0;
#pragma unroll
  for (int i = 0; i < PerLane; i++) inner += p[i] * dp[i];
  inner = warp_reduce<Lanes>(inner);
  if (!valid) return;
  const float common = 2 * a.z_scale * a.lse[t] - inner;
#pragma unroll
  for (int i = 0; i < PerLane; i++)
    if (i * Lanes + lane < a.experts) a.dlogits[t * a.experts + i * Lanes + lane] = p[i] * (dp[i] + common);
}

/// Calls start<Lanes, PerLane>() with the smallest group that holds X experts.
template <class Start>
void for_experts(int64_t experts, Start&& start) {
  JAMBALAYA_CHECK(experts <= 1024, experts, " experts; the GPU's router holds at most 1024");
  if (experts <= 16)
    start.template operator()<16, 1>();
  else if (experts <= 32)
    start.template operator()<32, 1>();
  else if (experts <= 64)
    start.template operator()<32, 2>();
  else if (experts <= 128)
    start.template operator()<32, 4>();
  else if (experts <= 256)
    start.template operator()<32, 8>();
  else if (experts <= 512)
    start.template operator()<32, 16>();
  else
    start.template operator()<32, 32>();
}

}  // namespace

void CudaOps::router_forward(Context& ctx, const RouterForward& op) {
  check_op(op);
  const int64_t tokens = op.logits.rows(), experts = op.logits.columns(), k = op.k;
  ArenaScope scope(*ctx.scratch);
  const int64_t blocks = div_up(tokens, kRouterTokens);
  const RouterArgs args{op.logits.ptr<float>(),
                        tokens,
                        int(experts),
                        int(k),
                        op.renormalize,
                        op.probs.ptr<float>(),
                        op.expert.ptr<int32_t>(),
                        op.weight.ptr<float>(),
                        op.lse.ptr<float>(),
                        ctx.scratch->array<float>(2 * experts * blocks, "router"),
                        ctx.scratch->array<double>(blocks, "router")};
  for_experts(experts, [&]<int Lanes, int PerLane>() {
    launch(ctx, "router_forward", router_forward_kernel<Lanes, PerLane>,
           {grid_of(blocks), kThreads, size_t(kThreads / Lanes * experts) * sizeof(float)}, args);
  });
  launch(ctx, "router_stats", router_stats_kernel, {grid_of(2 * experts + 1), kThreads}, args.sums,
         args.lse_squares, blocks, op.stats.ptr<float>());
}

void CudaOps::router_backward(Context& ctx, const RouterBackward& op) {
  check_op(op);
  const int64_t tokens = op.probs.rows(), experts = op.probs.columns(), k = op.expert.columns();
  const RouterBackwardKernelArgs args{op.probs.ptr<float>(),
                                      op.expert.ptr<int32_t>(),
                                      op.weight.ptr<float>(),
                                      op.lse.ptr<float>(),
                                      op.dweight.ptr<float>(),
                                      op.dprob ? op.dprob.ptr<float>() : nullptr,
                                      tokens,
                                      int(experts),
                                      int(k),
                                      op.renormalize,
                                      op.z_scale,
                                      op.dlogits.ptr<float>()};
  for_experts(experts, [&]<int Lanes, int PerLane>() {
    launch(ctx, "router_backward", router_backward_kernel<Lanes, PerLane>,
           {grid_of(div_up(tokens * Lanes, kThreads)), kThreads}, args);
  });
}

}  // namespace jambalaya::cuda
