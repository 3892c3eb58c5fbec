// What a model can be cut into.
#pragma once
#include "model/config.h"
#include "parallel/layout.h"

namespace jambalaya {

/// Heads, channels and experts of the layers that the model has, for check_layout.
LayoutLimits layout_limits(const ModelConfig& config);

}  // namespace jambalaya
