// Attention forward: cuts queries and keys into blocks by shape and hands them to the vector kernels.
#include "kernels/cpu/attention_blocks.h"

namespace jambalaya {

using namespace attention;

namespace {

/// A segment of at most so many tokens has its keys cut into pieces, so that one token against a long cache
/// (decoding) keeps every thread busy.
constexpr int64_t kFewTokens = 8, kPieceOfKeys = 512;
constexpr int64_t kMergedTokens = 64;  // per chunk of work

/// A forward call seen as items (block, key head, group of query heads).
struct Forward {
  const AttentionForward& args;
  Heads heads;
  Segments segments;
  Blocks blocks;

  Forward(Context& ctx, const AttentionForward& a)
      : args(a),
        heads(check_op(a)),
        segments(a.docs, a.key_begin, a.key_count, a.k.rows()),
        blocks(*ctx.scratch, 0, a.docs.count, kQueryRows / heads_together(heads),
               [&](int64_t s) { return segments.tokens(s); }) {}

  int64_t keys(const Block& b) const { return segments.seen(b.segment, b.end); }
  int64_t pieces(const Block& b) const {
    if (segments.tokens(b.segment) > kFewTokens) return 1;
    return std::max<int64_t>(1, (keys(b) + kPieceOfKeys - 1) / kPieceOfKeys);
  }

  AttentionBlock at(const Block& b, int64_t key_head, int64_t group) const {
    const int64_t token = segments.first_token(b.segment) + b.begin, row = segments.first_key(b.segment);
    const int64_t head = key_head * heads.shared() + group * kHeadsTogether, size = heads.size;
    return {.q = args.q.address(token * args.q.row_stride + head * size),
            .k = args.k.address(row * args.k.row_stride + key_head * size),
            .v = args.v.address(row * args.v.row_stride + key_head * size),
            .q_stride = args.q.row_stride,
            .k_stride = args.k.row_stride,
            .v_stride = args.v.row_stride,
            .tokens = b.end - b.begin,
            .heads = heads_of_group(heads, group),
            .head_size = size,
            .first_position = segments.past(b.segment) + b.begin,
            .key_begin = 0,
            .key_end = keys(b),
            .scale = args.scale,
            .o = args.o.address(token * args.o.row_stride + head * size),
            .o_f32 = args.o.dtype == DType::f32,
            .o_stride = args.o.row_stride,
            .lse = args.lse ? args.lse.ptr<float>() + head * args.lse.row_stride + token : nullptr,
            .lse_stride = args.lse.row_stride,
            .partial = nullptr,
            .scratch = nullptr};
  }
};

/// One item of a forward call, or one piece of its keys.
struct ForwardItem {
  int32_t block, key_head, group;
  int32_t piece;    ///< -1: all keys
  int64_t partial;  ///< floats before its part of the partial results
};

/// Lists the items; returns the floats that partial results take.
int64_t list_items(const Forward& forward, ForwardItem* items, int64_t* count) {
  const Heads& heads = forward.heads;
  int64_t floats = 0;
  *count = 0;
  for (int64_t b = 0; b < forward.blocks.count; b++) {
    const Block& block = forward.blocks.data[b];
    const int64_t pieces = forward.pieces(block);
    for (int64_t g = 0; g < heads.key; g++)
      for (int64_t group = 0; group < groups(heads); group++)
        for (int64_t p = 0; p < pieces; p++) {
          if (items)
            items[*count] = {int32_t(b), int32_t(g), int32_t(group), pieces > 1 ? int32_t(p) : -1, floats};
          ++*count;
          if (pieces > 1)
            floats += (block.end - block.begin) * heads_of_group(heads, group) * (heads.size + 2);
        }
  }
  return floats;
}

}  // namespace

void CpuOps::attention_forward(Context& ctx, const AttentionForward& args) {
  ArenaScope scope(*ctx.scratch);
  Forward forward(ctx, args);
  int64_t count = 0;
  const int64_t floats = list_items(forward, nullptr, &count);
  auto* items = ctx.scratch->array<ForwardItem>(count, "attention.items");
  list_items(forward, items, &count);
  auto* partial = ctx.scratch->array<float>(floats, "attention.partial");
  const bool f32 = args.q.dtype == DType::f32;
  for_each_item(ctx, count, args.head_size, [&](int64_t i, float* scratch) {
    const ForwardItem& item = items[i];
    AttentionBlock block = forward.at(forward.blocks.data[item.block], item.key_head, item.group);
    block.scratch = scratch;
    if (item.piece >= 0) {
      block.partial = partial + item.partial;
      block.key_begin = item.piece * kPieceOfKeys;
      block.key_end = std::min(block.key_end, block.key_begin + kPieceOfKeys);
    }
    (f32 ? simd_.attention.forward_f32 : simd_.attention.forward_bf16)(block);
  });
  if (floats == 0) return;
  ctx.pool->run(count, [&](int64_t i) {
    const ForwardItem& item = items[i];
    if (item.piece != 0) return;
    const Block& b = forward.blocks.data[item.block];
    AttentionBlock block = forward.at(b, item.key_head, item.group);
    (block.o_f32 ? simd_.attention.combine_f32 : simd_.attention.combine_bf16)(
        {partial + item.partial, forward.pieces(b), block.tokens, block.heads, block.head_size, block.o,
         block.o_stride, block.lse, block.lse_stride});
  });
}

void CpuOps::attention_merge(Context& ctx, const AttentionMerge& args) {
  const Tensor &o = args.o, &part = args.part, &lse = args.lse, &part_lse = args.part_lse;
  const Heads heads = check_op(args);
  ctx.pool->run_range(o.rows(), kMergedTokens, [&](int64_t begin, int64_t end) {
    simd_.attention.merge({.o = o.ptr<float>() + begin * o.row_stride,
                           .part = part.ptr<float>() + begin * part.row_stride,
                           .o_stride = o.row_stride,
                           .part_stride = part.row_stride,
                           .lse = lse.ptr<float>() + begin,
                           .part_lse = part_lse.ptr<float>() + begin,
                           .lse_stride = lse.row_stride,
                           .part_lse_stride = part_lse.row_stride,
                           .tokens = end - begin,
                           .heads = heads.query,
                           .head_size = heads.size});
  });
}

}  // namespace jambalaya
