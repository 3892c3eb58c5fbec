// SwiGLU in plain float64 loops.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

namespace jambalaya::reference {

/// silu(gate) * up of rows [gate (width), up (width)].
inline std::vector<double> swiglu(const std::vector<double>& gate_up, int64_t rows, int64_t width) {
  std::vector<double> h;
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t i = 0; i < width; i++) {
      double gate = gate_up[size_t(r * 2 * width + i)], up = gate_up[size_t((r * 2 + 1) * width + i)];
      h.push_back(gate / (1 + std::exp(-gate)) * up);
    }
  }
  return h;
}

/// d silu(g) / dg = s(g) + g e^-g / (1 + e^-g)^2, in the form that does not overflow on either side.
inline std::vector<double> swiglu_backward(const std::vector<double>& dh, const std::vector<double>& gate_up,
                                           int64_t rows, int64_t width) {
  std::vector<double> d(gate_up.size());
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t i = 0; i < width; i++) {
      size_t g = size_t(r * 2 * width + i), u = size_t((r * 2 + 1) * width + i);
      double gate = gate_up[g], e = std::exp(-std::fabs(gate)), big = 1 / (1 + e), small = e / (1 + e);
      double sigmoid = gate >= 0 ? big : small, upstream = dh[size_t(r * width + i)];
      d[g] = upstream * gate_up[u] * (sigmoid + gate * big * small);
      d[u] = upstream * gate * sigmoid;
    }
  }
  return d;
}

}  // namespace jambalaya::reference
