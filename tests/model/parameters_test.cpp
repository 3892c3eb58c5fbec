// The parameter table and its starting values: counts of the published models, the distributions that the
// papers name, and values that do not depend on who asks.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "model/parameters.h"
#include "tests/support/model.h"

namespace jambalaya {
namespace {

ModelConfig jamba_large() {
  ModelConfig c;
  c.hidden_size = 8192;
  c.intermediate_size = 24576;
  c.num_hidden_layers = 72;
  c.num_attention_heads = 64;
  return c;
}

/// All starting values of a row.
std::vector<float> start(const ModelConfig& c, const ParameterRow& row, uint64_t seed = 1) {
  std::vector<float> v(size_t(row.numel()));
  initial_values(c, row, seed, 0, row.numel(), v.data());
  return v;
}

struct Moments {
  double mean = 0, std = 0, min = 1e30, max = -1e30;
};
Moments moments(const std::vector<float>& v) {
  Moments m;
  double squares = 0;
  for (float x : v) {
    m.mean += double(x) / double(v.size());
    squares += double(x) * double(x) / double(v.size());
    m.min = std::min(m.min, double(x)), m.max = std::max(m.max, double(x));
  }
  m.std = std::sqrt(squares - m.mean * m.mean);
  return m;
}

/// Wide enough for statistics: tens of thousands of elements a matrix.
ModelConfig wide_model() {
  ModelConfig c = test::small_model();
  c.vocab_size = 500;
  c.hidden_size = 192;
  c.intermediate_size = 200;
  c.num_hidden_layers = 6;
  c.mamba_d_state = 16;
  c.mamba_dt_rank = 0;
  c.mamba_proj_bias = true;
  c.pad_token_id = 3;
  return c;
}

TEST(Parameters, counts_are_those_of_the_published_models) {
  const ParameterCount mini = count_parameters(ModelConfig{});
  EXPECT_EQ(mini.total, 51'570'323'328);
  EXPECT_EQ(mini.active, 12'110'311'296);
  EXPECT_EQ(mini.embedding, 268'435'456);
  const ParameterCount large = count_parameters(jamba_large());
  EXPECT_EQ(large.total, 398'555'145'696);
  EXPECT_EQ(large.active, 94'149'338'592);
}

TEST(Parameters, tensors_on_disk_are_as_many_as_in_the_released_checkpoint) {
  // There each expert and each of gate and up is a tensor of its own.
  int64_t tensors = 0;
  for (const ParameterRow& row : parameter_table(ModelConfig{})) {
    const bool pair = row.name.find("gate_up_proj") != std::string::npos;
    tensors += (row.placement.expert ? 16 : 1) * (pair ? 2 : 1);
  }
  EXPECT_EQ(tensors, 1251);
}

TEST(Parameters, tying_saves_one_table) {
  ModelConfig tied;
  tied.tie_word_embeddings = true;
  EXPECT_EQ(count_parameters(tied).total, 51'570'323'328 - 268'435'456);
}

TEST(Parameters, only_matrices_decay) {
  for (const ParameterRow& row : parameter_table(wide_model())) {
    const bool vector = row.shape.size() == 1;
    const bool exempt = vector || row.name.ends_with("A_log") || row.name.ends_with("conv1d.weight") ||
                        row.name == "embed_tokens.weight";
    EXPECT_EQ(row.decay, !exempt) << row.name;
  }
}

TEST(Parameters, rows_do_not_overlap_and_gaps_are_zero) {
  ModelConfig c = test::small_model();
  Parameters parameters(c, Precision::bf16, true, {}, test::accelerator_or_none());
  parameters.initialize(7);
  std::set<int64_t> inside;
  for (size_t i = 0; i < parameters.table().size(); i++) {
    EXPECT_EQ(parameters.offset(int(i)) % 16, 0);
    for (int64_t j = 0; j < parameters.table()[i].numel(); j++)
      EXPECT_TRUE(inside.insert(parameters.offset(int(i)) + j).second);
  }
  const std::vector<float> flat = test::copied(parameters.flat_master());
  for (int64_t i = 0; i < parameters.flat_size(); i++)
    if (!inside.count(i)) {
      EXPECT_EQ(flat[size_t(i)], 0.0f) << i;
    }
}

TEST(InitialValues, do_not_depend_on_the_range_asked_for) {
  const ModelConfig c = wide_model();
  for (const ParameterRow& row : parameter_table(c)) {
    if (row.layer > 1) continue;
    const std::vector<float> whole = start(c, row);
    std::vector<float> pieces(whole.size(), -1);
    int64_t begin = 0, length = 1;
    while (begin < row.numel()) {
      const int64_t end = std::min(row.numel(), begin + length);
      initial_values(c, row, 1, begin, end, pieces.data() + begin);
      begin = end;
      length = length * 3 + 1;
    }
    EXPECT_TRUE(whole == pieces) << row.name;
  }
}

TEST(InitialValues, do_not_depend_on_threads_or_device_but_on_seed_and_name) {
  const ModelConfig c = wide_model();
  Accelerator* const device = test::accelerator_or_none();  // `many` always on the CPU: nor on the device
  Parameters one(c, Precision::f32, false, {}, device), many(c, Precision::f32, false),
      other(c, Precision::f32, false, {}, device);
  ThreadPool pool(3);
  one.initialize(5);
  many.initialize(5, &pool);
  other.initialize(6);
  const float* host = many.flat_master().ptr<float>();
  EXPECT_TRUE(test::copied(one.flat_master()) == std::vector<float>(host, host + many.flat_size()));
  const int row = one.index("layers.0.mamba.in_proj.weight"),
            next = one.index("layers.2.mamba.in_proj.weight");
  EXPECT_FALSE(test::copied(one.master(row)) == test::copied(other.master(row)));
  EXPECT_FALSE(test::copied(one.master(row)) == test::copied(one.master(next)));
}

TEST(InitialValues, follow_the_mamba_scheme) {
  const ModelConfig c = wide_model();
  const double depth = std::sqrt(2.0 * double(c.num_hidden_layers));
  for (const ParameterRow& row : parameter_table(c)) {
    SCOPED_TRACE(row.name);
    const std::vector<float> v = start(c, row);
    const Moments m = moments(v);
    const double n = double(v.size());
    auto ends = [&](const char* tail) { return row.name.ends_with(tail); };
    if (ends("layernorm.weight") || ends(".D")) {
      EXPECT_TRUE(m.min == 1 && m.max == 1);
    } else if (ends("A_log")) {
      for (size_t i = 0; i < v.size(); i++)
        EXPECT_NEAR(-std::exp(double(v[i])), -double(i % 16 + 1), 2e-6 * 16);
    } else if (ends("in_proj.bias") || ends("out_proj.bias")) {
      EXPECT_TRUE(m.min == 0 && m.max == 0);
    } else if (ends("dt_proj.bias")) {
      continue;  // below
    } else if (ends("dt_proj.weight") || row.name.find("conv1d") != std::string::npos) {
      const double bound =
          1 / std::sqrt(ends("dt_proj.weight") ? 12.0 : 4.0);  // dt rank ceil(192 / 16), conv width 4
      EXPECT_LE(m.max, bound);
      EXPECT_GE(m.min, -bound);
      EXPECT_GT(m.max, 0.95 * bound);
      EXPECT_NEAR(m.std, bound / std::sqrt(3.0), 4 * bound / std::sqrt(n));
    } else {
      const bool scaled =
          ends("o_proj.weight") || ends("out_proj.weight") || row.name.find("down_proj") != std::string::npos;
      const double want = scaled ? 0.02 / depth : 0.02;
      // The standard deviation of n normal numbers scatters by 1 / sqrt(2 n) of itself; the padding row is
      // out of n.
      EXPECT_NEAR(m.std / want, row.name == "embed_tokens.weight" ? std::sqrt(499.0 / 500) : 1,
                  5 / std::sqrt(2 * n));
      EXPECT_NEAR(m.mean, 0, 5 * want / std::sqrt(n));
      EXPECT_GT(m.max, 2.5 * want);  // plain normal, not cut off at two deviations
    }
  }
}

TEST(InitialValues, step_sizes_are_log_uniform) {
  ModelConfig c = wide_model();
  for (const ParameterRow& row : parameter_table(c)) {
    if (!row.name.ends_with("dt_proj.bias")) continue;
    std::vector<double> u;  // position of log dt between its ends
    for (float bias : start(c, row)) {
      const double dt = std::log1p(std::exp(double(bias)));
      EXPECT_GE(dt, 1e-3 * (1 - 1e-5));
      EXPECT_LE(dt, 0.1 * (1 + 1e-5));
      u.push_back(std::log(dt / 1e-3) / std::log(100.0));
    }
    std::sort(u.begin(), u.end());
    double gap = 0;  // Kolmogorov and Smirnov: 1.95 / sqrt(n) is passed once in a thousand
    for (size_t i = 0; i < u.size(); i++)
      gap = std::max(gap, std::abs(u[i] - (double(i) + 0.5) / double(u.size())));
    EXPECT_LT(gap, 1.95 / std::sqrt(double(u.size()))) << row.name;
  }
}

TEST(InitialValues, step_sizes_keep_their_floor) {
  ModelConfig c = wide_model();
  c.dt_min = 1e-5;
  c.dt_floor = 1e-3;
  const ParameterRow row =
      parameter_table(c)[size_t(Parameters(c, Precision::f32, false).index("layers.0.mamba.dt_proj.bias"))];
  double low = 1;
  for (float bias : start(c, row)) low = std::min(low, std::log1p(std::exp(double(bias))));
  EXPECT_NEAR(low, 1e-3, 1e-7);
}

TEST(InitialValues, follow_hugging_face_when_asked) {
  ModelConfig c = wide_model();
  c.init_scheme = InitScheme::hf;
  for (const ParameterRow& row : parameter_table(c)) {
    SCOPED_TRACE(row.name);
    const std::vector<float> v = start(c, row);
    const Moments m = moments(v);
    if (row.name.ends_with(".bias")) {
      EXPECT_TRUE(m.min == 0 && m.max == 0);
    } else if (row.init != Init::ones && row.init != Init::a_log && row.name != "embed_tokens.weight") {
      EXPECT_NEAR(m.std / 0.02, 1, 5 / std::sqrt(2 * double(v.size())));
    }
  }
}

TEST(InitialValues, padding_row_is_zero_in_every_range) {
  ModelConfig c = wide_model();
  for (InitScheme scheme : {InitScheme::mamba, InitScheme::hf}) {
    c.init_scheme = scheme;
    const ParameterRow row = parameter_table(c)[0];
    ASSERT_EQ(row.name, "embed_tokens.weight");
    const int64_t pad = 3 * c.hidden_size, end = pad + c.hidden_size;
    for (auto [first, last] : {std::pair{int64_t(0), row.numel()},
                               {pad - 1, end + 1},
                               {pad + 5, end},
                               {pad + 5, pad + 6},
                               {end, end + 9}}) {
      std::vector<float> v(size_t(last - first));
      initial_values(c, row, 1, first, last, v.data());
      for (int64_t i = first; i < last; i++) EXPECT_EQ(v[size_t(i - first)] == 0, i >= pad && i < end) << i;
    }
  }
}

}  // namespace
}  // namespace jambalaya
