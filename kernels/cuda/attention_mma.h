// Attention's tiles on tensor cores: bf16 operands in shared memory, fp32 sums in registers.
//
// A tile holds rows of one head, W elements wide (the head size, rounded up; columns beyond it are zeros).
// Its rows are W + 8 elements apart: an odd number of 16-byte units, so that the 8 rows that ldmatrix reads
// at once lie in different banks. A warp owns 16 * M neighbouring rows of the left operand. Fragments as in
// ptx.h: lane = 4 g + q; of a 16 x 8 block of sums a thread has (g, 2q), (g, 2q + 1), (g + 8, 2q), (g + 8, 2q
// + 1).
#pragma once
#include "kernels/cuda/attention_call.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vector.h"

namespace jambalaya::cuda {

constexpr int kMmaWarps = 4, kMmaThreads = 32 * kMmaWarps;

template <int W>
constexpr int kTileStride = W + 8;

/// Sums of 16 * M rows by N columns, as one thread has them.
template <int M, int N>
using Sums = float[M][N / 8][4];

template <int M, int N>
__device__ __forceinline__ void set_zero(Sums<M, N>& x) {
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) x[m][n][i] = 0;
}

/// Starts the copy of `count` rows (the rest of Rows: zeros) of head_size elements. Not yet committed.
template <int Rows, int W>
__device__ __forceinline__ void fetch_rows(bf16* to, const bf16* from, int64_t stride, int count,
                                           int head_size) {
  constexpr int kUnits = W / 8;  // of 16 bytes in a row
#pragma unroll
  for (int i = threadIdx.x; i < Rows * kUnits; i += kMmaThreads) {
    const int r = i / kUnits, c = i % kUnits * 8;
    const bool valid = r < count && c < head_size;
    cp_async_16(to + r * kTileStride<W> + c, from + (valid ? r * stride + c : 0), valid);
  }
}

/// s = a b^T: a the warp's 16 * M rows, b a tile of N rows.
template <int M, int N, int W>
__device__ __forceinline__ void product_with_rows(Sums<M, N>& s, const bf16* a, const bf16* b) {
  constexpr int kStride = kTileStride<W>;
  const int lane = int(threadIdx.x) % 32;
  a += lane % 16 * kStride + lane / 16 * 8;
  b += (lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 8;
  set_zero<M, N>(s);
#pragma unroll
  for (int k = 0; k < W; k += 16) {
    uint32_t left[M][4];
#pragma unroll
    for (int m = 0; m < M; m++) ldmatrix(left[m], a + m * 16 * kStride + k);
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      uint32_t r[4];
      ldmatrix(r, b + n * kStride + k);
      const uint32_t first[2] = {r[0], r[1]}, second[2] = {r[2], r[3]};
#pragma unroll
      for (int m = 0; m < M; m++) {
        mma_bf16(s[m][n / 8], left[m], first);
        mma_bf16(s[m][n / 8 + 1], left[m], second);
      }
    }
  }
}

/// sums += bf16(p) b: b a tile of K rows, of which `Columns` columns from its pointer on are used. Sums as
/// they lie in registers are a left operand when packed: no exchange between threads.
template <int M, int K, int W, int Columns>
__device__ __forceinline__ void add_product(Sums<M, Columns>& sums, const Sums<M, K>& p, const bf16* b) {
  constexpr int kStride = kTileStride<W>;
  const int lane = int(threadIdx.x) % 32;
  b += lane % 16 * kStride + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < K; k += 16) {
    uint32_t left[M][4];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float* const x = p[m][k / 8 + i / 2];
        left[m][i] = pack_bf16(x[i % 2 * 2], x[i % 2 * 2 + 1]);
      }
#pragma unroll
    for (int n = 0; n < Columns; n += 16) {
      uint32_t r[4];
      ldmatrix_trans(r, b + k * kStride + n);
      const uint32_t first[2] = {r[0], r[1]}, second[2] = {r[2], r[3]};
#pragma unroll
      for (int m = 0; m < M; m++) {
        mma_bf16(sums[m][n / 8], left[m], first);
        mma_bf16(sums[m][n / 8 + 1], left[m], second);
      }
    }
  }
}

/// Calls f with the width of the tiles for a head size as a constant.
template <class F>
void with_width(int64_t head_size, const F& f) {
  if (head_size <= 32) return f(std::integral_constant<int, 32>());
  if (head_size <= 64) return f(std::integral_constant<int, 64>());
  if (head_size <= 128) return f(std::integral_constant<int, 128>());
  f(std::integral_constant<int, 256>());
}

}  // namespace jambalaya::cuda
