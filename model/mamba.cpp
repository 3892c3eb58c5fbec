// Jamba's Mamba-1 mixer, stabilised by RMSNorm on dt, B and C (arXiv 2403.19887, section 6.4).
// Legend: T tokens, D width, E inner channels of this tensor rank, N states, R dt rank, W conv width. x, y
// and their gradients hold this rank's rows of the residual stream (parallel/regions.h).
//
//   [x; z] = in_proj(input)     u = SiLU(conv(x))     p = x_proj(u), summed over ranks before the norms
//   (dt, B, C) = norms(p)       s = dt_proj(dt)       o = scan(u, softplus(s + bias), A, B, C, D) SiLU(z)
//   output = out_proj(o)
#include "model/layers.h"

namespace jambalaya {

Mamba::Mamba(const Parameters& p, int layer)
    : in_(find_row(p, layer, "mamba.in_proj.weight")),
      in_bias_(find_row(p, layer, "mamba.in_proj.bias")),
      conv_(find_row(p, layer, "mamba.conv1d.weight")),
      conv_bias_(find_row(p, layer, "mamba.conv1d.bias")),
      x_(find_row(p, layer, "mamba.x_proj.weight")),
      dt_norm_(find_row(p, layer, "mamba.dt_layernorm.weight")),
      b_norm_(find_row(p, layer, "mamba.b_layernorm.weight")),
      c_norm_(find_row(p, layer, "mamba.c_layernorm.weight")),
      dt_(find_row(p, layer, "mamba.dt_proj.weight")),
      dt_bias_(find_row(p, layer, "mamba.dt_proj.bias")),
      a_log_(find_row(p, layer, "mamba.A_log")),
      d_(find_row(p, layer, "mamba.D")),
      out_(find_row(p, layer, "mamba.out_proj.weight")),
      out_bias_(find_row(p, layer, "mamba.out_proj.bias")) {}

Mamba::Inner Mamba::allocate(const Pass& pass, Arena& arena) const {
  const ModelConfig& m = pass.config;
  const int64_t t = pass.tokens(), e = channels(pass), n = m.mamba_d_state;
  Inner i;
  i.u = arena.tensor(pass.act(), {t, e}, "mamba u");
  i.dt = arena.tensor(pass.act(), {t, m.dt_rank()}, "mamba dt");
  i.b = arena.tensor(DType::f32, {t, n}, "mamba B");
  i.c = arena.tensor(DType::f32, {t, n}, "mamba C");
  i.rstd = arena.tensor(DType::f32, {t, 3}, "mamba norm statistics");
  i.s = arena.tensor(pass.act(), {t, e}, "mamba s");
  i.o = arena.tensor(pass.act(), {t, e}, "mamba o");
  if (pass.training) i.states = arena.tensor(DType::f32, {scan_states(t), n, e}, "mamba states");
  return i;
}

void Mamba::convolve(const Pass& pass, const Inner& i, const LayerState* state) const {
  ConvForward op{.x = saved_.xz.slice_columns(0, channels(pass)),
                 .w = pass.parameters.value(conv_),
                 .bias = value_of(pass, conv_bias_),
                 .docs = pass.docs,
                 .u = i.u};
  if (state) op.left = op.tail = state->conv;
  if (pass.context) op.left = saved_.halo, op.ends_only = true;
  pass.ops().conv_forward(pass.ctx, op);
}

void Mamba::normalize(const Pass& pass, const Inner& i) const {
  pass.ops().ssm_norms_forward(pass.ctx, {.p = saved_.p,
                                          .w_dt = value_of(pass, dt_norm_),
                                          .w_b = value_of(pass, b_norm_),
                                          .w_c = value_of(pass, c_norm_),
                                          .eps = float(pass.config.rms_norm_eps),
                                          .dt = i.dt,
                                          .b = i.b,
                                          .c = i.c,
                                          .rstd = i.rstd});
  linear(pass, dt_, i.dt, i.s);
}

void Mamba::scan(const Pass& pass, const Inner& i, const LayerState* state) const {
  const int64_t e = channels(pass);
  ScanForward op{.u = i.u,
                 .s = i.s,
                 .z = saved_.xz.slice_columns(e, 2 * e),
                 .b = i.b,
                 .c = i.c,
                 .a_log = pass.parameters.value(a_log_),
                 .d = pass.parameters.value(d_),
                 .dt_bias = pass.parameters.value(dt_bias_),
                 .docs = pass.docs,
                 .o = i.o,
                 .states = i.states,
                 .delta_range = delta_range};
  if (state) op.h0 = op.h_last = state->ssm;
  if (pass.context) op.h0 = saved_.carry.h_in, op.ends_only = true;
  pass.ops().scan_forward(pass.ctx, op);
}

ScanCarryForward Mamba::summary(const Pass& pass, const Inner& i) const {
  return {.u = i.u,
          .s = i.s,
          .b = i.b,
          .a_log = pass.parameters.value(a_log_),
          .dt_bias = pass.parameters.value(dt_bias_),
          .docs = pass.docs};
}

void Mamba::forward(const Pass& pass, const Tensor& x_TD, const Tensor& y_TD, const LayerState* state) {
  const int64_t t = pass.tokens(), e = channels(pass);
  saved_.xz = pass.keep(pass.act(), {t, 2 * e}, "mamba xz");
  saved_.p = pass.keep(DType::f32, {t, pass.config.dt_rank() + 2 * pass.config.mamba_d_state}, "mamba p");
  ArenaScope scope(*pass.ctx.scratch);
  saved_.inner = allocate(pass, recompute ? *pass.ctx.scratch : pass.saved);
  const Inner& i = saved_.inner;
  if (pass.context) saved_.halo = pass.keep(DType::f32, {1, pass.config.mamba_d_conv - 1, e}, "conv halo");
  linear(pass, in_, pass.regions.enter(pass.ctx, x_TD, t), saved_.xz);
  if (in_bias_ >= 0) pass.ops().add_bias(pass.ctx, {saved_.xz, pass.parameters.value(in_bias_)});
  if (pass.context) halo_from_left(pass, saved_.xz.slice_columns(0, e), saved_.halo);
  convolve(pass, i, state);
  linear(pass, x_, i.u, saved_.p);
  pass.regions.sum_inner(pass.ctx, saved_.p);
  normalize(pass, i);
  if (pass.context) saved_.carry.from_left(pass, summary(pass, i));
  scan(pass, i, state);
  Tensor y = pass.regions.partial(pass.ctx, y_TD, t);
  linear(pass, out_, i.o, y);
  pass.regions.leave(pass.ctx, y, y_TD);
  if (out_bias_ >= 0) pass.ops().add_bias(pass.ctx, {y_TD, pass.parameters.value(out_bias_)});
}

void Mamba::backward(const Pass& pass, const Tensor& x_TD, const Tensor& dy_TD, const Tensor& dx_TD) {
  ArenaScope scope(*pass.ctx.scratch);
  Ops& ops = pass.ops();
  const ModelConfig& m = pass.config;
  const int64_t t = pass.tokens(), e = channels(pass), n = m.mamba_d_state, r = m.dt_rank();
  if (recompute) {
    saved_.inner = allocate(pass, *pass.ctx.scratch);
    convolve(pass, saved_.inner, nullptr);
    normalize(pass, saved_.inner);
    scan(pass, saved_.inner, nullptr);
  }
  const Inner& i = saved_.inner;
  const Tensor x = saved_.xz.slice_columns(0, e), z = saved_.xz.slice_columns(e, 2 * e);

  if (out_bias_ >= 0) ops.bias_backward(pass.ctx, {dy_TD, pass.parameters.gradient(out_bias_)});
  Tensor dy = pass.regions.leave_backward(pass.ctx, dy_TD, t);
  Tensor do_ = pass.scratch(pass.act(), {t, e}, "mamba do");
  linear_input_gradient(pass, out_, dy, do_);
  linear_weight_gradient(pass, out_, dy, i.o);

  Tensor dxz = pass.scratch(pass.act(), {t, 2 * e}, "mamba dxz");
  Tensor du = pass.scratch(DType::f32, {t, e}, "mamba du"), ds = pass.scratch(pass.act(), {t, e}, "mamba ds");
  // One buffer, so that one collective sums all three (see below).
  Tensor inner = pass.scratch(DType::f32, {t * (r + 2 * n)}, "mamba d dt, dB, dC");
  auto piece = [&](int64_t begin, int64_t columns) {
    return make_tensor(inner.address(begin), DType::f32, {t, columns}, inner.device);
  };
  Tensor ddt = piece(0, r), db = piece(t * r, n), dc = piece(t * (r + n), n);
  Tensor h_in, dh_last;
  if (pass.context) {
    h_in = saved_.carry.h_in;
    dh_last = saved_.carry.from_right(pass, {.d_out = do_,
                                             .s = i.s,
                                             .z = z,
                                             .c = i.c,
                                             .a_log = pass.parameters.value(a_log_),
                                             .dt_bias = pass.parameters.value(dt_bias_),
                                             .docs = pass.docs});
  }
  ops.scan_backward(pass.ctx, {.d_out = do_,
                               .u = i.u,
                               .s = i.s,
                               .z = z,
                               .b = i.b,
                               .c = i.c,
                               .a_log = pass.parameters.value(a_log_),
                               .d = pass.parameters.value(d_),
                               .dt_bias = pass.parameters.value(dt_bias_),
                               .docs = pass.docs,
                               .h0 = h_in,
                               .states = i.states,
                               .dh_last = dh_last,
                               .du = du,
                               .ds = ds,
                               .dz = dxz.slice_columns(e, 2 * e),
                               .db = db,
                               .dc = dc,
                               .da_log = pass.parameters.gradient(a_log_),
                               .dd = pass.parameters.gradient(d_),
                               .ddt_bias = pass.parameters.gradient(dt_bias_),
                               .ends_only = pass.context != nullptr});

  Tensor dp = pass.scratch(DType::f32, {t, r + 2 * n}, "mamba dp");
  linear_input_gradient(pass, dt_, ds, ddt);
  linear_weight_gradient(pass, dt_, ds, i.dt);
  // Partial over channels until here: whole before the norms, or the norms' own gradients would be wrong.
  pass.regions.sum_inner(pass.ctx, inner);
  ops.ssm_norms_backward(pass.ctx, {.ddt = ddt,
                                    .db = db,
                                    .dc = dc,
                                    .p = saved_.p,
                                    .w_dt = value_of(pass, dt_norm_),
                                    .w_b = value_of(pass, b_norm_),
                                    .w_c = value_of(pass, c_norm_),
                                    .rstd = i.rstd,
                                    .dp = dp,
                                    .dw_dt = gradient_of(pass, dt_norm_),
                                    .dw_b = gradient_of(pass, b_norm_),
                                    .dw_c = gradient_of(pass, c_norm_)});
  Tensor dp_act = as_dtype(pass, dp, pass.act(), "mamba dp");
  linear_input_gradient(pass, x_, dp_act, du, true);  // u feeds both the scan and x_proj
  linear_weight_gradient(pass, x_, dp_act, i.u);

  Tensor halo, d_halo;
  if (pass.context) {
    halo = saved_.halo;
    d_halo = pass.scratch(DType::f32, {1, m.mamba_d_conv - 1, e}, "conv halo gradient");
  }
  ops.conv_backward(pass.ctx, {.du = du,
                               .x = x,
                               .w = pass.parameters.value(conv_),
                               .bias = value_of(pass, conv_bias_),
                               .docs = pass.docs,
                               .left = halo,
                               .dx = dxz.slice_columns(0, e),
                               .dw = pass.parameters.gradient(conv_),
                               .dbias = gradient_of(pass, conv_bias_),
                               .dleft = d_halo,
                               .ends_only = pass.context != nullptr});
  if (pass.context) halo_backward(pass, d_halo, dxz.slice_columns(0, e));
  if (in_bias_ >= 0) ops.bias_backward(pass.ctx, {dxz, pass.parameters.gradient(in_bias_)});
  linear_weight_gradient(pass, in_, dxz, pass.regions.enter(pass.ctx, x_TD, t));
  Tensor dx = pass.regions.partial(pass.ctx, dx_TD, t);
  linear_input_gradient(pass, in_, dxz, dx);
  pass.regions.enter_backward(pass.ctx, dx, dx_TD);
}

}  // namespace jambalaya
