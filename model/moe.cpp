// Mixture of experts, dropless: softmax router over all experts, top K without renormalisation, tokens sorted
// by expert, grouped products, weighted combine. An expert that nobody chose takes part with no rows. Legend:
// T tokens, D width, X experts, K chosen, F feed-forward width, rows = T*K sorted by expert.
#include "model/layers.h"

namespace jambalaya {

Moe::Moe(const Parameters& p, int layer)
    : router_(find_row(p, layer, "feed_forward.router.weight")),
      gate_up_(find_row(p, layer, "feed_forward.experts.gate_up_proj")),
      down_(find_row(p, layer, "feed_forward.experts.down_proj")) {}

namespace {
using Kind = GroupedGemm::Kind;
}

void Moe::forward(const Pass& pass, const Tensor& x_TD, const Tensor& y_TD) {
  Ops& ops = pass.ops();
  const ModelConfig& m = pass.config;
  const int64_t t = pass.tokens(), d = m.hidden_size, x = m.num_experts, k = m.num_experts_per_tok;
  const int64_t rows = t * k, f = pass.parameters.compute(down_).columns() / d;
  Saved& s = saved_;
  s.probs = pass.keep(DType::f32, {t, x}, "router");
  s.expert = pass.keep(DType::i32, {t, k}, "router");
  s.weight = pass.keep(DType::f32, {t, k}, "router");
  s.lse = pass.keep(DType::f32, {t}, "router");
  s.offsets = pass.keep(DType::i32, {x + 1}, "router");
  s.row_of = pass.keep(DType::i32, {t, k}, "router");
  s.token_of = pass.keep(DType::i32, {rows}, "router");
  s.gate_up = pass.keep(pass.act(), {rows, 2 * f}, "experts gate and up");
  s.out = pass.keep(pass.act(), {rows, d}, "experts out");

  ArenaScope scope(*pass.ctx.scratch);
  Tensor logits = pass.scratch(DType::f32, {t, x}, "router logits");
  Tensor router = pass.parameters.compute(router_);
  linear(pass, router_, as_dtype(pass, x_TD, router.dtype, "router input"), logits);
  ops.router_forward(pass.ctx, {.logits = logits,
                                .k = k,
                                .renormalize = m.router_renormalize,
                                .probs = s.probs,
                                .expert = s.expert,
                                .weight = s.weight,
                                .lse = s.lse,
                                .stats = stats});
  ops.sort_by_expert(
      pass.ctx,
      {.expert = s.expert, .experts = x, .offsets = s.offsets, .row_of = s.row_of, .token_of = s.token_of});

  Tensor in = pass.scratch(pass.act(), {rows, d}, "experts in"),
         h = pass.scratch(pass.act(), {rows, f}, "experts hidden");
  ops.gather_rows(pass.ctx, {x_TD, s.token_of, in});
  ops.grouped_gemm(pass.ctx, {.kind = Kind::forward,
                              .a = in,
                              .w = pass.parameters.compute(gate_up_),
                              .y = s.gate_up,
                              .offsets = s.offsets});
  ops.swiglu_forward(pass.ctx, {s.gate_up, h});
  ops.grouped_gemm(
      pass.ctx,
      {.kind = Kind::forward, .a = h, .w = pass.parameters.compute(down_), .y = s.out, .offsets = s.offsets});
  ops.combine_forward(pass.ctx, {s.out, s.row_of, s.weight, y_TD});
}

void Moe::backward(const Pass& pass, const Tensor& x_TD, const Tensor& dy_TD, const Tensor& dx_TD) {
  Ops& ops = pass.ops();
  ArenaScope scope(*pass.ctx.scratch);
  const Saved& s = saved_;
  const int64_t t = pass.tokens(), d = pass.config.hidden_size, rows = s.out.rows(),
                f = s.gate_up.columns() / 2;

  Tensor dout = pass.scratch(pass.act(), {rows, d}, "experts d out");
  Tensor dweight = pass.scratch(DType::f32, {t, pass.config.num_experts_per_tok}, "router");
  ops.combine_backward(
      pass.ctx,
      {.dy = dy_TD, .x = s.out, .row_of = s.row_of, .weight = s.weight, .dx = dout, .dweight = dweight});

  Tensor h = pass.scratch(pass.act(), {rows, f}, "experts hidden"),
         dh = pass.scratch(pass.act(), {rows, f}, "experts d hidden");
  ops.swiglu_forward(pass.ctx, {s.gate_up, h});
  ops.grouped_gemm(pass.ctx, {.kind = Kind::weight_gradient,
                              .a = dout,
                              .w = pass.parameters.gradient(down_),
                              .y = h,
                              .offsets = s.offsets});
  ops.grouped_gemm(pass.ctx, {.kind = Kind::input_gradient,
                              .a = dout,
                              .w = pass.parameters.compute(down_),
                              .y = dh,
                              .offsets = s.offsets});
  Tensor dgate_up = pass.scratch(pass.act(), {rows, 2 * f}, "experts d gate and up");
  ops.swiglu_backward(pass.ctx, {dh, s.gate_up, dgate_up});
  Tensor in = pass.scratch(pass.act(), {rows, d}, "experts in"),
         din = pass.scratch(pass.act(), {rows, d}, "experts d in");
  ops.gather_rows(pass.ctx, {x_TD, s.token_of, in});
  ops.grouped_gemm(pass.ctx, {.kind = Kind::weight_gradient,
                              .a = dgate_up,
                              .w = pass.parameters.gradient(gate_up_),
                              .y = in,
                              .offsets = s.offsets});
  ops.grouped_gemm(pass.ctx, {.kind = Kind::input_gradient,
                              .a = dgate_up,
                              .w = pass.parameters.compute(gate_up_),
                              .y = din,
                              .offsets = s.offsets});
  ops.gather_rows_backward(pass.ctx, {.dy = din, .row_of = s.row_of, .dx = dx_TD});

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
  linear_weight_gradient(pass, router_, dl, as_dtype(pass, x_TD, type, "router input"));
  linear_input_gradient(pass, router_, dl, dx_TD, true);
}

}  // namespace jambalaya
