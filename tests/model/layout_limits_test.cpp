// A layout is judged by the layers that a model has, not by the settings of layers that it lacks.
#include "model/layout_limits.h"

#include <gtest/gtest.h>

namespace jambalaya {
namespace {

LayoutLimits limits_of(const std::string& mixers, const std::string& channels) {
  ModelConfig c;
  c.num_hidden_layers = 2;
  c.hidden_size = 64;
  c.num_attention_heads = 8;
  c.num_key_value_heads = 2;
  c.num_experts = 4;
  c.mixer_pattern = mixers;
  c.channel_pattern = channels;
  return layout_limits(c);
}

TEST(LayoutLimits, come_from_the_layers_that_there_are) {
  const LayoutLimits hybrid = limits_of("MA", "DE");
  EXPECT_EQ(hybrid.heads, 8);
  EXPECT_EQ(hybrid.kv_heads, 2);
  EXPECT_EQ(hybrid.channels, 128);
  EXPECT_EQ(hybrid.experts, 4);
  const LayoutLimits mamba = limits_of("MM", "DD");
  EXPECT_EQ(mamba.heads, 0);
  EXPECT_EQ(mamba.kv_heads, 0);
  EXPECT_EQ(mamba.channels, 128);
  EXPECT_EQ(mamba.experts, 0);
  const LayoutLimits attention = limits_of("AA", "EE");
  EXPECT_EQ(attention.heads, 8);
  EXPECT_EQ(attention.channels, 0);
}

}  // namespace
}  // namespace jambalaya
