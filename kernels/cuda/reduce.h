// Sums over the threads of a warp or a block, in a fixed order.
#pragma once
#include "kernels/cuda/ptx.h"

namespace jambalaya::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

/// Over groups of `Width` neighbouring lanes (a power of two, at most 32); every lane gets the result.
template <int Width = 32, class T, class Op = Sum>
__device__ __forceinline__ T warp_reduce(T x, Op op = {}) {
#pragma unroll
  for (int step = Width / 2; step > 0; step /= 2) x = op(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

/// Over all threads of a block of `Warps` warps (one-dimensional); every thread gets the result. `shared` has
/// room for Warps values and may be used again at once: another call begins with a barrier.
template <int Warps, class T, class Op = Sum>
__device__ __forceinline__ T block_reduce(T x, T* shared, Op op = {}) {
  x = warp_reduce(x, op);
  if (Warps == 1) return x;
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = shared[0];
#pragma unroll
  for (int w = 1; w < Warps; w++) x = op(x, shared[w]);
  return x;
}

}  // namespace jambalaya::cuda
