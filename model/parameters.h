// The parameter table: one row per tensor. Checkpoint, export, optimizer, norm, sharding and the planner all
// read this table; no rule about a tensor lives anywhere else.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/context.h"
#include "kernels/tensor.h"
#include "model/config.h"

namespace jambalaya {

/// How a tensor is cut over one axis of the mesh: dimension `dim`, as `blocks` equal parts that are each cut
/// separately (in_proj is [x; z]: 2 blocks). dim < 0: a copy on every rank.
struct Placement {
  int tensor_dim = -1;  ///< cut over tensor ranks
  int blocks = 1;
  bool expert =
      false;  ///< dimension 0 is the expert, cut over expert ranks; gradient summed over expert-data ranks
  bool sequence_sum =
      false;  ///< acts on tokens split by sequence parallelism: gradient also summed over tensor ranks
  bool kv_heads = false;  ///< rows are key/value heads: copied when there are fewer heads than tensor ranks
};

enum class Init : uint8_t { normal, normal_scaled, zeros, ones, a_log, dt_weight, dt_bias, conv };

struct ParameterRow {
  std::string name;            ///< "layers.3.mamba.in_proj.weight"
  std::vector<int64_t> shape;  ///< global
  Placement placement;
  bool decay = false;  ///< weight decay: projections, router, experts, head; nothing else
  bool compute_copy =
      false;  ///< a matrix that the model reads in the compute precision; others are read in fp32
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

/// Parameters, gradients and compute copies in flat buffers, rows in table order, each row 64-byte aligned.
/// On one rank a row is whole; the local shape follows from its placement.
class Parameters {
 public:
  Parameters(const ModelConfig& config, Precision precision, bool with_gradients);
  ~Parameters();

  const ModelConfig& config() const { return config_; }
  Precision precision() const { return precision_; }
  const std::vector<ParameterRow>& table() const { return table_; }
  /// Index of the row of that name; throws std::logic_error when there is none.
  int index(const std::string& name) const;
  bool has(const std::string& name) const;

  Tensor master(int row) const;    ///< f32, local shape
  Tensor gradient(int row) const;  ///< f32, local shape
  Tensor compute(int row) const;   ///< what the model reads: bf16 copy or the master itself

  // Flat views over all rows, alignment gaps (always zero) included: optimizer, reduction.
  int64_t flat_size() const { return flat_size_; }
  int64_t offset(int row) const { return offsets_[size_t(row)]; }
  Tensor flat_master() const;
  Tensor flat_gradient() const;
  Tensor flat_compute() const;  ///< bf16, empty in fp32

  /// Starts every tensor from (seed, name, global element index): the same values under every layout.
  void initialize(uint64_t seed, ThreadPool* pool = nullptr);
  /// Rewrites compute copies from the masters (after loading).
  void refresh_compute(Context& ctx);
  void zero_gradients(Context& ctx);

 private:
  ModelConfig config_;
  Precision precision_;
  std::vector<ParameterRow> table_;
  std::vector<int64_t> offsets_;
  int64_t flat_size_ = 0;
  std::unique_ptr<Arena> parameter_arena_, gradient_arena_;
  Tensor flat_master_, flat_gradient_, flat_compute_;
};

/// Values of elements [begin, end) (global flat index) of a row's start. Layout-free: any rank may ask for
/// any part.
void initial_values(const ModelConfig& config, const ParameterRow& row, uint64_t seed, int64_t begin,
                    int64_t end, float* out);

}  // namespace jambalaya
