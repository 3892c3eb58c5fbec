// The option table besides the model's rows.
#include "train/config/options.h"

#include "train/config/option_builders.h"

namespace jambalaya {

namespace {

using namespace options;

constexpr int64_t kMany = int64_t(1) << 40;
constexpr int64_t kRanks = 1 << 20;
constexpr double kReal = 1e6;

void add_run_options(std::vector<Option>& t) {
  t.push_back(text(
      "run.folder", [](auto& c) -> auto& { return c.run.folder; },
      "All output of the run goes here: config, metrics, checkpoints, logs."));
  Option seed{"run.seed", "integer", "from 0", "Seed of the starting weights, the data order and sampling.",
              {},         {}};
  seed.set = [](Config& c, const YamlNode& node) {
    const std::string why = scalar_problem(node);
    return why.empty() ? read_unsigned(node.text, c.run.seed) : why;
  };
  seed.get = [](const Config& c) { return cat(c.run.seed); };
  t.push_back(seed);
  t.push_back(integer(
      "run.threads", [](auto& c) -> auto& { return c.run.threads; }, 0, 4096,
      "Threads of each rank; 0: the machine's cores shared among its ranks."));
  t.push_back(choice(
      "run.device", [](auto& c) -> auto& { return c.run.device; }, {"auto", "cpu", "cuda"},
      "Where the model is computed: a GPU for each rank, or the CPU; auto: cuda when the CUDA library, a "
      "driver and a GPU that the library has kernels for are there on every rank, else cpu."));
}

std::string set_length_schedule(Config& c, const YamlNode& node) {
  const std::string form = "must be a list of [from step, sequence length], e.g. [[0, 256], [1000, 512]]";
  if (node.kind != YamlNode::Kind::list) return form;
  std::vector<std::pair<int64_t, int64_t>> schedule;
  for (const auto& item : node.items) {
    if (item.kind != YamlNode::Kind::list || item.items.size() != 2) return form;
    int64_t pair[2];
    for (size_t i = 0; i < 2; i++) {
      std::string why = scalar_problem(item.items[i]);
      if (why.empty()) why = read_integer(item.items[i].text, pair[i]);
      if (!why.empty()) return cat("'", item.items[i].text, "': ", why, "; it ", form);
    }
    if (pair[0] < 0 || pair[1] < 2 || pair[1] > kMany)
      return cat("[", pair[0], ", ", pair[1], "]: steps count from 0 and a length is at least 2");
    if (!schedule.empty() && pair[0] <= schedule.back().first)
      return cat("step ", pair[0], " does not come after step ", schedule.back().first, "; order the steps");
    schedule.emplace_back(pair[0], pair[1]);
  }
  c.data.length_schedule = std::move(schedule);
  return "";
}

std::string get_length_schedule(const Config& c) {
  std::string out = "[";
  for (const auto& [step, length] : c.data.length_schedule)
    out += cat(out.size() > 1 ? ", " : "", "[", step, ", ", length, "]");
  return out + "]";
}

void add_data_options(std::vector<Option>& t) {
  t.push_back(text(
      "data.folder", [](auto& c) -> auto& { return c.data.folder; },
      "Encoded shards with manifest.json, as `jambalaya data encode` writes them."));
  t.push_back(integer(
      "data.sequence_length", [](auto& c) -> auto& { return c.data.sequence_length; }, 2, kMany,
      "Tokens of a packed row; documents in a row never see each other."));
  t.push_back(integer(
      "data.micro_batch", [](auto& c) -> auto& { return c.data.micro_batch; }, 1, kMany,
      "Rows of a micro-batch on one data rank; bounds the memory of activations."));
  t.push_back(integer(
      "data.global_batch", [](auto& c) -> auto& { return c.data.global_batch; }, 0, kMany,
      "Rows of a step over all ranks, reached by accumulation; 0: micro_batch x data ranks."));
  t.push_back({"data.length_schedule", "list", "[[from step, length], ...]",
               "Sequence length by step; rows scale so that the tokens of a step stay the same.",
               set_length_schedule, get_length_schedule});
}

void add_optimizer_options(std::vector<Option>& t) {
  t.push_back(real(
      "optimizer.lr", [](auto& c) -> auto& { return c.optimizer.lr; }, 0, 100, true,
      "Peak learning rate of AdamW."));
  t.push_back(real(
      "optimizer.beta1", [](auto& c) -> auto& { return c.optimizer.beta1; }, 0, 0.999999, false,
      "Decay of the first moment."));
  t.push_back(real(
      "optimizer.beta2", [](auto& c) -> auto& { return c.optimizer.beta2; }, 0, 0.999999, false,
      "Decay of the second moment."));
  t.push_back(real(
      "optimizer.eps", [](auto& c) -> auto& { return c.optimizer.eps; }, 0, 1, true,
      "Added to the root of the second moment."));
  t.push_back(real(
      "optimizer.weight_decay", [](auto& c) -> auto& { return c.optimizer.weight_decay; }, 0, 100, false,
      "Decoupled decay of projections, routers, experts and head; of nothing else."));
  t.push_back(real(
      "optimizer.clip", [](auto& c) -> auto& { return c.optimizer.clip; }, 0, kReal, true,
      "Gradients are scaled down to this global norm; 1e6 is never reached."));
  t.push_back(real(
      "optimizer.lr_a_log", [](auto& c) -> auto& { return c.optimizer.lr_a_log; }, 0, kReal, false,
      "Factor on the learning rate of Mamba's A_log."));
  t.push_back(real(
      "optimizer.lr_d", [](auto& c) -> auto& { return c.optimizer.lr_d; }, 0, kReal, false,
      "Factor on the learning rate of Mamba's D."));
  t.push_back(choice(
      "optimizer.schedule", [](auto& c) -> auto& { return c.optimizer.schedule; },
      {"cosine", "wsd", "constant"},
      "After the warm-up: cosine to final_lr, constant and then a linear decay (wsd), or constant."));
  t.push_back(integer(
      "optimizer.warmup_steps", [](auto& c) -> auto& { return c.optimizer.warmup_steps; }, 0, kMany,
      "Steps over which the learning rate grows linearly to its peak."));
  t.push_back(real(
      "optimizer.final_lr", [](auto& c) -> auto& { return c.optimizer.final_lr; }, 0, 1, false,
      "Learning rate at the end as a share of lr."));
  t.push_back(real(
      "optimizer.decay_share", [](auto& c) -> auto& { return c.optimizer.decay_share; }, 0, 1, true,
      "Share of the steps that decay under schedule wsd."));
}

void add_train_options(std::vector<Option>& t) {
  t.push_back(integer(
      "train.steps", [](auto& c) -> auto& { return c.train.steps; }, 1, kMany,
      "Optimizer steps of the run."));
  t.push_back(real(
      "train.minutes", [](auto& c) -> auto& { return c.train.minutes; }, 0, kReal, false,
      "Save and stop with exit code 75 after so many minutes; 0: no limit."));
  t.push_back(choice(
      "train.precision", [](auto& c) -> auto& { return c.train.precision; }, {"f32", "bf16"},
      "Of matrix products and activations; masters, sums and statistics are fp32."));
  t.push_back(choice(
      "train.recompute", [](auto& c) -> auto& { return c.train.recompute; }, {"off", "mamba", "layer"},
      "What is computed again in the backward to save memory."));
  t.push_back(choice(
      "train.bad_step", [](auto& c) -> auto& { return c.train.bad_step; }, {"stop", "skip", "rewind"},
      "After a NaN, an Inf or a spike: stop with exit code 5, leave the step out, or go back to a "
      "checkpoint."));
  t.push_back(real(
      "train.spike_factor", [](auto& c) -> auto& { return c.train.spike_factor; }, 0, kReal, false,
      "A loss above median + factor x MAD of the last 128 steps is a bad step; 0: off."));
  t.push_back(integer(
      "train.bucket_mb", [](auto& c) -> auto& { return c.train.bucket_mb; }, 1, 4096,
      "Gradients are summed over ranks in buckets of this many MiB, during the backward."));
  t.push_back(integer(
      "train.verify_every", [](auto& c) -> auto& { return c.train.verify_every; }, 0, kMany,
      "After every so many steps weights and moments are hashed, compared over ranks, and compared with "
      "themselves before the next update and in a checkpoint; 0: only over ranks at checkpoints."));
  t.push_back(text(
      "train.branch_from", [](auto& c) -> auto& { return c.train.branch_from; },
      "Checkpoint to take weights, moments and the data cursor from, for a new run with other settings."));
  t.push_back(text(
      "train.init_from", [](auto& c) -> auto& { return c.train.init_from; },
      "Checkpoint to take the weights alone from (fine-tuning)."));
}

void add_parallel_options(std::vector<Option>& t) {
  t.push_back(integer(
      "parallel.data", [](auto& c) -> auto& { return c.parallel.data; }, 0, kRanks,
      "Groups of ranks that see different rows; 0: what the other degrees leave over."));
  t.push_back(integer(
      "parallel.context", [](auto& c) -> auto& { return c.parallel.context; }, 1, kRanks,
      "Ranks that share each sequence."));
  t.push_back(integer(
      "parallel.tensor", [](auto& c) -> auto& { return c.parallel.tensor; }, 1, kRanks,
      "Ranks that share each matrix."));
  t.push_back(integer(
      "parallel.expert", [](auto& c) -> auto& { return c.parallel.expert; }, 1, kRanks,
      "Ranks that share the experts of a layer; taken from all ranks, whatever the other degrees."));
  t.push_back(integer(
      "parallel.expert_tensor", [](auto& c) -> auto& { return c.parallel.expert_tensor; }, 1, kRanks,
      "Ranks that share the matrices of one expert."));
  t.push_back(choice(
      "parallel.sharding", [](auto& c) -> auto& { return c.parallel.sharding; },
      {"none", "optimizer", "full"},
      "What ranks that see other tokens share out: nothing, the optimizer's state (ZeRO-1), or parameters "
      "and gradients too (FSDP)."));
  t.push_back(integer(
      "parallel.shard", [](auto& c) -> auto& { return c.parallel.shard; }, 0, kRanks,
      "Ranks that share one copy under parallel.sharding; 0: all of data x context."));
  t.push_back(choice(
      "parallel.transport", [](auto& c) -> auto& { return c.run.transport; }, {"auto", "nccl", "staged"},
      "How tensors in GPU memory travel between ranks: NCCL (one rank a GPU), or staged over host memory and "
      "MPI "
      "(several ranks may share a GPU); auto: nccl where it can be used."));
  t.push_back(boolean(
      "parallel.sequence", [](auto& c) -> auto& { return c.parallel.sequence; },
      "Tensor ranks share the tokens between the matrices (norms, residual stream) instead of copying "
      "them."));
  t.push_back(real(
      "parallel.deadline_s", [](auto& c) -> auto& { return c.parallel.deadline_s; }, 0, kReal, false,
      "Seconds after which a collective that still waits ends the job with exit code 7; 0: never."));
}

void add_output_options(std::vector<Option>& t) {
  t.push_back(integer(
      "checkpoint.every", [](auto& c) -> auto& { return c.checkpoint.every; }, 1, kMany,
      "Steps between checkpoints; one more is written at the end."));
  t.push_back(integer(
      "checkpoint.keep_last", [](auto& c) -> auto& { return c.checkpoint.keep_last; }, 1, kMany,
      "Newest checkpoints that are kept."));
  t.push_back(integer(
      "checkpoint.keep_every", [](auto& c) -> auto& { return c.checkpoint.keep_every; }, 0, kMany,
      "Checkpoints at multiples of this many steps are kept for good; 0: none."));
  t.push_back(integer(
      "log.every", [](auto& c) -> auto& { return c.log.every; }, 1, kMany,
      "Steps between lines on the console."));
  t.push_back(integer(
      "log.evaluate_every", [](auto& c) -> auto& { return c.log.evaluate_every; }, 0, kMany,
      "Steps between evaluations on held-out text, one more is made at the end; 0: never."));
  t.push_back(integer(
      "log.evaluate_tokens", [](auto& c) -> auto& { return c.log.evaluate_tokens; }, 0, kMany,
      "Held-out tokens of an evaluation; 0: all."));
  t.push_back(choice(
      "log.level", [](auto& c) -> auto& { return c.log.level; }, {"error", "warning", "info", "debug"},
      "Least important line that is shown."));
  t.push_back(text(
      "log.trace", [](auto& c) -> auto& { return c.log.trace; },
      "File for a trace of some steps on every rank (Chrome trace JSON; ui.perfetto.dev shows it); none if "
      "empty. The same as `jambalaya train --trace FILE`."));
  t.push_back(integer(
      "log.trace_from", [](auto& c) -> auto& { return c.log.trace_from; }, 1, kMany,
      "First traced step, counted from 1 where the job starts or resumes. The first steps are slower than "
      "the others."));
  t.push_back(integer(
      "log.trace_steps", [](auto& c) -> auto& { return c.log.trace_steps; }, 1, kMany,
      "Steps that are traced; the file is written after the last of them."));
  t.push_back(boolean(
      "log.profile", [](auto& c) -> auto& { return c.log.profile; },
      "Print the time of the traced steps by kind of work, FLOP/s and share of this machine's peak; every op "
      "is "
      "in the trace (the run's profile.json unless log.trace names a file) and, on a GPU, waited for. The "
      "same "
      "as `jambalaya train --profile`."));
  t.push_back(boolean(
      "log.tensorboard", [](auto& c) -> auto& { return c.log.tensorboard; },
      "Write events for TensorBoard into the run's folder tb."));
  t.push_back(texts(
      "log.sample_prompts", [](auto& c) -> auto& { return c.log.sample_prompts; },
      "Prompts that the model continues at every evaluation; samples.jsonl and report.html show what it "
      "makes of them."));
  t.push_back(integer(
      "log.sample_tokens", [](auto& c) -> auto& { return c.log.sample_tokens; }, 1, 1 << 20,
      "Tokens that are added to each prompt at most."));
  t.push_back(real(
      "log.sample_temperature", [](auto& c) -> auto& { return c.log.sample_temperature; }, 0, 100, false,
      "0: always the likeliest token; else drawn, with the same random numbers at every evaluation."));
}

}  // namespace

const std::vector<Option>& config_options() {
  static const std::vector<Option> table = [] {
    std::vector<Option> t;
    add_run_options(t);
    add_model_options(t);
    add_data_options(t);
    add_optimizer_options(t);
    add_train_options(t);
    add_parallel_options(t);
    add_output_options(t);
    return t;
  }();
  return table;
}

const std::vector<SectionDoc>& config_sections() {
  static const std::vector<SectionDoc> sections = {
      {"run", "Where the run lives and on what it runs."},
      {"model", "The architecture. Names follow Hugging Face's JambaConfig where it has the field."},
      {"data", "What the model reads, and how much of it at a time."},
      {"optimizer", "AdamW and its learning rate."},
      {"train", "How long, how precisely, and what to do when a step goes wrong."},
      {"parallel", "Degrees of parallelism; data x context x tensor is the number of ranks."},
      {"checkpoint", "How often the run is saved and what is kept."},
      {"log", "What is shown and evaluated on the way."},
  };
  return sections;
}

}  // namespace jambalaya
