// Attention forward: an online softmax over tiles of keys (FlashAttention, Dao et al. 2022). The exponentials
// are powers of two: scores are scaled by scale / ln 2.
#include "kernels/cpu/simd/attention.h"

#include "kernels/cpu/simd/tile.h"

namespace jambalaya::JAMBALAYA_NS {

// Defined in attention_backward.simd.cpp.
void attention_delta_f32(const AttentionDeltaRows&);
void attention_delta_bf16(const AttentionDeltaRows&);
void attention_backward_keys_f32(const AttentionKeyBlock&);
void attention_backward_keys_bf16(const AttentionKeyBlock&);
void attention_backward_queries_f32(const AttentionQueryBlock&);
void attention_backward_queries_bf16(const AttentionQueryBlock&);

namespace {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;
constexpr float kLowest =
    -3.0e38f;  // finite, so that lowest - lowest is 0 for rows that have seen no key yet
constexpr int kTileVectors = kKeyTile / kLanes;

/// The running softmax of a block of queries, and its operands, in scratch.
template <class E>
struct State {
  E* q;            ///< [rows, width]: scores' operand a
  float* k;        ///< a tile's keys, transposed panels
  float* v;        ///< a tile's values, panels
  float* scores;   ///< [rows, kKeyTile], turned in place into probabilities (operand a of E)
  float* o;        ///< [rows, width]: sums of values
  float* largest;  ///< [rows]
  float* factor;   ///< [rows]: what the last tile made of earlier sums
  float* sum;      ///< [rows, kLanes]: sums of exponentials, one per lane until the end
  int64_t width;   ///< head size, rounded up to whole vectors

  State(float* scratch, int64_t rows, int64_t head_size) : width(vectors(head_size) * kLanes) {
    o = scratch;
    scores = o + rows * width;
    k = scores + rows * kKeyTile;
    v = k + kKeyTile * width;
    sum = v + kKeyTile * width;
    largest = sum + rows * kLanes;
    factor = largest + rows;
    q = reinterpret_cast<E*>(factor + rows);
    for (int64_t i = 0; i < rows * width; i += kLanes) store(o + i, zero());
    for (int64_t i = 0; i < rows; i++) {
      store(sum + i * kLanes, zero());
      largest[i] = kLowest;
    }
  }
};

/// Scores of one row to probabilities relative to the row's largest score so far; `seen` keys count.
template <class E, bool kWhole>
JAMBALAYA_INLINE void softmax_row(float* scores, int64_t seen, float scale2, float* largest, float* factor,
                                  float* sum) {
  Vec s[kTileVectors], top = set1(*largest);
#pragma GCC unroll 8
  for (int j = 0; j < kTileVectors; j++) {
    s[j] = load(scores + j * kLanes) * set1(scale2);
    if (!kWhole) s[j] = select(first(max_i(0, seen - j * kLanes)), s[j], set1(kLowest));
    top = max(s[j], top);
  }
  float new_largest = maximum(top);
  Vec shift = set1(new_largest), total = zero();
#pragma GCC unroll 8
  for (int j = 0; j < kTileVectors; j++) {
    Vec p = exp2_fast(s[j] - shift);
    if (!kWhole) p = select(first(max_i(0, seen - j * kLanes)), p, zero());
    total = total + p;
    store(reinterpret_cast<E*>(scores) + j * kLanes, p);
  }
  Vec change = exp2_fast(set1(*largest) - shift);
  store(sum, fma(load(sum), change, total));
  store(factor, change, 1);
  *largest = new_largest;
}

/// Rows [row, rows) meet the keys [key, key + keys).
template <class Act>
void meet_tile(const AttentionBlock& block, State<Operand<Act>>& state, int64_t key, int64_t keys,
               int64_t row) {
  using E = Operand<Act>;
  const int64_t rows = block.tokens * block.heads, left = rows - row;
  const int64_t k_units = units<E>(block.head_size), q_units = state.width / UnitOf<E>::elements;
  Rows<Act> k{static_cast<const Act*>(block.k) + key * block.k_stride, block.k_stride, 1, block.head_size};
  Rows<Act> v{static_cast<const Act*>(block.v) + key * block.v_stride, block.v_stride, 1, block.head_size};
  pack_transposed<E>(k, keys, state.k);
  pack_panels<E>(v, keys, state.v);
  float* scores = state.scores + row * kKeyTile;
  product<E, Into::write>(state.q + row * state.width, q_units, state.k, k_units, scores, kKeyTile, left,
                          vectors(keys));
  float scale2 = block.scale * kLog2E;
  for (int64_t i = row; i < rows; i++) {
    int64_t seen = min_i(keys, block.first_position + i / block.heads + 1 - key);
    float *s = state.scores + i * kKeyTile, *sum = state.sum + i * kLanes;
    if (seen == kKeyTile)
      softmax_row<E, true>(s, seen, scale2, state.largest + i, state.factor + i, sum);
    else
      softmax_row<E, false>(s, seen, scale2, state.largest + i, state.factor + i, sum);
  }
  product<E, Into::rescale>(scores, kKeyTile, state.v, units<E>(keys), state.o + row * state.width,
                            state.width, left, vectors(block.head_size), state.factor + row);
}

template <class Act>
JAMBALAYA_INLINE void store_row(Act* to, const float* from, Vec factor, int64_t n) {
  for (int64_t c = 0; c < n; c += kLanes) store(to + c, load(from + c, n - c) * factor, n - c);
}

/// lse = ln 2 * largest + ln sum, for n rows of at most kLanes.
JAMBALAYA_INLINE Vec log_sum_exp(const float* largest, Vec sum, int64_t n) {
  Vec y = fma(load(largest, n), set1(kLn2), log(sum));
  return select(is_nan(sum), sum, y);
}

template <class Act, class E>
void finish(const AttentionBlock& block, const State<E>& state) {
  const int64_t rows = block.tokens * block.heads, size = block.head_size;
  for (int64_t i = 0; i < rows; i++) {
    float total = sum(load(state.sum + i * kLanes));
    int64_t token = i / block.heads, head = i % block.heads;
    const float* o = state.o + i * state.width;
    if (block.partial) {
      float* to = block.partial + i * (size + 2);
      to[0] = state.largest[i];
      to[1] = total;
      store_row(to + 2, o, set1(1), size);
      continue;
    }
    const int64_t at = token * block.o_stride + head * size;
    if (block.o_f32)
      store_row(static_cast<float*>(block.o) + at, o, set1(1 / total), size);
    else
      store_row(static_cast<Act*>(block.o) + at, o, set1(1 / total), size);
    if (block.lse)
      store(block.lse + head * block.lse_stride + token, log_sum_exp(state.largest + i, set1(total), 1), 1);
  }
}

/// No key in sight.
template <class O>
void finish_unseen(const AttentionBlock& block) {
  for (int64_t i = 0; i < block.tokens * block.heads; i++) {
    int64_t token = i / block.heads, head = i % block.heads;
    O* o = static_cast<O*>(block.o) + token * block.o_stride + head * block.head_size;
    for (int64_t c = 0; c < block.head_size; c += kLanes) store(o + c, zero(), block.head_size - c);
    if (block.lse) block.lse[head * block.lse_stride + token] = -__builtin_inff();
  }
}

template <class Act>
void forward(const AttentionBlock& block) {
  using E = Operand<Act>;
  if (block.key_begin >= block.key_end)
    return block.o_f32 ? finish_unseen<float>(block) : finish_unseen<Act>(block);
  const int64_t rows = block.tokens * block.heads;
  State<E> state(block.scratch, rows, block.head_size);
  Rows<Act> q{static_cast<const Act*>(block.q), block.q_stride, block.heads, block.head_size};
  pack_rows(q, rows, state.q, state.width);
  for (int64_t key = block.key_begin; key < block.key_end; key += kKeyTile) {
    int64_t first_token = max_i(0, key - block.first_position);  // earlier tokens see nothing of this tile
    meet_tile<Act>(block, state, key, min_i(kKeyTile, block.key_end - key), first_token * block.heads);
  }
  finish<Act>(block, state);
}

template <class Act>
void combine(const AttentionCombine& c) {
  const int64_t rows = c.tokens * c.heads, width = c.head_size + 2;
  for (int64_t i = 0; i < rows; i++) {
    float largest = kLowest;
    for (int64_t p = 0; p < c.pieces; p++) {
      float m = c.partial[(p * rows + i) * width];
      largest = m > largest ? m : largest;
    }
    Vec total = zero();
    for (int64_t p = 0; p < c.pieces; p++) {
      const float* piece = c.partial + (p * rows + i) * width;
      total = fma(exp2_fast(set1(piece[0] - largest)), set1(piece[1]), total);
    }
    Act* o = static_cast<Act*>(c.o) + i / c.heads * c.o_stride + i % c.heads * c.head_size;
    for (int64_t j = 0; j < c.head_size; j += kLanes) {
      Vec x = zero();
      for (int64_t p = 0; p < c.pieces; p++) {
        const float* piece = c.partial + (p * rows + i) * width;
        x = fma(exp2_fast(set1(piece[0] - largest)), load(piece + 2 + j, c.head_size - j), x);
      }
      store(o + j, x / total, c.head_size - j);
    }
    if (c.lse) store(c.lse + i % c.heads * c.lse_stride + i / c.heads, log_sum_exp(&largest, total, 1), 1);
  }
}

/// Both sides' shares of one token's row of a head.
void merge_row(float* o, const float* part, float o_share, float part_share, int64_t n) {
  for (int64_t c = 0; c < n; c += kLanes) {
    Vec x = load(o + c, n - c) * set1(o_share);
    store(o + c, fma(load(part + c, n - c), set1(part_share), x), n - c);
  }
}

void merge(const AttentionMergeRows& m) {
  const int64_t size = m.head_size;
  const float unseen = -__builtin_inff();
  for (int64_t h = 0; h < m.heads; h++)
    for (int64_t t = 0; t < m.tokens; t += kLanes) {
      const int64_t n = min_i(kLanes, m.tokens - t);
      float *lse = m.lse + h * m.lse_stride + t, before[kLanes], after[kLanes], o_share[kLanes],
            share[kLanes];
      const float* part_lse = m.part_lse + h * m.part_lse_stride + t;
      Vec a = load(lse, n), b = load(part_lse, n), top = max(a, b);
      store(before, a);
      Vec x = exp(a - top), y = exp(b - top), total = x + y;
      store(o_share, x / total);
      store(share, y / total);
      store(after, select(is_nan(total), total, top + log(total)));
      for (int64_t i = 0; i < n; i++) {
        if (part_lse[i] == unseen) continue;
        float* o = m.o + (t + i) * m.o_stride + h * size;
        const float* part = m.part + (t + i) * m.part_stride + h * size;
        if (before[i] == unseen) {
          store_row(o, part, set1(1), size);
          lse[i] = part_lse[i];
        } else {
          merge_row(o, part, o_share[i], share[i], size);
          lse[i] = after[i];
        }
      }
    }
}

template <class Act>
void rope(const RopeRow& row) {
  const int64_t half = row.head_size / 2;
  for (int64_t h = 0; h < row.heads; h++) {
    Act *low = static_cast<Act*>(row.x) + h * row.head_size, *high = low + half;
    for (int64_t j = 0; j < half; j += kLanes) {
      Vec cos = load(row.cos + j, half - j), sin = load(row.sin + j, half - j);
      Vec x1 = load(low + j, half - j), x2 = load(high + j, half - j);
      store(low + j, fnma(x2, sin, x1 * cos), half - j);
      store(high + j, fma(x1, sin, x2 * cos), half - j);
    }
  }
}

}  // namespace

extern const AttentionKernels attention_kernels;
const AttentionKernels attention_kernels{
    .forward_f32 = forward<float>,
    .forward_bf16 = forward<bf16>,
    .combine_f32 = combine<float>,
    .combine_bf16 = combine<bf16>,
    .merge = merge,
    .delta_f32 = attention_delta_f32,
    .delta_bf16 = attention_delta_bf16,
    .backward_keys_f32 = attention_backward_keys_f32,
    .backward_keys_bf16 = attention_backward_keys_bf16,
    .backward_queries_f32 = attention_backward_queries_f32,
    .backward_queries_bf16 = attention_backward_queries_bf16,
    .rope_f32 = rope<float>,
    .rope_bf16 = rope<bf16>,
};

}  // namespace jambalaya::JAMBALAYA_NS
