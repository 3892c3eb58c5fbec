// The parameter table: one row per tensor. Checkpoint, export, optimizer, norm, sharding and the planner all
// read this table; no rule about a tensor lives anywhere else.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace jambalaya {

/// Whether a tensor acts on tokens that tensor ranks split among them: its gradient is then also summed over
/// those ranks.
enum class SplitTokens : uint8_t {
  never,          ///< inside the tensor-parallel part, on whole copied activations
  with_sequence,  ///< on the residual stream, which sequence parallelism splits
  always          ///< the router: every rank routes tokens of its own under any layout
};

/// How a tensor is cut over one axis of the mesh: dimension `dim`, as `blocks` equal parts that are each cut
/// separately (in_proj is [x; z]: 2 blocks). dim < 0: a copy on every rank.
struct Placement {
  int tensor_dim = -1;  ///< cut over tensor ranks (expert-tensor ranks for the weights of experts)
  int blocks = 1;
  bool expert =
      false;  ///< dimension 0 is the expert, cut over expert ranks; gradient summed over expert-data ranks
  SplitTokens split_tokens = SplitTokens::never;
  int64_t kv_heads = 0;  ///< the rows are so many key/value heads: copied when tensor ranks are more
};

enum class Init : uint8_t { normal, normal_scaled, zeros, ones, a_log, dt_weight, dt_bias, conv };

struct ParameterRow {
  std::string name;            ///< "layers.3.mamba.in_proj.weight"
  std::vector<int64_t> shape;  ///< global
  Placement placement;
  bool decay = false;  ///< weight decay: projections, router, experts, head; nothing else
  bool compute_copy =
      false;  ///< a matrix that the model reads in the compute precision; others are read in fp32
  bool read_twice = false;  ///< read in fp32 besides its compute copy (an embedding that is the head too)
  Init init = Init::normal;
  int64_t fan_in = 1;  ///< for the uniform starts
  int layer = -1;      ///< -1: embedding, num_hidden_layers: final norm and head
  int64_t numel() const;
};

/// All tensors of a model in their fixed order: embedding, layers, final norm, head (absent when tied).
std::vector<ParameterRow> parameter_table(const ModelConfig& config);

struct ParameterCount {
  int64_t total = 0, active = 0, embedding = 0;
};
ParameterCount count_parameters(const ModelConfig& config);

/// Values of elements [begin, end) (global flat index) of a row's start. Layout-free: any rank may ask for
/// any part.
void initial_values(const ModelConfig& config, const ParameterRow& row, uint64_t seed, int64_t begin,
                    int64_t end, float* out);

}  // namespace jambalaya
