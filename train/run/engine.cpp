#include "train/run/engine.h"

#include <algorithm>

#include "kernels/trace.h"
#include "train/run/local_batch.h"

namespace jambalaya {

Engine::Engine(Mesh& mesh, Context& ctx, const ModelConfig& model, Precision precision,
               const OptimizerSection& settings, int64_t bucket_bytes)
    : mesh_(mesh),
      ctx_(ctx),
      parameters(model, precision, true, placement_of(mesh)),
      regions(mesh),
      sync(parameters, mesh, bucket_bytes),
      jamba(parameters, regions),
      optimizer(parameters, settings) {
  jamba.on_gradients = [this](int layer) { sync.gradients_ready(layer); };
}

void Engine::refresh() {
  parameters.refresh_compute(ctx_);
  sync.refresh();
}

StepLosses Engine::gradients(std::vector<HostBatch>& micro_batches, int64_t counted, int64_t micro_tokens) {
  const double targets = double(std::max<int64_t>(counted, 1)), micro = double(micro_batches.size());
  const LossScale scale{1 / targets, 1 / micro, double(micro_tokens)};
  double sums[kLossSums] = {};
  {
    TraceScope traced("gradients to zero", "compute");
    parameters.zero_gradients(ctx_);
  }
  for (size_t i = 0; i < micro_batches.size(); i++) {
    const LocalBatch local(mesh_, micro_batches[i]);
    sync.begin_backward(i + 1 == micro_batches.size());
    jamba.train(ctx_, local.view(), scale, make_tensor(sums, {kLossSums}));
  }
  sync.finish();
  Communicator& tokens = mesh_.tokens();
  tokens.all_reduce(make_tensor(sums, {kLossSums}));  // equal on tensor ranks
  // Terms of the whole micro-batch were added by every rank.
  sums[kAux] /= tokens.size();
  sums[kRouterZ] /= tokens.size();
  return {.objective = objective(parameters.config(), sums, scale),
          .loss = sums[kNll] / targets,
          .aux = sums[kAux] / micro,
          .router_z = sums[kRouterZ] / micro,
          .head_z = sums[kHeadZ] / targets,
          .activation = sums[kActivation] / micro,
          .counted = counted};
}

double Engine::gradient_norm() {
  TraceScope traced("gradient norm", "compute");
  return optimizer.gradient_norm(ctx_, mesh_.world());
}

void Engine::update(double lr, double norm) {
  {
    TraceScope traced("optimizer", "compute");
    optimizer.step(ctx_, lr, norm);
  }
  sync.refresh();
}

}  // namespace jambalaya
