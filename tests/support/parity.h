// One small model and one global batch that hold every hard case, for layouts to agree on: fewer key/value
// heads than ranks, sizes that nothing divides, an expert that nobody chooses, documents that begin inside
// every shard and one that spans several, all losses on.
#pragma once
#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "data/batch.h"
#include "kernels/philox.h"
#include "model/jamba.h"

namespace jambalaya::test {

inline ModelConfig parity_model() {
  ModelConfig c;
  c.vocab_size = 37;
  c.hidden_size = 16;
  c.intermediate_size = 13;
  c.num_hidden_layers = 4;
  c.num_attention_heads = 8;
  c.num_key_value_heads = 2;
  c.mixer_pattern = "MAMM";
  c.channel_pattern = "EDED";
  c.num_experts = 8;
  c.num_experts_per_tok = 2;
  c.mamba_d_state = 4;
  c.mamba_dt_rank = 3;
  c.rope_theta = 100;  // positions must survive the cut of a document
  c.router_aux_loss_coef = 0.05;
  c.router_z_loss_coef = 0.01;
  c.head_z_loss_coef = 0.01;
  c.act_loss_alpha = 0.01;
  c.initializer_range = 0.3;
  return c;
}

/// The opposite of every knob: tied head, biases, no inner norms on B and C, weights renormalised, loss by
/// layer, another size for every part.
inline ModelConfig other_parity_model() {
  ModelConfig c = parity_model();
  c.num_key_value_heads = 8;
  c.mixer_pattern = "AMMM";
  c.channel_pattern = "DEEE";
  c.tie_word_embeddings = true;
  c.mamba_proj_bias = true;
  c.mamba_conv_bias = false;
  c.mamba_d_conv = 2;
  c.inner_norms = InnerNorms::dt;
  c.rope_theta = 0;
  c.router_renormalize = true;
  c.router_fp32 = false;
  c.aux_mode = AuxMode::per_layer;
  c.residual_fp32 = false;
  c.pad_token_id = 7;  // among the ids: its row gets no gradient
  return c;
}

/// Lengths of the documents in each of 8 rows of unequal length, 192 tokens in all, so that shards of 24
/// tokens end inside documents and one document spans four of them.
using RowsOfDocuments = std::vector<std::vector<int64_t>>;
inline RowsOfDocuments parity_rows(int micro_batch) {
  RowsOfDocuments rows = {{3, 28}, {17}, {1, 25}, {52}, {4, 5}, {8}, {13, 15}, {1, 1, 19}};
  if (micro_batch % 2) std::reverse(rows.begin(), rows.end());
  return rows;
}
constexpr int kParityRows = 8;
/// So few tokens that a convolution reaches over several shards, and that some ranks have none.
inline RowsOfDocuments few_rows() { return {{1}, {5}, {}, {}, {2}, {}, {}, {}}; }

/// Rows [first, last) of a micro-batch, the same for every layout.
inline HostBatch parity_batch(const ModelConfig& model, int step, int micro_batch, int first, int last,
                              const RowsOfDocuments& rows) {
  const uint64_t key = hash_name(7, "parity");
  HostBatch batch;
  int64_t at = (int64_t(step) * 2 + micro_batch) * 192;
  int row = 0;
  for (const std::vector<int64_t>& documents : rows) {
    const bool mine = row >= first && row < last;
    row++;
    for (int64_t length : documents) {
      for (int64_t i = 0; i < length; i++, at++) {
        if (!mine) continue;
        const auto id = int32_t(1 + uniform_at(key, uint64_t(at)) * float(model.vocab_size - 1));
        if (i > 0) batch.targets.back() = i % 11 == 5 ? -100 : id;  // some targets are not counted
        batch.ids.push_back(id);
        batch.targets.push_back(-100);
      }
      if (mine) batch.lengths.push_back(length);
    }
  }
  for (int32_t t : batch.targets) batch.counted += t >= 0;
  return batch;
}

inline double relative_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, reference = 0;
  for (size_t i = 0; i < a.size(); i++) {
    difference += (double(a[i]) - double(b[i])) * (double(a[i]) - double(b[i]));
    reference += double(b[i]) * double(b[i]);
  }
  return difference == 0 ? 0 : std::sqrt(difference / std::max(reference, 1e-60));
}

}  // namespace jambalaya::test
