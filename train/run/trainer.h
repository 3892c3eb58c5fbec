// The run: batch, forward, backward, reduce, clip, step, report, save.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "train/config.h"
#include "train/run/runtime.h"

namespace jambalaya {

class Trainer {
 public:
  /// resume: "auto" (newest checkpoint of the run folder that verifies, else from the start), "none" (refuses
  /// a run folder that has checkpoints) or the path of a checkpoint.
  Trainer(Runtime& runtime, const Config& config, const std::string& resume);
  ~Trainer();
  /// Trains to the end. Exit::ok, or Exit::stopped_saved after a signal. Throws Error(numerical) by the
  /// bad-step policy.
  Exit run();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace jambalaya
