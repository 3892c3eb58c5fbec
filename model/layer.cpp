#include "kernels/trace.h"
#include "model/stack.h"

namespace jambalaya {

int find_row(const Parameters& parameters, int layer, const char* name) {
  std::string full = cat("layers.", layer, ".", name);
  return parameters.has(full) ? parameters.index(full) : -1;
}

Layer::Layer(const Parameters& p, int index, LayerKind k)
    : kind(k),
      index_(index),
      norm1_(find_row(p, index, "input_layernorm.weight")),
      norm2_(find_row(p, index, "pre_ff_layernorm.weight")) {
  if (kind.mixer == Mixer::attention)
    attention = std::make_unique<Attention>(p, index);
  else
    mamba = std::make_unique<Mamba>(p, index);
  if (kind.channel == Channel::moe)
    moe = std::make_unique<Moe>(p, index);
  else
    mlp = std::make_unique<DenseMlp>(p, index);
}

Tensor Layer::forward(const Pass& pass, const Tensor& h, const Tensor& branch, const Tensor& h_mid,
                      const Tensor& out, const BranchStatistics& statistics, const LayerState* state) {
  TraceScope traced("layer forward", "compute", "layer", index_);
  const int64_t t = pass.rows(), d = pass.config.hidden_size;
  const float eps = float(pass.config.rms_norm_eps);
  Ops& ops = pass.ops();
  Saved& s = saved_;
  s = {};
  s.h_in = branch ? pass.keep(pass.residual(), {t, d}, "residual stream") : h;
  s.h_mid = h_mid;
  s.y1 = pass.keep(pass.act(), {t, d}, "norm output");
  s.y2 = pass.keep(pass.act(), {t, d}, "norm output");
  s.rstd1 = pass.keep(DType::f32, {t}, "norm statistics");
  s.rstd2 = pass.keep(DType::f32, {t}, "norm statistics");
  s.mixed = pass.keep(pass.act(), {t, d}, "mixer output");
  s.out = out;

  ops.rms_norm_forward(pass.ctx, {.h = h,
                                  .branch = branch,
                                  .weight = pass.parameters.value(norm1_),
                                  .eps = eps,
                                  .h_out = s.h_in,
                                  .y = s.y1,
                                  .rstd = s.rstd1});
  mixer_forward(pass, state);
  ops.rms_norm_forward(pass.ctx, {.h = s.h_in,
                                  .branch = s.mixed,
                                  .weight = pass.parameters.value(norm2_),
                                  .eps = eps,
                                  .h_out = s.h_mid,
                                  .y = s.y2,
                                  .rstd = s.rstd2});
  channel_forward(pass);

  for (const Tensor& x : {s.mixed, out})
    if (statistics.activation)
      ops.sum_squares(pass.ctx, {.x = x, .weight = statistics.weight, .out = statistics.activation});
  if (statistics.mixer) ops.sum_squares(pass.ctx, {.x = s.mixed, .out = statistics.mixer});
  if (statistics.channel) ops.sum_squares(pass.ctx, {.x = out, .out = statistics.channel});
  return s.h_in;
}

void Layer::mixer_forward(const Pass& pass, const LayerState* state) {
  const Saved& s = saved_;
  TraceScope traced(attention ? "attention forward" : "mamba forward", "compute", "layer", index_);
  if (attention)
    attention->forward(pass, s.y1, s.mixed, state);
  else
    mamba->forward(pass, s.y1, s.mixed, state);
}

void Layer::channel_forward(const Pass& pass) {
  const Saved& s = saved_;
  TraceScope traced(moe ? "experts forward" : "mlp forward", "compute", "layer", index_);
  if (moe)
    moe->forward(pass, s.y2, s.out);
  else
    mlp->forward(pass, s.y2, s.out);
}

void Layer::mixer_backward(const Pass& pass, const Tensor& dmixed, const Tensor& dx) {
  TraceScope traced(attention ? "attention backward" : "mamba backward", "compute", "layer", index_);
  if (attention)
    attention->backward(pass, saved_.y1, dmixed, dx);
  else
    mamba->backward(pass, saved_.y1, dmixed, dx);
}

void Layer::channel_backward(const Pass& pass, const Tensor& dout, const Tensor& dx) {
  TraceScope traced(moe ? "experts backward" : "mlp backward", "compute", "layer", index_);
  if (moe)
    moe->backward(pass, saved_.y2, dout, dx);
  else
    mlp->backward(pass, saved_.y2, dout, dx);
}

/// Gradient of a branch's output: that of the residual stream, plus the activation loss's own.
Tensor Layer::branch_gradient(const Pass& pass, const Tensor& dh, const Tensor& output,
                              float activation_weight) const {
  if (activation_weight == 0) return as_dtype(pass, dh, pass.act(), "branch gradient");
  Tensor dy = pass.scratch(pass.act(), {dh.rows(), dh.columns()}, "branch gradient");
  pass.ops().scale_copy(pass.ctx, {.x = dh, .y = dy});
  pass.ops().scale_copy(pass.ctx, {.x = output, .y = dy, .alpha = activation_weight, .accumulate = true});
  return dy;
}

void Layer::backward(const Pass& pass, const Tensor& dh, float activation_weight) {
  TraceScope traced("layer backward", "compute", "layer", index_);
  ArenaScope scope(*pass.ctx.scratch);
  const Saved& s = saved_;
  Tensor dx = pass.scratch(DType::f32, {dh.rows(), dh.columns()}, "branch input gradient");

  Tensor dout = branch_gradient(pass, dh, s.out, activation_weight);
  channel_backward(pass, dout, dx);
  pass.ops().rms_norm_backward(pass.ctx, {.dy = dx,
                                          .h = s.h_mid,
                                          .weight = pass.parameters.value(norm2_),
                                          .rstd = s.rstd2,
                                          .dh = dh,
                                          .dweight = pass.parameters.gradient(norm2_)});

  Tensor dmixed = branch_gradient(pass, dh, s.mixed, activation_weight);
  mixer_backward(pass, dmixed, dx);
  pass.ops().rms_norm_backward(pass.ctx, {.dy = dx,
                                          .h = s.h_in,
                                          .weight = pass.parameters.value(norm1_),
                                          .rstd = s.rstd1,
                                          .dh = dh,
                                          .dweight = pass.parameters.gradient(norm1_)});
}

}  // namespace jambalaya
