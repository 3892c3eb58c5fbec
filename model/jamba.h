// The model: embedding, layers, final norm, head with its loss. Forward, backward, prefill and step.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "kernels/documents.h"
#include "kernels/ops.h"
#include "model/config.h"
#include "model/parameters.h"
#include "parallel/context_shard.h"
#include "parallel/regions.h"

namespace jambalaya {

/// Tokens of one micro-batch on this rank, packed; documents never see each other. All of it may lie in host
/// memory, which may be changed once the call that takes it has returned.
struct Batch {
  Tensor ids;      ///< i32 [T]
  Tensor targets;  ///< i32 [T]: the next token of the same document; negative where there is none or it is
                   ///< not counted
  Documents docs;
  /// Where these tokens lie in sequences cut over Mesh::context(); null: sequences are whole. docs are then
  /// those of the shard.
  const ContextShard* context = nullptr;
};

enum class Recompute : uint8_t { off, mamba, layer };

/// Scales that make gradients those of the mean loss of the whole global batch.
struct LossScale {
  double token = 1;         ///< 1 / counted targets of the whole batch (all ranks, all micro-batches)
  double micro = 1;         ///< 1 / micro-batches of the step: weight of the per-micro-batch losses
  double micro_tokens = 0;  ///< tokens of this micro-batch over all ranks that share it
};

/// Where the sums of a step are added up: f64 [kLossSums] in the context's memory. Each is this context
/// shard's part, or that of the whole micro-batch where it says so, and equal on all tensor ranks, which see
/// the same tokens: sums over Mesh::tokens() are those of the batch.
enum LossSum : int {
  kNll,         ///< nats over counted targets
  kHeadZ,       ///< squared logsumexp of the output logits over counted targets
  kAux,         ///< balance loss of the global micro-batch, without its coefficient (the same on every rank)
  kRouterZ,     ///< mean squared logsumexp of the router logits (the same on every rank)
  kActivation,  ///< sum over branches of their mean square over the global micro-batch, this shard's share
  kLossSums
};
/// The objective: (nll + head_z_coef head_z) token + (aux_coef aux + router_z_coef router_z + act_alpha
/// activation) micro.
double objective(const ModelConfig& config, const double sums[kLossSums], const LossScale& scale);

/// What a step tells about a layer (cheap sums gathered in the forward).
struct LayerTelemetry {
  float delta_min = 0, delta_max = 0;     ///< Mamba: range of the step size
  double mixer_max = 0, channel_max = 0;  ///< largest |output| of each branch
  std::vector<float>
      expert_load;  ///< share of the micro-batch's choices that went to each expert (sums to 1)
};

/// Key/value cache and recurrent state of a batch of sequences.
class DecodeState;

class Jamba {
 public:
  /// Computes where the parameters are. `saved_bytes` bounds the arena that keeps activations for the
  /// backward.
  Jamba(Parameters& parameters, Regions& regions, int64_t saved_bytes = int64_t(1) << 40);
  ~Jamba();
  const ModelConfig& config() const;

  /// Called in the backward when all gradients of a table layer (see ParameterRow::layer) are final.
  std::function<void(int layer)> on_gradients;
  Recompute recompute = Recompute::off;
  bool telemetry = false;

  // Every rank of the world makes the same calls at the same time, without tokens where it has none; tensor
  // ranks pass the same tokens. Contexts are those of the parameters' device and its compute stream. Results
  // lie in the context's memory. The host waits for the device only where experts on several ranks exchange
  // rows (ExpertRoute).

  /// Forward and backward of one micro-batch; gradients are added to what is there.
  void train(Context& ctx, const Batch& batch, const LossScale& scale, Tensor sums);
  /// Of the last forward with telemetry on. Waits for the device; all tensor ranks call it together and get
  /// the same.
  std::vector<LayerTelemetry> layer_telemetry() const;

  /// Forward alone. Optional: nll f32 [T] per token, correct u8 [T], logits f32 [T, V] (small inputs: it is
  /// whole). Results are equal on all tensor ranks.
  void evaluate(Context& ctx, const Batch& batch, Tensor sums, Tensor nll = {}, Tensor correct = {},
                Tensor logits = {});

  /// Continues the sequences of `state` by the tokens of `batch` (segment s belongs to sequence slot s;
  /// lengths may differ, also 0; ids may lie in host memory) and writes the logits of each segment's last
  /// token: f32 [S, V], equal on all tensor ranks. Works for prefill in chunks of any size and for single
  /// steps alike.
  void extend(Context& ctx, DecodeState& state, const Tensor& ids, const std::vector<int64_t>& lengths,
              Tensor logits);

  Arena& saved_arena();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class DecodeState {
 public:
  /// `sequences` slots of at most `max_length` tokens; `tensors` ranks share heads and channels, whose shares
  /// are of equal size. In the memory of `accelerator`, or of the host where it is null.
  DecodeState(const ModelConfig& config, Precision precision, int64_t sequences, int64_t max_length,
              int tensors = 1, Accelerator* accelerator = nullptr);
  int64_t sequences() const { return sequences_; }
  int64_t max_length() const { return max_length_; }
  int64_t length(int64_t slot) const { return lengths_[size_t(slot)]; }
  void reset(int64_t slot);
  int64_t kv_bytes() const;         ///< of all slots at max_length, on this rank
  int64_t recurrent_bytes() const;  ///< convolution and scan states, whatever the length

 private:
  friend class Jamba;
  struct Layer {
    Tensor keys, values;  ///< act [S * max_length, G * C], G this rank's key heads
    Tensor conv, ssm;     ///< f32 [S, W-1, E], [S, N, E], E this rank's channels
  };
  int64_t sequences_, max_length_;
  Accelerator* accelerator_;
  std::vector<int64_t> lengths_;
  std::vector<Layer> layers_;
  std::unique_ptr<Arena> arena_;
};

}  // namespace jambalaya
