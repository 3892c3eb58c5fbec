#include "train/run/engine.h"

#include <algorithm>

#include "kernels/trace.h"
#include "kernels/transfer.h"
#include "train/run/copies.h"
#include "train/run/local_batch.h"

namespace jambalaya {

Engine::Engine(Mesh& mesh, Context& ctx, const ModelConfig& model, Precision precision,
               const OptimizerSection& settings, int64_t bucket_bytes)
    : mesh_(mesh),
      ctx_(ctx),
      arena_("step figures", 1 << 20, ctx.accelerator),
      figures_(arena_.tensor(DType::f64, {kFigures}, "step figures")),
      figures_on_host_(ctx.accelerator),
      parameters(model, precision, true, placement_of(mesh), ctx.accelerator),
      regions(mesh),
      sync(parameters, mesh, bucket_bytes),
      jamba(parameters, regions),
      optimizer(parameters, settings),
      guard(parameters, optimizer, mesh.world().rank()) {
  // Before a step: page-locking may wait for the device, which may be in a collective.
  if (ctx.accelerator) figures_on_host_.take(figures_.bytes());
  jamba.on_gradients = [this](int layer) { sync.gradients_ready(layer); };
}

void Engine::refresh() {
  guard.forget();
  parameters.refresh_compute(ctx_);
  sync.refresh();
}

StepLosses Engine::gradients(std::vector<HostBatch>& micro_batches, int64_t counted, int64_t micro_tokens) {
  const double targets = double(std::max<int64_t>(counted, 1)), micro = double(micro_batches.size());
  const LossScale scale{1 / targets, 1 / micro, double(micro_tokens)};
  const Tensor loss_sums = figures_.slice_rows(0, kLossSums);
  clear(ctx_, figures_);
  {
    TraceScope traced("gradients to zero", "compute");
    parameters.zero_gradients(ctx_);
  }
  for (size_t i = 0; i < micro_batches.size(); i++) {
    const LocalBatch local(ctx_, mesh_, micro_batches[i]);
    sync.begin_backward(i + 1 == micro_batches.size());
    jamba.train(ctx_, local.view(), scale, loss_sums);
  }
  sync.finish();
  std::vector<double> figures;
  {
    TraceScope traced("gradient norm", "compute");
    optimizer.sum_squares(ctx_, figures_.slice_rows(kLossSums, kFigures));
    figures = read_figures();
  }
  double* const sums = figures.data();
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
          .counted = counted,
          .gradient_norm = Optimizer::norm_of(sums[kLossSums], mesh_.world())};
}

/// The one wait of a step.
std::vector<double> Engine::read_figures() {
  if (!ctx_.accelerator) return to_host<double>(ctx_, figures_);
  auto* const host = static_cast<double*>(figures_on_host_.take(figures_.bytes()));
  copy(ctx_, figures_, make_tensor(host, {kFigures}));
  synchronize(ctx_);
  return {host, host + kFigures};
}

int64_t Engine::arena_bytes() {
  const Arena* const ring = sync.ring_arena();
  return parameters.parameter_arena().in_use() + parameters.gradient_arena()->in_use() +
         optimizer.first_moments().bytes() + optimizer.second_moments().bytes() +
         (ring ? ring->in_use() : 0) + jamba.saved_arena().high_water();
}

void Engine::update(double lr, double norm, int64_t step) {
  check_memory();
  {
    TraceScope traced("optimizer", "compute");
    optimizer.step(ctx_, lr, norm);
  }
  guard.forget();
  sync.refresh();
  if (verify_every == 0 || step % verify_every != 0) return;
  guard.remember(ctx_, step);
  check_copies(parameters, mesh_.world());
}

}  // namespace jambalaya
