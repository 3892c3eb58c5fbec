// What a run writes about itself beside its checkpoints, by the lead rank: metrics.jsonl, journal.jsonl,
// samples.jsonl, TensorBoard events, curves and report.
#pragma once
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "train/checkpoint/checkpoint.h"
#include "train/config.h"
#include "train/run/journal.h"
#include "train/run/report.h"
#include "train/run/samples.h"
#include "train/run/tensorboard.h"

namespace jambalaya {

class RunRecord {
 public:
  /// Of a job that goes on from `state` (step 0: from nothing). What earlier jobs wrote of later steps is cut
  /// off or taken back. environment: see describe_environment. Error(io), Error(checkpoint).
  RunRecord(const Config& config, const Json& environment, const TrainState& state);

  void step(const StepReport& report);
  void samples(int64_t step, const std::vector<Sample>& samples);
  /// A checkpoint was saved, for which training stood still so long. The pictures are drawn anew when that
  /// costs no more than a hundredth of the time.
  void checkpoint(int64_t step, double seconds);
  /// Back to a checkpoint after a bad step.
  void rewind(const TrainState& state, int64_t from_step, const std::string& why);
  void end(int64_t step, const std::string& why);
  /// Length of metrics.jsonl, which is forced to the disk first.
  int64_t synced_metrics_bytes() const { return metrics_->sync(); }

 private:
  void open(const TrainState& state);
  void draw();
  const Config& config_;
  Journal journal_;
  std::unique_ptr<MetricsFile> metrics_;
  std::optional<EventFile> events_;
  std::chrono::steady_clock::time_point drawn_;
  double drawing_seconds_ = 0;  ///< what the last drawing took
};

}  // namespace jambalaya
