#include "train/run/optimizer.h"

#include <algorithm>
#include <cmath>

#include "kernels/transfer.h"

namespace jambalaya {

namespace {
double rate_factor(const ParameterRow& row, const OptimizerSection& settings) {
  if (row.name.ends_with(".A_log")) return settings.lr_a_log;
  return row.name.ends_with(".D") ? settings.lr_d : 1.0;
}
}  // namespace

Optimizer::Optimizer(Parameters& parameters, const OptimizerSection& settings)
    : parameters_(parameters), settings_(settings) {
  const int64_t n = parameters.owned_size();
  arena_ = std::make_unique<Arena>("optimizer", 8 * n + (1 << 20), parameters.accelerator());
  m_ = arena_->tensor(DType::f32, {n}, "first moments");
  v_ = arena_->tensor(DType::f32, {n}, "second moments");
  grad_scale_ = arena_->tensor(DType::f32, {2}, "clip factor");
  squares_ = arena_->tensor(DType::f64, {2}, "gradient norm");
  if (parameters.accelerator())  // fresh host memory is zero
    for (const Tensor& moments : {m_, v_}) clear(transfer_context(parameters.accelerator()), moments);
  for (const OwnedSlice& slice : parameters.owned()) {
    const ParameterRow& row = parameters.table()[size_t(slice.row)];
    const Part& part = parameters.parts()[size_t(slice.part)];
    const Segment s{slice.part, slice.at, slice.at + slice.end - slice.begin,
                    row.decay ? settings.weight_decay : 0.0, rate_factor(row, settings)};
    Segment* const last = segments_.empty() ? nullptr : &segments_.back();
    // Over the gaps between rows, which are zero; a part with a compute copy is updated by itself.
    const bool alike = last && last->decay == s.decay && last->lr_factor == s.lr_factor;
    if (alike && (last->part == s.part || !(part.compute || parameters.parts()[size_t(last->part)].compute)))
      last->end = s.end, last->part = s.part;
    else
      segments_.push_back(s);
    const int holders = copies(row, parameters.ranks()) * shard_group(row, parameters.ranks()).replicas;
    if (!holdings_.empty() && holdings_.back().holders == holders)
      holdings_.back().end = s.end;
    else
      holdings_.push_back({s.begin, s.end, holders});
  }
}

void Optimizer::sum_squares(Context& ctx, const Tensor& out) {
  for (const Holding& h : holdings_)
    ctx.ops->sum_squares(ctx, {.x = parameters_.owned_gradient().slice_rows(h.begin, h.end),
                               .weight = 1.0 / h.holders,
                               .out = out});
}

double Optimizer::norm_of(double share, Communicator& world) {
  if (world.size() > 1) world.all_reduce(make_tensor(&share, {1}));
  return std::sqrt(share);
}

double Optimizer::gradient_norm(Context& ctx, Communicator& world) {
  clear(ctx, squares_);
  sum_squares(ctx, squares_);
  return norm_of(to_host<double>(ctx, squares_)[0], world);
}

void Optimizer::step(Context& ctx, double lr, double norm) {
  // The flag stays 0: a bad step is not made at all (train/run/bad_step.h).
  const float scale[2] = {settings_.clip > 0 ? float(std::min(1.0, settings_.clip / (norm + 1e-6))) : 1.0f,
                          0};
  copy(ctx, make_tensor(const_cast<float*>(scale), {2}), grad_scale_);
  steps_++;
  const Tensor param = parameters_.owned_master(), grad = parameters_.owned_gradient();
  for (const Segment& s : segments_) {
    const int64_t first = parameters_.parts()[size_t(s.part)].owned;
    Tensor compute = parameters_.owned_compute(s.part);
    if (compute) compute = compute.slice_rows(s.begin - first, s.end - first);
    ctx.ops->adamw(ctx, {.param = param.slice_rows(s.begin, s.end),
                         .m = m_.slice_rows(s.begin, s.end),
                         .v = v_.slice_rows(s.begin, s.end),
                         .grad = grad.slice_rows(s.begin, s.end),
                         .compute = compute,
                         .grad_scale = grad_scale_,
                         .lr = float(lr * s.lr_factor),
                         .beta1 = float(settings_.beta1),
                         .beta2 = float(settings_.beta2),
                         .eps = float(settings_.eps),
                         .decay = float(s.decay),
                         .step = steps_});
  }
}

}  // namespace jambalaya
