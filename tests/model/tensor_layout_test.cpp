// Tensor, sequence, expert and data parallelism compute the same as one rank: losses, every gradient, scores,
// telemetry and generated tokens. Sizes do not divide by the ranks wherever they need not.
#include <gtest/gtest.h>

#include <map>

#include "model/placement.h"
#include "tests/support/layout.h"

namespace jambalaya {
namespace {

using test::RankModel;
using test::relative_error;
using test::TestBatch;
using test::TestModel;
using test::world;

/// Every kind of part, with biases and every loss; 2 key heads, so that 4 tensor ranks copy them.
ModelConfig layout_model() {
  ModelConfig c = test::small_model();
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.mamba_proj_bias = true;
  c.router_z_loss_coef = 0.01;
  c.head_z_loss_coef = 0.02;
  c.act_loss_alpha = 0.03;
  return c;
}

/// All layouts of this many ranks that the test's model admits, tensor parallelism with and without sequence
/// parallelism.
std::vector<Layout> layouts() {
  std::vector<Layout> all;
  const int ranks = world().size();
  for (int tensor = 1; tensor <= ranks; tensor *= 2)
    for (int expert = 1; expert <= ranks; expert *= 2)
      for (int slices = 1; expert * slices <= ranks; slices *= 2)
        for (bool sequence : {true, false}) {
          if (tensor == 1 && !sequence) continue;
          all.push_back({.data = ranks / tensor,
                         .tensor = tensor,
                         .expert = expert,
                         .expert_tensor = slices,
                         .sequence = sequence});
        }
  return all;
}

std::string name_of(const Layout& l) { return cat(describe(l), l.sequence ? "" : " sequence=false"); }

/// Documents of many lengths; with 4 data ranks some hold one token, which 4 tensor ranks cannot share.
TestBatch batch_of(const ModelConfig& c, uint64_t seed = 5) {
  return TestBatch({7, 2, 1, 5, 1, 3, 11}, c.vocab_size, seed);
}

struct Tolerance {
  double loss, gradient;
};
// fp32: sums in another order. bf16: partial sums of products are rounded before they are added.
constexpr Tolerance kF32{3e-6, 5e-5}, kBf16{2e-2, 6e-2};

/// Loss, sums, gradients and telemetry of all layouts against one rank.
void expect_same_training(const ModelConfig& config, const TestBatch& batch, Tolerance tolerance,
                          Precision precision = Precision::f32, Recompute recompute = Recompute::off,
                          void (*prepare)(TestModel&) = nullptr) {
  TestModel whole(config, precision);
  if (prepare) prepare(whole);
  whole.jamba.telemetry = true;
  const double loss = whole.train(batch);
  // A slice whose gradient all but cancels is held to a share of the whole gradient instead of its own.
  double squares = 0;
  for (float g : whole.all_gradients()) squares += double(g) * double(g);
  const double floor = 1e-3 * std::sqrt(squares);
  const std::vector<LayerTelemetry> told = whole.jamba.layer_telemetry();
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(name_of(layout));
    RankModel part(whole, layout);
    part.jamba.recompute = recompute;
    part.jamba.telemetry = true;
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
    std::vector<LayerTelemetry> here = part.jamba.layer_telemetry();
    for (size_t l = 0; l < told.size(); l++) {
      double extremes[] = {here[l].mixer_max, here[l].channel_max, double(here[l].delta_max),
                           -double(here[l].delta_min)};
      // What tensor ranks say is the same; over other tokens it is the caller's to merge.
      double own[] = {extremes[0], extremes[1], extremes[2], extremes[3]};
      part.mesh.tensor().all_reduce(make_tensor(own, {4}), Reduce::max);
      for (int i = 0; i < 4; i++) EXPECT_EQ(own[i], extremes[i]);
      if (part.share_of(batch).tokens() == 0) extremes[3] = -INFINITY;
      part.mesh.tokens().all_reduce(make_tensor(extremes, {4}), Reduce::max);
      EXPECT_NEAR(extremes[0], told[l].mixer_max, tolerance.gradient * told[l].mixer_max);
      EXPECT_NEAR(extremes[1], told[l].channel_max, tolerance.gradient * told[l].channel_max);
      EXPECT_NEAR(extremes[2], told[l].delta_max, tolerance.gradient * told[l].delta_max);
      EXPECT_NEAR(-extremes[3], told[l].delta_min, tolerance.gradient);
      ASSERT_EQ(here[l].expert_load.size(), told[l].expert_load.size());
      for (size_t x = 0; x < told[l].expert_load.size(); x++)
        EXPECT_NEAR(here[l].expert_load[x], told[l].expert_load[x], precision == Precision::f32 ? 1e-6 : 0.1);
    }
  }
}

TEST(TensorLayout, same_losses_and_gradients_as_one_rank) {
  const ModelConfig c = layout_model();
  expect_same_training(c, batch_of(c), kF32);
}

TEST(TensorLayout, same_with_tied_embeddings_rope_and_per_layer_balance) {
  ModelConfig c = layout_model();
  c.tie_word_embeddings = true;
  c.rope_theta = 100;
  c.aux_mode = AuxMode::per_layer;
  c.inner_norms = InnerNorms::bc;
  expect_same_training(c, batch_of(c), kF32);
}

TEST(TensorLayout, same_when_layers_are_recomputed) {
  const ModelConfig c = layout_model();
  for (Recompute recompute : {Recompute::mamba, Recompute::layer})
    expect_same_training(c, batch_of(c), kF32, Precision::f32, recompute);
}

TEST(TensorLayout, same_when_a_vocabulary_is_smaller_than_the_ranks) {
  ModelConfig c = layout_model();
  c.vocab_size = 3;
  c.eos_token_id = 2;
  c.intermediate_size = 3;
  expect_same_training(c, batch_of(c), kF32);
}

TEST(TensorLayout, same_when_ranks_have_no_token) {
  const ModelConfig c = layout_model();
  expect_same_training(c, TestBatch({2}, c.vocab_size, 6), kF32);
}

/// Of equal logits the lower index is chosen: of experts 1, 2 and 3 never the last.
void starve_an_expert(TestModel& m) {
  for (const char* layer : {"layers.0.", "layers.2."}) {
    const Tensor w = m.parameters.master(m.parameters.index(cat(layer, "feed_forward.router.weight")));
    for (int64_t x : {2, 3}) test::assign(w.at(x), test::copied(w.at(1)));
  }
  m.parameters.refresh_compute(m.context);
}

TEST(TensorLayout, same_with_an_expert_that_nobody_chooses) {
  const ModelConfig c = layout_model();
  const TestBatch batch = batch_of(c);
  TestModel whole(c);
  starve_an_expert(whole);
  whole.jamba.telemetry = true;
  whole.train(batch);
  ASSERT_EQ(whole.jamba.layer_telemetry()[0].expert_load[3], 0);
  expect_same_training(c, batch, kF32, Precision::f32, Recompute::off, starve_an_expert);
}

TEST(TensorLayout, close_in_bf16) {
  const ModelConfig c = layout_model();
  // Weights of the usual size: a choice of experts may tip over on a rounding, and must not decide the
  // result.
  expect_same_training(c, batch_of(c), kBf16, Precision::bf16, Recompute::off, [](TestModel& m) {
    m.parameters.initialize(3);
    m.parameters.refresh_compute(m.context);
  });
}

/// Bytes that all ranks of a group sent by one kind of collective.
int64_t sent(Communicator& group, Collective kind) {
  int64_t bytes = group.count(kind).bytes;
  world().all_reduce(make_tensor(&bytes, {1}));
  return bytes;
}

TEST(TensorLayout, tensor_ranks_send_what_the_formulas_say) {
  ModelConfig c = layout_model();
  c.channel_pattern = "D";
  c.act_loss_alpha = 0;
  TestModel whole(c);
  const TestBatch batch = batch_of(c);
  const int64_t t = world().size(), counted = batch.counted(), inner = c.dt_rank() + 2 * c.mamba_d_state;
  for (bool sequence : {true, false}) {
    RankModel part(whole, {.tensor = int(t), .sequence = sequence});
    Communicator& tensor = part.mesh.tensor();
    part.jamba.train(part.context, batch.view(), batch.scale(), make_tensor(part.sums.data(), {kLossSums}));
    // [T, D] in fp32, sent to or summed over the other ranks, by all ranks together.
    const int64_t rows = batch.tokens() * c.hidden_size * 4 * (t - 1), branches = 2 * c.num_hidden_layers;
    // A branch gathers its input, in the backward its output's gradient and its input again; so do embedding
    // and head where they pass. The head besides gathers four numbers a counted token and rank.
    const int64_t statistics = counted * 16 * t * (t - 1);
    EXPECT_EQ(sent(tensor, Collective::all_gather),
              (sequence ? rows * (3 * branches + 1 + 1) : 0) + statistics);
    EXPECT_EQ(sent(tensor, Collective::reduce_scatter), sequence ? rows * (2 * branches + 1 + 1) : 0);
    // Two layers are Mamba: the sum before the norms, and its mirror.
    const int64_t sums = 2 * 2 * (2 * batch.tokens() * inner * 4 * (t - 1));
    EXPECT_EQ(sent(tensor, Collective::all_reduce),
              sums + (sequence ? 0 : 2 * rows * (2 * branches + 1 + 1)));
  }
}

TEST(TensorLayout, exchange_sends_rows_to_the_ranks_of_their_experts_alone) {
  ModelConfig c = layout_model();
  c.num_experts_per_tok = c.num_experts;  // every row goes to every expert: the traffic is known
  TestModel whole(c);
  const TestBatch batch = batch_of(c);
  const int64_t ranks = world().size();
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(name_of(layout));
    RankModel part(whole, layout);
    const TestBatch own = part.share_of(batch);
    part.jamba.train(part.context, own.view(), batch.scale(), make_tensor(part.sums.data(), {kLossSums}));
    // A row of an expert goes to all slices of it, and so do results, gradients of results and gradients of
    // rows; of the experts x slices ranks one is the row's home. Tensor ranks share the rows, so that their
    // number changes nothing. Two layers have experts.
    const int64_t row = c.hidden_size * 4, copies = batch.tokens() * c.num_experts / layout.expert,
                  group = layout.expert * layout.expert_tensor;
    // Before that each rank tells each other of that rank's experts: their offsets and the end of the last.
    const int64_t told = (c.num_experts / layout.expert + 1) * 4;
    EXPECT_EQ(sent(part.mesh.experts(), Collective::all_to_all),
              2 * (4 * copies * row + told * ranks) * (group - 1));
    EXPECT_EQ(sent(part.mesh.experts(), Collective::all_gather), 0);
  }
}

TEST(TensorLayout, expert_ranks_keep_the_rows_of_their_own_experts_alone) {
  ModelConfig c = layout_model();
  c.num_experts_per_tok = c.num_experts;
  c.intermediate_size = 8;
  TestModel whole(c);
  const TestBatch batch({16, 16, 16, 16}, c.vocab_size, 5);  // as many tokens for every data rank
  for (const Layout& layout : layouts()) {
    if (layout.expert * layout.expert_tensor == 1) continue;  // rows that stay at home are gathered again
    SCOPED_TRACE(name_of(layout));
    RankModel part(whole, layout);
    part.train(batch);
    std::map<std::string, int64_t> bytes = part.jamba.saved_arena().high_water_by_tag();
    const int64_t group = layout.expert * layout.expert_tensor, ranks = world().size(),
                  arrived = batch.tokens() * group / ranks * (c.num_experts / layout.expert);
    // In two layers.
    const double rounding = double(2 * test::arena_alignment());
    EXPECT_NEAR(double(bytes["experts in"]), double(2 * arrived * c.hidden_size * 4), rounding);
    EXPECT_NEAR(double(bytes["experts gate and up"]),
                double(2 * arrived * 2 * c.intermediate_size / layout.expert_tensor * 4), rounding);
  }
}

TEST(TensorLayout, activations_are_cut_over_tensor_ranks) {
  ModelConfig c = layout_model();
  c.intermediate_size = 8;
  TestModel whole(c);
  const TestBatch batch({512, 512}, c.vocab_size, 5);
  whole.train(batch);
  const std::map<std::string, int64_t> want = whole.jamba.saved_arena().high_water_by_tag();
  const int t = world().size();
  RankModel part(whole, {.tensor = t});
  part.train(batch);
  const std::map<std::string, int64_t> got = part.jamba.saved_arena().high_water_by_tag();
  for (const char* tag :
       {"residual stream", "norm output", "mixer output", "channel mixer output", "mamba xz", "mamba u",
        "mamba s", "mamba o", "mamba states", "attention q", "attention o", "mlp gate and up", "router",
        "experts out", "final gradient", "residual gradient"}) {
    ASSERT_TRUE(got.contains(tag) && want.contains(tag)) << tag;
    EXPECT_LE(got.at(tag), want.at(tag) / t + 32 * test::arena_alignment()) << tag;  // tensors are rounded up
  }
}

TEST(TensorLayout, same_scores_as_one_rank) {
  const ModelConfig c = layout_model();
  const TestBatch batch = batch_of(c);
  TestModel whole(c);
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(name_of(layout));
    RankModel part(whole, layout);
    const TestBatch own = part.share_of(batch);
    const int64_t t = own.tokens(), v = c.vocab_size;
    const TestModel::Scores got =
        TestModel::evaluate_with(part.jamba, part.context, own.view(), v, part.sums.data(), t);
    const double* sums = part.sums_of_all();
    const TestModel::Scores want = whole.evaluate(batch);
    for (int i = 0; i < kLossSums; i++)
      EXPECT_NEAR(sums[i], whole.sums[i], kF32.loss * std::abs(whole.sums[i])) << "sum " << i;
    int64_t first = 0;  // this data rank's first token
    for (size_t s = 0; s < batch.lengths.size() * size_t(part.mesh.data_rank()) / size_t(layout.data); s++)
      first += batch.lengths[s];
    const auto from = [&](const auto& all, int64_t width) {
      return std::vector<float>(all.begin() + first * width, all.begin() + (first + t) * width);
    };
    EXPECT_LT(relative_error(got.nll, from(want.nll, 1)), kF32.gradient);
    EXPECT_LT(relative_error(got.logits, from(want.logits, v)), kF32.gradient);
    EXPECT_EQ(std::vector<float>(got.correct.begin(), got.correct.end()), from(want.correct, 1));
  }
}

/// Greedy continuation of prompts of these lengths, whose slots end at different times. Every rank of a
/// tensor group calls with the same slots.
std::vector<std::vector<int32_t>> continue_greedily(Jamba& jamba, Context& ctx, Precision precision,
                                                    const std::vector<int64_t>& prompts, int tensors) {
  const int64_t v = jamba.config().vocab_size, slots = int64_t(prompts.size()), room = 20;
  DecodeState state(jamba.config(), precision, slots, room, tensors, test::accelerator_or_none());
  std::vector<std::vector<int32_t>> texts(prompts.size());
  std::vector<int32_t> ids;
  for (size_t s = 0; s < prompts.size(); s++)
    for (int64_t i = 0; i < prompts[s]; i++) ids.push_back(int32_t(1 + (prompts[s] * 5 + i * 3) % (v - 1)));
  test::DeviceVector<float> logits(size_t(slots * v));
  std::vector<int64_t> lengths = prompts;
  for (int64_t step = 0; step < 8; step++) {
    jamba.extend(ctx, state, make_tensor(ids.data(), {int64_t(ids.size())}), lengths,
                 make_tensor(logits.data(), {slots, v}));
    synchronize(ctx);
    ids.clear();
    for (int64_t s = 0; s < slots; s++) {
      const float* row = &logits[size_t(s * v)];
      lengths[size_t(s)] = step < 4 + 2 * s;
      if (!lengths[size_t(s)]) continue;
      ids.push_back(int32_t(std::max_element(row, row + v) - row));
      texts[size_t(s)].push_back(ids.back());
    }
  }
  return texts;
}

TEST(TensorLayout, same_tokens_as_one_rank) {
  ModelConfig c = layout_model();
  c.rope_theta = 100;
  const std::vector<int64_t> prompts{5, 1, 3};
  TestModel whole(c);
  const auto want = continue_greedily(whole.jamba, whole.context, Precision::f32, prompts, 1);
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(name_of(layout));
    RankModel part(whole, layout);
    // Each data rank has slots of its own, some have none: all make the same number of calls.
    const size_t d = size_t(part.mesh.data_rank()), all = size_t(layout.data), n = prompts.size();
    const std::vector<int64_t> own(prompts.begin() + int64_t(n * d / all),
                                   prompts.begin() + int64_t(n * (d + 1) / all));
    const auto got =
        continue_greedily(part.jamba, part.context, Precision::f32, own, part.mesh.tensor().size());
    // A slot's number says when it ends; compare as far as both go.
    for (size_t s = 0; s < own.size(); s++) {
      const std::vector<int32_t>& a = got[s];
      const std::vector<int32_t>& b = want[n * d / all + s];
      const size_t m = std::min(a.size(), b.size());
      EXPECT_GE(m, 4u);
      EXPECT_TRUE(std::equal(a.begin(), a.begin() + int64_t(m), b.begin())) << "slot " << s;
    }
  }
}

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) { return jambalaya::test::run_ranks(argc, argv); }
