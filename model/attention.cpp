// Grouped-query attention without positions (RoPE as an option for ablations). Jamba, section 2.
// Legend: T tokens, D width, H/G query/key heads of this tensor rank (the queries of its own key heads), C
// head size. x, y and their gradients hold this rank's rows of the residual stream (parallel/regions.h).
#include <cmath>

#include "model/layers.h"
#include "model/ring_attention.h"

namespace jambalaya {

Attention::Attention(const Parameters& p, int layer)
    : q_(find_row(p, layer, "self_attn.q_proj.weight")),
      k_(find_row(p, layer, "self_attn.k_proj.weight")),
      v_(find_row(p, layer, "self_attn.v_proj.weight")),
      o_(find_row(p, layer, "self_attn.o_proj.weight")) {}

namespace {

float scale_of(const Pass& pass) { return 1.0f / std::sqrt(float(pass.config.head_size())); }

void rotate(const Pass& pass, const Tensor& x, bool inverse) {
  if (pass.config.rope_theta > 0)
    pass.ops().rope(pass.ctx, {.x = x,
                               .head_size = pass.config.head_size(),
                               .theta = float(pass.config.rope_theta),
                               .docs = pass.docs,
                               .inverse = inverse});
}

}  // namespace

void Attention::forward(const Pass& pass, const Tensor& x_TD, const Tensor& y_TD, const LayerState* state) {
  const int64_t t = pass.tokens();
  const int64_t hc = pass.parameters.compute(q_).rows(), gc = pass.parameters.compute(k_).rows();
  Saved s;
  s.q = pass.keep(pass.act(), {t, hc}, "attention q");
  s.k = pass.keep(pass.act(), {t, gc}, "attention k");
  s.v = pass.keep(pass.act(), {t, gc}, "attention v");
  s.o = pass.keep(pass.act(), {t, hc}, "attention o");
  const int64_t lse_rows = pass.context ? ring_attention_rows(pass) : t;
  if (pass.training)
    s.lse = pass.keep(DType::f32, {hc / pass.config.head_size(), lse_rows}, "attention logsumexp");
  ArenaScope scope(*pass.ctx.scratch);
  Tensor in = pass.regions.enter(pass.ctx, x_TD, t);
  linear(pass, q_, in, s.q);
  linear(pass, k_, in, s.k);
  linear(pass, v_, in, s.v);
  rotate(pass, s.q, false);
  rotate(pass, s.k, false);
  AttentionForward op{.q = s.q,
                      .k = s.k,
                      .v = s.v,
                      .head_size = pass.config.head_size(),
                      .scale = scale_of(pass),
                      .docs = pass.docs,
                      .o = s.o,
                      .lse = s.lse};
  if (state) {
    pass.ops().cache_append(pass.ctx, {s.k, s.v, state->keys, state->values, pass.docs});
    op.k = state->keys;
    op.v = state->values;
    op.key_begin = state->key_begin;
  }
  if (pass.context)
    ring_attention_forward(pass, s.q, s.k, s.v, s.o, s.lse);
  else
    pass.ops().attention_forward(pass.ctx, op);
  Tensor y = pass.regions.partial(pass.ctx, y_TD, t);
  linear(pass, o_, s.o, y);
  pass.regions.leave(pass.ctx, y, y_TD);
  saved_ = s;
}

void Attention::backward(const Pass& pass, const Tensor& x_TD, const Tensor& dy_TD, const Tensor& dx_TD) {
  ArenaScope scope(*pass.ctx.scratch);
  const Saved& s = saved_;
  const int64_t t = pass.tokens();
  Tensor dy = pass.regions.leave_backward(pass.ctx, dy_TD, t);
  Tensor do_ = pass.scratch(pass.act(), {t, s.o.columns()}, "attention do");
  linear_input_gradient(pass, o_, dy, do_);
  linear_weight_gradient(pass, o_, dy, s.o);
  Tensor dq = pass.scratch(pass.act(), {t, s.q.columns()}, "attention dq");
  Tensor dk = pass.scratch(pass.act(), {t, s.k.columns()}, "attention dk");
  Tensor dv = pass.scratch(pass.act(), {t, s.v.columns()}, "attention dv");
  if (pass.context)
    ring_attention_backward(pass, do_, s.q, s.k, s.v, s.o, s.lse, dq, dk, dv);
  else
    pass.ops().attention_backward(pass.ctx, {.d_out = do_,
                                             .q = s.q,
                                             .k = s.k,
                                             .v = s.v,
                                             .o = s.o,
                                             .lse = s.lse,
                                             .head_size = pass.config.head_size(),
                                             .scale = scale_of(pass),
                                             .docs = pass.docs,
                                             .dq = dq,
                                             .dk = dk,
                                             .dv = dv});
  rotate(pass, dq, true);
  rotate(pass, dk, true);
  Tensor x =
      pass.regions.enter(pass.ctx, x_TD, t);  // gathered again: cheaper than keeping [T, D] of each layer
  linear_weight_gradient(pass, q_, dq, x);
  linear_weight_gradient(pass, k_, dk, x);
  linear_weight_gradient(pass, v_, dv, x);
  Tensor dx = pass.regions.partial(pass.ctx, dx_TD, t);
  linear_input_gradient(pass, q_, dq, dx);
  linear_input_gradient(pass, k_, dk, dx, true);
  linear_input_gradient(pass, v_, dv, dx, true);
  pass.regions.enter_backward(pass.ctx, dx, dx_TD);
}

}  // namespace jambalaya
