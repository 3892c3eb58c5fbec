// A small training run in a temporary folder: data, config, what it wrote.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/philox.h"
#include "tests/support/device.h"
#include "tests/support/token_store.h"
#include "train/checkpoint/checkpoint.h"
#include "train/config.h"
#include "train/json.h"
#include "train/run/log.h"
#include "train/run/trainer.h"

namespace jambalaya::test {

/// Encodes texts, a byte a token, into a store with some held-out documents.
inline std::string make_store(const TemporaryFolder& folder, const std::string& name,
                              const std::vector<std::string>& texts) {
  const std::string file = write_json_lines(folder, name + ".jsonl", texts), store = folder.path(name);
  encode_dataset({file}, store, byte_tokenizer(), encode_bytes, {.held_out_share = 0.1}, 1);
  return store;
}

/// A hybrid with experts that takes a step in a millisecond.
inline Config small_run(const std::string& run_folder, const std::string& data_folder) {
  Config c;
  ModelConfig& m = c.model;
  m.vocab_size = 260;
  m.hidden_size = 16;
  m.intermediate_size = 24;
  m.num_hidden_layers = 3;
  m.num_attention_heads = 2;
  m.num_key_value_heads = 1;
  m.mixer_pattern = "MAM";
  m.channel_pattern = "EDE";
  m.num_experts = 4;
  m.router_aux_loss_coef = 0.01;
  m.mamba_d_state = 4;
  m.initializer_range = 0.1;
  c.run.folder = run_folder;
  c.run.threads = 1;
  c.run.device = device_name();
  c.data.folder = data_folder;
  c.data.sequence_length = 32;
  c.data.micro_batch = 4;
  c.optimizer.lr = 3e-3;
  c.optimizer.warmup_steps = 2;
  c.train.steps = 12;
  c.checkpoint.every = 4;
  c.checkpoint.keep_last = 10;
  c.log.every = 3;
  c.log.evaluate_every = 5;
  c.log.evaluate_tokens = 500;
  return c;
}

/// Trains in this process, on one rank.
inline Exit train(const Config& config, const std::string& resume = "auto") {
  log_settings().level = LogLevel::error;
  Runtime runtime(config.parallel, config.model, config.run);
  return Trainer(runtime, config, resume).run();
}

/// The lines of metrics.jsonl without what belongs to the machine and the moment.
inline std::vector<std::string> metrics(const std::string& run_folder) {
  std::istringstream file(read_file(run_folder + "/metrics.jsonl"));
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line.substr(0, line.find("\"timing\"")));
  return lines;
}
inline std::vector<double> losses(const std::string& run_folder) {
  std::istringstream file(read_file(run_folder + "/metrics.jsonl"));
  std::vector<double> all;
  for (std::string line; std::getline(file, line);)
    all.push_back(parse_json(line, "metrics").find("loss")->number);
  return all;
}

using Tensors = std::map<std::string, std::vector<float>>;

inline std::string checkpoint_path(const std::string& run_folder, int64_t step) {
  std::string number = std::to_string(step);
  return run_folder + "/checkpoints/step-" + std::string(8 - number.size(), '0') + number;
}
/// Every tensor of a checkpoint: parameters and both moments.
inline Tensors tensors_of(const CheckpointInfo& info) {
  Tensors all;
  std::vector<Box> boxes;
  for (const CheckpointInfo::Stored& stored : info.tensors) {
    int64_t n = 1;
    for (int64_t s : stored.global_shape) n *= s;
    std::vector<float>& values = all[stored.name];
    values.resize(size_t(n));
    Tensor local = make_tensor(values.data(), {n});
    local.rank = int(stored.global_shape.size());
    std::copy(stored.global_shape.begin(), stored.global_shape.end(), local.shape.begin());
    local.row_stride = local.columns();
    boxes.push_back(
        {stored.name, stored.global_shape, std::vector<int64_t>(stored.global_shape.size(), 0), local});
  }
  read_boxes(info, boxes);
  return all;
}
inline Tensors tensors_of(const std::string& run_folder, int64_t step) {
  return tensors_of(open_checkpoint(checkpoint_path(run_folder, step)));
}

/// Writes the checkpoint of a step again after `edit` has changed its tensors.
inline void edit_checkpoint(const std::string& run_folder, int64_t step,
                            const std::function<void(Tensors&)>& edit) {
  const CheckpointInfo info = open_checkpoint(checkpoint_path(run_folder, step));
  Tensors all = tensors_of(info);
  edit(all);
  std::vector<Box> boxes;
  for (const CheckpointInfo::Stored& stored : info.tensors) {
    std::vector<float>& values = all.at(stored.name);
    Tensor local = make_tensor(values.data(), {int64_t(values.size())});
    local.rank = int(stored.global_shape.size());
    std::copy(stored.global_shape.begin(), stored.global_shape.end(), local.shape.begin());
    local.row_stride = local.columns();
    boxes.push_back(
        {stored.name, stored.global_shape, std::vector<int64_t>(stored.global_shape.size(), 0), local});
  }
  save_checkpoint(*make_single_communicator(), run_folder + "/checkpoints", boxes, info.state, info.model,
                  info.weights_only);
}

/// A copy of a run as it stood when it had saved `step`: later checkpoints are left out, the log keeps its
/// later lines.
inline void copy_run(const std::string& from, const std::string& to, int64_t step) {
  std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
  for (const auto& entry : std::filesystem::directory_iterator(to + "/checkpoints"))
    if (entry.path().string() > checkpoint_path(to, step)) std::filesystem::remove_all(entry.path());
}

/// The same bits, NaN included.
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}
inline std::string difference(const Tensors& a, const Tensors& b) {
  if (a.size() != b.size()) return "another number of tensors";
  for (const auto& [name, values] : a)
    if (!b.count(name) || !same_bits(values, b.at(name))) return name;
  return "";
}

}  // namespace jambalaya::test
