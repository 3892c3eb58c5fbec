// Head and cross-entropy over chunks of tokens. Legend: kernels/ops.h. The products bind; the softmax between
// them (head_softmax.cu) is bound by memory. Logits are fp32: rounded to bf16 they would cost the loss its
// third digit.
//
// How many tokens of a chunk are counted only the device knows. They are gathered at the chunk's front, with
// zeros behind them, so that ignored tokens contribute exactly nothing, whatever their hidden state holds;
// the products still run over the whole chunk.
#include "kernels/check.h"
#include "kernels/cuda/head_softmax.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vector.h"
#include "kernels/op_checks.h"

namespace jambalaya::cuda {
namespace {

constexpr int kThreads = 256;

/// Tokens of a chunk: as many as fit in 2 GiB of fp32 logits, since every chunk reads and writes dW once; by
/// the whole vocabulary, so that all parts cut the tokens alike.
int64_t tokens_together(int64_t vocabulary) {
  return std::clamp<int64_t>((int64_t(2) << 30) / (4 * std::max<int64_t>(vocabulary, 1)), 256, 16384) / 128 *
         128;
}

/// token[row] = the row-th counted token of the chunk, row_of[t] = its row, -1 for ignored tokens, whose
/// results become 0. One block.
constexpr int kListWarps = 32;
__global__ void list_counted_kernel(const int32_t* targets, int64_t tokens, int32_t* token, int32_t* row_of,
                                    int32_t* count, float* nll, uint8_t* correct) {
  __shared__ int of_warps[kListWarps];
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  int before = 0;
  for (int64_t begin = 0; begin < tokens; begin += 32 * kListWarps) {
    const int64_t t = begin + threadIdx.x;
    const bool counted = t < tokens && targets[t] >= 0;
    const unsigned votes = __ballot_sync(kAllLanes, counted);
    if (lane == 0) of_warps[warp] = __popc(votes);
    __syncthreads();
    int row = before + __popc(votes & ((1u << lane) - 1));
    for (int w = 0; w < kListWarps; w++) {
      if (w < warp) row += of_warps[w];
      before += of_warps[w];
    }
    __syncthreads();  // before the next round writes of_warps
    if (t >= tokens) continue;
    row_of[t] = counted ? row : -1;
    if (counted) {
      token[row] = int32_t(t);
    } else {
      if (nll) nll[t] = 0;
      if (correct) correct[t] = 0;
    }
  }
  if (threadIdx.x == 0) *count = before;
}

/// y[i] = x[rows[i]], zeros where rows[i] is negative or i is at or beyond *count (where count is given).
template <int N, class Act>
__global__ void select_rows_kernel(const Act* x, int64_t x_stride, const int32_t* rows, const int32_t* count,
                                   Act* y, int64_t y_stride, int64_t n, int64_t packs) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n * packs) return;
  const int64_t to = i / packs, column = i % packs * N;
  const int32_t from = !count || to < *count ? rows[to] : -1;
  float value[N] = {};
  if (from >= 0) load<N>(value, x + from * x_stride + column);
  store<N>(y + to * y_stride + column, value);
}

void select_rows(const Context& ctx, const Tensor& x, const int32_t* rows, const int32_t* count,
                 const Tensor& y) {
  auto go = [&]<int N, class Act>() {
    const int64_t packs = y.columns() / N;
    launch(ctx, "head_select_rows", select_rows_kernel<N, Act>,
           {grid_of(div_up(y.rows() * packs, kThreads)), kThreads}, x.ptr<Act>(), x.row_stride, rows, count,
           y.ptr<Act>(), y.row_stride, y.rows(), packs);
  };
  const bool aligned = access_width(y.columns(), x, y) == 8;
  if (act_kind(x))
    aligned ? go.template operator()<8, bf16>() : go.template operator()<1, bf16>();
  else
    aligned ? go.template operator()<8, float>() : go.template operator()<1, float>();
}

/// sums += (sum of nll, sum of lse^2) over the counted tokens, in fp64. One block.
__global__ void add_losses_kernel(const double* nll, const double* lse, const int32_t* count, double* sums) {
  __shared__ double shared[kThreads / 32];
  double losses = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < *count; i += kThreads) losses += nll[i], squares += lse[i] * lse[i];
  losses = block_reduce<kThreads / 32>(losses, shared);
  squares = block_reduce<kThreads / 32>(squares, shared);
  if (threadIdx.x == 0) sums[0] += losses, sums[1] += squares;
}

/// Scratch of a chunk of up to `room` tokens.
struct Room {
  Tensor logits;    ///< f32 [room, V], rows padded for packs
  Tensor gathered;  ///< act [room, D]: hidden states of the counted tokens, then their gradients
  int32_t *token, *row_of, *count;
  SoftmaxStatistics *own, *all;
  double *nll, *lse;
  float* factor;

  Room(Arena& scratch, const HeadLoss& a, int64_t room)
      : logits(scratch.tensor(DType::f32, {room, (a.w.rows() + 15) / 16 * 16}, "head.logits")),
        gathered(scratch.tensor(a.h.dtype, {room, a.h.columns()}, "head.gathered")),
        token(scratch.array<int32_t>(room, "head.token")),
        row_of(scratch.array<int32_t>(room, "head.token")),
        count(scratch.array<int32_t>(1, "head.token")),
        own(scratch.array<SoftmaxStatistics>(room, "head.statistics")),
        all(a.combine ? scratch.array<SoftmaxStatistics>(room * a.parts, "head.statistics") : own),
        nll(scratch.array<double>(room, "head.nll")),
        lse(scratch.array<double>(room, "head.lse")),
        factor(scratch.array<float>(room, "head.factor")) {}
};

/// Tokens [begin, begin + tokens) of the op.
SoftmaxChunk chunk_of(const HeadLoss& a, const Room& room, int64_t begin, int64_t tokens) {
  SoftmaxChunk chunk{};
  chunk.logits = room.logits.ptr<float>();
  chunk.stride = room.logits.row_stride;
  chunk.columns = int32_t(a.w.rows());
  chunk.first_id = a.first_id;
  chunk.vocabulary = a.vocabulary ? a.vocabulary : a.w.rows();
  chunk.tokens = tokens;
  chunk.count = room.count, chunk.token = room.token;
  chunk.targets = a.targets.ptr<int32_t>() + begin;
  chunk.scale = a.scale, chunk.z_scale = a.z_scale;
  chunk.parts = a.parts;
  chunk.own = room.own, chunk.all = room.all;
  chunk.nll = room.nll, chunk.lse = room.lse, chunk.factor = room.factor;
  chunk.nll_of_token = a.nll ? a.nll.ptr<float>() + begin : nullptr;
  chunk.correct_of_token = a.correct ? a.correct.ptr<uint8_t>() + begin : nullptr;
  return chunk;
}

/// Losses, and the logits' gradients where they are asked for.
void softmax(Context& ctx, const HeadLoss& a, const SoftmaxChunk& chunk) {
  const bool bf16_gradients = act_kind(a.h);
  if (a.dh && !a.combine) return softmax_all(ctx, chunk, bf16_gradients);
  softmax_statistics(ctx, chunk);
  if (a.combine) {
    auto view = [&](SoftmaxStatistics* at, std::initializer_list<int64_t> shape) {
      return make_tensor(at, DType::f32, shape, ctx.device);
    };
    a.combine(ctx, view(chunk.own, {chunk.tokens, 4}), view(chunk.all, {chunk.parts, chunk.tokens, 4}));
  }
  softmax_losses(ctx, chunk);
  if (a.dh) softmax_gradients(ctx, chunk, bf16_gradients);
}

}  // namespace

void CudaOps::head_loss(Context& ctx, const HeadLoss& op) {
  check_op(op);
  const int64_t T = op.h.rows(), V = op.w.rows();
  const int64_t room_tokens = std::min(T, tokens_together(op.vocabulary ? op.vocabulary : V));
  ArenaScope scope(*ctx.scratch);
  const Room room(*ctx.scratch, op, room_tokens);
  for (int64_t begin = 0; begin < T; begin += room_tokens) {
    const int64_t n = std::min(room_tokens, T - begin);
    const SoftmaxChunk chunk = chunk_of(op, room, begin, n);
    launch(ctx, "head_list_counted", list_counted_kernel, {1, 32 * kListWarps}, chunk.targets, n, room.token,
           room.row_of, room.count, chunk.nll_of_token, chunk.correct_of_token);
    const Tensor h = room.gathered.slice_rows(0, n),
                 logits = room.logits.slice_rows(0, n).slice_columns(0, V);
    select_rows(ctx, op.h.slice_rows(begin, begin + n), room.token, room.count, h);
    products_->gemm(ctx, {.a = h, .b = op.w, .c = logits, .transpose_b = true});
    softmax(ctx, op, chunk);
    launch(ctx, "head_add_losses", add_losses_kernel, {1, kThreads}, room.nll, room.lse, room.count,
           op.loss_sum.ptr<double>());
    if (!op.dh) continue;
    Tensor dlogits = logits;
    dlogits.dtype = op.h.dtype;
    dlogits.row_stride = logits.row_stride * (4 / size_of(op.h.dtype));
    products_->gemm(ctx, {.a = dlogits, .b = h, .c = op.dw, .transpose_a = true, .accumulate = true});
    // After dW: the gathered rows give way to their gradient.
    products_->gemm(ctx, {.a = dlogits, .b = op.w, .c = h});
    select_rows(ctx, h, room.row_of, nullptr, op.dh.slice_rows(begin, begin + n));
  }
}

}  // namespace jambalaya::cuda
