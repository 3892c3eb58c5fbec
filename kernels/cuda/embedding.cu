// Rows of the embedding table and their gradients. Legend: kernels/ops.h. The gradient needs no atomics: the
// tokens are sorted by id, and each row of the table has one block at a time that adds to it.
#include "kernels/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/radix_sort.h"
#include "kernels/cuda/vector.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kThreads = 128;

/// Rows [first, first + rows) of a vocabulary of `whole` ids.
struct Part {
  int64_t first, rows, whole;
};
Part part_of(int64_t first_id, int64_t rows, int64_t vocabulary) {
  return {first_id, rows, vocabulary ? vocabulary : rows};
}

template <int N, class From, class To>
__global__ void look_up_kernel(const int32_t* ids, const From* table, int64_t table_stride, Part part, To* y,
                               int64_t y_stride, int64_t tokens, int64_t packs) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= tokens * packs) return;
  const int64_t token = i / packs, column = i % packs * N, id = ids[token], row = id - part.first;
  float value[N] = {};
  if (row >= 0 && row < part.rows) load<N>(value, table + row * table_stride + column);
  if (id < 0 || id >= part.whole)
    for (int j = 0; j < N; j++) value[j] = NAN;  // an op cannot refuse on the device; it must not pass either
  store<N>(y + token * y_stride + column, value);
}

template <class From, class To>
void look_up(const Context& ctx, const EmbeddingForward& op, const Part& part) {
  auto go = [&]<int N>() {
    const int64_t tokens = op.y.rows(), packs = op.y.columns() / N;
    launch(ctx, "embedding_forward", look_up_kernel<N, From, To>,
           {grid_of(div_up(tokens * packs, kThreads)), kThreads}, op.ids.ptr<int32_t>(), op.table.ptr<From>(),
           op.table.row_stride, part, op.y.ptr<To>(), op.y.row_stride, tokens, packs);
  };
  access_width(op.y.columns(), op.table, op.y) == 8 ? go.template operator()<8>()
                                                    : go.template operator()<1>();
}

// ---- gradient ----

/// Tokens of one id are summed in pieces of this many, counted from the id's first token, so that an id that
/// is everywhere does not wait for one block. Ids of one piece go straight to the table.
constexpr int64_t kPiece = 64;

/// Rows of the part; `rows` itself for ids that get no gradient here: they are sorted behind the others.
__global__ void keys_kernel(const int32_t* ids, Part part, int64_t skip_id, int32_t* keys, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const int64_t id = ids[i], row = id - part.first;
  keys[i] = int32_t(row >= 0 && row < part.rows && id != skip_id ? row : part.rows);
}

/// First of the sorted positions [begin, end) whose key is above (or, with `equal`, at least) `key`.
__device__ __forceinline__ int64_t search(const int32_t* keys, int64_t begin, int64_t end, int32_t key,
                                          bool equal) {
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (keys[middle] < key || (!equal && keys[middle] == key))
      begin = middle + 1;
    else
      end = middle;
  }
  return begin;
}

/// pieces[i] = how many tokens the piece has that begins at sorted position i, 0 where none does; negative
/// where the id has more pieces than that one.
__global__ void pieces_kernel(const int32_t* keys, int64_t rows, int32_t* pieces, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  pieces[i] = 0;
  const int32_t key = keys[i];
  if (key >= rows) return;
  const int64_t first = search(keys, 0, i, key, true);
  if ((i - first) % kPiece != 0) return;
  const int64_t end = search(keys, i, n, key, false);
  const auto length = int32_t(min(kPiece, end - i));
  pieces[i] = end - first > kPiece ? -length : length;
}

/// Row of the partial sums that a piece has to itself: ids of several pieces begin more than kPiece apart,
/// and so do their other pieces among themselves.
__device__ __forceinline__ int64_t slot_of(int64_t i, bool first) { return i / kPiece * 2 + first; }

/// Blocks of a position: `slabs`, of kThreads * N columns.
template <int N, class DY>
__global__ void sum_pieces_kernel(const int32_t* keys, const int32_t* positions, const int32_t* pieces,
                                  const DY* dy, int64_t dy_stride, float* dtable, int64_t dtable_stride,
                                  float* partial, int64_t columns, int64_t slabs) {
  const int64_t i = blockIdx.x / slabs, column = (blockIdx.x % slabs * kThreads + threadIdx.x) * N;
  const int32_t piece = pieces[i];
  if (piece == 0 || column >= columns) return;
  const int count = abs(piece);
  float sum[N] = {};
#pragma unroll 4
  for (int r = 0; r < count; r++) {
    float d[N];
    load<N>(d, dy + positions[i + r] * dy_stride + column);
#pragma unroll
    for (int j = 0; j < N; j++) sum[j] += d[j];
  }
  if (piece < 0) {
    store<N>(partial + slot_of(i, i == 0 || keys[i - 1] != keys[i]) * columns + column, sum);
    return;
  }
  float* const to = dtable + keys[i] * dtable_stride + column;
  float old[N];
  load<N>(old, to);
#pragma unroll
  for (int j = 0; j < N; j++) old[j] += sum[j];
  store<N>(to, old);
}

/// Ids of several pieces: one block for each kPiece sorted positions (one such id begins there at most) and
/// slab adds their sums in order.
template <int N>
__global__ void sum_partials_kernel(const int32_t* keys, const int32_t* pieces, int64_t n,
                                    const float* partial, float* dtable, int64_t dtable_stride,
                                    int64_t columns, int64_t slabs) {
  __shared__ int64_t begin;
  if (threadIdx.x == 0) begin = -1;
  __syncthreads();
  const int64_t here = blockIdx.x / slabs * kPiece + threadIdx.x;
  if (threadIdx.x < kPiece && here < n && pieces[here] < 0 && (here == 0 || keys[here - 1] != keys[here]))
    begin = here;
  __syncthreads();
  const int64_t column = (blockIdx.x % slabs * kThreads + threadIdx.x) * N;
  if (begin < 0 || column >= columns) return;
  const int32_t key = keys[begin];
  const int64_t end = search(keys, begin, n, key, false);
  float sum[N] = {};
#pragma unroll 4
  for (int64_t i = begin; i < end; i += kPiece) {
    float part[N];
    load<N>(part, partial + slot_of(i, i == begin) * columns + column);
#pragma unroll
    for (int j = 0; j < N; j++) sum[j] += part[j];
  }
  float* const to = dtable + key * dtable_stride + column;
  float old[N];
  load<N>(old, to);
#pragma unroll
  for (int j = 0; j < N; j++) old[j] += sum[j];
  store<N>(to, old);
}

template <int N, class DY>
void add_gradients(const Context& ctx, const EmbeddingBackward& op, const SortedKeys& sorted,
                   const int32_t* pieces, float* partial) {
  const int64_t n = op.ids.rows(), columns = op.dy.columns(), slabs = div_up(columns, kThreads * N);
  launch(ctx, "embedding_sum_pieces", sum_pieces_kernel<N, DY>, {grid_of(n * slabs), kThreads}, sorted.key,
         sorted.position, pieces, op.dy.ptr<DY>(), op.dy.row_stride, op.dtable.ptr<float>(),
         op.dtable.row_stride, partial, columns, slabs);
  launch(ctx, "embedding_sum_partials", sum_partials_kernel<N>,
         {grid_of(div_up(n, kPiece) * slabs), kThreads}, sorted.key, pieces, n, partial,
         op.dtable.ptr<float>(), op.dtable.row_stride, columns, slabs);
}

}  // namespace

void CudaOps::embedding_forward(Context& ctx, const EmbeddingForward& op) {
  check_op(op);
  const Part part = part_of(op.first_id, op.table.rows(), op.vocabulary);
  if (act_kind(op.table))
    act_kind(op.y) ? look_up<bf16, bf16>(ctx, op, part) : look_up<bf16, float>(ctx, op, part);
  else
    act_kind(op.y) ? look_up<float, bf16>(ctx, op, part) : look_up<float, float>(ctx, op, part);
}

void CudaOps::embedding_backward(Context& ctx, const EmbeddingBackward& op) {
  check_op(op);
  const int64_t T = op.ids.rows(), D = op.dtable.columns();
  const Part part = part_of(op.first_id, op.dtable.rows(), op.vocabulary);
  const bool from_bf16 = act_kind(op.dy);
  if (T == 0 || part.rows == 0) return;
  ArenaScope scope(*ctx.scratch);
  int32_t* const keys = ctx.scratch->array<int32_t>(T, "embedding.keys");
  int32_t* const pieces = ctx.scratch->array<int32_t>(T, "embedding.pieces");
  float* const partial = ctx.scratch->array<float>(2 * div_up(T, kPiece) * D, "embedding.partial");
  const Shape each{grid_of(div_up(T, kThreads)), kThreads};
  launch(ctx, "embedding_keys", keys_kernel, each, op.ids.ptr<int32_t>(), part, op.skip_id, keys, T);
  const SortedKeys sorted = sort_keys(ctx, keys, T, part.rows + 1);
  launch(ctx, "embedding_pieces", pieces_kernel, each, sorted.key, part.rows, pieces, T);
  const bool aligned = access_width(D, op.dy, op.dtable) == 8;
  if (from_bf16)
    aligned ? add_gradients<8, bf16>(ctx, op, sorted, pieces, partial)
            : add_gradients<1, bf16>(ctx, op, sorted, pieces, partial);
  else
    aligned ? add_gradients<8, float>(ctx, op, sorted, pieces, partial)
            : add_gradients<1, float>(ctx, op, sorted, pieces, partial);
}

}  // namespace jambalaya::cuda
