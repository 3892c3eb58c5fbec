// Numbers that several kernels need, in fp32.
#pragma once
#include <cuda_runtime.h>

namespace jambalaya::cuda {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;  ///< log2(e), ln(2)

__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xff800000u); }

}  // namespace jambalaya::cuda
