// Dense SwiGLU feed-forward: down(SiLU(gate(x)) * up(x)), gate and up as one matrix; F of this tensor rank.
#include "model/layers.h"

namespace jambalaya {

DenseMlp::DenseMlp(const Parameters& p, int layer)
    : gate_up_(find_row(p, layer, "feed_forward.gate_up_proj.weight")),
      down_(find_row(p, layer, "feed_forward.down_proj.weight")) {}

void DenseMlp::forward(const Pass& pass, const Tensor& x_TD, const Tensor& y_TD) {
  const int64_t t = pass.tokens(), f = pass.parameters.compute(down_).columns();
  saved_.gate_up = pass.keep(pass.act(), {t, 2 * f}, "mlp gate and up");
  ArenaScope scope(*pass.ctx.scratch);
  Tensor h = pass.scratch(pass.act(), {t, f}, "mlp hidden");
  linear(pass, gate_up_, pass.regions.enter(pass.ctx, x_TD, t), saved_.gate_up);
  pass.ops().swiglu_forward(pass.ctx, {saved_.gate_up, h});
  Tensor y = pass.regions.partial(pass.ctx, y_TD, t);
  linear(pass, down_, h, y);
  pass.regions.leave(pass.ctx, y, y_TD);
}

void DenseMlp::backward(const Pass& pass, const Tensor& x_TD, const Tensor& dy_TD, const Tensor& dx_TD) {
  ArenaScope scope(*pass.ctx.scratch);
  const int64_t t = pass.tokens(), f = saved_.gate_up.columns() / 2;
  Tensor dy = pass.regions.leave_backward(pass.ctx, dy_TD, t);
  // The product SiLU(gate) * up is cheaper to compute again than to keep.
  Tensor h = pass.scratch(pass.act(), {t, f}, "mlp hidden"),
         dh = pass.scratch(pass.act(), {t, f}, "mlp d hidden");
  Tensor dgate_up = pass.scratch(pass.act(), {t, 2 * f}, "mlp d gate and up");
  pass.ops().swiglu_forward(pass.ctx, {saved_.gate_up, h});
  linear_weight_gradient(pass, down_, dy, h);
  linear_input_gradient(pass, down_, dy, dh);
  pass.ops().swiglu_backward(pass.ctx, {dh, saved_.gate_up, dgate_up});
  linear_weight_gradient(pass, gate_up_, dgate_up, pass.regions.enter(pass.ctx, x_TD, t));
  Tensor dx = pass.regions.partial(pass.ctx, dx_TD, t);
  linear_input_gradient(pass, gate_up_, dgate_up, dx);
  pass.regions.enter_backward(pass.ctx, dx, dx_TD);
}

}  // namespace jambalaya
