// What attention forward and backward share: heads, which keys a segment sees, work cut into blocks by shape.
#pragma once
#include <algorithm>

#include "kernels/cpu/ops_cpu.h"

namespace jambalaya::attention {

/// Blocks in flight, each with scratch of its own: slot i works on the items i, i + kSlots, ... So scratch
/// does not grow with the number of tokens.
inline constexpr int64_t kSlots = 128;

struct Heads {
  int64_t size, query, key;                       ///< C, H, G
  int64_t shared() const { return query / key; }  ///< query heads per key head
  int64_t groups() const { return (shared() + kHeadsTogether - 1) / kHeadsTogether; }  ///< per key head
  int64_t together() const { return std::min(shared(), kHeadsTogether); }
  int64_t per_group(int64_t group) const {
    return std::min(kHeadsTogether, shared() - group * kHeadsTogether);
  }
};

/// Throws unless q, k, v are matrices of one activation dtype whose columns are whole heads.
Heads check_heads(const Tensor& q, const Tensor& k, const Tensor& v, int64_t head_size,
                  const Documents& docs);
/// Throws unless `t` is f32 [heads, tokens].
void check_per_query(const Tensor& t, const Heads& heads, int64_t tokens, const char* name);

/// The segments of a call and the key rows that each sees: its token i the rows first_key + [0, min(past + i
/// + 1, seen)).
class Segments {
 public:
  /// key_begin, key_count as in AttentionForward (may be empty). Throws where a segment looks outside of
  /// `key_rows`.
  Segments(const Documents& docs, const Tensor& key_begin, const Tensor& key_count, int64_t key_rows);

  int64_t count() const { return docs_.count; }
  int64_t first_token(int64_t s) const { return docs_.offsets[s]; }
  int64_t tokens(int64_t s) const { return docs_.offsets[s + 1] - docs_.offsets[s]; }
  int64_t first_key(int64_t s) const {
    if (!begin_) return docs_.offsets[s];
    return seen(s) ? begin_[s] : 0;
  }
  /// Keys before the segment's first token. Keys and queries of one stream: a segment sees only its own rows.
  int64_t past(int64_t s) const { return begin_ ? docs_.first_position[s] : 0; }
  /// Keys that tokens before the end-th see at most.
  int64_t seen(int64_t s, int64_t end) const {
    return count_ ? std::min(past(s) + end, count_[s]) : past(s) + end;
  }
  /// Keys that the segment sees; a segment without tokens sees none.
  int64_t seen(int64_t s) const { return tokens(s) ? seen(s, tokens(s)) : 0; }
  /// Past the last of the segments from `first` on whose keys lie one behind the other: no row is in two.
  int64_t end_of_disjoint(int64_t first) const;

 private:
  Documents docs_;
  const int64_t *begin_ = nullptr, *count_ = nullptr;
};

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
