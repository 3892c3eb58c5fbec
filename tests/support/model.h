// Small models for tests: one rank, a few threads, starting values large enough that every part matters. They
// compute on the device under test (device.h) as a run does: nothing is waited for but what a test reads.
#pragma once
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/philox.h"
#include "kernels/transfer.h"
#include "model/jamba.h"
#include "tests/support/device_link.h"
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

/// The device under test; null: the CPU.
inline Accelerator* accelerator_or_none() { return on_device() ? &accelerator() : nullptr; }

/// Bytes to which arenas round.
inline int64_t arena_alignment() { return on_device() ? 256 : 64; }

inline Context context_of(const Tensor& t) {
  return transfer_context(t.device == Device::cuda ? &accelerator() : nullptr);
}
/// The elements of a tensor, wherever it lies, after all that was enqueued.
inline std::vector<float> copied(const Tensor& t) { return to_host<float>(context_of(t), t); }
inline void assign(const Tensor& t, const std::vector<float>& values) {
  Tensor host = t;
  host.data = const_cast<float*>(values.data()), host.device = Device::cpu, host.row_stride = t.columns();
  ASSERT_EQ(t.numel(), int64_t(values.size()));
  copy(context_of(t), host, t);
}

/// Fills every tensor around its usual values, wide enough that no gradient vanishes.
inline void randomize(Parameters& parameters, uint64_t seed) {
  for (size_t i = 0; i < parameters.table().size(); i++) {
    const ParameterRow& row = parameters.table()[i];
    const uint64_t key = hash_name(seed, row.name);
    std::vector<float> p(size_t(row.numel()));
    for (size_t j = 0; j < p.size(); j++) {
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
    assign(parameters.master(int(i)), p);
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
        mesh(make_single_communicator(), Layout{}, device_link()),
        regions(mesh),
        parameters(config, precision, true, {}, accelerator_or_none()),
        jamba(parameters, regions) {
    context.on.run_ahead();
    randomize(parameters, 1);
    parameters.refresh_compute(context);
  }
  const ModelConfig& config() const { return parameters.config(); }

  /// Zeroes the gradients, runs one micro-batch and returns the objective.
  double train(const TestBatch& batch, const LossScale& scale) {
    std::fill(sums.begin(), sums.end(), 0.0);
    parameters.zero_gradients(context);
    return add(batch, scale);
  }
  /// One micro-batch more; its gradients and losses are added. Returns the objective of all.
  double add(const TestBatch& batch, const LossScale& scale) {
    jamba.train(context, batch.view(), scale, make_tensor(sums.data(), {kLossSums}));
    synchronize(context);
    return objective(config(), sums.data(), scale);
  }
  double train(const TestBatch& batch) { return train(batch, batch.scale()); }

  struct Scores {
    std::vector<float> nll, logits;
    std::vector<uint8_t> correct;
  };
  Scores evaluate(const TestBatch& batch) {
    const int64_t t = batch.tokens(), v = config().vocab_size;
    std::fill(sums.begin(), sums.end(), 0.0);
    return evaluate_with(jamba, context, batch.view(), v, sums.data(), t);
  }
  /// Of `tokens` tokens here; the losses are added to the sums.
  static Scores evaluate_with(Jamba& jamba, Context& context, const Batch& batch, int64_t vocabulary,
                              double* sums, int64_t tokens) {
    DeviceVector<float> nll(static_cast<size_t>(tokens)), logits(static_cast<size_t>(tokens * vocabulary));
    DeviceVector<uint8_t> correct(static_cast<size_t>(tokens));
    jamba.evaluate(context, batch, make_tensor(sums, {kLossSums}), make_tensor(nll.data(), {tokens}),
                   make_tensor(correct.data(), {tokens}), make_tensor(logits.data(), {tokens, vocabulary}));
    synchronize(context);
    return {{nll.begin(), nll.end()}, {logits.begin(), logits.end()}, {correct.begin(), correct.end()}};
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

  TestContext context;
  Mesh mesh;
  Regions regions;
  Parameters parameters;
  Jamba jamba;
  DeviceVector<double> sums = DeviceVector<double>(kLossSums);
};

}  // namespace jambalaya::test
