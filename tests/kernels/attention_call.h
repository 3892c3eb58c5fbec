// One call of attention's ops with its inputs, for tests.
#pragma once
#include <string>
#include <vector>

#include "tests/kernels/reference/attention.h"
#include "tests/support/op_test.h"

namespace jambalaya::test {

/// Sizes of one call, its inputs and the reference's results.
struct AttentionCase {
  int64_t query_heads, key_heads, size;
  std::vector<int64_t> lengths;
  std::vector<int64_t> past{}, first_key{};  ///< with a cache
  int64_t cache_rows = 0;
  double spread = 1;  ///< inputs lie in [-spread, spread)

  reference::Attention reference() const {
    reference::Attention r{query_heads, key_heads, size, 1 / std::sqrt(double(size)),
                           lengths,     first_key, past};
    if (!first_key.empty()) return r;
    int64_t t = 0;
    for (int64_t l : lengths) {
      r.first_key.push_back(t);
      r.past.push_back(0);
      t += l;
    }
    return r;
  }
  int64_t tokens() const { return reference().tokens(); }
  int64_t key_rows() const { return first_key.empty() ? tokens() : cache_rows; }
  std::string describe() const {
    return cat("T ", tokens(), " H ", query_heads, " G ", key_heads, " C ", size, " segments ",
               int64_t(lengths.size()));
  }
};

/// One call's tensors. q, k, v lie side by side in one matrix, as a fused projection leaves them, when there
/// is no cache.
struct AttentionCall {
  AttentionCall(const AttentionCase& c, DType act, uint64_t seed = 1)
      : sizes(c),
        docs(c.lengths, c.past),
        qkv(act, {c.tokens(), (c.query_heads + 2 * c.key_heads) * c.size}),
        cache_k(act, {c.key_rows(), c.key_heads * c.size}, c.key_heads * c.size + 3),
        cache_v(act, {c.key_rows(), c.key_heads * c.size}, c.key_heads * c.size + 5),
        o(act, {c.tokens(), c.query_heads * c.size}),
        d_out(act, {c.tokens(), c.query_heads * c.size}),
        dqkv(act, {c.tokens(), (c.query_heads + 2 * c.key_heads) * c.size}),
        lse(DType::f32, {c.query_heads, c.tokens()}),
        key_begin(DType::i64, {int64_t(c.lengths.size())}) {
    qkv.uniform(seed, -c.spread, c.spread);
    d_out.uniform(seed + 1);
    cache_k.uniform(seed + 2, -c.spread, c.spread);
    cache_v.uniform(seed + 3);
    if (cached()) key_begin.assign(reference::Values(c.first_key.begin(), c.first_key.end()));
  }
  bool cached() const { return !sizes.first_key.empty(); }
  Tensor part(const Owned& x, int i) const {
    int64_t h = sizes.query_heads * sizes.size, g = sizes.key_heads * sizes.size;
    int64_t begin[] = {0, h, h + g, h + 2 * g};
    return x->slice_columns(begin[i], begin[i + 1]);
  }
  Tensor q() const { return part(qkv, 0); }
  Tensor k() const { return cached() ? cache_k.tensor() : part(qkv, 1); }
  Tensor v() const { return cached() ? cache_v.tensor() : part(qkv, 2); }
  float scale() const { return float(1 / std::sqrt(double(sizes.size))); }

  void forward(TestContext& ctx) {
    ctx->attention_forward(ctx, {q(), k(), v(), sizes.size, scale(), docs.view(),
                                 cached() ? key_begin : Tensor(), Tensor(), o, lse});
  }
  void backward(TestContext& ctx) {
    ctx->attention_backward(ctx, {.d_out = d_out,
                                  .q = q(),
                                  .k = k(),
                                  .v = v(),
                                  .o = o,
                                  .lse = lse,
                                  .head_size = sizes.size,
                                  .scale = scale(),
                                  .docs = docs.view(),
                                  .dq = part(dqkv, 0),
                                  .dk = part(dqkv, 1),
                                  .dv = part(dqkv, 2)});
  }

  AttentionCase sizes;
  DocumentsBuffer docs;
  Owned qkv, cache_k, cache_v, o, d_out, dqkv, lse, key_begin;
};

inline reference::Values values(const Tensor& t) {
  reference::Values v;
  for (int64_t i = 0; i < t.rows(); i++)
    for (int64_t j = 0; j < t.columns(); j++) {
      const void* p = t.address(i * t.row_stride + j);
      v.push_back(t.dtype == DType::f32 ? double(*static_cast<const float*>(p))
                                        : double(to_float(*static_cast<const bf16*>(p))));
    }
  return v;
}

}  // namespace jambalaya::test
