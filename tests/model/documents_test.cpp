// Documents of one packed row never see each other, whatever lies between them; empty and single-token
// batches work.
#include <gtest/gtest.h>

#include "tests/support/model.h"

namespace jambalaya {
namespace {

using test::TestBatch;
using test::TestModel;

ModelConfig documents_model() {
  ModelConfig c = test::small_model();
  c.rope_theta = 100;  // positions count from each document's start
  c.num_hidden_layers = 4;
  c.mixer_pattern = "MAMM";
  c.channel_pattern = "EDED";
  // Losses over all tokens of the batch join documents by design; here only the tokens' own loss counts.
  c.router_aux_loss_coef = 0;
  return c;
}

/// The batch with every id of document `which` replaced.
TestBatch with_other_document(const TestBatch& batch, size_t which, int64_t vocabulary) {
  TestBatch other = batch;
  int64_t begin = 0;
  for (size_t s = 0; s < which; s++) begin += batch.lengths[s];
  for (int64_t i = begin; i < begin + batch.lengths[which]; i++) {
    other.ids[size_t(i)] = int32_t(1 + (batch.ids[size_t(i)] + 5) % (vocabulary - 1));
    if (i > begin) other.targets[size_t(i - 1)] = other.ids[size_t(i)];
  }
  return other;
}

void expect_no_leak(TestModel& model, const TestBatch& batch) {
  const TestModel::Scores scores = model.evaluate(batch);
  for (size_t changed = 0; changed < batch.lengths.size(); changed++) {
    const TestModel::Scores other =
        model.evaluate(with_other_document(batch, changed, model.config().vocab_size));
    size_t t = 0;
    bool moved = false;
    for (size_t s = 0; s < batch.lengths.size(); s++)
      for (int64_t i = 0; i < batch.lengths[s]; i++, t++) {
        const bool same = other.nll[t] == scores.nll[t] &&
                          std::memcmp(&other.logits[t * 13], &scores.logits[t * 13], 13 * sizeof(float)) == 0;
        EXPECT_TRUE(same || s == changed)
            << "document " << s << ", token " << i << " sees document " << changed;
        moved |= !same;
      }
    EXPECT_TRUE(moved) << "document " << changed;
  }
}

class Documents_ : public testing::TestWithParam<Precision> {};

TEST_P(Documents_, no_leak_across_documents) {
  TestModel model(documents_model(), GetParam(), 2);
  // Borders before, on and behind the edges of the scan's chunks of 64 and of the kernels' tiles; and so few
  // tokens that an expert gets none, one or a handful, as the other documents have it.
  for (const std::vector<int64_t>& lengths : std::vector<std::vector<int64_t>>{
           {3, 61, 1, 64, 2, 80}, {2, 1, 3}, {5, 4, 3, 2}, {9, 1, 9}, {7, 8, 9, 10}})
    expect_no_leak(model, TestBatch(lengths, model.config().vocab_size, 3));
}

TEST_P(Documents_, no_token_sees_its_future) {
  TestModel model(documents_model(), GetParam());
  const TestBatch batch({90}, model.config().vocab_size, 3);
  const TestModel::Scores scores = model.evaluate(batch);
  for (size_t changed : {size_t(1), size_t(63), size_t(64), size_t(89)}) {
    TestBatch other = batch;
    other.ids[changed] = batch.ids[changed] % 12 + 1;
    const TestModel::Scores moved = model.evaluate(other);
    EXPECT_EQ(std::memcmp(moved.logits.data(), scores.logits.data(), changed * 13 * sizeof(float)), 0)
        << changed;
    EXPECT_NE(std::memcmp(&moved.logits[changed * 13], &scores.logits[changed * 13], 13 * sizeof(float)), 0)
        << changed;
  }
}

INSTANTIATE_TEST_SUITE_P(precisions, Documents_, testing::Values(Precision::f32, Precision::bf16),
                         [](const auto& form) {
                           return std::string(form.param == Precision::f32 ? "f32" : "bf16");
                         });

TEST(Documents, gradients_of_one_do_not_reach_the_other) {
  ModelConfig c = documents_model();
  TestModel model(c, Precision::f32, 2);
  // Two documents with ids of their own: 1..6 and 7..12. Only the second is counted.
  TestBatch batch({40, 33}, 7, 3);
  for (size_t i = 40; i < 73; i++) {
    batch.ids[i] += 6;
    if (batch.targets[i] >= 0) batch.targets[i] += 6;
  }
  std::fill_n(batch.targets.begin(), 40, -100);
  model.train(batch);
  const std::vector<float> first = model.gradient("embed_tokens.weight");
  bool reached = false;
  for (int64_t i = 0; i < 13 * c.hidden_size; i++) {
    EXPECT_TRUE(i >= 7 * c.hidden_size || first[size_t(i)] == 0) << "row " << i / c.hidden_size;
    reached |= first[size_t(i)] != 0;
  }
  EXPECT_TRUE(reached);
}

TEST(Documents, packed_rows_equal_rows_alone) {
  TestModel model(documents_model());
  const TestBatch packed({65, 7, 1, 30}, model.config().vocab_size, 3);
  const TestModel::Scores together = model.evaluate(packed);
  double nll = 0;
  int64_t at = 0;
  for (int64_t length : packed.lengths) {
    TestBatch alone({length}, model.config().vocab_size, 1);
    std::copy_n(packed.ids.begin() + at, length, alone.ids.begin());
    std::copy_n(packed.targets.begin() + at, length, alone.targets.begin());
    const TestModel::Scores scores = model.evaluate(alone);
    nll += model.sums[kNll];
    for (int64_t i = 0; i < length; i++) {
      EXPECT_NEAR(scores.nll[size_t(i)], together.nll[size_t(at + i)], 1e-5);
      EXPECT_EQ(scores.correct[size_t(i)], together.correct[size_t(at + i)]);
    }
    at += length;
  }
  model.evaluate(packed);
  EXPECT_NEAR(model.sums[kNll], nll, 1e-4);
}

TEST(Documents, empty_segments_change_nothing) {
  TestModel model(documents_model());
  const TestBatch plain({6, 9}, 13, 3);
  TestBatch gaps = plain;
  gaps.lengths = {0, 6, 0, 0, 9, 0};
  gaps.documents.assign(gaps.lengths);
  EXPECT_EQ(model.train(plain), model.train(gaps));
  EXPECT_TRUE(model.evaluate(plain).logits == model.evaluate(gaps).logits);
}

TEST(Documents, no_tokens_and_one_token_work) {
  for (const char* channels : {"E", "D"}) {
    ModelConfig c = documents_model();
    c.channel_pattern = channels;
    c.router_aux_loss_coef = c.router_z_loss_coef = c.act_loss_alpha = 0.1;
    TestModel model(c);
    model.jamba.telemetry = true;
    model.evaluate(TestBatch({}, 13, 1));
    for (double sum : model.sums) EXPECT_EQ(sum, 0);
    for (const LayerTelemetry& t : model.jamba.layer_telemetry())
      for (float share : t.expert_load) EXPECT_EQ(share, 0);
    const TestModel::Scores one = model.evaluate(TestBatch({1}, 13, 1));
    EXPECT_EQ(model.sums[kNll], 0);
    for (float logit : one.logits) EXPECT_TRUE(std::isfinite(logit));

    // A batch without any target still trains the terms that do not need one.
    const LossScale scale{1, 1, 1};
    EXPECT_TRUE(std::isfinite(model.train(TestBatch({1}, 13, 1), scale)));
    for (float g : model.all_gradients()) ASSERT_TRUE(std::isfinite(g));
  }
}

}  // namespace
}  // namespace jambalaya
