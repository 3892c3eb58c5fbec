// Softmax over the vocabulary for a chunk of tokens, whose logits become their gradients in place.
#pragma once
#include "kernels/context.h"

namespace jambalaya::cuda {

/// What a part of the vocabulary knows of one token's softmax: the four numbers that HeadLoss::combine
/// exchanges. A part without rows has largest -inf and sum 0, one without the target target_logit -inf.
struct SoftmaxStatistics {
  float largest, sum, target_logit;
  float correct;  ///< 1: the target is the first of the largest
};

/// The counted tokens of a chunk, at rows [0, count) in their order, and their logits over this part of the
/// vocabulary. All pointers are to device memory.
struct SoftmaxChunk {
  float* logits;   ///< [tokens, stride]; the first `columns` of a row count. 16-byte aligned
  int64_t stride;  ///< of logits, a multiple of 8
  int32_t columns;
  int64_t first_id, vocabulary;  ///< of this part, and ids of all parts together
  int64_t tokens;                ///< rows, of which the first *count hold counted tokens
  const int32_t* count;
  const int32_t* token;    ///< [*count]: the token, within the chunk, of each row
  const int32_t* targets;  ///< [tokens], of the chunk
  float scale, z_scale;
  int64_t parts;
  SoftmaxStatistics *own, *all;  ///< [tokens], [parts, tokens]; the same memory without other parts
  double *nll, *lse;             ///< [tokens], by row; written for counted tokens
  float* factor;                 ///< [tokens]: room
  float* nll_of_token;           ///< optional [tokens], by token; written for counted tokens
  uint8_t* correct_of_token;     ///< optional, likewise
};

/// own from the logits.
void softmax_statistics(const Context& ctx, const SoftmaxChunk& chunk);
/// nll, lse, factor, nll_of_token and correct_of_token from all. NaN for a target that the vocabulary lacks.
void softmax_losses(const Context& ctx, const SoftmaxChunk& chunk);
/// The logits' gradients in place of the logits: rows of f32, or of bf16 2 * stride apart; zeros in rows
/// without a token.
void softmax_gradients(const Context& ctx, const SoftmaxChunk& chunk, bool bf16_gradients);
/// The three above, without other parts and with the same bits, reading the logits from memory only once
/// where a row fits in a multiprocessor.
void softmax_all(const Context& ctx, const SoftmaxChunk& chunk, bool bf16_gradients);

}  // namespace jambalaya::cuda
