// Which checkpoints a folder has, which is the newest good one, and which may go.
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "train/checkpoint/checkpoint.h"
#include "train/checkpoint/manifest.h"
#include "train/files.h"

namespace jambalaya {
namespace {

namespace fs = std::filesystem;

struct Found {
  int64_t step;
  fs::path path;
};

/// Newest first.
std::vector<Found> list_checkpoints(const std::string& folder) {
  std::vector<Found> found;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error))
    if (const int64_t step = step_of(entry.path().filename().string()); step >= 0)
      found.push_back({step, entry.path()});
  std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.step > b.step; });
  return found;
}

/// Under another name first, so that a process killed meanwhile leaves no half checkpoint under a good name.
void remove_checkpoint(const fs::path& path) {
  const std::string aside = cat(path.string(), ".tmp-removed-", int64_t(::getpid()));
  rename_path(path.string(), aside);
  std::error_code error;
  fs::remove_all(aside, error);
}

bool verifies(const fs::path& path, bool hashes) {
  try {
    open_checkpoint(path.string(), hashes);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

int64_t step_of(const std::string& name) {
  constexpr std::string_view start = "step-";
  if (!name.starts_with(start) || name.size() < start.size() + 8 || name.size() > start.size() + 18)
    return -1;
  if (name.find_first_not_of("0123456789", start.size()) != std::string::npos) return -1;
  return std::stoll(name.substr(start.size()));
}

std::string folder_name(const std::string& path) {
  const fs::path given(path);
  return (given.has_filename() ? given : given.parent_path()).filename().string();
}

std::optional<CheckpointInfo> newest_checkpoint(const std::string& folder,
                                                const std::vector<std::string>& skip, std::string* warnings) {
  for (const Found& found : list_checkpoints(folder)) {
    const bool skipped = std::any_of(skip.begin(), skip.end(), [&](const std::string& s) {
      return fs::path(s).lexically_normal() == found.path.lexically_normal() ||
             s == found.path.filename().string();
    });
    if (skipped) continue;
    try {
      return open_checkpoint(found.path.string(), true);
    } catch (const Error& e) {
      if (warnings)
        *warnings += cat("skipping checkpoint ", found.path.filename().string(), ": ", e.what(), "\n");
    }
  }
  return std::nullopt;
}

std::map<int64_t, std::string> checkpoints_of(const std::string& folder) {
  std::map<int64_t, std::string> steps;
  for (const Found& found : list_checkpoints(folder)) steps[found.step] = found.path.string();
  return steps;
}

CheckpointInfo resolve_checkpoint(const std::string& path, std::string* warnings) {
  std::error_code error;
  if (!fs::exists(path, error)) throw Error(Exit::checkpoint, cat(path, ": no such folder"));
  if (!fs::is_directory(path, error))
    throw Error(Exit::checkpoint, cat(path, ": not a folder; a checkpoint's, or a run's, is expected"));
  const fs::path given(path);
  if (fs::exists(given / manifest_name, error) || step_of(folder_name(path)) >= 0)
    return open_checkpoint(path, true);
  std::string reasons;
  for (const fs::path& folder : {given / "checkpoints", given})
    if (auto found = newest_checkpoint(folder.string(), {}, &reasons)) {
      if (warnings) *warnings += reasons;
      return *found;
    }
  throw Error(Exit::checkpoint,
              cat(path, ": holds no usable checkpoint (step-… folders, here or in checkpoints/)",
                  reasons.empty() ? "" : "\n", reasons));
}

void remove_leftovers(const std::string& folder) {
  std::error_code error;
  std::vector<fs::path> leftovers;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const size_t mark = name.find(".tmp-");
    if (mark != std::string::npos && step_of(name.substr(0, mark)) >= 0) leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) fs::remove_all(path, error);
}

void prune_checkpoints(const std::string& folder, int64_t keep_last, int64_t keep_every,
                       const std::vector<std::string>& own) {
  const std::vector<Found> all = list_checkpoints(folder);
  bool verified = false;  // the newest good one was met
  for (size_t i = 0; i < all.size(); i++) {
    const bool recent = int64_t(i) < std::max<int64_t>(keep_last, 1);
    const bool permanent = keep_every > 0 && all[i].step % keep_every == 0;
    const bool ours = std::any_of(own.begin(), own.end(), [&](const std::string& path) {
      return fs::path(path).lexically_normal() == all[i].path.lexically_normal();
    });
    if (!verified && verifies(all[i].path, !ours)) {
      verified = true;
      continue;
    }
    // Nothing goes while no good one is known: a broken one may still hold what can be saved by hand.
    if (verified && !recent && !permanent) remove_checkpoint(all[i].path);
  }
  if (verified) remove_leftovers(folder);
  sync_path(folder);
}

}  // namespace jambalaya
