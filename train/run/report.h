// What a run knows of a step, and metrics.jsonl.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "model/jamba.h"
#include "train/files.h"
#include "train/json.h"

namespace jambalaya {

struct StepReport {
  int64_t step = 0, steps = 0;  ///< steps done, of so many
  int64_t tokens = 0;           ///< consumed since the start
  int64_t epoch = 0;
  int64_t rows_crc = 0;  ///< sum of the CRC-32C of the step's rows of ids: the same however ranks share them
  double loss = 0;       ///< nats per counted token, without the terms below
  double aux_loss = 0, router_z = 0, head_z = 0, activation = 0;
  double gradient_norm = 0, lr = 0;
  std::optional<double> held_out_nats, held_out_bits_per_byte;
  std::vector<LayerTelemetry> layers;  ///< empty on steps without telemetry
  std::string bad;                     ///< why the update was not made

  // Of this machine and moment; everything above is the same in every repetition.
  double seconds = 0, tokens_per_s = 0, flops_per_s = 0, data_wait = 0, reduce_wait = 0, elapsed = 0;
  double evaluation = 0;  ///< seconds of the evaluation after this step, samples included; not in `seconds`
  int64_t rss = 0, activation_bytes = 0, scratch_bytes = 0;
  int ranks = 1;             ///< of the job
  int64_t device_bytes = 0;  ///< taken of the GPU, this step's peaks included; 0 on the CPU

  Json json() const;
};

/// The largest share of an expert of any layer, times their number: 1 when all are used alike; 0 without
/// experts.
double largest_load(const std::vector<LayerTelemetry>& layers);

/// metrics.jsonl: appended line by line; a resume cuts it back to where the checkpoint was made.
class MetricsFile {
 public:
  MetricsFile(const std::string& path, int64_t keep_bytes);
  void write(const Json& object);
  /// Forces what was written to the disk, so that a checkpoint never knows of more than a crash leaves; the
  /// file's length.
  int64_t sync() const;

 private:
  std::string path_;
  FileDescriptor file_;
  int64_t bytes_;
};

/// Resident memory of this process, bytes.
int64_t resident_bytes();

}  // namespace jambalaya
