// The logistic function, SiLU and softplus in fp32, from the machine's exponential and reciprocal.
#pragma once
#include "kernels/cuda/constants.h"
#include "kernels/cuda/ptx.h"

namespace jambalaya::cuda {

struct Logistic {
  float value, complement;  ///< sigmoid(x) and 1 - sigmoid(x), neither by subtraction
};
/// Relative error about 3e-7 + 1e-7 |x|. The exponential is kept below 2^125, so that its reciprocal is no
/// subnormal number and complement = e value reaches 1. NaN stays NaN through the caller's factor x.
__device__ __forceinline__ Logistic logistic(float x) {
  const float e = ex2(fminf(-kLog2E * x, 125.f));
  const float value = rcp(1.f + e);
  return {value, e * value};
}
__device__ __forceinline__ float silu(float x) { return x * logistic(x).value; }
/// d silu(x) / dx.
__device__ __forceinline__ float silu_slope(float x) {
  const Logistic f = logistic(x);
  return f.value * fmaf(x, f.complement, 1.f);
}

struct Softplus {
  float value, slope;
};
/// softplus(x) = max(x, 0) + log1p(w), w = e^-|x|, log1p(w) = 2 artanh(w / (2 + w)): relatively exact (4e-7)
/// on both sides; from x = 17 on the sum rounds to x, so that the usual threshold at 20 needs no branch. w
/// itself is corrected for the rounding of x log2(e), which would cost 2e-6 at x = -30. The slope is the
/// logistic function.
__device__ __forceinline__ Softplus softplus_and_slope(float x) {
  constexpr float kLog2ERest = 1.92596299e-8f;  // log2(e) - kLog2E
  const float m = fmaxf(-fabsf(x), -87.f), y = m * kLog2E;
  float w = ex2(y);
  w = fmaf(w * kLn2, fmaf(m, kLog2ERest, fmaf(m, kLog2E, -y)), w);
  const float t = w * rcp(w + 2.f), q = t * t, twice = t + t;
  float p = fmaf(1.400599991e-1f, q, 1.400090135e-1f);
  p = fmaf(p, q, 2.001076370e-1f);
  p = fmaf(p, q, 3.333320814e-1f);
  const float log1p_w = fmaf(p * q, twice, twice);
  const float large = rcp(1.f + w);
  // x > 0 ? x : 0 would turn NaN to 0.
  return {(x < 0.f ? 0.f : x) + log1p_w, x < 0.f ? w * large : large};
}
__device__ __forceinline__ float softplus(float x) { return softplus_and_slope(x).value; }

}  // namespace jambalaya::cuda
