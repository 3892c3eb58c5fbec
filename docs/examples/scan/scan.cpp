// The selective scan of Mamba by jambalaya::kernels, beside a plain loop: two documents in one packed stream.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "kernels/ops.h"

namespace j = jambalaya;

namespace {

constexpr int64_t T = 200, E = 48, N = 16;             // tokens, channels, states of each channel
const std::vector<int64_t> kDocumentLengths{70, 130};  // their sum is T

std::vector<float> waves(int64_t n, double scale, double phase) {
  std::vector<float> values(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; i++) values[size_t(i)] = float(scale * std::sin(0.37 * double(i) + phase));
  return values;
}

struct Input {
  std::vector<float> u = waves(T * E, 1, 0), s = waves(T * E, 2, 1), z = waves(T * E, 1.5, 2);
  std::vector<float> b = waves(T * N, 1, 3), c = waves(T * N, 1, 4);
  std::vector<float> a_log = waves(E * N, 1, 5), d = waves(E, 1, 6), dt_bias = waves(E, 1, 7);
};

/// o [T, E], as kernels/ops_state_space.h defines it.
std::vector<float> by_the_library(Input& in) {
  std::vector<float> o(static_cast<size_t>(T * E));
  j::ThreadPool pool(2);
  j::Arena scratch("scratch", int64_t(1) << 30);  // address space; memory comes when it is used
  j::Context context{.ops = &j::cpu_ops(), .pool = &pool, .scratch = &scratch};
  const j::DocumentsBuffer documents(kDocumentLengths);
  j::ScanForward scan;
  scan.u = j::make_tensor(in.u.data(), {T, E});
  scan.s = j::make_tensor(in.s.data(), {T, E});
  scan.z = j::make_tensor(in.z.data(), {T, E});
  scan.b = j::make_tensor(in.b.data(), {T, N});
  scan.c = j::make_tensor(in.c.data(), {T, N});
  scan.a_log = j::make_tensor(in.a_log.data(), {E, N});
  scan.d = j::make_tensor(in.d.data(), {E});
  scan.dt_bias = j::make_tensor(in.dt_bias.data(), {E});
  scan.docs = documents.view();
  scan.o = j::make_tensor(o.data(), {T, E});
  context.ops->scan_forward(context, scan);
  std::printf("scan_forward on %s\n", context.ops->name());
  return o;
}

std::vector<double> by_a_loop(const Input& in) {
  std::vector<double> o(static_cast<size_t>(T * E));
  for (int64_t e = 0; e < E; e++) {
    int64_t t = 0;
    for (const int64_t length : kDocumentLengths) {
      std::vector<double> h(N, 0.0);  // nothing crosses the border of a document
      for (const int64_t end = t + length; t < end; t++) {
        const size_t te = size_t(t * E + e);
        const double delta = std::log1p(std::exp(double(in.s[te]) + in.dt_bias[size_t(e)]));
        double y = double(in.d[size_t(e)]) * in.u[te];
        for (size_t n = 0; n < size_t(N); n++) {
          const double a = -std::exp(double(in.a_log[size_t(e * N) + n]));
          h[n] = std::exp(delta * a) * h[n] + delta * in.b[size_t(t * N) + n] * in.u[te];
          y += in.c[size_t(t * N) + n] * h[n];
        }
        o[te] = y * in.z[te] / (1 + std::exp(-double(in.z[te])));
      }
    }
  }
  return o;
}

}  // namespace

int main() {
  Input in;
  const std::vector<float> got = by_the_library(in);
  const std::vector<double> want = by_a_loop(in);
  double worst = 0, largest = 0;
  for (size_t i = 0; i < got.size(); i++) {
    worst = std::max(worst, std::abs(got[i] - want[i]));
    largest = std::max(largest, std::abs(want[i]));
  }
  std::printf("o[199][0] = %.6f, by the loop %.6f\n", double(got[size_t((T - 1) * E)]),
              want[size_t((T - 1) * E)]);
  std::printf("largest error %.3e of values up to %.3f\n", worst, largest);
  const bool right = worst <= 1e-5 * largest;  // a comparison with NaN is false
  std::printf(right ? "the scan is right\n" : "the scan is WRONG\n");
  return right ? 0 : 1;
}
