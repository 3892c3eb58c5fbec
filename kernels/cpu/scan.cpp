// Selective scan on the CPU: how the channels are grouped and the tokens cut. The arithmetic is in
// simd/scan.simd.cpp and simd/scan_backward.simd.cpp.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/ops_cpu.h"
#include "kernels/op_checks.h"

namespace jambalaya {

namespace {

static_assert(kScanChunk == kScanTile);
/// Two vectors of bf16 fill a cache line, so groups of this many channels never share one.
constexpr int64_t kGroup = 32;
/// Enough tasks to keep threads busy where channels alone are too few.
constexpr int64_t kTasks = 16;
/// The backward's partial sums of db and dc exist for this many groups and tokens at a time.
constexpr int64_t kMaxGroups = 64, kWindow = 1024;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// What forward and backward both read, for the vector kernels.
template <class Op>
ScanInputs inputs(const Op& op) {
  const int64_t E = op.a_log.shape[0], N = op.a_log.shape[1], S = op.docs.count;
  return {.u = op.u.data,
          .s = op.s.data,
          .z = op.z.data,
          .u_stride = op.u.row_stride,
          .s_stride = op.s.row_stride,
          .z_stride = op.z.row_stride,
          .b = op.b.template ptr<float>(),
          .c = op.c.template ptr<float>(),
          .b_stride = op.b.row_stride,
          .c_stride = op.c.row_stride,
          .a_log = op.a_log.template ptr<float>(),
          .d = op.d.template ptr<float>(),
          .dt_bias = op.dt_bias.template ptr<float>(),
          .offsets = op.docs.offsets,
          .segment_of = op.docs.segment_of,
          .h0 = op.h0 ? op.h0.template ptr<float>() : nullptr,
          .channels = E,
          .states = N,
          .segments = S,
          .ends_only = op.ends_only};
}

/// to[s] = from[s], zero without `from`.
void pass_state(const Tensor& from, const Tensor& to, int64_t s) {
  const Tensor entry = to.at(s);
  if (from)
    std::memcpy(entry.data, from.at(s).data, size_t(entry.bytes()));
  else
    std::memset(entry.data, 0, size_t(entry.bytes()));
}

/// The state passes an empty segment unchanged: to[s] = from[s], zero without `from`.
void pass_through_empty(const Documents& docs, const Tensor& from, const Tensor& to) {
  if (!to || from.data == to.data) return;
  for (int64_t s = 0; s < docs.count; s++)
    if (docs.offsets[s] == docs.offsets[s + 1]) pass_state(from, to, s);
}

/// The same with ends_only, where `to` belongs to segment `edge` (the first or the last): a shard without
/// tokens passes the state on, an empty segment at the edge of one with tokens has no state to pass.
void pass_through_shard(const Documents& docs, const Tensor& from, const Tensor& to, int64_t edge) {
  if (!to) return;
  if (docs.tokens == 0)
    pass_state(from, to, 0);
  else if (docs.offsets[edge] == docs.offsets[edge + 1])
    pass_state({}, to, 0);
}

/// Where span i of `spans` begins: the first border of segments at or after its even share of the tokens.
int64_t span_begin(const Documents& docs, int64_t i, int64_t spans) {
  const int64_t t = docs.tokens * i / spans;
  if (t == docs.tokens) return t;
  const int32_t s = docs.segment_of[t];
  return docs.offsets[s] == t ? t : docs.offsets[s + 1];
}

float* optional(const Tensor& t) { return t ? t.ptr<float>() : nullptr; }

}  // namespace

void CpuOps::scan_forward(Context& ctx, const ScanForward& op) {
  check_op(op);
  const ScanInputs in = inputs(op);
  const int64_t T = op.docs.tokens, E = in.channels, N = in.states, S = op.docs.count;
  ScanForwardArgs args{.in = in,
                       .o = op.o.data,
                       .o_stride = op.o.row_stride,
                       .h_last = optional(op.h_last),
                       .kept_states = optional(op.states),
                       .delta_range = nullptr};

  const int64_t groups = ceil_div(E, kGroup);
  const int64_t spans =
      std::clamp<int64_t>(ceil_div(kTasks, std::max<int64_t>(groups, 1)), 1, std::max<int64_t>(S, 1));
  ArenaScope scope(*ctx.scratch);
  const int64_t floats = ceil_div(simd_.scan.forward_scratch(std::min(E, kGroup), N), 16) * 16;
  float* scratch = ctx.scratch->array<float>(groups * spans * floats, "scan");
  float* ranges = ctx.scratch->array<float>(groups * spans * 2, "scan");
  auto kernel = op.u.dtype == DType::bf16 ? simd_.scan.forward_bf16 : simd_.scan.forward_f32;
  ctx.pool->run(groups * spans, [&](int64_t i) {
    const int64_t group = i / spans, span = i % spans;
    ScanForwardArgs mine = args;
    if (op.delta_range) mine.delta_range = ranges + 2 * i;
    kernel(mine, {.e0 = group * kGroup,
                  .e1 = std::min(E, (group + 1) * kGroup),
                  .t0 = span_begin(op.docs, span, spans),
                  .t1 = span_begin(op.docs, span + 1, spans),
                  .scratch = scratch + i * floats});
  });
  if (op.ends_only)
    pass_through_shard(op.docs, op.h0, op.h_last, S - 1);
  else
    pass_through_empty(op.docs, op.h0, op.h_last);
  if (op.delta_range) {
    float* out = op.delta_range.ptr<float>();
    out[0] = T && E ? ranges[0] : 0;
    out[1] = T && E ? ranges[1] : 0;
    for (int64_t i = 0; T && i < groups * spans; i++) {  // a span without tokens leaves low > high
      out[0] = std::min(out[0], ranges[2 * i]);
      out[1] = std::max(out[1], ranges[2 * i + 1]);
    }
  }
}

void CpuOps::scan_backward(Context& ctx, const ScanBackward& op) {
  check_op(op);
  const ScanInputs in = inputs(op);
  const DType act = op.u.dtype;
  const int64_t T = op.docs.tokens, E = in.channels, N = in.states;
  const ScanBackwardArgs args{.in = in,
                              .d_out = op.d_out.data,
                              .d_out_stride = op.d_out.row_stride,
                              .kept_states = optional(op.states),
                              .dh_last = optional(op.dh_last),
                              .du = op.du.data,
                              .ds = op.ds.data,
                              .dz = op.dz.data,
                              .du_stride = op.du.row_stride,
                              .ds_stride = op.ds.row_stride,
                              .dz_stride = op.dz.row_stride,
                              .da_log = optional(op.da_log),
                              .dd = optional(op.dd),
                              .ddt_bias = optional(op.ddt_bias),
                              .dh0 = optional(op.dh0)};

  const ScanBackwardKernels& simd = *simd_.scan.backward;
  auto kernel = act == DType::f32 ? simd.f32 : op.du.dtype == DType::f32 ? simd.bf16_du_f32 : simd.bf16_all;
  const int64_t width = std::max(kGroup, ceil_div(ceil_div(E, kMaxGroups), kGroup) * kGroup);
  const int64_t groups = ceil_div(E, width);
  const int64_t floats = ceil_div(simd.scratch(std::min(E, width), N), 16) * 16;
  const int64_t group_stride = std::min(T, kWindow) * simd.partial_width(N);
  ArenaScope scope(*ctx.scratch);
  float* scratch = ctx.scratch->array<float>(groups * floats, "scan");
  float* partial = ctx.scratch->array<float>(groups * group_stride, "scan");
  auto task = [&](int64_t group, int64_t t0, int64_t t1) {
    return ScanTask{.e0 = group * width,
                    .e1 = std::min(E, (group + 1) * width),
                    .t0 = t0,
                    .t1 = t1,
                    .scratch = scratch + group * floats};
  };

  ctx.pool->run(groups, [&](int64_t g) { simd.begin(args, task(g, 0, 0)); });
  for (int64_t window = ceil_div(T, kWindow) - 1; window >= 0; window--) {
    const int64_t t0 = window * kWindow, t1 = std::min(T, t0 + kWindow);
    ctx.pool->run(groups, [&](int64_t g) { kernel(args, task(g, t0, t1), partial + g * group_stride); });
    ctx.pool->run_range(t1 - t0, kScanTile, [&](int64_t a, int64_t b) {
      simd.sum_partials(partial + a * simd.partial_width(N), groups, group_stride, b - a, N,
                        op.db.ptr<float>() + (t0 + a) * op.db.row_stride, op.db.row_stride,
                        op.dc.ptr<float>() + (t0 + a) * op.dc.row_stride, op.dc.row_stride);
    });
  }
  ctx.pool->run(groups, [&](int64_t g) { simd.end(args, task(g, 0, 0)); });
  if (op.ends_only)
    pass_through_shard(op.docs, op.dh_last, op.dh0, 0);
  else
    pass_through_empty(op.docs, op.dh_last, op.dh0);
}

}  // namespace jambalaya
