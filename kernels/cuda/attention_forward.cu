// Attention forward: picks the kernels for a call.
#include "kernels/check.h"
#include "kernels/cuda/attention_call.h"
#include "kernels/cuda/attention_decode.h"
#include "kernels/cuda/attention_library.h"
#include "kernels/cuda/constants.h"
#include "kernels/cuda/ops_cuda.h"

namespace jambalaya::cuda {

using attention::Heads;
using attention::Segments;

namespace {

/// Tokens of the longest segment.
int64_t most_tokens(const Segments& segments) {
  int64_t most = 0;
  for (int64_t s = 0; s < segments.count(); s++) most = std::max(most, segments.tokens(s));
  return most;
}

ForwardArgs arguments(const AttentionForward& op, const Heads& heads, const ForwardPlan& plan) {
  return {.q = op.q.data,
          .k = op.k.data,
          .v = op.v.data,
          .q_stride = op.q.row_stride,
          .k_stride = op.k.row_stride,
          .v_stride = op.v.row_stride,
          .o = op.o.data,
          .o_stride = op.o.row_stride,
          .lse = op.lse ? op.lse.ptr<float>() : nullptr,
          .lse_stride = op.lse.row_stride,
          .o_f32 = op.o.dtype == DType::f32,
          .head_size = int(heads.size),
          .shared = int(heads.shared()),
          .together = int(plan.together),
          .scale2 = op.scale * kLog2E,
          .table = {},
          .keys_per_split = int(plan.keys_per_split),
          .o_split_stride = 0,
          .lse_split_stride = 0};
}

}  // namespace

void CudaOps::attention_forward(Context& ctx, const AttentionForward& op) {
  const Heads heads = check_op(op);
  check_head_size(heads.size);
  const Segments segments(op.docs, op.key_begin, op.key_count, op.k.rows());
  const int64_t tokens = op.docs.tokens;
  if (tokens == 0 || attention_->forward(ctx, op, heads)) return;
  const bool mma = mma_takes(heads.size, {op.q, op.k, op.v, op.o});
  const int64_t tile = mma ? forward_mma_tile(heads.size, most_tokens(segments)) : general_tile(heads.size);
  const ForwardPlan plan = plan_forward(heads, segments, tile);
  ArenaScope scope(*ctx.scratch);
  ForwardArgs args = arguments(op, heads, plan);
  if (plan.splits > 1) {
    args.o_split_stride = tokens * heads.query * heads.size, args.lse_split_stride = heads.query * tokens;
    args.o = ctx.scratch->array<float>(plan.splits * args.o_split_stride, "attention.partial");
    args.lse = ctx.scratch->array<float>(plan.splits * args.lse_split_stride, "attention.partial");
    args.o_f32 = true, args.o_stride = heads.query * heads.size, args.lse_stride = tokens;
  }
  args.table = send_segments(ctx, segments, 0, segments.count(), Cut::queries, tile, plan.together);
  if (mma)
    forward_mma(ctx, args, tile, heads.query, plan.splits);
  else
    general_forward(ctx, args, act_kind(op.q), heads.query, plan.splits);
  if (plan.splits > 1)
    combine_splits(ctx, op, heads.query, plan.splits, static_cast<const float*>(args.o), args.lse);
}

}  // namespace jambalaya::cuda
