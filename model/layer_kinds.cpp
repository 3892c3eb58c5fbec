// Which layer is what, and every rule that a model's sizes must keep.
#include <algorithm>
#include <cmath>

#include "kernels/error.h"
#include "model/config.h"
#include "model/config_limits.h"

namespace jambalaya {

namespace {

constexpr int64_t kMaxWidth = int64_t(1) << 20;
constexpr int64_t kMaxId = (int64_t(1) << 31) - 1;  // ids are 32-bit in files and kernels

template <class T>
std::string is(const std::string& key, const T& value) {
  return cat(key, " = ", value);
}

/// Collects problems; a key keeps the first that is found, since later ones mostly follow from it.
class Findings {
 public:
  void add(const std::string& key, const std::string& text) {
    if (!has(key)) found_.push_back({key, text});
  }
  bool has(const std::string& key) const {
    return std::any_of(found_.begin(), found_.end(), [&](const Problem& p) { return p.key == key; });
  }
  std::vector<Problem> take() { return std::move(found_); }

 private:
  std::vector<Problem> found_;
};

void check_ranges(const ModelConfig& c, Findings& found) {
  for (const auto& limit : integer_limits()) {
    const int64_t value = c.*limit.field;
    if (value < limit.min || value > limit.max)
      found.add(limit.key, cat(is(limit.key, value), " is outside ", limit.min, " to ", limit.max,
                               "; nearest: ", std::clamp(value, limit.min, limit.max)));
  }
  for (const auto& limit : real_limits()) {
    const double value = c.*limit.field;
    const bool low = limit.open_min ? value <= limit.min : value < limit.min;
    if (!std::isfinite(value) || low || value > limit.max)
      found.add(limit.key, cat(is(limit.key, value), " must be ", limit.open_min ? "above " : "from ",
                               limit.min, limit.open_min ? " and at most " : " to ", limit.max));
  }
}

void check_heads(const ModelConfig& c, Findings& found) {
  const int64_t heads = c.num_attention_heads, groups = c.num_key_value_heads;
  const bool heads_known = !found.has("num_attention_heads"),
             sizes_known = heads_known && !found.has("hidden_size");
  if (sizes_known && c.hidden_size % heads != 0)
    found.add("num_attention_heads",
              cat(is("num_attention_heads", heads), " does not divide hidden_size = ", c.hidden_size,
                  "; nearest: num_attention_heads = ", nearest_divisors(c.hidden_size, heads),
                  ", hidden_size = ", nearest_multiples(heads, c.hidden_size)));
  else if (sizes_known && c.rope_theta > 0 && c.head_size() % 2 != 0)
    found.add("rope_theta", cat(is("rope_theta", c.rope_theta),
                                " rotates pairs, but hidden_size / num_attention_heads = ", c.head_size(),
                                " is odd; choose an even head size or rope_theta = 0"));
  if (heads_known && !found.has("num_key_value_heads") && heads % groups != 0)
    found.add("num_key_value_heads",
              cat(is("num_key_value_heads", groups), " does not divide num_attention_heads = ", heads,
                  "; nearest: ", nearest_divisors(heads, groups)));
}

void check_period(const char* what, int64_t period, int64_t offset, Findings& found) {
  const std::string period_key = cat(what, "_layer_period"), offset_key = cat(what, "_layer_offset");
  if (found.has(period_key) || found.has(offset_key)) return;
  if (offset >= period)
    found.add(offset_key,
              cat(is(offset_key, offset), " must be below ", period_key, " = ", period,
                  "; nearest: ", offset_key, " = ", period - 1, ", ", period_key, " = ", offset + 1));
}

void check_pattern(const char* key, const std::string& pattern, const std::string& letters, int64_t layers,
                   Findings& found) {
  const size_t wrong = pattern.find_first_not_of(letters);
  if (wrong != std::string::npos) {
    found.add(key, cat(is(key, pattern), ": letter ", int64_t(wrong) + 1, " is '", pattern[wrong], "'; only ",
                       letters[0], " and ", letters[1], " are known"));
    return;
  }
  const auto length = int64_t(pattern.size());
  if (length > 0 && !found.has("num_hidden_layers") && layers % length != 0)
    found.add(key, cat(is(key, pattern), " has ", length,
                       " letters, which do not divide num_hidden_layers = ", layers,
                       "; nearest: num_hidden_layers = ", nearest_multiples(length, layers)));
}

void check_experts(const ModelConfig& c, Findings& found) {
  if (!found.has("num_experts") && !found.has("num_experts_per_tok") && c.num_experts_per_tok > c.num_experts)
    found.add("num_experts_per_tok",
              cat(is("num_experts_per_tok", c.num_experts_per_tok), " exceeds num_experts = ", c.num_experts,
                  "; nearest: num_experts_per_tok = ", c.num_experts));
  if (c.num_experts == 1 && c.channel_pattern.find('E') != std::string::npos)
    found.add("channel_pattern",
              cat(is("channel_pattern", c.channel_pattern),
                  " asks for experts, but num_experts = 1; nearest: num_experts = 2, or only the letter D"));
}

void check_ids(const ModelConfig& c, Findings& found) {
  if (found.has("vocab_size")) return;
  const std::pair<const char*, int64_t> ids[] = {
      {"pad_token_id", c.pad_token_id}, {"bos_token_id", c.bos_token_id}, {"eos_token_id", c.eos_token_id}};
  for (const auto& [key, id] : ids)
    if (id >= c.vocab_size)
      found.add(key, cat(is(key, id), " must be below vocab_size = ", c.vocab_size,
                         "; nearest: ", c.vocab_size - 1, " (or -1: none)"));
}

}  // namespace

const std::vector<IntegerLimit>& integer_limits() {
  static const std::vector<IntegerLimit> limits = {
      {"vocab_size", &ModelConfig::vocab_size, 1, kMaxId},
      {"hidden_size", &ModelConfig::hidden_size, 1, kMaxWidth},
      {"intermediate_size", &ModelConfig::intermediate_size, 1, kMaxWidth},
      {"num_hidden_layers", &ModelConfig::num_hidden_layers, 1, 10000},
      {"num_attention_heads", &ModelConfig::num_attention_heads, 1, kMaxWidth},
      {"num_key_value_heads", &ModelConfig::num_key_value_heads, 1, kMaxWidth},
      {"attn_layer_period", &ModelConfig::attn_layer_period, 1, kMaxId},
      {"attn_layer_offset", &ModelConfig::attn_layer_offset, 0, kMaxId},
      {"expert_layer_period", &ModelConfig::expert_layer_period, 1, kMaxId},
      {"expert_layer_offset", &ModelConfig::expert_layer_offset, 0, kMaxId},
      {"num_experts", &ModelConfig::num_experts, 1, 65536},
      {"num_experts_per_tok", &ModelConfig::num_experts_per_tok, 1, 65536},
      {"mamba_d_state", &ModelConfig::mamba_d_state, 1, 65536},
      {"mamba_d_conv", &ModelConfig::mamba_d_conv, 1, 1024},
      {"mamba_expand", &ModelConfig::mamba_expand, 1, 64},
      {"mamba_dt_rank", &ModelConfig::mamba_dt_rank, 0, kMaxWidth},
      {"pad_token_id", &ModelConfig::pad_token_id, -1, kMaxId},
      {"bos_token_id", &ModelConfig::bos_token_id, -1, kMaxId},
      {"eos_token_id", &ModelConfig::eos_token_id, -1, kMaxId},
      {"max_position_embeddings", &ModelConfig::max_position_embeddings, 1, int64_t(1) << 40},
  };
  return limits;
}

const std::vector<RealLimit>& real_limits() {
  static const std::vector<RealLimit> limits = {
      {"router_aux_loss_coef", &ModelConfig::router_aux_loss_coef, 0, 1e6},
      {"router_z_loss_coef", &ModelConfig::router_z_loss_coef, 0, 1e6},
      {"rms_norm_eps", &ModelConfig::rms_norm_eps, 0, 1, true},
      {"rope_theta", &ModelConfig::rope_theta, 0, 1e12},
      {"act_loss_alpha", &ModelConfig::act_loss_alpha, 0, 1e6},
      {"head_z_loss_coef", &ModelConfig::head_z_loss_coef, 0, 1e6},
      {"initializer_range", &ModelConfig::initializer_range, 0, 10, true},
      {"dt_min", &ModelConfig::dt_min, 0, 10, true},
      {"dt_max", &ModelConfig::dt_max, 0, 10, true},
      {"dt_floor", &ModelConfig::dt_floor, 0, 10, true},
  };
  return limits;
}

std::string nearest_divisors(int64_t n, int64_t value) {
  int64_t below = std::clamp<int64_t>(value, 1, n), above = std::clamp<int64_t>(value, 1, n);
  while (n % below != 0) below--;
  while (n % above != 0) above++;
  return below == above ? cat(below) : cat(below, " or ", above);
}

std::string nearest_multiples(int64_t n, int64_t value) {
  const int64_t below = value / n * n;
  return below == 0 || below == value ? cat(below == 0 ? n : below) : cat(below, " or ", below + n);
}

std::vector<Problem> problems(const ModelConfig& c) {
  Findings found;
  check_ranges(c, found);
  check_heads(c, found);
  if (c.mixer_pattern.empty()) check_period("attn", c.attn_layer_period, c.attn_layer_offset, found);
  if (c.channel_pattern.empty()) check_period("expert", c.expert_layer_period, c.expert_layer_offset, found);
  check_pattern("mixer_pattern", c.mixer_pattern, "MA", c.num_hidden_layers, found);
  check_pattern("channel_pattern", c.channel_pattern, "DE", c.num_hidden_layers, found);
  check_experts(c, found);
  if (!found.has("dt_min") && !found.has("dt_max") && c.dt_min > c.dt_max)
    found.add("dt_min",
              cat(is("dt_min", c.dt_min), " exceeds dt_max = ", c.dt_max, "; nearest: dt_min = ", c.dt_max));
  check_ids(c, found);
  return found.take();
}

std::vector<LayerKind> layer_kinds(const ModelConfig& c) {
  std::vector<LayerKind> kinds(static_cast<size_t>(c.num_hidden_layers));
  for (size_t i = 0; i < kinds.size(); i++) {
    const bool attention = c.mixer_pattern.empty() ? int64_t(i) % c.attn_layer_period == c.attn_layer_offset
                                                   : c.mixer_pattern[i % c.mixer_pattern.size()] == 'A';
    const bool chosen = c.channel_pattern.empty()
                            ? int64_t(i) % c.expert_layer_period == c.expert_layer_offset
                            : c.channel_pattern[i % c.channel_pattern.size()] == 'E';
    // One expert is an MLP: no router exists (as in Hugging Face).
    const bool experts = chosen && c.num_experts > 1;
    kinds[i] = {attention ? Mixer::attention : Mixer::mamba, experts ? Channel::moe : Channel::dense};
  }
  return kinds;
}

}  // namespace jambalaya
