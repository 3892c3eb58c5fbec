// The parameter table. Shapes: V vocabulary, D width, H/G query/key heads, C head size, E inner channels, N
// states, R dt rank, W conv width, F feed-forward width, X experts. All matrices are [out, in].
#include "model/table.h"

#include <utility>

#include "kernels/error.h"

namespace jambalaya {

namespace {

struct TableBuilder {
  std::vector<ParameterRow> rows;
  std::string prefix;
  int layer = -1;

  ParameterRow& add(const std::string& name, std::vector<int64_t> shape, Init init) {
    ParameterRow row;
    row.name = prefix + name;
    row.shape = std::move(shape);
    row.init = init;
    row.layer = layer;
    rows.push_back(std::move(row));
    return rows.back();
  }
  /// A matrix of a product: decays, and is read in the compute precision.
  ParameterRow& matrix(const std::string& name, std::vector<int64_t> shape, int tensor_dim,
                       Init init = Init::normal) {
    ParameterRow& row = add(name, std::move(shape), init);
    row.decay = row.compute_copy = true;
    row.placement.tensor_dim = tensor_dim;
    row.fan_in = row.shape.back();
    return row;
  }
  /// A value per channel, cut with the channels: read in fp32, never decays.
  ParameterRow& channels(const std::string& name, std::vector<int64_t> shape, Init init) {
    ParameterRow& row = add(name, std::move(shape), init);
    row.placement.tensor_dim = 0;
    return row;
  }
  /// Norms of the residual stream act on tokens that sequence parallelism splits.
  void block_norm(const std::string& name, int64_t width) {
    add(name, {width}, Init::ones).placement.split_tokens = SplitTokens::with_sequence;
  }
};

void attention_rows(TableBuilder& t, const ModelConfig& m) {
  int64_t d = m.hidden_size, c = m.head_size();
  t.matrix("self_attn.q_proj.weight", {m.num_attention_heads * c, d}, 0);
  t.matrix("self_attn.k_proj.weight", {m.num_key_value_heads * c, d}, 0).placement.kv_heads =
      m.num_key_value_heads;
  t.matrix("self_attn.v_proj.weight", {m.num_key_value_heads * c, d}, 0).placement.kv_heads =
      m.num_key_value_heads;
  t.matrix("self_attn.o_proj.weight", {d, m.num_attention_heads * c}, 1, Init::normal_scaled);
}

void mamba_rows(TableBuilder& t, const ModelConfig& m) {
  int64_t d = m.hidden_size, e = m.inner_size(), n = m.mamba_d_state, r = m.dt_rank(), w = m.mamba_d_conv;
  t.matrix("mamba.in_proj.weight", {2 * e, d}, 0).placement.blocks = 2;
  if (m.mamba_proj_bias) t.channels("mamba.in_proj.bias", {2 * e}, Init::zeros).placement.blocks = 2;
  t.channels("mamba.conv1d.weight", {e, w}, Init::conv).fan_in = w;
  if (m.mamba_conv_bias) t.channels("mamba.conv1d.bias", {e}, Init::conv).fan_in = w;
  t.matrix("mamba.x_proj.weight", {r + 2 * n, e}, 1);
  // Inside the tensor-parallel part, on whole copied activations: unlike the block norms, not summed for
  // sequence parallelism (docs/architecture.md).
  if (m.inner_norms == InnerNorms::dt || m.inner_norms == InnerNorms::all)
    t.add("mamba.dt_layernorm.weight", {r}, Init::ones);
  if (m.inner_norms == InnerNorms::bc || m.inner_norms == InnerNorms::all) {
    t.add("mamba.b_layernorm.weight", {n}, Init::ones);
    t.add("mamba.c_layernorm.weight", {n}, Init::ones);
  }
  t.matrix("mamba.dt_proj.weight", {e, r}, 0, Init::dt_weight);
  t.channels("mamba.dt_proj.bias", {e}, Init::dt_bias);
  t.channels("mamba.A_log", {e, n}, Init::a_log);
  t.channels("mamba.D", {e}, Init::ones);
  t.matrix("mamba.out_proj.weight", {d, e}, 1, Init::normal_scaled);
  if (m.mamba_proj_bias)
    t.add("mamba.out_proj.bias", {d}, Init::zeros).placement.split_tokens = SplitTokens::with_sequence;
}

void dense_rows(TableBuilder& t, const ModelConfig& m) {
  t.matrix("feed_forward.gate_up_proj.weight", {2 * m.intermediate_size, m.hidden_size}, 0).placement.blocks =
      2;
  t.matrix("feed_forward.down_proj.weight", {m.hidden_size, m.intermediate_size}, 1, Init::normal_scaled);
}

void moe_rows(TableBuilder& t, const ModelConfig& m) {
  int64_t x = m.num_experts, d = m.hidden_size, f = m.intermediate_size;
  ParameterRow& router = t.matrix("feed_forward.router.weight", {x, d}, -1);
  router.placement.split_tokens = SplitTokens::always;
  router.compute_copy = !m.router_fp32;
  Placement& up = t.matrix("feed_forward.experts.gate_up_proj", {x, 2 * f, d}, 1).placement;
  up.blocks = 2;
  up.expert = true;
  t.matrix("feed_forward.experts.down_proj", {x, d, f}, 2, Init::normal_scaled).placement.expert = true;
}

}  // namespace

int64_t ParameterRow::numel() const {
  int64_t n = 1;
  for (int64_t s : shape) n *= s;
  return n;
}

std::vector<ParameterRow> parameter_table(const ModelConfig& m) {
  TableBuilder t;
  ParameterRow& embedding = t.matrix("embed_tokens.weight", {m.vocab_size, m.hidden_size}, 0);
  embedding.decay = false;
  // Rows are looked up in fp32; only as the head is it the matrix of a product.
  embedding.compute_copy = embedding.read_twice = m.tie_word_embeddings;
  std::vector<LayerKind> kinds = layer_kinds(m);
  for (int i = 0; i < int(kinds.size()); i++) {
    t.prefix = cat("layers.", i, ".");
    t.layer = i;
    t.block_norm("input_layernorm.weight", m.hidden_size);
    kinds[size_t(i)].mixer == Mixer::attention ? attention_rows(t, m) : mamba_rows(t, m);
    t.block_norm("pre_ff_layernorm.weight", m.hidden_size);
    kinds[size_t(i)].channel == Channel::moe ? moe_rows(t, m) : dense_rows(t, m);
  }
  t.prefix = "";
  t.layer = int(kinds.size());
  t.block_norm("final_layernorm.weight", m.hidden_size);
  if (!m.tie_word_embeddings) t.matrix("lm_head.weight", {m.vocab_size, m.hidden_size}, 0);
  return std::move(t.rows);
}

ParameterCount count_parameters(const ModelConfig& config) {
  ParameterCount count;
  for (const ParameterRow& row : parameter_table(config)) {
    count.total += row.numel();
    count.active +=
        row.placement.expert ? row.numel() / config.num_experts * config.num_experts_per_tok : row.numel();
    if (row.name == "embed_tokens.weight") count.embedding = row.numel();
  }
  return count;
}

}  // namespace jambalaya
