// Attention over a sequence that is cut over context ranks: queries stay, blocks of keys and values go round
// the ring of ranks, partial results are merged by their log-sum-exp (Ring Attention, Liu et al. 2023,
// arXiv 2310.01889). Memory stays linear in this rank's tokens.
//
// With contiguous shards the last rank would do most of the causal work. So rows are first brought into a
// balanced order (ContextShard: chunks r and 2c-1-r on rank r), and results back. Legend: T tokens of this
// shard, B of its balanced part, H/G query/key heads, C head size.
#pragma once
#include "model/pass.h"

namespace jambalaya {

/// q [T, H*C], k, v [T, G*C] act, already rotated. Writes o [T, H*C] act and, where given, lse f32 [H, B] in
/// the balanced order (for the backward).
void ring_attention_forward(const Pass& pass, const Tensor& q, const Tensor& k, const Tensor& v,
                            const Tensor& o, const Tensor& lse);
/// Gradients of the same, act, contiguous order. Gradients of keys and values travel with their block and are
/// summed in fp32.
void ring_attention_backward(const Pass& pass, const Tensor& d_out, const Tensor& q, const Tensor& k,
                             const Tensor& v, const Tensor& o, const Tensor& lse, const Tensor& dq,
                             const Tensor& dk, const Tensor& dv);
/// Rows of lse's second dimension.
int64_t ring_attention_rows(const Pass& pass);

}  // namespace jambalaya
