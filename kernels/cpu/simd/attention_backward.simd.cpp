// Attention backward, with the probabilities P recomputed from the saved logsumexp. With delta = <dO, O> per
// query: dP = dO V^T;  dS = P (dP - delta);  dV = P^T dO;  dK = scale dS^T Q;  dQ = scale dS K. Two passes,
// each with one owner per result and so without sums between threads: over blocks of keys (dK, dV) and over
// blocks of queries (dQ).
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/tile.h"

namespace jambalaya::JAMBALAYA_NS {
namespace {

constexpr float kLog2E = 1.44269504f;

template <class Act>
void delta(const AttentionDeltaRows& s) {
  for (int64_t t = 0; t < s.tokens; t++)
    for (int64_t h = 0; h < s.heads; h++) {
      const Act* g = static_cast<const Act*>(s.d_out) + t * s.d_out_stride + h * s.head_size;
      const Act* o = static_cast<const Act*>(s.o) + t * s.o_stride + h * s.head_size;
      Vec x = zero();
      for (int64_t c = 0; c < s.head_size; c += kLanes)
        x = fma(load(g + c, s.head_size - c), load(o + c, s.head_size - c), x);
      s.delta[t * s.token_stride + h * s.head_stride] = sum(x);
    }
}

/// Where rows of sums go: row i is token i / heads, head i % heads; activations, or f32 that is added to.
struct Target {
  void* data;
  int64_t stride, heads;
  bool accumulate;
};

template <class Act>
void store_rows(const Target& to, const float* from, int64_t from_stride, int64_t rows, int64_t n,
                float factor) {
  for (int64_t i = 0; i < rows; i++) {
    const int64_t at = i / to.heads * to.stride + i % to.heads * n;
    for (int64_t c = 0; c < n; c += kLanes) {
      Vec x = load(from + i * from_stride + c, n - c) * set1(factor);
      if (to.accumulate) {
        float* sum = static_cast<float*>(to.data) + at + c;
        store(sum, load(sum, n - c) + x, n - c);
      } else {
        store(static_cast<Act*>(to.data) + at + c, x, n - c);
      }
    }
  }
}

void clear(float* p, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(p + i, zero());
}

/// One after another from scratch.
struct Cut {
  float* next;
  float* take(int64_t n) {
    float* p = next;
    next += n;
    return p;
  }
};

// ---- dK and dV -----------------------------------------------------------------------------------------

/// A block of keys (the rows here) and the queries that it meets (the columns), in scratch.
template <class E>
struct Keys {
  E *k, *v;          ///< [kKeyTile, width]: operands a
  float *q_t, *g_t;  ///< queries and dO, transposed panels
  float *q, *g;      ///< the same, panels
  float *p, *ds;     ///< [kKeyTile, kQueryRowsBackward]: scores and dP, turned in place into P^T and dS^T
  float *dk, *dv;    ///< [kKeyTile, width]
  float *lse2, *delta, *position;  ///< [kQueryRowsBackward]; position counts from the block's first key
  int64_t width;

  Keys(float* scratch, int64_t head_size) : width(vectors(head_size) * kLanes) {
    Cut cut{scratch};
    const int64_t tile = kKeyTile * width, square = kKeyTile * kQueryRowsBackward;
    q_t = cut.take(tile), g_t = cut.take(tile), q = cut.take(tile), g = cut.take(tile);
    p = cut.take(square), ds = cut.take(square);
    dk = cut.take(tile), dv = cut.take(tile);
    lse2 = cut.take(kQueryRowsBackward), delta = cut.take(kQueryRowsBackward),
    position = cut.take(kQueryRowsBackward);
    k = reinterpret_cast<E*>(cut.take(tile));
    v = reinterpret_cast<E*>(cut.take(tile));
    clear(dk, tile);
    clear(dv, tile);
  }
};

/// Scores and dP of `keys` rows by `rows` columns to P^T and dS^T.
template <class E>
void gradient_of_scores(const Keys<E>& s, int64_t keys, int64_t rows, float scale2, bool diagonal) {
  for (int64_t j = 0; j < keys; j++) {
    float *p = s.p + j * kQueryRowsBackward, *ds = s.ds + j * kQueryRowsBackward;
    for (int64_t i = 0; i < rows; i += kLanes) {
      Vec x = exp2_fast(load(p + i) * set1(scale2) - load(s.lse2 + i));
      if (diagonal) x = select(less(load(s.position + i), set1(float(j))), zero(), x);
      Vec d = x * (load(ds + i) - load(s.delta + i));
      store(reinterpret_cast<E*>(p) + i, x);
      store(reinterpret_cast<E*>(ds) + i, d);
    }
  }
}

/// Adds what the tokens [token, token + tokens) of `heads` query heads from `head` on give.
template <class Act>
void meet_queries(const AttentionKeyBlock& b, const Keys<Operand<Act>>& s, int64_t token, int64_t tokens,
                  int64_t head, int64_t heads) {
  using E = Operand<Act>;
  const int64_t size = b.head_size, rows = tokens * heads, keys = b.key_end - b.key_begin;
  for (int64_t i = 0; i < kQueryRowsBackward; i++) {
    int64_t stat = (token + i / heads) * b.stats_stride + head + i % heads;
    s.lse2[i] = i < rows ? b.lse2[stat] : __builtin_inff();  // so that P is 0 in columns of no query
    s.delta[i] = i < rows ? b.delta[stat] : 0;
    s.position[i] = float(b.first_position + token + i / heads - b.key_begin);
  }
  Rows<Act> q{static_cast<const Act*>(b.q) + token * b.q_stride + head * size, b.q_stride, heads, size};
  Rows<Act> g{static_cast<const Act*>(b.d_out) + token * b.d_out_stride + head * size, b.d_out_stride, heads,
              size};
  pack_transposed<E>(q, rows, s.q_t);
  pack_transposed<E>(g, rows, s.g_t);
  pack_panels<E>(q, rows, s.q);
  pack_panels<E>(g, rows, s.g);
  const int64_t a_stride = s.width / UnitOf<E>::elements, k = units<E>(size);
  product<E, Into::write>(s.k, a_stride, s.q_t, k, s.p, kQueryRowsBackward, keys, vectors(rows));
  product<E, Into::write>(s.v, a_stride, s.g_t, k, s.ds, kQueryRowsBackward, keys, vectors(rows));
  gradient_of_scores(s, keys, rows, b.scale * kLog2E, b.first_position + token < b.key_end - 1);
  product<E, Into::add>(s.p, kQueryRowsBackward, s.g, units<E>(rows), s.dv, s.width, keys, vectors(size));
  product<E, Into::add>(s.ds, kQueryRowsBackward, s.q, units<E>(rows), s.dk, s.width, keys, vectors(size));
}

template <class Act>
void backward_keys(const AttentionKeyBlock& b) {
  const int64_t keys = b.key_end - b.key_begin;
  Keys<Operand<Act>> s(b.scratch, b.head_size);
  Rows<Act> k{static_cast<const Act*>(b.k) + b.key_begin * b.k_stride, b.k_stride, 1, b.head_size};
  Rows<Act> v{static_cast<const Act*>(b.v) + b.key_begin * b.v_stride, b.v_stride, 1, b.head_size};
  pack_rows(k, keys, s.k, s.width);
  pack_rows(v, keys, s.v, s.width);
  for (int64_t head = 0; head < b.heads; head += kHeadsTogether) {
    int64_t heads = min_i(kHeadsTogether, b.heads - head), step = kQueryRowsBackward / heads;
    for (int64_t token = max_i(0, b.key_begin - b.first_position); token < b.tokens; token += step)
      meet_queries<Act>(b, s, token, min_i(step, b.tokens - token), head, heads);
  }
  store_rows<Act>({b.dk, b.dk_stride, 1, b.accumulate}, s.dk, s.width, keys, b.head_size, b.scale);
  store_rows<Act>({b.dv, b.dv_stride, 1, b.accumulate}, s.dv, s.width, keys, b.head_size, 1);
}

// ---- dQ ------------------------------------------------------------------------------------------------

/// A block of queries (the rows) and the tile of keys that it meets (the columns), in scratch.
template <class E>
struct Queries {
  E *q, *g;          ///< [rows, width]: queries and dO, operands a
  float *k_t, *v_t;  ///< a tile's keys and values, transposed panels
  float* k;          ///< a tile's keys, panels
  float *s, *dp;     ///< [rows, kKeyTile]: scores, turned in place into dS; dP
  float* dq;         ///< [rows, width]
  int64_t width;

  Queries(float* scratch, int64_t rows, int64_t head_size) : width(vectors(head_size) * kLanes) {
    Cut cut{scratch};
    k_t = cut.take(kKeyTile * width), v_t = cut.take(kKeyTile * width), k = cut.take(kKeyTile * width);
    s = cut.take(rows * kKeyTile), dp = cut.take(rows * kKeyTile);
    dq = cut.take(rows * width);
    q = reinterpret_cast<E*>(cut.take(rows * width));
    g = reinterpret_cast<E*>(cut.take(rows * width));
    clear(dq, rows * width);
  }
};

template <class Act>
void meet_keys(const AttentionQueryBlock& b, const Queries<Operand<Act>>& x, int64_t key, int64_t keys,
               int64_t row) {
  using E = Operand<Act>;
  const int64_t size = b.head_size, left = b.tokens * b.heads - row;
  const int64_t a_stride = x.width / UnitOf<E>::elements, k_units = units<E>(size);
  Rows<Act> k{static_cast<const Act*>(b.k) + key * b.k_stride, b.k_stride, 1, size};
  Rows<Act> v{static_cast<const Act*>(b.v) + key * b.v_stride, b.v_stride, 1, size};
  pack_transposed<E>(k, keys, x.k_t);
  pack_transposed<E>(v, keys, x.v_t);
  pack_panels<E>(k, keys, x.k);
  float *s = x.s + row * kKeyTile, *dp = x.dp + row * kKeyTile;
  product<E, Into::write>(x.q + row * x.width, a_stride, x.k_t, k_units, s, kKeyTile, left, vectors(keys));
  product<E, Into::write>(x.g + row * x.width, a_stride, x.v_t, k_units, dp, kKeyTile, left, vectors(keys));
  const Vec scale2 = set1(b.scale * kLog2E);
  for (int64_t i = row; i < row + left; i++) {
    int64_t token = i / b.heads, stat = token * b.stats_stride + i % b.heads;
    int64_t seen = min_i(keys, b.first_position + token + 1 - key);
    Vec lse2 = set1(b.lse2[stat]), delta = set1(b.delta[stat]);
    float *s_i = x.s + i * kKeyTile, *dp_i = x.dp + i * kKeyTile;
    for (int64_t j = 0; j < keys; j += kLanes) {
      Vec p = exp2_fast(load(s_i + j) * scale2 - lse2);
      Vec ds = p * (load(dp_i + j) - delta);
      store(reinterpret_cast<E*>(s_i) + j, select(first(max_i(0, seen - j)), ds, zero()));
    }
  }
  product<E, Into::add>(s, kKeyTile, x.k, units<E>(keys), x.dq + row * x.width, x.width, left, vectors(size));
}

template <class Act>
void backward_queries(const AttentionQueryBlock& b) {
  if (b.accumulate && b.key_end <= 0) return;
  const int64_t rows = b.tokens * b.heads;
  Queries<Operand<Act>> x(b.scratch, rows, b.head_size);
  Rows<Act> q{static_cast<const Act*>(b.q), b.q_stride, b.heads, b.head_size};
  Rows<Act> g{static_cast<const Act*>(b.d_out), b.d_out_stride, b.heads, b.head_size};
  pack_rows(q, rows, x.q, x.width);
  pack_rows(g, rows, x.g, x.width);
  for (int64_t key = 0; key < b.key_end; key += kKeyTile) {
    int64_t first_token = max_i(0, key - b.first_position);
    meet_keys<Act>(b, x, key, min_i(kKeyTile, b.key_end - key), first_token * b.heads);
  }
  store_rows<Act>({b.dq, b.dq_stride, b.heads, b.accumulate}, x.dq, x.width, rows, b.head_size, b.scale);
}

}  // namespace

void attention_delta_f32(const AttentionDeltaRows& s) { delta<float>(s); }
void attention_delta_bf16(const AttentionDeltaRows& s) { delta<bf16>(s); }
void attention_backward_keys_f32(const AttentionKeyBlock& b) { backward_keys<float>(b); }
void attention_backward_keys_bf16(const AttentionKeyBlock& b) { backward_keys<bf16>(b); }
void attention_backward_queries_f32(const AttentionQueryBlock& b) { backward_queries<float>(b); }
void attention_backward_queries_bf16(const AttentionQueryBlock& b) { backward_queries<bf16>(b); }

}  // namespace jambalaya::JAMBALAYA_NS
