// bf16 attention around the edges of the kernels' tiles of queries and keys, measured in units of what an
// honest bf16 implementation gets wrong (FlashAttention's rule).
#include <gtest/gtest.h>

#include "tests/kernels/attention_call.h"

namespace jambalaya {
namespace {

using reference::Values;
using test::available_isas;
using test::Owned;
using test::relative_l2;
using test::rounded_to_bf16;
using test::TestContext;
using test::values;
using Case = test::AttentionCase;
using Call = test::AttentionCall;

double round_bf16(double x) { return double(to_float(to_bf16(float(x)))); }

/// The definition in float64, rounded to bf16 where a bf16 implementation must: probabilities and their
/// gradients as operands of products, results as they are stored.
struct Honest {
  Honest(const reference::Attention& ref, const Values& q, const Values& k, const Values& v, const Values& g)
      : o(q.size(), 0.0), dq(q.size(), 0.0), dk(k.size(), 0.0), dv(v.size(), 0.0) {
    const auto size = size_t(ref.size);
    ref.for_each_query([&](int64_t t, int64_t h, int64_t group, int64_t key, int64_t seen) {
      const Values x = ref.scores(q, k, t, h, group, key, seen);
      const double z = reference::Attention::log_sum_exp(x);
      const size_t query = size_t(t * ref.query_heads + h) * size;
      auto row = [&](int64_t j) { return size_t((key + j) * ref.key_heads + group) * size; };
      for (int64_t j = 0; j < seen; j++)
        for (size_t c = 0; c < size; c++)
          o[query + c] += round_bf16(std::exp(x[size_t(j)] - z)) * v[row(j) + c];
      double delta = 0;
      for (size_t c = 0; c < size; c++)
        o[query + c] = round_bf16(o[query + c]), delta += o[query + c] * g[query + c];
      for (int64_t j = 0; j < seen; j++) {
        const double p = std::exp(x[size_t(j)] - z);
        double dp = 0;
        for (size_t c = 0; c < size; c++) dp += g[query + c] * v[row(j) + c];
        const double ds = ref.scale * round_bf16(p * (dp - delta));
        for (size_t c = 0; c < size; c++) {
          dv[row(j) + c] += round_bf16(p) * g[query + c];
          dq[query + c] += ds * k[row(j) + c];
          dk[row(j) + c] += ds * q[query + c];
        }
      }
    });
    for (Values* x : {&dq, &dk, &dv}) *x = rounded_to_bf16(*x);
  }
  Values o, dq, dk, dv;
};

double largest_error(const Values& got, const Values& want) {
  double most = got.size() == want.size() ? 0 : INFINITY;
  for (size_t i = 0; i < want.size() && i < got.size(); i++) {
    const double error = std::abs(got[i] - want[i]);
    if (!(error <= most)) most = std::isnan(error) ? INFINITY : error;
  }
  return most;
}

/// At most twice the honest implementation's largest error, and a bf16 rounding of the largest element.
void expect_honest(const Values& got, const Values& honest, const Values& exact, const char* what) {
  double magnitude = 0;
  for (double x : exact) magnitude = std::max(magnitude, std::abs(x));
  EXPECT_LE(largest_error(got, exact), 2 * largest_error(honest, exact) + magnitude / 512) << what;
}

void expect_close(const Case& c, const std::string& isa) {
  std::string lengths;
  for (int64_t n : c.lengths) lengths += cat(" ", n);
  SCOPED_TRACE(c.describe() + lengths + " " + isa);
  TestContext ctx(2, isa);
  Call call(c, DType::bf16);
  call.forward(ctx);
  call.backward(ctx);
  const auto ref = c.reference();
  const Values q = values(call.q()), k = values(call.k()), v = values(call.v()), g = call.d_out.values();
  Values o, lse, dq, dk, dv;
  ref.forward(q, k, v, o, lse);
  ref.backward(q, k, v, g, dq, dk, dv);
  const Honest honest(ref, q, k, v, g);
  expect_honest(call.o.values(), honest.o, o, "o");
  expect_honest(values(call.part(call.dqkv, 0)), honest.dq, dq, "dq");
  expect_honest(values(call.part(call.dqkv, 1)), honest.dk, dk, "dk");
  expect_honest(values(call.part(call.dqkv, 2)), honest.dv, dv, "dv");
  EXPECT_LE(relative_l2(call.lse, lse), 1e-5);
  EXPECT_TRUE(call.o.guards_intact() && call.lse.guards_intact() && call.dqkv.guards_intact());
}

TEST(AttentionTiles, lengths_around_the_edges_of_tiles) {
  for (const auto& isa : available_isas())
    for (int64_t size : {64, 128})
      for (const std::vector<int64_t>& lengths :
           std::vector<std::vector<int64_t>>{{16}, {63}, {64}, {65}, {127, 1}, {128}, {129}, {3, 64, 0, 190}})
        expect_close({2, 1, size, lengths}, isa);
}

TEST(AttentionTiles, head_sizes_that_fill_a_tile_in_part) {
  for (const auto& isa : available_isas())
    for (int64_t size : {8, 24, 32, 40, 80, 96, 136, 192, 256}) expect_close({2, 1, size, {70, 33}}, isa);
}

TEST(AttentionTiles, groups_of_query_heads_share_gradients_of_keys) {
  for (const auto& isa : available_isas()) {
    expect_close({8, 2, 64, {70, 31}}, isa);
    expect_close({6, 1, 32, {66}}, isa);
    expect_close({3, 3, 128, {66}}, isa);
  }
}

TEST(AttentionTiles, same_bits_every_time) {
  // On the emulated device the threads run in another order every time.
  for (int64_t size : {64, 128, 256, 20}) {
    std::string first;
    for (int i = 0; i < 3; i++) {
      TestContext ctx;
      Call train({4, 2, size, {150, 3}}, DType::bf16);
      Call decode({4, 2, size, {1, 2}, {1500, 300}, {0, 1600}, 2000}, DType::bf16);
      train.forward(ctx);
      train.backward(ctx);
      decode.forward(ctx);
      const std::string bits =
          train.o.bits() + train.lse.bits() + train.dqkv.bits() + decode.o.bits() + decode.lse.bits();
      if (first.empty()) first = bits;
      EXPECT_EQ(bits, first) << size;
    }
  }
}

/// Few tokens against a cache whose rows the tensor cores can read.
void expect_decoded(const reference::Attention& ref, int64_t rows, const std::string& isa) {
  TestContext ctx(2, isa);
  const DocumentsBuffer docs(ref.lengths, ref.past);
  const int64_t tokens = ref.tokens(), columns = ref.query_heads * ref.size;
  Owned q(DType::bf16, {tokens, columns}), k(DType::bf16, {rows, ref.key_heads * ref.size}),
      v(DType::bf16, {rows, ref.key_heads * ref.size}), key_begin(DType::i64, {int64_t(ref.lengths.size())}),
      key_count(DType::i64, {int64_t(ref.lengths.size())});
  q.uniform(1, -4, 4), k.uniform(2), v.uniform(3);
  key_begin.assign(Values(ref.first_key.begin(), ref.first_key.end()));
  if (!ref.key_count.empty()) key_count.assign(Values(ref.key_count.begin(), ref.key_count.end()));
  Values o, lse;
  ref.forward(q.values(), k.values(), v.values(), o, lse);
  for (DType result : {DType::bf16, DType::f32}) {
    Owned got(result, {tokens, columns}), got_lse(DType::f32, {ref.query_heads, tokens});
    ctx->attention_forward(ctx, {.q = q,
                                 .k = k,
                                 .v = v,
                                 .head_size = ref.size,
                                 .scale = float(ref.scale),
                                 .docs = docs.view(),
                                 .key_begin = key_begin,
                                 .key_count = ref.key_count.empty() ? Tensor() : key_count.tensor(),
                                 .o = got,
                                 .lse = got_lse});
    EXPECT_LE(relative_l2(got, o), 4e-3) << isa;
    Values found = got_lse.values(), wanted = lse;
    for (size_t i = 0; i < lse.size(); i++) {
      ASSERT_EQ(std::isinf(found[i]), std::isinf(lse[i])) << i;
      if (std::isinf(lse[i])) found[i] = wanted[i] = 0;
    }
    EXPECT_LE(relative_l2(found, wanted), 1e-5) << isa;
    EXPECT_TRUE(got.guards_intact() && got_lse.guards_intact());
  }
}

TEST(AttentionTiles, few_tokens_against_many_keys) {
  for (const auto& isa : available_isas()) {
    for (int64_t size : {64, 128})
      expect_decoded(
          {8, 2, size, 1 / std::sqrt(double(size)), {1, 1, 0, 3}, {0, 3000, 0, 3010}, {2999, 7, 4, 517}},
          3600, isa);
    // 2 tokens x 40 heads of a key head: more rows than a tile has. Ranges of keys that a sequence has none
    // of.
    expect_decoded({40, 1, 16, 0.25, {2, 1}, {5, 0}, {1700, 0}}, 1800, isa);
    // A block of a ring: counts that end within a range of keys, or leave nothing.
    expect_decoded({4, 2, 64, 0.125, {2, 4, 1}, {0, 100, 50}, {9000, 9000, 9000}, {1000, 0, 65}}, 1000, isa);
  }
}

}  // namespace
}  // namespace jambalaya
