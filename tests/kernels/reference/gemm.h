// Matrix product in float64 by its definition.
#pragma once
#include <cstdint>
#include <vector>

namespace jambalaya::reference {

/// start + op(a)[m, k] op(b)[k, n]; a, b and start packed row by row as they are stored.
inline std::vector<double> gemm(const std::vector<double>& a, bool transpose_a, const std::vector<double>& b,
                                bool transpose_b, std::vector<double> start, int64_t m, int64_t n,
                                int64_t k) {
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++)
      for (int64_t p = 0; p < k; p++)
        start[size_t(i * n + j)] +=
            a[size_t(transpose_a ? p * m + i : i * k + p)] * b[size_t(transpose_b ? j * k + p : p * n + j)];
  return start;
}

}  // namespace jambalaya::reference
