// The room optimizer: gradient norm and AdamW, each one pass over memory.
#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/cpu/ops_cpu.h"
#include "kernels/op_checks.h"

namespace jambalaya {
namespace {
constexpr int64_t kBlockElements = 1 << 15;
}  // namespace

void CpuOps::sum_squares(Context& ctx, const SumSquares& op) {
  check_op(op);
  auto kernel = simd_.optimizer.sum_squares[act_kind(op.x)];
  int64_t rows = op.x.rows(), columns = op.x.columns();
  if (op.x.packed()) columns *= rows, rows = 1;
  if (rows == 0 || columns == 0) return;
  const int64_t wide = std::min(columns, kBlockElements), tall = std::max<int64_t>(1, kBlockElements / wide);
  const int64_t across = (columns + wide - 1) / wide, down = (rows + tall - 1) / tall;
  ArenaScope scope(*ctx.scratch);
  double* sums = ctx.scratch->array<double>(across * down, "sum of squares");
  double* largest = ctx.scratch->array<double>(across * down, "sum of squares");
  ctx.pool->run(across * down, [&](int64_t c) {
    const int64_t row = c / across * tall, column = c % across * wide;
    kernel({op.x.address(row * op.x.row_stride + column), op.x.row_stride, std::min(tall, rows - row),
            std::min(wide, columns - column), sums + c, largest + c});
  });
  double total = 0, top = 0;
  for (int64_t c = 0; c < across * down; c++) {
    total += sums[c];
    top = std::max(top, largest[c]);
  }
  double* out = op.out.ptr<double>();
  out[0] += op.weight * total;
  if (std::isnan(total) || std::isnan(out[0]) || std::isnan(out[1]))
    out[0] = out[1] = std::nan("");
  else
    out[1] = std::max(out[1], top);
}

void CpuOps::adamw(Context& ctx, const AdamW& op) {
  check_op(op);
  const int64_t n = op.param.numel();
  float *param = op.param.ptr<float>(), *m = op.m.ptr<float>(), *v = op.v.ptr<float>();
  const float *grad = op.grad.ptr<float>(), *scale = op.grad_scale.ptr<float>();
  bf16* compute = op.compute ? op.compute.ptr<bf16>() : nullptr;
  if (scale[1] != 0) {
    if (!compute) return;
    ctx.pool->run_range(n, kBlockElements, [&](int64_t begin, int64_t end) {
      simd_.optimizer.refresh({param + begin, compute + begin, end - begin});
    });
    return;
  }
  const double beta1 = double(op.beta1), beta2 = double(op.beta2), step = double(op.step);
  const float correction1 = float(1 / (1 - std::pow(beta1, step))),
              correction2 = float(1 / (1 - std::pow(beta2, step)));
  ctx.pool->run_range(n, kBlockElements, [&](int64_t begin, int64_t end) {
    simd_.optimizer.adamw({param + begin, m + begin, v + begin, grad + begin,
                           compute ? compute + begin : nullptr, end - begin, scale[0], op.lr, op.beta1,
                           float(1 - beta1), op.beta2, float(1 - beta2), correction1, correction2, op.eps,
                           op.decay});
  });
}

}  // namespace jambalaya
