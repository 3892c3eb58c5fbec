// Elements of activations in kernels: f32 or bf16 in memory, fp32 in registers, several in one access.
#pragma once
#include <algorithm>
#include <cstdint>

#include "kernels/cuda/ptx.h"
#include "kernels/tensor.h"

namespace jambalaya::cuda {

__device__ __forceinline__ float as_float(float x) { return x; }
__device__ __forceinline__ float as_float(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return bf16{uint16_t(pack_bf16(x, 0.f))};
}

/// N neighbouring elements as one access of N * sizeof(T) bytes (at most 16), to which they are aligned.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
template <int N, class T>
__device__ __forceinline__ void load(float (&x)[N], const T* from) {
  constexpr int kStep = N * sizeof(T) > 16 ? int(16 / sizeof(T)) : N;
#pragma unroll
  for (int i = 0; i < N; i += kStep) {
    const Pack<T, kStep> p = *reinterpret_cast<const Pack<T, kStep>*>(from + i);
#pragma unroll
    for (int j = 0; j < kStep; j++) x[i + j] = as_float(p.at[j]);
  }
}
template <int N, class T>
__device__ __forceinline__ void store(T* to, const float (&x)[N]) {
  constexpr int kStep = N * sizeof(T) > 16 ? int(16 / sizeof(T)) : N;
#pragma unroll
  for (int i = 0; i < N; i += kStep) {
    Pack<T, kStep> p;
#pragma unroll
    for (int j = 0; j < kStep; j++) p.at[j] = from_float<T>(x[i + j]);
    *reinterpret_cast<Pack<T, kStep>*>(to + i) = p;
  }
}

/// Largest of 8, 4, 2, 1 elements that can be one access everywhere in the rows of all these tensors (16
/// bytes of the widest at most); empty tensors do not count.
template <class... Tensors>
int access_width(int64_t columns, const Tensors&... tensors) {
  auto fits = [columns](const Tensor& t, int n) {
    if (!t) return true;
    const int64_t bytes = std::min<int64_t>(n * size_of(t.dtype), 16);
    return columns % n == 0 && reinterpret_cast<uintptr_t>(t.data) % uintptr_t(bytes) == 0 &&
           (t.rows() <= 1 || t.row_stride * size_of(t.dtype) % bytes == 0);
  };
  for (int n : {8, 4, 2})
    if ((fits(tensors, n) && ...)) return n;
  return 1;
}

}  // namespace jambalaya::cuda
