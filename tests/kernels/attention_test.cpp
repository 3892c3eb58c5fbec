#include <gtest/gtest.h>

#include "tests/kernels/attention_call.h"

namespace jambalaya {
namespace {

using reference::Values;
using test::available_isas;
using test::Owned;
using test::relative_l2;
using test::TestContext;
using test::values;
using Case = test::AttentionCase;
using Call = test::AttentionCall;

const std::vector<Case> kCases = {
    {1, 1, 64, {1}},       {2, 1, 7, {5}},     {4, 2, 33, {70, 1, 2, 129}}, {6, 3, 16, {3, 0, 65, 64}},
    {8, 2, 64, {200}},     {3, 1, 128, {131}}, {4, 4, 32, {17, 150}},       {40, 2, 8, {90}},
    {2, 2, 80, {63, 130}},
};

/// Fills the first of the scratch memory with NaN: nothing may count on what it held.
void poison_scratch(TestContext& ctx) {
  ArenaScope scope(ctx.scratch);
  constexpr int64_t kBytes = 4 << 20;
  void* const memory = ctx.scratch.take(kBytes, "poison");
  if (Accelerator* accelerator = ctx.context.accelerator)
    accelerator->fill(memory, kBytes, 0xff, kBytes, 1, ctx.context.stream);
  else
    std::memset(memory, 0xff, size_t(kBytes));
}

void expect_close(const Case& c, DType act, const std::string& isa) {
  SCOPED_TRACE(c.describe() + " " + name_of(act) + " " + isa);
  TestContext ctx(2, isa);
  Call call(c, act);
  poison_scratch(ctx);
  call.forward(ctx);
  auto ref = c.reference();
  Values q = values(call.q()), k = values(call.k()), v = values(call.v()), o, lse, dq, dk, dv;
  ref.forward(q, k, v, o, lse);
  double most = double(*std::max_element(c.lengths.begin(), c.lengths.end()));
  const double forward = act == DType::f32 ? 2e-6 * std::sqrt(most) : 4e-3;
  EXPECT_LE(relative_l2(call.o, o), forward);
  EXPECT_LE(relative_l2(call.lse, lse), 1e-5);
  EXPECT_TRUE(call.o.guards_intact() && call.lse.guards_intact());
  if (call.cached()) return;
  poison_scratch(ctx);
  call.backward(ctx);
  ref.backward(q, k, v, call.d_out.values(), dq, dk, dv);
  const double backward = act == DType::f32 ? 2e-6 * std::sqrt(most) : 8e-3;
  // With one key per query P is 1 and dq, dk are 0 up to rounding: compare all three as one vector.
  Values got, want;
  for (int i = 0; i < 3; i++) {
    Values part = values(call.part(call.dqkv, i));
    const Values& right = i == 0 ? dq : i == 1 ? dk : dv;
    if (most > 2) {
      EXPECT_LE(relative_l2(part, right), backward) << "part " << i;
    }
    got.insert(got.end(), part.begin(), part.end());
    want.insert(want.end(), right.begin(), right.end());
  }
  EXPECT_LE(relative_l2(got, want), backward);
  EXPECT_TRUE(call.dqkv.guards_intact());
}

TEST(AttentionReference, backward_agrees_with_central_differences) {
  Case c{4, 2, 3, {5, 1, 3}};
  auto ref = c.reference();
  Call call(c, DType::f32);
  Values q = values(call.q()), k = values(call.k()), v = values(call.v()), g = call.d_out.values(), o, lse,
         dq, dk, dv;
  ref.backward(q, k, v, g, dq, dk, dv);
  auto loss = [&] {
    ref.forward(q, k, v, o, lse);
    double sum = 0;
    for (size_t i = 0; i < o.size(); i++) sum += g[i] * o[i];
    return sum;
  };
  auto differences = [&](Values& x) {
    Values d;
    for (double& e : x) {
      double at = e, h = 1e-5;
      e = at + h;
      double up = loss();
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

TEST(Attention, agrees_with_the_reference) {
  for (const auto& isa : available_isas())
    for (const Case& c : kCases)
      for (DType act : {DType::f32, DType::bf16}) expect_close(c, act, isa);
}

TEST(Attention, agrees_with_the_reference_through_a_cache) {
  std::vector<Case> cases = {
      {4, 2, 64, {1, 1}, {700, 30}, {5, 900}, 1000},              // decoding: keys in pieces, and not
      {4, 1, 33, {8, 3}, {1100, 1030}, {0, 1200}, 2300},          // a few tokens, tails
      {2, 2, 32, {20, 70, 1}, {100, 0, 0}, {10, 130, 200}, 201},  // a chunk of a prompt
      {40, 2, 16, {2}, {1500}, {3}, 1505},  // more heads per key head than one block takes
  };
  for (const auto& isa : available_isas())
    for (const Case& c : cases)
      for (DType act : {DType::f32, DType::bf16}) expect_close(c, act, isa);
}

TEST(Attention, steep_scores_neither_overflow_nor_lose_the_largest) {
  for (const auto& isa : available_isas())
    for (DType act : {DType::f32, DType::bf16}) {
      Case c{2, 1, 64, {150}};
      c.spread = 60;  // scores of several thousand
      TestContext ctx(1, isa);
      Call call(c, act);
      call.forward(ctx);
      call.backward(ctx);
      Values o, lse;
      c.reference().forward(values(call.q()), values(call.k()), values(call.v()), o, lse);
      EXPECT_LE(relative_l2(call.o, o), act == DType::f32 ? 1e-4 : 8e-3)
          << isa;  // scores' own rounding, exponentiated
      EXPECT_LE(relative_l2(call.lse, lse), 1e-5);
      for (double x : call.dqkv.values()) ASSERT_TRUE(std::isfinite(x));
    }
}

TEST(Attention, nan_in_a_key_reaches_every_query_that_sees_it_and_no_other) {
  for (const auto& isa : available_isas()) {
    Case c{1, 1, 16, {100, 20}};
    TestContext ctx(1, isa);
    Call call(c, DType::f32);
    for (int64_t j = 0; j < 16; j++) call.qkv.set(70, 16 + j, std::nan(""));  // k of token 70
    call.forward(ctx);
    for (int64_t t = 0; t < 120; t++) EXPECT_EQ(std::isnan(call.o.get(t, 3)), t >= 70 && t < 100) << t;
  }
}

TEST(Attention, no_leak_across_documents) {
  for (const auto& isa : available_isas())
    for (DType act : {DType::f32, DType::bf16}) {
      Case c{4, 2, 32, {40, 90, 70}};
      TestContext ctx(2, isa);
      Call one(c, act), two(c, act);
      for (int64_t t = 0; t < 200; t++)
        if (t < 40 || t >= 130)
          for (int64_t j = 0; j < two.qkv->columns(); j++) two.qkv.set(t, j, 1000.0 + double(t + j));
      for (Call* call : {&one, &two}) {
        call->forward(ctx);
        call->backward(ctx);
      }
      for (int64_t t = 40; t < 130; t++) {
        for (int64_t j = 0; j < one.o->columns(); j++) ASSERT_EQ(one.o.get(t, j), two.o.get(t, j));
        for (int64_t j = 0; j < one.dqkv->columns(); j++) ASSERT_EQ(one.dqkv.get(t, j), two.dqkv.get(t, j));
      }
    }
}

TEST(Attention, later_tokens_change_nothing_before_them) {
  TestContext ctx;
  Case c{2, 1, 64, {150}};
  Call one(c, DType::bf16), two(c, DType::bf16);
  for (int64_t j = 0; j < two.qkv->columns(); j++) two.qkv.set(100, j, 5);
  one.forward(ctx);
  two.forward(ctx);
  for (int64_t t = 0; t < 100; t++)
    for (int64_t j = 0; j < one.o->columns(); j++) ASSERT_EQ(one.o.get(t, j), two.o.get(t, j));
}

TEST(Attention, a_document_fed_in_chunks_through_a_cache_equals_the_whole) {
  for (DType act : {DType::f32, DType::bf16}) {
    TestContext ctx(2);
    const int64_t length = 1300;
    Case whole{4, 2, 32, {length}};
    Call all(whole, act);
    all.forward(ctx);
    // Chunks of many tokens walk the same tiles: same bits. Single tokens sum pieces of keys: same up to
    // rounding.
    int64_t at = 0;
    for (int64_t n : {1, 7, 64, 200, 900, 127, 1}) {
      Case part{4, 2, 32, {n}, {at}, {0}, at + n};
      Call call(part, act);
      Tensor q = all.q().slice_rows(at, at + n), k = all.k().slice_rows(0, at + n),
             v = all.v().slice_rows(0, at + n);
      ctx->attention_forward(
          ctx, {q, k, v, 32, all.scale(), call.docs.view(), call.key_begin, Tensor(), call.o, call.lse});
      Tensor want = all.o->slice_rows(at, at + n);
      EXPECT_LE(relative_l2(values(call.o), values(want)), act == DType::f32 ? 1e-6 : 4e-3) << at;
      if (n > 8) {
        EXPECT_EQ(values(call.o), values(want)) << at;
      }
      at += n;
    }
    EXPECT_EQ(at, length);
  }
}

TEST(Attention, same_bits_for_any_number_of_threads) {
  for (DType act : {DType::f32, DType::bf16}) {
    Case train{6, 2, 64, {300, 5, 100}}, decode{4, 2, 64, {1, 4}, {1500, 900}, {0, 1600}, 2600};
    std::string first;
    for (int threads = 1; threads <= (test::on_device() ? 2 : 3); threads++) {
      TestContext ctx(threads);
      Call a(train, act), b(decode, act);
      a.forward(ctx);
      a.backward(ctx);
      b.forward(ctx);
      std::string bits = a.o.bits() + a.dqkv.bits() + a.lse.bits() + b.o.bits() + b.lse.bits();
      if (first.empty()) first = bits;
      EXPECT_EQ(bits, first) << threads;
    }
  }
}

TEST(Attention, scratch_grows_at_most_linearly_with_tokens) {
  auto high_water = [](int64_t tokens) {
    TestContext ctx;
    Case c{2, 1, 16, {tokens}};
    Call call(c, DType::bf16);
    call.forward(ctx);
    call.backward(ctx);
    EXPECT_EQ(ctx.scratch.in_use(), 0);
    return ctx.scratch.high_water();
  };
  const int64_t unit = test::on_device() ? 32 : 512;  // the emulator's time grows with its square
  int64_t small = high_water(unit), large = high_water(4 * unit);
  EXPECT_LE(large, 4 * small);
  // Bytes per token once all slots are in use.
  EXPECT_LT(high_water(32 * unit) - high_water(16 * unit), 16 * unit * 256);
}

TEST(Attention, no_tokens_is_no_work) {
  TestContext ctx;
  Call call(Case{2, 1, 16, {}}, DType::f32);
  call.forward(ctx);
  call.backward(ctx);
  Call empty_documents(Case{2, 1, 16, {0, 0}}, DType::f32);
  empty_documents.forward(ctx);
  empty_documents.backward(ctx);
}

TEST(Attention, keys_outside_of_the_cache_are_refused) {
  TestContext ctx;
  Call call(Case{2, 1, 16, {4}, {10}, {3}, 16}, DType::f32);  // needs rows [3, 17)
  EXPECT_THROW(call.forward(ctx), std::exception);
}

}  // namespace
}  // namespace jambalaya
