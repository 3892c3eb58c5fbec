// Attention backward: one pass over blocks of keys (dK, dV), one over blocks of queries (dQ); so each result
// has one owner and no sum crosses threads.
#include <limits>

#include "kernels/cpu/attention_blocks.h"

namespace jambalaya {

using namespace attention;

namespace {

constexpr int64_t kTokensOfStats = 64;
constexpr float kLog2E = 1.44269504f;

/// Where <dO, O> of each query goes.
struct DeltaTarget {
  float* data;
  int64_t token_stride, head_stride;
};

void deltas(Context& ctx, const AttentionKernels& kernels, const Tensor& d_out, const Tensor& o,
            const Heads& heads, const DeltaTarget& to) {
  auto* kernel = o.dtype == DType::f32 ? kernels.delta_f32 : kernels.delta_bf16;
  ctx.pool->run_range(o.rows(), kTokensOfStats, [&](int64_t begin, int64_t end) {
    kernel({.d_out = d_out.address(begin * d_out.row_stride),
            .o = o.address(begin * o.row_stride),
            .d_out_stride = d_out.row_stride,
            .o_stride = o.row_stride,
            .tokens = end - begin,
            .heads = heads.query,
            .head_size = heads.size,
            .delta = to.data + begin * to.token_stride,
            .token_stride = to.token_stride,
            .head_stride = to.head_stride});
  });
}

struct Backward {
  const AttentionBackward& args;
  Heads heads;
  Segments segments;
  float *lse2, *delta;  ///< [T, H]: lse / ln 2 and <dO, O>

  Backward(Context& ctx, const AttentionBackward& a)
      : args(a), heads(check_op(a)), segments(a.docs, a.key_begin, a.key_count, a.k.rows()) {
    const int64_t tokens = a.docs.tokens;
    lse2 = ctx.scratch->array<float>(tokens * heads.query, "attention.lse2");
    delta = ctx.scratch->array<float>(tokens * heads.query, "attention.delta");
  }

  /// A query that has seen no key is given lse2 = inf: its probabilities are then 0 in every kernel.
  void query_stats(Context& ctx, const AttentionKernels& kernels) const {
    if (!args.delta) deltas(ctx, kernels, args.d_out, args.o, heads, {delta, heads.query, 1});
    const float *lse = args.lse.ptr<float>(), *given = args.delta ? args.delta.ptr<float>() : nullptr;
    ctx.pool->run_range(args.docs.tokens, kTokensOfStats, [&](int64_t begin, int64_t end) {
      for (int64_t h = 0; h < heads.query; h++)
        for (int64_t t = begin; t < end; t++) {
          const float x = lse[h * args.lse.row_stride + t];
          const bool unseen = x == -std::numeric_limits<float>::infinity();
          const int64_t at = t * heads.query + h;
          lse2[at] = unseen ? -x : x * kLog2E;
          if (given) delta[at] = unseen ? 0 : given[h * args.delta.row_stride + t];
        }
    });
  }

  AttentionKeyBlock keys(const Block& b, int64_t key_head, float* scratch) const {
    const int64_t token = segments.first_token(b.segment), key = segments.first_key(b.segment);
    const int64_t head = key_head * heads.shared(), size = heads.size;
    auto at = [&](const Tensor& t, int64_t row, int64_t column) {
      return t.address(row * t.row_stride + column * size);
    };
    return {.q = at(args.q, token, head),
            .d_out = at(args.d_out, token, head),
            .k = at(args.k, key, key_head),
            .v = at(args.v, key, key_head),
            .q_stride = args.q.row_stride,
            .k_stride = args.k.row_stride,
            .v_stride = args.v.row_stride,
            .d_out_stride = args.d_out.row_stride,
            .lse2 = lse2 + token * heads.query + head,
            .delta = delta + token * heads.query + head,
            .stats_stride = heads.query,
            .tokens = segments.tokens(b.segment),
            .heads = heads.shared(),
            .head_size = size,
            .first_position = segments.past(b.segment),
            .key_begin = b.begin,
            .key_end = b.end,
            .scale = args.scale,
            .dk = at(args.dk, key + b.begin, key_head),
            .dv = at(args.dv, key + b.begin, key_head),
            .dk_stride = args.dk.row_stride,
            .dv_stride = args.dv.row_stride,
            .accumulate = args.accumulate,
            .scratch = scratch};
  }

  AttentionQueryBlock queries(const Block& b, int64_t key_head, int64_t group, float* scratch) const {
    const int64_t token = segments.first_token(b.segment) + b.begin, key = segments.first_key(b.segment);
    const int64_t head = key_head * heads.shared() + group * kHeadsTogether, size = heads.size;
    return {.q = args.q.address(token * args.q.row_stride + head * size),
            .d_out = args.d_out.address(token * args.d_out.row_stride + head * size),
            .k = args.k.address(key * args.k.row_stride + key_head * size),
            .v = args.v.address(key * args.v.row_stride + key_head * size),
            .q_stride = args.q.row_stride,
            .k_stride = args.k.row_stride,
            .v_stride = args.v.row_stride,
            .d_out_stride = args.d_out.row_stride,
            .lse2 = lse2 + token * heads.query + head,
            .delta = delta + token * heads.query + head,
            .stats_stride = heads.query,
            .tokens = b.end - b.begin,
            .heads = heads_of_group(heads, group),
            .head_size = size,
            .first_position = segments.past(b.segment) + b.begin,
            .key_end = segments.seen(b.segment, b.end),
            .scale = args.scale,
            .dq = args.dq.address(token * args.dq.row_stride + head * size),
            .dq_stride = args.dq.row_stride,
            .accumulate = args.accumulate,
            .scratch = scratch};
  }
};

}  // namespace

void CpuOps::attention_delta(Context& ctx, const AttentionDelta& args) {
  const Heads heads = check_op(args);
  deltas(ctx, simd_.attention, args.d_out, args.o, heads,
         {args.delta.ptr<float>(), 1, args.delta.row_stride});
}

void CpuOps::attention_backward(Context& ctx, const AttentionBackward& args) {
  ArenaScope scope(*ctx.scratch);
  Backward backward(ctx, args);
  const Heads& heads = backward.heads;
  const Segments& segments = backward.segments;
  const bool f32 = args.q.dtype == DType::f32;
  const AttentionKernels& kernels = simd_.attention;
  backward.query_stats(ctx, kernels);
  // Segments that see the same key rows take turns, in their order: a row has one owner at a time.
  for (int64_t first = 0, end; first < segments.count(); first = end) {
    end = segments.end_of_disjoint(first);
    ArenaScope turn(*ctx.scratch);
    Blocks keys(*ctx.scratch, first, end, kKeyTile, [&](int64_t s) { return segments.seen(s); });
    // Blocks of keys near the start of a document are seen by the most queries: count them from the end.
    for_each_item(ctx, keys.count * heads.key, heads.size, [&](int64_t i, float* scratch) {
      i = keys.count * heads.key - 1 - i;
      auto block = backward.keys(keys.data[i / heads.key], i % heads.key, scratch);
      (f32 ? kernels.backward_keys_f32 : kernels.backward_keys_bf16)(block);
    });
  }
  Blocks queries(*ctx.scratch, 0, segments.count(), kQueryRows / heads_together(heads),
                 [&](int64_t s) { return segments.tokens(s); });
  const int64_t per_block = heads.key * groups(heads);
  for_each_item(ctx, queries.count * per_block, heads.size, [&](int64_t i, float* scratch) {
    int64_t rest = i % per_block;
    auto block =
        backward.queries(queries.data[i / per_block], rest / groups(heads), rest % groups(heads), scratch);
    (f32 ? kernels.backward_queries_f32 : kernels.backward_queries_bf16)(block);
  });
}

}  // namespace jambalaya
