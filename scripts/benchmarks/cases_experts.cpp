// Router, sort, the moves of rows to the experts and back, and the experts' products.
#include "scripts/benchmarks/kernel_cases.h"

namespace jambalaya::bench {

namespace {

/// Tokens routed by made-up logits, and the maps of the exchange.
struct Routed {
  RouterForward router;
  SortByExpert sort;
  Routed(BenchDevice& d, const CaseList& list) {
    const int64_t T = list.T, X = list.w.X, K = list.w.K;
    router = {.logits = d.uniform(DType::f32, {T, X}, -2, 2),
              .k = K,
              .probs = d.zeros(DType::f32, {T, X}),
              .expert = d.zeros(DType::i32, {T, K}),
              .weight = d.zeros(DType::f32, {T, K}),
              .lse = d.zeros(DType::f32, {T}),
              .stats = d.zeros(DType::f32, {2 * X + 1})};
    d.ops().router_forward(d.context(), router);
    sort = {.expert = router.expert,
            .experts = X,
            .offsets = d.zeros(DType::i32, {X + 1}),
            .row_of = d.zeros(DType::i32, {T, K}),
            .token_of = d.zeros(DType::i32, {T * K})};
    d.ops().sort_by_expert(d.context(), sort);
  }
};

void add_router(CaseList& list) {
  const int64_t T = list.T, X = list.w.X, K = list.w.K;
  const double t = double(T), x = double(X), k = double(K);
  const std::string shape = cat(T, " x ", X);
  list.add("router forward", shape, {t * (8 * x + 8 * k + 4), 0, t * x},
           [&list](BenchDevice& d) { return calls(d, &Ops::router_forward, Routed(d, list).router); });
  // probs, expert, dweight and lse in, dlogits out.
  list.add("router backward", shape, {t * (8 * x + 8 * k + 4)}, [&list, T, X, K](BenchDevice& d) {
    const RouterForward f = Routed(d, list).router;
    const RouterBackward op{.probs = f.probs,
                            .expert = f.expert,
                            .weight = f.weight,
                            .lse = f.lse,
                            .dweight = d.uniform(DType::f32, {T, K}),
                            .dprob = d.uniform(DType::f32, {X}),
                            .z_scale = 1e-3f,
                            .dlogits = d.zeros(DType::f32, {T, X})};
    return calls(d, &Ops::router_backward, op);
  });
  list.add("sort by expert", cat(T * K), {12 * t * k},
           [&list](BenchDevice& d) { return calls(d, &Ops::sort_by_expert, Routed(d, list).sort); });
  const int64_t layers = 16;
  list.add("balance loss", cat(layers, " layers x ", X), {4.0 * double(layers * (3 * X + 1))},
           [=](BenchDevice& d) {
             const BalanceLoss op{.stats = d.uniform(DType::f32, {layers, 2 * X + 1}, 0, double(T)),
                                  .tokens = double(T),
                                  .weight = 1e-3,
                                  .dprob = d.zeros(DType::f32, {layers, X}),
                                  .sums = d.zeros(DType::f64, {2})};
             return calls(d, &Ops::balance_loss, op);
           });
}

void add_moves(CaseList& list) {
  const int64_t T = list.T, K = list.w.K, D = list.w.D;
  const double t = double(T), td = t * double(D), rows = t * double(K), rd = rows * double(D);
  const std::string shape = cat(T, " tokens, ", T * K, " rows x ", D);
  list.add("gather rows", shape, {2 * td + 2 * rd + 4 * rows}, [=, &list](BenchDevice& d) {
    const GatherRows op{d.uniform(DType::bf16, {T, D}), Routed(d, list).sort.token_of,
                        d.zeros(DType::bf16, {T * K, D})};
    return calls(d, &Ops::gather_rows, op);
  });
  list.add("gather rows backward", shape, {2 * td + 2 * rd + 4 * rows}, [=, &list](BenchDevice& d) {
    const GatherRowsBackward op{.dy = d.uniform(DType::bf16, {T * K, D}),
                                .row_of = Routed(d, list).sort.row_of,
                                .dx = d.zeros(DType::bf16, {T, D})};
    return calls(d, &Ops::gather_rows_backward, op);
  });
  list.add("combine forward", shape, {2 * td + 2 * rd + 8 * rows}, [=, &list](BenchDevice& d) {
    const Routed r(d, list);
    const CombineForward op{d.uniform(DType::bf16, {T * K, D}), r.sort.row_of, r.router.weight,
                            d.zeros(DType::bf16, {T, D})};
    return calls(d, &Ops::combine_forward, op);
  });
  list.add("combine backward", shape, {2 * td + 4 * rd + 12 * rows}, [=, &list](BenchDevice& d) {
    const Routed r(d, list);
    const CombineBackward op{.dy = d.uniform(DType::bf16, {T, D}),
                             .x = d.uniform(DType::bf16, {T * K, D}),
                             .row_of = r.sort.row_of,
                             .weight = r.router.weight,
                             .dx = d.zeros(DType::bf16, {T * K, D}),
                             .dweight = d.zeros(DType::f32, {T, K})};
    return calls(d, &Ops::combine_backward, op);
  });
}

/// The three products of w[x] [n, k], by our own kernels, which read the offsets on the device, and as a
/// layer calls them that knows the offsets on the host (after an exchange of rows): large experts then go to
/// the vendor's library.
void add_products_of(CaseList& list, const std::string& name, int64_t n, int64_t k) {
  using Kind = GroupedGemm::Kind;
  struct Form {
    Kind kind;
    const char* name;
  };
  const int64_t rows = list.T * list.w.K, X = list.w.X;
  const double weights = double(X * n) * double(k), moved = double(rows) * double(n + k);
  for (const Form& form : {Form{Kind::forward, ""}, Form{Kind::input_gradient, ", input gradient"},
                           Form{Kind::weight_gradient, ", weight gradient"}})
    for (const bool host : {false, true}) {
      const Kind kind = form.kind;
      const bool gradient = kind == Kind::weight_gradient;
      const Work work{(gradient ? 8 : 2) * weights + 2 * moved, 2 * double(rows) * double(n) * double(k)};
      list.add(
          cat(name, form.name, host ? ", host offsets" : ""), cat(rows, " rows, ", X, " x ", n, " x ", k),
          work, [=, &list](BenchDevice& d) {
            const Tensor offsets = Routed(d, list).sort.offsets;
            const auto known = std::make_shared<std::vector<int32_t>>(to_host<int32_t>(d.context(), offsets));
            const Tensor wide = d.uniform(DType::bf16, {rows, n}), other = d.uniform(DType::bf16, {rows, k}),
                         w = gradient ? d.zeros(DType::f32, {X, n, k}) : d.uniform(DType::bf16, {X, n, k});
            const GroupedGemm op{.kind = kind,
                                 .a = kind == Kind::forward ? other : wide,
                                 .w = w,
                                 .y = kind == Kind::forward ? wide : other,
                                 .offsets = offsets,
                                 .host_offsets = host ? known->data() : nullptr};
            return [&d, op, known] { d.ops().grouped_gemm(d.context(), op); };
          });
    }
}

}  // namespace

void add_experts(CaseList& list) {
  add_router(list);
  add_moves(list);
  add_products_of(list, "expert gate and up", 2 * list.w.F, list.w.D);
  add_products_of(list, "expert down", list.w.D, list.w.F);
}

}  // namespace jambalaya::bench
