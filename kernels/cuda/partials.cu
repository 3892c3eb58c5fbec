#include "kernels/cuda/partials.h"

#include "kernels/cuda/launch.h"

namespace jambalaya::cuda {
namespace {

/// Columns of a block, and groups of its threads that share the partial rows: enough loads at once to hide
/// their latency although there are few columns.
constexpr int kColumns = 32, kGroups = 8;

__global__ void add_partials_kernel(const float* partial, int64_t count, int64_t stride, float* out,
                                    int64_t n) {
  __shared__ double sums[kGroups][kColumns];
  const int column = int(threadIdx.x) % kColumns, group = int(threadIdx.x) / kColumns;
  const int64_t i = int64_t(blockIdx.x) * kColumns + column;
  double sum = 0;
  if (i < n) {
#pragma unroll 8
    for (int64_t p = group; p < count; p += kGroups) sum += double(partial[p * stride + i]);
  }
  sums[group][column] = sum;
  __syncthreads();
  if (group != 0 || i >= n) return;
  for (int g = 1; g < kGroups; g++) sum += sums[g][column];
  out[i] += float(sum);
}

}  // namespace

void add_partials(const Context& ctx, const char* name, const float* partial, int64_t count, int64_t stride,
                  float* out, int64_t n) {
  if (count == 0) return;
  launch(ctx, name, add_partials_kernel, {grid_of(div_up(n, kColumns)), kColumns * kGroups}, partial, count,
         stride, out, n);
}

}  // namespace jambalaya::cuda
