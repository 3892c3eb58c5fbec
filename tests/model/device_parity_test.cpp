// The model on a GPU, or with its kernels on the emulator, against the model on the CPU: losses, every
// gradient, scores and generated logits. Every op that one rank can need is in it.
#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "tests/support/layout.h"
#include "tests/support/recording_ops.h"

namespace jambalaya {
namespace {

using test::copied;
using test::TestBatch;

DeviceLink link_of(Accelerator* device) {
  if (!device) return {};
  return {device, device->compute_stream(), device->compute_stream(), Transport::staged};
}

/// A model of one rank on a device, or on the CPU where it is null.
struct Side {
  Side(const ModelConfig& config, Precision precision, Accelerator* device)
      : pool(2),
        scratch("scratch", int64_t(1) << 34, device),
        recorder(device ? device->ops() : cpu_ops()),
        context{.ops = &recorder,
                .device = device ? Device::cuda : Device::cpu,
                .pool = &pool,
                .scratch = &scratch,
                .accelerator = device,
                .stream = device ? device->compute_stream() : nullptr},
        mesh(make_single_communicator(), Layout{}, link_of(device)),
        regions(mesh),
        parameters(config, precision, true, {}, device),
        jamba(parameters, regions),
        results("results", int64_t(1) << 30, device) {
    parameters.initialize(1);
    parameters.refresh_compute(context);
  }

  Tensor zeros(DType dtype, std::initializer_list<int64_t> shape) {
    const Tensor t = results.tensor(dtype, shape, "results");
    clear(context, t);
    return t;
  }
  /// The sums of the losses; gradients stay in the parameters.
  std::vector<double> train(const Batch& batch, const LossScale& scale) {
    ArenaScope scope(results);
    const Tensor sums = zeros(DType::f64, {kLossSums});
    parameters.zero_gradients(context);
    jamba.train(context, batch, scale, sums);
    return to_host<double>(context, sums);
  }
  std::vector<float> all_gradients() { return to_host<float>(context, parameters.flat_gradient()); }
  struct Scores {
    std::vector<float> nll, logits;
    std::vector<uint8_t> correct;
  };
  Scores evaluate(const TestBatch& batch) {
    ArenaScope scope(results);
    const int64_t t = batch.tokens(), v = parameters.config().vocab_size;
    const Tensor nll = zeros(DType::f32, {t}), logits = zeros(DType::f32, {t, v}),
                 correct = zeros(DType::u8, {t});
    jamba.evaluate(context, batch.view(), zeros(DType::f64, {kLossSums}), nll, correct, logits);
    return {copied(nll), copied(logits), to_host<uint8_t>(context, correct)};
  }
  /// Logits of a prefill and of steps after it; two sequences of unequal length.
  std::vector<float> generate() {
    ArenaScope scope(results);
    const ModelConfig& c = parameters.config();
    DecodeState state(c, parameters.precision(), 2, 80, 1, context.accelerator);
    const Tensor logits = zeros(DType::f32, {2, c.vocab_size});
    std::vector<float> all;
    for (const std::vector<int64_t>& lengths : std::vector<std::vector<int64_t>>{{67, 5}, {3, 0}, {1, 1}}) {
      const TestBatch batch(lengths, c.vocab_size, uint64_t(lengths[0]));
      jamba.extend(context, state, make_tensor(batch.ids.data(), {batch.tokens()}), lengths, logits);
      const std::vector<float> now = copied(logits);
      all.insert(all.end(), now.begin(), now.end());
    }
    return all;
  }

  ThreadPool pool;
  Arena scratch;
  test::RecordingOps recorder;
  Context context;
  Mesh mesh;
  Regions regions;
  Parameters parameters;
  Jamba jamba;
  Arena results;
};

/// Every loss and every option that has an op of its own; sizes that no vector divides.
ModelConfig odd_model() {
  ModelConfig c = test::small_model();
  c.rope_theta = 100;
  c.router_z_loss_coef = 0.1;
  c.head_z_loss_coef = 0.05;
  c.act_loss_alpha = 0.2;
  c.mamba_proj_bias = true;
  c.initializer_range = 0.2;
  return c;
}
/// Sizes as models have them: multiples of 8, 16 states, convolutions of 4 taps, heads of 64.
ModelConfig usual_model() {
  ModelConfig c = odd_model();
  c.vocab_size = 96;
  c.hidden_size = 128;
  c.intermediate_size = 64;
  c.mamba_d_state = 16;
  c.mamba_d_conv = 4;
  c.mamba_dt_rank = 8;
  c.rope_theta = 0;
  c.mamba_proj_bias = false;
  c.tie_word_embeddings = true;
  return c;
}

/// Of fp32: sums in another order, exponentials to 2 ulp; the emulator measures 2e-5 at worst. Of bf16:
/// results between two numbers round either way; 1e-2.
double tolerance(Precision precision) { return precision == Precision::f32 ? 1e-4 : 4e-2; }

class DeviceParity : public testing::TestWithParam<std::tuple<bool, Precision>> {
 protected:
  void SetUp() override {
    std::string why;
    // Where a device is under test, one that does not open is a failure and no reason to skip.
    if (!test::on_device() && cuda_devices(&why) == 0) GTEST_SKIP() << why;
  }
  static ModelConfig config() { return std::get<0>(GetParam()) ? usual_model() : odd_model(); }
  static Precision precision() { return std::get<1>(GetParam()); }
  static TestBatch batch() { return TestBatch({5, 1, 70, 0, 9}, config().vocab_size, 3); }

  static void expect_same_gradients(Side& host, Side& device, const Batch& batch) {
    const LossScale scale{0.21, 0.6, double(batch.docs.tokens)};
    const std::vector<double> want = host.train(batch, scale), got = device.train(batch, scale);
    for (size_t i = 0; i < want.size(); i++)
      EXPECT_NEAR(got[i], want[i], tolerance(precision()) * std::abs(want[i])) << "sum " << i;
    double squares = 0;
    for (float g : host.all_gradients()) squares += double(g) * double(g);
    const double floor = 1e-3 * std::sqrt(squares);  // for tensors whose gradients all but cancel
    double worst = 0;
    for (size_t i = 0; i < host.parameters.table().size(); i++) {
      const double error = test::relative_error(copied(device.parameters.gradient(int(i))),
                                                copied(host.parameters.gradient(int(i))), floor);
      EXPECT_LT(error, tolerance(precision())) << host.parameters.table()[i].name;
      worst = std::max(worst, error);
    }
    RecordProperty("worst_gradient_error", std::to_string(worst));
  }
};

TEST_P(DeviceParity, losses_and_gradients) {
  Side host(config(), precision(), nullptr), device(config(), precision(), &test::accelerator());
  expect_same_gradients(host, device, batch().view());
}

/// A sequence cut over ranks takes other ops, also when there is one rank.
TEST_P(DeviceParity, losses_and_gradients_of_a_context_shard) {
  Side host(config(), precision(), nullptr), device(config(), precision(), &test::accelerator());
  const TestBatch whole = batch();
  const ContextShard shard(whole.lengths, 0, 1);
  Batch cut = whole.view();
  cut.docs = shard.documents(), cut.context = &shard;
  expect_same_gradients(host, device, cut);
}

TEST_P(DeviceParity, scores) {
  Side host(config(), precision(), nullptr), device(config(), precision(), &test::accelerator());
  const Side::Scores want = host.evaluate(batch()), got = device.evaluate(batch());
  EXPECT_LT(test::relative_error(got.nll, want.nll), tolerance(precision()));
  EXPECT_LT(test::relative_error(got.logits, want.logits), tolerance(precision()));
  int64_t other = 0;
  for (size_t i = 0; i < want.correct.size(); i++) other += want.correct[i] != got.correct[i];
  EXPECT_LE(other, precision() == Precision::f32 ? 0 : 2);
}

TEST_P(DeviceParity, generation) {
  Side host(config(), precision(), nullptr), device(config(), precision(), &test::accelerator());
  EXPECT_LT(test::relative_error(device.generate(), host.generate()), tolerance(precision()));
}

TEST_P(DeviceParity, same_bits_again_and_with_recomputed_layers) {
  Side device(config(), precision(), &test::accelerator());
  const TestBatch tokens = batch();
  const std::vector<double> sums = device.train(tokens.view(), tokens.scale());
  const std::vector<float> gradients = device.all_gradients();
  for (Recompute recompute : {Recompute::off, Recompute::mamba, Recompute::layer}) {
    device.jamba.recompute = recompute;
    EXPECT_TRUE(device.train(tokens.view(), tokens.scale()) == sums);
    EXPECT_TRUE(device.all_gradients() == gradients) << "recompute " << int(recompute);
  }
}

TEST_P(DeviceParity, telemetry) {
  Side host(config(), precision(), nullptr), device(config(), precision(), &test::accelerator());
  for (Side* side : {&host, &device}) {
    side->jamba.telemetry = true;
    side->evaluate(batch());
  }
  const std::vector<LayerTelemetry> want = host.jamba.layer_telemetry(), got = device.jamba.layer_telemetry();
  const double near = tolerance(precision());
  for (size_t l = 0; l < want.size(); l++) {
    SCOPED_TRACE(cat("layer ", l));
    EXPECT_NEAR(got[l].delta_min, want[l].delta_min, near * double(want[l].delta_min));
    EXPECT_NEAR(got[l].delta_max, want[l].delta_max, near * double(want[l].delta_max));
    EXPECT_NEAR(got[l].mixer_max, want[l].mixer_max, near * want[l].mixer_max);
    EXPECT_NEAR(got[l].channel_max, want[l].channel_max, near * want[l].channel_max);
    ASSERT_EQ(got[l].expert_load.size(), want[l].expert_load.size());
    for (size_t x = 0; x < want[l].expert_load.size(); x++)
      EXPECT_NEAR(got[l].expert_load[x], want[l].expert_load[x], precision() == Precision::f32 ? 1e-6 : 0.03);
  }
}

INSTANTIATE_TEST_SUITE_P(sizes, DeviceParity,
                         testing::Combine(testing::Bool(), testing::Values(Precision::f32, Precision::bf16)),
                         [](const auto& form) {
                           return std::string(std::get<0>(form.param) ? "usual_" : "odd_") +
                                  (std::get<1>(form.param) == Precision::f32 ? "f32" : "bf16");
                         });

/// What the tests above compare: the whole menu but for the optimizer, the cache of generation and ops
/// between ranks (scan_carry_backward, multiply_add), which the tests of the ops hold.
TEST(DeviceParityOps, are_the_menu) {
  std::set<std::string> seen;
  for (bool cut : {false, true}) {
    Side host(odd_model(), Precision::bf16, nullptr);
    const TestBatch whole({5, 1, 70}, 13, 3);
    const ContextShard shard(whole.lengths, 0, 1);
    Batch batch = whole.view();
    if (cut) batch.docs = shard.documents(), batch.context = &shard;
    host.train(batch, whole.scale());
    std::istringstream lines(host.recorder.take_record());
    for (std::string line; std::getline(lines, line);) seen.insert(line.substr(0, line.find(' ')));
  }
  const std::set<std::string> menu = {"gemm",
                                      "grouped_gemm",
                                      "embedding_forward",
                                      "embedding_backward",
                                      "head_loss",
                                      "rms_norm_forward",
                                      "rms_norm_backward",
                                      "ssm_norms_forward",
                                      "ssm_norms_backward",
                                      "conv_forward",
                                      "conv_backward",
                                      "scan_forward",
                                      "scan_backward",
                                      "scan_carry_forward",
                                      "rope",
                                      "attention_forward",
                                      "attention_backward",
                                      "attention_merge",
                                      "attention_delta",
                                      "swiglu_forward",
                                      "swiglu_backward",
                                      "router_forward",
                                      "router_backward",
                                      "balance_loss",
                                      "sort_by_expert",
                                      "gather_rows",
                                      "gather_rows_backward",
                                      "combine_forward",
                                      "combine_backward",
                                      "scale_copy",
                                      "add_bias",
                                      "bias_backward",
                                      "sum_squares"};
  EXPECT_EQ(seen, menu);
}

}  // namespace
}  // namespace jambalaya
