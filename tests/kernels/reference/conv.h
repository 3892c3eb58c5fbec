// Causal depthwise convolution and SiLU in float64, tap by tap.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

namespace jambalaya::reference {

using Values = std::vector<double>;

/// Row-major arrays as in the menu; bias and left may be empty.
struct Conv {
  int64_t E = 0, W = 0;
  std::vector<int64_t> lengths;
  Values x, w, bias, left;
  int64_t S() const { return int64_t(lengths.size()); }
  int64_t T() const {
    int64_t sum = 0;
    for (int64_t n : lengths) sum += n;
    return sum;
  }
};

struct ConvOut {
  Values u, tail;
};
struct ConvGradients {
  Values dx, dw, dbias, dleft;
};

/// Walks one channel of one segment as the sequence [left, inputs]: values[0 .. W-2] are its past.
inline Values conv_sequence(const Conv& in, int64_t s, int64_t begin, int64_t e) {
  Values v;
  for (int64_t k = 0; k < in.W - 1; k++)
    v.push_back(in.left.empty() ? 0 : in.left[size_t((s * (in.W - 1) + k) * in.E + e)]);
  for (int64_t t = begin; t < begin + in.lengths[size_t(s)]; t++) v.push_back(in.x[size_t(t * in.E + e)]);
  return v;
}

inline double conv_at(const Conv& in, const Values& sequence, int64_t i, int64_t e) {
  double v = in.bias.empty() ? 0 : in.bias[size_t(e)];
  for (int64_t j = 0; j < in.W; j++) v += in.w[size_t(e * in.W + j)] * sequence[size_t(i + j)];
  return v;
}

inline ConvOut conv_forward(const Conv& in) {
  ConvOut out{Values(in.x.size()), Values(size_t(in.S() * (in.W - 1) * in.E))};
  for (int64_t s = 0, begin = 0; s < in.S(); begin += in.lengths[size_t(s++)])
    for (int64_t e = 0; e < in.E; e++) {
      const Values sequence = conv_sequence(in, s, begin, e);
      for (int64_t i = 0; i < in.lengths[size_t(s)]; i++) {
        const double v = conv_at(in, sequence, i, e);
        out.u[size_t((begin + i) * in.E + e)] = v / (1 + std::exp(-v));
      }
      for (int64_t k = 0; k < in.W - 1; k++)
        out.tail[size_t((s * (in.W - 1) + k) * in.E + e)] = sequence[size_t(in.lengths[size_t(s)] + k)];
    }
  return out;
}

/// dtail may be empty (zero).
inline ConvGradients conv_backward(const Conv& in, const Values& du, const Values& dtail) {
  const int64_t past = in.W - 1;
  ConvGradients g{Values(in.x.size()), Values(size_t(in.E * in.W)), Values(size_t(in.E)),
                  Values(size_t(in.S() * past * in.E))};
  for (int64_t s = 0, begin = 0; s < in.S(); begin += in.lengths[size_t(s++)])
    for (int64_t e = 0; e < in.E; e++) {
      const int64_t n = in.lengths[size_t(s)];
      const Values sequence = conv_sequence(in, s, begin, e);
      Values dsequence(sequence.size());
      for (int64_t i = 0; i < n; i++) {
        const double v = conv_at(in, sequence, i, e), f = 1 / (1 + std::exp(-v));
        const double dv = du[size_t((begin + i) * in.E + e)] * (f + v * f * (1 - f));
        g.dbias[size_t(e)] += dv;
        for (int64_t j = 0; j < in.W; j++) {
          g.dw[size_t(e * in.W + j)] += dv * sequence[size_t(i + j)];
          dsequence[size_t(i + j)] += dv * in.w[size_t(e * in.W + j)];
        }
      }
      for (int64_t k = 0; k < past && !dtail.empty(); k++)
        dsequence[size_t(n + k)] += dtail[size_t((s * past + k) * in.E + e)];
      for (int64_t k = 0; k < past; k++) g.dleft[size_t((s * past + k) * in.E + e)] = dsequence[size_t(k)];
      for (int64_t i = 0; i < n; i++) g.dx[size_t((begin + i) * in.E + e)] = dsequence[size_t(past + i)];
    }
  return g;
}

}  // namespace jambalaya::reference
