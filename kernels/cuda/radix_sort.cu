// Radix sort by digits of at most 9 bits, the least significant first (Knuth, volume 3, 5.2.5). Each pass
// counts the digits of every tile, sums the counts over digits and tiles, and moves the keys to their places.
// A warp takes 32 neighbouring keys at a time; those of one digit find each other by a match, and their
// leader alone counts for them, so that no atomic is needed and equal keys keep their order.
#include "kernels/cuda/radix_sort.h"

#include <bit>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.h"

namespace jambalaya::cuda {
namespace {

constexpr int kMaxBits = 9, kMaxBins = 1 << kMaxBits;
constexpr int kWarps = 8, kRounds = 8, kTile = kWarps * kRounds * 32;

/// The keys of a warp's round: `digit` is -1 beyond the last key.
struct Round {
  int32_t key;
  int digit;
  unsigned equals;  ///< lanes of the same digit
};
__device__ __forceinline__ Round read_round(const int32_t* keys, int64_t n, int64_t i, int shift, int bins) {
  Round r{0, -1, 0};
  if (i < n) r.key = keys[i], r.digit = r.key >> shift & (bins - 1);
  r.equals = __match_any_sync(kAllLanes, r.digit);
  return r;
}
/// True for one lane of those with equal digits.
__device__ __forceinline__ bool leads(const Round& r, int lane) {
  return r.digit >= 0 && __ffs(int(r.equals)) - 1 == lane;
}

/// First key of the warp's share of the tile, at this lane.
__device__ __forceinline__ int64_t first_key(int warp, int lane) {
  return int64_t(blockIdx.x) * kTile + warp * kRounds * 32 + lane;
}

/// counts[warp][bin] of the tile; ends with a barrier.
__device__ __forceinline__ void count_tile(const int32_t* keys, int64_t n, int shift, int bins,
                                           int (*counts)[kMaxBins]) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  for (int b = lane; b < bins; b += 32) counts[warp][b] = 0;
  __syncwarp();
  for (int round = 0; round < kRounds; round++) {
    const Round r = read_round(keys, n, first_key(warp, lane) + 32 * round, shift, bins);
    if (leads(r, lane)) counts[warp][r.digit] += __popc(r.equals);
    __syncwarp();
  }
  __syncthreads();
}

/// totals[bin * tiles + tile].
__global__ void count_kernel(const int32_t* keys, int64_t n, int shift, int bins, int32_t* totals) {
  __shared__ int counts[kWarps][kMaxBins];
  count_tile(keys, n, shift, bins, counts);
  for (int b = int(threadIdx.x); b < bins; b += 32 * kWarps) {
    int sum = 0;
    for (int w = 0; w < kWarps; w++) sum += counts[w][b];
    totals[int64_t(b) * gridDim.x + blockIdx.x] = sum;
  }
}

/// totals[i] becomes the sum of those before it. One block, four entries a thread at a time.
constexpr int kScanWarps = 32;
__global__ void scan_kernel(int32_t* totals, int64_t n) {
  __shared__ int of_warps[kScanWarps];
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  int carry = 0;
  for (int64_t begin = 0; begin < n; begin += 32 * kScanWarps * 4) {
    const int64_t at = begin + int64_t(threadIdx.x) * 4;
    int own[4], sum = 0;
    for (int j = 0; j < 4; j++) own[j] = at + j < n ? totals[at + j] : 0, sum += own[j];
    int before = sum;
    for (int step = 1; step < 32; step *= 2) {
      const int lower = __shfl_up_sync(kAllLanes, before, unsigned(step));
      if (lane >= step) before += lower;
    }
    if (lane == 31) of_warps[warp] = before;
    __syncthreads();
    before += carry - sum;
    for (int w = 0; w < kScanWarps; w++) {
      if (w < warp) before += of_warps[w];
      carry += of_warps[w];
    }
    __syncthreads();  // before the next round writes of_warps
    for (int j = 0; j < 4; j++) {
      if (at + j < n) totals[at + j] = before;
      before += own[j];
    }
  }
}

/// Keys and positions to their places. `positions` may be null: key i stood at i.
__global__ void place_kernel(const int32_t* keys, const int32_t* positions, int64_t n, int shift, int bins,
                             const int32_t* totals, int32_t* keys_out, int32_t* positions_out) {
  __shared__ int places[kWarps][kMaxBins];  // counts, then the next place of each warp and bin
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  count_tile(keys, n, shift, bins, places);
  for (int b = int(threadIdx.x); b < bins; b += 32 * kWarps) {
    int place = totals[int64_t(b) * gridDim.x + blockIdx.x];
    for (int w = 0; w < kWarps; w++) {
      const int count = places[w][b];
      places[w][b] = place;
      place += count;
    }
  }
  __syncthreads();
  for (int round = 0; round < kRounds; round++) {
    const int64_t i = first_key(warp, lane) + 32 * round;
    const Round r = read_round(keys, n, i, shift, bins);
    if (r.digit >= 0) {
      const int place = places[warp][r.digit] + __popc(r.equals & ((1u << lane) - 1));
      keys_out[place] = r.key;
      positions_out[place] = positions ? positions[i] : int32_t(i);
    }
    __syncwarp();
    if (leads(r, lane)) places[warp][r.digit] += __popc(r.equals);
    __syncwarp();
  }
}

}  // namespace

SortedKeys sort_keys(const Context& ctx, int32_t* keys, int64_t n, int64_t limit) {
  JAMBALAYA_CHECK(n <= 0x7fffffff && limit >= 1 && limit <= 0x7fffffff, n, " keys below ", limit);
  const int bits = std::max(1, int(std::bit_width(uint64_t(limit - 1)))),
            passes = (bits + kMaxBits - 1) / kMaxBits, digit = (bits + passes - 1) / passes,
            bins = 1 << digit;
  const int64_t tiles = div_up(n, kTile);
  int32_t* const totals = ctx.scratch->array<int32_t>(bins * tiles, "sort");
  int32_t* const other_keys = ctx.scratch->array<int32_t>(n, "sort");
  int32_t* const places[2] = {ctx.scratch->array<int32_t>(n, "sort"), ctx.scratch->array<int32_t>(n, "sort")};
  int32_t *from = keys, *to = other_keys;
  const int32_t* positions = nullptr;
  for (int pass = 0; pass < passes; pass++) {
    const Shape shape{grid_of(tiles), 32 * kWarps};
    launch(ctx, "radix_count", count_kernel, shape, from, n, pass * digit, bins, totals);
    launch(ctx, "radix_scan", scan_kernel, {1, 32 * kScanWarps}, totals, bins * tiles);
    launch(ctx, "radix_place", place_kernel, shape, from, positions, n, pass * digit, bins, totals, to,
           places[pass % 2]);
    positions = places[pass % 2];
    std::swap(from, to);
  }
  return {from, positions};
}

}  // namespace jambalaya::cuda
