// Checkpoints: global tensors as boxes in one HDF5 file per writer rank and a manifest with hashes.
//   step-00000200/{rank-00000.h5, ..., config.yaml, tokenizer.json, manifest.json}
// Written to a temporary folder, fsynced, renamed, published last: a torn save is never loaded.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kernels/accelerator.h"
#include "kernels/tensor.h"
#include "model/config.h"
#include "parallel/communicator.h"

namespace jambalaya {

/// A part of a global tensor: rows of every dimension from `offset`, `local.shape` long.
struct Box {
  std::string name;                   ///< "param/layers.0.mamba.D", "adam_m/...", "adam_v/..."
  std::vector<int64_t> global_shape;  ///< of the whole tensor
  std::vector<int64_t> offset;        ///< of this part
  Tensor local;                       ///< packed f32, in host memory or that of `accelerator`
  /// Saving alone, when `local` has a shape but no memory: gives the values while the box is written, so that
  /// no more than one such box is in memory.
  std::function<void(float* out)> fill = nullptr;
  Accelerator* accelerator = nullptr;
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
  int64_t rows_per_step = 0;        ///< of data.sequence_length tokens, over all ranks; 0: not recorded
  int64_t accumulation_steps = 0;   ///< micro-batches that made them up
  std::string layout;               ///< of the ranks that wrote it, for people; empty: not recorded
};

struct CheckpointInfo {
  std::string path;
  TrainState state;
  ModelConfig model;
  bool weights_only = false;  ///< made by import: no optimizer moments
  int64_t world_size = 1;     ///< ranks that wrote it
  struct StoredFile {
    std::string name;
    int64_t bytes = 0;
    std::string hash;  ///< XXH3-128 of the whole file
  };
  struct StoredBox {
    int file = 0;         ///< index into `files`
    std::string dataset;  ///< in that file
    std::vector<int64_t> offset, shape;
    std::string hash;  ///< XXH3-128 of the floats in memory order
  };
  struct Stored {
    std::string name;
    std::vector<int64_t> global_shape;
    std::vector<StoredBox> boxes;  ///< together each element exactly once
  };
  std::vector<StoredFile> files;
  std::vector<Stored> tensors;  ///< by name
};

/// Every rank calls it with the boxes that it owns (each element of a tensor is in exactly one box of one
/// rank; checked). Atomic: on any failure nothing is published, Error(io) on all ranks. Returns the published
/// path `folder`/step-XXXXXXXX; a checkpoint of the same step that is there already is replaced. Boxes in
/// device memory are read through page-locked host memory of a fixed size, after what was enqueued before.
/// `confirm` is called on every rank when its file is written; what it throws counts as this rank's failure
/// (an Error keeps its exit code).
std::string save_checkpoint(Communicator& world, const std::string& folder, const std::vector<Box>& boxes,
                            const TrainState& state, const ModelConfig& model, bool weights_only,
                            const std::function<void()>& confirm = {});

/// Opens and verifies: manifest complete, every file there with its size and hash. Throws Error(checkpoint)
/// naming the file.
CheckpointInfo open_checkpoint(const std::string& path, bool verify_hashes = true);
/// Fills each box from whatever boxes are stored (any layout -> any layout), in whatever memory it lies.
/// Missing tensors: Error(checkpoint) by name.
void read_boxes(const CheckpointInfo& info, std::vector<Box>& boxes);

/// Newest checkpoint of a folder that verifies; broken ones are skipped with a warning (a line each, appended
/// to `warnings` when given). `skip`: paths or folder names to pass over. Empty when none.
std::optional<CheckpointInfo> newest_checkpoint(const std::string& folder,
                                                const std::vector<std::string>& skip, std::string* warnings);
/// What a user may mean by a checkpoint's path: the step folder, the folder of checkpoints, or the run's
/// folder; of several the newest that verifies. Throws Error(checkpoint) when there is none.
CheckpointInfo resolve_checkpoint(const std::string& path, std::string* warnings = nullptr);
/// The steps of which a folder has checkpoints and where they lie, oldest first; none is opened.
std::map<int64_t, std::string> checkpoints_of(const std::string& folder);
/// Removes what interrupted saves left in a folder of checkpoints; not while another process may save there.
void remove_leftovers(const std::string& folder);
/// Removes old checkpoints by the retention rule (the last `keep_last`, at least one, and multiples of
/// `keep_every` when that is > 0; never the newest verified one) and what interrupted saves left. One rank
/// calls it, between saves. `own`: paths that this process has published, whose files it hashed as it wrote
/// them; of those only the manifest and the sizes are looked at.
void prune_checkpoints(const std::string& folder, int64_t keep_last, int64_t keep_every,
                       const std::vector<std::string>& own = {});

}  // namespace jambalaya
