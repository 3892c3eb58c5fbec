#include "model/layout_limits.h"

namespace jambalaya {

LayoutLimits layout_limits(const ModelConfig& config) {
  LayoutLimits limits;
  for (const LayerKind& layer : layer_kinds(config)) {
    if (layer.mixer == Mixer::attention) {
      limits.heads = config.num_attention_heads;
      limits.kv_heads = config.num_key_value_heads;
    } else {
      limits.channels = config.inner_size();
    }
    if (layer.channel == Channel::moe) limits.experts = config.num_experts;
  }
  return limits;
}

}  // namespace jambalaya
