// The scan's carry over one shard of a longer stream, on the CPU: which tokens are walked, in which groups of
// channels. The arithmetic is in simd/scan_carry.simd.cpp.
#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/ops_cpu.h"
#include "kernels/op_checks.h"

namespace jambalaya {

namespace {

/// Two vectors of bf16 fill a cache line, so groups of this many channels never share one.
constexpr int64_t kGroup = 32;

/// What both directions read.
template <class Op>
ScanInputs inputs(const Op& op) {
  const int64_t E = op.a_log.shape[0], N = op.a_log.shape[1];
  ScanInputs in{};
  in.s = op.s.data;
  in.s_stride = op.s.row_stride;
  in.a_log = op.a_log.template ptr<float>();
  in.dt_bias = op.dt_bias.template ptr<float>();
  in.channels = E;
  in.states = N;
  return in;
}

/// kernel(args, task) for every group of channels over tokens [t0, t1).
template <class Kernel, class Args>
void run_groups(Context& ctx, const ScanCarryKernels& simd, Kernel* kernel, const Args& args, int64_t t0,
                int64_t t1) {
  const int64_t E = args.in.channels, groups = (E + kGroup - 1) / kGroup;
  const int64_t floats = (simd.scratch(std::min(E, kGroup), args.in.states) + 15) / 16 * 16;
  ArenaScope scope(*ctx.scratch);
  float* scratch = ctx.scratch->array<float>(groups * floats, "scan carry");
  ctx.pool->run(groups, [&](int64_t g) {
    kernel(args, {.e0 = g * kGroup,
                  .e1 = std::min(E, (g + 1) * kGroup),
                  .t0 = t0,
                  .t1 = t1,
                  .scratch = scratch + g * floats});
  });
}

}  // namespace

void CpuOps::scan_carry_forward(Context& ctx, const ScanCarryForward& op) {
  check_op(op);
  ScanCarryForwardArgs args{.in = inputs(op), .h_end = op.h_end.ptr<float>(), .decay = op.decay.ptr<float>()};
  const int64_t T = op.docs.tokens, S = op.docs.count;
  args.in.u = op.u.data;
  args.in.u_stride = op.u.row_stride;
  args.in.b = op.b.ptr<float>();
  args.in.b_stride = op.b.row_stride;
  const auto kernel = act_kind(op.s) ? simd_.scan.carry->forward_bf16 : simd_.scan.carry->forward_f32;
  run_groups(ctx, *simd_.scan.carry, kernel, args, T ? op.docs.offsets[S - 1] : 0, T);
  if (T && S > 1) std::memset(op.decay.data, 0, size_t(op.decay.bytes()));
}

void CpuOps::scan_carry_backward(Context& ctx, const ScanCarryBackward& op) {
  check_op(op);
  ScanCarryBackwardArgs args{.in = inputs(op),
                             .d_out = op.d_out.data,
                             .d_out_stride = op.d_out.row_stride,
                             .dh0 = op.dh0.ptr<float>()};
  const int64_t T = op.docs.tokens;
  args.in.z = op.z.data;
  args.in.z_stride = op.z.row_stride;
  args.in.c = op.c.ptr<float>();
  args.in.c_stride = op.c.row_stride;
  const auto kernel = act_kind(op.s) ? simd_.scan.carry->backward_bf16 : simd_.scan.carry->backward_f32;
  run_groups(ctx, *simd_.scan.carry, kernel, args, 0, T ? op.docs.offsets[1] : 0);
}

}  // namespace jambalaya
