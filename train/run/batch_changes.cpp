#include "train/run/batch_changes.h"

#include <algorithm>

namespace jambalaya {

namespace {

bool has_balance_loss(const ModelConfig& model) {
  return model.router_aux_loss_coef != 0 && model.channel_pattern.find('E') != std::string::npos;
}

/// How to keep `rows` a step on these ranks.
std::string advice(int64_t rows, int64_t micro_batch, int data_ranks) {
  if (rows % data_ranks != 0)
    return cat("no batch of ", rows, " rows can be shared by ", data_ranks,
               " data ranks: take a number of them that divides it to keep them");
  int64_t fitting = std::min(micro_batch, rows / data_ranks);
  while (rows / data_ranks % fitting != 0) fitting--;
  return cat("set data.global_batch = ", rows,
             fitting == micro_batch ? "" : cat(" and data.micro_batch = ", fitting), " to keep them");
}

}  // namespace

int64_t accumulation_steps(const Config& config, int data_ranks) {
  const int64_t rows = config.data.micro_batch * data_ranks;
  return config.data.global_batch ? std::max<int64_t>(config.data.global_batch / rows, 1) : 1;
}

std::vector<std::string> batch_changes(const TrainState& stored, const Config& config, int data_ranks) {
  if (stored.rows_per_step <= 0) return {};
  const int64_t steps = accumulation_steps(config, data_ranks);
  const int64_t rows = steps * config.data.micro_batch * data_ranks;
  if (rows != stored.rows_per_step)
    return {cat("a step now has ", rows, " rows, it had ", stored.rows_per_step,
                " up to the checkpoint, so the learning rate fits another batch: ",
                advice(stored.rows_per_step, config.data.micro_batch, data_ranks))};
  if (steps != stored.accumulation_steps && has_balance_loss(config.model))
    return {cat("the ", rows, " rows of a step are now ", steps,
                steps == 1 ? " micro-batch" : " micro-batches", " over all ranks, they were ",
                stored.accumulation_steps,
                ": the balance loss is computed in each, so losses and gradients change slightly; ",
                stored.accumulation_steps * data_ranks == 0 || rows % (stored.accumulation_steps * data_ranks)
                    ? std::string("it does not divide evenly on these ranks otherwise")
                    : cat("set data.global_batch = ", rows, " and data.micro_batch = ",
                          rows / (stored.accumulation_steps * data_ranks), " to keep them"))};
  return {};
}

}  // namespace jambalaya
