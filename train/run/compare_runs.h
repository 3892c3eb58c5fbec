// Where two runs part: the first step of their metrics and the first tensor of their checkpoints that differ.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "train/checkpoint/checkpoint.h"

namespace jambalaya {

/// A setting that is not the same in both runs, or a figure of their state.
struct SettingDifference {
  std::string key, a, b;
  bool expected = false;  ///< the runs should differ because of it; else it should change rounding at most
};

struct MetricDifference {
  int64_t step = 0;
  std::string field, a, b;
  double relative = 0;  ///< |a - b| / max(|a|, |b|); infinite where that has no meaning
};
struct MetricsComparison {
  int64_t first_step = 0, last_step = 0, steps = 0;  ///< in both runs
  int64_t differing = 0;                             ///< steps beyond the tolerance
  std::optional<MetricDifference> first;             ///< beyond the tolerance
  std::optional<MetricDifference> largest;           ///< within it or not
};

struct TensorDifference {
  std::string name;
  std::string why;             ///< "" when the values differ; else what does: "only in A", its shape
  std::vector<int64_t> index;  ///< of the first element with other bits
  float a = 0, b = 0;          ///< its values
  int64_t elements = 0, differing = 0;
  double max_abs = 0, relative_l2 = 0;  ///< |a - b| / |a| as vectors; infinite with NaN or Inf
};
struct CheckpointComparison {
  int64_t step = 0;
  std::vector<SettingDifference> state;  ///< tokens, steps of AdamW, place in the data
  int64_t tensors = 0, differing = 0;    ///< of them beyond the tolerance
  std::optional<TensorDifference> first;
  std::optional<TensorDifference> largest;  ///< by relative L2, within the tolerance or not
  bool equal() const { return state.empty() && differing == 0; }
};

struct RunComparison {
  std::vector<SettingDifference> settings;
  std::optional<MetricsComparison> metrics;
  std::vector<CheckpointComparison> checkpoints;  ///< oldest first, up to the first that differs
  bool equal() const;
};

/// `a`, `b`: run folders, folders of checkpoints, or single checkpoints. tolerance 0: equal means the same
/// bits. Holds one tensor of either at a time. Error(bad_input) when there is nothing that both have,
/// Error(checkpoint) when a checkpoint is damaged.
RunComparison compare_runs(const std::string& a, const std::string& b, double tolerance);

// ---- its parts ----

MetricsComparison compare_metrics(const std::string& file_a, const std::string& file_b, double tolerance);
CheckpointComparison compare_checkpoints(const CheckpointInfo& a, const CheckpointInfo& b, double tolerance);
/// How `n` values differ; none when all have the same bits. `index` is left flat: one number.
std::optional<TensorDifference> compare_values(const float* a, const float* b, int64_t n);

}  // namespace jambalaya
