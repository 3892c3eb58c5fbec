// Attention on CUDA cores in fp32: f32 activations, and head sizes or strides that the tensor-core kernels do
// not take. Tiles of queries and keys lie in shared memory as fp32; a row of the tile is worked on by 8
// neighbouring threads. Rows of operands are an odd number of floats apart, so that the 8 keys that
// neighbouring threads read lie in different banks. Bound by shared memory (two reads per fma).
#include "kernels/cuda/attention_call.h"
#include "kernels/cuda/constants.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vector.h"

namespace jambalaya::cuda {
namespace {

constexpr int kThreadsOfRow = 8;
constexpr float kLowest = -1e30f;  // finite: lowest - lowest is 0 for rows that have seen no key yet

/// Tile rows of head_size fp32 numbers.
struct SharedRows {
  float* data;
  int stride;
  __device__ __forceinline__ float* row(int r) const { return data + r * stride; }
};

/// One after another from dynamic shared memory.
struct SharedCut {
  float* next;
  __device__ __forceinline__ SharedRows rows(int count, int columns) {
    const SharedRows r{next, columns | 1};
    next += count * r.stride;
    return r;
  }
};

/// rows[r] = at(r) (a pointer to head_size elements, or null: zeros).
template <int Tile, class T, class At>
__device__ __forceinline__ void load_rows(const SharedRows& to, int head_size, const At& at) {
  for (int i = threadIdx.x; i < Tile * head_size; i += Tile * kThreadsOfRow) {
    const int r = i / head_size, c = i % head_size;
    const T* from = at(r);
    to.row(r)[c] = from ? as_float(from[c]) : 0.f;
  }
}

/// <row r of a, row j of b>.
__device__ __forceinline__ float dot(const float* a, const float* b, int n) {
  float x = 0;
  for (int c = 0; c < n; c++) x += a[c] * b[c];
  return x;
}

/// The online softmax of one row, as its 8 threads have it.
struct Softmax {
  float largest = kLowest, sum = 0;  ///< sum of this thread's keys

  /// Scores of `visible` keys to probabilities p relative to the largest score so far; returns what that
  /// makes of earlier sums.
  template <int Tile>
  __device__ __forceinline__ float meet(const float* q, const SharedRows& k, float* p, int head_size,
                                        int visible, float scale2) {
    constexpr int kKeys = Tile / kThreadsOfRow;
    const int lane = int(threadIdx.x) % kThreadsOfRow;
    float s[kKeys], top = largest;
#pragma unroll
    for (int i = 0; i < kKeys; i++) {
      const int j = lane + i * kThreadsOfRow;
      s[i] = j < visible ? dot(q, k.row(j), head_size) * scale2 : kLowest;
      top = Max()(s[i], top);
    }
    top = warp_reduce<kThreadsOfRow>(top, Max());
    const float change = ex2(largest - top);
    largest = top, sum *= change;
#pragma unroll
    for (int i = 0; i < kKeys; i++) {
      const int j = lane + i * kThreadsOfRow;
      const float x = j < visible ? ex2(s[i] - top) : 0.f;
      p[j] = x, sum += x;
    }
    return change;
  }
};

/// One row of o and its logsumexp, the softmax's sum being whole. `unseen`: no key in sight.
template <class T>
__device__ __forceinline__ void store_row(const ForwardArgs& a, const float* o, const Softmax& softmax,
                                          int64_t t, int head, bool unseen) {
  const int lane = int(threadIdx.x) % kThreadsOfRow;
  const float share = unseen ? 0.f : 1.f / softmax.sum;
  const int64_t at = blockIdx.z * a.o_split_stride + t * a.o_stride + int64_t(head) * a.head_size;
  for (int c = lane; c < a.head_size; c += kThreadsOfRow) {
    const float x = unseen ? 0.f : o[c] * share;
    if (a.o_f32)
      static_cast<float*>(a.o)[at + c] = x;
    else
      static_cast<T*>(a.o)[at + c] = from_float<T>(x);
  }
  if (a.lse && lane == 0)
    a.lse[blockIdx.z * a.lse_split_stride + head * a.lse_stride + t] =
        unseen ? minus_infinity() : softmax.largest * kLn2 + logf(softmax.sum);
}

template <class T, int Tile>
__global__ void __launch_bounds__(Tile* kThreadsOfRow, 1) forward_kernel(ForwardArgs a) {
  const int tile = int(gridDim.x - 1 - blockIdx.x);  // the longest rows first
  const TileSegment segment = segment_of_tile(a.table, tile);
  const int size = a.head_size, r = int(threadIdx.x) / kThreadsOfRow, lane = int(threadIdx.x) % kThreadsOfRow;
  const int first = (tile - segment.first_tile) * Tile, rows = segment.tokens * a.together;
  const int token = (first + r) / a.together, head0 = int(blockIdx.y) * a.together;
  const int last_row = min(first + Tile, rows) - 1, limit = first + r < rows ? segment.limit(token) : 0;
  const int begin = int(blockIdx.z) * a.keys_per_split;
  const int end = min(segment.limit(last_row / a.together), begin + a.keys_per_split);

  SharedCut cut{dynamic_shared<float>()};
  const SharedRows q = cut.rows(Tile, size), kv = cut.rows(Tile, size), o = cut.rows(Tile, size),
                   p = cut.rows(Tile, Tile);
  load_rows<Tile, T>(q, size, [&](int i) -> const T* {
    if (first + i >= rows) return nullptr;
    const int64_t row = segment.first_token + (first + i) / a.together;
    return static_cast<const T*>(a.q) + row * a.q_stride + (head0 + (first + i) % a.together) * size;
  });
  for (int c = lane; c < size; c += kThreadsOfRow) o.row(r)[c] = 0;
  const int64_t key_column = int64_t(head0 / a.shared) * size;
  Softmax softmax;
  for (int key = begin; key < end; key += Tile) {
    auto rows_of = [&](const void* x, int64_t stride) {
      return [=](int j) -> const T* {
        return key + j < end ? static_cast<const T*>(x) + (segment.first_key + key + j) * stride + key_column
                             : nullptr;
      };
    };
    __syncthreads();
    load_rows<Tile, T>(kv, size, rows_of(a.k, a.k_stride));
    __syncthreads();
    const int visible = min(Tile, min(limit, end) - key);
    const float change = softmax.template meet<Tile>(q.row(r), kv, p.row(r), size, visible, a.scale2);
    __syncthreads();
    load_rows<Tile, T>(kv, size, rows_of(a.v, a.v_stride));
    __syncthreads();
    for (int c = lane; c < size; c += kThreadsOfRow) {
      float x = o.row(r)[c] * change;
      for (int j = 0; j < visible; j++) x += p.row(r)[j] * kv.row(j)[c];
      o.row(r)[c] = x;
    }
  }
  softmax.sum = warp_reduce<kThreadsOfRow>(softmax.sum);
  if (first + r >= rows) return;
  store_row<T>(a, o.row(r), softmax, segment.first_token + token, head0 + (first + r) % a.together,
               min(limit, end) <= begin);
}

/// lse / ln 2 and delta of queries; a query that has seen no key gets +inf, so that its probabilities are 0.
struct QueryStats {
  float lse2, delta;
};
__device__ __forceinline__ QueryStats stats_of(const BackwardArgs& a, int64_t t, int head) {
  const float lse = a.lse[head * a.lse_stride + t];
  const bool unseen = lse == minus_infinity();
  return {unseen ? -lse : lse * kLog2E, unseen ? 0.f : a.delta[head * a.delta_stride + t]};
}

/// One gradient row: written as T, or added to f32. The product is rounded by itself, so that += adds what =
/// would write.
template <class T>
__device__ __forceinline__ void store_gradient(void* to, int64_t at, float x, float scale, bool accumulate) {
  const float y = __fmul_rn(x, scale);
  if (accumulate)
    static_cast<float*>(to)[at] += y;
  else
    static_cast<T*>(to)[at] = from_float<T>(y);
}

/// dK and dV of one tile of keys of one key head: all queries that see it pass by.
template <class T, int Tile>
__global__ void __launch_bounds__(Tile* kThreadsOfRow) backward_keys_kernel(BackwardArgs a) {
  const int tile = int(blockIdx.x);
  const TileSegment segment = segment_of_tile(a.table, tile);
  const int size = a.head_size, r = int(threadIdx.x) / kThreadsOfRow, lane = int(threadIdx.x) % kThreadsOfRow;
  const int key = (tile - segment.first_tile) * Tile, keys = min(Tile, segment.seen - key);
  SharedCut cut{dynamic_shared<float>()};
  const SharedRows k = cut.rows(Tile, size), v = cut.rows(Tile, size), q = cut.rows(Tile, size),
                   g = cut.rows(Tile, size), dk = cut.rows(Tile, size), dv = cut.rows(Tile, size),
                   p = cut.rows(Tile, Tile), ds = cut.rows(Tile, Tile);
  const int64_t column = int64_t(blockIdx.y) * size;
  auto rows_of = [&](const void* x, int64_t stride, int64_t row0, int count, int64_t column0) {
    return [=](int i) -> const T* {
      return i < count ? static_cast<const T*>(x) + (row0 + i) * stride + column0 : nullptr;
    };
  };
  load_rows<Tile, T>(k, size, rows_of(a.k, a.k_stride, segment.first_key + key, keys, column));
  load_rows<Tile, T>(v, size, rows_of(a.v, a.v_stride, segment.first_key + key, keys, column));
  for (int c = lane; c < size; c += kThreadsOfRow) dk.row(r)[c] = 0, dv.row(r)[c] = 0;
  for (int h = 0; h < a.shared; h++) {
    const int head = int(blockIdx.y) * a.shared + h;
    for (int token = max(0, key - segment.past); token < segment.tokens; token += Tile) {
      const int tokens = min(Tile, segment.tokens - token);
      const int64_t t = segment.first_token + token;
      __syncthreads();
      load_rows<Tile, T>(q, size, rows_of(a.q, a.q_stride, t, tokens, int64_t(head) * size));
      load_rows<Tile, T>(g, size, rows_of(a.d_out, a.d_out_stride, t, tokens, int64_t(head) * size));
      __syncthreads();
      for (int i = lane; i < Tile; i += kThreadsOfRow) {
        float x = 0, d = 0;
        if (i < tokens && r < keys && key + r < segment.limit(token + i)) {
          const QueryStats stats = stats_of(a, t + i, head);
          x = ex2(dot(k.row(r), q.row(i), size) * a.scale2 - stats.lse2);
          d = x * (dot(v.row(r), g.row(i), size) - stats.delta);
        }
        p.row(r)[i] = x, ds.row(r)[i] = d;
      }
      __syncthreads();
      for (int c = lane; c < size; c += kThreadsOfRow) {
        float x = dv.row(r)[c], y = dk.row(r)[c];
        for (int i = 0; i < tokens; i++) {
          x += p.row(r)[i] * g.row(i)[c];
          y += ds.row(r)[i] * q.row(i)[c];
        }
        dv.row(r)[c] = x, dk.row(r)[c] = y;
      }
    }
  }
  if (r >= keys) return;
  const int64_t row = segment.first_key + key + r;
  for (int c = lane; c < size; c += kThreadsOfRow) {
    store_gradient<T>(a.dk, row * a.dk_stride + column + c, dk.row(r)[c], a.scale, a.accumulate);
    store_gradient<T>(a.dv, row * a.dv_stride + column + c, dv.row(r)[c], 1.f, a.accumulate);
  }
}

/// dQ of one tile of queries of one head.
template <class T, int Tile>
__global__ void __launch_bounds__(Tile* kThreadsOfRow) backward_queries_kernel(BackwardArgs a) {
  const int tile = int(gridDim.x - 1 - blockIdx.x);
  const TileSegment segment = segment_of_tile(a.table, tile);
  const int size = a.head_size, r = int(threadIdx.x) / kThreadsOfRow, lane = int(threadIdx.x) % kThreadsOfRow;
  const int token = (tile - segment.first_tile) * Tile, tokens = min(Tile, segment.tokens - token);
  const int head = int(blockIdx.y), end = segment.limit(token + tokens - 1);
  const int limit = r < tokens ? segment.limit(token + r) : 0;
  const int64_t t = segment.first_token + token, column = int64_t(head) * size;
  const int64_t key_column = int64_t(head / a.shared) * size;
  SharedCut cut{dynamic_shared<float>()};
  const SharedRows q = cut.rows(Tile, size), g = cut.rows(Tile, size), k = cut.rows(Tile, size),
                   v = cut.rows(Tile, size), dq = cut.rows(Tile, size), ds = cut.rows(Tile, Tile);
  auto rows_of = [&](const void* x, int64_t stride, int64_t row0, int count, int64_t column0) {
    return [=](int i) -> const T* {
      return i < count ? static_cast<const T*>(x) + (row0 + i) * stride + column0 : nullptr;
    };
  };
  load_rows<Tile, T>(q, size, rows_of(a.q, a.q_stride, t, tokens, column));
  load_rows<Tile, T>(g, size, rows_of(a.d_out, a.d_out_stride, t, tokens, column));
  for (int c = lane; c < size; c += kThreadsOfRow) dq.row(r)[c] = 0;
  const QueryStats stats = r < tokens ? stats_of(a, t + r, head) : QueryStats{0, 0};
  for (int key = 0; key < end; key += Tile) {
    __syncthreads();
    load_rows<Tile, T>(k, size, rows_of(a.k, a.k_stride, segment.first_key + key, end - key, key_column));
    load_rows<Tile, T>(v, size, rows_of(a.v, a.v_stride, segment.first_key + key, end - key, key_column));
    __syncthreads();
    for (int j = lane; j < Tile; j += kThreadsOfRow) {
      float d = 0;
      if (key + j < limit) {
        const float x = ex2(dot(q.row(r), k.row(j), size) * a.scale2 - stats.lse2);
        d = x * (dot(g.row(r), v.row(j), size) - stats.delta);
      }
      ds.row(r)[j] = d;
    }
    __syncthreads();
    const int visible = min(Tile, limit - key);
    for (int c = lane; c < size; c += kThreadsOfRow) {
      float x = dq.row(r)[c];
      for (int j = 0; j < visible; j++) x += ds.row(r)[j] * k.row(j)[c];
      dq.row(r)[c] = x;
    }
  }
  if (r >= tokens) return;
  for (int c = lane; c < size; c += kThreadsOfRow)
    store_gradient<T>(a.dq, (t + r) * a.dq_stride + column + c, dq.row(r)[c], a.scale, a.accumulate);
}

/// Calls f with the tile as a constant.
template <class F>
void with_tile(int64_t head_size, const F& f) {
  switch (general_tile(head_size)) {
    case 32:
      return f(std::integral_constant<int, 32>());
    case 16:
      return f(std::integral_constant<int, 16>());
    default:
      return f(std::integral_constant<int, 8>());
  }
}

Shape shape_of(int64_t tiles, int64_t heads, int64_t splits, int tile, int operands, int squares,
               int64_t head_size) {
  const int64_t floats = operands * tile * (head_size | 1) + squares * tile * (tile | 1);
  return {dim3(unsigned(tiles), unsigned(heads), unsigned(splits)), dim3(unsigned(tile * kThreadsOfRow)),
          size_t(floats) * sizeof(float)};
}

}  // namespace

int general_tile(int64_t head_size) {
  if (head_size <= 192) return 32;  // 6 tiles of operands in the 163 KB that an sm_80 block can have
  return head_size <= 384 ? 16 : 8;
}

void general_forward(const Context& ctx, const ForwardArgs& a, bool is_bf16, int64_t heads, int64_t splits) {
  with_tile(a.head_size, [&](auto tile) {
    const Shape shape = shape_of(a.table.tiles, heads / a.together, splits, tile, 3, 1, a.head_size);
    launch(ctx, "attention_forward", is_bf16 ? forward_kernel<bf16, tile> : forward_kernel<float, tile>,
           shape, a);
  });
}

void general_backward_keys(const Context& ctx, const BackwardArgs& a, bool is_bf16, int64_t key_heads) {
  with_tile(a.head_size, [&](auto tile) {
    const Shape shape = shape_of(a.table.tiles, key_heads, 1, tile, 6, 2, a.head_size);
    launch(ctx, "attention_backward_keys",
           is_bf16 ? backward_keys_kernel<bf16, tile> : backward_keys_kernel<float, tile>, shape, a);
  });
}

void general_backward_queries(const Context& ctx, const BackwardArgs& a, bool is_bf16, int64_t heads) {
  with_tile(a.head_size, [&](auto tile) {
    const Shape shape = shape_of(a.table.tiles, heads, 1, tile, 5, 1, a.head_size);
    launch(ctx, "attention_backward_queries",
           is_bf16 ? backward_queries_kernel<bf16, tile> : backward_queries_kernel<float, tile>, shape, a);
  });
}

}  // namespace jambalaya::cuda
