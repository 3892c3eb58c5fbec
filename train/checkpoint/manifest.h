// manifest.json: what a checkpoint holds, with a hash of itself.
#pragma once
#include <string>
#include <string_view>

#include "train/checkpoint/checkpoint.h"

namespace jambalaya {

constexpr int64_t manifest_version = 1;
constexpr const char* manifest_name = "manifest.json";
constexpr const char* config_file_name = "config.yaml";
constexpr const char* tokenizer_file_name = "tokenizer.json";

/// What one rank wrote: its file (none when it owns nothing) and its boxes, as it tells the others.
struct RankReport {
  std::string error;     ///< empty: all went well
  Exit exit = Exit::ok;  ///< of the error
  CheckpointInfo::StoredFile file;
  struct Entry {
    std::string name;
    std::vector<int64_t> global_shape;
    CheckpointInfo::StoredBox box;
  };
  std::vector<Entry> entries;
};
std::string report_text(const RankReport& report);
RankReport parse_report(const std::string& text);

/// The manifest's text with its own hash filled in. `info.path`, config_yaml and tokenizer_json are not part
/// of it.
std::string manifest_text(const CheckpointInfo& info);
/// Throws Error(checkpoint) naming `source` when the hash or any field is wrong.
CheckpointInfo parse_checkpoint_manifest(const std::string& text, const std::string& source);

/// "step-00000200" -> 200; -1 for any other name (temporary folders have a suffix).
int64_t step_of(const std::string& name);
/// The last name of a path that may end in a slash.
std::string folder_name(const std::string& path);

/// Why the boxes of a tensor do not hold each of its elements exactly once; empty when they do.
std::string tiling_problem(const CheckpointInfo::Stored& tensor);

/// Called at each step of a save on the rank that takes it: "folder made", "rank file written", "ranks
/// agree", "manifest written", "renamed", "published". Tests throw or end the process there; empty in a run.
using SaveObserver = void (*)(std::string_view step);
void observe_saves(SaveObserver observer);

}  // namespace jambalaya
