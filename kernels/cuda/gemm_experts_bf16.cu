// Products of the experts in bf16 on tensor cores (mma.sync m16n8k16, fp32 sums): blocks of 8 warps, tiles of
// 128 x 128 of C, 32 steps of p at a time, four of these staged in shared memory by cp.async (64 KB, two
// blocks a multiprocessor). A warp has 64 x 32 of the tile, 64 sums a thread. The tensor cores bind; mma.sync
// reaches about 60 % of what wgmma does, which is why large experts go to the vendor's library where the host
// knows their rows.
#include "kernels/cuda/gemm_experts.h"
#include "kernels/cuda/vector.h"

namespace jambalaya::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kStep = 32;   // of p
constexpr int kStages = 4;  // steps in shared memory
constexpr int kOperand = kExpertTile * kStep;
constexpr int kStage = 2 * kOperand;  // elements: A, then B
constexpr int kChunk = 8;             // elements of one copy: 16 bytes

/// A tile of one operand in shared memory, 16-byte chunks swapped within rows (exclusive or) so that the
/// eight rows that ldmatrix reads lie in different banks. Contiguous: [o, p] with p neighbouring (64 bytes a
/// row); else [p, o] (256 bytes a row), where o is the row of A or the column of B.
template <bool Contiguous>
__device__ __forceinline__ int place(int row, int chunk) {
  if (Contiguous) return row * kStep + (chunk ^ (row >> 1 & 3)) * kChunk;
  return row * kExpertTile + (chunk ^ (row & 7)) * kChunk;
}

/// Where an operand's tile begins in memory, and what there is of it.
struct Source {
  const bf16* from;
  int64_t stride, p;
  int length;  ///< along o
};

/// Eight elements by themselves: the ones past `count` are zero.
__device__ __forceinline__ void copy_elements(bf16* to, const bf16* from, int64_t count) {
  Pack<bf16, kChunk> pack;
#pragma unroll
  for (int i = 0; i < kChunk; i++) pack.at[i] = i < count ? from[i] : bf16{0};
  *reinterpret_cast<Pack<bf16, kChunk>*>(to) = pack;
}

/// Steps [p0, p0 + kStep) of an operand to shared memory, zeros beyond its end. Aligned: rows begin at
/// multiples of 16 bytes and are multiples of 8 elements long.
template <bool Contiguous, bool Aligned>
__device__ __forceinline__ void fetch(bf16* to, const Source& s, int64_t p0) {
  constexpr int kRowChunks = (Contiguous ? kStep : kExpertTile) / kChunk;
#pragma unroll
  for (int i = 0; i < kOperand / kChunk / kThreads; i++) {
    const int chunk = threadIdx.x + i * kThreads, row = chunk / kRowChunks, column = chunk % kRowChunks;
    const int64_t o = Contiguous ? row : column * kChunk, p = p0 + (Contiguous ? column * kChunk : row);
    const bool valid = o < s.length && p < s.p;
    const bf16* const from = s.from + (valid ? Contiguous ? o * s.stride + p : p * s.stride + o : 0);
    bf16* const place_of = to + place<Contiguous>(row, column);
    if (Aligned)
      cp_async_16(place_of, from, valid);
    else
      copy_elements(place_of, from, valid ? Contiguous ? s.p - p : s.length - o : 0);
  }
}

/// The 16 x 16 part of A at rows `m`, steps `p` of the stage.
template <bool Contiguous>
__device__ __forceinline__ void load_a(uint32_t (&r)[4], const bf16* a, int m, int p) {
  const int lane = threadIdx.x % 32, matrix = lane / 8, row = lane % 8;
  if (Contiguous)
    ldmatrix(r, a + place<true>(m + (matrix & 1) * 8 + row, p / kChunk + (matrix >> 1)));
  else
    ldmatrix_trans(r, a + place<false>(p + (matrix >> 1) * 8 + row, m / kChunk + (matrix & 1)));
}
/// The 16 x 16 part of B at steps `p`, columns `n`: r[0], r[1] for columns n.., r[2], r[3] for n + 8...
template <bool Contiguous>
__device__ __forceinline__ void load_b(uint32_t (&r)[4], const bf16* b, int n, int p) {
  const int lane = threadIdx.x % 32, matrix = lane / 8, row = lane % 8;
  if (Contiguous)
    ldmatrix(r, b + place<true>(n + (matrix >> 1) * 8 + row, p / kChunk + (matrix & 1)));
  else
    ldmatrix_trans(r, b + place<false>(p + (matrix & 1) * 8 + row, n / kChunk + (matrix >> 1)));
}

/// Adds one stage to the warp's sums [16-row part][8-column part][element].
template <bool ContiguousA, bool ContiguousB>
__device__ __forceinline__ void multiply_stage(float (&sums)[4][4][4], const bf16* a, const bf16* b, int m,
                                               int n) {
#pragma unroll
  for (int p = 0; p < kStep; p += 16) {
    uint32_t bs[2][4], as[4];
#pragma unroll
    for (int j = 0; j < 2; j++) load_b<ContiguousB>(bs[j], b, n + 16 * j, p);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      load_a<ContiguousA>(as, a, m + 16 * i, p);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const uint32_t part[2] = {bs[j / 2][j % 2 * 2], bs[j / 2][j % 2 * 2 + 1]};
        mma_bf16(sums[i][j], as, part);
      }
    }
  }
}

/// Two neighbouring sums to C.
template <class C>
__device__ __forceinline__ void store_pair(C* c, float x, float y, int left, bool accumulate, bool pairs) {
  float value[2] = {x, y};
  if (left >= 2 && pairs) {
    if (accumulate) {
      float old[2];
      load<2>(old, c);
      value[0] += old[0], value[1] += old[1];
    }
    store<2>(c, value);
    return;
  }
  for (int i = 0; i < 2 && i < left; i++)
    c[i] = from_float<C>(accumulate ? as_float(c[i]) + value[i] : value[i]);
}

template <ExpertKind Kind, class C, bool Aligned>
__global__ void __launch_bounds__(kThreads, Aligned ? 2 : 1) experts_bf16_kernel(ExpertProducts g) {
  constexpr bool kContiguousA = Kind != ExpertKind::weight_gradient,
                 kContiguousB = Kind == ExpertKind::forward;
  ExpertTile tile;
  if (!find_expert_tile<Kind>(g, tile)) return;
  bf16* const shared = dynamic_shared<bf16>();  // [stage][A or B]
  const Source a{static_cast<const bf16*>(g.a) + tile.a, g.a_stride, tile.p, tile.m},
      b{static_cast<const bf16*>(g.b) + tile.b, g.b_stride, tile.p, tile.n};
  const int64_t steps = (tile.p + kStep - 1) / kStep;
  auto fetch_step = [&](int64_t step) {
    if (step < steps) {
      bf16* const to = shared + step % kStages * kStage;
      fetch<kContiguousA, Aligned>(to, a, step * kStep);
      fetch<kContiguousB, Aligned>(to + kOperand, b, step * kStep);
    }
    cp_async_commit();  // also without copies, so that the count of groups is the count of steps
  };
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, m = warp % 2 * 64, n = warp / 2 * 32;
  float sums[4][4][4] = {};
  for (int64_t step = 0; step < kStages - 1; step++) fetch_step(step);
  for (int64_t step = 0; step < steps; step++) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // this step is there for all, and all are done with the one before
    fetch_step(step + kStages - 1);
    const bf16* const from = shared + step % kStages * kStage;
    multiply_stage<kContiguousA, kContiguousB>(sums, from, from + kOperand, m, n);
  }
  cp_async_wait<0>();
  C* const c = static_cast<C*>(g.c) + tile.c;
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = m + 16 * i + 8 * half + lane / 4;
      if (row >= tile.m) continue;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int column = n + 8 * j + lane % 4 * 2;
        store_pair(c + row * g.c_stride + column, sums[i][j][2 * half], sums[i][j][2 * half + 1],
                   tile.n - column, g.accumulate, g.pairs);
      }
    }
}

/// Rows of 16-byte chunks throughout.
bool aligned(const GroupedGemm& op) {
  const Tensor& other = op.kind == ExpertKind::weight_gradient ? op.y : op.w;
  const int64_t inner = op.kind == ExpertKind::weight_gradient ? op.y.columns() : op.w.shape[2];
  auto fits = [](const Tensor& t) {
    return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.row_stride % kChunk == 0;
  };
  return fits(op.a) && fits(other) && op.a.columns() % kChunk == 0 && inner % kChunk == 0;
}

template <ExpertKind Kind, class C>
void start(const Context& ctx, const GroupedGemm& op) {
  const ExpertProducts g = expert_products(op);
  launch(ctx, "experts_bf16",
         aligned(op) ? experts_bf16_kernel<Kind, C, true> : experts_bf16_kernel<Kind, C, false>,
         {grid_of(expert_blocks(op, g)), kThreads, size_t(kStages * kStage) * sizeof(bf16)}, g);
}

}  // namespace

void start_experts_bf16(const Context& ctx, const GroupedGemm& op) {
  with_expert_types(op, [&]<ExpertKind Kind, class C>() { start<Kind, C>(ctx, op); });
}

}  // namespace jambalaya::cuda
