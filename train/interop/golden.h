// A folder of recorded numbers (model, tokens, logits, loss, gradients as a reference implementation computes
// them) run here: how far is each?
#pragma once
#include <string>
#include <vector>

#include "train/config.h"
#include "train/run/runtime.h"

namespace jambalaya {

struct Measured {
  std::string what;     ///< "logits", "loss", "gradient model.layers.0.mamba.D", ...
  std::string measure;  ///< "max abs" or "relative L2"
  double error = 0, tolerance = 0;
  bool passed() const { return error <= tolerance; }  // NaN never passes
};

struct GoldenResult {
  std::vector<Measured> measured;
  bool passed() const;
};

/// Tolerances that arithmetic in any order meets: fp32 against float64, or bf16 (docs/numerics.md).
struct GoldenTolerances {
  double logits, loss, aux, gradient, trajectory, gradient_norms, final_norms;
  static GoldenTolerances of(Precision precision);
};

/// Imports FOLDER's model, runs its tokens with rows as documents of one packed stream (shared among data
/// ranks) and measures logits, loss (always with the balance loss), balance loss and, where they are
/// recorded, every gradient and the course of a short training. Every rank returns the same.
GoldenResult compare_golden(Runtime& runtime, const std::string& folder, const ModelConfig& model,
                            Precision precision, Recompute recompute, const GoldenTolerances& tolerances);

}  // namespace jambalaya
