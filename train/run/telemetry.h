// Figures of the layers, over all ranks.
#pragma once
#include <vector>

#include "model/jamba.h"
#include "parallel/mesh.h"

namespace jambalaya {

/// Extremes over the ranks (of the last micro-batch); expert loads are the same on all. Collective.
std::vector<LayerTelemetry> telemetry_of_all_ranks(Jamba& jamba, Mesh& mesh);

}  // namespace jambalaya
