// The stack of layers, forward and backward. Activations live in one last-in-first-out arena; with recompute
// = layer only the residual stream that enters each layer stays, and the backward runs the layer forward once
// more.
#include "model/stack.h"

#include <algorithm>
#include "kernels/trace.h"
#include "kernels/transfer.h"

namespace jambalaya {

Jamba::Impl::Impl(Jamba& o, Parameters& p, Regions& r, int64_t saved_bytes)
    : owner(o),
      parameters(p),
      regions(r),
      config(p.config()),
      saved("activations", saved_bytes, p.accelerator()),
      fixed("telemetry", 64 << 20, p.accelerator()) {
  int64_t expert_layers = 0;
  std::vector<LayerKind> kinds = layer_kinds(config);
  for (size_t i = 0; i < kinds.size(); i++) {
    layers.emplace_back(p, int(i), kinds[i]);
    expert_layers += kinds[i].channel == Channel::moe;
  }
  kept_.resize(layers.size());
  embedding = p.index("embed_tokens.weight");
  final_norm = p.index("final_layernorm.weight");
  head = config.tie_word_embeddings ? embedding : p.index("lm_head.weight");
  const int64_t x = config.num_experts, n = int64_t(layers.size());
  delta_ranges = fixed.tensor(DType::f32, {n, 2}, "telemetry");
  branch_sums = fixed.tensor(DType::f64, {n, 2, 2}, "telemetry");
  activation = fixed.tensor(DType::f64, {2}, "telemetry");
  if (expert_layers) {
    stats = fixed.tensor(DType::f32, {expert_layers, 2 * x + 1}, "router statistics");
    dprob = fixed.tensor(DType::f32, {expert_layers, x}, "router statistics");
  }
  const Context ctx = transfer_context(p.accelerator());
  for (const Tensor& t : {delta_ranges, branch_sums, activation, stats, dprob})
    if (t) clear(ctx, t);
  int64_t at = 0;
  for (Layer& layer : layers)
    if (layer.moe) {
      layer.moe->stats = stats.at(at);
      layer.moe->dprob = dprob.at(at);
      at++;
    }
}

Documents Jamba::Impl::on_device(Context& ctx, const Documents& docs) {
  Documents there = docs;
  if (ctx.device == Device::cpu) return there;
  auto upload = [&](const int32_t* values, int64_t n) {
    return to_device(ctx, make_tensor(values, {n}), saved, "documents").ptr<int32_t>();
  };
  there.device_offsets = upload(docs.offsets, docs.count + 1);
  there.device_first_position = upload(docs.first_position, docs.count);
  there.device_segment_of = upload(docs.segment_of, docs.tokens);
  return there;
}

Batch Jamba::Impl::on_device(Context& ctx, const Batch& batch) {
  return {to_device(ctx, batch.ids, saved, "ids and targets"),
          to_device(ctx, batch.targets, saved, "ids and targets"), on_device(ctx, batch.docs), batch.context};
}

Pass Jamba::Impl::make_pass(Context& ctx, const Documents& docs, bool training, const ContextShard* context) {
  JAMBALAYA_CHECK(ctx.accelerator == parameters.accelerator() &&
                      (!ctx.accelerator || ctx.stream == ctx.accelerator->compute_stream()),
                  "a context of another device or stream than the parameters'");
  return {ctx, config, parameters, regions, saved, docs, training, context};
}

Jamba::Impl::Hidden Jamba::Impl::forward(const Pass& pass, const Tensor& ids, const Tensor& sums,
                                         double micro_tokens, std::vector<LayerState>* states) {
  TraceScope traced("forward", "pass");
  const int64_t t = pass.rows(), d = config.hidden_size;
  const bool keep_layers = pass.training && owner.recompute != Recompute::layer;
  if (owner.telemetry) clear(pass.ctx, branch_sums);
  clear(pass.ctx, activation);
  // Two pairs of buffers in turn: a layer reads its predecessor's (h, branch) and writes its own.
  Hidden buffers[2];
  if (!keep_layers)
    for (Hidden& b : buffers) b.h = pass.keep(pass.residual(), {t, d}, "residual stream");
  const bool keep_out = keep_layers && config.act_loss_alpha > 0;
  if (!keep_out)
    for (Hidden& b : buffers) b.branch = pass.keep(pass.act(), {t, d}, "channel mixer output");

  Hidden at{pass.keep(pass.residual(), {t, d}, "residual stream"), {}};
  parameters.borrow(0, Travel::forward);
  embed(pass, ids, at.h);
  parameters.give_back(0, Travel::forward);
  for (size_t i = 0; i < layers.size(); i++) {
    Layer& layer = layers[i];
    Hidden next = buffers[i % 2];
    if (keep_layers) next.h = pass.keep(pass.residual(), {t, d}, "residual stream");
    if (keep_out) next.branch = pass.keep(pass.act(), {t, d}, "channel mixer output");
    if (layer.mamba) {
      layer.mamba->recompute = pass.training && owner.recompute == Recompute::mamba;
      layer.mamba->delta_range = owner.telemetry ? delta_ranges.at(int64_t(i)) : Tensor{};
    }
    const LayerState* state = states ? &(*states)[i] : nullptr;
    Arena::Mark mark = saved.mark();
    parameters.borrow(int(i) + 1, Travel::forward);
    if (pass.training && !keep_layers) {
      // The sum is taken here, so that the stream that enters the layer outlives its other activations.
      kept_[i].h_in = pass.keep(pass.residual(), {t, d}, "residual stream");
      pass.ops().scale_copy(pass.ctx, {.x = at.h, .y = kept_[i].h_in});
      if (at.branch)
        pass.ops().scale_copy(pass.ctx, {.x = at.branch, .y = kept_[i].h_in, .accumulate = true});
      mark = saved.mark();
      Pass light = pass;
      light.training = false;
      layer.forward(light, kept_[i].h_in, {}, next.h, next.branch, statistics_of(i, sums, micro_tokens));
    } else {
      layer.forward(pass, at.h, at.branch, next.h, next.branch, statistics_of(i, sums, micro_tokens), state);
    }
    parameters.give_back(int(i) + 1, Travel::forward);
    if (!keep_layers) saved.release(mark);
    at = next;
  }
  add_activation(pass, sums);
  return at;
}

void Jamba::Impl::borrow_head(Travel travel) {
  if (head == embedding) parameters.borrow(0, travel);
  parameters.borrow(int(layers.size()) + 1, travel);
}

void Jamba::Impl::give_head_back(Travel travel) {
  parameters.give_back(int(layers.size()) + 1, travel);
  if (head == embedding) parameters.give_back(0, travel);
}

Tensor Jamba::Impl::normalize(const Pass& pass, const Hidden& hidden, Tensor& h_sum, Tensor& rstd) {
  const int64_t t = hidden.h.rows(), d = config.hidden_size;
  h_sum = pass.keep(pass.residual(), {t, d}, "residual stream");
  rstd = pass.keep(DType::f32, {t}, "norm statistics");
  Tensor y = pass.keep(pass.act(), {t, d}, "norm output");
  pass.ops().rms_norm_forward(pass.ctx, {.h = hidden.h,
                                         .branch = hidden.branch,
                                         .weight = parameters.value(final_norm),
                                         .eps = float(config.rms_norm_eps),
                                         .h_out = h_sum,
                                         .y = y,
                                         .rstd = rstd});
  return y;
}

void Jamba::Impl::backward(const Pass& pass, const Tensor& ids, const Tensor& dh, const LossScale& scale) {
  TraceScope traced("backward", "pass");
  const float activation_weight =
      float(2 * config.act_loss_alpha * scale.micro / (scale.micro_tokens * double(config.hidden_size)));
  const int64_t t = pass.rows(), d = config.hidden_size;
  for (size_t i = layers.size(); i-- > 0;) {
    Arena::Mark mark = saved.mark();
    parameters.borrow(int(i) + 1, Travel::backward);
    // What is computed again must not replace what was told: statistics of the routers are summed over the
    // ranks by now.
    if (layers[i].mamba) layers[i].mamba->delta_range = {};
    if (owner.recompute == Recompute::layer) {
      Tensor h = pass.keep(pass.residual(), {t, d}, "residual stream"),
             out = pass.keep(pass.act(), {t, d}, "channel mixer output");
      Moe* const moe = layers[i].moe.get();
      const Tensor summed = moe ? moe->stats : Tensor{};
      if (moe) moe->stats = pass.keep(DType::f32, {summed.numel()}, "router statistics");
      layers[i].forward(pass, kept_[i].h_in, {}, h, out, {});
      if (moe) moe->stats = summed;
    }
    layers[i].backward(pass, dh, activation_weight);
    saved.release(mark);
    parameters.give_back(int(i) + 1, Travel::backward);
    if (owner.on_gradients) owner.on_gradients(int(i));
  }
  parameters.borrow(0, Travel::backward);
  embed_backward(pass, ids, dh);
  parameters.give_back(0, Travel::backward);
  if (owner.on_gradients) owner.on_gradients(-1);
}

}  // namespace jambalaya
