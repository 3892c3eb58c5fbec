// config.json of Hugging Face's Jamba, both ways.
#include <algorithm>

#include "train/interop/huggingface.h"
#include "train/json.h"

namespace jambalaya {
namespace {

/// Fields that have the same name and meaning on both sides; their defaults in ModelConfig are JambaConfig's.
struct IntegerField {
  const char* key;
  int64_t ModelConfig::*field;
};
constexpr IntegerField integer_fields[] = {
    {"vocab_size", &ModelConfig::vocab_size},
    {"hidden_size", &ModelConfig::hidden_size},
    {"intermediate_size", &ModelConfig::intermediate_size},
    {"num_hidden_layers", &ModelConfig::num_hidden_layers},
    {"num_attention_heads", &ModelConfig::num_attention_heads},
    {"attn_layer_period", &ModelConfig::attn_layer_period},
    {"attn_layer_offset", &ModelConfig::attn_layer_offset},
    {"expert_layer_period", &ModelConfig::expert_layer_period},
    {"expert_layer_offset", &ModelConfig::expert_layer_offset},
    {"num_experts_per_tok", &ModelConfig::num_experts_per_tok},
    {"mamba_d_state", &ModelConfig::mamba_d_state},
    {"mamba_d_conv", &ModelConfig::mamba_d_conv},
    {"mamba_expand", &ModelConfig::mamba_expand},
    {"max_position_embeddings", &ModelConfig::max_position_embeddings},
};

/// A period and an offset below it that give exactly these layers; none when the pattern is irregular.
struct Cycle {
  int64_t period = 0, offset = 0;
};
Cycle cycle_of(const std::vector<bool>& chosen) {
  const auto layers = int64_t(chosen.size());
  for (int64_t period = 1; period <= layers + 1; period++)
    for (int64_t offset = 0; offset < period; offset++) {
      bool equal = true;
      for (int64_t i = 0; i < layers && equal; i++) equal = chosen[size_t(i)] == (i % period == offset);
      if (equal) return {period, offset};
    }
  return {};
}

Cycle attention_cycle(const ModelConfig& config) {
  if (config.mixer_pattern.empty()) return {config.attn_layer_period, config.attn_layer_offset};
  std::vector<bool> chosen;
  for (const LayerKind& kind : layer_kinds(config)) chosen.push_back(kind.mixer == Mixer::attention);
  return cycle_of(chosen);
}

Cycle expert_cycle(const ModelConfig& config) {
  if (config.channel_pattern.empty()) return {config.expert_layer_period, config.expert_layer_offset};
  std::vector<bool> chosen;
  for (const LayerKind& kind : layer_kinds(config)) chosen.push_back(kind.channel == Channel::moe);
  return cycle_of(chosen);
}

void read_sizes(const JsonReader& json, ModelConfig& config) {
  for (const IntegerField& f : integer_fields)
    if (json.has(f.key)) config.*f.field = json.integer(f.key);
  // JambaConfig knows num_experts under a second name.
  for (const char* key : {"num_experts", "num_local_experts"})
    if (json.has(key)) config.num_experts = json.integer(key);
  if (json.has("num_experts") && json.has("num_local_experts") &&
      json.integer("num_experts") != json.integer("num_local_experts"))
    json.fail("num_local_experts", "differs from num_experts, of which it is another name");
  // An absent key means JambaConfig's 8; null means as many as query heads.
  if (json.has("num_key_value_heads")) config.num_key_value_heads = json.integer("num_key_value_heads");
}

void read_token_ids(const JsonReader& json, const Json& object, ModelConfig& config) {
  const auto id = [&](const char* key, int64_t& value) {
    const Json* given = object.find(key);
    if (!given) return;
    if (given->is(Json::Kind::null)) {
      value = -1;  // none
    } else if (given->is(
                   Json::Kind::array)) {  // several end-of-text ids: the first is the one that ends documents
      const auto ids = json.integers(key);
      if (ids.empty()) json.fail(key, "an empty list");
      value = ids[0];
    } else {
      value = json.integer(key);
    }
  };
  id("pad_token_id", config.pad_token_id);
  id("bos_token_id", config.bos_token_id);
  id("eos_token_id", config.eos_token_id);
}

/// Keys whose value would change the numbers in a way that this model cannot follow.
void refuse_unknown_arithmetic(const JsonReader& json) {
  if (!json.has("model_type")) json.fail("model_type", "missing; \"jamba\" is expected");
  if (json.string("model_type") != "jamba")
    json.fail("model_type", cat("'", json.string("model_type"), "' is not supported; only \"jamba\" is"));
  if (json.has("hidden_act") && json.string("hidden_act") != "silu")
    json.fail("hidden_act", cat("'", json.string("hidden_act"), "' is not supported; only \"silu\" is"));
  if (json.has("quantization_config"))
    json.fail("quantization_config", "quantized weights are not supported; export the model in bf16 or f32");
}

/// Derived lists that some versions store: they must agree with periods and offsets.
void check_layer_list(const JsonReader& json, const char* key, const char* attention,
                      const ModelConfig& config) {
  if (!json.has(key)) return;
  const auto kinds = layer_kinds(config);
  const Json& list = json.at(key, Json::Kind::array);
  bool equal = list.array.size() == kinds.size();
  for (size_t i = 0; i < kinds.size() && equal; i++)
    equal = (list.array[i].string == attention) == (kinds[i].mixer == Mixer::attention);
  if (!equal) json.fail(key, "disagrees with attn_layer_period and attn_layer_offset");
}

}  // namespace

ModelConfig model_config_from_hf(const std::string& config_json, const std::string& source_name) {
  const Json object = parse_json(config_json, source_name);
  const JsonReader json(object, source_name, Exit::bad_input);
  refuse_unknown_arithmetic(json);
  ModelConfig config;
  read_sizes(json, config);
  if (const Json* heads = object.find("num_key_value_heads"); heads && heads->is(Json::Kind::null))
    config.num_key_value_heads = config.num_attention_heads;
  if (const Json* rank = object.find("mamba_dt_rank");
      rank && !(rank->is(Json::Kind::string) && rank->string == "auto")) {
    config.mamba_dt_rank = json.integer("mamba_dt_rank");
    if (config.mamba_dt_rank < 1) json.fail("mamba_dt_rank", "a positive integer or \"auto\" is expected");
  }
  read_token_ids(json, object, config);
  if (json.has("rms_norm_eps")) config.rms_norm_eps = json.number("rms_norm_eps");
  if (json.has("router_aux_loss_coef")) config.router_aux_loss_coef = json.number("router_aux_loss_coef");
  if (json.has("initializer_range")) config.initializer_range = json.number("initializer_range");
  if (json.has("mamba_conv_bias")) config.mamba_conv_bias = json.boolean("mamba_conv_bias");
  if (json.has("mamba_proj_bias")) config.mamba_proj_bias = json.boolean("mamba_proj_bias");
  if (json.has("tie_word_embeddings")) config.tie_word_embeddings = json.boolean("tie_word_embeddings");
  // Keys of the first public upload.
  if (json.has("n_ctx") && !json.has("max_position_embeddings"))
    config.max_position_embeddings = json.integer("n_ctx");
  if (json.has("mamba_inner_layernorms") && !json.boolean("mamba_inner_layernorms"))
    config.inner_norms = InnerNorms::none;

  std::string all;
  for (const Problem& problem : problems(config))
    all += cat(all.empty() ? "" : "\n", source_name, ": ", problem.key, ": ", problem.text);
  if (!all.empty()) throw Error(Exit::bad_input, all);
  check_layer_list(json, "layers_block_type", "attention", config);
  check_layer_list(json, "layer_types", "full_attention", config);
  return config;
}

std::vector<std::string> not_expressible_in_hf(const ModelConfig& config) {
  std::vector<std::string> reasons;
  if (config.rope_theta != 0)
    reasons.push_back(cat("rope_theta = ", config.rope_theta, ": Jamba's attention has no positions"));
  if (config.inner_norms != InnerNorms::all)
    reasons.push_back(cat("inner_norms = ",
                          config.inner_norms == InnerNorms::none ? "none"
                          : config.inner_norms == InnerNorms::dt ? "dt"
                                                                 : "bc",
                          ": Jamba norms dt, B and C (all)"));
  if (config.router_renormalize)
    reasons.push_back("router_renormalize = true: Jamba does not renormalise the chosen weights");
  if (attention_cycle(config).period == 0)
    reasons.push_back(cat("mixer_pattern = ", config.mixer_pattern,
                          ": attention layers must be one in every attn_layer_period"));
  if (expert_cycle(config).period == 0)
    reasons.push_back(cat("channel_pattern = ", config.channel_pattern,
                          ": expert layers must be one in every expert_layer_period"));
  return reasons;
}

std::string model_config_to_hf(const ModelConfig& config, const std::string& torch_dtype) {
  std::string reasons;
  for (const std::string& reason : not_expressible_in_hf(config)) reasons += "\n  " + reason;
  if (!reasons.empty())
    throw Error(Exit::usage, cat("Hugging Face's Jamba cannot express this model:", reasons,
                                 "\nexport it with --format native"));
  const Cycle attention = attention_cycle(config), experts = expert_cycle(config);
  std::vector<std::pair<std::string, Json>> keys;
  const auto add = [&](const char* key, Json value) { keys.emplace_back(key, std::move(value)); };
  const auto id = [&](int64_t value) { return value < 0 ? Json() : Json(value); };
  Json architectures = Json::make_array();
  architectures.array.emplace_back("JambaForCausalLM");
  add("architectures", std::move(architectures));
  add("model_type", "jamba");
  for (const IntegerField& f : integer_fields) add(f.key, config.*f.field);
  for (auto& [key, value] : keys) {  // where a pattern was given instead
    if (key == "attn_layer_period") value = attention.period;
    if (key == "attn_layer_offset") value = attention.offset;
    if (key == "expert_layer_period") value = experts.period;
    if (key == "expert_layer_offset") value = experts.offset;
  }
  add("num_key_value_heads", config.num_key_value_heads);
  add("num_experts", config.num_experts);
  add("mamba_dt_rank", config.dt_rank());
  add("mamba_conv_bias", config.mamba_conv_bias);
  add("mamba_proj_bias", config.mamba_proj_bias);
  add("rms_norm_eps", config.rms_norm_eps);
  add("router_aux_loss_coef", config.router_aux_loss_coef);
  add("initializer_range", config.initializer_range);
  add("tie_word_embeddings", config.tie_word_embeddings);
  add("pad_token_id", id(config.pad_token_id));
  add("bos_token_id", id(config.bos_token_id));
  add("eos_token_id", id(config.eos_token_id));
  add("attention_dropout", 0.0);
  add("hidden_act", "silu");
  add("num_logits_to_keep", 1);
  add("output_router_logits", false);
  add("sliding_window", Json());
  add("use_cache", true);
  add("use_mamba_kernels", false);  // else loading asks for CUDA kernels
  add("dtype", torch_dtype);        // read by version 5 of transformers,
  add("torch_dtype", torch_dtype);  // and this by version 4
  std::sort(keys.begin(), keys.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  Json json = Json::make_object();
  json.object = std::move(keys);
  return json.text() + "\n";
}

}  // namespace jambalaya
