// Choosing the next token.
#pragma once
#include <cstdint>

namespace jambalaya {

struct SamplingOptions {
  double temperature = 0.8;  ///< 0: the likeliest token (ties: lowest id)
  int64_t top_k = 0;         ///< keep the k likeliest; 0: all
  double top_p = 1;          ///< keep the likeliest whose probabilities sum to at least p
  uint64_t seed = 1;
};

/// Draws from logits f32 [vocab]. The random number depends on (seed, sequence, position) alone: the same
/// choice in any batch and on any rank.
int32_t sample_token(const float* logits, int64_t vocab, const SamplingOptions& options, int64_t sequence,
                     int64_t position);

}  // namespace jambalaya
