// Rotary position embedding (Su et al. 2021), in place. A block turns some neighbouring tokens of one
// segment; their cosines and sines are computed once and serve all heads. Bound by memory: x is read and
// written once.
#include <cmath>

#include "kernels/check.h"
#include "kernels/cuda/attention_call.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/vector.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kThreads = 256, kTokens = 16;

/// The pair (j, j + C/2) of a token at position p turns by p theta^(-2j/C). The angle is reduced in float64:
/// an fp32 product would be off by 0.01 rad at position 2^18. What is left, at most half a turn, is fp32.
__device__ __forceinline__ float2 rotation(int64_t position, int j, int half, double log2_theta, float sign) {
  constexpr double kTurn = 6.283185307179586;
  const double turns = double(position) * exp2(-double(j) / half * log2_theta) / kTurn;
  const float angle = float((turns - rint(turns)) * kTurn);
  return make_float2(cosf(angle), sign * sinf(angle));
}

template <int N, class T>
__global__ void __launch_bounds__(kThreads) rope_kernel(T* x, int64_t stride, int heads, int half,
                                                        double log2_theta, float sign, SegmentTable table) {
  const TileSegment segment = segment_of_tile(table, int(blockIdx.x));
  const int first = (int(blockIdx.x) - segment.first_tile) * kTokens;
  const int tokens = min(kTokens, segment.tokens - first);
  float2* const turned = dynamic_shared<float2>();  // [kTokens, half]
  for (int i = threadIdx.x; i < tokens * half; i += kThreads)
    turned[i] = rotation(int64_t(segment.past) + first + i / half, i % half, half, log2_theta, sign);
  __syncthreads();
  const int packs = half / N, row = heads * packs;
  for (int i = threadIdx.x; i < tokens * row; i += kThreads) {
    const int token = i / row, head = i % row / packs, j = i % packs * N;
    T* const low = x + (segment.first_token + first + token) * stride + int64_t(head) * 2 * half + j;
    float x1[N], x2[N];
    load<N>(x1, low);
    load<N>(x2, low + half);
#pragma unroll
    for (int n = 0; n < N; n++) {
      const float2 r = turned[token * half + j + n];
      const float y1 = x1[n] * r.x - x2[n] * r.y, y2 = x2[n] * r.x + x1[n] * r.y;
      x1[n] = y1, x2[n] = y2;
    }
    store<N>(low, x1);
    store<N>(low + half, x2);
  }
}

template <int N, class T>
void start(const Context& ctx, const Rope& op, const SegmentTable& table) {
  const int64_t half = op.head_size / 2;
  launch(ctx, "rope", rope_kernel<N, T>,
         {grid_of(table.tiles), kThreads, size_t(kTokens * half) * sizeof(float2)}, op.x.ptr<T>(),
         op.x.row_stride, op.x.columns() / op.head_size, half, std::log2(double(op.theta)),
         op.inverse ? -1.f : 1.f, table);
}

template <class T>
void start(const Context& ctx, const Rope& op, const SegmentTable& table) {
  const bool wide = op.head_size % 16 == 0 && access_width(op.x.columns(), op.x) == 8;  // within half a head
  wide ? start<8, T>(ctx, op, table) : start<1, T>(ctx, op, table);
}

}  // namespace

void CudaOps::rope(Context& ctx, const Rope& op) {
  check_op(op);
  std::vector<TileSegment> records;
  int64_t tiles = 0;
  for (int64_t s = 0; s < op.docs.count; s++) {
    const int32_t tokens = op.docs.offsets[s + 1] - op.docs.offsets[s];
    if (tokens == 0) continue;
    records.push_back({op.docs.offsets[s], 0, int32_t(tiles), tokens, op.docs.first_position[s], /*seen=*/0});
    tiles += div_up(tokens, kTokens);
  }
  ArenaScope scope(*ctx.scratch);
  const SegmentTable table = send_segments(ctx, records, tiles);
  act_kind(op.x) ? start<bf16>(ctx, op, table) : start<float>(ctx, op, table);
}

}  // namespace jambalaya::cuda
