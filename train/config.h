// The configuration of a run: YAML -> plain structs. docs/configuration.md is generated from the table of
// options (config/options.cpp), which gives every field its key, default, range and explanation.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/jamba.h"
#include "parallel/device_link.h"
#include "parallel/mesh.h"

namespace jambalaya {

enum class Schedule : uint8_t { cosine, wsd, constant };
enum class BadStep : uint8_t { stop, skip, rewind };

struct RunSection {
  std::string folder = "runs/jambalaya";  ///< all output of the run goes here
  uint64_t seed = 1;
  int threads = 0;                             ///< per rank; 0: the machine's cores shared among its ranks
  std::string device = "auto";                 ///< cpu, cuda or auto
  Transport transport = Transport::automatic;  ///< key parallel.transport: no rank's place depends on it
};

struct DataSection {
  std::string folder;             ///< encoded shards with manifest.json
  int64_t sequence_length = 512;  ///< tokens of a packed row
  int64_t micro_batch = 4;        ///< rows of a micro-batch on one data rank
  int64_t global_batch = 0;       ///< rows of a step over all ranks; 0: micro_batch x data ranks
  std::vector<std::pair<int64_t, int64_t>>
      length_schedule;  ///< (from step, sequence length); rows scale so that tokens stay
};

struct OptimizerSection {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1, clip = 1.0;
  double lr_a_log = 1.0, lr_d = 1.0;  ///< factors on the learning rate of A_log and D
  Schedule schedule = Schedule::cosine;
  int64_t warmup_steps = 20;
  double final_lr = 0.1;     ///< at the end, as a share of lr
  double decay_share = 0.2;  ///< wsd: share of the steps that decay
};

struct TrainSection {
  int64_t steps = 200;
  double minutes = 0;  ///< save and stop after so long (0: no limit)
  Precision precision = Precision::f32;
  Recompute recompute = Recompute::off;
  BadStep bad_step = BadStep::stop;  ///< NaN/Inf loss or gradient
  double spike_factor = 0;   ///< loss above median + factor * MAD of the last 128 steps is a bad step; 0: off
  int64_t bucket_mb = 4;     ///< gradient reduction buckets
  int64_t verify_every = 0;  ///< steps between checks that memory has not changed by itself; 0: off
  std::string branch_from;   ///< checkpoint to take weights, moments and cursor from (a new run)
  std::string init_from;     ///< checkpoint to take weights alone from (fine-tuning)
};

struct CheckpointSection {
  int64_t every = 100;
  int64_t keep_last = 2;
  int64_t keep_every = 0;  ///< keep those at multiples of this many steps for good
};

struct LogSection {
  int64_t every = 10;
  int64_t evaluate_every = 100;     ///< steps, and at the end; 0: never
  int64_t evaluate_tokens = 65536;  ///< held-out tokens per evaluation; 0: all
  std::string level = "info";
  std::string trace;                        ///< file for a trace of some steps; "": none
  int64_t trace_from = 3;                   ///< first traced step, counted from 1 at the start of the job
  int64_t trace_steps = 3;                  ///< how many are traced
  bool profile = false;                     ///< time by kind of work over the traced steps
  bool tensorboard = true;                  ///< event files in the run's folder tb
  std::vector<std::string> sample_prompts;  ///< continued at every evaluation
  int64_t sample_tokens = 40;               ///< added to each prompt at most
  double sample_temperature = 0;            ///< 0: the likeliest tokens
};

struct Config {
  ModelConfig model;
  RunSection run;
  DataSection data;
  OptimizerSection optimizer;
  TrainSection train;
  Layout parallel;
  CheckpointSection checkpoint;
  LogSection log;
};

/// Reads `path` (may be empty: defaults), applies "a.b=c" overrides in order, checks everything. All problems
/// are reported at once, each with file:line:column or the --set that caused it: throws Error(usage).
/// `extends: other.yaml` takes another file as base. model.notation is accepted beside the single keys.
Config load_config(const std::string& path, const std::vector<std::string>& overrides);
/// The same from text that to_yaml wrote (a checkpoint's, an imported model's), with overrides on top.
Config parse_config(const std::string& yaml, const std::string& source_name,
                    const std::vector<std::string>& overrides = {});
/// A model section alone, e.g. from a checkpoint's manifest.
ModelConfig parse_model_config(const std::string& yaml, const std::string& source_name);
/// The whole config, every field written out, as YAML that load_config reads back to the same value.
std::string to_yaml(const Config& config);
std::string model_to_yaml(const ModelConfig& config);
/// docs/configuration.md
std::string configuration_reference();

}  // namespace jambalaya
