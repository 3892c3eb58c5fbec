// The model's rows of the option table. Ranges come from model/config_limits.h.
#include <algorithm>

#include "model/config_limits.h"
#include "train/config/option_builders.h"

namespace jambalaya::options {

namespace {

constexpr double kAnyReal = 1e300;

// Ranges are only quoted here: problems(ModelConfig) checks them, together with the rules between fields.
Option size(const char* name, const char* doc) {
  const auto& limits = integer_limits();
  const auto limit =
      std::find_if(limits.begin(), limits.end(), [&](const auto& l) { return std::string(l.key) == name; });
  JAMBALAYA_CHECK(limit != limits.end(), "no limits for model.", name);
  const auto field = limit->field;
  Option option = integer(
      cat("model.", name), [field](auto& c) -> auto& { return c.model.*field; },
      std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(), doc);
  option.range = cat(limit->min, " to ", limit->max);
  return option;
}

Option number(const char* name, const char* doc) {
  const auto& limits = real_limits();
  const auto limit =
      std::find_if(limits.begin(), limits.end(), [&](const auto& l) { return std::string(l.key) == name; });
  JAMBALAYA_CHECK(limit != limits.end(), "no limits for model.", name);
  const auto field = limit->field;
  Option option = real(
      cat("model.", name), [field](auto& c) -> auto& { return c.model.*field; }, -kAnyReal, kAnyReal, false,
      doc);
  option.range =
      cat(limit->open_min ? "above " : "", limit->min, limit->open_min ? ", at most " : " to ", limit->max);
  return option;
}

Option flag(const char* name, bool ModelConfig::*field, const char* doc) {
  return boolean(
      cat("model.", name), [field](auto& c) -> auto& { return c.model.*field; }, doc);
}

Option pattern(const char* name, std::string ModelConfig::*field, const char* doc) {
  return text(
      cat("model.", name), [field](auto& c) -> auto& { return c.model.*field; }, doc);
}

void add_shape(std::vector<Option>& t) {
  t.push_back(size("vocab_size", "Token ids that the model knows; the tokenizer may have fewer."));
  t.push_back(size("hidden_size", "Width of the residual stream."));
  t.push_back(size("intermediate_size", "Width of the feed-forward layers and of each expert."));
  t.push_back(
      size("num_hidden_layers",
           "Layers, each a sequence mixer (attention or Mamba) and a channel mixer (MLP or experts)."));
  t.push_back(size("num_attention_heads", "Query heads of an attention layer; divides hidden_size."));
  t.push_back(
      size("num_key_value_heads", "Key/value heads (grouped-query attention); divides num_attention_heads."));
  t.push_back(size("attn_layer_period",
                   "Layer i is attention when i mod attn_layer_period = attn_layer_offset, else Mamba."));
  t.push_back(size("attn_layer_offset", "See attn_layer_period; smaller than it."));
  t.push_back(size("expert_layer_period",
                   "Layer i has experts when i mod expert_layer_period = expert_layer_offset, else an MLP."));
  t.push_back(size("expert_layer_offset", "See expert_layer_period; smaller than it."));
  t.push_back(pattern("mixer_pattern", &ModelConfig::mixer_pattern,
                      "One letter a layer, M (Mamba) or A (attention), repeated over the layers; overrides "
                      "attn_layer_period."));
  t.push_back(
      pattern("channel_pattern", &ModelConfig::channel_pattern,
              "One letter a layer, D (dense) or E (experts), repeated; overrides expert_layer_period."));
}

void add_experts(std::vector<Option>& t) {
  t.push_back(
      size("num_experts", "Experts of an expert layer; 1: every layer has an MLP and there is no router."));
  t.push_back(size("num_experts_per_tok", "Experts that each token goes to (K)."));
  t.push_back(flag("router_renormalize", &ModelConfig::router_renormalize,
                   "Scale the K chosen probabilities to sum to one; Jamba does not, Mixtral does."));
  t.push_back(flag("router_fp32", &ModelConfig::router_fp32,
                   "Compute the router's product in fp32 whatever the precision."));
  t.push_back(choice(
      "model.aux_mode", [](auto& c) -> auto& { return c.model.aux_mode; },
      {"hf_global", "per_layer", "megablocks"},
      "Form of the balance loss: over all layers at once as in Hugging Face, each layer by itself, or "
      "MegaBlocks'."));
  t.push_back(number("router_aux_loss_coef", "Weight of the balance loss."));
  t.push_back(number("router_z_loss_coef", "Weight of the mean squared logsumexp of the router's logits."));
}

void add_mamba(std::vector<Option>& t) {
  t.push_back(size("mamba_d_state", "States of each Mamba channel (N)."));
  t.push_back(size("mamba_d_conv", "Taps of the causal convolution."));
  t.push_back(size("mamba_expand", "Mamba's inner width as a multiple of hidden_size."));
  t.push_back(size("mamba_dt_rank", "Rank of the step-size projection; 0: hidden_size / 16, rounded up."));
  t.push_back(flag("mamba_conv_bias", &ModelConfig::mamba_conv_bias, "Bias of the convolution."));
  t.push_back(flag("mamba_proj_bias", &ModelConfig::mamba_proj_bias,
                   "Biases of Mamba's input and output projections."));
  t.push_back(choice(
      "model.inner_norms", [](auto& c) -> auto& { return c.model.inner_norms; }, {"none", "dt", "bc", "all"},
      "RMSNorm on dt, on B and C, or on all three inside Mamba; Jamba has all."));
}

void add_numerics(std::vector<Option>& t) {
  t.push_back(number("rms_norm_eps", "Added to the mean square inside every RMSNorm."));
  t.push_back(number("rope_theta", "Base of rotary positions in attention; 0: no positions, as in Jamba."));
  t.push_back(flag("tie_word_embeddings", &ModelConfig::tie_word_embeddings,
                   "The output head is the embedding matrix."));
  t.push_back(flag("residual_fp32", &ModelConfig::residual_fp32,
                   "Keep the residual stream in fp32 when the precision is bf16."));
  t.push_back(
      number("act_loss_alpha",
             "Weight of the mean square of each branch's output (Jamba-1.5's activation loss: 1e-5)."));
  t.push_back(number("head_z_loss_coef", "Weight of the mean squared logsumexp of the output logits."));
  t.push_back(choice(
      "model.init_scheme", [](auto& c) -> auto& { return c.model.init_scheme; }, {"mamba", "hf"},
      "Starting values: the Mamba reference's (inverse-softplus dt bias) or Hugging Face's."));
  t.push_back(number("initializer_range", "Standard deviation of the starting weights."));
  t.push_back(number("dt_min", "Smallest starting step size of Mamba's channels."));
  t.push_back(number("dt_max", "Largest starting step size."));
  t.push_back(number("dt_floor", "Starting step sizes below this are raised to it."));
  t.push_back(size("pad_token_id", "Padding token, whose embedding gets no gradient; -1: none."));
  t.push_back(size("bos_token_id", "Token before every document; -1: none."));
  t.push_back(size("eos_token_id", "Token after every document; -1: none."));
  t.push_back(size("max_position_embeddings", "Recorded for export; without effect on the numbers."));
}

}  // namespace

std::string scalar_problem(const YamlNode& node) {
  if (node.kind == YamlNode::Kind::null || (node.kind == YamlNode::Kind::scalar && node.text.empty()))
    return "no value given";
  if (node.kind == YamlNode::Kind::list) return "a list where one value is needed";
  if (node.kind == YamlNode::Kind::map) return "a section where one value is needed";
  // "64k" needs no quotes but may have them; "64" says that text is meant.
  const bool suffix = std::isalpha(static_cast<unsigned char>(node.text.back())) != 0;
  const bool word = node.text == "true" || node.text == "false";
  if (node.quoted && (!suffix || word)) return "quoted, hence text; remove the quotes";
  return "";
}

void add_model_options(std::vector<Option>& table) {
  table.push_back(
      {"model.notation",
       "text",
       "l/a:m/e/n/K, xB",
       "The layers in the paper's notation (see below); sets the layer count, periods, offsets and experts.",
       {},
       {}});
  add_shape(table);
  add_experts(table);
  add_mamba(table);
  add_numerics(table);
}

}  // namespace jambalaya::options
