// The report of a run: one HTML file that shows what its folder holds.
#pragma once
#include <string>

#include "train/report/run_data.h"

namespace jambalaya {

/// The page. `now`: seconds since 1970, of its making.
std::string run_report(const RunData& run, double now);
/// Writes the page (whole or not at all) to `path`; empty: report.html in the run's folder. Error(io).
void write_run_report(const RunData& run, const std::string& path = "");

}  // namespace jambalaya
