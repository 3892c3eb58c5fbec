// Refuses a model that cannot fit before anything is allocated: running out of memory takes the whole machine
// down.
#pragma once
#include "model/placement.h"
#include "train/config.h"

namespace jambalaya {

/// Bytes of parameters and, for training, gradients and two moments on the rank that stands there;
/// activations come on top.
int64_t tensor_bytes(const ModelConfig& model, Precision precision, bool training,
                     const PlacementRanks& ranks = {});

/// Error(usage) when the tensors of `local_ranks` ranks on this host, each with as much as this one, need
/// more than the memory that is available.
void check_memory(const ModelConfig& model, Precision precision, bool training, int local_ranks,
                  const PlacementRanks& ranks = {});

}  // namespace jambalaya
