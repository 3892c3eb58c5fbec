#include "train/run/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "train/files.h"
#include "train/run/log.h"

namespace jambalaya {

std::string on_lead(Communicator& ranks, const std::function<std::string()>& work) {
  std::string text;
  int64_t code = 0;
  if (ranks.rank() == 0) try {
      text = work();
    } catch (const Error& e) {
      text = e.what();
      code = int64_t(e.exit());
    } catch (const std::exception& e) {  // std::filesystem, mostly
      text = e.what();
      code = int64_t(Exit::io);
    }
  ranks.broadcast(make_tensor(&code, {1}), 0);
  broadcast_string(ranks, text);
  if (code) throw Error(Exit(code), text);
  return text;
}

namespace {

/// The checkpoint whose path `find` gives on rank 0, on all ranks; empty for an empty path. `find` verifies,
/// and appends to its argument what the user should be warned of.
std::optional<CheckpointInfo> found_by_lead(Communicator& ranks,
                                            const std::function<std::string(std::string& warnings)>& find) {
  const std::string path = on_lead(ranks, [&] {
    std::string warnings, found = find(warnings);
    while (warnings.ends_with('\n')) warnings.pop_back();
    if (!warnings.empty()) log_warning(warnings);
    return found;
  });
  if (path.empty()) return std::nullopt;
  return open_checkpoint(path, false);  // rank 0 has verified it
}

/// What a killed job left of files that were being replaced; nobody but the holder of the lock writes them.
void remove_temporaries(const std::string& folder, std::initializer_list<std::string_view> names) {
  std::error_code error;
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const size_t mark = name.find(".tmp-");
    const bool ours = std::find(names.begin(), names.end(), name.substr(0, mark)) != names.end();
    if (mark != std::string::npos && ours && entry.is_regular_file(error)) found.push_back(entry.path());
  }
  for (const auto& path : found) std::filesystem::remove(path, error);
}

}  // namespace

CheckpointInfo resolve_on_lead(Communicator& ranks, const std::string& path) {
  return *found_by_lead(ranks,
                        [&](std::string& warnings) { return resolve_checkpoint(path, &warnings).path; });
}

RunFolder::RunFolder(Communicator& ranks, const std::string& path) : ranks_(ranks), path_(path) {
  on_lead(ranks_, [&] {
    create_folders(path_);
    // Two jobs in one folder would destroy each other's files.
    lock_ = open((path_ + "/.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (lock_ < 0) throw Error(Exit::io, cat(path_, "/.lock: cannot be created: ", system_reason()));
    if (flock(lock_, LOCK_EX | LOCK_NB) != 0)
      throw Error(Exit::usage,
                  cat(path_,
                      ": another job is writing to this run folder; wait for it, or set run.folder to "
                      "another one"));
    remove_temporaries(path_,
                       {"config.yaml", "tokenizer.json", "samples.jsonl", "curves.svg", "report.html"});
    remove_temporaries(checkpoints(), {"latest"});
    return std::string();
  });
}

RunFolder::~RunFolder() {
  if (lock_ >= 0) close(lock_);
}

std::string RunFolder::path_to_resume(const std::string& resume, std::string& warnings) const {
  if (resume == "none") {
    if (!std::filesystem::exists(checkpoints()) || std::filesystem::is_empty(checkpoints())) return "";
    throw Error(Exit::usage,
                cat(path_,
                    " holds the checkpoints of an earlier run: continue it with --resume auto, or set "
                    "run.folder to another one"));
  }
  const std::optional<CheckpointInfo> newest = newest_checkpoint(checkpoints(), {}, &warnings);
  if (!newest && !warnings.empty())
    throw Error(Exit::checkpoint,
                cat("no checkpoint of ", path_, " verifies:\n", warnings,
                    "\nput a good copy back, or set run.folder to another one to start anew"));
  // A run that is at its end already would keep them: it saves no more.
  if (newest) remove_leftovers(checkpoints());
  if (resume == "auto") return newest ? newest->path : "";
  const CheckpointInfo asked = resolve_checkpoint(resume, &warnings);
  // Going on from an older step would mix two histories in one folder.
  if (!newest || !std::filesystem::equivalent(asked.path, newest->path))
    throw Error(Exit::usage,
                cat("--resume ", resume, ": a run goes on from its newest checkpoint only",
                    newest ? cat(", ", newest->path) : std::string(", and this one has none"),
                    "; to go on from another, set train.branch_from to it and run.folder to a new one"));
  return asked.path;
}

std::optional<CheckpointInfo> RunFolder::choose(const std::string& resume) {
  return found_by_lead(ranks_, [&](std::string& warnings) { return path_to_resume(resume, warnings); });
}

}  // namespace jambalaya
