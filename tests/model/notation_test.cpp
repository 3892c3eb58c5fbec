#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "kernels/error.h"
#include "model/config.h"

namespace jambalaya {
namespace {

/// "MDAE": two letters a layer, mixer and channel.
std::string map_of(const ModelConfig& config) {
  std::string text;
  for (const auto& kind : layer_kinds(config)) {
    text += kind.mixer == Mixer::attention ? 'A' : 'M';
    text += kind.channel == Channel::moe ? 'E' : 'D';
  }
  return text;
}

ModelConfig expand(const std::string& notation) {
  ModelConfig config;
  apply_notation(parse_notation(notation), config);
  return config;
}

std::string error_of(const std::string& notation) {
  try {
    parse_notation(notation);
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::usage);
    return e.what();
  }
  return "accepted";
}

const Problem* find(const std::vector<Problem>& found, const std::string& key) {
  const auto at = std::find_if(found.begin(), found.end(), [&](const Problem& p) { return p.key == key; });
  return at == found.end() ? nullptr : &*at;
}

TEST(Notation, released_models_have_their_published_layers) {
  const std::string block = "MDMEMDMEADMEMDME";  // layers 0 to 7 as listed in the papers
  EXPECT_EQ(map_of(expand("8/1:7/2/16/2x4")), block + block + block + block);
  EXPECT_EQ(map_of(ModelConfig{}), map_of(expand("8/1:7/2/16/2x4")));
  const ModelConfig large = expand("8/1:7/2/16/2x9");
  EXPECT_EQ(large.num_hidden_layers, 72);
  const std::string map = map_of(large);
  EXPECT_EQ(std::count(map.begin(), map.end(), 'A'), 9);
  EXPECT_EQ(std::count(map.begin(), map.end(), 'E'), 36);
  EXPECT_EQ(large.attn_layer_period, 8);
  EXPECT_EQ(large.attn_layer_offset, 4);
  EXPECT_EQ(large.expert_layer_period, 2);
  EXPECT_EQ(large.expert_layer_offset, 1);
}

TEST(Notation, expands_to_the_stated_layers) {
  EXPECT_EQ(map_of(expand("4/1:3")), "MDMDADMD");
  EXPECT_EQ(map_of(expand("4/1:0")), "ADADADAD");
  EXPECT_EQ(map_of(expand("4/0:1")), "MDMDMDMD");
  EXPECT_EQ(map_of(expand("4/0:1/1/2/1")), "MEMEMEME");
  EXPECT_EQ(map_of(expand("3/1:2/3/4/2")), "MDAEMD");
  EXPECT_EQ(map_of(expand("8/2:6")), "MDMDADMDMDMDADMD");
  EXPECT_EQ(map_of(expand("8/3:5")), "MDADMDMDADMDADMD");
  const std::string seven = map_of(expand("8/7:1"));
  EXPECT_EQ(std::count(seven.begin(), seven.end(), 'A'), 7);
}

TEST(Notation, pure_stacks_are_expressible_as_periods) {
  for (const char* notation : {"8/0:1x4", "8/1:0x4"}) {
    const ModelConfig config = expand(notation);
    EXPECT_TRUE(config.mixer_pattern.empty()) << notation;
    EXPECT_LT(config.attn_layer_offset, config.attn_layer_period) << notation;
    EXPECT_TRUE(problems(config).empty()) << notation;
  }
  EXPECT_GE(expand("8/0:1x4").attn_layer_offset, 32);
}

TEST(Notation, print_and_parse_are_inverse) {
  for (const char* text : {"8/1:7/2/16/2x4", "8/1:7x3", "8/1:0", "8/0:1", "8/3:5/2/4/1", "1/1:0",
                           "12/2:4/3/8/8x2", "8/1:7/3/4/2"})
    EXPECT_EQ(print_notation(parse_notation(text)), text);
}

TEST(Notation, notation_of_a_config_gives_the_same_layers_for_every_small_notation) {
  int tried = 0;
  for (int64_t a = 0; a <= 4; a++)
    for (int64_t m = 0; m <= 7; m++)
      for (int64_t repeat = 1; a + m > 0 && repeat <= 2; repeat++)
        for (int64_t e = 0; e <= (a + m) * repeat; e++)
          for (int64_t blocks = 1; blocks <= 3; blocks++) {
            const int64_t l = (a + m) * repeat;
            if (e > 0 && blocks > 1 && l % e != 0) continue;
            const Notation n{l, a, m, e, e > 0 ? 4 : 1, e > 0 ? 2 : 1, blocks};
            ModelConfig config;
            apply_notation(n, config);
            ASSERT_TRUE(problems(config).empty()) << print_notation(n) << ": " << problems(config)[0].text;
            std::string why;
            const std::string text = notation_of(config, &why);
            ASSERT_FALSE(text.empty()) << print_notation(n) << ": " << why;
            // The canonical text may name a shorter block; the layers are the same.
            ASSERT_EQ(map_of(expand(text)), map_of(config)) << print_notation(n) << " -> " << text;
            ASSERT_EQ(notation_of(expand(text)), text);
            tried++;
          }
  EXPECT_GT(tried, 500);
}

TEST(Notation, canonical_text_of_the_papers_models) {
  EXPECT_EQ(notation_of(ModelConfig{}), "8/1:7/2/16/2x4");
  EXPECT_EQ(notation_of(expand("8/1:7/2/16/2x9")), "8/1:7/2/16/2x9");
  EXPECT_EQ(notation_of(expand("8/1:7x3")), "8/1:7x3");
  EXPECT_EQ(notation_of(expand("8/0:1")), "8/0:1");
  EXPECT_EQ(notation_of(expand("8/1:0")), "8/1:0");
  ModelConfig shifted = expand("8/1:7/2/4/2");  // offsets are given beside the notation
  shifted.attn_layer_offset = 2;
  shifted.expert_layer_offset = 0;
  EXPECT_EQ(notation_of(shifted), "8/1:7/2/4/2");
}

TEST(Notation, irregular_patterns_have_none_and_say_why) {
  ModelConfig config = expand("8/1:7");
  std::string why;
  config.mixer_pattern = "MMAMMMAA";
  EXPECT_EQ(notation_of(config, &why), "");
  EXPECT_NE(why.find("MMAMMMAA"), std::string::npos);
  config = expand("8/1:7/2/4/2");
  config.channel_pattern = "DEEDDDDD";
  EXPECT_EQ(notation_of(config, &why), "");
  EXPECT_NE(why.find("expert"), std::string::npos);
}

TEST(Notation, explicit_patterns_repeat_and_override_periods) {
  ModelConfig config;
  config.num_hidden_layers = 8;
  config.num_experts = 2;
  config.mixer_pattern = "MMMA";
  config.channel_pattern = "DE";
  EXPECT_EQ(map_of(config), "MDMEMDAEMDMEMDAE");
  EXPECT_EQ(notation_of(config), "4/1:3/2/2/2x2");
}

TEST(Notation, one_expert_is_a_dense_model) {
  ModelConfig config;
  config.num_experts = config.num_experts_per_tok = 1;
  for (const auto& kind : layer_kinds(config)) EXPECT_EQ(kind.channel, Channel::dense);
  EXPECT_EQ(notation_of(config), "8/1:7x4");
}

TEST(Notation, errors_name_the_part_and_the_nearest_choice) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "l (layers a block)"},
      {"8", "'/' expected after l"},
      {"8/1", "':' expected after a"},
      {"8/1:", "m (Mamba layers)"},
      {"8/1:-7", "m (Mamba layers)"},
      {"8/1:7/2", "'/' expected after e"},
      {"8/1:7/2/16", "'/' expected after n"},
      {"8/1:7/2/16/", "K (experts per token)"},
      {"8/1:7/2/16/2x", "B (blocks)"},
      {"8/1:7/2/16/2x4 ", "' ' is left over at character 15"},
      {"8/1:7y2", "'y2' is left over at character 6"},
      {"8/1:4", "a + m = 5 does not divide l = 8; nearest: l = 5 or 10"},
      {"0/1:7", "l (layers a block) must be at least 1"},
      {"8/0:0", "0:0 has no layers"},
      {"8/1:7/9/4/2", "e = 9 exceeds l = 8; nearest: e = 8"},
      {"8/1:7/0/4/2", "e must be at least 1"},
      {"8/1:7/3/4/2x2", "e = 3 does not divide l = 8"},
      {"8/1:7/2/4/5", "K = 5 must be from 1 to n = 4; nearest: K = 4"},
      {"8/1:7/2/4/0", "nearest: K = 1"},
      {"8/1:7/2/1/1", "n = 1 experts"},
      {"8/1:7x0", "B (blocks) must be at least 1"},
      {"10000/1:0x10000", "at most 10000"},
      {"99999999999999999999/1:7", "l (layers a block)"},
  };
  for (const auto& [text, part] : cases)
    EXPECT_NE(error_of(text).find(part), std::string::npos) << error_of(text);
}

TEST(Problems, defaults_are_valid) { EXPECT_TRUE(problems(ModelConfig{}).empty()); }

TEST(Problems, all_broken_rules_are_reported_at_once_with_choices) {
  ModelConfig config;
  config.hidden_size = 100;         // 32 heads do not divide it
  config.num_key_value_heads = 5;   // does not divide 32
  config.attn_layer_offset = 8;     // period 8
  config.expert_layer_period = 0;   // below 1
  config.num_experts_per_tok = 20;  // of 16
  config.dt_min = 0.5;              // above dt_max
  config.eos_token_id = 65536;      // of 65536
  config.rms_norm_eps = 0;
  config.channel_pattern = "DX";
  const auto found = problems(config);
  const std::pair<const char*, const char*> wanted[] = {
      {"num_attention_heads", "nearest: num_attention_heads = 25 or 50, hidden_size = 96 or 128"},
      {"num_key_value_heads", "nearest: 4 or 8"},
      {"attn_layer_offset", "nearest: attn_layer_offset = 7, attn_layer_period = 9"},
      {"expert_layer_period", "expert_layer_period = 0 is outside 1 to"},
      {"num_experts_per_tok", "exceeds num_experts = 16"},
      {"dt_min", "exceeds dt_max = 0.1"},
      {"eos_token_id", "must be below vocab_size = 65536; nearest: 65535"},
      {"rms_norm_eps", "must be above 0"},
      {"channel_pattern", "letter 2 is 'X'"},
  };
  for (const auto& [key, text] : wanted) {
    const Problem* problem = find(found, key);
    ASSERT_NE(problem, nullptr) << key;
    EXPECT_NE(problem->text.find(text), std::string::npos) << problem->text;
    EXPECT_TRUE(problem->text.starts_with(key)) << problem->text;
  }
  EXPECT_EQ(found.size(), std::size(wanted));
}

TEST(Problems, hostile_sizes_are_refused_without_overflow) {
  ModelConfig config;
  config.hidden_size = config.num_hidden_layers = config.vocab_size = INT64_MAX;
  config.num_attention_heads = 0;
  config.num_key_value_heads = INT64_MIN;
  config.rope_theta = -1;
  config.initializer_range = std::numeric_limits<double>::quiet_NaN();
  const auto found = problems(config);
  for (const char* key : {"hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads",
                          "num_key_value_heads", "rope_theta", "initializer_range"})
    EXPECT_NE(find(found, key), nullptr) << key;
}

TEST(Problems, rotary_positions_need_an_even_head_size) {
  ModelConfig config;
  config.hidden_size = 35;
  config.num_attention_heads = 5;
  config.num_key_value_heads = 1;
  EXPECT_TRUE(problems(config).empty());
  config.rope_theta = 10000;
  ASSERT_EQ(problems(config).size(), 1u);
  EXPECT_EQ(problems(config)[0].key, "rope_theta");
}

TEST(Problems, a_pattern_must_divide_the_layers) {
  ModelConfig config;
  config.mixer_pattern = "MMA";
  ASSERT_EQ(problems(config).size(), 1u);
  EXPECT_NE(problems(config)[0].text.find("num_hidden_layers = 30 or 33"), std::string::npos)
      << problems(config)[0].text;
}

}  // namespace
}  // namespace jambalaya
