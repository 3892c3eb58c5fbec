// Legend: T tokens, D width, E inner channels, N states, H and G query and key heads of C, F feed-forward
// width, X experts, V vocabulary. Bytes are counted once for each tensor that a call must read or write.
#include "scripts/benchmarks/kernel_cases.h"

#include <cmath>

namespace jambalaya::bench {

namespace {

constexpr int64_t D = 4096, E = 8192, N = 16, R = 256, H = 32, G = 8, C = 128, F = 14336, X = 16, K = 2,
                  V = 65536;
using Prepare = std::function<std::function<void()>(BenchDevice&)>;

class Cases {
 public:
  Cases(int64_t tokens, int64_t length) : T(tokens), lengths_(size_t(tokens / length), length) {
    documents_ = std::make_shared<DocumentsBuffer>(lengths_);
  }
  std::vector<KernelCase> all() {
    products();
    state_space();
    attention();
    norms();
    experts();
    vocabulary();
    optimizer();
    return std::move(cases_);
  }

 private:
  void add(const std::string& name, const std::string& shape, const Work& work, Prepare prepare) {
    cases_.push_back({name, shape, work, std::move(prepare)});
  }
  void product(const std::string& name, int64_t m, int64_t n, int64_t k) {
    const double flops = 2.0 * double(m) * double(n) * double(k);
    add(name, cat(m, " x ", n, " x ", k), {2.0 * double(m * n + n * k + m * k), flops}, [=](BenchDevice& d) {
      const Tensor a = d.uniform(DType::bf16, {m, k}), b = d.uniform(DType::bf16, {n, k}),
                   c = d.zeros(DType::bf16, {m, n});
      return [=, &d] { d.ops().gemm(d.context(), {.a = a, .b = b, .c = c, .transpose_b = true}); };
    });
  }
  void products();
  void state_space();
  void attention();
  void norms();
  void experts();
  void vocabulary();
  void optimizer();
  Documents docs() const { return documents_->view(); }

  int64_t T;
  std::vector<int64_t> lengths_;
  std::shared_ptr<DocumentsBuffer> documents_;
  std::vector<KernelCase> cases_;
};

void Cases::products() {
  product("in_proj", T, 2 * E, D);
  product("x_proj", T, R + 2 * N, E);
  product("dt_proj", T, E, R);
  product("out_proj", T, D, E);
  product("qkv_proj", T, (H + 2 * G) * C, D);
  product("mlp gate and up", T, 2 * F, D);
  // A weight gradient: fp32 sums into the main gradient.
  add("in_proj weight gradient", cat(2 * E, " x ", D, " x ", T),
      {2.0 * double(T * (2 * E + D)) + 8.0 * double(2 * E * D), 2.0 * double(T) * double(2 * E) * double(D)},
      [this](BenchDevice& d) {
        const Tensor dy = d.uniform(DType::bf16, {T, 2 * E}), x = d.uniform(DType::bf16, {T, D}),
                     dw = d.zeros(DType::f32, {2 * E, D});
        return [=, &d] {
          d.ops().gemm(d.context(), {.a = dy, .b = x, .c = dw, .transpose_a = true, .accumulate = true});
        };
      });
}

void Cases::state_space() {
  const double te = double(T) * double(E), updates = te * double(N);
  struct Tensors {
    Tensor u, s, z, b, c, a_log, d, bias, o, states;
  };
  auto make = [this](BenchDevice& d) {
    Tensors t;
    t.u = d.uniform(DType::bf16, {T, E}), t.s = d.uniform(DType::bf16, {T, E}, -1, 1);
    t.z = d.uniform(DType::bf16, {T, E}), t.b = d.uniform(DType::f32, {T, N}),
    t.c = d.uniform(DType::f32, {T, N});
    t.a_log = d.uniform(DType::f32, {E, N}, 0, std::log(16.0)), t.d = d.uniform(DType::f32, {E});
    t.bias = d.uniform(DType::f32, {E}, -6, -3);
    t.o = d.zeros(DType::bf16, {T, E}), t.states = d.zeros(DType::f32, {scan_states(T), N, E});
    return t;
  };
  // u, s, z in, o out, a state every 64 tokens; 4 special functions a channel besides the decays'
  // exponentials.
  add("scan forward", cat(T, " x ", E, " x ", N), {8 * te + te * 64 / 64, 0, updates + 4 * te, 5.5 * updates},
      [=, this](BenchDevice& d) {
        const Tensors t = make(d);
        return [=, this, &d] {
          d.ops().scan_forward(d.context(), {.u = t.u,
                                             .s = t.s,
                                             .z = t.z,
                                             .b = t.b,
                                             .c = t.c,
                                             .a_log = t.a_log,
                                             .d = t.d,
                                             .dt_bias = t.bias,
                                             .docs = docs(),
                                             .o = t.o,
                                             .states = t.states});
        };
      });
  add("scan backward", cat(T, " x ", E, " x ", N),
      {14 * te + te * 64 / 64, 0, updates + 8 * te, 13 * updates}, [=, this](BenchDevice& d) {
        const Tensors t = make(d);
        const Tensor d_out = d.uniform(DType::bf16, {T, E}), du = d.zeros(DType::bf16, {T, E}),
                     ds = d.zeros(DType::bf16, {T, E}), dz = d.zeros(DType::bf16, {T, E}),
                     db = d.zeros(DType::f32, {T, N}), dc = d.zeros(DType::f32, {T, N}),
                     da = d.zeros(DType::f32, {E, N}), dd = d.zeros(DType::f32, {E}),
                     dbias = d.zeros(DType::f32, {E});
        d.ops().scan_forward(d.context(), {.u = t.u,
                                           .s = t.s,
                                           .z = t.z,
                                           .b = t.b,
                                           .c = t.c,
                                           .a_log = t.a_log,
                                           .d = t.d,
                                           .dt_bias = t.bias,
                                           .docs = docs(),
                                           .o = t.o,
                                           .states = t.states});
        return [=, this, &d] {
          d.ops().scan_backward(d.context(), {.d_out = d_out,
                                              .u = t.u,
                                              .s = t.s,
                                              .z = t.z,
                                              .b = t.b,
                                              .c = t.c,
                                              .a_log = t.a_log,
                                              .d = t.d,
                                              .dt_bias = t.bias,
                                              .docs = docs(),
                                              .states = t.states,
                                              .du = du,
                                              .ds = ds,
                                              .dz = dz,
                                              .db = db,
                                              .dc = dc,
                                              .da_log = da,
                                              .dd = dd,
                                              .ddt_bias = dbias});
        };
      });
  add("convolution forward", cat(T, " x ", E), {4 * te}, [this](BenchDevice& d) {
    const Tensor x = d.uniform(DType::bf16, {T, E}), w = d.uniform(DType::f32, {E, 4}),
                 bias = d.uniform(DType::f32, {E}), u = d.zeros(DType::bf16, {T, E});
    return [=, this, &d] {
      d.ops().conv_forward(d.context(), {.x = x, .w = w, .bias = bias, .docs = docs(), .u = u});
    };
  });
  add("convolution backward", cat(T, " x ", E), {6 * te}, [this](BenchDevice& d) {
    const Tensor x = d.uniform(DType::bf16, {T, E}), w = d.uniform(DType::f32, {E, 4}),
                 bias = d.uniform(DType::f32, {E}), du = d.uniform(DType::bf16, {T, E}),
                 dx = d.zeros(DType::bf16, {T, E}), dw = d.zeros(DType::f32, {E, 4}),
                 dbias = d.zeros(DType::f32, {E});
    return [=, this, &d] {
      d.ops().conv_backward(
          d.context(),
          {.du = du, .x = x, .w = w, .bias = bias, .docs = docs(), .dx = dx, .dw = dw, .dbias = dbias});
    };
  });
}

void Cases::attention() {
  double pairs = 0;  // visible (query, key) pairs
  for (int64_t n : lengths_) pairs += double(n) * double(n + 1) / 2;
  const double flops = 4 * pairs * double(H * C);
  struct Tensors {
    Tensor q, k, v, o, lse;
  };
  auto make = [this](BenchDevice& d) {
    return Tensors{d.uniform(DType::bf16, {T, H * C}), d.uniform(DType::bf16, {T, G * C}),
                   d.uniform(DType::bf16, {T, G * C}), d.zeros(DType::bf16, {T, H * C}),
                   d.zeros(DType::f32, {H, T})};
  };
  const std::string shape = cat(T, " tokens in documents of ", lengths_[0]);
  add("attention forward", shape, {4.0 * double(T) * double((H + G) * C), flops, pairs * double(H)},
      [=, this](BenchDevice& d) {
        const Tensors t = make(d);
        return [=, this, &d] {
          d.ops().attention_forward(d.context(), {.q = t.q,
                                                  .k = t.k,
                                                  .v = t.v,
                                                  .head_size = C,
                                                  .scale = 1 / std::sqrt(float(C)),
                                                  .docs = docs(),
                                                  .o = t.o,
                                                  .lse = t.lse});
        };
      });
  // Five products of the forward's two.
  add("attention backward", shape, {8.0 * double(T) * double((H + G) * C), 2.5 * flops, pairs * double(H)},
      [=, this](BenchDevice& d) {
        const Tensors t = make(d);
        const Tensor d_out = d.uniform(DType::bf16, {T, H * C}), dq = d.zeros(DType::bf16, {T, H * C}),
                     dk = d.zeros(DType::bf16, {T, G * C}), dv = d.zeros(DType::bf16, {T, G * C});
        const float scale = 1 / std::sqrt(float(C));
        d.ops().attention_forward(d.context(), {.q = t.q,
                                                .k = t.k,
                                                .v = t.v,
                                                .head_size = C,
                                                .scale = scale,
                                                .docs = docs(),
                                                .o = t.o,
                                                .lse = t.lse});
        return [=, this, &d] {
          d.ops().attention_backward(d.context(), {.d_out = d_out,
                                                   .q = t.q,
                                                   .k = t.k,
                                                   .v = t.v,
                                                   .o = t.o,
                                                   .lse = t.lse,
                                                   .head_size = C,
                                                   .scale = scale,
                                                   .docs = docs(),
                                                   .dq = dq,
                                                   .dk = dk,
                                                   .dv = dv});
        };
      });
}

void Cases::norms() {
  const double td = double(T) * double(D), tf = double(T) * double(F);
  add("RMSNorm with residual forward", cat(T, " x ", D), {8 * td}, [this](BenchDevice& d) {
    const Tensor h = d.uniform(DType::bf16, {T, D}), branch = d.uniform(DType::bf16, {T, D}),
                 w = d.uniform(DType::f32, {D}), y = d.zeros(DType::bf16, {T, D}),
                 rstd = d.zeros(DType::f32, {T});
    const Tensor out = d.zeros(DType::bf16, {T, D});
    return [=, &d] {
      d.ops().rms_norm_forward(d.context(),
                               {.h = h, .branch = branch, .weight = w, .h_out = out, .y = y, .rstd = rstd});
    };
  });
  add("RMSNorm backward", cat(T, " x ", D), {8 * td}, [this](BenchDevice& d) {
    const Tensor h = d.uniform(DType::bf16, {T, D}), dy = d.uniform(DType::bf16, {T, D}),
                 w = d.uniform(DType::f32, {D}), rstd = d.uniform(DType::f32, {T}, 0.5, 1),
                 dh = d.zeros(DType::bf16, {T, D}), dw = d.zeros(DType::f32, {D});
    return [=, &d] {
      d.ops().rms_norm_backward(d.context(),
                                {.dy = dy, .h = h, .weight = w, .rstd = rstd, .dh = dh, .dweight = dw});
    };
  });
  const double p = double(T) * double(R + 2 * N);
  add("norms of dt, B, C forward", cat(T, " x ", R + 2 * N),
      {4 * p + 2.0 * double(T * R) + 8.0 * double(T * N)}, [this](BenchDevice& d) {
        const Tensor in = d.uniform(DType::f32, {T, R + 2 * N}), wd = d.uniform(DType::f32, {R}),
                     wn = d.uniform(DType::f32, {N}), dt = d.zeros(DType::bf16, {T, R}),
                     b = d.zeros(DType::f32, {T, N}), c = d.zeros(DType::f32, {T, N}),
                     rstd = d.zeros(DType::f32, {T, 3});
        return [=, &d] {
          d.ops().ssm_norms_forward(
              d.context(),
              {.p = in, .w_dt = wd, .w_b = wn, .w_c = wn, .dt = dt, .b = b, .c = c, .rstd = rstd});
        };
      });
  add("SwiGLU forward", cat(T, " x ", F), {6 * tf}, [this](BenchDevice& d) {
    const Tensor in = d.uniform(DType::bf16, {T, 2 * F}), h = d.zeros(DType::bf16, {T, F});
    return [=, &d] { d.ops().swiglu_forward(d.context(), {in, h}); };
  });
  add("SwiGLU backward", cat(T, " x ", F), {10 * tf}, [this](BenchDevice& d) {
    const Tensor in = d.uniform(DType::bf16, {T, 2 * F}), dh = d.uniform(DType::bf16, {T, F}),
                 out = d.zeros(DType::bf16, {T, 2 * F});
    return [=, &d] { d.ops().swiglu_backward(d.context(), {dh, in, out}); };
  });
}

/// Tokens routed by made-up logits, and the maps of the exchange.
struct Routed {
  Tensor logits, probs, expert, weight, lse, stats, offsets, row_of, token_of;
  Routed(BenchDevice& d, int64_t tokens)
      : logits(d.uniform(DType::f32, {tokens, X}, -2, 2)),
        probs(d.zeros(DType::f32, {tokens, X})),
        expert(d.zeros(DType::i32, {tokens, K})),
        weight(d.zeros(DType::f32, {tokens, K})),
        lse(d.zeros(DType::f32, {tokens})),
        stats(d.zeros(DType::f32, {2 * X + 1})),
        offsets(d.zeros(DType::i32, {X + 1})),
        row_of(d.zeros(DType::i32, {tokens, K})),
        token_of(d.zeros(DType::i32, {tokens * K})) {
    route(d);
    sort(d);
  }
  void route(BenchDevice& d) const {
    d.ops().router_forward(d.context(), {.logits = logits,
                                         .k = K,
                                         .probs = probs,
                                         .expert = expert,
                                         .weight = weight,
                                         .lse = lse,
                                         .stats = stats});
  }
  void sort(BenchDevice& d) const {
    d.ops().sort_by_expert(d.context(), {expert, X, offsets, row_of, token_of});
  }
};

void Cases::experts() {
  const double rows = double(T * K), td = double(T) * double(D);
  add("router", cat(T, " x ", X), {double(T) * (8.0 * X + 16)}, [this](BenchDevice& d) {
    const Routed r(d, T);
    return [=, &d] { r.route(d); };
  });
  add("sort by expert", cat(T * K), {double(T * K) * 12}, [this](BenchDevice& d) {
    const Routed r(d, T);
    return [=, &d] { r.sort(d); };
  });
  add("gather rows", cat(T * K, " x ", D), {2 * td + 2 * rows * double(D)}, [this](BenchDevice& d) {
    const Routed r(d, T);
    const Tensor x = d.uniform(DType::bf16, {T, D}), y = d.zeros(DType::bf16, {T * K, D});
    return [=, &d] { d.ops().gather_rows(d.context(), {x, r.token_of, y}); };
  });
  add("combine", cat(T, " x ", D), {2 * td + 2 * rows * double(D)}, [this](BenchDevice& d) {
    const Routed r(d, T);
    const Tensor x = d.uniform(DType::bf16, {T * K, D}), y = d.zeros(DType::bf16, {T, D});
    return [=, &d] { d.ops().combine_forward(d.context(), {x, r.row_of, r.weight, y}); };
  });
  const double weights = 2.0 * double(X) * double(2 * F) * double(D);
  add("expert products gate and up", cat(T * K, " rows, ", X, " x ", 2 * F, " x ", D),
      {weights + 2 * rows * double(D + 2 * F), 2 * rows * double(2 * F) * double(D)}, [this](BenchDevice& d) {
        const Routed r(d, T);
        const Tensor a = d.uniform(DType::bf16, {T * K, D}), w = d.uniform(DType::bf16, {X, 2 * F, D}),
                     y = d.zeros(DType::bf16, {T * K, 2 * F});
        return [=, &d] {
          d.ops().grouped_gemm(
              d.context(),
              {.kind = GroupedGemm::Kind::forward, .a = a, .w = w, .y = y, .offsets = r.offsets});
        };
      });
  add("expert products weight gradient", cat(X, " x ", D, " x ", F, ", ", T * K, " rows"),
      {8.0 * double(X) * double(F) * double(D) + 2 * rows * double(D + F), 2 * rows * double(F) * double(D)},
      [this](BenchDevice& d) {
        const Routed r(d, T);
        const Tensor dy = d.uniform(DType::bf16, {T * K, D}), x = d.uniform(DType::bf16, {T * K, F}),
                     dw = d.zeros(DType::f32, {X, D, F});
        return [=, &d] {
          d.ops().grouped_gemm(
              d.context(),
              {.kind = GroupedGemm::Kind::weight_gradient, .a = dy, .w = dw, .y = x, .offsets = r.offsets});
        };
      });
}

void Cases::vocabulary() {
  std::vector<int32_t> ids(static_cast<size_t>(T));
  for (int64_t t = 0; t < T; t++) ids[size_t(t)] = int32_t((t * 7919 + t * t % 1013) % V);
  add("embedding forward", cat(T, " x ", D), {4.0 * double(T * D)}, [=, this](BenchDevice& d) {
    const Tensor at = d.copy_of(ids), table = d.uniform(DType::bf16, {V, D}),
                 y = d.zeros(DType::bf16, {T, D});
    return [=, &d] { d.ops().embedding_forward(d.context(), {.ids = at, .table = table, .y = y}); };
  });
  add("embedding backward", cat(T, " x ", D), {2.0 * double(T * D) + 8.0 * double(std::min(T, V) * D)},
      [=, this](BenchDevice& d) {
        const Tensor at = d.copy_of(ids), dy = d.uniform(DType::bf16, {T, D}),
                     dt = d.zeros(DType::f32, {V, D});
        return [=, &d] { d.ops().embedding_backward(d.context(), {.ids = at, .dy = dy, .dtable = dt}); };
      });
  const double tv = double(T) * double(V);
  add("head and loss, forward and backward", cat(T, " x ", V, " x ", D), {4 * tv, 6 * tv * double(D), 2 * tv},
      [=, this](BenchDevice& d) {
        const Tensor h = d.uniform(DType::bf16, {T, D}, -0.1, 0.1),
                     w = d.uniform(DType::bf16, {V, D}, -0.1, 0.1), at = d.copy_of(ids),
                     sum = d.zeros(DType::f64, {2}), dh = d.zeros(DType::bf16, {T, D}),
                     dw = d.zeros(DType::f32, {V, D});
        return [=, this, &d] {
          d.ops().head_loss(
              d.context(),
              {.h = h, .w = w, .targets = at, .scale = 1 / float(T), .loss_sum = sum, .dh = dh, .dw = dw});
        };
      });
}

void Cases::optimizer() {
  const int64_t n = 100'000'000;
  add("AdamW", cat(n, " parameters"), {30.0 * double(n)}, [=](BenchDevice& d) {
    const Tensor p = d.uniform(DType::f32, {n}), m = d.zeros(DType::f32, {n}), v = d.zeros(DType::f32, {n}),
                 g = d.uniform(DType::f32, {n}), c = d.zeros(DType::bf16, {n}),
                 scale = d.zeros(DType::f32, {2});
    return [=, &d] {
      d.ops().adamw(d.context(), {.param = p,
                                  .m = m,
                                  .v = v,
                                  .grad = g,
                                  .compute = c,
                                  .grad_scale = scale,
                                  .lr = 1e-3f,
                                  .decay = 0.1f});
    };
  });
  add("gradient norm", cat(n, " parameters"), {4.0 * double(n)}, [=](BenchDevice& d) {
    const Tensor g = d.uniform(DType::f32, {n}), out = d.zeros(DType::f64, {2});
    return [=, &d] { d.ops().sum_squares(d.context(), {.x = g, .out = out}); };
  });
}

}  // namespace

std::vector<KernelCase> kernel_cases(int64_t tokens, int64_t length) {
  const auto made = std::make_shared<Cases>(tokens, length);
  std::vector<KernelCase> cases = made->all();
  for (KernelCase& c : cases)  // what is returned refers to `made`
    c.prepare = [made, prepare = c.prepare](BenchDevice& device) { return prepare(device); };
  return cases;
}

}  // namespace jambalaya::bench
