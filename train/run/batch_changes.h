// What a resume on other ranks does to the batch of a step: with data.global_batch = 0 its size follows the
// number of ranks.
#pragma once
#include <string>
#include <vector>

#include "train/checkpoint/checkpoint.h"
#include "train/config.h"

namespace jambalaya {

/// Micro-batches of a step.
int64_t accumulation_steps(const Config& config, int data_ranks);

/// What a run that goes on from `stored` does otherwise than before, for the user: another number of rows in
/// a step, or (with a balance loss, which is of one micro-batch over all ranks) the same rows in other
/// micro-batches. Empty when nothing changes or the checkpoint does not say.
std::vector<std::string> batch_changes(const TrainState& stored, const Config& config, int data_ranks);

}  // namespace jambalaya
