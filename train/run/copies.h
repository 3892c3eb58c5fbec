// A guard against copies that drift apart: what several ranks hold must be the same bits on all of them.
#pragma once
#include "model/parameters.h"
#include "parallel/communicator.h"

namespace jambalaya {

/// Compares hashes of the masters of every tensor that more than one rank holds: replicas of a shard group,
/// copies on tensor ranks. Collective, one all-gather. Error(failed) on all ranks, with the first tensor that
/// differs and the ranks.
void check_copies(const Parameters& parameters, Communicator& world);

}  // namespace jambalaya
