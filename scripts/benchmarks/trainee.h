// A model with its optimizer and made-up text on one device, without run folder, configs or files.
#pragma once
#include <string>
#include <vector>

#include "model/jamba.h"
#include "scripts/benchmarks/bench_device.h"

namespace jambalaya::bench {

class Trainee {
 public:
  /// Starting values from `seed`, the same on every device.
  Trainee(BenchDevice& device, const ModelConfig& config, Precision precision, uint64_t seed = 1);

  struct Report {
    double loss = 0;           ///< nats a counted target, before the update
    double gradient_norm = 0;  ///< before clipping
  };
  /// One optimizer step (AdamW, lr 1e-3, gradients clipped to a norm of 1) on `lengths` documents of made-up
  /// text, number `step`. Waits once, for loss and norm; the update is enqueued.
  Report step(const std::vector<int64_t>& lengths, int64_t step);
  /// A hash of the bits of all parameters. Waits.
  uint64_t fingerprint();
  int64_t parameter_count() const { return parameters_.flat_size(); }

 private:
  BenchDevice& device_;
  Mesh mesh_;
  Regions regions_;
  Parameters parameters_;
  Jamba jamba_;
  Arena state_;
  Tensor m_, v_, readings_, grad_scale_;  ///< readings: the loss sums, then the gradients' (SumSquares)
  // Of the step before too: the device may still read it.
  struct Text {
    std::vector<int32_t> ids, targets;
    DocumentsBuffer documents;
  } texts_[2];
};

}  // namespace jambalaya::bench
