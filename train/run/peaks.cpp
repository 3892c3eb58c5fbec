#include "train/run/peaks.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "kernels/trace.h"
#include "kernels/transfer.h"
#include "model/op_flops.h"

namespace jambalaya {

namespace {

struct Shapes {
  int64_t product, tokens, channels, heads;
};
constexpr Shapes kCpu = {1536, 2048, 1024, 8};
constexpr Shapes kGpu = {8192, 8192, 4096, 16};
constexpr Shapes kSmallGpu = {2048, 2048, 2048, 16};  ///< where most of the memory is taken
constexpr Shapes kEmulated = {64, 64, 64, 2};         ///< its speed says nothing
constexpr int64_t kFull = int64_t(4) << 30, kLeast = int64_t(512) << 20, kAddresses = int64_t(16) << 30;

/// Tensors for the ops, with values as they are in training, and their clock.
class Bench {
 public:
  explicit Bench(const Context& ctx)
      : ctx_(ctx),
        memory_("peak measurement", addresses(ctx), ctx.accelerator),
        scratch_("scratch of the peak measurement", addresses(ctx), ctx.accelerator) {
    ctx_.scratch = &scratch_;
  }
  Context& context() { return ctx_; }
  Arena& memory() { return memory_; }

  Tensor empty(DType dtype, std::initializer_list<int64_t> shape) {
    const Tensor x = memory_.tensor(dtype, shape, "peak measurement");
    clear(ctx_, x);
    return x;
  }
  /// Numbers between -scale and scale. (Zeros would take less power, and let a clock rise.)
  Tensor filled(DType dtype, std::initializer_list<int64_t> shape, float scale = 0.5f) {
    const Tensor x = memory_.tensor(dtype, shape, "peak measurement");
    return dtype == DType::bf16 ? fill<bf16>(x, scale) : fill<float>(x, scale);
  }
  /// FLOP/s of the fastest of several runs, after one to warm up.
  double best(double flops, const std::function<void()>& run) {
    run();
    synchronize(ctx_);
    int64_t fastest = INT64_MAX, spent = 0;
    for (int i = 0; i < 20 && (i < 3 || spent < 300'000'000); i++) {
      const int64_t begin = trace::now_ns();
      run();
      synchronize(ctx_);
      const int64_t took = trace::now_ns() - begin;
      fastest = std::min(fastest, std::max<int64_t>(took, 1)), spent += took;
    }
    return flops / double(fastest) * 1e9;
  }

 private:
  static int64_t addresses(const Context& ctx) {
    return ctx.accelerator ? std::min(kAddresses, ctx.accelerator->properties().memory_bytes) : kAddresses;
  }
  template <class T>
  Tensor fill(const Tensor& x, float scale) {
    std::vector<T> values(size_t(x.numel()));
    uint32_t state = 1;
    for (T& value : values) {
      state = state * 1664525u + 1013904223u;  // Numerical Recipes' generator: any noise will do
      const float u = scale * (float(state >> 8) / float(1 << 23) - 1);
      if constexpr (std::is_same_v<T, bf16>)
        value = to_bf16(u);
      else
        value = u;
    }
    Tensor host = x;
    host.data = values.data(), host.device = Device::cpu;
    copy(ctx_, host, x);
    synchronize(ctx_);
    return x;
  }

  Context ctx_;
  Arena memory_, scratch_;
};

double measure_gemm(Bench& bench, DType act, int64_t n) {
  const ArenaScope scope(bench.memory());
  const Gemm op = {.a = bench.filled(act, {n, n}),
                   .b = bench.filled(act, {n, n}),
                   .c = bench.empty(act, {n, n}),
                   .transpose_b = true};
  Context& ctx = bench.context();
  return bench.best(flops_of(op), [&] { ctx.ops->gemm(ctx, op); });
}

double measure_scan(Bench& bench, DType act, int64_t t, int64_t e, int64_t n) {
  const ArenaScope scope(bench.memory());
  const DType f32 = DType::f32;
  const DocumentsBuffer document({t});
  const ScanForward forward = {.u = bench.filled(act, {t, e}),
                               .s = bench.filled(act, {t, e}),
                               .z = bench.filled(act, {t, e}),
                               .b = bench.filled(f32, {t, n}),
                               .c = bench.filled(f32, {t, n}),
                               .a_log = bench.filled(f32, {e, n}),
                               .d = bench.filled(f32, {e}),
                               .dt_bias = bench.filled(f32, {e}),
                               .docs = document.view(),
                               .h0 = {},
                               .o = bench.empty(act, {t, e}),
                               .h_last = {},
                               .states = bench.empty(f32, {scan_states(t), n, e}),
                               .delta_range = {}};
  const ScanBackward backward = {.d_out = bench.filled(act, {t, e}),
                                 .u = forward.u,
                                 .s = forward.s,
                                 .z = forward.z,
                                 .b = forward.b,
                                 .c = forward.c,
                                 .a_log = forward.a_log,
                                 .d = forward.d,
                                 .dt_bias = forward.dt_bias,
                                 .docs = forward.docs,
                                 .h0 = {},
                                 .states = forward.states,
                                 .dh_last = {},
                                 .du = bench.empty(act, {t, e}),
                                 .ds = bench.empty(act, {t, e}),
                                 .dz = bench.empty(act, {t, e}),
                                 .db = bench.empty(f32, {t, n}),
                                 .dc = bench.empty(f32, {t, n}),
                                 .da_log = bench.empty(f32, {e, n}),
                                 .dd = bench.empty(f32, {e}),
                                 .ddt_bias = bench.empty(f32, {e}),
                                 .dh0 = {}};
  Context& ctx = bench.context();
  return bench.best(flops_of(forward) + flops_of(backward), [&] {
    ctx.ops->scan_forward(ctx, forward);
    ctx.ops->scan_backward(ctx, backward);
  });
}

double measure_attention(Bench& bench, DType act, int64_t t, int64_t heads, int64_t head_size) {
  const ArenaScope scope(bench.memory());
  const int64_t width = heads * head_size;
  const float scale = 1 / std::max(1.0f, float(head_size));
  const DocumentsBuffer document({t});
  const AttentionForward forward = {.q = bench.filled(act, {t, width}),
                                    .k = bench.filled(act, {t, width}),
                                    .v = bench.filled(act, {t, width}),
                                    .head_size = head_size,
                                    .scale = scale,
                                    .docs = document.view(),
                                    .key_begin = {},
                                    .key_count = {},
                                    .o = bench.empty(act, {t, width}),
                                    .lse = bench.empty(DType::f32, {heads, t})};
  const AttentionBackward backward = {.d_out = bench.filled(act, {t, width}),
                                      .q = forward.q,
                                      .k = forward.k,
                                      .v = forward.v,
                                      .o = forward.o,
                                      .lse = forward.lse,
                                      .head_size = head_size,
                                      .scale = scale,
                                      .docs = forward.docs,
                                      .key_begin = {},
                                      .key_count = {},
                                      .delta = {},
                                      .dq = bench.empty(act, {t, width}),
                                      .dk = bench.empty(act, {t, width}),
                                      .dv = bench.empty(act, {t, width})};
  Context& ctx = bench.context();
  return bench.best(flops_of(forward) + flops_of(backward), [&] {
    ctx.ops->attention_forward(ctx, forward);
    ctx.ops->attention_backward(ctx, backward);
  });
}

const Shapes& shapes_for(Accelerator* accelerator) {
  if (!accelerator) return kCpu;
  if (accelerator->properties().emulated) return kEmulated;
  return accelerator->free_bytes() >= kFull ? kGpu : kSmallGpu;
}

}  // namespace

Peaks measure_peaks(const Context& ctx, const ModelConfig& model, DType act) {
  if (ctx.accelerator && ctx.accelerator->free_bytes() < kLeast) return {};
  const Shapes& shapes = shapes_for(ctx.accelerator);
  bool mamba = false, attention = false;
  for (const LayerKind& kind : layer_kinds(model))
    (kind.mixer == Mixer::attention ? attention : mamba) = true;
  Bench bench(ctx);
  Peaks peaks;
  peaks.gemm_size = shapes.product;
  peaks.gemm = measure_gemm(bench, act, shapes.product);
  if (mamba) {
    peaks.scan_tokens = shapes.tokens, peaks.scan_channels = shapes.channels;
    peaks.scan = measure_scan(bench, act, shapes.tokens, shapes.channels, model.mamba_d_state);
  }
  if (attention) {
    peaks.attention_tokens = shapes.tokens, peaks.attention_heads = shapes.heads;
    peaks.attention = measure_attention(bench, act, shapes.tokens, shapes.heads, model.head_size());
  }
  return peaks;
}

}  // namespace jambalaya
