// RMSNorm and the three norms inside Jamba's Mamba on the CPU: rows in parallel, gradients of weights over
// fixed chunks of tokens. The arithmetic is in simd/norm.simd.cpp.
#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/ops_cpu.h"
#include "kernels/op_checks.h"

namespace jambalaya {

namespace {

/// Rows per task of a forward pass.
constexpr int64_t kRows = 32;
/// At most this many partial sums of a weight's gradient, of at least this many rows each.
constexpr int64_t kMaxChunks = 64, kMinRows = 64;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

NormForwardArgs forward_args(const Tensor& h, const Tensor& weight, float eps, const Tensor& y) {
  NormForwardArgs a{};
  a.h = h.data;
  a.h_stride = h.row_stride;
  a.weight = weight.ptr<float>();
  a.y = y.data;
  a.y_stride = y.row_stride;
  a.columns = h.shape[1];
  a.eps = eps;
  return a;
}

NormBackwardArgs backward_args(const Tensor& dy, const Tensor& h, const Tensor& weight, const Tensor& dh) {
  NormBackwardArgs a{};
  a.dy = dy.data;
  a.dy_stride = dy.row_stride;
  a.h = h.data;
  a.h_stride = h.row_stride;
  a.weight = weight.ptr<float>();
  a.dh = dh.data;
  a.dh_stride = dh.row_stride;
  a.columns = h.shape[1];
  return a;
}

/// One part of the vector that x_proj gives.
struct Part {
  Tensor p, weight, y;  ///< its columns of p (of dp), weight or empty, output (gradient of it)
};

/// Runs f(chunk, row begin, row end) over chunks of rows whose number has a bound that only T decides.
struct Chunks {
  int64_t rows, count;
  explicit Chunks(int64_t tokens)
      : rows(std::max(kMinRows, ceil_div(tokens, kMaxChunks))), count(ceil_div(tokens, rows)) {}
  template <class F>
  void run(Context& ctx, int64_t tokens, F&& f) const {
    ctx.pool->run(count, [&](int64_t c) { f(c, c * rows, std::min(tokens, (c + 1) * rows)); });
  }
};

/// out[i] += sum over chunks, in their order, of partial[chunk * stride + i].
void add_partials(Context& ctx, const float* partial, int64_t chunks, int64_t stride, const Tensor& out) {
  float* sums = out.ptr<float>();
  ctx.pool->run_range(out.numel(), 1024, [&](int64_t begin, int64_t end) {
    for (int64_t c = 0; c < chunks; c++)
      for (int64_t i = begin; i < end; i++) sums[i] += partial[c * stride + i];
  });
}

}  // namespace

void CpuOps::rms_norm_forward(Context& ctx, const RmsNormForward& op) {
  check_op(op);
  const int64_t T = op.h.rows();
  NormForwardArgs args = forward_args(op.h, op.weight, op.eps, op.y);
  args.rstd = op.rstd.ptr<float>();
  args.rstd_stride = 1;
  if (op.branch) {
    args.branch = op.branch.data;
    args.branch_stride = op.branch.row_stride;
    args.h_out = op.h_out.data;
    args.h_out_stride = op.h_out.row_stride;
  }
  auto kernel = simd_.norm.forward[act_kind(op.h)][op.branch ? act_kind(op.branch) : 0][act_kind(op.y)];
  ctx.pool->run_range(T, kRows, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

void CpuOps::rms_norm_backward(Context& ctx, const RmsNormBackward& op) {
  check_op(op);
  const int64_t T = op.h.rows(), D = op.h.columns();
  NormBackwardArgs args = backward_args(op.dy, op.h, op.weight, op.dh);
  args.rstd = op.rstd.ptr<float>();
  args.rstd_stride = 1;
  args.accumulate = true;
  auto kernel = simd_.norm.backward[act_kind(op.dy)][act_kind(op.h)][act_kind(op.dh)];
  const Chunks chunks(T);
  ArenaScope scope(*ctx.scratch);
  float* partial = ctx.scratch->array<float>(chunks.count * D, "norm");
  chunks.run(ctx, T,
             [&](int64_t c, int64_t begin, int64_t end) { kernel(args, begin, end, partial + c * D); });
  add_partials(ctx, partial, chunks.count, D, op.dweight);
}

void CpuOps::ssm_norms_forward(Context& ctx, const SsmNormsForward& op) {
  check_op(op);
  const int64_t T = op.p.rows(), R = op.dt.columns(), N = op.b.columns();
  const Part parts[3] = {{op.p.slice_columns(0, R), op.w_dt, op.dt},
                         {op.p.slice_columns(R, R + N), op.w_b, op.b},
                         {op.p.slice_columns(R + N, R + 2 * N), op.w_c, op.c}};
  float* rstd = op.rstd.ptr<float>();
  ctx.pool->run_range(T, kRows, [&](int64_t begin, int64_t end) {
    for (int i = 0; i < 3; i++) {
      const auto& [p, weight, y] = parts[i];
      if (weight) {
        NormForwardArgs args = forward_args(p, weight, op.eps, y);
        args.rstd = rstd + i;
        args.rstd_stride = 3;
        simd_.norm.forward[0][0][act_kind(y)](args, begin, end);
      } else {
        simd_.norm.copy[0][act_kind(y)](p.data, p.row_stride, y.data, y.row_stride, p.shape[1], begin, end);
        for (int64_t t = begin; t < end; t++) rstd[3 * t + i] = 1;
      }
    }
  });
}

void CpuOps::ssm_norms_backward(Context& ctx, const SsmNormsBackward& op) {
  check_op(op);
  const int64_t T = op.p.rows(), R = op.ddt.columns(), N = op.db.columns(), P = R + 2 * N;
  const int64_t column[4] = {0, R, R + N, P};
  const Part parts[3] = {{op.dp.slice_columns(0, R), op.w_dt, op.ddt},
                         {op.dp.slice_columns(R, R + N), op.w_b, op.db},
                         {op.dp.slice_columns(R + N, P), op.w_c, op.dc}};
  const Tensor dweights[3] = {op.dw_dt, op.dw_b, op.dw_c};
  const Chunks chunks(T);
  ArenaScope scope(*ctx.scratch);
  float* partial = ctx.scratch->array<float>(chunks.count * P, "norm");
  const float* rstd = op.rstd.ptr<float>();
  chunks.run(ctx, T, [&](int64_t c, int64_t begin, int64_t end) {
    for (int i = 0; i < 3; i++) {
      const auto& [dp, weight, dy] = parts[i];
      if (weight) {
        NormBackwardArgs args = backward_args(dy, op.p.slice_columns(column[i], column[i + 1]), weight, dp);
        args.rstd = rstd + i;
        args.rstd_stride = 3;
        simd_.norm.backward[act_kind(dy)][0][0](args, begin, end, partial + c * P + column[i]);
      } else {
        simd_.norm.copy[act_kind(dy)][0](dy.data, dy.row_stride, dp.data, dp.row_stride, dp.shape[1], begin,
                                         end);
      }
    }
  });
  for (int i = 0; i < 3; i++)
    if (parts[i].weight) add_partials(ctx, partial + column[i], chunks.count, P, dweights[i]);
}

}  // namespace jambalaya
