// Attention backward on tensor cores. Keys as rows: a warp of the first kernel owns 16 keys and all their
// gradients, so S^T and dP^T leave the tensor cores as the left operands of dV and dK, and nothing is
// exchanged between warps. A warp of the second owns 16 queries in the same way. Tiles of the other side come
// into two buffers by turns. Bound by tensor cores and shared memory (256 bytes of right operand for each
// mma).
#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/constants.h"

namespace jambalaya::cuda {
namespace {

constexpr int kRows = kBackwardMmaTile;  // 16 a warp
static_assert(kRows == 16 * kMmaWarps);

__device__ __forceinline__ bool unseen(float lse) { return lse == minus_infinity(); }
/// A query that has seen no key: probabilities 2^(s - inf) = 0.
__device__ __forceinline__ float lse2_of(float lse) { return unseen(lse) ? -lse : lse * kLog2E; }

/// Two neighbouring gradients: written as bf16, or added to f32. Products are rounded by themselves, so that
/// += adds what = would write.
__device__ __forceinline__ void store_pair(void* to, int64_t at, float x, float y, float scale,
                                           bool accumulate) {
  x = __fmul_rn(x, scale), y = __fmul_rn(y, scale);
  if (accumulate) {
    auto* const sum = reinterpret_cast<float2*>(static_cast<float*>(to) + at);
    *sum = make_float2(sum->x + x, sum->y + y);
  } else {
    *reinterpret_cast<uint32_t*>(static_cast<bf16*>(to) + at) = pack_bf16(x, y);
  }
}

/// Writes the rows g and g + 8 of a warp, of which `count` are there; `at` is their first element.
template <int Columns>
__device__ __forceinline__ void store_rows(void* to, int64_t at, int64_t stride, int count, int columns,
                                           const Sums<1, Columns>& x, float scale, bool accumulate) {
  const int g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int r = g + 8 * h;
    if (r >= count) continue;
#pragma unroll
    for (int n = 0; n < Columns / 8; n++)
      if (n * 8 < columns)
        store_pair(to, at + r * stride + n * 8 + 2 * q, x[0][n][2 * h], x[0][n][2 * h + 1], scale,
                   accumulate);
  }
}

// ---- dK and dV -----------------------------------------------------------------------------------------

/// Queries that a tile of keys meets at a time, in shared memory.
template <int W>
struct QueryTile {
  static constexpr int kQueries = W > 128 ? 32 : 64;
  static constexpr int kBytes = 2 * kQueries * kTileStride<W> * int(sizeof(bf16)) + 2 * kQueries * 4;
  unsigned char* base;
  __device__ __forceinline__ bf16* q() const { return reinterpret_cast<bf16*>(base); }
  __device__ __forceinline__ bf16* g() const { return q() + kQueries * kTileStride<W>; }
  __device__ __forceinline__ float* lse() const {
    return reinterpret_cast<float*>(g() + kQueries * kTileStride<W>);
  }
  __device__ __forceinline__ float* delta() const { return lse() + kQueries; }

  /// Tokens [token, token + kQueries) of a head; zeros where the segment has ended.
  __device__ __forceinline__ void fetch(const BackwardArgs& a, const TileSegment& segment, int head,
                                        int token) const {
    const int64_t t = segment.first_token + token, column = int64_t(head) * a.head_size;
    const int count = segment.tokens - token;
    fetch_rows<kQueries, W>(q(), static_cast<const bf16*>(a.q) + t * a.q_stride + column, a.q_stride, count,
                            a.head_size);
    fetch_rows<kQueries, W>(g(), static_cast<const bf16*>(a.d_out) + t * a.d_out_stride + column,
                            a.d_out_stride, count, a.head_size);
    const int i = int(threadIdx.x) % kQueries;
    if (threadIdx.x < 2 * kQueries) {
      const bool first = threadIdx.x < kQueries;
      const float* const from = first ? a.lse + head * a.lse_stride : a.delta + head * a.delta_stride;
      cp_async_4((first ? lse() : delta()) + i, from + (i < count ? t + i : 0), i < count);
    }
  }
};

/// Scores to probabilities P^T; columns are queries. `first_key` is the warp's, `token` the tile's first.
template <int N>
__device__ __forceinline__ void probabilities(Sums<1, N>& s, const float* lse, float scale2,
                                              const TileSegment& segment, int first_key, int token) {
  const int g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
  const bool whole = token + N <= segment.tokens && first_key + 16 <= segment.limit(token);
#pragma unroll
  for (int n = 0; n < N / 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int column = n * 8 + 2 * q + i % 2, key = first_key + g + i / 2 * 8;
      float x = ex2(s[0][n][i] * scale2 - lse2_of(lse[column]));
      if (!whole && (token + column >= segment.tokens || key >= segment.limit(token + column))) x = 0;
      s[0][n][i] = x;
    }
}

/// dP^T to dS^T, given P^T.
template <int N>
__device__ __forceinline__ void score_gradients(Sums<1, N>& dp, const Sums<1, N>& p, const float* lse,
                                                const float* delta) {
  const int q = int(threadIdx.x) % 4;
#pragma unroll
  for (int n = 0; n < N / 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int column = n * 8 + 2 * q + i % 2;
      dp[0][n][i] = p[0][n][i] * (dp[0][n][i] - (unseen(lse[column]) ? 0.f : delta[column]));
    }
}

/// dK and dV of one tile of keys of one key head, `Columns` columns of them: wider heads are cut in two,
/// since the sums of a thread must fit in registers.
template <int W, int Columns>
__global__ void __launch_bounds__(kMmaThreads, 2) backward_keys_mma_kernel(BackwardArgs a) {
  constexpr int kQueries = QueryTile<W>::kQueries, kStride = kTileStride<W>;
  constexpr int kStep = Columns > 64 ? 32 : kQueries;  // queries whose scores are in registers at a time
  const int tile = int(blockIdx.x), warp = int(threadIdx.x) / 32;
  const TileSegment segment = segment_of_tile(a.table, tile);
  const int key = (tile - segment.first_tile) * kRows, warp_key = key + warp * 16;
  const int column = int(blockIdx.z) * Columns;
  const int64_t head_column = int64_t(blockIdx.y) * a.head_size, row = segment.first_key + key;

  bf16 *const k = dynamic_shared<bf16>(), *const v = k + kRows * kStride;
  unsigned char* const buffers = reinterpret_cast<unsigned char*>(v + kRows * kStride);
  const int keys = segment.seen - key;
  fetch_rows<kRows, W>(k, static_cast<const bf16*>(a.k) + row * a.k_stride + head_column, a.k_stride, keys,
                       a.head_size);
  fetch_rows<kRows, W>(v, static_cast<const bf16*>(a.v) + row * a.v_stride + head_column, a.v_stride, keys,
                       a.head_size);
  const int first = max(0, key - segment.past);  // the first token that sees the tile
  const int tiles = (segment.tokens - first + kQueries - 1) / kQueries, meetings = tiles * a.shared;
  auto fetch = [&](int meeting) {
    QueryTile<W>{buffers + meeting % 2 * QueryTile<W>::kBytes}.fetch(
        a, segment, int(blockIdx.y) * a.shared + meeting / tiles, first + meeting % tiles * kQueries);
  };
  Sums<1, Columns> dk, dv;
  set_zero<1, Columns>(dk);
  set_zero<1, Columns>(dv);
  fetch(0);
  cp_async_commit();
  for (int meeting = 0; meeting < meetings; meeting++) {
    if (meeting + 1 < meetings) fetch(meeting + 1);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    const int token = first + meeting % tiles * kQueries;
    if (warp_key < segment.limit(min(token + kQueries, segment.tokens) - 1)) {
      const QueryTile<W> queries{buffers + meeting % 2 * QueryTile<W>::kBytes};
#pragma unroll 1
      for (int i = 0; i < kQueries; i += kStep) {
        const bf16 *const q = queries.q() + i * kStride, *const g = queries.g() + i * kStride;
        Sums<1, kStep> p, ds;
        product_with_rows<1, kStep, W>(p, k + warp * 16 * kStride, q);
        probabilities<kStep>(p, queries.lse() + i, a.scale2, segment, warp_key, token + i);
        add_product<1, kStep, W, Columns>(dv, p, g + column);
        product_with_rows<1, kStep, W>(ds, v + warp * 16 * kStride, g);
        score_gradients<kStep>(ds, p, queries.lse() + i, queries.delta() + i);
        add_product<1, kStep, W, Columns>(dk, ds, q + column);
      }
    }
    __syncthreads();
  }
  const int count = segment.seen - warp_key, columns = a.head_size - column;
  const int64_t warp_row = segment.first_key + warp_key, at = head_column + column;
  store_rows<Columns>(a.dk, warp_row * a.dk_stride + at, a.dk_stride, count, columns, dk, a.scale,
                      a.accumulate);
  store_rows<Columns>(a.dv, warp_row * a.dv_stride + at, a.dv_stride, count, columns, dv, 1.f, a.accumulate);
}

// ---- dQ ------------------------------------------------------------------------------------------------

template <int W>
constexpr int kKeysOfTile = W > 128 ? 32 : 64;

/// What a thread knows of its rows g and g + 8; zeros for rows that are not there.
struct RowStats {
  int limit[2] = {0, 0};  ///< keys that the row sees
  float lse2[2] = {0, 0}, delta[2] = {0, 0};

  __device__ __forceinline__ RowStats(const BackwardArgs& a, const TileSegment& segment, int head, int token,
                                      int warp_token) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int i = token + warp_token + int(threadIdx.x) % 32 / 4 + 8 * h;
      if (i >= segment.tokens) continue;
      const int64_t t = segment.first_token + i;
      const float lse = a.lse[head * a.lse_stride + t];
      limit[h] = segment.limit(i), lse2[h] = lse2_of(lse);
      if (!unseen(lse)) delta[h] = a.delta[head * a.delta_stride + t];
    }
  }
};

/// Scores and dP of a warp's queries to dS, in dp.
template <int N>
__device__ __forceinline__ void score_gradients_of_rows(const Sums<1, N>& s, Sums<1, N>& dp, int key,
                                                        bool whole, const RowStats& stats, float scale2) {
  const int q = int(threadIdx.x) % 4;
#pragma unroll
  for (int n = 0; n < N / 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int h = i / 2;
      float x = ex2(s[0][n][i] * scale2 - stats.lse2[h]);
      if (!whole && key + n * 8 + 2 * q + i % 2 >= stats.limit[h]) x = 0;
      dp[0][n][i] = x * (dp[0][n][i] - stats.delta[h]);
    }
}

template <int W>
__global__ void __launch_bounds__(kMmaThreads, 2) backward_queries_mma_kernel(BackwardArgs a) {
  constexpr int kKeys = kKeysOfTile<W>, kStride = kTileStride<W>;
  const int tile = int(gridDim.x - 1 - blockIdx.x);  // the longest rows first
  const TileSegment segment = segment_of_tile(a.table, tile);
  const int token = (tile - segment.first_tile) * kRows, tokens = min(kRows, segment.tokens - token);
  const int head = int(blockIdx.y), end = segment.limit(token + tokens - 1);
  const int64_t t = segment.first_token + token, column = int64_t(head) * a.head_size;

  bf16 *const q = dynamic_shared<bf16>(), *const g = q + kRows * kStride;
  bf16* const buffers = g + kRows * kStride;  // [2][keys, values][kKeys, kStride]
  fetch_rows<kRows, W>(q, static_cast<const bf16*>(a.q) + t * a.q_stride + column, a.q_stride, tokens,
                       a.head_size);
  fetch_rows<kRows, W>(g, static_cast<const bf16*>(a.d_out) + t * a.d_out_stride + column, a.d_out_stride,
                       tokens, a.head_size);
  const int64_t key_column = int64_t(head / a.shared) * a.head_size;
  const bf16* const k = static_cast<const bf16*>(a.k) + segment.first_key * a.k_stride + key_column;
  const bf16* const v = static_cast<const bf16*>(a.v) + segment.first_key * a.v_stride + key_column;
  auto fetch = [&](int key, int buffer) {
    bf16* const to = buffers + buffer * 2 * kKeys * kStride;
    fetch_rows<kKeys, W>(to, k + key * a.k_stride, a.k_stride, end - key, a.head_size);
    fetch_rows<kKeys, W>(to + kKeys * kStride, v + key * a.v_stride, a.v_stride, end - key, a.head_size);
  };

  const int warp = int(threadIdx.x) / 32, warp_token = warp * 16;
  const int least = warp_token < tokens ? segment.limit(token + warp_token) : 0;
  const int most = least ? segment.limit(token + min(warp_token + 16, tokens) - 1) : 0;
  const RowStats stats(a, segment, head, token, warp_token);
  Sums<1, W> dq;
  set_zero<1, W>(dq);
  if (end > 0) fetch(0, 0);
  cp_async_commit();
  for (int key = 0, buffer = 0; key < end; key += kKeys, buffer ^= 1) {
    if (key + kKeys < end) fetch(key + kKeys, buffer ^ 1);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    if (key < most) {
      const bf16* const keys = buffers + buffer * 2 * kKeys * kStride;
      Sums<1, kKeys> s, dp;
      product_with_rows<1, kKeys, W>(s, q + warp * 16 * kStride, keys);
      product_with_rows<1, kKeys, W>(dp, g + warp * 16 * kStride, keys + kKeys * kStride);
      score_gradients_of_rows<kKeys>(s, dp, key, key + kKeys <= least, stats, a.scale2);
      add_product<1, kKeys, W, W>(dq, dp, keys);
    }
    __syncthreads();
  }
  cp_async_wait<0>();  // a tile without keys
  store_rows<W>(a.dq, (t + warp_token) * a.dq_stride + column, a.dq_stride, tokens - warp_token, a.head_size,
                dq, a.scale, a.accumulate);
}

}  // namespace

void backward_keys_mma(const Context& ctx, const BackwardArgs& a, int64_t key_heads) {
  with_width(a.head_size, [&](auto width) {
    constexpr int kColumns = width > 128 ? width / 2 : width;
    const size_t bytes = 2 * kRows * kTileStride<width> * sizeof(bf16) + 2 * QueryTile<width>::kBytes;
    launch(ctx, "attention_backward_keys_mma", backward_keys_mma_kernel<width, kColumns>,
           {dim3(unsigned(a.table.tiles), unsigned(key_heads), width / kColumns), kMmaThreads, bytes}, a);
  });
}

void backward_queries_mma(const Context& ctx, const BackwardArgs& a, int64_t heads) {
  with_width(a.head_size, [&](auto width) {
    const size_t elements = (2 * kRows + 4 * kKeysOfTile<width>)*kTileStride<width>;
    launch(ctx, "attention_backward_queries_mma", backward_queries_mma_kernel<width>,
           {dim3(unsigned(a.table.tiles), unsigned(heads)), kMmaThreads, elements * sizeof(bf16)}, a);
  });
}

}  // namespace jambalaya::cuda
