// In place of the CUDA toolkit's header when kernels are compiled for the CPU: qualifiers, built-in
// variables, warp and barrier functions on fibres (tests/emulator/fibres.h), the run time
// (tests/emulator/runtime.h).
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#include "tests/emulator/fibres.h"
#include "tests/emulator/runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __constant__ static const
#define __shared__ static thread_local
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__
#define threadIdx (emulator::running->thread)
#define blockIdx (emulator::block.index)
#define blockDim (emulator::block.size)
#define gridDim (emulator::block.grid)

namespace emulator {

/// Enqueues the kernel with arguments of its own.
template <class... Params, class... Values>
void launch(cudaStream_t stream, const char* name, dim3 grid, dim3 threads, size_t shared_bytes,
            void (*kernel)(Params...), std::tuple<Values...> arguments) {
  enqueue(stream, [=] { run(name, grid, threads, shared_bytes, [&] { std::apply(kernel, arguments); }); });
}

template <class T>
struct Shuffle {
  T value;
  int from;  ///< lane that is read
};
template <class T>
void shuffle_of_warp(void* const* calls) {
  T results[32];
  for (int lane = 0; lane < 32; lane++) {
    if (!calls[lane]) continue;
    const int from = static_cast<Shuffle<T>*>(calls[lane])->from;
    if (!calls[from]) fail("a shuffle reads a lane that takes no part");
    results[lane] = static_cast<Shuffle<T>*>(calls[from])->value;
  }
  for (int lane = 0; lane < 32; lane++)
    if (calls[lane]) static_cast<Shuffle<T>*>(calls[lane])->value = results[lane];
}
template <class T>
T shuffle(unsigned mask, T value, int from) {
  Shuffle<T> call{value, from};
  warp_operation(mask, shuffle_of_warp<T>, &call);
  return call.value;
}
inline int lane() { return int(running->number % 32); }

template <class T, class Fold>
void reduce_of_warp(void* const* calls) {
  T result{};
  bool first = true;
  for (int lane = 0; lane < 32; lane++) {
    if (!calls[lane]) continue;
    const T value = *static_cast<T*>(calls[lane]);
    result = first ? value : Fold()(result, value);
    first = false;
  }
  for (int lane = 0; lane < 32; lane++)
    if (calls[lane]) *static_cast<T*>(calls[lane]) = result;
}
template <class Fold, class T>
T reduce(unsigned mask, T value) {
  warp_operation(mask, reduce_of_warp<T, Fold>, &value);
  return value;
}
struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct Least {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};
struct Greatest {
  template <class T>
  T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
struct Both {
  template <class T>
  T operator()(T a, T b) const {
    return a | b;
  }
};

struct Match {
  unsigned long long value;
  unsigned same;
};
inline void match_of_warp(void* const* calls) {
  for (int lane = 0; lane < 32; lane++) {
    if (!calls[lane]) continue;
    auto* own = static_cast<Match*>(calls[lane]);
    own->same = 0;
    for (int other = 0; other < 32; other++)
      if (calls[other] && static_cast<Match*>(calls[other])->value == own->value) own->same |= 1u << other;
  }
}
inline void nothing_of_warp(void* const*) {}

}  // namespace emulator

// ---- barriers ----
inline void __syncthreads() { emulator::barrier(); }
inline int __syncthreads_count(int p) { return emulator::barrier(p), emulator::block.barrier_sum; }
inline int __syncthreads_or(int p) { return emulator::barrier(p), emulator::block.barrier_sum > 0; }
inline int __syncthreads_and(int p) { return emulator::barrier(p), emulator::block.barrier_all; }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  int there = 0;
  emulator::warp_operation(mask, emulator::nothing_of_warp, &there);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- within a warp ----
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  const int lane = emulator::lane();
  return emulator::shuffle(mask, value, lane / width * width + (from & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int lane = emulator::lane(), from = lane ^ bits;
  return emulator::shuffle(mask, value, from / width > lane / width ? lane : from);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const int lane = emulator::lane(), from = lane - int(by);
  return emulator::shuffle(mask, value, from < lane / width * width ? lane : from);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const int lane = emulator::lane(), from = lane + int(by);
  return emulator::shuffle(mask, value, from >= (lane / width + 1) * width ? lane : from);
}
inline unsigned __ballot_sync(unsigned mask, int p) {
  return emulator::reduce<emulator::Both>(mask, p ? 1u << emulator::lane() : 0u);
}
inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
inline int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, !p) == 0; }
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  emulator::Match call{0, 0};
  static_assert(sizeof(T) <= sizeof call.value);
  std::memcpy(&call.value, &value, sizeof value);
  emulator::warp_operation(mask, emulator::match_of_warp, &call);
  return call.same;
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned v) {
  return emulator::reduce<emulator::Add>(mask, v);
}
inline int __reduce_add_sync(unsigned mask, int v) { return emulator::reduce<emulator::Add>(mask, v); }
inline unsigned __reduce_min_sync(unsigned mask, unsigned v) {
  return emulator::reduce<emulator::Least>(mask, v);
}
inline int __reduce_min_sync(unsigned mask, int v) { return emulator::reduce<emulator::Least>(mask, v); }
inline unsigned __reduce_max_sync(unsigned mask, unsigned v) {
  return emulator::reduce<emulator::Greatest>(mask, v);
}
inline int __reduce_max_sync(unsigned mask, int v) { return emulator::reduce<emulator::Greatest>(mask, v); }
inline unsigned __reduce_or_sync(unsigned mask, unsigned v) {
  return emulator::reduce<emulator::Both>(mask, v);
}

// ---- arithmetic and bits ----
template <class To, class From>
To emulator_bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}
inline uint32_t __float_as_uint(float x) { return emulator_bits<uint32_t>(x); }
inline int __float_as_int(float x) { return emulator_bits<int>(x); }
inline float __uint_as_float(uint32_t x) { return emulator_bits<float>(x); }
inline float __int_as_float(int x) { return emulator_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulator_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulator_bits<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline double rsqrt(double x) { return 1. / std::sqrt(x); }
template <class T>
T __ldg(const T* p) {
  return *p;
}
using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
