// Building blocks of the scan's kernels: tiles of tokens x channels in shared memory, states in registers.
// Included by scan_*.cu alone.
#pragma once
#include "kernels/cuda/documents_cuda.h"
#include "kernels/cuda/logistic.h"
#include "kernels/cuda/scan.h"
#include "kernels/cuda/vector.h"

namespace jambalaya::cuda {

constexpr int kScanThreads = 128;
/// States that one walk over a tile carries; more are walked block by block, fewer are padded with states
/// that decay by 1 and are never driven, so that they stay 0.
constexpr int kStateBlock = 16;

/// Rows [t, t + count) of channels [e0, e0 + kChannels) to shared memory; channels beyond the last read as 0.
/// kAsync: 16 bytes at a time, under way until the caller has waited for its group.
template <bool kAsync, int kTokens, int kChannels, class A>
__device__ __forceinline__ void stage_rows(A (*to)[kChannels], const A* from, int64_t stride, int64_t t,
                                           int count, int64_t e0, int64_t channels) {
  if constexpr (kAsync) {
    constexpr int kPack = 16 / sizeof(A), kPacks = kChannels / kPack;
#pragma unroll
    for (int k = 0; k < (kTokens * kPacks + kScanThreads - 1) / kScanThreads; k++) {
      const int i = int(threadIdx.x) + k * kScanThreads, row = i / kPacks, c = i % kPacks * kPack;
      const bool valid = e0 + c < channels;
      if (row < count) cp_async_16(&to[row][c], from + (t + row) * stride + (valid ? e0 + c : 0), valid);
    }
  } else {
    for (int i = int(threadIdx.x); i < count * kChannels; i += kScanThreads) {
      const int row = i / kChannels, c = i % kChannels;
      to[row][c] = e0 + c < channels ? from[(t + row) * stride + e0 + c] : A{};
    }
  }
}

/// Rows [t, t + count) of B or C as [count][padded]; kAsync: 16 states, unpadded.
template <bool kAsync>
__device__ __forceinline__ void stage_coefficients(float* to, const float* from, int64_t stride, int64_t t,
                                                   int count, int states, int padded) {
  if constexpr (kAsync) {
    for (int i = int(threadIdx.x); i < count * 4; i += kScanThreads)
      cp_async_16(to + 4 * i, from + (t + i / 4) * stride + i % 4 * 4);
  } else {
    for (int i = int(threadIdx.x); i < count * padded; i += kScanThreads) {
      const int n = i % padded;
      to[i] = n < states ? from[(t + i / padded) * stride + n] : 0.f;
    }
  }
}

/// A log2(e) of channel e and state n.
template <class A>
__device__ __forceinline__ float decay_rate(const ScanStream<A>& in, int64_t e, int64_t n) {
  return e < in.channels && n < in.states ? -expf(in.a_log[e * in.states + n]) * kLog2E : 0.f;
}

/// kStates states from n on of channel e, between registers and an entry [N, E]; a null source is zero.
template <int kStates>
__device__ __forceinline__ void load_states(float (&h)[kStates], const float* from, int64_t e, int64_t n,
                                            int64_t channels, int64_t states) {
#pragma unroll
  for (int j = 0; j < kStates; j++)
    h[j] = from && e < channels && n + j < states ? from[(n + j) * channels + e] : 0.f;
}
template <int kStates>
__device__ __forceinline__ void store_states(float* to, const float (&h)[kStates], int64_t e, int64_t n,
                                             int64_t channels, int64_t states) {
#pragma unroll
  for (int j = 0; j < kStates; j++)
    if (e < channels && n + j < states) to[(n + j) * channels + e] = h[j];
}

}  // namespace jambalaya::cuda
