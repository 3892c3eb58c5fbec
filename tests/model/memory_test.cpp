// Memory is what the arenas say: activations grow linearly with the tokens, and recomputation saves what it
// promises.
#include <gtest/gtest.h>

#include "tests/support/model.h"

namespace jambalaya {
namespace {

using test::TestBatch;
using test::TestModel;

ModelConfig memory_model() {
  ModelConfig c = test::small_model();
  c.hidden_size = 32;
  c.intermediate_size = 64;
  c.num_hidden_layers = 8;
  c.mixer_pattern = "MMMMAMMM";
  c.channel_pattern = "DE";
  return c;
}

struct Peak {
  int64_t saved, scratch;
};
Peak peak(TestModel& model, int64_t tokens, Recompute recompute) {
  model.jamba.recompute = recompute;
  model.jamba.saved_arena().reset_high_water();
  model.context.scratch.reset_high_water();
  model.train(TestBatch({tokens}, model.config().vocab_size, 1));
  EXPECT_EQ(model.jamba.saved_arena().in_use(), 0);
  EXPECT_EQ(model.context.scratch.in_use(), 0);
  return {model.jamba.saved_arena().high_water(), model.context.scratch.high_water()};
}

TEST(Memory, activations_grow_linearly_with_tokens) {
  for (Precision precision : {Precision::f32, Precision::bf16}) {
    TestModel model(memory_model(), precision);
    for (Recompute recompute : {Recompute::off, Recompute::mamba, Recompute::layer}) {
      const int64_t one = peak(model, 256, recompute).saved, two = peak(model, 512, recompute).saved,
                    four = peak(model, 1024, recompute).saved;
      // Equal differences: nothing in it is quadratic, nothing but rounding of its tensors is constant.
      EXPECT_NEAR(double(four - two), 2 * double(two - one), double(test::arena_alignment() * 400));
      EXPECT_NEAR(double(two), 2 * double(one), double(test::arena_alignment() * 400));
    }
  }
}

TEST(Memory, scratch_grows_no_faster_than_tokens) {
  TestModel model(memory_model());
  const int64_t two = peak(model, 512, Recompute::off).scratch,
                four = peak(model, 1024, Recompute::off).scratch;
  EXPECT_LE(double(four), 2.05 * double(two));
}

TEST(Memory, recompute_saves_activations) {
  TestModel model(memory_model());
  const int64_t off = peak(model, 512, Recompute::off).saved,
                mamba = peak(model, 512, Recompute::mamba).saved,
                layer = peak(model, 512, Recompute::layer).saved;
  EXPECT_LT(mamba, off * 4 / 5);
  EXPECT_LT(layer, mamba / 2);
}

TEST(Memory, evaluation_keeps_no_layer) {
  ModelConfig shallow = memory_model(), deep = memory_model();
  deep.num_hidden_layers = 24;
  auto saved = [](const ModelConfig& c) {
    TestModel model(c);
    model.evaluate(TestBatch({512}, c.vocab_size, 1));
    EXPECT_EQ(model.jamba.saved_arena().in_use(), 0);
    return model.jamba.saved_arena().high_water();
  };
  EXPECT_EQ(saved(shallow), saved(deep));
}

TEST(Memory, repeated_steps_take_no_more) {
  TestModel model(memory_model());
  const Peak first = peak(model, 300, Recompute::off);
  peak(model, 40, Recompute::layer);
  const Peak again = peak(model, 300, Recompute::off);
  EXPECT_EQ(first.saved, again.saved);
  EXPECT_EQ(first.scratch, again.scratch);
}

}  // namespace
}  // namespace jambalaya
