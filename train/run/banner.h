// The first lines of a run.
#pragma once
#include "train/config.h"
#include "train/run/runtime.h"

namespace jambalaya {

/// What is trained on what: model, ranks, device, layout, data. training_tokens: of the whole store;
/// rows_per_step: over all ranks.
void tell_start(Runtime& runtime, const Config& config, int64_t training_tokens, int64_t rows_per_step);

}  // namespace jambalaya
