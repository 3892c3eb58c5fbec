// One block of keys: which rows a segment sees, what becomes of the others and of queries that see nothing.
#include <gtest/gtest.h>

#include <numeric>

#include "tests/kernels/reference/attention.h"
#include "tests/support/op_test.h"

namespace jambalaya {
namespace {

using reference::Values;
using test::available_isas;
using test::Owned;
using test::relative_l2;
using test::TestContext;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// One call against one block of keys, and the reference's results for it. Key rows that nobody sees are NaN.
struct OneBlock {
  OneBlock(reference::Attention r, int64_t rows, DType act_dtype)
      : ref(std::move(r)),
        act(act_dtype),
        docs(ref.lengths, ref.past),
        q(act, {ref.tokens(), ref.query_heads * ref.size}),
        k(act, {rows, ref.key_heads * ref.size}),
        v(act, {rows, ref.key_heads * ref.size}),
        d_out(act, {ref.tokens(), ref.query_heads * ref.size}),
        o(DType::f32, {ref.tokens(), ref.query_heads * ref.size}),
        lse(DType::f32, {ref.query_heads, ref.tokens()}),
        key_begin(DType::i64, {int64_t(ref.lengths.size())}),
        key_count(DType::i64, {int64_t(ref.lengths.size())}),
        seen(size_t(rows), false) {
    q.uniform(1), d_out.uniform(2);
    key_begin.assign(Values(ref.first_key.begin(), ref.first_key.end()));
    key_count.assign(Values(ref.key_count.begin(), ref.key_count.end()));
    ref.for_each_query([&](int64_t, int64_t, int64_t, int64_t first, int64_t n) {
      for (int64_t i = first; i < first + n; i++) seen[size_t(i)] = true;
    });
    uint64_t seed = 3;
    for (Owned* x : {&k, &v}) {
      x->uniform(seed++);
      for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < (*x)->columns() && !seen[size_t(i)]; j++) x->set(i, j, std::nan(""));
    }
  }
  Values finite(const Owned& x) const {
    Values y = x.values();
    for (double& e : y) e = std::isnan(e) ? 0 : e;
    return y;
  }
  void forward(TestContext& ctx) {
    ctx->attention_forward(ctx,
                           {q, k, v, ref.size, float(ref.scale), docs.view(), key_begin, key_count, o, lse});
  }
  void backward(TestContext& ctx, const Owned& dq, const Owned& dk, const Owned& dv) {
    Owned o_act(act, {ref.tokens(), ref.query_heads * ref.size});
    o_act.assign(o.values());
    ctx->attention_backward(ctx, {.d_out = d_out,
                                  .q = q,
                                  .k = k,
                                  .v = v,
                                  .o = o_act,
                                  .lse = lse,
                                  .head_size = ref.size,
                                  .scale = float(ref.scale),
                                  .docs = docs.view(),
                                  .key_begin = key_begin,
                                  .key_count = key_count,
                                  .dq = dq,
                                  .dk = dk,
                                  .dv = dv,
                                  .accumulate = dq->dtype == DType::f32 && accumulate});
  }

  reference::Attention ref;
  DType act;
  DocumentsBuffer docs;
  Owned q, k, v, d_out, o, lse, key_begin, key_count;
  std::vector<bool> seen;
  bool accumulate = true;
};

/// Segments at unlike places of a block of 300 rows: positions beyond the block, a count of 0, keys in the
/// middle, few tokens against many keys, a segment without tokens.
reference::Attention scattered(int64_t heads, int64_t key_heads, int64_t size) {
  return {heads,
          key_heads,
          size,
          1 / std::sqrt(double(size)),
          {70, 3, 20, 0, 5, 90},
          {0, 9999, 11, 50, 60, 210},
          {1000000, 7, 5, 0, 400, 0},
          {10, 0, 30, 7, 140, 80}};
}

TEST(AttentionBlocks, reference_with_counts_agrees_with_central_differences) {
  OneBlock b({2, 1, 3, 0.7, {4, 2, 3}, {0, 5, 5}, {1, 0, 9}, {3, 0, 4}}, 9, DType::f32);
  Values q = b.q.values(), k = b.finite(b.k), v = b.finite(b.v), g = b.d_out.values(), o, lse, dq, dk, dv;
  b.ref.backward(q, k, v, g, dq, dk, dv);
  auto loss = [&] {
    b.ref.forward(q, k, v, o, lse);
    return std::inner_product(g.begin(), g.end(), o.begin(), 0.0);
  };
  auto differences = [&](Values& x) {
    Values d;
    for (double& e : x) {
      const double at = e, h = 1e-5;
      e = at + h;
      const double up = loss();
      e = at - h;
      d.push_back((up - loss()) / (2 * h));
      e = at;
    }
    return d;
  };
  EXPECT_LE(relative_l2(dq, differences(q)), 1e-6);
  EXPECT_LE(relative_l2(dk, differences(k)), 1e-6);
  EXPECT_LE(relative_l2(dv, differences(v)), 1e-6);
}

TEST(AttentionBlocks, a_segment_sees_its_count_of_keys_and_no_other_row) {
  for (const auto& isa : available_isas())
    for (DType act : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(isa + " " + name_of(act));
      TestContext ctx(2, isa);
      OneBlock b(scattered(4, 2, 40), 300, act);
      b.forward(ctx);
      Values q = b.q.values(), k = b.finite(b.k), v = b.finite(b.v), o, lse, dq, dk, dv;
      b.ref.forward(q, k, v, o, lse);
      EXPECT_LE(relative_l2(b.o, o), act == DType::f32 ? 3e-5 : 4e-3);
      Values got = b.lse.values();
      for (size_t i = 0; i < lse.size(); i++) {
        ASSERT_EQ(got[i] == -kInfinity, lse[i] == -kInfinity) << i;
        if (lse[i] == -kInfinity) got[i] = lse[i] = 0;
      }
      EXPECT_LE(relative_l2(got, lse), 1e-5);

      b.ref.backward(q, k, v, b.d_out.values(), dq, dk, dv);
      Owned dq_f32(DType::f32, {b.ref.tokens(), 160}), dk_f32(DType::f32, {300, 80}),
          dv_f32(DType::f32, {300, 80});
      for (Owned* x : {&dq_f32, &dk_f32, &dv_f32}) x->fill(0);
      b.backward(ctx, dq_f32, dk_f32, dv_f32);
      const double tolerance = act == DType::f32 ? 3e-5 : 8e-3;
      EXPECT_LE(relative_l2(dq_f32, dq), tolerance);
      EXPECT_LE(relative_l2(dk_f32, dk), tolerance);
      EXPECT_LE(relative_l2(dv_f32, dv), tolerance);

      // Written instead of added: the same, and rows that nobody sees keep what they held.
      b.accumulate = false;
      Owned dq_act(act, {b.ref.tokens(), 160}), dk_act(act, {300, 80}), dv_act(act, {300, 80});
      b.backward(ctx, dq_act, dk_act, dv_act);
      EXPECT_LE(relative_l2(dq_act, dq), tolerance);
      for (int64_t i = 0; i < 300; i++) EXPECT_EQ(std::isnan(dk_act.get(i, 7)), !b.seen[size_t(i)]) << i;
      EXPECT_LE(relative_l2(b.finite(dk_act), dk), tolerance);
      EXPECT_LE(relative_l2(b.finite(dv_act), dv), tolerance);
    }
}

TEST(AttentionBlocks, accumulation_adds_and_leaves_unseen_rows_alone) {
  for (const auto& isa : available_isas()) {
    TestContext ctx(2, isa);
    OneBlock b(scattered(2, 1, 24), 300, DType::f32);
    b.forward(ctx);
    Owned dq(DType::f32, {b.ref.tokens(), 48}), dk(DType::f32, {300, 24}), dv(DType::f32, {300, 24});
    for (Owned* x : {&dq, &dk, &dv}) x->fill(0);
    b.backward(ctx, dq, dk, dv);
    Owned more_q(DType::f32, {b.ref.tokens(), 48}), more_k(DType::f32, {300, 24}),
        more_v(DType::f32, {300, 24});
    for (Owned* x : {&more_q, &more_k, &more_v}) x->fill(1);
    b.backward(ctx, more_q, more_k, more_v);
    auto expect_added = [](const Owned& more, const Owned& once) {
      for (int64_t i = 0; i < once->rows(); i++)
        for (int64_t j = 0; j < once->columns(); j++)
          ASSERT_EQ(more.get(i, j), double(float(1 + once.get(i, j)))) << i;
    };
    expect_added(more_q, dq), expect_added(more_k, dk), expect_added(more_v, dv);
    for (int64_t i = 0; i < 300; i++) EXPECT_EQ(dv.get(i, 0) != 0, b.seen[size_t(i)]) << i;
  }
}

TEST(AttentionBlocks, a_query_that_sees_nothing_gives_zero_and_minus_infinity) {
  for (const auto& isa : available_isas())
    for (DType act : {DType::f32, DType::bf16})
      for (int64_t rows : {0, 5}) {
        TestContext ctx(1, isa);
        OneBlock b({4, 2, 20, 1, {3, 30}, {0, 0}, {0, 9}, {0, 0}}, rows, act);
        b.forward(ctx);
        for (double x : b.o.values()) ASSERT_EQ(x, 0);
        for (double x : b.lse.values()) ASSERT_EQ(x, -kInfinity);
        Owned dq(DType::f32, {33, 80}), dk(DType::f32, {rows, 40}), dv(DType::f32, {rows, 40});
        for (Owned* x : {&dq, &dk, &dv}) x->fill(2);
        b.backward(ctx, dq, dk, dv);
        for (const Owned* x : {&dq, &dk, &dv})
          for (double e : x->values()) ASSERT_EQ(e, 2);
      }
}

TEST(AttentionBlocks, a_row_of_minus_infinity_gives_no_gradient) {
  for (const auto& isa : available_isas())
    for (DType act : {DType::f32, DType::bf16}) {
      TestContext ctx(1, isa);
      OneBlock b({2, 1, 16, 0.25, {70}, {0}, {0}, {70}}, 70, act);
      b.forward(ctx);
      auto gradients = [&](Owned& dq) {
        Owned dk(DType::f32, {70, 16}), dv(DType::f32, {70, 16});
        for (Owned* x : {&dq, &dk, &dv}) x->fill(0);
        b.backward(ctx, dq, dk, dv);
        return dk.bits() + dv.bits();
      };
      Owned dq(DType::f32, {70, 32});
      const Owned g = b.d_out;
      for (int64_t j = 0; j < 32; j++) b.d_out.set(40, j, 0);
      const std::string without = gradients(dq);
      b.d_out = g;
      EXPECT_NE(gradients(dq), without) << isa;
      for (int64_t h = 0; h < 2; h++) b.lse.set(h, 40, -kInfinity);
      EXPECT_EQ(gradients(dq), without) << isa;
      for (int64_t j = 0; j < 32; j++) EXPECT_EQ(dq.get(40, j), 0);
    }
}

TEST(AttentionBlocks, segments_that_share_key_rows_sum_in_their_order) {
  // The second segment starts at the first's rows again, the last one reaches into those of all others.
  reference::Attention ref{
      4, 2, 32, 0.2, {30, 12, 50, 9}, {0, 0, 100, 40}, {60, 90, 10, 300}, {100, 100, 64, 90}};
  for (const auto& isa : available_isas()) {
    std::string first;
    for (int threads : {1, 2, 3}) {
      TestContext ctx(threads, isa);
      OneBlock b(ref, 164, DType::f32);
      b.forward(ctx);
      Values dq, dk, dv;
      b.ref.backward(b.q.values(), b.k.values(), b.v.values(), b.d_out.values(), dq, dk, dv);
      Owned got_q(DType::f32, {101, 128}), got_k(DType::f32, {164, 64}), got_v(DType::f32, {164, 64});
      for (Owned* x : {&got_q, &got_k, &got_v}) x->fill(0);
      b.backward(ctx, got_q, got_k, got_v);
      EXPECT_LE(relative_l2(got_q, dq), 3e-5);
      EXPECT_LE(relative_l2(got_k, dk), 3e-5);
      EXPECT_LE(relative_l2(got_v, dv), 3e-5);
      if (first.empty()) first = got_q.bits() + got_k.bits() + got_v.bits();
      EXPECT_EQ(got_q.bits() + got_k.bits() + got_v.bits(), first) << threads;
      b.accumulate = false;  // writing would lose a share
      EXPECT_THROW(b.backward(ctx, got_q, got_k, got_v), std::exception);
    }
  }
}

TEST(AttentionBlocks, arguments_that_do_not_fit_are_refused) {
  TestContext ctx;
  OneBlock beyond({2, 1, 16, 1, {4}, {10}, {3}, {7}}, 17, DType::f32);
  beyond.key_begin.assign({11});  // needs rows [11, 18)
  EXPECT_THROW(beyond.forward(ctx), std::exception);
  OneBlock negative({2, 1, 16, 1, {4}, {10}, {3}, {7}}, 17, DType::f32);
  negative.key_count.assign({-1});
  EXPECT_THROW(negative.forward(ctx), std::exception);
  OneBlock no_begin({2, 1, 16, 1, {4}, {0}, {0}, {4}}, 4, DType::f32);
  no_begin.key_begin = Owned();
  EXPECT_THROW(no_begin.forward(ctx), std::exception);
  OneBlock fits({2, 1, 16, 1, {4}, {10}, {3}, {7}}, 17, DType::f32);
  EXPECT_NO_THROW(fits.forward(ctx));
}

}  // namespace
}  // namespace jambalaya
