// Attention: cuts queries and keys into blocks by shape and hands them to the vector kernels.
#include <algorithm>

#include "kernels/cpu/ops_cpu.h"

namespace jambalaya {
namespace {

/// Blocks in flight, each with scratch of its own: slot i works on the items i, i + kSlots, ... So scratch
/// does not grow with the number of tokens.
constexpr int64_t kSlots = 128;
/// A segment of at most so many tokens has its keys cut into pieces, so that one token against a long cache
/// (decoding) keeps every thread busy.
constexpr int64_t kFewTokens = 8, kPieceOfKeys = 512;

struct Heads {
  int64_t size, query, key;                       ///< C, H, G
  int64_t shared() const { return query / key; }  ///< query heads per key head
  int64_t groups() const { return (shared() + kHeadsTogether - 1) / kHeadsTogether; }  ///< per key head
  int64_t together() const { return std::min(shared(), kHeadsTogether); }
  int64_t per_group(int64_t group) const {
    return std::min(kHeadsTogether, shared() - group * kHeadsTogether);
  }
};

/// Tokens [begin, end) of a segment, counted from the segment's first token.
struct Block {
  int32_t segment, begin, end;
};

/// Every segment cut into blocks of `step` tokens, in order.
struct Blocks {
  Block* data;
  int64_t count = 0;

  Blocks(Arena& scratch, const Documents& docs, int64_t step)
      : data(scratch.array<Block>(docs.tokens / step + docs.count, "attention.blocks")) {
    for (int64_t s = 0; s < docs.count; s++) {
      int64_t length = docs.offsets[s + 1] - docs.offsets[s];
      for (int64_t t = 0; t < length; t += step)
        data[count++] = {int32_t(s), int32_t(t), int32_t(std::min(length, t + step))};
    }
  }
};

/// Calls f(item, scratch) for every item, the last first: blocks near the end of a document see the most
/// keys.
template <class F>
void for_each_item(Context& ctx, int64_t items, int64_t head_size, F&& f) {
  const int64_t slots = std::min(items, kSlots), floats = (attention_scratch(head_size) + 15) / 16 * 16;
  auto* scratch = ctx.scratch->array<float>(slots * floats, "attention.tiles");
  ctx.pool->run(slots, [&](int64_t slot) {
    for (int64_t i = slot; i < items; i += slots) f(items - 1 - i, scratch + slot * floats);
  });
}

bool is_act(const Tensor& t) { return t.dtype == DType::f32 || t.dtype == DType::bf16; }

Heads check_heads(const Tensor& q, const Tensor& k, const Tensor& v, int64_t size, const Documents& docs) {
  JAMBALAYA_CHECK(size > 0 && q.rank == 2 && k.rank == 2 && v.rank == 2 && is_act(q), "q ", q.describe(),
                  ", k ", k.describe(), ", v ", v.describe(), ", head size ", size);
  JAMBALAYA_CHECK(q.columns() % size == 0 && k.columns() % size == 0, "head size ", size, ", q ",
                  q.describe(), ", k ", k.describe());
  JAMBALAYA_CHECK(k.shape == v.shape && k.dtype == q.dtype && v.dtype == q.dtype, "q ", q.describe(), ", k ",
                  k.describe(), ", v ", v.describe());
  Heads heads{size, q.columns() / size, k.columns() / size};
  JAMBALAYA_CHECK(heads.key > 0 && heads.query % heads.key == 0, heads.query, " query heads, ", heads.key,
                  " key heads");
  JAMBALAYA_CHECK(q.rows() == docs.tokens, "q ", q.describe(), ", tokens ", docs.tokens);
  return heads;
}

/// A forward call seen as items (block, key head, group of query heads).
struct Forward {
  const AttentionForward& args;
  Heads heads;
  Blocks blocks;

  Forward(Context& ctx, const AttentionForward& a)
      : args(a),
        heads(check_heads(a.q, a.k, a.v, a.head_size, a.docs)),
        blocks(*ctx.scratch, a.docs, kQueryRows / heads.together()) {
    const Tensor& o = a.o;
    JAMBALAYA_CHECK(o.rank == 2 && o.shape == a.q.shape && o.dtype == a.q.dtype, "o ", o.describe(), ", q ",
                    a.q.describe());
    if (a.lse)
      JAMBALAYA_CHECK(a.lse.dtype == DType::f32 && a.lse.rows() == heads.query && a.lse.columns() == o.rows(),
                      "lse ", a.lse.describe());
    if (a.key_begin)
      JAMBALAYA_CHECK(a.key_begin.dtype == DType::i64 && a.key_begin.numel() == a.docs.count, "key_begin ",
                      a.key_begin.describe());
    for (int64_t s = 0; s < a.docs.count; s++)
      if (a.docs.offsets[s + 1] > a.docs.offsets[s])
        JAMBALAYA_CHECK(first_key(s) >= 0 && first_key(s) + past(s) + length(s) <= a.k.rows(), "segment ", s,
                        " looks at key rows [", first_key(s), ", ", first_key(s) + past(s) + length(s),
                        ") of ", a.k.rows());
  }

  int64_t length(int64_t s) const { return args.docs.offsets[s + 1] - args.docs.offsets[s]; }
  int64_t first_key(int64_t s) const {
    return args.key_begin ? args.key_begin.ptr<int64_t>()[s] : args.docs.offsets[s];
  }
  /// Keys before the segment's first token. Without a cache a segment sees only its own rows.
  int64_t past(int64_t s) const { return args.key_begin ? args.docs.first_position[s] : 0; }
  int64_t keys(const Block& b) const { return past(b.segment) + b.end; }
  int64_t pieces(const Block& b) const {
    return length(b.segment) <= kFewTokens ? (keys(b) + kPieceOfKeys - 1) / kPieceOfKeys : 1;
  }

  AttentionBlock at(const Block& b, int64_t key_head, int64_t group) const {
    const int64_t token = args.docs.offsets[b.segment] + b.begin, row = first_key(b.segment);
    const int64_t head = key_head * heads.shared() + group * kHeadsTogether, size = heads.size;
    return {.q = args.q.address(token * args.q.row_stride + head * size),
            .k = args.k.address(row * args.k.row_stride + key_head * size),
            .v = args.v.address(row * args.v.row_stride + key_head * size),
            .q_stride = args.q.row_stride,
            .k_stride = args.k.row_stride,
            .v_stride = args.v.row_stride,
            .tokens = b.end - b.begin,
            .heads = heads.per_group(group),
            .head_size = size,
            .first_position = past(b.segment) + b.begin,
            .key_begin = 0,
            .key_end = keys(b),
            .scale = args.scale,
            .o = args.o.address(token * args.o.row_stride + head * size),
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
      for (int64_t group = 0; group < heads.groups(); group++)
        for (int64_t p = 0; p < pieces; p++) {
          if (items)
            items[*count] = {int32_t(b), int32_t(g), int32_t(group), pieces > 1 ? int32_t(p) : -1, floats};
          ++*count;
          if (pieces > 1) floats += (block.end - block.begin) * heads.per_group(group) * (heads.size + 2);
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
    (f32 ? simd_.attention.combine_f32 : simd_.attention.combine_bf16)(
        {partial + item.partial, forward.pieces(b), block.tokens, block.heads, block.head_size, block.o,
         block.o_stride, block.lse, block.lse_stride});
  });
}

namespace {

struct Backward {
  const AttentionBackward& args;
  Heads heads;
  float *lse2, *delta;  ///< [T, H]

  Backward(Context& ctx, const AttentionBackward& a)
      : args(a), heads(check_heads(a.q, a.k, a.v, a.head_size, a.docs)) {
    for (const Tensor* t : {&a.d_out, &a.o, &a.dq})
      JAMBALAYA_CHECK(t->rank == 2 && t->shape == a.q.shape && t->dtype == a.q.dtype, t->describe(), ", q ",
                      a.q.describe());
    for (const Tensor* t : {&a.k, &a.dk, &a.dv})
      JAMBALAYA_CHECK(
          t->rank == 2 && t->shape == a.k.shape && t->dtype == a.q.dtype && t->rows() == a.q.rows(),
          t->describe(), ", k ", a.k.describe());
    JAMBALAYA_CHECK(a.lse.dtype == DType::f32 && a.lse.rows() == heads.query && a.lse.columns() == a.q.rows(),
                    "lse ", a.lse.describe());
    const int64_t tokens = a.docs.tokens;
    lse2 = ctx.scratch->array<float>(tokens * heads.query, "attention.lse2");
    delta = ctx.scratch->array<float>(tokens * heads.query, "attention.delta");
  }

  void row_stats(Context& ctx, void (*kernel)(const AttentionRowStats&)) const {
    ctx.pool->run_range(args.docs.tokens, 64, [&](int64_t begin, int64_t end) {
      kernel({args.d_out.address(begin * args.d_out.row_stride), args.o.address(begin * args.o.row_stride),
              args.d_out.row_stride, args.o.row_stride, args.lse.ptr<float>() + begin, args.lse.row_stride,
              end - begin, heads.query, heads.size, lse2 + begin * heads.query, delta + begin * heads.query});
    });
  }

  AttentionKeyBlock keys(const Block& b, int64_t key_head, float* scratch) const {
    const int64_t token = args.docs.offsets[b.segment], head = key_head * heads.shared(), size = heads.size;
    auto at = [&](const Tensor& t, int64_t column) {
      return t.address(token * t.row_stride + column * size);
    };
    return {.q = at(args.q, head),
            .k = at(args.k, key_head),
            .v = at(args.v, key_head),
            .d_out = at(args.d_out, head),
            .q_stride = args.q.row_stride,
            .k_stride = args.k.row_stride,
            .v_stride = args.v.row_stride,
            .d_out_stride = args.d_out.row_stride,
            .lse2 = lse2 + token * heads.query + head,
            .delta = delta + token * heads.query + head,
            .stats_stride = heads.query,
            .tokens = args.docs.offsets[b.segment + 1] - token,
            .heads = heads.shared(),
            .head_size = size,
            .key_begin = b.begin,
            .key_end = b.end,
            .scale = args.scale,
            .dk = at(args.dk, key_head),
            .dv = at(args.dv, key_head),
            .dk_stride = args.dk.row_stride,
            .dv_stride = args.dv.row_stride,
            .scratch = scratch};
  }

  AttentionQueryBlock queries(const Block& b, int64_t key_head, int64_t group, float* scratch) const {
    const int64_t segment = args.docs.offsets[b.segment], token = segment + b.begin, size = heads.size;
    const int64_t head = key_head * heads.shared() + group * kHeadsTogether;
    return {.q = args.q.address(token * args.q.row_stride + head * size),
            .d_out = args.d_out.address(token * args.d_out.row_stride + head * size),
            .k = args.k.address(segment * args.k.row_stride + key_head * size),
            .v = args.v.address(segment * args.v.row_stride + key_head * size),
            .q_stride = args.q.row_stride,
            .k_stride = args.k.row_stride,
            .v_stride = args.v.row_stride,
            .d_out_stride = args.d_out.row_stride,
            .lse2 = lse2 + token * heads.query + head,
            .delta = delta + token * heads.query + head,
            .stats_stride = heads.query,
            .tokens = b.end - b.begin,
            .heads = heads.per_group(group),
            .head_size = size,
            .first_position = b.begin,
            .scale = args.scale,
            .dq = args.dq.address(token * args.dq.row_stride + head * size),
            .dq_stride = args.dq.row_stride,
            .scratch = scratch};
  }
};

}  // namespace

void CpuOps::attention_backward(Context& ctx, const AttentionBackward& args) {
  ArenaScope scope(*ctx.scratch);
  Backward backward(ctx, args);
  const Heads& heads = backward.heads;
  const bool f32 = args.q.dtype == DType::f32;
  const AttentionKernels& kernels = simd_.attention;
  backward.row_stats(ctx, f32 ? kernels.row_stats_f32 : kernels.row_stats_bf16);
  Blocks keys(*ctx.scratch, args.docs, kKeyTile),
      queries(*ctx.scratch, args.docs, kQueryRows / heads.together());
  {
    ArenaScope tiles(*ctx.scratch);
    // Blocks of keys near the start of a document are seen by the most queries: count them from the end.
    for_each_item(ctx, keys.count * heads.key, heads.size, [&](int64_t i, float* scratch) {
      i = keys.count * heads.key - 1 - i;
      auto block = backward.keys(keys.data[i / heads.key], i % heads.key, scratch);
      (f32 ? kernels.backward_keys_f32 : kernels.backward_keys_bf16)(block);
    });
  }
  const int64_t per_block = heads.key * heads.groups();
  for_each_item(ctx, queries.count * per_block, heads.size, [&](int64_t i, float* scratch) {
    int64_t rest = i % per_block;
    auto block =
        backward.queries(queries.data[i / per_block], rest / heads.groups(), rest % heads.groups(), scratch);
    (f32 ? kernels.backward_queries_f32 : kernels.backward_queries_bf16)(block);
  });
}

}  // namespace jambalaya
