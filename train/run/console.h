// A step on the console: lines that stay, or in a terminal one line that each step rewrites.
#pragma once
#include <cstddef>
#include <string>

#include "train/run/report.h"

namespace jambalaya {

/// All that a step has to say, on one line.
std::string console_line(const StepReport& report);
/// What fits into so many columns of it, the most useful first.
std::string progress_line(const StepReport& report, size_t columns);
/// In a terminal: the rewritten line, and a line that stays for an evaluation or a bad step. Elsewhere a line
/// for these and for every reported step.
void tell_step(const StepReport& report, bool reported);

}  // namespace jambalaya
