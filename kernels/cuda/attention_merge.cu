// What attention over several blocks of keys needs besides the attention itself: two results put together,
// and delta = <dO, O>. Bound by memory. A row (token, head) is worked on by 8 neighbouring threads.
#include "kernels/attention_segments.h"
#include "kernels/check.h"
#include "kernels/cuda/attention_library.h"
#include "kernels/cuda/constants.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vector.h"

namespace jambalaya::cuda {
namespace {

constexpr int kThreads = 256, kThreadsOfRow = 8;

/// o's rows and their numbers.
struct Rows {
  int64_t tokens;
  int heads, head_size;
};
Shape shape_of(const Rows& rows) {
  return {grid_of(div_up(rows.tokens * rows.heads * kThreadsOfRow, kThreads)), kThreads};
}

/// Rows in the order of memory: token, then head.
struct Row {
  int64_t token;
  int head, lane;
  bool there;
  __device__ __forceinline__ explicit Row(const Rows& rows) {
    const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kThreadsOfRow;
    token = i / rows.heads, head = int(i % rows.heads), lane = int(threadIdx.x) % kThreadsOfRow;
    there = token < rows.tokens;
  }
};

template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    delta_kernel(Rows rows, const T* d_out, int64_t d_out_stride, const T* o, int64_t o_stride, float* delta,
                 int64_t delta_stride) {
  const Row row(rows);
  float sum = 0;
  if (row.there) {
    const int64_t column = int64_t(row.head) * rows.head_size;
    for (int c = row.lane * N; c < rows.head_size; c += kThreadsOfRow * N) {
      float x[N], y[N];
      load<N>(x, d_out + row.token * d_out_stride + column + c);
      load<N>(y, o + row.token * o_stride + column + c);
#pragma unroll
      for (int n = 0; n < N; n++) sum += x[n] * y[n];
    }
  }
  sum = warp_reduce<kThreadsOfRow>(sum);
  if (row.there && row.lane == 0) delta[row.head * delta_stride + row.token] = sum;
}

template <class T>
void start_delta(const Context& ctx, const AttentionDelta& op, const Rows& rows) {
  const bool wide = op.head_size % 8 == 0 && access_width(op.o.columns(), op.o, op.d_out) == 8;
  launch(ctx, "attention_delta", wide ? delta_kernel<8, T> : delta_kernel<1, T>, shape_of(rows), rows,
         op.d_out.ptr<T>(), op.d_out.row_stride, op.o.ptr<T>(), op.o.row_stride, op.delta.ptr<float>(),
         op.delta.row_stride);
}

template <int N>
__global__ void __launch_bounds__(kThreads)
    merge_kernel(Rows rows, float* o, int64_t o_stride, float* lse, int64_t lse_stride, const float* part,
                 int64_t part_stride, const float* part_lse, int64_t part_lse_stride) {
  const Row row(rows);
  const float unseen = minus_infinity();
  float* const own_lse = lse + row.head * lse_stride + row.token;
  float a = unseen, b = unseen;
  if (row.there) a = *own_lse, b = part_lse[row.head * part_lse_stride + row.token];
  __syncwarp();  // all threads of the row have read its lse
  if (b == unseen) return;
  const float top = Max()(a, b), x = expf(a - top), y = expf(b - top), total = x + y;
  const float share = x / total, part_share = y / total;
  float* const to = o + row.token * o_stride + int64_t(row.head) * rows.head_size;
  const float* const from = part + row.token * part_stride + int64_t(row.head) * rows.head_size;
  for (int c = row.lane * N; c < rows.head_size; c += kThreadsOfRow * N) {
    float sum[N];
    load<N>(sum, from + c);
    if (a != unseen) {
      float old[N];
      load<N>(old, to + c);
#pragma unroll
      for (int n = 0; n < N; n++) sum[n] = old[n] * share + sum[n] * part_share;
    }
    store<N>(to + c, sum);
  }
  if (row.lane == 0) *own_lse = a == unseen ? b : top + logf(total);
}

/// to [columns, rows] = from [rows, columns], by squares through shared memory so that both sides are read
/// and written along their rows.
__global__ void __launch_bounds__(kThreads)
    transpose_kernel(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to,
                     int64_t to_stride) {
  constexpr int kSide = 32, kLines = kThreads / kSide;
  __shared__ float square[kSide][kSide + 1];
  const int x = int(threadIdx.x) % kSide, y = int(threadIdx.x) / kSide;
  const int64_t row = int64_t(blockIdx.x) * kSide, column = int64_t(blockIdx.y) * kSide;
  for (int i = y; i < kSide; i += kLines)
    if (row + i < rows && column + x < columns) square[i][x] = from[(row + i) * from_stride + column + x];
  __syncthreads();
  for (int i = y; i < kSide; i += kLines)
    if (column + i < columns && row + x < rows) to[(column + i) * to_stride + row + x] = square[x][i];
}

}  // namespace

void transpose_statistics(const Context& ctx, const Tensor& statistics, const Tensor& lse) {
  const int64_t tokens = statistics.rows(), heads = statistics.columns();
  launch(ctx, "transpose_statistics", transpose_kernel,
         {dim3(unsigned(div_up(tokens, 32)), unsigned(div_up(heads, 32))), kThreads}, statistics.ptr<float>(),
         statistics.row_stride, tokens, heads, lse.ptr<float>(), lse.row_stride);
}

void CudaOps::attention_delta(Context& ctx, const AttentionDelta& op) {
  const attention::Heads heads = check_op(op);
  const Rows rows{op.o.rows(), int(heads.query), int(heads.size)};
  act_kind(op.o) ? start_delta<bf16>(ctx, op, rows) : start_delta<float>(ctx, op, rows);
}

void CudaOps::attention_merge(Context& ctx, const AttentionMerge& op) {
  const Tensor &o = op.o, &part = op.part;
  const attention::Heads heads = check_op(op);
  const Rows rows{o.rows(), int(heads.query), int(heads.size)};
  const bool wide = heads.size % 4 == 0 && access_width(o.columns(), o, part) >= 4;
  launch(ctx, "attention_merge", wide ? merge_kernel<4> : merge_kernel<1>, shape_of(rows), rows,
         o.ptr<float>(), o.row_stride, op.lse.ptr<float>(), op.lse.row_stride, part.ptr<float>(),
         part.row_stride, op.part_lse.ptr<float>(), op.part_lse.row_stride);
}

}  // namespace jambalaya::cuda
