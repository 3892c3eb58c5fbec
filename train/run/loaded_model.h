// A model read from a checkpoint, ready to score and generate.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "model/jamba.h"
#include "train/checkpoint/checkpoint.h"
#include "train/config.h"
#include "train/run/runtime.h"

namespace jambalaya {

struct LoadedModel {
  /// `path`: a run folder, its checkpoints folder, or one checkpoint. precision "" means that of the run.
  /// tokenizer "": the one stored in the checkpoint, if any. `set`: "parallel.key=value" for the ranks of
  /// this process, whatever layout trained the model; what is left over are data ranks. `device`: a value of
  /// run.device, whatever device trained the model.
  LoadedModel(const std::string& path, const std::string& precision, const std::string& tokenizer,
              int threads, const std::vector<std::string>& set = {}, const std::string& device = "auto");

  const Tokenizer& need_tokenizer() const;

  CheckpointInfo info;
  std::unique_ptr<Runtime> runtime;
  std::unique_ptr<Parameters> parameters;
  std::unique_ptr<Regions> regions;
  std::unique_ptr<Jamba> jamba;
  std::optional<Tokenizer> tokenizer;
  Precision precision = Precision::f32;
  int64_t sequence_length = 512;  ///< of the run
};

}  // namespace jambalaya
