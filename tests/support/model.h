// Small models for tests: one rank, a few threads, starting values large enough that every part matters.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "kernels/philox.h"
#include "model/jamba.h"
#include "tests/support/op_test.h"

namespace jambalaya::test {

/// Five layers with every kind of part; odd sizes, so that nothing is a multiple of a vector.
inline ModelConfig small_model() {
  ModelConfig c;
  c.vocab_size = 13;
  c.hidden_size = 8;
  c.intermediate_size = 7;
  c.num_hidden_layers = 3;
  c.num_attention_heads = 2;
  c.num_key_value_heads = 1;
  c.mixer_pattern = "MAM";
  c.channel_pattern = "EDE";
  c.num_experts = 4;
  c.num_experts_per_tok = 2;
  c.router_aux_loss_coef = 0.05;
  c.mamba_d_state = 3;
  c.mamba_dt_rank = 2;
  return c;
}

/// Fills every tensor around its usual values, wide enough that no gradient vanishes.
inline void randomize(Parameters& parameters, uint64_t seed) {
  for (size_t i = 0; i < parameters.table().size(); i++) {
    const ParameterRow& row = parameters.table()[i];
    const uint64_t key = hash_name(seed, row.name);
    float* p = parameters.master(int(i)).ptr<float>();
    for (int64_t j = 0; j < row.numel(); j++) {
      const float u = 2 * uniform_at(key, uint64_t(j)) - 1;
      switch (row.init) {
        case Init::ones:
          p[j] = 1 + 0.5f * u;
          break;
        case Init::a_log:
          p[j] = u;
          break;
        case Init::dt_bias:
          p[j] = -1 + u;
          break;
        default:
          p[j] = 0.7f * u;
      }
    }
  }
}

/// Ids and targets of packed documents: targets are the next token of the same document, else -100.
struct TestBatch {
  TestBatch(const std::vector<int64_t>& l, int64_t vocabulary, uint64_t seed, int32_t lowest = 1)
      : lengths(l), documents(l) {
    const uint64_t key = hash_name(seed, "ids");
    for (size_t s = 0; s < lengths.size(); s++)
      for (int64_t i = 0; i < lengths[s]; i++) {
        ids.push_back(lowest + int32_t(uniform_at(key, ids.size()) * float(vocabulary - lowest)));
        targets.push_back(-100);
        if (i > 0) targets[targets.size() - 2] = ids.back();
      }
  }
  int64_t tokens() const { return int64_t(ids.size()); }
  int64_t counted() const {
    int64_t n = 0;
    for (int32_t t : targets) n += t >= 0;
    return n;
  }
  Batch view() const {
    return {make_tensor(ids.data(), {tokens()}), make_tensor(targets.data(), {tokens()}), documents.view()};
  }
  LossScale scale() const { return {1.0 / double(counted()), 1, double(tokens())}; }

  std::vector<int32_t> ids, targets;
  std::vector<int64_t> lengths;
  DocumentsBuffer documents;
};

/// A model with all that it needs to run on one rank.
struct TestModel {
  explicit TestModel(const ModelConfig& config, Precision precision = Precision::f32, int threads = 1)
      : context(threads, "", int64_t(1) << 34),
        mesh(make_single_communicator(), Layout{}),
        regions(mesh),
        parameters(config, precision, true),
        jamba(parameters, regions) {
    randomize(parameters, 1);
    parameters.refresh_compute(context);
  }
  const ModelConfig& config() const { return parameters.config(); }

  /// Zeroes the gradients, runs one micro-batch and returns the objective.
  double train(const TestBatch& batch, const LossScale& scale) {
    std::fill(std::begin(sums), std::end(sums), 0.0);
    parameters.zero_gradients(context);
    jamba.train(context, batch.view(), scale, make_tensor(sums, {kLossSums}));
    return objective(config(), sums, scale);
  }
  double train(const TestBatch& batch) { return train(batch, batch.scale()); }

  struct Scores {
    std::vector<float> nll, logits;
    std::vector<uint8_t> correct;
  };
  Scores evaluate(const TestBatch& batch) {
    const int64_t t = batch.tokens(), v = config().vocab_size;
    Scores s{std::vector<float>(size_t(t)), std::vector<float>(size_t(t * v)),
             std::vector<uint8_t>(size_t(t))};
    std::fill(std::begin(sums), std::end(sums), 0.0);
    jamba.evaluate(context, batch.view(), make_tensor(sums, {kLossSums}), make_tensor(s.nll.data(), {t}),
                   make_tensor(s.correct.data(), {t}), make_tensor(s.logits.data(), {t, v}));
    return s;
  }
  std::vector<float> gradient(const std::string& name) const {
    return copied(parameters.gradient(parameters.index(name)));
  }
  /// In the order of the table, which is the same for every precision and layout.
  std::vector<float> all_gradients() const {
    std::vector<float> all;
    for (size_t i = 0; i < parameters.table().size(); i++) {
      const std::vector<float> g = copied(parameters.gradient(int(i)));
      all.insert(all.end(), g.begin(), g.end());
    }
    return all;
  }
  static std::vector<float> copied(const Tensor& t) { return {t.ptr<float>(), t.ptr<float>() + t.numel()}; }

  TestContext context;
  Mesh mesh;
  Regions regions;
  Parameters parameters;
  Jamba jamba;
  double sums[kLossSums] = {};
};

}  // namespace jambalaya::test
