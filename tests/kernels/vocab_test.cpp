#include <gtest/gtest.h>

#include "tests/kernels/reference/vocab.h"
#include "tests/support/op_test.h"

namespace jambalaya {
namespace {

using test::available_isas;
using test::on_device;
using test::Owned;
using test::relative_l2;
using test::TestContext;
using Values = std::vector<double>;

// ---- embedding -------------------------------------------------------------------------------------------

struct Embedding {
  int64_t tokens, vocabulary, width;
  Owned ids{DType::i32, {tokens}};
  Embedding(int64_t t, int64_t v, int64_t d) : tokens(t), vocabulary(v), width(d) {
    Owned x(DType::f32, {tokens});
    x.uniform(7);
    // Squares of uniform numbers: low ids repeat often, some ids are absent.
    for (int64_t i = 0; i < tokens; i++)
      ids.set(i, 0, std::floor(x.get(i, 0) * x.get(i, 0) * double(vocabulary)));
  }
  int64_t id(int64_t t) const { return int64_t(ids.get(t, 0)); }
};

TEST(Embedding, forward_copies_rows_between_all_dtypes) {
  for (const auto& isa : available_isas())
    for (int i = 0; i < 8; i++) {
      const DType from = i & 1 ? DType::bf16 : DType::f32, to = i & 2 ? DType::bf16 : DType::f32;
      const bool aligned = i & 4;
      Embedding e(150, 40, aligned ? 64 : 37);
      TestContext ctx(2, isa);
      Owned table(from, {e.vocabulary, e.width}, e.width + (aligned ? 16 : 2)),
          y(to, {e.tokens, e.width}, e.width + (aligned ? 8 : 3)), want(to, {e.tokens, e.width});
      table.uniform(1);
      for (int64_t t = 0; t < e.tokens; t++)
        for (int64_t j = 0; j < e.width; j++) want.set(t, j, table.get(e.id(t), j));
      ctx->embedding_forward(ctx, {e.ids, table, y});
      EXPECT_EQ(y.values(), want.values()) << isa;
      EXPECT_TRUE(y.guards_intact());
    }
}

TEST(Embedding, backward_sums_each_rows_tokens_and_skips_padding) {
  for (const auto& isa : available_isas())
    for (DType act : {DType::f32, DType::bf16})
      for (int64_t width : {1, 37, 300, 64}) {
        SCOPED_TRACE(isa);
        Embedding e(500, 60, width);
        TestContext ctx(2, isa);
        const bool aligned = width == 64;
        Owned dy(act, {e.tokens, width}, width + (aligned ? 8 : 1)),
            dtable(DType::f32, {e.vocabulary, width}, width + (aligned ? 16 : 4));
        dy.uniform(2), dtable.uniform(3);
        Values before = dtable.values(), want = before;
        for (int64_t t = 0; t < e.tokens; t++)
          for (int64_t j = 0; j < width; j++)
            if (e.id(t) != 0) want[size_t(e.id(t) * width + j)] += dy.get(t, j);
        ctx->embedding_backward(ctx, {e.ids, dy, dtable, 0});
        EXPECT_LE(relative_l2(dtable, want), 1e-6);
        for (int64_t j = 0; j < width; j++)
          EXPECT_EQ(dtable.get(0, j), before[size_t(j)]) << "the skipped row";
        EXPECT_TRUE(dtable.guards_intact());
        EXPECT_EQ(ctx.scratch.in_use(), 0);
      }
}

TEST(Embedding, backward_of_many_tokens_of_a_large_vocabulary) {
  // Two digits of the device's sort, several of its tiles, and ids from absent to a quarter of all tokens.
  const int64_t tokens = 9000, vocabulary = 70001, width = 3;
  Owned ids(DType::i32, {tokens}), x(DType::f32, {tokens}), dy(DType::f32, {tokens, width}),
      dtable(DType::f32, {vocabulary, width});
  x.uniform(5);
  for (int64_t t = 0; t < tokens; t++)
    ids.set(t, 0, t % 4 == 0 ? 65536 : std::floor(std::pow(std::abs(x.get(t, 0)), 8) * double(vocabulary)));
  TestContext ctx(2);
  dy.uniform(2), dtable.fill(0);
  Values want(size_t(vocabulary * width));
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t j = 0; j < width; j++) want[size_t(int64_t(ids.get(t, 0)) * width + j)] += dy.get(t, j);
  ctx->embedding_backward(ctx, {ids, dy, dtable});
  EXPECT_LE(relative_l2(dtable, want), 1e-6);
}

TEST(Embedding, backward_of_one_id_repeated_and_of_no_token) {
  TestContext ctx(3);
  Owned ids(DType::i32, {1000}), dy(DType::f32, {1000, 20}), dtable(DType::f32, {5, 20});
  ids.fill(4), dy.fill(0.5), dtable.fill(1);
  ctx->embedding_backward(ctx, {ids, dy, dtable});
  for (int64_t v = 0; v < 5; v++)
    for (int64_t j = 0; j < 20; j++) EXPECT_EQ(dtable.get(v, j), v == 4 ? 501 : 1);
  ctx->embedding_backward(ctx, {ids->slice_rows(0, 0), dy->slice_rows(0, 0), dtable});
  EXPECT_EQ(dtable.get(4, 0), 501);
}

TEST(Embedding, same_bits_for_any_number_of_threads) {
  Embedding e(3000, 200, 64);
  std::string first;
  for (int threads : {1, 2, 3}) {
    TestContext ctx(threads);
    Owned dy(DType::bf16, {e.tokens, 64}), dtable(DType::f32, {e.vocabulary, 64});
    dy.uniform(4), dtable.fill(0);
    ctx->embedding_backward(ctx, {e.ids, dy, dtable});
    if (first.empty()) first = dtable.bits();
    EXPECT_EQ(dtable.bits(), first);
  }
}

TEST(Embedding, ids_outside_of_the_table_are_refused) {
  TestContext ctx;
  Owned ids(DType::i32, {2}), table(DType::f32, {5, 4}), y(DType::f32, {2, 4});
  table.fill(0);
  for (double bad : {-1.0, 5.0}) {
    ids.assign({0, bad});
    if (on_device()) {  // which cannot refuse what it has not read yet
      ctx->embedding_forward(ctx, {ids, table, y});
      for (int64_t j = 0; j < 4; j++) EXPECT_TRUE(y.get(0, j) == 0 && std::isnan(y.get(1, j)));
      y.fill(1), table.fill(0);
      ctx->embedding_backward(ctx, {ids, y, table});
      for (int64_t v = 0; v < 5; v++) EXPECT_EQ(table.get(v, 0), v == 0 ? 1 : 0);
      table.fill(0);
      continue;
    }
    EXPECT_THROW(ctx->embedding_forward(ctx, {ids, table, y}), std::exception);
    EXPECT_THROW(ctx->embedding_backward(ctx, {ids, y, table}), std::exception);
  }
}

// ---- head and cross-entropy ------------------------------------------------------------------------------

struct HeadCall {
  HeadCall(int64_t tokens, int64_t width, int64_t vocabulary, DType act, double spread = 1, uint64_t seed = 1)
      : h(act, {tokens, width}, width + 8),
        w(act, {vocabulary, width}),
        targets(DType::i32, {tokens}),
        loss_sum(DType::f64, {2}),
        nll(DType::f32, {tokens}),
        correct(DType::u8, {tokens}),
        dh(act, {tokens, width}, width + 16),
        dw(DType::f32, {vocabulary, width}) {
    h.uniform(seed, -spread, spread), w.uniform(seed + 1), dw.uniform(seed + 2);
    loss_sum.assign({10, 20});
    Owned x(DType::f32, {tokens});
    x.uniform(seed + 3, 0, double(vocabulary));
    for (int64_t t = 0; t < tokens; t++) targets.set(t, 0, std::floor(x.get(t, 0)));
  }
  void run(TestContext& ctx, double scale = 0.01, double z_scale = 1e-4) {
    ctx->head_loss(ctx, {h, w, targets, float(scale), float(z_scale), loss_sum, nll, correct, dh, dw});
  }
  reference::Head reference(double scale = 0.01, double z_scale = 1e-4) const {
    reference::Head r{h->columns(), w->rows(), scale, z_scale};
    std::vector<int64_t> id;
    for (double t : targets.values()) id.push_back(int64_t(t));
    r.run(h.values(), w.values(), id);
    return r;
  }
  Owned h, w, targets, loss_sum, nll, correct, dh, dw;
};

void expect_agrees(HeadCall& call, TestContext& ctx) {
  const Values dw_before = call.dw.values();
  auto want = call.reference();
  {
    ArenaScope scope(ctx.scratch);  // nothing may count on what scratch held
    constexpr int64_t kBytes = 4 << 20;
    void* const memory = ctx.scratch.take(kBytes, "poison");
    if (on_device())
      test::accelerator().fill(memory, kBytes, 0xff, kBytes, 1, ctx.context.stream);
    else
      std::memset(memory, 0xff, kBytes);
  }
  call.run(ctx);
  const bool f32 = call.h->dtype == DType::f32;
  EXPECT_NEAR(call.loss_sum.get(0, 0), 10 + want.sum, 1e-5 * std::abs(want.sum) + 1e-12);
  EXPECT_NEAR(call.loss_sum.get(1, 0), 20 + want.z_sum, 1e-5 * std::abs(want.z_sum) + 1e-12);
  EXPECT_LE(relative_l2(call.nll, want.nll), 1e-5);
  EXPECT_EQ(call.correct.values(), want.correct);
  EXPECT_LE(relative_l2(call.dh, want.dh), f32 ? 2e-6 * std::sqrt(double(call.w->rows())) : 8e-3);
  Values dw = call.dw.values();
  for (size_t i = 0; i < dw.size(); i++) dw[i] -= dw_before[i];
  // dW is added to numbers of size 1: their own rounding is an absolute error.
  double norm = 0;
  for (double x : want.dw) norm += x * x;
  EXPECT_LE(relative_l2(dw, want.dw),
            (f32 ? 1e-5 : 8e-3) + 1e-7 * std::sqrt(double(dw.size()) / (norm + 1e-30)));
  EXPECT_TRUE(call.dh.guards_intact() && call.dw.guards_intact() && call.nll.guards_intact() &&
              call.correct.guards_intact());
  EXPECT_EQ(ctx.scratch.in_use(), 0);
}

/// At least as many tokens as a chunk has where the vocabulary is small.
const int64_t kChunk = on_device() ? 16384 : 2048;

TEST(HeadReference, gradients_agree_with_central_differences) {
  HeadCall call(4, 3, 5, DType::f32);
  call.targets.assign({2, -100, 0, 4});
  std::vector<int64_t> targets{2, -100, 0, 4};
  reference::Head head{3, 5, 0.3, 0.05};
  Values h = call.h.values(), w = call.w.values();
  head.run(h, w, targets);
  Values dh = head.dh, dw = head.dw;
  auto differences = [&](Values& x) {
    Values d;
    for (double& e : x) {
      double at = e, step = 1e-5;
      e = at + step, head.run(h, w, targets);
      double up = head.objective();
      e = at - step, head.run(h, w, targets);
      d.push_back((up - head.objective()) / (2 * step));
      e = at;
    }
    return d;
  };
  EXPECT_LE(relative_l2(dh, differences(h)), 1e-6);
  EXPECT_LE(relative_l2(dw, differences(w)), 1e-6);
}

TEST(HeadLoss, agrees_with_the_reference) {
  struct Size {
    int64_t tokens, width, vocabulary;
  };
  for (const auto& isa : available_isas())
    for (Size s : {Size{1, 5, 1}, Size{1, 16, 37}, Size{70, 33, 259}, Size{40, 64, 1000}})
      for (DType act : {DType::f32, DType::bf16}) {
        SCOPED_TRACE(cat(isa, " T ", s.tokens, " D ", s.width, " V ", s.vocabulary, " ", name_of(act)));
        TestContext ctx(2, isa);
        HeadCall call(s.tokens, s.width, s.vocabulary, act);
        expect_agrees(call, ctx);
      }
}

TEST(HeadLoss, vocabularies_of_every_size) {
  // The device's blocks keep short rows in registers, longer ones in shared memory too, and read the longest
  // twice; 66001 is beyond what any keeps.
  for (DType act : {DType::f32, DType::bf16})
    for (int64_t vocabulary : {250, 512, 700, 3001, 6150, 33000, 66001}) {
      SCOPED_TRACE(cat(vocabulary, " ", name_of(act)));
      TestContext ctx(2);
      HeadCall call(3, 8, vocabulary, act);
      call.dw.fill(0);
      call.targets.set(0, 0, double(vocabulary - 1));
      call.targets.set(1, 0, -1);
      expect_agrees(call, ctx);
    }
}

TEST(HeadLoss, tokens_beyond_one_chunk_and_ignored_ones_between) {
  const int64_t tokens = kChunk + 52;
  for (DType act : {DType::f32, DType::bf16})
    for (int64_t ignored_every : {0, 3}) {
      if (on_device() && (act == DType::f32) == (ignored_every == 0)) continue;  // slow in the emulator
      TestContext ctx(2);
      HeadCall call(tokens, 8, 20, act);
      if (ignored_every)
        for (int64_t t = 0; t < tokens; t += ignored_every) call.targets.set(t, 0, -100);
      expect_agrees(call, ctx);
    }
}

TEST(HeadLoss, ignored_tokens_contribute_exactly_nothing) {
  for (DType act : {DType::f32, DType::bf16}) {
    TestContext ctx(2);
    HeadCall with(90, 24, 50, act), without(60, 24, 50, act);
    for (int64_t t = 0, kept = 0; t < 90; t++) {
      bool ignored = t % 3 == 1;
      if (ignored) with.targets.set(t, 0, t % 2 ? -1 : -100);
      for (int64_t j = 0; j < 24; j++) {
        if (ignored)
          with.h.set(t, j, std::nan(""));
        else
          without.h.set(kept, j, with.h.get(t, j));
      }
      if (!ignored) without.targets.set(kept++, 0, with.targets.get(t, 0));
    }
    with.run(ctx);
    without.run(ctx);
    EXPECT_EQ(with.dw.bits(), without.dw.bits());
    EXPECT_EQ(with.loss_sum.bits(), without.loss_sum.bits());
    for (int64_t t = 0, kept = 0; t < 90; t++) {
      bool ignored = t % 3 == 1;
      EXPECT_EQ(with.nll.get(t, 0), ignored ? 0 : without.nll.get(kept, 0));
      for (int64_t j = 0; j < 24; j++) EXPECT_EQ(with.dh.get(t, j), ignored ? 0 : without.dh.get(kept, j));
      kept += !ignored;
    }
  }
}

TEST(HeadLoss, all_targets_ignored_or_no_token_is_zero_loss_and_zero_gradient) {
  TestContext ctx(2);
  for (int64_t tokens : {0, 300}) {
    HeadCall call(tokens, 16, 40, DType::bf16);
    call.targets.fill(-100);
    std::string dw = call.dw.bits();
    call.run(ctx);
    EXPECT_EQ(call.loss_sum.values(), (Values{10, 20}));
    EXPECT_EQ(call.dw.bits(), dw);
    EXPECT_EQ(call.dh.values(), Values(size_t(tokens * 16), 0.0));
    EXPECT_EQ(call.nll.values(), Values(size_t(tokens), 0.0));
    EXPECT_EQ(call.correct.values(), Values(size_t(tokens), 0.0));
  }
}

TEST(HeadLoss, huge_logits_do_not_overflow) {
  for (const auto& isa : available_isas()) {
    SCOPED_TRACE(isa);
    TestContext ctx(1, isa);
    HeadCall call(20, 16, 130, DType::f32, 3e6);
    call.targets.set(0, 0, -1);
    auto want = call.reference();
    call.run(ctx, 0.01, 0);
    EXPECT_LE(relative_l2(call.nll, want.nll), 1e-5);
    EXPECT_EQ(call.correct.values(), want.correct);
    for (double x : call.dh.values()) ASSERT_TRUE(std::isfinite(x));
    for (double x : call.dw.values()) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST(HeadLoss, the_lowest_index_wins_among_equal_logits) {
  TestContext ctx;
  HeadCall call(4, 4, 70, DType::f32);
  call.h.fill(1), call.w.fill(0.25);
  call.targets.assign({0, 1, 69, 33});
  call.run(ctx);
  EXPECT_EQ(call.correct.values(), (Values{1, 0, 0, 0}));
  EXPECT_NEAR(call.nll.get(3, 0), std::log(70.0), 1e-6);
}

TEST(HeadLoss, nan_reaches_the_loss) {
  TestContext ctx;
  HeadCall call(3, 8, 200, DType::f32);
  call.w.set(190, 3, std::nan(""));
  call.run(ctx);
  EXPECT_TRUE(std::isnan(call.loss_sum.get(0, 0)));
}

TEST(HeadLoss, without_gradients_the_losses_are_the_same) {
  TestContext ctx(2);
  HeadCall train(70, 32, 90, DType::bf16), eval(70, 32, 90, DType::bf16);
  train.run(ctx);
  ctx->head_loss(ctx, {eval.h, eval.w, eval.targets, 1, 0, eval.loss_sum, {}, {}, {}, {}});
  EXPECT_EQ(train.loss_sum.bits(), eval.loss_sum.bits());
}

TEST(HeadLoss, a_vocabulary_of_65536) {
  TestContext ctx(2);
  HeadCall call(3, 8, 65536, DType::f32);
  call.dw.fill(0);
  expect_agrees(call, ctx);
}

TEST(HeadLoss, scratch_does_not_grow_with_tokens) {
  auto high_water = [](int64_t tokens) {
    TestContext ctx;
    HeadCall call(tokens, 4, 300, DType::bf16);
    if (on_device()) call.targets.fill(-1);  // the same scratch, in a moment
    call.run(ctx);
    return ctx.scratch.high_water();
  };
  EXPECT_EQ(high_water(kChunk), high_water(2 * kChunk));
}

TEST(HeadLoss, same_bits_for_any_number_of_threads) {
  for (DType act : {DType::f32, DType::bf16}) {
    std::string first;
    for (int threads : {1, 2, 3}) {
      TestContext ctx(threads);
      HeadCall call(1100, 16, 300, act);
      call.run(ctx);
      std::string bits = call.dh.bits() + call.dw.bits() + call.loss_sum.bits() + call.nll.bits();
      if (first.empty()) first = bits;
      EXPECT_EQ(bits, first) << threads;
    }
  }
}

TEST(HeadLoss, targets_outside_of_the_vocabulary_are_refused) {
  TestContext ctx(2);
  HeadCall call(3, 8, 20, DType::f32);
  call.targets.assign({0, 20, 1});
  if (on_device()) {  // which cannot refuse what it has not read yet
    call.run(ctx);
    EXPECT_TRUE(std::isnan(call.nll.get(1, 0)) && std::isfinite(call.nll.get(0, 0)));
    EXPECT_TRUE(std::isnan(call.loss_sum.get(0, 0)));
    return;
  }
  EXPECT_THROW(call.run(ctx), std::exception);
}

}  // namespace
}  // namespace jambalaya
