// model.notation beside the single keys: it sets them all, and what the keys then say must not contradict it.
#include "train/config/loader.h"

namespace jambalaya {

namespace {

bool same_mixers(const ModelConfig& a, const ModelConfig& b) {
  const auto x = layer_kinds(a), y = layer_kinds(b);
  if (x.size() != y.size()) return false;
  for (size_t i = 0; i < x.size(); i++)
    if (x[i].mixer != y[i].mixer) return false;
  return true;
}

bool same_channels(const ModelConfig& a, const ModelConfig& b) {
  const auto x = layer_kinds(a), y = layer_kinds(b);
  if (x.size() != y.size()) return false;
  for (size_t i = 0; i < x.size(); i++)
    if (x[i].channel != y[i].channel) return false;
  return true;
}

/// "" or what the notation says where `key` says something else. Offsets are free where a period exists.
std::string disagreement(const std::string& key, const ModelConfig& given, const ModelConfig& meant,
                         const Notation& n) {
  const auto differ = [](int64_t a, int64_t b) { return a == b ? "" : cat("says ", b); };
  const bool periodic = meant.mixer_pattern.empty();
  if (key == "model.num_hidden_layers") return differ(given.num_hidden_layers, meant.num_hidden_layers);
  if (key == "model.num_experts") return differ(given.num_experts, meant.num_experts);
  if (key == "model.num_experts_per_tok") return differ(given.num_experts_per_tok, meant.num_experts_per_tok);
  if (key == "model.expert_layer_period" && n.every > 0)
    return differ(given.expert_layer_period, meant.expert_layer_period);
  if ((key == "model.attn_layer_period" || key == "model.attn_layer_offset") && !periodic)
    return cat("needs the pattern ", meant.mixer_pattern, " instead of a period");
  if (key == "model.attn_layer_period") return differ(given.attn_layer_period, meant.attn_layer_period);
  if (key == "model.attn_layer_offset" && n.attention == 0) return "has no attention layers";
  const bool comparable = problems(given).empty();
  if (key == "model.mixer_pattern" && comparable && !given.mixer_pattern.empty() &&
      !same_mixers(given, meant))
    return "means other layers; leave one of the two out";
  if (key == "model.channel_pattern" && comparable && !given.channel_pattern.empty() &&
      !same_channels(given, meant))
    return "means other layers; leave one of the two out";
  return "";
}

/// The notation that would agree with `key`, or "" when there is none so near.
std::string agreeing(const std::string& key, const ModelConfig& given, Notation n) {
  if (key == "model.num_hidden_layers" && given.num_hidden_layers % n.layers == 0)
    n.blocks = given.num_hidden_layers / n.layers;
  else if (key == "model.num_experts" && n.every > 0)
    n.experts = given.num_experts;
  else if (key == "model.num_experts_per_tok" && n.every > 0)
    n.chosen = given.num_experts_per_tok;
  else if (key == "model.expert_layer_period")
    n.every = given.expert_layer_period;
  else
    return "";
  try {
    return print_notation(parse_notation(print_notation(n)));
  } catch (const Error&) {
    return "";
  }
}

}  // namespace

void ConfigLoader::apply_notation_value(const Given& given) {
  places_[given.key] = given.place;
  try {
    if (given.node.kind != YamlNode::Kind::scalar)
      throw Error(Exit::usage, "text such as 8/1:7/2/16/2x4 is needed");
    notation_ = parse_notation(given.node.text);
    notation_place_ = given.place;
    apply_notation(*notation_, config_.model);
  } catch (const Error& e) {
    problems_.push_back(cat(given.place, ": model.notation: ", e.what()));
    // Nothing sure can be said about the keys that it would have set.
    for (const char* key : {"num_hidden_layers", "attn_layer_period", "expert_layer_period", "num_experts",
                            "num_experts_per_tok"})
      wrong_.insert(cat("model.", key));
  }
}

void ConfigLoader::compare_with_notation(const Given& given) {
  if (!notation_ || wrong_.contains(given.key) || given.key == "model.notation") return;
  ModelConfig meant;
  apply_notation(*notation_, meant);
  const std::string says = disagreement(given.key, config_.model, meant, *notation_);
  if (says.empty()) return;
  const std::string better = agreeing(given.key, config_.model, *notation_);
  problems_.push_back(cat(given.place, ": ", given.key,
                          given.node.kind == YamlNode::Kind::scalar ? cat(" = ", given.node.text) : "",
                          " disagrees with model.notation = ", print_notation(*notation_), " (",
                          notation_place_, "), which ", says,
                          better.empty() ? "" : cat("; nearest: model.notation = ", better)));
}

}  // namespace jambalaya
