// Attention forward on tensor cores: an online softmax over tiles of keys (FlashAttention-2, Dao 2023). A
// block of 4 warps has 64 * M rows of queries; tiles of keys and values come into two buffers by turns,
// beside the arithmetic. Bound by tensor cores and, with M = 1, by shared memory: 16 rows a warp read 256
// bytes of keys for each mma, which with M = 2 serve two.
#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/constants.h"

namespace jambalaya::cuda {
namespace {

constexpr float kLowest = -1e30f;  // finite: lowest - lowest is 0 for rows that see no key

template <int W>
constexpr int kKeysOfTile = W > 128 ? 32 : 64;

/// The rows of one block of queries, and those of one warp.
struct Queries {
  TileSegment segment;
  int first, rows;  ///< first row of the block, rows of the segment
  int together, head0;

  __device__ __forceinline__ int token(int row) const { return row / together; }
  __device__ __forceinline__ int limit(int row) const { return row < rows ? segment.limit(token(row)) : 0; }
  __device__ __forceinline__ int64_t stream_row(int row) const { return segment.first_token + token(row); }
  __device__ __forceinline__ int head(int row) const { return head0 + row % together; }
};

/// The online softmax of a warp's rows: scores become probabilities relative to the largest score so far.
template <int M, int N>
struct Softmax {
  float largest[M][2], sum[M][2];  ///< of rows g and g + 8; sums of this thread's columns

  __device__ __forceinline__ Softmax() {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int h = 0; h < 2; h++) largest[m][h] = kLowest, sum[m][h] = 0;
  }
  /// `factor`: what the new largest scores make of earlier sums.
  __device__ __forceinline__ void meet(Sums<M, N>& s, float scale2, float (&factor)[M][2]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float top = largest[m][h];
#pragma unroll
        for (int n = 0; n < N / 8; n++) top = fmaxf(top, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
        top = warp_reduce<4>(top, Max());
        factor[m][h] = ex2((largest[m][h] - top) * scale2);
        largest[m][h] = top;
        const float shift = top * scale2;
        float total = 0;
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
          for (int i = 2 * h; i < 2 * h + 2; i++) {
            s[m][n][i] = ex2(s[m][n][i] * scale2 - shift);
            total += s[m][n][i];
          }
        sum[m][h] = sum[m][h] * factor[m][h] + total;
      }
  }
};

/// Most tiles bring no row of the warp a new largest score: then there is nothing to do.
template <int M, int W>
__device__ __forceinline__ void rescale(Sums<M, W>& o, const float (&factor)[M][2]) {
  bool change = false;
#pragma unroll
  for (int m = 0; m < M; m++) change = change || factor[m][0] != 1 || factor[m][1] != 1;
  if (!__any_sync(kAllLanes, change)) return;
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < W / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) o[m][n][i] *= factor[m][i / 2];
}

/// Scores of keys that a row does not see become the lowest number.
template <int M, int N>
__device__ __forceinline__ void mask(Sums<M, N>& s, const Queries& queries, int warp_row, int key) {
  const int g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int visible = queries.limit(warp_row + m * 16 + h * 8 + g) - key;
#pragma unroll
      for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int i = 0; i < 2; i++)
          if (n * 8 + 2 * q + i >= visible) s[m][n][2 * h + i] = kLowest;
    }
}

/// Writes one row's part of o and its logsumexp. `unseen`: no key in sight.
template <int W>
__device__ __forceinline__ void store_row(const ForwardArgs& a, const Queries& queries, int row, bool unseen,
                                          const float (&o)[W / 8][4], int half, float largest, float sum) {
  const int q = int(threadIdx.x) % 4, head = queries.head(row);
  const int64_t t = queries.stream_row(row);
  const int64_t at = blockIdx.z * a.o_split_stride + t * a.o_stride + int64_t(head) * a.head_size + 2 * q;
  const float share = unseen ? 0.f : 1.f / sum;
#pragma unroll
  for (int n = 0; n < W / 8; n++) {
    if (n * 8 >= a.head_size) break;
    const float x = unseen ? 0.f : o[n][2 * half] * share, y = unseen ? 0.f : o[n][2 * half + 1] * share;
    if (a.o_f32)
      *reinterpret_cast<float2*>(static_cast<float*>(a.o) + at + n * 8) = make_float2(x, y);
    else
      *reinterpret_cast<uint32_t*>(static_cast<bf16*>(a.o) + at + n * 8) = pack_bf16(x, y);
  }
  if (a.lse && q == 0)
    a.lse[blockIdx.z * a.lse_split_stride + head * a.lse_stride + t] =
        unseen ? minus_infinity() : largest * a.scale2 * kLn2 + logf(sum);
}

/// Starts the copy of the block's rows of queries; zeros beyond the segment.
template <int Rows, int W>
__device__ __forceinline__ void fetch_queries(bf16* to, const ForwardArgs& a, const Queries& queries) {
  for (int i = threadIdx.x; i < Rows * (W / 8); i += kMmaThreads) {
    const int r = i / (W / 8), c = i % (W / 8) * 8, row = queries.first + r;
    const bool valid = row < queries.rows && c < a.head_size;
    const int64_t at = queries.stream_row(row) * a.q_stride + int64_t(queries.head(row)) * a.head_size + c;
    cp_async_16(to + r * kTileStride<W> + c, static_cast<const bf16*>(a.q) + (valid ? at : 0), valid);
  }
}

template <int W, int M>
__global__ void __launch_bounds__(kMmaThreads, 2) forward_mma_kernel(ForwardArgs a) {
  constexpr int kRows = 16 * M * kMmaWarps, kKeys = kKeysOfTile<W>, kStride = kTileStride<W>;
  constexpr int kStep = M * W > 128 ? 32 : kKeys;    // keys whose scores are in registers at a time
  const int tile = int(gridDim.x - 1 - blockIdx.x);  // the longest rows first
  const TileSegment segment = segment_of_tile(a.table, tile);
  const Queries queries{segment, (tile - segment.first_tile) * kRows, segment.tokens * a.together, a.together,
                        int(blockIdx.y) * a.together};
  const int begin = int(blockIdx.z) * a.keys_per_split;
  const int end = min(queries.limit(min(queries.first + kRows, queries.rows) - 1), begin + a.keys_per_split);

  bf16* const q = dynamic_shared<bf16>();
  bf16* const buffers = q + kRows * kStride;  // [2][keys, values][kKeys, kStride]
  fetch_queries<kRows, W>(q, a, queries);
  const int64_t column = int64_t(queries.head0 / a.shared) * a.head_size;
  const bf16* const k = static_cast<const bf16*>(a.k) + segment.first_key * a.k_stride + column;
  const bf16* const v = static_cast<const bf16*>(a.v) + segment.first_key * a.v_stride + column;
  auto fetch = [&](int key, int buffer) {
    bf16* const to = buffers + buffer * 2 * kKeys * kStride;
    fetch_rows<kKeys, W>(to, k + key * a.k_stride, a.k_stride, end - key, a.head_size);
    fetch_rows<kKeys, W>(to + kKeys * kStride, v + key * a.v_stride, a.v_stride, end - key, a.head_size);
  };

  const int warp = int(threadIdx.x) / 32;
  const int warp_row = queries.first + warp * 16 * M;
  const int least = queries.limit(warp_row);  // 0 for a warp without rows
  const int most = least ? queries.limit(min(warp_row + 16 * M, queries.rows) - 1) : 0;
  Softmax<M, kStep> softmax;
  Sums<M, W> o;
  set_zero<M, W>(o);
  if (begin < end) fetch(begin, 0);
  cp_async_commit();
  for (int key = begin, buffer = 0; key < end; key += kKeys, buffer ^= 1) {
    if (key + kKeys < end) fetch(key + kKeys, buffer ^ 1);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    if (key < most) {
      const bf16* const keys = buffers + buffer * 2 * kKeys * kStride;
#pragma unroll 1
      for (int i = 0; i < kKeys; i += kStep) {
        Sums<M, kStep> s;
        float factor[M][2];
        product_with_rows<M, kStep, W>(s, q + warp * 16 * M * kStride, keys + i * kStride);
        if (key + i + kStep > least) mask<M, kStep>(s, queries, warp_row, key + i);
        softmax.meet(s, a.scale2, factor);
        rescale<M, W>(o, factor);
        add_product<M, kStep, W, W>(o, s, keys + (kKeys + i) * kStride);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float sum = warp_reduce<4>(softmax.sum[m][h]);
      const int row = warp_row + m * 16 + h * 8 + int(threadIdx.x) % 32 / 4;
      if (row < queries.rows)
        store_row<W>(a, queries, row, queries.limit(row) <= begin, o[m], h, softmax.largest[m][h], sum);
    }
}

template <int W, int M>
void start(const Context& ctx, const ForwardArgs& a, int64_t heads, int64_t splits) {
  constexpr int kElements = (16 * M * kMmaWarps + 4 * kKeysOfTile<W>)*kTileStride<W>;
  launch(ctx, "attention_forward_mma", forward_mma_kernel<W, M>,
         {dim3(unsigned(a.table.tiles), unsigned(heads / a.together), unsigned(splits)), kMmaThreads,
          kElements * sizeof(bf16)},
         a);
}

}  // namespace

int forward_mma_tile(int64_t head_size, int64_t most_rows) {
  return most_rows > 64 && head_size <= 128 ? 128 : 64;
}

void forward_mma(const Context& ctx, const ForwardArgs& a, int64_t tile, int64_t heads, int64_t splits) {
  with_width(a.head_size, [&](auto width) {
    if constexpr (width <= 128) {
      if (tile == 128) return start<width, 2>(ctx, a, heads, splits);
    }
    start<width, 1>(ctx, a, heads, splits);
  });
}

}  // namespace jambalaya::cuda
