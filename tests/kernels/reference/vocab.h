// Head with cross-entropy in float64, all logits of one token at a time.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

namespace jambalaya::reference {

/// h [T, D], w [V, D] and targets [T] (negative: ignored) to losses and the gradients of
/// scale * sum nll + z_scale * sum logsumexp^2.
struct Head {
  int64_t width, vocabulary;
  double scale, z_scale;
  std::vector<double> nll, correct, dh, dw;
  double sum = 0, z_sum = 0;

  double objective() const { return scale * sum + z_scale * z_sum; }

  void run(const std::vector<double>& h, const std::vector<double>& w, const std::vector<int64_t>& targets) {
    const auto d = size_t(width), v = size_t(vocabulary);
    nll.assign(targets.size(), 0), correct.assign(targets.size(), 0);
    dh.assign(h.size(), 0), dw.assign(w.size(), 0);
    sum = z_sum = 0;
    for (size_t t = 0; t < targets.size(); t++) {
      if (targets[t] < 0) continue;
      std::vector<double> x(v, 0.0);
      for (size_t i = 0; i < v; i++)
        for (size_t j = 0; j < d; j++) x[i] += h[t * d + j] * w[i * d + j];
      size_t best = 0;
      for (size_t i = 1; i < v; i++)
        if (x[i] > x[best]) best = i;
      double total = 0;
      for (double e : x) total += std::exp(e - x[best]);
      const double lse = x[best] + std::log(total);
      const auto target = size_t(targets[t]);
      nll[t] = lse - x[target];
      correct[t] = best == target;
      sum += nll[t];
      z_sum += lse * lse;
      for (size_t i = 0; i < v; i++) {
        double g = (scale + 2 * z_scale * lse) * std::exp(x[i] - lse) - (i == target ? scale : 0);
        for (size_t j = 0; j < d; j++) dh[t * d + j] += g * w[i * d + j], dw[i * d + j] += g * h[t * d + j];
      }
    }
  }
};

}  // namespace jambalaya::reference
