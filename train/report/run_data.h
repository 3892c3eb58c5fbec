// A run as its folder tells of it: metrics, layers, samples and journal in memory, for charts and tables.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "train/json.h"

namespace jambalaya {

/// (step, value); NaN where the value was not finite.
using Series = std::vector<std::pair<double, double>>;

struct LayerRecord {
  double mixer_max = 0, channel_max = 0;
  double delta_min = 0, delta_max = 0;  ///< NaN in a layer without Mamba
  std::vector<double> expert_load;      ///< shares; empty in a layer without experts
};
struct LayersAtStep {
  int64_t step = 0;
  std::vector<LayerRecord> layers;
};
struct SampleRecord {
  int64_t step = 0;
  std::string prompt, text;
};

struct RunData {
  std::string folder, name;
  int64_t steps = 0;                     ///< done
  double metrics_written = 0;            ///< when metrics.jsonl was last written, seconds since 1970
  std::map<std::string, Series> series;  ///< by the name in metrics.jsonl, those of "timing" included
  std::vector<LayersAtStep> layers;      ///< of reported steps
  std::vector<std::pair<int64_t, std::string>> skipped;  ///< steps without an update, and why
  std::vector<SampleRecord> samples;
  std::vector<Json> journal;
  std::string config_yaml;  ///< empty when there is none

  const Series& of(const std::string& name) const;
  /// Last finite value; NaN when there is none.
  double last(const std::string& name) const;
  /// Sum, largest of the finite values (0 when there is none).
  double sum(const std::string& name) const;
  double largest(const std::string& name) const;
  double median(const std::string& name) const;
};

/// Reads a run's folder. metrics.jsonl must be there: Error(bad_input); a line of it or of the journal that
/// cannot be read is Error(bad_input) with file:line. Half a line at the end, of a run that is writing or was
/// killed, is passed over.
RunData read_run(const std::string& folder);

}  // namespace jambalaya
