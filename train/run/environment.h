// On what a run was computed, for people and for its report.
#pragma once
#include "train/json.h"
#include "train/run/runtime.h"

namespace jambalaya {

/// Version, processor, ranks, layout, device and libraries of this job, as texts and numbers.
Json describe_environment(Runtime& runtime, Precision precision);

}  // namespace jambalaya
