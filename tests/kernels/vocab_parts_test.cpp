// Embedding and head cut by rows of the vocabulary: the parts together are the whole. The head's parts run as
// threads that meet in `combine`, as ranks do in an all-gather.
#include <gtest/gtest.h>

#include <barrier>
#include <thread>

#include "kernels/transfer.h"
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

constexpr int64_t kWidth = 37;

// ---- embedding -------------------------------------------------------------------------------------------

/// Rows [cuts[p], cuts[p + 1]) of a table of 40, in parts of 17, 0 and 23.
const std::vector<int64_t> kCuts{0, 17, 17, 40};

Owned some_ids(int64_t tokens, int64_t vocabulary) {
  Owned x(DType::f32, {tokens}), ids(DType::i32, {tokens});
  x.uniform(7, 0, double(vocabulary));
  for (int64_t t = 0; t < tokens; t++) ids.set(t, 0, std::floor(x.get(t, 0)));
  return ids;
}

TEST(EmbeddingParts, rows_of_other_parts_are_zero_and_the_sum_is_whole) {
  const Owned ids = some_ids(150, 40);
  for (const auto& isa : available_isas())
    for (DType from : {DType::f32, DType::bf16})
      for (DType to : {DType::f32, DType::bf16}) {
        TestContext ctx(2, isa);
        Owned table(from, {40, kWidth}), whole(to, {150, kWidth});
        table.uniform(1);
        ctx->embedding_forward(ctx, {ids, table, whole});
        Values sum(size_t(150 * kWidth));
        for (size_t p = 0; p + 1 < kCuts.size(); p++) {
          Owned y(to, {150, kWidth}, kWidth + 3);
          ctx->embedding_forward(ctx, {ids, table->slice_rows(kCuts[p], kCuts[p + 1]), y, kCuts[p], 40});
          EXPECT_TRUE(y.guards_intact());
          const Values values = y.values();
          for (int64_t t = 0; t < 150; t++) {
            const auto id = int64_t(ids.get(t, 0));
            const bool here = id >= kCuts[p] && id < kCuts[p + 1];
            for (int64_t j = 0; j < kWidth; j++) {
              EXPECT_TRUE(here || y.get(t, j) == 0);
              sum[size_t(t * kWidth + j)] += y.get(t, j);
            }
          }
        }
        EXPECT_EQ(sum, whole.values()) << isa;
      }
}

TEST(EmbeddingParts, gradients_have_the_bits_of_the_whole_tables) {
  const Owned ids = some_ids(500, 40);
  for (const auto& isa : available_isas())
    for (DType act : {DType::f32, DType::bf16}) {
      TestContext ctx(2, isa);
      Owned dy(act, {500, kWidth}), whole(DType::f32, {40, kWidth}), parts(DType::f32, {40, kWidth});
      dy.uniform(2), whole.uniform(3), parts.uniform(3);
      ctx->embedding_backward(ctx, {ids, dy, whole, 20});  // skips row 20, of the last part
      for (size_t p = 0; p + 1 < kCuts.size(); p++)
        ctx->embedding_backward(ctx, {ids, dy, parts->slice_rows(kCuts[p], kCuts[p + 1]), 20, kCuts[p], 40});
      EXPECT_EQ(parts.bits(), whole.bits()) << isa;
      EXPECT_EQ(ctx.scratch.in_use(), 0);
    }
}

TEST(EmbeddingParts, ids_outside_of_the_whole_vocabulary_are_refused) {
  TestContext ctx;
  Owned ids(DType::i32, {2}), table(DType::f32, {5, 4}), y(DType::f32, {2, 4});
  table.fill(0), y.fill(0);
  ids.assign({0, 19});
  ctx->embedding_forward(ctx, {ids, table, y, 5, 20});
  for (double bad : {-1.0, 20.0}) {
    ids.assign({0, bad});
    if (on_device()) {  // which cannot refuse what it has not read yet
      ctx->embedding_forward(ctx, {ids, table, y, 5, 20});
      EXPECT_TRUE(y.get(0, 0) == 0 && std::isnan(y.get(1, 0)));
      continue;
    }
    EXPECT_THROW(ctx->embedding_forward(ctx, {ids, table, y, 5, 20}), std::exception);
    EXPECT_THROW(ctx->embedding_backward(ctx, {ids, y, table, -1, 5, 20}), std::exception);
  }
  ids.assign({0, 1});
  EXPECT_THROW(ctx->embedding_forward(ctx, {ids, table, y, 16, 20}), std::exception) << "rows beyond the end";
}

// ---- head and cross-entropy ------------------------------------------------------------------------------

/// An all-gather among threads.
class Meeting {
 public:
  explicit Meeting(int64_t parts) : slots_(size_t(parts)), barrier_(parts) {}

  void all_gather(size_t part, const Tensor& own, const Tensor& all) {
    slots_[part] = own;
    barrier_.arrive_and_wait();
    for (size_t p = 0; p < slots_.size(); p++) {
      EXPECT_TRUE(slots_[p] && slots_[p].bytes() == own.bytes()) << "parts disagree about a chunk";
      if (slots_[p]) std::memcpy(all.at(int64_t(p)).data, slots_[p].data, size_t(own.bytes()));
    }
    if (part == 0) calls++;
    barrier_.arrive_and_wait();
  }
  /// A part that makes no more calls: one that still does fails instead of waiting.
  void leave(size_t part) {
    slots_[part] = {};
    barrier_.arrive_and_drop();
  }
  int calls = 0;

 private:
  std::vector<Tensor> slots_;
  std::barrier<> barrier_;
};

/// h, w and targets of a head, and what one part or the whole gives for them.
struct Head {
  Head(int64_t tokens, int64_t rows, DType type)
      : vocabulary(rows),
        h(type, {tokens, kWidth}, kWidth + 8),
        w(type, {rows, kWidth}),
        targets(some_ids(tokens, rows)) {
    h.uniform(1), w.uniform(2);
  }
  struct Result {
    Result(const Head& in, int64_t rows)
        : loss_sum(DType::f64, {2}),
          nll(DType::f32, {in.h->rows()}),
          correct(DType::u8, {in.h->rows()}),
          dh(in.h->dtype, {in.h->rows(), kWidth}, kWidth + 16),
          dw(DType::f32, {rows, kWidth}) {
      loss_sum.fill(0), dw.fill(0);
    }
    Owned loss_sum, nll, correct, dh, dw;
  };
  HeadLoss op(const Tensor& rows, Result& r) const {
    return {h, rows, targets, kScale, kZScale, r.loss_sum, r.nll, r.correct, r.dh, r.dw};
  }
  Result run(const std::string& isa) const {
    Result r(*this, vocabulary);
    TestContext ctx(1, isa);
    ctx->head_loss(ctx, op(w, r));
    return r;
  }
  /// One thread for each part; counts the exchanges.
  std::vector<Result> run_parts(const std::string& isa, const std::vector<int64_t>& cuts,
                                int& exchanges) const {
    const size_t parts = cuts.size() - 1;
    std::vector<Result> results;
    for (size_t p = 0; p < parts; p++) results.emplace_back(*this, cuts[p + 1] - cuts[p]);
    Meeting meeting{int64_t(parts)};
    std::vector<std::thread> threads;
    for (size_t p = 0; p < parts; p++)
      threads.emplace_back([&, p] {
        TestContext ctx(1, isa, int64_t(1) << 28);
        if (on_device()) ctx.context.stream = test::accelerator().new_stream();
        HeadLoss part = op(w->slice_rows(cuts[p], cuts[p + 1]), results[p]);
        part.first_id = cuts[p];
        part.vocabulary = vocabulary;
        part.parts = int64_t(parts);
        part.combine = [&, p](Context& c, const Tensor& own, const Tensor& all) {
          const std::vector<float> mine = to_host<float>(c, own);
          const std::vector<float> everyone(size_t(all.numel()));
          auto view = [](const std::vector<float>& values, Tensor shape) {
            shape.data = const_cast<float*>(values.data()), shape.device = Device::cpu;
            return shape;
          };
          meeting.all_gather(p, view(mine, own), view(everyone, all));
          copy(c, view(everyone, all), all);
        };
        ctx->head_loss(ctx, part);
        meeting.leave(p);
        EXPECT_EQ(ctx.scratch.in_use(), 0);
        if (on_device()) test::accelerator().free_stream(ctx.context.stream);
      });
    for (std::thread& thread : threads) thread.join();
    exchanges = meeting.calls;
    return results;
  }
  reference::Head reference() const {
    reference::Head r{kWidth, vocabulary, double(kScale), double(kZScale)};
    std::vector<int64_t> ids;
    for (double t : targets.values()) ids.push_back(int64_t(t));
    r.run(h.values(), w.values(), ids);
    return r;
  }

  static constexpr float kScale = 0.01f, kZScale = 1e-4f;
  int64_t vocabulary;
  Owned h, w, targets;
};

/// dh summed over parts, dw of all parts one after the other.
std::pair<Values, Values> gathered(const std::vector<Head::Result>& parts) {
  Values dh(parts[0].dh.values().size()), dw;
  for (const Head::Result& part : parts) {
    const Values share = part.dh.values(), rows = part.dw.values();
    for (size_t i = 0; i < dh.size(); i++) dh[i] += share[i];
    dw.insert(dw.end(), rows.begin(), rows.end());
  }
  return {dh, dw};
}

void expect_whole(const Head& head, const std::string& isa, const std::vector<int64_t>& cuts) {
  int exchanges = 0;
  const auto parts = head.run_parts(isa, cuts, exchanges);
  const auto want = head.reference();
  const Head::Result whole = head.run(isa);
  for (const Head::Result& part : parts) {
    EXPECT_EQ(part.loss_sum.bits(), parts[0].loss_sum.bits());
    EXPECT_EQ(part.nll.bits(), parts[0].nll.bits());
    EXPECT_EQ(part.correct.bits(), whole.correct.bits());
    EXPECT_TRUE(part.dh.guards_intact() && part.dw.guards_intact() && part.nll.guards_intact());
  }
  EXPECT_EQ(parts[0].correct.values(), want.correct);
  EXPECT_LE(relative_l2(parts[0].nll, want.nll), 1e-5);
  EXPECT_NEAR(parts[0].loss_sum.get(0, 0), want.sum, 1e-5 * std::abs(want.sum));
  EXPECT_NEAR(parts[0].loss_sum.get(1, 0), want.z_sum, 1e-5 * std::abs(want.z_sum));
  const auto [dh, dw] = gathered(parts);
  const bool f32 = head.h->dtype == DType::f32;
  EXPECT_LE(relative_l2(dh, want.dh), f32 ? 1e-5 : 8e-3);
  EXPECT_LE(relative_l2(dw, want.dw), f32 ? 1e-5 : 8e-3);
}

TEST(HeadParts, together_are_the_whole) {
  for (const auto& isa : available_isas())
    for (DType act : {DType::f32, DType::bf16})
      for (const auto& cuts : {std::vector<int64_t>{0, 100, 259}, {0, 1, 130, 259}, {0, 0, 259, 259}}) {
        SCOPED_TRACE(cat(isa, " ", name_of(act), " ", cuts.size() - 1, " parts"));
        expect_whole(Head(70, 259, act), isa, cuts);
      }
}

TEST(HeadParts, one_part_has_the_bits_of_a_call_without_parts) {
  for (DType act : {DType::f32, DType::bf16}) {
    const Head head(70, 259, act);
    int exchanges = 0;
    const Head::Result part = std::move(head.run_parts("", {0, 259}, exchanges)[0]), whole = head.run("");
    EXPECT_EQ(part.loss_sum.bits(), whole.loss_sum.bits());
    EXPECT_EQ(part.nll.bits(), whole.nll.bits());
    EXPECT_EQ(part.dh.bits(), whole.dh.bits());
    EXPECT_EQ(part.dw.bits(), whole.dw.bits());
  }
}

TEST(HeadParts, one_exchange_for_each_chunk_with_a_counted_token) {
  if (on_device()) GTEST_SKIP() << "a device's host does not know which tokens are counted";
  Head head(2100, 20, DType::f32);  // three chunks of at most 1024 counted tokens
  int exchanges = 0;
  expect_whole(head, "", {0, 3, 20});
  head.run_parts("", {0, 3, 20}, exchanges);
  EXPECT_EQ(exchanges, 3);
  for (int64_t t = 0; t < 2100; t++)
    if (t % 3) head.targets.set(t, 0, -100);
  expect_whole(head, "", {0, 3, 20});
  head.run_parts("", {0, 3, 20}, exchanges);
  EXPECT_EQ(exchanges, 1);
  head.targets.fill(-100);
  const auto parts = head.run_parts("", {0, 3, 20}, exchanges);
  EXPECT_EQ(exchanges, 0);
  EXPECT_EQ(parts[0].loss_sum.values(), (Values{0, 0}));
  EXPECT_EQ(parts[0].dh.values(), Values(size_t(2100 * kWidth), 0.0));
}

TEST(HeadParts, one_exchange_for_each_chunk_on_a_device) {
  if (!on_device()) GTEST_SKIP() << "the host knows which chunks have counted tokens";
  Head head(16384 + 20, 20, DType::f32);  // two chunks
  for (int64_t t = 0; t < 16384 + 20; t++)
    if (t % 37) head.targets.set(t, 0, -100);
  int exchanges = 0;
  expect_whole(head, "", {0, 3, 20});
  head.targets.fill(-100);
  const auto parts = head.run_parts("", {0, 3, 20}, exchanges);
  EXPECT_EQ(exchanges, 2);
  EXPECT_EQ(parts[0].loss_sum.values(), (Values{0, 0}));
  EXPECT_EQ(parts[0].dh.values(), Values(size_t((16384 + 20) * kWidth), 0.0));
}

TEST(HeadParts, chunks_follow_the_whole_vocabulary) {
  // Chunks of 256 tokens; of 1024 by the rows of the first part alone. A device's are 8192.
  Head head(on_device() ? 20 : 300, 65536, DType::bf16);
  int exchanges = 0;
  const auto parts = head.run_parts("", {0, 8192, 65536}, exchanges);
  const Head::Result whole = head.run("");
  EXPECT_EQ(exchanges, on_device() ? 1 : 2);
  EXPECT_LE(relative_l2(parts[1].nll, whole.nll.values()), 1e-6);
  const auto [dh, dw] = gathered(parts);
  EXPECT_LE(relative_l2(dh, whole.dh.values()), 8e-3);
  EXPECT_LE(relative_l2(dw, whole.dw.values()), 1e-4);
}

TEST(HeadParts, the_lowest_id_wins_among_equal_logits_of_different_parts) {
  Head head(4, 70, DType::f32);
  head.h.fill(1), head.w.fill(0.25);
  head.targets.assign({0, 1, 35, 69});
  int exchanges = 0;
  for (const Head::Result& part : head.run_parts("", {0, 35, 70}, exchanges))
    EXPECT_EQ(part.correct.values(), (Values{1, 0, 0, 0}));
  for (int64_t j = 0; j < kWidth; j++) head.w.set(35, j, 0.5), head.w.set(36, j, 0.5);
  for (const Head::Result& part : head.run_parts("", {0, 35, 70}, exchanges))
    EXPECT_EQ(part.correct.values(), (Values{0, 0, 1, 0}));
}

TEST(HeadParts, logits_far_apart_between_parts_do_not_overflow) {
  Head head(20, 60, DType::f32);
  for (int64_t v = 0; v < 60; v++)
    for (int64_t j = 0; j < kWidth; j++) head.w.set(v, j, (v < 20 ? 1e5 : 1e-3) * head.w.get(v, j));
  int exchanges = 0;
  const auto want = head.reference();
  for (const Head::Result& part : head.run_parts("", {0, 20, 60}, exchanges)) {
    EXPECT_LE(relative_l2(part.nll, want.nll), 1e-5);
    for (double x : part.dh.values()) ASSERT_TRUE(std::isfinite(x));
    for (double x : part.dw.values()) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST(HeadParts, nan_of_one_part_reaches_every_loss) {
  Head head(3, 60, DType::f32);
  head.w.set(50, 3, std::nan(""));
  int exchanges = 0;
  for (const Head::Result& part : head.run_parts("", {0, 20, 60}, exchanges))
    EXPECT_TRUE(std::isnan(part.loss_sum.get(0, 0)));
}

TEST(HeadParts, a_part_without_combine_is_refused) {
  const Head head(3, 60, DType::f32);
  Head::Result r(head, 20);
  TestContext ctx;
  HeadLoss part = head.op(head.w->slice_rows(0, 20), r);
  part.vocabulary = 60;
  EXPECT_THROW(ctx->head_loss(ctx, part), std::exception);
}

}  // namespace
}  // namespace jambalaya
