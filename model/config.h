// What a model is: one plain struct. Names follow Hugging Face's JambaConfig where it has the field.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace jambalaya {

enum class Mixer : uint8_t { mamba, attention };
enum class Channel : uint8_t { dense, moe };
enum class InnerNorms : uint8_t { none, dt, bc, all };              ///< RMSNorm on dt, B, C inside Mamba
enum class AuxMode : uint8_t { hf_global, per_layer, megablocks };  ///< forms of the balance loss
enum class InitScheme : uint8_t { mamba, hf };
enum class Precision : uint8_t { f32, bf16 };

struct ModelConfig {
  int64_t vocab_size = 65536;
  int64_t hidden_size = 4096;
  int64_t intermediate_size = 14336;
  int64_t num_hidden_layers = 32;
  int64_t num_attention_heads = 32;
  int64_t num_key_value_heads = 8;

  // Which layer is what. Either periods and offsets (as in Hugging Face) or explicit patterns.
  int64_t attn_layer_period = 8, attn_layer_offset = 4;
  int64_t expert_layer_period = 2, expert_layer_offset = 1;
  std::string
      mixer_pattern;  ///< one letter a layer, M or A; repeated to num_hidden_layers; overrides period/offset
  std::string channel_pattern;  ///< one letter a layer, D (dense) or E (experts); likewise

  int64_t num_experts = 16;
  int64_t num_experts_per_tok = 2;
  bool router_renormalize = false;  ///< Jamba does not; Mixtral does
  bool router_fp32 = true;          ///< router product in fp32 whatever the precision
  AuxMode aux_mode = AuxMode::hf_global;
  double router_aux_loss_coef = 0.001;
  double router_z_loss_coef = 0;

  int64_t mamba_d_state = 16;
  int64_t mamba_d_conv = 4;
  int64_t mamba_expand = 2;
  int64_t mamba_dt_rank = 0;  ///< 0: ceil(hidden_size / 16)
  bool mamba_conv_bias = true;
  bool mamba_proj_bias = false;
  InnerNorms inner_norms = InnerNorms::all;

  double rms_norm_eps = 1e-6;
  double rope_theta = 0;  ///< 0: no positions, as in Jamba
  bool tie_word_embeddings = false;
  bool residual_fp32 = true;    ///< keep the residual stream in fp32 when the precision is bf16
  double act_loss_alpha = 0;    ///< Jamba-1.5's activation loss: alpha * mean square of each branch's output
  double head_z_loss_coef = 0;  ///< z-loss on the output logits

  InitScheme init_scheme = InitScheme::mamba;
  double initializer_range = 0.02;
  double dt_min = 1e-3, dt_max = 0.1, dt_floor = 1e-4;

  int64_t pad_token_id = 0, bos_token_id = 1, eos_token_id = 2;
  int64_t max_position_embeddings = 262144;  ///< recorded for export; without effect on the numbers

  // Derived.
  int64_t head_size() const { return hidden_size / num_attention_heads; }
  int64_t inner_size() const { return mamba_expand * hidden_size; }
  int64_t dt_rank() const { return mamba_dt_rank ? mamba_dt_rank : (hidden_size + 15) / 16; }
};

struct LayerKind {
  Mixer mixer;
  Channel channel;
};

/// One row per layer. The config must be valid (see problems()).
std::vector<LayerKind> layer_kinds(const ModelConfig& config);

/// Every rule that the config breaks, each as "key: value, rule, fix"; `key` is the field's name. Empty when
/// valid.
struct Problem {
  std::string key, text;
};
std::vector<Problem> problems(const ModelConfig& config);

/// The architecture in the project's notation, l/a:m/e/n/K [xB]: l layers a block, a attention to m Mamba
/// layers, experts every e layers, n experts, K per token, B blocks. "8/1:7/2/16/2x4" is Jamba-v0.1; "8/0:1"
/// is Mamba alone; "8/1:0" attention alone; without e/n/K there are no experts.
struct Notation {
  int64_t layers = 8, attention = 1, mamba = 7, every = 0, experts = 1, chosen = 1, blocks = 1;
};
Notation parse_notation(const std::string& text);  ///< throws Error(usage) naming the part that is wrong
std::string print_notation(const Notation& notation);
/// Sets layers, periods, offsets (the paper's defaults: attention at half its period, experts at 1), n and K.
void apply_notation(const Notation& notation, ModelConfig& config);
/// The notation of a config, or "" with the reason in `why` when its pattern is not periodic.
std::string notation_of(const ModelConfig& config, std::string* why = nullptr);

}  // namespace jambalaya
