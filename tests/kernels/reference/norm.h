// RMSNorm in float64.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

namespace jambalaya::reference {

using Values = std::vector<double>;

struct NormOut {
  Values y, rstd;
};
struct NormGradients {
  Values dx, dweight;
};

/// Rows of `columns` values each; an empty weight copies.
inline NormOut rms_norm(const Values& x, const Values& weight, int64_t columns, double eps) {
  NormOut out{x, {}};
  const size_t n = size_t(columns);
  for (size_t r = 0; r * n < x.size(); r++) {
    double mean = 0;
    for (size_t i = 0; i < n; i++) mean += x[r * n + i] * x[r * n + i] / double(n);
    out.rstd.push_back(weight.empty() ? 1 : 1 / std::sqrt(mean + eps));
    for (size_t i = 0; i < n && !weight.empty(); i++)
      out.y[r * n + i] = x[r * n + i] * out.rstd.back() * weight[i];
  }
  return out;
}

/// From the quotient rule: dy_i/dx_j = w_i (rstd [i = j] - rstd^3 x_i x_j / n).
inline NormGradients rms_norm_backward(const Values& x, const Values& weight, int64_t columns, double eps,
                                       const Values& dy) {
  NormGradients g{dy, Values(weight.size())};
  if (weight.empty()) return g;
  const size_t n = size_t(columns);
  const Values rstd = rms_norm(x, weight, columns, eps).rstd;
  for (size_t r = 0; r < rstd.size(); r++) {
    const double s = rstd[r];
    double dot = 0;
    for (size_t i = 0; i < n; i++) dot += dy[r * n + i] * weight[i] * x[r * n + i];
    for (size_t i = 0; i < n; i++) {
      g.dx[r * n + i] = s * weight[i] * dy[r * n + i] - s * s * s * dot / double(n) * x[r * n + i];
      g.dweight[i] += dy[r * n + i] * x[r * n + i] * s;
    }
  }
  return g;
}

}  // namespace jambalaya::reference
