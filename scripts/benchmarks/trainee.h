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

  /// One optimizer step (AdamW, lr 1e-3, no clipping) on `lengths` documents of made-up text, number `step`;
  /// enqueued.
  void step(const std::vector<int64_t>& lengths, int64_t step);
  /// Nats a counted target of the last step. Waits.
  double loss();
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
  Tensor m_, v_, sums_, grad_scale_;
  // Of the step before too: the device may still read it.
  struct Text {
    std::vector<int32_t> ids, targets;
    DocumentsBuffer documents;
  } texts_[2];
  int64_t counted_ = 0;
};

}  // namespace jambalaya::bench
