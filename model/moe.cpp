// Mixture of experts, dropless: softmax router over all experts, top K without renormalisation, tokens sorted
// by expert, rows to the ranks that hold their experts, grouped products, results back home, weighted
// combine. An expert that nobody chose takes part with no rows. Every row of the micro-batch is routed by
// exactly one rank of the world (Regions::routed), so that statistics and router gradients are sums over all
// of them. Legend: T tokens routed here, D width, X experts, K chosen, F feed-forward width of the experts'
// slices here, rows = T*K sorted by expert, arrived = rows of all ranks for the experts here.
#include "model/layers.h"

namespace jambalaya {

Moe::Moe(const Parameters& p, int layer)
    : router_(find_row(p, layer, "feed_forward.router.weight")),
      gate_up_(find_row(p, layer, "feed_forward.experts.gate_up_proj")),
      down_(find_row(p, layer, "feed_forward.experts.down_proj")) {}

namespace {
using Kind = GroupedGemm::Kind;
}

void Moe::route(const Pass& pass, const Tensor& x_TD) {
  const ModelConfig& m = pass.config;
  const int64_t t = x_TD.rows(), x = m.num_experts, k = m.num_experts_per_tok;
  Saved& s = saved_;
  s.probs = pass.keep(DType::f32, {t, x}, "router");
  s.expert = pass.keep(DType::i32, {t, k}, "router");
  s.weight = pass.keep(DType::f32, {t, k}, "router");
  s.lse = pass.keep(DType::f32, {t}, "router");
  s.row_of = pass.keep(DType::i32, {t, k}, "router");
  s.token_of = pass.keep(DType::i32, {t * k}, "router");
  Tensor offsets = pass.keep(DType::i32, {x + 1}, "router");

  ArenaScope scope(*pass.ctx.scratch);
  Tensor logits = pass.scratch(DType::f32, {t, x}, "router logits");
  Tensor router = pass.parameters.compute(router_);
  linear(pass, router_, as_dtype(pass, x_TD, router.dtype, "router input"), logits);
  pass.ops().router_forward(pass.ctx, {.logits = logits,
                                       .k = k,
                                       .renormalize = m.router_renormalize,
                                       .probs = s.probs,
                                       .expert = s.expert,
                                       .weight = s.weight,
                                       .lse = s.lse,
                                       .stats = stats});
  pass.ops().sort_by_expert(
      pass.ctx,
      {.expert = s.expert, .experts = x, .offsets = offsets, .row_of = s.row_of, .token_of = s.token_of});
  s.route = ExpertRoute(pass.ctx, pass.regions.mesh(), pass.saved, offsets, t * k);
}

void Moe::forward(const Pass& pass, const Tensor& x_TD, const Tensor& y_TD) {
  Ops& ops = pass.ops();
  const Span own = pass.regions.routed(pass.tokens());
  const Tensor x = x_TD.slice_rows(own.begin, own.end), y = y_TD.slice_rows(own.begin, own.end);
  route(pass, x);
  Saved& s = saved_;
  const int64_t rows = s.token_of.rows(), d = x.columns(), arrived = s.route.arrived(),
                f = pass.parameters.compute(down_).columns() / d;
  s.out = pass.keep(pass.act(), {rows, d}, "experts out");
  s.gate_up = pass.keep(pass.act(), {arrived, 2 * f}, "experts gate and up");

  ArenaScope scope(*pass.ctx.scratch);
  Tensor sorted = pass.scratch(pass.act(), {rows, d}, "experts in"),
         h = pass.scratch(pass.act(), {arrived, f}, "experts hidden");
  ops.gather_rows(pass.ctx, {x, s.token_of, sorted});
  // Rows that came from other ranks are kept: sending them again would cost more than their memory. Rows that
  // never left are gathered again.
  const Tensor in = s.route.dispatch(pass.ctx, sorted, pass.saved);
  if (!s.route.alone()) s.in = in;
  ops.grouped_gemm(pass.ctx, {.kind = Kind::forward,
                              .a = in,
                              .w = pass.parameters.compute(gate_up_),
                              .y = s.gate_up,
                              .offsets = s.route.offsets(),
                              .host_offsets = s.route.host_offsets()});
  ops.swiglu_forward(pass.ctx, {s.gate_up, h});
  Tensor out = s.route.partial(pass.ctx, s.out);
  ops.grouped_gemm(pass.ctx, {.kind = Kind::forward,
                              .a = h,
                              .w = pass.parameters.compute(down_),
                              .y = out,
                              .offsets = s.route.offsets(),
                              .host_offsets = s.route.host_offsets()});
  s.route.collect(pass.ctx, out, s.out);
  ops.combine_forward(pass.ctx, {s.out, s.row_of, s.weight, y});
  pass.regions.spread_routed(pass.ctx, y_TD);
}

/// dout [arrived, D] -> din [arrived, D], partial over the slices of F; adds the experts' gradients.
void Moe::experts_backward(const Pass& pass, const Tensor& in, const Tensor& dout, const Tensor& din) {
  Ops& ops = pass.ops();
  const Saved& s = saved_;
  const Tensor& offsets = s.route.offsets();
  const int32_t* const host_offsets = s.route.host_offsets();
  const int64_t arrived = s.route.arrived(), f = s.gate_up.columns() / 2;
  Tensor h = pass.scratch(pass.act(), {arrived, f}, "experts hidden"),
         dh = pass.scratch(pass.act(), {arrived, f}, "experts d hidden"),
         dgate_up = pass.scratch(pass.act(), {arrived, 2 * f}, "experts d gate and up");
  ops.swiglu_forward(pass.ctx, {s.gate_up, h});
  ops.grouped_gemm(pass.ctx, {.kind = Kind::weight_gradient,
                              .a = dout,
                              .w = pass.parameters.gradient(down_),
                              .y = h,
                              .offsets = offsets,
                              .host_offsets = host_offsets});
  ops.grouped_gemm(pass.ctx, {.kind = Kind::input_gradient,
                              .a = dout,
                              .w = pass.parameters.compute(down_),
                              .y = dh,
                              .offsets = offsets,
                              .host_offsets = host_offsets});
  ops.swiglu_backward(pass.ctx, {dh, s.gate_up, dgate_up});
  ops.grouped_gemm(pass.ctx, {.kind = Kind::weight_gradient,
                              .a = dgate_up,
                              .w = pass.parameters.gradient(gate_up_),
                              .y = in,
                              .offsets = offsets,
                              .host_offsets = host_offsets});
  ops.grouped_gemm(pass.ctx, {.kind = Kind::input_gradient,
                              .a = dgate_up,
                              .w = pass.parameters.compute(gate_up_),
                              .y = din,
                              .offsets = offsets,
                              .host_offsets = host_offsets});
}

void Moe::backward(const Pass& pass, const Tensor& x_TD, const Tensor& dy_TD, const Tensor& dx_TD) {
  Ops& ops = pass.ops();
  ArenaScope scope(*pass.ctx.scratch);
  const Saved& s = saved_;
  const Span own = pass.regions.routed(pass.tokens());
  const Tensor x = x_TD.slice_rows(own.begin, own.end), dy = dy_TD.slice_rows(own.begin, own.end),
               dx = dx_TD.slice_rows(own.begin, own.end);
  const int64_t t = x.rows(), d = x.columns(), rows = s.out.rows();

  Tensor dout = pass.scratch(pass.act(), {rows, d}, "experts d out");
  Tensor dweight = pass.scratch(DType::f32, {t, pass.config.num_experts_per_tok}, "router");
  ops.combine_backward(
      pass.ctx,
      {.dy = dy, .x = s.out, .row_of = s.row_of, .weight = s.weight, .dx = dout, .dweight = dweight});
  Tensor in = s.in;
  if (s.route.alone()) {
    in = pass.scratch(pass.act(), {rows, d}, "experts in");
    ops.gather_rows(pass.ctx, {x, s.token_of, in});
  }
  Tensor dsorted = pass.scratch(pass.act(), {rows, d}, "experts d in"),
         din = s.route.partial(pass.ctx, dsorted);
  experts_backward(pass, in, s.route.dispatch(pass.ctx, dout, *pass.ctx.scratch), din);
  s.route.collect(pass.ctx, din, dsorted);
  ops.gather_rows_backward(pass.ctx, {.dy = dsorted, .row_of = s.row_of, .dx = dx});

  Tensor dlogits = pass.scratch(DType::f32, {t, pass.config.num_experts}, "router d logits");
  ops.router_backward(pass.ctx, {.probs = s.probs,
                                 .expert = s.expert,
                                 .weight = s.weight,
                                 .lse = s.lse,
                                 .renormalize = pass.config.router_renormalize,
                                 .dweight = dweight,
                                 .dprob = dprob,
                                 .z_scale = z_scale,
                                 .dlogits = dlogits});
  DType type = pass.parameters.compute(router_).dtype;
  Tensor dl = as_dtype(pass, dlogits, type, "router d logits");
  linear_weight_gradient(pass, router_, dl, as_dtype(pass, x, type, "router input"));
  linear_input_gradient(pass, router_, dl, dx, true);
  pass.regions.spread_routed(pass.ctx, dx_TD);
}

}  // namespace jambalaya
