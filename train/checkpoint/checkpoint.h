// Checkpoints: global tensors as boxes in one HDF5 file per writer rank and a manifest with hashes.
//   step-00000200/{rank-00000.h5, ..., manifest.json}
// Written to a temporary folder, fsynced, renamed, published last: a torn save is never loaded.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/tensor.h"
#include "model/config.h"
#include "parallel/communicator.h"

namespace jambalaya {

/// A part of a global tensor: rows of every dimension from `offset`, `local.shape` long.
struct Box {
  std::string name;                   ///< "param/layers.0.mamba.D", "adam_m/...", "adam_v/..."
  std::vector<int64_t> global_shape;  ///< of the whole tensor
  std::vector<int64_t> offset;        ///< of this part
  Tensor local;                       ///< packed f32
};

/// Everything of a run besides tensors, small and the same on every rank.
struct TrainState {
  int64_t step = 0;
  int64_t tokens = 0;               ///< consumed
  int64_t optimizer_steps = 0;      ///< AdamW's own counter (skipped steps do not count)
  std::string loader;               ///< the loader's record (JSON)
  std::vector<double> loss_window;  ///< last losses (spike detection)
  int64_t metrics_bytes = 0;        ///< length of metrics.jsonl at this step: a resume cuts the file there
  std::string config_yaml;          ///< the resolved config
  std::string tokenizer_json;       ///< may be empty
  double seconds = 0;               ///< trained so far
};

struct CheckpointInfo {
  std::string path;
  TrainState state;
  ModelConfig model;
  bool weights_only = false;        ///< made by import: no optimizer moments
  struct Stored {
    std::string name;
    std::vector<int64_t> global_shape;
  };
  std::vector<Stored> tensors;
};

/// Every rank calls it with the boxes that it owns (each element of a tensor is in exactly one box of one rank;
/// checked). Atomic: on any failure nothing is published, Error(io) on all ranks. Returns the published path
/// `folder`/step-XXXXXXXX.
std::string save_checkpoint(Communicator& world, const std::string& folder, const std::vector<Box>& boxes, const TrainState& state,
                            const ModelConfig& model, bool weights_only);

/// Opens and verifies: manifest complete, every file there with its size and hash. Throws Error(checkpoint) naming the file.
CheckpointInfo open_checkpoint(const std::string& path, bool verify_hashes = true);
/// Fills each box from whatever boxes are stored (any layout -> any layout). Missing tensors: Error(checkpoint) by name.
void read_boxes(const CheckpointInfo& info, std::vector<Box>& boxes);

/// Newest checkpoint of a folder that verifies; broken ones are skipped with a warning through `warn`. Empty when none.
std::optional<CheckpointInfo> newest_checkpoint(const std::string& folder, const std::vector<std::string>& skip, std::string* warnings);
/// Removes old checkpoints by the retention rule; never the newest verified one.
void prune_checkpoints(const std::string& folder, int64_t keep_last, int64_t keep_every);

}  // namespace jambalaya
