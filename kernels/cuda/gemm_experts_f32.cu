// Products of the experts in f32: fp32 multiply-adds throughout, no tensor core. Blocks of 256 threads, tiles
// of 128 x 128 of C, 8 x 8 sums a thread, 8 steps of p at a time through shared memory. The multiply-adds
// bind; f32 is the precision to check others against, so general loads are enough.
#include "kernels/cuda/gemm_experts.h"
#include "kernels/cuda/vector.h"

namespace jambalaya::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kStep = 8;                 // of p
constexpr int kPitch = kExpertTile + 4;  // floats from one p to the next: rows stay 16-byte aligned
constexpr int kLoads = kExpertTile * kStep / kThreads;

/// Elements of an operand that this thread carries to shared memory [p][o].
struct Carrier {
  const float* from;
  int64_t stride, p;
  int length;
  float values[kLoads];

  template <bool Contiguous>
  __device__ __forceinline__ void fetch(int64_t p0) {
#pragma unroll
    for (int i = 0; i < kLoads; i++) {
      const int e = threadIdx.x + i * kThreads;
      const int o = Contiguous ? e / kStep : e % kExpertTile, step = Contiguous ? e % kStep : e / kExpertTile;
      const int64_t at = p0 + step;
      values[i] = o < length && at < p ? from[Contiguous ? o * stride + at : at * stride + o] : 0.f;
    }
  }
  template <bool Contiguous>
  __device__ __forceinline__ void put(float* shared) const {
#pragma unroll
    for (int i = 0; i < kLoads; i++) {
      const int e = threadIdx.x + i * kThreads;
      const int o = Contiguous ? e / kStep : e % kExpertTile, step = Contiguous ? e % kStep : e / kExpertTile;
      shared[step * kPitch + o] = values[i];
    }
  }
};

/// The thread's rows (columns) of the tile are 4 i .. 4 i + 3 and 64 more: two accesses of 16 bytes.
__device__ __forceinline__ int place(int i, int e) { return 4 * i + e % 4 + e / 4 * 64; }

__device__ __forceinline__ void load_eight(float (&x)[8], const float* from) {
  float half[4];
  load<4>(half, from);
#pragma unroll
  for (int e = 0; e < 4; e++) x[e] = half[e];
  load<4>(half, from + 64);
#pragma unroll
  for (int e = 0; e < 4; e++) x[4 + e] = half[e];
}

template <ExpertKind Kind, class C>
__global__ void __launch_bounds__(kThreads) experts_f32_kernel(ExpertProducts g) {
  constexpr bool kContiguousA = Kind != ExpertKind::weight_gradient,
                 kContiguousB = Kind == ExpertKind::forward;
  __shared__ __align__(16) float a_shared[kStep * kPitch], b_shared[kStep * kPitch];
  ExpertTile tile;
  if (!find_expert_tile<Kind>(g, tile)) return;
  Carrier a{static_cast<const float*>(g.a) + tile.a, g.a_stride, tile.p, tile.m, {}},
      b{static_cast<const float*>(g.b) + tile.b, g.b_stride, tile.p, tile.n, {}};
  const int m = threadIdx.x / 16, n = threadIdx.x % 16;
  float sums[8][8] = {};
  a.fetch<kContiguousA>(0);
  b.fetch<kContiguousB>(0);
  for (int64_t p = 0; p < tile.p; p += kStep) {
    __syncthreads();
    a.put<kContiguousA>(a_shared);
    b.put<kContiguousB>(b_shared);
    __syncthreads();
    // The next step's elements are under way while this one is multiplied.
    a.fetch<kContiguousA>(p + kStep);
    b.fetch<kContiguousB>(p + kStep);
#pragma unroll
    for (int step = 0; step < kStep; step++) {
      float as[8], bs[8];
      load_eight(as, a_shared + step * kPitch + 4 * m);
      load_eight(bs, b_shared + step * kPitch + 4 * n);
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) sums[i][j] = fmaf(as[i], bs[j], sums[i][j]);
    }
  }
  C* const c = static_cast<C*>(g.c) + tile.c;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    if (place(m, i) >= tile.m) continue;
#pragma unroll
    for (int j = 0; j < 8; j++) {
      if (place(n, j) >= tile.n) continue;
      C* const to = c + place(m, i) * g.c_stride + place(n, j);
      *to = from_float<C>(g.accumulate ? as_float(*to) + sums[i][j] : sums[i][j]);
    }
  }
}

template <ExpertKind Kind, class C>
void start(const Context& ctx, const GroupedGemm& op) {
  const ExpertProducts g = expert_products(op);
  launch(ctx, "experts_f32", experts_f32_kernel<Kind, C>, {grid_of(expert_blocks(op, g)), kThreads}, g);
}

}  // namespace

void start_experts_f32(const Context& ctx, const GroupedGemm& op) {
  with_expert_types(op, [&]<ExpertKind Kind, class C>() { start<Kind, C>(ctx, op); });
}

}  // namespace jambalaya::cuda
