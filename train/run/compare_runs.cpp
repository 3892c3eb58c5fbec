#include "train/run/compare_runs.h"

#include <algorithm>
#include <filesystem>

#include "data/loader.h"
#include "train/checkpoint/manifest.h"
#include "train/config.h"
#include "train/config/options.h"
#include "train/files.h"

namespace jambalaya {
namespace {

namespace fs = std::filesystem;

/// What a path holds that can be compared.
struct RunFiles {
  std::string metrics, config;                 ///< paths; empty: none
  std::map<int64_t, std::string> checkpoints;  ///< by step
  bool single = false;                         ///< one checkpoint, named by its own folder
};

RunFiles find_run(const std::string& path) {
  std::error_code error;
  const fs::path given(path);
  if (!fs::is_directory(given, error))
    throw Error(Exit::bad_input, cat(path, ": no such folder; a run's or a checkpoint's is expected"));
  const std::string name = (given.has_filename() ? given : given.parent_path()).filename().string();
  RunFiles files;
  if (fs::exists(given / manifest_name, error) || name.starts_with("step-")) {
    files.single = true;
    files.checkpoints[open_checkpoint(path, false).state.step] = path;
    return files;
  }
  const auto there = [&](const char* file) {
    return fs::exists(given / file, error) ? (given / file).string() : std::string();
  };
  files.metrics = there("metrics.jsonl");
  files.config = there(config_file_name);
  files.checkpoints = checkpoints_of((given / "checkpoints").string());
  if (files.checkpoints.empty()) files.checkpoints = checkpoints_of(path);
  if (files.metrics.empty() && files.checkpoints.empty())
    throw Error(Exit::bad_input, cat(path, ": holds neither metrics.jsonl nor checkpoints"));
  return files;
}

/// What may differ without a reason to expect other numbers, but for the order of sums.
bool changes_rounding_at_most(const Option& option) {
  static const char* const sections[] = {"run", "parallel"};
  static const char* const keys[] = {"train.recompute", "train.bucket_mb"};
  if (option.key == "run.seed") return false;
  return std::find(std::begin(sections), std::end(sections), option.section()) != std::end(sections) ||
         std::find(std::begin(keys), std::end(keys), option.key) != std::end(keys);
}
bool changes_nothing(const Option& option) {
  static const char* const keys[] = {"run.folder", "data.folder", "train.minutes", "train.verify_every",
                                     "train.branch_from"};
  return option.section() == "checkpoint" || option.section() == "log" ||
         std::find(std::begin(keys), std::end(keys), option.key) != std::end(keys);
}

std::vector<SettingDifference> config_differences(const Config& a, const Config& b, bool model_alone) {
  std::vector<SettingDifference> all;
  for (const Option& option : config_options()) {
    if (!option.get || changes_nothing(option)) continue;
    if (model_alone && option.section() != "model") continue;
    const std::string x = option.get(a), y = option.get(b);
    if (x != y) all.push_back({option.key, x, y, !changes_rounding_at_most(option)});
  }
  return all;
}

std::vector<SettingDifference> data_differences(const CheckpointInfo& a, const CheckpointInfo& b) {
  std::vector<SettingDifference> all;
  if (a.state.loader.empty() || b.state.loader.empty()) return all;
  const LoaderState x = LoaderState::parse(a.state.loader), y = LoaderState::parse(b.state.loader);
  if (x.fingerprint != y.fingerprint)
    all.push_back({"data (fingerprint)", x.fingerprint, y.fingerprint, true});
  if (x.seed != y.seed) all.push_back({"data (seed of its order)", cat(x.seed), cat(y.seed), true});
  if (a.world_size != b.world_size)
    all.push_back({"ranks that wrote the checkpoint", cat(a.world_size), cat(b.world_size), false});
  return all;
}

std::string config_text(const RunFiles& run, const CheckpointInfo* info) {
  if (!run.config.empty()) return read_small_file(run.config, 1 << 20);
  return info ? info->state.config_yaml : "";
}

std::vector<SettingDifference> setting_differences(const RunFiles& a, const RunFiles& b,
                                                   const CheckpointInfo* info_a,
                                                   const CheckpointInfo* info_b) {
  std::vector<SettingDifference> all;
  const std::string text_a = config_text(a, info_a), text_b = config_text(b, info_b);
  if (!text_a.empty() && !text_b.empty()) {
    try {
      all = config_differences(parse_config(text_a, "config.yaml of A"),
                               parse_config(text_b, "config.yaml of B"), false);
    } catch (const Error& e) {  // another version's config: the numbers can be compared all the same
      all.push_back({"config.yaml", "not readable by this version", e.what(), true});
    }
  } else if (info_a && info_b) {
    Config x, y;
    x.model = info_a->model;
    y.model = info_b->model;
    all = config_differences(x, y, true);
  }
  if (info_a && info_b)
    for (SettingDifference& difference : data_differences(*info_a, *info_b))
      all.push_back(std::move(difference));
  return all;
}

/// The checkpoints that can be laid side by side: those of the same step, or the two that were named.
std::vector<std::pair<std::string, std::string>> pairs_of(const RunFiles& a, const RunFiles& b) {
  if (a.single && b.single) return {{a.checkpoints.begin()->second, b.checkpoints.begin()->second}};
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const auto& [step, path] : a.checkpoints)
    if (const auto other = b.checkpoints.find(step); other != b.checkpoints.end())
      pairs.emplace_back(path, other->second);
  return pairs;
}

}  // namespace

bool RunComparison::equal() const {
  return !(metrics && metrics->first) && (checkpoints.empty() || checkpoints.back().equal());
}

RunComparison compare_runs(const std::string& a, const std::string& b, double tolerance) {
  const RunFiles files_a = find_run(a), files_b = find_run(b);
  RunComparison result;
  if (!files_a.metrics.empty() && !files_b.metrics.empty()) {
    result.metrics = compare_metrics(files_a.metrics, files_b.metrics, tolerance);
    if (result.metrics->steps == 0) result.metrics.reset();
  }
  bool settings_known = false;
  for (const auto& [path_a, path_b] : pairs_of(files_a, files_b)) {
    const CheckpointInfo info_a = open_checkpoint(path_a), info_b = open_checkpoint(path_b);
    if (!settings_known) result.settings = setting_differences(files_a, files_b, &info_a, &info_b);
    settings_known = true;
    result.checkpoints.push_back(compare_checkpoints(info_a, info_b, tolerance));
    if (!result.checkpoints.back().equal()) break;
  }
  if (!settings_known) result.settings = setting_differences(files_a, files_b, nullptr, nullptr);
  if (!result.metrics && result.checkpoints.empty())
    throw Error(Exit::bad_input,
                cat(a, " and ", b,
                    " have no step in common, neither in metrics.jsonl nor as checkpoints: there "
                    "is nothing to compare (checkpoint.every and keep_last decide what is kept)"));
  return result;
}

}  // namespace jambalaya
