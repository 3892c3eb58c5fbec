// The figures and tables of a run's report, as markup; each "" when the run has nothing of the kind.
#pragma once
#include <string>

#include "train/report/run_data.h"

namespace jambalaya {

/// "finished at step 300", "stopped at step 120 of 300 because ...", "at step 120 of 300, working or killed"
std::string state_of(const RunData& run);
/// The run in a few numbers.
std::string tiles(const RunData& run);
/// Figures of each layer at the last reported step.
std::string layer_table(const RunData& run);
/// For each prompt, what the model made of it over the steps.
std::string sample_tables(const RunData& run);
std::string time_tables(const RunData& run);
std::string skipped_table(const RunData& run);
std::string session_table(const RunData& run);
/// Of the last job.
std::string environment_table(const RunData& run);

}  // namespace jambalaya
