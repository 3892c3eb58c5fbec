// Few queries against many keys (decoding): the keys of a query are cut into ranges that different blocks
// look at, and their partial results are put together in order (attention_decode.cu).
#pragma once
#include "kernels/cuda/attention_call.h"

namespace jambalaya::cuda {

/// How one forward call is spread over the machine: functions of its shapes alone.
struct ForwardPlan {
  int64_t together;        ///< query heads in the rows of a tile: 1, or all that share a key head
  int64_t splits;          ///< ranges of keys
  int64_t keys_per_split;  ///< a multiple of 64
};
/// For tiles of tile_rows tokens * together.
ForwardPlan plan_forward(const attention::Heads& heads, const attention::Segments& segments,
                         int64_t tile_rows);

/// o, lse = the partial results (f32 [splits, T, H*C] and [splits, H, T]) of disjoint keys put together.
void combine_splits(const Context& ctx, const AttentionForward& op, int64_t heads, int64_t splits,
                    const float* part_o, const float* part_lse);

}  // namespace jambalaya::cuda
