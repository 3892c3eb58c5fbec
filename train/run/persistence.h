// A run's tensors and records, to a checkpoint and back.
#pragma once
#include <string>

#include "model/parameters.h"
#include "parallel/communicator.h"
#include "train/checkpoint/checkpoint.h"
#include "train/run/optimizer.h"

namespace jambalaya {

/// The boxes of parameters and (unless null) moments that `rank` of `ranks` writes: rows shared out by bytes.
std::vector<Box> boxes_to_write(const Parameters& parameters, const Optimizer* optimizer, int rank,
                                int ranks);
/// Reads parameters, and moments when `optimizer` is given, and refreshes the compute copies.
void load_tensors(Context& ctx, const CheckpointInfo& info, Parameters& parameters, Optimizer* optimizer);
/// Refuses a checkpoint of another architecture: Error(usage) that lists what differs.
void check_same_model(const CheckpointInfo& info, const ModelConfig& model);

}  // namespace jambalaya
