// Balance loss: a few numbers per layer, in double precision and one block.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/reduce.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;

struct BalanceArgs {
  const float* stats;
  int64_t stats_stride, layers;
  int experts;
  double tokens;
  bool per_layer;
  double factor, weight;
  float* dprob;
  int64_t dprob_stride;
  double* sums;
};

/// One block: a few numbers per layer. `share` and `rows` as in kernels/cpu/balance.cpp.
__global__ void balance_kernel(BalanceArgs a) {
  __shared__ double shared[kWarps];
  const double experts = a.experts, layers = double(a.layers), share = a.per_layer ? 1 / layers : 1.,
               rows = a.per_layer ? a.tokens : a.tokens * layers,
               slope = a.weight * a.factor * share * experts / rows;
  double loss = 0, z = 0;
  for (int x = threadIdx.x; x < a.experts; x += kThreads) {
    double f = 0, p = 0;
    for (int64_t l = 0; l < a.layers; l++) {
      const float* const stats = a.stats + l * a.stats_stride;
      if (a.per_layer) f = p = 0;
      f += double(stats[x]) / rows;
      p += double(stats[a.experts + x]) / rows;
      if (!a.per_layer) continue;
      loss += share * experts * f * p;
      a.dprob[l * a.dprob_stride + x] = float(slope * f);
    }
    if (a.per_layer) continue;
    loss += experts * f * p;
    for (int64_t l = 0; l < a.layers; l++) a.dprob[l * a.dprob_stride + x] = float(slope * f);
  }
  for (int64_t l = threadIdx.x; l < a.layers; l += kThreads)
    z += double(a.stats[l * a.stats_stride + 2 * a.experts]) / (a.tokens * layers);
  loss = block_reduce<kWarps>(loss, shared);
  z = block_reduce<kWarps>(z, shared);
  if (threadIdx.x == 0) {
    a.sums[0] += a.factor * loss;
    a.sums[1] += z;
  }
}

}  // namespace

void CudaOps::balance_loss(Context& ctx, const BalanceLoss& op) {
  check_op(op);
  const int64_t layers = op.stats.rows(), experts = (op.stats.columns() - 1) / 2;
  launch(
      ctx, "balance_loss", balance_kernel, {1, kThreads},
      BalanceArgs{op.stats.ptr<float>(), op.stats.row_stride, layers, int(experts), op.tokens, op.per_layer,
                  op.factor, op.weight, op.dprob.ptr<float>(), op.dprob.row_stride, op.sums.ptr<double>()});
}

}  // namespace jambalaya::cuda
