// AdamW in plain float64, written from algorithm 2 of Loshchilov and Hutter (2019).
#pragma once
#include <cmath>
#include <vector>

namespace jambalaya::reference {

struct AdamW {
  double lr, beta1, beta2, eps, decay;
  std::vector<double> param, m, v;
  int step = 0;

  void update(const std::vector<double>& grad, double grad_scale) {
    step++;
    for (size_t i = 0; i < param.size(); i++) {
      double g = grad[i] * grad_scale;
      m[i] += (1 - beta1) * (g - m[i]);
      v[i] += (1 - beta2) * (g * g - v[i]);
      double m_hat = m[i] / (1 - std::pow(beta1, step)), v_hat = v[i] / (1 - std::pow(beta2, step));
      param[i] = (1 - lr * decay) * param[i] - lr * m_hat / (std::sqrt(v_hat) + eps);
    }
  }
};

}  // namespace jambalaya::reference
