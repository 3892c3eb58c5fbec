// jambalaya import, jambalaya export: between Hugging Face folders and checkpoints, a tensor at a time.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <sstream>

#include "parallel/communicator.h"
#include "train/checkpoint/whole.h"
#include "train/commands/commands.h"
#include "train/config.h"
#include "train/files.h"
#include "train/interop/weights.h"
#include "train/json.h"

namespace jambalaya {
namespace {

namespace fs = std::filesystem;
constexpr int64_t tokenizer_limit = 64'000'000;

/// Boxes that are read from the folder while they are written: one tensor in memory at a time. A save that
/// fails because of the folder's content leaves its reason in `refused`.
std::vector<Box> boxes_to_import(const FolderWeights& weights, std::exception_ptr& refused) {
  std::vector<Box> boxes;
  for (int row = 0; row < int(weights.table().size()); row++) {
    const ParameterRow& r = weights.table()[size_t(row)];
    Box box = whole_box("param/" + r.name, r.shape, nullptr);
    box.fill = [&weights, &refused, row](float* out) {
      try {
        weights.read(row, out);
      } catch (const Error&) {
        refused = std::current_exception();
        throw;
      }
    };
    boxes.push_back(std::move(box));
  }
  return boxes;
}

/// A folder with checkpoints is not added to by accident: what is newest in it would change its meaning.
void check_output(const ImportCommandOptions& options) {
  if (options.overwrite) return;
  for (const fs::path& folder : {fs::path(options.output), fs::path(options.output) / "checkpoints"})
    if (const auto steps = checkpoints_of(folder.string()); !steps.empty())
      throw Error(Exit::usage, cat(options.output, ": holds a checkpoint already (", steps.begin()->second,
                                   "); choose another folder, or write its step 0 with --overwrite"));
}

/// A config that training accepts as it is, but for data.folder: an import alone does not say in our terms
/// what the model is.
void write_config(const ImportCommandOptions& options, const std::string& checkpoint,
                  const ModelConfig& config) {
  std::string text = cat("# Made by import from ", Json(options.folder).text(),
                         ". To fine-tune:\n#   jambalaya train ", options.output,
                         "/config.yaml --set data.folder=DATA --set run.folder=RUN --set optimizer.lr=1e-4\n",
                         "schema_version: 1\ntrain:\n  init_from: ",
                         Json(fs::absolute(checkpoint).lexically_normal().string()).text(), "\nmodel:\n");
  std::istringstream lines(model_to_yaml(config));
  for (std::string line; std::getline(lines, line);) text += "  " + line + "\n";
  replace_file((fs::path(options.output) / "config.yaml").string(), text);
}

void print_result(bool json, const char* what, const std::string& path, const ModelConfig& config) {
  const ParameterCount count = count_parameters(config);
  if (json) {
    Json answer = Json::make_object();
    answer.set(what, path);
    answer.set("parameters", count.total);
    answer.set("active_parameters", count.active);
    std::printf("%s\n", answer.text().c_str());
  } else {
    std::printf("%s: %s (%lld parameters, %lld active)\n", what, path.c_str(),
                static_cast<long long>(count.total), static_cast<long long>(count.active));
  }
}

}  // namespace

int run_import(const ImportCommandOptions& options) {
  check_output(options);
  const ModelConfig config = read_model_config(options.folder);
  const FolderWeights weights(options.folder, config);
  TrainState state;
  const fs::path tokenizer = fs::path(options.folder) / "tokenizer.json";
  if (fs::exists(tokenizer)) state.tokenizer_json = read_small_file(tokenizer.string(), tokenizer_limit);
  const auto world = make_single_communicator();
  std::exception_ptr refused;
  try {
    const std::string path =
        save_checkpoint(*world, options.output, boxes_to_import(weights, refused), state, config, true);
    write_config(options, path, config);
    print_result(options.json, "imported", path, config);
  } catch (const Error&) {
    if (refused) std::rethrow_exception(refused);
    throw;
  }
  return int(Exit::ok);
}

int run_export(const ExportCommandOptions& options) {
  if (options.format != "huggingface" && options.format != "native")
    throw Error(Exit::usage, cat("--format ", options.format, ": huggingface or native is expected"));
  std::string warnings;
  const CheckpointInfo info = resolve_checkpoint(options.checkpoint, &warnings);
  std::fputs(warnings.c_str(), stderr);
  ExportOptions how;
  how.format = options.format == "native" ? ExportFormat::native : ExportFormat::huggingface;
  how.dtype = options.dtype;
  how.max_shard_bytes = options.max_shard_bytes;
  how.tokenizer_json = info.state.tokenizer_json;
  CheckpointWeights weights(info, largest_part(export_parts(info.model, how.format)));
  export_weights(options.output, weights, how, options.overwrite);
  print_result(options.json, "exported", options.output, info.model);
  return int(Exit::ok);
}

}  // namespace jambalaya
