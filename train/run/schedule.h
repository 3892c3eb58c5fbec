// Learning rate and sequence length as functions of the step.
#pragma once
#include <cstdint>

#include "train/config.h"

namespace jambalaya {

/// Learning rate of update `step` (0-based) of `steps`: linear warm-up, then cosine, warm-up-stable-decay or
/// constant. Ends at lr * final_lr.
double learning_rate(const OptimizerSection& optimizer, int64_t step, int64_t steps);

/// Tokens of a packed row at `step`: data.sequence_length, or the last entry of data.length_schedule that has
/// begun.
int64_t sequence_length_at(const DataSection& data, int64_t step);

}  // namespace jambalaya
