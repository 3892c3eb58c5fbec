// Attention backward, with the probabilities P recomputed from the saved logsumexp. With delta = <dO, O> per
// query: dP = dO V^T;  dS = P (dP - delta);  dV = P^T dO;  dK = scale dS^T Q;  dQ = scale dS K. Two kernels,
// each result with one owner (seven products instead of five, but no sums between blocks, and memory only for
// delta): one over tiles of keys (dK, dV), one over tiles of queries (dQ).
#include "kernels/check.h"
#include "kernels/cuda/attention_call.h"
#include "kernels/cuda/constants.h"
#include "kernels/cuda/ops_cuda.h"

namespace jambalaya::cuda {

using attention::Heads;
using attention::Segments;

namespace {

BackwardArgs arguments(const AttentionBackward& op, const Heads& heads, const Tensor& delta) {
  return {.q = op.q.data,
          .k = op.k.data,
          .v = op.v.data,
          .d_out = op.d_out.data,
          .q_stride = op.q.row_stride,
          .k_stride = op.k.row_stride,
          .v_stride = op.v.row_stride,
          .d_out_stride = op.d_out.row_stride,
          .lse = op.lse.ptr<float>(),
          .delta = delta.ptr<float>(),
          .lse_stride = op.lse.row_stride,
          .delta_stride = delta.row_stride,
          .dq = op.dq.data,
          .dk = op.dk.data,
          .dv = op.dv.data,
          .dq_stride = op.dq.row_stride,
          .dk_stride = op.dk.row_stride,
          .dv_stride = op.dv.row_stride,
          .accumulate = op.accumulate,
          .head_size = int(heads.size),
          .shared = int(heads.shared()),
          .scale = op.scale,
          .scale2 = op.scale * kLog2E,
          .table = {}};
}

}  // namespace

void CudaOps::attention_backward(Context& ctx, const AttentionBackward& op) {
  const Heads heads = check_op(op);
  check_head_size(heads.size);
  const Segments segments(op.docs, op.key_begin, op.key_count, op.k.rows());
  if (op.docs.tokens == 0) return;
  ArenaScope scope(*ctx.scratch);
  Tensor delta = op.delta;
  if (!delta) {
    delta = ctx.scratch->tensor(DType::f32, {heads.query, op.docs.tokens}, "attention.delta");
    attention_delta(ctx, {.d_out = op.d_out, .o = op.o, .head_size = heads.size, .delta = delta});
  }
  BackwardArgs args = arguments(op, heads, delta);
  const bool mma = mma_takes(heads.size, {op.q, op.k, op.v, op.d_out, op.dq, op.dk, op.dv});
  const int64_t tile = mma ? kBackwardMmaTile : general_tile(heads.size);
  const bool is_bf16 = act_kind(op.q);
  // Segments that see the same key rows take turns, in their order: a row has one owner at a time.
  for (int64_t first = 0, end; first < segments.count(); first = end) {
    end = segments.end_of_disjoint(first);
    args.table = send_segments(ctx, segments, first, end, Cut::keys, tile);
    mma ? backward_keys_mma(ctx, args, heads.key) : general_backward_keys(ctx, args, is_bf16, heads.key);
  }
  args.table = send_segments(ctx, segments, 0, segments.count(), Cut::queries, tile);
  mma ? backward_queries_mma(ctx, args, heads.query)
      : general_backward_queries(ctx, args, is_bf16, heads.query);
}

}  // namespace jambalaya::cuda
