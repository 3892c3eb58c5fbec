// jambalaya import, jambalaya export: between Hugging Face folders and checkpoints.
#include <cstdio>
#include <filesystem>

#include "parallel/communicator.h"
#include "train/checkpoint/checkpoint.h"
#include "train/commands/commands.h"
#include "train/files.h"
#include "train/interop/huggingface.h"
#include "train/json.h"

namespace jambalaya {
namespace {

namespace fs = std::filesystem;
constexpr int64_t tokenizer_limit = 64'000'000;

std::vector<Box> parameter_boxes(const Parameters& parameters) {
  std::vector<Box> boxes;
  for (int row = 0; row < int(parameters.table().size()); row++) {
    const ParameterRow& r = parameters.table()[size_t(row)];
    boxes.push_back(
        {cat("param/", r.name), r.shape, std::vector<int64_t>(r.shape.size(), 0), parameters.master(row)});
  }
  return boxes;
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
  const ModelConfig config = read_model_config(options.folder);
  check_weights(options.folder, config);  // before memory is taken for what config.json claims
  Parameters parameters(config, Precision::f32, false);
  import_weights(options.folder, parameters);
  TrainState state;
  const fs::path tokenizer = fs::path(options.folder) / "tokenizer.json";
  if (fs::exists(tokenizer)) state.tokenizer_json = read_small_file(tokenizer.string(), tokenizer_limit);
  const auto world = make_single_communicator();
  const std::string path =
      save_checkpoint(*world, options.output, parameter_boxes(parameters), state, config, true);
  print_result(options.json, "imported", path, config);
  return int(Exit::ok);
}

int run_export(const ExportCommandOptions& options) {
  if (options.format != "huggingface" && options.format != "native")
    throw Error(Exit::usage, cat("--format ", options.format, ": huggingface or native is expected"));
  std::string warnings;
  const CheckpointInfo info = resolve_checkpoint(options.checkpoint, &warnings);
  std::fputs(warnings.c_str(), stderr);
  Parameters parameters(info.model, Precision::f32, false);
  std::vector<Box> boxes = parameter_boxes(parameters);
  read_boxes(info, boxes);
  ExportOptions how;
  how.format = options.format == "native" ? ExportFormat::native : ExportFormat::huggingface;
  how.dtype = options.dtype;
  how.max_shard_bytes = options.max_shard_bytes;
  how.tokenizer_json = info.state.tokenizer_json;
  export_weights(options.output, parameters, how, options.overwrite);
  print_result(options.json, "exported", options.output, info.model);
  return int(Exit::ok);
}

}  // namespace jambalaya
