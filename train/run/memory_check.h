// Refuses a model that cannot fit before anything is allocated: running out of memory takes the whole machine
// down.
#pragma once
#include "train/config.h"

namespace jambalaya {

/// Bytes of parameters and, for training, gradients and two moments on one rank; activations come on top.
int64_t tensor_bytes(const ModelConfig& model, Precision precision, bool training);

/// Error(usage) when the tensors of `ranks` ranks on this host need more than the memory that is available.
void check_memory(const ModelConfig& model, Precision precision, bool training, int ranks);

}  // namespace jambalaya
