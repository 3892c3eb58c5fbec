// Vector kernels of the room attention: one table of function pointers per instruction set.
//
// A block of queries is `tokens` neighbouring tokens of one segment times `heads` query heads that share a
// key head; its rows are ordered by token, then head. Pointers to activations are to f32 or bf16 as the
// function says; strides are in elements.
#pragma once
#include <cstdint>

namespace jambalaya {
struct bf16;

inline constexpr int64_t kQueryRows = 128;         ///< most rows of a block of queries
inline constexpr int64_t kQueryRowsBackward = 64;  ///< the same in attention_backward_keys
inline constexpr int64_t kHeadsTogether = 16;      ///< most query heads of a block
inline constexpr int64_t kKeyTile = 64;            ///< keys that a block of queries meets at a time

/// Floats of scratch that one call of each kernel uses (the largest over kernels and instruction sets).
[[maybe_unused]] static constexpr int64_t attention_scratch(int64_t head_size) {
  int64_t width = (head_size + 15) / 16 * 16;
  return kQueryRows * (3 * width + 2 * kKeyTile + 32) + kKeyTile * 4 * width;
}

struct AttentionBlock {
  const void *q, *k, *v;  ///< q at the block's first token and head; k, v at the segment's key 0
  int64_t q_stride, k_stride, v_stride;
  int64_t tokens, heads, head_size;
  int64_t first_position;      ///< token i sees the keys [0, first_position + i]
  int64_t key_begin, key_end;  ///< of these, the range that this call looks at (empty: o = 0, lse = -inf);
                               ///< key_begin is a multiple of kKeyTile
  float scale;
  void* o;     ///< at the block's first token and head
  bool o_f32;  ///< o is f32 whatever q is
  int64_t o_stride;
  float* lse;          ///< optional, at the block's first token and head
  int64_t lse_stride;  ///< from head to head
  float* partial;  ///< when given: o and lse are not written, but per row the largest score (in units of ln
                   ///< 2), the sum of exponentials and the sum of values: [tokens * heads, 2 + head_size]
  float* scratch;
};

/// Puts together what several ranges of keys gave, in their order.
struct AttentionCombine {
  const float* partial;  ///< [pieces, tokens * heads, 2 + head_size]
  int64_t pieces, tokens, heads, head_size;
  void* o;
  int64_t o_stride;
  float* lse;
  int64_t lse_stride;
};

/// Merges tokens of two attentions over different keys; f32, see AttentionMerge.
struct AttentionMergeRows {
  float* o;  ///< at the first token
  const float* part;
  int64_t o_stride, part_stride;
  float* lse;  ///< at the first token
  const float* part_lse;
  int64_t lse_stride, part_lse_stride;  ///< from head to head
  int64_t tokens, heads, head_size;
};

/// <dO, O> per token and head.
struct AttentionDeltaRows {
  const void *d_out, *o;  ///< at the first token
  int64_t d_out_stride, o_stride;
  int64_t tokens, heads, head_size;
  float* delta;
  int64_t token_stride, head_stride;  ///< of delta
};

/// Gradients of one block of keys over all the queries that see it.
struct AttentionKeyBlock {
  const void *q, *d_out;  ///< at the segment's first token and the key head's first query head
  const void *k, *v;      ///< at the segment's key 0
  int64_t q_stride, k_stride, v_stride, d_out_stride;
  const float *lse2, *delta;  ///< [T, H]: lse / ln 2 (+inf: gives nothing) and <dO, O>, at the segment's
                              ///< first token and the first query head
  int64_t stats_stride;
  int64_t tokens;            ///< of the segment
  int64_t heads, head_size;  ///< all query heads of the key head
  int64_t first_position;    ///< token i sees the keys [0, first_position + i]
  int64_t key_begin, key_end;
  float scale;
  void *dk, *dv;  ///< at key_begin
  int64_t dk_stride, dv_stride;
  bool accumulate;  ///< add to f32 instead of writing activations
  float* scratch;
};

/// Gradient of one block of queries.
struct AttentionQueryBlock {
  const void *q, *d_out;  ///< at the block's first token and head
  const void *k, *v;      ///< at the segment's key 0
  int64_t q_stride, k_stride, v_stride, d_out_stride;
  const float *lse2, *delta;  ///< at the block's first token and head
  int64_t stats_stride;
  int64_t tokens, heads, head_size;
  int64_t first_position;  ///< token i sees the keys [0, first_position + i] below key_end
  int64_t key_end;         ///< most keys that a token of the block sees
  float scale;
  void* dq;
  int64_t dq_stride;
  bool accumulate;  ///< add to f32 instead of writing activations
  float* scratch;
};

/// One token's heads rotated in place: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), halves head_size / 2
/// apart.
struct RopeRow {
  void* x;
  int64_t heads, head_size;
  const float *cos, *sin;  ///< [head_size / 2]
};

struct AttentionKernels {
  void (*forward_f32)(const AttentionBlock&);
  void (*forward_bf16)(const AttentionBlock&);
  void (*combine_f32)(const AttentionCombine&);
  void (*combine_bf16)(const AttentionCombine&);
  void (*merge)(const AttentionMergeRows&);
  void (*delta_f32)(const AttentionDeltaRows&);
  void (*delta_bf16)(const AttentionDeltaRows&);
  void (*backward_keys_f32)(const AttentionKeyBlock&);
  void (*backward_keys_bf16)(const AttentionKeyBlock&);
  void (*backward_queries_f32)(const AttentionQueryBlock&);
  void (*backward_queries_bf16)(const AttentionQueryBlock&);
  void (*rope_f32)(const RopeRow&);
  void (*rope_bf16)(const RopeRow&);
};

}  // namespace jambalaya
