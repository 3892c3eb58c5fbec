// How far two courses of a training are apart.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace jambalaya::bench {

/// Largest of |a - b| / |b| over the steps; NaN when any of the losses is no number or their counts differ,
/// so that no bound holds.
inline double largest_relative_difference(const std::vector<double>& a, const std::vector<double>& b) {
  const auto finite = [](double x) { return std::isfinite(x); };
  if (a.size() != b.size() || !std::all_of(a.begin(), a.end(), finite) ||
      !std::all_of(b.begin(), b.end(), finite))
    return std::numeric_limits<double>::quiet_NaN();
  double apart = 0;
  for (size_t i = 0; i < a.size(); i++) apart = std::max(apart, std::abs(a[i] - b[i]) / std::abs(b[i]));
  return apart;
}

}  // namespace jambalaya::bench
