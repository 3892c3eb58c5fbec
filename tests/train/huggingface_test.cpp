#include "train/interop/huggingface.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tests/support/files.h"
#include "train/interop/safetensors.h"

namespace jambalaya {
namespace {

using namespace test;

namespace fs = std::filesystem;
const char* const goldens[] = {"hybrid_moe",   "odd_sizes", "tied_biased", "no_conv_bias",  "one_token",
                               "idle_experts", "dense",     "pure_mamba",  "pure_attention"};

struct Model {
  explicit Model(const std::string& folder) : parameters(read_model_config(folder), Precision::f32, false) {
    check_weights(folder, parameters.config());
    import_weights(folder, parameters);
  }
  Parameters parameters;
};

std::string masters(const Parameters& parameters) {
  std::string bytes;
  for (int row = 0; row < int(parameters.table().size()); row++) {
    const Tensor t = parameters.master(row);
    bytes.append(static_cast<const char*>(t.data), size_t(t.bytes()));
  }
  return bytes;
}

TEST(HuggingFace, all_goldens_come_back_bit_equal) {
  for (const char* name : goldens) {
    SCOPED_TRACE(name);
    Model model(golden(name));
    TemporaryFolder out;
    export_weights(out / "model", model.parameters, {}, false);
    EXPECT_TRUE(read_bytes(out / "model/model.safetensors") ==
                read_bytes(golden(name) + "/model.safetensors"));
    Model again(out / "model");
    EXPECT_TRUE(masters(again.parameters) == masters(model.parameters));
    EXPECT_EQ(model_config_to_hf(again.parameters.config(), "float32"),
              model_config_to_hf(model.parameters.config(), "float32"));
  }
}

TEST(HuggingFace, the_three_namings_load_alike) {
  const Model current(golden("hybrid_moe"));
  for (const char* naming : {"legacy_names", "fused_names"}) {
    Parameters other(current.parameters.config(), Precision::f32, false);
    import_weights_file(golden(cat("hybrid_moe/", naming, ".safetensors")), other);
    EXPECT_TRUE(masters(other) == masters(current.parameters)) << naming;
  }
}

TEST(HuggingFace, gradients_load_by_the_same_names) {
  for (const char* name : goldens) {
    Parameters gradients(read_model_config(golden(name)), Precision::f32, false);
    import_weights_file(golden(cat(name, "/gradients.safetensors")), gradients);
  }
}

TEST(HuggingFace, shards_bf16_and_native_come_back) {
  const Model model(golden("hybrid_moe"));
  TemporaryFolder out;
  ExportOptions options;
  options.max_shard_bytes = 100'000;
  export_weights(out / "shards", model.parameters, options, false);
  EXPECT_TRUE(fs::exists(out / "shards/model.safetensors.index.json"));
  EXPECT_TRUE(masters(Model(out / "shards").parameters) == masters(model.parameters));
  options.format = ExportFormat::native;
  export_weights(out / "native", model.parameters, options, false);
  EXPECT_TRUE(masters(Model(out / "native").parameters) == masters(model.parameters));
  options.dtype = "bf16";
  export_weights(out / "halves", model.parameters, options, false);
  const Model halves(out / "halves");
  const float *a = model.parameters.master(0).ptr<float>(), *b = halves.parameters.master(0).ptr<float>();
  for (int64_t i = 0; i < model.parameters.master(0).numel(); i++) ASSERT_EQ(to_float(to_bf16(a[i])), b[i]);
}

TEST(HuggingFace, an_existing_model_is_only_replaced_when_asked) {
  const Model model(golden("dense"));
  TemporaryFolder out;
  ExportOptions shards;
  shards.max_shard_bytes = 10'000;
  export_weights(out.path(), model.parameters, shards, false);
  EXPECT_TRUE(
      mentions(error_of(Exit::usage, [&] { export_weights(out.path(), model.parameters, {}, false); }),
               "holds a model already"));
  export_weights(out.path(), model.parameters, {}, true);
  int files = 0;
  for (const auto& entry : fs::directory_iterator(out.path())) files += entry.exists();
  EXPECT_EQ(
      files,
      3);  // no shard of the older export is left: model.safetensors, config.json, generation_config.json
}

std::string config_with(const std::string& keys) { return cat(R"({"model_type": "jamba", )", keys, "}"); }
std::string refusal(const std::string& keys) {
  return error_of(Exit::bad_input, [&] { model_config_from_hf(config_with(keys), "config.json"); });
}

TEST(HuggingFaceConfig, absent_keys_take_the_defaults_of_the_library) {
  const ModelConfig c =
      model_config_from_hf(config_with(R"("unknown": {"x": [1]}, "mamba_dt_rank": "auto")"), "config.json");
  EXPECT_EQ(c.hidden_size, 4096);
  EXPECT_EQ(c.num_key_value_heads, 8);
  EXPECT_EQ(c.dt_rank(), 256);
  EXPECT_EQ(c.attn_layer_offset, 4);
  EXPECT_FALSE(c.router_renormalize);
  EXPECT_EQ(c.inner_norms, InnerNorms::all);
}

TEST(HuggingFaceConfig, special_values_are_understood) {
  const ModelConfig c = model_config_from_hf(
      config_with(
          R"("num_key_value_heads": null, "eos_token_id": [2, 518], "pad_token_id": null, "num_local_experts": 4, "n_ctx": 77)"),
      "config.json");
  EXPECT_EQ(c.num_key_value_heads, 32);
  EXPECT_EQ(c.eos_token_id, 2);
  EXPECT_EQ(c.pad_token_id, -1);
  EXPECT_EQ(c.num_experts, 4);
  EXPECT_EQ(c.max_position_embeddings, 77);
}

TEST(HuggingFaceConfig, what_cannot_be_followed_is_refused_by_name) {
  EXPECT_TRUE(mentions(refusal(R"("attn_layer_offset": 8)"), "attn_layer_offset"));
  EXPECT_TRUE(
      mentions(refusal(R"("expert_layer_offset": 5, "expert_layer_period": 5)"), "expert_layer_offset"));
  EXPECT_TRUE(mentions(refusal(R"("attn_layer_period": 0)"), "attn_layer_period"));
  EXPECT_TRUE(mentions(refusal(R"("hidden_act": "gelu")"), "hidden_act: 'gelu'"));
  EXPECT_TRUE(mentions(refusal(R"("hidden_size": 1.5)"), "hidden_size: an integer"));
  EXPECT_TRUE(mentions(refusal(R"("hidden_size": -1)"), "hidden_size"));
  EXPECT_TRUE(mentions(refusal(R"("hidden_size": 32, "hidden_size": 64)"), "'hidden_size' is given twice"));
  EXPECT_TRUE(mentions(refusal(R"("mamba_dt_rank": "many")"), "mamba_dt_rank"));
  EXPECT_TRUE(mentions(refusal(R"("num_key_value_heads": 5)"), "num_key_value_heads"));
  EXPECT_TRUE(mentions(refusal(R"("quantization_config": {})"), "quantization_config"));
  EXPECT_TRUE(mentions(refusal(R"("num_hidden_layers": 2, "layers_block_type": ["attention", "mamba"])"),
                       "layers_block_type"));
  EXPECT_TRUE(mentions(
      error_of(Exit::bad_input, [] { model_config_from_hf(R"({"model_type": "llama"})", "c"); }), "llama"));
  EXPECT_TRUE(mentions(error_of(Exit::bad_input, [] { model_config_from_hf("{", "c"); }), "not valid JSON"));
}

TEST(HuggingFaceConfig, what_the_library_cannot_express_is_refused_by_name) {
  ModelConfig c = read_model_config(golden("hybrid_moe"));
  EXPECT_TRUE(not_expressible_in_hf(c).empty());
  c.mixer_pattern = "MMAM";
  c.channel_pattern = "DE";
  EXPECT_TRUE(not_expressible_in_hf(c).empty());  // periodic after all
  const ModelConfig back = model_config_from_hf(model_config_to_hf(c, "float32"), "config.json");
  EXPECT_EQ(back.attn_layer_period, 4);
  EXPECT_EQ(back.attn_layer_offset, 2);
  EXPECT_EQ(back.expert_layer_offset, 1);
  c.aux_mode = AuxMode::per_layer;
  EXPECT_TRUE(not_expressible_in_hf(c).empty());
  c.mixer_pattern = "MAAMMMMM";
  c.channel_pattern = "DEED";
  c.rope_theta = 10000;
  c.inner_norms = InnerNorms::dt;
  c.router_renormalize = true;
  const auto reasons = not_expressible_in_hf(c);
  ASSERT_EQ(reasons.size(), 5u);
  const std::string message = error_of(Exit::usage, [&] { model_config_to_hf(c, "float32"); });
  for (const char* knob : {"rope_theta", "inner_norms", "router_renormalize", "mixer_pattern",
                           "channel_pattern", "--format native"})
    EXPECT_TRUE(mentions(message, knob));
}

class BrokenWeights : public testing::Test {
 protected:
  /// Imports dense with one tensor changed; `change` returns false to leave it out.
  std::string refused(const std::function<bool(TensorSource&)>& change,
                      const std::vector<TensorSource>& extra = {}) {
    TemporaryFolder folder;
    fs::copy(golden("dense/config.json"), folder / "config.json");
    const SafeTensorsFile file(golden("dense/model.safetensors"));
    std::vector<TensorSource> tensors = extra;
    for (const SafeTensor& t : file.tensors()) {
      TensorSource source{t.name, SafeType::f32, t.shape, [&](int64_t first, int64_t count, float* out) {
                            file.read_f32(t, first, count, out);
                          }};
      if (change(source)) tensors.push_back(source);
    }
    write_safetensors(folder / "model.safetensors", tensors);
    return error_of(Exit::bad_input, [&] { Model model(folder.path()); });
  }
};

TEST_F(BrokenWeights, are_refused_by_name) {
  const std::string up = "model.layers.2.feed_forward.up_proj.weight";
  EXPECT_TRUE(mentions(refused([&](TensorSource& t) { return t.name != up; }), cat("'", up, "' is missing")));
  EXPECT_TRUE(mentions(refused([&](TensorSource& t) { return t.name != "lm_head.weight"; }),
                       "'lm_head.weight' is missing"));
  const auto zeros = [](int64_t, int64_t count, float* out) { std::fill_n(out, count, 0.f); };
  const auto all = [](TensorSource&) { return true; };
  EXPECT_TRUE(mentions(refused(all, {{"model.layers.9.mamba.D", SafeType::f32, {64}, zeros}}),
                       "'model.layers.9.mamba.D': unexpected"));
  EXPECT_TRUE(mentions(
      refused(all, {{"model.layers.0.pre_moe_layernorm.weight", SafeType::f32, {32}, zeros}}), "twice"));
  EXPECT_TRUE(mentions(refused([&](TensorSource& t) {
                         if (t.name == up) t.shape = {32, 48};
                         return true;
                       }),
                       cat("'", up, "': shape [32, 48], but the config asks for [48, 32]")));
  EXPECT_TRUE(mentions(refused([&](TensorSource& t) {
                         if (t.name == up)
                           t.fill = [](int64_t, int64_t count, float* out) {
                             std::fill_n(out, count, std::nanf(""));
                           };
                         return true;
                       }),
                       cat("'", up, "': element 0 is NaN")));
}

TEST(HuggingFace, tokenizer_files_name_the_special_tokens) {
  const std::string json = read_bytes(golden("tokenizer/tokenizer.json"));
  const TokenizerFiles files = hf_tokenizer_files(json, read_model_config(golden("hybrid_moe")));
  EXPECT_TRUE(mentions(files.special_tokens_map, R"("bos_token": "<|startoftext|>")"));
  EXPECT_TRUE(mentions(files.special_tokens_map, R"("pad_token": "<|pad|>")"));
  EXPECT_TRUE(mentions(files.config, R"("clean_up_tokenization_spaces": false)"));
}

}  // namespace
}  // namespace jambalaya
