// The router and the moves of rows in plain float64 loops.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

namespace jambalaya::reference {

struct Router {
  int64_t tokens, experts, k;
  bool renormalize;
  std::vector<double> probs, weight, lse, stats;
  std::vector<int> expert;

  void forward(const std::vector<double>& logits) {
    probs.assign(size_t(tokens * experts), 0);
    weight.clear(), expert.clear(), lse.clear();
    stats.assign(size_t(2 * experts + 1), 0);
    for (int64_t t = 0; t < tokens; t++) {
      const double* l = logits.data() + t * experts;
      double top = l[0], sum = 0;
      for (int64_t x = 1; x < experts; x++) top = std::fmax(top, l[x]);
      for (int64_t x = 0; x < experts; x++) sum += std::exp(l[x] - top);
      lse.push_back(top + std::log(sum));
      for (int64_t x = 0; x < experts; x++) {
        double p = std::exp(l[x] - lse.back());
        probs[size_t(t * experts + x)] = p;
        stats[size_t(experts + x)] += p;
      }
      stats.back() += lse.back() * lse.back();
      choose(l, probs.data() + t * experts);
    }
  }
  /// An expert is choice c if exactly c others come before it: larger, or equal with a lower index.
  void choose(const double* l, const double* p) {
    size_t begin = expert.size();
    expert.resize(begin + size_t(k));
    weight.resize(begin + size_t(k));
    double sum = 0;
    for (int64_t x = 0; x < experts; x++) {
      int64_t before = 0;
      for (int64_t o = 0; o < experts; o++) before += l[o] > l[x] || (l[o] == l[x] && o < x);
      if (before >= k) continue;
      expert[begin + size_t(before)] = int(x);
      weight[begin + size_t(before)] = p[x];
      stats[size_t(x)] += 1;
      sum += p[x];
    }
    for (size_t c = begin; renormalize && c < weight.size(); c++) weight[c] /= sum;
  }
  /// By the full Jacobians: of the renormalisation, then of softmax.
  std::vector<double> backward(const std::vector<double>& dweight, const std::vector<double>& dprob,
                               double z_scale) const {
    std::vector<double> dlogits(probs.size(), 0);
    for (int64_t t = 0; t < tokens; t++) {
      const double* p = probs.data() + t * experts;
      std::vector<double> dp(dprob);
      double sum = 0;
      for (int64_t c = 0; c < k; c++) sum += p[expert[size_t(t * k + c)]];
      for (int64_t c = 0; c < k; c++) {
        for (int64_t o = 0; o < k; o++) {
          double pc = p[expert[size_t(t * k + c)]], same = c == o;
          double jacobian =
              renormalize ? same / sum - pc / (sum * sum) : same;  // d weight[c] / d p[expert[o]]
          dp[size_t(expert[size_t(t * k + o)])] += dweight[size_t(t * k + c)] * jacobian;
        }
      }
      for (int64_t i = 0; i < experts; i++) {
        double d = 2 * z_scale * lse[size_t(t)] * p[i];
        for (int64_t j = 0; j < experts; j++) d += dp[size_t(j)] * p[j] * ((i == j) - p[i]);
        dlogits[size_t(t * experts + i)] = d;
      }
    }
    return dlogits;
  }
};

/// y[t] = sum over k of weight[t, k] x[row_of[t, k]].
inline std::vector<double> combine(const std::vector<double>& x, const std::vector<double>& row_of,
                                   const std::vector<double>& weight, int64_t tokens, int64_t k,
                                   int64_t width) {
  std::vector<double> y(size_t(tokens * width), 0);
  for (int64_t i = 0; i < tokens * k; i++) {
    for (int64_t d = 0; d < width; d++) {
      y[size_t(i / k * width + d)] += weight[size_t(i)] * x[size_t(int64_t(row_of[size_t(i)]) * width + d)];
    }
  }
  return y;
}

struct CombineGradient {
  std::vector<double> dx, dweight;
};
inline CombineGradient combine_backward(const std::vector<double>& dy, const std::vector<double>& x,
                                        const std::vector<double>& row_of, const std::vector<double>& weight,
                                        int64_t tokens, int64_t k, int64_t width) {
  CombineGradient g{std::vector<double>(x.size(), 0), std::vector<double>(size_t(tokens * k), 0)};
  for (int64_t i = 0; i < tokens * k; i++) {
    for (int64_t d = 0; d < width; d++) {
      size_t at = size_t(int64_t(row_of[size_t(i)]) * width + d);
      g.dx[at] += weight[size_t(i)] * dy[size_t(i / k * width + d)];
      g.dweight[size_t(i)] += dy[size_t(i / k * width + d)] * x[at];
    }
  }
  return g;
}

}  // namespace jambalaya::reference
