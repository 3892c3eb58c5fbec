#include "train/run/loaded_model.h"

#include "train/run/log.h"
#include "train/run/memory_check.h"
#include "train/run/persistence.h"
#include "train/run/run_folder.h"

namespace jambalaya {

namespace {
Precision precision_of(const std::string& name) {
  if (name == "f32" || name == "fp32") return Precision::f32;
  if (name == "bf16") return Precision::bf16;
  throw Error(Exit::usage, cat("--precision ", name, ": choose f32 or bf16"));
}

/// The run's own layout does not matter here: it was made for another number of ranks and for training.
Config serving_config(const std::vector<std::string>& set, int threads, const std::string& device) {
  for (const std::string& override : set)
    if (!override.starts_with("parallel."))
      throw Error(
          Exit::usage,
          cat("--set ", override, ": only parallel.* can be set here; everything else comes with the model"));
  Config config = load_config("", set);
  config.run.threads = threads;
  config.run.device = device;
  if (config.parallel.sharding != Sharding::none)
    throw Error(Exit::layout,
                "parallel.sharding shares gradients and optimizer state, of which there are none here: share "
                "the weights by parallel.tensor and parallel.expert");
  return config;
}
}  // namespace

LoadedModel::LoadedModel(const std::string& path, const std::string& precision_name,
                         const std::string& tokenizer_path, int threads, const std::vector<std::string>& set,
                         const std::string& device) {
  const Config serving = serving_config(set, threads, device);
  runtime = std::make_unique<Runtime>(serving.parallel, info.model, serving.run,
                                      [&](Communicator& world) { info = resolve_on_lead(world, path); });
  log_debug(cat("device ", runtime->device_text()));
  if (!info.state.config_yaml.empty()) {
    Config config = parse_config(info.state.config_yaml, info.path + " (its config)");
    precision = config.train.precision;
    sequence_length = config.data.sequence_length;
  }
  if (!precision_name.empty()) precision = precision_of(precision_name);
  check_memory(info.model, precision, false, *runtime);
  parameters = std::make_unique<Parameters>(info.model, precision, false, placement_of(runtime->mesh()),
                                            runtime->context().accelerator);
  regions = std::make_unique<Regions>(runtime->mesh());
  jamba = std::make_unique<Jamba>(*parameters, *regions);
  load_tensors(runtime->context(), info, *parameters, nullptr);
  if (!tokenizer_path.empty())
    tokenizer = Tokenizer::load(tokenizer_path);
  else if (!info.state.tokenizer_json.empty())
    tokenizer = Tokenizer::from_json(info.state.tokenizer_json, info.path + " (its tokenizer)");
  if (runtime->lead() && !tokenizer_path.empty() && !info.state.tokenizer_json.empty() &&
      tokenizer->json() != info.state.tokenizer_json)
    log_warning(
        cat(tokenizer_path,
            " is another tokenizer than the one that the model was trained with: ids may mean other texts"));
  if (tokenizer && tokenizer->vocab_size() > info.model.vocab_size)
    throw Error(Exit::usage,
                cat("the tokenizer has ", tokenizer->vocab_size(), " ids, the model's vocabulary ",
                    info.model.vocab_size, ": give the model's own with --tokenizer"));
}

const Tokenizer& LoadedModel::need_tokenizer() const {
  if (!tokenizer)
    throw Error(Exit::usage, cat(info.path, " holds no tokenizer: give one with --tokenizer tokenizer.json"));
  return *tokenizer;
}

}  // namespace jambalaya
