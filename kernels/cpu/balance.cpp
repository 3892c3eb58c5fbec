// Balance loss: a few numbers per layer, in double precision and plain loops.
#include <vector>

#include "kernels/cpu/ops_cpu.h"
#include "kernels/op_checks.h"

namespace jambalaya {

void CpuOps::balance_loss(Context&, const BalanceLoss& a) {
  check_op(a);
  const int64_t layers = a.stats.rows(), experts = (a.stats.columns() - 1) / 2;
  const float* stats = a.stats.ptr<float>();
  float* dprob = a.dprob.ptr<float>();
  double* sums = a.sums.ptr<double>();
  // Over all layers together the means run over layers x tokens rows; per layer each layer is averaged by
  // itself.
  const double x = double(experts), l = double(layers), rows = a.per_layer ? a.tokens : a.tokens * l;
  std::vector<double> f(size_t(layers * experts)), p(size_t(layers * experts));
  for (int64_t i = 0; i < layers; i++)
    for (int64_t e = 0; e < experts; e++) {
      size_t slot = size_t((a.per_layer ? i : 0) * experts + e);
      f[slot] += double(stats[i * a.stats.row_stride + e]) / rows;
      p[slot] += double(stats[i * a.stats.row_stride + experts + e]) / rows;
    }
  const double share = a.per_layer ? 1 / l : 1.0;
  double loss = 0, z = 0;
  for (size_t i = 0; i < f.size(); i++) loss += share * x * f[i] * p[i];
  for (int64_t i = 0; i < layers; i++) {
    z += double(stats[i * a.stats.row_stride + 2 * experts]) / (a.tokens * l);
    for (int64_t e = 0; e < experts; e++) {
      size_t slot = size_t((a.per_layer ? i : 0) * experts + e);
      dprob[i * a.dprob.row_stride + e] = float(a.weight * a.factor * share * x * f[slot] / rows);
    }
  }
  sums[0] += a.factor * loss;
  sums[1] += z;
}

}  // namespace jambalaya
