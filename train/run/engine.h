// One optimizer step under any layout: forward and backward of this rank's share of the batch, gradients
// reduced, norm, update. The run, `compare` and the tests go through it.
#pragma once
#include <functional>
#include <vector>

#include "data/batch.h"
#include "model/jamba.h"
#include "model/parameter_sync.h"
#include "train/config.h"
#include "train/run/optimizer.h"

namespace jambalaya {

class Engine {
 public:
  Engine(Mesh& mesh, Context& ctx, const ModelConfig& model, Precision precision,
         const OptimizerSection& optimizer, int64_t bucket_bytes = 4 << 20);

  /// What a step's losses come to, over all ranks.
  struct Losses {
    double objective = 0;                   ///< what the gradients are of
    double loss = 0;                        ///< nats a counted target
    double aux = 0, router_z = 0, head_z = 0, activation = 0;
    int64_t counted = 0;                    ///< targets of the batch
  };
  /// Micro-batches of this data rank; all context and tensor ranks of a data rank are given the same. Gradients
  /// are zeroed before and, after, those of the mean loss of the whole batch.
  /// micro_tokens: tokens of one micro-batch over all data ranks.
  Losses gradients(const std::vector<HostBatch>& micro_batches, int64_t micro_tokens);
  /// Over all distinct elements, the same on every rank; NaN when any gradient is.
  double gradient_norm() { return optimizer.gradient_norm(ctx_); }
  void update(double lr, double norm);
  double reduce_seconds() const { return sync.wait_seconds(); }  ///< of the last gradients(): not hidden

 private:
  Mesh& mesh_;
  Context& ctx_;

 public:
  Parameters parameters;
  Regions regions;
  ParameterSync sync;
  Jamba jamba;
  Optimizer optimizer;
};

}  // namespace jambalaya
