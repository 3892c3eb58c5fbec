// Generation says the same as the full forward, however a sequence is cut into calls, and a Mamba step costs
// the same whatever lies behind it.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/model.h"
#include "tests/support/recording_ops.h"

namespace jambalaya {
namespace {

using test::TestBatch;
using test::TestModel;

ModelConfig decode_model() {
  ModelConfig c = test::small_model();
  c.num_hidden_layers = 4;
  c.mixer_pattern = "MAMM";
  c.channel_pattern = "EDDE";
  return c;
}

double difference(const float* a, const float* b, size_t n) {
  double worst = 0;
  for (size_t i = 0; i < n; i++)
    worst = std::isnan(a[i]) || std::isnan(b[i]) ? INFINITY
                                                 : std::max(worst, std::abs(double(a[i]) - double(b[i])));
  return worst;
}

/// Feeds every sequence of `whole` in calls of `lengths(call)` tokens a slot and compares the logits after
/// each call.
class Decoder {
 public:
  Decoder(TestModel& model, const TestBatch& whole, int64_t room)
      : model_(model),
        whole_(whole),
        state_(model.config(), model.parameters.precision(), int64_t(whole.lengths.size()), room, 1,
               test::accelerator_or_none()),
        full_(model.evaluate(whole)),
        logits_(whole.lengths.size() * size_t(model.config().vocab_size), kUntouched) {}

  /// Largest difference to the full forward at the last token of each slot that moved; slots without tokens
  /// keep theirs.
  double call(const std::vector<int64_t>& lengths) {
    const size_t v = size_t(model_.config().vocab_size);
    std::vector<int32_t> ids;
    int64_t begin = 0;
    for (size_t s = 0; s < lengths.size(); s++) {
      for (int64_t i = 0; i < lengths[s]; i++)
        ids.push_back(whole_.ids[size_t(begin + state_.length(int64_t(s)) + i)]);
      begin += whole_.lengths[s];
    }
    const test::DeviceVector<float> before = logits_;
    model_.jamba.extend(model_.context, state_, make_tensor(ids.data(), {int64_t(ids.size())}), lengths,
                        make_tensor(logits_.data(), {int64_t(lengths.size()), int64_t(v)}));
    synchronize(model_.context);
    double worst = 0;
    begin = 0;
    for (size_t s = 0; s < lengths.size(); s++) {
      const float* row = &logits_[s * v];
      const bool untouched = std::memcmp(row, &before[s * v], v * sizeof(float)) == 0;
      EXPECT_TRUE(lengths[s] > 0 || untouched) << "slot " << s;
      if (lengths[s] > 0)
        worst = std::max(
            worst, difference(row, &full_.logits[size_t(begin + state_.length(int64_t(s)) - 1) * v], v));
      begin += whole_.lengths[s];
    }
    return worst;
  }
  int64_t left(size_t slot) const { return whole_.lengths[slot] - state_.length(int64_t(slot)); }
  DecodeState& state() { return state_; }

 private:
  static constexpr float kUntouched = 12345;
  TestModel& model_;
  const TestBatch& whole_;
  DecodeState state_;
  TestModel::Scores full_;
  test::DeviceVector<float> logits_;
};

using Form = std::tuple<Precision, bool>;
class Decode : public testing::TestWithParam<Form> {
 protected:
  static double tolerance() { return std::get<0>(GetParam()) == Precision::f32 ? 1e-4 : 5e-2; }
  /// In bf16 a choice of experts may tip over on a rounding; weights of the usual size keep logits small.
  static TestModel model() {
    ModelConfig c = decode_model();
    c.rope_theta = std::get<1>(GetParam()) ? 100 : 0;
    return TestModel(c, std::get<0>(GetParam()), 2);
  }
  static void calm(TestModel& m) {
    if (std::get<0>(GetParam()) == Precision::f32) return;
    m.parameters.initialize(3);
    m.parameters.refresh_compute(m.context);
  }
};

TEST_P(Decode, chunks_of_any_size_equal_the_full_forward) {
  TestModel m = model();
  calm(m);
  const TestBatch whole({130, 67, 1, 9}, m.config().vocab_size, 3);
  for (int64_t chunk : {1, 2, 3, 5, 64, 200}) {
    Decoder decoder(m, whole, 130);
    double worst = 0;
    for (bool more = true; more;) {
      std::vector<int64_t> lengths;
      more = false;
      for (size_t s = 0; s < whole.lengths.size(); s++) lengths.push_back(std::min(chunk, decoder.left(s)));
      worst = std::max(worst, decoder.call(lengths));
      for (size_t s = 0; s < whole.lengths.size(); s++) more |= decoder.left(s) > 0;
    }
    EXPECT_LT(worst, tolerance()) << "chunks of " << chunk;
  }
}

TEST_P(Decode, prefill_and_steps_of_a_ragged_batch_equal_the_full_forward) {
  TestModel m = model();
  calm(m);
  const TestBatch whole({70, 40, 3, 66}, m.config().vocab_size, 4);
  Decoder decoder(m, whole, 70);
  EXPECT_LT(decoder.call({65, 2, 0, 1}), tolerance());
  EXPECT_LT(decoder.call({0, 31, 0, 64}), tolerance());
  EXPECT_EQ(decoder.call({0, 0, 0, 0}), 0);
  for (int step = 0; step < 7; step++) {
    std::vector<int64_t> lengths;
    for (size_t s = 0; s < 4; s++) lengths.push_back(decoder.left(s) > 0 && (step + int(s)) % 3 != 0 ? 1 : 0);
    EXPECT_LT(decoder.call(lengths), tolerance()) << "step " << step;
  }
}

INSTANTIATE_TEST_SUITE_P(forms, Decode,
                         testing::Combine(testing::Values(Precision::f32, Precision::bf16), testing::Bool()),
                         [](const auto& form) {
                           return std::string(std::get<0>(form.param) == Precision::f32 ? "f32" : "bf16") +
                                  (std::get<1>(form.param) ? "_rope" : "");
                         });

TEST(DecodeState, slot_starts_afresh_after_a_reset) {
  TestModel m(decode_model());
  const TestBatch whole({20, 20}, 13, 4);
  Decoder decoder(m, whole, 20);
  EXPECT_LT(decoder.call({13, 7}), 1e-4);
  decoder.state().reset(0);
  EXPECT_EQ(decoder.state().length(0), 0);
  EXPECT_EQ(decoder.state().length(1), 7);
  EXPECT_LT(decoder.call({5, 1}), 1e-4);
  EXPECT_LT(decoder.call({4, 4}), 1e-4);
}

TEST(DecodeState, refuses_to_grow_beyond_its_room) {
  TestModel m(decode_model());
  const TestBatch whole({20}, 13, 4);
  Decoder decoder(m, whole, 12);
  decoder.call({12});
  EXPECT_THROW(decoder.call({1}), Error);
  EXPECT_EQ(decoder.state().length(0), 12);
}

TEST(DecodeState, slots_do_not_see_each_other) {
  TestModel m(decode_model());
  const TestBatch whole({30, 30}, 13, 4);
  TestBatch other = whole;
  for (size_t i = 0; i < 30; i++) other.ids[i] = whole.ids[i] % 12 + 1;
  auto logits_of_second = [&](const TestBatch& batch) {
    DecodeState state(m.config(), Precision::f32, 2, 30, 1, test::accelerator_or_none());
    test::DeviceVector<float> logits(2 * 13);
    for (int64_t at = 0; at < 30; at += 10) {
      std::vector<int32_t> ids(batch.ids.begin() + at, batch.ids.begin() + at + 10);
      ids.insert(ids.end(), batch.ids.begin() + 30 + at, batch.ids.begin() + 40 + at);
      m.jamba.extend(m.context, state, make_tensor(ids.data(), {20}), {10, 10},
                     make_tensor(logits.data(), {2, 13}));
    }
    synchronize(m.context);
    return std::vector<float>(logits.begin() + 13, logits.end());
  };
  EXPECT_TRUE(logits_of_second(whole) == logits_of_second(other));
}

TEST(DecodeState, bytes_are_those_of_the_formulas) {
  const ModelConfig mini;
  // 2 (K, V) x layers x heads x head size x 2 bytes a token: 4 GiB at 256 Ki tokens (Jamba, table 1).
  const DecodeState cache(mini, Precision::bf16, 1, 262144);
  EXPECT_EQ(cache.kv_bytes(), int64_t(4) << 30);
  EXPECT_EQ(cache.recurrent_bytes(), 28 * 8192 * (16 + 3) * 4);
  EXPECT_EQ(DecodeState(mini, Precision::bf16, 3, 1000).kv_bytes(), 3 * 1000 * 16384);
  ModelConfig large;
  large.hidden_size = 8192, large.num_hidden_layers = 72, large.num_attention_heads = 64;
  EXPECT_EQ(DecodeState(large, Precision::bf16, 1, 262144).kv_bytes(), int64_t(9) << 30);
}

/// What one step after `context` tokens asks of the backend, and the memory that it takes.
struct StepWork {
  std::string record;
  int64_t saved, scratch;
};
StepWork step_after(const ModelConfig& c, int64_t context) {
  TestModel m(c);
  DecodeState state(c, Precision::f32, 1, 2000, 1, test::accelerator_or_none());
  std::vector<int32_t> ids(size_t(context), 5);
  test::DeviceVector<float> logits(13);
  const Tensor out = make_tensor(logits.data(), {1, 13});
  m.jamba.extend(m.context, state, make_tensor(ids.data(), {context}), {context}, out);
  test::RecordingOps recorder(*m.context.context.ops);
  m.context.context.ops = &recorder;
  m.jamba.saved_arena().reset_high_water();
  m.context.scratch.reset_high_water();
  m.jamba.extend(m.context, state, make_tensor(ids.data(), {1}), {1}, out);
  synchronize(m.context);
  return {recorder.take_record(), m.jamba.saved_arena().high_water(), m.context.scratch.high_water()};
}

TEST(DecodeStep, work_and_memory_do_not_grow_with_mamba_context) {
  ModelConfig c = decode_model();
  c.mixer_pattern = "M";
  const StepWork near = step_after(c, 3), far = step_after(c, 1500);
  EXPECT_FALSE(near.record.empty());
  EXPECT_EQ(near.record, far.record);
  EXPECT_EQ(near.saved, far.saved);
  EXPECT_EQ(near.scratch, far.scratch);
}

TEST(DecodeStep, projects_one_token_whatever_the_attention_context) {
  const StepWork near = step_after(decode_model(), 3), far = step_after(decode_model(), 1500);
  EXPECT_EQ(near.record, far.record);  // the cache is read in place: keys and values are not projected again
  EXPECT_EQ(near.saved, far.saved);
}

}  // namespace
}  // namespace jambalaya
