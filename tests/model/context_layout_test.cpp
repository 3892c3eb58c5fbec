// Sequences cut over context ranks: the same losses, gradients and scores as one rank, whatever falls on the
// cuts; what travels is what the formulas say, and memory depends on the tokens of a rank alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "tests/support/layout.h"

namespace jambalaya {
namespace {

using test::RankBatch;
using test::RankModel;
using test::relative_error;
using test::TestBatch;
using test::TestModel;
using test::world;

/// Attention between two Mamba layers and all losses; RoPE, so that positions must survive the cut.
ModelConfig context_model(int64_t conv = 4) {
  ModelConfig c = test::small_model();
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.rope_theta = 100;
  c.mamba_d_conv = conv;
  c.router_z_loss_coef = 0.01;
  c.head_z_loss_coef = 0.02;
  c.act_loss_alpha = 0.03;
  return c;
}

/// All ranks on one sequence; and, where they can be shared out, half of them with tensor or data ranks.
std::vector<Layout> layouts() {
  const int ranks = world().size();
  std::vector<Layout> all{{.context = ranks}};
  if (ranks % 2 == 0) all.push_back({.context = ranks, .expert = 2});
  if (ranks % 4 == 0) {
    all.push_back({.data = 2, .context = ranks / 2, .expert = 2});
    all.push_back({.context = ranks / 2, .tensor = 2});
    all.push_back({.context = ranks / 2, .tensor = 2, .sequence = false});
  }
  return all;
}

std::string name_of(const Layout& l) { return cat(describe(l), l.sequence ? "" : " sequence=false"); }

struct Tolerance {
  double loss, gradient;
};
// fp32: sums in another order. bf16: keys and values are those of one rank, sums over them round elsewhere.
constexpr Tolerance kF32{3e-6, 5e-5}, kBf16{2e-2, 6e-2};

void expect_same_training(const ModelConfig& config, const std::vector<int64_t>& lengths,
                          Tolerance tolerance = kF32, Precision precision = Precision::f32,
                          Recompute recompute = Recompute::off) {
  const TestBatch batch(lengths, config.vocab_size, 5);
  TestModel whole(config, precision);
  if (precision == Precision::bf16) {  // weights of the usual size: no choice of experts may tip over
    whole.parameters.initialize(3);
    whole.parameters.refresh_compute(whole.context);
  }
  const double loss = whole.train(batch);
  double squares = 0;
  for (float g : whole.all_gradients()) squares += double(g) * double(g);
  const double floor = 1e-3 * std::sqrt(squares);  // for slices whose gradients all but cancel
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(name_of(layout));
    RankModel part(whole, layout);
    part.jamba.recompute = recompute;
    EXPECT_NEAR(part.train(batch), loss, tolerance.loss * std::abs(loss));
    for (int i = 0; i < kLossSums; i++)
      EXPECT_NEAR(part.sums[i], whole.sums[i], tolerance.loss * std::abs(whole.sums[i])) << "sum " << i;
    for (size_t i = 0; i < whole.parameters.table().size(); i++) {
      const ParameterRow& row = whole.parameters.table()[i];
      EXPECT_LT(relative_error(
                    test::copied(part.parameters.gradient(int(i))),
                    test::local_part(row, part.parameters.ranks(), whole.parameters.gradient(int(i))), floor),
                tolerance.gradient)
          << row.name;
    }
  }
}

TEST(ContextLayout, same_gradients_with_documents_that_begin_anywhere) {
  expect_same_training(context_model(), {7, 2, 1, 5, 1, 3, 11});
}

TEST(ContextLayout, same_gradients_with_one_document_over_all_ranks) {
  expect_same_training(context_model(), {29});
}

TEST(ContextLayout, same_gradients_with_documents_of_one_token) {
  expect_same_training(context_model(), {1, 1, 1, 2, 1, 1, 1, 1});
}

TEST(ContextLayout, same_gradients_with_documents_that_end_where_ranks_meet) {
  expect_same_training(context_model(), {6, 6, 6, 6});  // of 24 tokens 2, 3 and 4 ranks have 12, 8 and 6
}

TEST(ContextLayout, same_gradients_when_ranks_have_no_token) {
  for (int64_t tokens : {2, 3}) expect_same_training(context_model(), {tokens});
}

TEST(ContextLayout, same_gradients_with_any_width_of_the_convolution) {
  // 7 tokens: on 4 ranks the 5 inputs left of a token lie on up to 3 others.
  for (int64_t conv : {1, 2, 6}) {
    SCOPED_TRACE(cat("d_conv ", conv));
    expect_same_training(context_model(conv), {7});
    expect_same_training(context_model(conv), {3, 8, 1, 6});
  }
}

TEST(ContextLayout, same_gradients_when_layers_are_recomputed) {
  for (Recompute recompute : {Recompute::mamba, Recompute::layer})
    expect_same_training(context_model(), {7, 2, 13}, kF32, Precision::f32, recompute);
}

TEST(ContextLayout, close_in_bf16) {
  expect_same_training(context_model(), {7, 2, 1, 5, 1, 3, 11}, kBf16, Precision::bf16);
  expect_same_training(context_model(6), {29}, kBf16, Precision::bf16);
}

TEST(ContextLayout, same_scores_as_one_rank) {
  const ModelConfig c = context_model(6);
  const TestBatch batch({7, 2, 1, 5, 1, 3, 11}, c.vocab_size, 5);
  TestModel whole(c);
  const TestModel::Scores want = whole.evaluate(batch);
  const int64_t v = c.vocab_size;
  for (const Layout& layout : layouts()) {
    if (layout.data > 1) continue;
    SCOPED_TRACE(name_of(layout));
    RankModel part(whole, layout);
    RankBatch own(part.mesh, batch);
    const int64_t t = own.tokens(), first = own.first();
    const TestModel::Scores got =
        TestModel::evaluate_with(part.jamba, part.context, own.view(), v, part.sums.data(), t);
    const auto from = [&](const std::vector<float>& all, int64_t width) {
      return std::vector<float>(all.begin() + first * width, all.begin() + (first + t) * width);
    };
    EXPECT_LT(relative_error(got.nll, from(want.nll, 1)), kF32.gradient);
    EXPECT_LT(relative_error(got.logits, from(want.logits, v)), kF32.gradient);
    EXPECT_NEAR(part.sums_of_all()[kNll], whole.sums[kNll], kF32.loss * whole.sums[kNll]);
  }
}

/// Bytes that all ranks of a group sent by one kind of collective.
int64_t sent(Communicator& group, Collective kind) {
  int64_t bytes = group.count(kind).bytes;
  world().all_reduce(make_tensor(&bytes, {1}));
  return bytes;
}

/// Tokens that lie on another rank in attention's balanced order (chunks r and 2c-1-r on rank r) than in the
/// stream's.
int64_t tokens_that_move(int64_t tokens, int64_t ranks) {
  int64_t moving = 0;
  for (int64_t i = 0; i < 2 * ranks; i++)
    if (i / 2 != std::min(i, 2 * ranks - 1 - i))
      moving += tokens * (i + 1) / (2 * ranks) - tokens * i / (2 * ranks);
  return moving;
}

TEST(ContextLayout, ranks_send_what_the_formulas_say) {
  const int64_t c = world().size();
  for (Precision precision : {Precision::f32, Precision::bf16})
    for (int64_t conv : {1, 4}) {
      SCOPED_TRACE(cat("precision ", int(precision), ", d_conv ", conv));
      const ModelConfig model = context_model(conv);
      const TestBatch batch({7, 2, 1, 5, 1, 3, 11}, model.vocab_size, 5);
      TestModel whole(model, precision);
      RankModel part(whole, {.context = int(c)});
      Communicator& ranks = part.mesh.context();
      RankBatch own(part.mesh, batch);
      part.jamba.train(part.context, own.view(), batch.scale(), make_tensor(part.sums.data(), {kLossSums}));
      // Attention. Keys and values go round in c - 1 moves, forward and backward; their gradients in c, in
      // fp32, the last one home.
      const int64_t element = precision == Precision::f32 ? 4 : 2, d = model.hidden_size;
      const int64_t kv = 2 * model.num_key_value_heads * model.head_size(), t = batch.tokens();
      EXPECT_EQ(sent(ranks, Collective::shift), t * kv * (2 * element * (c - 1) + (c > 1 ? 4 * c : 0)));
      // To the balanced order and back: q, k and v, o; in the backward q, k and v, o, do, dq, dk and dv.
      EXPECT_EQ(sent(ranks, Collective::all_to_all),
                tokens_that_move(t, c) * element * ((2 + 4) * d + (1 + 2) * kv));
      // Two Mamba layers. Convolution: W - 1 rows, and their gradients. Scan: state and decay of a shard;
      // in the backward the gradient of its state.
      const int64_t state = model.mamba_d_state, rows = 2 * (conv - 1) + 2 * state + state;
      EXPECT_EQ(sent(ranks, Collective::all_gather), 2 * rows * model.inner_size() * 4 * c * (c - 1));
      for (Collective other : {Collective::all_reduce, Collective::reduce_scatter, Collective::broadcast})
        EXPECT_EQ(sent(ranks, other), 0) << name_of(other);
    }
}

struct Peak {
  int64_t saved = 0, scratch = 0;
  std::map<std::string, int64_t> tags;  ///< of both arenas
};
/// Each data rank has one document, with so many tokens on each of its context ranks. Of the rank that needs
/// most: those in the right half of the ring bring their rows into order by one copy more.
Peak peak(TestModel& whole, int context, int64_t tokens) {
  const int data = world().size() / context;
  RankModel part(whole, {.data = data, .context = context});
  part.train(TestBatch(std::vector<int64_t>(size_t(data), tokens * context), whole.config().vocab_size, 5));
  const Arena &saved = part.jamba.saved_arena(), &scratch = part.context.scratch;
  Peak p{saved.high_water(), scratch.high_water(), saved.high_water_by_tag()};
  for (const auto& [tag, bytes] : scratch.high_water_by_tag()) p.tags[tag] += bytes;
  std::vector<int64_t> most{p.saved, p.scratch};
  for (const auto& [tag, bytes] : p.tags) most.push_back(bytes);
  int64_t known[] = {int64_t(most.size()), -int64_t(most.size())};
  world().all_reduce(make_tensor(known, {2}), Reduce::max);
  JAMBALAYA_CHECK(known[0] == -known[1], "ranks use memory for other purposes");
  world().all_reduce(make_tensor(most.data(), {int64_t(most.size())}), Reduce::max);
  p.saved = most[0], p.scratch = most[1];
  size_t i = 2;
  for (auto& [tag, bytes] : p.tags) bytes = most[i++];
  return p;
}

TEST(ContextLayout, memory_depends_on_the_tokens_of_a_rank_alone) {
  const int64_t tokens = 512;
  ModelConfig model = context_model();
  TestModel whole(model);
  const Peak one = peak(whole, 1, tokens);
  std::vector<std::pair<int, Peak>> peaks;
  for (int c = 2; c <= world().size(); c++)
    if (world().size() % c == 0) peaks.emplace_back(c, peak(whole, c, tokens));
  for (const auto& [c, p] : peaks) {
    SCOPED_TRACE(cat(c, " context ranks"));
    // What grows: a state and a decay for each rank and Mamba layer, W - 1 rows of the convolution.
    const int64_t carried =
        int64_t(c) * (2 * 2 * model.mamba_d_state + model.mamba_d_conv) * model.inner_size() * 4 + 4096;
    EXPECT_LE(p.saved, one.saved + carried);
    const Peak& two = peaks.front().second;
    EXPECT_LE(p.scratch, two.scratch + carried);
    EXPECT_LE(p.saved + p.scratch, (two.saved + two.scratch) * 102 / 100);
    for (const auto& [tag, bytes] : p.tags) {
      ASSERT_TRUE(two.tags.contains(tag)) << tag;
      EXPECT_LE(bytes, two.tags.at(tag) + carried) << tag << ": something holds the tokens of other ranks";
    }
  }
}

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) { return jambalaya::test::run_ranks(argc, argv); }
