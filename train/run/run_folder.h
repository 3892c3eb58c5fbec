// The folder of a run: created and locked by rank 0, which also decides what to continue from.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "parallel/communicator.h"
#include "train/checkpoint/checkpoint.h"

namespace jambalaya {

/// Runs `work` on rank 0 and hands its text to all ranks; an Error there is thrown on every rank (another
/// exception as Error(io)), so that none waits for another that has left.
std::string on_lead(Communicator& ranks, const std::function<std::string()>& work);

/// resolve_checkpoint by rank 0, which alone reads and hashes everything and warns of what it passes over:
/// beside a job that is saving, ranks could come to different steps.
CheckpointInfo resolve_on_lead(Communicator& ranks, const std::string& path);

class RunFolder {
 public:
  /// Creates and locks `path`. Error(usage) when another job holds it.
  RunFolder(Communicator& ranks, const std::string& path);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  std::string checkpoints() const { return path_ + "/checkpoints"; }
  /// What to continue from; empty: nothing. resume: "auto", "none" or the path of the newest checkpoint of
  /// this run. Error(checkpoint) when there are checkpoints and none verifies: a run never starts over by
  /// itself.
  std::optional<CheckpointInfo> choose(const std::string& resume);
  /// The newest checkpoint that verifies.
  std::optional<CheckpointInfo> newest() { return choose("auto"); }

 private:
  std::string path_to_resume(const std::string& resume, std::string& warnings) const;
  Communicator& ranks_;
  std::string path_;
  int lock_ = -1;
};

}  // namespace jambalaya
