// Two attentions over different keys put together, and delta = <dO, O>.
#include <gtest/gtest.h>

#include "tests/support/op_test.h"

namespace jambalaya {
namespace {

using Values = std::vector<double>;
using test::available_isas;
using test::Owned;
using test::relative_l2;
using test::TestContext;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(AttentionDelta, agrees_with_its_definition) {
  for (const auto& isa : available_isas())
    for (DType act : {DType::f32, DType::bf16}) {
      TestContext ctx(2, isa);
      const int64_t tokens = 70, heads = 3, size = 21;
      Owned g(act, {tokens, heads * size}, heads * size + 2), o(act, {tokens, heads * size});
      Owned delta(DType::f32, {heads, tokens}, tokens + 3);
      g.uniform(1), o.uniform(2);
      ctx->attention_delta(ctx, {.d_out = g, .o = o, .head_size = size, .delta = delta});
      Values want;
      for (int64_t h = 0; h < heads; h++)
        for (int64_t t = 0; t < tokens; t++) {
          want.push_back(0);
          for (int64_t c = h * size; c < (h + 1) * size; c++) want.back() += g.get(t, c) * o.get(t, c);
        }
      EXPECT_LE(relative_l2(delta, want), 1e-6) << isa;
      EXPECT_TRUE(delta.guards_intact());
    }
}

/// Two sides of a merge.
struct Sides {
  static constexpr int64_t kTokens = 75, kHeads = 3;
  explicit Sides(int64_t head_size)
      : size(head_size),
        o(DType::f32, {kTokens, kHeads * size}, kHeads * size + 3),
        part(DType::f32, {kTokens, kHeads * size}, kHeads * size + 1),
        lse(DType::f32, {kHeads, kTokens}, kTokens + 2),
        part_lse(DType::f32, {kHeads, kTokens}, kTokens + 5) {
    o.uniform(1), part.uniform(2), lse.uniform(3, -4, 4), part_lse.uniform(4, -4, 4);
  }
  void merge(TestContext& ctx) {
    ctx->attention_merge(ctx, {.o = o, .lse = lse, .part = part, .part_lse = part_lse, .head_size = size});
    EXPECT_TRUE(o.guards_intact() && lse.guards_intact());
  }
  int64_t size;
  Owned o, part, lse, part_lse;
};

TEST(AttentionMerge, agrees_with_the_weighted_sum_in_float64) {
  for (const auto& isa : available_isas())
    for (int64_t size : {1, 8, 33, 128}) {
      TestContext ctx(2, isa);
      Sides s(size);
      s.lse.set(0, 3, 3000), s.part_lse.set(0, 3, -3000);  // neither side may overflow the other
      s.lse.set(1, 4, -3000), s.part_lse.set(1, 4, 2999);
      Values want, want_lse;
      for (int64_t t = 0; t < Sides::kTokens; t++)
        for (int64_t j = 0; j < Sides::kHeads * size; j++) {
          const double a = s.lse.get(j / size, t), b = s.part_lse.get(j / size, t);
          want.push_back((s.o.get(t, j) + std::exp(b - a) * s.part.get(t, j)) / (1 + std::exp(b - a)));
          if (a < -1000) want.back() = s.part.get(t, j);
        }
      for (int64_t h = 0; h < Sides::kHeads; h++)
        for (int64_t t = 0; t < Sides::kTokens; t++) {
          const double a = s.lse.get(h, t), b = s.part_lse.get(h, t), top = std::max(a, b);
          want_lse.push_back(top + std::log(std::exp(a - top) + std::exp(b - top)));
        }
      s.merge(ctx);
      EXPECT_LE(relative_l2(s.o, want), 1e-6) << isa << " " << size;
      const Values got = s.lse.values();
      for (size_t i = 0; i < got.size(); i++)
        EXPECT_NEAR(got[i], want_lse[i], 1e-6 * std::max(1.0, std::abs(want_lse[i]))) << i;
    }
}

TEST(AttentionMerge, a_side_that_saw_nothing_leaves_the_other_to_the_bit) {
  for (const auto& isa : available_isas()) {
    TestContext ctx(1, isa);
    Sides s(20);
    for (int64_t t = 0; t < Sides::kTokens; t++)
      for (int64_t h = 0; h < Sides::kHeads; h++) {
        if (t % 3 != 1) s.lse.set(h, t, -kInfinity);
        if (t % 3 != 0) s.part_lse.set(h, t, -kInfinity);
        for (int64_t j = h * 20; j < (h + 1) * 20; j++) {
          if (t % 3 == 0) s.o.set(t, j, std::nan(""));  // not read
          if (t % 3 == 1) s.part.set(t, j, std::nan(""));
          if (t % 3 == 2) s.o.set(t, j, 0), s.part.set(t, j, 0);
        }
      }
    const Sides before = s;
    s.merge(ctx);
    for (int64_t t = 0; t < Sides::kTokens; t++)
      for (int64_t j = 0; j < Sides::kHeads * 20; j++) {
        const int64_t h = j / 20;
        const bool other = t % 3 == 0;
        EXPECT_EQ(s.o.get(t, j), t % 3 == 2 ? 0 : (other ? before.part : before.o).get(t, j)) << t;
        EXPECT_EQ(s.lse.get(h, t), (other ? before.part_lse : before.lse).get(h, t)) << t;
      }
  }
}

TEST(AttentionMerge, nan_on_either_side_shows) {
  for (const auto& isa : available_isas()) {
    TestContext ctx(1, isa);
    for (int side = 0; side < 2; side++) {
      Sides s(8);
      (side ? s.lse : s.part_lse).set(1, 20, std::nan(""));
      (side ? s.part : s.o).set(30, 0, std::nan(""));
      s.merge(ctx);
      for (int64_t j = 0; j < 24; j++) EXPECT_EQ(std::isnan(s.o.get(20, j)), j / 8 == 1) << isa;
      EXPECT_TRUE(std::isnan(s.lse.get(1, 20)) && !std::isnan(s.lse.get(1, 21)));
      EXPECT_TRUE(std::isnan(s.o.get(30, 0)) && !std::isnan(s.o.get(30, 1)));
    }
  }
}

}  // namespace
}  // namespace jambalaya
