// What attention forward and backward share on the CPU: work cut into blocks by shape.
#pragma once
#include <algorithm>

#include "kernels/attention_segments.h"
#include "kernels/cpu/ops_cpu.h"

namespace jambalaya::attention {

/// Blocks in flight, each with scratch of its own: slot i works on the items i, i + kSlots, ... So scratch
/// does not grow with the number of tokens.
inline constexpr int64_t kSlots = 128;

/// A key head's query heads, in groups of up to kHeadsTogether.
inline int64_t groups(const Heads& heads) { return (heads.shared() + kHeadsTogether - 1) / kHeadsTogether; }
inline int64_t heads_together(const Heads& heads) { return std::min(heads.shared(), kHeadsTogether); }
inline int64_t heads_of_group(const Heads& heads, int64_t group) {
  return std::min(kHeadsTogether, heads.shared() - group * kHeadsTogether);
}

/// Tokens or keys [begin, end) of a segment, counted from its first.
struct Block {
  int32_t segment, begin, end;
};

/// The segments [first, last), each of length(s) tokens or keys, cut into blocks of `step`, in order.
struct Blocks {
  Block* data;
  int64_t count = 0;

  template <class F>
  Blocks(Arena& scratch, int64_t first, int64_t last, int64_t step, F&& length) {
    int64_t blocks = 0;
    for (int64_t s = first; s < last; s++) blocks += (length(s) + step - 1) / step;
    data = scratch.array<Block>(blocks, "attention.blocks");
    for (int64_t s = first; s < last; s++)
      for (int64_t i = 0, n = length(s); i < n; i += step)
        data[count++] = {int32_t(s), int32_t(i), int32_t(std::min(n, i + step))};
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

}  // namespace jambalaya::attention
