// Floating-point operations of a forward pass, counted for the hybrid as it is (docs/architecture.md): matrix
// products with the active experts alone, attention by the visible length inside documents, scan and
// convolution.
#pragma once
#include <cstdint>
#include <vector>

#include "model/config.h"

namespace jambalaya {

struct Flops {
  double attention = 0;  ///< projections and the products of scores
  double mamba = 0;      ///< projections, convolution, scan
  double dense = 0;      ///< SwiGLU layers
  double experts = 0;    ///< router and chosen experts
  double head = 0;
  double total() const { return attention + mamba + dense + experts + head; }
};

/// Of one forward over documents (segments) of these lengths. Training without recompute is three times that.
Flops forward_flops(const ModelConfig& config, const std::vector<int64_t>& lengths);

}  // namespace jambalaya
