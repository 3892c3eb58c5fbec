// Rules between the fields of a config, besides those of the model (model/layer_kinds.cpp) and of the
// parallel layout (Mesh, which knows the number of ranks).
#include "model/config_limits.h"
#include "train/config/options.h"

namespace jambalaya {

namespace {

void check_batch(const Config& c, std::vector<Problem>& found) {
  const int64_t ranks = c.parallel.data > 0 ? c.parallel.data : 1;
  const int64_t rows = c.data.micro_batch * ranks;
  if (c.data.global_batch % rows != 0)
    found.push_back({"data.global_batch",
                     cat("data.global_batch = ", c.data.global_batch,
                         " is not a multiple of data.micro_batch = ", c.data.micro_batch,
                         ranks > 1 ? cat(" x parallel.data = ", ranks) : "",
                         "; nearest: data.global_batch = ", nearest_multiples(rows, c.data.global_batch))});
  const int64_t tokens = c.data.micro_batch * c.data.sequence_length;
  for (const auto& [step, length] : c.data.length_schedule) {
    if (tokens % length == 0) continue;
    found.push_back({"data.length_schedule",
                     cat("data.length_schedule: length ", length, " from step ", step,
                         " does not divide the ", tokens, " tokens of a micro-batch (data.micro_batch = ",
                         c.data.micro_batch, " x data.sequence_length = ", c.data.sequence_length,
                         "); nearest: ", nearest_divisors(tokens, length))});
  }
}

void check_schedule(const Config& c, std::vector<Problem>& found) {
  const int64_t warmup = c.optimizer.warmup_steps, steps = c.train.steps;
  if (warmup >= steps)
    found.push_back({"optimizer.warmup_steps",
                     cat("optimizer.warmup_steps = ", warmup, " must be below train.steps = ", steps,
                         "; nearest: optimizer.warmup_steps = ", steps - 1, ", train.steps = ", warmup + 1)});
  else if (c.optimizer.schedule == Schedule::wsd &&
           double(warmup) + c.optimizer.decay_share * double(steps) > double(steps))
    found.push_back({"optimizer.decay_share",
                     cat("optimizer.decay_share = ", c.optimizer.decay_share, " of train.steps = ", steps,
                         " overlaps optimizer.warmup_steps = ", warmup, "; at most ",
                         double(steps - warmup) / double(steps))});
}

void check_folders(const Config& c, std::vector<Problem>& found) {
  if (c.run.folder.empty())
    found.push_back({"run.folder", "run.folder is empty; name the folder that the run writes to"});
  if (!c.train.branch_from.empty() && !c.train.init_from.empty())
    found.push_back(
        {"train.init_from",
         cat("train.init_from = ", c.train.init_from, " and train.branch_from = ", c.train.branch_from,
             " are both given; branch_from takes moments and data cursor too, init_from weights "
             "alone: keep one")});
}

void check_samples(const Config& c, std::vector<Problem>& found) {
  if (!c.log.sample_prompts.empty() && c.parallel.context > 1)
    found.push_back({"log.sample_prompts",
                     cat("log.sample_prompts needs parallel.context = 1, not ", c.parallel.context,
                         ": context ranks have no share in single tokens; leave the prompts out and use "
                         "jambalaya generate on a checkpoint")});
  if (!c.log.sample_prompts.empty() && c.log.evaluate_every == 0)
    found.push_back({"log.sample_prompts",
                     "log.sample_prompts are continued at every evaluation, and log.evaluate_every = 0 makes "
                     "none; set it to the steps between samples, or leave the prompts out"});
}

}  // namespace

std::vector<Problem> config_problems(const Config& config) {
  std::vector<Problem> found;
  check_batch(config, found);
  check_schedule(config, found);
  check_folders(config, found);
  check_samples(config, found);
  return found;
}

}  // namespace jambalaya
