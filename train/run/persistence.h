// A run's tensors and records, to a checkpoint and back.
#pragma once
#include <string>

#include "model/parameters.h"
#include "parallel/communicator.h"
#include "train/checkpoint/checkpoint.h"
#include "train/run/optimizer.h"

namespace jambalaya {

/// The boxes of parameters and (unless null) moments that this rank writes: what it owns, shared out to all
/// ranks that hold the same elements.
std::vector<Box> boxes_to_write(const Parameters& parameters, const Optimizer* optimizer);
/// Reads what this rank owns of the parameters, and of the moments when `optimizer` is given, from a
/// checkpoint of any layout, and refreshes the compute copies.
void load_tensors(Context& ctx, const CheckpointInfo& info, Parameters& parameters, Optimizer* optimizer);
/// Refuses a checkpoint of another architecture: Error(usage) that lists what differs.
void check_same_model(const CheckpointInfo& info, const ModelConfig& model);

}  // namespace jambalaya
