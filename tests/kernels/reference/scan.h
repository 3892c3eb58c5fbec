// Selective scan in float64, state by state: what the kernels are tested against. Jamba's mixer as in
// docs/architecture.md.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

namespace jambalaya::reference {

using Values = std::vector<double>;

/// Row-major arrays as in the menu; z and h0 may be empty.
struct Scan {
  int64_t E = 0, N = 0;
  std::vector<int64_t> lengths;  // of the segments
  Values u, s, z, b, c, a_log, d, dt_bias, h0;
  int64_t T() const {
    int64_t sum = 0;
    for (int64_t n : lengths) sum += n;
    return sum;
  }
  int64_t S() const { return int64_t(lengths.size()); }
};

struct ScanOut {
  Values o, h_last, h, delta;  // h [T, E, N]: after each token
};

inline double logistic(double x) { return 1 / (1 + std::exp(-x)); }

inline ScanOut scan_forward(const Scan& in) {
  const int64_t T = in.T(), E = in.E, N = in.N, S = in.S();
  ScanOut out{Values(size_t(T * E)), Values(size_t(S * N * E)), Values(size_t(T * E * N)),
              Values(size_t(T * E))};
  for (int64_t e = 0; e < E; e++)
    for (int64_t n = 0; n < N; n++) {
      const double A = -std::exp(in.a_log[size_t(e * N + n)]);
      for (int64_t s = 0, t = 0; s < S; s++) {
        double h = in.h0.empty() ? 0 : in.h0[size_t((s * N + n) * E + e)];
        for (int64_t end = t + in.lengths[size_t(s)]; t < end; t++) {
          const double x = in.s[size_t(t * E + e)] + in.dt_bias[size_t(e)];
          const double delta = x > 20 ? x : std::log1p(std::exp(x));
          out.delta[size_t(t * E + e)] = delta;
          h = std::exp(delta * A) * h + delta * in.b[size_t(t * N + n)] * in.u[size_t(t * E + e)];
          out.h[size_t((t * E + e) * N + n)] = h;
          out.o[size_t(t * E + e)] += in.c[size_t(t * N + n)] * h;
        }
        out.h_last[size_t((s * N + n) * E + e)] = h;
      }
    }
  for (int64_t i = 0; i < T * E; i++) {
    double y = out.o[size_t(i)] + in.d[size_t(i % E)] * in.u[size_t(i)];
    out.o[size_t(i)] = in.z.empty() ? y : y * in.z[size_t(i)] * logistic(in.z[size_t(i)]);
  }
  return out;
}

struct ScanGradients {
  Values du, ds, dz, db, dc, da_log, dd, ddt_bias, dh0;
};

/// dh_last may be empty (zero).
inline ScanGradients scan_backward(const Scan& in, const Values& d_out, const Values& dh_last) {
  const int64_t T = in.T(), E = in.E, N = in.N, S = in.S();
  const ScanOut out = scan_forward(in);
  auto zeros = [](int64_t n) { return Values(size_t(n)); };
  ScanGradients g{zeros(T * E), zeros(T * E), zeros(in.z.empty() ? 0 : T * E),
                  zeros(T * N), zeros(T * N), zeros(E * N),
                  zeros(E),     zeros(E),     zeros(S * N * E)};
  Values dy = d_out, ddelta = zeros(T * E);
  for (int64_t t = 0; t < T; t++)
    for (int64_t e = 0; e < E; e++) {
      const size_t i = size_t(t * E + e);
      if (!in.z.empty()) {
        double y = in.d[size_t(e)] * in.u[i];
        for (int64_t n = 0; n < N; n++) y += in.c[size_t(t * N + n)] * out.h[i * size_t(N) + size_t(n)];
        const double gate = logistic(in.z[i]);
        dy[i] = d_out[i] * in.z[i] * gate;
        g.dz[i] = d_out[i] * y * (gate + in.z[i] * gate * (1 - gate));
      }
      g.dd[size_t(e)] += dy[i] * in.u[i];
      g.du[i] = dy[i] * in.d[size_t(e)];
    }
  for (int64_t e = 0; e < E; e++)
    for (int64_t n = 0; n < N; n++) {
      const double A = -std::exp(in.a_log[size_t(e * N + n)]);
      int64_t t = T - 1;
      for (int64_t s = S - 1; s >= 0; s--) {
        const size_t state = size_t((s * N + n) * E + e);
        const int64_t begin = t + 1 - in.lengths[size_t(s)];
        double dh = dh_last.empty() ? 0 : dh_last[state];
        for (; t >= begin; t--) {
          const size_t i = size_t(t * E + e), bn = size_t(t * N + n);
          const double before = t > begin       ? out.h[(i - size_t(E)) * size_t(N) + size_t(n)]
                                : in.h0.empty() ? 0
                                                : in.h0[state];
          const double delta = out.delta[i], a = std::exp(delta * A);
          dh += dy[i] * in.c[bn];
          g.dc[bn] += dy[i] * out.h[i * size_t(N) + size_t(n)];
          g.db[bn] += dh * delta * in.u[i];
          g.du[i] += dh * delta * in.b[bn];
          ddelta[i] += dh * (A * a * before + in.b[bn] * in.u[i]);
          g.da_log[size_t(e * N + n)] += dh * a * before * delta * A;
          dh *= a;
        }
        g.dh0[state] = dh;
      }
    }
  for (int64_t i = 0; i < T * E; i++) {
    const double x = in.s[size_t(i)] + in.dt_bias[size_t(i % E)];
    g.ds[size_t(i)] = ddelta[size_t(i)] * (x > 20 ? 1 : logistic(x));
    g.ddt_bias[size_t(i % E)] += g.ds[size_t(i)];
  }
  return g;
}

}  // namespace jambalaya::reference
