// Stable counting sort of the router's choices by expert, without atomics: count, scan, scatter. A warp takes
// 32 neighbouring choices at a time; lanes with the same expert find each other by match_any, so that one of
// them adds for all, and a lane's place among them is the number of matching lanes below it.
// Legend: T tokens, K choices a token, X experts; a choice's number is t * K + k. What is bound: latency.
#include <limits>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/reduce.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kWarpChoices = 128;  // neighbouring choices of one warp
constexpr int kChunk = kWarps * kWarpChoices;
constexpr int64_t kMostExperts = 4096;  // [kWarps, X] counters in shared memory

/// The warp's choices, 32 at a time: use(i, x, rank, same) with a choice's number, its expert, its place
/// among the `same` choices of this expert in the 32. Lanes past the end have x = -1. An expert outside [0,
/// X) is a bug of who chose it; nothing can be told from here, so the device is stopped.
template <class Use>
__device__ __forceinline__ void for_choices(const int32_t* expert, int64_t choices, int experts, Use&& use) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t begin = int64_t(blockIdx.x) * kChunk + warp * kWarpChoices;
  for (int64_t i = begin + lane; i - lane < begin + kWarpChoices && i - lane < choices; i += 32) {
    const int x = i < choices ? expert[i] : -1;
    if (i < choices && unsigned(x) >= unsigned(experts)) trap();
    const unsigned same = __match_any_sync(kAllLanes, x);
    use(i, x, __popc(same & ((1u << lane) - 1)), __popc(same));
    __syncwarp();  // the counters, before the next 32
  }
}

/// counts[x, chunk] of one chunk of choices, by warps first.
__device__ __forceinline__ void count_by_warp(const int32_t* expert, int64_t choices, int experts,
                                              int* counts) {
  for (int i = threadIdx.x; i < kWarps * experts; i += kThreads) counts[i] = 0;
  __syncthreads();
  int* const own = counts + threadIdx.x / 32 * experts;
  for_choices(expert, choices, experts, [&](int64_t, int x, int rank, int same) {
    if (x >= 0 && rank == 0) own[x] += same;
  });
  __syncthreads();
}

__global__ void sort_count_kernel(const int32_t* expert, int64_t choices, int experts, int* chunk_counts) {
  int* const counts = dynamic_shared<int>();  // [warp][expert]
  count_by_warp(expert, choices, experts, counts);
  for (int x = threadIdx.x; x < experts; x += kThreads) {
    int sum = 0;
    for (int w = 0; w < kWarps; w++) sum += counts[w * experts + x];
    chunk_counts[int64_t(x) * gridDim.x + blockIdx.x] = sum;
  }
}

/// Sum of the values of this lane and those below.
__device__ __forceinline__ int inclusive_sum_of_warp(int value) {
  const int lane = threadIdx.x % 32;
  for (int step = 1; step < 32; step *= 2) {
    const int below = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value += below;
  }
  return value;
}

/// A warp for each expert: its counts become the number of its choices in earlier chunks.
__global__ void sort_scan_kernel(int* chunk_counts, int64_t chunks, int experts, int* totals) {
  const int lane = threadIdx.x % 32, x = blockIdx.x * kWarps + threadIdx.x / 32;
  if (x >= experts) return;
  int* const counts = chunk_counts + x * chunks;
  int done = 0;
  for (int64_t c = 0; c < chunks; c += 32) {
    const int count = c + lane < chunks ? counts[c + lane] : 0, sum = inclusive_sum_of_warp(count);
    if (c + lane < chunks) counts[c + lane] = done + sum - count;
    done += __shfl_sync(kAllLanes, sum, 31);
  }
  if (lane == 0) totals[x] = done;
}

/// Sum of the block's values before this thread's; `total` is the sum of all. Every thread calls it.
__device__ __forceinline__ int exclusive_sum(int value, int* shared, int& total) {
  const int warp = threadIdx.x / 32, sum = inclusive_sum_of_warp(value);
  __syncthreads();  // shared may still be read from the last call
  if (threadIdx.x % 32 == 31) shared[warp] = sum;
  __syncthreads();
  int before = 0;
  total = 0;
  for (int w = 0; w < kWarps; w++) {
    if (w == warp) before = total;
    total += shared[w];
  }
  return before + sum - value;
}

struct SortArgs {
  const int32_t* expert;
  int64_t choices;
  int k, experts;
  const int *chunk_counts, *totals;
  int32_t *offsets, *row_of, *token_of;
};

/// As sort_count_kernel, then every choice goes to its row. The first block also writes the offsets (and runs
/// without any choice, too).
__global__ void sort_scatter_kernel(SortArgs a) {
  __shared__ int shared[kWarps];
  int* const next = dynamic_shared<int>();  // [warp][expert]
  count_by_warp(a.expert, a.choices, a.experts, next);
  int done = 0;
  for (int first = 0; first < a.experts; first += kThreads) {
    const int x = first + threadIdx.x;
    int sum;
    const int offset = done + exclusive_sum(x < a.experts ? a.totals[x] : 0, shared, sum);
    done += sum;
    if (x >= a.experts) continue;
    if (blockIdx.x == 0) a.offsets[x] = offset;
    int row = offset + a.chunk_counts[int64_t(x) * gridDim.x + blockIdx.x];
    for (int w = 0; w < kWarps; w++) {
      const int count = next[w * a.experts + x];
      next[w * a.experts + x] = row;
      row += count;
    }
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) a.offsets[a.experts] = done;
  __syncthreads();
  int* const own = next + threadIdx.x / 32 * a.experts;
  for_choices(a.expert, a.choices, a.experts, [&](int64_t i, int x, int rank, int same) {
    const int row = x >= 0 ? own[x] + rank : 0;
    __syncwarp();
    if (x < 0) return;
    if (rank == 0) own[x] += same;
    a.row_of[i] = row;
    a.token_of[row] = int32_t(i / a.k);
  });
}

}  // namespace

void CudaOps::sort_by_expert(Context& ctx, const SortByExpert& op) {
  check_op(op);
  const int64_t tokens = op.expert.rows(), k = op.expert.columns(), experts = op.experts;
  JAMBALAYA_CHECK(experts <= kMostExperts, experts, " experts; the GPU sorts by at most ", kMostExperts);
  ArenaScope scope(*ctx.scratch);
  // One chunk at least, because its block writes the offsets.
  const int64_t choices = tokens * k, chunks = std::max<int64_t>(1, div_up(choices, kChunk));
  int* const chunk_counts = ctx.scratch->array<int>(experts * chunks, "sort");
  int* const totals = ctx.scratch->array<int>(experts, "sort");
  const Shape shape{grid_of(chunks), kThreads, size_t(kWarps * experts) * sizeof(int)};
  launch(ctx, "sort_count", sort_count_kernel, shape, op.expert.ptr<int32_t>(), choices, int(experts),
         chunk_counts);
  launch(ctx, "sort_scan", sort_scan_kernel, {grid_of(div_up(experts, kWarps)), kThreads}, chunk_counts,
         chunks, int(experts), totals);
  launch(ctx, "sort_scatter", sort_scatter_kernel, shape,
         SortArgs{op.expert.ptr<int32_t>(), choices, int(k), int(experts), chunk_counts, totals,
                  op.offsets.ptr<int32_t>(), op.row_of.ptr<int32_t>(), op.token_of.ptr<int32_t>()});
}

}  // namespace jambalaya::cuda
