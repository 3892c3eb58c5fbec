// Which charts a run has.
#pragma once
#include <string>
#include <vector>

#include "train/report/chart.h"
#include "train/report/heat_map.h"
#include "train/report/run_data.h"

namespace jambalaya {

/// Losses, norms, rates, memory over the steps.
std::vector<Panel> run_panels(const RunData& run);
/// Expert load, range of Mamba's step size and activations, by layer over the steps.
std::vector<HeatMap> run_heat_maps(const RunData& run);
/// Reads a run folder's metrics.jsonl and writes curves.svg beside it.
void write_run_curves(const RunData& run, const std::string& title);

}  // namespace jambalaya
