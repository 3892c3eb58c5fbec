// The whole model against an independent float64 forward: every loss term, and every gradient against central
// differences of the objective, for each knob of the model.
#include <gtest/gtest.h>

#include "tests/model/reference/jamba.h"
#include "tests/support/model.h"

namespace jambalaya {
namespace {

using test::TestBatch;
using test::TestModel;

struct Knob {
  const char* name;
  void (*set)(ModelConfig&);
};
void PrintTo(const Knob& knob, std::ostream* out) { *out << knob.name; }

std::map<std::string, std::vector<double>> weights_of(const Parameters& parameters) {
  std::map<std::string, std::vector<double>> weights;
  for (size_t i = 0; i < parameters.table().size(); i++) {
    const std::vector<float> w = test::copied(parameters.master(int(i)));
    weights[parameters.table()[i].name] = {w.begin(), w.end()};
  }
  return weights;
}

class Gradient : public testing::TestWithParam<Knob> {
 protected:
  static ModelConfig config() {
    ModelConfig c = test::small_model();
    GetParam().set(c);
    return c;
  }
  static double reference_objective(const ModelConfig& c, reference::JambaReference& reference,
                                    const TestBatch& batch, const LossScale& s) {
    const reference::Losses l = reference.losses(batch.ids, batch.targets, batch.lengths);
    return s.token * (l.nll + c.head_z_loss_coef * l.head_z) +
           s.micro * (c.router_aux_loss_coef * l.aux + c.router_z_loss_coef * l.router_z +
                      c.act_loss_alpha * l.activation);
  }
};

TEST_P(Gradient, losses_match_float64) {
  TestModel model(config());
  const TestBatch batch({5, 1, 7}, model.config().vocab_size, 3);
  model.train(batch);
  reference::JambaReference reference(model.config(), weights_of(model.parameters));
  const reference::Losses want = reference.losses(batch.ids, batch.targets, batch.lengths);
  auto near = [](double got, double expected, const char* what) {
    EXPECT_NEAR(got, expected, 2e-5 * std::max(1.0, std::abs(expected))) << what;
  };
  near(model.sums[kNll], want.nll, "nll");
  near(model.sums[kHeadZ], want.head_z, "head z");
  near(model.sums[kAux], want.aux, "balance");
  near(model.sums[kRouterZ], want.router_z, "router z");
  if (model.config().act_loss_alpha > 0) near(model.sums[kActivation], want.activation, "activation");
}

TEST_P(Gradient, matches_central_differences_of_float64) {
  TestModel model(config());
  const TestBatch batch({5, 1, 7}, model.config().vocab_size, 3);
  // Not the scale of a mean: a factor that is lost somewhere shows.
  const LossScale scale{0.21, 0.6, double(batch.tokens())};
  model.train(batch, scale);
  reference::JambaReference reference(model.config(), weights_of(model.parameters));
  auto f = [&] { return reference_objective(model.config(), reference, batch, scale); };
  double worst = 0;
  for (auto& [name, values] : reference.weights()) {
    const std::vector<float> got = model.gradient(name);
    std::vector<double> numeric, measured;
    // Every element of small tensors; of large ones a few from all over.
    const size_t stride = values.size() <= 30 ? 1 : values.size() / 30 + 1;
    for (size_t i = 0; i < values.size(); i += stride) {
      constexpr double h = 1e-5;
      double& w = values[i];
      measured.push_back(double(got[i]));
      const double here = w;
      w = here + h;
      const double up = f();
      w = here - h;
      const double down = f();
      w = here;
      numeric.push_back((up - down) / (2 * h));
    }
    const double error = test::relative_l2(measured, numeric);
    worst = std::max(worst, error);
    EXPECT_LT(error, 3e-4) << name;  // fp32 throughout; the worst knob measures 1.1e-4
  }
  RecordProperty("worst_relative_error", std::to_string(worst));
}

TEST_P(Gradient, recompute_and_threads_change_no_bit) {
  TestModel model(config());
  const TestBatch batch({5, 1, 70}, model.config().vocab_size, 3);
  const double loss = model.train(batch);
  const std::vector<float> plain = model.all_gradients();
  TestModel threaded(config(), Precision::f32, 3);
  for (Recompute recompute : {Recompute::off, Recompute::mamba, Recompute::layer}) {
    threaded.jamba.recompute = recompute;
    EXPECT_EQ(threaded.train(batch), loss);
    EXPECT_TRUE(threaded.all_gradients() == plain) << "recompute " << int(recompute);
  }
}

TEST_P(Gradient, bf16_stays_near_fp32) {
  // Starting values: a random function of random weights would be chaotic, and roundings in it no longer
  // small.
  ModelConfig c = config();
  c.initializer_range = 0.2;
  TestModel exact(c), rounded(c, Precision::bf16);
  for (TestModel* m : {&exact, &rounded}) {
    m->parameters.initialize(1);
    m->parameters.refresh_compute(m->context);
  }
  const TestBatch batch({5, 1, 70}, exact.config().vocab_size, 3);
  EXPECT_NEAR(rounded.train(batch) / exact.train(batch), 1, 0.05);
  double dot = 0, a = 0, b = 0;
  const std::vector<float> x = exact.all_gradients(), y = rounded.all_gradients();
  for (size_t i = 0; i < x.size(); i++)
    dot += double(x[i]) * double(y[i]), a += double(x[i]) * double(x[i]), b += double(y[i]) * double(y[i]);
  EXPECT_GT(dot / std::sqrt(a * b), 0.97);
}

constexpr Knob kKnobs[] = {
    {"plain", [](ModelConfig&) {}},
    {"rope", [](ModelConfig& c) { c.rope_theta = 100; }},
    {"no_inner_norms", [](ModelConfig& c) { c.inner_norms = InnerNorms::none; }},
    {"dt_norm", [](ModelConfig& c) { c.inner_norms = InnerNorms::dt; }},
    {"bc_norms", [](ModelConfig& c) { c.inner_norms = InnerNorms::bc; }},
    {"renormalized_router", [](ModelConfig& c) { c.router_renormalize = true; }},
    {"renormalized_top_one", [](ModelConfig& c) { c.router_renormalize = true, c.num_experts_per_tok = 1; }},
    {"router_in_compute_precision", [](ModelConfig& c) { c.router_fp32 = false; }},
    {"router_z_loss", [](ModelConfig& c) { c.router_z_loss_coef = 0.1; }},
    {"head_z_loss", [](ModelConfig& c) { c.head_z_loss_coef = 0.1; }},
    {"activation_loss", [](ModelConfig& c) { c.act_loss_alpha = 0.3; }},
    {"per_layer_balance",
     [](ModelConfig& c) { c.aux_mode = AuxMode::per_layer, c.router_aux_loss_coef = 1; }},
    {"megablocks_balance",
     [](ModelConfig& c) { c.aux_mode = AuxMode::megablocks, c.router_aux_loss_coef = 1; }},
    {"global_balance", [](ModelConfig& c) { c.router_aux_loss_coef = 1; }},
    {"tied", [](ModelConfig& c) { c.tie_word_embeddings = true; }},
    {"projection_bias", [](ModelConfig& c) { c.mamba_proj_bias = true; }},
    {"no_conv_bias", [](ModelConfig& c) { c.mamba_conv_bias = false; }},
    {"residual_in_compute_precision", [](ModelConfig& c) { c.residual_fp32 = false; }},
    {"attention_with_experts",
     [](ModelConfig& c) { c.mixer_pattern = "A", c.channel_pattern = "E", c.num_key_value_heads = 2; }},
    {"mamba_alone_wide",
     [](ModelConfig& c) {
       c.mixer_pattern = "M", c.channel_pattern = "D", c.mamba_d_conv = 2, c.mamba_expand = 3,
       c.mamba_d_state = 5;
     }},
    {"everything",
     [](ModelConfig& c) {
       c.rope_theta = 50, c.router_z_loss_coef = 0.1, c.head_z_loss_coef = 0.05, c.act_loss_alpha = 0.2,
       c.tie_word_embeddings = true;
       c.mamba_proj_bias = true, c.aux_mode = AuxMode::megablocks, c.residual_fp32 = false,
       c.num_experts_per_tok = 3;
     }},
};
INSTANTIATE_TEST_SUITE_P(knobs, Gradient, testing::ValuesIn(kKnobs),
                         [](const auto& form) { return std::string(form.param.name); });

TEST(GradientOfPadding, row_stays_untouched) {
  for (bool tied : {false, true}) {
    ModelConfig c = test::small_model();
    c.tie_word_embeddings = tied;
    c.pad_token_id = 4;
    TestModel model(c);
    TestBatch batch({9}, c.vocab_size, 5);
    batch.ids[3] = batch.ids[8] = 4;
    batch.targets[2] = -100;
    model.train(batch);
    const std::vector<float> with = model.gradient("embed_tokens.weight");
    model.add(batch, batch.scale());
    const std::vector<float> twice = model.gradient("embed_tokens.weight");
    for (size_t i = 0; i < with.size(); i++)
      EXPECT_NEAR(twice[i], 2 * with[i], 1e-5) << "gradients are added";
    const auto row = std::vector<float>(with.begin() + 4 * c.hidden_size, with.begin() + 5 * c.hidden_size);
    if (!tied) {
      EXPECT_EQ(row, std::vector<float>(size_t(c.hidden_size), 0.0f));
    }
  }
}

TEST(GradientOfMicroBatches, add_up_to_that_of_one_batch) {
  // Without expert layers the loss is a mean over counted targets, however they are spread over
  // micro-batches.
  ModelConfig c = test::small_model();
  c.channel_pattern = "D";
  TestModel model(c);
  const TestBatch first({4, 5}, c.vocab_size, 1), second({9}, c.vocab_size, 2);
  TestBatch both({4, 5, 9}, c.vocab_size, 1);
  std::copy(second.ids.begin(), second.ids.end(), both.ids.begin() + 9);
  std::copy(second.targets.begin(), second.targets.end(), both.targets.begin() + 9);
  model.train(both);
  const std::vector<float> want = model.all_gradients();
  const LossScale scale{1.0 / double(both.counted()), 0.5, 9};
  model.train(first, scale);
  model.add(second, scale);
  const std::vector<float> got = model.all_gradients();
  EXPECT_LT(test::relative_l2({got.begin(), got.end()}, {want.begin(), want.end()}), 1e-6);
}

}  // namespace
}  // namespace jambalaya
