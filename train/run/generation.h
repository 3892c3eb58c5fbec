// Continuing a prompt: several samples at once, shared out to the data ranks.
#pragma once
#include <cstdint>
#include <vector>

#include "model/jamba.h"
#include "train/run/runtime.h"
#include "train/run/sampling.h"

namespace jambalaya {

struct GenerationSettings {
  SamplingOptions sampling;
  int64_t samples = 1;          ///< continuations of the one prompt
  int64_t max_tokens = 100;     ///< of each
  int64_t prefill_chunk = 512;  ///< tokens of the prompt computed at a time
  int64_t choices = 0;  ///< only ids below this are drawn: a vocabulary may be padded beyond its tokenizer
};

struct Continuations {
  std::vector<std::vector<uint32_t>> ids;     ///< per sample, without the end-of-text token
  int64_t kv_bytes = 0, recurrent_bytes = 0;  ///< of the generation state, all ranks together
};

/// Continues `prompt` (not empty). Collective over the world; every rank gives the same arguments and returns
/// the same. A sample's tokens depend on its number and the seed, not on the ranks: data rank r of d makes
/// samples [n r / d, n (r + 1) / d), tensor and expert ranks share the work of each. Throws Error(layout)
/// with context ranks, who would have no share in single tokens.
Continuations generate(Runtime& runtime, Jamba& jamba, Precision precision,
                       const std::vector<int32_t>& prompt, const GenerationSettings& settings);

}  // namespace jambalaya
