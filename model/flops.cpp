#include "model/flops.h"

namespace jambalaya {

Flops forward_flops(const ModelConfig& m, const std::vector<int64_t>& lengths) {
  double tokens = 0, visible = 0;  // visible: query-key pairs under the causal mask
  for (int64_t n : lengths) {
    tokens += double(n);
    visible += double(n) * double(n + 1) / 2;
  }
  const double d = double(m.hidden_size), f = double(m.intermediate_size), e = double(m.inner_size()),
               n = double(m.mamba_d_state);
  const double r = double(m.dt_rank()), hc = double(m.num_attention_heads * m.head_size()),
               gc = double(m.num_key_value_heads * m.head_size());
  Flops flops;
  for (LayerKind kind : layer_kinds(m)) {
    if (kind.mixer == Mixer::attention) {
      flops.attention += tokens * 2 * d * (2 * hc + 2 * gc) + 4 * hc * visible;
    } else {
      double products = 2 * d * 2 * e + 2 * e * (r + 2 * n) + 2 * r * e + 2 * e * d;
      flops.mamba += tokens * (products + 2 * double(m.mamba_d_conv) * e + 6 * e * n);
    }
    if (kind.channel == Channel::moe)
      flops.experts += tokens * (6 * d * f * double(m.num_experts_per_tok) + 2 * d * double(m.num_experts));
    else
      flops.dense += tokens * 6 * d * f;
  }
  flops.head = tokens * 2 * d * double(m.vocab_size);
  return flops;
}

}  // namespace jambalaya
