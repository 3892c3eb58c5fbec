// One optimizer step under any layout: forward and backward of this rank's share of the batch, gradients
// reduced, norm, update. The run, `compare` and the tests all go through it.
#pragma once
#include <vector>

#include "data/batch.h"
#include "model/jamba.h"
#include "model/parameter_sync.h"
#include "parallel/pinned_buffer.h"
#include "train/config.h"
#include "train/run/guard.h"
#include "train/run/optimizer.h"

namespace jambalaya {

/// What the losses of a step come to, over all ranks; the same on every rank.
struct StepLosses {
  double objective = 0;                                      ///< what the gradients are of
  double loss = 0;                                           ///< nats a counted target
  double aux = 0, router_z = 0, head_z = 0, activation = 0;  ///< without their coefficients
  int64_t counted = 0;                                       ///< targets of the batch
  double gradient_norm = 0;  ///< over all distinct elements; NaN when any gradient is
};

class Engine {
 public:
  /// Tensors of this rank of the mesh, not yet started or loaded: fill them and call refresh().
  Engine(Mesh& mesh, Context& ctx, const ModelConfig& model, Precision precision,
         const OptimizerSection& settings, int64_t bucket_bytes);

  /// The masters have changed.
  void refresh();
  /// Forward and backward of a batch. micro_batches: those of this data rank; all its context and tensor
  /// ranks are given the same. counted: targets of the whole batch; micro_tokens: tokens of one micro-batch
  /// over all data ranks. Gradients are zeroed before; afterwards they are those of the mean loss of the
  /// whole batch. On a device all of it is enqueued and then waited for once, for the losses and the norm.
  StepLosses gradients(std::vector<HostBatch>& micro_batches, int64_t counted, int64_t micro_tokens);
  /// One update with gradients of that norm (StepLosses::gradient_norm), the run's `step`. Waits for nothing
  /// but, with verify_every, for hashes: collective then, and Error(failed) when memory has changed by itself
  /// or copies have drifted apart.
  void update(double lr, double norm, int64_t step = 0);
  /// That what the last update left is still there, if it was remembered. Error(failed) on the rank alone.
  void check_memory() { guard.check(ctx_); }
  /// Memory of all that a step holds but ctx.scratch: tensors of the model and optimizer, and the most that
  /// activations took.
  int64_t arena_bytes();

 private:
  /// What a step is asked, read together: f64 [kLossSums] and, after them, the squared norm (SumSquares).
  static constexpr int64_t kFigures = kLossSums + 2;
  Mesh& mesh_;
  Context& ctx_;
  Arena arena_;
  Tensor figures_;
  PinnedBuffer figures_on_host_;
  std::vector<double> read_figures();

 public:
  Parameters parameters;
  Regions regions;
  ParameterSync sync;
  Jamba jamba;
  Optimizer optimizer;
  MemoryGuard guard;
  int64_t verify_every = 0;  ///< steps between hashes of weights and moments (train.verify_every); 0: never
};

}  // namespace jambalaya
